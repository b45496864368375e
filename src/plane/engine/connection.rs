//! A connection in the engine: what is under way on it, and what happens to it next.
//!
//! Its invariant: something is going to happen to every connection. It receives, waits for a shared
//! buffer, waits for its peer to take what it was sent, or leaves.
//!
//! A connection that ends in order lingers before it leaves. Closing a socket with unread bytes in it
//! resets the connection, and a reset can destroy what the peer has not read yet. So when its last
//! replies are out the server's side alone is ended, and what arrives is discarded until the peer has
//! ended its side too.
//!
//! A connection over TLS differs in two places: what it receives is opened before the session sees it,
//! and what it sends is sealed when it is queued. So records go out in the order in which they were
//! sealed, which is the only order that a peer can open them in.

use std::{
    io, mem,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use fnv::FnvHashMap;
use rustls::AlertDescription;

use super::{
    buffer_queue::BufferQueue,
    buffers::Chunk,
    dimensions::Dimensions,
    kernel::{Kernel, SendMode},
    key::Key,
    replies::{PartQueue, Replies},
    sends::Part,
    tls::{Sealed, Security, seal_frame, seal_reply},
    transfers::{Event, ReceiveEnd, Transfers, Unsent},
};
use crate::{
    connection::{
        ConnectionEnd,
        clock::{Tick, Timing},
        intake::is_quiet,
        memory_budget::Holdings,
        record::Record,
        reset_when_closed,
    },
    metrics::Counters,
    protocol::{
        echo::{Compression, Rules},
        reply::{Closing, Reply},
        session::{Goodbye, Session},
    },
    tls::{
        TlsError, TlsFault, TlsSession,
        ktls::{AlertLevel, fault_of, read_control, send_alert},
    },
};

/// All that an idle connection costs.
pub(super) struct Connection {
    session: Session,
    pub(super) timing: Timing,
    /// Open beside its registration, so that it can be given back.
    pub(super) descriptor: OwnedFd,
    /// Which of the successive connections in its slot it is.
    pub(super) generation: u32,
    pub(super) receiving: Receiving,
    /// It has waited for a shared buffer, and not received since.
    is_hungry: bool,
    pub(super) sending: Sending,
    pub(super) stage: Stage,
    /// What most connections are without.
    beside: Option<Box<Beside>>,
}

/// What few connections have, apart from the table since all pay for what is in it.
#[derive(Default)]
pub(super) struct Beside {
    /// What an operator may ask, if that is kept.
    pub(super) record: Option<Rc<Record>>,
    /// Who speaks TLS, if it is over TLS.
    pub(super) security: Security,
}

/// What is wrong with a record that the kernel cannot open.
const NOT_DECRYPTED: (TlsFault, Option<AlertDescription>) =
    (TlsFault::NotDecrypted, Some(AlertDescription::BadRecordMac));

const _: () = assert!(size_of::<Connection>() <= 96, "an idle connection weighs no more");

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// What it receives is answered.
    Open,
    /// It has ended in order. Its last replies go out, and what arrives is discarded.
    Closing,
    /// The server has ended its side, and what arrives is discarded until the peer ends its own.
    HalfClosed,
    /// It leaves the engine once nothing is under way on it.
    Leaving,
}

/// What the kernel is doing about received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Idle,
    Armed,
    Cancelling,
    /// Nothing, until it is the connection's turn to have a shared buffer.
    Starved,
}

/// What the kernel is doing about sent bytes.
#[derive(Debug)]
pub(super) enum Sending {
    /// No send outlives its turn: these parts go out before the next one begins.
    Ready(PartQueue),
    /// The peer does not read: a patient send is under way, and these bytes come behind it.
    #[expect(clippy::box_collection, reason = "a word in the table, for what is rare")]
    Blocked(Box<Vec<u8>>),
}

/// What connections act on, and what bounds them.
pub(super) struct Work<K> {
    pub(super) transfers: Transfers<K>,
    /// What goes out at the end of the turn.
    pub(super) replies: Replies,
    pub(super) buffer_queue: BufferQueue,
    /// Connections that have ended, and how.
    pub(super) leaving: FnvHashMap<Key, ConnectionEnd>,
    /// Those of them to which something has happened since the last turn, some more than once.
    pub(super) departures_due: Vec<Key>,
    /// The sweep's time.
    pub(super) now: Tick,
    /// What is kept for connections, counted into the memory budget.
    pub(super) holdings: Holdings<Key>,
    /// What a chunk is opened into, whichever connection it is of; empty between two chunks. It grows to
    /// what one chunk and the beginning of a record hold.
    pub(super) plaintext: Vec<u8>,
    pub(super) rules: Rules,
    pub(super) dimensions: Dimensions,
    pub(super) counters: Arc<Counters>,
}

impl Connection {
    pub(super) fn new(
        descriptor: OwnedFd,
        generation: u32,
        compression: Compression,
        now: Tick,
    ) -> Self {
        let mut timing = Timing::accepted(now);
        timing.opened(now);
        Self {
            session: Session::new(compression),
            timing,
            descriptor,
            generation,
            receiving: Receiving::Idle,
            is_hungry: false,
            sending: Sending::Ready(PartQueue::default()),
            stage: Stage::Open,
            beside: None,
        }
    }

    /// The same, with what only few connections have.
    pub(super) fn with(self, beside: Beside) -> Self {
        let is_empty = beside.record.is_none() && matches!(beside.security, Security::None);
        Self { beside: (!is_empty).then(|| beside.into()), ..self }
    }

    /// Gives back what it was taken over with.
    pub(super) fn into_parts(self) -> (OwnedFd, Beside) {
        (self.descriptor, self.beside.map_or_else(Beside::default, |beside| *beside))
    }

    #[inline]
    fn record(&self) -> Option<&Rc<Record>> {
        self.beside.as_ref()?.record.as_ref()
    }

    #[inline]
    fn tls(&self) -> Option<&TlsSession> {
        match &self.beside.as_ref()?.security {
            Security::Session(session) => Some(session),
            Security::None | Security::Kernel => None,
        }
    }

    fn tls_mut(&mut self) -> Option<&mut TlsSession> {
        match &mut self.beside.as_mut()?.security {
            Security::Session(session) => Some(session),
            Security::None | Security::Kernel => None,
        }
    }

    /// Whether the kernel opens and seals its records.
    fn is_over_ktls(&self) -> bool {
        self.beside.as_ref().is_some_and(|it| matches!(it.security, Security::Kernel))
    }

    /// The close code that the peer was sent, if it was sent one.
    pub(super) fn close_code(&self) -> Option<u16> {
        self.session.close_code()
    }

    /// Bytes that wait behind a patient send.
    pub(super) fn waiting_len(&self) -> usize {
        match &self.sending {
            Sending::Ready(_) => 0,
            Sending::Blocked(waiting) => waiting.capacity(),
        }
    }

    /// Counts received bytes and the reply to them.
    #[inline]
    fn count<K>(&self, received_len: usize, reply: &Reply, work: &Work<K>) {
        work.counters.count_reply(received_len, reply);
        if let Some(record) = self.record() {
            record.count(received_len, reply.sent_len(), reply.messages);
        }
    }

    /// Counts the bytes of a frame of the server's own.
    fn count_sent<K>(&self, len: usize, work: &Work<K>) {
        work.counters.sent_bytes.add(len as u64);
        if let Some(record) = self.record() {
            record.count(0, len, 0);
        }
    }

    #[inline]
    pub(super) fn handle<K: Kernel>(&mut self, key: Key, event: Event, work: &mut Work<K>) {
        if matches!(self.stage, Stage::Closing | Stage::Leaving) {
            work.departures_due.push(key);
        }
        match event {
            Event::Received { chunk, goes_on } => self.receive(key, chunk, goes_on, work),
            Event::PeerEnded => {
                self.receiving = Receiving::Idle;
                self.leave(key, ConnectionEnd::PeerVanished, work);
            }
            Event::ReceiveEnded(end) => self.receive_ended(key, end, work),
            Event::SendGoesOn => self.timing.taken(work.now),
            Event::Unblocked => self.unblock(key, work),
            Event::SendBroken(kind) => {
                self.sending = Sending::Ready(PartQueue::default());
                self.send_failed(key, kind, work);
            }
        }
    }

    /// A reply did not go out whole.
    #[cold]
    pub(super) fn handle_unsent<K: Kernel>(
        &mut self,
        key: Key,
        unsent: Unsent,
        work: &mut Work<K>,
    ) {
        match unsent {
            Unsent::Rest(rest) => self.block(key, rest, work),
            Unsent::Broken(kind) => {
                // A reply may be lost although the connection stands, as when the kernel had no memory
                // for it. Nothing may be sent behind the gap.
                if let Sending::Ready(queue) = &mut self.sending {
                    work.replies.take(queue).for_each(drop);
                }
                self.send_failed(key, kind, work);
            }
        }
    }

    /// Answers the bytes that have come together with the request head, which over TLS are opened, and
    /// sends what the TLS session has to say.
    pub(super) fn receive_early<K: Kernel>(
        &mut self,
        key: Key,
        mut bytes: Vec<u8>,
        work: &mut Work<K>,
    ) {
        if !bytes.is_empty() {
            let reply = self.session.receive(&mut bytes, &work.rules);
            self.count(bytes.len(), &reply, work);
            if self.tls().is_some() {
                self.answer_sealed(key, reply, &bytes, None, work);
            } else {
                bytes.truncate(reply.range.end);
                bytes.drain(..reply.range.start);
                self.answer(key, reply, Part::Owned(bytes), work);
            }
        }
        if let Some(tls) = self.tls_mut() {
            let mut output = Vec::new();
            tls.take_output(&mut output);
            let opened = tls.open(&mut [], &mut Vec::new());
            if !output.is_empty() {
                self.queue(key, Part::Owned(output), work);
            }
            match opened {
                Ok(opened) if opened.is_closed && self.stage == Stage::Open => {
                    self.leave(key, ConnectionEnd::PeerVanished, work);
                }
                Ok(_) => {}
                Err(error) => self.fail_tls(key, &error, work),
            }
        }
    }

    /// Bytes have arrived. Unless the receive goes on, it is to be armed again.
    #[inline]
    fn receive<K: Kernel>(&mut self, key: Key, chunk: Chunk, goes_on: bool, work: &mut Work<K>) {
        self.is_hungry = false;
        if !goes_on {
            self.receiving = Receiving::Idle;
        }
        if self.stage == Stage::Open && self.tls().is_some() {
            self.receive_sealed(key, chunk, work);
        } else if self.stage == Stage::Open {
            self.timing.traffic(work.now);
            let reply = self.session.receive(work.transfers.chunk_mut(&chunk), &work.rules);
            self.count(chunk.len(), &reply, work);
            if reply.messages > 0 {
                self.timing.message(work.now);
            }
            let part = Part::Chunk(chunk.narrow(reply.range.clone()));
            self.answer(key, reply, part, work);
        }
        if !goes_on {
            self.starve(key, work);
        } else if !self.may_receive(key, work) {
            self.disarm(key, work);
        }
    }

    /// Records have arrived: opens those that are whole, and seals the reply to them in their place.
    #[inline(never)]
    fn receive_sealed<K: Kernel>(&mut self, key: Key, chunk: Chunk, work: &mut Work<K>) {
        let Some(tls) = self.tls_mut() else { unreachable!("the connection is over TLS") };
        let mut plaintext = mem::take(&mut work.plaintext);
        let opened = tls.open(work.transfers.chunk_mut(&chunk), &mut plaintext);
        self.timing.traffic(work.now);
        match opened {
            Ok(opened) => {
                let reply = self.session.receive(&mut plaintext, &work.rules);
                self.count(plaintext.len(), &reply, work);
                if reply.messages > 0 {
                    self.timing.message(work.now);
                }
                self.answer_sealed(key, reply, &plaintext, Some(chunk), work);
                if opened.is_closed && self.stage == Stage::Open {
                    self.leave(key, ConnectionEnd::PeerVanished, work);
                }
            }
            Err(error) => self.fail_tls(key, &error, work),
        }
        plaintext.clear();
        work.plaintext = plaintext;
    }

    /// Queues a reply over TLS, whose range is within `plaintext`, and does what follows from it. It is
    /// sealed into the chunk, as far as it has room there.
    fn answer_sealed<K: Kernel>(
        &mut self,
        key: Key,
        reply: Reply,
        plaintext: &[u8],
        chunk: Option<Chunk>,
        work: &mut Work<K>,
    ) {
        let Reply { prefix, range, closing, .. } = reply;
        let Some(tls) = self.tls_mut() else { unreachable!("the connection is over TLS") };
        let place = chunk.as_ref().map_or(&mut [][..], |chunk| work.transfers.chunk_mut(chunk));
        match seal_reply(tls, &prefix, &plaintext[range], place) {
            Ok(Sealed { in_place, rest }) => {
                if let (Some(chunk), 1..) = (chunk, in_place) {
                    self.queue(key, Part::Chunk(chunk.narrow(0..in_place)), work);
                }
                if !rest.is_empty() {
                    self.queue(key, Part::Owned(rest), work);
                }
                if let Some(closing) = closing {
                    self.close(key, *closing, work);
                }
            }
            Err(error) => self.fail_tls(key, &error, work),
        }
    }

    /// Leaves since TLS cannot go on. The alert that says why goes out before.
    #[cold]
    fn fail_tls<K: Kernel>(&mut self, key: Key, error: &TlsError, work: &mut Work<K>) {
        self.leave(key, ConnectionEnd::TlsFailed(error.fault()), work);
    }

    /// Queues a frame of the server's own.
    #[cold]
    fn queue_frame<K: Kernel>(&mut self, key: Key, frame: Vec<u8>, work: &mut Work<K>) {
        match self.tls_mut().map(|tls| seal_frame(tls, &frame)) {
            None => self.queue(key, Part::Owned(frame), work),
            Some(Ok(records)) => self.queue(key, Part::Owned(records), work),
            Some(Err(error)) => self.fail_tls(key, &error, work),
        }
    }

    /// Queues `close_notify`, behind which nothing is sent; after an error of TLS it is an alert.
    fn queue_close_notify<K: Kernel>(&mut self, key: Key, work: &mut Work<K>) {
        let mut records = Vec::new();
        if let Some(tls) = self.tls_mut() {
            tls.close(&mut records);
        }
        if !records.is_empty() {
            self.queue(key, Part::Owned(records), work);
        }
    }

    /// Queues a reply, whose range is `part`, and does what follows from it.
    #[inline]
    fn answer<K: Kernel>(&mut self, key: Key, reply: Reply, part: Part, work: &mut Work<K>) {
        let Reply { prefix, range, closing, .. } = reply;
        if !prefix.is_empty() {
            self.queue(key, Part::Owned(prefix), work);
        }
        if !range.is_empty() {
            self.queue(key, part, work);
        }
        if let Some(closing) = closing {
            self.close(key, *closing, work);
        }
    }

    /// Takes a step of the closing handshake.
    #[cold]
    fn close<K: Kernel>(&mut self, key: Key, closing: Closing, work: &mut Work<K>) {
        let Closing { frame, end } = closing;
        if let Some(frame) = frame {
            self.queue_close(key, frame, work);
        }
        if let Some(end) = end {
            self.leave(key, end.into(), work);
        }
    }

    /// Puts a part behind those that the connection sends in this turn or, if it is blocked, when
    /// its peer has taken the rest.
    #[inline]
    fn queue<K: Kernel>(&mut self, key: Key, part: Part, work: &mut Work<K>) {
        match &mut self.sending {
            Sending::Ready(queue) => work.replies.push(key, queue, part),
            Sending::Blocked(waiting) => {
                if waiting.capacity() == 0 {
                    **waiting = work.transfers.spare_memory();
                    // Reserved at once: growing would leave memory behind that the allocator keeps.
                    waiting.reserve_exact(work.dimensions.unsent_max);
                }
                work.transfers.copy(&part, waiting);
                self.account(key, work);
            }
        }
    }

    /// Counts what is kept for the connection. One that leaves gives it back in a moment.
    #[cold]
    pub(super) fn account<K: Kernel>(&self, key: Key, work: &mut Work<K>) {
        let kept_len = match (self.stage, &self.sending) {
            (Stage::Leaving, _) => 0,
            (_, Sending::Ready(_)) => self.held_len(),
            (_, Sending::Blocked(waiting)) => {
                self.held_len() + work.transfers.patient_len(key) + waiting.len()
            }
        };
        work.holdings.set(key, kept_len);
    }

    /// Whether a frame or a record is held. The sweep counts it, since it comes and goes with messages.
    pub(super) fn holds_frame(&self) -> bool {
        self.held_len() > 0
    }

    /// Bytes that are kept of a frame and of a record until they are whole.
    fn held_len(&self) -> usize {
        self.session.held_len() + self.tls().map_or(0, TlsSession::held_len)
    }

    #[cold]
    fn queue_close<K: Kernel>(&mut self, key: Key, frame: Vec<u8>, work: &mut Work<K>) {
        self.count_sent(frame.len(), work);
        self.queue_frame(key, frame, work);
        self.timing.closing(work.now);
        if let Some(record) = self.record() {
            record.closing();
        }
    }

    /// Takes a peer that does not read away from the shared buffers: `rest`, a copy of what it did
    /// not take, is sent as it makes room, and further parts wait behind that.
    #[cold]
    fn block<K: Kernel>(&mut self, key: Key, rest: Vec<u8>, work: &mut Work<K>) {
        // What was queued between turns, as a Close frame or a Ping, goes behind the rest.
        let queued: Vec<Part> = match &mut self.sending {
            Sending::Ready(queue) => work.replies.take(queue).collect(),
            Sending::Blocked(_) => unreachable!("nothing is sent at once while it is blocked"),
        };
        self.sending = Sending::Blocked(Box::default());
        work.transfers.send_patiently(key, rest);
        self.account(key, work);
        for part in queued {
            self.queue(key, part, work);
        }
        if !self.may_receive(key, work) {
            self.disarm(key, work);
        }
        self.limit_closing(work);
    }

    /// The peer has taken all of a patient send. Sends what waits behind it; if nothing waits,
    /// replies go out at the end of their turn again.
    #[cold]
    fn unblock<K: Kernel>(&mut self, key: Key, work: &mut Work<K>) {
        self.timing.taken(work.now);
        if let Sending::Blocked(waiting) = &mut self.sending
            && !waiting.is_empty()
        {
            work.transfers.send_patiently(key, mem::take(waiting));
        } else {
            self.sending = Sending::Ready(PartQueue::default());
        }
        self.account(key, work);
        self.arm(key, work);
    }

    #[cold]
    fn receive_ended<K: Kernel>(&mut self, key: Key, end: ReceiveEnd, work: &mut Work<K>) {
        self.receiving = Receiving::Idle;
        match end {
            ReceiveEnd::Cancelled => self.arm(key, work),
            ReceiveEnd::BuffersExhausted => self.starve(key, work),
            ReceiveEnd::Broken(_) if self.stage == Stage::Open && self.is_over_ktls() => {
                let end = self.take_control_record();
                self.leave(key, end, work);
                // The kernel receives nothing more on it, whatever the peer does.
                self.stop_receiving(key, work);
            }
            ReceiveEnd::Broken(kind) => self.leave(key, ConnectionEnd::Broken(kind), work),
        }
    }

    /// How a connection ends whose records the kernel opens, and whose receive has failed: it does that
    /// where a record is no data, or none of the session's.
    #[cold]
    fn take_control_record(&self) -> ConnectionEnd {
        let (fault, alert) = match read_control(&self.descriptor) {
            Ok(record) => match fault_of(record) {
                None => return ConnectionEnd::PeerVanished,
                Some(fault) => fault,
            },
            Err(error) if error.kind() == io::ErrorKind::InvalidData => NOT_DECRYPTED,
            Err(error) => return ConnectionEnd::Broken(error.kind()),
        };
        self.refuse_record(fault, alert)
    }

    /// A send has failed. Where the kernel opens records, one that it could not open may be why.
    #[cold]
    fn send_failed<K: Kernel>(&mut self, key: Key, kind: io::ErrorKind, work: &mut Work<K>) {
        let is_of_record = kind == io::ErrorKind::InvalidData && self.is_over_ktls();
        let end = if self.stage == Stage::Open && is_of_record {
            let (fault, alert) = NOT_DECRYPTED;
            self.refuse_record(fault, alert)
        } else {
            ConnectionEnd::Broken(kind)
        };
        self.leave(key, end, work);
        self.stop_receiving(key, work);
    }

    /// Tells the peer what is wrong with its record, and returns how the connection ends.
    #[cold]
    fn refuse_record(&self, fault: TlsFault, alert: Option<AlertDescription>) -> ConnectionEnd {
        if let Some(alert) = alert {
            // A peer that does not read is not told.
            let _ = send_alert(&self.descriptor, AlertLevel::Fatal, alert);
        }
        ConnectionEnd::TlsFailed(fault)
    }

    /// Has a connection that does not receive wait for a shared buffer.
    #[cold]
    fn starve<K: Kernel>(&mut self, key: Key, work: &mut Work<K>) {
        if self.stage != Stage::Leaving {
            self.receiving = Receiving::Starved;
            let was_passed_over = mem::replace(&mut self.is_hungry, true);
            work.buffer_queue.push(key, was_passed_over);
        }
    }

    /// Arms the receive of a connection that waits for a shared buffer, since one is free.
    pub(super) fn feed<K: Kernel>(&mut self, key: Key, work: &mut Work<K>) {
        if self.receiving == Receiving::Starved {
            self.receiving = Receiving::Idle;
            self.arm(key, work);
        }
    }

    /// Arms a receive, unless one is under way or nothing may be received now.
    pub(super) fn arm<K: Kernel>(&mut self, key: Key, work: &mut Work<K>) {
        if self.receiving == Receiving::Idle && self.may_receive(key, work) {
            self.receiving = Receiving::Armed;
            work.transfers.receive(key, work.dimensions.receive_quota);
        }
    }

    #[cold]
    fn disarm<K: Kernel>(&mut self, key: Key, work: &mut Work<K>) {
        if self.receiving == Receiving::Armed {
            self.receiving = Receiving::Cancelling;
            work.transfers.cancel_receive(key);
        }
    }

    /// Whether there is room for what may be received next, and a use for it.
    #[inline]
    fn may_receive<K: Kernel>(&self, key: Key, work: &Work<K>) -> bool {
        match (self.stage, &self.sending) {
            (Stage::Open, Sending::Ready(_)) | (Stage::Closing | Stage::HalfClosed, _) => true,
            (Stage::Open, Sending::Blocked(waiting)) => {
                let Dimensions { receive_quota, unsent_max, .. } = work.dimensions;
                // What is sent makes no room until all of the send is: its memory is kept till then.
                let kept = work.transfers.kept_len(key) + waiting.len();
                kept + receive_quota as usize <= unsent_max
            }
            (Stage::Leaving, _) => false,
        }
    }

    /// The peer has been silent: it is sent a Ping, unless there are bytes that it has yet to take.
    #[cold]
    pub(super) fn ping<K: Kernel>(&mut self, key: Key, work: &mut Work<K>) {
        if matches!(self.sending, Sending::Ready(_))
            && let Some(frame) = self.session.ping()
        {
            work.counters.pings_sent.add(1);
            self.count_sent(frame.len(), work);
            self.queue_frame(key, frame.to_vec(), work);
        }
    }

    /// Whether it is open, and the server has not begun to close it.
    pub(super) fn is_undrained(&self) -> bool {
        self.stage == Stage::Open && !self.session.is_closing()
    }

    /// Begins the closing handshake as soon as no message is under way.
    pub(super) fn say_goodbye<K: Kernel>(
        &mut self,
        key: Key,
        goodbye: Goodbye,
        work: &mut Work<K>,
    ) {
        if goodbye == Goodbye::Idle && !self.session.is_between_messages() {
            // A message that is under way is traffic.
            self.timing.message(work.now);
            return;
        }
        // Whoever leaves has lost something of what it was sent, or its peer.
        if self.stage != Stage::Leaving
            && let Some(frame) = self.session.say_goodbye(goodbye)
        {
            self.queue_close(key, frame, work);
        }
        self.limit_closing(work);
    }

    /// Says that the server is stopping, if the peer has been quiet for so long and nothing is under
    /// way on the connection: no message, no reply, and no bytes that wait for a buffer.
    pub(super) fn drain_if_quiet<K: Kernel>(
        &mut self,
        key: Key,
        quiet: Duration,
        work: &mut Work<K>,
    ) {
        let is_idle = self.stage == Stage::Open
            && self.session.is_idle()
            && self.receiving == Receiving::Armed
            && matches!(self.sending, Sending::Ready(_));
        if is_idle && is_quiet(&self.descriptor, quiet) {
            self.say_goodbye(key, Goodbye::Stopping, work);
        }
    }

    /// Starts the close timeout if the server closes and the peer does not read: the peer has that
    /// long to go on reading.
    fn limit_closing<K>(&mut self, work: &Work<K>) {
        if self.session.is_closing() && matches!(self.sending, Sending::Blocked(_)) {
            self.timing.closing(work.now);
        }
    }

    /// Begins to leave, by lingering if that is in order. What is queued is still sent. The first
    /// reason to leave stands.
    #[cold]
    pub(super) fn leave<K: Kernel>(&mut self, key: Key, end: ConnectionEnd, work: &mut Work<K>) {
        if self.stage == Stage::Open {
            self.stage = Stage::Closing;
            self.timing.closing(work.now);
            work.leaving.insert(key, end.for_its_cause(&self.session));
            if let Some(record) = self.record() {
                record.closing();
            }
            // Whoever may still be reading is told that nothing more comes.
            if end.is_orderly() || end == ConnectionEnd::PeerVanished {
                self.queue_close_notify(key, work);
            }
        }
        if !end.is_orderly() {
            self.stop_receiving(key, work);
        }
        work.departures_due.push(key);
    }

    /// Expects nothing more of the peer.
    fn stop_receiving<K: Kernel>(&mut self, key: Key, work: &mut Work<K>) {
        self.stage = Stage::Leaving;
        work.holdings.set(key, 0);
        if self.receiving == Receiving::Starved {
            self.receiving = Receiving::Idle;
        }
        self.disarm(key, work);
    }

    /// Ends the server's side, since the last replies are out.
    #[cold]
    pub(super) fn end_sending<K: Kernel>(&mut self, key: Key, work: &mut Work<K>) {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
        //# After both sending and receiving a Close message, an endpoint considers the WebSocket
        //# connection closed and MUST close the underlying TCP connection.
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
        //# The server MUST close the underlying TCP connection immediately
        self.stage = Stage::HalfClosed;
        if self.is_over_ktls() {
            // A peer that does not read is not told.
            let close_notify = AlertDescription::CloseNotify;
            let _ = send_alert(&self.descriptor, AlertLevel::Warning, close_notify);
        }
        work.transfers.end_sending(self.descriptor.as_fd());
        self.arm(key, work);
    }

    /// Leaves without waiting for the peer: whatever is under way fails.
    #[cold]
    pub(super) fn end_now<K: Kernel>(&mut self, key: Key, end: ConnectionEnd, work: &mut Work<K>) {
        self.leave(key, end, work);
        if end.is_reset() {
            reset_when_closed(&self.descriptor);
        }
        work.transfers.shut_down(self.descriptor.as_fd());
    }

    /// How its replies of this turn are sent.
    #[inline]
    pub(super) fn send_mode(&self) -> SendMode {
        // A kernel that seals records would keep the last one open.
        let is_last = self.stage == Stage::Closing && !self.is_over_ktls();
        if is_last { SendMode::Last } else { SendMode::AtOnce }
    }

    /// What a connection waits for that is to leave.
    pub(super) fn departure(&self) -> DepartureState {
        match (self.stage, &self.sending) {
            (Stage::Open | Stage::HalfClosed, _) | (_, Sending::Blocked(_)) => {
                DepartureState::UnderWay
            }
            (_, Sending::Ready(queue)) if !queue.is_empty() => DepartureState::LastReplies,
            (Stage::Closing, _) => DepartureState::Sent,
            (Stage::Leaving, _) if self.receiving == Receiving::Idle => DepartureState::Over,
            (Stage::Leaving, _) => DepartureState::UnderWay,
        }
    }
}

/// What a connection waits for that is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DepartureState {
    /// The kernel has something under way on it.
    UnderWay,
    /// Its last replies have to go out, which the next turn does.
    LastReplies,
    /// The server's side has to be ended.
    Sent,
    /// It waits for nothing more.
    Over,
}
