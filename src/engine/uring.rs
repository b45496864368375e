//! The real kernel: one `io_uring` and its provided-buffer ring.
//!
//! Task work is deferred, so the kernel writes into our memory only inside of `io_uring_enter`.
//! Buffers are consumed incrementally (`IOU_PBUF_RING_INC`, Linux 6.12): the kernel fills one from
//! front to back, for whichever connection has bytes, before it takes the next. A receive that waits
//! holds none, and a multishot one is never left to one of the kernel's threads, so that between two
//! calls nobody looks at the queue of buffers, and it can be written anew.

use std::{
    io, mem,
    net::Shutdown,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{
    IoUring, cqueue, opcode, squeue,
    types::{BufRingEntry, Fd, Fixed},
};
use memmap2::MmapMut;
use nix::{errno::Errno, sys::eventfd::EventFd};
use socket2::SockRef;

use super::kernel::{Completion, Kernel, Operation, SendMode};

/// Entries of the submission queue. When they are used up they are submitted before the turn ends.
///
/// No flag sets it: the call that this takes is one for each 1024 sends.
const SUBMISSION_ENTRIES: u32 = 1024;

/// Entries of the completion queue; the kernel keeps what does not fit until there is room.
///
/// No flag sets it: successful sends do not complete, so it takes 8192 receives to fill it in one
/// turn, and what is left over costs the turn one call more. From Linux 6.13 on the kernel deals
/// with few of the connections that have become ready in one call, and it stays far from full.
const COMPLETION_ENTRIES: u32 = 8192;

/// The only group of provided buffers.
const BUFFER_GROUP: u16 = 0;

/// `IOU_PBUF_RING_INC` of the kernel's interface.
const INCREMENTAL: u16 = 2;

/// The kernel behind an `io_uring` of this thread.
pub struct Uring {
    // Dropped first: the kernel must let go of the buffer entries before they are unmapped.
    ring: IoUring,
    /// What the kernel reads to find a free buffer: an entry for each, and the tail.
    buffer_entries: MmapMut,
    buffer_count: u16,
    /// The entry that the kernel is at: as many as it has taken and does not go on with.
    buffer_head: u16,
}

impl Uring {
    /// A ring with `slots` for connections and a queue of `buffer_count` provided buffers, a power
    /// of two; it writes to `wake` when there is something to collect.
    #[expect(unsafe_code, reason = "the kernel is given memory of ours")]
    pub(super) fn new(slots: u32, buffer_count: u16, wake: &EventFd) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETION_ENTRIES)
            .build(SUBMISSION_ENTRIES)?;
        ring.submitter().register_files_sparse(slots)?;
        ring.submitter().register_eventfd(wake.as_fd().as_raw_fd())?;
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
        Ok(Self { ring, buffer_entries, buffer_count, buffer_head: 0 })
    }
}

impl Kernel for Uring {
    fn register(&mut self, slot: u32, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let descriptor = descriptor.map_or(-1, |descriptor| descriptor.as_raw_fd());
        self.ring.submitter().register_files_update(slot, &[descriptor]).map(drop)
    }

    fn shut_down(&mut self, descriptor: BorrowedFd<'_>) {
        // It fails on a connection that is broken already, which is as good.
        let _ = SockRef::from(&descriptor).shutdown(Shutdown::Both);
    }

    #[inline]
    #[expect(unsafe_code, reason = "operations point to memory")]
    unsafe fn push(&mut self, operation: &Operation, user_data: u64) {
        let entry = entry(operation).user_data(user_data);
        loop {
            // SAFETY: the caller vouches for what the operation points to.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // The queue is full, and submitting empties it.
            let _ = self.ring.submit();
        }
    }

    #[expect(unsafe_code, reason = "the kernel reads these entries")]
    #[expect(clippy::cast_ptr_alignment, reason = "a mapping is aligned to a page")]
    unsafe fn provide(&mut self, buffers: impl Iterator<Item = (u16, *mut u8)>, buffer_len: u32) {
        let entries = self.buffer_entries.as_mut_ptr().cast::<BufRingEntry>();
        let mut end = self.buffer_head;
        for (buffer, memory) in buffers {
            let at = usize::from(end % self.buffer_count);
            // SAFETY: `at` is below the number of entries, so the entry lies within the mapping,
            // which is aligned for it; the kernel reads it only when it is entered.
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
        const GET_EVENTS: u32 = 1;
        loop {
            let entries = self.ring.submission().len() as u32;
            let wanted = mem::take(&mut may_wait).into();
            // SAFETY: no signal mask is given, and `push` made all entries.
            let entered = unsafe {
                self.ring.submitter().enter::<libc::sigset_t>(entries, wanted, GET_EVENTS, None)
            };
            match entered.map_err(|error| (error.raw_os_error().map(Errno::from_raw), error)) {
                // After EBUSY and EAGAIN, what has completed is to be collected before more can be
                // submitted.
                Ok(_) | Err((Some(Errno::EINTR | Errno::EBUSY | Errno::EAGAIN), _)) => {}
                Err((_, error)) => return Err(error),
            }
            for entry in self.ring.completion() {
                let flags = entry.flags();
                if cqueue::buffer_select(flags).is_some() && !cqueue::buffer_more(flags) {
                    self.buffer_head = self.buffer_head.wrapping_add(1);
                }
                completions.push(completion(&entry));
            }
            // Sends at once are over only when every entry is submitted, and whether they failed
            // is known only when the kernel holds nothing back.
            let submission = self.ring.submission();
            if submission.is_empty() && !submission.cq_overflow() {
                return Ok(());
            }
        }
    }

    fn announce(&mut self, enabled: bool) {
        let completion = self.ring.completion();
        if enabled {
            completion.enable_eventfd();
        } else {
            completion.disable_eventfd();
        }
    }
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
fn entry(operation: &Operation) -> squeue::Entry {
    match *operation {
        Operation::Receive { slot, len_max } => {
            limit_receive(opcode::RecvMulti::new(Fixed(slot), BUFFER_GROUP).build(), len_max)
        }
        Operation::Send { slot, piece, mode } => {
            let (message_flags, entry_flags) = flags(mode);
            opcode::Send::new(Fixed(slot), piece.iov_base.cast(), piece.iov_len as u32)
                .flags(message_flags)
                .build()
                .flags(entry_flags)
        }
        Operation::SendMessage { slot, header, mode } => {
            let (message_flags, entry_flags) = flags(mode);
            opcode::SendMsg::new(Fixed(slot), header)
                .flags(message_flags.cast_unsigned())
                .build()
                .flags(entry_flags)
        }
        Operation::Cancel { target } => opcode::AsyncCancel::new(target).build(),
        Operation::Watch { descriptor } => {
            const READABLE: u32 = libc::POLLIN as u32;
            opcode::PollAdd::new(Fd(descriptor), READABLE).build()
        }
    }
}

/// With `MSG_DONTWAIT` a send is never queued, and with `MSG_WAITALL` a short one counts as
/// failed, so that it completes although successful ones are told not to. Without either it waits
/// in the kernel for room, and completes with what that took, so that a slow peer is seen to read.
#[inline]
fn flags(mode: SendMode) -> (i32, squeue::Flags) {
    const AT_ONCE: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL;
    match mode {
        SendMode::AtOnce => (AT_ONCE | libc::MSG_NOSIGNAL, squeue::Flags::SKIP_SUCCESS),
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
