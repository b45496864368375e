//! Runs of several machines as one: their interval logs are added up, histogram by histogram and
//! count by count, so that percentiles are those of all messages together.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use hdrhistogram::serialization::interval_log::IntervalLogHistogram;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    count::{
        encoding::EncodedHistograms,
        errors::{Cause, ErrorCounts, WrongEchoCounts},
        latency::Histograms,
        latency_report::LatencyReport,
    },
    plan::Exchange,
    result::{
        export,
        export::{
            HistogramFiles, hlog,
            hlog::{Log, LogError},
        },
        layers::Layers,
        report::{Connections, VERSION, WayIn, write_way_in},
    },
    text::{
        numbers::{counted, grouped, rate},
        warning::{Warning, WarningCode},
    },
};

/// Why logs cannot be merged.
#[derive(Debug, Error)]
pub enum MergeError {
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file is no log that can be merged.
    #[error("cannot merge {}: {cause}", .path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

impl MergeError {
    fn log(path: &Path, cause: &LogError) -> Self {
        Self::Log { path: path.to_owned(), cause: cause.to_string() }
    }
}

/// What a run's report says that adds up; a merged report says it too, so it can be merged again.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Counts {
    connections: Connections,
    messages: u64,
    messages_total: u64,
    messages_per_second: f64,
    payload_megabytes_per_second: f64,
    errors: ErrorCounts,
    wrong_echoes: WrongEchoCounts,
    causes: Vec<Cause>,
    duration_seconds: f64,
    interrupted: bool,
    #[serde(flatten)]
    layers: Layers,
    /// That of the first run, if the others are of its kind; results of earlier versions have none.
    #[serde(default)]
    way_in: Option<WayIn>,
    /// A merged report has those of all runs elsewhere.
    #[serde(default, skip_serializing)]
    warnings: Vec<Warning>,
}

/// The result of several runs.
#[derive(Debug, Serialize)]
pub struct MergedReport {
    /// The version of this program.
    version: &'static str,
    /// The logs, in the order in which they were named.
    runs: Vec<MergedRun>,
    /// Seconds between the first measured window's beginning and the last one's.
    begins_apart_seconds: f64,
    /// Sums; of `duration_seconds` the longest.
    #[serde(flatten)]
    counts: Counts,
    /// Latency of the messages of all runs.
    latency_us: Option<LatencyReport>,
    /// Latency from the instant of sending; `None` if all were closed loops.
    uncorrected_latency_us: Option<LatencyReport>,
    /// Times from the planned instant to that of sending; `None` if all were closed loops.
    send_lag_us: Option<LatencyReport>,
    /// What somebody should know who is about to believe the numbers; what a run's report says, with
    /// its log's name before it.
    pub warnings: Vec<Warning>,
    #[serde(skip)]
    total: Histograms,
    #[serde(skip)]
    seconds: Vec<MergedSecond>,
    /// When the first measured window began, since 1970.
    #[serde(skip)]
    began: Duration,
}

/// One of the runs.
#[derive(Debug, Serialize)]
struct MergedRun {
    file: String,
    /// The beginning of its measured window, in RFC 3339.
    began: String,
    duration_seconds: f64,
    messages: u64,
}

#[derive(Debug)]
struct MergedSecond {
    start: Duration,
    length: Duration,
    histograms: EncodedHistograms,
}

/// Beginnings that are further apart are no longer those of one load.
const BEGINS_APART_MAX: Duration = Duration::from_secs(1);

impl MergedReport {
    /// Merges the logs in these files.
    pub fn read(paths: &[PathBuf]) -> Result<Self, MergeError> {
        let mut texts = Vec::with_capacity(paths.len());
        for path in paths {
            let text = fs::read_to_string(path)
                .map_err(|cause| MergeError::Read { path: path.clone(), cause })?;
            texts.push((&**path, text));
        }
        let mut logs = Vec::with_capacity(paths.len());
        for (path, text) in &texts {
            let log = Log::read(text).map_err(|cause| MergeError::log(path, &cause))?;
            logs.push((*path, log));
        }
        Self::new(&logs)
    }

    fn new(logs: &[(&Path, Log<'_, Counts>)]) -> Result<Self, MergeError> {
        let began = logs.iter().map(|(_, log)| log.began).min().unwrap_or_default();
        let last_began = logs.iter().map(|(_, log)| log.began).max().unwrap_or_default();
        let mut counts = Counts::default();
        for (_, log) in logs {
            counts.add(&log.report);
        }
        let first = logs.first().filter(|_| are_of_one_kind(logs));
        counts.way_in = first.and_then(|(_, log)| log.report.way_in.clone());
        let seconds = merge_seconds(logs, began)?;
        let mut total = Histograms::default();
        for second in &seconds {
            total.merge(&second.histograms.decode());
        }
        counts.layers.set_latencies(&total);
        Ok(Self {
            version: VERSION,
            runs: logs.iter().map(|(path, log)| MergedRun::new(path, log)).collect(),
            begins_apart_seconds: last_began.saturating_sub(began).as_secs_f64(),
            counts,
            latency_us: LatencyReport::new(&total.latency),
            uncorrected_latency_us: LatencyReport::new(&total.uncorrected),
            send_lag_us: LatencyReport::new(&total.lag),
            warnings: doubts(logs, last_began.saturating_sub(began)),
            total,
            seconds,
            began,
        })
    }

    /// Whether each run had echoes, and none had errors.
    pub fn is_success(&self) -> bool {
        self.counts.errors.total == 0 && self.runs.iter().all(|run| run.messages > 0)
    }

    /// Writes what is asked for of the histograms.
    pub fn write(&self, to: &HistogramFiles) -> Result<(), String> {
        let seconds = self
            .seconds
            .iter()
            .map(|second| (second.start, second.length, second.histograms.decode()));
        let hlog = || hlog::text(Exchange::Message, self, UNIX_EPOCH + self.began, seconds);
        export::write_histograms(to, &self.total, hlog)
    }
}

/// What casts doubt on the sum, and on each of the runs, whose windows began within `time`.
fn doubts(logs: &[(&Path, Log<'_, Counts>)], time: Duration) -> Vec<Warning> {
    let mut doubts: Vec<Warning> = begins_apart(time).into_iter().collect();
    doubts.extend(ways_in_differ(logs));
    for (path, log) in logs {
        for Warning { code, text } in &log.report.warnings {
            let doubt = Warning::new(*code, format!("{}: {text}", path.display()));
            if !doubts.contains(&doubt) {
                doubts.push(doubt);
            }
        }
    }
    doubts
}

fn begins_apart(time: Duration) -> Option<Warning> {
    let text = format!(
        "the measured windows began {:.1} s apart, so the server did not have the sum of their \
         loads; start the runs with the same --start-at",
        time.as_secs_f64()
    );
    (time > BEGINS_APART_MAX).then(|| Warning::new(WarningCode::BeginsApart, text))
}

fn ways_in_differ(logs: &[(&Path, Log<'_, Counts>)]) -> Option<Warning> {
    let ways = logs.iter().map(|(path, log)| (path, log.report.way_in.as_ref()));
    let way_in_words = |(path, way_in): (&&Path, Option<&WayIn>)| {
        let way_in = way_in.map_or_else(|| "straight".to_owned(), ToString::to_string);
        format!("{} {way_in}", path.display())
    };
    (!are_of_one_kind(logs)).then(|| {
        let list: Vec<String> = ways.map(way_in_words).collect();
        let text = format!(
            "the runs came to the server by different ways, and their sum is of no single one: {}",
            list.join("; ")
        );
        Warning::new(WarningCode::WaysInDiffer, text)
    })
}

/// Whether the runs came to the server in the same way, but for where proxy and server are.
fn are_of_one_kind(logs: &[(&Path, Log<'_, Counts>)]) -> bool {
    let mut kinds = logs.iter().map(|(_, log)| WayIn::kind(log.report.way_in.as_ref()));
    let first = kinds.next();
    kinds.all(|kind| Some(kind) == first)
}

/// Adds up the intervals of all logs that began in the same second, counted from `began`, each to
/// the nearest one.
fn merge_seconds(
    logs: &[(&Path, Log<'_, Counts>)],
    began: Duration,
) -> Result<Vec<MergedSecond>, MergeError> {
    let mut seconds: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for (path, log) in logs {
        for interval in &log.intervals {
            let start = (log.began + interval.start_timestamp()).saturating_sub(began);
            let nearest = (start + Duration::from_millis(500)).as_secs();
            seconds.entry(nearest).or_default().push((path, interval));
        }
    }
    let merge = |(number, intervals): (u64, Vec<(&&Path, &IntervalLogHistogram<'_>)>)| {
        let mut histograms = Histograms::default();
        let mut length = Duration::ZERO;
        for (path, interval) in intervals {
            length = length.max(interval.duration());
            hlog::add_interval(interval, &mut histograms)
                .map_err(|cause| MergeError::log(path, &cause))?;
        }
        let histograms = EncodedHistograms::new(&histograms);
        Ok(MergedSecond { start: Duration::from_secs(number), length, histograms })
    };
    seconds.into_iter().map(merge).collect()
}

impl MergedRun {
    fn new(path: &Path, log: &Log<'_, Counts>) -> Self {
        Self {
            file: path.display().to_string(),
            began: humantime::format_rfc3339_millis(UNIX_EPOCH + log.began).to_string(),
            duration_seconds: log.report.duration_seconds,
            messages: log.report.messages,
        }
    }
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.connections.merge(other.connections);
        self.messages += other.messages;
        self.messages_total += other.messages_total;
        self.messages_per_second += other.messages_per_second;
        self.payload_megabytes_per_second += other.payload_megabytes_per_second;
        self.errors.merge(other.errors);
        self.wrong_echoes.merge(other.wrong_echoes);
        for cause in &other.causes {
            let is_same =
                |known: &&mut Cause| known.kind == cause.kind && known.cause == cause.cause;
            match self.causes.iter_mut().find(is_same) {
                Some(known) => known.count += cause.count,
                None => self.causes.push(cause.clone()),
            }
        }
        self.causes.sort_by_key(|cause| std::cmp::Reverse(cause.count));
        self.duration_seconds = self.duration_seconds.max(other.duration_seconds);
        self.interrupted |= other.interrupted;
        self.layers.merge(&other.layers);
    }
}

impl fmt::Display for MergedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { connections, messages, messages_per_second, errors, causes, .. } =
            &self.counts;
        let files: Vec<&str> = self.runs.iter().map(|run| &*run.file).collect();
        writeln!(f, "{}: {}", counted(self.runs.len() as u64, "run"), files.join(", "))?;
        write!(f, "  {}", counted(connections.opened, "connection"))?;
        writeln!(f, ", measured windows begun within {:.3} s", self.begins_apart_seconds)?;
        write_way_in(f, self.counts.way_in.as_ref())?;
        writeln!(f)?;
        writeln!(
            f,
            "  messages    {} in {:.2} s: {} messages/s, {:.1} MB/s each way",
            grouped(*messages),
            self.counts.duration_seconds,
            rate(*messages_per_second),
            self.counts.payload_megabytes_per_second,
        )?;
        for (name, times) in [
            ("latency   ", &self.latency_us),
            ("  from send", &self.uncorrected_latency_us),
            ("send lag  ", &self.send_lag_us),
        ] {
            if let Some(times) = times {
                writeln!(f, "  {name:<11} {times}")?;
            }
        }
        write!(f, "{}", self.counts.layers)?;
        writeln!(f, "  errors      {errors}")?;
        for cause in causes {
            writeln!(f, "              {cause}")?;
        }
        Ok(())
    }
}
