//! When a dead worker is replaced, and when the server gives up. Pure.
//!
//! One policy for all places. A worker that was ready and died is replaced at once, and the server
//! gives up at the [`DEATHS_MAX`]th such death within [`DEATHS_WITHIN`], whichever places they were
//! at: a defect that peers can reach would otherwise cost all connections again and again. A
//! replacement that never was ready lacks something of the system's, as descriptors, that may come
//! back: it is tried again after growing pauses, [`TRIES_MAX`] times in a row at one place.
//!
//! Threads and the count of lost connections are left to the server.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::errors::Hopeless;

/// Deaths of ready workers, all places together, at which the server gives up.
pub(super) const DEATHS_MAX: usize = 5;

/// The time within which so many deaths are too many.
const DEATHS_WITHIN: Duration = Duration::from_mins(1);

/// Replacements in a row that never were ready, at one place, at which the server gives up; together
/// they take some 25 seconds.
pub(super) const TRIES_MAX: u32 = 8;

/// How long a place stays empty after a replacement that never was ready: the first time, and at
/// most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The deaths of ready workers that still count, the oldest first; never more than [`DEATHS_MAX`].
#[derive(Default)]
pub(super) struct Deaths(VecDeque<Instant>);

/// A worker's place, which a replacement fills when the worker has died.
pub(super) struct Place {
    /// The worker in it was ready.
    was_ready: bool,
    /// Replacements since a worker in it was last ready.
    pub(super) tries: u32,
}

/// What happens to a place whose worker died or could not start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A replacement is started after this pause.
    Replace(Duration),
    /// The server gives up.
    GiveUp(Hopeless),
}

impl Deaths {
    /// Notes a death, and returns whether it is one too many.
    pub(super) fn are_too_many(&mut self, now: Instant) -> bool {
        self.0.retain(|death| now.saturating_duration_since(*death) < DEATHS_WITHIN);
        self.0.push_back(now);
        self.0.len() >= DEATHS_MAX
    }
}

impl Place {
    /// A place whose first worker was ready, as without it the server does not start.
    pub(super) fn new() -> Self {
        Self { was_ready: true, tries: 0 }
    }

    /// Notes that the worker accepts connections.
    pub(super) fn mark_ready(&mut self) {
        *self = Self::new();
    }

    /// Notes that a replacement is started, or could not be.
    pub(super) fn refill(&mut self) {
        self.was_ready = false;
        self.tries += 1;
    }

    /// Notes that the last try failed for want of descriptors, which says nothing of the worker.
    pub(super) fn excuse(&mut self) {
        self.tries = self.tries.saturating_sub(1);
    }

    /// Notes that the worker is dead `now`, and decides what happens to the place.
    pub(super) fn vacate(&mut self, now: Instant, deaths: &mut Deaths) -> Verdict {
        if self.was_ready {
            return if deaths.are_too_many(now) {
                Verdict::GiveUp(Hopeless::Deaths { deaths: DEATHS_MAX, within: DEATHS_WITHIN })
            } else {
                Verdict::Replace(Duration::ZERO)
            };
        }
        match self.tries {
            TRIES_MAX => Verdict::GiveUp(Hopeless::Tries(TRIES_MAX)),
            tries => Verdict::Replace(pause(tries)),
        }
    }
}

/// How long a place stays empty after so many replacements in a row that never were ready, at least
/// one: from [`PAUSE_MIN`] on twice as long each time, up to [`PAUSE_MAX`].
fn pause(tries: u32) -> Duration {
    (PAUSE_MIN * 2_u32.pow(tries.clamp(1, TRIES_MAX) - 1)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Verdict = Verdict::Replace(Duration::ZERO);

    #[test]
    fn pauses_grow_with_replacements_that_never_were_ready() {
        let (now, mut deaths, mut place) = (Instant::now(), Deaths::default(), Place::new());
        for _ in 0..2 {
            assert_eq!(place.vacate(now, &mut deaths), AT_ONCE);
            let mut pauses = Vec::new();
            for tried in 1..TRIES_MAX {
                place.refill();
                assert_eq!(place.tries, tried);
                let Verdict::Replace(pause) = place.vacate(now, &mut deaths) else { panic!() };
                pauses.push(pause);
            }
            assert_eq!(pauses[..3], [PAUSE_MIN, 2 * PAUSE_MIN, 4 * PAUSE_MIN]);
            assert!(pauses.is_sorted() && pauses.iter().all(|pause| *pause <= PAUSE_MAX));
            place.refill();
            let verdict = place.vacate(now, &mut deaths);
            assert_eq!(verdict, Verdict::GiveUp(Hopeless::Tries(TRIES_MAX)));
            place.mark_ready();
        }
    }

    #[test]
    fn ready_workers_are_replaced_at_once_until_too_many_died_within_a_minute() {
        let (start, mut deaths) = (Instant::now(), Deaths::default());
        let mut places = [Place::new(), Place::new()];
        // Four deaths, then one a minute after the first, are never five within a minute.
        for after in [0, 1, 2, 3, 60] {
            let now = start + Duration::from_secs(after);
            let place = &mut places[after as usize % 2];
            assert_eq!(place.vacate(now, &mut deaths), AT_ONCE, "{after}");
            place.refill();
            place.mark_ready();
        }
        // Those of 1, 2, 3 and 60 still count.
        let now = start + Duration::from_millis(60_999);
        let verdict = places[0].vacate(now, &mut deaths);
        assert!(matches!(verdict, Verdict::GiveUp(Hopeless::Deaths { deaths: DEATHS_MAX, .. })));
    }

    #[test]
    fn want_of_descriptors_counts_as_no_try() {
        let mut place = Place::new();
        for _ in 0..2 * TRIES_MAX {
            place.refill();
            place.excuse();
        }
        place.refill();
        let verdict = place.vacate(Instant::now(), &mut Deaths::default());
        assert_eq!(verdict, Verdict::Replace(PAUSE_MIN));
    }
}
