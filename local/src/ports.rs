//! Which ports the stack listens on: the well-known ones, or free ones that no other stack takes meanwhile.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::str::FromStr;

/// Below the range from which Linux takes ports for outgoing connections: a port there could be lost to a client
/// in the moment between a server's death and its restart.
const FREE_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The well-known ports, or any that are free, so that several stacks run side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ports {
    #[default]
    Default,
    Auto,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self::Default),
            "auto" => Ok(Self::Auto),
            other => Err(format!("`{other}` is neither `default` nor `auto`")),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Auto => "auto",
        })
    }
}

/// Free ports, kept for whoever holds this.
///
/// Each is reserved by a UDP socket on the same number: no TCP server minds it, every other stack on the machine
/// stumbles over it, and it ends with the process, however that ends.
#[derive(Debug, Default)]
pub struct FreePorts {
    reserved: Vec<UdpSocket>,
}

impl FreePorts {
    /// A port on which nobody listens and which nobody else has reserved.
    ///
    /// # Errors
    /// When all of them are taken.
    pub fn take(&mut self) -> io::Result<u16> {
        let count = FREE_PORTS.end - FREE_PORTS.start;
        // Different processes begin at different places, so that they seldom meet.
        let begin = (std::process::id().wrapping_mul(7919) % u32::from(count)) as u16;
        for step in 0..count {
            let port = FREE_PORTS.start + (begin + step) % count;
            if let Ok(reservation) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))
                && is_free(port)
            {
                self.reserved.push(reservation);
                return Ok(port);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, format!("every port of {FREE_PORTS:?} is taken")))
    }
}

/// Whether a server could listen there now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn two_stacks_never_get_the_same_port() {
        let (mut one, mut other) = (FreePorts::default(), FreePorts::default());
        let ports: BTreeSet<u16> = (0..20).flat_map(|_| [one.take().unwrap(), other.take().unwrap()]).collect();
        assert_eq!(ports.len(), 40);
    }

    #[test]
    fn a_port_on_which_somebody_listens_is_not_free() {
        let mut reserved = FreePorts::default(); // until the end, or the other test may try this port
        let port = reserved.take().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(!is_free(port));
        drop(listener);
        assert!(is_free(port));
    }

    #[test]
    fn ports_are_read_as_they_are_written() {
        assert_eq!("auto".parse(), Ok(Ports::Auto));
        assert_eq!(Ports::Default.to_string().parse(), Ok(Ports::Default));
        assert!("7000".parse::<Ports>().unwrap_err().contains("neither"));
    }
}
