//! What a worker runs on: the driver that it waits on, and the engine that carries its connections.

use std::{fmt, io};

use crate::plane::engine;

/// The kernel interface that a worker waits on; [`crate::config::Driver`] resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `io_uring`.
    IoUring,
    /// epoll.
    Epoll,
}

/// What a worker runs on.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// The kernel interface that it waits on.
    pub driver: Driver,
    /// The engine that carries connections after their opening handshake, if one does.
    pub engine: Option<engine::Dimensions>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.driver, self.engine) {
            (Driver::IoUring, Some(_)) => "io_uring with engine",
            (Driver::IoUring, None) => "io_uring",
            (Driver::Epoll, _) => "epoll",
        })
    }
}

/// Which parts of a platform may be replaced by the next best if the system does not grant them.
#[derive(Clone, Copy, Debug)]
pub struct Fallback {
    /// The portable path may take the engine's place.
    pub plane: bool,
    /// epoll may take the place of `io_uring`.
    pub driver: bool,
}

/// What a worker reports once it accepts connections.
#[derive(Debug)]
pub struct Ready {
    /// What it runs on.
    pub platform: Platform,
    /// What it had to do without, if anything.
    pub shortage: Option<Shortage>,
    /// Why it is not pinned to its CPU, if it is not.
    pub unpinned: Option<io::Error>,
}

/// Something that a worker does without.
#[derive(Debug)]
pub struct Shortage {
    /// What it is.
    pub kind: ShortageKind,
    /// Why it could not be had.
    pub error: io::Error,
}

/// What a worker may do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShortageKind {
    /// Its ring is smaller than it should be.
    SmallRing,
    /// It has no engine.
    NoEngine,
    /// It has no ring.
    NoRing,
}
