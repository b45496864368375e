//! Streams of monoio whose other end is a test: it says what is read, and takes what is written.

use std::io;

use monoio::{
    BufResult,
    buf::{IoBuf, IoBufMut, IoVecBuf, IoVecBufMut},
    io::{AsyncReadRent, AsyncWriteRent},
};
use ringecho::stream::WaitReadable;

/// What a [`Reader`] reads from.
pub(crate) trait Source {
    /// What one read finds, at most `len_max` bytes; nothing at the end.
    async fn next_piece(&mut self, len_max: usize) -> io::Result<Vec<u8>>;
}

/// What a [`Writer`] writes to.
pub(crate) trait Sink {
    /// Takes some of what one write offers, and says how many bytes.
    async fn take(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

pub(crate) struct Reader<S>(pub(crate) S);

pub(crate) struct Writer<S>(pub(crate) S);

impl<S: Source> AsyncReadRent for Reader<S> {
    async fn read<T: IoBufMut>(&mut self, mut buffer: T) -> BufResult<usize, T> {
        match self.0.next_piece(buffer.bytes_total()).await {
            Ok(piece) => AsyncReadRent::read(&mut &piece[..], buffer).await,
            Err(error) => (Err(error), buffer),
        }
    }

    async fn readv<T: IoVecBufMut>(&mut self, _: T) -> BufResult<usize, T> {
        unreachable!("the portable path reads into one buffer")
    }
}

impl<S: Source> WaitReadable for Reader<S> {
    /// A source has its next piece at once, or waits for it in the read.
    async fn readable(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Sink> AsyncWriteRent for Writer<S> {
    async fn write<T: IoBuf>(&mut self, buffer: T) -> BufResult<usize, T> {
        let result = self.0.take(bytes(&buffer)).await;
        (result, buffer)
    }

    async fn writev<T: IoVecBuf>(&mut self, _: T) -> BufResult<usize, T> {
        unreachable!("the portable path writes from one buffer")
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The initialised bytes of a buffer, which monoio itself hands only to the kernel.
#[expect(unsafe_code, reason = "IoBuf has no safe view of its bytes")]
fn bytes(buffer: &impl IoBuf) -> &[u8] {
    // SAFETY: an IoBuf has bytes_init() initialised bytes at read_ptr() for as long as it lives.
    unsafe { std::slice::from_raw_parts(buffer.read_ptr(), buffer.bytes_init()) }
}
