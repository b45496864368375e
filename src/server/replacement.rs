//! When a worker that died is replaced, and when the server gives up. Pure.
//!
//! The thread of a worker, and what its death costs, are left to the server.

use std::time::{Duration, Instant};

/// A worker that lives for less than this probably dies of something that its replacement meets
/// as well.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// How often a place is tried to be filled before the server gives up: for some 25 seconds.
pub(super) const TRIES_MAX: u32 = 8;

/// How long the place of a short-lived worker stays empty, the first time and at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// One place among the workers, through the lives of those that fill it.
pub(super) struct Place {
    /// When it was last filled, or tried to be.
    filled: Instant,
    /// How long it was empty before.
    pause: Duration,
    /// How many have been put in it since one was last ready.
    pub(super) tries: u32,
}

/// What becomes of a place whose worker died, or could not start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is filled again, after this pause.
    Replace(Duration),
    /// It has been tried so often in vain.
    GiveUp { tries: u32 },
}

impl Place {
    /// A place that is filled `now`, for the first time.
    pub(super) fn new(now: Instant) -> Self {
        Self { filled: now, pause: Duration::ZERO, tries: 0 }
    }

    /// Its worker accepts connections.
    pub(super) fn mark_ready(&mut self) {
        self.tries = 0;
    }

    /// A replacement is put in it `now`. One that cannot start has lived for no time at all.
    pub(super) fn refill(&mut self, now: Instant) {
        self.filled = now;
        self.tries += 1;
    }

    /// Its worker is dead `now`.
    pub(super) fn vacate(&mut self, now: Instant) -> Verdict {
        if self.tries == TRIES_MAX {
            return Verdict::GiveUp { tries: self.tries };
        }
        self.pause = replacement_pause(now.saturating_duration_since(self.filled), self.pause);
        Verdict::Replace(self.pause)
    }
}

/// How long the place of a worker stays empty that died after it `lived` so long, and before which
/// it had been empty for `pause`: not at all, or twice as long as before.
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
}
