//! The portable path: monoio waits, and each connection is a task.

use std::{
    future::{Future, pending},
    io,
    net::TcpStream as StdTcpStream,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    rc::Rc,
    time::Duration,
};

use monoio::{
    io::{OwnedReadHalf, OwnedWriteHalf, Splitable},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
};

use super::{
    Driver, Worker,
    plane::{Plane, Upgraded},
};
use crate::connection::{
    self, ConnectionEnd, Control,
    clock::{Deadlines, Tick},
    let_others_go_on,
};

/// Connections on monoio.
pub(super) struct Portable {
    driver: Driver,
}

impl Portable {
    pub(super) fn new(driver: Driver) -> Self {
        Self { driver }
    }
}

impl Plane for Portable {
    type Stream = TcpStream;
    type Reader = OwnedReadHalf<TcpStream>;
    type Writer = OwnedWriteHalf<TcpStream>;
    // Of whatever kind it is: it is only waited for.
    type Source = UnixStream;

    fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        monoio::spawn(task)
    }

    async fn sleep(&self, duration: Duration) {
        monoio::time::sleep(duration).await;
    }

    fn source(&self, descriptor: OwnedFd) -> io::Result<UnixStream> {
        UnixStream::from_std(StdUnixStream::from(descriptor))
    }

    async fn readable(&self, source: &UnixStream) -> io::Result<()> {
        let_others_go_on().await;
        source.readable(false).await
    }

    fn stream(&self, stream: StdTcpStream) -> io::Result<TcpStream> {
        // Only epoll wants descriptors that do not block; io_uring waits by itself.
        if self.driver == Driver::Epoll {
            stream.set_nonblocking(true)?;
        }
        TcpStream::from_std(stream)
    }

    fn split(stream: TcpStream) -> (Self::Reader, Self::Writer) {
        stream.into_split()
    }

    async fn carry(
        &self,
        upgraded: Upgraded<TcpStream>,
        worker: &Worker<Self>,
        control: &Control,
    ) -> Option<ConnectionEnd> {
        let Upgraded { stream, early, compression } = upgraded;
        let (reader, writer) = stream.into_split();
        Some(connection::run(reader, writer, early, compression, control, &worker.shared).await)
    }

    fn connection_count(&self) -> usize {
        0
    }

    fn sweep(&self, _: Tick, _: &Deadlines) {}

    fn drain(&self) {}

    fn abandon(&self) {}

    async fn settle(&self, _: JoinHandle<io::Result<()>>) {}

    fn let_go(&self) {}

    async fn drive(&self, _: &Rc<Worker<Self>>) -> io::Result<()> {
        pending().await
    }
}
