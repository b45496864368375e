//! Flags about the result: where it goes, and in which form.

use std::path::PathBuf;

use super::values::{output_file, output_file_or_stdout};
use crate::result::export::{HistogramFiles, RecordingFiles};

/// Flags about the result.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = super::RESULT)]
pub struct OutputArgs {
    /// Write the result as JSON to FILE, or with "-" to standard output instead of the text
    #[arg(long, value_name = "FILE", value_parser = output_file_or_stdout())]
    pub json: Option<PathBuf>,
}

/// Flags about what a run measured, in files for other tools.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = super::RESULT)]
pub struct RecordingArgs {
    /// All latencies as histograms.
    #[command(flatten)]
    pub histograms: HistogramArgs,

    /// Write a line for each second of the measured window to FILE, as comma-separated values
    #[arg(long, value_name = "FILE", value_parser = output_file())]
    pub csv: Option<PathBuf>,

    /// Write a page with the result and its plots to FILE
    #[arg(long, value_name = "FILE", value_parser = output_file())]
    pub html: Option<PathBuf>,
}

/// Flags about files in HdrHistogram's formats.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = super::RESULT)]
pub struct HistogramArgs {
    /// Write the latency percentiles to FILE, as a text that HdrHistogram's plotter reads
    #[arg(long, value_name = "FILE", value_parser = output_file())]
    pub hgrm: Option<PathBuf>,

    /// Write the latencies of each second to FILE, as an HdrHistogram interval log
    #[arg(long, value_name = "FILE", value_parser = output_file())]
    pub hlog: Option<PathBuf>,
}

impl RecordingArgs {
    /// Where what a run measured is to be written.
    pub fn files(&self) -> RecordingFiles {
        let Self { histograms, csv, html } = self;
        RecordingFiles { histograms: histograms.files(), csv: csv.clone(), html: html.clone() }
    }
}

impl HistogramArgs {
    /// Where histograms are to be written.
    pub fn files(&self) -> HistogramFiles {
        let Self { hgrm, hlog } = self;
        HistogramFiles { hgrm: hgrm.clone(), hlog: hlog.clone() }
    }
}
