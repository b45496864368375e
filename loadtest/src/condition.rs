//! Conditions on results, such as `p99<2ms`: a metric, `<` or `>`, and a value with its unit.
//!
//! A [`Condition`] is no more than text that was understood; [`Measurement`] is what it is held
//! against.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts stay below 2^52, none is negative"
)]

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use crate::{
    report::{LatencyReport, Report, grouped},
    tally::ErrorCounts,
};

/// What a condition can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Latency that half of the messages stay within, and so on.
    P50,
    /// 90 %
    P90,
    /// 99 %
    P99,
    /// 99.9 %
    P99_9,
    /// 99.99 %
    P99_99,
    /// The longest latency.
    Max,
    /// The mean latency.
    Mean,
    /// Everything that went wrong.
    Errors,
}

/// What a metric's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Times, in microseconds.
    Time,
    /// Whole numbers.
    Count,
}

impl Metric {
    /// What a goal can be about.
    const GOALS: [Self; 8] = [
        Self::P50,
        Self::P90,
        Self::P99,
        Self::P99_9,
        Self::P99_99,
        Self::Max,
        Self::Mean,
        Self::Errors,
    ];

    /// As it is written in a condition.
    pub fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P99 => "p99",
            Self::P99_9 => "p99.9",
            Self::P99_99 => "p99.99",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::Errors => "errors",
        }
    }

    fn unit(self) -> Unit {
        match self {
            Self::Errors => Unit::Count,
            _ => Unit::Time,
        }
    }
}

impl Unit {
    fn parse(self, text: &str) -> Option<f64> {
        match self {
            Self::Time => parse_us(text),
            Self::Count => text.parse().ok().map(|count: u64| count as f64),
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Time => "a time such as 500us, 1.5ms or 2s",
            Self::Count => "a whole number",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::Time => format!("{value:.1} us"),
            Self::Count => grouped(value as u64),
        }
    }
}

/// A time in microseconds.
fn parse_us(text: &str) -> Option<f64> {
    let unit_start = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_start);
    let us = match unit {
        "ns" => 1e-3,
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    parse_amount(number).map(|number| number * us)
}

fn parse_amount(text: &str) -> Option<f64> {
    let amount: f64 = text.trim_end().parse().ok()?;
    (amount.is_finite() && amount >= 0.0).then_some(amount)
}

/// On which side of its bound a value has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Below,
    Above,
}

/// A statement about a result, which holds or does not.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    metric: Metric,
    relation: Relation,
    bound: f64,
}

/// Why a text is no condition.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConditionError {
    /// Nothing is compared.
    #[error("expected METRIC<VALUE or METRIC>VALUE, such as p99<2ms")]
    Relation,
    /// What is compared.
    #[error("{name:?} is no metric that can be bounded here; expected {allowed}")]
    Metric {
        /// As it was written.
        name: String,
        /// What there is.
        allowed: String,
    },
    /// What it is compared with.
    #[error("{value:?} is no value of {metric}; expected {expected}")]
    Value {
        /// As it was written.
        value: String,
        /// What it would be a value of.
        metric: &'static str,
        /// What is one.
        expected: &'static str,
    },
    /// A goal that more load would meet sooner.
    #[error("a goal is a bound from above; expected METRIC<VALUE, such as p99<2ms")]
    GoalAbove,
}

impl Condition {
    /// Parses a goal of a search: a bound from above on latency or errors.
    pub fn goal(text: &str) -> Result<Self, ConditionError> {
        let goal = Self::parse(text, &Metric::GOALS)?;
        if goal.relation == Relation::Above {
            return Err(ConditionError::GoalAbove);
        }
        Ok(goal)
    }

    fn parse(text: &str, allowed: &[Metric]) -> Result<Self, ConditionError> {
        let at = text.find(['<', '>']).ok_or(ConditionError::Relation)?;
        let (name, value) = (text[..at].trim(), text[at + 1..].trim());
        let relation = if text[at..].starts_with('<') { Relation::Below } else { Relation::Above };
        let metric = allowed.iter().find(|metric| metric.name() == name).ok_or_else(|| {
            let names: Vec<&str> = allowed.iter().map(|metric| metric.name()).collect();
            ConditionError::Metric { name: name.to_owned(), allowed: names.join(", ") }
        })?;
        let bound = metric.unit().parse(value).ok_or_else(|| ConditionError::Value {
            value: value.to_owned(),
            metric: metric.name(),
            expected: metric.unit().expected(),
        })?;
        Ok(Self { text: text.to_owned(), metric: *metric, relation, bound })
    }

    /// What it is about.
    pub(crate) fn metric(&self) -> Metric {
        self.metric
    }

    /// Whether a value is on the right side of the bound.
    fn admits(&self, value: f64) -> bool {
        match self.relation {
            Relation::Below => value < self.bound,
            Relation::Above => value > self.bound,
        }
    }

    /// Whether it holds. It does not, if its metric was not measured.
    pub(crate) fn holds(&self, measurement: &Measurement) -> bool {
        measurement.value(self.metric).is_some_and(|value| self.admits(value))
    }

    /// What its metric was, in words.
    pub(crate) fn describe(&self, measurement: &Measurement) -> String {
        let name = self.metric.name();
        measurement.value(self.metric).map_or_else(
            || format!("{name} not measured"),
            |value| format!("{name} {}", self.metric.unit().show(value)),
        )
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
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
}

impl From<&Report> for Measurement {
    fn from(report: &Report) -> Self {
        let Report { messages_per_second, latency_us, errors, .. } = *report;
        Self { messages_per_second, latency_us, errors }
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
            Metric::Errors => Some(self.errors.total as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A measurement of which the metrics have values that are all different.
    fn measurement() -> Measurement {
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
        Measurement { messages_per_second: 5000.0, latency_us: Some(latency), errors }
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
            assert!(Condition::goal(met).unwrap().holds(&measurement()), "{met}");
            assert!(!Condition::goal(missed).unwrap().holds(&measurement()), "{missed}");
        }
    }

    #[test]
    fn what_was_not_measured_meets_no_goal() {
        let goal = Condition::goal("p99<1s").unwrap();
        let nothing = Measurement::default();
        assert!(!goal.holds(&nothing));
        assert_eq!(goal.describe(&nothing), "p99 not measured");
        assert_eq!(goal.describe(&measurement()), "p99 99.0 us");
    }

    #[test]
    fn what_is_no_goal_is_refused_with_what_is_allowed() {
        for (text, message) in [
            ("", "expected METRIC<VALUE or METRIC>VALUE, such as p99<2ms"),
            ("p99=2ms", "expected METRIC<VALUE or METRIC>VALUE, such as p99<2ms"),
            (
                "p95<2ms",
                "\"p95\" is no metric that can be bounded here; expected p50, p90, p99, p99.9, \
                 p99.99, max, mean, errors",
            ),
            ("p99<", "\"\" is no value of p99; expected a time such as 500us, 1.5ms or 2s"),
            ("p99<2", "\"2\" is no value of p99; expected a time such as 500us, 1.5ms or 2s"),
            ("p99<=2ms", "\"=2ms\" is no value of p99; expected a time such as 500us, 1.5ms or 2s"),
            ("max<-1s", "\"-1s\" is no value of max; expected a time such as 500us, 1.5ms or 2s"),
            ("max<infs", "\"infs\" is no value of max; expected a time such as 500us, 1.5ms or 2s"),
            ("errors<1ms", "\"1ms\" is no value of errors; expected a whole number"),
            ("p99>2ms", "a goal is a bound from above; expected METRIC<VALUE, such as p99<2ms"),
        ] {
            assert_eq!(Condition::goal(text).unwrap_err().to_string(), message, "{text:?}");
        }
    }
}
