//! Byte streams that tasks read and write: what is asked of a stream besides monoio's own traits.
//!
//! A stream may be a socket, or a layer over another stream. What goes over it is left to others. The
//! load generator uses these traits too.

use std::{future::Future, io, os::fd::AsRawFd};

use monoio::{
    io::{AsyncReadRent, AsyncWriteRent, OwnedReadHalf, OwnedWriteHalf, Splitable},
    net::TcpStream,
};
use nix::sys::socket::{MsgFlags, recv};

/// A stream that can be waited for before it is given a buffer.
pub trait WaitReadable: AsyncReadRent {
    /// Waits until a read finds bytes, the end or an error without waiting. Dropping the future loses
    /// nothing.
    fn readable(&mut self) -> impl Future<Output = io::Result<()>>;
}

/// A stream whose two directions go on beside each other once it is split.
pub trait Duplex: WaitReadable + AsyncWriteRent + Sized {
    /// What is read.
    type Reader: WaitReadable;
    /// What is written.
    type Writer: AsyncWriteRent;

    /// Splits the stream into its directions.
    fn split(self) -> (Self::Reader, Self::Writer);
}

/// A stream that can be read without waiting, as a layer over it needs to be waited for itself.
pub trait TryRead: WaitReadable {
    /// Reads what has arrived, into the start of `buffer`; [`WouldBlock`](io::ErrorKind::WouldBlock)
    /// if nothing has.
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

impl<R: WaitReadable> WaitReadable for &mut R {
    fn readable(&mut self) -> impl Future<Output = io::Result<()>> {
        R::readable(self)
    }
}

impl WaitReadable for OwnedReadHalf<TcpStream> {
    #[expect(unsafe_code, reason = "monoio's half has no way to wait")]
    async fn readable(&mut self) -> io::Result<()> {
        // SAFETY: both halves belong to one thread. Waiting takes a shared reference and changes
        // nothing of the stream's own, whatever the other half does meanwhile.
        let stream = unsafe { &*self.0.get() };
        stream.readable(false).await
    }
}

impl TryRead for OwnedReadHalf<TcpStream> {
    #[expect(unsafe_code, reason = "monoio's half has no way to say its descriptor")]
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: both halves belong to one thread, and the descriptor is all that is asked for.
        let descriptor = unsafe { &*self.0.get() }.as_raw_fd();
        Ok(recv(descriptor, buffer, MsgFlags::MSG_DONTWAIT)?)
    }
}

impl WaitReadable for TcpStream {
    async fn readable(&mut self) -> io::Result<()> {
        Self::readable(self, false).await
    }
}

impl Duplex for TcpStream {
    type Reader = OwnedReadHalf<Self>;
    type Writer = OwnedWriteHalf<Self>;

    fn split(self) -> (Self::Reader, Self::Writer) {
        self.into_split()
    }
}
