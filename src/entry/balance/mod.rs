//! Even load: a connection goes to the worker that has the fewest.
//!
//! The kernel spreads connections over the listeners of a port by a hash, so some workers get twice
//! the share of others. Here the worker that accepts a connection assigns it to the worker with the
//! fewest connections. Among equals it prefers itself, then the lowest number. Another worker finds
//! the descriptor in its inbox, and admits the connection as if it had accepted it. All of this
//! happens when connections begin and end; no message costs anything.
//!
//! Its invariants: a worker's count is the number of its connections, those in its inbox included;
//! and whatever is put into an inbox is taken out of it. An inbox is therefore closed before its
//! worker looks into it for the last time, and a dead worker's inbox goes to its replacement.
//!
//! Assigning finds the lowest count and raises it only if it has not changed meanwhile; otherwise
//! it looks again. While connections only begin, the other counts can only grow, so the count that
//! is raised is still the lowest: however many workers accept at once, each of w workers gets
//! exactly n of n times w connections.
//!
//! The type of a handed-over connection and that of a waker are parameters: descriptors and streams
//! in a server, numbers and counters where loom tries all orders of events (`model.rs`).

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;

use std::{
    io::{self, Write},
    mem,
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

#[cfg(not(loom))]
use super::{admission::Ticket, arrival::Arrival};

/// Under loom connections are numbers.
#[cfg(loom)]
type Ticket = ();
#[cfg(loom)]
type Arrival = ();

/// The seats of all workers of a server, by the worker's number.
#[derive(Debug)]
pub struct Balance<T = Accepted, W = UnixStream>(Box<[Seat<T, W>]>);

/// A worker's connections: their number, and those that wait to be admitted.
///
/// Seats lie two cache lines apart, so that workers do not slow each other down: processors fetch
/// lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Seat<T, W> {
    /// The number of connections, with [`CLOSED`] set while no more may be assigned.
    count: AtomicU32,
    inbox: Mutex<Inbox<T, W>>,
}

/// Set in a [`Seat::count`] while nobody reads the inbox. Descriptors are 31-bit numbers, so no
/// count reaches this bit.
const CLOSED: u32 = 1 << 31;

#[derive(Debug)]
struct Inbox<T, W> {
    /// Connections to be admitted, bounded by the process's limit on descriptors.
    waiting: Vec<T>,
    /// Woken when the first connection waits, and dropped when the inbox is closed.
    waker: Option<W>,
}

/// A way to tell a worker that connections wait in its inbox.
pub trait WakeWorker {
    /// Wakes the worker. If the worker is dying, its replacement begins with the inbox, so no
    /// connection is lost.
    fn wake(&mut self);
}

impl WakeWorker for UnixStream {
    fn wake(&mut self) {
        // The write fails when the worker is dying.
        let _ = self.write(&[1]);
    }
}

/// An accepted connection on its way to another worker.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub descriptor: OwnedFd,
    /// How it came in.
    pub arrival: Arrival,
    /// What it was admitted with.
    pub ticket: Ticket,
}

/// A worker's place in the balance.
#[derive(Debug)]
pub struct Member<T = Accepted, W = UnixStream> {
    balance: Arc<Balance<T, W>>,
    worker: usize,
}

impl Balance {
    /// Has a worker take part. Its only connections are those that wait in its inbox. A byte in the
    /// returned stream says that connections wait; the stream's end says that none will come any
    /// more.
    pub fn join(self: &Arc<Self>, worker: usize) -> io::Result<(Member, UnixStream)> {
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        Ok((self.join_with(worker, waker), woken))
    }
}

impl<T, W: WakeWorker> Balance<T, W> {
    /// A balance of this many workers, none of which takes part yet.
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

    /// Has a worker take part that is woken by `waker`.
    fn join_with(self: &Arc<Self>, worker: usize, waker: W) -> Member<T, W> {
        let seat = &self.0[worker];
        let mut inbox = seat.inbox();
        inbox.waker = Some(waker);
        seat.count.store(inbox.waiting.len() as u32, Relaxed);
        drop(inbox);
        Member { balance: self.clone(), worker }
    }

    /// Ends assignments to a worker. Must be called on the worker's thread, or after its end.
    pub fn leave(&self, worker: usize) {
        let seat = &self.0[worker];
        let mut inbox = seat.inbox();
        seat.count.fetch_or(CLOSED, Relaxed);
        inbox.waker = None;
    }

    /// The number of a worker's connections, those in its inbox included.
    pub fn connection_count(&self, worker: usize) -> u32 {
        self.0[worker].count.load(Relaxed) & !CLOSED
    }

    /// Finds the worker to assign a connection to that `acceptor` accepted. Returns its number and
    /// count.
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

    /// Counts one more connection if the count is still `count`, and returns whether it was.
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
    /// Assigns a connection that this worker accepted. Returns the connection if it stays here;
    /// otherwise another worker gets what `release` makes of it.
    pub fn assign<C>(&self, connection: C, release: impl FnOnce(C) -> T) -> Option<C> {
        loop {
            let (worker, count) = self.balance.find_lowest(self.worker);
            let seat = &self.balance.0[worker];
            if worker == self.worker {
                if seat.raise(count) {
                    return Some(connection);
                }
            } else {
                // While the inbox is locked, it can neither be closed nor get a new worker.
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

    /// Counts the end of one of this worker's connections.
    pub fn connection_ended(&self) {
        let before = self.seat().count.fetch_sub(1, Relaxed);
        debug_assert_ne!(before & !CLOSED, 0, "only an assigned connection ends");
    }

    /// Ends assignments to this worker. Connections in its inbox are still to be taken.
    pub fn leave(&self) {
        self.balance.leave(self.worker);
    }

    fn seat(&self) -> &Seat<T, W> {
        &self.balance.0[self.worker]
    }
}
