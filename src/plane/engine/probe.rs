//! Whether this kernel can carry an engine on a ring. Nothing is concluded from versions: everything
//! is tried.

use std::{
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::mpsc::{Sender, channel},
    thread,
    time::Duration,
};

use thiserror::Error;

use super::{
    connection::Connection,
    dimensions::Dimensions,
    kernel::Interest,
    key::Key,
    table::Table,
    transfers::{Event, Events, Transfers},
    uring::Uring,
    waits::{Outcome, Sleep, Waits},
};
use crate::{
    config::HugePages,
    connection::clock::Tick,
    host::{descriptors::SystemCallError, trial::HOW_TO_ALLOW_RINGS},
    protocol::echo::Compression,
};

/// What a kernel that can carry an engine on a ring offers beyond that.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// A multishot receive can be limited to a number of bytes (Linux 6.17).
    pub limits_receives: bool,
}

/// Why this kernel cannot carry an engine on a ring.
#[derive(Debug, Error)]
pub enum Lack {
    /// It forbids `io_uring`, or does not know it.
    #[error("io_uring cannot be used here ({0}): {HOW_TO_ALLOW_RINGS}")]
    Forbidden(io::Error),
    /// It does not know something that the engine needs.
    #[error(
        "this kernel's io_uring lacks what the engine needs ({0}): deferred task running (Linux 6.1) and \
         incremental buffers (6.12)"
    )]
    Unknown(io::Error),
    /// There is not the memory, or this user may not lock it.
    #[error("there is no memory for an engine's ring ({0})")]
    Memory(io::Error),
    /// It cannot be tried here.
    #[error("io_uring cannot be tried: {0}")]
    Untried(SystemCallError),
    /// It takes every operation, but does one of them wrongly.
    #[error("on this kernel {0}")]
    Faulty(&'static str),
}

impl From<io::Error> for Lack {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOMEM) => Self::Memory(error),
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => Self::Forbidden(error),
            _ => Self::Unknown(error),
        }
    }
}

const DIMENSIONS: Dimensions = Dimensions {
    receive_buffers: 2,
    receive_buffer_len: 4096,
    huge_pages: HugePages::Off,
    receive_quota: 4096,
    unsent_max: 4096,
    connections_max: 1,
    spin: Duration::ZERO,
};

/// How often a sleeping ring is woken, each time by another of two descriptors.
const WAKE_UPS: usize = 4;

/// How long a wake-up may take. Right kernels take microseconds, or milliseconds on a busy machine.
const WAKE_UP_MAX: Duration = Duration::from_millis(500);

/// How long the other side waits before it writes, so that the ring is asleep by then.
const PAUSE: Duration = Duration::from_millis(2);

/// Tries an engine's ring: whether it receives, and is woken from its sleep by what arrives.
pub fn probe() -> Result<Probe, Lack> {
    let mut trial = Trial::new()?;
    let limits_receives = trial.limits_receives()?;
    trial.sleep_and_be_woken()?;
    Ok(Probe { limits_receives })
}

fn pair() -> Result<(UnixStream, UnixStream), Lack> {
    UnixStream::pair().map_err(untried("socketpair"))
}

fn untried(call: &'static str) -> impl Fn(io::Error) -> Lack {
    move |error| Lack::Untried(SystemCallError::naming(call)(error))
}

/// A ring with one connection, and a descriptor that it waits for besides.
struct Trial {
    transfers: Transfers<Uring>,
    key: Key,
    peer: UnixStream,
    awaited: UnixStream,
    awaited_peer: UnixStream,
    // Keeps the connection's descriptor open.
    _table: Table,
}

impl Trial {
    fn new() -> Result<Self, Lack> {
        let kernel = Uring::new(DIMENSIONS.receive_buffers)?;
        let mut transfers = Transfers::new(kernel, DIMENSIONS)?;
        let (peer, connection) = pair()?;
        let (awaited, awaited_peer) = pair()?;
        let mut table = Table::new(DIMENSIONS.connections_max);
        let (descriptor, now) = (connection.into(), Tick::default());
        let (key, connection) = table
            .insert(|generation| Connection::new(descriptor, generation, Compression::None, now));
        transfers.adopt(key, connection.descriptor.as_fd())?;
        Ok(Self { transfers, key, peer, awaited, awaited_peer, _table: table })
    }

    /// Whether a receive can be limited. After this, one is under way.
    fn limits_receives(&mut self) -> Result<bool, Lack> {
        for len_max in [DIMENSIONS.receive_quota, 0] {
            self.peer.write_all(b"?")?;
            self.transfers.receive(self.key, len_max);
            let mut events = Events::default();
            self.transfers.turn(&mut events, false)?;
            if let [(_, Event::Received { goes_on: true, .. })] = events.others[..] {
                return Ok(len_max > 0);
            }
        }
        Err(Lack::Faulty("a ring does not receive what is there"))
    }

    fn sleep_and_be_woken(mut self) -> Result<(), Lack> {
        let duplicate =
            |stream: &UnixStream| stream.try_clone().map_err(untried("fcntl(F_DUPFD_CLOEXEC)"));
        let (mut peer, mut awaited_peer) = (duplicate(&self.peer)?, duplicate(&self.awaited_peer)?);
        let (say, said) = channel();
        let other_side = thread::Builder::new().name("probe".to_owned()).spawn(move || {
            for by_connection in said {
                thread::sleep(PAUSE);
                let stream = if by_connection { &mut peer } else { &mut awaited_peer };
                // A write that fails wakes nobody, which the other side finds out.
                let _ = stream.write_all(b"!");
            }
        });
        let other_side = other_side.map_err(untried("clone3"))?;
        let result = self.sleep_repeatedly(&say);
        drop(say);
        // The thread writes bytes and cannot fail otherwise.
        let _ = other_side.join();
        result
    }

    fn sleep_repeatedly(&mut self, say: &Sender<bool>) -> Result<(), Lack> {
        let mut waits = Waits::default();
        for round in 0..WAKE_UPS {
            let (limit, wait) = (waits.begin(Some(Sleep::Other)), waits.begin(None));
            self.transfers.sleep(limit, WAKE_UP_MAX);
            self.transfers.watch(wait, self.awaited.as_fd(), Interest::Readable);
            let by_connection = round % 2 == 0;
            // The other side lives until it is told to end.
            let _ = say.send(by_connection);
            let mut events = Events::default();
            let is_over = |events: &Events, wait| events.waits.contains(&(wait, Outcome::There));
            while !is_over(&events, limit) {
                self.transfers.turn(&mut events, true)?;
                let has_received =
                    events.others.iter().any(|(_, event)| matches!(event, Event::Received { .. }));
                if by_connection && has_received || is_over(&events, wait) {
                    break;
                }
            }
            if is_over(&events, limit) {
                return Err(Lack::Faulty("data that arrives does not wake a ring that sleeps"));
            }
            if !by_connection {
                self.awaited.read_exact(&mut [0])?;
            }
            self.transfers.cancel_wait(limit);
            self.transfers.cancel_wait(wait);
        }
        Ok(())
    }
}
