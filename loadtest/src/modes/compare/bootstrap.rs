//! How sure a ratio is: its confidence interval, by resampling the rounds that it was measured in.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts stay below 2^52, none is negative"
)]

use std::iter;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde::Serialize;

/// How often the rounds are drawn again.
pub const RESAMPLES: usize = 10_000;

/// Which part of the resamples lies within the interval.
pub const CONFIDENCE: f64 = 0.95;

/// A ratio, and between which values it probably is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The geometric mean of the rounds' ratios: swapping the sides inverts it.
    pub estimate: f64,
    /// The lower bound: half of the resamples' estimates outside of the interval are below it.
    pub low: f64,
    /// The upper bound: the other half are above it.
    pub high: f64,
}

impl Interval {
    /// From the ratio of each round, all positive; `None` without rounds. The same seed gives the
    /// same interval.
    pub(crate) fn new(ratios: &[f64], seed: u64) -> Option<Self> {
        if ratios.is_empty() {
            return None;
        }
        let logarithms: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut draw = || logarithms[rng.random_range(0..logarithms.len())];
        let mut means: Vec<f64> = iter::repeat_with(|| {
            iter::repeat_with(&mut draw).take(ratios.len()).sum::<f64>() / count(ratios.len())
        })
        .take(RESAMPLES)
        .collect();
        means.sort_unstable_by(f64::total_cmp);
        let outside = (count(RESAMPLES) * (1.0 - CONFIDENCE) / 2.0).round() as usize;
        Some(Self {
            estimate: (logarithms.iter().sum::<f64>() / count(ratios.len())).exp(),
            low: means[outside].exp(),
            high: means[RESAMPLES - 1 - outside].exp(),
        })
    }
}

fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn interval(ratios: &[f64], seed: u64) -> Interval {
        Interval::new(ratios, seed).unwrap()
    }

    #[test]
    fn rounds_that_agree_leave_no_doubt() {
        let Interval { estimate, low, high } = interval(&[1.25; 6], 1);
        for value in [estimate, low, high] {
            assert!((value - 1.25).abs() < 1e-12, "{value}");
        }
        assert_eq!(Interval::new(&[], 1), None);
    }

    #[test]
    fn the_estimate_is_the_geometric_mean() {
        let estimate = interval(&[0.5, 2.0, 4.0, 1.0], 1).estimate;
        assert!((estimate - 2_f64.sqrt()).abs() < 1e-12, "{estimate}");
    }

    #[test]
    fn of_two_rounds_each_end_is_a_round() {
        // A quarter of the resamples is one round twice, a quarter the other.
        let Interval { low, high, .. } = interval(&[0.8, 1.5], 1);
        assert!((low - 0.8).abs() < 1e-12 && (high - 1.5).abs() < 1e-12, "{low} to {high}");
    }

    #[test]
    fn the_interval_covers_the_truth_about_as_often_as_it_says() {
        let mut rng = SmallRng::seed_from_u64(7);
        let covered = (0..200)
            .filter(|seed| {
                let ratios: Vec<f64> =
                    (0..20).map(|_| 1.1 * rng.random_range(-0.1..0.1_f64).exp()).collect();
                let Interval { low, high, .. } = interval(&ratios, *seed);
                (low..=high).contains(&1.1)
            })
            .count();
        // 190 are expected. Few rounds make the interval somewhat too narrow.
        assert!((175..=199).contains(&covered), "{covered} of 200");
    }

    proptest! {
        #[test]
        fn a_seed_decides_and_the_estimate_is_inside(
            ratios in proptest::collection::vec(0.1..10.0_f64, 1..12),
            seed: u64,
        ) {
            let first = interval(&ratios, seed);
            prop_assert_eq!(first, interval(&ratios, seed));
            let least = ratios.iter().copied().fold(f64::MAX, f64::min);
            let most = ratios.iter().copied().fold(0.0, f64::max);
            prop_assert!(least * 0.999_999 <= first.low && first.high <= most * 1.000_001);
            prop_assert!(first.low <= first.estimate * 1.000_001);
            prop_assert!(first.estimate <= first.high * 1.000_001);
        }
    }
}
