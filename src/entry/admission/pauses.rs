//! Workers that cannot accept since descriptors or memory are used up, and who wakes them.
//!
//! A worker that pauses leaves a waker here, and whoever ends a connection wakes all of them. Its
//! invariant: a worker that leaves its waker, then tries to accept in vain and then waits is woken by
//! the next end, even if that comes before it waits. `pauses_model.rs` has loom try every order.

#[cfg(all(test, loom))]
#[path = "pauses_model.rs"]
mod model;

#[cfg(not(loom))]
use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering, fence},
};
use std::{
    io::Write,
    mem,
    os::unix::net::UnixStream,
    sync::{Arc, PoisonError},
};

#[cfg(loom)]
use loom::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering, fence},
};

/// The wakers of workers that pause.
///
/// Wakers are a type parameter: streams in a server, counters where loom tries all orders.
#[derive(Debug)]
pub struct Pauses<W = PauseEnd> {
    /// Whether there is a waker, so that an end takes no lock if not.
    is_any: AtomicBool,
    /// At most one waker of each worker, and of each that died since the last end.
    wakers: Mutex<Vec<W>>,
}

/// A way to end a worker's pause.
pub trait Wake: PartialEq {
    /// Ends the pause, now or when it begins.
    fn wake(&self);
}

/// One end of a stream, at whose other end a worker waits while it pauses.
#[derive(Clone, Debug)]
pub struct PauseEnd(Arc<UnixStream>);

impl PauseEnd {
    /// Makes one of a stream that does not block.
    pub fn new(stream: UnixStream) -> Self {
        Self(Arc::new(stream))
    }
}

impl PartialEq for PauseEnd {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Wake for PauseEnd {
    fn wake(&self) {
        // The write fails when the worker is gone, or when bytes that wake it are waiting already.
        let _ = (&*self.0).write(&[1]);
    }
}

impl<W> Default for Pauses<W> {
    fn default() -> Self {
        Self { is_any: AtomicBool::new(false), wakers: Mutex::new(Vec::new()) }
    }
}

impl<W: Wake> Pauses<W> {
    /// Leaves a worker's waker for the next end of a connection, and returns whether it was not there
    /// yet. Then the worker has to try once more before it waits, since there may have been an end.
    pub fn begin(&self, waker: W) -> bool {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !wakers.contains(&waker);
        if is_new {
            wakers.push(waker);
        }
        self.is_any.store(true, Ordering::Relaxed);
        drop(wakers);
        // Before what the worker tries now. The fence in `end_all` comes behind what has become free,
        // so that either the worker finds that or `end_all` finds the waker.
        fence(Ordering::SeqCst);
        is_new
    }

    /// Wakes whoever pauses, since a connection has ended.
    #[inline]
    pub fn end_all(&self) {
        fence(Ordering::SeqCst);
        if self.is_any.load(Ordering::Relaxed) {
            self.wake_all();
        }
    }

    #[cold]
    fn wake_all(&self) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_any.store(false, Ordering::Relaxed);
        for waker in mem::take(&mut *wakers) {
            waker.wake();
        }
    }
}
