//! The pattern that generated payloads are slices of: random bytes or characters, repeated.

use rand::{Rng, RngExt, rngs::SmallRng};

use super::PayloadKind;

/// Bytes after which the pattern repeats: a multiple of a text's [`CELL_LEN`], but of no greater
/// power of two, so that a payload shifted by a whole number of pages or buffers is noticed.
pub(super) const PATTERN_PERIOD: usize = 4 * 16_381;

/// A text's pattern consists of cells of 4 bytes, each of whole characters.
pub(super) const CELL_LEN: usize = 4;

/// A pattern, twice: so a slice that begins in the first one is contiguous for a whole period.
pub(super) fn pattern(kind: PayloadKind, rng: &mut SmallRng) -> Box<[u8]> {
    let mut pattern = vec![0; PATTERN_PERIOD];
    match kind {
        PayloadKind::Binary => rng.fill_bytes(&mut pattern),
        PayloadKind::Text => fill_with_text(&mut pattern, rng),
    }
    pattern.extend_from_within(..);
    pattern.into()
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
