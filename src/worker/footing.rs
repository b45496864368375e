//! What a worker stands on: what it waits on, what carries its connections, and what it does without.

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

/// What a worker stands on.
#[derive(Clone, Copy, Debug)]
pub struct Footing {
    /// What it waits on.
    pub driver: Driver,
    /// The engine that carries connections after their opening handshake, if one does.
    pub engine: Option<engine::Dimensions>,
}

impl fmt::Display for Footing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.driver, self.engine) {
            (Driver::IoUring, Some(_)) => "io_uring with engine",
            (Driver::IoUring, None) => "io_uring",
            (Driver::Epoll, _) => "epoll",
        })
    }
}

/// Which parts of a footing may be replaced by the next best.
#[derive(Clone, Copy, Debug)]
pub struct Fallback {
    /// The engine, by the portable path.
    pub plane: bool,
    /// `io_uring`, by epoll.
    pub driver: bool,
}

/// What a worker that accepts connections has to say.
#[derive(Debug)]
pub struct Ready {
    /// What it stands on.
    pub footing: Footing,
    /// What it could not have, and does without.
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
