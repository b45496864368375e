//! The result of a comparison: for people ([`Display`](fmt::Display)) and for programs (JSON, whose
//! shape `compare` in `loadtest/report.schema.json` describes).

use std::fmt;

use serde::Serialize;

use super::{
    bootstrap::{CONFIDENCE, Interval, RESAMPLES},
    plan::ComparePlan,
};
use crate::{
    modes::trial::{Figures, Floor, TrialPlan, TrialReport, Usage},
    plan::{Exchange, condition::metric::Metric},
    result::{
        check::Check,
        layers::Layers,
        measurement::{Measured, Ratios},
        report::{EachRun, VERSION, WayIn, write_way_in},
    },
    text::{
        numbers::{counted, grouped, rate},
        warning::Warning,
    },
};

/// The result of a comparison.
#[derive(Debug, Serialize)]
pub struct CompareReport {
    /// The version of this program.
    pub version: &'static str,
    /// What the other is compared with.
    pub a: SideReport,
    /// What is compared.
    pub b: SideReport,
    /// What each run was.
    #[serde(flatten)]
    pub each_run: EachRun,
    /// The generator's own part of a latency, of either server's, measured once before the first run;
    /// `None` if it was not measured.
    pub floor_us: Option<Floor>,
    /// Whether somebody ended it early; incomplete rounds are left out.
    pub interrupted: bool,
    /// Which part of the resamples lies within the intervals.
    pub confidence: f64,
    /// How often the rounds were drawn again.
    pub resamples: usize,
    /// What the draws follow from.
    pub seed: u64,
    /// B divided by A.
    pub ratios: Ratios<Interval>,
    /// What was to be checked, of B and of the ratios.
    pub checks: Vec<Check>,
    /// Errors in runs that are left out, since the interruption cut off their round.
    #[serde(skip)]
    pub errors_left_out: u64,
}

/// One of the two.
#[derive(Debug, Serialize)]
pub struct SideReport {
    /// The URL that connections were opened to.
    pub url: String,
    /// How they got there; `None` if straight.
    pub way_in: Option<WayIn>,
    /// Its runs, in their order.
    pub rounds: Vec<Round>,
}

/// One run.
#[derive(Debug, Serialize)]
pub struct Round {
    /// When its measured window began, in RFC 3339.
    pub began: String,
    /// What was measured.
    #[serde(flatten)]
    pub figures: Figures,
    /// What came of the layers below.
    #[serde(flatten)]
    pub layers: Layers,
    /// What the generator used.
    pub generator: Option<Usage>,
    /// What somebody should know who is about to believe it.
    pub warnings: Vec<Warning>,
}

impl From<&TrialReport> for Round {
    fn from(report: &TrialReport) -> Self {
        Self {
            figures: report.figures(),
            layers: report.layers().clone(),
            began: report.began().to_owned(),
            generator: report.generator(),
            warnings: report.warnings().to_vec(),
        }
    }
}

impl CompareReport {
    /// From the rounds of A and those of B, and the run that was interrupted, if one was.
    pub(super) fn new(
        plan: &ComparePlan,
        rounds: [Vec<Round>; 2],
        interrupted: Option<Round>,
    ) -> Self {
        let is_interrupted = interrupted.is_some();
        let [mut a, mut b] = rounds;
        let complete = a.len().min(b.len());
        let left_out = a.split_off(complete).into_iter().chain(b.split_off(complete));
        let left_out = left_out.chain(interrupted);
        let errors_left_out = left_out.map(|run| run.figures.errors().total).sum();
        let ratios = Ratios::new(metrics_of(plan.runs[0].exchange()), |metric| {
            let ratio = |(a, b): (&Round, &Round)| b.figures.ratio(&a.figures, metric);
            let ratios: Option<Vec<f64>> = a.iter().zip(&b).map(ratio).collect();
            Interval::new(&ratios?, plan.seed)
        });
        let side = |run: &TrialPlan, rounds| SideReport {
            url: run.url().to_owned(),
            way_in: run.way_in(),
            rounds,
        };
        let [a, b] = [side(&plan.runs[0], a), side(&plan.runs[1], b)];
        let checks = plan.fail_if.iter().map(|condition| {
            let estimate = |metric| ratios.get(metric).map(|ratio: &Interval| ratio.estimate);
            Check::new(condition, |metric| b.value(metric), estimate)
        });
        Self {
            version: VERSION,
            checks: checks.collect(),
            a,
            b,
            each_run: plan.runs[0].each_run(),
            floor_us: None,
            errors_left_out,
            interrupted: is_interrupted,
            confidence: CONFIDENCE,
            resamples: RESAMPLES,
            seed: plan.seed,
            ratios,
        }
    }

    /// Adds the generator's own part of latency, or why that is not known.
    pub fn add_floor(&mut self, floor: Result<Floor, Warning>) {
        match floor {
            Ok(floor) => self.floor_us = Some(floor),
            Err(warning) => self.each_run.warnings.push(warning),
        }
    }

    /// Whether there was a round, and every message of every run was echoed correctly, also of runs
    /// that are left out.
    pub fn is_success(&self) -> bool {
        let rounds = || self.a.rounds.iter().chain(&self.b.rounds);
        let correct =
            |round: &Round| round.figures.errors().total == 0 && round.figures.per_second() > 0.0;
        self.errors_left_out == 0 && rounds().next().is_some() && rounds().all(correct)
    }

    /// Doubts about the runs: one of each kind for each side, with the side's letter.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (name, side) in [("A", &self.a), ("B", &self.b)] {
            let mut codes = Vec::new();
            for warning in side.rounds.iter().flat_map(|round| &round.warnings) {
                if !codes.contains(&warning.code) {
                    codes.push(warning.code);
                    warnings.push(format!("{name}: {warning}"));
                }
            }
        }
        warnings
    }
}

impl SideReport {
    /// The sum of errors; of everything else the median over the rounds, if all measured it.
    fn value(&self, metric: Metric) -> Option<f64> {
        let values = self.rounds.iter().map(|round| round.figures.value(metric));
        let values: Vec<f64> = values.collect::<Option<_>>()?;
        if metric == Metric::Errors { Some(values.iter().sum()) } else { median(values) }
    }

    /// The median over the rounds of a latency below, if all measured it.
    fn show_layer(&self, name: &str, metric: Metric) -> String {
        let values = self.rounds.iter().map(|round| {
            let latencies = round.layers.latencies();
            latencies.iter().find(|(it, _)| *it == name)?.1.value(metric)
        });
        let median = values.collect::<Option<_>>().and_then(median);
        median.map_or_else(String::new, |value| metric.show(value))
    }

    fn show(&self, metric: Metric) -> String {
        self.value(metric).map_or_else(String::new, |value| metric.show(value))
    }
}

/// What is measured of such a load.
fn metrics_of(exchange: Exchange) -> &'static [Metric] {
    match exchange {
        Exchange::Message => &Metric::OF_MESSAGES,
        Exchange::Cycle => &Metric::OF_CYCLES,
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

impl fmt::Display for CompareReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, side) in [("A", &self.a), ("B", &self.b)] {
            writeln!(f, "{name}  {}", side.url)?;
            write_way_in(f, side.way_in.as_ref())?;
        }
        writeln!(
            f,
            "  {}, {} of {} s each",
            self.each_run,
            counted(self.a.rounds.len() as u64, "round"),
            self.each_run.duration_seconds,
        )?;
        if self.interrupted {
            write!(f, "  interrupted: only the rounds that were complete")?;
            if self.errors_left_out > 0 {
                let errors = counted(self.errors_left_out, "error");
                write!(f, "; what is left out had {errors}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "\n  {:<22} {:>14} {:>14}   B / A", "", "A", "B")?;
        for (metric, interval) in self.ratios.iter() {
            let [a, b] = [&self.a, &self.b].map(|side| side.show(metric));
            let Interval { estimate, low, high } = interval;
            writeln!(
                f,
                "  {:<22} {a:>14} {b:>14}   {estimate:.3} ({low:.3} to {high:.3})",
                metric.name(),
            )?;
        }
        let [a, b] = [&self.a, &self.b].map(|side| side.show(Metric::Errors));
        writeln!(f, "  {:<22} {a:>14} {b:>14}", Metric::Errors.name())?;
        for name in Layers::LATENCIES {
            for metric in [Metric::P50, Metric::P99] {
                let [a, b] = [&self.a, &self.b].map(|side| side.show_layer(name, metric));
                if !(a.is_empty() && b.is_empty()) {
                    let name = format!("{name} {}", metric.name());
                    writeln!(f, "  {name:<22} {a:>14} {b:>14}")?;
                }
            }
        }
        writeln!(
            f,
            "\n  A and B: medians of the rounds; in brackets {} % of {} resamples, seed {}",
            self.confidence * 100.0,
            grouped(self.resamples as u64),
            self.seed
        )?;
        if let Some(floor) = &self.floor_us {
            writeln!(f, "  floor: {floor}")?;
        }
        self.checks.iter().try_for_each(|check| writeln!(f, "  {check}"))
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exchanges = self.figures.exchange().plural();
        write!(f, "{} {exchanges}/s", rate(self.figures.per_second()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 9.0, 2.0]), Some(3.0));
    }
}
