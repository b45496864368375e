//! Headers of the PROXY protocol, versions 1 and 2, by which a proxy says for whom it connects
//! (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).
//!
//! Here are the decoder, which has no I/O, and the reading of a header from a stream. Whose header is
//! believed, and what follows from it, is left to the worker. The invariant: of a header no more than
//! [`HEADER_LEN_MAX`] bytes are held, and once some bytes are known to be a header, none, or a wrong
//! one, further bytes do not change that.

mod crc32c;
mod refusal;
#[cfg(test)]
mod tests;
mod tlv;
mod v1;
mod v2;

use std::{cell::Cell, time::Duration};

use bytes::{Buf, BytesMut};
use monoio::io::AsyncReadRent;

pub use self::refusal::ProxyHeaderRefusal;
use crate::{
    connection::{peer::Peer, record::Announced},
    http::REQUEST_HEAD_LEN_MAX,
};

/// The longest header, in bytes: that of version 2, with its fields. One of version 1 has 107 at most.
/// With every address a header has 232 bytes at most, and a proxy adds some hundred with names of TLS.
/// nginx has the same bound.
pub const HEADER_LEN_MAX: usize = 4096;

/// How long the header of a proxy may take that has to send one. The specification wants three seconds
/// at least, for a segment that is lost and sent again.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

const _: () = assert!(
    HEADER_LEN_MAX < REQUEST_HEAD_LEN_MAX,
    "a header and the beginning of a request fit into one buffer"
);

/// What the first bytes of a connection are, as far as they have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// They may become a header.
    Incomplete,
    /// They are no header, and cannot become one.
    Absent,
    /// They begin with a header of `len` bytes.
    Whole {
        /// What it says.
        header: ProxyHeader<'a>,
        /// Its length.
        len: usize,
    },
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader<'a> {
    /// For whom the proxy connects; `None` if for itself, as for a health check, or if it does not
    /// know.
    pub client: Option<Peer>,
    /// What else it says of the client, in its fields.
    fields: &'a [u8],
}

/// Why bytes that begin as a header are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// It needs what the text says.
    Malformed(&'static str),
    /// It is longer than it may be.
    TooLong,
    /// It is not as the proxy has sent it.
    ChecksumWrong,
}

/// Which bytes a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beginning {
    Version1,
    Version2,
    /// They may become either.
    Short,
    Other,
}

impl Beginning {
    fn of(received: &[u8]) -> Self {
        let begins = |signature: &[u8]| {
            let len = received.len().min(signature.len());
            (received[..len] == signature[..len]).then_some(len == signature.len())
        };
        match (begins(v1::SIGNATURE), begins(v2::SIGNATURE)) {
            (Some(true), _) => Self::Version1,
            (_, Some(true)) => Self::Version2,
            (None, None) => Self::Other,
            (Some(false), _) | (_, Some(false)) => Self::Short,
        }
    }
}

/// Decodes the header that some bytes begin with.
pub fn decode(received: &[u8]) -> Result<Decoded<'_>, HeaderFault> {
    match Beginning::of(received) {
        Beginning::Version1 => v1::decode(received),
        Beginning::Version2 => v2::decode(received),
        Beginning::Short => Ok(Decoded::Incomplete),
        Beginning::Other => Ok(Decoded::Absent),
    }
}

impl ProxyHeader<'_> {
    /// What it says of the client beside the address.
    pub fn announced(&self) -> Announced {
        tlv::announced(self.fields)
    }
}

/// Whose header is to be read, and what has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A header, of a proxy that is believed.
    Header,
    /// A header of such a proxy, or none.
    HeaderOrNone,
    /// None: the peer is not believed.
    NoHeader,
}

/// What a connection begins with, and the bytes that have arrived behind it.
#[derive(Debug)]
pub struct Opening {
    /// For whom the proxy connects, and what else it says of the client; `None` without a header, or
    /// if the proxy connects for itself.
    pub client: Option<(Peer, Announced)>,
    /// What has arrived behind the header, if there was one.
    pub behind: BytesMut,
}

/// Why no header was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpeningError {
    /// The peer ended the connection, or it broke.
    PeerLeft,
    /// The header is refused, or its absence.
    Refused(ProxyHeaderRefusal),
}

/// Reads the beginning of a connection, with as few reads as it arrives in. `has_begun` is set with
/// the first byte.
pub async fn read_opening(
    reader: &mut impl AsyncReadRent,
    expected: Expected,
    has_begun: &Cell<bool>,
) -> Result<Opening, OpeningError> {
    let mut received = BytesMut::with_capacity(REQUEST_HEAD_LEN_MAX);
    loop {
        let unfilled = received.split_off(received.len());
        let (result, filled) = reader.read(unfilled).await;
        if let Ok(0) | Err(_) = result {
            return Err(OpeningError::PeerLeft);
        }
        received.unsplit(filled);
        has_begun.set(true);
        if let Some(opening) = judge(&mut received, expected).map_err(OpeningError::Refused)? {
            return Ok(opening);
        }
    }
}

/// What a connection begins with, as soon as its bytes show it. Takes the header from them.
fn judge(
    received: &mut BytesMut,
    expected: Expected,
) -> Result<Option<Opening>, ProxyHeaderRefusal> {
    if expected == Expected::NoHeader
        && let Beginning::Version1 | Beginning::Version2 = Beginning::of(received)
    {
        return Err(ProxyHeaderRefusal::Untrusted);
    }
    let (client, len) = match decode(received)? {
        Decoded::Incomplete => return Ok(None),
        Decoded::Absent if expected == Expected::Header => return Err(ProxyHeaderRefusal::Missing),
        Decoded::Absent => (None, 0),
        Decoded::Whole { header, len } => {
            (header.client.map(|client| (client, header.announced())), len)
        }
    };
    received.advance(len);
    Ok(Some(Opening { client, behind: std::mem::take(received) }))
}
