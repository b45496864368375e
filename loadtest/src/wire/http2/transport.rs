//! One connection that carries streams: its settings, its driver, and how a stream is opened on it.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use super::{
    error::{Http2Error, StreamError},
    outgoing::{BufferPool, Outgoing},
    poll_io::{PollIo, Pump},
    pool::Seat,
    request::{ConnectRequest, check},
    stream::{StreamReader, StreamWriter, halves},
};
use crate::wire::{opening_error::OpeningError, request::Request};
use h2::client::{Builder, Connection, SendRequest};

/// Bytes that a stream may receive before any are read. Its reader takes all that there is whenever it
/// has its turn, so this is what a server can send from one turn to the next: a millisecond at 4 GB/s.
const STREAM_WINDOW: u32 = 4 << 20;

/// The largest window that there is (RFC 9113 §6.9.1).
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// The longest list of header fields that a response may have, in the octets of RFC 9113 §6.5.2.
const HEADER_LIST_LEN_MAX: u32 = 16 * 1024;

/// What h2 takes for the number of streams that the server allows, until its SETTINGS have come. No
/// server can say that number, and h2 has another one for those that say none.
const UNSETTLED: usize = usize::MAX - 1;

/// A transport whose SETTINGS have come.
#[derive(Debug)]
pub(super) struct Transport {
    requests: SendRequest<Outgoing>,
    buffers: BufferPool,
    /// Streams that are open or being opened.
    pub(super) streams: Cell<usize>,
    /// Whether it takes no further streams.
    is_spent: Cell<bool>,
    progress: Rc<Progress>,
}

/// What the driver says.
#[derive(Debug, Default)]
struct Progress {
    is_settled: Cell<bool>,
    end: RefCell<Option<StreamError>>,
    has_ended: Cell<bool>,
    /// Who waits for one of these: at most a task for each stream.
    waiting: RefCell<Vec<Waker>>,
}

/// Why a stream was not opened, and what becomes of the transport.
pub(super) enum Unopened {
    /// The transport had taken its last stream before.
    Spent(OpeningError),
    Failed(OpeningError),
}

impl Transport {
    /// Speaks HTTP/2 by prior knowledge on a connected stream, for up to `streams` streams, and waits
    /// for the server's SETTINGS. Says how long that took.
    pub(super) async fn establish(
        io: PollIo,
        pump: Pump,
        streams: usize,
    ) -> Result<(Self, Duration), Http2Error> {
        let begun = Instant::now();
        let (requests, connection) =
            builder(streams).handshake(io).await.map_err(|it| Http2Error::NotSpoken(it.into()))?;
        let progress = Rc::<Progress>::default();
        monoio::spawn(drive(connection, pump, Rc::clone(&progress)));
        progress.until_settled().await.map_err(Http2Error::NotSpoken)?;
        let took = begun.elapsed();
        if !requests.is_extended_connect_protocol_enabled() {
            return Err(Http2Error::ConnectProtocolMissing);
        }
        let transport = Self {
            requests,
            buffers: BufferPool::default(),
            streams: Cell::new(0),
            is_spent: Cell::new(false),
            progress,
        };
        Ok((transport, took))
    }

    /// Whether it may take further streams, as far as is known.
    pub(super) fn is_usable(&self) -> bool {
        !self.is_spent.get() && !self.progress.has_ended.get()
    }

    /// What an error of a stream comes from: where the connection ended under it, the server may have
    /// said why by GOAWAY. The driver ends soon then.
    pub(super) async fn explain(&self, error: StreamError) -> StreamError {
        if !matches!(error, StreamError::CutOff) {
            return error;
        }
        self.progress.until_ended().await;
        let end = self.progress.end.borrow();
        end.as_ref().and_then(StreamError::same_go_away).unwrap_or(error)
    }

    /// How many streams the server allows at once; `None` without a limit.
    pub(super) fn streams_max(&self) -> Option<usize> {
        Some(self.requests.current_max_send_streams()).filter(|max| *max < UNSETTLED)
    }

    /// Opens a stream on `seat`, and says how long that took, from the request to its response.
    /// `transports_for` says how many transports would do if each had so many streams.
    pub(super) async fn open(
        &self,
        request: &ConnectRequest,
        offers: &Request,
        transports_for: impl FnOnce(usize) -> usize,
        resets: bool,
        seat: Seat,
    ) -> Result<OpenStream, Unopened> {
        let failed = |error: OpeningError| Unopened::Failed(error);
        if let Some(limit) = self.streams_max().filter(|limit| self.streams.get() > *limit) {
            let transports = (limit > 0).then(|| transports_for(limit));
            return Err(failed(Http2Error::StreamsExhausted { limit, transports }.into()));
        }
        let begun = Instant::now();
        let requested = self.requests.clone().send_request(request.head(), false);
        let (response, sending) = requested.map_err(|error| {
            let error = StreamError::from(error);
            let is_spent = error.ends_transport();
            self.is_spent.set(is_spent);
            let error = Http2Error::from(error).into();
            if is_spent { Unopened::Spent(error) } else { failed(error) }
        })?;
        let response = match response.await {
            Ok(response) => response,
            Err(error) => {
                let error = self.explain(error.into()).await;
                self.is_spent.set(self.is_spent.get() || error.ends_transport());
                return Err(failed(Http2Error::from(error).into()));
            }
        };
        let took = begun.elapsed();
        let (received, compression) =
            check(response, offers).await.map_err(|error| failed(error.into()))?;
        let halves = halves(received, sending, self.buffers.clone(), resets, seat);
        Ok(OpenStream { halves, compression, took })
    }
}

/// A stream that the server has accepted.
pub(crate) struct OpenStream {
    pub(crate) halves: (StreamReader, StreamWriter),
    /// Whether messages may be compressed.
    pub(crate) compression: bool,
    /// From its request to the response.
    pub(crate) took: Duration,
}

fn builder(streams: usize) -> Builder {
    let mut builder = Builder::new();
    // The transport's window has room for the windows of all its streams, so that none waits for
    // another.
    let window = u32::try_from(streams).unwrap_or(u32::MAX).saturating_mul(STREAM_WINDOW);
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(window.min(WINDOW_MAX))
        .max_header_list_size(HEADER_LIST_LEN_MAX)
        .enable_push(false)
        .initial_max_send_streams(UNSETTLED);
    builder
}

/// Reads and writes for a transport until it ends.
async fn drive(
    mut connection: Connection<PollIo, Outgoing>,
    mut pump: Pump,
    progress: Rc<Progress>,
) {
    let ended = pump
        .drive(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            if !progress.is_settled.get() && connection.max_concurrent_send_streams() != UNSETTLED {
                progress.is_settled.set(true);
                progress.wake();
            }
            polled
        })
        .await;
    // What h2 makes of an error of the stream below is a text.
    *progress.end.borrow_mut() = match pump.take_failure() {
        Some(error) => Some(StreamError::Broken(error)),
        None => ended.err().map(StreamError::from),
    };
    progress.has_ended.set(true);
    progress.wake();
}

impl Progress {
    fn wake(&self) {
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    fn note(&self, waker: &Waker) {
        let waiting = &mut *self.waiting.borrow_mut();
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// Waits for the server's SETTINGS, or for what came instead.
    async fn until_settled(&self) -> Result<(), StreamError> {
        poll_fn(|cx| {
            if self.is_settled.get() {
                return Poll::Ready(Ok(()));
            }
            if self.has_ended.get() {
                return Poll::Ready(Err(self.end.take().unwrap_or(StreamError::CutOff)));
            }
            self.note(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Waits for the driver to end.
    async fn until_ended(&self) {
        poll_fn(|cx| {
            if self.has_ended.get() {
                return Poll::Ready(());
            }
            self.note(cx.waker());
            Poll::Pending
        })
        .await;
    }
}
