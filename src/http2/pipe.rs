//! Between the crate `h2`, which polls for bytes, and a stream of monoio's, which owns a buffer for as
//! long as it reads or writes.
//!
//! Bytes wait in two buffers here. [`Transport`] is the side of `h2`; [`receive`] and [`send`] are the
//! other side. All of them belong to one task, which polls each of them again whenever
//! [`Pipe::changes`] has grown, so that nothing here keeps a waker. What `h2` writes until nobody can
//! go on is sent at once: one write for all frames of a turn.
//!
//! The invariant: nothing is read before `h2` has taken what came before, and `h2` writes nothing while
//! [`SEND_LEN_MAX`] bytes wait. So a peer that does not read stops being read from.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io, mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use monoio::io::{AsyncReadRent, AsyncWriteRent};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::watch::{Excess, Watch};
use crate::{
    config::RECEIVE_BUFFER_START,
    connection::{ConnectionEnd, Control, RECEIVE_QUOTA, clock::Tick, write_all},
};

/// The most that one read brings.
pub(super) const READ_LEN_MAX: usize = 64 << 10;

/// The most that waits to be sent, beside what is being sent.
const SEND_LEN_MAX: usize = 64 << 10;

/// The bytes between a connection of `h2` and its stream.
#[derive(Default)]
pub(super) struct Pipe {
    received: RefCell<Received>,
    /// Frames that are to be sent.
    unsent: RefCell<Vec<u8>>,
    is_sending: Cell<bool>,
    /// Grows whenever bytes or an end have come to one side or have left it.
    changes: Cell<u64>,
}

#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    /// How many of them `h2` has taken.
    taken_len: usize,
    end: Option<End>,
}

/// Why nothing more is received.
#[derive(Clone, Copy, Debug)]
enum End {
    OfStream,
    Error(io::ErrorKind),
}

impl Pipe {
    /// With bytes that have come already.
    pub(super) fn new(early: Vec<u8>) -> Rc<Self> {
        let received = RefCell::new(Received { bytes: early, ..Received::default() });
        Rc::new(Self { received, ..Self::default() })
    }

    /// How often anything has changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// The memory of both buffers.
    pub(super) fn capacity(&self) -> usize {
        self.received.borrow().bytes.capacity() + self.unsent.borrow().capacity()
    }

    /// Whether everything has been sent.
    pub(super) fn is_sent(&self) -> bool {
        !self.is_sending.get() && self.unsent.borrow().is_empty()
    }

    fn change(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    /// Takes the buffer for the next read once `h2` has taken all bytes; `None` while there are some.
    fn take_empty(&self) -> Option<Vec<u8>> {
        let mut received = self.received.borrow_mut();
        if received.end.is_some() || received.taken_len < received.bytes.len() {
            return None;
        }
        received.taken_len = 0;
        Some(mem::take(&mut received.bytes))
    }

    /// Takes frames that are to be sent, and leaves an empty buffer in their place.
    fn take_unsent(&self, empty: &mut Vec<u8>) -> Option<Vec<u8>> {
        let mut unsent = self.unsent.borrow_mut();
        if unsent.is_empty() {
            return None;
        }
        Some(mem::replace(&mut *unsent, mem::take(empty)))
    }

    /// Appends as much as there is room for.
    fn append<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> Poll<io::Result<usize>> {
        let mut unsent = self.unsent.borrow_mut();
        let before = unsent.len();
        for part in parts {
            let room = SEND_LEN_MAX.saturating_sub(unsent.len());
            unsent.extend_from_slice(&part[..part.len().min(room)]);
        }
        let appended = unsent.len() - before;
        if appended == 0 {
            return Poll::Pending;
        }
        self.change();
        Poll::Ready(Ok(appended))
    }
}

/// Receives for ever, but for no longer than the peer sends; ends if the peer sends too many frames
/// that carry nothing. After [`RECEIVE_QUOTA`] it rests, so that a connection with many streams has no
/// more than its share: what it received in between is all that its streams can go on with.
pub(super) async fn receive(
    pipe: &Pipe,
    reader: &mut impl AsyncReadRent,
    mut watch: Watch<impl Fn() -> Tick>,
    control: &Control,
    rest: impl AsyncFn(),
) -> Excess {
    // What came with the request head has not been looked at.
    if let Err(excess) = watch.look_at(&pipe.received.borrow().bytes) {
        return excess;
    }
    let mut quota = RECEIVE_QUOTA;
    let mut next_len = RECEIVE_BUFFER_START.in_memory();
    loop {
        let mut buffer = poll_fn(|_| match pipe.take_empty() {
            Some(buffer) => Poll::Ready(buffer),
            None => Poll::Pending,
        })
        .await;
        buffer.clear();
        if buffer.capacity() < next_len || buffer.capacity() > 4 * next_len {
            buffer = Vec::with_capacity(next_len);
        }
        let (result, mut bytes) = reader.read(buffer).await;
        // A layer such as TLS may have used more of the buffer than it has filled.
        bytes.truncate(result.as_ref().map_or(0, |len| *len));
        let received_len = bytes.len();
        // The buffer follows what comes: twice as large once it was filled, half once it was not.
        if received_len == bytes.capacity() {
            next_len = (2 * received_len).min(READ_LEN_MAX);
        } else if received_len < bytes.capacity() / 4 {
            next_len = (next_len / 2).max(RECEIVE_BUFFER_START.in_memory());
        }
        let end = match result {
            Ok(0) => Some(End::OfStream),
            Ok(_) => None,
            Err(error) => Some(End::Error(error.kind())),
        };
        if end.is_none() {
            control.traffic();
            if let Err(excess) = watch.look_at(&bytes) {
                return excess;
            }
        }
        *pipe.received.borrow_mut() = Received { bytes, taken_len: 0, end };
        pipe.change();
        // A small piece costs nearly the time of a page.
        quota = quota.saturating_sub(received_len.max(RECEIVE_BUFFER_START.in_memory()));
        if quota == 0 {
            quota = RECEIVE_QUOTA;
            rest().await;
        }
    }
}

/// Sends what `h2` writes until the connection ends in this way.
pub(super) async fn send(
    pipe: &Pipe,
    writer: &mut impl AsyncWriteRent,
    control: &Control,
) -> ConnectionEnd {
    let mut empty = Vec::new();
    loop {
        let unsent = poll_fn(|_| match pipe.take_unsent(&mut empty) {
            Some(unsent) => Poll::Ready(unsent),
            None => Poll::Pending,
        })
        .await;
        pipe.is_sending.set(true);
        let unsent_len = unsent.len();
        empty = match write_all(writer, unsent, 0..unsent_len, control).await {
            Ok(sent) => sent,
            Err(end) => return end,
        };
        pipe.is_sending.set(false);
        empty.clear();
        // What a burst took is given back.
        if empty.capacity() > RECEIVE_BUFFER_START.in_memory() && unsent_len < empty.capacity() / 4
        {
            empty = Vec::new();
        }
        pipe.change();
    }
}

/// The side of `h2`.
pub(super) struct Transport(pub(super) Rc<Pipe>);

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let pipe = &self.0;
        let mut received = pipe.received.borrow_mut();
        let Received { bytes, taken_len, end } = &mut *received;
        let left = &bytes[*taken_len..];
        if left.is_empty() {
            return match end {
                None => Poll::Pending,
                Some(End::OfStream) => Poll::Ready(Ok(())),
                Some(End::Error(kind)) => Poll::Ready(Err((*kind).into())),
            };
        }
        let len = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..len]);
        *taken_len += len;
        pipe.change();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.append([bytes].into_iter())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.append(parts.iter().map(|part| &**part))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is written here is on its way.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The connection's write side is ended by whoever has the stream, once all is sent.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.is_sent() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}
