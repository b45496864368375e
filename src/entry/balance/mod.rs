//! Even cores: a connection goes to the worker that has the fewest.
//!
//! The kernel spreads connections over the listeners of a port by a hash, so some workers get
//! twice the share of others. Here the worker that accepts a connection assigns it: to the worker
//! with the fewest connections; among equals to itself, or else to the one with the lowest number.
//! Another worker finds the descriptor in its inbox and admits it as if it had accepted it. All of
//! this happens when connections begin and end; no message touches it.
//!
//! Its invariants: a worker's count is the number of its connections, those in its inbox included;
//! and whatever is put into an inbox is taken out of it. An inbox is therefore closed before its
//! worker looks into it for the last time, and that of a worker that died goes to its replacement.
//!
//! Assigning raises the count that was found lowest, provided that it has not changed since. As
//! long as connections only begin, the other counts can only have grown meanwhile, so it still is
//! the lowest: however many workers accept at once, n connections for each worker are exactly n.
//!
//! What is handed over, and how a worker is woken, are parameters: they are descriptors and streams
//! in a server, and numbers and counters where loom tries all orders of events (`model.rs`).

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;

use std::{
    io::{self, Write},
    mem,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{Arc, PoisonError},
};

#[cfg(not(loom))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, Ordering::Relaxed},
};

#[cfg(loom)]
use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, Ordering::Relaxed},
};

/// What the workers of a server know about each other.
#[derive(Debug)]
pub struct Balance<T = Accepted, W = UnixStream>(Box<[Seat<T, W>]>);

/// A worker's connections.
///
/// Apart from the others' in memory by two cache lines, since processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Seat<T, W> {
    /// How many there are, and whether more may be assigned: see [`CLOSED`].
    count: AtomicU32,
    inbox: Mutex<Inbox<T, W>>,
}

/// Set in a [`Seat::count`] while nobody reads the inbox. Descriptors are 31-bit numbers, so no
/// count reaches it.
const CLOSED: u32 = 1 << 31;

#[derive(Debug)]
struct Inbox<T, W> {
    /// Bounded by the descriptors that the process may have.
    waiting: Vec<T>,
    /// Told when the first connection waits, and dropped when the inbox is closed.
    waker: Option<W>,
}

/// A way to tell a worker that connections wait in its inbox.
pub trait WakeWorker {
    /// Tells it. It may be dying, and then its replacement looks into the inbox first.
    fn wake(&mut self);
}

impl WakeWorker for UnixStream {
    fn wake(&mut self) {
        // It fails when the worker is dying.
        let _ = self.write(&[1]);
    }
}

/// An accepted connection on its way to another worker.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub descriptor: OwnedFd,
    /// Its other end.
    pub peer: SocketAddr,
}

/// A worker's place in the balance.
#[derive(Debug)]
pub struct Member<T = Accepted, W = UnixStream> {
    balance: Arc<Balance<T, W>>,
    worker: usize,
}

impl Balance {
    /// Has a worker take part, which has no connections but those that wait in its inbox. It finds
    /// a byte in the stream when there are some, and the stream's end when there will be none.
    pub fn join(self: &Arc<Self>, worker: usize) -> io::Result<(Member, UnixStream)> {
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        Ok((self.join_with(worker, waker), woken))
    }
}

impl<T, W: WakeWorker> Balance<T, W> {
    /// For this many workers, none of which takes part yet.
    pub fn new(workers: usize) -> Self {
        let seat = || {
            let inbox = Inbox { waiting: Vec::new(), waker: None };
            Seat { count: AtomicU32::new(CLOSED), inbox: Mutex::new(inbox) }
        };
        Self((0..workers).map(|_| seat()).collect())
    }

    /// How many workers may take part.
    pub fn worker_count(&self) -> usize {
        self.0.len()
    }

    /// Has a worker take part, which is woken by `waker`.
    fn join_with(self: &Arc<Self>, worker: usize, waker: W) -> Member<T, W> {
        let seat = &self.0[worker];
        let mut inbox = seat.inbox();
        inbox.waker = Some(waker);
        seat.count.store(inbox.waiting.len() as u32, Relaxed);
        drop(inbox);
        Member { balance: self.clone(), worker }
    }

    /// Has nothing more assigned to a worker. To be called on its thread, or after its end.
    pub fn leave(&self, worker: usize) {
        let seat = &self.0[worker];
        let mut inbox = seat.inbox();
        seat.count.fetch_or(CLOSED, Relaxed);
        inbox.waker = None;
    }

    /// How many connections a worker has, those in its inbox included.
    pub fn connection_count(&self, worker: usize) -> u32 {
        self.0[worker].count.load(Relaxed) & !CLOSED
    }

    /// The worker to assign to and its count, for a connection that `acceptor` accepted.
    fn find_lowest(&self, acceptor: usize) -> (usize, u32) {
        let mut lowest = (acceptor, self.0[acceptor].count.load(Relaxed));
        for (worker, seat) in self.0.iter().enumerate() {
            let count = seat.count.load(Relaxed);
            if count & CLOSED == 0 && count < lowest.1 {
                lowest = (worker, count);
            }
        }
        lowest
    }
}

impl<T, W> Seat<T, W> {
    fn inbox(&self) -> MutexGuard<'_, Inbox<T, W>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more connection, unless the count is not `count` any more.
    fn raise(&self, count: u32) -> bool {
        self.count.compare_exchange(count, count + 1, Relaxed, Relaxed).is_ok()
    }
}

impl<T, W: WakeWorker> Inbox<T, W> {
    fn put(&mut self, accepted: T) {
        self.waiting.push(accepted);
        if let ([_], Some(waker)) = (&self.waiting[..], &mut self.waker) {
            waker.wake();
        }
    }
}

impl<T, W: WakeWorker> Member<T, W> {
    /// Assigns a connection that this worker accepted, and returns it if it stays here; if not,
    /// another worker gets what `release` makes of it.
    pub fn assign<C>(&self, connection: C, release: impl FnOnce(C) -> T) -> Option<C> {
        loop {
            let (worker, count) = self.balance.find_lowest(self.worker);
            let seat = &self.balance.0[worker];
            if worker == self.worker {
                if seat.raise(count) {
                    return Some(connection);
                }
            } else {
                // While it is locked the inbox can neither be closed nor start over.
                let mut inbox = seat.inbox();
                if seat.raise(count) {
                    inbox.put(release(connection));
                    return None;
                }
            }
        }
    }

    /// The connections that other workers have assigned to this one since the last call.
    pub fn take(&self) -> Vec<T> {
        mem::take(&mut self.seat().inbox().waiting)
    }

    /// One of this worker's connections has ended.
    pub fn connection_ended(&self) {
        let before = self.seat().count.fetch_sub(1, Relaxed);
        debug_assert_ne!(before & !CLOSED, 0, "every connection was assigned");
    }

    /// Has nothing more assigned to this worker. What is in its inbox is still to be taken.
    pub fn leave(&self) {
        self.balance.leave(self.worker);
    }

    fn seat(&self) -> &Seat<T, W> {
        &self.balance.0[self.worker]
    }
}
