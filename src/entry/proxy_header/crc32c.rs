//! CRC-32C, the checksum of headers of version 2 (RFC 9260, appendix A).

/// The polynomial of Castagnoli, its lowest power first.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The remainder of each byte.
const REMAINDERS: [u32; 256] = {
    let mut remainders = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = (remainder >> 1) ^ if remainder & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        remainders[byte] = remainder;
        byte += 1;
    }
    remainders
};

/// The checksum of bytes that lie in several parts.
pub(super) fn crc32c<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let bytes = parts.into_iter().flatten();
    !bytes.fold(u32::MAX, |remainder, byte| {
        let [low, ..] = remainder.to_le_bytes();
        remainder >> 8 ^ REMAINDERS[usize::from(low ^ byte)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 3720, appendix B.4, and the check value of every catalogue of CRCs.
    #[test]
    fn examples_have_their_checksums() {
        let ascending: Vec<u8> = (0..32).collect();
        for (bytes, expected) in [
            (&[0; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (b"123456789", 0xe306_9283),
            (b"", 0),
        ] {
            assert_eq!(crc32c([bytes]), expected);
            let (front, back) = bytes.split_at(bytes.len() / 3);
            assert_eq!(crc32c([front, back]), expected);
        }
    }
}
