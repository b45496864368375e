//! What carries a worker's connections, and how its tasks wait: [`super::portable`] on monoio,
//! [`super::ring`] on the engine.

use std::{
    future::Future,
    io,
    net::TcpStream as StdTcpStream,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use monoio::{
    io::{AsyncReadRent, AsyncWriteRent},
    task::JoinHandle,
};

use super::Worker;
use crate::{
    connection::{
        ConnectionEnd, Control,
        clock::{Deadlines, Tick},
    },
    protocol::echo::Compression,
};

/// The data plane of a worker, and its tasks' way to wait.
pub(super) trait Plane: Sized + 'static {
    /// An accepted connection.
    type Stream: AsyncReadRent + AsyncWriteRent + AsRawFd;
    /// Its halves.
    type Reader: AsyncReadRent;
    type Writer: AsyncWriteRent;
    /// A descriptor of the worker's that tells something by becoming readable.
    type Source;

    /// Runs a task beside the others.
    fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> JoinHandle<T>;

    /// Waits for as long as this.
    async fn sleep(&self, duration: Duration);

    /// A descriptor to wait for. It does not block.
    fn source(&self, descriptor: OwnedFd) -> io::Result<Self::Source>;

    /// Waits until a source is readable. Others have their turn, even if it already is. Nothing is
    /// lost when this is dropped.
    async fn readable(&self, source: &Self::Source) -> io::Result<()>;

    /// An accepted connection, to be read and written.
    fn stream(&self, stream: StdTcpStream) -> io::Result<Self::Stream>;

    /// Splits a connection into its halves.
    fn split(stream: Self::Stream) -> (Self::Reader, Self::Writer);

    /// Carries a connection after its opening handshake to its end, or takes it over (`None`).
    async fn carry(
        &self,
        upgraded: Upgraded<Self::Stream>,
        worker: &Worker<Self>,
        control: &Control,
    ) -> Option<ConnectionEnd>;

    /// Connections that it has taken over.
    fn connection_count(&self) -> usize;

    /// Another tick has passed for connections that it has taken over.
    fn sweep(&self, now: Tick, deadlines: &Deadlines);

    /// Closes connections that it has taken over as soon as no message is under way on them.
    fn drain(&self);

    /// Ends connections that it has taken over.
    fn abandon(&self);

    /// Ends what drives the plane, when the worker's work is done, so that nothing that was waited
    /// for outlives the worker.
    async fn settle(&self, drive: JoinHandle<io::Result<()>>);

    /// Lets go of the tasks that wait, when the worker ends in whatever way.
    fn let_go(&self);

    /// What the worker's thread does besides its tasks, until they are over.
    async fn drive(&self, worker: &Rc<Worker<Self>>) -> io::Result<()>;
}

/// A connection whose opening handshake is done.
pub(super) struct Upgraded<S> {
    pub(super) stream: S,
    /// What came together with the request head: the first frames.
    pub(super) early: Vec<u8>,
    /// What the handshake agreed on.
    pub(super) compression: Compression,
}
