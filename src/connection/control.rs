//! What a worker and the task of one of its connections say to each other.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    os::fd::RawFd,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use super::{
    ConnectionEnd,
    clock::{Deadlines, Due, Tick, Timing},
    intake::{intake, is_quiet},
    record::Record,
};

/// Shared by a worker and a connection's task: the worker's sweep reads the connection's timing, and
/// the task hears the worker's demands.
pub struct Control {
    now: Rc<Cell<Tick>>,
    /// The connection, which its task owns and keeps open for as long as this is in the worker's table.
    descriptor: Option<RawFd>,
    timing: Cell<Timing>,
    demand: Cell<Option<Demand>>,
    /// Whether the demand to drain has been made.
    is_drained: Cell<bool>,
    /// When the send that is under way began.
    sending: Cell<Option<Tick>>,
    waker: RefCell<Option<Waker>>,
    admitted: Instant,
    /// The close code that the peer was sent, if it was sent one.
    close_code: Cell<Option<u16>>,
    /// Bytes of the connection's own receive buffer, and of what was received ahead of a peer that does
    /// not read.
    memory: Cell<(usize, usize)>,
    record: Option<Rc<Record>>,
}

/// What a worker asks of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Send a Ping, if the replies so far end with a whole frame.
    Ping,
    /// The server is stopping: close when no message is under way.
    Drain,
    /// Another server has taken over, and the peer is quiet: close if no message is under way.
    DrainIdle,
    /// The request head has taken too long.
    TimeOut,
    /// End now, for this reason.
    End(ConnectionEnd),
}

impl Control {
    /// For a connection that is accepted now, on the worker whose time is `now`. The descriptor is
    /// asked how much the peer takes; without one, deadlines do not consider that.
    pub fn new(now: Rc<Cell<Tick>>, descriptor: Option<RawFd>) -> Self {
        let timing = Cell::new(Timing::accepted(now.get()));
        Self {
            now,
            descriptor,
            timing,
            demand: Cell::new(None),
            is_drained: Cell::new(false),
            sending: Cell::new(None),
            waker: RefCell::new(None),
            admitted: Instant::now(),
            close_code: Cell::new(None),
            memory: Cell::default(),
            record: None,
        }
    }

    /// The same, with the record of what an operator may ask.
    #[must_use]
    pub(crate) fn with_record(self, record: Option<Rc<Record>>) -> Self {
        Self { record, ..self }
    }

    /// The record of what an operator may ask, if one is kept.
    pub(crate) fn record(&self) -> Option<&Rc<Record>> {
        self.record.as_ref()
    }

    /// The time since the connection was admitted.
    pub(crate) fn age(&self) -> Duration {
        self.admitted.elapsed()
    }

    /// The close code that the peer was sent, if it was sent one.
    pub(crate) fn close_code(&self) -> Option<u16> {
        self.close_code.get()
    }

    /// Notes the close code that the peer was sent.
    pub(crate) fn note_close_code(&self, close_code: Option<u16>) {
        self.close_code.set(close_code);
    }

    /// Bytes of the connection's receive buffer, and of what was received ahead of a peer that does not
    /// read.
    pub(crate) fn memory(&self) -> (usize, usize) {
        self.memory.get()
    }

    pub(crate) fn note_memory(&self, receive_buffer: usize, ahead: usize) {
        self.memory.set((receive_buffer, ahead));
    }

    /// Demands something of the task. A demand to end stays, and a demand to drain is replaced by
    /// nothing but one to end.
    pub fn demand(&self, demand: Demand) {
        let stands = match self.demand.get() {
            Some(Demand::End(_)) => true,
            Some(Demand::Drain) => !matches!(demand, Demand::End(_)),
            Some(Demand::Ping | Demand::TimeOut | Demand::DrainIdle) | None => false,
        };
        if !stands {
            self.demand.set(Some(demand));
        }
        if demand == Demand::Drain {
            self.is_drained.set(true);
            if self.sending.get().is_some() {
                // The task hears the demand only when the peer has taken what is being sent. The peer
                // has the close timeout for that.
                self.closing();
            }
        }
        self.wake();
    }

    /// Whether the connection has a session that is not closed.
    pub fn is_open(&self) -> bool {
        self.timing.get().is_open()
    }

    /// Whether the connection has such a session, and no demand to drain has been made.
    pub fn is_undrained(&self) -> bool {
        self.is_open() && !self.is_drained.get()
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Drops the waker of the task, when there will be no demands any more.
    pub(crate) fn let_go(&self) {
        drop(self.waker.take());
    }

    /// The sweep: demands what is due, and wakes a send that stalls.
    pub fn sweep(&self, deadlines: &Deadlines) {
        if self.send_stalls() {
            self.wake();
        }
        let mut timing = self.timing.get();
        let intake = || intake(&self.descriptor?);
        let due = timing.sweep(self.now.get(), deadlines, intake);
        self.timing.set(timing);
        let Some(due) = due else { return };
        self.demand(match due {
            Due::Ping => Demand::Ping,
            Due::HandshakeTimeout => Demand::TimeOut,
            Due::KeepAliveTimeout => Demand::End(ConnectionEnd::KeepAliveTimeout),
            Due::CloseTimeout => Demand::End(ConnectionEnd::CloseTimeout),
        });
    }

    /// Demands the end of a connection that is open and has been quiet for so long. A demand that the
    /// task has not heard yet comes first.
    pub fn drain_if_quiet(&self, quiet: Duration) {
        let is_free = self.demand.get().is_none() && self.is_open();
        if is_free && self.descriptor.is_none_or(|descriptor| is_quiet(&descriptor, quiet)) {
            self.demand(Demand::DrainIdle);
        }
    }

    /// Waits for any demand.
    pub async fn demanded(&self) -> Demand {
        self.wait(|| self.demand.take()).await
    }

    /// Waits for a demand to end; other demands stay for later.
    pub(crate) async fn ended(&self) -> ConnectionEnd {
        self.wait(|| self.demanded_end()).await
    }

    /// The end, if one has been demanded. The deadline of a request head also ends its response.
    pub(crate) fn demanded_end(&self) -> Option<ConnectionEnd> {
        match self.demand.get()? {
            Demand::End(end) => Some(end),
            Demand::TimeOut => Some(ConnectionEnd::HandshakeTimeout),
            Demand::Ping | Demand::Drain | Demand::DrainIdle => None,
        }
    }

    /// A send is under way from now on.
    pub(crate) fn begin_sending(&self) {
        self.sending.set(Some(self.now.get()));
    }

    /// No send is under way any more.
    pub(crate) fn end_sending(&self) {
        self.sending.set(None);
    }

    /// Waits until a sweep finds that the send under way began before it.
    pub(crate) async fn send_stalled(&self) {
        self.wait(|| self.send_stalls().then_some(())).await;
    }

    fn send_stalls(&self) -> bool {
        self.sending.get().is_some_and(|since| since != self.now.get())
    }

    async fn wait<T>(&self, demand: impl Fn() -> Option<T>) -> T {
        poll_fn(|context| {
            if let Some(demand) = demand() {
                return Poll::Ready(demand);
            }
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// The opening handshake is over.
    pub(crate) fn opened(&self) {
        let mut timing = self.timing.get();
        timing.opened(self.now.get());
        self.timing.set(timing);
    }

    pub(crate) fn traffic(&self) {
        let mut timing = self.timing.get();
        timing.traffic(self.now.get());
        self.timing.set(timing);
    }

    /// Starts the close timeout: nothing but the end is left to come.
    pub(crate) fn closing(&self) {
        let mut timing = self.timing.get();
        timing.closing(self.now.get());
        self.timing.set(timing);
        if let Some(record) = &self.record {
            record.closing();
        }
    }
}
