//! Masking (RFC 6455 §5.3): byte `i` of a payload is combined by XOR with byte `i % 4` of the key.
//!
//! Masking and unmasking are the same operation. The key is repeated over a block of
//! [`BLOCK_LEN`] bytes and applied block by block, which the compiler turns into vector
//! instructions; what is left over goes byte by byte.

/// Bytes that are read, unmasked and written at a time. A multiple of the key's four.
const BLOCK_LEN: usize = 64;

/// Unmasks (or masks) `payload` in place.
#[inline]
pub fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let key_block = repeat(key);
    let (blocks, rest) = payload.as_chunks_mut::<BLOCK_LEN>();
    for block in blocks {
        xor(block, &key_block);
    }
    xor_rest(rest, key);
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
    if from == to {
        return unmask(&mut buffer[from..from + len], key);
    }
    let key_block = repeat(key);
    let window = &mut buffer[to..from + len];
    let distance = from - to;
    let mut at = 0;
    while at + BLOCK_LEN <= len {
        let source = &window[at + distance..at + distance + BLOCK_LEN];
        let mut block: [u8; BLOCK_LEN] = source.try_into().expect("a slice of BLOCK_LEN bytes");
        xor(&mut block, &key_block);
        window[at..at + BLOCK_LEN].copy_from_slice(&block);
        at += BLOCK_LEN;
    }
    window.copy_within(at + distance..len + distance, at);
    xor_rest(&mut window[at..len], key);
}

/// The key as it applies `by` bytes further into the payload.
#[inline]
pub fn rotate(key: [u8; 4], by: usize) -> [u8; 4] {
    u32::from_le_bytes(key).rotate_right(8 * (by % 4) as u32).to_le_bytes()
}

#[inline]
fn repeat(key: [u8; 4]) -> [u8; BLOCK_LEN] {
    std::array::from_fn(|i| key[i % 4])
}

#[inline]
fn xor(block: &mut [u8; BLOCK_LEN], key_block: &[u8; BLOCK_LEN]) {
    for (byte, key_byte) in block.iter_mut().zip(key_block) {
        *byte ^= key_byte;
    }
}

#[inline]
fn xor_rest(rest: &mut [u8], key: [u8; 4]) {
    let (words, tail) = rest.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
    for (byte, key_byte) in tail.iter_mut().zip(key) {
        *byte ^= key_byte;
    }
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
