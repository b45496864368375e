//! The result of a search: for people ([`Display`](fmt::Display)) and for programs (JSON, whose
//! shape `search` in `loadtest/report.schema.json` describes).

use std::fmt;

use serde::Serialize;

use super::{
    bisection::{Answer, Limit, Settings, Stage},
    plan::SearchPlan,
    verdict::Verdict,
};
use crate::{
    count::latency_report::LatencyReport,
    modes::trial::{Figures, Floor, Planned, TrialReport, Usage},
    plan::{Exchange, condition::Condition},
    result::{
        layers::Layers,
        report::{EachRun, VERSION, WayIn, write_way_in},
    },
    text::{
        numbers::{counted, rate, rounded},
        warning::{Warning, WarningCode},
    },
};

/// The result of a search.
#[derive(Debug, Serialize)]
pub struct SearchReport {
    /// The version of this program.
    pub version: &'static str,
    /// The URL that connections were opened to.
    pub url: String,
    /// How they got there; `None` if straight.
    pub way_in: Option<WayIn>,
    /// What a rate had to meet.
    pub slo: Vec<Condition>,
    /// What the answer may be below the truth, as a part of it.
    pub precision: f64,
    /// How often the answer was to be confirmed.
    pub confirmations: usize,
    /// The highest rate that met the goals, in messages or cycles a second; `None` if none did.
    pub rate: Option<f64>,
    /// Whether all runs that had to confirm that have.
    pub confirmed: bool,
    /// Why it is not higher.
    pub limited_by: Limit,
    /// What each run was.
    #[serde(flatten)]
    pub each_run: EachRun,
    /// The generator's own part of a latency, measured once before the first run; `None` if it was
    /// not measured.
    pub floor_us: Option<Floor>,
    /// What the rates are of.
    #[serde(skip)]
    pub exchange: Exchange,
    /// In the order in which they were run.
    pub probes: Vec<Probe>,
}

/// A run at one rate.
#[derive(Debug, Serialize)]
pub struct Probe {
    /// Messages or cycles a second, as planned.
    pub rate: f64,
    /// What it was for.
    pub stage: Stage,
    /// How it went.
    pub verdict: Verdict,
    /// Why it missed; empty if it did not.
    pub reasons: Vec<String>,
    /// What was measured.
    #[serde(flatten)]
    pub figures: Figures,
    /// What came of the layers below.
    #[serde(flatten)]
    pub layers: Layers,
    /// How well the plan was kept.
    pub open_loop: Option<Planned>,
    /// What the generator used.
    pub generator: Option<Usage>,
    /// What somebody should know who is about to believe it.
    pub warnings: Vec<Warning>,
}

impl Probe {
    pub(crate) fn new(
        rate: f64,
        stage: Stage,
        verdict: Verdict,
        reasons: Vec<String>,
        report: &TrialReport,
    ) -> Self {
        Self {
            rate,
            stage,
            verdict,
            reasons,
            figures: report.figures(),
            layers: report.layers().clone(),
            open_loop: report.open_loop(),
            generator: report.generator(),
            warnings: report.warnings().to_vec(),
        }
    }
}

impl SearchReport {
    pub(crate) fn new(plan: &SearchPlan, probes: Vec<Probe>, answer: Answer) -> Self {
        let SearchPlan { run, goals, settings: Settings { precision, confirmations, .. } } = plan;
        Self {
            version: VERSION,
            url: run.url().to_owned(),
            way_in: run.way_in(),
            slo: goals.clone(),
            precision: *precision,
            confirmations: *confirmations,
            rate: answer.rate,
            confirmed: answer.confirmed,
            limited_by: answer.limit,
            each_run: EachRun { rate: None, ..run.each_run() },
            exchange: run.exchange(),
            floor_us: None,
            probes,
        }
    }

    /// Adds the generator's own part of latency, or why that is not known.
    pub fn add_floor(&mut self, floor: Result<Floor, Warning>) {
        match floor {
            Ok(floor) => {
                let below = self.slo.iter().filter_map(|goal| slo_below_floor(goal, &floor));
                self.each_run.warnings.extend(below);
                self.floor_us = Some(floor);
            }
            Err(warning) => self.each_run.warnings.push(warning),
        }
    }

    /// Whether a rate was found and confirmed.
    pub fn is_success(&self) -> bool {
        self.confirmed
    }

    /// Doubts about the last run, which is the one that the answer stands on.
    pub fn warnings(&self) -> &[Warning] {
        self.probes.last().map_or(&[], |probe| &probe.warnings)
    }

    fn write_answer(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate {
            None => write!(f, "  no rate met the target")?,
            Some(per_second) => {
                write!(f, "  sustained   {} {}/s", rate(per_second), self.exchange.plural())?;
            }
        }
        if self.confirmed {
            write!(f, ", confirmed by {}", counted(self.confirmations as u64, "run"))?;
        } else if self.rate.is_some() {
            f.write_str(", not confirmed")?;
        }
        let missed = self.probes.iter().filter(|probe| probe.verdict != Verdict::Met);
        let above = missed.map(|probe| probe.rate).filter(|missed| Some(*missed) > self.rate);
        let above = above.fold(f64::INFINITY, f64::min);
        match self.limited_by {
            Limit::Server => writeln!(f, "; the server missed it at {}", rate(above)),
            Limit::Generator => writeln!(
                f,
                "; at {} the generator was the limit, and the server may be able to do more: give \
                 the generator more with --threads or --cpus",
                rate(above)
            ),
            Limit::MaxRate => writeln!(f, "; that is --max-rate"),
            Limit::Unstable => {
                writeln!(f, "; what met the target once missed it later: measure for longer")
            }
            Limit::Interrupted => writeln!(f, "; interrupted"),
        }
    }
}

/// The doubt about a goal that a server without any time of its own would miss.
fn slo_below_floor(goal: &Condition, floor: &Floor) -> Option<Warning> {
    let (name, value) = floor.at_most(goal.subject().metric)?;
    (!goal.holds(value)).then(|| {
        let text = format!(
            "--slo {goal} is below the generator's own floor ({name} {value:.1} us): no server can \
             meet it from here"
        );
        Warning::new(WarningCode::SloBelowFloor, text)
    })
}

impl fmt::Display for SearchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let goals: Vec<String> = self.slo.iter().map(ToString::to_string).collect();
        writeln!(f, "{}", self.url)?;
        write_way_in(f, self.way_in.as_ref())?;
        writeln!(f, "  {}, runs of {} s", self.each_run, self.each_run.duration_seconds)?;
        writeln!(
            f,
            "  target      {}, to {} %",
            goals.join(" and "),
            rounded(self.precision * 100.0)
        )?;
        if let Some(floor) = &self.floor_us {
            writeln!(f, "  floor       {floor}")?;
        }
        writeln!(f)?;
        for probe in &self.probes {
            writeln!(f, "{probe}")?;
            for (name, LatencyReport { p50, p99, max, .. }) in probe.layers.latencies() {
                writeln!(f, "           {name}  p50 {p50:.1}  p99 {p99:.1}  max {max:.1} us")?;
            }
        }
        writeln!(f)?;
        self.write_answer(f)
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Bracket => "bracket",
            Stage::Bisect => "bisect",
            Stage::Confirm => "confirm",
        };
        let exchanges = self.figures.exchange().plural();
        write!(f, "  {stage:<8} {:>11} {exchanges}/s", rate(self.rate))?;
        if let Some(LatencyReport { p50, p99, max, .. }) = self.figures.latency() {
            write!(f, "  p50 {p50:.1}  p99 {p99:.1}  max {max:.1} us")?;
        }
        match self.verdict {
            Verdict::Met => write!(f, "  met"),
            Verdict::Missed => write!(f, "  missed: {}", self.reasons.join(", ")),
            Verdict::GeneratorLimited => {
                write!(f, "  generator limited: {}", self.reasons.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modes::churn::report::CycleFloor;

    #[test]
    fn a_target_that_no_server_can_meet_is_warned_about() {
        let latency = |p50: f64, samples| LatencyReport {
            min: p50 / 2.0,
            p50,
            p90: p50 * 1.5,
            p99: p50 * 2.0,
            p99_9: p50 * 100.0,
            p99_99: p50 * 100.0,
            max: p50 * 100.0,
            mean: p50 * 2.0,
            samples,
        };
        let messages = Floor::Messages(latency(10.0, 1120));
        let few = Floor::Messages(latency(10.0, 140));
        let cycles = Floor::Cycles(CycleFloor {
            handshake: latency(100.0, 140),
            cycle: latency(200.0, 140),
            messages_per_cycle: 1,
        });
        for (floor, goal, below) in [
            (messages, "p50<11us", None),
            (messages, "p50<10us", Some("p50 10.0 us")),
            (messages, "p99<20.1us", None),
            (messages, "p99<19us", Some("p99 20.0 us")),
            // Of the longest, the floor tells that they are not shorter than p99.
            (messages, "p99.9<19us", Some("p99 20.0 us")),
            (messages, "max<100us", None),
            (few, "p99<16us", None),
            (few, "p99<14us", Some("p90 15.0 us")),
            // One hiccup may have made it.
            (messages, "mean<1us", None),
            (messages, "errors<1", None),
            (cycles, "p90<300us", Some("p90 300.0 us")),
            (cycles, "p90<301us", None),
            (cycles, "handshake.p50<90us", Some("handshake.p50 100.0 us")),
            (cycles, "handshake.max<140us", Some("handshake.p90 150.0 us")),
            (cycles, "handshake.p99<160us", None),
        ] {
            let condition = Condition::goal_of_cycles(goal).unwrap();
            let warning = slo_below_floor(&condition, &floor).map(|warning| warning.text);
            let expected = below.map(|below| {
                format!(
                    "--slo {goal} is below the generator's own floor ({below}): no server can meet \
                     it from here"
                )
            });
            assert_eq!(warning, expected, "{goal}");
        }
    }
}
