//! One thread from its first connection to its last: its runtime, and the stages that its connections
//! go through together.

use std::{
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, Release},
    },
    task::Waker,
    time::Duration,
};

use monoio::time::sleep;
use rand::RngExt;

use super::{
    client,
    pacer::{Pause, pace},
    runtime::build_runtime,
    worker::{Gauges, Stage, Worker},
};
use crate::{
    count::timeline::PortionSender,
    plan::{
        Plan,
        schedule::{GRACE_MAX, GRACE_QUIET, Schedule},
    },
    wire::{connector::OpenConnection, opening_error::OpeningError},
};

/// Connections that a thread opens at the same time; listen queues are often not longer than 128.
pub(crate) const OPENING_MAX: usize = 64;

/// How long a lost connection waits before it is opened again; doubled each time that fails.
const REOPENING_PAUSE_MIN: Duration = Duration::from_millis(10);
const REOPENING_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often a thread looks at the schedule and publishes its counts. No message waits for it:
/// which of them are measured is decided by their own instants.
const TICK: Duration = Duration::from_millis(5);

/// Runs thread number `thread` of the plan until all of its connections have ended.
pub(crate) fn run(
    plan: Arc<Plan>,
    schedule: Arc<Schedule>,
    gauges: Arc<Gauges>,
    portion_sender: PortionSender,
    thread: usize,
) -> io::Result<()> {
    build_runtime()?.block_on(async move {
        let worker = Rc::new(Worker::new(plan, schedule, gauges, portion_sender, thread));
        worker.open_connections();
        if worker.is_open_loop() {
            let (worker, pause) = (Rc::clone(&worker), Pause::new(worker.plan.wait)?);
            monoio::spawn(async move {
                let paced = pace(&worker, &pause).await;
                *worker.fault.borrow_mut() = paced.err();
            });
        }
        worker.conduct().await?;
        worker.portion_sender.send(worker.tally.take());
        Ok(())
    })
}

impl Worker {
    /// Starts to open all connections, a bounded number at a time.
    fn open_connections(self: &Rc<Self>) {
        for _ in 0..OPENING_MAX.min(self.unopened.get()) {
            let worker = Rc::clone(self);
            monoio::spawn(async move { worker.open_one_after_another().await });
        }
    }

    async fn open_one_after_another(self: Rc<Self>) {
        while self.stage() == Stage::Opening && self.unopened.get() > 0 {
            let index = self.connections() - self.unopened.get();
            self.unopened.set(self.unopened.get() - 1);
            let nonce = self.rng.borrow_mut().random();
            let opened = self.open(nonce).await;
            self.tried.set(self.tried.get() + 1);
            match opened {
                Ok(connection) => {
                    self.tally.borrow_mut().opened += 1;
                    self.open.set(self.open.get() + 1);
                    let worker = Rc::clone(&self);
                    monoio::spawn(async move { worker.keep(connection, index).await });
                }
                Err(error) => self.tally.borrow_mut().count_error(&error.into()),
            }
        }
    }

    /// Opens a connection, and counts how the layers below it came about.
    async fn open(&self, nonce: [u8; 16]) -> Result<OpenConnection, OpeningError> {
        let opened = self.connector.open(nonce).await;
        let tally = &mut *self.tally.borrow_mut();
        tally.count_transports(&self.connector.take_transports());
        if let Ok(OpenConnection { openings, .. }) = &opened {
            tally.count_openings(openings, true);
        }
        opened
    }

    /// Drives connection `index`, and opens it again when it is lost, if that is asked for.
    async fn keep(&self, connection: OpenConnection, index: usize) {
        let mut connection = connection;
        let mut next_planned = self.connection_number(index);
        while let Some(resumed_at) = client::drive(connection, index, next_planned, self).await
            && self.plan.reconnect
        {
            self.open.set(self.open.get() - 1);
            let Some(reopened) = self.reopen().await else {
                return;
            };
            self.open.set(self.open.get() + 1);
            connection = reopened;
            next_planned = resumed_at;
        }
        self.open.set(self.open.get() - 1);
    }

    /// Opens a lost connection again, unless the load ends before that succeeds.
    async fn reopen(&self) -> Option<OpenConnection> {
        let mut pause = REOPENING_PAUSE_MIN;
        loop {
            sleep(pause).await;
            if self.is_draining() {
                return None;
            }
            let nonce = self.rng.borrow_mut().random();
            match self.open(nonce).await {
                Ok(connection) => {
                    self.tally.borrow_mut().reopened += 1;
                    return Some(connection);
                }
                Err(error) => self.tally.borrow_mut().count_error(&error.into()),
            }
            pause = REOPENING_PAUSE_MAX.min(pause * 2);
        }
    }

    /// Follows the schedule until all connections have ended.
    async fn conduct(&self) -> io::Result<()> {
        loop {
            sleep(TICK).await;
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
            let now = self.schedule.now();
            self.hand_over_if_due(now, &mut self.tally.borrow_mut());
            let stage = self.next_stage(now);
            if stage != self.stage() {
                self.stage.set(stage);
                // A task that has ended takes no notice.
                self.wakers.borrow().iter().flatten().for_each(Waker::wake_by_ref);
            }
            self.publish();
            if self.is_draining() && self.open.get() == 0 {
                return Ok(());
            }
        }
    }

    fn next_stage(&self, now: u64) -> Stage {
        if self.schedule.is_abandoned() {
            return Stage::Over;
        }
        if self.schedule.has_ended(now) {
            let drained_for = now - self.schedule.end().min(now);
            let quiet_for = drained_for.min(now - self.last_received.get().min(now));
            if u128::from(quiet_for) > GRACE_QUIET.as_nanos()
                || u128::from(drained_for) > GRACE_MAX.as_nanos()
            {
                return Stage::Over;
            }
            return Stage::Draining;
        }
        if self.schedule.has_started() { Stage::Sending } else { Stage::Opening }
    }

    fn publish(&self) {
        self.gauges.open.store(self.open.get(), Relaxed);
        // With Release, a thread that sees that all connections were tried sees how many are open.
        self.gauges.tried.store(self.tried.get(), Release);
        self.gauges.sends.store(self.stage() != Stage::Opening, Relaxed);
        let tally = self.tally.borrow();
        let handed_over = self.portion_sender.handed_over();
        self.gauges.echoes.store(handed_over.exchanges + tally.exchanges, Relaxed);
        self.gauges.errors.store(handed_over.errors + tally.errors.total, Relaxed);
    }
}
