//! When a dead worker is replaced, and when the server gives up. Pure.
//!
//! Threads and the count of lost connections are left to the server.

use std::time::{Duration, Instant};

/// A worker that lives for less than this probably dies of a cause that its replacement meets too.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// Tries to fill a place before the server gives up; together they take some 25 seconds.
pub(super) const TRIES_MAX: u32 = 8;

/// How long a short-lived worker's place stays empty: the first time, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A worker's place, which a replacement fills when the worker has died.
pub(super) struct Place {
    /// When a worker was last put in the place, or could not be started for it.
    filled: Instant,
    /// How long the place was empty before that.
    pause: Duration,
    /// Tries to fill the place since a worker in it was last ready.
    pub(super) tries: u32,
}

/// What happens to a place whose worker died or could not start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A replacement is started after this pause.
    Replace(Duration),
    /// The server gives up, since so many tries were in vain.
    GiveUp { tries: u32 },
}

impl Place {
    /// A place whose first worker starts `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { filled: now, pause: Duration::ZERO, tries: 0 }
    }

    /// Notes that the worker accepts connections: the count of tries begins anew.
    pub(super) fn mark_ready(&mut self) {
        self.tries = 0;
    }

    /// Notes that a replacement is started `now`. A replacement that cannot start counts as one
    /// that lived for no time.
    pub(super) fn refill(&mut self, now: Instant) {
        self.filled = now;
        self.tries += 1;
    }

    /// Notes that the last try failed for want of descriptors, which says nothing of the worker.
    pub(super) fn excuse(&mut self) {
        self.tries = self.tries.saturating_sub(1);
    }

    /// Notes that the worker is dead `now`, and decides what happens to the place.
    pub(super) fn vacate(&mut self, now: Instant) -> Verdict {
        if self.tries == TRIES_MAX {
            return Verdict::GiveUp { tries: self.tries };
        }
        self.pause = replacement_pause(now.saturating_duration_since(self.filled), self.pause);
        Verdict::Replace(self.pause)
    }
}

/// How long a place stays empty after a worker that `lived` for so long: not at all after a long
/// life, else twice as long as the `pause` before that worker, from [`PAUSE_MIN`] to [`PAUSE_MAX`].
fn replacement_pause(lived: Duration, pause: Duration) -> Duration {
    if lived < SHORT_LIFE { (2 * pause).clamp(PAUSE_MIN, PAUSE_MAX) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_of_a_worker_that_dies_young_stays_empty_for_longer_and_longer() {
        let mut pauses = vec![Duration::ZERO];
        for _ in 0..10 {
            pauses.push(replacement_pause(Duration::ZERO, pauses[pauses.len() - 1]));
        }
        assert_eq!(pauses[1..4], [PAUSE_MIN, 2 * PAUSE_MIN, 4 * PAUSE_MIN]);
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&PAUSE_MAX));
        assert_eq!(replacement_pause(SHORT_LIFE, PAUSE_MAX), Duration::ZERO);
    }

    #[test]
    fn tries_are_counted_between_workers_that_are_ready() {
        let now = Instant::now();
        let mut place = Place::new(now);
        for _ in 0..2 {
            for tried in 0..TRIES_MAX {
                assert_eq!(place.tries, tried);
                assert!(matches!(place.vacate(now), Verdict::Replace(_)));
                place.refill(now);
            }
            assert_eq!(place.vacate(now), Verdict::GiveUp { tries: TRIES_MAX });
            place.mark_ready();
        }
        assert_eq!(place.vacate(now + SHORT_LIFE), Verdict::Replace(Duration::ZERO));
    }

    #[test]
    fn want_of_descriptors_counts_as_no_try() {
        let now = Instant::now();
        let mut place = Place::new(now);
        for _ in 0..2 * TRIES_MAX {
            place.refill(now);
            place.excuse();
        }
        assert!(matches!(place.vacate(now), Verdict::Replace(_)));
    }
}
