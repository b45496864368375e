//! The flags of `merge`.

use std::path::PathBuf;

use super::{HistogramArgs, OutputArgs};

/// Which runs are merged.
#[derive(Clone, Debug, clap::Args)]
pub struct MergeArgs {
    /// Interval logs that runs have written with --hlog
    #[arg(value_name = "FILE", required = true)]
    pub logs: Vec<PathBuf>,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Where the histograms go.
    #[command(flatten)]
    pub histograms: HistogramArgs,
}
