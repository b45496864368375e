//! Trials of the two ways of waiting, a ring and epoll. Whether they work is tried, not looked up.
//!
//! A ring that can be made is not enough: an operation that is submitted to it has to complete, and
//! the completion has to wake the thread that waits in the ring. A filter may forbid each system
//! call by itself, and monoio ignores such an error: it would submit the same operation again and
//! again. The load generator uses this too.
#![expect(unsafe_code, reason = "the kernel writes what a ring receives")]

use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use io_uring_monoio::{
    Builder, IoUring, Probe, opcode,
    types::{Fd, SubmitArgs, Timespec},
};
use nix::{
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    unistd::write,
};

/// What an operator does to have `io_uring` where it is forbidden.
pub const HOW_TO_ALLOW_RINGS: &str = "allow io_uring_setup, io_uring_enter and io_uring_register in \
                                      the container's seccomp profile, or set \
                                      kernel.io_uring_disabled=0";

const ENTRIES: u32 = 8;

/// How long a wake-up may take, in milliseconds.
const WAKE_UP_MAX_MS: u16 = 1000;

/// Bytes that a trial receives, one after the other.
const ROUNDS: u8 = 3;

/// The byte that a trial receives into. It is static, because the kernel may write to it after a
/// ring that was too slow is gone.
static RECEIVED: AtomicU8 = AtomicU8::new(0);

/// Tries a ring with these flags: receives some bytes, and waits in the ring for each.
pub fn try_ring(flags: &Builder) -> io::Result<()> {
    // Trials run one at a time, since all receive into the same byte.
    static TRYING: Mutex<()> = Mutex::new(());
    let _trying = TRYING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ring = flags.build(ENTRIES)?;
    ring.submitter().register_probe(&mut Probe::new())?;
    let Ok((peer, socket)) = UnixStream::pair() else {
        // Without a pair of sockets, only an empty submission can be tried.
        return ring.submit().map(|_| ());
    };
    for byte in 1..=ROUNDS {
        submit_receive(&mut ring, &socket)?;
        // sendto is avoided: a filter may forbid it, and the ring does not need it.
        write(&peer, &[byte])?;
        wait(&ring)?;
        let completion = ring.completion().next();
        if completion.is_none_or(|completion| completion.result() != 1)
            || RECEIVED.load(Relaxed) != byte
        {
            return Err(io::Error::other("a receive did not complete"));
        }
    }
    Ok(())
}

fn submit_receive(ring: &mut IoUring, socket: &UnixStream) -> io::Result<()> {
    let receive = opcode::Recv::new(Fd(socket.as_raw_fd()), RECEIVED.as_ptr(), 1).build();
    // SAFETY: the byte that is received into is static and atomic; the socket is open until the
    // ring has taken the entry, which is before this returns.
    unsafe { ring.submission().push(&receive) }.map_err(io::Error::other)?;
    ring.submit().map(|_| ())
}

/// Waits for a completion as monoio does.
fn wait(ring: &IoUring) -> io::Result<()> {
    // Before Linux 5.11 a wait cannot have a time limit.
    if !ring.params().is_feature_ext_arg() {
        return ring.submit_and_wait(1).map(|_| ());
    }
    let limit = Timespec::from(Duration::from_millis(WAKE_UP_MAX_MS.into()));
    let arguments = SubmitArgs::new().timespec(&limit);
    ring.submitter().submit_with_args(1, &arguments).map(|_| ())
}

/// Tries epoll: has it report of a descriptor, and waits for the report.
pub fn try_epoll() -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let Ok((peer, socket)) = UnixStream::pair() else {
        // Without a pair of sockets nothing can be tried, so epoll is assumed to work.
        return Ok(());
    };
    epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
    write(&peer, b"?")?;
    match epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::from(WAKE_UP_MAX_MS))? {
        0 => Err(io::Error::other("a wake-up is lost")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_waiting_are_tried_with_success_where_they_work() {
        try_epoll().unwrap();
        try_ring(&IoUring::builder()).unwrap();
    }
}
