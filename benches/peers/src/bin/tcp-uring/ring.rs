//! The ring, its memory, and all of this program's `unsafe`.
//!
//! Task work is deferred, so the kernel writes into the shared buffers only inside of
//! `io_uring_enter`. Sends are made such that they are over when the call that submits them
//! returns: with `MSG_DONTWAIT` a send is never queued, and with `MSG_WAITALL` a short one counts
//! as failed, so that it completes although successful ones are told not to. So a buffer that was
//! received into goes back to the kernel in the turn after.
//!
//! Its invariant: everything that a submitted entry points to (the shared buffers, messages,
//! bytes of patient sends) lives, and stays where it is, until the entry's operation is over.

use std::{
    collections::HashMap,
    io, mem,
    net::TcpListener,
    os::fd::AsRawFd,
    ptr,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{
    IoUring, cqueue, opcode, squeue,
    types::{BufRingEntry, Fd, Fixed},
};
use memmap2::{MmapMut, MmapOptions};
use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit},
};

/// Shared buffers, a power of two, and the bytes of each.
const BUFFERS: u16 = 16;
const BUFFER_LEN: u32 = 256 << 10;

/// The only group of buffers in the ring.
const GROUP: u16 = 0;

/// `IOU_PBUF_RING_INC` of the kernel's interface: a buffer is filled from front to back, by
/// whichever connection has bytes, before the next one is taken.
const INCREMENTAL: u16 = 2;

const SUBMISSION_ENTRIES: u32 = 1024;

/// The kernel keeps what does not fit until there is room.
const COMPLETION_ENTRIES: u32 = 8192;

/// The reply of a connection that has none.
const NO_REPLY: u32 = u32::MAX;

pub(crate) struct Ring {
    // Dropped first: the kernel must let go of the memory before it is unmapped.
    io: IoUring,
    buffers: Buffers,
    listener: TcpListener,
    /// What will be sent in the next turn; afterwards what was, until its completions are read.
    replies: Vec<Reply>,
    /// By slot: the index of the connection's reply, or [`NO_REPLY`].
    reply_of: Vec<u32>,
    /// The messages of replies from several chunks.
    #[expect(clippy::vec_box, reason = "the kernel is given their addresses")]
    messages: Vec<Box<Message>>,
    /// Bytes of patient sends, with how many of them are sent, by slot.
    patient: HashMap<u32, (Vec<u8>, usize)>,
    /// Failed sends of the last turn. They are looked at before anything that has arrived since.
    unsent: Vec<(u32, Event)>,
    /// All other completions, from `next` on still to be looked at.
    completions: Vec<cqueue::Entry>,
    next: usize,
}

/// Something that happened on a connection.
pub(crate) enum Event {
    Accepted,
    /// Bytes arrived. Unless the receive goes on, it has to be armed again.
    Received {
        chunk: Chunk,
        goes_on: bool,
    },
    ReceiveEnded(ReceiveEnd),
    /// The socket takes no more of a reply for now; this is left.
    Unsent(Vec<u8>),
    /// All of a patient send is sent.
    Sent,
    /// The connection broke while sending.
    SendBroken,
}

/// Why a multishot receive ended without bytes.
pub(crate) enum ReceiveEnd {
    NoBuffer,
    Cancelled,
    /// Orderly or not.
    PeerEnded,
}

/// Received bytes: a range of the shared buffers. It holds until the turn after the next.
#[derive(Clone, Copy)]
pub(crate) struct Chunk {
    at: u32,
    len: u32,
}

/// What a connection is sent in one turn.
struct Reply {
    slot: u32,
    first: Chunk,
    /// Chunks that do not follow in memory.
    more: Vec<Chunk>,
}

/// A message header and what it points to.
struct Message {
    header: libc::msghdr,
    _pieces: Vec<libc::iovec>,
}

/// The kind of an operation, in the upper half of its user data. The lower half is a slot, or the
/// index of a reply.
#[derive(Clone, Copy)]
enum Operation {
    Receive,
    Reply,
    SendPatiently,
    Accept,
    /// Cancelling and closing, whose success shows elsewhere.
    Other,
}

impl Operation {
    fn user_data(self, rest: u32) -> u64 {
        (self as u64) << 32 | u64::from(rest)
    }

    fn of(user_data: u64) -> (Self, u32) {
        let operation = match user_data >> 32 {
            0 => Self::Receive,
            1 => Self::Reply,
            2 => Self::SendPatiently,
            3 => Self::Accept,
            _ => Self::Other,
        };
        (operation, user_data as u32)
    }
}

impl Ring {
    /// A ring that accepts connections from `listener`, `connections_max` or as many as the limit
    /// on open files allows.
    pub(crate) fn new(listener: TcpListener, connections_max: u32) -> io::Result<Self> {
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETION_ENTRIES)
            .build(SUBMISSION_ENTRIES)?;
        let (files_max, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let slots = u32::try_from(files_max).unwrap_or(u32::MAX).min(connections_max);
        io.submitter().register_files_sparse(slots)?;
        let buffers = Buffers::register(&io)?;
        let mut ring = Self {
            io,
            buffers,
            listener,
            replies: Vec::new(),
            reply_of: vec![NO_REPLY; slots as usize],
            messages: Vec::new(),
            patient: HashMap::new(),
            unsent: Vec::new(),
            completions: Vec::new(),
            next: 0,
        };
        ring.accept();
        Ok(ring)
    }

    /// Receives into the shared buffers until the receive ends.
    pub(crate) fn receive(&mut self, slot: u32) {
        let entry = opcode::RecvMulti::new(Fixed(slot), GROUP).build();
        self.push(entry, Operation::Receive, slot);
    }

    /// Ends the receive, whose end is an event all the same.
    pub(crate) fn cancel_receive(&mut self, slot: u32) {
        let entry = opcode::AsyncCancel::new(Operation::Receive.user_data(slot)).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), Operation::Other, slot);
    }

    /// Closes a connection on which nothing is under way.
    pub(crate) fn close(&mut self, slot: u32) {
        let entry = opcode::Close::new(Fixed(slot)).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), Operation::Other, slot);
    }

    /// Sends bytes as the peer takes them, which ends in an event in any case.
    pub(crate) fn send_patiently(&mut self, slot: u32, bytes: Vec<u8>) {
        self.patient.insert(slot, (bytes, 0));
        self.push_patient_send(slot);
    }

    /// Sends a chunk back in the next turn, as far as the socket takes it at once. It is an event
    /// only if that is not all.
    pub(crate) fn reply(&mut self, slot: u32, chunk: Chunk) {
        let index = &mut self.reply_of[slot as usize];
        if *index == NO_REPLY {
            *index = self.replies.len() as u32;
            self.replies.push(Reply { slot, first: chunk, more: Vec::new() });
            return;
        }
        let reply = &mut self.replies[*index as usize];
        let last = reply.more.last_mut().unwrap_or(&mut reply.first);
        if last.at + last.len == chunk.at {
            last.len += chunk.len;
        } else {
            reply.more.push(chunk);
        }
    }

    pub(crate) fn has_reply(&self, slot: u32) -> bool {
        self.reply_of[slot as usize] != NO_REPLY
    }

    /// How many shared buffers can be received into in the next turn.
    pub(crate) fn free_buffers(&self) -> usize {
        self.buffers.free()
    }

    /// The bytes of a chunk that was received in this turn.
    pub(crate) fn bytes(&self, chunk: Chunk) -> &[u8] {
        self.buffers.bytes(chunk)
    }

    /// Submits everything, and collects what has happened; if it may wait, at least one event.
    pub(crate) fn turn(&mut self, may_wait: bool) -> io::Result<()> {
        self.completions.clear();
        self.next = 0;
        self.push_replies();
        self.buffers.provide();
        loop {
            let has_events = !self.completions.is_empty() || !self.unsent.is_empty();
            self.enter(may_wait && !has_events)?;
            self.collect();
            // Only when every entry is submitted are the sends over.
            if self.io.submission().is_empty() {
                break;
            }
        }
        self.buffers.next_turn();
        self.replies.clear();
        self.messages.clear();
        Ok(())
    }

    /// The next event of this turn, with its connection's slot.
    pub(crate) fn next_event(&mut self) -> Option<(u32, Event)> {
        if let Some(unsent) = self.unsent.pop() {
            return Some(unsent);
        }
        while let Some(entry) = self.completions.get(self.next) {
            let (user_data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            self.next += 1;
            let (operation, slot) = Operation::of(user_data);
            match operation {
                Operation::Receive => return Some((slot, self.receive_event(result, flags))),
                Operation::SendPatiently => {
                    if let Some(event) = self.patient_send_event(slot, result) {
                        return Some((slot, event));
                    }
                }
                Operation::Accept => {
                    if !cqueue::more(flags) {
                        self.accept();
                    }
                    match u32::try_from(result) {
                        Ok(slot) => return Some((slot, Event::Accepted)),
                        Err(_) => eprintln!("cannot accept: {}", Errno::from_raw(-result)),
                    }
                }
                Operation::Reply | Operation::Other => {}
            }
        }
        None
    }

    fn receive_event(&mut self, result: i32, flags: u32) -> Event {
        match (result, cqueue::buffer_select(flags)) {
            (len @ 1.., Some(buffer)) => {
                let is_used_up = !cqueue::buffer_more(flags);
                let chunk = self.buffers.take(buffer, len.cast_unsigned(), is_used_up);
                Event::Received { chunk, goes_on: cqueue::more(flags) }
            }
            (result, _) if result == -libc::ENOBUFS => Event::ReceiveEnded(ReceiveEnd::NoBuffer),
            (result, _) if result == -libc::ECANCELED => Event::ReceiveEnded(ReceiveEnd::Cancelled),
            _ => Event::ReceiveEnded(ReceiveEnd::PeerEnded),
        }
    }

    fn patient_send_event(&mut self, slot: u32, result: i32) -> Option<Event> {
        let (bytes, sent) = self.patient.get_mut(&slot)?;
        let Ok(len) = usize::try_from(result) else {
            self.patient.remove(&slot);
            return Some(Event::SendBroken);
        };
        *sent += len;
        if *sent < bytes.len() {
            self.push_patient_send(slot);
            return None;
        }
        self.patient.remove(&slot);
        Some(Event::Sent)
    }

    fn accept(&mut self) {
        let entry = opcode::AcceptMulti::new(Fd(self.listener.as_raw_fd()))
            .allocate_file_index(true)
            .build();
        self.push(entry, Operation::Accept, 0);
    }

    fn push_patient_send(&mut self, slot: u32) {
        let (bytes, sent) = &self.patient[&slot];
        let rest = &bytes[*sent..];
        let entry = opcode::Send::new(Fixed(slot), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        self.push(entry, Operation::SendPatiently, slot);
    }

    fn push_replies(&mut self) {
        let flags = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        for index in 0..self.replies.len() {
            let Reply { slot, first, more } = &self.replies[index];
            let socket = Fixed(*slot);
            self.reply_of[*slot as usize] = NO_REPLY;
            let entry = if more.is_empty() {
                let bytes = self.buffers.bytes(*first);
                opcode::Send::new(socket, bytes.as_ptr(), first.len).flags(flags).build()
            } else {
                let chunks = [*first].into_iter().chain(more.iter().copied());
                let message = Message::new(chunks.map(|chunk| self.buffers.bytes(chunk)));
                self.messages.push(Box::new(message));
                let header: *const _ = &raw const self.messages[self.messages.len() - 1].header;
                opcode::SendMsg::new(socket, header).flags(flags.cast_unsigned()).build()
            };
            let entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
            self.push(entry, Operation::Reply, index as u32);
        }
    }

    #[expect(unsafe_code, reason = "an entry may point to memory")]
    fn push(&mut self, entry: squeue::Entry, operation: Operation, rest: u32) {
        let entry = entry.user_data(operation.user_data(rest));
        // SAFETY: what the entry points to lives until its operation is over: the shared buffers
        // as long as the ring, the messages until the end of the turn that submits all entries,
        // and the bytes of a patient send, which are not touched, until its completion.
        while unsafe { self.io.submission().push(&entry) }.is_err() {
            // The queue is full, and submitting empties it. An error shows again in the turn.
            let _ = self.io.submit();
        }
    }

    /// Submits entries, and runs the task work that makes completions.
    #[expect(unsafe_code, reason = "the io-uring crate marks every enter so")]
    fn enter(&mut self, may_wait: bool) -> io::Result<()> {
        const GET_EVENTS: u32 = 1;
        let entries = self.io.submission().len() as u32;
        let wanted = may_wait.into();
        // SAFETY: no signal mask is given, and all entries were pushed by `push`.
        let entered = unsafe {
            self.io.submitter().enter::<libc::sigset_t>(entries, wanted, GET_EVENTS, None)
        };
        match entered.map_err(|error| (error.raw_os_error().map(Errno::from_raw), error)) {
            // After these, completions are to be collected before more can be submitted.
            Ok(_) | Err((Some(Errno::EBUSY | Errno::EAGAIN | Errno::EINTR), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    fn collect(&mut self) {
        let Self { io, buffers, replies, unsent, completions, .. } = self;
        for entry in io.completion() {
            match Operation::of(entry.user_data()) {
                (Operation::Reply, index) => {
                    let reply = &replies[index as usize];
                    let event = match entry.result() {
                        sent @ 0.. => Event::Unsent(reply.rest(buffers, sent.cast_unsigned())),
                        error if error == -libc::EAGAIN => Event::Unsent(reply.rest(buffers, 0)),
                        _ => Event::SendBroken,
                    };
                    unsent.push((reply.slot, event));
                }
                _ => completions.push(entry),
            }
        }
    }
}

impl Reply {
    /// A copy of what is behind the first `sent` bytes.
    #[cold]
    fn rest(&self, buffers: &Buffers, sent: u32) -> Vec<u8> {
        let chunks = [self.first].into_iter().chain(self.more.iter().copied());
        chunks.flat_map(|chunk| buffers.bytes(chunk)).skip(sent as usize).copied().collect()
    }
}

impl Message {
    fn new<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut pieces: Vec<libc::iovec> = pieces
            .map(|bytes| libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            })
            .collect();
        let header = libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: pieces.as_mut_ptr(),
            msg_iovlen: pieces.len(),
            msg_control: ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        Self { header, _pieces: pieces }
    }
}

/// The shared buffers: a provided-buffer ring that the kernel takes memory from.
///
/// For each turn it begins at the start of those that were sent from last, so that while little is
/// under way, all of it passes through the same few bytes, and those stay in the cache.
struct Buffers {
    /// What the kernel reads: an entry for each buffer that it may take, and the tail.
    entries: MmapMut,
    memory: MmapMut,
    /// How many entries the kernel has used up.
    head: u16,
    /// What the kernel has, the buffer that it takes next last.
    provided: Vec<u16>,
    /// Buffers with chunks of the last turn, in order, and how far the last of them is consumed.
    in_use: Vec<u16>,
    consumed: u32,
    /// Buffers whose chunks have been sent.
    sent: Vec<u16>,
}

impl Buffers {
    #[expect(unsafe_code, reason = "the kernel is given memory of ours")]
    fn register(io: &IoUring) -> io::Result<Self> {
        let buffers = Self {
            entries: MmapMut::map_anon(usize::from(BUFFERS) * size_of::<BufRingEntry>())?,
            memory: MmapOptions::new()
                .len(usize::from(BUFFERS) * BUFFER_LEN as usize)
                .populate()
                .map_anon()?,
            head: 0,
            provided: Vec::new(),
            in_use: Vec::new(),
            consumed: 0,
            sent: (0..BUFFERS).collect(),
        };
        let address = buffers.entries.as_ptr() as u64;
        // SAFETY: the entries are page-aligned, as many as said, and live as long as `Buffers`,
        // which the ring's owner drops after the ring.
        unsafe {
            io.submitter().register_buf_ring_with_flags(address, BUFFERS, GROUP, INCREMENTAL)?;
        }
        Ok(buffers)
    }

    /// Gives the kernel all buffers without chunks that are still to be sent.
    #[expect(unsafe_code, reason = "the kernel reads these entries")]
    #[expect(clippy::cast_ptr_alignment, reason = "a mapping is aligned to a page")]
    fn provide(&mut self) {
        self.provided.extend(self.sent.drain(..).rev());
        let mut end = self.head;
        for buffer in self.provided.iter().rev() {
            let address = self.memory.as_ptr() as u64 + u64::from(*buffer) * u64::from(BUFFER_LEN);
            let at = usize::from(end % BUFFERS);
            // SAFETY: `at` is below the number of entries, so this one lies within the mapping,
            // which is aligned for it; the kernel reads it only when it is entered.
            let entry = unsafe { &mut *self.entries.as_mut_ptr().cast::<BufRingEntry>().add(at) };
            entry.set_addr(address);
            entry.set_len(BUFFER_LEN);
            entry.set_bid(*buffer);
            end = end.wrapping_add(1);
        }
        // SAFETY: the mapping starts with the first entry, whose reserved field is the tail; it is
        // aligned, and shared with the kernel only.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr().cast());
            AtomicU16::from_ptr(tail.cast_mut()).store(end, Ordering::Release);
        }
    }

    /// How many buffers [`provide`](Self::provide) would give the kernel.
    fn free(&self) -> usize {
        self.provided.len() + self.sent.len()
    }

    /// All that was to be sent is sent.
    fn next_turn(&mut self) {
        mem::swap(&mut self.in_use, &mut self.sent);
    }

    /// The chunk of `len` bytes that the kernel has put into `buffer`.
    fn take(&mut self, buffer: u16, len: u32, is_used_up: bool) -> Chunk {
        if self.in_use.last() != Some(&buffer) {
            assert_eq!(self.provided.pop(), Some(buffer), "the kernel takes its buffers in order");
            self.in_use.push(buffer);
            self.consumed = 0;
        }
        let at = u32::from(buffer) * BUFFER_LEN + self.consumed;
        self.consumed += len;
        self.head = self.head.wrapping_add(is_used_up.into());
        Chunk { at, len }
    }

    fn bytes(&self, chunk: Chunk) -> &[u8] {
        &self.memory[chunk.at as usize..][..chunk.len as usize]
    }
}
