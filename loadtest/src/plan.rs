//! What is sent, and when: the [`Plan`] of a run, and the [`Schedule`] that all threads follow.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{payload::PayloadKind, target::Target};

/// After the end of the measured window, a thread waits for outstanding echoes and closing
/// handshakes until nothing at all has arrived for this long. What is outstanding then is missing.
pub const GRACE_QUIET: Duration = Duration::from_secs(2);

/// The longest that a thread waits after the end of the measured window.
pub const GRACE_MAX: Duration = Duration::from_secs(30);

/// Everything that a run needs to know; validated by the command line.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub target: Target,
    /// The address of the target.
    pub address: SocketAddr,
    /// Connections over all threads, at least 1.
    pub connections: usize,
    /// How long opening one connection may take: TCP and the opening handshake.
    pub opening_timeout: Duration,
    /// Messages in flight on each connection, at least 1.
    pub depth: usize,
    /// Bytes of payload of each message.
    pub payload_len: usize,
    /// Binary messages or texts.
    pub payload_kind: PayloadKind,
    /// What the server echoes.
    pub echo_kind: EchoKind,
    /// How long the load runs before the measured window.
    pub warmup: Duration,
    /// The measured window.
    pub duration: Duration,
    /// Threads, at least 1 and at most as many as connections.
    pub threads: usize,
    /// The CPUs that the threads are pinned to, in turn; empty if they are not pinned.
    pub cpus: Vec<usize>,
    /// The server's process, if its CPU time and memory are to be measured.
    pub server_pid: Option<u32>,
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
        let extra = usize::from(thread < self.connections % self.threads);
        self.connections / self.threads + extra
    }

    /// The CPU of thread number `thread`, if threads are pinned.
    pub fn cpu_of(&self, thread: usize) -> Option<usize> {
        self.cpus.get(thread % self.cpus.len().max(1)).copied()
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
    begin: AtomicU64,
    end: AtomicU64,
}

const NOT_YET: u64 = u64::MAX;

impl Default for Schedule {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            load_started: AtomicBool::new(false),
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

    /// Sets the measured window: after `warmup`, for `duration`. Then the load ends.
    pub fn set_window(&self, warmup: Duration, duration: Duration) {
        let begin = self.now() + warmup.as_nanos() as u64;
        self.end.store(begin + duration.as_nanos() as u64, Relaxed);
        self.begin.store(begin, Relaxed);
    }

    /// Ends the load now, unless it has ended before.
    pub fn stop(&self) {
        self.end.fetch_min(self.now(), Relaxed);
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

    /// Whether the instant `now` belongs to the measured window.
    #[inline]
    pub fn measures(&self, now: u64) -> bool {
        self.begin.load(Relaxed) <= now && now < self.end.load(Relaxed)
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
        schedule.set_window(Duration::from_hours(1), Duration::from_hours(2));
        assert_eq!(schedule.measured(), Duration::from_hours(2));
        assert!(!schedule.measures(schedule.begin() - 1));
        assert!(schedule.measures(schedule.begin()));
        assert!(!schedule.has_ended(schedule.end() - 1));
        assert!(!schedule.measures(schedule.end()));
        assert!(schedule.has_ended(schedule.end()));
    }

    #[test]
    fn a_run_stopped_during_warmup_has_measured_nothing() {
        let schedule = Schedule::default();
        schedule.start_load();
        schedule.set_window(Duration::from_hours(1), Duration::from_hours(2));
        schedule.stop();
        assert!(schedule.has_ended(schedule.now()));
        assert_eq!(schedule.measured(), Duration::ZERO);
    }
}
