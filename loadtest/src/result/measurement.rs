//! What conditions are held against: the metrics of a result, and their ratios to those of another.

#![expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]

use serde::{Deserialize, Serialize, Serializer};

use super::usage::UsageReport;
use crate::{
    count::{errors::ErrorCounts, latency_report::LatencyReport},
    plan::condition::{Condition, metric::Metric},
};

/// What metrics are, divided by what they were elsewhere; those that both have.
#[derive(Clone, Debug)]
pub struct Ratios<T>(Vec<(Metric, T)>);

impl<T> Ratios<T> {
    /// Those of `metrics` that have one.
    pub(crate) fn new(metrics: &[Metric], ratio: impl Fn(Metric) -> Option<T>) -> Self {
        let metrics = metrics.iter().copied().filter(|metric| metric.has_ratio());
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

/// What conditions are held against.
pub(crate) trait Measured {
    /// A metric's value, in microseconds if it is a time; `None` if it was not measured.
    fn value(&self, metric: Metric) -> Option<f64>;

    /// Whether a goal holds. It does not, if its metric was not measured.
    fn meets(&self, goal: &Condition) -> bool {
        self.value(goal.subject().metric).is_some_and(|value| goal.holds(value))
    }

    /// What the metric of a goal was, in words.
    fn describe(&self, goal: &Condition) -> String {
        goal.describe(self.value(goal.subject().metric))
    }

    /// A metric's value, divided by what it is in `other`; `None` if either is not measured, or
    /// zero, which tells nothing of how much more the other is.
    fn ratio(&self, other: &Self, metric: Metric) -> Option<f64> {
        let ratio = self.value(metric)? / other.value(metric)?;
        (ratio.is_finite() && ratio > 0.0).then_some(ratio)
    }
}

/// Those figures of a run that conditions are about, with the names of its JSON.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Measurement {
    /// Correct echoes in a second.
    pub(crate) messages_per_second: f64,
    /// Latency, from the planned instant in an open loop.
    pub(crate) latency_us: Option<LatencyReport>,
    /// Errors in the whole run.
    pub(crate) errors: ErrorCounts,
    /// What the server used, if its process was named.
    #[serde(default)]
    pub(crate) server: Option<UsageReport>,
}

impl Measured for Measurement {
    fn value(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::MessagesPerSecond => Some(self.messages_per_second),
            Metric::ServerCpuPerMessage => {
                self.server.and_then(|server| Some(server.cpu_us_per_message?.total))
            }
            Metric::Errors => Some(self.errors.total as f64),
            _ => self.latency_us?.value(metric),
        }
    }
}

#[cfg(test)]
pub(crate) mod examples {
    use super::*;

    /// A measurement of which the metrics have values that are all different.
    pub(crate) fn measurement() -> Measurement {
        let latency = LatencyReport {
            min: 1.0,
            p50: 50.0,
            p90: 90.0,
            p99: 99.0,
            p99_9: 999.0,
            p99_99: 9999.0,
            max: 10_000.0,
            mean: 60.0,
            samples: 1000,
        };
        let errors = ErrorCounts { wrong: 7, total: 7, ..ErrorCounts::default() };
        Measurement { messages_per_second: 5000.0, latency_us: Some(latency), errors, server: None }
    }
}

#[cfg(test)]
mod tests {
    use super::{examples::measurement, *};

    #[test]
    fn ratios_are_of_what_both_have() {
        let now = Measurement { messages_per_second: 6000.0, ..measurement() };
        let ratios = Ratios::new(&Metric::OF_MESSAGES, |metric| now.ratio(&measurement(), metric));
        assert_eq!(ratios.get(Metric::MessagesPerSecond), Some(&1.2));
        assert_eq!(ratios.get(Metric::ServerCpuPerMessage), None);
        let names: Vec<&str> = ratios.iter().map(|(metric, _)| metric.name()).collect();
        assert_eq!(
            names,
            ["messages_per_second", "p50", "p90", "p99", "p99.9", "p99.99", "max", "mean"]
        );
        assert_eq!(serde_json::to_value(&ratios).unwrap()["messages_per_second"], 1.2);
        assert_eq!(now.ratio(&Measurement::default(), Metric::MessagesPerSecond), None);
    }

    #[test]
    fn goals_hold_below_their_bound_and_not_at_it() {
        for (met, missed) in [
            ("p50<50.1us", "p50<50us"),
            ("p90<0.091ms", "p90 < 0.09ms"),
            ("p99<1s", "p99<99us"),
            (" p99.9 < 1ms ", "p99.9<999000ns"),
            ("p99.99<10 ms", "p99.99<1ms"),
            ("max<10.1ms", "max<10ms"),
            ("mean<61us", "mean<59us"),
            ("errors<8", "errors<7"),
        ] {
            assert!(measurement().meets(&Condition::goal(met).unwrap()), "{met}");
            assert!(!measurement().meets(&Condition::goal(missed).unwrap()), "{missed}");
        }
    }

    #[test]
    fn what_was_not_measured_meets_no_goal() {
        let goal = Condition::goal("p99<1s").unwrap();
        let nothing = Measurement::default();
        assert!(!nothing.meets(&goal));
        assert_eq!(nothing.describe(&goal), "p99 not measured");
        assert_eq!(measurement().describe(&goal), "p99 99.0 us");
    }
}
