//! The instants of a run, which all threads share: when the load starts, what is measured, and for
//! how long what is outstanding is waited for.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// After the end of the measured window, a thread waits for outstanding echoes and closing
/// handshakes until nothing at all has arrived for this long. What is outstanding then is missing.
pub const GRACE_QUIET: Duration = Duration::from_secs(2);

/// The longest that a thread waits after the end of the measured window.
pub const GRACE_MAX: Duration = Duration::from_secs(30);

/// The backlog grace of a plan from the command line: after the end of the measured window, planned
/// messages that could not be sent in their time are still sent for this long. What is left then
/// stays unsent.
pub const BACKLOG_GRACE: Duration = Duration::from_secs(2);

/// The instants that all threads share, in nanoseconds since the run began.
///
/// The main thread sets them, the others read them, so the measured window begins and ends for all
/// at the same instants, whenever a thread gets to notice.
#[derive(Debug)]
pub struct Schedule {
    epoch: Instant,
    backlog_grace: u64,
    load_started: AtomicBool,
    abandoned: AtomicBool,
    origin: AtomicU64,
    begin: AtomicU64,
    end: AtomicU64,
}

const NOT_YET: u64 = u64::MAX;

impl Schedule {
    /// A run that begins now, and sends what is late for `backlog_grace` after its measured window.
    pub fn new(backlog_grace: Duration) -> Self {
        Self {
            epoch: Instant::now(),
            backlog_grace: backlog_grace.as_nanos() as u64,
            load_started: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            origin: AtomicU64::new(NOT_YET),
            begin: AtomicU64::new(NOT_YET),
            end: AtomicU64::new(NOT_YET),
        }
    }

    /// Nanoseconds since the run began.
    #[inline]
    pub fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Starts the load.
    pub fn start_load(&self) {
        self.load_started.store(true, Relaxed);
    }

    /// Sets the measured window: after `warmup`, for `duration`. Then the load ends. An open loop
    /// begins after `lead`, and the warm-up with it.
    pub fn set_window(&self, lead: Duration, warmup: Duration, duration: Duration) {
        let origin = self.now() + lead.as_nanos() as u64;
        let begin = origin + warmup.as_nanos() as u64;
        self.end.store(begin + duration.as_nanos() as u64, Relaxed);
        self.begin.store(begin, Relaxed);
        self.origin.store(origin, Relaxed);
    }

    /// Ends the load now, unless it has ended before.
    pub fn stop(&self) {
        self.end.fetch_min(self.now(), Relaxed);
    }

    /// Ends the run now: what is outstanding is not waited for.
    pub fn abandon(&self) {
        self.stop();
        self.abandoned.store(true, Relaxed);
    }

    /// Whether nothing is waited for any longer.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Relaxed)
    }

    /// Whether the load has started.
    #[inline]
    pub fn has_started(&self) -> bool {
        self.load_started.load(Relaxed)
    }

    /// Whether the load has ended at the instant `now`.
    #[inline]
    pub fn has_ended(&self, now: u64) -> bool {
        now >= self.end.load(Relaxed)
    }

    /// Whether a message that was planned for the instant `planned` may still be sent at `now`.
    #[inline]
    pub fn admits(&self, planned: u64, now: u64) -> bool {
        let end = self.end.load(Relaxed);
        planned <= now && planned < end && now < end.saturating_add(self.backlog_grace)
    }

    /// Whether the instant `now` belongs to the measured window.
    #[inline]
    pub fn measures(&self, now: u64) -> bool {
        self.begin.load(Relaxed) <= now && now < self.end.load(Relaxed)
    }

    /// When an open loop's first message is planned, once that is known.
    #[inline]
    pub fn origin(&self) -> Option<u64> {
        Some(self.origin.load(Relaxed)).filter(|origin| *origin != NOT_YET)
    }

    /// When the measured window begins.
    pub fn begin(&self) -> u64 {
        self.begin.load(Relaxed)
    }

    /// When the load ends, and with it the measured window.
    pub fn end(&self) -> u64 {
        self.end.load(Relaxed)
    }

    /// The length of the measured window; zero if it ended before it began.
    pub fn measured(&self) -> Duration {
        Duration::from_nanos(self.end().saturating_sub(self.begin()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_is_what_was_planned() {
        let schedule = Schedule::new(Duration::from_secs(2));
        assert!(!schedule.has_started());
        assert!(!schedule.measures(schedule.now()));
        schedule.start_load();
        assert!(schedule.has_started());
        assert!(!schedule.measures(schedule.now()));
        assert_eq!(schedule.origin(), None);
        let hours = Duration::from_hours;
        schedule.set_window(hours(3), hours(1), hours(2));
        assert_eq!(schedule.measured(), hours(2));
        let warmup = schedule.begin() - schedule.origin().unwrap();
        assert_eq!(Duration::from_nanos(warmup), hours(1));
        assert!(!schedule.measures(schedule.begin() - 1));
        assert!(schedule.measures(schedule.begin()));
        assert!(!schedule.has_ended(schedule.end() - 1));
        assert!(!schedule.measures(schedule.end()));
        let end = schedule.end();
        assert!(!schedule.admits(1001, 1000));
        assert!(schedule.admits(1000, 1000));
        assert!(schedule.admits(end - 1, end + 1_000_000_000));
        assert!(!schedule.admits(end - 1, end + 2_000_000_000));
        assert!(!schedule.admits(end, end));
        assert!(schedule.has_ended(schedule.end()));
    }

    #[test]
    fn a_run_stopped_during_warmup_has_measured_nothing() {
        let schedule = Schedule::new(Duration::ZERO);
        schedule.start_load();
        schedule.set_window(Duration::ZERO, Duration::from_hours(1), Duration::from_hours(2));
        schedule.stop();
        assert!(schedule.has_ended(schedule.now()));
        assert_eq!(schedule.measured(), Duration::ZERO);
    }
}
