//! The payload of a compressed message (RFC 7692), deflated and inflated without context takeover.
//!
//! So each message stands for itself: one compressor serves all connections of a thread, an echo
//! that is dropped or damaged does not spoil the next one, and a connection holds the state of an
//! inflater only once a compressed message has come.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The end of each message, which is not sent (§7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Bytes that are inflated at once: what stays in the first-level cache.
const INFLATED_AT_ONCE: usize = 8 * 1024;

/// Compresses the messages of one thread.
#[derive(Debug)]
pub(crate) struct Deflater {
    state: Compress,
}

impl Default for Deflater {
    fn default() -> Self {
        Self { state: Compress::new(Compression::fast(), false) }
    }
}

impl Deflater {
    /// The payload of a compressed message.
    pub(crate) fn deflate(&mut self, payload: &[u8]) -> Vec<u8> {
        self.state.reset();
        let mut deflated = Vec::with_capacity(payload.len() / 2 + 64);
        loop {
            let consumed = self.state.total_in() as usize;
            self.state
                .compress_vec(&payload[consumed..], &mut deflated, FlushCompress::Sync)
                .expect("a compressor without a dictionary takes everything");
            // There is room left: so nothing is left to come.
            if deflated.len() < deflated.capacity() {
                break;
            }
            deflated.reserve(deflated.len());
        }
        deflated.truncate(deflated.len() - TAIL.len());
        deflated
    }
}

/// Inflates the messages of one connection, piece by piece.
#[derive(Debug)]
pub(crate) struct Inflater {
    state: Decompress,
    inflated: Box<[u8]>,
}

/// A message is not compressed as RFC 7692 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotDeflated;

impl Default for Inflater {
    fn default() -> Self {
        Self {
            state: Decompress::new(false),
            inflated: vec![0; INFLATED_AT_ONCE].into_boxed_slice(),
        }
    }
}

impl Inflater {
    /// Begins a message.
    pub(crate) fn begin(&mut self) {
        self.state.reset(false);
    }

    /// Inflates the next piece of a message, and calls `each` with what comes out.
    pub(crate) fn inflate(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), NotDeflated> {
        let mut rest = piece;
        loop {
            let (before_in, before_out) = (self.state.total_in(), self.state.total_out());
            let flush = FlushDecompress::Sync;
            let status = self.state.decompress(rest, &mut self.inflated, flush);
            let status = status.map_err(|_| NotDeflated)?;
            let consumed = (self.state.total_in() - before_in) as usize;
            let produced = (self.state.total_out() - before_out) as usize;
            each(&self.inflated[..produced]);
            rest = &rest[consumed..];
            if status == Status::StreamEnd {
                // A final block may be followed by others (§7.2.3.4).
                self.state.reset(false);
            } else if consumed == 0 && produced == 0 && !rest.is_empty() {
                return Err(NotDeflated);
            }
            // If the room was filled, there may be more to come.
            if rest.is_empty() && produced < self.inflated.len() {
                return Ok(());
            }
        }
    }

    /// Inflates what is left at the end of a message.
    pub(crate) fn end(&mut self, each: impl FnMut(&[u8])) -> Result<(), NotDeflated> {
        self.inflate(&TAIL, each)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inflate<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, NotDeflated> {
        let mut inflater = Inflater::default();
        let mut payload = Vec::new();
        inflater.begin();
        for piece in pieces {
            inflater.inflate(piece, |inflated| payload.extend_from_slice(inflated))?;
        }
        inflater.end(|inflated| payload.extend_from_slice(inflated))?;
        Ok(payload)
    }

    /// RFC 7692 §7.2.3: the examples of "Hello".
    #[test]
    fn the_examples_of_the_standard_are_inflated() {
        for example in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            // A block without compression.
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            // A final block.
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            // Two blocks.
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ] {
            assert_eq!(inflate([example].into_iter()).unwrap(), b"Hello", "{example:x?}");
            assert_eq!(inflate(example.chunks(1)).unwrap(), b"Hello", "{example:x?}");
        }
        assert_eq!(inflate([&b"\x07"[..]].into_iter()), Err(NotDeflated));
    }

    proptest! {
        #[test]
        fn what_is_deflated_is_inflated_again_wherever_it_is_cut(
            words in proptest::collection::vec("[a-c]{0,9}|[\\x00-\\x7f]{40}", 0..300),
            piece_len in 1_usize..5000,
        ) {
            let payload = words.concat().into_bytes();
            let mut deflater = Deflater::default();
            let mut deflate_another = || deflater.deflate(b"another message");
            prop_assert_eq!(deflate_another(), deflate_another());
            let deflated = deflater.deflate(&payload);
            prop_assert_eq!(inflate(deflated.chunks(piece_len)).unwrap(), payload);
        }
    }
}
