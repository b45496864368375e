//! Idle connections: opens them, holds them while nothing is sent, and asks each at the end whether
//! it is still there.
//!
//! The main thread conducts: it orders the same task of all threads, waits until their
//! connections have done it, and reads between tasks how much memory the server uses.

mod held_connection;
mod observations;
pub mod plan;
pub mod report;
mod thread;
mod thread_state;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Sender, channel},
    },
    time::{Duration, Instant},
};

use self::{
    held_connection::Task,
    observations::{Footprint, Observations},
    plan::IdlePlan,
    report::IdleReport,
    thread_state::{Gauges, ThreadTally},
};
use crate::{
    drive::{
        reserve::DescriptorReserve,
        threads::{ThreadError, Threads, pause},
    },
    plan::schedule::GRACE_QUIET,
    result::progress::Progress,
};

/// How often the main thread looks at its threads.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long closing handshakes are waited for.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// Carries out a plan. When `interrupted` becomes true, the connections are not held any longer.
pub fn run(
    plan: IdlePlan,
    interrupted: &AtomicBool,
    progress: &mut Progress,
) -> Result<IdleReport, ThreadError> {
    let mut conductor = Conductor {
        before: Footprint::read(&plan, 0),
        threads: Threads::default(),
        orders: Vec::new(),
        ordered: 0,
        plan: Arc::new(plan),
        interrupted,
        progress,
    };
    let conducted = conductor.conduct();
    let Conductor { plan, threads, orders, .. } = conductor;
    // The threads end when nobody has orders for them any longer, also where one of them could not
    // be started.
    drop(orders);
    let joined = threads.join();
    let observations = conducted?;
    let mut total = ThreadTally::default();
    joined?.iter().for_each(|tally| total.merge(tally));
    Ok(IdleReport::new(&plan, &total, &observations))
}

struct Conductor<'r> {
    plan: Arc<IdlePlan>,
    before: Footprint,
    threads: Threads<Gauges, ThreadTally>,
    /// Where each thread takes its orders from.
    orders: Vec<Sender<Task>>,
    /// How many orders were given.
    ordered: u64,
    interrupted: &'r AtomicBool,
    progress: &'r mut Progress,
}

impl Conductor<'_> {
    fn conduct(&mut self) -> Result<Observations, ThreadError> {
        let answer_timeout = self.plan.answer_timeout;
        let started = Instant::now();
        let reserve = DescriptorReserve::take();
        self.start_threads()?;
        self.wait_for_opening();
        drop(reserve);
        let opening = started.elapsed();
        let after_opening = self.footprint();
        let after_echoes = self.plan.echo_len.map(|_| {
            self.have_done(Task::Echo, answer_timeout, "echoed");
            self.footprint()
        });
        let held = self.hold();
        let after_holding = self.footprint();
        self.have_done(Task::Ping, answer_timeout, "answered a Ping");
        let after_pings = self.footprint();
        self.have_done(Task::Close, CLOSING_MAX, "closed");
        self.progress.clear();
        Ok(Observations {
            opening,
            held,
            interrupted: self.interrupted.load(Relaxed),
            before: self.before,
            after_opening,
            after_echoes,
            after_holding,
            after_pings,
        })
    }

    fn start_threads(&mut self) -> Result<(), ThreadError> {
        for _ in 0..self.plan.threads.count {
            let plan = Arc::clone(&self.plan);
            let (orders, received) = channel();
            self.threads.start(&self.plan.threads, move |number, gauges| {
                thread::run(plan, gauges, number, &received)
            })?;
            self.orders.push(orders);
        }
        Ok(())
    }

    /// Connections that are open.
    fn open(&self) -> u64 {
        // A connection that opens and ends while this adds up may count as ended alone.
        self.threads
            .sum(|gauges| &gauges.opened)
            .saturating_sub(self.threads.sum(|gauges| &gauges.lost))
            .saturating_sub(self.threads.sum(|gauges| &gauges.closed))
    }

    fn footprint(&self) -> Footprint {
        Footprint::read(&self.plan, self.open())
    }

    fn wait_for_opening(&mut self) {
        let requested = self.plan.connections as u64;
        while self.threads.sum(|gauges| &gauges.tried) < requested && !self.has_to_end() {
            pause(POLL_INTERVAL);
            let open = self.open();
            self.progress.show(|_| format!("{open} of {requested} connections are open"));
        }
    }

    /// Orders a task of all connections, and waits until each has done it or is lost, for at most
    /// `limit`. If somebody asks for an end meanwhile, the wait is over at once; if somebody has
    /// asked before, it is over once no connection has done the task for [`GRACE_QUIET`].
    fn have_done(&mut self, task: Task, limit: Duration, what: &str) {
        let begun = Instant::now();
        let was_interrupted = self.interrupted.load(Relaxed);
        self.ordered += 1;
        for orders in &self.orders {
            // A thread that has ended says why when it is joined.
            let _ = orders.send(task);
        }
        let mut last_seen = (begun, 0);
        while begun.elapsed() < limit && !self.threads.any_has_ended() {
            let passed_on = self.threads.all(|gauges| gauges.orders.load(Relaxed) == self.ordered);
            let due = self.threads.sum(|gauges| &gauges.due);
            if due != last_seen.1 {
                last_seen = (Instant::now(), due);
            }
            let is_quiet = last_seen.0.elapsed() > GRACE_QUIET;
            let is_unwanted = self.interrupted.load(Relaxed) && (!was_interrupted || is_quiet);
            if passed_on && due == 0 || is_unwanted {
                return;
            }
            self.progress.show(|_| format!("{due} connections have not {what}"));
            pause(POLL_INTERVAL);
        }
    }

    /// Holds the connections, and says for how long.
    fn hold(&mut self) -> Duration {
        let begun = Instant::now();
        while begun.elapsed() < self.plan.duration && self.open() > 0 && !self.has_to_end() {
            let remaining = self.plan.duration.saturating_sub(begun.elapsed());
            let open = self.open();
            self.progress.show(|_| {
                format!("{open} connections are held, {:.0} s to go", remaining.as_secs_f64())
            });
            pause(remaining.min(POLL_INTERVAL));
        }
        begun.elapsed()
    }

    fn has_to_end(&self) -> bool {
        self.interrupted.load(Relaxed) || self.threads.any_has_ended()
    }
}
