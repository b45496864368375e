//! Flags about the load: what is sent, and for how long.

use std::{ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use bytesize::ByteSize;

use super::{
    ConnectionArgs, PlanError,
    values::{number, sizes, time},
};
use crate::{
    payload::{EchoKind, PayloadKind, PayloadPlan, PayloadSource, Verify, files},
    plan::{Load, Plan, Wait},
    wire::target::Target,
};

const DEPTH: RangeInclusive<usize> = 1..=65_536;
/// Messages in flight at most over all connections in an open loop, unless --depth says otherwise:
/// 32 MiB, at 32 bytes for what is kept of each.
const OPEN_LOOP_IN_FLIGHT: usize = 1 << 20;
const PAYLOAD: RangeInclusive<ByteSize> = ByteSize(0)..=ByteSize(1 << 30);
const FRAGMENTS: RangeInclusive<usize> = 1..=1024;
const DURATION: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(24);
const WARMUP: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);

/// Flags about the load.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = super::LOAD)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct LoadArgs {
    /// Messages in flight on each connection: always, or at a rate at most [default: 1; at a rate
    /// 1,048,576 divided among the connections, but at most 65,536 each]
    #[arg(long, value_name = "N", value_parser = number(DEPTH))]
    pub depth: Option<usize>,

    /// Payload of each message, such as 64, 16KiB or 1MB; or a range such as 16..64KiB, from which
    /// sizes are drawn so that each doubling is as likely as any other
    #[arg(short, long, value_name = "SIZE", default_value = "64", value_parser = sizes(PAYLOAD))]
    pub payload: RangeInclusive<usize>,

    /// Send the contents of FILE instead, or of all files of a directory in turn
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    pub payload_from: Option<PathBuf>,

    /// Send each message in N frames
    #[arg(long, value_name = "N", default_value = "1", value_parser = number(FRAGMENTS))]
    pub fragments: usize,

    /// Offer permessage-deflate without context takeover, and compress messages where the server
    /// accepts it
    #[arg(long, conflicts_with = "raw_tcp")]
    pub compression: bool,

    /// What of an echo is compared with its message: everything, its length, or nothing
    #[arg(long, value_name = "WHAT", default_value = "full")]
    pub verify: Verify,

    /// How long to measure, such as 10s or 2m
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = time(DURATION))]
    pub duration: Duration,

    /// How long to run the load before measuring
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time(WARMUP))]
    pub warmup: Duration,

    /// What the generator's threads do at a rate until something happens: poll, which takes a CPU
    /// each, or sleep, which adds the time of a wake-up to each latency
    #[arg(long, value_name = "HOW", default_value = "poll")]
    pub wait: Wait,

    /// Send texts (generated ones have characters of 1 to 4 bytes) instead of binary messages
    #[arg(long)]
    pub text: bool,

    /// Expect bytes back instead of messages: the server answers 101 and then echoes TCP as it is
    #[arg(long)]
    pub raw_tcp: bool,

    /// Open a lost connection again, while the load lasts; that it was lost is an error all the
    /// same
    #[arg(long)]
    pub reconnect: bool,
}

impl LoadArgs {
    /// The plan of `load` on `connections` to `target`, whose process may be `server_pid`.
    pub(super) fn plan(
        &self,
        target: &Target,
        load: Load,
        connections: &ConnectionArgs,
        server_pid: Option<u32>,
    ) -> Result<Plan, PlanError> {
        let polls = load.polls(self.wait);
        Ok(Plan {
            connector: Arc::new(
                connections.connector(target)?.offering_compression(self.compression),
            ),
            connections: connections.connections,
            depth: self.depth(&load, connections.connections),
            load,
            wait: self.wait,
            payload: self.payload_plan()?,
            fragments: self.fragments,
            compression: self.compression,
            echo_kind: if self.raw_tcp { EchoKind::Bytes } else { EchoKind::Messages },
            reconnect: self.reconnect,
            start_at: None,
            warmup: self.warmup,
            duration: self.duration,
            threads: connections.threads(polls),
            server_pid,
        })
    }

    fn payload_plan(&self) -> Result<PayloadPlan, PlanError> {
        let kind = if self.text { PayloadKind::Text } else { PayloadKind::Binary };
        let source = match &self.payload_from {
            None => PayloadSource::Generated(self.payload.clone()),
            Some(path) => {
                let files = files::read(path, kind)
                    .map_err(|cause| PlanError::PayloadFrom { path: path.clone(), cause })?;
                PayloadSource::Files(files.into())
            }
        };
        Ok(PayloadPlan { kind, source, verify: self.verify })
    }

    fn depth(&self, load: &Load, connections: usize) -> usize {
        match (self.depth, load) {
            (Some(depth), _) => depth,
            (None, Load::Closed) => 1,
            (None, Load::Open(_)) => {
                (OPEN_LOOP_IN_FLIGHT / connections).clamp(*DEPTH.start(), *DEPTH.end())
            }
        }
    }
}
