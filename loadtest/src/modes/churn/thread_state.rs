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
    count::{tally::Tally, timeline::PortionSender},
    payload::Payloads,
    plan::schedule::Schedule,
    wire::{openings::Openings, thread_connector::ThreadConnector},
};

/// What a thread shows of itself, for the main thread to add up.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// Whether the thread waits for the load to start.
    pub(super) is_ready: AtomicBool,
    /// Whether a cycle has begun.
    pub(super) has_begun: AtomicBool,
    /// Correct cycles so far.
    pub(super) cycles: AtomicU64,
    /// Errors so far.
    pub(super) errors: AtomicU64,
    /// Nanoseconds in which the thread polled, and there was nothing to do.
    pub(super) polled_in_vain: AtomicU64,
}

/// A cycle that may begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// The instant for which it was planned, which in a closed loop is that of its beginning.
    pub(super) planned: u64,
    /// Whether every task of the thread had a cycle when this instant came.
    pub(super) is_held_back: bool,
}

/// When a cycle began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    /// The instant from which it counts: that for which it was planned.
    planned: u64,
    /// The same without what the generator was late by.
    without_lag: u64,
}

/// What the cycles of one thread share.
#[derive(Debug)]
pub(super) struct ThreadState {
    pub(super) plan: Arc<ChurnPlan>,
    pub(super) connector: ThreadConnector,
    pub(super) schedule: Arc<Schedule>,
    pub(super) payloads: Payloads,
    pub(super) rng: RefCell<SmallRng>,
    pub(super) tally: RefCell<Tally>,
    portion_sender: PortionSender,
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
    pub(super) fn new(
        plan: Arc<ChurnPlan>,
        schedule: Arc<Schedule>,
        gauges: Arc<Gauges>,
        portion_sender: PortionSender,
        number: usize,
    ) -> Self {
        let mut rng = SmallRng::from_rng(&mut rand::rng());
        let share = |of| plan.threads.share_of(number, of);
        let connector = &plan.connector;
        let (cycles, transports) = (share(plan.connections), share(connector.transports()));
        Self {
            payloads: Payloads::new(&plan.payload, &mut rng),
            connector: ThreadConnector::new(connector, cycles, transports),
            plan,
            schedule,
            gauges,
            portion_sender,
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

    /// Hands over what was counted in a second that is over at the instant `now`.
    pub(super) fn hand_over_if_due(&self, now: u64) {
        if self.portion_sender.is_due(now) {
            self.portion_sender.hand_over(now, &self.schedule, &mut self.tally.borrow_mut());
        }
    }

    /// Hands over the rest.
    pub(super) fn hand_over_rest(&self) {
        self.portion_sender.send(self.tally.take());
    }

    /// Counts a cycle that begins now, as planned or later.
    pub(super) fn count_begin(&self, Turn { planned, is_held_back }: Turn) -> Begin {
        let now = self.schedule.now();
        self.hand_over_if_due(now);
        self.under_way.update(|cycles| cycles + 1);
        self.gauges.has_begun.store(true, Relaxed);
        if self.is_planned(planned) {
            let tally = &mut *self.tally.borrow_mut();
            let lag = now.saturating_sub(planned);
            tally.histograms.lag.record(lag, 1);
            let generator_lag = tally.generator_lag.get_or_insert_default();
            if is_held_back {
                generator_lag.held_back += 1;
            } else {
                generator_lag.lag.record(lag, 1);
            }
        }
        Begin { planned, without_lag: if is_held_back { planned } else { now } }
    }

    /// Counts an opening handshake that is done.
    pub(super) fn count_handshake(
        &self,
        Begin { planned, without_lag }: Begin,
        openings: &Openings,
    ) {
        let now = self.schedule.now();
        self.hand_over_if_due(now);
        let tally = &mut *self.tally.borrow_mut();
        tally.opened += 1;
        tally.count_openings(openings, self.schedule.measures(planned));
        if self.schedule.measures(planned) {
            tally.histograms.handshake.record(now.saturating_sub(planned), 1);
        }
        if self.is_planned(planned) {
            let handshake = now.saturating_sub(without_lag);
            tally.generator_lag.get_or_insert_default().handshake_without.record(handshake, 1);
        }
    }

    /// Counts transports of HTTP/2 that were opened.
    pub(super) fn count_transports(&self) {
        self.tally.borrow_mut().count_transports(&self.connector.take_transports());
    }

    /// Whether an open loop planned something for this instant, which is in the measured window.
    fn is_planned(&self, instant: u64) -> bool {
        self.plan.load.is_open() && self.schedule.measures(instant)
    }

    /// Counts a cycle that has ended.
    pub(super) fn count_end(
        &self,
        Begin { planned, without_lag }: Begin,
        outcome: &Result<(), CycleError>,
    ) {
        let now = self.schedule.now();
        self.hand_over_if_due(now);
        self.under_way.update(|cycles| cycles - 1);
        self.last_end.set(now);
        let tally = &mut *self.tally.borrow_mut();
        match outcome {
            Ok(()) => {
                self.gauges.cycles.fetch_add(1, Relaxed);
                tally.exchanges += 1;
                tally.exchanges_measured += u64::from(self.schedule.measures(now));
                if self.schedule.measures(planned) {
                    tally.histograms.latency.record(now.saturating_sub(planned), 1);
                }
                if self.is_planned(planned) {
                    let latency = now.saturating_sub(without_lag);
                    tally.generator_lag.get_or_insert_default().latency_without.record(latency, 1);
                }
                return;
            }
            Err(CycleError::Connection(error)) => tally.count_error(error),
            Err(CycleError::Wrong(wrong)) => tally.count_wrong(*wrong),
        }
        self.gauges.errors.fetch_add(1, Relaxed);
    }

    /// Counts time in which there was nothing to do.
    pub(super) fn count_polled_in_vain(&self, nanoseconds: u64) {
        self.gauges.polled_in_vain.fetch_add(nanoseconds, Relaxed);
    }
}
