//! A run from its first connection to its report: starts the threads, keeps the schedule, and
//! adds up what the threads have counted.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use thiserror::Error;

use crate::{
    plan::{Plan, Schedule},
    process_usage::ProcessUsage,
    progress::Progress,
    report::{Report, grouped},
    thread_usage::{BusyThread, ThreadTimes},
    timeline::{Portions, Recording, Timeline},
    warning::Warning,
    worker::{self, Gauges},
};

/// How often the main thread looks whether the run has to end early.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Why a run came to nothing.
#[derive(Debug, Error)]
pub enum RunError {
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; try fewer --threads")]
    Spawn(io::Error),
    /// A thread's runtime failed.
    #[error("a thread could not run: {0}")]
    Thread(io::Error),
    /// Nobody is there; only where several runs belong together.
    #[error("{0}")]
    NotOpened(Warning),
    /// A thread panicked, and has said why.
    #[error("a thread panicked")]
    Panic,
}

/// Carries out a plan. When `interrupted` becomes true, the run ends early.
pub fn run(
    plan: Plan,
    interrupted: &AtomicBool,
    progress: &mut Progress,
) -> Result<Report, RunError> {
    let plan = Arc::new(plan);
    let schedule = Arc::new(Schedule::default());
    let (timeline, portions) = Timeline::new(plan.threads);
    let mut run = Run {
        threads: Vec::with_capacity(plan.threads),
        plan,
        schedule,
        timeline,
        interrupted,
        progress,
        echoes_shown: 0,
    };
    run.start_threads(portions)?;
    run.wait_for_connections();
    run.wait_for_start();
    let window = run.wait_for_window();
    // From here on a second Ctrl-C may end the program at any instant.
    run.progress.clear();
    run.join()?;
    let recording = Recording::new(run.timeline, &run.schedule);
    let interrupted = interrupted.load(Relaxed);
    Ok(Report::new(&run.plan, recording, &run.schedule, interrupted, &window))
}

/// Carries out a plan which is one of several that belong together: they make no sense if not one
/// connection opens.
pub(crate) fn run_opened(
    plan: Plan,
    interrupted: &AtomicBool,
    progress: &mut Progress,
) -> Result<Report, RunError> {
    let report = run(plan, interrupted, progress)?;
    match report.not_opened() {
        Some(warning) if report.connections.opened == 0 && !report.interrupted => {
            Err(RunError::NotOpened(warning))
        }
        _ => Ok(report),
    }
}

/// What the processes have used, at the beginning and at the end of the measured window.
#[derive(Debug, Default)]
pub(crate) struct WindowUsage {
    pub(crate) generator: Option<[ProcessUsage; 2]>,
    pub(crate) server: Option<[ProcessUsage; 2]>,
    /// Threads that were busy in between.
    pub(crate) generator_threads: Vec<BusyThread>,
    pub(crate) server_threads: Vec<BusyThread>,
}

/// What a process has used at an instant.
struct Usage {
    process: ProcessUsage,
    threads: ThreadTimes,
    instant: Instant,
}

impl Usage {
    fn read(pid: u32) -> Option<Self> {
        let process = ProcessUsage::read(pid).ok()?;
        Some(Self { process, threads: ThreadTimes::read(pid).ok()?, instant: Instant::now() })
    }

    fn busy_since(&self, before: &Self) -> Vec<BusyThread> {
        self.threads.busy_since(&before.threads, self.instant - before.instant)
    }
}

struct Run<'r> {
    plan: Arc<Plan>,
    schedule: Arc<Schedule>,
    timeline: Timeline,
    threads: Vec<Thread>,
    interrupted: &'r AtomicBool,
    progress: &'r mut Progress,
    echoes_shown: u64,
}

struct Thread {
    handle: JoinHandle<io::Result<()>>,
    gauges: Arc<Gauges>,
}

impl Run<'_> {
    fn start_threads(&mut self, portions: Vec<Portions>) -> Result<(), RunError> {
        for (number, portions) in portions.into_iter().enumerate() {
            let gauges = Arc::new(Gauges::default());
            let (plan, schedule, shared) =
                (Arc::clone(&self.plan), Arc::clone(&self.schedule), Arc::clone(&gauges));
            let handle = thread::Builder::new()
                .name(format!("loadtest-{number}"))
                .spawn(move || worker::run(plan, schedule, shared, portions, number))
                .map_err(RunError::Spawn)?;
            self.threads.push(Thread { handle, gauges });
        }
        Ok(())
    }

    fn sum(&self, gauge: impl Fn(&Gauges) -> &AtomicU64) -> u64 {
        self.threads.iter().map(|thread| gauge(&thread.gauges).load(Relaxed)).sum()
    }

    /// Whether the run has to end: somebody wants it to, or a thread has nothing left to do.
    fn ends_early(&self) -> bool {
        self.interrupted.load(Relaxed)
            || self.threads.iter().any(|thread| thread.handle.is_finished())
    }

    fn wait_for_connections(&mut self) {
        let requested = self.plan.connections;
        while self.sum(|gauges| &gauges.tried) < requested as u64 && !self.ends_early() {
            thread::sleep(Duration::from_millis(1));
            let open = self.sum(|gauges| &gauges.open);
            self.progress.show(|_| format!("{open} of {requested} connections are open"));
        }
    }

    /// Waits for the instant at which the load starts, if one is planned.
    fn wait_for_start(&mut self) {
        let Some(start) = self.plan.start_at else { return };
        while let Ok(ahead) = start.duration_since(SystemTime::now()) {
            if self.ends_early() || self.sum(|gauges| &gauges.open) == 0 {
                return;
            }
            let seconds = ahead.as_secs() + 1;
            self.progress.show(|_| format!("all connections are open; {seconds} s to --start-at"));
            thread::sleep(ahead.min(POLL_INTERVAL));
        }
    }

    /// Lets the load run, and measures the processes at both ends of the measured window.
    fn wait_for_window(&mut self) -> WindowUsage {
        let mut window = WindowUsage::default();
        if !self.ends_early() && self.sum(|gauges| &gauges.open) > 0 {
            self.start_load();
            self.schedule.set_window(self.plan.lead(), self.plan.warmup, self.plan.duration);
            self.wait_until(self.schedule.begin(), "warm-up");
            let before = self.usage();
            self.wait_until(self.schedule.end(), "measuring");
            let after = self.usage();
            if let Some((before, after)) = before.0.zip(after.0) {
                window.generator_threads = after.busy_since(&before);
                window.generator = Some([before.process, after.process]);
            }
            if let Some((before, after)) = before.1.zip(after.1) {
                window.server_threads = after.busy_since(&before);
                window.server = Some([before.process, after.process]);
            }
        }
        self.schedule.stop();
        window
    }

    /// Starts the load, and returns when each thread has.
    fn start_load(&self) {
        self.schedule.start_load();
        let all_send =
            |threads: &[Thread]| threads.iter().all(|thread| thread.gauges.sends.load(Relaxed));
        while !all_send(&self.threads) && !self.ends_early() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Of the generator and of the server.
    fn usage(&self) -> (Option<Usage>, Option<Usage>) {
        (Usage::read(std::process::id()), self.plan.server_pid.and_then(Usage::read))
    }

    /// Waits until the instant `until`, or until the run has to end early.
    fn wait_until(&mut self, until: u64, what: &str) {
        loop {
            let now = self.schedule.now();
            let all_lost = self.sum(|gauges| &gauges.open) == 0 && !self.plan.reconnect;
            if now >= until || all_lost || self.ends_early() {
                return;
            }
            self.timeline.collect();
            let remaining = Duration::from_nanos(until - now);
            self.show_load(what, remaining);
            thread::sleep(remaining.min(POLL_INTERVAL));
        }
    }

    fn show_load(&mut self, what: &str, remaining: Duration) {
        let echoes = self.sum(|gauges| &gauges.echoes);
        let open = self.sum(|gauges| &gauges.open);
        let errors = self.sum(|gauges| &gauges.errors);
        let shown = &mut self.echoes_shown;
        self.progress.show_with(self.timeline.seconds(), |since_last| {
            let rate = u128::from(echoes - *shown) * 1000 / since_last.as_millis().max(1);
            *shown = echoes;
            format!(
                "{what}, {} s left: {} messages/s, {open} connections, {errors} errors",
                remaining.as_secs() + 1,
                grouped(rate as u64),
            )
        });
    }

    /// Waits for all threads.
    fn join(&mut self) -> Result<(), RunError> {
        for thread in self.threads.drain(..) {
            thread.handle.join().map_err(|_| RunError::Panic)?.map_err(RunError::Thread)?;
        }
        Ok(())
    }
}
