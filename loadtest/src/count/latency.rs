//! How long echoes take: the messages that are in flight, and the histograms of those that came
//! back.
//!
//! A message is sent at the instant at which its connection began to build the write that contains
//! it, and answered at the instant at which the read that completed its echo was looked at. The
//! clock is read once for each turn of a connection, not once for each message: messages of one
//! write share the first instant, echoes of one read the second, and a turn that answers echoes
//! with new messages uses one instant for both. So the generator's own work on a turn counts as
//! latency of the next, as it does for a program that uses the connection.
//!
//! In a closed loop latency runs from there. In an open loop it runs from the instant for which the
//! message was planned, however late it was sent, because somebody who wanted to send it then would
//! have waited for as long (no *coordinated omission*); what it is from the instant of sending, and
//! how late the messages were sent, is kept beside it.

use std::{collections::VecDeque, time::Duration};

use hdrhistogram::Histogram;

/// Latencies above this are recorded as this.
const LATENCY_MAX: Duration = Duration::from_hours(1);

/// Values are exact to this many decimal digits.
const SIGNIFICANT_DIGITS: u8 = 3;

/// The messages of one connection that are not answered, oldest first.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    /// Never more than there are messages.
    batches: VecDeque<Batch>,
    len: usize,
}

/// Messages that were planned for the same instant and sent at the same instant.
#[derive(Clone, Copy, Debug)]
struct Batch {
    instants: Instants,
    messages: usize,
}

/// When a message was sent, in nanoseconds since the run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instants {
    /// When it should have been; in a closed loop, when it was.
    pub(crate) planned: u64,
    pub(crate) sent: u64,
}

impl InFlight {
    /// The number of messages.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Notes that a message was sent.
    #[inline]
    pub(crate) fn sent(&mut self, instants: Instants) {
        self.len += 1;
        match self.batches.back_mut() {
            Some(batch) if batch.instants == instants => batch.messages += 1,
            _ => self.batches.push_back(Batch { instants, messages: 1 }),
        }
    }

    /// Takes out the oldest `messages`, and calls `each` with the instants of some of them, and how
    /// many have these.
    #[inline]
    pub(crate) fn answered(&mut self, mut messages: usize, mut each: impl FnMut(Instants, usize)) {
        self.len -= messages;
        while messages > 0 {
            let oldest = self.batches.front_mut().expect("what is answered was sent");
            let here = messages.min(oldest.messages);
            each(oldest.instants, here);
            messages -= here;
            oldest.messages -= here;
            if oldest.messages == 0 {
                self.batches.pop_front();
            }
        }
    }
}

/// The histograms of a load: of messages, or in a churn of cycles.
#[derive(Clone, Debug, Default)]
pub struct Histograms {
    /// Latency of the messages that were planned in the measured window and echoed correctly: from the
    /// planned instant on, which in a closed loop is the instant of sending. In a churn that of the
    /// correct cycles, to their end.
    pub latency: Latencies,
    /// Latency of the same messages from the instant of sending. Empty in a closed loop and a churn.
    pub uncorrected: Latencies,
    /// From the planned instants of cycles to the ends of their opening handshakes. Empty but in a
    /// churn.
    pub handshake: Latencies,
    /// From the planned instant to that of sending, of all messages that were planned in the
    /// measured window and sent at all; of cycles, to that of beginning. Empty in a closed loop.
    pub lag: Latencies,
    /// From connected sockets to the ends of their TLS handshakes. Those of a run and these two are of
    /// all connections; in a churn, of cycles that were planned in the measured window.
    pub tls: Latencies,
    /// From connected transports of HTTP/2 to the server's SETTINGS, of all of them.
    pub settings: Latencies,
    /// From requests of streams of HTTP/2 to their responses.
    pub stream: Latencies,
}

impl Histograms {
    /// Adds another thread's.
    pub(crate) fn merge(&mut self, other: &Self) {
        let Self { latency, uncorrected, handshake, lag, tls: _, settings: _, stream: _ } = self;
        latency.merge(&other.latency);
        uncorrected.merge(&other.uncorrected);
        handshake.merge(&other.handshake);
        lag.merge(&other.lag);
        self.merge_layers(other);
    }

    /// Adds what another has of the layers below WebSocket connections.
    pub(crate) fn merge_layers(&mut self, Self { tls, settings, stream, .. }: &Self) {
        self.tls.merge(tls);
        self.settings.merge(settings);
        self.stream.merge(stream);
    }

    /// Forgets everything, but keeps the memory.
    pub(crate) fn clear(&mut self) {
        let Self { latency, uncorrected, handshake, lag, tls, settings, stream } = self;
        for latencies in [latency, uncorrected, handshake, lag, tls, settings, stream] {
            latencies.clear();
        }
    }
}

/// What of the times of cycles is the generator's own lateness. Empty but in an open loop of a churn.
///
/// A cycle whose instant comes while every connection is in use is *held back*: that is the server's
/// time. Any other one begins late only if the generator does.
#[derive(Clone, Debug, Default)]
pub struct GeneratorLag {
    /// Cycles that were held back.
    pub held_back: u64,
    /// From the planned instants to the beginnings of the others.
    pub lag: Latencies,
    /// As [`Histograms::handshake`], less this lag.
    pub handshake_without: Latencies,
    /// As [`Histograms::latency`], less this lag.
    pub latency_without: Latencies,
}

impl GeneratorLag {
    /// Adds another thread's.
    pub(crate) fn merge(&mut self, other: &Self) {
        let Self { held_back, lag, handshake_without, latency_without } = self;
        *held_back += other.held_back;
        lag.merge(&other.lag);
        handshake_without.merge(&other.handshake_without);
        latency_without.merge(&other.latency_without);
    }

    /// Forgets everything, but keeps the memory.
    pub(crate) fn clear(&mut self) {
        let Self { held_back, lag, handshake_without, latency_without } = self;
        *held_back = 0;
        lag.clear();
        handshake_without.clear();
        latency_without.clear();
    }
}

/// A histogram of times, with a relative error below 0.1 %.
#[derive(Clone, Debug)]
pub struct Latencies {
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

    /// Adds another thread's, and touches no memory if there is nothing to add.
    pub(crate) fn merge(&mut self, other: &Self) {
        if other.samples() > 0 {
            self.nanoseconds.add(&other.nanoseconds).expect("both have the same bounds");
        }
    }

    /// Forgets all of them, but keeps the memory, untouched if there is nothing to forget.
    pub(crate) fn clear(&mut self) {
        if self.samples() > 0 {
            self.nanoseconds.reset();
        }
    }

    /// The histogram, in nanoseconds.
    pub fn nanoseconds(&self) -> &Histogram<u64> {
        &self.nanoseconds
    }

    /// How many were recorded.
    pub fn samples(&self) -> u64 {
        self.nanoseconds.len()
    }

    /// The latency, in microseconds, that a fraction `quantile` of the messages stayed within.
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        microseconds(self.nanoseconds.value_at_quantile(quantile).min(self.nanoseconds.max()))
    }

    /// The shortest, in microseconds.
    pub fn min_us(&self) -> f64 {
        microseconds(self.nanoseconds.min())
    }

    /// The longest, in microseconds.
    pub fn max_us(&self) -> f64 {
        microseconds(self.nanoseconds.max())
    }

    /// The mean, in microseconds.
    pub fn mean_us(&self) -> f64 {
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
        let (first, second, third) = (
            Instants { planned: 10, sent: 10 },
            Instants { planned: 10, sent: 20 },
            Instants { planned: 20, sent: 20 },
        );
        let mut in_flight = InFlight::default();
        for instants in [first, first, first, second, second] {
            in_flight.sent(instants);
        }
        let mut answered = Vec::new();
        in_flight.answered(2, |instants, messages| answered.push((instants, messages)));
        in_flight.sent(third);
        in_flight.answered(3, |instants, messages| answered.push((instants, messages)));
        assert_eq!(answered, [(first, 2), (first, 1), (second, 2)]);
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
