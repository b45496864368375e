//! What an open loop planned, in a result, and how well that was kept.

use std::fmt;

use serde::Serialize;

use crate::{
    count::{latency::Histograms, latency_report::LatencyReport, window_usage::WindowUsage},
    plan::{Load, Plan, Wait, rate::Arrivals, schedule::Schedule},
    text::numbers::{grouped, rounded},
};

/// How well an open loop kept to its plan, in the measured window.
#[derive(Clone, Debug, Serialize)]
pub struct OpenLoopReport {
    /// As it was asked for.
    pub rate: String,
    /// How the threads waited.
    pub wait: Wait,
    /// Threads, on average, that polled and found nothing to send or receive; `None` if they slept.
    pub polled_in_vain: Option<f64>,
    /// Messages planned.
    pub planned: u64,
    /// Planned messages that never were sent: the connection was not there, or the server did not
    /// let them through in time.
    pub unsent: u64,
    /// From the planned instant to that of sending; `None` if nothing was sent.
    pub send_lag_us: Option<LatencyReport>,
    /// From the instant of sending to the echo: what a generator says that waits for the server.
    pub uncorrected_latency_us: Option<LatencyReport>,
}

impl OpenLoopReport {
    pub(super) fn new(
        plan: &Plan,
        schedule: &Schedule,
        histograms: &Histograms,
        used: &WindowUsage,
    ) -> Option<Self> {
        let Load::Open(rate) = &plan.load else {
            return None;
        };
        let arrivals = Arrivals::new(rate, plan.warmup, plan.duration);
        let planned = arrivals.planned_within(schedule);
        Some(Self {
            rate: rate.to_string(),
            wait: plan.wait,
            polled_in_vain: used.polled_in_vain.as_ref().map(|parts| rounded(parts.iter().sum())),
            planned,
            unsent: planned.saturating_sub(histograms.lag.samples()),
            send_lag_us: LatencyReport::new(&histograms.lag),
            uncorrected_latency_us: LatencyReport::new(&histograms.uncorrected),
        })
    }
}

/// What looking for something to do has taken, in words; `None` if threads slept.
pub(crate) fn polling_in_words(polled_in_vain: Option<f64>) -> Option<String> {
    let in_vain = polled_in_vain?;
    Some(format!("with nothing to do, polling took {in_vain:.2} CPUs"))
}

impl fmt::Display for OpenLoopReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(uncorrected) = &self.uncorrected_latency_us {
            writeln!(f, "   from send  {uncorrected}")?;
        }
        if let Some(send_lag) = &self.send_lag_us {
            writeln!(f, "  send lag    {send_lag}")?;
        }
        let unsent =
            if self.unsent == 0 { "all".to_owned() } else { grouped(self.unsent) + " not" };
        write!(f, "  planned     {} messages, {unsent} sent", grouped(self.planned))?;
        if let Some(polling) = polling_in_words(self.polled_in_vain) {
            write!(f, "; {polling}")?;
        }
        writeln!(f)
    }
}
