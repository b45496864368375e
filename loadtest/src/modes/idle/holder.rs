//! One thread with its held connections: opens them at a bounded rate, and passes orders on.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, TryRecvError},
    },
    time::{Duration, Instant},
};

use monoio::time::{sleep, sleep_until};
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

use super::{
    IdlePlan, Task,
    held::{Held, hold},
};
use crate::{
    count::{
        latency::Latencies,
        tally::{ConnectionError, Tally},
    },
    drive::{runtime::build_runtime, worker::OPENING_MAX},
    payload::{PayloadKind, PayloadPlan, Payloads},
    verify::verifier::WrongEcho,
};

/// How often a thread looks for orders.
const TICK: Duration = Duration::from_millis(5);

/// How many connections are told to do something in a millisecond, at most: orders are to find the
/// server idle, not to measure how long its queue gets.
const ORDERED_PER_MILLISECOND: usize = 32;

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
pub(super) struct HolderTally {
    /// Connections and errors.
    pub(super) connections: Tally,
    /// From before a socket was connected to the end of the opening handshake.
    pub(super) opening: Latencies,
    /// From a Ping to its Pong.
    pub(super) pings: Latencies,
    /// Messages that were echoed.
    pub(super) echoed: u64,
    /// Pings that were sent.
    pub(super) pinged: u64,
}

impl HolderTally {
    /// Adds another thread's.
    pub(super) fn merge(&mut self, other: &Self) {
        self.connections.merge(&other.connections);
        self.opening.merge(&other.opening);
        self.pings.merge(&other.pings);
        self.echoed += other.echoed;
        self.pinged += other.pinged;
    }
}

/// One thread.
#[derive(Debug)]
pub(super) struct Holder {
    plan: Arc<IdlePlan>,
    gauges: Arc<Gauges>,
    /// Of this thread.
    number: usize,
    started: Instant,
    pub(super) payloads: Payloads,
    pub(super) rng: RefCell<SmallRng>,
    tally: RefCell<HolderTally>,
    /// Connections that have begun to open.
    begun: Cell<usize>,
    /// Whether no connection may be added any longer.
    opening_is_over: Cell<bool>,
    held: RefCell<Vec<Rc<Held>>>,
}

/// Runs thread number `number` of the plan until nobody has orders for it any longer.
pub(super) fn run(
    plan: Arc<IdlePlan>,
    gauges: Arc<Gauges>,
    number: usize,
    orders: &Receiver<Task>,
) -> io::Result<HolderTally> {
    build_runtime()?.block_on(async move {
        let holder = Rc::new(Holder::new(plan, gauges, number));
        for _ in 0..OPENING_MAX {
            let holder = Rc::clone(&holder);
            monoio::spawn(async move { holder.open_one_after_another().await });
        }
        holder.follow(orders).await;
        Ok(holder.tally.take())
    })
}

impl Holder {
    fn new(plan: Arc<IdlePlan>, gauges: Arc<Gauges>, number: usize) -> Self {
        let mut rng = SmallRng::from_rng(&mut rand::rng());
        let payload = PayloadPlan::generated(PayloadKind::Binary, plan.echo_len.unwrap_or(0));
        Self {
            payloads: Payloads::new(&payload, &mut rng),
            plan,
            gauges,
            number,
            started: Instant::now(),
            rng: RefCell::new(rng),
            tally: RefCell::default(),
            begun: Cell::new(0),
            opening_is_over: Cell::new(false),
            held: RefCell::default(),
        }
    }

    async fn open_one_after_another(self: Rc<Self>) {
        // The number in the run of this thread's next connection.
        let next = || self.begun.get() * self.plan.threads.count + self.number;
        while next() < self.plan.connections {
            let turn = self.started + begins_after(next(), self.plan.connect_rate);
            self.begun.update(|begun| begun + 1);
            if turn > Instant::now() {
                sleep_until(turn.into()).await;
            }
            if self.opening_is_over.get() {
                return;
            }
            let nonce = self.rng.borrow_mut().random();
            let begun_at = Instant::now();
            let opened = self.plan.connector.open(nonce).await;
            if self.opening_is_over.get() {
                return;
            }
            let mut tally = self.tally.borrow_mut();
            match opened {
                Ok(connection) => {
                    tally.opening.record(begun_at.elapsed().as_nanos() as u64, 1);
                    tally.connections.opened += 1;
                    self.gauges.opened.fetch_add(1, Relaxed);
                    let held = Rc::new(Held::new(self.rng.borrow_mut().next_u64()));
                    self.held.borrow_mut().push(Rc::clone(&held));
                    monoio::spawn(hold(connection, held, Rc::clone(&self)));
                }
                Err(error) => tally.connections.count_error(&error),
            }
            self.gauges.tried.fetch_add(1, Relaxed);
        }
    }

    /// Passes orders on until nobody has any.
    async fn follow(&self, orders: &Receiver<Task>) {
        loop {
            match orders.try_recv() {
                Ok(task) => self.order_all(task).await,
                Err(TryRecvError::Empty) => sleep(TICK).await,
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }

    async fn order_all(&self, task: Task) {
        self.opening_is_over.set(true);
        let all = self.held.take();
        for some in all.chunks(ORDERED_PER_MILLISECOND) {
            for held in some {
                held.order(task, self);
            }
            sleep(Duration::from_millis(1)).await;
        }
        self.held.replace(all);
        self.gauges.orders.fetch_add(1, Relaxed);
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

/// After how long connection `number` of the run may begin to open, with so many a second.
fn begins_after(number: usize, rate: Option<usize>) -> Duration {
    rate.map_or(Duration::ZERO, |rate| {
        Duration::from_nanos((number as u64).saturating_mul(1_000_000_000) / rate as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_begin_at_the_rate_and_all_at_once_without() {
        for (number, rate, milliseconds) in
            [(0, Some(1), 0), (7, Some(1), 7000), (3, Some(2000), 1), (999_999, None, 0)]
        {
            let expected = Duration::from_millis(milliseconds);
            let after = begins_after(number, rate);
            assert_eq!(Duration::from_millis(after.as_millis() as u64), expected);
        }
    }
}
