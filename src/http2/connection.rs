//! The driver of one connection: it moves bytes between `h2` and the connection's stream, gives each
//! request away, and does what the worker demands. A task of its own runs it until all streams have
//! ended.
//!
//! Each stream is a task too, with a [`Place`] in its connection for as long as it lives. What a
//! request is answered with, and how its stream is counted, is left to whoever takes it.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    mem,
    pin::{Pin, pin},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::FusedFuture};
use h2::{
    Ping, PingPong, Reason, RecvStream,
    server::{Connection, Handshake, SendResponse},
};
use http::Request;
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use slab::Slab;

use super::{
    IDLE_LEN, Limits, SEND_LEN_MAX,
    pipe::{self, Pipe, Transport},
    watch::{Excess, Watch},
};
use crate::{
    connection::{ConnectionEnd, Control, Demand, linger},
    metrics::{Http2Error, RefusalReason},
    protocol::session::Goodbye,
};

/// A request, and what it is answered by.
pub struct Incoming {
    /// The request, with its body or, after an extended CONNECT, what the peer sends.
    pub request: Request<RecvStream>,
    /// Takes the response.
    pub respond: SendResponse<Bytes>,
    /// The stream's place in its connection, to be kept until the stream has ended.
    pub place: Rc<Place>,
    /// The server is stopping, and answers nothing but that.
    pub is_stopping: bool,
}

/// A stream's place in its connection, until this is dropped.
pub struct Place {
    hub: Rc<Hub>,
    key: usize,
    /// The server has ended its side of the stream.
    is_ended: Cell<bool>,
}

/// What a connection shares with its streams.
struct Hub {
    h2: RefCell<State>,
    /// The streams that have a place, with what the worker demands by; `None` for one that is just
    /// beginning.
    streams: RefCell<Slab<Option<Rc<Control>>>>,
    /// The streams whose writes wait.
    stalled: Cell<usize>,
    /// The peer has ended the connection before a stream that was open.
    was_cut: Cell<bool>,
    /// The connection's task, which waits for the end of streams.
    waker: Cell<Option<Waker>>,
}

/// How far the connection is.
enum State {
    /// The preface and the first SETTINGS frame of the server are under way.
    Beginning(Handshake<Transport, Bytes>),
    Open(Connection<Transport, Bytes>, PingPong),
    Over,
}

/// Serves a connection until it is over. `early` are bytes that have come already. `rest` lets all other
/// connections have a turn, and `accept` takes each request and returns what its stream is demanded by.
pub async fn serve(
    reader: &mut impl AsyncReadRent,
    writer: &mut impl AsyncWriteRent,
    early: Vec<u8>,
    limits: &Limits,
    control: &Rc<Control>,
    rest: impl AsyncFn(),
    accept: impl FnMut(Incoming) -> Rc<Control>,
) -> ConnectionEnd {
    let pipe = Pipe::new(early);
    let beginning = limits.builder().handshake(Transport(pipe.clone()));
    let hub = Rc::new(Hub {
        h2: RefCell::new(State::Beginning(beginning)),
        streams: RefCell::default(),
        stalled: Cell::default(),
        was_cut: Cell::default(),
        waker: Cell::default(),
    });
    // The crate keeps wakers of the tasks that wait for it, and these tasks keep it.
    let of_control = Rc::downgrade(&hub);
    control.carry_streams(Box::new(move || {
        let _ = of_control.upgrade().map(|hub| hub.end());
    }));
    let mut driver = Driver {
        hub: hub.clone(),
        control,
        held_by_stalled: limits.window_len as usize + SEND_LEN_MAX,
        accept,
        has_request: false,
        was_occupied: false,
        leaving: Leaving::No,
        cause: None,
    };
    let end = {
        let watch = Watch::new(|| control.now());
        let receive = pin!(pipe::receive(&pipe, reader, watch, control, rest).fuse());
        let send = pin!(pipe::send(&pipe, writer, control));
        driver.drive(&pipe, receive, send).await
    };
    // The streams that are left end now, since what they wait for is gone.
    hub.end();
    drop(driver);
    hub.empty().await;
    let end = match end {
        ConnectionEnd::Http2Closed if hub.was_cut.get() => ConnectionEnd::PeerVanished,
        end => end,
    };
    if lingers(end) {
        linger(reader, writer, control).await;
    }
    end
}

/// Whether the peer may still be reading, so that it gets the last frames.
fn lingers(end: ConnectionEnd) -> bool {
    matches!(
        end,
        ConnectionEnd::Http2Closed | ConnectionEnd::Http2Failed(_) | ConnectionEnd::Refused(_)
    )
}

/// Whether the peer was told to open no more streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Leaving {
    No,
    /// Those that come all the same are answered.
    Gently,
    /// Those that come all the same are told that the server is stopping.
    Stopping,
}

struct Driver<'a, A> {
    hub: Rc<Hub>,
    control: &'a Rc<Control>,
    /// Bytes that a stream may take in `h2` whose write waits: nobody reads from it.
    held_by_stalled: usize,
    accept: A,
    /// A request has come.
    has_request: bool,
    /// There was a stream when that was last looked at.
    was_occupied: bool,
    leaving: Leaving,
    /// Why the connection is being closed, if there is more to say than that.
    cause: Option<ConnectionEnd>,
}

impl<A: FnMut(Incoming) -> Rc<Control>> Driver<'_, A> {
    /// Polls everything again for as long as anything changes.
    async fn drive(
        &mut self,
        pipe: &Pipe,
        mut receive: Pin<&mut impl FusedFuture<Output = Excess>>,
        mut send: Pin<&mut impl Future<Output = ConnectionEnd>>,
    ) -> ConnectionEnd {
        poll_fn(|context| {
            self.hub.waker.set(Some(context.waker().clone()));
            loop {
                let changes = pipe.changes();
                if let Some(end) = self.obey(context) {
                    return Poll::Ready(end);
                }
                if !receive.is_terminated()
                    && let Poll::Ready(excess) = receive.as_mut().poll(context)
                {
                    self.refuse(excess);
                }
                if let Poll::Ready(result) = self.advance(context) {
                    return Poll::Ready(self.end(result));
                }
                if let Poll::Ready(end) = send.as_mut().poll(context) {
                    return Poll::Ready(end);
                }
                self.look_at_streams();
                self.control.hold(
                    IDLE_LEN + pipe.capacity() + self.hub.stalled.get() * self.held_by_stalled,
                );
                if pipe.changes() == changes {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Has `h2` do what it can, and gives the requests away that have come.
    fn advance(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let hub = self.hub.clone();
        let mut state = hub.h2.borrow_mut();
        if let State::Beginning(handshake) = &mut *state {
            match Pin::new(handshake).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(mut connection)) => {
                    let Some(pings) = connection.ping_pong() else {
                        unreachable!("they are taken once")
                    };
                    if self.leaving > Leaving::No {
                        connection.graceful_shutdown();
                    }
                    *state = State::Open(connection, pings);
                }
            }
        }
        let State::Open(connection, pings) = &mut *state else { return Poll::Pending };
        // A Pong is traffic like any other.
        let _ = pings.poll_pong(context);
        loop {
            match connection.poll_accept(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.has_request = true;
                    let place = Place::new(&hub);
                    let incoming = Incoming {
                        request,
                        respond,
                        place: place.clone(),
                        is_stopping: self.leaving == Leaving::Stopping,
                    };
                    let control = (self.accept)(incoming);
                    place.demand_by(control);
                }
            }
        }
    }

    /// Does what the worker demands. Returns how the connection ends, if it ends at once.
    fn obey(&mut self, context: &mut Context<'_>) -> Option<ConnectionEnd> {
        loop {
            let Poll::Ready(demand) = pin!(self.control.demanded()).poll(context) else {
                return None;
            };
            match demand {
                // One that is under way is as good.
                Demand::Ping => {
                    if let State::Open(_, pings) = &mut *self.hub.h2.borrow_mut() {
                        let _ = pings.send_ping(Ping::opaque());
                    }
                }
                Demand::Goodbye(Goodbye::Stopping) => {
                    self.leave(Leaving::Stopping);
                }
                Demand::DrainIdle => self.leave(Leaving::Gently),
                // Streams have deadlines of their own.
                Demand::Goodbye(Goodbye::Idle) => self.control.message(),
                Demand::Goodbye(Goodbye::LifetimeOver) => {
                    self.leave(Leaving::Gently);
                    self.hub.demand(demand);
                }
                Demand::TimeOut if self.hub.len() > 0 => {}
                Demand::TimeOut if self.has_request => self.leave(Leaving::Gently),
                Demand::TimeOut => {
                    let timed_out = ConnectionEnd::Refused(RefusalReason::HeadTimedOut);
                    self.close(Reason::NO_ERROR, timed_out);
                    self.control.closing();
                }
                Demand::End(end) => return Some(end),
            }
        }
    }

    /// Tells the peer to open no more streams; those that are open go on.
    //= https://www.rfc-editor.org/rfc/rfc9113#section-6.8
    //# A server that is attempting to gracefully shut down a connection SHOULD send an initial
    //# GOAWAY frame with the last stream identifier set to 2^31-1 and a NO_ERROR code.
    fn leave(&mut self, leaving: Leaving) {
        let before = self.leaving;
        self.leaving = before.max(leaving);
        if before == Leaving::No
            && let State::Open(connection, _) = &mut *self.hub.h2.borrow_mut()
        {
            connection.graceful_shutdown();
        }
    }

    /// Ends the connection and all of its streams for what the peer has done.
    #[cold]
    fn refuse(&mut self, excess: Excess) {
        tracing::debug!(?excess, "HTTP/2 connection refused");
        let end = ConnectionEnd::Http2Failed(Http2Error::EnhanceYourCalm);
        self.close(Reason::ENHANCE_YOUR_CALM, end);
    }

    fn close(&mut self, reason: Reason, cause: ConnectionEnd) {
        self.cause = Some(cause);
        if let State::Open(connection, _) = &mut *self.hub.h2.borrow_mut() {
            connection.abrupt_shutdown(reason);
        }
    }

    /// Notes whether there are streams: without one, the connection awaits a request, and has the time
    /// for it that the first one had.
    fn look_at_streams(&mut self) {
        let is_occupied = self.hub.len() > 0;
        if is_occupied != mem::replace(&mut self.was_occupied, is_occupied) {
            if is_occupied {
                self.control.occupied();
            } else {
                self.control.vacant();
            }
        }
        if !is_occupied && self.leaving > Leaving::No {
            self.control.closing();
        }
    }

    /// How a connection has ended that `h2` has done with.
    fn end(&self, result: Result<(), h2::Error>) -> ConnectionEnd {
        if let Some(cause) = self.cause {
            return cause;
        }
        match result {
            Err(error) if error.is_library() && !error.is_io() => {
                let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
                ConnectionEnd::Http2Failed(reason.into())
            }
            _ if !self.has_request => ConnectionEnd::PeerLeft,
            Err(error) => match error.get_io() {
                Some(error) => ConnectionEnd::Broken(error.kind()),
                // The peer says that the server was at fault.
                None => ConnectionEnd::Broken(std::io::ErrorKind::ConnectionAborted),
            },
            Ok(()) => ConnectionEnd::Http2Closed,
        }
    }
}

impl Hub {
    fn len(&self) -> usize {
        self.streams.borrow().len()
    }

    /// Demands something of all streams.
    fn demand(&self, demand: Demand) {
        for (_, control) in &*self.streams.borrow() {
            let _ = control.as_ref().map(|control| control.demand(demand));
        }
    }

    /// Drops what `h2` knows, which ends all streams.
    fn end(&self) {
        // The borrow ends first, since streams are told of it.
        let state = self.h2.replace(State::Over);
        drop(state);
        drop(self.waker.take());
    }

    /// Waits until no stream has a place.
    async fn empty(&self) {
        poll_fn(|context| {
            if self.len() == 0 {
                return Poll::Ready(());
            }
            self.waker.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Place {
    fn new(hub: &Rc<Hub>) -> Rc<Self> {
        let key = hub.streams.borrow_mut().insert(None);
        Rc::new(Self { hub: hub.clone(), key, is_ended: Cell::default() })
    }

    fn demand_by(&self, control: Rc<Control>) {
        self.hub.streams.borrow_mut()[self.key] = Some(control);
    }

    /// The server has ended its side, and awaits nothing of the peer.
    pub(super) fn ended(&self) {
        self.is_ended.set(true);
    }

    /// The connection is gone; the stream was open unless the server had ended its side.
    pub(super) fn cut(&self) {
        if !self.is_ended.get() {
            self.hub.was_cut.set(true);
        }
    }

    /// The stream's write waits from now on, until what this returns is dropped.
    pub(super) fn stall(self: &Rc<Self>) -> Stalled {
        let stalled = &self.hub.stalled;
        stalled.set(stalled.get() + 1);
        Stalled(Rc::downgrade(&self.hub))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The borrow ends first.
        let control = self.hub.streams.borrow_mut().remove(self.key);
        drop(control);
        if let Some(waker) = self.hub.waker.take() {
            waker.wake();
        }
    }
}

/// A stream whose write waits until this is dropped.
pub(super) struct Stalled(Weak<Hub>);

impl Drop for Stalled {
    fn drop(&mut self) {
        if let Some(hub) = self.0.upgrade() {
            hub.stalled.set(hub.stalled.get() - 1);
        }
    }
}
