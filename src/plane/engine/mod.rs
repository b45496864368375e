//! The data plane: one more ring for each worker, for all of its connections after their opening
//! handshake.
//!
//! A turn enters the kernel once. That sends the replies of the turn before and receives, into
//! shared buffers, what has arrived meanwhile; then each chunk is transformed in place, and its
//! reply queued. A connection without traffic costs its entry in the table and nothing else. The
//! thread waits in this ring only: what its tasks wait for is an operation of it too.
//!
//! Rare things leave: a connection that ends, in whatever way, is given back with its descriptor
//! once nothing is under way on it, and an ordinary task finishes it. A peer that does not read
//! holds none of the shared buffers: what is left of its reply is copied, further replies behind it,
//! and when that has become too much, its receive ends until the socket has taken some.
//!
//! From the bottom up: `kernel` is what is asked of the kernel, `uring` the real one, `buffers` what
//! it receives into, `ring` how parts are sent and chunks received, `table` the connections, `waits`
//! what else its thread waits for, `probe` what this kernel can do, and here is the turn.

mod buffers;
mod kernel;
mod probe;
mod ring;
#[cfg(test)]
mod simulation;
mod table;
#[cfg(test)]
mod tests;
mod uring;
mod waits;

use std::{
    collections::VecDeque,
    io, mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use fastwebsockets::CloseCode;

use self::{
    buffers::Chunk,
    kernel::Kernel,
    ring::{Event, Events, Part, ReceiveEnd, Ring, UnderWay, Unsent},
    table::{Connection, Key, Queue, Receive, Send, Table},
    uring::Uring,
    waits::{Outcome, Sleep, Waits},
};
use crate::{
    connection::{
        ConnectionEnd, GOODBYE, PING,
        clock::{Deadlines, Due, TICK, Tick, Timing},
        intake::intake,
    },
    metrics::Counters,
    protocol::{
        close_code::encode_close_frame,
        echo::{Compression, Next, Reply, Rules},
    },
};

pub use self::{
    kernel::Interest,
    probe::{Lack, Probe, probe},
    ring::Dimensions,
    waits::Wait,
};

/// A connection that has left the engine, for an ordinary task to finish.
pub struct Departure {
    /// The connection. Nothing is under way on it.
    pub descriptor: OwnedFd,
    /// How it ended.
    pub end: ConnectionEnd,
}

/// The data plane of one worker.
pub struct Engine<K = Uring> {
    ring: Ring<K>,
    table: Table,
    rules: Rules,
    dimensions: Dimensions,
    counters: Arc<Counters>,
    /// The sweep's time.
    now: Tick,
    replies: Replies,
    /// Who waits for a shared buffer, in the order in which they receive again.
    starved: VecDeque<Key>,
    /// Those whose turn it was, but for whom others left no buffer; they go to the front.
    unfed: Vec<Key>,
    /// Connections that leave as soon as nothing is under way on them.
    leaving: Vec<Key>,
    /// The server is stopping, and closes connections between two messages.
    draining: bool,
    /// A connection leaves in the next turn, whether anything happens in it or not.
    is_departure_due: bool,
    departures: Vec<Departure>,
    /// What the worker's tasks wait for.
    waits: Waits,
    /// Turns since a tick was last over.
    turns_since_tick: u32,
    /// When the wait for the next one began.
    tick_began: Instant,
    /// Empty between turns.
    events: Events,
}

/// The replies of one turn. The parts of each connection are a list, in order.
#[derive(Default)]
struct Replies {
    parts: Vec<QueuedPart>,
    connections: Vec<Key>,
}

struct QueuedPart {
    part: Option<Part>,
    next: Option<u32>,
}

impl Engine {
    /// An engine on a ring of its own, for this thread.
    pub fn new(dimensions: Dimensions, rules: Rules, counters: Arc<Counters>) -> io::Result<Self> {
        let kernel = Uring::new(dimensions.connections_max, dimensions.receive_buffers)?;
        Self::with_kernel(kernel, dimensions, rules, counters)
    }

    /// Whether its ring is smaller than it should be, for want of memory that may be locked.
    pub fn is_reduced(&self) -> bool {
        self.ring.kernel().is_reduced()
    }
}

impl<K: Kernel> Engine<K> {
    fn with_kernel(
        kernel: K,
        dimensions: Dimensions,
        rules: Rules,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        Ok(Self {
            ring: Ring::new(kernel, dimensions)?,
            table: Table::new(dimensions.connections_max),
            rules,
            dimensions,
            counters,
            now: Tick::default(),
            replies: Replies::default(),
            starved: VecDeque::new(),
            unfed: Vec::new(),
            leaving: Vec::new(),
            draining: false,
            is_departure_due: false,
            departures: Vec::new(),
            waits: Waits::default(),
            turns_since_tick: 0,
            tick_began: Instant::now(),
            events: Events::default(),
        })
    }

    /// Connections that have not departed.
    pub fn connection_count(&self) -> usize {
        self.table.len()
    }

    /// Whether there is no connection, and nothing under way for one that has departed.
    pub fn is_idle(&self) -> bool {
        self.table.len() == 0 && self.ring.under_way() == UnderWay::default()
    }

    /// Connections that have departed since the last call.
    pub fn departures(&mut self) -> Vec<Departure> {
        mem::take(&mut self.departures)
    }

    /// Takes over a connection, with what its handshake agreed on and the bytes that came together
    /// with its request head; what they lead to happens in the next turn. Gives descriptor and
    /// bytes back when there is no room.
    pub fn adopt(
        &mut self,
        descriptor: OwnedFd,
        compression: Compression,
        mut early: Vec<u8>,
    ) -> Result<(), (OwnedFd, Vec<u8>)> {
        let mut timing = Timing::accepted(self.now);
        timing.opened(self.now);
        let key = match self.table.insert(descriptor, timing, compression) {
            Ok(key) => key,
            Err(descriptor) => return Err((descriptor, early)),
        };
        let connection = self.table.present_mut(key);
        if self.ring.adopt(key, connection.descriptor.as_fd()).is_err() {
            return match self.table.remove(key) {
                Some(connection) => Err((connection.descriptor, early)),
                None => unreachable!("it was just inserted"),
            };
        }
        self.arm(key);
        if !early.is_empty() {
            let reply = self.transform(key, |_| &mut early);
            let range = reply.range.clone();
            early.truncate(range.end);
            early.drain(..range.start);
            self.answer(key, reply, Part::Owned(early));
        }
        self.close_if_draining(key);
        Ok(())
    }

    /// Turns, and waits while there is nothing to do, until there is something to do for tasks:
    /// what one of them waited for is over, or connections have departed.
    pub fn run(&mut self) -> io::Result<()> {
        loop {
            let is_awaited = self.turn(!self.is_in_haste())?;
            if is_awaited || !self.departures.is_empty() {
                return Ok(());
            }
        }
    }

    /// Begins to wait for a descriptor, which is not one of its connections'.
    pub fn wait_for(&mut self, descriptor: BorrowedFd<'_>, interest: Interest) -> Wait {
        let wait = self.waits.begin(None);
        self.ring.watch(wait, descriptor, interest);
        wait
    }

    /// Begins to wait until `duration` has passed.
    pub fn wait_until_passed(&mut self, duration: Duration) -> Wait {
        let sleep = if duration < TICK { Sleep::Short } else { Sleep::Tick };
        if sleep == Sleep::Tick {
            self.tick_began = Instant::now();
        }
        let wait = self.waits.begin(Some(sleep));
        self.ring.sleep(wait, duration);
        wait
    }

    /// Whether a wait is over; if not, the task is woken when it is.
    pub fn poll_wait(&mut self, wait: Wait, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waits.poll(wait, context)
    }

    /// Lets go of a wait, whether it is over or not.
    pub fn end_wait(&mut self, wait: Wait) {
        if self.waits.end(wait) {
            self.ring.cancel_wait(wait);
        }
    }

    /// Whether something is to be done for which no event will come.
    fn is_in_haste(&self) -> bool {
        // What was queued between turns is given to the kernel at the end of the next one.
        let has_queued = !self.replies.connections.is_empty();
        has_queued || self.is_departure_due || !self.starved.is_empty()
    }

    /// One turn: sends the replies of the one before, takes what has arrived, for which it may
    /// wait, and queues the replies to it. Says whether something that a task waits for is over.
    pub fn turn(&mut self, may_wait: bool) -> io::Result<bool> {
        let mut events = mem::take(&mut self.events);
        self.ring.turn(&mut events, may_wait)?;
        self.count_late_wake_up(&events);
        for (key, unsent) in events.unsent.drain(..) {
            match unsent {
                Unsent::Rest(rest) => self.block(key, rest),
                Unsent::Broken(kind) => self.leave(key, ConnectionEnd::Broken(kind)),
            }
        }
        for (key, event) in events.others.drain(..) {
            self.handle(key, event);
        }
        let mut is_awaited = false;
        for (wait, outcome) in events.waits.drain(..) {
            is_awaited |= self.waits.complete(wait, outcome);
            if let (Some(_), Outcome::Failed(errno)) = (wait.sleep, outcome) {
                // Without time nothing has an end.
                return Err(errno.into());
            }
        }
        self.events = events;
        self.feed();
        self.depart();
        self.send_replies();
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        Ok(is_awaited)
    }

    /// Counts what should have ended a wait, but was found only when a tick had passed.
    ///
    /// A tick ends a wait if nothing else does. That something else happens in the same instant,
    /// after a whole second without anything, is so rare that it means a lost wake-up; unless the
    /// tick itself was late, since then nothing here ran at all.
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
                self.counters.late_wake_ups.add(1);
            }
        }
    }

    /// Lets go of all tasks that wait, when the engine is not to turn any more.
    pub fn take_wakers(&mut self) -> Vec<Waker> {
        self.waits.take_wakers()
    }

    /// The sweep: another tick has passed.
    pub fn sweep(&mut self, now: Tick, deadlines: &Deadlines) {
        self.now = now;
        let due: Vec<(Key, Due)> = self
            .table
            .iter_mut()
            .filter_map(|(key, connection)| {
                let Connection { timing, descriptor, .. } = connection;
                Some((key, timing.sweep(now, deadlines, || intake(descriptor))?))
            })
            .collect();
        for (key, due) in due {
            match due {
                Due::Ping => self.ping(key),
                Due::KeepAliveTimeout => self.end_now(key, ConnectionEnd::KeepAliveTimeout),
                Due::CloseTimeout => self.end_now(key, ConnectionEnd::CloseTimeout),
                Due::HandshakeTimeout => unreachable!("the opening handshake is over"),
            }
        }
    }

    /// Closes every connection as soon as no message is under way on it.
    pub fn drain(&mut self) {
        self.draining = true;
        for key in self.table.keys() {
            self.close_if_draining(key);
        }
    }

    /// Ends every connection now.
    pub fn abandon(&mut self) {
        for key in self.table.keys() {
            self.end_now(key, ConnectionEnd::Abandoned);
        }
    }

    #[inline]
    fn handle(&mut self, key: Key, event: Event) {
        match event {
            Event::Received { chunk, goes_on } => self.receive(key, chunk, goes_on),
            Event::PeerEnded => {
                self.receive_ended(key);
                self.leave(key, ConnectionEnd::PeerVanished);
            }
            Event::ReceiveEnded(ReceiveEnd::Cancelled) => {
                self.receive_ended(key);
                self.arm(key);
            }
            Event::ReceiveEnded(ReceiveEnd::BuffersExhausted) => {
                self.receive_ended(key);
                self.starve(key);
            }
            Event::ReceiveEnded(ReceiveEnd::Broken(kind)) => {
                self.receive_ended(key);
                self.leave(key, ConnectionEnd::Broken(kind));
            }
            Event::SendGoesOn => self.send_goes_on(key),
            Event::Unblocked => self.unblock(key),
            Event::SendBroken(kind) => {
                self.send_ended(key);
                self.leave(key, ConnectionEnd::Broken(kind));
            }
        }
    }

    /// Bytes have arrived.
    #[inline]
    fn receive(&mut self, key: Key, chunk: Chunk, goes_on: bool) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.is_hungry = false;
        if !goes_on {
            connection.receive = Receive::Idle;
        }
        if connection.leaving.is_none() {
            connection.timing.traffic(self.now);
            let reply = self.transform(key, |ring| ring.chunk_mut(&chunk));
            let range = reply.range.clone();
            self.answer(key, reply, Part::Chunk(chunk, range));
        }
        if !goes_on {
            self.starve(key);
        } else if !self.may_receive(key) {
            self.disarm(key);
        }
    }

    /// Transforms received bytes in place.
    #[inline]
    fn transform<'a>(
        &'a mut self,
        key: Key,
        bytes: impl FnOnce(&'a mut Ring<K>) -> &'a mut [u8],
    ) -> Reply {
        let connection = self.table.present_mut(key);
        let bytes = bytes(&mut self.ring);
        let reply = connection.echo.transform(bytes, &self.rules);
        self.counters.received_bytes.add(bytes.len() as u64);
        self.counters.messages.add(reply.messages.into());
        reply
    }

    /// Queues a reply, of which `part` is the range, and does what comes next.
    #[inline]
    fn answer(&mut self, key: Key, reply: Reply, part: Part) {
        let connection = self.table.present_mut(key);
        let close_sent = connection.close_sent;
        if !close_sent {
            if !reply.prefix.is_empty() {
                self.queue(key, Part::Owned(reply.prefix));
            }
            if !reply.range.is_empty() {
                self.queue(key, part);
            }
        }
        match reply.next {
            Next::Continue => self.close_if_draining(key),
            Next::Close if close_sent => self.leave(key, ConnectionEnd::ClosedByServer),
            Next::Close => self.leave(key, ConnectionEnd::ClosedByPeer),
            Next::Fail(error) => {
                if !close_sent {
                    let frame = encode_close_frame(error.close_code(), &error.to_string());
                    self.queue(key, Part::Owned(frame));
                }
                self.leave(key, ConnectionEnd::Failed(error));
            }
            Next::Abort(error) => self.leave(key, ConnectionEnd::Failed(error)),
        }
    }

    /// Puts a part behind those that the connection sends in this turn or, if it is blocked, when
    /// its peer has taken the rest.
    fn queue(&mut self, key: Key, part: Part) {
        let connection = self.table.present_mut(key);
        match &mut connection.send {
            Send::Ready(queue) => self.replies.push(key, queue, part),
            Send::Blocked(waiting) => {
                if waiting.capacity() == 0 {
                    **waiting = self.ring.spare_memory();
                    // All at once, or the allocator would keep what it outgrows.
                    waiting.reserve_exact(self.dimensions.unsent_max);
                }
                match part {
                    Part::Owned(bytes) => waiting.extend_from_slice(&bytes),
                    Part::Chunk(chunk, range) => {
                        waiting.extend_from_slice(&self.ring.chunk_mut(&chunk)[range]);
                    }
                }
            }
        }
    }

    /// Gives the kernel the replies of this turn.
    fn send_replies(&mut self) {
        let Self { table, replies: Replies { parts, connections }, ring, .. } = self;
        for key in connections.drain(..) {
            let Some(connection) = table.get_mut(key) else { continue };
            if let Send::Ready(queue) = &mut connection.send {
                ring.send(key, take_queued(parts, queue));
            }
        }
        parts.clear();
    }

    /// Takes a peer that does not read off the shared buffers.
    #[cold]
    fn block(&mut self, key: Key, rest: Vec<u8>) {
        let Some(connection) = self.table.get_mut(key) else { return };
        // What was queued between turns, as a goodbye or a Ping, goes behind the rest.
        let queued: Vec<Part> = match &mut connection.send {
            Send::Ready(queue) => take_queued(&mut self.replies.parts, queue).collect(),
            Send::Blocked(_) => unreachable!("nothing is sent at once while it is blocked"),
        };
        connection.send = Send::Blocked(Box::default());
        self.ring.send_patiently(key, rest);
        for part in queued {
            self.queue(key, part);
        }
        if !self.may_receive(key) {
            self.disarm(key);
        }
        self.close_if_draining(key);
    }

    /// A peer has taken some of what it was sent, which makes room to receive more.
    #[cold]
    fn send_goes_on(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.timing.traffic(self.now);
        self.arm(key);
    }

    /// A peer has taken what it was sent: the rest, or back to normal.
    #[cold]
    fn unblock(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.timing.traffic(self.now);
        if let Send::Blocked(waiting) = &mut connection.send
            && !waiting.is_empty()
        {
            self.ring.send_patiently(key, mem::take(waiting));
        } else {
            connection.send = Send::Ready(Queue::default());
        }
        self.arm(key);
    }

    /// A blocked send is over because the connection is.
    #[cold]
    fn send_ended(&mut self, key: Key) {
        if let Some(connection) = self.table.get_mut(key) {
            connection.send = Send::Ready(Queue::default());
        }
    }

    fn receive_ended(&mut self, key: Key) {
        if let Some(connection) = self.table.get_mut(key) {
            connection.receive = Receive::Idle;
        }
    }

    /// Has a connection that does not receive wait for a shared buffer: behind all who do or, if it
    /// has waited and found none, before them.
    #[cold]
    fn starve(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.leaving.is_some() {
            return;
        }
        connection.receive = Receive::Starved;
        if mem::replace(&mut connection.is_hungry, true) {
            self.unfed.push(key);
        } else {
            self.starved.push_back(key);
        }
    }

    /// Has as many of those who wait receive as there are buffers. The others would find none.
    fn feed(&mut self) {
        for key in self.unfed.drain(..).rev() {
            self.starved.push_front(key);
        }
        for _ in 0..self.ring.free_buffers() {
            let Some(key) = self.starved.pop_front() else { return };
            if let Some(connection) = self.table.get_mut(key)
                && connection.receive == Receive::Starved
            {
                connection.receive = Receive::Idle;
                self.arm(key);
            }
        }
    }

    /// Receives, unless that is under way, or not to be.
    fn arm(&mut self, key: Key) {
        if !self.may_receive(key) {
            return;
        }
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.receive == Receive::Idle {
            connection.receive = Receive::Armed;
            self.ring.receive(key, self.dimensions.receive_share);
        }
    }

    /// Whether there is room for what may be received next, and a use for it.
    #[inline]
    fn may_receive(&mut self, key: Key) -> bool {
        let Some(connection) = self.table.get_mut(key) else { return false };
        let has_room = match &connection.send {
            Send::Ready(_) => true,
            Send::Blocked(waiting) => {
                let Dimensions { receive_share, unsent_max, .. } = self.dimensions;
                let unsent = self.ring.unsent_len(key) + waiting.len();
                unsent + receive_share as usize <= unsent_max
            }
        };
        has_room && connection.leaving.is_none()
    }

    #[cold]
    fn disarm(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.receive == Receive::Armed {
            connection.receive = Receive::Cancelling;
            self.ring.cancel_receive(key);
        }
    }

    /// Begins to leave. What is queued is still sent. The first reason to leave stands.
    #[cold]
    fn leave(&mut self, key: Key, end: ConnectionEnd) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.leaving.is_none() {
            connection.leaving = Some(end);
            connection.timing.closing(self.now);
            self.leaving.push(key);
        }
        if connection.receive == Receive::Starved {
            connection.receive = Receive::Idle;
        }
        self.is_departure_due |= connection.receive == Receive::Idle;
        self.disarm(key);
    }

    /// Leaves without waiting for the peer: whatever is under way fails.
    #[cold]
    fn end_now(&mut self, key: Key, end: ConnectionEnd) {
        self.leave(key, end);
        if let Some(connection) = self.table.get_mut(key) {
            self.ring.shut_down(connection.descriptor.as_fd());
        }
    }

    /// Lets those go on which nothing is under way.
    fn depart(&mut self) {
        let Self { table, ring, leaving, departures, .. } = self;
        let mut is_departure_due = false;
        leaving.retain(|key| {
            let Some(connection) = table.get_mut(*key) else { return false };
            match connection.send {
                Send::Ready(queue) if connection.receive == Receive::Idle => {
                    if !queue.is_empty() {
                        // Its last replies go out with the next turn, and it after them.
                        is_departure_due = true;
                        return true;
                    }
                }
                Send::Ready(_) | Send::Blocked(_) => return true,
            }
            // A slot that stays registered is overwritten by its next connection.
            let _ = ring.release(*key);
            if let Some(Connection { descriptor, leaving: Some(end), .. }) = table.remove(*key) {
                departures.push(Departure { descriptor, end });
            }
            false
        });
        self.is_departure_due = is_departure_due;
    }

    #[cold]
    fn ping(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        let is_possible = connection.echo.between_frames()
            && !connection.close_sent
            && matches!(connection.send, Send::Ready(_));
        if is_possible {
            self.queue(key, Part::Owned(PING.to_vec()));
        }
    }

    /// Says goodbye on a connection of a stopping server, when no message is under way. A peer that
    /// does not read has as long to go on with it as for what else it is to do before the end.
    fn close_if_draining(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if !self.draining || connection.close_sent || connection.leaving.is_some() {
            return;
        }
        if connection.echo.between_messages() {
            connection.close_sent = true;
            connection.timing.closing(self.now);
            self.queue(key, Part::Owned(encode_close_frame(CloseCode::Away, GOODBYE)));
        } else if matches!(connection.send, Send::Blocked(_)) {
            connection.timing.closing(self.now);
        }
    }

    /// What holds between turns, whatever peers and kernel do.
    fn check_invariants(&self) {
        let mut expected = UnderWay::default();
        let mut leaving = 0;
        for (key, connection) in self.table.iter() {
            let is_receiving = matches!(connection.receive, Receive::Armed | Receive::Cancelling);
            let is_starved = connection.receive == Receive::Starved;
            let is_leaving = connection.leaving.is_some();
            let is_blocked = match &connection.send {
                Send::Ready(queue) => {
                    assert!(queue.is_empty(), "every reply has been given to the ring");
                    false
                }
                Send::Blocked(_) => true,
            };
            assert!(
                is_receiving || is_starved || is_blocked || is_leaving,
                "something is going to happen to every connection"
            );
            assert!(
                connection.receive != Receive::Armed || !is_leaving,
                "nothing is received that could not be answered"
            );
            assert!(!is_starved || self.starved.contains(&key), "who waits will have its turn");
            expected.receives += usize::from(is_receiving);
            expected.patient_sends += usize::from(is_blocked);
            leaving += usize::from(is_leaving);
        }
        assert_eq!(self.ring.under_way(), expected);
        assert_eq!(self.leaving.len(), leaving, "who leaves is in the table, and leaves once");
        assert!(self.replies.parts.is_empty() && self.replies.connections.is_empty());
    }
}

impl Replies {
    /// Puts a part behind the others of its connection.
    #[inline]
    fn push(&mut self, key: Key, queue: &mut Queue, part: Part) {
        let index = self.parts.len() as u32;
        self.parts.push(QueuedPart { part: Some(part), next: None });
        match queue.push(index) {
            Some(last) => self.parts[last as usize].next = Some(index),
            None => self.connections.push(key),
        }
    }
}

/// Empties a connection's queue: its parts, in order.
#[inline]
fn take_queued(parts: &mut [QueuedPart], queue: &mut Queue) -> impl Iterator<Item = Part> {
    let mut next = queue.take_first();
    std::iter::from_fn(move || {
        let queued = &mut parts[next? as usize];
        next = queued.next;
        queued.part.take()
    })
}
