//! UTF-8 validation of a text that arrives in pieces (RFC 6455 §8.1, RFC 3629).
//!
//! Whole runs go through simdutf8; only a character that a cut has split is followed byte by
//! byte. A fault is found at the first byte that no valid text could have there.

/// The validation of a text so far, as what the text needs from its next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utf8Validator {
    /// Continuation bytes that the unfinished character still needs: 0 to 3.
    needed: u8,
    /// Lowest value of the next continuation byte.
    lower: u8,
    /// Highest value of the next continuation byte.
    upper: u8,
}

/// The text is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUtf8;

/// Up to this length, in bytes, a piece is first checked for plain ASCII, which most short texts
/// are: that takes less time than simdutf8's preparations.
const SHORT_LEN_MAX: usize = 256;

const CONTINUATION_MIN: u8 = 0x80;
const CONTINUATION_MAX: u8 = 0xbf;

impl Utf8Validator {
    /// The state before the first byte of a text.
    pub const START: Self = Self { needed: 0, lower: CONTINUATION_MIN, upper: CONTINUATION_MAX };

    /// Validates the next piece of the text.
    #[inline]
    pub fn push(&mut self, piece: &[u8]) -> Result<(), NotUtf8> {
        let run = if self.is_complete() { piece } else { self.push_split_character(piece)? };
        if run.len() <= SHORT_LEN_MAX && is_ascii(run) {
            return Ok(());
        }
        let Err(error) = simdutf8::compat::from_utf8(run) else {
            return Ok(());
        };
        if error.error_len().is_some() {
            return Err(NotUtf8);
        }
        for &byte in &run[error.valid_up_to()..] {
            self.push_byte(byte)?;
        }
        Ok(())
    }

    /// Whether the text so far ends with a whole character.
    #[inline]
    pub fn is_complete(&self) -> bool {
        self.needed == 0
    }

    /// Takes bytes until the split character is whole, and returns the bytes behind it.
    #[cold]
    fn push_split_character<'a>(&mut self, piece: &'a [u8]) -> Result<&'a [u8], NotUtf8> {
        for (at, &byte) in piece.iter().enumerate() {
            if self.is_complete() {
                return Ok(&piece[at..]);
            }
            self.push_byte(byte)?;
        }
        Ok(&[])
    }

    /// Takes one byte by the table of well-formed sequences (RFC 3629 §4).
    fn push_byte(&mut self, byte: u8) -> Result<(), NotUtf8> {
        if self.needed > 0 {
            if !(self.lower..=self.upper).contains(&byte) {
                return Err(NotUtf8);
            }
            *self = Self { needed: self.needed - 1, ..Self::START };
            return Ok(());
        }
        let (needed, lower, upper) = match byte {
            0x00..=0x7f => (0, CONTINUATION_MIN, CONTINUATION_MAX),
            0xc2..=0xdf => (1, CONTINUATION_MIN, CONTINUATION_MAX),
            0xe0 => (2, 0xa0, CONTINUATION_MAX),
            0xed => (2, CONTINUATION_MIN, 0x9f),
            0xe1..=0xef => (2, CONTINUATION_MIN, CONTINUATION_MAX),
            0xf0 => (3, 0x90, CONTINUATION_MAX),
            0xf1..=0xf3 => (3, CONTINUATION_MIN, CONTINUATION_MAX),
            0xf4 => (3, CONTINUATION_MIN, 0x8f),
            _ => return Err(NotUtf8),
        };
        *self = Self { needed, lower, upper };
        Ok(())
    }
}

/// Whether a text is UTF-8 that is there whole.
#[inline]
pub fn is_utf8(text: &[u8]) -> bool {
    text.len() <= SHORT_LEN_MAX && is_ascii(text) || simdutf8::basic::from_utf8(text).is_ok()
}

/// Whether all bytes are ASCII. The first block is checked alone, since most other texts show in
/// it; then all blocks together, without a branch for each. If the length is no multiple of the
/// block's, the last block overlaps the one before, where std's `is_ascii` goes byte by byte.
#[inline]
fn is_ascii(bytes: &[u8]) -> bool {
    const NOT_ASCII: u128 = u128::from_ne_bytes([0x80; 16]);
    let (Some(first), Some(last)) = (bytes.first_chunk::<16>(), bytes.last_chunk::<16>()) else {
        return bytes.is_ascii();
    };
    if u128::from_ne_bytes(*first) & NOT_ASCII != 0 {
        return false;
    }
    let (blocks, _) = bytes.as_chunks::<16>();
    let union = blocks
        .iter()
        .fold(u128::from_ne_bytes(*last), |union, block| union | u128::from_ne_bytes(*block));
    union & NOT_ASCII == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The length of the longest prefix that some valid text begins with.
    fn viable_prefix_len(bytes: &[u8]) -> usize {
        match std::str::from_utf8(bytes) {
            Ok(_) => bytes.len(),
            Err(error) => match error.error_len() {
                None => bytes.len(),
                Some(len) => {
                    // std reports how many bytes to skip: all but the offending one are viable,
                    // and a lone bad lead byte is itself the offender.
                    let lead_is_bad = matches!(
                        bytes[error.valid_up_to()],
                        0x80..=0xc1 | 0xf5..=0xff
                    );
                    error.valid_up_to() + if lead_is_bad { 0 } else { len }
                }
            },
        }
    }

    /// The number of bytes accepted when they come one by one.
    fn accepted_byte_by_byte(bytes: &[u8]) -> usize {
        let mut validator = Utf8Validator::START;
        bytes.iter().take_while(|byte| validator.push(&[**byte]).is_ok()).count()
    }

    #[test]
    fn all_sequences_of_two_bytes_and_continuations_fail_at_the_offending_byte() {
        for first in 0..=255 {
            for second in 0..=255 {
                for tail in [&[][..], &[0x80], &[0xbf, 0xbf], &[0x80, 0x41]] {
                    let bytes = [&[first, second], tail].concat();
                    assert_eq!(
                        accepted_byte_by_byte(&bytes),
                        viable_prefix_len(&bytes),
                        "bytes {bytes:02x?}"
                    );
                }
            }
        }
    }

    #[test]
    fn one_byte_that_is_not_ascii_is_found_wherever_it_stands() {
        for len in (1..50).chain(SHORT_LEN_MAX - 1..SHORT_LEN_MAX + 2) {
            let mut validator = Utf8Validator::START;
            let mut text = vec![b'a'; len];
            assert_eq!(validator.push(&text), Ok(()));
            for at in 0..len {
                text[at] = 0x80;
                assert_eq!(validator.push(&text), Err(NotUtf8), "{at} of {len}");
                text[at] = b'a';
            }
        }
    }

    /// Mostly valid text with, now and then, a byte that does not belong there.
    fn almost_text() -> impl Strategy<Value = Vec<u8>> {
        (any::<String>(), proptest::option::of((any::<prop::sample::Index>(), any::<u8>())))
            .prop_map(|(text, fault)| {
                let mut bytes = text.into_bytes();
                if let Some((at, byte)) = fault {
                    bytes.insert(at.index(bytes.len() + 1), byte);
                }
                bytes
            })
    }

    proptest! {
        #[test]
        fn verdict_is_the_same_wherever_the_text_is_cut(
            bytes in almost_text(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();

            let mut validator = Utf8Validator::START;
            for piece in cuts.windows(2) {
                let verdict = validator.push(&bytes[piece[0]..piece[1]]);
                let expected = viable_prefix_len(&bytes[..piece[1]]) == piece[1];
                prop_assert_eq!(verdict.is_ok(), expected);
                if verdict.is_err() {
                    return Ok(());
                }
            }
            prop_assert_eq!(validator.is_complete(), std::str::from_utf8(&bytes).is_ok());
        }
    }
}
