//! Observation: what an operator sees of a server beside its log.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::Args;

use crate::config::{
    listen::ListenAddress,
    values::{ValueError, group_defaults},
};

/// What an operator sees of a server beside its log.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Observation")]
pub struct Observation {
    /// Where metrics, status and connections are served, apart from the echo [default: off]
    ///
    /// It is off by default, since it tells whoever can reach it the addresses of all clients.
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH")]
    pub admin_listen: Option<ListenAddress>,

    /// File that gets a line of JSON for each connection at its end; - is stdout [default: off]
    #[arg(long, value_name = "PATH")]
    pub access_log: Option<AccessLogTarget>,
}

/// Where the access log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// The process's stdout.
    Stdout,
    /// A file, which is appended to.
    File(PathBuf),
}

impl FromStr for AccessLogTarget {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "" => Err(ValueError::Unreadable("a path is needed, or - for stdout".to_owned())),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::File(path.into())),
        }
    }
}

impl fmt::Display for AccessLogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("-"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl Default for Observation {
    fn default() -> Self {
        group_defaults()
    }
}
