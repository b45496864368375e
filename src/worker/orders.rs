//! Orders: what the server has a running worker do beside its work.
//!
//! Orders lie in a cell that both threads share, and a byte in a stream wakes the worker. The cell
//! holds one order of each kind: a newer one replaces an older one that has not been taken. The end
//! of the stream is an order too, since it comes even if the server's thread panics: to drain as the
//! configuration says.

use std::{
    io::{self, Write},
    mem,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::Service;
use crate::config::Time;

/// How a worker drains: it accepts no more, and has every connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// The time over which the Close frames are spread evenly; zero for all at once.
    pub spread: Duration,
    /// How long clients have to close after the last Close frame.
    pub timeout: Duration,
    /// Instead of spreading: a connection gets its Close frame once it has been quiet for so long,
    /// at the latest when `timeout` is over.
    pub quiet: Option<Duration>,
    /// The queues are left as they are, for others who accept from the same sockets; else those who
    /// wait in them are accepted, and the queues closed.
    pub leaves_queues: bool,
}

impl Drain {
    /// How a server drains that is told to stop.
    pub fn configured(time: &Time) -> Self {
        let (spread, timeout) = (time.drain_spread.get(), time.drain_timeout.get());
        Self { spread, timeout, quiet: None, leaves_queues: false }
    }
}

/// Orders that a worker has not taken yet.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) drain: Option<Drain>,
    pub(super) service: Option<Arc<Service>>,
}

/// The server's end: gives orders to one worker. To drop it has the worker drain.
pub struct OrderSender {
    pending: Arc<Mutex<Pending>>,
    wake: UnixStream,
}

/// The worker's end.
pub struct OrderReceiver {
    pending: Arc<Mutex<Pending>>,
    /// Wakes the worker.
    stream: UnixStream,
}

/// The two ends between a server and one of its workers.
pub fn orders() -> io::Result<(OrderSender, OrderReceiver)> {
    let (wake, stream) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    let pending = Arc::<Mutex<Pending>>::default();
    Ok((OrderSender { pending: pending.clone(), wake }, OrderReceiver { pending, stream }))
}

impl OrderSender {
    /// Has the worker drain, and end once its connections have ended.
    pub fn drain(&self, drain: Drain) {
        self.order(|pending| pending.drain = Some(drain));
    }

    /// Has the worker answer new connections with another service.
    pub fn serve(&self, service: Arc<Service>) {
        self.order(|pending| pending.service = Some(service));
    }

    fn order(&self, order: impl FnOnce(&mut Pending)) {
        order(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        // A full stream has bytes that wake the worker already, and one without a reader belongs to
        // a worker that has ended.
        let _ = (&self.wake).write(&[0]);
    }
}

impl OrderReceiver {
    /// An end to which no orders come, woken by this stream.
    #[cfg(test)]
    pub(super) fn without_orders(stream: UnixStream) -> Self {
        Self { pending: Arc::default(), stream }
    }

    /// The stream that wakes the worker, and the cell with the orders.
    pub(super) fn split(self) -> (UnixStream, Inbox) {
        (self.stream, Inbox(self.pending))
    }
}

/// The cell from which a worker takes its orders.
pub(super) struct Inbox(Arc<Mutex<Pending>>);

impl Inbox {
    /// Takes the orders that have come.
    pub(super) fn take(&self) -> Pending {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
