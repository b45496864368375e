//! Flags about cycles: on which connections, what is sent, and how they end.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use super::{
    ConnectionArgs, PayloadArgs, PlanError, WindowArgs,
    values::{number, time},
};
use crate::{
    modes::churn::plan::ChurnPlan,
    payload::Verify,
    plan::{Closing, Load, schedule::BACKLOG_GRACE},
    wire::target::Target,
};

const MESSAGES: RangeInclusive<usize> = 0..=1_000_000;
const ANSWER_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);

/// Flags about cycles.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct CycleArgs {
    /// How the connections are; there is one for each cycle that is under way.
    #[command(flatten)]
    pub connections: ConnectionArgs,

    /// Messages of each cycle, one after the other
    #[arg(
        long, value_name = "N", default_value = "1",
        help_heading = super::LOAD, value_parser = number(MESSAGES)
    )]
    pub messages: usize,

    /// How a cycle ends: with the closing handshake and the server's end of TCP, or with a reset
    /// after the last echo
    #[arg(long, value_name = "HOW", default_value = "handshake", help_heading = super::LOAD)]
    pub close: Closing,

    /// How long to wait for an echo, for the server's Close frame, and for its end of TCP, each
    #[arg(
        long, value_name = "TIME", default_value = "10s",
        help_heading = super::LOAD, value_parser = time(ANSWER_TIMEOUT)
    )]
    pub answer_timeout: Duration,

    /// What is sent.
    #[command(flatten)]
    pub payload: PayloadArgs,

    /// For how long, and how threads wait.
    #[command(flatten)]
    pub window: WindowArgs,
}

impl CycleArgs {
    /// The plan of `load` to `target`, whose process may be `server_pid`.
    pub(super) fn plan(
        &self,
        target: &Target,
        load: Load,
        server_pid: Option<u32>,
    ) -> Result<ChurnPlan, PlanError> {
        let connections = &self.connections;
        let threads = connections.threads(load.polls(self.window.wait));
        let connector = connections.connector(target)?;
        let connector = match (self.close, &connections.unix_socket) {
            (Closing::Handshake, _) => connector,
            (Closing::Abort, None) => connector.resetting(),
            (Closing::Abort, Some(path)) => {
                return Err(PlanError::AbortOfUnixSocket { path: path.clone() });
            }
        };
        Ok(ChurnPlan {
            connector: Arc::new(connector),
            connections: connections.connections,
            load,
            wait: self.window.wait,
            messages: self.messages,
            payload: self.payload.plan(Verify::Full)?,
            closing: self.close,
            answer_timeout: self.answer_timeout,
            warmup: self.window.warmup,
            duration: self.window.duration,
            backlog_grace: BACKLOG_GRACE,
            threads,
            server_pid,
        })
    }
}
