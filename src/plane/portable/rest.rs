//! Waiting until this thread has waited: a task that goes on only after the runtime has been at rest,
//! when it asks the kernel for what has happened to all others.
//!
//! monoio submits operations while tasks are left that can go on, and takes the completions that come at
//! once. A ring with deferred task running delivers the others only when the thread waits in it. Tasks
//! that wake each other, as those of a connection and of its streams do, could go on for ever without
//! that: what they read and write completes at once. So they rest here now and then, and what wakes
//! them is itself a completion that comes only when the thread waits.

use std::{
    cell::OnceCell,
    io::{self, Read, Write},
    os::unix::net::UnixStream as StdUnixStream,
    pin::pin,
};

use monoio::net::UnixStream;

use crate::connection::let_others_go_on;

/// A worker's way to rest.
#[derive(Default)]
pub(super) struct Rest(OnceCell<Streams>);

struct Streams {
    /// Is written to, and the other end is waited for.
    signal: StdUnixStream,
    signalled: UnixStream,
    /// The other end once more, to be read from.
    drain: StdUnixStream,
    /// Is readable at any time, since the other end is closed.
    ended: UnixStream,
}

impl Streams {
    fn new() -> io::Result<Self> {
        let (signal, signalled) = StdUnixStream::pair()?;
        let (ended, other) = StdUnixStream::pair()?;
        drop(other);
        for stream in [&signal, &signalled, &ended] {
            stream.set_nonblocking(true)?;
        }
        let drain = signalled.try_clone()?;
        let (signalled, ended) = (UnixStream::from_std(signalled)?, UnixStream::from_std(ended)?);
        Ok(Self { signal, signalled, drain, ended })
    }

    async fn rest(&self) -> io::Result<()> {
        let mut signalled = pin!(self.signalled.readable(false));
        if futures_util::poll!(signalled.as_mut()).is_pending() {
            // Operations are submitted in order. When this one is over, the kernel has the other one, and
            // does not complete it at once any more.
            self.ended.readable(false).await?;
            // A socket that takes no byte has one already.
            let _ = (&self.signal).write(&[1]);
            signalled.await?;
        }
        while (&self.drain).read(&mut [0; 64]).is_ok_and(|len| len > 0) {}
        Ok(())
    }
}

impl Rest {
    /// Waits until this thread has waited in the kernel.
    pub(super) async fn rest(&self) {
        if self.0.get().is_none()
            && let Ok(streams) = Streams::new()
        {
            let _ = self.0.set(streams);
        }
        let rested = match self.0.get() {
            Some(streams) => streams.rest().await,
            None => Err(io::ErrorKind::Other.into()),
        };
        // Without a descriptor for it, others have their turn as far as they can go on.
        if rested.is_err() {
            let_others_go_on().await;
        }
    }
}
