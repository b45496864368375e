//! The command line: flags in, a [`Plan`] out. Every value is checked here, before anything starts.

use std::{fmt::Display, ops::RangeInclusive, path::PathBuf, thread, time::Duration};

use bytesize::ByteSize;
use clap::Parser;
use ringecho::{cpu_list::CpuList, descriptors::raise_limit};
use thiserror::Error;

use crate::{
    payload::PayloadKind,
    plan::{EchoKind, Plan},
    process_usage::ProcessUsage,
    report::grouped,
    target::{ResolveError, Target},
};

const CONNECTIONS: RangeInclusive<usize> = 1..=1_000_000;
const DEPTH: RangeInclusive<usize> = 1..=65_536;
const PAYLOAD: RangeInclusive<ByteSize> = ByteSize(0)..=ByteSize(1 << 30);
const DURATION: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(24);
const WARMUP: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
const OPENING_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_hours(1);
const THREADS: RangeInclusive<usize> = 1..=1024;

/// Descriptors beside those of the connections: standard streams, rings, and connections that are
/// being opened while others are being closed.
const DESCRIPTORS_BESIDE: u64 = 128;

/// Drives a WebSocket echo server as fast as it answers, and verifies every byte of every echo
///
/// Each connection keeps --depth messages in flight: a new one is sent for each echo that arrives.
/// The result goes to standard output, progress and warnings go to standard error. The exit code is
/// 0 if every message was echoed correctly, 1 if not, and 2 if a flag is wrong.
#[derive(Clone, Debug, Parser)]
#[command(name = "ringecho-loadtest", version, args_override_self = true)]
pub struct Args {
    /// Where to: `ws://HOST[:PORT][/PATH]`
    #[arg(value_name = "URL")]
    pub url: Target,

    /// Connections, spread evenly over the threads
    #[arg(short, long, value_name = "N", default_value = "64", value_parser = number(CONNECTIONS))]
    pub connections: usize,

    /// Messages in flight on each connection
    #[arg(long, value_name = "N", default_value = "1", value_parser = number(DEPTH))]
    pub depth: usize,

    /// Payload of each message, such as 64, 16KiB or 1MB
    #[arg(short, long, value_name = "SIZE", default_value = "64", value_parser = size(PAYLOAD))]
    pub payload: ByteSize,

    /// How long to measure, such as 10s or 2m
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = time(DURATION))]
    pub duration: Duration,

    /// How long to run the load before measuring
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time(WARMUP))]
    pub warmup: Duration,

    /// How long opening a connection may take, opening handshake included
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time(OPENING_TIMEOUT))]
    pub opening_timeout: Duration,

    /// Threads, at most one for each connection [default: one for each CPU, or for each of --cpus]
    #[arg(short, long, value_name = "N", value_parser = number(THREADS))]
    pub threads: Option<usize>,

    /// Pin the threads to these CPUs, such as 1,3-5, in turn
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<CpuList>,

    /// Send texts (UTF-8 with characters of 1 to 4 bytes) instead of binary messages
    #[arg(long)]
    pub text: bool,

    /// Expect bytes back instead of messages: the server answers 101 and then echoes TCP as it is
    #[arg(long)]
    pub raw_tcp: bool,

    /// Write the result as JSON to FILE, or with "-" to standard output instead of the text
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Also report what the server's process PID uses: CPU time for each message, and memory
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
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
    /// The server's process.
    #[error(
        "invalid value '{pid}' for '--server-pid <PID>': cannot read /proc/{pid}/stat: {cause}"
    )]
    ServerPid {
        /// The process.
        pid: u32,
        /// What the system said.
        cause: std::io::Error,
    },
}

impl Args {
    /// Resolves and completes what the command line says.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        if let Some(pid) = self.server_pid {
            ProcessUsage::read(pid).map_err(|cause| PlanError::ServerPid { pid, cause })?;
        }
        let address = self
            .url
            .resolve(self.opening_timeout)
            .map_err(|cause| PlanError::Resolve { url: self.url.url().to_owned(), cause })?;
        let cpus = self.cpus.as_ref().map_or_else(Vec::new, |list| list.as_slice().to_vec());
        let threads = self.threads.unwrap_or_else(|| {
            if cpus.is_empty() {
                thread::available_parallelism().map_or(1, Into::into)
            } else {
                cpus.len()
            }
        });
        Ok(Plan {
            target: self.url.clone(),
            address,
            connections: self.connections,
            opening_timeout: self.opening_timeout,
            depth: self.depth,
            payload_len: self.payload.as_u64() as usize,
            payload_kind: if self.text { PayloadKind::Text } else { PayloadKind::Binary },
            echo_kind: if self.raw_tcp { EchoKind::Bytes } else { EchoKind::Messages },
            warmup: self.warmup,
            duration: self.duration,
            threads: threads.min(self.connections),
            cpus,
            server_pid: self.server_pid,
        })
    }

    /// Prepares the process for the plan, and returns a warning where that is not possible.
    pub fn prepare_process(&self) -> Option<String> {
        let Self { connections, .. } = self;
        let needed = *connections as u64 + DESCRIPTORS_BESIDE;
        let limit = raise_limit(needed).ok()?;
        (limit < needed).then(|| {
            format!(
                "--connections {connections} needs {needed} open files, but the limit is {limit}; \
                 raise it for this shell: sudo prlimit --pid $$ --nofile={needed}:{needed}"
            )
        })
    }
}

/// A parser of numbers in `range`.
fn number(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let show = |number: usize| grouped(number as u64);
        let number = text.parse().map_err(|_| not_in(&range, "a number", show))?;
        within(number, &range, "a number", show)
    }
}

/// A parser of sizes in `range`.
fn size(range: RangeInclusive<ByteSize>) -> impl Fn(&str) -> Result<ByteSize, String> + Clone {
    move |text| {
        let show = |size: ByteSize| size.display().iec().to_string();
        let size = text.parse().map_err(|_| not_in(&range, "a size", show))?;
        within(size, &range, "a size", show)
    }
}

/// A parser of durations in `range`.
fn time(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let show = |time: Duration| humantime::format_duration(time).to_string();
        let time =
            humantime::parse_duration(text).map_err(|_| not_in(&range, "a duration", show))?;
        within(time, &range, "a duration", show)
    }
}

fn within<T: PartialOrd + Copy, S: Display>(
    value: T,
    range: &RangeInclusive<T>,
    what: &str,
    show: impl Fn(T) -> S,
) -> Result<T, String> {
    if range.contains(&value) { Ok(value) } else { Err(not_in(range, what, show)) }
}

fn not_in<T: Copy, S: Display>(
    range: &RangeInclusive<T>,
    what: &str,
    show: impl Fn(T) -> S,
) -> String {
    format!("expected {what} from {} to {}", show(*range.start()), show(*range.end()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn connections_are_spread_evenly() {
        let args = Args::parse_from(["x", "ws://127.0.0.1", "--connections=7", "--threads=3"]);
        let plan = args.plan().unwrap();
        let spread: Vec<usize> =
            (0..plan.threads).map(|thread| plan.connections_of(thread)).collect();
        assert_eq!(spread, [3, 2, 2]);
    }
}
