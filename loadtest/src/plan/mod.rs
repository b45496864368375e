//! What is sent, and when: the [`Plan`] of a run, and the [`Schedule`] that all threads follow.

pub mod condition;
pub mod rate;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    drive::threads::ThreadPlan, payload::PayloadPlan, plan::rate::Rate, wire::connector::Connector,
};

/// After the end of the measured window, a thread waits for outstanding echoes and closing
/// handshakes until nothing at all has arrived for this long. What is outstanding then is missing.
pub const GRACE_QUIET: Duration = Duration::from_secs(2);

/// The longest that a thread waits after the end of the measured window.
pub const GRACE_MAX: Duration = Duration::from_secs(30);

/// After the end of the measured window, planned messages that could not be sent in their time are
/// still sent for this long. What is left then stays unsent.
pub const BACKLOG_GRACE: Duration = Duration::from_secs(2);

const BACKLOG_GRACE_NS: u64 = BACKLOG_GRACE.as_nanos() as u64;

/// The first message of an open loop is planned this long after the schedule is known, so that each
/// thread gets to know it before.
const OPEN_LOOP_LEAD: Duration = Duration::from_millis(20);

/// Everything that a run needs to know; validated by the command line.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to, and how. Source addresses go on in turn from one run to the next.
    pub connector: Arc<Connector>,
    /// Connections over all threads, at least 1.
    pub connections: usize,
    /// When messages are sent.
    pub load: Load,
    /// What the threads of an open loop do until something happens.
    pub wait: Wait,
    /// Messages in flight on each connection, at least 1: in a closed loop as many all the time, in
    /// an open loop at most.
    pub depth: usize,
    /// What is in the messages.
    pub payload: PayloadPlan,
    /// Frames that each message is sent in, at least 1.
    pub fragments: usize,
    /// What the server echoes.
    pub echo_kind: EchoKind,
    /// Whether a lost connection is opened again.
    pub reconnect: bool,
    /// When the load starts, if not as soon as the connections are open.
    pub start_at: Option<SystemTime>,
    /// Whether permessage-deflate is offered to the server.
    pub compression: bool,
    /// How long the load runs before the measured window.
    pub warmup: Duration,
    /// The measured window.
    pub duration: Duration,
    /// The threads that the connections are spread over.
    pub threads: ThreadPlan,
    /// The server's process, if its CPU time and memory are to be measured.
    pub server_pid: Option<u32>,
}

/// When messages are sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// A new message for each echo that arrives.
    Closed,
    /// At planned instants, whether the server keeps up or not.
    Open(Rate),
}

impl Load {
    /// Whether threads that wait so look for what has happened all the time.
    pub(crate) fn polls(&self, wait: Wait) -> bool {
        wait == Wait::Poll && matches!(self, Self::Open(_))
    }
}

/// What the threads of an open loop do until something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Look for it all the time, which takes a CPU for each thread.
    Poll,
    /// Sleep, and be woken: that takes the time of a wake-up, for each message and each echo.
    Sleep,
}

/// What the server echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EchoKind {
    /// Messages, in unmasked frames, as a WebSocket server does.
    Messages,
    /// Bytes, as a TCP echo does after a 101: the frames come back masked. They are sent with a
    /// masking key of zero, so their payloads come back as they were.
    Bytes,
}

impl Plan {
    /// The connections of thread number `thread`, spread evenly.
    pub fn connections_of(&self, thread: usize) -> usize {
        let threads = self.threads.count;
        let extra = usize::from(thread < self.connections % threads);
        self.connections / threads + extra
    }

    /// Whether threads look for what has happened all the time.
    pub fn polls(&self) -> bool {
        self.load.polls(self.wait)
    }

    /// How long after its window is known the load begins.
    pub fn lead(&self) -> Duration {
        match self.load {
            Load::Closed => Duration::ZERO,
            Load::Open(_) => OPEN_LOOP_LEAD,
        }
    }

    /// The number of connection `index` of thread number `thread`, unique in the run. Planned
    /// messages go to the connections in the order of their numbers, again and again.
    pub fn connection_number(&self, thread: usize, index: usize) -> u64 {
        (index * self.threads.count + thread) as u64
    }
}

/// The instants that all threads share, in nanoseconds since the run began.
///
/// The main thread sets them, the others read them, so the measured window begins and ends for all
/// at the same instants, whenever a thread gets to notice.
#[derive(Debug)]
pub struct Schedule {
    epoch: Instant,
    load_started: AtomicBool,
    abandoned: AtomicBool,
    origin: AtomicU64,
    begin: AtomicU64,
    end: AtomicU64,
}

const NOT_YET: u64 = u64::MAX;

impl Default for Schedule {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            load_started: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            origin: AtomicU64::new(NOT_YET),
            begin: AtomicU64::new(NOT_YET),
            end: AtomicU64::new(NOT_YET),
        }
    }
}

impl Schedule {
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
        planned <= now && planned < end && now < end.saturating_add(BACKLOG_GRACE_NS)
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
        let schedule = Schedule::default();
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
        let schedule = Schedule::default();
        schedule.start_load();
        schedule.set_window(Duration::ZERO, Duration::from_hours(1), Duration::from_hours(2));
        schedule.stop();
        assert!(schedule.has_ended(schedule.now()));
        assert_eq!(schedule.measured(), Duration::ZERO);
    }
}
