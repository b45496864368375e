//! The highest rate that a server sustains under goals such as `p99<2ms`: each trial of a rate is a
//! run of its own, on new connections, in an open loop; of messages, or of cycles.
//!
//! [`bisection`] decides what is tried, [`verdict`] how it went, [`report`] says what came of it.
//! Here these are put together, and nothing is decided but that a search makes no sense.

pub mod bisection;
pub mod plan;
pub mod report;
pub mod verdict;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use self::{
    bisection::{Bisection, Limit},
    plan::SearchPlan,
    report::{Probe, SearchReport},
    verdict::{Observation, Verdict, judge},
};
use crate::{modes::run::RunError, result::progress::Progress};

/// Carries out a search. When `interrupted` becomes true, it ends with what is known then.
pub fn run(
    plan: &SearchPlan,
    interrupted: &AtomicBool,
    progress: &mut Progress,
) -> Result<SearchReport, RunError> {
    let mut bisection = Bisection::new(plan.settings);
    let mut probes: Vec<Probe> = Vec::new();
    let answer = loop {
        let trial = match bisection.next() {
            Ok(trial) => trial,
            Err(answer) => break answer,
        };
        let report = plan.run.at_rate(trial.rate).carry_out(interrupted, progress)?;
        if interrupted.load(Relaxed) {
            break bisection.answer(Limit::Interrupted);
        }
        let (verdict, reasons) = judge(&Observation::from(&report), &plan.goals);
        // The number of connections is the same at any rate, and so is what they lack.
        if let Some(warning) = report.not_opened()
            && probes.is_empty()
            && verdict != Verdict::Met
        {
            return Err(RunError::NotOpened(warning));
        }
        let probe = Probe::new(trial.rate, trial.stage, verdict, reasons, &report);
        progress.note(&probe.to_string());
        probes.push(probe);
        bisection.record(verdict);
    };
    Ok(SearchReport::new(plan, probes, answer))
}
