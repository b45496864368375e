//! What the engine does with a kernel: receives in chunks, sends from parts, and turns.
//!
//! A send at once is over when the kernel has been entered. Its parts (chunks and owned bytes) are
//! kept until [`Transfers::turn`] has looked at the completions, since what a short send has left over is
//! copied from them. A patient send has memory of its own until it completes.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

use nix::errno::Errno;

use super::{
    buffers::{Buffers, Chunk},
    dimensions::Dimensions,
    kernel::{Completion, Interest, Kernel, Operation, SendFrom, SendMode},
    key::Key,
    sends::{Part, Sends},
    waits::{Outcome, Wait},
};
use crate::tls::ktls::kind_of;

pub(super) struct Transfers<K> {
    // Dropped first. The kernel closes a ring later, but with deferred task running it touches the
    // memory only inside of calls for this ring, of which none comes any more.
    kernel: K,
    buffers: Buffers,
    sends: Sends,
    /// Sends that wait for their peers, by slot.
    patient: HashMap<u32, PatientSend>,
    /// Memory of patient sends that are over, for the next ones.
    spare: Vec<Vec<u8>>,
    receives_under_way: usize,
    /// The completions of a turn; empty between turns.
    completions: Vec<Completion>,
}

/// What has happened in a turn.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Sends of the turn before that did not go out whole. They are handled first, since the replies
    /// to bytes that have been received meanwhile go behind them.
    pub(super) unsent: Vec<(Key, Unsent)>,
    /// Everything else that happened on connections, in order.
    pub(super) others: Vec<(Key, Event)>,
    /// Waits of tasks that are over, and how each ended.
    pub(super) waits: Vec<(Wait, Outcome)>,
}

/// Why a reply did not go out whole.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The socket takes no more for now, and these bytes are left.
    Rest(Vec<u8>),
    /// The connection broke.
    Broken(io::ErrorKind),
}

/// Something that happened on a connection.
#[derive(Debug)]
pub(super) enum Event {
    /// Bytes arrived. Unless `goes_on`, the receive is over and is to be armed again.
    Received { chunk: Chunk, goes_on: bool },
    /// The peer has ended its side, and the receive is over.
    PeerEnded,
    /// The receive ended without bytes.
    ReceiveEnded(ReceiveEnd),
    /// Some of a patient send is sent, and the send goes on with the rest.
    SendGoesOn,
    /// All of a patient send is sent.
    Unblocked,
    /// A patient send failed.
    SendBroken(io::ErrorKind),
}

/// Why a receive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReceiveEnd {
    /// No shared buffer was free.
    BuffersExhausted,
    /// It was cancelled.
    Cancelled,
    /// The connection broke.
    Broken(io::ErrorKind),
}

/// The operations that are under way on connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UnderWay {
    /// Receives that have not ended.
    pub(super) receives: usize,
    /// Patient sends that have not completed.
    pub(super) patient_sends: usize,
}

impl Events {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.unsent.is_empty() && self.others.is_empty() && self.waits.is_empty()
    }
}

struct PatientSend {
    bytes: Vec<u8>,
    sent: usize,
}

/// The kind of an operation, in the upper bits of its user data. The lower bits are a key, the
/// number of a send within the turn, or a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Receive,
    Send,
    SendPatiently,
    /// A task's wait, or a cancellation if the lower bits are [`CANCEL`].
    Wait,
}

/// The lower bits of a cancellation, whose own completion is ignored.
const CANCEL: u64 = (1 << Kind::SHIFT) - 1;

/// Memory of past patient sends that is kept for the next ones: the number of pieces, and the most
/// bytes of each.
const SPARE_MAX: usize = 4;
const SPARE_LEN_MAX: usize = 1 << 20;

impl Kind {
    const SHIFT: u32 = Key::BITS;

    fn user_data(self, rest: u64) -> u64 {
        (self as u64) << Self::SHIFT | rest
    }

    fn of(user_data: u64) -> (Self, u64) {
        let kind = match user_data >> Self::SHIFT {
            0 => Self::Receive,
            1 => Self::Send,
            2 => Self::SendPatiently,
            _ => Self::Wait,
        };
        (kind, user_data & ((1 << Self::SHIFT) - 1))
    }
}

impl<K: Kernel> Transfers<K> {
    pub(super) fn new(mut kernel: K, dimensions: Dimensions) -> io::Result<Self> {
        let Dimensions { receive_buffers, receive_buffer_len, huge_pages, .. } = dimensions;
        let mut buffers = Buffers::new(receive_buffers, receive_buffer_len, huge_pages)?;
        buffers.provide(&mut kernel);
        Ok(Self {
            kernel,
            buffers,
            sends: Sends::default(),
            patient: HashMap::new(),
            spare: Vec::new(),
            receives_under_way: 0,
            completions: Vec::new(),
        })
    }

    pub(super) fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Makes a connection known under its key's slot.
    pub(super) fn adopt(&mut self, key: Key, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.kernel.register(key.slot, Some(descriptor))
    }

    /// Has the kernel send on a connection as on one whose records it seals.
    pub(super) fn expect_ktls(&mut self, key: Key) {
        self.kernel.expect_ktls(key.slot);
    }

    /// Forgets a connection. Nothing may be under way on it.
    pub(super) fn release(&mut self, key: Key) -> io::Result<()> {
        self.kernel.register(key.slot, None)
    }

    /// Ends a connection in both directions: whatever is under way on it fails.
    pub(super) fn shut_down(&mut self, descriptor: BorrowedFd<'_>) {
        self.kernel.shut_down(descriptor);
    }

    /// Receives into shared buffers until the receive ends, at most `len_max` bytes; 0 is no limit.
    pub(super) fn receive(&mut self, key: Key, len_max: u32) {
        self.receives_under_way += 1;
        let operation = Operation::Receive { slot: key.slot, len_max };
        self.kernel.push(&operation, Kind::Receive.user_data(key.to_bits()));
    }

    /// Ends the server's side of a connection behind what has been sent.
    pub(super) fn end_sending(&mut self, descriptor: BorrowedFd<'_>) {
        self.kernel.end_sending(descriptor);
    }

    /// How many shared buffers the kernel has to begin receiving into.
    pub(super) fn free_buffers(&self) -> usize {
        self.buffers.free()
    }

    /// Ends the receive; its end is an event all the same.
    pub(super) fn cancel_receive(&mut self, key: Key) {
        let target = Kind::Receive.user_data(key.to_bits());
        self.cancel(&Operation::CancelReceive { slot: key.slot, target });
    }

    /// Waits for a descriptor, which is in no slot, to become ready.
    pub(super) fn watch(&mut self, wait: Wait, descriptor: BorrowedFd<'_>, interest: Interest) {
        let (place, descriptor) = (wait.place, descriptor.as_raw_fd());
        let operation = Operation::Watch { place, descriptor, interest };
        self.kernel.push(&operation, Kind::Wait.user_data(wait.to_bits()));
    }

    /// Waits until `duration` has passed.
    pub(super) fn sleep(&mut self, wait: Wait, duration: Duration) {
        self.kernel.push(&Operation::Sleep { duration }, Kind::Wait.user_data(wait.to_bits()));
    }

    /// Ends a wait; its end is an event all the same.
    pub(super) fn cancel_wait(&mut self, wait: Wait) {
        let target = Kind::Wait.user_data(wait.to_bits());
        self.cancel(&Operation::CancelWait { place: wait.place, target });
    }

    /// Cancels an operation. The operation's own completion shows whether that was in time.
    fn cancel(&mut self, cancellation: &Operation) {
        self.kernel.push(cancellation, Kind::Wait.user_data(CANCEL));
    }

    /// The bytes of a chunk of this turn.
    #[inline]
    pub(super) fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8] {
        self.buffers.chunk_mut(chunk)
    }

    /// Appends a part of this turn to `bytes`.
    pub(super) fn copy(&mut self, part: &Part, bytes: &mut Vec<u8>) {
        part.append_to(bytes, &mut self.buffers);
    }

    /// Sends a reply as far as the socket takes it at once; `mode` says whether it is the last one. If
    /// that is not all, the next turn's events say so.
    #[inline]
    #[expect(unsafe_code, reason = "the kernel is given addresses")]
    pub(super) fn send(
        &mut self,
        key: Key,
        first: Part,
        others: impl Iterator<Item = Part>,
        mode: SendMode,
    ) {
        let (number, from) = self.sends.push(key, first, others, &mut self.buffers);
        let user_data = Kind::Send.user_data(number);
        // SAFETY: `sends` keeps the parts unchanged until the turn is over, and as long nobody writes
        // to the chunks among them.
        unsafe { self.kernel.push_send(key.slot, from, mode, user_data) };
    }

    /// Sends bytes as the peer takes them, with an event each time that it takes some.
    pub(super) fn send_patiently(&mut self, key: Key, bytes: Vec<u8>) {
        self.patient.insert(key.slot, PatientSend { bytes, sent: 0 });
        self.push_patient_send(key);
    }

    /// Bytes that a connection's patient send keeps, those already sent among them; 0 if the
    /// connection has no such send.
    pub(super) fn kept_len(&self, key: Key) -> usize {
        self.patient.get(&key.slot).map_or(0, |send| send.bytes.len())
    }

    /// Bytes of the shared receive buffers.
    pub(super) fn buffers_len(&self) -> usize {
        self.buffers.total_len()
    }

    /// Bytes of the memory of patient sends, and of what is kept for the next ones.
    pub(super) fn copy_len(&self) -> usize {
        let patient: usize = self.patient.values().map(|send| send.bytes.capacity()).sum();
        patient + self.spare.iter().map(Vec::capacity).sum::<usize>()
    }

    /// Bytes of memory that a connection's patient send takes until all of it is sent.
    pub(super) fn patient_len(&self, key: Key) -> usize {
        self.patient.get(&key.slot).map_or(0, |send| send.bytes.len())
    }

    /// Memory for bytes that have to wait; [`send_patiently`](Self::send_patiently) takes it back.
    pub(super) fn spare_memory(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Enters the kernel, which does everything that was asked for, and collects what has happened.
    /// If it may wait, it waits until something happens. Chunks of earlier turns become void.
    pub(super) fn turn(&mut self, events: &mut Events, may_wait: bool) -> io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        self.kernel.enter(&mut completions, may_wait)?;
        self.buffers.next_turn();
        for completion in completions.drain(..) {
            self.complete(&completion, events);
        }
        self.buffers.provide(&mut self.kernel);
        self.completions = completions;
        self.sends.clear();
        Ok(())
    }

    pub(super) fn under_way(&self) -> UnderWay {
        UnderWay { receives: self.receives_under_way, patient_sends: self.patient.len() }
    }

    #[cfg(test)]
    pub(super) fn buffer_count(&self) -> usize {
        self.buffers.count()
    }

    #[inline]
    fn complete(&mut self, completion: &Completion, events: &mut Events) {
        let (kind, rest) = Kind::of(completion.user_data);
        let result = match completion.result {
            negative @ ..0 => Err(Errno::from_raw(-negative)),
            len => Ok(len.cast_unsigned()),
        };
        let key = Key::from_bits(rest);
        let event = match kind {
            Kind::Send => {
                let unsent = self.complete_send(rest, result);
                return events.unsent.push(unsent);
            }
            Kind::Receive => Some(self.complete_receive(result, completion)),
            Kind::SendPatiently => self.complete_patient_send(key, result),
            Kind::Wait if rest == CANCEL => return,
            Kind::Wait => {
                let wait = Wait::from_bits(rest);
                return events.waits.push((wait, wait.outcome(result)));
            }
        };
        events.others.extend(event.map(|event| (key, event)));
    }

    #[inline]
    fn complete_receive(&mut self, result: Result<u32, Errno>, completion: &Completion) -> Event {
        if !completion.goes_on {
            self.receives_under_way -= 1;
        }
        let end = match (result, completion.buffer) {
            (Ok(len @ 1..), Some(buffer)) => {
                let chunk = self.buffers.take(buffer, len);
                return Event::Received { chunk, goes_on: completion.goes_on };
            }
            (Ok(_), _) => return Event::PeerEnded,
            (Err(Errno::ENOBUFS), _) => ReceiveEnd::BuffersExhausted,
            (Err(Errno::ECANCELED), _) => ReceiveEnd::Cancelled,
            (Err(errno), _) => ReceiveEnd::Broken(kind_of(errno)),
        };
        Event::ReceiveEnded(end)
    }

    /// A send at once that completes is one that was short, or failed.
    #[cold]
    fn complete_send(&mut self, number: u64, result: Result<u32, Errno>) -> (Key, Unsent) {
        let sent = match result {
            Ok(sent) => sent as usize,
            Err(Errno::EAGAIN) => 0,
            Err(errno) => {
                let broken = Unsent::Broken(kind_of(errno));
                return (self.sends.key(number), broken);
            }
        };
        let mut rest = self.spare_memory();
        self.sends.copy_unsent(number, sent, &self.buffers, &mut rest);
        (self.sends.key(number), Unsent::Rest(rest))
    }

    #[cold]
    fn complete_patient_send(&mut self, key: Key, result: Result<u32, Errno>) -> Option<Event> {
        let send = self.patient.get_mut(&key.slot)?;
        let event = match result {
            Ok(len) => {
                send.sent += len as usize;
                if send.sent < send.bytes.len() {
                    self.push_patient_send(key);
                    return Some(Event::SendGoesOn);
                }
                Event::Unblocked
            }
            Err(errno) => Event::SendBroken(kind_of(errno)),
        };
        let PatientSend { mut bytes, .. } = self.patient.remove(&key.slot)?;
        if self.spare.len() < SPARE_MAX && bytes.capacity() <= SPARE_LEN_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
        Some(event)
    }

    #[expect(unsafe_code, reason = "the kernel is given addresses")]
    fn push_patient_send(&mut self, key: Key) {
        let PatientSend { bytes, sent } = self.patient.get_mut(&key.slot).expect("it is under way");
        let unsent = &mut bytes[*sent..];
        let piece = libc::iovec { iov_base: unsent.as_mut_ptr().cast(), iov_len: unsent.len() };
        let user_data = Kind::SendPatiently.user_data(key.to_bits());
        let from = SendFrom::Piece(piece);
        // SAFETY: the bytes are kept, and not changed, until the send has completed.
        unsafe { self.kernel.push_send(key.slot, from, SendMode::Patient, user_data) };
    }
}
