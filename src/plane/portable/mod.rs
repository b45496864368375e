//! The portable path: monoio waits, and each connection is a task.

mod carrier;
mod rest;

use std::{
    future::{Future, pending},
    io,
    net::TcpStream as StdTcpStream,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    time::Duration,
};

use monoio::{
    net::{TcpStream, UnixStream},
    task::JoinHandle,
};

use super::{Bounds, Departure, Plane, SecureStream, Upgraded};
use crate::{
    connection::{
        ConnectionEnd, Control,
        clock::{Deadlines, Tick},
        let_others_go_on,
    },
    metrics::Counters,
    stream::Duplex,
};

use self::rest::Rest;

pub use self::carrier::run;

/// Connections on monoio.
pub(crate) struct Portable {
    /// Whether descriptors must not block, as epoll wants it. A ring waits by itself.
    is_nonblocking: bool,
    rest: Rest,
}

impl Portable {
    /// On monoio's ring.
    pub(crate) fn on_uring() -> Self {
        Self { is_nonblocking: false, rest: Rest::default() }
    }

    /// On an epoll instance.
    pub(crate) fn on_epoll() -> Self {
        Self { is_nonblocking: true, rest: Rest::default() }
    }
}

impl Plane for Portable {
    type Stream = TcpStream;
    // The descriptor may be of any kind, since it is only waited for.
    type Source = UnixStream;

    fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        monoio::spawn(task)
    }

    fn start(&self, task: impl Future<Output = ()> + Unpin + 'static) {
        monoio::spawn(task);
    }

    async fn sleep(&self, duration: Duration) {
        monoio::time::sleep(duration).await;
    }

    async fn rest(&self) {
        self.rest.rest().await;
    }

    fn source(&self, descriptor: OwnedFd) -> io::Result<UnixStream> {
        UnixStream::from_std(StdUnixStream::from(descriptor))
    }

    async fn readable(&self, source: &UnixStream) -> io::Result<()> {
        let_others_go_on().await;
        source.readable(false).await
    }

    fn stream(&self, stream: StdTcpStream) -> io::Result<TcpStream> {
        if self.is_nonblocking {
            stream.set_nonblocking(true)?;
        }
        TcpStream::from_std(stream)
    }

    async fn carry(
        &self,
        upgraded: Upgraded<TcpStream>,
        bounds: &Bounds,
        counters: &Counters,
        control: &Control,
    ) -> Option<ConnectionEnd> {
        let Upgraded { stream, early, compression, .. } = upgraded;
        let (reader, writer) = stream.split();
        Some(run(reader, writer, early, compression, control, bounds, counters).await)
    }

    async fn carry_secured(
        &self,
        upgraded: Upgraded<SecureStream<TcpStream>>,
        bounds: &Bounds,
        counters: &Counters,
        control: &Control,
    ) -> Option<ConnectionEnd> {
        let Upgraded { stream, early, compression, .. } = upgraded;
        let (reader, writer) = stream.split();
        Some(run(reader, writer, early, compression, control, bounds, counters).await)
    }

    fn connection_count(&self) -> usize {
        0
    }

    fn copy_len(&self) -> usize {
        0
    }

    fn sweep(&self, _: Tick, _: &Deadlines) {}

    fn drain(&self) {}

    fn undrained_count(&self) -> usize {
        0
    }

    fn drain_some(&self, _: usize) {}

    fn drain_quiet(&self, _: Duration) {}

    fn abandon(&self) {}

    async fn settle(&self, _: JoinHandle<io::Result<()>>) {}

    fn let_go(&self) {}

    async fn drive(&self, _: impl Fn() -> bool, _: impl Fn(Departure)) -> io::Result<()> {
        pending().await
    }
}
