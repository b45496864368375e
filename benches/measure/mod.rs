//! How an operation is measured: in time by criterion, and in instructions by callgrind.

use std::hint::black_box;

use criterion::Bencher;

/// How often an operation is counted. Every run takes the same instructions; their number hides
/// the few that the loop and the call of [`count_instructions`] take.
const COUNTED_RUNS: usize = 16;

/// Measures `operation`, which does the same work each time.
pub(crate) fn measure<T>(bencher: &mut Bencher, mut operation: impl FnMut() -> T) {
    // What only a first call does, as choosing an implementation for this CPU, is not counted.
    black_box(operation());
    count_instructions(&mut operation);
    bencher.iter(operation);
}

/// Where `scripts/bench-compare.sh` has callgrind count, by the name of this function.
#[inline(never)]
fn count_instructions<T>(operation: &mut impl FnMut() -> T) {
    for _ in 0..COUNTED_RUNS {
        black_box(operation());
    }
}
