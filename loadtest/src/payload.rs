//! The payloads that are sent, and against which echoes are compared.
//!
//! No two messages of a connection are alike, so an echo that is lost, repeated, reordered or
//! handed to the wrong connection is noticed. A payload is
//!
//! ```text
//! | sequence number | body: a slice of the pattern, from an offset that rotates with the number |
//! ```
//!
//! The sequence number begins at a random value for each connection. In a binary message it takes
//! 8 bytes, least significant first, and in a text 16 hexadecimal digits, least significant first,
//! so a payload that is shorter than it still begins with the part that changes. The pattern is
//! random bytes (text: random characters of 1 to 4 bytes), generated once for each thread, and
//! repeated for as long as a payload is. Nothing here grows with the length of a payload.

use rand::{Rng, RngExt, rngs::SmallRng};
use ringecho::protocol::OpCode;

/// What the messages of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// Random bytes in binary messages.
    Binary,
    /// Random UTF-8, multi-byte characters included, in text messages.
    Text,
}

impl PayloadKind {
    /// The opcode of the first frame of such a message.
    pub fn opcode(self) -> OpCode {
        match self {
            Self::Binary => OpCode::Binary,
            Self::Text => OpCode::Text,
        }
    }
}

/// Bytes after which the pattern repeats: a multiple of a text's [`CELL_LEN`], but of no greater
/// power of two, so that a payload shifted by a whole number of pages or buffers is noticed.
const PATTERN_PERIOD: usize = 4 * 16_381;

/// Bytes of the pattern that are stored twice, so that a slice of up to this length is contiguous.
const PATTERN_OVERLAP: usize = 64 * 1024;

/// A text's pattern consists of cells of 4 bytes, each of whole characters.
const CELL_LEN: usize = 4;

/// Number of different offsets at which bodies begin: few enough that the pattern of small
/// messages stays in the first-level cache, and a prime, so that it shares no period with a depth.
const OFFSETS: u64 = 61;

const BINARY_SEQUENCE_LEN: usize = 8;
const TEXT_SEQUENCE_LEN: usize = 16;

/// The longest prefix: a text's digits, and up to 3 more that align its body to cells.
const PREFIX_LEN_MAX: usize = TEXT_SEQUENCE_LEN + CELL_LEN - 1;

/// The payloads of one thread.
#[derive(Debug)]
pub(crate) struct Payloads {
    kind: PayloadKind,
    len: usize,
    prefix_len: usize,
    pattern: Box<[u8]>,
}

/// What is special about one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    prefix: [u8; PREFIX_LEN_MAX],
    offset: usize,
}

impl Payloads {
    /// Payloads of `len` bytes, with a random pattern.
    pub(crate) fn new(kind: PayloadKind, len: usize, rng: &mut SmallRng) -> Self {
        let mut pattern = vec![0; PATTERN_PERIOD];
        match kind {
            PayloadKind::Binary => rng.fill_bytes(&mut pattern),
            PayloadKind::Text => fill_with_text(&mut pattern, rng),
        }
        pattern.extend_from_within(..PATTERN_OVERLAP.min(PATTERN_PERIOD));
        let prefix_len = match kind {
            PayloadKind::Binary => len.min(BINARY_SEQUENCE_LEN),
            PayloadKind::Text if len < TEXT_SEQUENCE_LEN => len,
            PayloadKind::Text => TEXT_SEQUENCE_LEN + len % CELL_LEN,
        };
        Self { kind, len, prefix_len, pattern: pattern.into_boxed_slice() }
    }

    /// Bytes of each payload.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether these are texts or binary.
    pub(crate) fn kind(&self) -> PayloadKind {
        self.kind
    }

    /// The message with this sequence number.
    #[inline]
    pub(crate) fn message(&self, sequence: u64) -> Message {
        let mut prefix = [b'-'; PREFIX_LEN_MAX];
        match self.kind {
            PayloadKind::Binary => {
                prefix[..BINARY_SEQUENCE_LEN].copy_from_slice(&sequence.to_le_bytes());
            }
            PayloadKind::Text => {
                for (i, digit) in prefix[..TEXT_SEQUENCE_LEN].iter_mut().enumerate() {
                    *digit = b"0123456789abcdef"[(sequence >> (4 * i)) as usize & 0xf];
                }
            }
        }
        Message { prefix, offset: (sequence % OFFSETS) as usize * CELL_LEN }
    }

    /// Appends bytes `from..from + len` of the message's payload to `out`.
    #[inline]
    pub(crate) fn append(&self, message: &Message, from: usize, len: usize, out: &mut Vec<u8>) {
        let mut at = from;
        while at < from + len {
            let piece = self.piece(message, at, from + len - at);
            out.extend_from_slice(piece);
            at += piece.len();
        }
    }

    /// Whether `received` equals the message's payload from byte `from` on.
    #[inline]
    pub(crate) fn matches(&self, message: &Message, from: usize, received: &[u8]) -> bool {
        let mut rest = received;
        while !rest.is_empty() {
            let piece = self.piece(message, from + received.len() - rest.len(), rest.len());
            let (here, behind) = rest.split_at(piece.len());
            if here != piece {
                return false;
            }
            rest = behind;
        }
        true
    }

    /// Where `received` first differs from the message's payload from byte `from` on: the offset
    /// in the payload, and the byte that should be there.
    #[cold]
    pub(crate) fn first_difference(
        &self,
        message: &Message,
        from: usize,
        received: &[u8],
    ) -> Option<(usize, u8)> {
        let mut expected = Vec::with_capacity(received.len());
        self.append(message, from, received.len(), &mut expected);
        let at = expected.iter().zip(received).position(|(expected, byte)| expected != byte)?;
        Some((from + at, expected[at]))
    }

    /// The longest contiguous run, up to `len` bytes, of the payload from byte `at` on.
    #[inline]
    fn piece<'a>(&'a self, message: &'a Message, at: usize, len: usize) -> &'a [u8] {
        if at < self.prefix_len {
            return &message.prefix[at..self.prefix_len.min(at + len)];
        }
        let start = (message.offset + at - self.prefix_len) % PATTERN_PERIOD;
        &self.pattern[start..self.pattern.len().min(start + len)]
    }
}

/// Fills `pattern` with cells of random characters, equally many of each length.
fn fill_with_text(pattern: &mut [u8], rng: &mut SmallRng) {
    for cell in pattern.as_chunks_mut::<CELL_LEN>().0 {
        let mut characters = [' '; CELL_LEN];
        let characters = match rng.random_range(1..=4) {
            1 => {
                characters.fill_with(|| rng.random_range(' '..='~'));
                &characters[..]
            }
            2 => {
                characters[..2].fill_with(|| rng.random_range('\u{a1}'..='\u{7ff}'));
                &characters[..2]
            }
            3 => {
                characters[0] = rng.random_range('\u{800}'..='\u{d7ff}');
                &characters[..2]
            }
            _ => {
                characters[0] = rng.random_range('\u{10000}'..='\u{10ffff}');
                &characters[..1]
            }
        };
        let mut at = 0;
        for character in characters {
            at += character.encode_utf8(&mut cell[at..]).len();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    fn payload(payloads: &Payloads, sequence: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        payloads.append(&payloads.message(sequence), 0, payloads.len(), &mut bytes);
        bytes
    }

    fn payloads(kind: PayloadKind, len: usize) -> Payloads {
        Payloads::new(kind, len, &mut SmallRng::seed_from_u64(1))
    }

    #[test]
    fn text_is_utf8_at_every_length_and_offset() {
        for len in (0..200).chain([65_535, 65_536, 65_537, 300_000]) {
            let payloads = payloads(PayloadKind::Text, len);
            for sequence in 0..OFFSETS {
                let text = String::from_utf8(payload(&payloads, sequence));
                assert_eq!(text.map(|text| text.len()), Ok(len), "sequence {sequence}");
            }
        }
    }

    #[test]
    fn text_has_characters_of_every_length() {
        let text = String::from_utf8(payload(&payloads(PayloadKind::Text, 1000), 0)).unwrap();
        for len in 1..=4 {
            assert!(text.chars().any(|character| character.len_utf8() == len), "{len}");
        }
    }

    #[test]
    fn neighbours_differ_even_when_a_payload_is_a_single_byte() {
        for kind in [PayloadKind::Binary, PayloadKind::Text] {
            for len in [1, 2, 7, 8, 9, 16, 64] {
                let payloads = payloads(kind, len);
                for sequence in [0, 15, 255, u64::MAX - 1] {
                    let (this, next) =
                        (payload(&payloads, sequence), payload(&payloads, sequence + 1));
                    assert_ne!(this, next, "{kind:?} of {len} bytes, sequence {sequence}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_make_up_the_payload(
            text: bool,
            len in 0_usize..300_000,
            sequence: u64,
            cuts: [prop::sample::Index; 2],
        ) {
            let kind = if text { PayloadKind::Text } else { PayloadKind::Binary };
            let payloads = payloads(kind, len);
            let message = payloads.message(sequence);
            let whole = payload(&payloads, sequence);
            let mut cuts = cuts.map(|cut| cut.index(len + 1));
            cuts.sort_unstable();
            let part = &whole[cuts[0]..cuts[1]];

            let mut appended = Vec::new();
            payloads.append(&message, cuts[0], part.len(), &mut appended);
            prop_assert_eq!(&appended[..], part);
            prop_assert!(payloads.matches(&message, cuts[0], part));
            prop_assert_eq!(payloads.first_difference(&message, cuts[0], part), None);
        }

        #[test]
        fn a_changed_byte_is_found(
            len in 1_usize..200_000,
            sequence: u64,
            at: prop::sample::Index,
            flip in 1_u8..,
        ) {
            let payloads = payloads(PayloadKind::Binary, len);
            let message = payloads.message(sequence);
            let mut received = payload(&payloads, sequence);
            let at = at.index(len);
            let expected = received[at];
            received[at] ^= flip;

            prop_assert!(!payloads.matches(&message, 0, &received));
            prop_assert_eq!(
                payloads.first_difference(&message, 0, &received),
                Some((at, expected))
            );
        }
    }
}
