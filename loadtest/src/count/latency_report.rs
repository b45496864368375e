//! Latencies in a result: the percentiles of a histogram, in microseconds.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::latency::Latencies;
use crate::plan::condition::metric::Metric;

/// Samples beyond a percentile without which it is little else than the longest.
const SAMPLES_BEYOND_MIN: u64 = 10;

/// Latencies, in microseconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct LatencyReport {
    /// The shortest.
    pub min: f64,
    /// Half of the messages took at most this long, and so on.
    pub p50: f64,
    /// 90 %
    pub p90: f64,
    /// 99 %
    pub p99: f64,
    /// 99.9 %
    pub p99_9: f64,
    /// 99.99 %
    pub p99_99: f64,
    /// The longest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// How many messages that is.
    pub samples: u64,
}

impl LatencyReport {
    pub(crate) fn new(latencies: &Latencies) -> Option<Self> {
        (latencies.samples() > 0).then(|| Self {
            min: latencies.min_us(),
            p50: latencies.quantile_us(0.5),
            p90: latencies.quantile_us(0.9),
            p99: latencies.quantile_us(0.99),
            p99_9: latencies.quantile_us(0.999),
            p99_99: latencies.quantile_us(0.9999),
            max: latencies.max_us(),
            mean: latencies.mean_us(),
            samples: latencies.samples(),
        })
    }

    /// A metric of latencies; `None` of any other.
    pub(crate) fn value(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::P50 => Some(self.p50),
            Metric::P90 => Some(self.p90),
            Metric::P99 => Some(self.p99),
            Metric::P99_9 => Some(self.p99_9),
            Metric::P99_99 => Some(self.p99_99),
            Metric::Max => Some(self.max),
            Metric::Mean => Some(self.mean),
            _ => None,
        }
    }

    /// p50, and those of p90 and p99 that so many samples can tell, with their values.
    pub(crate) fn certain(&self) -> impl Iterator<Item = (Metric, f64)> + use<> {
        let Self { p50, p90, p99, samples, .. } = *self;
        [(Metric::P50, p50, 0), (Metric::P90, p90, 10), (Metric::P99, p99, 100)]
            .into_iter()
            .filter(move |(.., one_in)| samples >= one_in * SAMPLES_BEYOND_MIN)
            .map(|(metric, value, _)| (metric, value))
    }

    /// The same as a text: `p50 9.1  p90 12.0`.
    pub(crate) fn in_words(&self) -> String {
        let percentiles =
            self.certain().map(|(metric, value)| format!("{} {value:.1}", metric.name()));
        percentiles.collect::<Vec<String>>().join("  ")
    }
}

impl fmt::Display for LatencyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p99_9, p99_99, max, .. } = self;
        write!(
            f,
            "p50 {p50:.1}  p90 {p90:.1}  p99 {p99:.1}  p99.9 {p99_9:.1}  p99.99 {p99_99:.1}  \
             max {max:.1} us"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_told_if_enough_samples_lie_beyond() {
        for (samples, told) in [
            (1, "p50 5.0"),
            (99, "p50 5.0"),
            (100, "p50 5.0  p90 5.0"),
            (999, "p50 5.0  p90 5.0"),
            (1000, "p50 5.0  p90 5.0  p99 5.0"),
        ] {
            let mut latencies = Latencies::default();
            latencies.record(5000, samples);
            assert_eq!(LatencyReport::new(&latencies).unwrap().in_words(), told, "{samples}");
        }
    }
}
