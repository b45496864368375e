//! One thread with its held connections: opens them at a bounded rate, and passes orders on.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, TryRecvError},
    },
    time::{Duration, Instant},
};

use monoio::time::{sleep, sleep_until};
use rand::{Rng, RngExt};

use super::{
    held_connection::{HeldConnection, Task, hold},
    plan::IdlePlan,
    thread_state::{Gauges, ThreadState, ThreadTally},
};
use crate::{
    drive::{runtime::build_runtime, thread::OPENING_MAX},
    wire::thread_connector::ThreadConnector,
};

/// How often a thread looks for orders.
const TICK: Duration = Duration::from_millis(5);

/// How many connections are told to do something in a millisecond, at most: orders are to find the
/// server idle, not to measure how long its queue gets.
const ORDERED_PER_MILLISECOND: usize = 32;

/// One thread.
#[derive(Debug)]
struct Thread {
    plan: Arc<IdlePlan>,
    number: usize,
    started: Instant,
    state: Rc<ThreadState>,
    connector: ThreadConnector,
    /// Connections that have begun to open.
    begun: Cell<usize>,
    /// Whether no connection may be added any longer.
    opening_is_over: Cell<bool>,
    held: RefCell<Vec<Rc<HeldConnection>>>,
}

/// Runs thread number `number` of the plan until nobody has orders for it any longer.
pub(super) fn run(
    plan: Arc<IdlePlan>,
    gauges: Arc<Gauges>,
    number: usize,
    orders: &Receiver<Task>,
) -> io::Result<ThreadTally> {
    build_runtime()?.block_on(async move {
        let thread = Rc::new(Thread::new(plan, gauges, number));
        for _ in 0..OPENING_MAX {
            let thread = Rc::clone(&thread);
            monoio::spawn(async move { thread.open_one_after_another().await });
        }
        thread.follow(orders).await;
        Ok(thread.state.tally.take())
    })
}

impl Thread {
    fn new(plan: Arc<IdlePlan>, gauges: Arc<Gauges>, number: usize) -> Self {
        let share = |of| plan.threads.share_of(number, of);
        let connector = &plan.connector;
        let (held, transports) = (share(plan.connections), share(connector.transports()));
        Self {
            state: Rc::new(ThreadState::new(&plan, gauges)),
            connector: ThreadConnector::new(connector, held, transports),
            plan,
            number,
            started: Instant::now(),
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
            let nonce = self.state.rng.borrow_mut().random();
            let begun_at = Instant::now();
            let opened = self.connector.open(nonce).await;
            if self.opening_is_over.get() {
                return;
            }
            let mut tally = self.state.tally.borrow_mut();
            tally.connections.count_transports(&self.connector.take_transports());
            match opened {
                Ok(connection) => {
                    tally.connections.count_openings(&connection.openings, true);
                    tally.opening.record(begun_at.elapsed().as_nanos() as u64, 1);
                    tally.connections.opened += 1;
                    self.state.gauges.opened.fetch_add(1, Relaxed);
                    let held = Rc::new(HeldConnection::new(self.state.rng.borrow_mut().next_u64()));
                    self.held.borrow_mut().push(Rc::clone(&held));
                    monoio::spawn(hold(connection, held, Rc::clone(&self.state)));
                }
                Err(error) => tally.connections.count_error(&error.into()),
            }
            self.state.gauges.tried.fetch_add(1, Relaxed);
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
                held.order(task, &self.state);
            }
            sleep(Duration::from_millis(1)).await;
        }
        self.held.replace(all);
        self.state.gauges.orders.fetch_add(1, Relaxed);
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
