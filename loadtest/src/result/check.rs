//! Conditions that must not hold of a result, and whether they do.

use std::fmt;

use serde::Serialize;

use crate::plan::condition::{Condition, Subject, metric::Metric};

/// A condition that must not hold, and whether it does.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    condition: Condition,
    /// The value that the condition is about, in microseconds if it is a time; `None` if it was not
    /// measured.
    value: Option<f64>,
    /// The condition holds, or its value was not measured.
    failed: bool,
}

impl Check {
    /// Checks `condition` against the values, or the ratios, of metrics.
    pub(crate) fn new(
        condition: &Condition,
        value: impl FnOnce(Metric) -> Option<f64>,
        ratio: impl FnOnce(Metric) -> Option<f64>,
    ) -> Self {
        let Subject { metric, is_ratio } = condition.subject();
        let value = if is_ratio { ratio(metric) } else { value(metric) };
        let failed = value.is_none_or(|value| condition.holds(value));
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
        self.condition.describe(self.value)
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
    use crate::result::measurement::{Measured, Measurement, examples::measurement};

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
}
