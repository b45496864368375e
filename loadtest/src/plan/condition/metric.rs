//! What conditions can be about, and the units in which its values are written.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts stay below 2^52, none is negative"
)]

use crate::{
    plan::rate::parse_number,
    text::numbers::{grouped, rate},
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
    /// Correct echoes.
    MessagesPerSecond,
    /// CPU time of the server.
    ServerCpuPerMessage,
    /// Everything that went wrong.
    Errors,
    /// Correct cycles of a churn, whose latencies are those above.
    CyclesPerSecond,
    /// CPU time of the server.
    ServerCpuPerCycle,
    /// Time to the end of the opening handshake that half of the cycles stay within, and so on.
    HandshakeP50,
    /// 90 %
    HandshakeP90,
    /// 99 %
    HandshakeP99,
    /// 99.9 %
    HandshakeP99_9,
    /// The longest.
    HandshakeMax,
}

/// What a metric's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Times, in microseconds.
    Time,
    /// Messages, or cycles, a second.
    Rate,
    /// Whole numbers.
    Count,
    /// One of the others, divided by its like.
    Ratio,
}

impl Metric {
    /// Everything that is measured of messages.
    pub(crate) const OF_MESSAGES: [Self; 10] = [
        Self::MessagesPerSecond,
        Self::P50,
        Self::P90,
        Self::P99,
        Self::P99_9,
        Self::P99_99,
        Self::Max,
        Self::Mean,
        Self::ServerCpuPerMessage,
        Self::Errors,
    ];

    /// Percentiles of latencies, none longer than the next.
    pub(crate) const PERCENTILES: [Self; 6] =
        [Self::P50, Self::P90, Self::P99, Self::P99_9, Self::P99_99, Self::Max];

    /// Everything that is measured of cycles.
    pub(crate) const OF_CYCLES: [Self; 15] = [
        Self::CyclesPerSecond,
        Self::P50,
        Self::P90,
        Self::P99,
        Self::P99_9,
        Self::P99_99,
        Self::Max,
        Self::Mean,
        Self::HandshakeP50,
        Self::HandshakeP90,
        Self::HandshakeP99,
        Self::HandshakeP99_9,
        Self::HandshakeMax,
        Self::ServerCpuPerCycle,
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
            Self::MessagesPerSecond => "messages_per_second",
            Self::ServerCpuPerMessage => "server_cpu_per_message",
            Self::Errors => "errors",
            Self::CyclesPerSecond => "cycles_per_second",
            Self::ServerCpuPerCycle => "server_cpu_per_cycle",
            Self::HandshakeP50 => "handshake.p50",
            Self::HandshakeP90 => "handshake.p90",
            Self::HandshakeP99 => "handshake.p99",
            Self::HandshakeP99_9 => "handshake.p99.9",
            Self::HandshakeMax => "handshake.max",
        }
    }

    /// Of a metric of opening handshakes, the metric of latencies that it is.
    pub(crate) fn within_handshake(self) -> Option<Self> {
        match self {
            Self::HandshakeP50 => Some(Self::P50),
            Self::HandshakeP90 => Some(Self::P90),
            Self::HandshakeP99 => Some(Self::P99),
            Self::HandshakeP99_9 => Some(Self::P99_9),
            Self::HandshakeMax => Some(Self::Max),
            _ => None,
        }
    }

    pub(super) fn unit(self) -> Unit {
        match self {
            Self::Errors => Unit::Count,
            Self::MessagesPerSecond | Self::CyclesPerSecond => Unit::Rate,
            _ => Unit::Time,
        }
    }

    /// Whether a search can have it as its goal: it tells how well a load is served. The others
    /// tell how high the load was, and what it cost.
    pub(super) fn can_be_goal(self) -> bool {
        !matches!(
            self,
            Self::MessagesPerSecond
                | Self::ServerCpuPerMessage
                | Self::CyclesPerSecond
                | Self::ServerCpuPerCycle
        )
    }

    /// Whether it makes sense to divide one by another: there should be no errors at all.
    pub(crate) fn has_ratio(self) -> bool {
        self != Self::Errors
    }

    /// A value of it, with its unit.
    pub(crate) fn show(self, value: f64) -> String {
        self.unit().show(value)
    }
}

impl Unit {
    pub(super) fn parse(self, text: &str) -> Option<f64> {
        match self {
            Self::Time => parse_us(text),
            Self::Rate => parse_number(text).ok(),
            Self::Ratio => parse_amount(text),
            Self::Count => text.parse().ok().map(|count: u64| count as f64),
        }
    }

    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Time => "a time such as 500us, 1.5ms or 2s",
            Self::Rate => "1 to 100M a second, such as 500, 50k or 1.5M",
            Self::Ratio => "a number such as 1.1",
            Self::Count => "a whole number",
        }
    }

    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Time if value < 10.0 => format!("{value:.3} us"),
            Self::Time => format!("{value:.1} us"),
            Self::Rate => rate(value),
            Self::Ratio => format!("{value:.3}"),
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
