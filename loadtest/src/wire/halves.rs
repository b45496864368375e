//! The two sides of a byte stream, as traits. Code that reads and writes is generic over them, so a
//! connection without TLS pays nothing for it.

use monoio::{
    BufResult,
    io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf},
    net::TcpStream,
};

/// The side of a stream that is read.
pub(crate) trait ReadHalf {
    /// Reads into `buffer`, from its start and as much as it has capacity for. Nothing is read at
    /// the end of the stream.
    fn read(&mut self, buffer: Vec<u8>) -> impl Future<Output = BufResult<usize, Vec<u8>>>;
}

/// The side of a stream that is written.
pub(crate) trait WriteHalf {
    /// Writes all of `buffer`.
    fn write_all(&mut self, buffer: Vec<u8>) -> impl Future<Output = BufResult<usize, Vec<u8>>>;
}

impl ReadHalf for OwnedReadHalf<TcpStream> {
    #[inline]
    fn read(&mut self, buffer: Vec<u8>) -> impl Future<Output = BufResult<usize, Vec<u8>>> {
        AsyncReadRent::read(self, buffer)
    }
}

impl WriteHalf for OwnedWriteHalf<TcpStream> {
    #[inline]
    fn write_all(&mut self, buffer: Vec<u8>) -> impl Future<Output = BufResult<usize, Vec<u8>>> {
        AsyncWriteRentExt::write_all(self, buffer)
    }
}
