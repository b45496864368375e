//! What is counted of TLS handshakes.

use std::time::Duration;

use super::{Counter, Histogram, histogram::HANDSHAKE_TIMES};

/// TLS handshakes of one worker.
#[derive(Debug)]
pub struct TlsCounters {
    /// Handshakes that were done, by [`KINDS`](Self::KINDS).
    done: [Counter; Self::KINDS.len()],
    /// Handshakes that failed, or did not end in time.
    pub failed: Counter,
    /// From the first bytes to the end of the handshake.
    pub times: Histogram,
}

impl Default for TlsCounters {
    fn default() -> Self {
        Self {
            done: Default::default(),
            failed: Counter::default(),
            times: Histogram::new(HANDSHAKE_TIMES),
        }
    }
}

impl TlsCounters {
    /// The kinds of handshakes that are done: outcome and version.
    pub const KINDS: [(&'static str, &'static str); 4] =
        [("full", "1.3"), ("resumed", "1.3"), ("full", "1.2"), ("resumed", "1.2")];

    /// Counts a handshake that is done.
    pub fn count(&self, is_resumed: bool, is_tls13: bool, time: Duration) {
        self.done[usize::from(is_resumed) + 2 * usize::from(!is_tls13)].add(1);
        self.times.count(time);
    }

    /// Handshakes by outcome and version; those that failed have none.
    pub fn handshakes(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let done = Self::KINDS.into_iter().zip(&self.done);
        let done = done.map(|((outcome, version), counter)| (outcome, version, counter.get()));
        done.chain([("failed", "", self.failed.get())])
    }

    /// Handshakes that were done.
    pub fn done_count(&self) -> u64 {
        self.done.iter().map(Counter::get).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_counted_by_outcome_and_version() {
        let counters = TlsCounters::default();
        for (at, (outcome, version)) in TlsCounters::KINDS.into_iter().enumerate() {
            for _ in 0..=at {
                counters.count(outcome == "resumed", version == "1.3", Duration::ZERO);
            }
        }
        counters.failed.add(7);
        let counted: Vec<_> = counters.handshakes().map(|(.., count)| count).collect();
        assert_eq!((counted, counters.done_count()), (vec![1, 2, 3, 4, 7], 10));
    }
}
