//! What conditions are held against: the metrics of a result, and their ratios to those of another.

#![expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]

use serde::{Deserialize, Serialize, Serializer};

use super::Metric;
use crate::{
    count::tally::ErrorCounts,
    result::report::{LatencyReport, Report, UsageReport},
};

/// What metrics are, divided by what they were elsewhere; those that both have.
#[derive(Clone, Debug)]
pub struct Ratios<T>(Vec<(Metric, T)>);

impl<T> Ratios<T> {
    pub(crate) fn new(ratio: impl Fn(Metric) -> Option<T>) -> Self {
        let metrics = Metric::ALL.into_iter().filter(|metric| metric.has_ratio());
        Self(metrics.filter_map(|metric| Some((metric, ratio(metric)?))).collect())
    }

    pub(crate) fn get(&self, metric: Metric) -> Option<&T> {
        self.iter().find(|(known, _)| *known == metric).map(|(_, ratio)| ratio)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Metric, &T)> {
        self.0.iter().map(|(metric, ratio)| (*metric, ratio))
    }
}

impl<T: Serialize> Serialize for Ratios<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(metric, ratio)| (metric.name(), ratio)))
    }
}

/// Those figures of a run that conditions are about, with the names of its JSON.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Measurement {
    /// Correct echoes.
    pub(crate) messages_per_second: f64,
    /// Corrected, in an open loop.
    pub(crate) latency_us: Option<LatencyReport>,
    /// In the whole run.
    pub(crate) errors: ErrorCounts,
    /// What the server used, if its process was named.
    #[serde(default)]
    pub(crate) server: Option<UsageReport>,
}

impl From<&Report> for Measurement {
    fn from(report: &Report) -> Self {
        let Report { messages_per_second, latency_us, errors, server, .. } = *report;
        Self { messages_per_second, latency_us, errors, server }
    }
}

impl Measurement {
    /// A metric's value, in microseconds if it is a time; `None` if it was not measured.
    pub(crate) fn value(&self, metric: Metric) -> Option<f64> {
        let latency = |value: fn(&LatencyReport) -> f64| self.latency_us.as_ref().map(value);
        match metric {
            Metric::P50 => latency(|latency| latency.p50),
            Metric::P90 => latency(|latency| latency.p90),
            Metric::P99 => latency(|latency| latency.p99),
            Metric::P99_9 => latency(|latency| latency.p99_9),
            Metric::P99_99 => latency(|latency| latency.p99_99),
            Metric::Max => latency(|latency| latency.max),
            Metric::Mean => latency(|latency| latency.mean),
            Metric::MessagesPerSecond => Some(self.messages_per_second),
            Metric::ServerCpuPerMessage => {
                self.server.and_then(|server| Some(server.cpu_us_per_message?.total))
            }
            Metric::Errors => Some(self.errors.total as f64),
        }
    }

    /// A metric's value, divided by what it is in `other`; `None` if either is not measured, or
    /// zero, which tells nothing of how much more the other is.
    pub(crate) fn ratio(&self, other: &Self, metric: Metric) -> Option<f64> {
        let ratio = self.value(metric)? / other.value(metric)?;
        (ratio.is_finite() && ratio > 0.0).then_some(ratio)
    }
}
