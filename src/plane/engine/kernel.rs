//! The kernel as the engine sees it: operations go in, completions come out. [`super::uring`] and
//! [`super::epoll`] are two ways to the real one; the tests have one that completes late, short, in any
//! order, or not at all.

use std::{
    io,
    net::Shutdown,
    os::fd::{BorrowedFd, RawFd},
    time::Duration,
};

use nix::errno::Errno;
use socket2::SockRef;

/// What the kernel can be asked to do that needs none of our memory.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Receive on the connection in a slot into provided buffers, again and again, completing each
    /// time, until `len_max` bytes are received (0: without end), the peer ends its side, or no
    /// buffer is left. A kernel may count the bytes anew each time that it finds nothing more; all
    /// receives have the same `len_max`.
    Receive { slot: u32, len_max: u32 },
    /// Complete as soon as a descriptor, which is in no slot, is ready for this. If the descriptor is
    /// closed before the next enter, the watch is to be cancelled before it too. No other watch that
    /// is under way has this `place`.
    Watch { place: u32, descriptor: RawFd, interest: Interest },
    /// Complete once `duration` has passed.
    Sleep { duration: Duration },
    /// End the receive in a slot that was pushed with the user data `target`.
    CancelReceive { slot: u32, target: u64 },
    /// End the watch at `place`, or the sleep, that was pushed with the user data `target`.
    CancelWait { place: u32, target: u64 },
}

/// Where the bytes of a send lie.
#[derive(Clone, Copy, Debug)]
pub enum SendFrom {
    /// In one piece.
    Piece(libc::iovec),
    /// In the pieces of a header for `sendmsg`.
    Gathered(*const libc::msghdr),
}

impl SendFrom {
    /// Bytes in all pieces.
    ///
    /// # Safety
    ///
    /// The header, if there is one, and its pieces are where they say.
    #[expect(unsafe_code, reason = "a header for sendmsg is an address")]
    pub unsafe fn len(&self) -> usize {
        match self {
            Self::Piece(piece) => piece.iov_len,
            Self::Gathered(header) => {
                // SAFETY: the caller vouches for the addresses.
                let pieces = unsafe {
                    std::slice::from_raw_parts((**header).msg_iov, (**header).msg_iovlen)
                };
                pieces.iter().map(|piece| piece.iov_len).sum()
            }
        }
    }
}

/// What a descriptor is to become ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Reading, or accepting.
    Readable,
    /// Writing.
    Writable,
}

/// How a send treats a socket that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendMode {
    /// It sends what the socket takes, and is over before [`Kernel::enter`] returns; it completes
    /// only if that was not all.
    AtOnce,
    /// The same. The last bytes wait for the [end of the server's side](Kernel::end_sending), which is
    /// to follow within a turn, so that the peer is sent both in one segment.
    Last,
    /// It waits until the peer has made room, sends what there is room for, and completes in any
    /// case.
    Patient,
}

/// What has become of an operation, as in `io_uring_cqe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The user data that the operation was pushed with.
    pub user_data: u64,
    /// A number of bytes, or a negated error.
    pub result: i32,
    /// The buffer that was received into; none if nothing was.
    pub buffer: Option<u16>,
    /// The operation goes on, and completes again.
    pub goes_on: bool,
}

impl Completion {
    /// The only or last completion of an operation that received into no buffer.
    #[inline]
    pub(super) fn last(user_data: u64, result: Result<usize, Errno>) -> Self {
        let result = match result {
            // The kernel moves less than 2 GiB in a call.
            Ok(len) => (len as u32).cast_signed(),
            Err(errno) => -(errno as i32),
        };
        Self { user_data, result, buffer: None, goes_on: false }
    }
}

/// The kernel. What is pushed may happen at once, and has happened, as far as it can, when
/// [`enter`](Self::enter) returns, which alone shows what has completed.
///
/// Every kernel completes operations alike:
///
/// - A receive takes the provided buffers in their order and fills each from its front, for whichever
///   connection has bytes. Its completion has the buffer and the number of bytes; without a buffer,
///   and not an error, it is the peer's end. It ends with `ENOBUFS` where no buffer is left.
/// - A send at once, as the last one is too, completes only if it was short (with the bytes that were
///   sent, or `EAGAIN`) or failed; a patient send completes each time.
/// - A watch completes once. A descriptor may be watched for both interests at a time; of its watches for
///   the same interest all but the last are being cancelled.
/// - A sleep completes with `ETIME`.
/// - What is cancelled completes with `ECANCELED`, unless it has completed before. The cancellation
///   may have a completion of its own.
pub trait Kernel: 'static {
    /// Puts a descriptor, or none, into a slot.
    fn register(&mut self, slot: u32, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()>;

    /// Says of a slot that has just been registered that the kernel seals the records of its
    /// connection (kTLS), where that makes a difference to how it is asked to send.
    fn expect_ktls(&mut self, _slot: u32) {}

    /// Ends a connection in both directions, at once.
    fn shut_down(&mut self, descriptor: BorrowedFd<'_>) {
        // A connection that is broken already cannot be shut down, and need not be.
        let _ = SockRef::from(&descriptor).shutdown(Shutdown::Both);
    }

    /// Ends a connection's sending side behind what has been sent.
    fn end_sending(&mut self, descriptor: BorrowedFd<'_>) {
        // A connection that is broken already cannot be shut down; its receive says that it is.
        let _ = SockRef::from(&descriptor).shutdown(Shutdown::Write);
    }

    /// Asks for an operation.
    fn push(&mut self, operation: &Operation, user_data: u64);

    /// Asks for bytes to be sent on the connection in a slot.
    ///
    /// # Safety
    ///
    /// The pieces, and the header if there is one, stay where they are and unchanged until the next
    /// [`enter`](Self::enter) returns or, if the send is patient, until it has completed.
    #[expect(unsafe_code, reason = "the kernel is given addresses")]
    unsafe fn push_send(&mut self, slot: u32, from: SendFrom, mode: SendMode, user_data: u64);

    /// Provides buffers to receive into, in this order, each a number and the address of
    /// `buffer_len` bytes. They replace all that were provided before.
    ///
    /// # Safety
    ///
    /// The memory outlives the kernel, and until buffers are provided again nobody else touches
    /// what has not been received into.
    #[expect(unsafe_code, reason = "the kernel is given memory")]
    unsafe fn provide(&mut self, buffers: impl Iterator<Item = (u16, *mut u8)>, buffer_len: u32);

    /// Does everything that was asked for, as far as it can be done, and collects what has completed,
    /// including all received bytes. If it may wait, it returns when something has completed or a
    /// signal came.
    fn enter(&mut self, completions: &mut Vec<Completion>, may_wait: bool) -> io::Result<()>;
}
