//! Masking (RFC 6455 §5.3): byte `i` of a payload is combined by XOR with byte `i % 4` of the key.
//!
//! Masking and unmasking are the same operation. It goes block by block, and the compiler makes
//! vector instructions of a block: first blocks of 64 bytes, then of 16. Each block is read whole
//! before it is written. The last 16 bytes are one more block, which may overlap the block before
//! it, so it is read before anything is written. Where the payload moves, source and target
//! overlap; slices of [`Cell`]s may, without a check for each block.
//!
//! If the CPU has AVX2, a long payload begins with blocks of 128 bytes.

use std::{array, cell::Cell};

#[cfg(target_arch = "x86_64")]
mod avx2;

/// From this length on, in bytes, 256-bit vectors save more time than the check for them takes.
const LONG_LEN_MIN: usize = 256;

/// Unmasks (or masks) `payload` in place.
#[inline]
pub fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let payload = Cell::from_mut(payload).as_slice_of_cells();
    unmask_cells(payload, payload, key);
}

/// Unmasks the `len` bytes at `from` and writes them at `to`, which is at or before `from`.
///
/// The operation goes forward, so every byte is read before a write can reach it, whatever the
/// distance.
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

/// Unmasks `source` to the start of `target`, which begins at the same byte as `source` or before
/// it.
#[inline]
fn unmask_cells(source: &[Cell<u8>], target: &[Cell<u8>], key: [u8; 4]) {
    if source.len() < LONG_LEN_MIN {
        unmask_short(source, target, key);
    } else {
        unmask_long(source, target, key);
    }
}

/// Unmasks with the longest vectors that this CPU has.
#[inline(never)]
fn unmask_long(source: &[Cell<u8>], target: &[Cell<u8>], key: [u8; 4]) {
    #[cfg(target_arch = "x86_64")]
    let (source, target) = avx2::unmask_blocks(source, target, key);
    unmask_short(source, target, key);
}

/// Unmasks with instructions that every CPU has.
fn unmask_short(source: &[Cell<u8>], target: &[Cell<u8>], key: [u8; 4]) {
    let target = &target[..source.len()];
    let (Some(last_source), Some(last_target)) =
        (source.last_chunk::<16>(), target.last_chunk::<16>())
    else {
        return unmask_less_than_a_block(source, target, key);
    };
    let last = unmask_block(last_source, rotate(key, source.len()));
    let (source, target) = unmask_blocks::<64>(source, target, key);
    unmask_blocks::<16>(source, target, key);
    write(last_target, last);
}

fn unmask_less_than_a_block(source: &[Cell<u8>], target: &[Cell<u8>], key: [u8; 4]) {
    let (source, target) = unmask_blocks::<4>(source, target, key);
    for ((from, to), key_byte) in source.iter().zip(target).zip(key) {
        to.set(from.get() ^ key_byte);
    }
}

/// Unmasks as many blocks of `LEN` bytes as there are, and returns what is left of source and
/// target.
#[expect(clippy::inline_always, reason = "it is compiled for the caller's vector instructions")]
#[inline(always)]
fn unmask_blocks<'a, const LEN: usize>(
    source: &'a [Cell<u8>],
    target: &'a [Cell<u8>],
    key: [u8; 4],
) -> (&'a [Cell<u8>], &'a [Cell<u8>]) {
    let (source_blocks, source_rest) = source.as_chunks::<LEN>();
    let (target_blocks, target_rest) = target.as_chunks::<LEN>();
    for (from, to) in source_blocks.iter().zip(target_blocks) {
        write(to, unmask_block(from, key));
    }
    (source_rest, target_rest)
}

/// The unmasked bytes of a block; `LEN` is a multiple of the key's four.
#[inline]
fn unmask_block<const LEN: usize>(block: &[Cell<u8>; LEN], key: [u8; 4]) -> [u8; LEN] {
    let mut bytes = array::from_fn(|i| block[i].get());
    let (words, _) = bytes.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
    bytes
}

#[inline]
fn write<const LEN: usize>(block: &[Cell<u8>; LEN], bytes: [u8; LEN]) {
    for (to, byte) in block.iter().zip(bytes) {
        to.set(byte);
    }
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

    /// The oracle: the definition of RFC 6455 §5.3.
    fn unmask_by_definition(payload: &[u8], key: [u8; 4]) -> Vec<u8> {
        payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect()
    }

    /// Payloads from none to some blocks of each size, with any rest.
    fn payload() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..3 * LONG_LEN_MIN)
    }

    proptest! {
        #[test]
        fn unmask_equals_the_definition(
            payload in payload(),
            key: [u8; 4],
        ) {
            let expected = unmask_by_definition(&payload, key);
            let mut actual = payload.clone();
            unmask(&mut actual, key);
            prop_assert_eq!(&actual, &expected);

            let mut without_avx2 = payload;
            let cells = Cell::from_mut(&mut without_avx2[..]).as_slice_of_cells();
            unmask_short(cells, cells, key);
            prop_assert_eq!(&without_avx2, &expected);
        }

        #[test]
        fn unmask_to_moves_and_leaves_the_rest_alone(
            buffer in payload(),
            cuts: [prop::sample::Index; 3],
            key: [u8; 4],
        ) {
            let mut cuts = cuts.map(|cut| cut.index(buffer.len() + 1));
            cuts.sort_unstable();
            let [to, from, end] = cuts;
            let len = end - from;

            let payload = unmask_by_definition(&buffer[from..end], key);
            let mut actual = buffer.clone();
            unmask_to(&mut actual, from, to, len, key);

            prop_assert_eq!(&actual[to..to + len], &payload[..]);
            prop_assert_eq!(&actual[..to], &buffer[..to]);
            prop_assert_eq!(&actual[end..], &buffer[end..]);
        }

        #[test]
        fn a_payload_may_be_cut_anywhere(
            payload in payload(),
            cut: prop::sample::Index,
            key: [u8; 4],
        ) {
            let cut = cut.index(payload.len() + 1);
            let whole = unmask_by_definition(&payload, key);
            let mut pieces = payload;
            let (head, tail) = pieces.split_at_mut(cut);
            unmask(head, key);
            unmask(tail, rotate(key, cut));
            prop_assert_eq!(pieces, whole);
        }
    }
}
