//! The kernel by epoll: for any Linux, and where a container forbids `io_uring`.
//!
//! A connection is registered once, edge-triggered, for reading and writing. The kernel then says of
//! it only what is new: bytes have arrived, or there is room again. So a connection is remembered as
//! readable until a receive finds nothing more, and a connection whose socket was full waits for room
//! without a further call.
//!
//! An enter receives from as many ready connections as fit into [`BATCH_LEN`] bytes, and asks epoll
//! for more only when all that were ready have had their turn. A send happens when it is pushed. So
//! the bytes of one batch are received, answered and sent while they are in the cache.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::epoll::{self, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use super::{
    kernel::{Completion, Interest, Kernel, Operation, SendFrom, SendMode},
    segments::Segments,
};

/// The kernel behind an epoll instance of this thread.
pub struct Epoll {
    instance: epoll::Epoll,
    /// Has the watches for room to write, and is itself one of `instance`'s descriptors. An instance has
    /// one event for a descriptor, and a task may wait for it to become readable at the same time.
    writable: epoll::Epoll,
    slots: Segments<Slot>,
    /// Bytes that a receive may receive before its connection is emptied; the same for all.
    receive_quota: u32,
    /// Slots with a receive under way and something to receive, in the order in which they get it.
    ready: VecDeque<u32>,
    /// How many of them were ready when epoll was last asked, and have not had their turn since.
    round: usize,
    /// Patient sends, by slot.
    patient: HashMap<u32, PatientSend>,
    /// Slots whose patient sends may find room.
    roomy: Vec<u32>,
    /// Watches, by their wait's place.
    watches: Vec<Option<Watch>>,
    /// Counts registrations, so that a late event never reaches a successor.
    generation: u32,
    /// When each sleep is over, and its user data.
    sleeps: Vec<(Instant, u64)>,
    /// The provided buffers: the number and the address of each.
    buffers: VecDeque<(u16, *mut u8)>,
    buffer_len: usize,
    /// Bytes of the first buffer that have been received into.
    used: usize,
    /// What completed when it was pushed.
    completed: Vec<Completion>,
    /// Memory for what epoll reports.
    events: Vec<EpollEvent>,
}

/// A connection.
struct Slot {
    descriptor: RawFd,
    generation: u32,
    /// Bytes that the receive may still receive; 0 if none is under way.
    left: u32,
    flags: Flags,
    /// That of the receive.
    user_data: u64,
}

/// What is known of a connection, a bit for each.
#[derive(Clone, Copy, Default)]
struct Flags(u8);

impl Flags {
    /// There may be something to receive.
    const READABLE: Self = Self(1);
    /// It is among those that are ready.
    const QUEUED: Self = Self(2);
    /// Nothing announces what comes behind the bytes that are there, such as the peer's end. So a
    /// receive that does not fill its buffer does not mean that nothing is left.
    const ENDING: Self = Self(4);
    /// The socket was full, and epoll has not reported room since.
    const FULL: Self = Self(8);

    fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    fn set(&mut self, flag: Self, is_set: bool) {
        if is_set {
            self.0 |= flag.0;
        } else {
            self.0 &= !flag.0;
        }
    }
}

/// A send that waits for room.
struct PatientSend {
    piece: libc::iovec,
    user_data: u64,
}

/// A task's wait for a descriptor.
struct Watch {
    generation: u32,
    user_data: u64,
}

/// Bytes that are received before they are answered, the size of a CPU's first-level cache. Small
/// messages share the turn's own cost: a message of 16 B takes 1,089 instructions where 8 connections
/// have one each, and 1,696 where one has (`benches/lockstep.rs`).
const BATCH_LEN: usize = 32 << 10;

/// Descriptors of which one call reports.
const EVENTS_MAX: usize = 256;

/// What epoll reports of a connection, once each time that it becomes so.
const CONNECTION: EpollFlags = EpollFlags::EPOLLIN
    .union(EpollFlags::EPOLLOUT)
    .union(EpollFlags::EPOLLPRI)
    .union(EpollFlags::EPOLLRDHUP)
    .union(EpollFlags::EPOLLET);

/// Nothing announces what comes behind this: the end, an error, or bytes behind an urgent one.
const LAST_NEWS: EpollFlags = EpollFlags::EPOLLRDHUP
    .union(EpollFlags::EPOLLHUP)
    .union(EpollFlags::EPOLLERR)
    .union(EpollFlags::EPOLLPRI);

/// Whose event it is: a slot's or a watch's, with its index and its generation, or that of all watches
/// for room to write.
#[derive(Clone, Copy)]
enum Source {
    Slot { slot: u32, generation: u32 },
    Watch { place: u32, generation: u32 },
    Writable,
}

impl Source {
    const GENERATION_MASK: u32 = (1 << 30) - 1;
    const WATCH_BIT: u64 = 1 << 62;
    const WRITABLE: u64 = 1 << 63;

    fn to_bits(self) -> u64 {
        match self {
            Self::Slot { slot, generation } => u64::from(generation) << 32 | u64::from(slot),
            Self::Watch { place, generation } => {
                Self::WATCH_BIT | u64::from(generation) << 32 | u64::from(place)
            }
            Self::Writable => Self::WRITABLE,
        }
    }

    fn from_bits(bits: u64) -> Self {
        let (index, generation) = (bits as u32, (bits >> 32) as u32 & Self::GENERATION_MASK);
        if bits == Self::WRITABLE {
            Self::Writable
        } else if bits & Self::WATCH_BIT != 0 {
            Self::Watch { place: index, generation }
        } else {
            Self::Slot { slot: index, generation }
        }
    }
}

impl Epoll {
    /// An epoll instance without connections.
    pub(super) fn new() -> io::Result<Self> {
        let instance = epoll::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let writable = epoll::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Source::Writable.to_bits());
        instance.add(&writable.0, event)?;
        Ok(Self {
            instance,
            writable,
            slots: Segments::new(),
            receive_quota: UNLIMITED,
            ready: VecDeque::new(),
            round: 0,
            patient: HashMap::new(),
            roomy: Vec::new(),
            watches: Vec::new(),
            generation: 0,
            sleeps: Vec::new(),
            buffers: VecDeque::new(),
            buffer_len: 0,
            used: 0,
            completed: Vec::new(),
            events: vec![EpollEvent::empty(); EVENTS_MAX],
        })
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = (self.generation + 1) & Source::GENERATION_MASK;
        self.generation
    }
}

impl Kernel for Epoll {
    fn register(&mut self, slot: u32, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let Some(descriptor) = descriptor else {
            // Epoll forgets the descriptor when it is closed; events until then are of an earlier
            // generation.
            self.slots[slot] = Slot::EMPTY;
            return Ok(());
        };
        let generation = self.next_generation();
        let source = Source::Slot { slot, generation };
        watch(&self.instance, descriptor, EpollEvent::new(CONNECTION, source.to_bits()))?;
        while slot >= self.slots.end() {
            self.slots.grow(|_| Slot::EMPTY);
        }
        self.slots[slot] = Slot { descriptor: descriptor.as_raw_fd(), generation, ..Slot::EMPTY };
        Ok(())
    }

    fn push(&mut self, operation: &Operation, user_data: u64) {
        match *operation {
            Operation::Receive { slot, len_max } => {
                self.receive_quota = if len_max == 0 { UNLIMITED } else { len_max };
                let receiving = &mut self.slots[slot];
                receiving.left = self.receive_quota;
                receiving.user_data = user_data;
                self.enqueue(slot);
            }
            Operation::CancelReceive { slot, target } => {
                let receiving = &mut self.slots[slot];
                if receiving.left > 0 && receiving.user_data == target {
                    receiving.left = 0;
                    self.completed.push(Completion::last(target, Err(Errno::ECANCELED)));
                }
            }
            Operation::Watch { place, descriptor, interest } => {
                self.push_watch(place, descriptor, interest, user_data);
            }
            Operation::Sleep { duration } => {
                self.sleeps.push((Instant::now() + duration, user_data));
            }
            Operation::CancelWait { place, target } => self.cancel_wait(place, target),
        }
    }

    #[inline]
    #[expect(unsafe_code, reason = "the kernel is given addresses")]
    unsafe fn push_send(&mut self, slot: u32, from: SendFrom, mode: SendMode, user_data: u64) {
        match (mode, from) {
            (SendMode::Patient, SendFrom::Piece(piece)) => {
                self.patient.insert(slot, PatientSend { piece, user_data });
                if !self.slots[slot].flags.has(Flags::FULL) {
                    self.roomy.push(slot);
                }
            }
            (SendMode::Patient, SendFrom::Gathered(_)) => {
                unreachable!("a patient send has one piece")
            }
            (SendMode::AtOnce | SendMode::Last, _) => {
                // SAFETY: the caller vouches for the addresses.
                let (sent, len) = unsafe { self.send(slot, from, mode) };
                if sent != Ok(len) {
                    self.completed.push(Completion::last(user_data, sent));
                }
            }
        }
    }

    #[expect(unsafe_code, reason = "the kernel is given memory")]
    unsafe fn provide(&mut self, buffers: impl Iterator<Item = (u16, *mut u8)>, buffer_len: u32) {
        self.buffers.clear();
        self.buffers.extend(buffers);
        self.buffer_len = buffer_len as usize;
        self.used = 0;
    }

    fn enter(&mut self, completions: &mut Vec<Completion>, may_wait: bool) -> io::Result<()> {
        completions.append(&mut self.completed);
        if self.round == 0 {
            let is_idle = completions.is_empty() && self.ready.is_empty() && self.roomy.is_empty();
            self.ask(may_wait && is_idle, completions)?;
            self.round = self.ready.len();
        }
        self.send_to_roomy(completions);
        self.receive_batch(completions);
        Ok(())
    }
}

/// What is left of a receive without a limit.
const UNLIMITED: u32 = u32::MAX;

impl Slot {
    const EMPTY: Self =
        Self { descriptor: -1, generation: 0, left: 0, flags: Flags(0), user_data: 0 };

    /// Whether there may be something for the receive that is under way.
    fn may_receive(&self) -> bool {
        self.left > 0 && self.flags.has(Flags::READABLE)
    }
}

impl Epoll {
    /// Asks epoll what is new. If it may wait, it waits until something is.
    fn ask(&mut self, may_wait: bool, completions: &mut Vec<Completion>) -> io::Result<()> {
        let now = Instant::now();
        let is_over = self.wake_sleepers(now, completions);
        let timeout =
            if may_wait && !is_over { self.longest_wait(now) } else { EpollTimeout::ZERO };
        let count = match self.instance.wait(&mut self.events, timeout) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        let mut is_writable = false;
        for at in 0..count {
            let event = self.events[at];
            match Source::from_bits(event.data()) {
                Source::Slot { slot, generation } => self.heed(slot, generation, event.events()),
                Source::Watch { place, generation } => {
                    self.complete_watch(place, generation, completions);
                }
                Source::Writable => is_writable = true,
            }
        }
        if is_writable {
            self.ask_writable(completions)?;
        }
        Ok(())
    }

    /// Asks which watches for room to write are over. Those that find no place among the events are
    /// reported again.
    #[cold]
    fn ask_writable(&mut self, completions: &mut Vec<Completion>) -> io::Result<()> {
        let count = match self.writable.wait(&mut self.events, EpollTimeout::ZERO) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        for at in 0..count {
            if let Source::Watch { place, generation } = Source::from_bits(self.events[at].data()) {
                self.complete_watch(place, generation, completions);
            }
        }
        Ok(())
    }

    fn complete_watch(&mut self, place: u32, generation: u32, completions: &mut Vec<Completion>) {
        let watch = &mut self.watches[place as usize];
        if let Some(watch) = watch.take_if(|watch| watch.generation == generation) {
            completions.push(Completion::last(watch.user_data, Ok(1)));
        }
    }

    /// Remembers what is new of a connection.
    #[inline]
    fn heed(&mut self, slot: u32, generation: u32, news: EpollFlags) {
        let connection = &mut self.slots[slot];
        if connection.generation != generation {
            return;
        }
        let flags = &mut connection.flags;
        if news.intersects(LAST_NEWS) {
            flags.set(Flags::ENDING, true);
        }
        if news.intersects(EpollFlags::EPOLLOUT | LAST_NEWS) && flags.has(Flags::FULL) {
            flags.set(Flags::FULL, false);
            self.roomy.push(slot);
        }
        if news.intersects(EpollFlags::EPOLLIN | LAST_NEWS) {
            flags.set(Flags::READABLE, true);
            self.enqueue(slot);
        }
    }

    /// Puts a connection behind those that are ready, if it is, once.
    #[inline]
    fn enqueue(&mut self, slot: u32) {
        let connection = &mut self.slots[slot];
        if connection.may_receive() && !connection.flags.has(Flags::QUEUED) {
            connection.flags.set(Flags::QUEUED, true);
            self.ready.push_back(slot);
        }
    }

    /// Receives from connections whose turn it is until the batch is full.
    fn receive_batch(&mut self, completions: &mut Vec<Completion>) {
        // The rest of the buffer is room enough for the last one.
        let mut left = BATCH_LEN.min(self.buffer_len.div_ceil(2));
        while self.round > 0 && left > 0 && !self.buffers.is_empty() {
            let Some(slot) = self.ready.pop_front() else {
                unreachable!("those of the round are ready")
            };
            self.round -= 1;
            self.slots[slot].flags.set(Flags::QUEUED, false);
            if self.slots[slot].may_receive() {
                left = left.saturating_sub(self.receive(slot, completions));
            }
        }
    }

    /// Receives once on a connection that is ready. Returns how many bytes have come.
    #[inline]
    #[expect(unsafe_code, reason = "the kernel writes to memory that it was given")]
    fn receive(&mut self, slot: u32, completions: &mut Vec<Completion>) -> usize {
        let (buffer, memory) = self.buffers[0];
        let connection = &mut self.slots[slot];
        let len_max = (self.buffer_len - self.used).min(connection.left as usize);
        // SAFETY: `used` is within the buffer, whose memory is the kernel's to write to.
        let received = retry(|| unsafe {
            let start = memory.add(self.used).cast();
            libc::recv(connection.descriptor, start, len_max, libc::MSG_DONTWAIT)
        });
        let user_data = connection.user_data;
        match received {
            Ok(len @ 1..) => {
                if connection.left != UNLIMITED {
                    connection.left -= len as u32;
                }
                let goes_on = connection.left > 0;
                // A receive that does not fill its memory has taken all that there was.
                let is_emptied = len < len_max && !connection.flags.has(Flags::ENDING);
                connection.flags.set(Flags::READABLE, !is_emptied);
                if is_emptied {
                    connection.left = self.receive_quota;
                }
                let received = Completion {
                    buffer: Some(buffer),
                    goes_on,
                    ..Completion::last(user_data, Ok(len))
                };
                completions.push(received);
                self.used += len;
                if self.used == self.buffer_len {
                    self.buffers.pop_front();
                    self.used = 0;
                }
                self.enqueue(slot);
                len
            }
            Err(Errno::EAGAIN) => {
                connection.flags.set(Flags::READABLE, false);
                0
            }
            ended => {
                connection.left = 0;
                completions.push(Completion::last(user_data, ended));
                0
            }
        }
    }

    /// Sends what the socket takes. Returns how much that is, and how much there was.
    ///
    /// # Safety
    ///
    /// The pieces, and the header if there is one, are where they are said to be.
    #[inline]
    #[expect(unsafe_code, reason = "the kernel reads from memory that it is given")]
    unsafe fn send(
        &mut self,
        slot: u32,
        from: SendFrom,
        mode: SendMode,
    ) -> (Result<usize, Errno>, usize) {
        let waiting = if mode == SendMode::Last { libc::MSG_MORE } else { 0 };
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | waiting;
        let connection = &mut self.slots[slot];
        let descriptor = connection.descriptor;
        // SAFETY: the caller vouches for the addresses.
        let (sent, len) = unsafe {
            match from {
                SendFrom::Piece(libc::iovec { iov_base, iov_len }) => {
                    (retry(|| libc::send(descriptor, iov_base, iov_len, flags)), iov_len)
                }
                SendFrom::Gathered(header) => {
                    let pieces =
                        std::slice::from_raw_parts((*header).msg_iov, (*header).msg_iovlen);
                    let len = pieces.iter().map(|piece| piece.iov_len).sum();
                    (retry(|| libc::sendmsg(descriptor, header, flags)), len)
                }
            }
        };
        connection.flags.set(Flags::FULL, sent != Ok(len));
        (sent, len)
    }

    /// Sends patient sends on as far as there is room.
    #[inline]
    fn send_to_roomy(&mut self, completions: &mut Vec<Completion>) {
        if !self.roomy.is_empty() {
            self.send_patiently(completions);
        }
    }

    #[cold]
    #[expect(unsafe_code, reason = "the kernel reads from memory that it is given")]
    fn send_patiently(&mut self, completions: &mut Vec<Completion>) {
        let mut roomy = std::mem::take(&mut self.roomy);
        for slot in roomy.drain(..) {
            let Some(PatientSend { piece, user_data }) = self.patient.remove(&slot) else {
                continue;
            };
            // SAFETY: whoever pushed a patient send keeps its piece until the send has completed.
            match unsafe { self.send(slot, SendFrom::Piece(piece), SendMode::Patient) } {
                (Err(Errno::EAGAIN), _) => {
                    self.patient.insert(slot, PatientSend { piece, user_data });
                }
                (sent, _) => completions.push(Completion::last(user_data, sent)),
            }
        }
        self.roomy = roomy;
    }

    #[expect(unsafe_code, reason = "the operation has a descriptor's number")]
    fn push_watch(&mut self, place: u32, descriptor: RawFd, interest: Interest, user_data: u64) {
        let generation = self.next_generation();
        let (instance, flags) = match interest {
            Interest::Readable => (&self.instance, EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP),
            Interest::Writable => (&self.writable, EpollFlags::EPOLLOUT),
        };
        let source = Source::Watch { place, generation };
        let event = EpollEvent::new(flags | EpollFlags::EPOLLONESHOT, source.to_bits());
        // SAFETY: whoever pushes a watch keeps its descriptor open until then.
        let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
        if let Err(error) = watch(instance, descriptor, event) {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            self.completed.push(Completion::last(user_data, Err(errno)));
            return;
        }
        let at = place as usize;
        if at >= self.watches.len() {
            self.watches.resize_with(at + 1, || None);
        }
        self.watches[at] = Some(Watch { generation, user_data });
    }

    fn cancel_wait(&mut self, place: u32, target: u64) {
        let watch = self.watches.get_mut(place as usize);
        let is_watch =
            watch.is_some_and(|watch| watch.take_if(|watch| watch.user_data == target).is_some());
        let sleeps = self.sleeps.len();
        self.sleeps.retain(|(_, user_data)| *user_data != target);
        if is_watch || self.sleeps.len() < sleeps {
            self.completed.push(Completion::last(target, Err(Errno::ECANCELED)));
        }
    }

    /// Completes the sleeps that are over; returns whether there was one.
    fn wake_sleepers(&mut self, now: Instant, completions: &mut Vec<Completion>) -> bool {
        let sleeps = self.sleeps.len();
        self.sleeps.retain(|(end, user_data)| {
            let is_over = *end <= now;
            if is_over {
                completions.push(Completion::last(*user_data, Err(Errno::ETIME)));
            }
            !is_over
        });
        self.sleeps.len() < sleeps
    }

    /// How long a wait may last until the first sleep is over: in milliseconds, rounded up.
    fn longest_wait(&self, now: Instant) -> EpollTimeout {
        let Some(end) = self.sleeps.iter().map(|(end, _)| *end).min() else {
            return EpollTimeout::NONE;
        };
        let wait = end.saturating_duration_since(now) + Duration::from_nanos(999_999);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    }
}

/// Has an instance report of a descriptor, which may be known to it from an earlier use.
fn watch(
    instance: &epoll::Epoll,
    descriptor: BorrowedFd<'_>,
    mut event: EpollEvent,
) -> io::Result<()> {
    match instance.add(descriptor, event) {
        Err(Errno::EEXIST) => Ok(instance.modify(descriptor, &mut event)?),
        result => Ok(result?),
    }
}

/// Calls until no signal interrupts.
#[inline]
fn retry(mut call: impl FnMut() -> isize) -> Result<usize, Errno> {
    loop {
        match Errno::result(call()) {
            Err(Errno::EINTR) => {}
            result => return result.map(isize::cast_unsigned),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::{fd::AsFd, unix::net::UnixStream},
    };

    use super::*;

    /// Bursts that a limit cuts are answered in pieces, and a client that answers the pieces keeps
    /// sending them.
    #[test]
    #[expect(unsafe_code, reason = "the kernel is given memory")]
    fn limit_of_a_receive_is_for_what_comes_at_once() {
        let (mut peer, connection) = UnixStream::pair().unwrap();
        let mut memory = vec![0; 4096];
        let mut kernel = Epoll::new().unwrap();
        kernel.register(0, Some(connection.as_fd())).unwrap();
        kernel.push(&Operation::Receive { slot: 0, len_max: 100 }, 7);
        let mut received = Vec::new();
        for burst in [60, 60, 60, 160] {
            peer.write_all(&vec![0; burst]).unwrap();
            // SAFETY: the memory outlives the kernel, and nobody else touches it.
            unsafe { kernel.provide([(0, memory.as_mut_ptr())].into_iter(), 4096) };
            let mut completions = Vec::new();
            kernel.enter(&mut completions, true).unwrap();
            received.extend(completions.iter().map(|one| (one.result, one.goes_on)));
        }
        assert_eq!(received, [(60, true), (60, true), (60, true), (100, false)]);
    }

    /// HTTP/2 reads and writes at the same time.
    #[test]
    #[expect(unsafe_code, reason = "the kernel is given memory")]
    fn descriptor_is_watched_for_both_at_a_time() {
        let (mut peer, mut connection) = UnixStream::pair().unwrap();
        let mut memory = vec![0; 4096];
        let mut kernel = Epoll::new().unwrap();
        // SAFETY: the memory outlives the kernel, and nobody else touches it.
        unsafe { kernel.provide([(0, memory.as_mut_ptr())].into_iter(), 4096) };
        connection.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(len) = connection.write(&[0; 4096]) {
            sent += len;
        }
        let descriptor = connection.as_raw_fd();
        for (place, interest) in [(0, Interest::Readable), (1, Interest::Writable)] {
            kernel.push(&Operation::Watch { place, descriptor, interest }, place.into());
        }
        let mut completed = || {
            let mut completions = Vec::new();
            kernel.enter(&mut completions, true).unwrap();
            completions.iter().map(|one| (one.user_data, one.result)).collect::<Vec<_>>()
        };
        peer.read_exact(&mut vec![0; sent]).unwrap();
        assert_eq!(completed(), [(1, 1)]);
        peer.write_all(b"more").unwrap();
        assert_eq!(completed(), [(0, 1)]);
    }
}
