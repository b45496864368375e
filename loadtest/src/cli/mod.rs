//! The command line: what the program is asked to do. Every value is checked here, before anything
//! starts.
//!
//! Without a subcommand it is a run. Each subcommand's flags are a struct in a file of its own;
//! flags that several share are structs that these flatten.

mod check;
mod churn;
mod compare;
mod connection;
mod cycles;
mod http2;
mod idle;
mod load;
mod merge;
mod output;
mod payload;
mod proxy_variables;
mod run;
mod search;
mod tls;
mod traffic;
mod values;
mod way_in;
mod window;

use std::{env, net::IpAddr, path::PathBuf};

use clap::{
    CommandFactory, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};
use ringecho::host::arguments::join_negative_values;
use thiserror::Error;

pub use self::{
    check::CheckArgs,
    churn::ChurnArgs,
    compare::CompareArgs,
    connection::ConnectionArgs,
    cycles::CycleArgs,
    http2::Http2Args,
    idle::IdleArgs,
    load::LoadArgs,
    merge::MergeArgs,
    output::{HistogramArgs, OutputArgs, RecordingArgs},
    payload::PayloadArgs,
    run::RunArgs,
    search::SearchArgs,
    tls::{ProtocolList, TlsArgs, TlsVersion},
    traffic::TrafficArgs,
    values::{AddressList, STDOUT},
    way_in::{ProxyFlag, WayInArgs},
    window::WindowArgs,
};
use crate::{
    payload::files::PayloadFilesError,
    result::baseline::BaselineError,
    wire::{redirect::RedirectError, secrets, target::ResolveError, tls::TlsError},
};

// Headings of the flags in the help.
const CONNECTIONS: &str = "Connections";
const LOAD: &str = "Load";
const RESULT: &str = "Result";
const CHECKS: &str = "Checks";

/// Drives a WebSocket echo server, as fast as it answers or at a rate, and verifies every echo
///
/// Each connection keeps --depth messages in flight: a new one is sent for each echo that arrives.
/// With --rate messages are sent at planned instants instead, and latency counts from these.
/// The result goes to standard output, progress and warnings go to standard error. The exit code is
/// 0 if every message was echoed correctly, 1 if not, 2 if a flag is wrong, and 3, whatever else, if
/// a condition of --fail-if holds; 130 after a second Ctrl-C.
#[derive(Debug, Parser)]
#[command(
    name = "ringecho-loadtest",
    version,
    args_override_self = true,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    run: Option<RunArgs>,
}

/// What the program is asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Nothing else: the flags of the program itself.
    #[command(skip)]
    Run(Box<RunArgs>),
    /// Opens and holds connections that send nothing, and asks at the end which are still there
    ///
    /// Reports how long opening took, why connections failed, and how much memory the server uses
    /// for each. The exit code is 0 if all were opened and still there, 1 if not.
    Idle(Box<IdleArgs>),

    /// Opens connections, has messages echoed and closes again, over and over: what a cycle takes
    ///
    /// A cycle is connecting (and TLS), the opening handshake, --messages messages, each echoed and
    /// verified before the next is sent, and the closing handshake or, with --close abort, a reset.
    /// --connections cycles are under way at a time. With --rate they begin at planned instants,
    /// and latencies count from these. The exit code is 0 if every cycle went as it should, 1 if
    /// not, 2 if a flag is wrong, and 3, whatever else, if a condition of --fail-if holds; 130 after
    /// a second Ctrl-C.
    Churn(Box<ChurnArgs>),

    /// Finds the highest rate that a server sustains under a target such as --slo 'p99<2ms'
    ///
    /// Each rate is tried in a run of its own: doubled until one is too high, then halving the gap,
    /// then the rate that was found again. `search churn` has cycles instead of messages. The exit
    /// code is 0 if one was found and confirmed, 1 if not, and 2 if a flag is wrong; 130 after a
    /// second Ctrl-C.
    Search(Box<SearchArgs>),

    /// Compares two servers under the same load, in turn: ratios with confidence intervals
    ///
    /// The ratios are those of B to A; a condition of --fail-if is about them or about B. `compare
    /// churn` has cycles instead of messages. Ctrl-C ends the comparison with the rounds that are
    /// complete. The exit code is 0 if every message was echoed correctly, 1 if not, or if no round
    /// was complete, 2 if a flag is wrong, and 3, whatever else, if a condition of --fail-if holds;
    /// 130 after a second Ctrl-C.
    Compare(Box<CompareArgs>),

    /// Merges the results of runs on several machines, exactly: percentiles are those of all
    /// messages
    ///
    /// The exit code is 0 if every message of every run was echoed correctly, and 1 if not.
    Merge(MergeArgs),
}

impl Cli {
    /// Parses the command line of this process; an error if that is wrong, or asks for help.
    pub fn from_process() -> Result<Self, clap::Error> {
        Self::try_parse_from(join_negative_values(env::args_os()))
            .map_err(|error| without_secrets(explained(error)))
    }

    /// What the program is asked to do.
    pub fn command(self) -> Command {
        match self {
            Self { command: Some(command), .. } => command,
            Self { run: Some(run), .. } => Command::Run(Box::new(run)),
            Self { command: None, run: None } => unreachable!("clap demands one of them"),
        }
    }
}

fn grammar() -> clap::Command {
    <Cli as CommandFactory>::command()
}

/// clap takes any word behind a URL for a subcommand; most often it is part of a value that should
/// have been quoted.
fn explained(error: clap::Error) -> clap::Error {
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) if grammar().find_subcommand(word).is_none() => {
            let text = format!(
                "unexpected argument '{}' found; values with spaces are quoted, such as --rate \
                 '10k..100k over 60s'",
                secrets::masked(word)
            );
            grammar().error(ErrorKind::UnknownArgument, text)
        }
        _ => error,
    }
}

/// The error without the passwords and tokens of a URL, which somebody may have got wrong in any way:
/// whatever may be one is masked as one.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    let masked = |(kind, value): (ContextKind, &ContextValue)| match value {
        ContextValue::String(text) if text.contains(['?', '@', '#']) => {
            Some((kind, ContextValue::String(secrets::masked(text))))
        }
        _ => None,
    };
    for (kind, value) in error.context().filter_map(masked).collect::<Vec<_>>() {
        error.insert(kind, value);
    }
    error
}

/// Why a command line cannot become a plan.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The URL's host.
    #[error("{url}: {cause}")]
    Resolve {
        /// The URL.
        url: String,
        /// What is wrong with its host.
        cause: ResolveError,
    },
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A flag about TLS, with a URL without.
    #[error("{0} is for wss://, and the URL is one of ws://")]
    WithoutTls(&'static str),
    /// Application protocols without the one that is to be spoken.
    #[error("invalid value '{list}' for '--alpn <LIST>': with --http2 it has to offer h2")]
    AlpnWithoutHttp2 {
        /// As they were written.
        list: String,
    },
    /// A Host that cannot be the authority of a request of HTTP/2.
    #[error(
        "invalid value 'Host: {host}' for '--header <NAME: VALUE>': with --http2 it has to be \
         HOST[:PORT]"
    )]
    HostOfHttp2 {
        /// The field's value.
        host: String,
    },
    /// Rates to search that are none.
    #[error(
        "invalid value '{max_rate}' for '--max-rate <RATE>': expected at least --start-rate, which \
         is {start_rate}"
    )]
    MaxRate {
        /// The highest.
        max_rate: f64,
        /// The first.
        start_rate: f64,
    },
    /// A condition about something that is not going to be measured.
    #[error("invalid value '{condition}' for '--fail-if <CONDITION>': that needs {flag}")]
    FailIf {
        /// As it was written.
        condition: String,
        /// What has it measured.
        flag: &'static str,
    },
    /// The earlier result.
    #[error("invalid value '{}' for '--baseline <FILE>': {cause}", path.display())]
    Baseline {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: BaselineError,
    },
    /// An address to connect from that leads nowhere.
    #[error(
        "invalid value '{source_address}' for '--source <LIST>': the {whose}'s address is {target}, \
         of the other family"
    )]
    SourceFamily {
        /// The address to connect from.
        source_address: IpAddr,
        /// Who is connected to, the server or the proxy.
        whose: &'static str,
        /// The address of that.
        target: IpAddr,
    },
    /// A variable that names a proxy.
    #[error("invalid value '{value}' of the variable {name}: {cause}; --no-proxy does without it")]
    ProxyVariable {
        /// The variable.
        name: &'static str,
        /// Its value, as it may be shown.
        value: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Redirects that nobody should follow: the server's fault, not that of a flag.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// The system does not let anybody find out about redirects.
    #[error("--follow: {0}")]
    Follow(std::io::Error),
    /// A reset of what knows none.
    #[error(
        "invalid value 'abort' for '--close <HOW>': a Unix socket (--unix-socket {}) is never \
         reset; expected handshake",
        path.display()
    )]
    AbortOfUnixSocket {
        /// The socket.
        path: PathBuf,
    },
    /// The files with payloads.
    #[error("invalid value '{}' for '--payload-from <FILE>': {cause}", path.display())]
    PayloadFrom {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        cause: PayloadFilesError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_well_formed() {
        grammar().debug_assert();
    }

    #[test]
    fn flags_of_a_run_are_grouped() {
        for flag in grammar().get_arguments().filter(|flag| !flag.is_positional()) {
            assert!(flag.get_help_heading().is_some(), "{flag}");
        }
    }
}
