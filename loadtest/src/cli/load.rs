//! Flags about the load: what is sent, and for how long.

use std::{ops::RangeInclusive, time::Duration};

use bytesize::ByteSize;

use super::{
    ConnectionArgs, PlanError,
    values::{number, size, time},
};
use crate::{
    payload::PayloadKind,
    plan::{EchoKind, Plan},
    target::Target,
};

const DEPTH: RangeInclusive<usize> = 1..=65_536;
const PAYLOAD: RangeInclusive<ByteSize> = ByteSize(0)..=ByteSize(1 << 30);
const DURATION: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(24);
const WARMUP: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);

/// Flags about the load.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct LoadArgs {
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

    /// Send texts (UTF-8 with characters of 1 to 4 bytes) instead of binary messages
    #[arg(long)]
    pub text: bool,

    /// Expect bytes back instead of messages: the server answers 101 and then echoes TCP as it is
    #[arg(long)]
    pub raw_tcp: bool,
}

impl LoadArgs {
    /// The plan of this load on `connections` to `target`, whose process may be `server_pid`.
    pub fn plan(
        &self,
        target: &Target,
        connections: &ConnectionArgs,
        server_pid: Option<u32>,
    ) -> Result<Plan, PlanError> {
        let address = target
            .resolve(connections.opening_timeout)
            .map_err(|cause| PlanError::Resolve { url: target.url().to_owned(), cause })?;
        Ok(Plan {
            target: target.clone(),
            address,
            connections: connections.connections,
            opening_timeout: connections.opening_timeout,
            depth: self.depth,
            payload_len: self.payload.as_u64() as usize,
            payload_kind: if self.text { PayloadKind::Text } else { PayloadKind::Binary },
            echo_kind: if self.raw_tcp { EchoKind::Bytes } else { EchoKind::Messages },
            warmup: self.warmup,
            duration: self.duration,
            threads: connections.thread_count(),
            cpus: connections.cpus(),
            server_pid,
        })
    }
}
