//! One of several runs that belong together, of messages or of cycles: what a search tries at each
//! rate, and a comparison on each side.

use std::sync::atomic::AtomicBool;

use serde::Serialize;

use super::{
    churn::{
        self,
        plan::ChurnPlan,
        report::{ChurnReport, CycleFloor, CycleMeasurement, CycleUsage, PlannedCycles},
    },
    floor,
    run::{RunError, run},
};
use crate::{
    count::{errors::ErrorCounts, latency_report::LatencyReport},
    plan::{Exchange, Load, Plan, condition::metric::Metric, rate::Rate},
    result::{
        layers::Layers,
        measurement::{Measured, Measurement},
        progress::Progress,
        report::{EachRun, OpenLoopReport, Report, WayIn, floor_in_words},
        usage::UsageReport,
    },
    text::warning::Warning,
};

/// What each run is.
#[derive(Clone, Debug)]
pub enum TrialPlan {
    /// Messages on connections that stay.
    Messages(Plan),
    /// Connections that come and go.
    Cycles(ChurnPlan),
}

impl TrialPlan {
    /// What its rate is of.
    pub(crate) fn exchange(&self) -> Exchange {
        match self {
            Self::Messages(_) => Exchange::Message,
            Self::Cycles(_) => Exchange::Cycle,
        }
    }

    /// The same at a constant rate.
    pub(crate) fn at_rate(&self, rate: f64) -> Self {
        let load = Load::Open(Rate::constant(rate));
        match self.clone() {
            Self::Messages(plan) => Self::Messages(Plan { load, ..plan }),
            Self::Cycles(plan) => Self::Cycles(ChurnPlan { load, ..plan }),
        }
    }

    /// The URL that connections are opened to.
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Messages(plan) => plan.connector.url(),
            Self::Cycles(plan) => plan.connector.url(),
        }
    }

    /// How connections get there; `None` if straight.
    pub(crate) fn way_in(&self) -> Option<WayIn> {
        match self {
            Self::Messages(plan) => WayIn::of(&plan.connector),
            Self::Cycles(plan) => WayIn::of(&plan.connector),
        }
    }

    /// What each of several such runs is.
    pub(crate) fn each_run(&self) -> EachRun {
        match self {
            Self::Messages(plan) => plan.into(),
            Self::Cycles(plan) => plan.into(),
        }
    }

    /// Measures the generator's own part of latency; a warning says why it is not known.
    pub fn floor(&self, interrupted: &AtomicBool) -> Result<Floor, Warning> {
        match self {
            Self::Messages(plan) => floor::measure_messages(plan, interrupted).map(Floor::Messages),
            Self::Cycles(plan) => floor::measure_cycles(plan, interrupted).map(Floor::Cycles),
        }
    }

    /// Carries the plan out; an error if not one connection opened, for no other trial would open one.
    pub(crate) fn carry_out(
        self,
        interrupted: &AtomicBool,
        progress: &mut Progress,
    ) -> Result<TrialReport, RunError> {
        let report = match self {
            Self::Messages(plan) => {
                TrialReport::Messages(Box::new(run(plan, interrupted, progress)?))
            }
            Self::Cycles(plan) => {
                TrialReport::Cycles(Box::new(churn::run(plan, interrupted, progress)?))
            }
        };
        match report.not_opened() {
            Some(warning) if !report.has_opened() => Err(RunError::NotOpened(warning)),
            _ => Ok(report),
        }
    }
}

/// The report of a run or of a churn.
#[derive(Debug)]
pub(crate) enum TrialReport {
    Messages(Box<Report>),
    Cycles(Box<ChurnReport>),
}

impl TrialReport {
    /// Warns of connections that never opened; of a churn, only if not one did.
    pub(crate) fn not_opened(&self) -> Option<Warning> {
        match self {
            Self::Messages(report) => report.not_opened(),
            Self::Cycles(report) => report.not_opened(),
        }
    }

    /// Whether a connection was opened; true also of a trial that was interrupted.
    fn has_opened(&self) -> bool {
        match self {
            Self::Messages(report) => report.connections.opened > 0 || report.interrupted,
            Self::Cycles(report) => report.not_opened().is_none() || report.interrupted,
        }
    }

    pub(crate) fn figures(&self) -> Figures {
        match self {
            Self::Messages(report) => Figures::Messages((&**report).into()),
            Self::Cycles(report) => Figures::Cycles((&**report).into()),
        }
    }

    /// What came of the layers below its WebSocket connections.
    pub(crate) fn layers(&self) -> &Layers {
        match self {
            Self::Messages(report) => &report.layers,
            Self::Cycles(report) => &report.layers,
        }
    }

    /// When its measured window began, in RFC 3339.
    pub(crate) fn began(&self) -> &str {
        match self {
            Self::Messages(report) => &report.began,
            Self::Cycles(report) => &report.began,
        }
    }

    /// What the generator used.
    pub(crate) fn generator(&self) -> Option<Usage> {
        match self {
            Self::Messages(report) => report.generator.map(Usage::Messages),
            Self::Cycles(report) => report.generator.map(Usage::Cycles),
        }
    }

    /// How well the plan was kept.
    pub(crate) fn open_loop(&self) -> Option<Planned> {
        match self {
            Self::Messages(report) => report.open_loop.clone().map(Planned::Messages),
            Self::Cycles(report) => report.open_loop.clone().map(Planned::Cycles),
        }
    }

    pub(crate) fn warnings(&self) -> &[Warning] {
        match self {
            Self::Messages(report) => &report.warnings,
            Self::Cycles(report) => &report.warnings,
        }
    }
}

/// The figures that conditions bound.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Figures {
    /// Of messages.
    Messages(Measurement),
    /// Of cycles.
    Cycles(CycleMeasurement),
}

impl Figures {
    /// Correct echoes, or cycles, a second.
    pub(crate) fn per_second(&self) -> f64 {
        match self {
            Self::Messages(figures) => figures.messages_per_second,
            Self::Cycles(figures) => figures.cycles_per_second,
        }
    }

    /// Latency of echoes or of whole cycles, from their planned instants.
    pub(crate) fn latency(&self) -> Option<LatencyReport> {
        match self {
            Self::Messages(figures) => figures.latency_us,
            Self::Cycles(figures) => figures.cycle_us,
        }
    }

    pub(crate) fn errors(&self) -> &ErrorCounts {
        match self {
            Self::Messages(figures) => &figures.errors,
            Self::Cycles(figures) => &figures.errors,
        }
    }

    /// Whether these are of messages or of cycles.
    pub(crate) fn exchange(&self) -> Exchange {
        match self {
            Self::Messages(_) => Exchange::Message,
            Self::Cycles(_) => Exchange::Cycle,
        }
    }
}

impl Measured for Figures {
    fn value(&self, metric: Metric) -> Option<f64> {
        match self {
            Self::Messages(figures) => figures.value(metric),
            Self::Cycles(figures) => figures.value(metric),
        }
    }
}

/// The generator's own part of latency.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Floor {
    /// Of an echo.
    Messages(LatencyReport),
    /// Of a handshake and of a cycle.
    Cycles(CycleFloor),
}

impl Floor {
    /// A percentile of the floor that its samples can tell and that is no longer than its `metric`:
    /// that one, or else the next lower one, with its name. `None` of what is no percentile.
    pub(crate) fn at_most(&self, metric: Metric) -> Option<(String, f64)> {
        let (latency, prefix, metric) = match (self, metric.within_handshake()) {
            (Self::Messages(latency), None) => (latency, "", metric),
            (Self::Messages(_), Some(_)) => return None,
            (Self::Cycles(floor), None) => (&floor.cycle, "", metric),
            (Self::Cycles(floor), Some(metric)) => (&floor.handshake, "handshake.", metric),
        };
        let rank = |metric| Metric::PERCENTILES.iter().position(|it| *it == metric);
        let asked = rank(metric)?;
        let (percentile, value) =
            latency.certain().take_while(|(metric, _)| rank(*metric) <= Some(asked)).last()?;
        Some((format!("{prefix}{}", percentile.name()), value))
    }
}

impl std::fmt::Display for Floor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Messages(floor) => f.write_str(&floor_in_words(floor)),
            Self::Cycles(floor) => floor.fmt(f),
        }
    }
}

/// What a process used.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Usage {
    /// For each message.
    Messages(UsageReport),
    /// For each cycle.
    Cycles(CycleUsage),
}

/// How well an open loop kept to its plan.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Planned {
    /// Of messages.
    Messages(OpenLoopReport),
    /// Of cycles.
    Cycles(PlannedCycles),
}

impl Planned {
    /// How many were planned in the measured window.
    pub(crate) fn planned(&self) -> u64 {
        match self {
            Self::Messages(planned) => planned.planned,
            Self::Cycles(planned) => planned.planned,
        }
    }

    /// How many of these never were sent, or begun.
    pub(crate) fn undone(&self) -> u64 {
        match self {
            Self::Messages(planned) => planned.unsent,
            Self::Cycles(planned) => planned.unbegun,
        }
    }
}
