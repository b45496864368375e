//! What the held connections of one thread share: payloads, and what is counted.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::{SeedableRng, rngs::SmallRng};

use super::plan::IdlePlan;
use crate::{
    count::{connection_error::ConnectionError, latency::Latencies, tally::Tally},
    payload::{PayloadKind, PayloadPlan, Payloads},
    verify::received::WrongEcho,
};

/// What a thread shows of itself, for the main thread to add up.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// Connections whose opening has succeeded or failed.
    pub(super) tried: AtomicU64,
    /// Connections that were opened.
    pub(super) opened: AtomicU64,
    /// Connections that were opened, and ended before their time.
    pub(super) lost: AtomicU64,
    /// Connections that were closed when it was time to.
    pub(super) closed: AtomicU64,
    /// Connections that are open and have not done what they were ordered to.
    pub(super) due: AtomicU64,
    /// Orders that were passed on to all connections.
    pub(super) orders: AtomicU64,
}

/// What a thread has counted.
#[derive(Debug, Default)]
pub(super) struct ThreadTally {
    /// Connections and errors.
    pub(super) connections: Tally,
    /// Times from before a socket was connected to the end of the opening handshake.
    pub(super) opening: Latencies,
    /// Times from a Ping to its Pong.
    pub(super) pings: Latencies,
    /// Messages that were echoed.
    pub(super) echoed: u64,
    /// Pings that were sent.
    pub(super) pinged: u64,
}

impl ThreadTally {
    /// Adds another thread's.
    pub(super) fn merge(&mut self, other: &Self) {
        self.connections.merge(&other.connections);
        self.opening.merge(&other.opening);
        self.pings.merge(&other.pings);
        self.echoed += other.echoed;
        self.pinged += other.pinged;
    }
}

/// What the held connections of one thread share.
#[derive(Debug)]
pub(super) struct ThreadState {
    pub(super) gauges: Arc<Gauges>,
    pub(super) payloads: Payloads,
    pub(super) rng: RefCell<SmallRng>,
    pub(super) tally: RefCell<ThreadTally>,
}

impl ThreadState {
    pub(super) fn new(plan: &IdlePlan, gauges: Arc<Gauges>) -> Self {
        let mut rng = SmallRng::from_rng(&mut rand::rng());
        let payload = PayloadPlan::generated(PayloadKind::Binary, plan.echo_len.unwrap_or(0));
        Self {
            payloads: Payloads::new(&payload, &mut rng),
            gauges,
            rng: RefCell::new(rng),
            tally: RefCell::default(),
        }
    }

    pub(super) fn count_due(&self) {
        self.gauges.due.fetch_add(1, Relaxed);
    }

    pub(super) fn count_done(&self) {
        self.gauges.due.fetch_sub(1, Relaxed);
    }

    pub(super) fn count_failure(&self) {
        self.tally.borrow_mut().connections.count_missing(1);
    }

    pub(super) fn count_echo(&self) {
        self.tally.borrow_mut().echoed += 1;
    }

    pub(super) fn count_wrong(&self, wrong: WrongEcho) {
        self.tally.borrow_mut().connections.count_wrong(wrong);
    }

    pub(super) fn count_ping(&self) {
        self.tally.borrow_mut().pinged += 1;
    }

    pub(super) fn count_pong(&self, latency: Duration) {
        self.tally.borrow_mut().pings.record(latency.as_nanos() as u64, 1);
    }

    pub(super) fn count_end(&self, end: Result<(), ConnectionError>) {
        let Err(error) = end else {
            self.gauges.closed.fetch_add(1, Relaxed);
            return;
        };
        let connections = &mut self.tally.borrow_mut().connections;
        connections.lost += 1;
        connections.count_error(&error);
        self.gauges.lost.fetch_add(1, Relaxed);
    }
}
