//! What casts doubt on the result of a run: faults of the measurement, not of the server.

use std::time::Duration;

use ringecho::cpu_list;

use super::{CompressionReport, Report};
use crate::{
    numbers::{counted, grouped},
    plan::Plan,
    thread_usage::{BusyThread, contended_cpus},
    warning::{Warning, WarningCode},
    window_usage::WindowUsage,
};

/// A thread that is busy for this part of the window may have kept the server waiting.
const BUSY_MAX: f64 = 0.95;

/// Send lag above this part of latency, at p99, tells more of the generator than of the server.
const SEND_LAG_MAX: f64 = 0.1;

/// A load that starts later than this is not together with others.
const LATE_MAX: Duration = Duration::from_millis(100);

impl Report {
    /// What somebody should know who is about to believe the numbers.
    pub(super) fn doubts(&self, plan: &Plan, window: &WindowUsage) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut warn = |code, text: String| warnings.push(Warning::new(code, text));
        if cfg!(debug_assertions) {
            let text = "this is a debug build, which is slow; build it with --release";
            warn(WarningCode::DebugBuild, text.to_owned());
        }
        if let Some(Warning { code, text }) = self.not_opened() {
            warn(code, text);
        }
        if self.messages == 0 && self.connections.opened > 0 {
            let text = "no correct echo arrived in the measured window";
            warn(WarningCode::NothingMeasured, text.to_owned());
        }
        if let (Some(pid), None) = (plan.server_pid, self.server)
            && self.messages > 0
        {
            let text =
                format!("--server-pid {pid}: the process had ended before the measured window did");
            warn(WarningCode::ServerEnded, text);
        }
        let [generator, server] = [&window.generator, &window.server]
            .map(|used| used.as_ref().map_or(&[][..], |used| &used.busy_threads));
        if let Some(text) = saturated_threads(generator) {
            warn(WarningCode::GeneratorSaturated, text);
        }
        if let Some(text) = self.send_lag() {
            warn(WarningCode::SendLag, text);
        }
        let opened = self.connections.opened;
        if let Some(CompressionReport { connections }) = self.compression
            && connections < opened
        {
            let text = format!(
                "the server declined --compression on {} of {}",
                grouped(opened - connections),
                counted(opened, "connection"),
            );
            warn(WarningCode::CompressionDeclined, text);
        }
        if let Some(open_loop) = self.open_loop.as_ref().filter(|open_loop| open_loop.unsent > 0) {
            let text = format!(
                "{} of {} planned messages were not sent: the rate was not kept up, and latency is \
                 that of the others",
                grouped(open_loop.unsent),
                grouped(open_loop.planned),
            );
            warn(WarningCode::MessagesUnsent, text);
        }
        let cpus = contended_cpus(generator, server);
        if !cpus.is_empty() {
            let text = format!(
                "generator and server take CPUs {} away from each other; keep them apart with \
                 --cpus here, and there with its own flag or taskset --cpu-list",
                cpu_list::format(&cpus)
            );
            warn(WarningCode::SharedCpus, text);
        }
        if let Some(text) = self.late_start(plan) {
            warn(WarningCode::StartedLate, text);
        }
        warnings
    }

    /// The doubt about fewer connections than there should have been.
    pub(crate) fn not_opened(&self) -> Option<Warning> {
        self.connections.not_opened(&self.provenance.url, &self.causes, self.interrupted)
    }

    /// What the generator adds to latencies that are not much longer themselves.
    fn send_lag(&self) -> Option<String> {
        let lag = self.open_loop.as_ref()?.send_lag_us?.p99;
        let latency = self.latency_us?.p99;
        (lag > latency * SEND_LAG_MAX).then(|| {
            format!(
                "the generator was late: p99 of its send lag is {lag:.1} us, and that of latency, \
                 which contains it, {latency:.1} us; give it more with --threads or --cpus"
            )
        })
    }

    fn late_start(&self, plan: &Plan) -> Option<String> {
        let planned = plan.start_at? + plan.lead() + plan.warmup;
        let late = self.recording.began.duration_since(planned).ok()?;
        (late > LATE_MAX && self.connections.opened > 0).then(|| {
            format!(
                "the load started {:.3} s after --start-at, when the connections were open; \
                 choose a later time",
                late.as_secs_f64()
            )
        })
    }
}

fn saturated_threads(generator: &[BusyThread]) -> Option<String> {
    let saturated = generator.iter().filter(|thread| thread.busy > BUSY_MAX).count();
    (saturated > 0).then(|| {
        format!(
            "{} of the generator had no time left: the server may be able to do more; give the \
             generator more with --threads or --cpus",
            counted(saturated as u64, "thread"),
        )
    })
}
