//! The WebSocket URL of a run. Its name is resolved once before the threads start, because monoio
//! would block a whole thread on a name. Where sockets go is [`Endpoint`](super::stream::Endpoint).

use std::{
    io,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    str::FromStr,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{
    Uri,
    uri::{Authority, InvalidUri},
};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use thiserror::Error;

use super::secrets::{Secrets, masked};

/// Ports of the schemes ws and wss (RFC 6455 §3).
const PORT_DEFAULT: u16 = 80;
const PORT_DEFAULT_TLS: u16 = 443;

/// What neither a path nor a query may have as it is (RFC 3986 §3.3 and §3.4), beside what is not
/// ASCII.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A WebSocket URL (RFC 6455 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Without user name, password and the values of the query.
    url: String,
    tls: bool,
    /// A name or an address; an IPv6 address without its brackets.
    host: String,
    port: u16,
    host_field: String,
    path_and_query: String,
    authorization: Option<String>,
    secrets: Secrets,
}

/// Why a URL is none that can be driven.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TargetError {
    /// Not a URL.
    #[error("not a URL: {0}; expected ws://HOST[:PORT][/PATH]")]
    Syntax(String),
    /// Another or no scheme.
    #[error("the scheme has to be ws:// or wss://; expected ws://HOST[:PORT][/PATH]")]
    Scheme,
    /// No host.
    #[error("the host is missing; expected ws://HOST[:PORT][/PATH]")]
    HostMissing,
    /// A port outside of 1 to 65535.
    #[error("the port has to be 1 to 65535")]
    Port,
    /// A fragment identifier.
    #[error("a WebSocket URL has no fragment (\"#\")")]
    Fragment,
}

/// Why a name leads nowhere.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// The resolver failed.
    #[error("cannot resolve {host:?}: {cause}")]
    Lookup {
        /// What was looked up.
        host: String,
        /// What the resolver said.
        cause: io::Error,
    },
    /// The name has no address.
    #[error("{0:?} has no address")]
    NoAddress(String),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(url: &str) -> Result<Self, TargetError> {
        let uri = parse_uri(url)?;
        let tls = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(TargetError::Scheme),
        };
        let authority = uri.authority().ok_or(TargetError::HostMissing)?;
        let (userinfo, host_and_port) = match authority.as_str().rsplit_once('@') {
            Some((userinfo, host_and_port)) => (Some(userinfo), host_and_port),
            None => (None, authority.as_str()),
        };
        let host = authority.host();
        if host.is_empty() {
            return Err(TargetError::HostMissing);
        }
        let port_default = if tls { PORT_DEFAULT_TLS } else { PORT_DEFAULT };
        let port = port_of(authority, host_and_port)?.unwrap_or(port_default);
        let path_and_query = match uri.path_and_query() {
            None => "/".to_owned(),
            Some(path) if path.path().is_empty() => format!("/{path}"),
            Some(path) => path.to_string(),
        };
        let host_field =
            if port == port_default { host.to_owned() } else { format!("{host}:{port}") };
        Ok(Self {
            url: masked(url),
            tls,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            host_field,
            path_and_query: utf8_percent_encode(&path_and_query, ENCODED).to_string(),
            authorization: userinfo.map(basic_authorization),
            secrets: Secrets::new(userinfo, uri.query()),
        })
    }
}

fn parse_uri(url: &str) -> Result<Uri, TargetError> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-3
    //# Fragment identifiers are meaningless in the context of WebSocket URIs
    //# and MUST NOT be used on these URIs.
    if url.contains('#') {
        return Err(TargetError::Fragment);
    }
    url.parse().map_err(|error: InvalidUri| match url.split_once("://") {
        None => TargetError::Scheme,
        Some((_, rest)) if rest.is_empty() || rest.starts_with(['/', '?', ':']) => {
            TargetError::HostMissing
        }
        Some(_) => TargetError::Syntax(error.to_string()),
    })
}

/// The port that an authority names; `host_and_port` is all of it but the user.
pub(super) fn port_of(
    authority: &Authority,
    host_and_port: &str,
) -> Result<Option<u16>, TargetError> {
    match (authority.port_u16(), host_and_port.strip_prefix(authority.host())) {
        (Some(0), _) => Err(TargetError::Port),
        (Some(port), _) => Ok(Some(port)),
        (None, Some("" | ":")) => Ok(None),
        (None, _) => Err(TargetError::Port),
    }
}

/// The value of the Authorization header field for `USER[:PASSWORD]`, percent-encoded (RFC 7617).
fn basic_authorization(userinfo: &str) -> String {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let decoded = |part| percent_decode_str(part).collect();
    let credentials: [Vec<u8>; 3] = [decoded(user), b":".to_vec(), decoded(password)];
    format!("Basic {}", BASE64_STANDARD.encode(credentials.concat()))
}

impl Target {
    /// The URL as it was given, but without user name, password and the values of its query: it is
    /// shown in reports.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether connections speak TLS.
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// A name or an address; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of the request's Authorization header field, if the URL has a user name.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// The value of the request's Host header field.
    pub fn host_field(&self) -> &str {
        &self.host_field
    }

    /// The request's target.
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// What the URL has that is not shown.
    pub(crate) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Whether both are of the same scheme, host and port.
    pub(super) fn has_origin_of(&self, other: &Self) -> bool {
        self.tls == other.tls
            && self.host.eq_ignore_ascii_case(&other.host)
            && self.port == other.port
    }

    /// The same, with the user and password of `other` if it has none of its own.
    pub(super) fn with_credentials_of(self, other: &Self) -> Self {
        match self.authorization {
            Some(_) => self,
            None => Self {
                authorization: other.authorization.clone(),
                secrets: self.secrets.and(&other.secrets),
                ..self
            },
        }
    }
}

/// The address that connections to a host go to: of several (`localhost` often has two), the first
/// one where somebody listens. Only then a connection is made to find out.
pub fn resolve(host: &str, port: u16, timeout: Duration) -> Result<SocketAddr, ResolveError> {
    let (first, addresses) = look_up(host, port)?;
    if addresses.iter().all(|address| *address == first) {
        return Ok(first);
    }
    let listening =
        addresses.iter().find(|address| TcpStream::connect_timeout(address, timeout).is_ok());
    Ok(*listening.unwrap_or(&first))
}

/// The addresses of a host: the first one, and all. No connection is made.
pub fn look_up(host: &str, port: u16) -> Result<(SocketAddr, Vec<SocketAddr>), ResolveError> {
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|cause| ResolveError::Lookup { host: host.to_owned(), cause })?
        .collect();
    let first = *addresses.first().ok_or_else(|| ResolveError::NoAddress(host.to_owned()))?;
    Ok((first, addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, host, port, host_field, path) in [
            ("ws://localhost", "localhost", 80, "localhost", "/"),
            ("ws://localhost:80/", "localhost", 80, "localhost", "/"),
            ("ws://127.0.0.1:9000/ws", "127.0.0.1", 9000, "127.0.0.1:9000", "/ws"),
            ("ws://[::1]/a/b?c=d&e", "::1", 80, "[::1]", "/a/b?c=d&e"),
            ("ws://[::1]:81?c=d", "::1", 81, "[::1]:81", "/?c=d"),
            ("wss://localhost", "localhost", 443, "localhost", "/"),
            ("wss://localhost:80", "localhost", 80, "localhost:80", "/"),
        ] {
            let target: Target = url.parse().unwrap();
            assert_eq!(target.url(), masked(url));
            assert_eq!(target.host, host, "{url}");
            assert_eq!(target.port, port, "{url}");
            assert_eq!(target.host_field(), host_field, "{url}");
            assert_eq!(target.path_and_query(), path, "{url}");
            assert_eq!(target.tls(), url.starts_with("wss:"), "{url}");
            assert_eq!(target.authorization(), None, "{url}");
        }
    }

    /// The credentials are those of RFC 7617 §2.
    #[test]
    fn user_and_password_become_an_authorization_and_are_not_shown() {
        for (url, shown, credentials) in [
            ("ws://Aladdin:open%20sesame@[::1]:9/ws", "ws://[::1]:9/ws", "Aladdin:open sesame"),
            ("wss://me@localhost/", "wss://localhost/", "me:"),
            ("ws://me:a%3Ab%40c@localhost", "ws://localhost", "me:a:b@c"),
        ] {
            let target: Target = url.parse().unwrap();
            let expected = format!("Basic {}", BASE64_STANDARD.encode(credentials));
            assert_eq!(target.authorization(), Some(&*expected), "{url}");
            assert_eq!(target.url(), shown);
        }
        let target: Target = "ws://Aladdin:open%20sesame@h/".parse().unwrap();
        assert_eq!(target.authorization(), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
    }

    #[test]
    fn what_a_request_cannot_have_as_it_is_is_percent_encoded() {
        for (url, path) in [
            ("ws://localhost/ä", "/%C3%A4"),
            (
                "ws://localhost/%C3%A4/~b?ü=\u{1f600}&c=%20'",
                "/%C3%A4/~b?%C3%BC=%F0%9F%98%80&c=%20'",
            ),
            ("ws://localhost/a\"{b}|c", "/a%22%7Bb%7D%7Cc"),
        ] {
            assert_eq!(url.parse::<Target>().unwrap().path_and_query(), path, "{url}");
        }
    }

    #[test]
    fn values_of_the_query_are_sent_and_not_shown() {
        let target: Target = "ws://me:secret@localhost/ws?token=abc&room=7".parse().unwrap();
        assert_eq!(target.path_and_query(), "/ws?token=abc&room=7");
        assert_eq!(target.url(), "ws://localhost/ws?token=***&room=***");
    }

    #[test]
    fn other_urls_are_refused_with_the_reason() {
        for (url, error) in [
            ("http://localhost/", TargetError::Scheme),
            ("localhost:9000", TargetError::Scheme),
            ("localhost", TargetError::Scheme),
            ("", TargetError::Scheme),
            ("/ws", TargetError::Scheme),
            ("ws://", TargetError::HostMissing),
            ("ws:///ws", TargetError::HostMissing),
            ("ws://:9000/ws", TargetError::HostMissing),
            ("ws://localhost:0/", TargetError::Port),
            ("ws://localhost:65536/", TargetError::Port),
            ("ws://localhost:http/", TargetError::Port),
            ("ws://me@:9000/", TargetError::HostMissing),
            ("ws://localhost/#part", TargetError::Fragment),
        ] {
            assert_eq!(url.parse::<Target>(), Err(error), "{url:?}");
        }
    }

    #[test]
    fn a_literal_needs_no_lookup() {
        let target: Target = "ws://[::1]:9000/".parse().unwrap();
        let address = resolve(target.host(), target.port(), Duration::ZERO).unwrap();
        assert_eq!(address, "[::1]:9000".parse().unwrap());
    }
}
