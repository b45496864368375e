//! The real kernel: one `io_uring` and its provided-buffer ring.
//!
//! Task work is deferred, so the kernel writes into our memory only inside of `io_uring_enter`.
//! Buffers are consumed incrementally (`IOU_PBUF_RING_INC`, Linux 6.12): the kernel fills one from
//! front to back, for whichever connection has bytes, before it takes the next. A waiting receive
//! holds no buffer, and a multishot receive never runs on one of the kernel's own threads. So nobody
//! looks at the queue of buffers between two calls, and the queue can be written anew there.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    sync::atomic::{AtomicU16, Ordering},
};

use fnv::{FnvHashMap, FnvHashSet};
use io_uring::{
    IoUring, cqueue, opcode, squeue,
    types::{BufRingEntry, Fd, Timespec},
};
use memmap2::MmapMut;

use super::{
    kernel::{Completion, Interest, Kernel, Operation, SendFrom, SendMode},
    segments::Segments,
};

/// Entries of the submission and of the completion queue, the best first.
///
/// A full submission queue is submitted before the turn ends, which costs a call for each 1024 sends.
/// Completions that do not fit their queue stay in the kernel until there is room, which costs the
/// turn one more call. Successful sends do not complete, so only 8192 receives in one turn fill the
/// queue; from Linux 6.13 on, a call handles far fewer connections than that.
///
/// The smaller queues are for users who may not lock much memory (`RLIMIT_MEMLOCK`).
const QUEUE_ENTRIES: [(u32, u32); 3] = [(1024, 8192), (256, 1024), (64, 128)];

/// Calls in a row that may fail with an error that usually passes. One more is a failure of the
/// ring, since the kernel does not recover.
const PASSING_ERRORS_MAX: u32 = 100_000;

const NO_DESCRIPTOR: RawFd = -1;

/// The only group of provided buffers.
const BUFFER_GROUP: u16 = 0;

/// `IOU_PBUF_RING_INC` of the kernel's interface.
const INCREMENTAL: u16 = 2;

/// The kernel behind an `io_uring` of this thread.
pub struct Uring {
    // Dropped first. The kernel closes a ring later, but with deferred task running it touches the
    // buffer entries only inside of calls for this ring, of which none comes any more.
    ring: IoUring,
    /// The flags of every enter.
    enter_flags: u32,
    /// The descriptor in each slot.
    descriptors: Segments<RawFd>,
    /// Slots whose records the kernel seals.
    over_ktls: FnvHashSet<u32>,
    /// Bytes of the sends at once of this turn on these slots, by user data.
    checked: FnvHashMap<u64, u32>,
    /// The queue that the kernel takes free buffers from: an entry for each, and the tail.
    buffer_entries: MmapMut,
    buffer_count: u16,
    /// The number of entries that the kernel has used up, which is where it takes the next buffer.
    buffer_head: u16,
    /// Completions that were collected to make room for others, and are returned by the next enter.
    collected: Vec<Completion>,
    /// Why pushed entries could not be submitted.
    failure: Option<io::Error>,
    /// Calls in a row that were to be made again.
    passing_errors: u32,
    /// The durations that pushed sleeps point to, kept until the sleeps are submitted.
    #[expect(clippy::vec_box, reason = "the kernel is given their addresses")]
    sleeps: Vec<Box<Timespec>>,
    is_reduced: bool,
}

impl Uring {
    /// A ring with a queue of `buffer_count` provided buffers, a power of two. Its own queues are as
    /// large as the memory that this user may lock allows.
    #[expect(unsafe_code, reason = "the kernel is given memory of ours")]
    pub(super) fn new(buffer_count: u16) -> io::Result<Self> {
        let (ring, is_reduced) = build()?;
        let enter_flags = find_enter_flags(&ring);
        let buffer_entries =
            MmapMut::map_anon(usize::from(buffer_count) * size_of::<BufRingEntry>())?;
        let address = buffer_entries.as_ptr() as u64;
        // SAFETY: the entries are page-aligned, `buffer_count` long, and dropped after the ring.
        unsafe {
            let submitter = ring.submitter();
            submitter.register_buf_ring_with_flags(
                address,
                buffer_count,
                BUFFER_GROUP,
                INCREMENTAL,
            )?;
        }
        Ok(Self {
            ring,
            enter_flags,
            descriptors: Segments::new(),
            over_ktls: FnvHashSet::default(),
            checked: FnvHashMap::default(),
            buffer_entries,
            buffer_count,
            buffer_head: 0,
            collected: Vec::new(),
            failure: None,
            passing_errors: 0,
            sleeps: Vec::new(),
            is_reduced,
        })
    }

    /// Whether its queues are smaller than they should be.
    pub(super) fn is_reduced(&self) -> bool {
        self.is_reduced
    }
}

/// A ring, and whether its queues are smaller than they should be.
fn build() -> io::Result<(IoUring, bool)> {
    let mut last_error = None;
    for (at, (submissions, completions)) in QUEUE_ENTRIES.into_iter().enumerate() {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(completions)
            .build(submissions);
        match ring {
            Ok(ring) => return Ok((ring, at > 0)),
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => last_error = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last_error.unwrap_or_else(|| unreachable!("there are sizes to try")))
}

/// The flags for `io_uring_enter`: to collect what has completed and, where the kernel knows that flag
/// (Linux 6.15), not to count a wait as one for I/O, since a worker that waits for its clients is idle.
#[expect(unsafe_code, reason = "the io-uring crate marks every enter so")]
fn find_enter_flags(ring: &IoUring) -> u32 {
    const GET_EVENTS: u32 = 1;
    const NO_IOWAIT: u32 = 1 << 7;
    let flags = GET_EVENTS | NO_IOWAIT;
    // SAFETY: nothing is submitted, nothing is waited for, and no signal mask is given.
    let entered = unsafe { ring.submitter().enter::<libc::sigset_t>(0, 0, flags, None) };
    if entered.is_ok() { flags } else { GET_EVENTS }
}

impl Kernel for Uring {
    fn register(&mut self, slot: u32, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        while slot >= self.descriptors.end() {
            self.descriptors.grow(|_| NO_DESCRIPTOR);
        }
        self.descriptors[slot] =
            descriptor.map_or(NO_DESCRIPTOR, |descriptor| descriptor.as_raw_fd());
        if !self.over_ktls.is_empty() {
            self.over_ktls.remove(&slot);
        }
        Ok(())
    }

    fn expect_ktls(&mut self, slot: u32) {
        self.over_ktls.insert(slot);
    }

    #[inline]
    fn push(&mut self, operation: &Operation, user_data: u64) {
        let entry = entry(operation, &self.descriptors, &mut self.sleeps);
        self.push_entry(&entry.user_data(user_data));
    }

    #[inline]
    #[expect(unsafe_code, reason = "the kernel is given addresses")]
    unsafe fn push_send(&mut self, slot: u32, from: SendFrom, mode: SendMode, user_data: u64) {
        let (mut send_flags, mut entry_flags) = flags(mode);
        if mode == SendMode::AtOnce && self.is_over_ktls(slot) {
            // SAFETY: the caller vouches for the addresses.
            let len = unsafe { from.len() };
            self.checked.insert(user_data, len as u32);
            send_flags &= !libc::MSG_WAITALL;
            entry_flags = squeue::Flags::empty();
        }
        let connection = Fd(self.descriptors[slot]);
        let entry = match from {
            SendFrom::Piece(piece) => {
                opcode::Send::new(connection, piece.iov_base.cast(), piece.iov_len as u32)
                    .flags(send_flags)
                    .build()
            }
            SendFrom::Gathered(header) => {
                opcode::SendMsg::new(connection, header).flags(send_flags.cast_unsigned()).build()
            }
        };
        self.push_entry(&entry.flags(entry_flags).user_data(user_data));
    }

    #[expect(unsafe_code, reason = "the kernel reads these entries")]
    #[expect(clippy::cast_ptr_alignment, reason = "a mapping is aligned to a page")]
    unsafe fn provide(&mut self, buffers: impl Iterator<Item = (u16, *mut u8)>, buffer_len: u32) {
        let entries = self.buffer_entries.as_mut_ptr().cast::<BufRingEntry>();
        let mut end = self.buffer_head;
        for (buffer, memory) in buffers {
            let at = usize::from(end % self.buffer_count);
            // SAFETY: `at` is below the number of entries, so the entry lies within the mapping,
            // which is aligned for it; the kernel reads and writes it only when it is entered.
            let entry = unsafe { &mut *entries.add(at) };
            entry.set_addr(memory as u64);
            entry.set_len(buffer_len);
            entry.set_bid(buffer);
            end = end.wrapping_add(1);
        }
        // SAFETY: the mapping starts with the first entry, whose reserved field is the tail; it is
        // aligned, and shared with the kernel only.
        unsafe {
            let tail = BufRingEntry::tail(entries);
            AtomicU16::from_ptr(tail.cast_mut()).store(end, Ordering::Release);
        }
    }

    #[expect(unsafe_code, reason = "the io-uring crate marks every enter so")]
    fn enter(&mut self, completions: &mut Vec<Completion>, mut may_wait: bool) -> io::Result<()> {
        completions.append(&mut self.collected);
        may_wait &= completions.is_empty();
        loop {
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            let entries = self.ring.submission().len() as u32;
            let wanted = mem::take(&mut may_wait).into();
            // SAFETY: no signal mask is given, and `push` made all entries.
            let entered = unsafe {
                let submitter = self.ring.submitter();
                submitter.enter::<libc::sigset_t>(entries, wanted, self.enter_flags, None)
            };
            self.heed(entered.err())?;
            self.collect(completions);
            // Sends at once are over when every entry is submitted, and their failures are known
            // when the kernel holds no completion back.
            let submission = self.ring.submission();
            if submission.is_empty() && !submission.cq_overflow() {
                break;
            }
        }
        if !self.checked.is_empty() {
            self.drop_whole_sends(completions);
        }
        self.sleeps.clear();
        Ok(())
    }
}

impl Uring {
    #[inline]
    #[expect(unsafe_code, reason = "the kernel is given addresses")]
    fn push_entry(&mut self, entry: &squeue::Entry) {
        // SAFETY: what a sleep points to is kept until it is submitted, nothing else of an operation
        // points anywhere, and for the addresses of a send the caller of `push_send` vouches.
        while unsafe { self.ring.submission().push(entry) }.is_err() && self.failure.is_none() {
            self.make_room();
        }
    }

    #[inline]
    fn is_over_ktls(&self, slot: u32) -> bool {
        !self.over_ktls.is_empty() && self.over_ktls.contains(&slot)
    }

    /// Drops the completions of sends at once that have sent everything. On a socket whose records the
    /// kernel seals, a send may not have `MSG_WAITALL`, so a short one counts as a success, and every
    /// send completes.
    #[cold]
    fn drop_whole_sends(&mut self, completions: &mut Vec<Completion>) {
        let Self { checked, .. } = self;
        completions.retain(|completion| match checked.get(&completion.user_data) {
            Some(len) => u32::try_from(completion.result) != Ok(*len),
            None => true,
        });
        checked.clear();
    }

    /// Submits what has been pushed, since the queue is full.
    #[cold]
    fn make_room(&mut self) {
        let submitted = self.ring.submit();
        if let Err(error) = self.heed(submitted.err()) {
            self.failure = Some(error);
            return;
        }
        let mut collected = mem::take(&mut self.collected);
        self.collect(&mut collected);
        self.collected = collected;
    }

    /// Lets an error of a call pass that is to be made again, unless too many came in a row.
    #[inline]
    fn heed(&mut self, error: Option<io::Error>) -> io::Result<()> {
        match error {
            None => self.passing_errors = 0,
            Some(error) if is_passing(&error) && self.passing_errors < PASSING_ERRORS_MAX => {
                self.passing_errors += 1;
            }
            Some(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes the completions that are there.
    #[inline]
    fn collect(&mut self, completions: &mut Vec<Completion>) {
        for entry in self.ring.completion() {
            let flags = entry.flags();
            if cqueue::buffer_select(flags).is_some() && !cqueue::buffer_more(flags) {
                self.buffer_head = self.buffer_head.wrapping_add(1);
            }
            completions.push(completion(&entry));
        }
    }
}

/// Whether a call is to be made again: it was interrupted, or what has completed is to be collected
/// before more can be submitted.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

#[inline]
fn completion(entry: &cqueue::Entry) -> Completion {
    Completion {
        user_data: entry.user_data(),
        result: entry.result(),
        buffer: cqueue::buffer_select(entry.flags()),
        goes_on: cqueue::more(entry.flags()),
    }
}

#[inline]
#[expect(clippy::vec_box, reason = "the kernel is given their addresses")]
fn entry(
    operation: &Operation,
    descriptors: &Segments<RawFd>,
    sleeps: &mut Vec<Box<Timespec>>,
) -> squeue::Entry {
    match *operation {
        Operation::Receive { slot, len_max } => {
            let connection = Fd(descriptors[slot]);
            limit_receive(opcode::RecvMulti::new(connection, BUFFER_GROUP).build(), len_max)
        }
        Operation::CancelReceive { target, .. } | Operation::CancelWait { target, .. } => {
            opcode::AsyncCancel::new(target).build()
        }
        Operation::Watch { descriptor, interest, .. } => {
            let events = match interest {
                Interest::Readable => libc::POLLIN,
                Interest::Writable => libc::POLLOUT,
            };
            opcode::PollAdd::new(Fd(descriptor), events.cast_unsigned().into()).build()
        }
        Operation::Sleep { duration } => {
            // The address is taken where the duration stays: a box that moves may not be pointed to.
            sleeps.push(Box::new(Timespec::from(duration)));
            let at = sleeps.len() - 1;
            opcode::Timeout::new(&raw const *sleeps[at]).build()
        }
    }
}

/// The flags for `send`, and those of its entry.
///
/// A send at once has `MSG_DONTWAIT`, so that the kernel never queues it, and `MSG_WAITALL`, which
/// makes a short send count as failed: failures complete, while successes are told not to. A patient
/// send has neither: it waits in the kernel for room and completes with what fitted, which shows that
/// a slow peer reads.
#[inline]
fn flags(mode: SendMode) -> (i32, squeue::Flags) {
    const AT_ONCE: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL;
    match mode {
        SendMode::AtOnce => (AT_ONCE | libc::MSG_NOSIGNAL, squeue::Flags::SKIP_SUCCESS),
        SendMode::Last => {
            (AT_ONCE | libc::MSG_NOSIGNAL | libc::MSG_MORE, squeue::Flags::SKIP_SUCCESS)
        }
        SendMode::Patient => (libc::MSG_NOSIGNAL, squeue::Flags::empty()),
    }
}

/// Limits a multishot receive to `len_max` bytes in all; 0 for no limit.
///
/// The kernel's name for the field is `optlen`. The io-uring crate has no way to set it.
#[inline]
#[expect(unsafe_code, reason = "the io-uring crate has no way to set this field")]
fn limit_receive(mut entry: squeue::Entry, len_max: u32) -> squeue::Entry {
    const OPTLEN_AT: usize = 44;
    const { assert!(size_of::<squeue::Entry>() == 64) };
    // SAFETY: an entry is 64 bytes of plain numbers in the layout of the kernel's interface.
    let bytes = unsafe { &mut *(&raw mut entry).cast::<[u8; 64]>() };
    bytes[OPTLEN_AT..OPTLEN_AT + 4].copy_from_slice(&len_max.to_ne_bytes());
    entry
}
