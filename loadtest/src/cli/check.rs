//! Flags about what a result must not be.

use clap::ArgAction;

use super::PlanError;
use crate::plan::condition::{Condition, Subject};

/// Flags about what a result must not be.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = super::CHECKS)]
pub struct CheckArgs {
    /// End with exit code 3 if this holds, such as 'p99>5ms', 'errors>0' or 'ratio.p99>1.1', or if
    /// what it is about could not be measured; repeatable
    #[arg(
        long, value_name = "CONDITION", action = ArgAction::Append, value_parser = Condition::failure
    )]
    pub fail_if: Vec<Condition>,
}

impl CheckArgs {
    /// The conditions, if everything that they are about is measured; `missing` names the flag
    /// without which it is not.
    pub(super) fn conditions(
        &self,
        missing: impl Fn(Subject) -> Option<&'static str>,
    ) -> Result<Vec<Condition>, PlanError> {
        measured(&self.fail_if, missing)
    }
}

/// The conditions, if everything that they are about is measured; `missing` names the flag without
/// which it is not.
pub(super) fn measured(
    conditions: &[Condition],
    missing: impl Fn(Subject) -> Option<&'static str>,
) -> Result<Vec<Condition>, PlanError> {
    for condition in conditions {
        if let Some(flag) = missing(condition.subject()) {
            return Err(PlanError::FailIf { condition: condition.to_string(), flag });
        }
    }
    Ok(conditions.to_vec())
}
