//! What the processes of generator and server use in the measured window.

use std::time::{Duration, Instant};

use super::{
    process_usage::ProcessUsage,
    thread_usage::{BusyThread, ThreadTimes},
};

/// What the processes used in the measured window, as far as that could be read.
#[derive(Debug, Default)]
pub(crate) struct WindowUsage {
    pub(crate) generator: Option<UsedInWindow>,
    pub(crate) server: Option<UsedInWindow>,
    /// For each thread of a generator that polls, the part of the window in which there was nothing
    /// to send or receive.
    pub(crate) polled_in_vain: Option<Vec<f64>>,
}

/// What a process used in the measured window.
#[derive(Debug)]
pub(crate) struct UsedInWindow {
    pub(crate) pid: u32,
    /// What it had used when the window began.
    pub(crate) before: ProcessUsage,
    /// What it had used when the window ended.
    pub(crate) after: ProcessUsage,
    /// Threads that were busy in between.
    pub(crate) busy_threads: Vec<BusyThread>,
}

/// What the processes have used until one end of the window.
pub(crate) struct WindowEnd {
    generator: Option<UsedSoFar>,
    server: Option<UsedSoFar>,
    /// Nanoseconds for which each thread polled and there was nothing to do.
    polled_in_vain: Option<Vec<u64>>,
    instant: Instant,
}

/// What a process has used until an instant.
struct UsedSoFar {
    pid: u32,
    process: ProcessUsage,
    threads: ThreadTimes,
    instant: Instant,
}

impl WindowEnd {
    /// Reads what this process has used, and the server's if it is known. Threads that poll have
    /// `polled_in_vain` for so many nanoseconds.
    pub(crate) fn read(server_pid: Option<u32>, polled_in_vain: Option<Vec<u64>>) -> Self {
        Self {
            generator: UsedSoFar::read(std::process::id()),
            server: server_pid.and_then(UsedSoFar::read),
            polled_in_vain,
            instant: Instant::now(),
        }
    }

    fn polled_in_vain_since(&self, before: &Self) -> Option<Vec<f64>> {
        let time = (self.instant - before.instant).max(Duration::from_nanos(1));
        let part = |(after, before): (&u64, &u64)| {
            Duration::from_nanos(after - before).div_duration_f64(time)
        };
        let (after, before) = (self.polled_in_vain.as_ref()?, before.polled_in_vain.as_ref()?);
        Some(after.iter().zip(before).map(part).collect())
    }
}

impl WindowUsage {
    /// The use in the window with these ends.
    pub(crate) fn between(before: &WindowEnd, after: &WindowEnd) -> Self {
        let used = |before: &Option<UsedSoFar>, after: &Option<UsedSoFar>| {
            Some(after.as_ref()?.since(before.as_ref()?))
        };
        Self {
            generator: used(&before.generator, &after.generator),
            server: used(&before.server, &after.server),
            polled_in_vain: after.polled_in_vain_since(before),
        }
    }
}

impl UsedSoFar {
    fn read(pid: u32) -> Option<Self> {
        let process = ProcessUsage::read(pid).ok()?;
        let threads = ThreadTimes::read(pid).ok()?;
        Some(Self { pid, process, threads, instant: Instant::now() })
    }

    fn since(&self, before: &Self) -> UsedInWindow {
        let time = self.instant - before.instant;
        UsedInWindow {
            pid: self.pid,
            before: before.process,
            after: self.process,
            busy_threads: self.threads.busy_since(&before.threads, time),
        }
    }
}
