//! What is compared, and how.

use crate::plan::{Plan, condition::Condition};

/// What is compared, and how.
#[derive(Debug)]
pub struct ComparePlan {
    /// A run of A, and one of B.
    pub runs: [Plan; 2],
    /// How many of each, at least 2.
    pub rounds: usize,
    /// Of the resampling.
    pub seed: u64,
    /// Conditions that must not hold.
    pub fail_if: Vec<Condition>,
}
