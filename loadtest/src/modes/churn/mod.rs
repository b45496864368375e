//! Connections that come and go: each cycle opens one, has messages echoed, and closes it.
//!
//! The main thread keeps the schedule of a run, with a warm-up and a measured window; the threads
//! begin cycles one after the other, or at planned instants. What a cycle is stands in `cycle`,
//! who begins the next one in `turns`.

mod cycle;
mod cycle_error;
mod page;
pub mod plan;
pub mod report;
mod thread;
mod thread_state;
mod turns;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use self::{plan::ChurnPlan, report::ChurnReport, thread_state::Gauges};
use crate::{
    count::{
        timeline::{PortionSender, Recording, Timeline},
        window_usage::{WindowEnd, WindowUsage},
    },
    drive::threads::{ThreadError, Threads, pause},
    plan::schedule::Schedule,
    result::progress::Progress,
    text::numbers::grouped,
};

/// Descriptors that a cycle takes at most: a socket, which has a second one while it connects, and
/// that of the cycle before, which is being closed.
pub const DESCRIPTORS_EACH: usize = 3;

/// How often the main thread looks at its threads.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Carries out a plan. When `interrupted` becomes true, it ends early.
pub fn run(
    plan: ChurnPlan,
    interrupted: &AtomicBool,
    progress: &mut Progress,
) -> Result<ChurnReport, ThreadError> {
    let (timeline, portion_senders) = Timeline::new(plan.threads.count);
    let mut churn = Churn {
        schedule: Arc::new(Schedule::new(plan.backlog_grace)),
        plan: Arc::new(plan),
        timeline,
        threads: Threads::default(),
        interrupted,
        progress,
        cycles_shown: 0,
    };
    if let Err(error) = churn.start_threads(portion_senders) {
        // Those that have started would wait for the load for ever.
        churn.schedule.abandon();
        let _ = churn.threads.join();
        return Err(error);
    }
    let window = churn.wait_for_window();
    // From here on a second Ctrl-C may end the program at any instant.
    churn.progress.clear();
    churn.wait_for_cycles();
    churn.threads.join()?;
    let recording = Recording::new(churn.timeline, &churn.schedule);
    let was_interrupted = interrupted.load(Relaxed);
    Ok(ChurnReport::new(&churn.plan, recording, &churn.schedule, was_interrupted, &window))
}

struct Churn<'r> {
    plan: Arc<ChurnPlan>,
    schedule: Arc<Schedule>,
    timeline: Timeline,
    threads: Threads<Gauges, ()>,
    interrupted: &'r AtomicBool,
    progress: &'r mut Progress,
    cycles_shown: u64,
}

impl Churn<'_> {
    fn start_threads(&mut self, portion_senders: Vec<PortionSender>) -> Result<(), ThreadError> {
        for portion_sender in portion_senders {
            let (plan, schedule) = (Arc::clone(&self.plan), Arc::clone(&self.schedule));
            self.threads.start(&self.plan.threads, move |number, gauges| {
                thread::run(plan, schedule, gauges, portion_sender, number)
            })?;
        }
        while !self.threads.all(|gauges| gauges.is_ready.load(Relaxed)) && !self.ends_early() {
            pause(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether it has to end: somebody wants it to, or a thread could not go on.
    fn ends_early(&self) -> bool {
        self.interrupted.load(Relaxed) || self.threads.any_has_ended()
    }

    /// Whether each thread has begun a cycle.
    fn has_begun(&self) -> bool {
        self.threads.all(|gauges| gauges.has_begun.load(Relaxed))
    }

    /// Lets cycles begin, and measures the processes at both ends of the measured window.
    fn wait_for_window(&mut self) -> WindowUsage {
        let ChurnPlan { warmup, duration, ref load, .. } = *self.plan;
        let is_open = load.is_open();
        let lead = load.lead();
        self.schedule.start_load();
        // However late threads get to run, a closed loop has cycles; an open one plans them.
        while !is_open && !self.has_begun() && !self.ends_early() {
            pause(Duration::from_millis(1));
        }
        self.schedule.set_window(lead, warmup, duration);
        self.wait_until(self.schedule.begin(), "warm-up");
        let before = self.window_end();
        self.wait_until(self.schedule.end(), "measuring");
        let used = WindowUsage::between(&before, &self.window_end());
        self.schedule.stop();
        used
    }

    fn window_end(&self) -> WindowEnd {
        let polls = self.plan.load.polls(self.plan.wait);
        let in_vain = polls.then(|| self.threads.each(|gauges| &gauges.polled_in_vain));
        WindowEnd::read(self.plan.server_pid, in_vain)
    }

    /// Waits until the instant `until`, or until it has to end early.
    fn wait_until(&mut self, until: u64, what: &str) {
        loop {
            let now = self.schedule.now();
            if now >= until || self.ends_early() {
                return;
            }
            self.timeline.collect();
            let remaining = Duration::from_nanos(until - now);
            self.show(what, remaining);
            pause(remaining.min(POLL_INTERVAL));
        }
    }

    /// Waits for the cycles that are under way. If somebody asks for an end during this, they are
    /// given up.
    fn wait_for_cycles(&self) {
        let was_interrupted = self.interrupted.load(Relaxed);
        while !self.threads.all_have_ended() {
            if self.interrupted.load(Relaxed) && !was_interrupted {
                self.schedule.abandon();
            }
            pause(Duration::from_millis(1));
        }
    }

    fn show(&mut self, what: &str, remaining: Duration) {
        let cycles = self.threads.sum(|gauges| &gauges.cycles);
        let errors = self.threads.sum(|gauges| &gauges.errors);
        let shown = &mut self.cycles_shown;
        self.progress.show(|since_last| {
            let rate = u128::from(cycles - *shown) * 1000 / since_last.as_millis().max(1);
            *shown = cycles;
            format!(
                "{what}, {} s left: {} cycles/s, {errors} errors",
                remaining.as_secs() + 1,
                grouped(rate as u64),
            )
        });
    }
}
