//! The messages of a takeover, as bytes and back. Pure: no I/O.
//!
//! Each message is one packet. Numbers are big-endian:
//!
//! ```text
//! "RETO" | version, 2 bytes | kind, 1 byte | the kind's fields
//! ```
//!
//! The invariant: a packet that is decoded is encoded to the same bytes again.

use std::{
    ffi::OsStr,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::unix::ffi::OsStrExt,
};

use thiserror::Error;

use crate::config::{Listen, ListenAddress};

/// The version of the messages that this program speaks.
pub const VERSION: u16 = 2;

/// No packet is longer.
pub const PACKET_LEN_MAX: usize = 8 << 10;

/// At most this many sockets come with one packet. The kernel passes up to 253 descriptors at once.
pub const SOCKETS_PER_PACKET_MAX: usize = 64;

/// At most this many sockets are handed over: as many as a server may have workers.
pub const SOCKETS_MAX: u16 = 4096;

/// A reason is cut off behind this many bytes.
pub const REASON_LEN_MAX: usize = 512;

/// What two servers say to each other. The new one begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The new server asks for the listening sockets.
    Ask,
    /// The running server hands over some of them.
    Sockets(Sockets),
    /// The new server accepts connections on all of them.
    Accepting,
    /// The running server accepts no more.
    Yours,
    /// The takeover is off, for this reason, and whoever runs goes on.
    Off(String),
}

/// Sockets whose descriptors come with the message, in the same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// How many sockets are handed over in all, from 1 to [`SOCKETS_MAX`].
    pub total: u16,
    /// How many have come before these.
    pub before: u16,
    /// The service manager opened the sockets.
    pub are_supervised: bool,
    /// Where they listen: 1 to [`SOCKETS_PER_PACKET_MAX`].
    pub listens: Vec<Listen>,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// They do not begin as a message does.
    #[error("this is no message of a takeover")]
    Foreign,
    /// The other server speaks another version.
    #[error("the other server speaks version {0} of takeovers, and this one version {VERSION}")]
    Version(u16),
    /// The version has no such kind of message.
    #[error("there is no message of kind {0}")]
    Kind(u8),
    /// The message ends before its fields do, or goes on behind them.
    #[error("a message of kind {0} is too short or too long")]
    Length(u8),
    /// A field has no value that it may have.
    #[error("a message of kind {kind} has a wrong {field}")]
    Field {
        /// The kind of the message.
        kind: u8,
        /// The field.
        field: &'static str,
    },
}

const MAGIC: &[u8; 4] = b"RETO";

const ASK: u8 = 1;
const SOCKETS: u8 = 2;
const ACCEPTING: u8 = 3;
const YOURS: u8 = 4;
const OFF: u8 = 5;

// The bytes before an address, which say of which family it is. Behind that of a Unix socket stand the
// length of its path, one byte, and the path.
const UNIX: u8 = 1;
const IPV4: u8 = 4;
const IPV6: u8 = 6;

/// Added to such a byte where TLS is spoken.
const TLS: u8 = 0x80;

impl Message {
    /// The message's packet.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Self::Ask => ASK,
            Self::Sockets(_) => SOCKETS,
            Self::Accepting => ACCEPTING,
            Self::Yours => YOURS,
            Self::Off(_) => OFF,
        };
        let mut packet = [MAGIC, &VERSION.to_be_bytes()[..], &[kind]].concat();
        match self {
            Self::Ask | Self::Accepting | Self::Yours => {}
            Self::Sockets(sockets) => sockets.encode(&mut packet),
            Self::Off(reason) => {
                packet.extend_from_slice(
                    &reason.as_bytes()[..reason.floor_char_boundary(REASON_LEN_MAX)],
                );
            }
        }
        packet
    }

    /// Reads a packet.
    pub fn decode(packet: &[u8]) -> Result<Self, MessageError> {
        let rest = packet.strip_prefix(MAGIC).ok_or(MessageError::Foreign)?;
        let (version, rest) = rest.split_first_chunk().ok_or(MessageError::Foreign)?;
        let version = u16::from_be_bytes(*version);
        if version != VERSION {
            return Err(MessageError::Version(version));
        }
        let (&kind, fields) = rest.split_first().ok_or(MessageError::Foreign)?;
        let message = match kind {
            ASK => Self::Ask,
            ACCEPTING => Self::Accepting,
            YOURS => Self::Yours,
            SOCKETS => return Sockets::decode(fields).map(Self::Sockets),
            OFF => {
                if fields.len() > REASON_LEN_MAX {
                    return Err(MessageError::Length(kind));
                }
                let reason = str::from_utf8(fields);
                let reason = reason.map_err(|_| MessageError::Field { kind, field: "reason" })?;
                return Ok(Self::Off(reason.to_owned()));
            }
            _ => return Err(MessageError::Kind(kind)),
        };
        if fields.is_empty() { Ok(message) } else { Err(MessageError::Length(kind)) }
    }
}

impl Sockets {
    fn encode(&self, packet: &mut Vec<u8>) {
        packet.extend(self.total.to_be_bytes());
        packet.extend(self.before.to_be_bytes());
        packet.push(self.are_supervised.into());
        for Listen { address, speaks_tls } in &self.listens {
            let tls = if *speaks_tls { TLS } else { 0 };
            match address {
                ListenAddress::Unix(path) => {
                    let path = path.as_os_str().as_bytes();
                    packet.push(UNIX | tls);
                    packet.push(path.len() as u8);
                    packet.extend(path);
                }
                ListenAddress::Tcp(SocketAddr::V4(address)) => {
                    packet.push(IPV4 | tls);
                    packet.extend(address.ip().octets());
                    packet.extend(address.port().to_be_bytes());
                }
                ListenAddress::Tcp(SocketAddr::V6(address)) => {
                    packet.push(IPV6 | tls);
                    packet.extend(address.ip().octets());
                    packet.extend(address.port().to_be_bytes());
                    packet.extend(address.scope_id().to_be_bytes());
                }
            }
        }
    }

    fn decode(fields: &[u8]) -> Result<Self, MessageError> {
        let wrong = |field| MessageError::Field { kind: SOCKETS, field };
        let mut fields = Fields(fields);
        let total = u16::from_be_bytes(fields.take()?);
        let before = u16::from_be_bytes(fields.take()?);
        let are_supervised = match fields.take()? {
            [0] => false,
            [1] => true,
            _ => return Err(wrong("supervision")),
        };
        let mut listens = Vec::new();
        while !fields.0.is_empty() {
            if listens.len() == SOCKETS_PER_PACKET_MAX {
                return Err(MessageError::Length(SOCKETS));
            }
            listens.push(fields.take_listen()?);
        }
        let count = before as usize + listens.len();
        if total > SOCKETS_MAX || listens.is_empty() || count > total.into() {
            return Err(wrong("number of sockets"));
        }
        Ok(Self { total, before, are_supervised, listens })
    }
}

/// Fields of a message of sockets that are still to be read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const LEN: usize>(&mut self) -> Result<[u8; LEN], MessageError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(MessageError::Length(SOCKETS))?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn take_slice(&mut self, len: usize) -> Result<&[u8], MessageError> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(MessageError::Length(SOCKETS))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn take_listen(&mut self) -> Result<Listen, MessageError> {
        let [family] = self.take()?;
        let address = match family & !TLS {
            UNIX => {
                let [len] = self.take()?;
                let path = OsStr::from_bytes(self.take_slice(len.into())?);
                ListenAddress::Unix(path.into())
            }
            family => ListenAddress::Tcp(self.take_address(family)?),
        };
        Ok(Listen { address, speaks_tls: family & TLS != 0 })
    }

    fn take_address(&mut self, family: u8) -> Result<SocketAddr, MessageError> {
        match family {
            IPV4 => {
                let ip = IpAddr::from(Ipv4Addr::from(self.take::<4>()?));
                Ok(SocketAddr::new(ip, u16::from_be_bytes(self.take()?)))
            }
            IPV6 => {
                let ip = Ipv6Addr::from(self.take::<16>()?);
                let port = u16::from_be_bytes(self.take()?);
                let scope = u32::from_be_bytes(self.take()?);
                Ok(SocketAddrV6::new(ip, port, 0, scope).into())
            }
            _ => Err(MessageError::Field { kind: SOCKETS, field: "address" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        let longest = format!("tls+unix:{}", "p".repeat(107));
        let texts = ["127.0.0.1:9001", "[::1]:80", "tls+[fe80::1%7]:65535", "tls+0.0.0.0:0"];
        let texts = texts.iter().copied().chain(["unix:/run/a", &longest]);
        let listens: Vec<Listen> = texts.map(|text| text.parse().unwrap()).collect();
        let full = vec![listens[5].clone(); SOCKETS_PER_PACKET_MAX];
        let sockets = |total, before, are_supervised, listens| {
            Message::Sockets(Sockets { total, before, are_supervised, listens })
        };
        vec![
            Message::Ask,
            sockets(6, 0, false, listens.clone()),
            sockets(SOCKETS_MAX, SOCKETS_MAX - 64, true, full),
            Message::Accepting,
            Message::Yours,
            Message::Off("the server is stopping".to_owned()),
            Message::Off(String::new()),
        ]
    }

    #[test]
    fn every_message_is_one_packet_and_comes_back() {
        for message in messages() {
            let packet = message.encode();
            assert!(packet.len() <= PACKET_LEN_MAX, "{}", packet.len());
            assert_eq!(Message::decode(&packet), Ok(message));
        }
    }

    #[test]
    fn message_that_is_cut_or_longer_is_another_or_none() {
        for message in messages() {
            let packet = message.encode();
            for len in 0..packet.len() {
                assert_ne!(Message::decode(&packet[..len]), Ok(message.clone()));
            }
            let longer = [&packet[..], &[0]].concat();
            assert_ne!(Message::decode(&longer), Ok(message));
        }
    }

    #[test]
    fn what_is_wrong_with_a_packet_is_said() {
        let packet = |version: u16, rest: &[u8]| [MAGIC, &version.to_be_bytes()[..], rest].concat();
        let wrong = |field| MessageError::Field { kind: SOCKETS, field };
        for (bytes, error) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), MessageError::Foreign),
            (MAGIC.to_vec(), MessageError::Foreign),
            (packet(VERSION, &[]), MessageError::Foreign),
            (packet(1, &[ASK]), MessageError::Version(1)),
            (packet(VERSION, &[9]), MessageError::Kind(9)),
            (packet(VERSION, &[ASK, 0]), MessageError::Length(ASK)),
            (packet(VERSION, &[SOCKETS, 0, 1, 0]), MessageError::Length(SOCKETS)),
            (packet(VERSION, &[SOCKETS, 0, 1, 0, 0, 2]), wrong("supervision")),
            (packet(VERSION, &[SOCKETS, 0, 1, 0, 0, 0]), wrong("number of sockets")),
            (packet(VERSION, &[SOCKETS, 0, 1, 0, 0, 0, 5]), wrong("address")),
            (
                packet(VERSION, &[SOCKETS, 0, 1, 0, 1, 0, 4, 1, 2, 3, 4, 0, 80]),
                wrong("number of sockets"),
            ),
            (
                packet(VERSION, &[SOCKETS, 255, 255, 0, 0, 0, 4, 1, 2, 3, 4, 0, 80]),
                wrong("number of sockets"),
            ),
            (packet(VERSION, &[OFF, 0xFF]), MessageError::Field { kind: OFF, field: "reason" }),
            (
                packet(VERSION, &[&[OFF][..], &[b'a'; REASON_LEN_MAX + 1]].concat()),
                MessageError::Length(OFF),
            ),
        ] {
            assert_eq!(Message::decode(&bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn long_reason_is_cut_between_two_characters() {
        let reason = "é".repeat(REASON_LEN_MAX);
        let packet = Message::Off(reason).encode();
        assert_eq!(Message::decode(&packet), Ok(Message::Off("é".repeat(REASON_LEN_MAX / 2))));
    }
}
