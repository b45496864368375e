//! The two halves of a stream, which a session is carried over like over those of a socket.
//!
//! The receive window is given back as the session takes the bytes, and bytes are sent as the stream's
//! window and the connection's have room. Reads and writes wait for nothing but `h2`, so dropping one
//! that waits loses nothing.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use monoio::{
    BufResult,
    buf::{IoBuf, IoBufMut, IoVecBuf, IoVecBufMut},
    io::{AsyncReadRent, AsyncWriteRent},
};

use super::connection::Place;
use crate::stream::WaitReadable;

/// What the peer sends on a stream.
pub struct StreamReader {
    body: RecvStream,
    /// Bytes of a frame of which the session has taken some.
    left: Bytes,
    place: Rc<Place>,
}

/// What the peer is sent on a stream.
pub struct StreamWriter {
    body: SendStream<Bytes>,
    place: Rc<Place>,
}

/// The halves of a stream.
pub fn halves(
    received: RecvStream,
    sent: SendStream<Bytes>,
    place: &Rc<Place>,
) -> (StreamReader, StreamWriter) {
    let reader = StreamReader::new(received, place);
    (reader, StreamWriter { body: sent, place: place.clone() })
}

impl StreamReader {
    /// Of a request's body.
    pub(crate) fn new(received: RecvStream, place: &Rc<Place>) -> Self {
        Self { body: received, left: Bytes::new(), place: place.clone() }
    }

    /// The body, of which what has been read is gone.
    pub(crate) fn into_inner(self) -> RecvStream {
        self.body
    }

    /// Waits for bytes, or for the end (`false`).
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.left.is_empty() {
            match ready!(self.body.poll_data(context)) {
                None => return Poll::Ready(Ok(false)),
                Some(Ok(bytes)) => self.left = bytes,
                Some(Err(error)) => {
                    if !error.is_reset() {
                        self.place.cut();
                    }
                    return Poll::Ready(Err(io_error(error)));
                }
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Moves as many bytes as there is room for, and gives the peer as much window.
    async fn take<T: IoBufMut>(&mut self, buffer: T) -> BufResult<usize, T> {
        let (result, buffer) = AsyncReadRent::read(&mut &self.left[..], buffer).await;
        if let Ok(len) = result {
            self.left.advance(len);
            // This fails only if the window was given back before.
            let _ = self.body.flow_control().release_capacity(len);
        }
        (result, buffer)
    }
}

impl AsyncReadRent for StreamReader {
    async fn read<T: IoBufMut>(&mut self, buffer: T) -> BufResult<usize, T> {
        match poll_fn(|context| self.poll_more(context)).await {
            Ok(true) => self.take(buffer).await,
            Ok(false) => (Ok(0), buffer),
            Err(error) => (Err(error), buffer),
        }
    }

    async fn readv<T: IoVecBufMut>(&mut self, buffers: T) -> BufResult<usize, T> {
        (Err(io::ErrorKind::Unsupported.into()), buffers)
    }
}

impl WaitReadable for StreamReader {
    async fn readable(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_more(context)).await.map(drop)
    }
}

impl StreamWriter {
    /// Waits for room, and returns how much of `len` there is.
    async fn room_for(&mut self, len: usize) -> io::Result<usize> {
        if len == 0 {
            return Ok(0);
        }
        let Self { body, place, .. } = self;
        body.reserve_capacity(len);
        let mut stalled = None;
        poll_fn(|context| {
            while body.capacity() == 0 {
                match body.poll_capacity(context) {
                    Poll::Pending => {
                        stalled.get_or_insert_with(|| place.stall());
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io_error(error))),
                    // The peer has reset the stream.
                    Poll::Ready(None) => {
                        return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                    }
                }
            }
            Poll::Ready(Ok(body.capacity().min(len)))
        })
        .await
    }
}

impl AsyncWriteRent for StreamWriter {
    #[expect(unsafe_code, reason = "IoBuf has no safe view of its bytes")]
    async fn write<T: IoBuf>(&mut self, buffer: T) -> BufResult<usize, T> {
        let room = match self.room_for(buffer.bytes_init()).await {
            Ok(room) => room,
            Err(error) => return (Err(error), buffer),
        };
        // SAFETY: an IoBuf has bytes_init() initialised bytes at read_ptr() for as long as it lives.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.read_ptr(), buffer.bytes_init()) };
        let sent = self.body.send_data(Bytes::copy_from_slice(&bytes[..room]), false);
        (sent.map(|()| room).map_err(io_error), buffer)
    }

    async fn writev<T: IoVecBuf>(&mut self, buffers: T) -> BufResult<usize, T> {
        (Err(io::ErrorKind::Unsupported.into()), buffers)
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    //= https://www.rfc-editor.org/rfc/rfc8441#section-5
    //# Orderly TCP-level closures are represented as END_STREAM flags
    //# ([RFC7540], Section 6.1).
    async fn shutdown(&mut self) -> io::Result<()> {
        self.place.ended();
        self.body.send_data(Bytes::new(), true).map_err(io_error)
    }
}

/// A stream's error as that of a connection.
//= https://www.rfc-editor.org/rfc/rfc8441#section-5
//# RST exceptions are represented
//# with the RST_STREAM frame ([RFC7540], Section 6.4) with the CANCEL
//# error code ([RFC7540], Section 7).
fn io_error(error: h2::Error) -> io::Error {
    if error.is_reset() {
        io::ErrorKind::ConnectionReset.into()
    } else {
        error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }
}
