//! The result of a run: for programs (JSON, whose shape `loadtest/report.schema.json` describes)
//! and for people (its text). Parts of it that other results have too are modules of their own.

#![expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]

mod connections;
mod doubts;
mod each_run;
mod open_loop;
mod page;
mod provenance;
mod text;
mod way_in;

use humantime::format_rfc3339_millis;
use serde::Serialize;
use serde_json::json;

pub use self::{
    connections::Connections,
    each_run::{EachCycle, EachRun},
    open_loop::OpenLoopReport,
    provenance::Provenance,
    way_in::{HeaderWay, ProxyWay, WayIn},
};
pub(crate) use self::{
    connections::none_opened,
    doubts::{SEND_LAG_MAX, generator_saturated, shared_cpus},
    open_loop::polling_in_words,
    page::SharedFacts,
    provenance::VERSION,
    text::{floor_in_words, write_errors},
    way_in::write_way_in,
};
use crate::{
    count::{
        errors::{Cause, ErrorCounts, WrongEchoCounts},
        latency_report::LatencyReport,
        timeline::Recording,
        window_usage::{UsedInWindow, WindowUsage},
    },
    payload::{EchoKind, PayloadKind, Verify},
    plan::{Plan, condition::Condition, schedule::Schedule},
    result::{
        baseline::{Baseline, BaselineReport},
        check::Check,
        host::Host,
        layers::Layers,
        measurement::{Measured, Measurement},
        usage::UsageReport,
    },
    text::{
        numbers::{per_second, rounded},
        warning::Warning,
    },
};

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What it was measured with, and on whom.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// TLS and HTTP/2, if there were any.
    #[serde(flatten)]
    pub layers: Layers,
    /// How many.
    pub connections: Connections,
    /// Messages in flight on each connection; in an open loop at most.
    pub depth: usize,
    /// What was planned, and how well it was kept; `None` in a closed loop.
    pub open_loop: Option<OpenLoopReport>,
    /// What is in the messages, in words.
    pub payload: String,
    /// Bytes of payload of each message, on average.
    pub payload_bytes: usize,
    /// Frames that each message was sent in.
    pub fragments: usize,
    /// Whether compression was offered, and on how many connections it was agreed to.
    pub compression: Option<CompressionReport>,
    /// What of the echoes was compared with their messages.
    pub verify: Verify,
    /// Whether the messages were texts.
    pub text: bool,
    /// Whether the server echoed TCP as it is.
    pub raw_tcp: bool,
    /// Load before the measured window.
    pub warmup_seconds: f64,
    /// Length of the measured window; shorter than planned if the run ended early.
    pub duration_seconds: f64,
    /// Whether somebody ended the run early.
    pub interrupted: bool,
    /// Correct echoes that arrived in the measured window.
    pub messages: u64,
    /// Correct echoes in the whole run, warm-up included.
    pub messages_total: u64,
    /// `messages`, for each second.
    pub messages_per_second: f64,
    /// Payload of these echoes, in 10^6 bytes for each second.
    pub payload_megabytes_per_second: f64,
    /// Latency of the messages that were planned in the measured window, from the planned instant,
    /// which in a closed loop is that of sending; `None` if none was answered.
    pub latency_us: Option<LatencyReport>,
    /// Latency of an echo that takes as little time as can be: the generator's own part; `None` if
    /// it was not measured.
    pub floor_us: Option<LatencyReport>,
    /// Errors in the whole run, warm-up included.
    pub errors: ErrorCounts,
    /// What was wrong with the messages that these count as wrong.
    pub wrong_echoes: WrongEchoCounts,
    /// Why errors happened: the most frequent causes.
    pub causes: Vec<Cause>,
    /// What the generator used in the measured window.
    pub generator: Option<UsageReport>,
    /// What the server used in the measured window, if its process was named.
    pub server: Option<UsageReport>,
    /// When the measured window began, in RFC 3339.
    pub began: String,
    /// The machine of the generator.
    pub host: Host,
    /// What somebody should know who is about to believe the numbers.
    pub warnings: Vec<Warning>,
    /// The comparison with an earlier run, if there was to be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<BaselineReport>,
    /// What must not be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// The measured window second by second.
    #[serde(skip)]
    pub recording: Recording,
}

/// How compression was agreed to.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CompressionReport {
    /// Connections on which messages were compressed, also those that were opened again.
    pub connections: u64,
}

impl Report {
    pub(crate) fn new(
        plan: &Plan,
        recording: Recording,
        schedule: &Schedule,
        interrupted: bool,
        window: &WindowUsage,
    ) -> Self {
        let (tally, measured) = (&recording.total, recording.measured);
        let messages = tally.exchanges_measured;
        let messages_per_second = per_second(messages as f64, measured);
        let usage = |used: &Option<UsedInWindow>| {
            used.as_ref().map(|used| UsageReport::new(used, measured, messages))
        };
        let mut report = Self {
            provenance: Provenance::new(&plan.connector, &plan.threads),
            layers: Layers::new(&plan.connector, tally),
            connections: Connections {
                requested: plan.connections,
                opened: tally.opened,
                lost: tally.lost,
                reopened: plan.reconnect.then_some(tally.reopened),
            },
            depth: plan.depth,
            open_loop: OpenLoopReport::new(plan, schedule, &tally.histograms, window),
            payload: plan.payload.source.to_string(),
            fragments: plan.fragments,
            verify: plan.payload.verify,
            compression: plan
                .compression
                .then_some(CompressionReport { connections: tally.compressed }),
            payload_bytes: plan.payload.source.len_mean(),
            text: plan.payload.kind == PayloadKind::Text,
            raw_tcp: plan.echo_kind == EchoKind::Bytes,
            warmup_seconds: plan.warmup.as_secs_f64(),
            duration_seconds: measured.as_secs_f64(),
            interrupted,
            messages,
            messages_total: tally.exchanges,
            messages_per_second: rounded(messages_per_second),
            payload_megabytes_per_second: rounded(
                per_second(tally.payload_measured as f64, measured) / 1e6,
            ),
            latency_us: LatencyReport::new(&tally.histograms.latency),
            floor_us: None,
            errors: tally.errors,
            wrong_echoes: tally.wrong_echoes,
            causes: tally.causes(),
            generator: usage(&window.generator),
            server: usage(&window.server),
            began: format_rfc3339_millis(recording.began).to_string(),
            host: Host::read(),
            warnings: Vec::new(),
            baseline: None,
            checks: Vec::new(),
            recording,
        };
        report.warnings = report.doubts(plan, window);
        report
    }

    /// Adds the generator's own part of latency, or why that is not known.
    pub fn add_floor(&mut self, floor: Result<LatencyReport, Warning>) {
        match floor {
            Ok(floor) => self.floor_us = Some(floor),
            Err(warning) => self.warnings.push(warning),
        }
    }

    /// Adds how the run compares with an earlier one, and whether the conditions hold.
    pub fn conclude(&mut self, baseline: Option<Baseline>, conditions: &[Condition]) {
        let measurement = Measurement::from(&*self);
        self.baseline = baseline.map(|baseline| baseline.compare(&measurement, &json!(self)));
        self.warnings.extend(self.baseline.as_ref().and_then(BaselineReport::doubt));
        let ratio = |metric| self.baseline.as_ref()?.ratios.get(metric).copied();
        let check = |condition| Check::new(condition, |metric| measurement.value(metric), ratio);
        self.checks = conditions.iter().map(check).collect();
    }

    /// Whether there were echoes, all of them correct, and nothing else went wrong.
    pub fn is_success(&self) -> bool {
        self.errors.total == 0 && self.messages > 0
    }
}

impl From<&Report> for Measurement {
    fn from(report: &Report) -> Self {
        let Report { messages_per_second, latency_us, errors, server, .. } = *report;
        Self { messages_per_second, latency_us, errors, server }
    }
}
