//! A result in files for other tools: each format is a module, and knows nothing of files.

mod csv;
mod hgrm;
pub(crate) mod hlog;
mod html;

use std::{fs, path::PathBuf};

use serde::Serialize;

pub use self::html::Page;
use crate::count::latency::Histograms;

/// A result that can be written in each of the formats; as JSON, in the log of histograms.
pub trait Exported: Serialize {
    /// What was measured, and what a page says of it.
    fn page(&self) -> Page<'_>;
}

/// Histograms are of nanoseconds; tools show milliseconds.
const NANOSECONDS_PER_MILLISECOND: f64 = 1e6;

/// Where what a run measured is to be written; `None` if it is not.
#[derive(Clone, Debug)]
pub struct RecordingFiles {
    /// All latencies as histograms.
    pub histograms: HistogramFiles,
    /// A line for each second of the measured window, as comma-separated values.
    pub csv: Option<PathBuf>,
    /// A page with the result and its plots.
    pub html: Option<PathBuf>,
}

/// Where histograms are to be written in HdrHistogram's formats; `None` if they are not.
#[derive(Clone, Debug)]
pub struct HistogramFiles {
    /// The latency percentiles, as a text that HdrHistogram's plotter reads.
    pub hgrm: Option<PathBuf>,
    /// The latencies of each second, as an interval log.
    pub hlog: Option<PathBuf>,
}

/// Writes what is asked for of a run, each file whether the others can be written or not. The error
/// names flag and file of the first that could not.
pub fn write(report: &impl Exported, to: &RecordingFiles) -> Result<(), String> {
    let page = report.page();
    let recording = page.recording;
    let csv = write_file("--csv", to.csv.as_ref(), || Ok(csv::text(recording, page.exchange)));
    let html = write_file("--html", to.html.as_ref(), || html::text(&page));
    let seconds = recording
        .timed_seconds()
        .map(|(start, length, second)| (start, length, second.histograms.decode()));
    let hlog = || hlog::text(page.exchange, report, recording.began, seconds);
    csv.and(html).and(write_histograms(&to.histograms, &recording.total.histograms, hlog))
}

/// Writes what is asked for of histograms, in the same way; `hlog` makes the interval log.
pub(crate) fn write_histograms(
    to: &HistogramFiles,
    total: &Histograms,
    hlog: impl FnOnce() -> Result<String, String>,
) -> Result<(), String> {
    let HistogramFiles { hgrm, hlog: hlog_path } = to;
    let hgrm = write_file("--hgrm", hgrm.as_ref(), || Ok(hgrm::text(total.latency.nanoseconds())));
    hgrm.and(write_file("--hlog", hlog_path.as_ref(), hlog))
}

fn write_file(
    flag: &str,
    path: Option<&PathBuf>,
    text: impl FnOnce() -> Result<String, String>,
) -> Result<(), String> {
    let Some(path) = path else { return Ok(()) };
    let write = |text| fs::write(path, text).map_err(|error| error.to_string());
    text()
        .and_then(write)
        .map_err(|error| format!("cannot write {flag} {}: {error}", path.display()))
}
