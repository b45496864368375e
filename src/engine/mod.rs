//! The data plane: one more ring for each worker, for all of its connections after their opening
//! handshake.
//!
//! A turn enters the kernel once. That sends the replies of the turn before and receives, into
//! shared buffers, what has arrived meanwhile; then each chunk is transformed in place, and its
//! reply queued. A connection without traffic costs its entry in the table and nothing else.
//!
//! Rare things leave: a connection that ends, in whatever way, is given back with its descriptor
//! once nothing is under way on it, and an ordinary task finishes it. A peer that does not read
//! holds none of the shared buffers: what is left of its reply is copied, its receive cancelled,
//! and both go on when its socket has taken the rest.

mod buffers;
mod kernel;
mod ring;
mod table;

use std::{
    io::{self, Write},
    mem,
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use fastwebsockets::CloseCode;
use nix::sys::eventfd::EventFd;
use socket2::SockRef;

use self::{
    kernel::{Chunk, Completion, Completions, Kernel, Part, ReceiveEnd, Unsent},
    ring::Ring,
    table::{Connection, Key, Queue, Receive, Send, Table},
};
use crate::{
    clock::{Deadlines, Due, Tick, Timing},
    connection::{ConnectionEnd, GOODBYE, PING},
    metrics::Counters,
    protocol::{
        close_code::encode_close_frame,
        echo::{Compression, Next, Reply, Rules},
    },
};

pub use self::ring::Dimensions;

/// A connection that has left the engine, for an ordinary task to finish.
pub struct Departure {
    /// The connection. Nothing is under way on it.
    pub descriptor: OwnedFd,
    /// How it ended.
    pub end: ConnectionEnd,
}

/// The data plane of one worker.
pub struct Engine<K = Ring> {
    kernel: K,
    table: Table,
    rules: Rules,
    counters: Arc<Counters>,
    /// The sweep's time.
    now: Tick,
    replies: Replies,
    /// Receives that found no shared buffer; they are armed again a turn later.
    starved: Vec<Key>,
    /// Connections that leave as soon as nothing is under way on them.
    leaving: Vec<Key>,
    departures: Vec<Departure>,
    /// Empty between turns.
    completions: Completions,
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
        receive_share: 4096,
        connections_max: 1,
    };
    let mut ring = Ring::new(dimensions, &wake)?;
    let (mut peer, connection) = UnixStream::pair()?;
    peer.write_all(b"?")?;
    let mut table = Table::new(1);
    let timing = Timing::accepted(Tick::default());
    let Ok(key) = table.insert(connection.into(), timing, Compression::None) else {
        unreachable!("the table has room for one");
    };
    ring.adopt(key, table.present_mut(key).descriptor.as_fd())?;
    ring.receive(key);
    let mut completions = Completions::default();
    ring.turn(&mut completions)?;
    Ok(match completions.others[..] {
        [(_, Completion::Received { .. })] => Probe { limits_receives: true },
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
        let ring = Ring::new(dimensions, wake)?;
        Ok(Self::with_kernel(ring, dimensions.connections_max, rules, counters))
    }
}

impl<K: Kernel> Engine<K> {
    fn with_kernel(kernel: K, connections_max: u32, rules: Rules, counters: Arc<Counters>) -> Self {
        Self {
            kernel,
            table: Table::new(connections_max),
            rules,
            counters,
            now: Tick::default(),
            replies: Replies::default(),
            starved: Vec::new(),
            leaving: Vec::new(),
            departures: Vec::new(),
            completions: Completions::default(),
        }
    }

    /// Connections that have not departed.
    pub fn connection_count(&self) -> usize {
        self.table.len()
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
        if self.kernel.adopt(key, connection.descriptor.as_fd()).is_err() {
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
        Ok(())
    }

    /// One turn: sends the replies of the one before, takes what has arrived, and queues the
    /// replies to it. Says whether anything happened.
    pub fn turn(&mut self) -> io::Result<bool> {
        let starved = mem::take(&mut self.starved);
        let mut completions = mem::take(&mut self.completions);
        self.kernel.turn(&mut completions)?;
        let happened =
            !(starved.is_empty() && completions.unsent.is_empty() && completions.others.is_empty());
        for (key, unsent) in completions.unsent.drain(..) {
            match unsent {
                Unsent::Rest(rest) => self.block(key, rest),
                Unsent::Broken(kind) => self.leave(key, ConnectionEnd::Broken(kind)),
            }
        }
        for (key, completion) in completions.others.drain(..) {
            self.complete(key, completion);
        }
        self.completions = completions;
        for key in starved {
            self.arm(key);
        }
        self.depart();
        self.send_replies();
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
        for key in self.table.keys() {
            if let Some(connection) = self.table.get_mut(key) {
                connection.draining = true;
                self.close_if_draining(key);
            }
        }
    }

    /// Ends every connection now.
    pub fn abandon(&mut self) {
        for key in self.table.keys() {
            self.end_now(key, ConnectionEnd::Abandoned);
        }
    }

    #[inline]
    fn complete(&mut self, key: Key, completion: Completion) {
        match completion {
            Completion::Received { chunk, goes_on } => self.receive(key, chunk, goes_on),
            Completion::PeerEnded => {
                self.receive_ended(key);
                self.leave(key, ConnectionEnd::PeerVanished);
            }
            Completion::ReceiveEnded(ReceiveEnd::Cancelled) => {
                self.receive_ended(key);
                self.arm(key);
            }
            Completion::ReceiveEnded(ReceiveEnd::BuffersExhausted) => {
                self.receive_ended(key);
                self.starved.push(key);
            }
            Completion::ReceiveEnded(ReceiveEnd::Broken(kind)) => {
                self.receive_ended(key);
                self.leave(key, ConnectionEnd::Broken(kind));
            }
            Completion::Unblocked => self.unblock(key),
            Completion::SendBroken(kind) => {
                self.send_ended(key);
                self.leave(key, ConnectionEnd::Broken(kind));
            }
        }
    }

    /// Bytes have arrived.
    #[inline]
    fn receive(&mut self, key: Key, chunk: Chunk, goes_on: bool) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if !goes_on {
            connection.receive = Receive::Idle;
        }
        if connection.leaving.is_none() {
            connection.timing.traffic(self.now);
            let reply = self.transform(key, |kernel| kernel.chunk_mut(&chunk));
            let range = reply.range.clone();
            self.answer(key, reply, Part::Chunk(chunk, range));
        }
        if !goes_on {
            self.arm(key);
        }
    }

    /// Transforms received bytes in place.
    #[inline]
    fn transform<'a>(
        &'a mut self,
        key: Key,
        bytes: impl FnOnce(&'a mut K) -> &'a mut [u8],
    ) -> Reply {
        let connection = self.table.present_mut(key);
        let bytes = bytes(&mut self.kernel);
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
            Send::Blocked(waiting) => match part {
                Part::Owned(bytes) => waiting.extend_from_slice(&bytes),
                Part::Chunk(chunk, range) => {
                    waiting.extend_from_slice(&self.kernel.chunk_mut(&chunk)[range]);
                }
            },
        }
    }

    /// Gives the kernel the replies of this turn.
    fn send_replies(&mut self) {
        let Self { table, replies, kernel, .. } = self;
        for key in replies.connections.drain(..) {
            let Some(connection) = table.get_mut(key) else { continue };
            if let Send::Ready(queue) = &mut connection.send {
                let mut next = queue.take_first();
                kernel.send(
                    key,
                    std::iter::from_fn(|| {
                        let queued = &mut replies.parts[next? as usize];
                        next = queued.next;
                        queued.part.take()
                    }),
                );
            }
        }
        replies.parts.clear();
    }

    /// Takes a peer that does not read off the shared buffers.
    #[cold]
    fn block(&mut self, key: Key, rest: Vec<u8>) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.send = Send::Blocked(Box::default());
        self.kernel.send_patiently(key, rest);
        self.disarm(key);
    }

    /// A peer has taken what it was sent: the rest, or back to normal.
    #[cold]
    fn unblock(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if let Send::Blocked(waiting) = &mut connection.send
            && !waiting.is_empty()
        {
            self.kernel.send_patiently(key, mem::take(waiting));
            return;
        }
        connection.timing.traffic(self.now);
        connection.send = Send::Ready(Queue::default());
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

    /// Receives, unless that is under way, or the connection is blocked or leaving.
    fn arm(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.receive == Receive::Idle
            && matches!(connection.send, Send::Ready(_))
            && connection.leaving.is_none()
        {
            connection.receive = Receive::Armed;
            self.kernel.receive(key);
        }
    }

    #[cold]
    fn disarm(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.receive == Receive::Armed {
            connection.receive = Receive::Cancelling;
            self.kernel.cancel_receive(key);
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
        self.disarm(key);
    }

    /// Leaves without waiting for the peer: whatever is under way fails.
    #[cold]
    fn end_now(&mut self, key: Key, end: ConnectionEnd) {
        self.leave(key, end);
        if let Some(connection) = self.table.get_mut(key) {
            // It fails on a connection that is broken already, which is as good.
            let _ = SockRef::from(&connection.descriptor).shutdown(Shutdown::Both);
        }
    }

    /// Lets those go on which nothing is under way.
    fn depart(&mut self) {
        let Self { table, kernel, leaving, departures, .. } = self;
        leaving.retain(|key| {
            let Some(connection) = table.get_mut(*key) else { return false };
            let is_quiet = connection.receive == Receive::Idle
                && matches!(connection.send, Send::Ready(queue) if queue.is_empty());
            if !is_quiet {
                return true;
            }
            // A slot that stays registered is overwritten by its next connection.
            let _ = kernel.release(*key);
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
        if connection.draining
            && !connection.close_sent
            && connection.leaving.is_none()
            && connection.echo.between_messages()
        {
            connection.close_sent = true;
            connection.timing.closing(self.now);
            self.queue(key, Part::Owned(encode_close_frame(CloseCode::Away, GOODBYE)));
        }
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
