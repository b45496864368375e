//! The result of a run: for people ([`Display`](fmt::Display)) and for programs (JSON, whose shape
//! `loadtest/report.schema.json` describes).

#![expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]

mod connections;
mod each_run;
mod provenance;

use std::{fmt, time::Duration};

use humantime::format_rfc3339_millis;
use ringecho::cpu_list;
use serde::{Deserialize, Serialize};

pub(crate) use self::provenance::VERSION;
pub use self::{connections::Connections, each_run::EachRun, provenance::Provenance};
use crate::{
    baseline::BaselineReport,
    condition::Check,
    host::Host,
    latency::{Histograms, Latencies},
    numbers::{bytes, counted, grouped, per_second, rate, rounded},
    payload::{PayloadKind, Verify},
    plan::{Load, Plan, Schedule},
    rate::Arrivals,
    tally::{Cause, ErrorCounts, WrongEchoCounts},
    thread_usage::{BusyThread, contended_cpus},
    timeline::Recording,
    warning::{Warning, WarningCode},
    window_usage::{UsedInWindow, WindowUsage},
};

/// A thread that is busy for this part of the window may have kept the server waiting.
const BUSY_MAX: f64 = 0.95;

/// Send lag above this part of latency, at p99, tells more of the generator than of the server.
const SEND_LAG_MAX: f64 = 0.1;

/// A load that starts later than this is not together with others.
const LATE_MAX: Duration = Duration::from_millis(100);

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What it was measured with, and on whom.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// How many.
    pub connections: Connections,
    /// Messages in flight on each connection; in an open loop at most.
    pub depth: usize,
    /// What was planned, and how well it was kept; `None` in a closed loop.
    pub open_loop: Option<OpenLoopReport>,
    /// What is in the messages, in words.
    pub payload: String,
    /// Bytes of payload of each message, on average.
    pub payload_bytes: usize,
    /// Frames that each message was sent in.
    pub fragments: usize,
    /// Whether compression was offered, and on how many connections it was agreed to.
    pub compression: Option<CompressionReport>,
    /// What of the echoes was compared with their messages.
    pub verify: Verify,
    /// Whether the messages were texts.
    pub text: bool,
    /// Load before the measured window.
    pub warmup_seconds: f64,
    /// Length of the measured window; shorter than planned if the run ended early.
    pub duration_seconds: f64,
    /// Whether somebody ended the run early.
    pub interrupted: bool,
    /// Correct echoes that arrived in the measured window.
    pub messages: u64,
    /// Correct echoes in the whole run, warm-up included.
    pub messages_total: u64,
    /// `messages`, for each second.
    pub messages_per_second: f64,
    /// Payload of these echoes, in 10^6 bytes for each second.
    pub payload_megabytes_per_second: f64,
    /// Of the messages that were planned in the measured window, from the planned instant on, which
    /// in a closed loop is that of sending; `None` if none was answered.
    pub latency_us: Option<LatencyReport>,
    /// In the whole run, warm-up included.
    pub errors: ErrorCounts,
    /// What was wrong with the messages that these count as wrong.
    pub wrong_echoes: WrongEchoCounts,
    /// Why errors happened: the most frequent causes.
    pub causes: Vec<Cause>,
    /// What the generator used in the measured window.
    pub generator: Option<UsageReport>,
    /// What the server used in the measured window, if its process was named.
    pub server: Option<UsageReport>,
    /// When the measured window began, in RFC 3339.
    pub began: String,
    /// The machine of the generator.
    pub host: Host,
    /// What somebody should know who is about to believe the numbers.
    pub warnings: Vec<Warning>,
    /// In comparison with an earlier run, if there was to be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<BaselineReport>,
    /// What must not be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// The measured window second by second.
    #[serde(skip)]
    pub recording: Recording,
}

/// How well an open loop kept to its plan, in the measured window.
#[derive(Clone, Debug, Serialize)]
pub struct OpenLoopReport {
    /// As it was asked for.
    pub rate: String,
    /// Messages planned.
    pub planned: u64,
    /// Of these, messages that never were sent: the connection was not there, or the server did not
    /// let them through in time.
    pub unsent: u64,
    /// From the planned instant to that of sending; `None` if nothing was sent.
    pub send_lag_us: Option<LatencyReport>,
    /// From the instant of sending to the echo: what a generator says that waits for the server.
    pub uncorrected_latency_us: Option<LatencyReport>,
}

/// How compression was agreed to.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CompressionReport {
    /// Connections on which messages were compressed, also those that were opened again.
    pub connections: u64,
}

/// Latencies, in microseconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct LatencyReport {
    /// The shortest.
    pub min: f64,
    /// Half of the messages took at most this long, and so on.
    pub p50: f64,
    /// 90 %
    pub p90: f64,
    /// 99 %
    pub p99: f64,
    /// 99.9 %
    pub p99_9: f64,
    /// 99.99 %
    pub p99_99: f64,
    /// The longest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// How many messages that is.
    pub samples: u64,
}

/// What a process used in the measured window.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct UsageReport {
    /// The process.
    pub pid: u32,
    /// CPU time for each message, in microseconds; `None` if there was no message.
    pub cpu_us_per_message: Option<CpuReport>,
    /// CPU time for each second: 1.0 is one CPU that never rests.
    pub cpus_busy: f64,
    /// Memory at the end of the window.
    pub resident_bytes: u64,
    /// The most memory since the process started.
    pub resident_peak_bytes: u64,
}

/// CPU time.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct CpuReport {
    /// In the program.
    pub user: f64,
    /// In the kernel.
    pub system: f64,
    /// Both.
    pub total: f64,
}

impl Report {
    pub(crate) fn new(
        plan: &Plan,
        recording: Recording,
        schedule: &Schedule,
        interrupted: bool,
        window: &WindowUsage,
    ) -> Self {
        let (tally, measured) = (&recording.total, recording.measured);
        let messages = tally.echoes_measured;
        let messages_per_second = per_second(messages as f64, measured);
        let usage = |used: &Option<UsedInWindow>| {
            used.as_ref().map(|used| UsageReport::new(used, measured, messages))
        };
        let mut report = Self {
            provenance: Provenance::new(&plan.connector, &plan.threads),
            connections: Connections {
                requested: plan.connections,
                opened: tally.opened,
                lost: tally.lost,
                reopened: plan.reconnect.then_some(tally.reopened),
            },
            depth: plan.depth,
            open_loop: OpenLoopReport::new(plan, schedule, &tally.histograms),
            payload: plan.payload.source.to_string(),
            fragments: plan.fragments,
            verify: plan.payload.verify,
            compression: plan
                .compression
                .then_some(CompressionReport { connections: tally.compressed }),
            payload_bytes: plan.payload.source.len_mean(),
            text: plan.payload.kind == PayloadKind::Text,
            warmup_seconds: plan.warmup.as_secs_f64(),
            duration_seconds: measured.as_secs_f64(),
            interrupted,
            messages,
            messages_total: tally.echoes,
            messages_per_second: rounded(messages_per_second),
            payload_megabytes_per_second: rounded(
                per_second(tally.payload_measured as f64, measured) / 1e6,
            ),
            latency_us: LatencyReport::new(&tally.histograms.latency),
            errors: tally.errors,
            wrong_echoes: tally.wrong_echoes,
            causes: tally.causes(),
            generator: usage(&window.generator),
            server: usage(&window.server),
            began: format_rfc3339_millis(recording.began).to_string(),
            host: Host::read(),
            warnings: Vec::new(),
            baseline: None,
            checks: Vec::new(),
            recording,
        };
        report.warnings = report.doubts(plan, window);
        report
    }

    /// Whether there were echoes, all of them correct, and nothing else went wrong.
    pub fn is_success(&self) -> bool {
        self.errors.total == 0 && self.messages > 0
    }

    /// What somebody should know who is about to believe the numbers.
    fn doubts(&self, plan: &Plan, window: &WindowUsage) -> Vec<Warning> {
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

impl OpenLoopReport {
    fn new(plan: &Plan, schedule: &Schedule, histograms: &Histograms) -> Option<Self> {
        let Load::Open(rate) = &plan.load else {
            return None;
        };
        let arrivals = Arrivals::new(rate, plan.warmup, plan.duration);
        let planned_before = |instant: u64| {
            let origin = schedule.origin().unwrap_or(u64::MAX);
            arrivals.planned_before(instant.saturating_sub(origin))
        };
        let planned =
            planned_before(schedule.end()).saturating_sub(planned_before(schedule.begin()));
        Some(Self {
            rate: rate.to_string(),
            planned,
            unsent: planned.saturating_sub(histograms.send_lag.samples()),
            send_lag_us: LatencyReport::new(&histograms.send_lag),
            uncorrected_latency_us: LatencyReport::new(&histograms.uncorrected),
        })
    }
}

impl LatencyReport {
    pub(crate) fn new(latencies: &Latencies) -> Option<Self> {
        (latencies.samples() > 0).then(|| Self {
            min: latencies.min_us(),
            p50: latencies.quantile_us(0.5),
            p90: latencies.quantile_us(0.9),
            p99: latencies.quantile_us(0.99),
            p99_9: latencies.quantile_us(0.999),
            p99_99: latencies.quantile_us(0.9999),
            max: latencies.max_us(),
            mean: latencies.mean_us(),
            samples: latencies.samples(),
        })
    }
}

impl UsageReport {
    fn new(process: &UsedInWindow, measured: Duration, messages: u64) -> Self {
        let UsedInWindow { pid, before, after, .. } = process;
        let user = after.user.saturating_sub(before.user);
        let system = after.system.saturating_sub(before.system);
        let per_message = |time: Duration| rounded(time.as_secs_f64() * 1e6 / messages as f64);
        Self {
            pid: *pid,
            cpu_us_per_message: (messages > 0).then(|| CpuReport {
                user: per_message(user),
                system: per_message(system),
                total: per_message(user + system),
            }),
            cpus_busy: rounded(per_second((user + system).as_secs_f64(), measured)),
            resident_bytes: after.resident,
            resident_peak_bytes: after.resident_peak,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.provenance.url)?;
        self.write_setting(f)?;
        writeln!(f)?;
        writeln!(
            f,
            "  messages    {} in {:.2} s: {} messages/s, {:.1} MB/s each way",
            grouped(self.messages),
            self.duration_seconds,
            rate(self.messages_per_second),
            self.payload_megabytes_per_second,
        )?;
        if let Some(latency) = &self.latency_us {
            writeln!(f, "  latency     {latency}")?;
        }
        if let Some(open_loop) = &self.open_loop {
            write!(f, "{open_loop}")?;
        }
        if let Some(server) = &self.server {
            writeln!(f, "  server      {server}")?;
        }
        if let Some(generator) = &self.generator {
            writeln!(f, "  generator   {generator}")?;
        }
        write!(f, "  errors      {}", self.errors)?;
        if self.errors.wrong > 0 {
            write!(f, " ({})", self.wrong_echoes)?;
        }
        writeln!(f)?;
        for cause in &self.causes {
            writeln!(f, "              {cause}")?;
        }
        if let Some(baseline) = &self.baseline {
            writeln!(f, "  baseline    {baseline}")?;
        }
        self.checks.iter().try_for_each(|check| writeln!(f, "  {check}"))
    }
}

impl Report {
    fn load(&self) -> String {
        match &self.open_loop {
            Some(open_loop) => format!("{} messages/s", open_loop.rate),
            None => format!("depth {}", grouped(self.depth as u64)),
        }
    }

    /// What the load was.
    pub(crate) fn write_setting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {}", self.connections)?;
        let Connections { lost, reopened, .. } = self.connections;
        if lost > 0 {
            write!(f, " ({} lost", grouped(lost))?;
            if let Some(reopened) = reopened {
                write!(f, ", {} opened again", grouped(reopened))?;
            }
            write!(f, ")")?;
        }
        write!(
            f,
            " x {} x {} {}, {}",
            self.load(),
            self.payload,
            if self.text { "text" } else { "binary" },
            self.provenance.generator(),
        )?;
        if self.fragments > 1 {
            write!(f, ", in {} fragments", grouped(self.fragments as u64))?;
        }
        if self.compression.is_some_and(|compression| compression.connections > 0) {
            f.write_str(", compressed")?;
        }
        match self.verify {
            Verify::Full => {}
            Verify::Length => f.write_str(", only lengths verified")?,
            Verify::None => f.write_str(", not verified")?,
        }
        if let Some(cpus) = &self.provenance.cpus {
            write!(f, ", CPUs {}", cpu_list::format(cpus))?;
        }
        writeln!(f)?;
        if self.interrupted {
            writeln!(f, "  interrupted: only what was measured until then")?;
        }
        Ok(())
    }
}

impl fmt::Display for OpenLoopReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(uncorrected) = &self.uncorrected_latency_us {
            writeln!(f, "   from send  {uncorrected}")?;
        }
        if let Some(send_lag) = &self.send_lag_us {
            writeln!(f, "  send lag    {send_lag}")?;
        }
        let unsent =
            if self.unsent == 0 { "all".to_owned() } else { grouped(self.unsent) + " not" };
        writeln!(f, "  planned     {} messages, {unsent} sent", grouped(self.planned))
    }
}

impl fmt::Display for LatencyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, p99_9, p99_99, max, .. } = self;
        write!(
            f,
            "p50 {p50:.1}  p90 {p90:.1}  p99 {p99:.1}  p99.9 {p99_9:.1}  p99.99 {p99_99:.1}  \
             max {max:.1} us"
        )
    }
}

impl fmt::Display for UsageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(CpuReport { user, system, total }) = self.cpu_us_per_message {
            write!(f, "{total:.2} us of CPU per message ({user:.2} user, {system:.2} system), ")?;
        }
        write!(
            f,
            "{:.2} CPUs busy, {} of memory (peak {})",
            self.cpus_busy,
            bytes(self.resident_bytes),
            bytes(self.resident_peak_bytes),
        )
    }
}

impl fmt::Display for ErrorCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connect, handshake, timeout, wrong, missing, closed, protocol, total } = *self;
        if total == 0 {
            return f.write_str("none");
        }
        write_counts(
            f,
            &[
                (connect, "connect"),
                (handshake, "handshake"),
                (timeout, "timeout"),
                (wrong, "wrong"),
                (missing, "missing"),
                (closed, "closed"),
                (protocol, "protocol"),
            ],
        )
    }
}

impl fmt::Display for WrongEchoCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { corrupted, truncated, extended, retyped, reordered, duplicated, unasked } =
            *self;
        write_counts(
            f,
            &[
                (corrupted, "corrupted"),
                (truncated, "truncated"),
                (extended, "extended"),
                (retyped, "retyped"),
                (reordered, "reordered"),
                (duplicated, "duplicated"),
                (unasked, "unasked"),
            ],
        )
    }
}

/// Writes those counts that are not zero, with their kinds.
fn write_counts(f: &mut fmt::Formatter<'_>, counts: &[(u64, &str)]) -> fmt::Result {
    let mut separator = "";
    for (count, kind) in counts.iter().filter(|(count, _)| *count > 0) {
        write!(f, "{separator}{} {kind}", grouped(*count))?;
        separator = ", ";
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_happened_are_listed() {
        let mut errors = ErrorCounts::default();
        assert_eq!(errors.to_string(), "none");
        errors = ErrorCounts { wrong: 1, missing: 2000, total: 2001, ..errors };
        assert_eq!(errors.to_string(), "1 wrong, 2,000 missing");
    }
}
