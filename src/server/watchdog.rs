//! The watchdog: a thread that notices a worker whose sweep does not come, and says what the worker
//! was doing. It ends nothing: whether a worker that stands still is to be killed, with what it
//! carries, is the operator's to decide.
//!
//! A process that was stopped (SIGSTOP, a paused container) is no stall: the watchdog stood still too.
//! Of the time between two of its looks it counts at most twice what it meant to let pass.

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tracing::error;

use super::errors::StartError;
use crate::{
    config::format_duration,
    connection::clock::TICK,
    metrics::Counters,
    pulse::{Activity, Pulse},
};

/// How often the watchdog looks within the time after which it reports.
const LOOKS: u32 = 8;

/// The bounds of the time between two looks.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
const INTERVAL_MAX: Duration = Duration::from_secs(1);

/// A running watchdog, which ends when this is dropped.
pub(super) struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the watchdog has to say of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// No sweep has come for this long, and this is what the worker was doing.
    Stalls { silent: Duration, activity: Activity },
    /// It sweeps again, or it has ended.
    GoesOn { silent: Duration },
}

/// What is known of one worker.
struct Watch {
    sweeps: u32,
    /// The time without a sweep, as far as the watchdog itself ran.
    silent: Duration,
    is_reported: bool,
}

impl Watchdog {
    /// Watches workers with these counters. One that is late with a sweep by `timeout` is logged,
    /// and logged again when it goes on.
    pub(super) fn start(
        counters: Vec<Arc<Counters>>,
        timeout: Duration,
    ) -> Result<Self, StartError> {
        Self::start_with(counters, timeout, log)
    }

    pub(super) fn start_with(
        counters: Vec<Arc<Counters>>,
        timeout: Duration,
        report: impl Fn(usize, Report) + Send + 'static,
    ) -> Result<Self, StartError> {
        let interval = (timeout / LOOKS).clamp(INTERVAL_MIN, INTERVAL_MAX);
        let (stop, stopped) = channel();
        let watch = move || {
            let mut watches: Vec<_> = counters.iter().map(|it| Watch::new(&it.pulse)).collect();
            let mut before = Instant::now();
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let now = Instant::now();
                let passed = (now - before).min(2 * interval);
                before = now;
                for (worker, (watch, counters)) in watches.iter_mut().zip(&counters).enumerate() {
                    if let Some(said) = watch.look(&counters.pulse, passed, timeout) {
                        report(worker, said);
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("watchdog".to_owned()).spawn(watch);
        let thread = Some(thread.map_err(StartError::Thread)?);
        Ok(Self { stop: Some(stop), thread })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends at once. Had it panicked, the workers would only go unwatched.
            let _ = thread.join();
        }
    }
}

impl Watch {
    fn new(pulse: &Pulse) -> Self {
        Self { sweeps: pulse.sweeps(), silent: Duration::ZERO, is_reported: false }
    }

    /// Looks at a worker when the watchdog has run for `passed` since the last look.
    fn look(&mut self, pulse: &Pulse, passed: Duration, timeout: Duration) -> Option<Report> {
        let (sweeps, activity) = (pulse.sweeps(), pulse.activity());
        self.silent += passed;
        if sweeps != self.sweeps || activity == Activity::NotRunning {
            let silent = self.silent;
            let was_reported = self.is_reported;
            *self = Self { sweeps, silent: Duration::ZERO, is_reported: false };
            return was_reported.then_some(Report::GoesOn { silent });
        }
        if self.is_reported || self.silent < TICK + timeout {
            return None;
        }
        self.is_reported = true;
        Some(Report::Stalls { silent: self.silent, activity })
    }
}

fn log(worker: usize, report: Report) {
    let in_seconds = |time: Duration| format_duration(&Duration::from_secs(time.as_secs()));
    match report {
        Report::Stalls { silent, activity } => error!(
            worker,
            "a worker stands still: no sweep for {}, it is {activity}",
            in_seconds(silent)
        ),
        Report::GoesOn { silent } => {
            error!(worker, "a worker goes on that stood still for {}", in_seconds(silent));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3);
    const STEP: Duration = Duration::from_secs(1);

    /// What is said at each of `looks`, with a sweep before those that are true.
    fn said(pulse: &Pulse, watch: &mut Watch, looks: &[bool]) -> Vec<Option<Report>> {
        let look = |sweeps: &bool| {
            if *sweeps {
                pulse.sweep();
            }
            pulse.begin(Activity::Handling);
            watch.look(pulse, STEP, TIMEOUT)
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn stall_is_reported_once_and_its_end_once() {
        let pulse = Pulse::default();
        let mut watch = Watch::new(&pulse);
        let stalls = Some(Report::Stalls { silent: TICK + TIMEOUT, activity: Activity::Handling });
        let goes_on = Some(Report::GoesOn { silent: 6 * STEP });
        let looks = [true, false, false, false, false, false, true, true];
        let expected = [None, None, None, None, stalls, None, goes_on, None];
        for _ in 0..2 {
            assert_eq!(said(&pulse, &mut watch, &looks), expected);
        }
    }

    #[test]
    fn worker_that_is_late_by_less_is_not_reported() {
        let pulse = Pulse::default();
        let mut watch = Watch::new(&pulse);
        let looks = [true, false, false, false].repeat(3);
        assert_eq!(said(&pulse, &mut watch, &looks), vec![None; 12]);
    }

    #[test]
    fn worker_that_has_ended_is_not_waited_for() {
        let pulse = Pulse::default();
        let mut watch = Watch::new(&pulse);
        assert!(said(&pulse, &mut watch, &[false; 4]).contains(&Some(Report::Stalls {
            silent: TICK + TIMEOUT,
            activity: Activity::Handling
        })));
        pulse.begin(Activity::NotRunning);
        let end = watch.look(&pulse, STEP, TIMEOUT);
        assert_eq!(end, Some(Report::GoesOn { silent: 5 * STEP }));
        for _ in 0..10 {
            assert_eq!(watch.look(&pulse, STEP, TIMEOUT), None);
        }
    }
}
