//! What a worker and the task of one of its connections say to each other.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    os::fd::{BorrowedFd, RawFd},
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use super::{
    ConnectionEnd,
    clock::{Deadlines, Due, Standing, Tick, Timing},
    intake::{intake, is_quiet},
    memory_budget::Share,
    peer::Peer,
    record::Record,
    reset::reset_when_closed,
};
use crate::protocol::session::Goodbye;

/// Shared by a worker and a connection's task: the worker's sweep reads the connection's timing, and
/// the task hears the worker's demands.
pub struct Control {
    now: Rc<Cell<Tick>>,
    /// The connection, which its task owns and keeps open for as long as this is in the worker's table.
    descriptor: Option<RawFd>,
    /// The connection that carries this one, which is a stream.
    carrier: Option<Rc<Control>>,
    /// A number that neighbours do not share.
    number: u32,
    /// What lets go of the streams, if this connection carries some.
    streams: RefCell<Option<Box<dyn FnOnce()>>>,
    timing: Cell<Timing>,
    demand: Cell<Option<Demand>>,
    /// Whether the demand to drain has been made.
    is_drained: Cell<bool>,
    /// When the send that is under way began.
    sending: Cell<Option<Tick>>,
    /// Why the connection is to be closed, if the task cannot hear it, since a send stalls.
    unheard: Cell<Option<Goodbye>>,
    waker: RefCell<Option<Waker>>,
    /// When it was admitted or, after a first request, when the latest one began.
    request_began: Cell<Instant>,
    /// The close code that the peer was sent, if it was sent one.
    close_code: Cell<Option<u16>>,
    record: Option<Rc<Record>>,
    /// The client that a proxy has named.
    client: Cell<Option<Peer>>,
    /// How long the handshake may last so far, if that is less than it may last as a whole.
    handshake_limit: Cell<Option<Duration>>,
    /// What the connection holds of the memory budget, and in which share; none once it is shed.
    held: Cell<usize>,
    share: RefCell<Option<Rc<Share>>>,
}

/// What a worker asks of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Send a Ping, if the replies so far end with a whole frame.
    Ping,
    /// Close when no message is under way.
    Goodbye(Goodbye),
    /// Another server has taken over, and the peer is quiet: close if no message is under way.
    DrainIdle,
    /// The request, or the time without one, has taken too long.
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
            carrier: None,
            number: descriptor.unwrap_or_default().cast_unsigned(),
            streams: RefCell::new(None),
            timing,
            demand: Cell::new(None),
            is_drained: Cell::new(false),
            sending: Cell::new(None),
            unheard: Cell::new(None),
            waker: RefCell::new(None),
            request_began: Cell::new(Instant::now()),
            close_code: Cell::new(None),
            record: None,
            client: Cell::new(None),
            handshake_limit: Cell::new(None),
            held: Cell::new(0),
            share: RefCell::new(None),
        }
    }

    /// For a stream that begins now, with its number among those of the connection that carries it.
    #[must_use]
    pub(crate) fn of_stream(carrier: &Rc<Self>, number: u32) -> Self {
        let mut control = Self::new(carrier.now.clone(), None);
        (control.carrier, control.number) = (Some(carrier.clone()), number);
        control
    }

    /// The same, with the record of what an operator may ask.
    #[must_use]
    pub(crate) fn with_record(mut self, record: Option<Rc<Record>>) -> Self {
        self.record = record;
        self
    }

    /// The record of what an operator may ask, if one is kept.
    pub(crate) fn record(&self) -> Option<&Rc<Record>> {
        self.record.as_ref()
    }

    /// The client that a proxy has named, if it has.
    pub(crate) fn client(&self) -> Option<Peer> {
        self.client.get()
    }

    /// Notes the client that a proxy has named.
    pub(crate) fn note_client(&self, client: Peer) {
        self.client.set(Some(client));
    }

    /// Has the handshake time out when it has lasted so long, if what is awaited now has not come by
    /// then; `None` if it has.
    pub(crate) fn limit_handshake(&self, limit: Option<Duration>) {
        self.handshake_limit.set(limit);
    }

    /// The time since the connection was admitted or, after a first request, since the latest one
    /// began.
    pub(crate) fn request_age(&self) -> Duration {
        self.request_began.get().elapsed()
    }

    /// The close code that the peer was sent, if it was sent one.
    pub(crate) fn close_code(&self) -> Option<u16> {
        self.close_code.get()
    }

    /// Notes the close code that the peer was sent.
    pub(crate) fn note_close_code(&self, close_code: Option<u16>) {
        self.close_code.set(close_code);
    }

    /// Has what the connection holds counted in this share of the memory budget.
    #[must_use]
    pub fn with_share(self, share: Rc<Share>) -> Self {
        self.share.replace(Some(share));
        self
    }

    /// The connection holds so many bytes from now on.
    pub(crate) fn hold(&self, len: usize) {
        if self.held.get() != len
            && let Some(share) = &*self.share.borrow()
        {
            share.change(self.held.replace(len), len);
        }
    }

    /// What the connection holds.
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// Ends the connection, since it holds the most of a budget that is exceeded. What it holds no
    /// longer counts, since it is given back at once.
    pub(crate) fn shed(&self) {
        self.hold(0);
        drop(self.share.take());
        self.demand(Demand::End(ConnectionEnd::MemoryShed));
    }

    /// Demands something of the task. A demand to end stays, and a demand to close is replaced by
    /// nothing but a weightier one.
    pub fn demand(&self, demand: Demand) {
        let stands = self
            .demand
            .get()
            .is_some_and(|standing| standing.weight() > 0 && standing.weight() >= demand.weight());
        if !stands {
            self.demand.set(Some(demand));
        }
        if demand == Demand::Goodbye(Goodbye::Stopping) {
            self.is_drained.set(true);
        }
        if let Demand::End(end) = demand
            && end.is_reset()
        {
            self.reset_when_closed();
        }
        self.limit_sending();
        self.wake();
    }

    #[expect(unsafe_code, reason = "the descriptor is known by its number")]
    fn reset_when_closed(&self) {
        let Some(descriptor) = self.descriptor else { return };
        // SAFETY: the task keeps the connection open for as long as this is in the worker's table,
        // and the worker demands nothing of those that are not.
        reset_when_closed(&unsafe { BorrowedFd::borrow_raw(descriptor) });
    }

    /// Starts the close timeout if the task is to close and cannot hear it: it hears a demand only
    /// when the peer has taken what is being sent. The peer has that long for it.
    fn limit_sending(&self) {
        if self.send_stalls()
            && let Some(Demand::Goodbye(goodbye)) = self.demand.get()
        {
            self.unheard.set(Some(goodbye));
            self.closing();
        }
    }

    /// Whether the connection has a session that is not closed. One that carries streams has none of
    /// its own.
    pub fn is_open(&self) -> bool {
        self.timing.get().is_open() && !self.carries_streams()
    }

    /// Whether the connection carries streams.
    pub(crate) fn carries_streams(&self) -> bool {
        self.streams.borrow().is_some()
    }

    /// The connection carries streams from now on; `let_go` drops what they and it keep of each other,
    /// when its worker ends in whatever way.
    pub(crate) fn carry_streams(&self, let_go: Box<dyn FnOnce()>) {
        self.streams.replace(Some(let_go));
    }

    /// The connection that carries streams has one again.
    pub(crate) fn occupied(&self) {
        self.change_timing(Timing::occupied);
        if let Some(record) = &self.record {
            record.opened(None);
        }
    }

    /// The connection that carries streams has none.
    pub(crate) fn vacant(&self) {
        self.change_timing(Timing::vacant);
    }

    fn change_timing(&self, change: fn(&mut Timing, Tick)) {
        let mut timing = self.timing.get();
        change(&mut timing, self.now.get());
        self.timing.set(timing);
    }

    /// The tick now.
    pub(crate) fn now(&self) -> Tick {
        self.now.get()
    }

    /// Whether a demand to drain has been made.
    pub(crate) fn is_drained(&self) -> bool {
        self.is_drained.get()
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
        // The borrow ends first, since streams are told of it.
        let streams = self.streams.take();
        if let Some(let_go) = streams {
            let_go();
        }
    }

    /// The sweep: demands what is due, and wakes a send that stalls.
    pub fn sweep(&self, deadlines: &Deadlines) {
        if self.send_stalls() {
            self.limit_sending();
            self.wake();
        }
        let mut timing = self.timing.get();
        if let Some(limit) = self.handshake_limit.get()
            && timing.is_in_handshake_for(limit, self.now.get())
        {
            self.handshake_limit.set(None);
            return self.demand(Demand::TimeOut);
        }
        let standing = Standing { is_blocked: self.send_stalls(), number: self.number };
        let due = timing.sweep(self.now.get(), deadlines, standing, || intake(&self.descriptor?));
        self.timing.set(timing);
        let Some(due) = due else { return };
        self.demand(match due {
            Due::Ping => Demand::Ping,
            Due::HandshakeTimeout | Due::NoRequest => Demand::TimeOut,
            Due::KeepAliveTimeout => Demand::End(ConnectionEnd::KeepAliveTimeout),
            Due::CloseTimeout => Demand::End(ConnectionEnd::CloseTimeout),
            Due::WriteTimeout => Demand::End(ConnectionEnd::WriteTimeout),
            Due::Goodbye(goodbye) => Demand::Goodbye(goodbye),
            Due::LifetimeOver => Demand::End(ConnectionEnd::LifetimeMax),
        });
    }

    /// Demands the end of a connection that is open, or between two requests, and has been quiet for
    /// so long. A demand that the task has not heard yet comes first.
    pub fn drain_if_quiet(&self, quiet: Duration) {
        let is_at_rest = self.is_open() || self.timing.get().is_between_requests();
        let is_free = self.demand.get().is_none() && is_at_rest;
        if is_free && self.is_quiet(quiet) {
            self.demand(Demand::DrainIdle);
        }
    }

    fn is_quiet(&self, quiet: Duration) -> bool {
        match (&self.carrier, self.descriptor) {
            (Some(carrier), _) => carrier.is_quiet(quiet),
            (None, Some(descriptor)) => is_quiet(&descriptor, quiet),
            (None, None) => true,
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
            Demand::Ping | Demand::Goodbye(_) | Demand::DrainIdle => None,
        }
    }

    /// A send is under way from now on, until what this returns is dropped.
    pub(crate) fn begin_sending(&self) -> SendUnderWay<'_> {
        self.sending.set(Some(self.now.get()));
        SendUnderWay(self)
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
        self.pass_time(Timing::opened);
    }

    /// Another request begins: its deadline starts, and one that has passed meanwhile counts no more.
    pub(crate) fn begin_request(&self) {
        self.begin_body();
        self.request_began.set(Instant::now());
    }

    /// The body of a request begins, which has as long as its head.
    pub(crate) fn begin_body(&self) {
        if self.demand.get() == Some(Demand::TimeOut) {
            self.demand.set(None);
        }
        self.pass_time(Timing::request);
    }

    /// A request is answered, and another may follow. The close timeout is for a client that does not
    /// take its response.
    pub(crate) fn begin_answer(&self) {
        self.pass_time(Timing::answering);
    }

    /// A request has been answered, and nothing of another has come.
    pub(crate) fn await_request(&self) {
        self.pass_time(Timing::between_requests);
    }

    fn pass_time(&self, pass: impl FnOnce(&mut Timing, Tick)) {
        let mut timing = self.timing.get();
        pass(&mut timing, self.now.get());
        self.timing.set(timing);
    }

    /// The peer sent something.
    pub(crate) fn traffic(&self) {
        let mut timing = self.timing.get();
        timing.traffic(self.now.get());
        self.timing.set(timing);
    }

    /// A message came, or is on its way.
    pub(crate) fn message(&self) {
        let mut timing = self.timing.get();
        timing.message(self.now.get());
        self.timing.set(timing);
    }

    /// Whether a message has come since the last sweep.
    pub(crate) fn has_message(&self) -> bool {
        self.timing.get().has_message_since(self.now.get())
    }

    /// The peer took some of what is being sent.
    pub(crate) fn taken(&self) {
        let mut timing = self.timing.get();
        timing.taken(self.now.get());
        self.timing.set(timing);
    }

    /// Why the connection was to be closed, if a send stalled that long that the task did not hear it.
    pub(crate) fn unheard_goodbye(&self) -> Option<Goodbye> {
        self.unheard.get()
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

impl Drop for Control {
    fn drop(&mut self) {
        self.hold(0);
    }
}

impl Demand {
    /// How much it counts beside another: a demand is replaced by one that weighs more.
    fn weight(self) -> u8 {
        match self {
            Self::Ping | Self::TimeOut | Self::DrainIdle => 0,
            Self::Goodbye(Goodbye::Idle) => 1,
            Self::Goodbye(Goodbye::LifetimeOver) => 2,
            Self::Goodbye(Goodbye::Stopping) => 3,
            Self::End(_) => 4,
        }
    }
}

/// A send that is under way until this is dropped.
pub(crate) struct SendUnderWay<'a>(&'a Control);

impl Drop for SendUnderWay<'_> {
    fn drop(&mut self) {
        self.0.sending.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Time;

    #[test]
    fn handshake_with_an_earlier_limit_times_out_by_it_unless_the_limit_is_taken_back() {
        let deadlines = Deadlines::new(&Time::default());
        let timed_out_after = |limit: Option<u64>, taken_back_at: u32| {
            let now = Rc::new(Cell::new(Tick::default()));
            let control = Control::new(now.clone(), None);
            control.limit_handshake(limit.map(Duration::from_secs));
            let mut sweeps = 0..60;
            sweeps.find(|sweep| {
                if *sweep == taken_back_at {
                    control.limit_handshake(None);
                }
                now.set(now.get().next());
                control.sweep(&deadlines);
                control.demand.get() == Some(Demand::TimeOut)
            })
        };
        // A tick may have been nearly over when the connection came.
        assert_eq!(timed_out_after(Some(5), 60), Some(5));
        assert_eq!(timed_out_after(None, 60), Some(10));
        assert_eq!(timed_out_after(Some(5), 4), Some(10));
        assert_eq!(timed_out_after(Some(50), 60), Some(10));
    }
}
