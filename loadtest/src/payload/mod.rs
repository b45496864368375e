//! The payloads that are sent, and against which echoes are compared.
//!
//! Payloads are generated, or the contents of files in turn. Either way a payload follows from its
//! message's sequence number, so nothing is kept of a message in flight.
//!
//! No two generated payloads of a connection are alike, so an echo that is lost, repeated, late or
//! handed to the wrong connection is noticed and identified. Such a payload is
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

pub(crate) mod deflate;
pub mod files;
mod pattern;
mod plan;

use std::sync::Arc;

use rand::{rngs::SmallRng, seq::SliceRandom};

pub use self::plan::{EchoKind, PayloadKind, PayloadPlan, PayloadSource, Verify};
use self::{
    pattern::{CELL_LEN, PATTERN_PERIOD, pattern},
    plan::lengths,
};

/// Number of different offsets at which bodies begin: few enough that the pattern of small
/// messages stays in the first-level cache, and a prime, so that it shares no period with a depth.
const OFFSETS: u64 = 61;

const BINARY_SEQUENCE_LEN: usize = 8;
const TEXT_SEQUENCE_LEN: usize = 16;

/// The longest prefix: a text's digits, and up to 3 more that align its body to cells.
const PREFIX_LEN_MAX: usize = TEXT_SEQUENCE_LEN + CELL_LEN - 1;

/// This many bytes at the beginning of a payload tell which message it is.
pub(crate) const IDENTITY_LEN: usize = 64;

/// How many messages further back one is looked for.
const BEHIND_MAX: i64 = 65_536;

/// The payloads of one thread.
#[derive(Debug)]
pub(crate) struct Payloads {
    kind: PayloadKind,
    verify: Verify,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    Generated {
        pattern: Box<[u8]>,
        /// The lengths of payloads, which take turns.
        lengths: Box<[usize]>,
    },
    Files(Arc<[Box<[u8]>]>),
}

/// What is special about one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    len: usize,
    prefix: [u8; PREFIX_LEN_MAX],
    prefix_len: usize,
    /// Where the body begins in the pattern, or which file it is.
    origin: usize,
}

impl Message {
    /// Bytes of its payload.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Payloads {
    /// The payloads of `plan`; if they are generated, with a random pattern.
    pub(crate) fn new(plan: &PayloadPlan, rng: &mut SmallRng) -> Self {
        let contents = match &plan.source {
            PayloadSource::Generated(range) => {
                let mut lengths = lengths(range);
                lengths.shuffle(rng);
                Contents::Generated { pattern: pattern(plan.kind, rng), lengths: lengths.into() }
            }
            PayloadSource::Files(files) => Contents::Files(Arc::clone(files)),
        };
        Self { kind: plan.kind, verify: plan.verify, contents }
    }

    /// Whether these are texts or binary.
    #[inline]
    pub(crate) fn kind(&self) -> PayloadKind {
        self.kind
    }

    /// Whether an echo has to be as long as its message.
    #[inline]
    pub(crate) fn verifies_length(&self) -> bool {
        self.verify != Verify::None
    }

    /// The message with this sequence number.
    #[inline]
    pub(crate) fn message(&self, sequence: u64) -> Message {
        match &self.contents {
            Contents::Generated { lengths, .. } => {
                let len = match **lengths {
                    [len] => len,
                    _ => lengths[(sequence % lengths.len() as u64) as usize],
                };
                self.generated(sequence, len)
            }
            Contents::Files(files) => {
                let origin = (sequence % files.len() as u64) as usize;
                let len = files[origin].len();
                Message { len, prefix: [0; PREFIX_LEN_MAX], prefix_len: 0, origin }
            }
        }
    }

    #[inline]
    fn generated(&self, sequence: u64, len: usize) -> Message {
        let mut prefix = [b'-'; PREFIX_LEN_MAX];
        let prefix_len = match self.kind {
            PayloadKind::Binary => {
                prefix[..BINARY_SEQUENCE_LEN].copy_from_slice(&sequence.to_le_bytes());
                len.min(BINARY_SEQUENCE_LEN)
            }
            PayloadKind::Text => {
                for (i, digit) in prefix[..TEXT_SEQUENCE_LEN].iter_mut().enumerate() {
                    *digit = b"0123456789abcdef"[(sequence >> (4 * i)) as usize & 0xf];
                }
                if len < TEXT_SEQUENCE_LEN { len } else { TEXT_SEQUENCE_LEN + len % CELL_LEN }
            }
        };
        Message { len, prefix, prefix_len, origin: (sequence % OFFSETS) as usize * CELL_LEN }
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

    /// Whether `received` equals the message's payload from byte `from` on, as far as it is to be
    /// compared. It may not go beyond its end.
    #[inline]
    pub(crate) fn matches(&self, message: &Message, from: usize, received: &[u8]) -> bool {
        if self.verify != Verify::Full {
            return true;
        }
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

    /// Where `received` first differs from the message's payload from byte `from` on, as far as it
    /// is to be compared: the offset in the payload, and the byte that should be there.
    #[cold]
    pub(crate) fn first_difference(
        &self,
        message: &Message,
        from: usize,
        received: &[u8],
    ) -> Option<(usize, u8)> {
        if self.verify != Verify::Full {
            return None;
        }
        let comparable = received.len().min(message.len.saturating_sub(from));
        let mut at = from;
        while at < from + comparable {
            let piece = self.piece(message, at, from + comparable - at);
            let pairs = piece.iter().zip(&received[at - from..]);
            for (offset, (expected, byte)) in pairs.enumerate() {
                if expected != byte {
                    return Some((at + offset, *expected));
                }
            }
            at += piece.len();
        }
        None
    }

    /// How far ahead of the message `next` is the one that begins with `front`, at most
    /// [`IDENTITY_LEN`] bytes; negative if it is behind. Ahead, less than `in_flight` are looked
    /// at.
    ///
    /// Half of a sequence number or less tells little. It identifies only `next`, or a message of
    /// just as many bytes, and only if the type is that of the messages (`has_type`).
    #[cold]
    pub(crate) fn identify(
        &self,
        front: &[u8],
        next: u64,
        in_flight: usize,
        has_type: bool,
    ) -> Option<i64> {
        if self.verify != Verify::Full || front.is_empty() {
            return None;
        }
        let ahead_max = in_flight.cast_signed() as i64;
        let is_front = |distance: &i64| {
            let message = self.message(next.wrapping_add_signed(*distance));
            self.first_difference(&message, 0, front).is_none()
        };
        match &self.contents {
            Contents::Generated { .. } => {
                let tells = |distance: &i64| {
                    let len = self.message(next.wrapping_add_signed(*distance)).len;
                    2 * front.len() > self.sequence_len()
                        || has_type && (*distance == 0 || front.len() == len)
                };
                let distance = self.distance(front, next)?;
                Some(distance)
                    .filter(|distance| (-BEHIND_MAX..ahead_max).contains(distance))
                    .filter(tells)
                    .filter(is_front)
            }
            Contents::Files(files) => {
                let period = files.len().cast_signed() as i64;
                // An empty file would be the front of everything.
                let is_long = |distance: &i64| {
                    self.message(next.wrapping_add_signed(*distance)).len >= front.len()
                };
                let distances = (0..ahead_max.min(period)).chain((1 - period..0).rev());
                distances.filter(is_long).find(is_front)
            }
        }
    }

    /// Bytes of a whole sequence number.
    fn sequence_len(&self) -> usize {
        match self.kind {
            PayloadKind::Binary => BINARY_SEQUENCE_LEN,
            PayloadKind::Text => TEXT_SEQUENCE_LEN,
        }
    }

    /// How far from `next` is the sequence number that `front` begins with; if it has room for
    /// less than the whole number, the nearest such.
    fn distance(&self, front: &[u8], next: u64) -> Option<i64> {
        let (low, bits) = match self.kind {
            PayloadKind::Binary => {
                let len = front.len().min(BINARY_SEQUENCE_LEN);
                let mut bytes = [0; BINARY_SEQUENCE_LEN];
                bytes[..len].copy_from_slice(&front[..len]);
                (u64::from_le_bytes(bytes), 8 * len)
            }
            PayloadKind::Text => {
                let digits = &front[..front.len().min(TEXT_SEQUENCE_LEN)];
                let mut low = 0;
                for (i, digit) in digits.iter().enumerate() {
                    low |= u64::from(char::from(*digit).to_digit(16)?) << (4 * i);
                }
                (low, 4 * digits.len())
            }
        };
        let unused = u64::BITS - bits as u32;
        Some((low.wrapping_sub(next) << unused).cast_signed() >> unused)
    }

    /// Whether at least half of `front` is as in the message's payload.
    #[cold]
    pub(crate) fn resembles(&self, message: &Message, front: &[u8]) -> bool {
        2 * count_equal(&self.front(message), front) >= front.len()
    }

    /// The same, where `front` also has at least half of what the message's payload begins with.
    #[cold]
    pub(crate) fn resembles_in_full(&self, message: &Message, front: &[u8]) -> bool {
        is_half_equal(&self.front(message), front)
    }

    /// The same, where `front` may also be the message's payload after somebody has put U+FFFD in
    /// place of what is no UTF-8, as JavaScript's `toString` does.
    #[cold]
    pub(crate) fn resembles_as_text(&self, message: &Message, front: &[u8]) -> bool {
        let expected = self.front(message);
        let text = String::from_utf8_lossy(&expected);
        let text = &text.as_bytes()[..text.len().min(IDENTITY_LEN)];
        is_half_equal(&expected, front) || is_half_equal(text, front)
    }

    /// What the message's payload begins with, at most [`IDENTITY_LEN`] bytes.
    fn front(&self, message: &Message) -> Vec<u8> {
        let mut front = Vec::with_capacity(IDENTITY_LEN);
        self.append(message, 0, IDENTITY_LEN.min(message.len), &mut front);
        front
    }

    /// How many bytes at the beginning of a payload have to be right for it to be the message's.
    pub(crate) fn identity_len(&self, message: &Message) -> usize {
        match &self.contents {
            Contents::Generated { .. } => message.prefix_len,
            Contents::Files(_) => IDENTITY_LEN,
        }
    }

    /// The longest contiguous run, up to `len` bytes, of the payload from byte `at` on.
    #[inline]
    fn piece<'a>(&'a self, message: &'a Message, at: usize, len: usize) -> &'a [u8] {
        if at < message.prefix_len {
            return &message.prefix[at..message.prefix_len.min(at + len)];
        }
        match &self.contents {
            Contents::Generated { pattern, .. } => {
                let start = (message.origin + at - message.prefix_len) % PATTERN_PERIOD;
                &pattern[start..pattern.len().min(start + len)]
            }
            Contents::Files(files) => &files[message.origin][at..at + len],
        }
    }
}

/// How many bytes of both are equal.
fn count_equal(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a == b).count()
}

/// Whether at least half of the longer one is as in the other.
fn is_half_equal(a: &[u8], b: &[u8]) -> bool {
    let longer = a.len().max(b.len());
    longer > 0 && 2 * count_equal(a, b) >= longer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    fn payload(payloads: &Payloads, sequence: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let message = payloads.message(sequence);
        payloads.append(&message, 0, message.len(), &mut bytes);
        bytes
    }

    fn payloads(kind: PayloadKind, len: usize) -> Payloads {
        Payloads::new(&PayloadPlan::generated(kind, len), &mut SmallRng::seed_from_u64(1))
    }

    fn files(contents: &[&[u8]]) -> Payloads {
        let files = contents.iter().map(|content| Box::from(*content)).collect();
        let plan = PayloadPlan {
            source: PayloadSource::Files(files),
            ..PayloadPlan::generated(PayloadKind::Binary, 0)
        };
        Payloads::new(&plan, &mut SmallRng::seed_from_u64(1))
    }

    #[test]
    fn files_are_sent_in_turn_and_found_again_by_their_beginning() {
        let payloads = files(&[b"first", b"", b"second"]);
        assert_eq!(payload(&payloads, 3), b"first");
        assert_eq!(payload(&payloads, 4), b"");
        assert_eq!(payload(&payloads, 5), b"second");
        assert_eq!(payloads.identify(b"sec", 3, 3, true), Some(2));
        assert_eq!(payloads.identify(b"sec", 3, 2, true), Some(-1));
        assert_eq!(payloads.identify(b"third", 3, 3, true), None);
    }

    #[test]
    fn a_message_is_identified_by_its_sequence_number_and_body() {
        for kind in [PayloadKind::Binary, PayloadKind::Text] {
            let payloads = payloads(kind, 200);
            for next in [1_000_000, 3, u64::MAX - 3] {
                for distance in [-60_000, -7, 0, 9] {
                    let front = payload(&payloads, next.wrapping_add_signed(distance));
                    let front = &front[..IDENTITY_LEN];
                    assert_eq!(payloads.identify(front, next, 10, true), Some(distance));
                    assert_eq!(payloads.identify(&front[..9], next, 10, true), Some(distance));
                    let mut damaged = front.to_vec();
                    damaged[0] ^= 4;
                    assert_eq!(payloads.identify(&damaged, next, 10, true), None);
                }
                let beyond = payload(&payloads, next.wrapping_add(10));
                assert_eq!(payloads.identify(&beyond[..IDENTITY_LEN], next, 10, true), None);
            }
        }
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
