//! URLs that carry a login: shown without the secret. Never connects.

/// Query parameters that servers take a secret by.
const SECRETS: &[&str] = &["password", "sslpassword", "token", "access_token"];

/// A URL as it may be shown; other text as it is.
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    format!("{scheme}://{}{path}{}", authority_shown(authority), query_shown(query))
}

/// Does it name a user, with a password or without?
pub fn has_login(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.contains('@') || without_password(url) != url
}

/// A password may hold an `@` itself: the host begins behind the last one.
fn authority_shown(authority: &str) -> String {
    let Some((user_info, host)) = authority.rsplit_once('@') else { return authority.to_owned() };
    match user_info.split_once(':') {
        Some((user, _)) => format!("{user}:***@{host}"),
        None => authority.to_owned(),
    }
}

/// `query` begins with its `?`, or is empty.
fn query_shown(query: &str) -> String {
    let (query, fragment) = query.split_at(query.find('#').unwrap_or(query.len()));
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}=***"),
        _ => pair.to_owned(),
    };
    format!("{}{fragment}", query.split('&').map(pair).collect::<Vec<_>>().join("&"))
}

fn is_secret(name: &str) -> bool {
    SECRETS.contains(&name.trim_start_matches('?').to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_password_is_shown_wherever_the_url_has_it() {
        let cases = [
            ("postgres://a:b@c/d", "postgres://a:***@c/d"),
            ("http://a:b@b@c", "http://a:***@c"),
            ("http://a:b:c@d?x=1@2", "http://a:***@d?x=1@2"),
            (
                "postgres://c/d?user=a&password=b@b&sslmode=require",
                "postgres://c/d?user=a&password=***&sslmode=require",
            ),
            ("http://c?Password=b#top", "http://c?Password=***#top"),
        ];
        for (url, shown) in cases {
            assert_eq!(without_password(url), shown);
            assert!(has_login(url), "{url}");
        }
    }

    #[test]
    fn what_holds_no_secret_is_shown_as_it_is() {
        for text in ["http://c:8123/x?y=1&z", "a:1,b:2", "http://h/@me?password", "http://[::1]:1", ""] {
            assert_eq!(without_password(text), text);
            assert!(!has_login(text), "{text}");
        }
        assert_eq!(without_password("postgres://a@c/d"), "postgres://a@c/d");
        assert!(has_login("postgres://a@c/d"));
    }
}
