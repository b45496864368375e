//! Who is at the other end of a connection.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// The other end of a connection, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An address of IP. IPv4 is never written as IPv6.
    Address(SocketAddr),
    /// An address of IP whose port is not known, as a proxy may name it.
    Host(IpAddr),
    /// A process on this machine, at the other end of a Unix socket.
    Local,
}

impl Peer {
    /// The peer with this address, and this port if it is known.
    pub fn new(ip: IpAddr, port: Option<u16>) -> Self {
        match port {
            Some(port) => SocketAddr::new(ip, port).into(),
            None => Self::Host(ip.to_canonical()),
        }
    }

    /// The peer's address without its port; `None` behind a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address.ip()),
            Self::Host(ip) => Some(*ip),
            Self::Local => None,
        }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        match address.ip().to_canonical() {
            ip @ IpAddr::V4(_) => Self::Address(SocketAddr::new(ip, address.port())),
            IpAddr::V6(_) => Self::Address(address),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host(ip) => ip.fmt(f),
            Self::Local => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_of_ipv4_is_written_so_whatever_socket_it_comes_by() {
        for (address, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("[fe80::1%2]:80", "[fe80::1%2]:80"),
        ] {
            let peer = Peer::from(address.parse::<SocketAddr>().unwrap());
            assert_eq!(peer.to_string(), expected);
        }
        let host = Peer::new("::ffff:192.0.2.1".parse().unwrap(), None);
        assert_eq!(
            (host.to_string(), host.ip()),
            ("192.0.2.1".to_owned(), "192.0.2.1".parse().ok())
        );
        assert_eq!((Peer::Local.to_string().as_str(), Peer::Local.ip()), ("unix", None));
    }
}
