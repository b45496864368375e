//! Version 1: a line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Decoded, HeaderFault, ProxyHeader};

/// What a header begins with, and nothing else does.
pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// The longest header, with its CR and LF (specification, section 2.1).
pub(super) const LEN_MAX: usize = 107;

/// Decodes a header that begins with its signature.
pub(super) fn decode(received: &[u8]) -> Result<Decoded<'_>, HeaderFault> {
    let searched = &received[..received.len().min(LEN_MAX)];
    let line_end = searched.iter().position(|byte| !matches!(byte, b' '..=b'~'));
    let Some(line_end) = line_end.filter(|at| at + 1 < LEN_MAX) else {
        let is_too_long = line_end.is_some() || searched.len() == LEN_MAX;
        return if is_too_long { Err(HeaderFault::TooLong) } else { Ok(Decoded::Incomplete) };
    };
    match &searched[line_end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] => return Ok(Decoded::Incomplete),
        _ => return Err(HeaderFault::Malformed("CR and LF at the end of its line")),
    }
    let line = str::from_utf8(&searched[SIGNATURE.len()..line_end]);
    let line = line.map_err(|_| HeaderFault::Malformed("text"))?;
    let client = client(line)?.map(Into::into);
    let header = ProxyHeader { client, fields: &[] };
    Ok(Decoded::Whole { header, len: line_end + 2 })
}

/// The client that a line names behind its signature.
fn client(line: &str) -> Result<Option<SocketAddr>, HeaderFault> {
    let (protocol, rest) = line.split_once(' ').unwrap_or((line, ""));
    let is_ipv4 = match protocol {
        // Whatever else the line says is to be ignored.
        "UNKNOWN" => return Ok(None),
        "TCP4" => true,
        "TCP6" => false,
        _ => return Err(HeaderFault::Malformed("TCP4, TCP6 or UNKNOWN behind PROXY")),
    };
    let parts: Vec<_> = rest.split(' ').collect();
    let [source, destination, source_port, destination_port] = parts[..] else {
        let expected = "two addresses and two ports, with one space before each";
        return Err(HeaderFault::Malformed(expected));
    };
    let address = |text: &str| -> Option<IpAddr> {
        if is_ipv4 {
            text.parse::<Ipv4Addr>().ok().map(Into::into)
        } else {
            text.parse::<Ipv6Addr>().ok().map(Into::into)
        }
    };
    let addresses = address(source).zip(address(destination));
    let (source, _) = addresses.ok_or(HeaderFault::Malformed("two addresses of its family"))?;
    let port_numbers = port(source_port).zip(port(destination_port));
    let (source_port, _) = port_numbers
        .ok_or(HeaderFault::Malformed("ports from 0 to 65535, without leading zeros"))?;
    Ok(Some(SocketAddr::new(source, source_port)))
}

fn port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|it| it.is_ascii_digit());
    let has_leading_zero = text.len() > 1 && text.starts_with('0');
    if is_number && !has_leading_zero { text.parse().ok() } else { None }
}
