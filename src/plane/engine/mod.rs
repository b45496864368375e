//! The engine: all connections of one worker after their opening handshake.
//!
//! The engine works in turns, and each turn enters its kernel once, which is `io_uring` or epoll. The
//! kernel receives new bytes into shared buffers; the engine has each chunk answered in place by its
//! connection's session and gives the kernel the replies to send. A connection without traffic costs
//! its entry in the table and nothing else. The worker's thread waits in this kernel only, so whatever
//! its tasks wait for is an operation of this kernel too.
//!
//! A connection that has ended is given back once nothing is under way on it and, if it ended in
//! order, its peer has ended its side too. A peer that does not read holds no shared buffer: the
//! unsent rest of its reply is copied, later replies are put behind the copy, and when the copy
//! reaches its bound, receiving from that peer stops until the socket has taken some.
//!
//! The files, from the bottom up:
//!
//! - `kernel`: the operations that the engine asks for; `uring` and `epoll`: who performs them.
//! - `buffers`: memory to receive into; `sends`: memory to send from; `transfers`: both, turn by turn.
//! - `tls`: replies in records, for connections over TLS.
//! - `connection`: what happens to one connection; `table`: all connections, each by its `key`.
//! - `replies`: parts to send in this turn; `buffer_queue`: connections that wait for a buffer.
//! - `waits`: what the worker's tasks wait for; `spin`: how long the engine polls before it sleeps.
//! - `probe`: whether this kernel can carry an engine.
//! - this file: the turn.

mod buffer_queue;
mod buffers;
mod connection;
mod dimensions;
mod epoll;
mod kernel;
mod key;
mod probe;
mod replies;
mod segments;
mod sends;
#[cfg(test)]
mod simulation;
mod spin;
mod table;
#[cfg(test)]
mod tests;
mod tls;
#[cfg(test)]
mod tls_peers;
mod transfers;
mod uring;
mod waits;

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use fnv::FnvHashMap;

use self::{
    buffer_queue::BufferQueue,
    connection::{Beside, Connection, DepartureState, Receiving, Sending, Stage, Work},
    replies::Replies,
    spin::Spin,
    table::Table,
    transfers::{Events, Transfers, UnderWay},
    waits::{Outcome, Sleep, Waits},
};
use super::Departure;
use crate::{
    connection::{
        ConnectionEnd,
        clock::{Deadlines, Due, Standing, TICK, Tick},
        intake::intake,
        memory_budget::{Holdings, Share},
        record::Record,
    },
    host::trial::try_epoll,
    metrics::Counters,
    protocol::{
        echo::{Compression, Rules},
        session::Goodbye,
    },
    pulse::Activity,
};

pub use self::{
    dimensions::Dimensions,
    epoll::Epoll,
    kernel::{Interest, Kernel},
    probe::{Lack, Probe, probe},
    tls::Security,
    uring::Uring,
    waits::Wait,
};

/// A connection for the engine to take over, whose opening handshake is done.
pub struct Newcomer {
    /// The connection. Nobody else reads or writes it any more.
    pub descriptor: OwnedFd,
    /// What the handshake agreed on about compression.
    pub compression: Compression,
    /// Bytes that came together with the request head; over TLS, what they were opened to.
    pub early: Vec<u8>,
    /// What an operator may ask, if that is kept.
    pub record: Option<Rc<Record>>,
    /// Who speaks TLS; a session has all ciphertext that has been received.
    pub security: Security,
}

/// Places for connections that have ended, for which memory is kept in any case.
const LEAVING_KEPT: usize = 1024;

/// All connections of one worker, and the kernel that moves their bytes.
pub struct Engine<K> {
    table: Table,
    work: Work<K>,
    /// The server is stopping, and closes connections between two messages.
    is_draining: bool,
    departures: Vec<Departure>,
    /// What the worker's tasks wait for.
    waits: Waits,
    spin: Spin,
    /// Turns that found an event since the last tick ended.
    turns_since_tick: u32,
    /// When the wait for the next tick began.
    tick_began: Instant,
    /// Empty between turns.
    events: Events,
}

/// Of so many eventful turns one is timed, beginning with the first of each tick, since looks at the
/// clock would be on the path of every message where turns are short.
const TURNS_UNTIMED: u32 = 64;

impl Engine<Uring> {
    /// An engine on a ring of its own, for this thread.
    pub fn on_ring(
        dimensions: Dimensions,
        rules: Rules,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let kernel = Uring::new(dimensions.receive_buffers)?;
        Self::with_kernel(kernel, dimensions, rules, counters)
    }

    /// Whether its ring is smaller than it should be, for want of memory that may be locked.
    pub fn is_reduced(&self) -> bool {
        self.work.transfers.kernel().is_reduced()
    }
}

impl Engine<Epoll> {
    /// An engine on an epoll instance of its own, for this thread. Whether epoll reports at all is
    /// tried first: the instance alone can be had even where a filter forbids to wait in it.
    pub fn on_epoll(
        dimensions: Dimensions,
        rules: Rules,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        try_epoll()?;
        // One is received into while the replies in the other may still have to be copied.
        let receive_buffers = dimensions.receive_buffers.min(2);
        let dimensions = Dimensions { receive_buffers, ..dimensions };
        Self::with_kernel(Epoll::new()?, dimensions, rules, counters)
    }
}

impl<K: Kernel> Engine<K> {
    fn with_kernel(
        kernel: K,
        dimensions: Dimensions,
        rules: Rules,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let work = Work {
            transfers: Transfers::new(kernel, dimensions)?,
            replies: Replies::default(),
            buffer_queue: BufferQueue::default(),
            leaving: FnvHashMap::default(),
            departures_due: Vec::new(),
            now: Tick::default(),
            holdings: Holdings::new(Share::unlimited()),
            plaintext: Vec::new(),
            rules,
            dimensions,
            counters,
        };
        work.counters.shared_buffer_bytes.set(work.transfers.buffers_len() as u64);
        Ok(Self {
            table: Table::new(dimensions.connections_max),
            work,
            is_draining: false,
            departures: Vec::new(),
            waits: Waits::default(),
            spin: Spin::new(dimensions.spin),
            turns_since_tick: 0,
            tick_began: Instant::now(),
            events: Events::default(),
        })
    }

    /// Has what is kept for its connections counted in this share of the memory budget.
    #[must_use]
    pub fn with_share(mut self, share: Share) -> Self {
        self.work.holdings = Holdings::new(share);
        self
    }

    /// Connections that have not departed.
    pub fn connection_count(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no connection, and nothing under way for one that has departed.
    pub fn is_idle(&self) -> bool {
        self.table.len() == 0 && self.work.transfers.under_way() == UnderWay::default()
    }

    /// Bytes of the copies for peers that do not read, and of memory that is kept for them.
    pub fn copy_len(&self) -> usize {
        let is_blocked = self.work.transfers.under_way().patient_sends > 0;
        let connections = is_blocked.then(|| self.table.iter().map(|(_, it)| it.waiting_len()));
        self.work.transfers.copy_len() + connections.into_iter().flatten().sum::<usize>()
    }

    /// Connections that have departed since the last call.
    pub fn departures(&mut self) -> Vec<Departure> {
        mem::take(&mut self.departures)
    }

    /// Takes over a connection whose handshake has agreed on `compression`. The replies to `early`,
    /// the bytes that came together with the request head, go out in the next turn. Gives descriptor
    /// and bytes back when there is no room.
    pub fn adopt(
        &mut self,
        descriptor: OwnedFd,
        compression: Compression,
        early: Vec<u8>,
    ) -> Result<(), (OwnedFd, Vec<u8>)> {
        let newcomer =
            Newcomer { descriptor, compression, early, record: None, security: Security::None };
        self.take_over(newcomer).map_err(|newcomer| (newcomer.descriptor, newcomer.early))
    }

    /// The same, with what only few connections have.
    pub fn take_over(&mut self, newcomer: Newcomer) -> Result<(), Newcomer> {
        let Self { table, work, .. } = self;
        if table.is_full() {
            return Err(newcomer);
        }
        let now = work.now;
        let Newcomer { descriptor, compression, early, record, security } = newcomer;
        let is_over_ktls = matches!(security, Security::Kernel);
        let beside = Beside { record, security };
        let (key, connection) = table.insert(|generation| {
            Connection::new(descriptor, generation, compression, now).with(beside)
        });
        if work.transfers.adopt(key, connection.descriptor.as_fd()).is_err() {
            let Some(connection) = table.remove(key) else { unreachable!("it was just inserted") };
            let (descriptor, Beside { record, security }) = connection.into_parts();
            return Err(Newcomer { descriptor, compression, early, record, security });
        }
        if is_over_ktls {
            work.transfers.expect_ktls(key);
        }
        connection.arm(key, work);
        connection.receive_early(key, early, work);
        if self.is_draining {
            connection.say_goodbye(key, Goodbye::Stopping, work);
        }
        Ok(())
    }

    /// Turns until tasks can go on: a wait of theirs is over, or connections have departed. Polls, and
    /// then waits in the kernel, while there is nothing to do.
    pub fn run(&mut self) -> io::Result<()> {
        loop {
            let may_wait = !self.is_in_haste() && self.spin.is_over();
            let is_awaited = self.turn(may_wait)?;
            if is_awaited || !self.departures.is_empty() {
                return Ok(());
            }
        }
    }

    /// Begins to wait for a descriptor that is none of the engine's connections.
    pub fn wait_for(&mut self, descriptor: BorrowedFd<'_>, interest: Interest) -> Wait {
        let wait = self.waits.begin(None);
        self.work.transfers.watch(wait, descriptor, interest);
        wait
    }

    /// Begins to wait until `duration` has passed.
    pub fn wait_until_passed(&mut self, duration: Duration) -> Wait {
        let sleep = if duration == TICK { Sleep::Tick } else { Sleep::Other };
        if sleep == Sleep::Tick {
            self.tick_began = Instant::now();
        }
        let wait = self.waits.begin(Some(sleep));
        self.work.transfers.sleep(wait, duration);
        wait
    }

    /// Whether a wait is over; if not, the task is woken when it is.
    pub fn poll_wait(&mut self, wait: Wait, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waits.poll(wait, context)
    }

    /// Lets go of a wait, whether it is over or not.
    pub fn end_wait(&mut self, wait: Wait) {
        if self.waits.end(wait) {
            self.work.transfers.cancel_wait(wait);
        }
    }

    /// Whether something is to be done for which no event will come.
    fn is_in_haste(&self) -> bool {
        let Work { replies, buffer_queue, departures_due, .. } = &self.work;
        // Replies that were queued between turns go to the kernel at the end of the next turn.
        !replies.is_empty() || !departures_due.is_empty() || !buffer_queue.is_empty()
    }

    /// One turn: sends the replies of the turn before, takes what has arrived, and queues the replies
    /// to it. If it may wait, it waits until something arrives. Returns whether a task's wait is over.
    pub fn turn(&mut self, may_wait: bool) -> io::Result<bool> {
        let mut events = mem::take(&mut self.events);
        self.work.counters.pulse.begin(Activity::Waiting);
        self.work.transfers.turn(&mut events, may_wait)?;
        self.work.counters.pulse.begin(Activity::Handling);
        let is_eventful = !events.is_empty();
        self.spin.note(is_eventful);
        let mut timed = None;
        if is_eventful {
            timed = self.begin_timing();
            self.count_late_wake_up(&events);
        }
        let Self { table, work, .. } = self;
        for (key, unsent) in events.unsent.drain(..) {
            if let Some(connection) = table.get_mut(key) {
                connection.handle_unsent(key, unsent, work);
            }
        }
        for (key, event) in events.others.drain(..) {
            if let Some(connection) = table.get_mut(key) {
                connection.handle(key, event, work);
            }
        }
        let mut is_awaited = false;
        for (wait, outcome) in events.waits.drain(..) {
            is_awaited |= self.waits.complete(wait, outcome);
            if let (Some(_), Outcome::Failed(errno)) = (wait.sleep, outcome) {
                // Deadlines cannot be met without a clock.
                return Err(errno.into());
            }
        }
        self.events = events;
        if self.work.holdings.share().is_exceeded() {
            self.shed();
        }
        self.feed();
        self.depart();
        self.send_replies();
        if let Some(began) = timed {
            self.work.counters.turn_times.count(began.elapsed());
        }
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        Ok(is_awaited)
    }

    /// The time now, if this turn is one of those that are timed.
    #[inline]
    fn begin_timing(&self) -> Option<Instant> {
        self.turns_since_tick.is_multiple_of(TURNS_UNTIMED).then(Instant::now)
    }

    /// Counts a late wake-up: an event that did not end the engine's wait, but was found when the
    /// tick ended it.
    ///
    /// After a second without events, an event that arrives in the same instant as the tick is so
    /// rare that it means a lost wake-up. If the tick itself is late, the thread did not run, and
    /// nothing is counted.
    #[inline]
    fn count_late_wake_up(&mut self, events: &Events) {
        self.turns_since_tick = self.turns_since_tick.saturating_add(1);
        let is_tick =
            |end: &(Wait, Outcome)| end.0.sleep == Some(Sleep::Tick) && end.1 == Outcome::There;
        if events.waits.iter().any(is_tick) {
            let is_other = events.waits.iter().any(|(wait, _)| wait.sleep.is_none());
            if mem::take(&mut self.turns_since_tick) == 1
                && (is_other || !events.others.is_empty())
                && self.tick_began.elapsed() < TICK + TICK / 20
            {
                self.work.counters.late_wake_ups.add(1);
            }
        }
    }

    /// The wakers of all tasks that wait, when the engine will not turn any more.
    pub fn take_wakers(&mut self) -> Vec<Waker> {
        self.waits.take_wakers()
    }

    /// The sweep: another tick has passed.
    pub fn sweep(&mut self, now: Tick, deadlines: &Deadlines) {
        let Self { table, work, .. } = self;
        work.now = now;
        for (key, connection) in table.iter_mut() {
            if connection.holds_frame() {
                connection.account(key, work);
            }
            let Connection { timing, descriptor, sending, .. } = connection;
            let standing = Standing {
                is_blocked: matches!(sending, Sending::Blocked(_)),
                number: descriptor.as_raw_fd().cast_unsigned(),
            };
            match timing.sweep(now, deadlines, standing, || intake(descriptor)) {
                None => {}
                Some(Due::Ping) => connection.ping(key, work),
                Some(Due::KeepAliveTimeout) => {
                    connection.end_now(key, ConnectionEnd::KeepAliveTimeout, work);
                }
                Some(Due::CloseTimeout) => {
                    connection.end_now(key, ConnectionEnd::CloseTimeout, work);
                }
                Some(Due::WriteTimeout) => {
                    connection.end_now(key, ConnectionEnd::WriteTimeout, work);
                }
                Some(Due::Goodbye(goodbye)) => connection.say_goodbye(key, goodbye, work),
                Some(Due::LifetimeOver) => {
                    connection.end_now(key, ConnectionEnd::LifetimeMax, work);
                }
                Some(Due::HandshakeTimeout | Due::NoRequest) => {
                    unreachable!("the opening handshake is over")
                }
            }
        }
        self.account();
        let Self { work, .. } = self;
        if work.leaving.is_empty() {
            // Many may have ended at once.
            work.leaving.shrink_to(LEAVING_KEPT);
            work.departures_due.shrink_to(LEAVING_KEPT);
        }
    }

    /// Counts held frames anew, and looks at the memory budget: another worker may have exceeded it.
    fn account(&mut self) {
        let Self { table, work, .. } = self;
        for key in work.holdings.keys() {
            if let Some(connection) = table.get_mut(key) {
                connection.account(key, work);
            }
        }
        work.holdings.share().check();
        if work.holdings.share().is_exceeded() {
            self.shed();
        }
    }

    /// Resets the connections for which the most is kept, since all connections together hold too
    /// much: a Close frame cannot reach a peer that does not read.
    #[cold]
    fn shed(&mut self) {
        let Self { table, work, .. } = self;
        for key in work.holdings.shed() {
            if let Some(connection) = table.get_mut(key) {
                connection.end_now(key, ConnectionEnd::MemoryShed, work);
            }
        }
    }

    /// Connections that are open and have not been drained.
    pub fn undrained_count(&self) -> usize {
        self.table.iter().filter(|(_, connection)| connection.is_undrained()).count()
    }

    /// Closes the first `count` of these, in the order of the table, as soon as no message is under
    /// way on them.
    pub fn drain_some(&mut self, count: usize) {
        let undrained = self.table.iter_mut().filter(|(_, connection)| connection.is_undrained());
        for (key, connection) in undrained.take(count) {
            connection.say_goodbye(key, Goodbye::Stopping, &mut self.work);
        }
    }

    /// Closes every connection, also those that come, as soon as no message is under way on it.
    pub fn drain(&mut self) {
        self.is_draining = true;
        for (key, connection) in self.table.iter_mut() {
            connection.say_goodbye(key, Goodbye::Stopping, &mut self.work);
        }
    }

    /// Closes the connections that have been quiet for so long, and have no message under way.
    pub fn drain_quiet(&mut self, quiet: Duration) {
        for (key, connection) in self.table.iter_mut() {
            connection.drain_if_quiet(key, quiet, &mut self.work);
        }
    }

    /// Ends every connection now.
    pub fn abandon(&mut self) {
        for (key, connection) in self.table.iter_mut() {
            connection.end_now(key, ConnectionEnd::Abandoned, &mut self.work);
        }
    }

    /// Arms a receive for as many connections of the buffer queue as there are free buffers.
    fn feed(&mut self) {
        let Self { table, work, .. } = self;
        work.buffer_queue.begin_feeding();
        for _ in 0..work.transfers.free_buffers() {
            let Some(key) = work.buffer_queue.pop() else { return };
            if let Some(connection) = table.get_mut(key) {
                connection.feed(key, work);
            }
        }
    }

    /// Ends the server's side of connections whose last replies are out, and gives back those that
    /// have nothing under way.
    fn depart(&mut self) {
        let Self { table, work, departures, .. } = self;
        if work.departures_due.is_empty() {
            return;
        }
        let mut due = mem::take(&mut work.departures_due);
        due.retain(|key| {
            let Some(connection) = table.get_mut(*key) else { return false };
            match connection.departure() {
                // An event of what is under way makes the departure due again.
                DepartureState::UnderWay => false,
                DepartureState::LastReplies => true,
                DepartureState::Sent => {
                    connection.end_sending(*key, work);
                    false
                }
                DepartureState::Over => {
                    // A slot that stays registered is overwritten by its next connection.
                    let _ = work.transfers.release(*key);
                    debug_assert_eq!(work.holdings.get(*key), 0, "who leaves is counted no more");
                    let connection = table.remove(*key).zip(work.leaving.remove(key));
                    departures.extend(connection.map(|(connection, end)| {
                        let close_code = connection.close_code();
                        let (descriptor, Beside { record, .. }) = connection.into_parts();
                        Departure { descriptor, end, close_code, record }
                    }));
                    false
                }
            }
        });
        debug_assert!(work.departures_due.is_empty(), "nothing ends while others depart");
        work.departures_due = due;
    }

    /// Gives the kernel the replies of this turn.
    fn send_replies(&mut self) {
        let Self { table, work: Work { transfers, replies, .. }, .. } = self;
        let connections = replies.take_connections();
        for key in &connections {
            let Some(connection) = table.get_mut(*key) else { continue };
            let mode = connection.send_mode();
            if let Sending::Ready(queue) = &mut connection.sending {
                let mut parts = replies.take(queue);
                if let Some(first) = parts.next() {
                    transfers.send(*key, first, parts, mode);
                }
            }
        }
        replies.clear(connections);
    }

    /// Asserts what holds between turns, whatever peers and kernel do.
    fn check_invariants(&self) {
        let Work { transfers, replies, buffer_queue, leaving, departures_due, .. } = &self.work;
        let mut expected = UnderWay::default();
        let mut leaving_count = 0;
        for (key, connection) in self.table.iter() {
            let Connection { receiving, sending, stage, .. } = connection;
            let is_receiving = matches!(receiving, Receiving::Armed | Receiving::Cancelling);
            let is_starved = *receiving == Receiving::Starved;
            let is_blocked = match sending {
                Sending::Ready(queue) => {
                    assert!(queue.is_empty(), "every reply has been given to the kernel");
                    false
                }
                Sending::Blocked(_) => true,
            };
            assert!(
                is_receiving || is_starved || is_blocked || *stage == Stage::Leaving,
                "something is going to happen to every connection"
            );
            assert!(
                *stage != Stage::HalfClosed || !is_blocked,
                "nothing is sent behind the server's end"
            );
            assert!(
                *receiving != Receiving::Armed || *stage != Stage::Leaving,
                "a connection that leaves has no receive armed"
            );
            assert!(!is_starved || buffer_queue.contains(key), "who waits will have its turn");
            assert!(
                connection.departure() == DepartureState::UnderWay || departures_due.contains(&key),
                "who has nothing under way departs"
            );
            expected.receives += usize::from(is_receiving);
            expected.patient_sends += usize::from(is_blocked);
            leaving_count += usize::from(*stage != Stage::Open);
            let kept_len = match sending {
                Sending::Blocked(waiting) if *stage != Stage::Leaving => {
                    transfers.patient_len(key) + waiting.len()
                }
                Sending::Ready(_) | Sending::Blocked(_) => 0,
            };
            let counted_len = self.work.holdings.get(key);
            // Held frames are counted by the sweep.
            assert!(counted_len >= kept_len, "what is kept for a peer is counted");
            assert!(*stage != Stage::Leaving || counted_len == 0, "who leaves is counted no more");
        }
        assert!(self.work.holdings.keys().iter().all(|key| self.table.contains(*key)));
        assert_eq!(transfers.under_way(), expected);
        assert_eq!(leaving.len(), leaving_count, "who leaves is in the table, and leaves once");
        assert!(replies.is_empty());
    }
}
