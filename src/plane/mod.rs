//! Who moves the bytes of upgraded connections, and how a worker's tasks wait.
//!
//! There are two planes. `OnEngine` carries all connections of a worker in one engine; `Portable`
//! runs a task of monoio's for each. Neither knows more of the protocol than the session's interface.

pub mod engine;
mod on_engine;
pub mod portable;

use std::{
    future::Future,
    io,
    net::TcpStream as StdTcpStream,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use monoio::task::JoinHandle;

use crate::{
    config::Echo,
    connection::{
        ConnectionEnd, Control,
        clock::{Deadlines, Tick},
        record::Record,
    },
    metrics::Counters,
    protocol::echo::{Compression, Rules},
    stream::{Duplex, TryRead},
    tls::TlsStream,
};

pub(crate) use self::{on_engine::OnEngine, portable::Portable};

/// The data plane of a worker, and its tasks' way to wait.
pub(crate) trait Plane: Sized + 'static {
    /// An accepted connection.
    type Stream: Duplex<Reader: TryRead> + AsRawFd;
    /// A descriptor that the worker waits for, such as its listener's.
    type Source;

    /// Runs a task beside the others.
    fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> JoinHandle<T>;

    /// Runs the task of a connection that has just come: where that is cheaper, at once as far as it
    /// goes without waiting, and the rest beside the others.
    fn start(&self, task: impl Future<Output = ()> + Unpin + 'static);

    /// Waits until `duration` has passed.
    async fn sleep(&self, duration: Duration);

    /// Waits until the worker has asked the kernel for what has happened, so that all of its connections
    /// have had a turn; returns at once where each read of a connection waits for that.
    async fn rest(&self);

    /// Makes a source of a nonblocking descriptor.
    fn source(&self, descriptor: OwnedFd) -> io::Result<Self::Source>;

    /// Waits until a source is readable. Other tasks have their turn even if it already is. Dropping
    /// the future loses nothing.
    async fn readable(&self, source: &Self::Source) -> io::Result<()>;

    /// An accepted connection, to be read and written.
    fn stream(&self, stream: StdTcpStream) -> io::Result<Self::Stream>;

    /// Carries an upgraded connection to its end, or takes it over (`None`): then it is given back by
    /// [`drive`](Self::drive).
    async fn carry(
        &self,
        upgraded: Upgraded<Self::Stream>,
        bounds: &Bounds,
        counters: &Counters,
        control: &Control,
    ) -> Option<ConnectionEnd>;

    /// The same for a connection over TLS.
    async fn carry_secured(
        &self,
        upgraded: Upgraded<SecureStream<Self::Stream>>,
        bounds: &Bounds,
        counters: &Counters,
        control: &Control,
    ) -> Option<ConnectionEnd>;

    /// The number of connections that the plane has taken over.
    fn connection_count(&self) -> usize;

    /// Bytes of the copies that it keeps for peers that do not read.
    fn copy_len(&self) -> usize;

    /// Looks at the deadlines of the connections that it has taken over, as another tick has passed.
    fn sweep(&self, now: Tick, deadlines: &Deadlines);

    /// Closes connections that it has taken over, and will take over, as soon as no message is under
    /// way on them.
    fn drain(&self);

    /// The number of connections that it has taken over and not begun to close.
    fn undrained_count(&self) -> usize;

    /// Closes the first `count` of these as soon as no message is under way on them.
    fn drain_some(&self, count: usize);

    /// Closes those of the connections that it has taken over which have been quiet for so long, and
    /// have no message under way.
    fn drain_quiet(&self, quiet: Duration);

    /// Ends connections that it has taken over.
    fn abandon(&self);

    /// Waits for the end of [`drive`](Self::drive) when the worker's work is done, so that no wait
    /// outlives the worker.
    async fn settle(&self, drive: JoinHandle<io::Result<()>>);

    /// Drops the wakers of all tasks that wait, when the worker ends in whatever way.
    fn let_go(&self);

    /// Moves the bytes of the connections that it has taken over, until `is_over`. Gives those that
    /// have ended to `finish`.
    async fn drive(&self, is_over: impl Fn() -> bool, finish: impl Fn(Departure))
    -> io::Result<()>;
}

/// A connection of a plane's, over TLS.
pub(crate) type SecureStream<S> = TlsStream<<S as Duplex>::Reader, <S as Duplex>::Writer>;

/// A connection whose opening handshake is done.
pub(crate) struct Upgraded<S> {
    pub(crate) stream: S,
    /// Bytes that came together with the request head: the first frames.
    pub(crate) early: Vec<u8>,
    /// What the handshake agreed on about compression.
    pub(crate) compression: Compression,
    /// What an operator may ask, if that is kept.
    pub(crate) record: Option<Rc<Record>>,
}

/// A connection that has left its plane, for the worker to close and to count.
pub struct Departure {
    /// The connection. Nothing is under way on it, and nothing more is sent or awaited.
    pub descriptor: OwnedFd,
    /// How it ended.
    pub end: ConnectionEnd,
    /// The close code that the peer was sent, if it was sent one.
    pub close_code: Option<u16>,
    /// What an operator may ask, if that is kept.
    pub record: Option<Rc<Record>>,
}

/// What bounds every session of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// What frames may be.
    pub rules: Rules,
    /// Bytes that a receive buffer may grow to, where each connection has its own.
    pub receive_buffer_max: usize,
    /// Bytes that are kept for a peer that does not read.
    pub unsent_max: usize,
}

impl Bounds {
    /// The bounds that the configuration sets.
    pub fn new(echo: &Echo) -> Self {
        Self {
            rules: Rules {
                hold: echo.hold.get().in_memory(),
                frame_size_max: echo.frame_size_max.get().0,
                message_size_max: echo.message_size_max.get().0,
            },
            receive_buffer_max: echo.receive_buffer.get().in_memory(),
            unsent_max: echo.unsent_max.get().in_memory(),
        }
    }
}
