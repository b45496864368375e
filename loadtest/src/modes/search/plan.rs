//! What is searched, and how.

use super::bisection::Settings;
use crate::{modes::trial::TrialPlan, plan::condition::Condition};

/// A search that is to be made.
#[derive(Debug)]
pub struct SearchPlan {
    /// The run of each trial, but for its rate.
    pub run: TrialPlan,
    /// Conditions that a rate has to meet, at least one.
    pub goals: Vec<Condition>,
    /// How the search goes.
    pub settings: Settings,
}
