//! What the cycles of one thread share: payloads, and what is counted.

use std::{
    cell::{Cell, RefCell},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use rand::{SeedableRng, rngs::SmallRng};

use super::{cycle_error::CycleError, plan::ChurnPlan};
use crate::{
    count::{latency::Latencies, tally::Tally},
    payload::Payloads,
    plan::schedule::Schedule,
};

/// What a thread shows of itself, for the main thread to add up.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// Whether the thread waits for the load to start.
    pub(super) is_ready: AtomicBool,
    /// Correct cycles so far.
    pub(super) cycles: AtomicU64,
    /// Errors so far.
    pub(super) errors: AtomicU64,
    /// Nanoseconds in which the thread polled, and there was nothing to do.
    pub(super) polled_in_vain: AtomicU64,
}

/// What a thread has counted.
#[derive(Debug, Default)]
pub(super) struct ThreadTally {
    /// Connections and errors.
    pub(super) connections: Tally,
    /// Correct cycles.
    pub(super) cycles: u64,
    /// Correct cycles that ended in the measured window.
    pub(super) cycles_measured: u64,
    /// Times from the plan, or the beginning, to the end of the opening handshake, of cycles that
    /// were to begin in the measured window.
    pub(super) handshake: Latencies,
    /// Times from there to the end of the cycle, of those of them that were correct.
    pub(super) cycle: Latencies,
    /// Times from the plan to the beginning, of the same. Empty in a closed loop.
    pub(super) begin_lag: Latencies,
}

impl ThreadTally {
    /// Adds another thread's.
    pub(super) fn merge(&mut self, other: &Self) {
        let Self { connections, cycles, cycles_measured, handshake, cycle, begin_lag } = other;
        self.connections.merge(connections);
        self.cycles += cycles;
        self.cycles_measured += cycles_measured;
        self.handshake.merge(handshake);
        self.cycle.merge(cycle);
        self.begin_lag.merge(begin_lag);
    }
}

/// What the cycles of one thread share.
#[derive(Debug)]
pub(super) struct ThreadState {
    pub(super) plan: Arc<ChurnPlan>,
    pub(super) schedule: Arc<Schedule>,
    pub(super) payloads: Payloads,
    pub(super) rng: RefCell<SmallRng>,
    pub(super) tally: RefCell<ThreadTally>,
    gauges: Arc<Gauges>,
    /// Cycles that have begun and not ended.
    pub(super) under_way: Cell<usize>,
    /// Tasks that begin cycles.
    pub(super) tasks: Cell<usize>,
    /// The instant at which a cycle last ended.
    pub(super) last_end: Cell<u64>,
    /// Turns of tasks that begin and carry out cycles.
    pub(super) busy_turns: Cell<u64>,
    /// Why the load cannot go on.
    pub(super) fault: RefCell<Option<io::Error>>,
}

impl ThreadState {
    pub(super) fn new(plan: Arc<ChurnPlan>, schedule: Arc<Schedule>, gauges: Arc<Gauges>) -> Self {
        let mut rng = SmallRng::from_rng(&mut rand::rng());
        Self {
            payloads: Payloads::new(&plan.payload, &mut rng),
            plan,
            schedule,
            gauges,
            rng: RefCell::new(rng),
            tally: RefCell::default(),
            under_way: Cell::new(0),
            tasks: Cell::new(0),
            last_end: Cell::new(0),
            busy_turns: Cell::new(0),
            fault: RefCell::default(),
        }
    }

    pub(super) fn count_ready(&self) {
        self.gauges.is_ready.store(true, Relaxed);
    }

    /// Counts a cycle that begins at the instant `now`, as planned or later.
    pub(super) fn count_begin(&self, planned: u64, now: u64) {
        self.under_way.update(|cycles| cycles + 1);
        if self.plan.load.is_open() && self.schedule.measures(planned) {
            self.tally.borrow_mut().begin_lag.record(now.saturating_sub(planned), 1);
        }
    }

    /// Counts an opening handshake that is done.
    pub(super) fn count_handshake(&self, planned: u64) {
        let tally = &mut *self.tally.borrow_mut();
        tally.connections.opened += 1;
        if self.schedule.measures(planned) {
            tally.handshake.record(self.schedule.now().saturating_sub(planned), 1);
        }
    }

    /// Counts a cycle that has ended.
    pub(super) fn count_end(&self, planned: u64, outcome: &Result<(), CycleError>) {
        let now = self.schedule.now();
        self.under_way.update(|cycles| cycles - 1);
        self.last_end.set(now);
        let tally = &mut *self.tally.borrow_mut();
        match outcome {
            Ok(()) => {
                self.gauges.cycles.fetch_add(1, Relaxed);
                tally.cycles += 1;
                tally.cycles_measured += u64::from(self.schedule.measures(now));
                if self.schedule.measures(planned) {
                    tally.cycle.record(now.saturating_sub(planned), 1);
                }
                return;
            }
            Err(CycleError::Connection(error)) => tally.connections.count_error(error),
            Err(CycleError::Wrong(wrong)) => tally.connections.count_wrong(*wrong),
        }
        self.gauges.errors.fetch_add(1, Relaxed);
    }

    /// Counts time in which there was nothing to do.
    pub(super) fn count_polled_in_vain(&self, nanoseconds: u64) {
        self.gauges.polled_in_vain.fetch_add(nanoseconds, Relaxed);
    }
}
