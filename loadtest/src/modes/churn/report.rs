//! The result: for people ([`Display`](fmt::Display)) and for programs (JSON, whose shape
//! `loadtest/churn.schema.json` describes).

#![expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]

use std::fmt;

use humantime::format_rfc3339_millis;
use ringecho::host::cpu_list;
use serde::Serialize;

use super::plan::ChurnPlan;
use crate::{
    count::{
        errors::{Cause, ErrorCounts, WrongEchoCounts},
        latency::{GeneratorLag, Latencies},
        latency_report::LatencyReport,
        tally::Tally,
        timeline::Recording,
        window_usage::{UsedInWindow, WindowUsage},
    },
    payload::PayloadKind,
    plan::{
        Closing, Load, Wait,
        condition::{Condition, metric::Metric},
        rate::Arrivals,
        schedule::Schedule,
    },
    result::{
        check::Check,
        host::Host,
        layers::Layers,
        measurement::Measured,
        report::{
            Provenance, SEND_LAG_MAX, WayIn, generator_saturated, none_opened, polling_in_words,
            shared_cpus, write_errors, write_way_in,
        },
        usage::{CpuReport, UsageReport},
    },
    text::{
        numbers::{bytes, counted, grouped, per_second, rate, rounded},
        warning::{Warning, WarningCode},
    },
};

/// The result of connections that come and go.
#[derive(Clone, Debug, Serialize)]
pub struct ChurnReport {
    /// What it was measured with, and on whom.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// TLS and HTTP/2, if there were any.
    #[serde(flatten)]
    pub layers: Layers,
    /// Cycles under way at a time; in an open loop at most.
    pub connections: usize,
    /// Messages of each cycle.
    pub messages_per_cycle: usize,
    /// How a cycle ends.
    pub close: Closing,
    /// What was planned, and how well it was kept; `None` in a closed loop.
    pub open_loop: Option<PlannedCycles>,
    /// What is in the messages, in words.
    pub payload: String,
    /// Bytes of payload of each message, on average.
    pub payload_bytes: usize,
    /// Whether the messages were texts.
    pub text: bool,
    /// Load before the measured window.
    pub warmup_seconds: f64,
    /// Length of the measured window; shorter than planned if it ended early.
    pub duration_seconds: f64,
    /// Whether somebody ended it early.
    pub interrupted: bool,
    /// Correct cycles that ended in the measured window.
    pub cycles: u64,
    /// Correct cycles in all, warm-up included.
    pub cycles_total: u64,
    /// `cycles`, for each second.
    pub cycles_per_second: f64,
    /// Times to the end of the opening handshake, of cycles that were to begin in the measured
    /// window: from the planned instant, which in a closed loop is that of the beginning; `None` if
    /// no connection was opened.
    pub handshake_us: Option<LatencyReport>,
    /// Times from the same instants to the end of the cycle, of correct ones.
    pub cycle_us: Option<LatencyReport>,
    /// The same of a server that takes as little time as can be: the generator's own part; `None`
    /// if it was not measured.
    pub floor_us: Option<CycleFloor>,
    /// Errors in all, warm-up included: at most one for each cycle.
    pub errors: ErrorCounts,
    /// What was wrong with the messages that these count as wrong.
    pub wrong_echoes: WrongEchoCounts,
    /// Why errors happened: the most frequent causes.
    pub causes: Vec<Cause>,
    /// What the generator used in the measured window.
    pub generator: Option<CycleUsage>,
    /// What the server used in the measured window, if its process was named.
    pub server: Option<CycleUsage>,
    /// When the measured window began, in RFC 3339.
    pub began: String,
    /// The machine of the generator.
    pub host: Host,
    /// What somebody should know who is about to believe the numbers.
    pub warnings: Vec<Warning>,
    /// What must not be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// The measured window second by second.
    #[serde(skip)]
    pub recording: Recording,
}

/// How well an open loop kept to its plan, in the measured window.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedCycles {
    /// As it was asked for.
    pub rate: String,
    /// How the threads waited.
    pub wait: Wait,
    /// Threads, on average, that polled and found nothing to do; `None` if they slept.
    pub polled_in_vain: Option<f64>,
    /// Cycles planned.
    pub planned: u64,
    /// Planned cycles that never were begun: as many as allowed were under way all the time.
    pub unbegun: u64,
    /// From the planned instant to the beginning; `None` if none was begun.
    pub begin_lag_us: Option<LatencyReport>,
    /// Cycles that began late because as many as allowed were under way.
    pub held_back: u64,
    /// The begin lag of the others, which is the generator's own; `None` if there were none.
    pub generator_lag_us: Option<LatencyReport>,
    /// The figures that conditions are about, less the generator's own lag.
    #[serde(skip)]
    pub(crate) without_lag: TimesOfCycles,
}

/// How long cycles took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimesOfCycles {
    pub(crate) handshake_us: Option<LatencyReport>,
    pub(crate) cycle_us: Option<LatencyReport>,
}

/// Times of a server that takes as little as can be, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CycleFloor {
    /// To the end of the opening handshake.
    pub handshake: LatencyReport,
    /// To the end of the cycle.
    pub cycle: LatencyReport,
    /// Messages of each cycle, fewer than in the load if that has many.
    pub messages_per_cycle: usize,
}

/// What a process used in the measured window.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CycleUsage {
    /// The process.
    pub pid: u32,
    /// CPU time for each correct cycle, in microseconds; `None` if there was none.
    pub cpu_us_per_cycle: Option<CpuReport>,
    /// CPU time for each second: 1.0 is one CPU that never rests.
    pub cpus_busy: f64,
    /// Memory at the end of the window.
    pub resident_bytes: u64,
    /// The most memory since the process started.
    pub resident_peak_bytes: u64,
}

impl ChurnReport {
    pub(super) fn new(
        plan: &ChurnPlan,
        recording: Recording,
        schedule: &Schedule,
        interrupted: bool,
        window: &WindowUsage,
    ) -> Self {
        let (tally, measured) = (&recording.total, recording.measured);
        let cycles = tally.exchanges_measured;
        let usage = |used: &Option<UsedInWindow>| {
            used.as_ref().map(|used| UsageReport::new(used, measured, cycles).into())
        };
        let mut report = Self {
            provenance: Provenance::new(&plan.connector, &plan.threads),
            layers: Layers::new(&plan.connector, tally),
            connections: plan.connections,
            messages_per_cycle: plan.messages,
            close: plan.closing,
            open_loop: PlannedCycles::new(plan, tally, schedule, window),
            payload: plan.payload.source.to_string(),
            payload_bytes: plan.payload.source.len_mean(),
            text: plan.payload.kind == PayloadKind::Text,
            warmup_seconds: plan.warmup.as_secs_f64(),
            duration_seconds: measured.as_secs_f64(),
            interrupted,
            cycles,
            cycles_total: tally.exchanges,
            cycles_per_second: rounded(per_second(cycles as f64, measured)),
            handshake_us: LatencyReport::new(&tally.histograms.handshake),
            cycle_us: LatencyReport::new(&tally.histograms.latency),
            floor_us: None,
            errors: tally.errors,
            wrong_echoes: tally.wrong_echoes,
            causes: tally.causes(),
            generator: usage(&window.generator),
            server: usage(&window.server),
            began: format_rfc3339_millis(recording.began).to_string(),
            host: Host::read(),
            warnings: Vec::new(),
            checks: Vec::new(),
            recording,
        };
        report.warnings = report.doubts(plan, window);
        report
    }

    /// Adds the generator's own part of what cycles take, or why that is not known.
    pub fn add_floor(&mut self, floor: Result<CycleFloor, Warning>) {
        match floor {
            Ok(floor) => self.floor_us = Some(floor),
            Err(warning) => self.warnings.push(warning),
        }
    }

    /// Adds whether the conditions hold.
    pub fn conclude(&mut self, conditions: &[Condition]) {
        let measurement = CycleMeasurement::from(&*self);
        let check = |condition| Check::new(condition, |metric| measurement.value(metric), |_| None);
        self.checks = conditions.iter().map(check).collect();
    }

    /// Whether there were cycles, and all went as they should.
    pub fn is_success(&self) -> bool {
        self.errors.total == 0 && self.cycles > 0
    }

    fn doubts(&self, plan: &ChurnPlan, window: &WindowUsage) -> Vec<Warning> {
        let [generator, server] = [&window.generator, &window.server]
            .map(|used| used.as_ref().map_or(&[][..], |used| &used.busy_threads));
        let doubts = [
            Warning::of_debug_build(),
            WayIn::doubt(self.provenance.way_in.as_ref()),
            self.not_opened(),
            self.nothing_measured(),
            self.server_ended(plan),
            generator_saturated(generator, window.polled_in_vain.as_deref()),
            self.begin_lag(),
            self.cycles_unbegun(),
            shared_cpus(generator, server),
        ];
        doubts.into_iter().flatten().collect()
    }

    /// Not one connection opened.
    pub(crate) fn not_opened(&self) -> Option<Warning> {
        let none_opened = || none_opened(&self.provenance.url, &self.causes, self.interrupted);
        (self.recording.total.opened == 0).then(none_opened)
    }

    fn nothing_measured(&self) -> Option<Warning> {
        (self.cycles == 0 && self.recording.total.opened > 0).then(|| {
            let text = "no correct cycle ended in the measured window";
            Warning::new(WarningCode::NothingMeasured, text)
        })
    }

    fn server_ended(&self, plan: &ChurnPlan) -> Option<Warning> {
        let pid = plan.server_pid?;
        (self.server.is_none() && self.cycles > 0).then(|| Warning::of_server_that_ended(pid))
    }

    /// The generator has begun cycles late, and that is a good part of what they took.
    fn begin_lag(&self) -> Option<Warning> {
        let lag = self.open_loop.as_ref()?.generator_lag_us?.p99;
        let latency = self.cycle_us?.p99;
        (lag > latency * SEND_LAG_MAX).then(|| {
            let text = format!(
                "cycles began late though a connection was free: p99 of that lag is {lag:.1} us, and \
                 that of cycle latency, which contains it, {latency:.1} us; give the generator more \
                 with --threads or --cpus"
            );
            Warning::new(WarningCode::BeginLag, text)
        })
    }

    fn cycles_unbegun(&self) -> Option<Warning> {
        let PlannedCycles { unbegun, planned, .. } = *self.open_loop.as_ref()?;
        (unbegun > 0).then(|| {
            let text = format!(
                "{} of {} planned cycles were not begun: the rate was not kept up, and latency is \
                 that of the others",
                grouped(unbegun),
                grouped(planned),
            );
            Warning::new(WarningCode::CyclesUnbegun, text)
        })
    }

    pub(super) fn write_setting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.open_loop {
            None => {
                write!(f, "  {} at once", counted(self.connections as u64, "cycle"))?;
            }
            Some(planned) => {
                let most = grouped(self.connections as u64);
                write!(f, "  {} cycles/s, {most} at once at most,", planned.rate)?;
            }
        }
        write!(
            f,
            " x {} x {} {}, {}, {}",
            counted(self.messages_per_cycle as u64, "message"),
            self.payload,
            if self.text { "text" } else { "binary" },
            self.close,
            self.provenance.generator(),
        )?;
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

/// Those figures of a churn that conditions are about, with the names of its JSON.
#[derive(Clone, Debug, Serialize)]
pub struct CycleMeasurement {
    /// Correct cycles in a second.
    pub(crate) cycles_per_second: f64,
    /// Times to the end of the opening handshake.
    pub(crate) handshake_us: Option<LatencyReport>,
    /// Times to the end of the cycle.
    pub(crate) cycle_us: Option<LatencyReport>,
    /// Errors in all.
    pub(crate) errors: ErrorCounts,
    /// What the server used, if its process was named.
    pub(crate) server: Option<CycleUsage>,
}

impl From<&ChurnReport> for CycleMeasurement {
    fn from(report: &ChurnReport) -> Self {
        let ChurnReport { cycles_per_second, handshake_us, cycle_us, errors, server, .. } = *report;
        Self { cycles_per_second, handshake_us, cycle_us, errors, server }
    }
}

impl CycleMeasurement {
    /// The same with other times.
    pub(crate) fn with_times(
        self,
        TimesOfCycles { handshake_us, cycle_us }: TimesOfCycles,
    ) -> Self {
        Self { handshake_us, cycle_us, ..self }
    }
}

impl Measured for CycleMeasurement {
    fn value(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::CyclesPerSecond => Some(self.cycles_per_second),
            Metric::ServerCpuPerCycle => Some(self.server?.cpu_us_per_cycle?.total),
            Metric::Errors => Some(self.errors.total as f64),
            _ => match metric.within_handshake() {
                Some(metric) => self.handshake_us?.value(metric),
                None => self.cycle_us?.value(metric),
            },
        }
    }
}

impl PlannedCycles {
    fn new(
        plan: &ChurnPlan,
        Tally { histograms, generator_lag, .. }: &Tally,
        schedule: &Schedule,
        used: &WindowUsage,
    ) -> Option<Self> {
        let Load::Open(rate) = &plan.load else {
            return None;
        };
        let planned = Arrivals::new(rate, plan.warmup, plan.duration).planned_within(schedule);
        let of_generator = |times: fn(&GeneratorLag) -> &Latencies| {
            LatencyReport::new(times(generator_lag.as_ref()?))
        };
        Some(Self {
            rate: rate.to_string(),
            wait: plan.wait,
            polled_in_vain: used.polled_in_vain.as_ref().map(|parts| rounded(parts.iter().sum())),
            planned,
            unbegun: planned.saturating_sub(histograms.lag.samples()),
            begin_lag_us: LatencyReport::new(&histograms.lag),
            held_back: generator_lag.as_ref().map_or(0, |it| it.held_back),
            generator_lag_us: of_generator(|it| &it.lag),
            without_lag: TimesOfCycles {
                handshake_us: of_generator(|it| &it.handshake_without),
                cycle_us: of_generator(|it| &it.latency_without),
            },
        })
    }
}

impl From<UsageReport> for CycleUsage {
    fn from(usage: UsageReport) -> Self {
        let UsageReport { pid, cpu_us_per_message, cpus_busy, resident_bytes, resident_peak_bytes } =
            usage;
        let cpu_us_per_cycle = cpu_us_per_message;
        Self { pid, cpu_us_per_cycle, cpus_busy, resident_bytes, resident_peak_bytes }
    }
}

impl fmt::Display for ChurnReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.provenance.url)?;
        write_way_in(f, self.provenance.way_in.as_ref())?;
        self.write_setting(f)?;
        writeln!(f)?;
        writeln!(
            f,
            "  cycles      {} in {:.2} s: {} cycles/s",
            grouped(self.cycles),
            self.duration_seconds,
            rate(self.cycles_per_second),
        )?;
        for (name, latency) in [("handshake", &self.handshake_us), ("cycle", &self.cycle_us)] {
            if let Some(latency) = latency {
                writeln!(f, "  {name:<12}{latency}")?;
            }
        }
        if let Some(planned) = &self.open_loop {
            write!(f, "{planned}")?;
        }
        write!(f, "{}", self.layers)?;
        if let Some(floor) = &self.floor_us {
            writeln!(f, "  floor       {floor}")?;
        }
        for (name, usage) in [("server", &self.server), ("generator", &self.generator)] {
            if let Some(usage) = usage {
                writeln!(f, "  {name:<12}{usage}")?;
            }
        }
        write_errors(f, &self.errors, &self.wrong_echoes, &self.causes)?;
        self.checks.iter().try_for_each(|check| writeln!(f, "  {check}"))
    }
}

impl fmt::Display for CycleFloor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { handshake, cycle, messages_per_cycle } = self;
        write!(
            f,
            "handshake {}, cycle of {} {} us with a server that always polls",
            handshake.in_words(),
            counted(*messages_per_cycle as u64, "message"),
            cycle.in_words()
        )
    }
}

impl fmt::Display for PlannedCycles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(lag) = &self.begin_lag_us {
            writeln!(f, "  begin lag   {lag}")?;
        }
        let unbegun =
            if self.unbegun == 0 { "all".to_owned() } else { grouped(self.unbegun) + " not" };
        write!(f, "  planned     {} cycles, {unbegun} begun", grouped(self.planned))?;
        if self.held_back > 0 {
            write!(f, ", {} of them late for want of a connection", grouped(self.held_back))?;
        }
        if let Some(polling) = polling_in_words(self.polled_in_vain) {
            write!(f, "; {polling}")?;
        }
        writeln!(f)
    }
}

impl fmt::Display for CycleUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(CpuReport { user, system, total }) = self.cpu_us_per_cycle {
            write!(f, "{total:.1} us of CPU per cycle ({user:.1} user, {system:.1} system), ")?;
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
