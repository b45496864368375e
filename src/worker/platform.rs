//! What a worker runs on: the driver that it waits on, and the engine that carries its connections.

use std::{fmt, io, sync::Arc};

use monoio::{IoUringDriver, LegacyDriver, Runtime, time::TimeDriver};
use nix::errno::Errno;

use super::Plan;
use crate::{
    host::{
        descriptors::SystemCallError,
        runtime::{self, OnRing},
    },
    metrics::Counters,
    plane::engine::{self, Engine, Epoll, Uring},
    protocol::echo::Rules,
};

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

impl Platform {
    /// What a worker does without that runs on this for want of a better platform.
    pub(super) fn lack(&self) -> ShortageKind {
        match self.driver {
            Driver::IoUring => ShortageKind::NoEngine,
            Driver::Epoll => ShortageKind::NoRing,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.driver, self.engine) {
            (Driver::IoUring, Some(_)) => "io_uring with engine",
            (Driver::IoUring, None) => "io_uring",
            (Driver::Epoll, Some(_)) => "epoll with engine",
            (Driver::Epoll, None) => "epoll",
        })
    }
}

/// A platform that has been made, for a worker to run on.
pub(super) enum Ground {
    EngineOnRing(Engine<Uring>),
    EngineOnEpoll(Engine<Epoll>),
    PortableOnRing(Runtime<TimeDriver<IoUringDriver>>),
    PortableOnEpoll(Runtime<TimeDriver<LegacyDriver>>),
}

impl Ground {
    /// Makes the first of a worker's platforms that the system grants. Returns also which one that
    /// is, and what the worker does without on it.
    pub(super) fn find(
        plan: &Plan,
        rules: Rules,
    ) -> Result<(Self, Platform, Option<Shortage>), SystemCallError> {
        let mut refusal: Option<SystemCallError> = None;
        for platform in &plan.platforms {
            match (Self::make(*platform, rules, &plan.counters), refusal.take()) {
                (Ok((ground, shortage)), None) => return Ok((ground, *platform, shortage)),
                (Ok((ground, _)), Some(SystemCallError { source, .. })) => {
                    let shortage = Shortage { kind: platform.lack(), error: source };
                    return Ok((ground, *platform, Some(shortage)));
                }
                (Err(error), earlier) => refusal = Some(earlier.unwrap_or(error)),
            }
        }
        Err(refusal.unwrap_or_else(|| unreachable!("a worker has a platform")))
    }

    fn make(
        platform: Platform,
        rules: Rules,
        counters: &Arc<Counters>,
    ) -> Result<(Self, Option<Shortage>), SystemCallError> {
        let counters = counters.clone();
        let (ground, is_reduced) = match (platform.driver, platform.engine) {
            (Driver::IoUring, Some(dimensions)) => {
                let engine = Engine::on_ring(dimensions, rules, counters);
                let engine = engine.map_err(SystemCallError::naming("io_uring"))?;
                let is_reduced = engine.is_reduced();
                (Self::EngineOnRing(engine), is_reduced)
            }
            (Driver::Epoll, Some(dimensions)) => {
                let engine = Engine::on_epoll(dimensions, rules, counters);
                (Self::EngineOnEpoll(engine.map_err(SystemCallError::naming("epoll"))?), false)
            }
            (Driver::IoUring, None) => {
                let OnRing { runtime, reduced } =
                    runtime::build_on_ring().map_err(SystemCallError::naming("io_uring"))?;
                (Self::PortableOnRing(runtime), reduced.is_some())
            }
            (Driver::Epoll, None) => {
                let runtime =
                    runtime::build_on_epoll().map_err(SystemCallError::naming("epoll"))?;
                (Self::PortableOnEpoll(runtime), false)
            }
        };
        let small_ring = || Shortage { kind: ShortageKind::SmallRing, error: Errno::ENOMEM.into() };
        Ok((ground, is_reduced.then(small_ring)))
    }
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
