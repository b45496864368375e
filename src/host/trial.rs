//! Whether what monoio waits with works: not asked for, but tried.
//!
//! It is not enough that a ring can be made: what is submitted to it has to complete, and that has to
//! wake who waits in it. A filter may forbid each system call by itself, and monoio ignores that: it
//! would submit again and again what cannot be submitted. The load generator uses this too.
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

const ENTRIES: u32 = 8;

/// How long something that has happened may take to be noticed.
const WAKE_UP_MAX_MS: u16 = 1000;

/// How often a byte is received.
const ROUNDS: u8 = 3;

/// Where it is received to: also after a ring that did not do it in time is gone.
static RECEIVED: AtomicU8 = AtomicU8::new(0);

/// Receives some bytes on a ring with these flags, each while it waits for it.
pub fn try_ring(flags: &Builder) -> io::Result<()> {
    // One at a time, since all receive to the same place.
    static TRYING: Mutex<()> = Mutex::new(());
    let _trying = TRYING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ring = flags.build(ENTRIES)?;
    ring.submitter().register_probe(&mut Probe::new())?;
    let Ok((peer, socket)) = UnixStream::pair() else {
        // Nothing but what is without it is known.
        return ring.submit().map(|_| ());
    };
    for byte in 1..=ROUNDS {
        submit_receive(&mut ring, &socket)?;
        // Not by sendto, which the ring does not need.
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
    // SAFETY: the byte that is received to is there for as long as the process, and is atomic; the
    // socket is open until the ring has taken the entry, which is before this returns.
    unsafe { ring.submission().push(&receive) }.map_err(io::Error::other)?;
    ring.submit().map(|_| ())
}

/// Waits for a completion as monoio does.
fn wait(ring: &IoUring) -> io::Result<()> {
    // Before Linux 5.11 a wait has no limit.
    if !ring.params().is_feature_ext_arg() {
        return ring.submit_and_wait(1).map(|_| ());
    }
    let limit = Timespec::from(Duration::from_millis(WAKE_UP_MAX_MS.into()));
    let arguments = SubmitArgs::new().timespec(&limit);
    ring.submitter().submit_with_args(1, &arguments).map(|_| ())
}

/// Waits as a runtime on epoll does, which would not notice that it cannot.
pub fn try_epoll() -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let Ok((peer, socket)) = UnixStream::pair() else {
        // Nothing is known against it.
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
