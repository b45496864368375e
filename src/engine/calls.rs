//! What calls the worker away while its engine waits in its own ring: one descriptor for all else
//! that its thread waits for.
//!
//! An epoll instance, since that lets go of a descriptor when it is closed: a listener that the
//! ring itself waited for would stay open until then.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};

/// Descriptors that call when they are readable, and a timer.
pub struct Calls {
    epoll: Epoll,
    timer: TimerFd,
}

impl Calls {
    /// Nobody calls yet.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        let calls = Self { epoll, timer };
        calls.add(&calls.timer)?;
        Ok(calls)
    }

    /// As long as it is open, `descriptor` calls while it is readable.
    pub fn add(&self, descriptor: impl AsFd) -> io::Result<()> {
        Ok(self.epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, 0))?)
    }

    /// Has the timer call once this has passed, and not before.
    pub(super) fn call_after(&self, duration: Duration) -> io::Result<()> {
        let expiration = Expiration::OneShot(duration.into());
        Ok(self.timer.set(expiration, TimerSetTimeFlags::empty())?)
    }
}

/// It is readable while there is a call.
impl AsFd for Calls {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}
