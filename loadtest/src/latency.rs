//! How long echoes take: the messages that are in flight, and the histogram of those that came
//! back.
//!
//! A message's latency runs from the instant at which its connection began to build the write that
//! contains it, to the instant at which the read that completed its echo was looked at. The clock
//! is read once for each turn of a connection, not once for each message: messages of one write
//! share the first instant, echoes of one read the second, and a turn that answers echoes with new
//! messages uses one instant for both. So the generator's own work on a turn counts as latency of
//! the next, as it does for a program that uses the connection.

use std::{collections::VecDeque, time::Duration};

use hdrhistogram::Histogram;

/// Latencies above this are recorded as this.
const LATENCY_MAX: Duration = Duration::from_hours(1);

/// Values are exact to this many decimal digits.
const SIGNIFICANT_DIGITS: u8 = 3;

/// The messages of one connection that are not answered, oldest first.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    /// Runs of messages that were sent at the same instant. Never more than there are messages.
    runs: VecDeque<Run>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    sent_at: u64,
    messages: usize,
}

impl InFlight {
    /// The number of messages.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Notes `messages` sent at the instant `now`.
    #[inline]
    pub(crate) fn sent(&mut self, now: u64, messages: usize) {
        if messages > 0 {
            self.runs.push_back(Run { sent_at: now, messages });
            self.len += messages;
        }
    }

    /// Takes out the oldest `messages`, and calls `each` with every instant at which some of them
    /// were sent, and how many.
    #[inline]
    pub(crate) fn answered(&mut self, mut messages: usize, mut each: impl FnMut(u64, usize)) {
        self.len -= messages;
        while messages > 0 {
            let oldest = self.runs.front_mut().expect("what is answered was sent");
            let here = messages.min(oldest.messages);
            each(oldest.sent_at, here);
            messages -= here;
            oldest.messages -= here;
            if oldest.messages == 0 {
                self.runs.pop_front();
            }
        }
    }
}

/// A histogram of latencies, with a relative error below 0.1 %.
#[derive(Debug)]
pub(crate) struct Latencies {
    nanoseconds: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        let nanoseconds =
            Histogram::new_with_max(LATENCY_MAX.as_nanos() as u64, SIGNIFICANT_DIGITS)
                .expect("the bounds are valid");
        Self { nanoseconds }
    }
}

impl Latencies {
    /// Records the same latency for `messages`.
    #[inline]
    pub(crate) fn record(&mut self, nanoseconds: u64, messages: usize) {
        self.nanoseconds.saturating_record_n(nanoseconds, messages as u64);
    }

    /// Adds another thread's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.nanoseconds.add(&other.nanoseconds).expect("both have the same bounds");
    }

    /// How many were recorded.
    pub(crate) fn samples(&self) -> u64 {
        self.nanoseconds.len()
    }

    /// The latency, in microseconds, that a fraction `quantile` of the messages stayed within.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        microseconds(self.nanoseconds.value_at_quantile(quantile).min(self.nanoseconds.max()))
    }

    /// The longest, in microseconds.
    pub(crate) fn max_us(&self) -> f64 {
        microseconds(self.nanoseconds.max())
    }

    /// The mean, in microseconds.
    pub(crate) fn mean_us(&self) -> f64 {
        (self.nanoseconds.mean() / 10.0).round() / 100.0
    }
}

/// Nanoseconds as microseconds with two decimals: what is beyond is below the clock's own cost.
#[expect(clippy::cast_precision_loss, reason = "latencies are below 2^52 nanoseconds")]
fn microseconds(nanoseconds: u64) -> f64 {
    (nanoseconds as f64 / 10.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_oldest_first() {
        let mut in_flight = InFlight::default();
        in_flight.sent(10, 3);
        in_flight.sent(20, 2);
        let mut answered = Vec::new();
        in_flight.answered(2, |sent_at, messages| answered.push((sent_at, messages)));
        in_flight.sent(30, 1);
        in_flight.answered(3, |sent_at, messages| answered.push((sent_at, messages)));
        assert_eq!(answered, [(10, 2), (10, 1), (20, 2)]);
        assert_eq!(in_flight.len(), 1);
    }

    #[test]
    fn quantiles_are_exact_to_a_thousandth() {
        let mut latencies = Latencies::default();
        for microseconds in 1..=1000 {
            latencies.record(microseconds * 1000, 1);
        }
        latencies.record(u64::MAX, 1);
        assert!((latencies.quantile_us(0.5) - 501.0).abs() <= 0.501);
        assert!((latencies.quantile_us(0.99) - 991.0).abs() <= 0.991);
        assert_eq!(latencies.samples(), 1001);
        assert!(latencies.max_us() >= 3.6e9);
    }
}
