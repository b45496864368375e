//! A timer that is finer than monoio's, whose wheel turns once a millisecond.
//!
//! It is a timer descriptor, for which neither `io_uring` nor epoll adds slack to what the kernel's
//! high-resolution timers do. Asking for readiness, instead of reading, works on both drivers.

use std::{io, os::fd::AsFd, time::Duration};

use monoio::net::UnixStream;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A timer for one task at a time.
#[derive(Debug)]
pub(crate) struct FineTimer {
    timer: TimerFd,
    /// The same timer as something whose readiness monoio can wait for. It is never read from, so
    /// it does not matter that it is no socket.
    readiness: UnixStream,
}

impl FineTimer {
    /// A timer on the runtime of this thread.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let readiness = UnixStream::from_std(timer.as_fd().try_clone_to_owned()?.into())?;
        Ok(Self { timer, readiness })
    }

    /// Waits for at least `duration`, which has to be longer than zero.
    pub(crate) async fn sleep(&self, duration: Duration) -> io::Result<()> {
        // This also takes back the readiness of the time before.
        self.timer.set(Expiration::OneShot(duration.into()), TimerSetTimeFlags::empty())?;
        self.readiness.readable(false).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use monoio::{FusionDriver, LegacyDriver, RuntimeBuilder};

    use super::*;

    /// Sleeps twice, so that what is left of the first time would end the second one early.
    async fn sleep_twice() {
        let timer = FineTimer::new().unwrap();
        for duration in [Duration::from_micros(30), Duration::from_millis(3)] {
            let begun = Instant::now();
            timer.sleep(duration).await.unwrap();
            assert!(begun.elapsed() >= duration);
        }
    }

    #[test]
    fn sleep_is_never_too_short_on_either_driver() {
        RuntimeBuilder::<FusionDriver>::new().build().unwrap().block_on(sleep_twice());
        RuntimeBuilder::<LegacyDriver>::new().build().unwrap().block_on(sleep_twice());
    }
}
