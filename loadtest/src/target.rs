//! Where a run's connections go: a `ws://` URL, resolved once before the threads start, because
//! monoio would block a whole thread on a name.

use std::{
    io,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    str::FromStr,
    time::Duration,
};

use http::Uri;
use thiserror::Error;

const PORT_DEFAULT: u16 = 80;

/// A WebSocket URL (RFC 6455 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    url: String,
    /// A name or an address; an IPv6 address without its brackets.
    host: String,
    port: u16,
    host_field: String,
    path_and_query: String,
}

/// Why a URL is none that can be driven.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TargetError {
    /// Not a URL.
    #[error("not a URL: {0}; expected ws://HOST[:PORT][/PATH]")]
    Syntax(String),
    /// A TLS URL.
    #[error("wss:// is not supported yet; use ws://")]
    Tls,
    /// Another or no scheme.
    #[error("the scheme has to be ws://; expected ws://HOST[:PORT][/PATH]")]
    Scheme,
    /// No host.
    #[error("the host is missing; expected ws://HOST[:PORT][/PATH]")]
    HostMissing,
    /// A port outside of 1 to 65535.
    #[error("the port has to be 1 to 65535")]
    Port,
    /// A user name or a password.
    #[error("a user name or password is not supported")]
    UserInfo,
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
        //= https://www.rfc-editor.org/rfc/rfc6455#section-3
        //# Fragment identifiers are meaningless in the context of WebSocket URIs
        //# and MUST NOT be used on these URIs.
        if url.contains('#') {
            return Err(TargetError::Fragment);
        }
        let uri: Uri =
            url.parse().map_err(|error: http::uri::InvalidUri| match url.find("://") {
                None => TargetError::Scheme,
                Some(at) if url[at + 3..].starts_with(['/', '?', ':']) => TargetError::HostMissing,
                Some(at) if url.len() == at + 3 => TargetError::HostMissing,
                Some(_) => TargetError::Syntax(error.to_string()),
            })?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some("wss") => return Err(TargetError::Tls),
            _ => return Err(TargetError::Scheme),
        }
        let authority = uri.authority().ok_or(TargetError::HostMissing)?;
        if authority.as_str().contains('@') {
            return Err(TargetError::UserInfo);
        }
        let host = authority.host();
        if host.is_empty() {
            return Err(TargetError::HostMissing);
        }
        let port = match (authority.port_u16(), authority.as_str().strip_prefix(host)) {
            (Some(0), _) => return Err(TargetError::Port),
            (Some(port), _) => port,
            (None, Some("" | ":")) => PORT_DEFAULT,
            (None, _) => return Err(TargetError::Port),
        };
        let path_and_query = match uri.path_and_query() {
            None => "/".to_owned(),
            Some(path) if path.path().is_empty() => format!("/{path}"),
            Some(path) => path.to_string(),
        };
        let host_field =
            if port == PORT_DEFAULT { host.to_owned() } else { format!("{host}:{port}") };
        Ok(Self {
            url: url.to_owned(),
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            host_field,
            path_and_query,
        })
    }
}

impl Target {
    /// The URL as it was given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The value of the request's Host header field.
    pub fn host_field(&self) -> &str {
        &self.host_field
    }

    /// The request's target.
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// The address that all connections go to: of several (`localhost` often has two), the first
    /// one where somebody listens. Only then a connection is made to find out.
    pub fn resolve(&self, timeout: Duration) -> Result<SocketAddr, ResolveError> {
        let addresses: Vec<SocketAddr> = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|cause| ResolveError::Lookup { host: self.host.clone(), cause })?
            .collect();
        let first = *addresses.first().ok_or_else(|| ResolveError::NoAddress(self.host.clone()))?;
        if addresses.iter().all(|address| *address == first) {
            return Ok(first);
        }
        let listening =
            addresses.iter().find(|address| TcpStream::connect_timeout(address, timeout).is_ok());
        Ok(*listening.unwrap_or(&first))
    }
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
        ] {
            let target: Target = url.parse().unwrap();
            assert_eq!(target.url(), url);
            assert_eq!(target.host, host, "{url}");
            assert_eq!(target.port, port, "{url}");
            assert_eq!(target.host_field(), host_field, "{url}");
            assert_eq!(target.path_and_query(), path, "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused_with_the_reason() {
        for (url, error) in [
            ("wss://localhost/", TargetError::Tls),
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
            ("ws://me@localhost/", TargetError::UserInfo),
            ("ws://localhost/#part", TargetError::Fragment),
        ] {
            assert_eq!(url.parse::<Target>(), Err(error), "{url:?}");
        }
    }

    #[test]
    fn a_literal_needs_no_lookup() {
        let target: Target = "ws://[::1]:9000/".parse().unwrap();
        let address = target.resolve(Duration::ZERO).unwrap();
        assert_eq!(address, "[::1]:9000".parse().unwrap());
    }
}
