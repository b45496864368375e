//! Looking for what has happened without going to sleep.

use std::{cell::Cell, future::ready, io, os::fd::OwnedFd, time::Duration};

use monoio::net::UnixStream;
use nix::sys::eventfd::EventFd;

use super::fine_timer::FineTimer;

/// On epoll, one of this many polls sleeps, for [`SLEEP`]: a shorter time would be over before the
/// sleep begins.
const POLLS_PER_SLEEP: u32 = 64;
const SLEEP: Duration = Duration::from_micros(10);

/// A way around the sleep of this thread's runtime, for one spawned task.
#[derive(Debug)]
pub(crate) enum BusyPoll {
    /// On `io_uring`, a task that merely yields would keep the runtime from asking for completions;
    /// waiting for a descriptor that is always ready has it ask for all that are there. It is never
    /// read from, so it does not matter that it is no socket.
    IoUring { always_ready: UnixStream },
    /// On epoll, what is always ready is not waited for, but a task that waits for the end of another
    /// has the runtime ask. (One that wakes itself would run before all others, again and again.)
    /// The runtime looks at its own timers only when it sleeps, so now and then it has to.
    Epoll { timer: FineTimer, polls: Cell<u32> },
}

impl BusyPoll {
    /// One for the runtime of this thread.
    pub(crate) fn new() -> io::Result<Self> {
        if monoio::utils::is_legacy() {
            return Ok(Self::Epoll { timer: FineTimer::new()?, polls: Cell::new(0) });
        }
        let always_ready = OwnedFd::from(EventFd::from_value(1)?);
        Ok(Self::IoUring { always_ready: UnixStream::from_std(always_ready.into())? })
    }

    /// Lets the other tasks handle everything that has happened, and then returns.
    pub(crate) async fn once(&self) -> io::Result<()> {
        match self {
            Self::IoUring { always_ready } => always_ready.readable(false).await,
            Self::Epoll { timer, polls } => {
                polls.set(polls.get().wrapping_add(1));
                if polls.get().is_multiple_of(POLLS_PER_SLEEP) {
                    return timer.sleep(SLEEP).await;
                }
                monoio::spawn(ready(())).await;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, rc::Rc};

    use monoio::{LegacyDriver, RuntimeBuilder, io::AsyncReadRent, time::sleep};

    use super::*;
    use crate::drive::runtime::build_runtime;

    /// Polls until another task has received a byte, which was sent by hand between two polls, and
    /// until yet another has slept.
    async fn poll_until_received_and_slept(poll: BusyPoll) {
        let (mut peer, stream) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut stream = UnixStream::from_std(stream).unwrap();
        let received = Rc::new(Cell::new(false));
        let seen = Rc::clone(&received);
        monoio::spawn(async move {
            assert_eq!(stream.read(vec![0; 1]).await.0.unwrap(), 1);
            received.set(true);
        });
        for _ in 0..10 {
            poll.once().await.unwrap();
            assert!(!seen.get());
        }
        peer.write_all(b"?").unwrap();
        while !seen.get() {
            poll.once().await.unwrap();
        }
        let slept = Rc::new(Cell::new(false));
        let seen = Rc::clone(&slept);
        monoio::spawn(async move {
            sleep(Duration::from_millis(1)).await;
            slept.set(true);
        });
        while !seen.get() {
            poll.once().await.unwrap();
        }
    }

    #[test]
    fn others_go_on_while_a_task_polls_on_either_driver() {
        build_runtime().unwrap().block_on(async {
            monoio::spawn(poll_until_received_and_slept(BusyPoll::new().unwrap())).await;
        });
        let mut epoll = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build().unwrap();
        epoll.block_on(async {
            let (timer, polls) = (FineTimer::new().unwrap(), Cell::new(0));
            monoio::spawn(poll_until_received_and_slept(BusyPoll::Epoll { timer, polls })).await;
        });
    }
}
