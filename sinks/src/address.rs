//! Which addresses a webhook may reach. A URL is somebody's input, and its name may mean another address each
//! time: what is checked here are the very addresses that are then connected to.

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whom an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Public,
    /// This machine or this network: only where the endpoint says `allow_private`.
    Private,
    /// Cloud metadata (link-local), multicast, reserved: nobody's webhook.
    Never,
}

/// What an endpoint allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guard {
    pub allow_private: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("{0} is a private address: set `allow_private = true` for this endpoint if that is meant")]
    Private(IpAddr),
    #[error("{0} is an address that no webhook may reach (link-local, multicast or reserved)")]
    Never(IpAddr),
}

impl Guard {
    pub fn check(self, address: IpAddr) -> Result<(), Denied> {
        match reach(address) {
            Reach::Public => Ok(()),
            Reach::Private if self.allow_private => Ok(()),
            Reach::Private => Err(Denied::Private(address)),
            Reach::Never => Err(Denied::Never(address)),
        }
    }

    /// A URL that names an address asks no resolver. The URL parser has already made one of every odd spelling
    /// (`http://2130706433/`, `http://0x7f.1/`).
    pub fn check_literal(self, url: &Url) -> Result<(), Denied> {
        let host = url.host_str().unwrap_or_default();
        let literal: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        literal.map_or(Ok(()), |address| self.check(address))
    }
}

/// Resolves as the system does, and gives no address away that the guard denies.
impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = *self;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // One bad address spoils the name: who mixes them is trying which one we take.
            found.iter().try_for_each(|address| guard.check(address.ip()))?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => embedded_v4(v6).map_or_else(|| reach_v6(v6), reach_v4),
    }
}

/// IANA's special-purpose registry for IPv4.
fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127 | 10, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] => Reach::Private,
        // This network, link-local with its metadata services, protocol assignments, documentation, benchmarks.
        [0, ..] | [169, 254, ..] | [192, 0, 0 | 2, _] | [192, 88, 99, _] => Reach::Never,
        [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] | [224..=255, ..] => Reach::Never,
        _ => Reach::Public,
    }
}

/// Only global unicast (2000::/3) is public, and not all of it.
fn reach_v6(address: Ipv6Addr) -> Reach {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] | [0xfc00..=0xfdff, ..] => Reach::Private,
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x3fff, ..] => Reach::Never, // Teredo and its like, documentation
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Never,
    }
}

/// The IPv4 address that an IPv6 one would be translated to: mapped, NAT64, 6to4.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => (high, low),
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Some(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Guard = Guard { allow_private: false };
    const LOCAL: Guard = Guard { allow_private: true };

    fn literal(guard: Guard, host: &str) -> Result<(), Denied> {
        guard.check_literal(&format!("https://{host}/hook").parse().unwrap())
    }

    #[test]
    fn the_outside_world_is_reachable() {
        for host in ["93.184.215.14", "8.8.8.8", "172.32.0.1", "[2606:4700::1111]", "[::ffff:8.8.8.8]", "example.org"] {
            assert_eq!(literal(STRICT, host), Ok(()), "{host}");
        }
    }

    #[test]
    fn inside_addresses_need_permission_however_they_are_spelled() {
        let hosts = [
            "127.0.0.1",
            "127.9.9.9",
            "2130706433",
            "0x7f.1",
            "017700000001",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[64:ff9b::10.0.0.1]",
            "[2002:7f00:1::]",
            "[fd12:3456::1]",
        ];
        for host in hosts {
            assert!(matches!(literal(STRICT, host), Err(Denied::Private(_))), "{host}");
            assert_eq!(literal(LOCAL, host), Ok(()), "{host}");
        }
    }

    #[test]
    fn metadata_multicast_and_reserved_addresses_are_never_reachable() {
        let hosts = [
            "169.254.169.254",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "2852039166",
            "0.0.0.0",
            "0",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "[::]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[2001::1]",
            "[2001:db8::1]",
            "[64:ff9b:1::1]",
            "[::127.0.0.1]",
            "[100::1]",
        ];
        for host in hosts {
            assert!(matches!(literal(LOCAL, host), Err(Denied::Never(_))), "{host}");
            assert!(matches!(literal(STRICT, host), Err(Denied::Never(_))), "{host}");
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let resolve = |guard: Guard| guard.resolve("localhost".parse().unwrap());
        assert!(resolve(LOCAL).await.unwrap().all(|address| address.ip().is_loopback()));
        let denied = resolve(STRICT).await.map(drop).unwrap_err();
        assert!(denied.to_string().contains("is a private address"), "{denied}");
    }
}
