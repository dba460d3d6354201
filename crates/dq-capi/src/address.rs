//! The texts that an address to bind can be.
//!
//! ```text
//!   1.2.3.4   1.2.3.4:9000   ::1   [::1]:9000   @name   @
//! ```
//!
//! Numeric only: a name server that does not answer must not block the program. Without a port it is
//! 8080; an empty port is chosen by the kernel, as 0 is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dq_server::BindAddr;
use dq_server::io::listener::ABSTRACT_NAME_MAX;

const PORT: u16 = 8080;

/// Reads such a text; `None` if it is none.
pub(crate) fn parse(text: &str) -> Option<BindAddr> {
    if let Some(name) = text.strip_prefix('@') {
        let fits = name.len() <= ABSTRACT_NAME_MAX;
        return fits.then(|| BindAddr::Abstract(name.as_bytes().to_vec()));
    }
    let (ip, port): (IpAddr, u16) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once("]:")?;
        (host.parse::<Ipv6Addr>().ok()?.into(), parse_port(port)?)
    } else if let Some((host, port)) = text.split_once(':').filter(|_| text.contains('.')) {
        (host.parse::<Ipv4Addr>().ok()?.into(), parse_port(port)?)
    } else {
        (text.parse().ok()?, PORT)
    };
    Some(BindAddr::Tcp(SocketAddr::new(ip, port)))
}

fn parse_port(text: &str) -> Option<u16> {
    match text {
        "" => Some(0),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_the_original_takes() {
        let tcp = |text: &str| Some(BindAddr::Tcp(text.parse().unwrap()));
        assert_eq!(parse("1.2.3.4:9000"), tcp("1.2.3.4:9000"));
        assert_eq!(parse("1.2.3.4"), tcp("1.2.3.4:8080"));
        assert_eq!(parse("::1"), tcp("[::1]:8080"));
        assert_eq!(parse("[::1]:9000"), tcp("[::1]:9000"));
        assert_eq!(parse("127.0.0.1:"), tcp("127.0.0.1:0"));
        assert_eq!(parse("127.0.0.1:0"), tcp("127.0.0.1:0"));
        assert_eq!(parse("@a/b"), Some(BindAddr::Abstract(b"a/b".to_vec())));
        assert_eq!(parse("@"), Some(BindAddr::Abstract(Vec::new())));
    }

    #[test]
    fn other_texts_are_no_addresses() {
        let long = format!("@{}", "x".repeat(108));
        for text in [
            "",
            "8080",
            "localhost",
            "localhost:9000",
            "/a/path",
            "[::1]",
            "127.0.0.1:99999",
            "127.0.0.1:+1",
            "1.2.3.4:90:00",
            &long,
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
