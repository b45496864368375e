//! Flags about the result: where it goes, and in which form.

use std::path::PathBuf;

/// Flags about the result.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct OutputArgs {
    /// Write the result as JSON to FILE, or with "-" to standard output instead of the text
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}
