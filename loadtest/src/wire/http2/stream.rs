//! A stream of HTTP/2 as the two halves of a connection.
//!
//! What is read gives the server its window back, as much as was taken. What is written waits for
//! the server's window and no longer: then it is h2's, and the transport's driver sends it with
//! whatever its other streams have to send.

use std::{future::poll_fn, rc::Rc, task::Poll};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use monoio::BufResult;

use super::{
    error::StreamError,
    outgoing::{BufferPool, Outgoing},
    pool::Seat,
};
use crate::wire::halves::{ReadHalf, WriteHalf};

/// The side of a stream that is read.
pub(crate) struct StreamReader {
    received: RecvStream,
    /// What was taken from h2, and not read.
    chunk: Bytes,
    /// What comes behind the chunk, once that is known.
    end: Option<Result<(), StreamError>>,
    seat: Rc<Seat>,
}

/// The side of a stream that is written.
pub(crate) struct StreamWriter {
    sending: SendStream<Outgoing>,
    buffers: BufferPool,
    resets: bool,
    _seat: Rc<Seat>,
}

/// The two halves of a stream that was accepted. Dropping the writer ends its side: in order, which is
/// `END_STREAM`, or by `RST_STREAM` if it `resets`.
pub(super) fn halves(
    received: RecvStream,
    sending: SendStream<Outgoing>,
    buffers: BufferPool,
    resets: bool,
    seat: Seat,
) -> (StreamReader, StreamWriter) {
    let seat = Rc::new(seat);
    let reader = StreamReader { received, chunk: Bytes::new(), end: None, seat: Rc::clone(&seat) };
    (reader, StreamWriter { sending, buffers, resets, _seat: seat })
}

impl ReadHalf for StreamReader {
    async fn read(&mut self, mut buffer: Vec<u8>) -> BufResult<usize, Vec<u8>> {
        buffer.clear();
        while buffer.len() < buffer.capacity() {
            if self.chunk.is_empty() && !self.next_chunk(buffer.is_empty()).await {
                break;
            }
            let len = self.chunk.len().min(buffer.capacity() - buffer.len());
            buffer.extend_from_slice(&self.chunk[..len]);
            // A chunk that is kept keeps the whole buffer that it was received in.
            self.chunk =
                if len == self.chunk.len() { Bytes::new() } else { self.chunk.slice(len..) };
        }
        let read = buffer.len();
        if read == 0 {
            return match self.end.take() {
                Some(Err(error)) => (Err(error.into()), buffer),
                _ => (Ok(0), buffer),
            };
        }
        // A stream that is over takes none back.
        let _ = self.received.flow_control().release_capacity(read);
        (Ok(read), buffer)
    }
}

impl StreamReader {
    /// Takes the next chunk that is not empty, and waits for one if it `may_wait`. Says whether there
    /// is one.
    async fn next_chunk(&mut self, may_wait: bool) -> bool {
        while self.end.is_none() {
            let next = poll_fn(|cx| match self.received.poll_data(cx) {
                Poll::Pending if !may_wait => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
                Poll::Ready(next) => Poll::Ready(Some(next)),
            });
            match next.await {
                None => return false,
                Some(Some(Ok(chunk))) if chunk.is_empty() => {}
                Some(Some(Ok(chunk))) => {
                    self.chunk = chunk;
                    return true;
                }
                Some(Some(Err(error))) => {
                    self.end = Some(Err(self.seat.explain(error.into()).await));
                }
                Some(None) => self.end = Some(Ok(())),
            }
        }
        false
    }
}

impl WriteHalf for StreamWriter {
    async fn write_all(&mut self, mut buffer: Vec<u8>) -> BufResult<usize, Vec<u8>> {
        let len = buffer.len();
        while !buffer.is_empty() {
            let room = match self.wait_for_room(buffer.len()).await {
                Ok(room) => room,
                Err(error) => return (Err(error.into()), buffer),
            };
            let rest = if room < buffer.len() {
                let mut rest = self.buffers.take();
                rest.extend_from_slice(&buffer[room..]);
                buffer.truncate(room);
                rest
            } else {
                self.buffers.take()
            };
            let payload = Outgoing::new(buffer, &self.buffers);
            buffer = rest;
            if let Err(error) = self.sending.send_data(payload, false) {
                return (Err(StreamError::from(error).into()), buffer);
            }
        }
        (Ok(len), buffer)
    }
}

impl StreamWriter {
    /// Waits until the server has a window for some of `len` bytes, and says of how many.
    async fn wait_for_room(&mut self, len: usize) -> Result<usize, StreamError> {
        self.sending.reserve_capacity(len);
        loop {
            let room = self.sending.capacity();
            if room > 0 {
                return Ok(room.min(len));
            }
            match poll_fn(|cx| self.sending.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Err(StreamError::CutOff),
            }
        }
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if self.resets {
            self.sending.send_reset(Reason::CANCEL);
        } else {
            // A stream that is over has no side left to end.
            let _ = self.sending.send_data(Outgoing::nothing(), true);
        }
    }
}
