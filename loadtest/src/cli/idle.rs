//! The flags of `idle`.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use bytesize::ByteSize;

use super::{
    ConnectionArgs, OutputArgs, PlanError,
    values::{number, process, size, time},
};
use crate::{drive::sender::WRITE_LEN_MAX, modes::idle::plan::IdlePlan, wire::target::Target};

const CONNECT_RATE: RangeInclusive<usize> = 1..=1_000_000;
const DURATION: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);
const ANSWER_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);
/// A message is sent with one write, and its frame header too, and perhaps a Pong before it.
const ECHO: RangeInclusive<ByteSize> = ByteSize(0)..=ByteSize(WRITE_LEN_MAX as u64 / 2);

/// What `idle` is asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct IdleArgs {
    /// Where to: `ws[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH]`
    #[arg(value_name = "URL")]
    pub url: Target,

    /// How the connections are.
    #[command(flatten)]
    pub connections: ConnectionArgs,

    /// Begin to open at most N connections a second [default: as many as the server accepts]
    #[arg(long, value_name = "N", value_parser = number(CONNECT_RATE))]
    pub connect_rate: Option<usize>,

    /// Have each connection echo one message of SIZE bytes, 32KiB at most, once all are open
    #[arg(long, value_name = "SIZE", help_heading = super::LOAD, value_parser = size(ECHO))]
    pub echo: Option<ByteSize>,

    /// How long to hold the connections
    #[arg(
        short, long, value_name = "TIME", default_value = "10s",
        help_heading = super::LOAD, value_parser = time(DURATION)
    )]
    pub duration: Duration,

    /// How long to wait for the echoes, and at the end for the Pongs
    #[arg(
        long, value_name = "TIME", default_value = "10s",
        help_heading = super::LOAD, value_parser = time(ANSWER_TIMEOUT)
    )]
    pub answer_timeout: Duration,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Also report how much memory the server's process PID uses for each connection
    #[arg(long, value_name = "PID", value_parser = process)]
    pub server_pid: Option<u32>,
}

impl IdleArgs {
    /// Resolves and completes what the command line says.
    pub fn plan(&self) -> Result<IdlePlan, PlanError> {
        Ok(IdlePlan {
            connector: Arc::new(self.connections.connector(&self.url)?),
            connections: self.connections.connections,
            connect_rate: self.connect_rate,
            echo_len: self.echo.map(|size| size.as_u64() as usize),
            duration: self.duration,
            answer_timeout: self.answer_timeout,
            threads: self.connections.threads(false),
            server_pid: self.server_pid,
        })
    }
}
