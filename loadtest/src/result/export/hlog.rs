//! HdrHistogram's interval log: lines for each second, with histograms in the compressed V2
//! encoding. Values are nanoseconds; the maxima, which are for people, milliseconds.
//!
//! Latencies have no tag, because other readers skip tagged lines unless they are told not to; the
//! further histograms of an open loop, and of a churn, have one. A comment, which other readers skip as
//! well, holds the run's report, so that logs of several machines can be merged with all that was
//! counted.

use std::time::{Duration, SystemTime};

use base64::{Engine, prelude::BASE64_STANDARD};
use hdrhistogram::serialization::{
    V2DeflateSerializer,
    interval_log::{
        IntervalLogHistogram, IntervalLogIterator, IntervalLogWriterBuilder, LogEntry,
        LogIteratorError, Tag,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::NANOSECONDS_PER_MILLISECOND;
use crate::{
    count::{
        encoding,
        latency::{Histograms, Latencies},
    },
    plan::Exchange,
};

/// Before and behind the report as JSON.
const REPORT: [&str; 2] = ["[Report: ", "]"];

/// The log of a run or a churn that began at `began` and consists of `seconds`: when each began, how
/// long it was, and its histograms.
pub(crate) fn text(
    exchange: Exchange,
    report: &impl Serialize,
    began: SystemTime,
    seconds: impl Iterator<Item = (Duration, Duration, Histograms)>,
) -> Result<String, String> {
    let json = serde_json::to_string(report).map_err(|error| error.to_string())?;
    let [before, behind] = REPORT;
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("[Nanoseconds, written by ringecho-loadtest]")
        .add_comment(&format!("{before}{json}{behind}"))
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(NANOSECONDS_PER_MILLISECOND)
        .begin_log_with(&mut bytes, &mut serializer)
        .map_err(|error| error.to_string())?;
    for (start, length, histograms) in seconds {
        for (tag, latencies) in histograms.tagged(exchange) {
            // A second without latencies is there all the same.
            if tag.is_none() || latencies.samples() > 0 {
                log.write_histogram(latencies.nanoseconds(), start, length, tag.and_then(Tag::new))
                    .map_err(|error| error.to_string())?;
            }
        }
    }
    drop(log);
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

/// A log that was read.
#[derive(Debug)]
pub(crate) struct Log<'a, R> {
    pub(crate) report: R,
    /// Since 1970.
    pub(crate) began: Duration,
    pub(crate) intervals: Vec<IntervalLogHistogram<'a>>,
}

/// Why a log cannot be read.
#[derive(Debug, Error)]
pub(crate) enum LogError {
    #[error("line {0} is none of an HdrHistogram interval log")]
    Line(usize),
    #[error(
        "it holds no report: expected a log that ringecho-loadtest has written with --hlog, and \
         that nothing was cut from"
    )]
    ReportMissing,
    #[error("its report cannot be understood: {0}")]
    Report(serde_json::Error),
    #[error(
        "it is of cycles (`churn`), and only messages are merged: expected the log of a run, or of \
         merged runs"
    )]
    Cycles,
    #[error("it does not say when it began: the line with \"#[BaseTime: \" is missing")]
    BeginMissing,
    #[error("the histogram of second {second} cannot be decoded: {cause}")]
    Histogram { second: u64, cause: String },
    #[error(
        "a histogram is tagged {0:?}; expected no tag, \"uncorrected\", \"send_lag\", \"tls\", \
         \"http2_settings\" or \"http2_stream\""
    )]
    Tag(String),
}

impl<'a, R: DeserializeOwned> Log<'a, R> {
    /// Reads a log of the latest format, which [`text`] writes. Histograms are decoded later.
    pub(crate) fn read(text: &'a str) -> Result<Self, LogError> {
        let mut began = None;
        let mut intervals = Vec::new();
        for entry in IntervalLogIterator::new(text.as_bytes()) {
            match entry.map_err(|error| LogError::at(text, &error))? {
                LogEntry::BaseTime(time) => began = Some(time),
                LogEntry::StartTime(_) => {}
                LogEntry::Interval(interval) => intervals.push(interval),
            }
        }
        let [before, behind] = REPORT;
        let mut comments = text.lines().filter_map(|line| line.strip_prefix('#'));
        let report = comments
            .find_map(|comment| comment.strip_prefix(before)?.strip_suffix(behind))
            .ok_or(LogError::ReportMissing)?;
        Ok(Self {
            report: serde_json::from_str(report)
                .map_err(|error| LogError::of_report(report, error))?,
            began: began.ok_or(LogError::BeginMissing)?,
            intervals,
        })
    }
}

impl LogError {
    fn at(text: &str, error: &LogIteratorError) -> Self {
        let LogIteratorError::ParseError { offset } = error;
        Self::Line(text[..*offset].matches('\n').count() + 1)
    }

    /// Why a report as JSON is none of messages.
    fn of_report(report: &str, error: serde_json::Error) -> Self {
        let json: Option<serde_json::Value> = serde_json::from_str(report).ok();
        let is_of_cycles = json.is_some_and(|json| json.get("cycles").is_some());
        if is_of_cycles { Self::Cycles } else { Self::Report(error) }
    }
}

/// Adds an interval of a log to histograms.
pub(crate) fn add_interval(
    interval: &IntervalLogHistogram<'_>,
    histograms: &mut Histograms,
) -> Result<(), LogError> {
    let tag = interval.tag();
    let tag = tag.as_ref().map(Tag::as_str);
    let Some(latencies) = histograms.tagged_mut(tag) else {
        return Err(LogError::Tag(tag.unwrap_or_default().to_owned()));
    };
    let decoded = decode(interval.encoded_histogram());
    latencies.merge(&decoded.map_err(|cause| LogError::Histogram {
        second: interval.start_timestamp().as_secs(),
        cause,
    })?);
    Ok(())
}

fn decode(base64: &str) -> Result<Latencies, String> {
    let bytes = BASE64_STANDARD.decode(base64).map_err(|error| error.to_string())?;
    encoding::decode(&bytes).map_err(|error| error.to_string())
}
