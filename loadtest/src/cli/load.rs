//! Flags about the load: what is sent, and for how long.

use std::{ops::RangeInclusive, time::Duration};

use bytesize::ByteSize;

use super::{
    ConnectionArgs, PlanError,
    values::{number, size, time},
};
use crate::{
    payload::{PayloadKind, PayloadPlan},
    plan::{EchoKind, Load, Plan},
    rate::Rate,
    target::Target,
};

const DEPTH: RangeInclusive<usize> = 1..=65_536;
/// Messages in flight at most over all connections in an open loop, unless --depth says otherwise:
/// 32 MiB, at 32 bytes for what is kept of each.
const OPEN_LOOP_IN_FLIGHT: usize = 1 << 20;
const PAYLOAD: RangeInclusive<ByteSize> = ByteSize(0)..=ByteSize(1 << 30);
const DURATION: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(24);
const WARMUP: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);

/// Flags about the load.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct LoadArgs {
    /// Messages in flight on each connection: always, or with --rate at most [default: 1; with
    /// --rate 1,048,576 divided among the connections, but at most 65,536 each]
    #[arg(long, value_name = "N", value_parser = number(DEPTH))]
    pub depth: Option<usize>,

    /// Send this many messages a second in all, at planned instants, whether the server keeps up or
    /// not: 50k, a ramp "10k..100k over 60s", or steps "10k,20k,50k over 30s" (without "over", they
    /// take --duration; the warm-up has the first rate)
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Rate>,

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
        Ok(Plan {
            connector: connections.connector(target)?,
            connections: connections.connections,
            load: self.rate.clone().map_or(Load::Closed, Load::Open),
            depth: self.depth(connections.connections),
            payload: PayloadPlan::generated(self.kind(), self.payload.as_u64() as usize),
            echo_kind: if self.raw_tcp { EchoKind::Bytes } else { EchoKind::Messages },
            warmup: self.warmup,
            duration: self.duration,
            threads: connections.thread_count(),
            cpus: connections.cpus(),
            server_pid,
        })
    }

    fn kind(&self) -> PayloadKind {
        if self.text { PayloadKind::Text } else { PayloadKind::Binary }
    }

    fn depth(&self, connections: usize) -> usize {
        match (self.depth, &self.rate) {
            (Some(depth), _) => depth,
            (None, None) => 1,
            (None, Some(_)) => {
                (OPEN_LOOP_IN_FLIGHT / connections).clamp(*DEPTH.start(), *DEPTH.end())
            }
        }
    }
}
