//! A worker's pulse: what its thread is doing, and how often it has swept. The worker writes it,
//! and another thread reads it to notice a worker that stands still.
//!
//! It has a cache line of its own, so that reading the counters beside it does not slow down the
//! worker's stores. An activity is stored once or twice a turn of the engine, and never for a message.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

use strum::FromRepr;

/// What a worker's thread does, and how many sweeps it has begun.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Pulse {
    sweeps: AtomicU32,
    activity: AtomicU8,
}

/// What a worker's thread is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRepr, strum::Display)]
#[repr(u8)]
pub enum Activity {
    /// Nothing: it has not begun, or it is over.
    #[default]
    #[strum(to_string = "not running")]
    NotRunning,
    /// Its platform is made, and its tasks are started.
    #[strum(to_string = "starting")]
    Starting,
    /// It is in the kernel: it sends, receives, and waits.
    #[strum(to_string = "in the kernel, sending, receiving or waiting")]
    Waiting,
    /// The engine handles what has happened to its connections.
    #[strum(to_string = "handling what connections have received")]
    Handling,
    /// Its tasks run, which are, on the portable path, its connections.
    #[strum(to_string = "running tasks")]
    Tasks,
    /// It accepts connections.
    #[strum(to_string = "accepting connections")]
    Accepting,
    /// It answers a request.
    #[strum(to_string = "answering a request")]
    Answering,
    /// It looks at deadlines.
    #[strum(to_string = "sweeping")]
    Sweeping,
    /// It has connections closed, since it is to stop.
    #[strum(to_string = "closing connections")]
    Draining,
}

impl Pulse {
    /// Notes what the worker's thread does from now on.
    #[inline]
    pub fn begin(&self, activity: Activity) {
        self.activity.store(activity as u8, Relaxed);
    }

    /// Notes that a sweep begins.
    pub fn sweep(&self) {
        self.begin(Activity::Sweeping);
        // Only the worker's thread counts.
        self.sweeps.store(self.sweeps().wrapping_add(1), Relaxed);
    }

    /// What the worker's thread is doing.
    pub fn activity(&self) -> Activity {
        Activity::from_repr(self.activity.load(Relaxed)).unwrap_or_default()
    }

    /// The number of sweeps so far, modulo 2^32.
    pub fn sweeps(&self) -> u32 {
        self.sweeps.load(Relaxed)
    }
}
