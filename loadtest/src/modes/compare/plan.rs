//! What is compared, and how.

use crate::{modes::trial::TrialPlan, plan::condition::Condition};

/// A comparison that is to be made.
#[derive(Debug)]
pub struct ComparePlan {
    /// The runs of A, and those of B, of the same kind.
    pub runs: [TrialPlan; 2],
    /// Runs of each, at least 2.
    pub rounds: usize,
    /// What the random draws of the resampling follow from.
    pub seed: u64,
    /// Conditions that must not hold.
    pub fail_if: Vec<Condition>,
}
