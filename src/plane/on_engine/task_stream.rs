//! Connections of a worker with an engine that the engine does not carry: until the opening handshake
//! is done, and those that are refused. Tasks read and write them, and wait in the engine's kernel.

use std::{
    io, mem,
    net::{Shutdown, TcpStream as StdTcpStream},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    rc::Rc,
};

use monoio::{
    BufResult,
    buf::{IoBuf, IoBufMut, IoVecBuf, IoVecBufMut},
    io::{AsyncReadRent, AsyncWriteRent},
};
use nix::sys::socket::{MsgFlags, recv};
use socket2::SockRef;

use super::OnEngine;
use crate::{
    plane::engine::{Interest, Kernel},
    stream::{Duplex, TryRead, WaitReadable},
};

/// A connection that is read and written without blocking. What would block waits in the kernel.
pub(crate) struct TaskStream<K> {
    socket: Rc<StdTcpStream>,
    plane: OnEngine<K>,
    /// The connection has been read from. Then the next read waits even if there are bytes, so that a
    /// peer that streams does not keep the engine from its turn.
    has_read: bool,
}

impl<K> Clone for TaskStream<K> {
    fn clone(&self) -> Self {
        let Self { socket, plane, has_read } = self;
        Self { socket: socket.clone(), plane: plane.clone(), has_read: *has_read }
    }
}

impl<K> AsRawFd for TaskStream<K> {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl<K: Kernel> TaskStream<K> {
    pub(super) fn new(stream: StdTcpStream, plane: OnEngine<K>) -> Self {
        Self { socket: Rc::new(stream), plane, has_read: false }
    }

    /// The connection's descriptor. No other half of the connection may be left.
    pub(super) fn into_descriptor(self) -> OwnedFd {
        let Ok(socket) = Rc::try_unwrap(self.socket) else {
            unreachable!("nobody reads or writes it any more")
        };
        socket.into()
    }

    /// Calls `act`, which does not block, until it does something; waits in between.
    async fn when_ready<T>(
        &self,
        interest: Interest,
        mut act: impl FnMut(&SockRef<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match act(&SockRef::from(&*self.socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.plane.ready(&*self.socket, interest).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl<K: Kernel> AsyncReadRent for TaskStream<K> {
    #[expect(unsafe_code, reason = "IoBufMut has no safe view of its memory")]
    async fn read<T: IoBufMut>(&mut self, mut buffer: T) -> BufResult<usize, T> {
        if mem::replace(&mut self.has_read, true)
            && let Err(error) = self.plane.ready(&*self.socket, Interest::Readable).await
        {
            return (Err(error), buffer);
        }
        let received = self
            .when_ready(Interest::Readable, |socket| {
                // SAFETY: an IoBufMut has bytes_total() bytes at write_ptr() for as long as it
                // lives, and nobody else has it meanwhile; they may be uninitialised.
                let memory = unsafe {
                    std::slice::from_raw_parts_mut(buffer.write_ptr().cast(), buffer.bytes_total())
                };
                socket.recv_with_flags(memory, libc::MSG_DONTWAIT)
            })
            .await;
        if let Ok(len) = received {
            // SAFETY: the kernel has just written this many bytes.
            unsafe { buffer.set_init(len) };
        }
        (received, buffer)
    }

    async fn readv<T: IoVecBufMut>(&mut self, buffers: T) -> BufResult<usize, T> {
        (Err(io::ErrorKind::Unsupported.into()), buffers)
    }
}

impl<K: Kernel> WaitReadable for TaskStream<K> {
    async fn readable(&mut self) -> io::Result<()> {
        self.plane.ready(&*self.socket, Interest::Readable).await?;
        self.has_read = false;
        Ok(())
    }
}

impl<K: Kernel> TryRead for TaskStream<K> {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.has_read = true;
        Ok(recv(self.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
    }
}

impl<K: Kernel> Duplex for TaskStream<K> {
    type Reader = Self;
    type Writer = Self;

    fn split(self) -> (Self, Self) {
        (self.clone(), self)
    }
}

impl<K: Kernel> AsyncWriteRent for TaskStream<K> {
    #[expect(unsafe_code, reason = "IoBuf has no safe view of its bytes")]
    async fn write<T: IoBuf>(&mut self, buffer: T) -> BufResult<usize, T> {
        let sent = self
            .when_ready(Interest::Writable, |socket| {
                // SAFETY: an IoBuf has bytes_init() initialised bytes at read_ptr() for as long as
                // it lives.
                let bytes =
                    unsafe { std::slice::from_raw_parts(buffer.read_ptr(), buffer.bytes_init()) };
                socket.send_with_flags(bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            })
            .await;
        (sent, buffer)
    }

    async fn writev<T: IoVecBuf>(&mut self, buffers: T) -> BufResult<usize, T> {
        (Err(io::ErrorKind::Unsupported.into()), buffers)
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }
}
