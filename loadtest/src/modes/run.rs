//! A run from its first connection to its report: starts the threads, keeps the schedule, and
//! adds up what the threads have counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use thiserror::Error;

use crate::{
    count::{
        timeline::{PortionSender, Recording, Timeline},
        window_usage::{WindowEnd, WindowUsage},
    },
    drive::{
        reserve::DescriptorReserve,
        thread,
        threads::{ThreadError, Threads, pause},
        worker::Gauges,
    },
    plan::{Plan, schedule::Schedule},
    result::{progress::Progress, report::Report},
    text::{numbers::grouped, warning::Warning},
};

/// How often the main thread looks whether the run has to end early.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Why a run came to nothing.
#[derive(Debug, Error)]
pub enum RunError {
    /// A thread could not do its part.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// Nobody is there; only where several runs belong together.
    #[error("{0}")]
    NotOpened(Warning),
}

/// Carries out a plan. When `interrupted` becomes true, the run ends early.
pub fn run(
    plan: Plan,
    interrupted: &AtomicBool,
    progress: &mut Progress,
) -> Result<Report, RunError> {
    run_on(Threads::default(), plan, interrupted, progress)
}

fn run_on(
    threads: Threads<Gauges, ()>,
    plan: Plan,
    interrupted: &AtomicBool,
    progress: &mut Progress,
) -> Result<Report, RunError> {
    let schedule = Arc::new(Schedule::new(plan.backlog_grace));
    let plan = Arc::new(plan);
    let (timeline, portion_senders) = Timeline::new(plan.threads.count);
    let mut run = Run { threads, plan, schedule, timeline, interrupted, progress, echoes_shown: 0 };
    let reserve = DescriptorReserve::take();
    if let Err(error) = run.start_threads(portion_senders) {
        // Those that have started would wait for the load for ever.
        run.schedule.abandon();
        let _ = run.threads.join();
        return Err(error.into());
    }
    run.wait_for_connections();
    drop(reserve);
    run.wait_for_start();
    let window = run.wait_for_window();
    // From here on a second Ctrl-C may end the program at any instant.
    run.progress.clear();
    run.wait_for_echoes();
    run.threads.join()?;
    let recording = Recording::new(run.timeline, &run.schedule);
    let interrupted = interrupted.load(Relaxed);
    Ok(Report::new(&run.plan, recording, &run.schedule, interrupted, &window))
}

struct Run<'r> {
    plan: Arc<Plan>,
    schedule: Arc<Schedule>,
    timeline: Timeline,
    threads: Threads<Gauges, ()>,
    interrupted: &'r AtomicBool,
    progress: &'r mut Progress,
    echoes_shown: u64,
}

impl Run<'_> {
    fn start_threads(&mut self, portion_senders: Vec<PortionSender>) -> Result<(), ThreadError> {
        for portion_sender in portion_senders {
            let (plan, schedule) = (Arc::clone(&self.plan), Arc::clone(&self.schedule));
            self.threads.start(&self.plan.threads, move |number, gauges| {
                thread::run(plan, schedule, gauges, portion_sender, number)
            })?;
        }
        Ok(())
    }

    /// Whether the run has to end: somebody wants it to, or a thread has nothing left to do.
    fn ends_early(&self) -> bool {
        self.interrupted.load(Relaxed) || self.threads.any_has_ended()
    }

    fn wait_for_connections(&mut self) {
        let requested = self.plan.connections;
        while self.threads.sum(|gauges| &gauges.tried) < requested as u64 && !self.ends_early() {
            pause(Duration::from_millis(1));
            let open = self.threads.sum(|gauges| &gauges.open);
            self.progress.show(|_| format!("{open} of {requested} connections are open"));
        }
    }

    /// Waits for the instant at which the load starts, if one is planned.
    fn wait_for_start(&mut self) {
        let Some(start) = self.plan.start_at else { return };
        while let Ok(ahead) = start.duration_since(SystemTime::now()) {
            let open = self.threads.sum(|gauges| &gauges.open);
            if self.ends_early() || open == 0 {
                return;
            }
            let seconds = ahead.as_secs() + 1;
            self.progress
                .show(|_| format!("{open} connections are open; {seconds} s to --start-at"));
            pause(ahead.min(POLL_INTERVAL));
        }
    }

    /// Lets the load run, and measures the processes at both ends of the measured window.
    fn wait_for_window(&mut self) -> WindowUsage {
        let mut used = WindowUsage::default();
        if !self.ends_early() && self.threads.sum(|gauges| &gauges.open) > 0 {
            self.start_load();
            self.schedule.set_window(self.plan.lead(), self.plan.warmup, self.plan.duration);
            self.wait_until(self.schedule.begin(), "warm-up");
            let before = self.window_end();
            self.wait_until(self.schedule.end(), "measuring");
            used = WindowUsage::between(&before, &self.window_end());
        }
        self.schedule.stop();
        used
    }

    fn window_end(&self) -> WindowEnd {
        let polls = self.plan.polls();
        let in_vain = polls.then(|| self.threads.each(|gauges| &gauges.polled_in_vain));
        WindowEnd::read(self.plan.server_pid, in_vain)
    }

    /// Starts the load, and returns when each thread has.
    fn start_load(&self) {
        self.schedule.start_load();
        while !self.threads.all(|gauges| gauges.sends.load(Relaxed)) && !self.ends_early() {
            pause(Duration::from_millis(1));
        }
    }

    /// Waits until the instant `until`, or until the run has to end early.
    fn wait_until(&mut self, until: u64, what: &str) {
        loop {
            let now = self.schedule.now();
            let all_lost = self.threads.sum(|gauges| &gauges.open) == 0 && !self.plan.reconnect;
            if now >= until || all_lost || self.ends_early() {
                return;
            }
            self.timeline.collect();
            let remaining = Duration::from_nanos(until - now);
            self.show_load(what, remaining);
            pause(remaining.min(POLL_INTERVAL));
        }
    }

    /// Waits while the threads wait for outstanding echoes and closing handshakes. If somebody asks
    /// for an end during this, the threads give these up.
    fn wait_for_echoes(&self) {
        let was_interrupted = self.interrupted.load(Relaxed);
        while !self.threads.all_have_ended() {
            if self.interrupted.load(Relaxed) && !was_interrupted {
                self.schedule.abandon();
            }
            pause(Duration::from_millis(1));
        }
    }

    fn show_load(&mut self, what: &str, remaining: Duration) {
        let echoes = self.threads.sum(|gauges| &gauges.echoes);
        let open = self.threads.sum(|gauges| &gauges.open);
        let errors = self.threads.sum(|gauges| &gauges.errors);
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
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener};

    use super::*;
    use crate::drive::threads::build;
    use crate::{
        payload::{EchoKind, PayloadKind, PayloadPlan},
        plan::{Load, Wait, threads::ThreadPlan},
        wire::{
            connector::{Connector, Limits, Wishes},
            stream::{Endpoint, Sources},
        },
    };

    fn plan(listener: &TcpListener) -> Plan {
        let target = "ws://localhost/".parse().unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
        let hour = Duration::from_hours(1);
        let limits = Limits { connect: hour, opening: hour };
        let (sources, wishes) = (Sources::new(Vec::new()), Wishes::default());
        let connector = Connector::new(&target, endpoint, sources, None, &wishes, limits);
        Plan {
            connector: Arc::new(connector),
            connections: 6,
            load: Load::Closed,
            wait: Wait::Sleep,
            depth: 1,
            payload: PayloadPlan::generated(PayloadKind::Binary, 16),
            fragments: 1,
            echo_kind: EchoKind::Messages,
            reconnect: false,
            start_at: None,
            compression: false,
            warmup: Duration::ZERO,
            duration: hour,
            backlog_grace: Duration::ZERO,
            threads: ThreadPlan { count: 3, cpus: Vec::new() },
            server_pid: None,
        }
    }

    /// Whether this process has a thread of a run.
    fn is_any_running() -> bool {
        let mut names = fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.any(|name| name.starts_with("loadtest-"))
    }

    #[test]
    fn a_thread_that_cannot_be_started_ends_those_that_were() {
        // Connections wait in the listen queue, so no opening handshake is answered.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let plan = plan(&listener);
        let threads = Threads::built_by(|number| {
            // No address space has room for the third one's stack.
            let stack_len = if number < 2 { 2 << 20 } else { usize::MAX >> 1 };
            build(number).stack_size(stack_len)
        });
        let result = run_on(threads, plan, &AtomicBool::new(false), &mut Progress::default());
        assert!(matches!(result, Err(RunError::Thread(ThreadError::Spawn(_)))), "{result:?}");
        // The kernel lists a thread for a moment longer than joining it takes.
        while is_any_running() {
            pause(Duration::from_millis(1));
        }
    }
}
