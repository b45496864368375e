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

#[cfg(test)]
mod tests;

use std::{
    io::{self, Write},
    mem,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// What the workers of a server know about each other.
#[derive(Debug)]
pub struct Balance(Box<[Share]>);

/// A worker's connections.
///
/// Apart from the others' in memory by two cache lines, since processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Share {
    /// How many there are, and whether more may be assigned: see [`CLOSED`].
    count: AtomicU32,
    inbox: Mutex<Inbox>,
}

/// Set in a [`Share::count`] while nobody reads the inbox. Descriptors are 31-bit numbers, so no
/// count reaches it.
const CLOSED: u32 = 1 << 31;

#[derive(Debug, Default)]
struct Inbox {
    /// Bounded by the descriptors that the process may have.
    waiting: Vec<Accepted>,
    /// Gets a byte when connections wait, and ends when the inbox is closed.
    wake: Option<UnixStream>,
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
pub struct Member {
    balance: Arc<Balance>,
    worker: usize,
}

impl Balance {
    /// For this many workers, none of which takes part yet.
    pub fn new(workers: usize) -> Self {
        let share = || Share { count: AtomicU32::new(CLOSED), inbox: Mutex::default() };
        Self((0..workers).map(|_| share()).collect())
    }

    /// How many workers may take part.
    pub fn workers(&self) -> usize {
        self.0.len()
    }

    /// Has a worker take part, which has no connections but those that wait in its inbox. It finds
    /// a byte in the stream when there are some, and the stream's end when there will be none.
    pub fn join(self: &Arc<Self>, worker: usize) -> io::Result<(Member, UnixStream)> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let share = &self.0[worker];
        let mut inbox = share.inbox();
        inbox.wake = Some(wake);
        share.count.store(inbox.waiting.len() as u32, Relaxed);
        Ok((Member { balance: self.clone(), worker }, woken))
    }

    /// Has nothing more assigned to a worker. To be called on its thread, or after its end.
    pub fn leave(&self, worker: usize) {
        let share = &self.0[worker];
        let mut inbox = share.inbox();
        share.count.fetch_or(CLOSED, Relaxed);
        inbox.wake = None;
    }

    /// How many connections a worker has, those in its inbox included.
    pub fn connection_count(&self, worker: usize) -> u32 {
        self.0[worker].count.load(Relaxed) & !CLOSED
    }

    /// The worker to assign to and its count, for a connection that `acceptor` accepted.
    fn lowest(&self, acceptor: usize) -> (usize, u32) {
        let mut lowest = (acceptor, self.0[acceptor].count.load(Relaxed));
        for (worker, share) in self.0.iter().enumerate() {
            let count = share.count.load(Relaxed);
            if count & CLOSED == 0 && count < lowest.1 {
                lowest = (worker, count);
            }
        }
        lowest
    }
}

impl Share {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more connection, unless the count is not `count` any more.
    fn raise(&self, count: u32) -> bool {
        self.count.compare_exchange(count, count + 1, Relaxed, Relaxed).is_ok()
    }
}

impl Inbox {
    fn put(&mut self, accepted: Accepted) {
        self.waiting.push(accepted);
        if let ([_], Some(wake)) = (&self.waiting[..], &mut self.wake) {
            // It fails when the worker is dying, and then its replacement looks here first.
            let _ = wake.write(&[1]);
        }
    }
}

impl Member {
    /// Assigns a connection that this worker accepted, and returns it if it stays here; if not,
    /// another worker gets what `release` makes of it.
    pub fn assign<T>(&self, connection: T, release: impl FnOnce(T) -> Accepted) -> Option<T> {
        loop {
            let (worker, count) = self.balance.lowest(self.worker);
            let share = &self.balance.0[worker];
            if worker == self.worker {
                if share.raise(count) {
                    return Some(connection);
                }
            } else {
                // While it is locked the inbox can neither be closed nor start over.
                let mut inbox = share.inbox();
                if share.raise(count) {
                    inbox.put(release(connection));
                    return None;
                }
            }
        }
    }

    /// The connections that other workers have assigned to this one since the last call.
    pub fn take(&self) -> Vec<Accepted> {
        mem::take(&mut self.share().inbox().waiting)
    }

    /// One of this worker's connections has ended.
    pub fn connection_ended(&self) {
        let before = self.share().count.fetch_sub(1, Relaxed);
        debug_assert_ne!(before & !CLOSED, 0, "every connection was assigned");
    }

    /// Has nothing more assigned to this worker. What is in its inbox is still to be taken.
    pub fn leave(&self) {
        self.balance.leave(self.worker);
    }

    fn share(&self) -> &Share {
        &self.balance.0[self.worker]
    }
}
