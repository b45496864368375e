//! Fields behind the addresses of a header of version 2: each has a type, a length and a value
//! (specification, section 2.2). They are skipped, but for the checksum and what an operator may want to
//! see.

use super::{HeaderFault, crc32c::crc32c};
use crate::connection::record::{Announced, printable};

/// Types of fields.
const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const TLS: u8 = 0x20;
/// Of a field inside of that of TLS.
const TLS_VERSION: u8 = 0x21;

/// Bytes of a type and a length, and of what stands before the fields inside of that of TLS.
const PREFIX_LEN: usize = 3;
const TLS_PREFIX_LEN: usize = 5;

/// A row of fields. It ends with an error if one is longer than what is left.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u8, &'a [u8]), HeaderFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.0);
        if rest.is_empty() {
            return None;
        }
        let field =
            rest.split_first_chunk::<PREFIX_LEN>().and_then(|(&[kind, high, low], rest)| {
                let (value, rest) =
                    rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
                self.0 = rest;
                Some((kind, value))
            });
        Some(field.ok_or(HeaderFault::Malformed("fields that end where it ends")))
    }
}

/// Checks the form of the fields of a whole header, and its checksum if there is one.
pub(super) fn check(header: &[u8], fields: &[u8]) -> Result<(), HeaderFault> {
    let mut checksum = None;
    let mut fields = Fields(fields);
    while let Some(field) = fields.next() {
        let (CRC32C, value) = field? else { continue };
        let (Ok(value), None) = (value.try_into(), checksum) else {
            return Err(HeaderFault::Malformed("one checksum, of four bytes"));
        };
        checksum = Some((u32::from_be_bytes(value), header.len() - fields.0.len()));
    }
    let Some((expected, end)) = checksum else { return Ok(()) };
    // The checksum is that of the header with zeros in its place.
    let parts = [&header[..end - 4], &[0; 4], &header[end..]];
    if crc32c(parts) == expected { Ok(()) } else { Err(HeaderFault::ChecksumWrong) }
}

/// Reads the fields of a header that has been checked. The first of a type stands.
pub(super) fn announced(fields: &[u8]) -> Announced {
    let mut announced = Announced::default();
    for (kind, value) in Fields(fields).map_while(Result::ok) {
        let place = match kind {
            ALPN => &mut announced.alpn,
            AUTHORITY => &mut announced.authority,
            UNIQUE_ID => &mut announced.unique_id,
            TLS => &mut announced.tls,
            _ => continue,
        };
        let value = if kind == TLS { tls_version(value) } else { Some(value) };
        if place.is_none() {
            *place = value.map(printable);
        }
    }
    announced
}

/// The version among the fields inside of that of TLS.
fn tls_version(value: &[u8]) -> Option<&[u8]> {
    let fields = Fields(value.get(TLS_PREFIX_LEN..)?).map_while(Result::ok);
    fields.into_iter().find(|(kind, _)| *kind == TLS_VERSION).map(|(_, version)| version)
}
