//! Version 2: bytes.
//!
//! ```text
//! signature (12) | version, command (1) | family, transport (1) | length (2) | addresses | fields
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Decoded, HEADER_LEN_MAX, HeaderFault, ProxyHeader, tlv};
use crate::connection::peer::Peer;

/// What a header begins with, and nothing else does.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes before the addresses.
const FIXED_LEN: usize = 16;

/// Bytes of an address and a port, twice, and of two paths of Unix sockets.
const IPV4_LEN: usize = 12;
const IPV6_LEN: usize = 36;
const UNIX_LEN: usize = 216;

/// The command: the proxy connects for itself, or for a client.
const LOCAL: u8 = 0;
const PROXY: u8 = 1;

/// Decodes a header that begins with its signature. A fault is found at the first byte that shows it,
/// and a length that is too long before anything else has arrived.
pub(super) fn decode(received: &[u8]) -> Result<Decoded<'_>, HeaderFault> {
    let fixed = &received[SIGNATURE.len()..received.len().min(FIXED_LEN)];
    if let Some(version) = fixed.first()
        && !matches!(version, 0x20 | 0x21)
    {
        return Err(HeaderFault::Malformed("the version 2 with the command LOCAL or PROXY"));
    }
    let is_local = fixed.first().is_some_and(|version| version & 0x0f == LOCAL);
    if let Some(family) = fixed.get(1)
        && !is_local
        && (family >> 4 > 3 || family & 0x0f > 2)
    {
        return Err(HeaderFault::Malformed("a family and a transport that are known"));
    }
    let &[version, family, high, low] = fixed else { return Ok(Decoded::Incomplete) };
    let len = FIXED_LEN + usize::from(u16::from_be_bytes([high, low]));
    let addresses_len = match (version & 0x0f, family >> 4) {
        // What a proxy says of a connection of its own is to be ignored, the family too.
        (PROXY, 1) => IPV4_LEN,
        (PROXY, 2) => IPV6_LEN,
        (PROXY, 3) => UNIX_LEN,
        _ => 0,
    };
    if len > HEADER_LEN_MAX {
        return Err(HeaderFault::TooLong);
    }
    if len < FIXED_LEN + addresses_len {
        return Err(HeaderFault::Malformed("a length with room for its addresses"));
    }
    let Some(whole) = received.get(..len) else { return Ok(Decoded::Incomplete) };
    let (addresses, fields) = whole[FIXED_LEN..].split_at(addresses_len);
    let client = match addresses_len {
        IPV4_LEN => Some(ipv4(addresses)),
        IPV6_LEN => Some(ipv6(addresses)),
        UNIX_LEN => Some(Peer::Local),
        _ => None,
    };
    // Without addresses nothing says where fields would begin, and there is nobody to say them of.
    let fields = if client.is_some() { fields } else { &[] };
    tlv::check(whole, fields)?;
    Ok(Decoded::Whole { header: ProxyHeader { client, fields }, len })
}

/// The source among two IPv4 addresses and two ports.
fn ipv4(addresses: &[u8]) -> Peer {
    let mut source = [0; 4];
    source.copy_from_slice(&addresses[..4]);
    SocketAddr::from((Ipv4Addr::from(source), port(&addresses[8..]))).into()
}

/// The source among two IPv6 addresses and two ports.
fn ipv6(addresses: &[u8]) -> Peer {
    let mut source = [0; 16];
    source.copy_from_slice(&addresses[..16]);
    SocketAddr::from((Ipv6Addr::from(source), port(&addresses[32..]))).into()
}

fn port(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}
