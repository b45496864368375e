//! Conditions on results, such as `p99<2ms` or `ratio.p99>1.1`: a metric, `<` or `>`, and a value
//! with its unit. One small language for goals (`--slo`) and for failures (`--fail-if`).
//!
//! A [`Condition`] is no more than text that was understood: what it is held against belongs to a
//! result.

pub mod metric;

use std::fmt;

use serde::{Serialize, Serializer};
use thiserror::Error;

use self::metric::{Metric, Unit};

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
        Self::goal_among(text, &Metric::OF_MESSAGES)
    }

    /// Parses a goal of a search among cycles, in the same way.
    pub fn goal_of_cycles(text: &str) -> Result<Self, ConditionError> {
        Self::goal_among(text, &Metric::OF_CYCLES)
    }

    fn goal_among(text: &str, metrics: &[Metric]) -> Result<Self, ConditionError> {
        let goals = metrics.iter().copied().filter(|metric| metric.can_be_goal());
        let allowed: Vec<Subject> = goals.map(Subject::value_of).collect();
        let goal = Self::parse(text, &allowed)?;
        if goal.relation == Relation::Above {
            return Err(ConditionError::GoalAbove);
        }
        Ok(goal)
    }

    /// Parses a failure: a bound on a metric or on a ratio, from either side.
    pub fn failure(text: &str) -> Result<Self, ConditionError> {
        Self::failure_among(text, &Metric::OF_MESSAGES)
    }

    /// Parses a failure of a comparison of cycles, in the same way.
    pub fn failure_of_compared_cycles(text: &str) -> Result<Self, ConditionError> {
        Self::failure_among(text, &Metric::OF_CYCLES)
    }

    fn failure_among(text: &str, metrics: &[Metric]) -> Result<Self, ConditionError> {
        let ratios = metrics.iter().copied().filter(|metric| metric.has_ratio());
        let values = metrics.iter().copied().map(Subject::value_of);
        let allowed: Vec<Subject> = values.chain(ratios.map(Subject::ratio_of)).collect();
        Self::parse(text, &allowed)
    }

    /// Parses a failure of a churn: a bound on a metric of cycles, from either side.
    pub fn failure_of_cycles(text: &str) -> Result<Self, ConditionError> {
        Self::parse(text, &Metric::OF_CYCLES.map(Subject::value_of))
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

    /// Whether it holds of `value`.
    pub(crate) fn holds(&self, value: f64) -> bool {
        match self.relation {
            Relation::Below => value < self.bound,
            Relation::Above => value > self.bound,
        }
    }

    /// A value of what it is about, in words.
    pub(crate) fn describe(&self, value: Option<f64>) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

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
                "\"fast\" is no value of messages_per_second; expected 1 to 100M a second, \
                 such as 500, 50k or 1.5M",
            ),
        ] {
            assert_eq!(Condition::failure(text).unwrap_err().to_string(), message, "{text:?}");
        }
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
