//! One thread: its runtime, its connections, and the stages that they go through together.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, Release},
        },
    },
    task::{Poll, Waker},
    time::Duration,
};

use monoio::time::sleep;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    client,
    pacer::{Pause, pace},
    runtime::build_runtime,
};
use crate::{
    count::{
        latency::{InFlight, Instants},
        tally::Tally,
        timeline::Portions,
    },
    payload::Payloads,
    plan::{GRACE_MAX, GRACE_QUIET, Load, Plan, Schedule, rate::Arrivals},
    wire::{connector::OpenConnection, deflate::Deflater},
};

/// Connections that a thread opens at the same time; listen queues are often not longer than 128.
pub(crate) const OPENING_MAX: usize = 64;

/// How long a lost connection waits before it is opened again; doubled each time that fails.
const REOPENING_PAUSE_MIN: Duration = Duration::from_millis(10);
const REOPENING_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often a thread looks at the schedule and publishes its counts. No message waits for it:
/// which of them are measured is decided by their own instants.
const TICK: Duration = Duration::from_millis(5);

/// What a thread's connections are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Connections are opened; nothing is sent.
    Opening,
    /// Messages are sent.
    Sending,
    /// Nothing new is sent, but what an open loop owes. Connections wait for their echoes, and
    /// close.
    Draining,
    /// Nobody waits any longer.
    Over,
}

/// What a thread shows of itself while it runs.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// Connections whose opening has succeeded or failed.
    pub(crate) tried: AtomicU64,
    /// Connections that are open.
    pub(crate) open: AtomicU64,
    /// Whether the load has started on this thread.
    pub(crate) sends: AtomicBool,
    /// Correct echoes so far.
    pub(crate) echoes: AtomicU64,
    /// Errors so far.
    pub(crate) errors: AtomicU64,
    /// Nanoseconds in which the thread polled, and there was nothing to send or receive.
    pub(crate) polled_in_vain: AtomicU64,
}

/// What the connections of one thread share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) plan: Arc<Plan>,
    pub(crate) schedule: Arc<Schedule>,
    pub(crate) payloads: Payloads,
    pub(crate) deflater: RefCell<Option<Deflater>>,
    pub(crate) rng: RefCell<SmallRng>,
    /// What was counted since it was last handed over.
    pub(crate) tally: RefCell<Tally>,
    portions: Portions,
    /// Of the plan's messages, in an open loop.
    arrivals: Option<Arrivals>,
    /// Of this thread.
    number: usize,
    gauges: Arc<Gauges>,
    stage: Cell<Stage>,
    /// Connections that have not been begun to open.
    unopened: Cell<usize>,
    tried: Cell<u64>,
    open: Cell<u64>,
    last_received: Cell<u64>,
    /// Turns of connections in which something was received or sent.
    busy_turns: Cell<u64>,
    /// Of the connections' tasks, to be woken when the stage changes or a message is due.
    wakers: RefCell<Vec<Option<Waker>>>,
    /// Write buffers that are not in use. As few as possible are, the last returned first, so that
    /// they stay in the cache.
    write_buffers: RefCell<Vec<Vec<u8>>>,
    /// Why the load cannot go on.
    fault: RefCell<Option<io::Error>>,
}

/// Runs thread number `thread` of the plan until all of its connections have ended.
pub(crate) fn run(
    plan: Arc<Plan>,
    schedule: Arc<Schedule>,
    gauges: Arc<Gauges>,
    portions: Portions,
    thread: usize,
) -> io::Result<()> {
    build_runtime()?.block_on(async move {
        let worker = Rc::new(Worker::new(plan, schedule, gauges, portions, thread));
        worker.open_connections();
        if worker.is_open_loop() {
            let (worker, pause) = (Rc::clone(&worker), Pause::new(worker.plan.wait)?);
            monoio::spawn(async move {
                let paced = pace(&worker, &pause).await;
                *worker.fault.borrow_mut() = paced.err();
            });
        }
        worker.conduct().await?;
        worker.portions.send(worker.tally.take());
        Ok(())
    })
}

impl Worker {
    fn new(
        plan: Arc<Plan>,
        schedule: Arc<Schedule>,
        gauges: Arc<Gauges>,
        portions: Portions,
        number: usize,
    ) -> Self {
        let mut rng = SmallRng::from_rng(&mut rand::rng());
        let connections = plan.connections_of(number);
        let deflater = plan.compression.then(Deflater::default);
        let arrivals = match &plan.load {
            Load::Closed => None,
            Load::Open(rate) => Some(Arrivals::new(rate, plan.warmup, plan.duration)),
        };
        Self {
            payloads: Payloads::new(&plan.payload, &mut rng),
            unopened: Cell::new(connections),
            plan,
            schedule,
            gauges,
            deflater: RefCell::new(deflater),
            rng: RefCell::new(rng),
            tally: RefCell::default(),
            portions,
            arrivals,
            number,
            stage: Cell::new(Stage::Opening),
            tried: Cell::new(0),
            open: Cell::new(0),
            last_received: Cell::new(0),
            busy_turns: Cell::new(0),
            wakers: RefCell::new(vec![None; connections]),
            write_buffers: RefCell::default(),
            fault: RefCell::default(),
        }
    }

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
            let opened = self.plan.connector.open(nonce).await;
            self.tried.set(self.tried.get() + 1);
            match opened {
                Ok(connection) => {
                    self.tally.borrow_mut().opened += 1;
                    self.open.set(self.open.get() + 1);
                    let worker = Rc::clone(&self);
                    monoio::spawn(async move { worker.keep(connection, index).await });
                }
                Err(error) => self.tally.borrow_mut().count_error(&error),
            }
        }
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
            match self.plan.connector.open(nonce).await {
                Ok(connection) => {
                    self.tally.borrow_mut().reopened += 1;
                    return Some(connection);
                }
                Err(error) => self.tally.borrow_mut().count_error(&error),
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
        // Who sees that all were tried sees how many of them are open.
        self.gauges.tried.store(self.tried.get(), Release);
        self.gauges.sends.store(self.stage() != Stage::Opening, Relaxed);
        let tally = self.tally.borrow();
        let handed_over = self.portions.sent();
        self.gauges.echoes.store(handed_over.echoes + tally.echoes, Relaxed);
        self.gauges.errors.store(handed_over.errors + tally.errors.total, Relaxed);
    }

    #[inline]
    fn hand_over_if_due(&self, now: u64, tally: &mut Tally) {
        if self.portions.are_due(now) {
            self.portions.hand_over(now, &self.schedule, tally);
        }
    }

    #[inline]
    pub(crate) fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Whether the load has ended.
    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.stage(), Stage::Draining | Stage::Over)
    }

    /// How many connections this thread has, open or not.
    pub(crate) fn connections(&self) -> usize {
        self.plan.connections_of(self.number)
    }

    /// The number in the run of this thread's connection `index`.
    pub(crate) fn connection_number(&self, index: usize) -> u64 {
        self.plan.connection_number(self.number, index)
    }

    #[inline]
    pub(crate) fn is_open_loop(&self) -> bool {
        self.arrivals.is_some()
    }

    /// The instant for which an open loop plans message `number` of the run, once that is known.
    #[inline]
    pub(crate) fn planned(&self, number: u64) -> Option<u64> {
        let arrivals = self.arrivals.as_ref()?;
        Some(self.schedule.origin()? + arrivals.planned(number))
    }

    /// Wakes the task of connection `index`, if it has one.
    #[inline]
    pub(crate) fn wake(&self, index: usize) {
        if let Some(waker) = &self.wakers.borrow()[index] {
            waker.wake_by_ref();
        }
    }

    /// The output of `future`, or `None` when the time is over before. To be used once in the task
    /// of connection `index`, which is woken whenever the stage changes.
    pub(crate) async fn until_over<F: Future>(&self, index: usize, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut registered = false;
        poll_fn(|cx| {
            if self.stage() == Stage::Over {
                return Poll::Ready(None);
            }
            if !registered {
                self.wakers.borrow_mut()[index] = Some(cx.waker().clone());
                registered = true;
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// Counts `echoes`, with `payload_len` bytes of payload, that a connection received at the
    /// instant `now`.
    #[inline]
    pub(crate) fn count_echoes(
        &self,
        in_flight: &mut InFlight,
        echoes: usize,
        payload_len: u64,
        now: u64,
    ) {
        let mut tally = self.tally.borrow_mut();
        self.hand_over_if_due(now, &mut tally);
        self.last_received.set(now);
        tally.echoes += echoes as u64;
        if self.schedule.measures(now) {
            tally.echoes_measured += echoes as u64;
            tally.payload_measured += payload_len;
        }
        let histograms = &mut tally.histograms;
        in_flight.answered(echoes, |Instants { planned, sent }, messages| {
            if self.schedule.measures(planned) {
                histograms.latency.record(now.saturating_sub(planned), messages);
                if self.is_open_loop() {
                    histograms.uncorrected.record(now.saturating_sub(sent), messages);
                }
            }
        });
    }

    /// Counts a turn in which something was received or sent.
    #[inline]
    pub(crate) fn count_busy_turn(&self) {
        self.busy_turns.update(|turns| turns.wrapping_add(1));
    }

    /// How many these were so far.
    pub(crate) fn busy_turns(&self) -> u64 {
        self.busy_turns.get()
    }

    /// Counts time in which there was nothing to send or receive.
    pub(crate) fn count_polled_in_vain(&self, nanoseconds: u64) {
        self.gauges.polled_in_vain.fetch_add(nanoseconds, Relaxed);
    }

    /// Counts a message that was sent as planned, or later.
    #[inline]
    pub(crate) fn count_planned(&self, Instants { planned, sent }: Instants) {
        let mut tally = self.tally.borrow_mut();
        self.hand_over_if_due(sent, &mut tally);
        if self.schedule.measures(planned) {
            tally.histograms.send_lag.record(sent - planned, 1);
        }
    }

    /// An empty buffer to build a write in.
    #[inline]
    pub(crate) fn take_write_buffer(&self) -> Vec<u8> {
        self.write_buffers.borrow_mut().pop().unwrap_or_default()
    }

    #[inline]
    pub(crate) fn return_write_buffer(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.write_buffers.borrow_mut().push(buffer);
    }
}
