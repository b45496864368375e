//! Counters: each worker counts for itself, and a reader sums the workers.
//!
//! A counter has one writer, so counting is a load and a store without a lock prefix.

mod refusal_reason;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use strum::EnumCount;

pub use self::refusal_reason::RefusalReason;
use crate::pulse::Pulse;

/// What one worker counts. The numbers only grow.
#[doc(hidden)]
#[derive(Debug)]
pub struct Counters {
    /// Connections admitted, whichever worker accepted them.
    pub accepted: Counter,
    /// Connections upgraded to the WebSocket protocol.
    pub upgraded: Counter,
    /// Messages whose echo was produced.
    pub messages: Counter,
    /// Bytes received on upgraded connections.
    pub received_bytes: Counter,
    /// Wake-ups that the kernel lost: what had arrived was found only by the next sweep.
    pub late_wake_ups: Counter,
    /// Connections that ended, by kind of end.
    ended: Vec<(&'static str, Counter)>,
    /// Refused connections by reason; together they are those that ended as refused.
    refused: [Counter; RefusalReason::COUNT],
    /// What its thread is doing.
    pub pulse: Pulse,
}

/// A number that one thread counts up and any thread reads.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// The counters of all workers, summed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections accepted, by worker.
    pub accepted_by_worker: Vec<u64>,
    /// Connections upgraded to the WebSocket protocol.
    pub upgraded: u64,
    /// Messages whose echo was produced.
    pub messages: u64,
    /// Bytes received on upgraded connections.
    pub received_bytes: u64,
    /// Wake-ups that the kernel lost: what had arrived was found only by the next sweep.
    pub late_wake_ups: u64,
    /// Connections that ended, by kind of end; kinds that did not occur are left out.
    pub ended: Vec<(&'static str, u64)>,
    /// Refused connections, by reason; reasons that did not occur are left out.
    pub refused: Vec<(&'static str, u64)>,
}

impl Counters {
    /// All at zero, for these kinds of end.
    pub fn new(end_kinds: &[&'static str]) -> Self {
        Self {
            accepted: Counter::default(),
            upgraded: Counter::default(),
            messages: Counter::default(),
            received_bytes: Counter::default(),
            late_wake_ups: Counter::default(),
            ended: end_kinds.iter().map(|kind| (*kind, Counter::default())).collect(),
            refused: Default::default(),
            pulse: Pulse::default(),
        }
    }

    /// The counter for connections that ended in the way with this index among the kinds.
    pub fn ended(&self, kind: usize) -> &Counter {
        &self.ended[kind].1
    }

    /// The counter for connections that were refused for this reason.
    pub fn refused(&self, reason: RefusalReason) -> &Counter {
        &self.refused[reason.index()]
    }
}

impl Counter {
    /// Adds `amount`. Only the counter's own thread may call this, since the load and the store are
    /// not one step: of two threads that add at once, one would undo the other's addition.
    ///
    /// After the end of a worker another thread may add in its place, if it has learned of that end
    /// by a channel or a join, which order its load behind the worker's last store.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.get() + amount, Relaxed);
    }

    /// The number now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Totals {
    /// Adds the next worker's counters.
    #[doc(hidden)]
    pub fn add(&mut self, counters: &Counters) {
        self.accepted += counters.accepted.get();
        self.accepted_by_worker.push(counters.accepted.get());
        self.upgraded += counters.upgraded.get();
        self.messages += counters.messages.get();
        self.received_bytes += counters.received_bytes.get();
        self.late_wake_ups += counters.late_wake_ups.get();
        let ended = counters.ended.iter().map(|(kind, counter)| (*kind, counter.get()));
        add_by_name(&mut self.ended, ended);
        let refused = counters.refused.iter().map(Counter::get);
        add_by_name(&mut self.refused, RefusalReason::NAMES.into_iter().zip(refused));
    }

    /// Connections that have ended, in any way.
    pub fn ended_count(&self) -> u64 {
        self.ended.iter().map(|(_, count)| count).sum()
    }
}

/// Adds numbers to the sums of the same names; those of zero are left out.
fn add_by_name(
    sums: &mut Vec<(&'static str, u64)>,
    numbers: impl Iterator<Item = (&'static str, u64)>,
) {
    for (name, number) in numbers.filter(|(_, number)| *number > 0) {
        match sums.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += number,
            None => sums.push((name, number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_sum_the_workers() {
        let workers = [Counters::new(&["closed", "failed"]), Counters::new(&["closed", "failed"])];
        workers[0].accepted.add(2);
        workers[1].accepted.add(3);
        workers[0].ended(0).add(1);
        workers[1].ended(0).add(1);
        workers[0].refused(RefusalReason::NoEcho).add(1);
        workers[1].refused(RefusalReason::NoEcho).add(2);
        workers[1].refused(RefusalReason::Stopping).add(1);
        let mut totals = Totals::default();
        for counters in &workers {
            totals.add(counters);
        }
        assert_eq!(totals.accepted, 5);
        assert_eq!(totals.accepted_by_worker, [2, 3]);
        assert_eq!(totals.ended, [("closed", 2)]);
        assert_eq!(totals.ended_count(), 2);
        assert_eq!(totals.refused, [("no_echo", 3), ("stopping", 1)]);
    }
}
