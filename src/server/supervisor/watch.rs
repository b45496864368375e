//! When a service manager's watchdog is told that the server is alive: as long as every worker's sweep
//! comes. Pure.

use std::time::{Duration, Instant};

/// A worker counts as alive for this long after a sweep, which comes about once a second.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(3);

/// The workers as a watchdog sees them.
pub(in crate::server) struct Watch {
    /// The time between two looks: half of what the manager waits for.
    interval: Duration,
    next: Instant,
    /// Of each worker, the number of its sweeps when that last changed, and when it was seen.
    seen: Vec<(u32, Instant)>,
}

impl Watch {
    /// For a manager that waits for `timeout`.
    pub(in crate::server) fn new(timeout: Duration, workers: usize, now: Instant) -> Self {
        Self { interval: timeout / 2, next: now, seen: vec![(0, now); workers] }
    }

    /// When to look next.
    pub(in crate::server) fn next(&self) -> Instant {
        self.next
    }

    /// Looks at each worker's number of sweeps; that of a worker whose replacement is being prepared is
    /// `None`. Returns whether the manager is to be told that all are alive.
    pub(in crate::server) fn look(
        &mut self,
        now: Instant,
        sweeps: impl Iterator<Item = Option<u32>>,
    ) -> bool {
        self.next = now + self.interval;
        let patience = self.interval.max(SWEEP_TIMEOUT);
        let mut are_alive = true;
        for ((count, since), sweeps) in self.seen.iter_mut().zip(sweeps) {
            if sweeps != Some(*count) {
                (*count, *since) = (sweeps.unwrap_or(*count), now);
            }
            are_alive &= now.saturating_duration_since(*since) <= patience;
        }
        are_alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn server_is_alive_as_long_as_every_worker_sweeps() {
        let start = Instant::now();
        let mut watch = Watch::new(10 * SECOND, 2, start);
        let mut look = |at: u32, sweeps: [Option<u32>; 2]| {
            let now = start + at * SECOND;
            let are_alive = watch.look(now, sweeps.into_iter());
            assert_eq!(watch.next(), now + 5 * SECOND);
            are_alive
        };
        assert!(look(0, [Some(0), Some(0)]));
        assert!(look(5, [Some(4), Some(4)]));
        assert!(look(10, [Some(9), Some(4)]));
        assert!(!look(15, [Some(14), Some(4)]), "the second has not swept for 10 s");
        assert!(look(20, [Some(19), Some(5)]), "it goes on");
        assert!(look(25, [Some(24), None]), "it is being replaced");
        assert!(look(30, [Some(29), Some(5)]));
    }

    /// Sweeps come too rarely for such a manager; a worker has three seconds all the same.
    #[test]
    fn impatient_manager_is_told_between_two_sweeps() {
        let start = Instant::now();
        let mut watch = Watch::new(SECOND, 1, start);
        for half_seconds in 1..=6 {
            assert!(watch.look(start + half_seconds * SECOND / 2, [Some(0)].into_iter()));
        }
        assert!(!watch.look(start + 4 * SECOND, [Some(0)].into_iter()));
    }
}
