//! The transports of one thread, and the seats on them.
//!
//! Each connection of the thread has a seat on one of its transports, spread evenly and fixed for as
//! long as the connection is open, so no transport ever has more streams than its share. A transport
//! is opened when the first stream wants it, and stays open; one that takes no further streams, after
//! a GOAWAY or an end, is replaced when the next stream wants it.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use monoio::time::timeout_at;

use super::{
    error::{Http2Error, StreamError},
    poll_io::{PollIo, Pump},
    request::ConnectRequest,
    transport::{OpenStream, Transport, Unopened},
};
use crate::wire::{
    opening_error::{OpeningError, tls_error},
    openings::{TlsOpening, TransportOpening},
    request::Request,
};

/// How often a stream looks for a transport: the first may have taken its last stream.
const ATTEMPTS_MAX: usize = 3;

/// A connected stream to speak HTTP/2 on, with how TLS came about on it.
pub(crate) struct Dialed {
    pub(crate) io: PollIo,
    pub(crate) pump: Pump,
    pub(crate) tls: Option<TlsOpening>,
}

/// Connects streams for transports.
pub(crate) type Dial = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Dialed, OpeningError>>>>>;

/// The transports of one thread.
#[derive(Clone, Debug)]
pub(crate) struct TransportPool(Rc<Transports>);

struct Transports {
    dial: Dial,
    /// How long opening a transport may take.
    limit: Duration,
    attempts: RefCell<Vec<Option<Rc<Attempt>>>>,
    /// The number of a transport for each connection that has no seat.
    free: RefCell<VecDeque<usize>>,
    /// Connections of this thread.
    connections: usize,
    /// Transports that were opened, and that nobody has counted.
    opened: RefCell<Vec<TransportOpening>>,
}

impl fmt::Debug for Transports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transports").field("attempts", &self.attempts).finish_non_exhaustive()
    }
}

/// A transport, or how it comes to be.
#[derive(Debug, Default)]
struct Attempt {
    outcome: RefCell<Option<Result<Rc<Transport>, Rc<OpeningError>>>>,
    waiting: RefCell<Vec<Waker>>,
}

/// A connection's place on a transport, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    pool: Rc<Transports>,
    number: usize,
    /// `None` until it is open.
    transport: Option<Rc<Transport>>,
}

impl Seat {
    /// What an error of this connection's stream comes from.
    pub(super) async fn explain(&self, error: StreamError) -> StreamError {
        match &self.transport {
            Some(transport) => transport.explain(error).await,
            None => error,
        }
    }
}

impl TransportPool {
    /// A pool for `connections` connections on so many `transports`, both at least 1, each of which may
    /// take `limit` to be opened.
    pub(crate) fn new(dial: Dial, connections: usize, transports: usize, limit: Duration) -> Self {
        Self(Rc::new(Transports {
            dial,
            limit,
            attempts: RefCell::new(vec![None; transports]),
            free: RefCell::new((0..connections).map(|number| number % transports).collect()),
            connections,
            opened: RefCell::default(),
        }))
    }

    /// Opens a stream with `request`; `offers` says what it offers, `connections` are those of the whole
    /// load. A stream that `resets` ends so.
    pub(crate) async fn open(
        &self,
        request: &ConnectRequest,
        offers: &Request,
        connections: usize,
        resets: bool,
    ) -> Result<OpenStream, OpeningError> {
        let mut attempt = 1;
        loop {
            let mut seat = self.take_seat();
            let transport = Transports::transport(&self.0, seat.number).await?;
            transport.streams.set(transport.streams.get() + 1);
            seat.transport = Some(Rc::clone(&transport));
            let transports_for = |streams| self.0.transports_for(streams, connections);
            match transport.open(request, offers, transports_for, resets, seat).await {
                Ok(opened) => return Ok(opened),
                Err(Unopened::Spent(_)) if attempt < ATTEMPTS_MAX => attempt += 1,
                Err(Unopened::Spent(error) | Unopened::Failed(error)) => return Err(error),
            }
        }
    }

    /// Transports that were opened since this was asked last.
    pub(crate) fn take_opened(&self) -> Vec<TransportOpening> {
        mem::take(&mut *self.0.opened.borrow_mut())
    }

    /// The seat that has been free for longest. A connection more than there are seats shares the
    /// first transport.
    fn take_seat(&self) -> Seat {
        let number = self.0.free.borrow_mut().pop_front().unwrap_or(0);
        Seat { pool: Rc::clone(&self.0), number, transport: None }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(transport) = &self.transport {
            transport.streams.set(transport.streams.get() - 1);
        }
        self.pool.free.borrow_mut().push_back(self.number);
    }
}

impl Transports {
    /// The transport with this number, which is opened if it is not.
    async fn transport(self: &Rc<Self>, number: usize) -> Result<Rc<Transport>, OpeningError> {
        let attempt = self.attempt(number);
        poll_fn(|cx| match &*attempt.outcome.borrow() {
            Some(Ok(transport)) => Poll::Ready(Ok(Rc::clone(transport))),
            Some(Err(error)) => Poll::Ready(Err(OpeningError::Transport(Rc::clone(error)))),
            None => {
                let waiting = &mut *attempt.waiting.borrow_mut();
                if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
        })
        .await
    }

    /// Streams that a transport has at most.
    fn streams_each(&self) -> usize {
        self.connections.div_ceil(self.attempts.borrow().len())
    }

    /// With how many transports each would have at most so many streams, if all threads, which have
    /// `connections` together, have as many as this one.
    fn transports_for(&self, streams: usize, connections: usize) -> usize {
        connections.div_ceil(self.connections) * self.connections.div_ceil(streams)
    }

    /// What is or becomes of the transport with this number.
    fn attempt(self: &Rc<Self>, number: usize) -> Rc<Attempt> {
        let known = &mut self.attempts.borrow_mut()[number];
        if let Some(attempt) = known {
            let is_usable = match &*attempt.outcome.borrow() {
                Some(Ok(transport)) => transport.is_usable(),
                Some(Err(_)) => false,
                None => true,
            };
            if is_usable {
                return Rc::clone(attempt);
            }
        }
        let attempt = Rc::<Attempt>::default();
        *known = Some(Rc::clone(&attempt));
        let (pool, opening) = (Rc::clone(self), Rc::clone(&attempt));
        // A task of its own, since who waits for it may give up.
        monoio::spawn(async move {
            let opened = pool.open_transport().await;
            *opening.outcome.borrow_mut() = Some(opened.map(Rc::new).map_err(Rc::new));
            opening.waiting.take().into_iter().for_each(Waker::wake);
        });
        attempt
    }

    async fn open_transport(&self) -> Result<Transport, OpeningError> {
        let deadline = Instant::now() + self.limit;
        // Whoever dials keeps to the limit, and knows who is late.
        let Dialed { io, pump, tls } = (self.dial)().await?;
        let establishing = Transport::establish(io, pump, self.streams_each());
        let Ok(established) = timeout_at(deadline.into(), establishing).await else {
            return Err(OpeningError::ConnectTimeout(self.limit));
        };
        let (transport, settings) = established.map_err(|error| match error {
            // A server of TLS 1.3 refuses the client's certificate after the handshake.
            Http2Error::NotSpoken(StreamError::Broken(error)) if tls_error(&error).is_some() => {
                OpeningError::Tls(error)
            }
            error => error.into(),
        })?;
        let streams_max = transport.streams_max();
        self.opened.borrow_mut().push(TransportOpening { tls, settings, streams_max });
        Ok(transport)
    }
}
