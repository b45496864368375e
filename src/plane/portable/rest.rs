//! Waiting until this thread has waited: a task that goes on only after the runtime has been at rest,
//! when it asks the kernel for what has happened to all others.
//!
//! monoio submits operations while tasks are left that can go on, and takes the completions that come at
//! once. A ring with deferred task running delivers the others only when the thread waits in it. Tasks
//! that wake each other, as those of a connection and of its streams do, could go on for ever without
//! that: what they read and write completes at once. So they rest here now and then, and what wakes
//! them is itself a completion that comes only when the thread waits.
//!
//! One task at a time waits for that completion, and those that rest meanwhile wait for that task: on
//! epoll monoio wakes only the last of the tasks that wait for one socket, and the others never.

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::poll_fn,
    io::{self, Read, Write},
    os::unix::net::UnixStream as StdUnixStream,
    pin::pin,
    task::{Poll, Waker},
};

use monoio::net::UnixStream;
use slab::Slab;

use crate::connection::let_others_go_on;

/// A worker's way to rest.
#[derive(Default)]
pub(super) struct Rest {
    streams: OnceCell<Streams>,
    /// A task waits for the kernel.
    has_leader: Cell<bool>,
    /// How many have done so.
    rounds: Cell<u64>,
    /// Tasks that wait for the one which does.
    followers: RefCell<Slab<Waker>>,
}

/// A task that waits for the kernel. When this is dropped, its followers go on.
struct Leader<'a>(&'a Rest);

/// A task that waits for another, and its place among the others that do.
struct Follower<'a> {
    rest: &'a Rest,
    key: Option<usize>,
}

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
        if self.has_leader.replace(true) {
            return self.follow().await;
        }
        let _leader = Leader(self);
        if self.streams.get().is_none()
            && let Ok(streams) = Streams::new()
        {
            let _ = self.streams.set(streams);
        }
        let rested = match self.streams.get() {
            Some(streams) => streams.rest().await,
            None => Err(io::ErrorKind::Other.into()),
        };
        // Without a descriptor for it, others have their turn as far as they can go on.
        if rested.is_err() {
            let_others_go_on().await;
        }
    }

    /// Waits until the task that waits for the kernel has done so, or is gone.
    async fn follow(&self) {
        let round = self.rounds.get();
        let mut place = Follower { rest: self, key: None };
        poll_fn(|context| {
            if self.rounds.get() != round {
                return Poll::Ready(());
            }
            place.be_woken_by(context.waker());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let Self(rest) = self;
        rest.has_leader.set(false);
        rest.rounds.set(rest.rounds.get() + 1);
        for (_, follower) in &*rest.followers.borrow() {
            follower.wake_by_ref();
        }
    }
}

impl Follower<'_> {
    fn be_woken_by(&mut self, waker: &Waker) {
        let mut followers = self.rest.followers.borrow_mut();
        match self.key {
            Some(key) => followers[key].clone_from(waker),
            None => self.key = Some(followers.insert(waker.clone())),
        }
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.rest.followers.borrow_mut().remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{rc::Rc, time::Duration};

    use futures_util::future::{FutureExt, join_all};

    use super::*;
    use crate::host::runtime;

    /// Each is a task of its own, with a waker of its own.
    #[test]
    fn tasks_that_rest_at_once_all_go_on_also_if_the_first_is_gone() {
        let mut runtime = runtime::build_on_epoll().unwrap();
        runtime.block_on(async {
            for is_first_gone in [false, true] {
                let rest = Rc::<Rest>::default();
                let mut first = Box::pin(rest.rest());
                assert!(first.as_mut().now_or_never().is_none());
                let tasks: Vec<_> = (0..5)
                    .map(|_| {
                        let rest = rest.clone();
                        monoio::spawn(async move { rest.rest().await })
                    })
                    .collect();
                let_others_go_on().await;
                if is_first_gone {
                    drop(first);
                } else {
                    first.await;
                }
                let all = monoio::time::timeout(Duration::from_secs(20), join_all(tasks)).await;
                all.expect("nobody is forgotten");
                assert!(rest.followers.borrow().is_empty());
            }
        });
    }
}
