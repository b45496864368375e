//! Masking (RFC 6455 §5.3): byte `i` of a payload is combined by XOR with byte `i % 4` of the key.
//!
//! Masking and unmasking are the same operation. It goes block by block, each read whole before it
//! is written: blocks of 64 bytes, of which the compiler makes vector instructions, then of 16 and
//! of 4, then single bytes. Where the payload moves, source and target overlap; as slices of
//! [`Cell`]s they may, without a check for each block.

use std::{array, cell::Cell};

/// Unmasks (or masks) `payload` in place.
#[inline]
pub fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let payload = Cell::from_mut(payload).as_slice_of_cells();
    unmask_cells(payload, payload, key);
}

/// Unmasks the `len` bytes at `from` and writes them at `to`, which is at or before `from`.
///
/// Going forward, every byte is read before a write can reach it, whatever the distance.
///
/// # Panics
///
/// When a range is outside of `buffer`, or `to` is behind `from`.
#[inline]
pub fn unmask_to(buffer: &mut [u8], from: usize, to: usize, len: usize, key: [u8; 4]) {
    assert!(to <= from, "a payload only ever moves towards the front");
    let buffer = Cell::from_mut(buffer).as_slice_of_cells();
    unmask_cells(&buffer[from..from + len], &buffer[to..], key);
}

/// Unmasks `source` to the start of `target`, which is at the same byte or before it.
#[inline]
fn unmask_cells(source: &[Cell<u8>], target: &[Cell<u8>], key: [u8; 4]) {
    let target = &target[..source.len()];
    let (source, target) = unmask_blocks::<64>(source, target, key);
    let (source, target) = unmask_blocks::<16>(source, target, key);
    let (source, target) = unmask_blocks::<4>(source, target, key);
    for ((from, to), key_byte) in source.iter().zip(target).zip(key) {
        to.set(from.get() ^ key_byte);
    }
}

/// Unmasks as many blocks of `LEN` bytes, a multiple of the key's four, as there are, and returns
/// what is left of source and target.
#[inline]
fn unmask_blocks<'a, const LEN: usize>(
    source: &'a [Cell<u8>],
    target: &'a [Cell<u8>],
    key: [u8; 4],
) -> (&'a [Cell<u8>], &'a [Cell<u8>]) {
    let (source_blocks, source_rest) = source.as_chunks::<LEN>();
    let (target_blocks, target_rest) = target.as_chunks::<LEN>();
    for (from, to) in source_blocks.iter().zip(target_blocks) {
        let mut block: [u8; LEN] = array::from_fn(|i| from[i].get());
        let (words, _) = block.as_chunks_mut::<4>();
        for word in words {
            *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
        }
        for (to, byte) in to.iter().zip(block) {
            to.set(byte);
        }
    }
    (source_rest, target_rest)
}

/// The key as it applies `by` bytes further into the payload.
#[inline]
pub fn rotate(key: [u8; 4], by: usize) -> [u8; 4] {
    u32::from_le_bytes(key).rotate_right(8 * (by % 4) as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn unmask_equals_the_definition(
            payload in proptest::collection::vec(any::<u8>(), 0..600),
            key: [u8; 4],
        ) {
            let expected: Vec<u8> =
                payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
            let mut actual = payload;
            unmask(&mut actual, key);
            prop_assert_eq!(actual, expected);
        }

        #[test]
        fn unmask_to_moves_and_leaves_the_rest_alone(
            buffer in proptest::collection::vec(any::<u8>(), 0..600),
            cuts: [prop::sample::Index; 3],
            key: [u8; 4],
        ) {
            let mut cuts = cuts.map(|cut| cut.index(buffer.len() + 1));
            cuts.sort_unstable();
            let [to, from, end] = cuts;
            let len = end - from;

            let mut expected = buffer.clone();
            unmask(&mut expected[from..end], key);
            let payload = expected[from..end].to_vec();
            let mut actual = buffer.clone();
            unmask_to(&mut actual, from, to, len, key);

            prop_assert_eq!(&actual[to..to + len], &payload[..]);
            prop_assert_eq!(&actual[..to], &buffer[..to]);
            prop_assert_eq!(&actual[end..], &buffer[end..]);
        }

        #[test]
        fn a_payload_may_be_cut_anywhere(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            cut: prop::sample::Index,
            key: [u8; 4],
        ) {
            let cut = cut.index(payload.len() + 1);
            let mut whole = payload.clone();
            unmask(&mut whole, key);
            let mut pieces = payload;
            let (head, tail) = pieces.split_at_mut(cut);
            unmask(head, key);
            unmask(tail, rotate(key, cut));
            prop_assert_eq!(pieces, whole);
        }
    }
}
