//! What casts doubt on the result of a run: faults of the measurement, not of the server.

use std::time::Duration;

use ringecho::host::cpu_list;

use super::{CompressionReport, OpenLoopReport, Report, WayIn};
use crate::{
    count::{
        thread_usage::{BusyThread, contended_cpus},
        window_usage::WindowUsage,
    },
    plan::Plan,
    text::{
        numbers::{counted, grouped},
        warning::{Warning, WarningCode},
    },
};

/// A thread that is busy for this part of the window may have kept the server waiting.
const BUSY_MAX: f64 = 0.95;

/// Send lag above this part of latency, at p99, tells more of the generator than of the server.
pub(crate) const SEND_LAG_MAX: f64 = 0.1;

/// A load that starts later than this is not together with others.
const LATE_MAX: Duration = Duration::from_millis(100);

impl Report {
    /// What somebody should know who is about to believe the numbers.
    pub(super) fn doubts(&self, plan: &Plan, window: &WindowUsage) -> Vec<Warning> {
        let [generator, server] = [&window.generator, &window.server]
            .map(|used| used.as_ref().map_or(&[][..], |used| &used.busy_threads));
        let doubts = [
            Warning::of_debug_build(),
            WayIn::doubt(self.provenance.way_in.as_ref()),
            self.not_opened(),
            self.nothing_measured(),
            self.server_ended(plan),
            generator_saturated(generator, window.polled_in_vain.as_deref()),
            self.send_lag(),
            self.compression_declined(),
            self.messages_unsent(),
            shared_cpus(generator, server),
            self.late_start(plan),
        ];
        doubts.into_iter().flatten().collect()
    }

    /// There are fewer connections than there should have been.
    pub(crate) fn not_opened(&self) -> Option<Warning> {
        self.connections.not_opened(&self.provenance.url, &self.causes, self.interrupted)
    }

    fn nothing_measured(&self) -> Option<Warning> {
        (self.messages == 0 && self.connections.opened > 0).then(|| {
            let text = "no correct echo arrived in the measured window";
            Warning::new(WarningCode::NothingMeasured, text)
        })
    }

    fn server_ended(&self, plan: &Plan) -> Option<Warning> {
        let pid = plan.server_pid?;
        (self.server.is_none() && self.messages > 0).then(|| Warning::of_server_that_ended(pid))
    }

    /// The generator has added to latencies that are not much longer themselves.
    fn send_lag(&self) -> Option<Warning> {
        let lag = self.open_loop.as_ref()?.send_lag_us?.p99;
        let latency = self.latency_us?.p99;
        (lag > latency * SEND_LAG_MAX).then(|| {
            let text = format!(
                "messages were sent late: p99 of the send lag is {lag:.1} us, and that of latency, \
                 which contains it, {latency:.1} us; unless --depth or the server held them back, \
                 give the generator more with --threads or --cpus"
            );
            Warning::new(WarningCode::SendLag, text)
        })
    }

    fn compression_declined(&self) -> Option<Warning> {
        let CompressionReport { connections } = self.compression?;
        let opened = self.connections.opened;
        (connections < opened).then(|| {
            let text = format!(
                "the server declined --compression on {} of {}",
                grouped(opened - connections),
                counted(opened, "connection"),
            );
            Warning::new(WarningCode::CompressionDeclined, text)
        })
    }

    fn messages_unsent(&self) -> Option<Warning> {
        let OpenLoopReport { unsent, planned, .. } = *self.open_loop.as_ref()?;
        (unsent > 0).then(|| {
            let text = format!(
                "{} of {} planned messages were not sent: the rate was not kept up, and latency is \
                 that of the others",
                grouped(unsent),
                grouped(planned),
            );
            Warning::new(WarningCode::MessagesUnsent, text)
        })
    }

    fn late_start(&self, plan: &Plan) -> Option<Warning> {
        let planned = plan.start_at? + plan.lead() + plan.warmup;
        let late = self.recording.began.duration_since(planned).ok()?;
        (late > LATE_MAX && self.connections.opened > 0).then(|| {
            let text = format!(
                "the load started {:.3} s after --start-at, when the connections were open; \
                 choose a later time",
                late.as_secs_f64()
            );
            Warning::new(WarningCode::StartedLate, text)
        })
    }
}

/// A thread of the generator had no time left. One that polls is always busy: it had no time left only if it hardly ever polled in vain.
pub(crate) fn generator_saturated(
    generator: &[BusyThread],
    polled_in_vain: Option<&[f64]>,
) -> Option<Warning> {
    let saturated = match polled_in_vain {
        Some(parts) => parts.iter().filter(|part| 1.0 - **part > BUSY_MAX).count(),
        None => generator.iter().filter(|thread| thread.busy > BUSY_MAX).count(),
    };
    (saturated > 0).then(|| {
        let text = format!(
            "{} of the generator had no time left: the server may be able to do more; give the \
             generator more with --threads or --cpus",
            counted(saturated as u64, "thread"),
        );
        Warning::new(WarningCode::GeneratorSaturated, text)
    })
}

/// Busy threads of both have run on the same CPUs.
pub(crate) fn shared_cpus(generator: &[BusyThread], server: &[BusyThread]) -> Option<Warning> {
    let cpus = contended_cpus(generator, server);
    (!cpus.is_empty()).then(|| {
        let text = format!(
            "generator and server take CPUs {} away from each other; keep them apart with \
             --cpus here, and there with its own flag or taskset --cpu-list",
            cpu_list::format(&cpus)
        );
        Warning::new(WarningCode::SharedCpus, text)
    })
}
