//! Flags about connections: how many, how they are opened, and on which threads they live.

use std::{ops::RangeInclusive, thread, time::Duration};

use ringecho::{cpu_list::CpuList, descriptors::raise_limit};

use super::values::{number, time};

const CONNECTIONS: RangeInclusive<usize> = 1..=1_000_000;
const OPENING_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_hours(1);
const THREADS: RangeInclusive<usize> = 1..=1024;

/// Descriptors beside those of the connections: standard streams, rings, and connections that are
/// being opened while others are being closed.
const DESCRIPTORS_BESIDE: u64 = 128;

/// Flags about connections.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct ConnectionArgs {
    /// Connections, spread evenly over the threads
    #[arg(short, long, value_name = "N", default_value = "64", value_parser = number(CONNECTIONS))]
    pub connections: usize,

    /// How long opening a connection may take, opening handshake included
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time(OPENING_TIMEOUT))]
    pub opening_timeout: Duration,

    /// Threads, at most one for each connection [default: one for each CPU, or for each of --cpus]
    #[arg(short, long, value_name = "N", value_parser = number(THREADS))]
    pub threads: Option<usize>,

    /// Pin the threads to these CPUs, such as 1,3-5, in turn
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<CpuList>,
}

impl ConnectionArgs {
    /// How many threads there will be.
    pub(super) fn thread_count(&self) -> usize {
        let threads = self.threads.unwrap_or_else(|| match &self.cpus {
            Some(list) => list.as_slice().len(),
            None => thread::available_parallelism().map_or(1, Into::into),
        });
        threads.min(self.connections)
    }

    /// The CPUs to pin them to; none if they are not to be pinned.
    pub(super) fn cpus(&self) -> Vec<usize> {
        self.cpus.as_ref().map_or_else(Vec::new, |list| list.as_slice().to_vec())
    }

    /// Prepares the process for so many connections, and returns a warning where that is not
    /// possible.
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
