//! Whether a rate met the goals in a run, and if not, whether that tells of the server.

#![expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]

use serde::Serialize;

use crate::{
    modes::{
        churn::report::CycleMeasurement,
        trial::{Figures, Planned, TrialReport},
    },
    plan::{
        Exchange,
        condition::{Condition, metric::Metric},
    },
    result::measurement::{Measured, Measurement},
    text::{
        numbers::{counted, grouped},
        warning::WarningCode,
    },
};

/// A server that has less than this part of what is planned done in time does not keep up.
const DONE_MIN: f64 = 0.99;

/// How a trial of a rate went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The goals were met.
    Met,
    /// They were not.
    Missed,
    /// They were not, but the generator was at its limit itself, or late.
    GeneratorLimited,
}

/// Those figures of a run that decide about its rate.
#[derive(Clone, Debug)]
pub(crate) struct Observation {
    figures: Figures,
    /// What was planned in the measured window, and how much of it was done there.
    planned: u64,
    done: u64,
    unsent: u64,
    /// The figures without what the generator was late by: of messages from the instants of sending,
    /// of cycles from those of beginning, but for cycles that were held back.
    without_lag: Figures,
    saturated: bool,
    late: bool,
}

impl From<&TrialReport> for Observation {
    fn from(report: &TrialReport) -> Self {
        let (done, without_lag) = match report {
            TrialReport::Messages(report) => {
                let open_loop = report.open_loop.as_ref();
                let latency_us = open_loop.and_then(|it| it.uncorrected_latency_us);
                let measurement = Measurement { latency_us, ..(&**report).into() };
                (report.messages, Figures::Messages(measurement))
            }
            TrialReport::Cycles(report) => {
                let measurement = CycleMeasurement::from(&**report);
                let measurement = match &report.open_loop {
                    Some(planned) => measurement.with_times(planned.without_lag),
                    None => measurement,
                };
                (report.cycles, Figures::Cycles(measurement))
            }
        };
        let planned = report.open_loop();
        let warned = |code| report.warnings().iter().any(|warning| warning.code == code);
        Self {
            figures: report.figures(),
            planned: planned.as_ref().map_or(0, Planned::planned),
            done,
            unsent: planned.as_ref().map_or(0, Planned::undone),
            without_lag,
            saturated: warned(WarningCode::GeneratorSaturated),
            late: warned(WarningCode::SendLag) || warned(WarningCode::BeginLag),
        }
    }
}

/// Judges a run at a rate. The texts say why it missed.
///
/// Without a goal on errors there may be none. Whatever the goals, a rate that is not kept up is
/// missed.
pub(crate) fn judge(observation: &Observation, goals: &[Condition]) -> (Verdict, Vec<String>) {
    let Observation { figures, planned, done, unsent, .. } = observation;
    let (sent, in_time) = match figures.exchange() {
        Exchange::Message => ("sent", "echoed in time"),
        Exchange::Cycle => ("begun", "ended in time"),
    };
    let mut reasons: Vec<String> = goals
        .iter()
        .filter(|goal| !figures.meets(goal))
        .map(|goal| figures.describe(goal))
        .collect();
    let errors = figures.errors().total;
    if errors > 0 && !goals.iter().any(|goal| goal.subject().metric == Metric::Errors) {
        reasons.push(counted(errors, "error"));
    }
    if *unsent > 0 {
        reasons.push(format!("{} of {} not {sent}", grouped(*unsent), grouped(*planned)));
    } else if !observation.is_kept_up() {
        let (done, planned) = (grouped(*done), grouped(*planned));
        reasons.push(format!("only {done} of {planned} {in_time}"));
    }
    let verdict = match reasons.len() {
        0 => Verdict::Met,
        _ if observation.tells_of_the_generator(goals) => Verdict::GeneratorLimited,
        _ => Verdict::Missed,
    };
    (verdict, reasons)
}

impl Observation {
    /// Whether what was planned was sent, and echoed in time.
    fn is_kept_up(&self) -> bool {
        self.unsent == 0 && self.done as f64 >= self.planned as f64 * DONE_MIN
    }

    /// Whether a miss may be due to the generator: it had no time left, or the server kept up and
    /// the goals were missed only because the generator was late.
    fn tells_of_the_generator(&self, goals: &[Condition]) -> bool {
        let met_without_lag = goals.iter().all(|goal| self.without_lag.meets(goal));
        let made_by_lag = self.is_kept_up() && self.late && met_without_lag;
        self.figures.errors().total == 0 && (self.saturated || made_by_lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::{errors::ErrorCounts, latency_report::LatencyReport};

    fn latency(p99: f64) -> LatencyReport {
        LatencyReport {
            min: 1.0,
            p50: p99 / 10.0,
            p90: p99 / 2.0,
            p99,
            p99_9: p99,
            p99_99: p99,
            max: p99,
            mean: p99 / 8.0,
            samples: 1000,
        }
    }

    fn figures(p99: f64, errors: ErrorCounts) -> Figures {
        Figures::Messages(Measurement {
            messages_per_second: 1000.0,
            latency_us: Some(latency(p99)),
            errors,
            server: None,
        })
    }

    /// A run of 1000 planned messages in which nothing went wrong.
    fn observed(p99: f64) -> Observation {
        Observation {
            figures: figures(p99, ErrorCounts::default()),
            planned: 1000,
            done: 1000,
            unsent: 0,
            without_lag: figures(p99, ErrorCounts::default()),
            saturated: false,
            late: false,
        }
    }

    fn judged(observation: &Observation, goals: &[&str]) -> (Verdict, String) {
        let goals: Vec<Condition> =
            goals.iter().map(|goal| Condition::goal(goal).unwrap()).collect();
        let (verdict, reasons) = judge(observation, &goals);
        (verdict, reasons.join(", "))
    }

    #[test]
    fn all_goals_have_to_be_met() {
        let run = observed(1500.0);
        assert_eq!(judged(&run, &["p99<2ms", "max<2ms"]), (Verdict::Met, String::new()));
        let (verdict, reasons) = judged(&run, &["p99<2ms", "max<1ms", "p50<100us"]);
        assert_eq!((verdict, &*reasons), (Verdict::Missed, "max 1500.0 us, p50 150.0 us"));
    }

    #[test]
    fn a_rate_that_is_not_kept_up_is_missed_whatever_the_goals() {
        let behind = Observation { done: 989, ..observed(10.0) };
        let reason = "only 989 of 1,000 echoed in time".to_owned();
        assert_eq!(judged(&behind, &["p50<1s"]), (Verdict::Missed, reason));
        let unsent = Observation { unsent: 1, ..observed(10.0) };
        let reason = "1 of 1,000 not sent".to_owned();
        assert_eq!(judged(&unsent, &["p50<1s"]), (Verdict::Missed, reason));
        let on_its_way = Observation { done: 990, ..observed(10.0) };
        assert_eq!(judged(&on_its_way, &["p50<1s"]).0, Verdict::Met);
    }

    #[test]
    fn errors_miss_unless_a_goal_says_how_many_may_be() {
        let mut run = observed(10.0);
        let errors = ErrorCounts { wrong: 2, total: 2, ..ErrorCounts::default() };
        run.figures = figures(10.0, errors);
        // Wrong echoes are the server's, however busy the generator is.
        run.saturated = true;
        assert_eq!(judged(&run, &["p99<1s"]), (Verdict::Missed, "2 errors".to_owned()));
        assert_eq!(judged(&run, &["p99<1s", "errors<3"]).0, Verdict::Met);
        let (verdict, reasons) = judged(&run, &["errors<2"]);
        assert_eq!((verdict, &*reasons), (Verdict::Missed, "errors 2"));
    }

    #[test]
    fn a_busy_generator_is_named_only_where_the_goals_are_missed() {
        let busy = |p99| Observation { saturated: true, ..observed(p99) };
        assert_eq!(judged(&busy(3000.0), &["p99<2ms"]).0, Verdict::GeneratorLimited);
        assert_eq!(judged(&busy(1000.0), &["p99<2ms"]).0, Verdict::Met);
    }

    #[test]
    fn a_late_generator_is_named_only_if_the_lag_makes_the_difference() {
        let late = Observation {
            late: true,
            without_lag: figures(1000.0, ErrorCounts::default()),
            ..observed(3000.0)
        };
        assert_eq!(judged(&late, &["p99<2ms"]).0, Verdict::GeneratorLimited);
        // What a server that reads slowly holds back is sent late too, and slow from then on.
        let slow =
            Observation { without_lag: figures(2500.0, ErrorCounts::default()), ..late.clone() };
        assert_eq!(judged(&slow, &["p99<2ms"]).0, Verdict::Missed);
        let behind = Observation { done: 900, ..late.clone() };
        assert_eq!(judged(&behind, &["p99<1s"]).0, Verdict::Missed);
        let unsent = Observation { unsent: 1, ..late };
        assert_eq!(judged(&unsent, &["p99<1s"]).0, Verdict::Missed);
    }

    #[test]
    fn cycles_are_judged_by_handshakes_too_and_are_late_by_whom_they_are() {
        let figures = |handshake, cycle| {
            Figures::Cycles(CycleMeasurement {
                cycles_per_second: 1000.0,
                handshake_us: Some(latency(handshake)),
                cycle_us: Some(latency(cycle)),
                errors: ErrorCounts::default(),
                server: None,
            })
        };
        let run = Observation {
            figures: figures(1500.0, 3000.0),
            without_lag: figures(1500.0, 3000.0),
            ..observed(0.0)
        };
        let judged = |observation: &Observation, goals: &[&str]| {
            let goals: Vec<Condition> =
                goals.iter().map(|goal| Condition::goal_of_cycles(goal).unwrap()).collect();
            let (verdict, reasons) = judge(observation, &goals);
            (verdict, reasons.join(", "))
        };
        let goals = ["p99<4ms", "handshake.p99<1ms"];
        assert_eq!(judged(&run, &["p99<4ms"]), (Verdict::Met, String::new()));
        let reason = "handshake.p99 1500.0 us".to_owned();
        assert_eq!(judged(&run, &goals), (Verdict::Missed, reason.clone()));
        // Held back by others, cycles are late without the generator being so.
        let held_back = Observation { late: true, ..run.clone() };
        assert_eq!(judged(&held_back, &goals), (Verdict::Missed, reason.clone()));
        let late = Observation { without_lag: figures(900.0, 2400.0), ..held_back };
        assert_eq!(judged(&late, &goals), (Verdict::GeneratorLimited, reason));
        let behind = Observation { done: 900, ..run.clone() };
        let reason = "only 900 of 1,000 ended in time".to_owned();
        assert_eq!(judged(&behind, &["p99<4ms"]), (Verdict::Missed, reason));
        let unbegun = Observation { unsent: 1, ..run };
        let reason = "1 of 1,000 not begun".to_owned();
        assert_eq!(judged(&unbegun, &["p99<4ms"]), (Verdict::Missed, reason));
    }
}
