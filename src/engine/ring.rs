//! The real kernel: one `io_uring`, and all of the engine's `unsafe` but the buffers'.
//!
//! Sends are made such that they are over when the call that submits them returns: with
//! `MSG_DONTWAIT` a send is never queued, and with `MSG_WAITALL` a short one counts as failed, so
//! that it completes although successful ones are told not to. What they send from (chunks, owned
//! parts, message headers) is therefore needed until that call, and for what a short one left
//! over until its completion is collected: in the same [`Kernel::turn`].
//!
//! Task work is deferred, so the kernel writes into our memory only inside of `io_uring_enter`.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types::Fixed};
use nix::{errno::Errno, sys::eventfd::EventFd};

use super::{
    buffers::{Buffers, GROUP},
    kernel::{Chunk, Completion, Completions, Kernel, Part, ReceiveEnd, Unsent},
    table::Key,
};
use crate::config::HugePages;

/// Entries of the submission queue. When they are used up they are submitted before the turn ends.
///
/// No flag sets it: the call that this takes is one for each 1024 sends.
const SUBMISSION_ENTRIES: u32 = 1024;

/// Entries of the completion queue; the kernel keeps what does not fit until there is room.
///
/// No flag sets it: successful sends do not complete, so a turn fills it with 8192 receives, and
/// what is left over costs it one call more.
const COMPLETION_ENTRIES: u32 = 8192;

pub struct Ring {
    // Dropped first: the kernel must let go of the buffers before they are unmapped.
    io: IoUring,
    buffers: Buffers,
    /// The sends of this turn, by the index in their user data.
    sends: Vec<SendRecord>,
    /// The messages of this turn's sends from several pieces; the rest is kept for later turns.
    #[expect(clippy::vec_box, reason = "the kernel is given their addresses")]
    messages: Vec<Box<Message>>,
    messages_used: usize,
    /// Owned parts that this turn's sends point into.
    owned: Vec<Vec<u8>>,
    /// Bytes of sends that wait for their peers, with how many of them are sent, by slot.
    patient: HashMap<u32, (Vec<u8>, usize)>,
    /// Completions before they are looked at; empty between turns.
    collected: Vec<cqueue::Entry>,
    /// How much a receive may take before it has to be armed again; 0 where the kernel cannot be
    /// told (Linux 6.17).
    receive_share: u32,
}

/// The memory that a ring works with, and the connections that it has room for.
#[derive(Clone, Copy, Debug)]
pub struct Dimensions {
    /// Shared receive buffers, a power of two.
    pub receive_buffers: u16,
    /// Bytes of each of them.
    pub receive_buffer_len: u32,
    /// What pages the receive buffers are in.
    pub huge_pages: HugePages,
    /// How much a connection receives before others have their turn; 0 for no limit.
    pub receive_share: u32,
    /// Connections at a time.
    pub connections_max: u32,
}

/// A send of this turn: from one piece, or from those of a message.
struct SendRecord {
    key: Key,
    piece: libc::iovec,
    message: Option<usize>,
}

/// A message header and what it points to.
struct Message {
    header: libc::msghdr,
    pieces: Vec<libc::iovec>,
}

/// The kind of an operation, in the upper two bits of its user data. The lower ones are a key, or
/// the index of a send record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Receive,
    Send,
    SendPatiently,
    CancelReceive,
}

impl Operation {
    const SHIFT: u32 = 62;

    fn user_data(self, rest: u64) -> u64 {
        (self as u64) << Self::SHIFT | rest
    }

    fn of(user_data: u64) -> (Self, u64) {
        let operation = match user_data >> Self::SHIFT {
            0 => Self::Receive,
            1 => Self::Send,
            2 => Self::SendPatiently,
            _ => Self::CancelReceive,
        };
        (operation, user_data & !(3 << Self::SHIFT))
    }
}

impl Ring {
    /// A ring for this thread, which writes to `wake` when there is something to collect.
    pub(super) fn new(dimensions: Dimensions, wake: &EventFd) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETION_ENTRIES)
            .build(SUBMISSION_ENTRIES)?;
        ring.submitter().register_files_sparse(dimensions.connections_max)?;
        ring.submitter().register_eventfd(wake.as_fd().as_raw_fd())?;
        let buffers = Buffers::register(
            &ring,
            dimensions.receive_buffers,
            dimensions.receive_buffer_len,
            dimensions.huge_pages,
        )?;
        Ok(Self {
            io: ring,
            buffers,
            sends: Vec::new(),
            messages: Vec::new(),
            messages_used: 0,
            owned: Vec::new(),
            patient: HashMap::new(),
            collected: Vec::new(),
            receive_share: dimensions.receive_share,
        })
    }

    #[expect(unsafe_code, reason = "an entry may point to memory")]
    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: what the entry points to lives until the end of the turn (chunks, owned
            // parts, messages) or until its completion (patient sends); see the module's head.
            if unsafe { self.io.submission().push(entry) }.is_ok() {
                return;
            }
            // The queue is full, and submitting empties it.
            let _ = self.io.submit();
        }
    }

    /// Submits entries, and runs the task work that makes completions.
    #[expect(unsafe_code, reason = "the io-uring crate marks every enter so")]
    fn enter(&mut self) -> io::Result<()> {
        const GET_EVENTS: u32 = 1;
        loop {
            let entries = self.io.submission().len() as u32;
            // SAFETY: no signal mask is given, and all entries were pushed by `push`.
            let entered = unsafe {
                self.io.submitter().enter::<libc::sigset_t>(entries, 0, GET_EVENTS, None)
            };
            match entered.map_err(|error| (error.raw_os_error().map(Errno::from_raw), error)) {
                // After these, completions are to be collected before more can be submitted.
                Ok(_) | Err((Some(Errno::EBUSY | Errno::EAGAIN), _)) => return Ok(()),
                Err((Some(Errno::EINTR), _)) => {}
                Err((_, error)) => return Err(error),
            }
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry, completions: &mut Completions) {
        let (operation, rest) = Operation::of(entry.user_data());
        let result = match entry.result() {
            negative @ ..0 => Err(Errno::from_raw(-negative)),
            len => Ok(len.cast_unsigned()),
        };
        let key = Key::from_bits(rest);
        let completion = match operation {
            Operation::Send => {
                let unsent = self.complete_send(rest as usize, result);
                return completions.unsent.push(unsent);
            }
            Operation::Receive => self.complete_receive(result, entry.flags()),
            Operation::SendPatiently => self.complete_patient_send(key, result),
            // Whether it came in time shows in the receive's own completion.
            Operation::CancelReceive => None,
        };
        completions.others.extend(completion.map(|completion| (key, completion)));
    }

    fn complete_receive(&mut self, result: Result<u32, Errno>, flags: u32) -> Option<Completion> {
        let end = match result {
            Ok(0) => return Some(Completion::PeerEnded),
            Ok(len) => {
                let buffer = cqueue::buffer_select(flags)?;
                let chunk = self.buffers.take(buffer, len, cqueue::buffer_more(flags));
                return Some(Completion::Received { chunk, goes_on: cqueue::more(flags) });
            }
            Err(Errno::ENOBUFS) => ReceiveEnd::BuffersExhausted,
            Err(Errno::ECANCELED) => ReceiveEnd::Cancelled,
            Err(errno) => ReceiveEnd::Broken(io::Error::from(errno).kind()),
        };
        Some(Completion::ReceiveEnded(end))
    }

    /// A send that completes is one that was short, or failed.
    fn complete_send(&mut self, record: usize, result: Result<u32, Errno>) -> (Key, Unsent) {
        let unsent = match result {
            Ok(sent) => Unsent::Rest(self.unsent(record, sent as usize)),
            Err(Errno::EAGAIN) => Unsent::Rest(self.unsent(record, 0)),
            Err(errno) => Unsent::Broken(io::Error::from(errno).kind()),
        };
        (self.sends[record].key, unsent)
    }

    /// A copy of what is left of a reply after its first `sent` bytes.
    #[expect(unsafe_code, reason = "the pieces are kept as the kernel wants them")]
    fn unsent(&self, record: usize, sent: usize) -> Vec<u8> {
        let SendRecord { piece, message, .. } = &self.sends[record];
        let pieces = match message {
            Some(message) => &self.messages[*message].pieces[..],
            None => std::slice::from_ref(piece),
        };
        let len: usize = pieces.iter().map(|piece| piece.iov_len).sum();
        let mut rest = Vec::with_capacity(len - sent);
        let mut skipped = 0;
        for piece in pieces {
            // SAFETY: the piece lies in a chunk or an owned part of the turn whose sends are being
            // completed. The chunk's buffer may have gone back to the kernel, but it is written
            // only inside of the next enter.
            let bytes =
                unsafe { std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len) };
            let skip = (sent - skipped).min(bytes.len());
            skipped += skip;
            rest.extend_from_slice(&bytes[skip..]);
        }
        rest
    }

    fn complete_patient_send(
        &mut self,
        key: Key,
        result: Result<u32, Errno>,
    ) -> Option<Completion> {
        let (bytes, sent) = self.patient.get_mut(&key.slot)?;
        match result {
            Ok(len) => {
                *sent += len as usize;
                if *sent < bytes.len() {
                    self.push_patient_send(key);
                    return None;
                }
                self.patient.remove(&key.slot);
                Some(Completion::Unblocked)
            }
            Err(errno) => {
                self.patient.remove(&key.slot);
                Some(Completion::SendBroken(io::Error::from(errno).kind()))
            }
        }
    }

    fn push_patient_send(&mut self, key: Key) {
        let (bytes, sent) = &self.patient[&key.slot];
        let rest = &bytes[*sent..];
        let entry = opcode::Send::new(Fixed(key.slot), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data(Operation::SendPatiently.user_data(key.to_bits()));
        self.push(&entry);
    }

    /// Where a part lies, for the kernel.
    fn piece(&mut self, part: Part) -> libc::iovec {
        let bytes = match part {
            Part::Chunk(chunk, range) => &mut self.buffers.chunk_mut(&chunk)[range],
            Part::Owned(bytes) => {
                self.owned.push(bytes);
                self.owned.last_mut().expect("it was just pushed").as_mut_slice()
            }
        };
        libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
    }

    /// A message of the first two pieces and all further parts; returns its index.
    fn message(&mut self, first: [libc::iovec; 2], parts: impl Iterator<Item = Part>) -> usize {
        if self.messages.len() == self.messages_used {
            self.messages.push(Box::new(Message { header: EMPTY_HEADER, pieces: Vec::new() }));
        }
        let index = self.messages_used;
        self.messages_used += 1;
        let mut pieces = std::mem::take(&mut self.messages[index].pieces);
        pieces.clear();
        pieces.extend(first);
        pieces.extend(parts.map(|part| self.piece(part)));
        let message = &mut self.messages[index];
        message.pieces = pieces;
        message.header.msg_iov = message.pieces.as_mut_ptr();
        message.header.msg_iovlen = message.pieces.len();
        index
    }
}

const EMPTY_HEADER: libc::msghdr = libc::msghdr {
    msg_name: ptr::null_mut(),
    msg_namelen: 0,
    msg_iov: ptr::null_mut(),
    msg_iovlen: 0,
    msg_control: ptr::null_mut(),
    msg_controllen: 0,
    msg_flags: 0,
};

impl Kernel for Ring {
    fn adopt(&mut self, key: Key, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.io.submitter().register_files_update(key.slot, &[descriptor.as_raw_fd()]).map(drop)
    }

    fn release(&mut self, key: Key) -> io::Result<()> {
        self.io.submitter().register_files_update(key.slot, &[-1]).map(drop)
    }

    fn receive(&mut self, key: Key) {
        let entry = opcode::RecvMulti::new(Fixed(key.slot), GROUP)
            .build()
            .user_data(Operation::Receive.user_data(key.to_bits()));
        self.push(&limit_receive(entry, self.receive_share));
    }

    fn cancel_receive(&mut self, key: Key) {
        let entry = opcode::AsyncCancel::new(Operation::Receive.user_data(key.to_bits()))
            .build()
            .user_data(Operation::CancelReceive.user_data(key.to_bits()));
        self.push(&entry);
    }

    fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8] {
        self.buffers.chunk_mut(chunk)
    }

    fn send(&mut self, key: Key, mut parts: impl Iterator<Item = Part>) {
        let Some(first) = parts.next() else { return };
        let piece = self.piece(first);
        let flags = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let (entry, message) = match parts.next() {
            None => {
                let entry =
                    opcode::Send::new(Fixed(key.slot), piece.iov_base.cast(), piece.iov_len as u32);
                (entry.flags(flags).build(), None)
            }
            Some(second) => {
                let second = self.piece(second);
                let message = self.message([piece, second], parts);
                let header: *const libc::msghdr = &raw const self.messages[message].header;
                let entry = opcode::SendMsg::new(Fixed(key.slot), header);
                (entry.flags(flags.cast_unsigned()).build(), Some(message))
            }
        };
        let entry = entry
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(Operation::Send.user_data(self.sends.len() as u64));
        self.sends.push(SendRecord { key, piece, message });
        self.push(&entry);
    }

    fn send_patiently(&mut self, key: Key, bytes: Vec<u8>) {
        self.patient.insert(key.slot, (bytes, 0));
        self.push_patient_send(key);
    }

    fn turn(&mut self, completions: &mut Completions) -> io::Result<()> {
        let mut collected = std::mem::take(&mut self.collected);
        loop {
            self.enter()?;
            collected.extend(self.io.completion());
            // Only when every entry is submitted are the sends of the last turn over.
            if self.io.submission().is_empty() {
                break;
            }
        }
        self.buffers.next_turn();
        for entry in collected.drain(..) {
            self.complete(&entry, completions);
        }
        self.collected = collected;
        self.sends.clear();
        self.owned.clear();
        self.messages_used = 0;
        Ok(())
    }
}

/// Limits a multishot receive to `len_max` bytes in all; 0 for no limit.
///
/// The kernel's name for the field is `optlen`. The io-uring crate has no way to set it.
#[expect(unsafe_code, reason = "the io-uring crate has no way to set this field")]
fn limit_receive(mut entry: squeue::Entry, len_max: u32) -> squeue::Entry {
    const OPTLEN_AT: usize = 44;
    const { assert!(size_of::<squeue::Entry>() == 64) };
    // SAFETY: an entry is 64 bytes of plain numbers in the layout of the kernel's interface.
    let bytes = unsafe { &mut *(&raw mut entry).cast::<[u8; 64]>() };
    bytes[OPTLEN_AT..OPTLEN_AT + 4].copy_from_slice(&len_max.to_ne_bytes());
    entry
}
