//! Flags about the load: what is sent, and for how long.

use std::{ops::RangeInclusive, sync::Arc};

use super::{ConnectionArgs, PayloadArgs, PlanError, WindowArgs, values::number};
use crate::{
    payload::{EchoKind, Verify},
    plan::{Load, Plan, schedule::BACKLOG_GRACE},
    wire::target::Target,
};

const DEPTH: RangeInclusive<usize> = 1..=65_536;
/// Messages in flight at most over all connections in an open loop, unless --depth says otherwise:
/// 32 MiB, at 32 bytes for what is kept of each.
const OPEN_LOOP_IN_FLIGHT: usize = 1 << 20;
const FRAGMENTS: RangeInclusive<usize> = 1..=1024;

/// Flags about the load.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = super::LOAD)]
pub struct LoadArgs {
    /// Messages in flight on each connection: always, or at a rate at most [default: 1; at a rate
    /// 1,048,576 divided among the connections, but at most 65,536 each]
    #[arg(long, value_name = "N", value_parser = number(DEPTH))]
    pub depth: Option<usize>,

    /// What is in the messages.
    #[command(flatten)]
    pub payload: PayloadArgs,

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

    /// For how long, and how threads wait.
    #[command(flatten)]
    pub window: WindowArgs,

    /// Expect bytes back instead of messages: the server answers 101 and then echoes TCP as it is
    #[arg(long, conflicts_with = "http2")]
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
        let polls = load.polls(self.window.wait);
        Ok(Plan {
            connector: Arc::new(
                connections.connector(target)?.offering_compression(self.compression),
            ),
            connections: connections.connections,
            depth: self.depth(&load, connections.connections),
            load,
            wait: self.window.wait,
            payload: self.payload.plan(self.verify)?,
            fragments: self.fragments,
            compression: self.compression,
            echo_kind: if self.raw_tcp { EchoKind::Bytes } else { EchoKind::Messages },
            reconnect: self.reconnect,
            start_at: None,
            warmup: self.window.warmup,
            duration: self.window.duration,
            backlog_grace: BACKLOG_GRACE,
            threads: connections.threads(polls),
            server_pid,
        })
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
