//! Conditions on results, such as `p99<2ms` or `ratio.p99>1.1`: a metric, `<` or `>`, and a value
//! with its unit. One small language for goals (`--slo`) and for failures (`--fail-if`).
//!
//! A [`Condition`] is no more than text that was understood; [`Measurement`] and [`Ratios`] are
//! what it is held against.

mod measurement;
mod metric;

use std::fmt;

use serde::{Serialize, Serializer};
use thiserror::Error;

use self::metric::Unit;
pub use self::{
    measurement::{Measurement, Ratios},
    metric::Metric,
};

/// What a condition is about: a metric, or its ratio to another result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    pub(crate) metric: Metric,
    pub(crate) is_ratio: bool,
}

impl Subject {
    fn value_of(metric: Metric) -> Self {
        Self { metric, is_ratio: false }
    }

    fn ratio_of(metric: Metric) -> Self {
        Self { metric, is_ratio: true }
    }

    fn unit(self) -> Unit {
        if self.is_ratio { Unit::Ratio } else { self.metric.unit() }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_ratio { "ratio." } else { "" }, self.metric.name())
    }
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
    subject: Subject,
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
        metric: String,
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
        let goals = Metric::ALL.into_iter().filter(|metric| metric.can_be_goal());
        let allowed: Vec<Subject> = goals.map(Subject::value_of).collect();
        let goal = Self::parse(text, &allowed)?;
        if goal.relation == Relation::Above {
            return Err(ConditionError::GoalAbove);
        }
        Ok(goal)
    }

    /// Parses a failure: a bound on a metric or on a ratio, from either side.
    pub fn failure(text: &str) -> Result<Self, ConditionError> {
        let ratios = Metric::ALL.into_iter().filter(|metric| metric.has_ratio());
        let values = Metric::ALL.into_iter().map(Subject::value_of);
        let allowed: Vec<Subject> = values.chain(ratios.map(Subject::ratio_of)).collect();
        Self::parse(text, &allowed)
    }

    fn parse(text: &str, allowed: &[Subject]) -> Result<Self, ConditionError> {
        let at = text.find(['<', '>']).ok_or(ConditionError::Relation)?;
        let (name, value) = (text[..at].trim(), text[at + 1..].trim());
        let relation = if text[at..].starts_with('<') { Relation::Below } else { Relation::Above };
        let subject = allowed.iter().find(|subject| subject.to_string() == name);
        let subject = *subject.ok_or_else(|| {
            let names: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            ConditionError::Metric { name: name.to_owned(), allowed: names.join(", ") }
        })?;
        let bound = subject.unit().parse(value).ok_or_else(|| ConditionError::Value {
            value: value.to_owned(),
            metric: subject.to_string(),
            expected: subject.unit().expected(),
        })?;
        Ok(Self { text: text.to_owned(), subject, relation, bound })
    }

    /// What it is about.
    pub(crate) fn subject(&self) -> Subject {
        self.subject
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
        measurement.value(self.subject.metric).is_some_and(|value| self.admits(value))
    }

    /// What its metric was, in words.
    pub(crate) fn describe(&self, measurement: &Measurement) -> String {
        self.describe_value(measurement.value(self.subject.metric))
    }

    fn describe_value(&self, value: Option<f64>) -> String {
        let subject = self.subject;
        value.map_or_else(
            || format!("{subject} not measured"),
            |value| format!("{subject} {}", subject.unit().show(value)),
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

/// A condition that must not hold, and whether it does.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    condition: Condition,
    /// Of what it is about, in microseconds if it is a time; `None` if that was not measured.
    value: Option<f64>,
    /// It holds, or nobody can tell.
    failed: bool,
}

impl Check {
    /// Checks `condition` against the values, or the ratios, of metrics.
    pub(crate) fn new(
        condition: &Condition,
        value: impl FnOnce(Metric) -> Option<f64>,
        ratio: impl FnOnce(Metric) -> Option<f64>,
    ) -> Self {
        let Subject { metric, is_ratio } = condition.subject;
        let value = if is_ratio { ratio(metric) } else { value(metric) };
        let failed = value.is_none_or(|value| condition.admits(value));
        Self { condition: condition.clone(), value, failed }
    }

    /// Whether the result is one that was not to be.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// In a word.
    pub(crate) fn verdict(&self) -> &'static str {
        if self.failed { "failed" } else { "passed" }
    }

    /// What must not hold.
    pub(crate) fn condition(&self) -> &Condition {
        &self.condition
    }

    /// What is the case, in words.
    pub(crate) fn describe(&self) -> String {
        self.condition.describe_value(self.value)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<11} {}: {}", self.verdict(), self.condition, self.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{count::tally::ErrorCounts, result::report::LatencyReport};

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
        Measurement { messages_per_second: 5000.0, latency_us: Some(latency), errors, server: None }
    }

    #[test]
    fn failures_are_bounds_from_either_side() {
        let baseline = Measurement { messages_per_second: 4000.0, ..measurement() };
        let now = measurement();
        for (text, failed, said) in [
            ("p99>98us", true, "p99 99.0 us"),
            ("p99>99us", false, "p99 99.0 us"),
            ("messages_per_second<5.001k", true, "messages_per_second 5,000"),
            ("messages_per_second<5k", false, "messages_per_second 5,000"),
            ("errors>6", true, "errors 7"),
            ("ratio.messages_per_second>1.2", true, "ratio.messages_per_second 1.250"),
            ("ratio.p99>1", false, "ratio.p99 1.000"),
            // Nobody can tell.
            ("server_cpu_per_message>1s", true, "server_cpu_per_message not measured"),
            ("ratio.server_cpu_per_message>9", true, "ratio.server_cpu_per_message not measured"),
        ] {
            let condition = Condition::failure(text).unwrap();
            let check = Check::new(
                &condition,
                |metric| now.value(metric),
                |metric| now.ratio(&baseline, metric),
            );
            assert_eq!(check.has_failed(), failed, "{text}");
            let verdict = if failed { "failed" } else { "passed" };
            assert_eq!(check.to_string(), format!("{verdict}      {text}: {said}"));
        }
    }

    #[test]
    fn ratios_are_of_what_both_have() {
        let now = Measurement { messages_per_second: 6000.0, ..measurement() };
        let ratios = Ratios::new(|metric| now.ratio(&measurement(), metric));
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
    fn what_is_no_failure_is_refused_with_what_is_allowed() {
        for (text, message) in [
            (
                "ratio.errors>1",
                "\"ratio.errors\" is no metric that can be bounded here; expected \
                 messages_per_second, p50, p90, p99, p99.9, p99.99, max, mean, \
                 server_cpu_per_message, errors, ratio.messages_per_second, ratio.p50, ratio.p90, \
                 ratio.p99, ratio.p99.9, ratio.p99.99, ratio.max, ratio.mean, \
                 ratio.server_cpu_per_message",
            ),
            ("ratio.p99>5ms", "\"5ms\" is no value of ratio.p99; expected a number such as 1.1"),
            (
                "messages_per_second<fast",
                "\"fast\" is no value of messages_per_second; expected messages/s from 1 to 100M, \
                 such as 500, 50k or 1.5M",
            ),
        ] {
            assert_eq!(Condition::failure(text).unwrap_err().to_string(), message, "{text:?}");
        }
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
