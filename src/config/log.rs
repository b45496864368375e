//! Log: what the program logs on stderr, and in what form. It is no part of a server's
//! configuration, since programs that embed a server have a log of their own.

use clap::{Args, ValueEnum};

/// What the program logs, and in what form.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Log")]
pub struct Logging {
    /// Least severe messages that are logged, on stderr
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// Form of the log
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Least severe messages that are logged.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What stops the server or is a defect of it.
    Error,
    /// What an operator may want to mend.
    Warn,
    /// Start and stop.
    Info,
    /// The end of each connection.
    Debug,
    /// Everything.
    Trace,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object on each line.
    Json,
}
