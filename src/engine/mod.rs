//! The data plane: one more ring for each worker, for all of its connections after their opening
//! handshake.
//!
//! A turn enters the kernel once. That sends the replies of the turn before and receives, into
//! shared buffers, what has arrived meanwhile; then each chunk is transformed in place, and its
//! reply queued. A connection without traffic costs its entry in the table and nothing else. While
//! messages come, the engine waits for them in its own ring.
//!
//! Rare things leave: a connection that ends, in whatever way, is given back with its descriptor
//! once nothing is under way on it, and an ordinary task finishes it. A peer that does not read
//! holds none of the shared buffers: what is left of its reply is copied, further replies behind it,
//! and when that has become too much, its receive ends until the socket has taken some.
//!
//! From the bottom up: `kernel` is what is asked of the kernel, `uring` the real one, `buffers` what
//! it receives into, `ring` how parts are sent and chunks received, `table` the connections, `calls`
//! what else its thread waits for, and here is the turn.

mod buffers;
mod calls;
mod kernel;
mod ring;
#[cfg(test)]
mod simulation;
mod table;
#[cfg(test)]
mod tests;
mod uring;

use std::{
    collections::VecDeque,
    io::{self, Write},
    mem,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use fastwebsockets::CloseCode;
use nix::sys::eventfd::EventFd;

use self::{
    buffers::Chunk,
    kernel::Kernel,
    ring::{Event, Events, Part, ReceiveEnd, Ring, UnderWay, Unsent},
    table::{Connection, Key, Queue, Receive, Send, Table},
    uring::Uring,
};
use crate::{
    clock::{Deadlines, Due, Tick, Timing},
    config::HugePages,
    connection::{ConnectionEnd, GOODBYE, PING},
    metrics::Counters,
    protocol::{
        close_code::encode_close_frame,
        echo::{Compression, Next, Reply, Rules},
    },
};

pub use self::{calls::Calls, ring::Dimensions};

/// How long the engine stays in its own ring without a call from elsewhere.
///
/// Everything that does not call, as timers, may be so much later; and an engine that has been idle
/// for longer sleeps with everything else.
const STAY_MAX: Duration = Duration::from_millis(10);

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
    departures: Vec<Departure>,
    /// When something last happened.
    active_at: Instant,
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

/// What this kernel lacks for an engine, if anything, and whether receives can be limited.
pub fn probe() -> io::Result<Probe> {
    let wake = EventFd::new()?;
    let dimensions = Dimensions {
        receive_buffers: 1,
        receive_buffer_len: 4096,
        huge_pages: HugePages::Off,
        receive_share: 4096,
        unsent_max: 4096,
        connections_max: 1,
    };
    let kernel = Uring::new(dimensions.connections_max, dimensions.receive_buffers, &wake)?;
    let mut ring = Ring::new(kernel, dimensions)?;
    let (mut peer, connection) = UnixStream::pair()?;
    peer.write_all(b"?")?;
    let mut table = Table::new(1);
    let timing = Timing::accepted(Tick::default());
    let Ok(key) = table.insert(connection.into(), timing, Compression::None) else {
        unreachable!("the table has room for one");
    };
    ring.adopt(key, table.present_mut(key).descriptor.as_fd())?;
    ring.receive(key, dimensions.receive_share);
    let mut events = Events::default();
    ring.turn(&mut events, false)?;
    Ok(match events.others[..] {
        [(_, Event::Received { .. })] => Probe { limits_receives: true },
        _ => Probe { limits_receives: false },
    })
}

/// What a kernel that can carry an engine can do beyond that.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// A multishot receive can be limited to a number of bytes (Linux 6.17).
    pub limits_receives: bool,
}

impl Engine {
    /// An engine on a ring of its own, for this thread, which writes to `wake` when there is
    /// something to do.
    pub fn new(
        dimensions: Dimensions,
        rules: Rules,
        counters: Arc<Counters>,
        wake: &EventFd,
    ) -> io::Result<Self> {
        let kernel = Uring::new(dimensions.connections_max, dimensions.receive_buffers, wake)?;
        Self::with_kernel(kernel, dimensions, rules, counters)
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
            departures: Vec::new(),
            active_at: Instant::now(),
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
        timing.traffic(self.now);
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

    /// Turns until nothing happens any more, or until `slice` has passed; says whether nothing
    /// happens any more. If so, the wake-up descriptor is written to when something does.
    pub fn turn_until_idle(&mut self, slice: Duration) -> io::Result<bool> {
        let begin = Instant::now();
        self.ring.announce(false);
        while begin.elapsed() < slice {
            if !self.turn(false)? && self.fall_asleep()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether so much is happening that [`stay`](Self::stay) is worth its while.
    pub fn is_active(&self) -> bool {
        !self.draining && self.active_at.elapsed() < STAY_MAX
    }

    /// Turns until there is a call, waiting in its own ring while nothing happens. One system call
    /// then sends and waits, where sleeping elsewhere takes several.
    ///
    /// Says whether nothing happens any more. If so, the wake-up descriptor is written to when
    /// something does.
    pub fn stay(&mut self, calls: &Calls) -> io::Result<bool> {
        self.ring.announce(false);
        if !self.ring.is_watching() {
            calls.call_after(STAY_MAX)?;
            self.ring.watch(calls.as_fd());
        }
        // What has been queued between turns is sent by the second.
        let mut may_wait = false;
        loop {
            let happened = self.turn(may_wait)?;
            let is_called = !self.ring.is_watching();
            may_wait = !self.is_in_haste();
            if happened {
                if is_called {
                    return Ok(false);
                }
            } else if is_called || !may_wait {
                return self.fall_asleep();
            }
        }
    }

    /// Whether something is to be done for which no event will come.
    fn is_in_haste(&self) -> bool {
        !(self.starved.is_empty() && self.leaving.is_empty() && self.departures.is_empty())
    }

    /// Has what happens from now on announced, unless something still happens.
    fn fall_asleep(&mut self) -> io::Result<bool> {
        self.ring.announce(true);
        // What came before the announcements shows in one more turn.
        let happened = self.turn(false)?;
        if happened {
            self.ring.announce(false);
        }
        Ok(!happened)
    }

    /// One turn: sends the replies of the one before, takes what has arrived, for which it may
    /// wait, and queues the replies to it. Says whether anything happened.
    fn turn(&mut self, may_wait: bool) -> io::Result<bool> {
        let has_starved = !self.starved.is_empty();
        let mut events = mem::take(&mut self.events);
        self.ring.turn(&mut events, may_wait)?;
        let happened = has_starved || !(events.unsent.is_empty() && events.others.is_empty());
        for (key, unsent) in events.unsent.drain(..) {
            match unsent {
                Unsent::Rest(rest) => self.block(key, rest),
                Unsent::Broken(kind) => self.leave(key, ConnectionEnd::Broken(kind)),
            }
        }
        for (key, event) in events.others.drain(..) {
            self.handle(key, event);
        }
        if happened {
            self.active_at = Instant::now();
        }
        self.events = events;
        self.feed();
        self.depart();
        self.send_replies();
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        Ok(happened)
    }

    /// The sweep: another tick has passed.
    pub fn sweep(&mut self, now: Tick, deadlines: &Deadlines) {
        self.now = now;
        let due: Vec<(Key, Due)> = self
            .table
            .iter_mut()
            .filter_map(|(key, connection)| Some((key, connection.timing.sweep(now, deadlines)?)))
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
        leaving.retain(|key| {
            let Some(connection) = table.get_mut(*key) else { return false };
            let is_quiet = connection.receive == Receive::Idle
                && matches!(connection.send, Send::Ready(queue) if queue.is_empty());
            if !is_quiet {
                return true;
            }
            // A slot that stays registered is overwritten by its next connection.
            let _ = ring.release(*key);
            if let Some(Connection { descriptor, leaving: Some(end), .. }) = table.remove(*key) {
                departures.push(Departure { descriptor, end });
            }
            false
        });
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

    /// Says goodbye on a connection of a stopping server, when no message is under way.
    fn close_if_draining(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if self.draining
            && !connection.close_sent
            && connection.leaving.is_none()
            && connection.echo.between_messages()
        {
            connection.close_sent = true;
            connection.timing.closing(self.now);
            self.queue(key, Part::Owned(encode_close_frame(CloseCode::Away, GOODBYE)));
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
