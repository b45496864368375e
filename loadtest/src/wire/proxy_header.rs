//! The header of the PROXY protocol, which a connection may begin with: whom the server is to take
//! the client for.
//!
//! Encoded as the specification says (<https://www.haproxy.org/download/3.3/doc/proxy-protocol.txt>,
//! §2.1 and §2.2). Both addresses of a header are of one family: where they are not, the IPv4
//! address becomes an IPv6 address (RFC 4291 §2.5.5.2).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What a header of version 2 begins with (§2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The version in its upper half, the command in its lower one.
const VERSION_2_LOCAL: u8 = 0x20;
const VERSION_2_PROXY: u8 = 0x21;

/// Address family and transport.
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Ports of clients that have none: those that nobody is assigned (RFC 6335 §6).
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// The form of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ProxyHeaderVersion {
    /// A line of text.
    V1,
    /// Bytes.
    V2,
}

impl ProxyHeaderVersion {
    /// As the flag and the result call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// The headers of all connections.
#[derive(Debug)]
pub struct ProxyHeaders {
    version: ProxyHeaderVersion,
    /// Whom connections are said to come from, in turn; from themselves if there are none.
    sources: Vec<IpAddr>,
    sent: AtomicUsize,
}

/// What the generator knows of the server's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerAddress {
    Known(SocketAddr),
    /// A proxy looks it up, or it is a Unix socket; the URL's port.
    Unknown(u16),
}

impl ProxyHeaders {
    /// Headers that name `sources` in turn, or the connections' own addresses if there are none.
    pub fn new(version: ProxyHeaderVersion, sources: Vec<IpAddr>) -> Self {
        Self { version, sources, sent: AtomicUsize::new(0) }
    }

    /// Their form.
    pub(crate) fn version(&self) -> ProxyHeaderVersion {
        self.version
    }

    /// How many addresses they name in turn; 0 if connections name their own.
    pub(crate) fn sources(&self) -> usize {
        self.sources.len()
    }

    /// The header of the next connection, which is `local` (`None` of a Unix socket).
    pub(crate) fn next(&self, local: Option<SocketAddr>, server: ServerAddress) -> Vec<u8> {
        let source = match (self.next_source(), local) {
            ((Some(address), _), Some(local)) => Some(SocketAddr::new(address, local.port())),
            ((Some(address), port), None) => Some(SocketAddr::new(address, port)),
            ((None, _), local) => local,
        };
        let ends = source.map(|source| (source, server.beside(source.ip())));
        encode(self.version, ends)
    }

    /// The next address, and a port that a client of that address has not had for a while.
    fn next_source(&self) -> (Option<IpAddr>, u16) {
        if self.sources.is_empty() {
            return (None, 0);
        }
        let number = self.sent.fetch_add(1, Relaxed);
        let round = number / self.sources.len() % DYNAMIC_PORTS.len();
        let port = DYNAMIC_PORTS.start() + round as u16;
        (Some(self.sources[number % self.sources.len()]), port)
    }
}

impl ServerAddress {
    /// As it stands beside a source: an unspecified address of the same family where it is not known.
    fn beside(self, source: IpAddr) -> SocketAddr {
        match (self, source) {
            (Self::Known(address), _) => address,
            (Self::Unknown(port), IpAddr::V4(_)) => (Ipv4Addr::UNSPECIFIED, port).into(),
            (Self::Unknown(port), IpAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED, port).into(),
        }
    }
}

/// A header for a connection with these ends, source and destination; without, one that says that
/// the connection stands for itself.
fn encode(version: ProxyHeaderVersion, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    match version {
        ProxyHeaderVersion::V1 => line(ends).into_bytes(),
        ProxyHeaderVersion::V2 => binary(ends),
    }
}

fn line(ends: Option<(SocketAddr, SocketAddr)>) -> String {
    let Some((source, destination)) = ends else {
        return "PROXY UNKNOWN\r\n".to_owned();
    };
    let ports = format!("{} {}", source.port(), destination.port());
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            format!("PROXY TCP4 {source} {destination} {ports}\r\n")
        }
        (source, destination) => {
            format!("PROXY TCP6 {} {} {ports}\r\n", as_ipv6(source), as_ipv6(destination))
        }
    }
}

fn binary(ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let (command, family, addresses) = match ends {
        None => (VERSION_2_LOCAL, UNSPECIFIED, Vec::new()),
        Some((source, destination)) => {
            let (family, mut addresses) = match (source.ip(), destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    (TCP_OVER_IPV4, [source.octets(), destination.octets()].concat())
                }
                (source, destination) => {
                    let both = [source, destination].map(|address| as_ipv6(address).octets());
                    (TCP_OVER_IPV6, both.concat())
                }
            };
            for port in [source.port(), destination.port()] {
                addresses.extend_from_slice(&port.to_be_bytes());
            }
            (VERSION_2_PROXY, family, addresses)
        }
    };
    let len = (addresses.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &len, &addresses].concat()
}

fn as_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use ProxyHeaderVersion::{V1, V2};
    use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader};

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn headers_are_those_of_the_specification() {
        let ends = |source, destination| Some((address(source), address(destination)));
        for (version, ends, header) in [
            // The example of §2.1.
            (
                V1,
                ends("192.168.0.1:56324", "192.168.0.11:443"),
                &b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"[..],
            ),
            (
                V1,
                ends("[2001:db8::1]:65535", "[::1]:80"),
                b"PROXY TCP6 2001:db8::1 ::1 65535 80\r\n",
            ),
            (V1, None, b"PROXY UNKNOWN\r\n"),
            (
                V2,
                ends("192.168.0.1:56324", "192.168.0.11:443"),
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\xa8\0\x01\xc0\xa8\0\x0b\xdc\x04\x01\xbb",
            ),
            (V2, None, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
        ] {
            assert_eq!(encode(version, ends), header, "{}", header.escape_ascii());
        }
        let longest = address("[1111:2222:3333:4444:5555:6666:7777:8888]:65535");
        assert!(encode(V1, Some((longest, longest))).len() <= 107, "the bound of §2.1");
    }

    #[test]
    fn a_stock_decoder_understands_every_header() {
        let addresses = ["1.2.3.4:5", "127.0.0.1:65535", "[2001:db8::7]:1", "[::]:0"].map(address);
        for version in [V1, V2] {
            for (source, destination) in
                addresses.iter().flat_map(|source| addresses.map(|it| (*source, it)))
            {
                let header = encode(version, Some((source, destination)));
                let (decoded, len) = ProxyHeader::parse(&header, ParseConfig::default()).unwrap();
                assert_eq!(len, header.len());
                let is_mixed = source.is_ipv4() != destination.is_ipv4();
                let as_sent = |address: SocketAddr| {
                    let ip = if is_mixed { as_ipv6(address.ip()).into() } else { address.ip() };
                    SocketAddr::new(ip, address.port())
                };
                let expected = ProxiedAddress::stream(as_sent(source), as_sent(destination));
                assert_eq!(decoded.proxied_address(), Some(&expected));
            }
            let header = encode(version, None);
            let (decoded, len) = ProxyHeader::parse(&header, ParseConfig::default()).unwrap();
            assert_eq!((decoded.proxied_address(), len), (None, header.len()));
        }
    }

    #[test]
    fn sources_are_named_in_turn_with_a_port_of_the_connection_or_a_new_one() {
        let sources = ["10.0.0.1", "2001:db8::1"].map(|source| source.parse().unwrap());
        let headers = ProxyHeaders::new(V1, sources.to_vec());
        let local = address("127.0.0.1:4711");
        let server = ServerAddress::Known(address("127.0.0.1:9001"));
        let next = |local, server| String::from_utf8(headers.next(local, server)).unwrap();
        for (local, server, header) in [
            (Some(local), server, "PROXY TCP4 10.0.0.1 127.0.0.1 4711 9001\r\n"),
            (Some(local), server, "PROXY TCP6 2001:db8::1 ::ffff:127.0.0.1 4711 9001\r\n"),
            (None, ServerAddress::Unknown(80), "PROXY TCP4 10.0.0.1 0.0.0.0 49153 80\r\n"),
            (None, ServerAddress::Unknown(80), "PROXY TCP6 2001:db8::1 :: 49153 80\r\n"),
            (None, ServerAddress::Unknown(80), "PROXY TCP4 10.0.0.1 0.0.0.0 49154 80\r\n"),
        ] {
            assert_eq!(next(local, server), header);
        }
        let headers = ProxyHeaders::new(V1, Vec::new());
        assert_eq!(
            headers.next(Some(local), server),
            b"PROXY TCP4 127.0.0.1 127.0.0.1 4711 9001\r\n"
        );
        assert_eq!(headers.next(None, ServerAddress::Unknown(80)), b"PROXY UNKNOWN\r\n");
    }
}
