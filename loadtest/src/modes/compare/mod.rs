//! Two servers under the same load, in turn: rounds of one run each, in the order A B B A A B …, so
//! that what changes slowly (temperature, neighbours) falls on both alike.
//!
//! The ratios are those of B to A within a round; [`bootstrap`] says how sure they are, [`report`]
//! what came of it.

pub mod bootstrap;
pub mod plan;
pub mod report;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use self::{
    plan::ComparePlan,
    report::{CompareReport, Round},
};
use crate::{modes::run::RunError, result::progress::Progress};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    A,
    B,
}

/// The order within a round: reversed in every second one.
fn order(round: usize) -> [Side; 2] {
    if round.is_multiple_of(2) { [Side::A, Side::B] } else { [Side::B, Side::A] }
}

/// Carries out a comparison. When `interrupted` becomes true, it ends with the rounds that were
/// complete then.
pub fn run(
    plan: &ComparePlan,
    interrupted: &AtomicBool,
    progress: &mut Progress,
) -> Result<CompareReport, RunError> {
    let mut rounds = [const { Vec::new() }; 2];
    for number in 0..plan.rounds {
        for side in order(number) {
            let run = plan.runs[side as usize].clone();
            let round = Round::from(&run.carry_out(interrupted, progress)?);
            if interrupted.load(Relaxed) {
                return Ok(CompareReport::new(plan, rounds, Some(round)));
            }
            progress.note(&format!("  round {} of {}, {side:?}: {round}", number + 1, plan.rounds));
            rounds[side as usize].push(round);
        }
    }
    Ok(CompareReport::new(plan, rounds, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_goes_first_as_often_as_the_other() {
        let order: Vec<Side> = (0..4).flat_map(order).collect();
        assert_eq!(order, [Side::A, Side::B, Side::B, Side::A, Side::A, Side::B, Side::B, Side::A]);
    }
}
