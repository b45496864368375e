//! Web origins (RFC 6454): a scheme, a host and a port, in the one form in which they compare.
//!
//! Browsers send that form. People write other forms of the same origin, with capitals or with the
//! scheme's own port; these are read too. All other texts are refused.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    str::FromStr,
};

use thiserror::Error;

/// An origin. Two origins are equal if browsers take them for the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// Why a text is no origin that a browser sends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OriginError {
    /// The text does not begin with a scheme, or has no host.
    #[error(
        "an origin is a scheme and a host, and a port if it is not the scheme's own, such as \
         https://example.org or http://localhost:8080; or null"
    )]
    Malformed,
    /// The text stands for more than one origin.
    #[error("an origin stands for itself alone; name each, or none to allow all")]
    Wildcard,
    /// The text is more of a URL than an origin, or its scheme is ws: or wss:. The value is the
    /// origin that was probably meant.
    #[error("browsers send the origin of the page alone, which is {0} here")]
    Url(Box<Origin>),
    /// The host is not in the form that browsers send.
    #[error("browsers send another form of this host: what location.origin is on the page")]
    Host,
    /// The port is no number from 1 to 65535.
    #[error("a port is a number from 1 to 65535")]
    Port,
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let text = text.to_ascii_lowercase();
        // The origin of a page without a server is null; some WebViews send file:// for a page in a
        // file.
        if text == "null" || text == "file://" {
            return Ok(Self(text));
        }
        if text.contains('*') {
            return Err(OriginError::Wildcard);
        }
        let (scheme, rest) = text.split_once("://").ok_or(OriginError::Malformed)?;
        if !is_scheme(scheme) {
            return Err(OriginError::Malformed);
        }
        let (authority, is_bare) = match rest.find(['/', '?', '#']) {
            Some(end) => (&rest[..end], false),
            None => (rest, true),
        };
        let (host, port) = split_port(authority.rsplit('@').next().unwrap_or(authority))?;
        let host = normalize_host(host)?;
        let page_scheme = match scheme {
            "ws" => "http",
            "wss" => "https",
            scheme => scheme,
        };
        let origin = match port.filter(|port| Some(port.get()) != default_port(page_scheme)) {
            Some(port) => Self(format!("{page_scheme}://{host}:{port}")),
            None => Self(format!("{page_scheme}://{host}")),
        };
        if is_bare && !authority.contains('@') && scheme == page_scheme {
            Ok(origin)
        } else {
            Err(OriginError::Url(Box::new(origin)))
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text in lower case is a URL's scheme (RFC 3986 §3.1).
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

/// The port that an origin of this scheme has when it names none.
fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Splits an authority without user into host and port. An empty port counts as none.
fn split_port(authority: &str) -> Result<(&str, Option<NonZeroU16>), OriginError> {
    let Some((host, port)) = authority.rsplit_once(':').filter(|(_, port)| !port.contains(']'))
    else {
        return Ok((authority, None));
    };
    if port.is_empty() {
        return Ok((host, None));
    }
    let is_number = port.bytes().all(|digit| digit.is_ascii_digit());
    let port = port.parse().ok().filter(|_| is_number).ok_or(OriginError::Port)?;
    Ok((host, Some(port)))
}

/// A host in the form in which it compares: an IPv6 address in its canonical form, any other host
/// as it is.
///
/// Forms that browsers do not send are refused: they send a name in ASCII, and an IPv4 address that
/// was written in another way (`127.1`, `0x7f000001`) as four decimal numbers.
fn normalize_host(host: &str) -> Result<String, OriginError> {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address: Ipv6Addr = address.parse().map_err(|_| OriginError::Host)?;
        return Ok(format!("[{address}]"));
    }
    if host.is_empty() {
        return Err(OriginError::Malformed);
    }
    // A name may end with a dot, which makes it another origin.
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_name = name.split('.').all(is_label);
    if !is_name || (ends_in_number(name) && host.parse::<Ipv4Addr>().is_err()) {
        return Err(OriginError::Host);
    }
    Ok(host.to_owned())
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// Whether browsers take a host for an IPv4 address, which its last label decides.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let (digits, is_digit): (_, fn(&u8) -> bool) = match last.strip_prefix("0x") {
        Some(digits) => (digits, u8::is_ascii_hexdigit),
        None => (last, u8::is_ascii_digit),
    };
    digits.bytes().all(|byte| is_digit(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_in_the_form_that_browsers_send() {
        for (text, sent) in [
            ("https://example.org", "https://example.org"),
            ("https://Example.ORG", "https://example.org"),
            ("HTTPS://example.org:443", "https://example.org"),
            ("http://example.org:80", "http://example.org"),
            ("http://example.org:", "http://example.org"),
            ("http://example.org:0080", "http://example.org"),
            ("http://example.org:443", "http://example.org:443"),
            ("https://example.org:80", "https://example.org:80"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("https://example.org.", "https://example.org."),
            ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
            ("https://my_host-1.example", "https://my_host-1.example"),
            ("http://127.0.0.1:9001", "http://127.0.0.1:9001"),
            ("http://[0:0::1]:80", "http://[::1]"),
            ("http://[2001:DB8::1]:8080", "http://[2001:db8::1]:8080"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
            ("app://example.org:80", "app://example.org:80"),
            ("null", "null"),
            ("file://", "file://"),
        ] {
            assert_eq!(text.parse(), Ok(Origin(sent.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_refused_with_what_it_sends() {
        let url = |origin: &str| OriginError::Url(Box::new(Origin(origin.to_owned())));
        for (text, refusal) in [
            ("", OriginError::Malformed),
            ("example.org", OriginError::Malformed),
            ("//example.org", OriginError::Malformed),
            ("1http://example.org", OriginError::Malformed),
            ("https://", OriginError::Malformed),
            ("https://:443", OriginError::Malformed),
            ("https:///ws", OriginError::Malformed),
            ("*", OriginError::Wildcard),
            ("https://*.example.org", OriginError::Wildcard),
            ("https://example.org/", url("https://example.org")),
            ("https://example.org:443/a/b", url("https://example.org")),
            ("https://example.org:8443?a", url("https://example.org:8443")),
            ("https://example.org#a", url("https://example.org")),
            ("https://me:secret@example.org", url("https://example.org")),
            ("wss://example.org:443", url("https://example.org")),
            ("ws://Example.org/ws", url("http://example.org")),
            ("https://bücher.example", OriginError::Host),
            ("https://b%C3%BCcher.example", OriginError::Host),
            ("https://a,b", OriginError::Host),
            ("https://a b", OriginError::Host),
            ("https://a..b", OriginError::Host),
            ("https://.example.org", OriginError::Host),
            ("https://.", OriginError::Host),
            ("http://127.1", OriginError::Host),
            ("http://0x7f.0.0.0x1", OriginError::Host),
            ("http://127.0.0.01", OriginError::Host),
            ("http://127.0.0.1.", OriginError::Host),
            ("http://[::1", OriginError::Host),
            ("http://::1", OriginError::Host),
            ("http://[fe80::1%25eth0]", OriginError::Host),
            ("http://a:0", OriginError::Port),
            ("http://a:65536", OriginError::Port),
            ("http://a:+80", OriginError::Port),
            ("http://a:b", OriginError::Port),
        ] {
            assert_eq!(text.parse::<Origin>(), Err(refusal), "{text}");
        }
    }
}
