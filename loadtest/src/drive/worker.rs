//! What the connections of one thread share: its plan, its stage, its counts and its buffers.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Poll, Waker},
};

use rand::{SeedableRng, rngs::SmallRng};

use crate::{
    count::{
        latency::{InFlight, Instants},
        tally::Tally,
        timeline::PortionSender,
    },
    payload::{Payloads, deflate::Deflater},
    plan::{Load, Plan, rate::Arrivals, schedule::Schedule},
    wire::thread_connector::ThreadConnector,
};

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
    pub(super) connector: ThreadConnector,
    pub(crate) schedule: Arc<Schedule>,
    pub(crate) payloads: Payloads,
    pub(crate) deflater: RefCell<Option<Deflater>>,
    pub(crate) rng: RefCell<SmallRng>,
    /// What was counted since it was last handed over.
    pub(crate) tally: RefCell<Tally>,
    pub(super) portion_sender: PortionSender,
    /// The instants of the plan's messages, in an open loop.
    pub(super) arrivals: Option<Arrivals>,
    /// The number of this thread.
    pub(super) number: usize,
    pub(super) gauges: Arc<Gauges>,
    pub(super) stage: Cell<Stage>,
    /// Connections that have not been begun to open.
    pub(super) unopened: Cell<usize>,
    pub(super) tried: Cell<u64>,
    pub(super) open: Cell<u64>,
    pub(super) last_received: Cell<u64>,
    /// Turns of connections in which something was received or sent.
    pub(super) busy_turns: Cell<u64>,
    /// The wakers of the connections' tasks, which are woken when the stage changes or a message is due.
    pub(super) wakers: RefCell<Vec<Option<Waker>>>,
    /// Write buffers that are not in use. As few as possible are, the last returned first, so that
    /// they stay in the cache.
    pub(super) write_buffers: RefCell<Vec<Vec<u8>>>,
    /// Why the load cannot go on.
    pub(super) fault: RefCell<Option<io::Error>>,
}

impl Worker {
    pub(super) fn new(
        plan: Arc<Plan>,
        schedule: Arc<Schedule>,
        gauges: Arc<Gauges>,
        portion_sender: PortionSender,
        number: usize,
    ) -> Self {
        let mut rng = SmallRng::from_rng(&mut rand::rng());
        let connections = plan.connections_of(number);
        let transports = plan.threads.share_of(number, plan.connector.transports());
        let connector = ThreadConnector::new(&plan.connector, connections, transports);
        let deflater = plan.compression.then(Deflater::default);
        let arrivals = match &plan.load {
            Load::Closed => None,
            Load::Open(rate) => Some(Arrivals::new(rate, plan.warmup, plan.duration)),
        };
        Self {
            payloads: Payloads::new(&plan.payload, &mut rng),
            unopened: Cell::new(connections),
            connector,
            plan,
            schedule,
            gauges,
            deflater: RefCell::new(deflater),
            rng: RefCell::new(rng),
            tally: RefCell::default(),
            portion_sender,
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

    #[inline]
    pub(super) fn hand_over_if_due(&self, now: u64, tally: &mut Tally) {
        if self.portion_sender.is_due(now) {
            self.portion_sender.hand_over(now, &self.schedule, tally);
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
        tally.exchanges += echoes as u64;
        if self.schedule.measures(now) {
            tally.exchanges_measured += echoes as u64;
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
            tally.histograms.lag.record(sent - planned, 1);
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
