//! The blocks of a long payload, compiled for CPUs with AVX2: 11 instructions for 128 bytes
//! rather than 30.
//!
//! The code is the safe code of [`super::unmask_blocks`]. The one `unsafe` is the call of a
//! function that only such CPUs can run; the property tests of [`super`] hold both against the
//! definition.

use std::cell::Cell;

/// Unmasks as many blocks of 128 bytes as there are, if this CPU has AVX2, and returns what is
/// left of source and target.
pub(super) fn unmask_blocks<'a>(
    source: &'a [Cell<u8>],
    target: &'a [Cell<u8>],
    key: [u8; 4],
) -> (&'a [Cell<u8>], &'a [Cell<u8>]) {
    if !is_x86_feature_detected!("avx2") {
        return (source, target);
    }
    // SAFETY: this CPU has AVX2.
    #[expect(unsafe_code, reason = "the compiler cannot see which CPU this will run on")]
    unsafe {
        unmask_blocks_on_avx2(source, target, key)
    }
}

/// # Safety
///
/// The CPU must have AVX2, if the caller is not itself compiled for AVX2.
#[target_feature(enable = "avx2")]
fn unmask_blocks_on_avx2<'a>(
    source: &'a [Cell<u8>],
    target: &'a [Cell<u8>],
    key: [u8; 4],
) -> (&'a [Cell<u8>], &'a [Cell<u8>]) {
    let target = &target[..source.len()];
    super::unmask_blocks::<128>(source, target, key)
}
