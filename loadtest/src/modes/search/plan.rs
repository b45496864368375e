//! What is searched, and how.

use super::bisection::Settings;
use crate::plan::{Plan, condition::Condition};

/// What is searched, and how.
#[derive(Debug)]
pub struct SearchPlan {
    /// Of each trial, but for its rate.
    pub run: Plan,
    /// What a rate has to meet, at least one.
    pub goals: Vec<Condition>,
    /// How the search goes.
    pub settings: Settings,
}
