//! The proxy that connections go through: which one, and what it is asked for. Once it has agreed,
//! its connection is one to the server.
//!
//! `http_connect` and `socks5` are the two ways to ask. Each is a function of the two halves of a
//! connected socket; neither knows how long it may take, which is the connector's to say.

mod error;
mod http_connect;
mod socks5;

use std::{fmt, net::SocketAddr, str::FromStr};

use http::uri::Authority;
use percent_encoding::percent_decode_str;

pub(crate) use self::error::ProxyError;
use super::{
    halves::{ReadHalf, WriteHalf},
    secrets::Secrets,
    target::port_of,
};

/// The port of a SOCKS proxy (RFC 1928 §3).
const SOCKS_PORT: u16 = 1080;

/// The longest user, password and name that SOCKS 5 knows (RFC 1928 §5, RFC 1929 §2).
const SOCKS_TEXT_LEN_MAX: usize = 255;

const EXPECTED: &str =
    "expected http://, socks5:// or socks5h://, each with [USER:PASSWORD@]HOST:PORT";

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    kind: ProxyKind,
    /// A name or an address; an IPv6 address without its brackets.
    host: String,
    port: u16,
    credentials: Option<Credentials>,
    /// The URL without user and password.
    shown: String,
    secrets: Secrets,
}

/// How a proxy is asked for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyKind {
    /// With CONNECT (RFC 9110 §9.3.6).
    Http,
    /// With SOCKS 5 (RFC 1928), for an address that was looked up here.
    Socks5,
    /// With SOCKS 5, for the name.
    Socks5WithNames,
}

/// Who the generator is for a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Credentials {
    user: Vec<u8>,
    password: Vec<u8>,
}

/// Where a proxy is asked to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An address that is known here.
    Address(SocketAddr),
    /// A name that the proxy looks up, and a port.
    Name(String, u16),
}

/// As the authority of a URL.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl FromStr for Proxy {
    type Err = String;

    /// As curl has it, a proxy without a scheme is one of HTTP.
    fn from_str(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let scheme = scheme.to_ascii_lowercase();
        let kind = match &*scheme {
            "http" => ProxyKind::Http,
            "socks5" => ProxyKind::Socks5,
            "socks5h" => ProxyKind::Socks5WithNames,
            "https" => return Err(format!("TLS to the proxy itself is not spoken; {EXPECTED}")),
            _ => return Err(format!("no proxy of that kind is known; {EXPECTED}")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (userinfo, host_and_port) = match rest.rsplit_once('@') {
            Some((userinfo, host_and_port)) => (Some(userinfo), host_and_port),
            None => (None, rest),
        };
        if host_and_port.contains(['/', '?', '#']) {
            return Err(format!("a proxy has no path; {EXPECTED}"));
        }
        let authority: Authority =
            host_and_port.parse().map_err(|_| format!("there is no host in it; {EXPECTED}"))?;
        let host = authority.host();
        if host.is_empty() {
            return Err(format!("there is no host in it; {EXPECTED}"));
        }
        let port = port_of(&authority, host_and_port).map_err(|error| error.to_string())?;
        let port = match (port, kind) {
            (Some(port), _) => port,
            (None, ProxyKind::Http) => return Err(format!("the port is missing; {EXPECTED}")),
            (None, _) => SOCKS_PORT,
        };
        Ok(Self {
            kind,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            credentials: userinfo.map(|it| Credentials::new(it, kind)).transpose()?,
            shown: format!("{scheme}://{host}:{port}"),
            secrets: Secrets::new(userinfo, None),
        })
    }
}

impl Credentials {
    /// Those of `USER[:PASSWORD]`, percent-encoded.
    fn new(userinfo: &str, kind: ProxyKind) -> Result<Self, String> {
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let [user, password] = [user, password].map(|part| percent_decode_str(part).collect());
        let credentials = Self { user, password };
        match kind {
            //= https://www.rfc-editor.org/rfc/rfc7617#section-2
            //# Furthermore, a user-id containing a colon character is invalid
            ProxyKind::Http if credentials.user.contains(&b':') => {
                Err("the user of an HTTP proxy has no colon".to_owned())
            }
            ProxyKind::Socks5 | ProxyKind::Socks5WithNames
                if credentials.user.is_empty()
                    || credentials.user.len() > SOCKS_TEXT_LEN_MAX
                    || credentials.password.len() > SOCKS_TEXT_LEN_MAX =>
            {
                Err(format!(
                    "the user of a SOCKS proxy has 1 to {SOCKS_TEXT_LEN_MAX} bytes, and the \
                     password at most {SOCKS_TEXT_LEN_MAX}"
                ))
            }
            _ => Ok(credentials),
        }
    }
}

impl Proxy {
    /// The URL without user and password: it is shown in results.
    pub fn url(&self) -> &str {
        &self.shown
    }

    /// A name or an address; an IPv6 address without its brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether it looks names up.
    pub(crate) fn takes_names(&self) -> bool {
        match self.kind {
            ProxyKind::Http | ProxyKind::Socks5WithNames => true,
            ProxyKind::Socks5 => false,
        }
    }

    /// Asks for a connection to `destination` on a socket that is connected with the proxy.
    pub(crate) async fn ask(
        &self,
        destination: &Destination,
        reader: &mut impl ReadHalf,
        writer: &mut impl WriteHalf,
    ) -> Result<(), ProxyError> {
        match self.kind {
            ProxyKind::Http => {
                let credentials = self.credentials.as_ref();
                http_connect::ask(destination, credentials, &self.secrets, reader, writer).await
            }
            ProxyKind::Socks5 | ProxyKind::Socks5WithNames => {
                socks5::ask(destination, self.credentials.as_ref(), reader, writer).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_taken_apart() {
        for (url, kind, host, port, shown) in [
            ("http://p:3128", ProxyKind::Http, "p", 3128, "http://p:3128"),
            ("HTTP://p:3128/", ProxyKind::Http, "p", 3128, "http://p:3128"),
            ("p:3128", ProxyKind::Http, "p", 3128, "http://p:3128"),
            ("socks5://[::1]", ProxyKind::Socks5, "::1", 1080, "socks5://[::1]:1080"),
            ("socks5h://p:9050", ProxyKind::Socks5WithNames, "p", 9050, "socks5h://p:9050"),
        ] {
            let proxy: Proxy = url.parse().unwrap();
            assert_eq!((proxy.kind, &*proxy.host, proxy.port), (kind, host, port), "{url}");
            assert_eq!(proxy.url(), shown);
            assert_eq!(proxy.credentials, None);
        }
        let proxy: Proxy = "socks5://me:a%40b%00@p:1".parse().unwrap();
        let credentials = Credentials { user: b"me".to_vec(), password: b"a@b\0".to_vec() };
        assert_eq!(proxy.credentials, Some(credentials));
        assert_eq!(proxy.url(), "socks5://p:1");
    }

    #[test]
    fn other_proxies_are_refused_with_the_reason() {
        let long = format!("socks5://{}:x@p:1", "u".repeat(256));
        for (url, reason) in [
            ("https://p:3128", "TLS to the proxy itself is not spoken; expected http://"),
            ("socks4://p:1080", "no proxy of that kind is known; expected http://"),
            ("ftp://p:21", "no proxy of that kind is known; expected http://"),
            ("http://p", "the port is missing; expected http://"),
            ("http://p:0", "the port has to be 1 to 65535"),
            ("http://p:65536", "the port has to be 1 to 65535"),
            ("http://", "there is no host in it; expected http://"),
            ("http://:3128", "there is no host in it; expected http://"),
            ("http://p:3128/path", "a proxy has no path; expected http://"),
            ("http://a%3ab:c@p:3128", "the user of an HTTP proxy has no colon"),
            ("socks5://:c@p:1", "the user of a SOCKS proxy has 1 to 255 bytes"),
            (&long, "the user of a SOCKS proxy has 1 to 255 bytes"),
        ] {
            let refused = url.parse::<Proxy>().unwrap_err();
            assert!(refused.starts_with(reason), "{url}: {refused}");
        }
    }
}
