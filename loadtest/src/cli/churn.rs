//! The flags of `churn`.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use clap::ArgAction;

use super::{
    ConnectionArgs, OutputArgs, PayloadArgs, PlanError, RecordingArgs, WindowArgs,
    values::{number, process, time},
};
use crate::{
    modes::churn::plan::{ChurnPlan, Closing},
    payload::Verify,
    plan::{
        Load,
        condition::{Condition, metric::Metric},
        rate::Rate,
    },
    wire::target::Target,
};

const MESSAGES: RangeInclusive<usize> = 0..=1_000_000;
const ANSWER_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);

/// What `churn` is asked for.
#[derive(Clone, Debug, clap::Args)]
#[command(mut_arg("wait", |wait| wait.requires("rate")))]
pub struct ChurnArgs {
    /// Where to: `ws[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH]`
    #[arg(value_name = "URL")]
    pub url: Target,

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

    /// Begin this many cycles a second in all, at planned instants, whether the server keeps up or
    /// not: 5k, a ramp "1k..10k over 60s", or steps "1k,2k,5k over 30s" (without "over", they take
    /// --duration; the warm-up has the first rate)
    #[arg(long, value_name = "RATE", help_heading = super::LOAD)]
    pub rate: Option<Rate>,

    /// What is sent.
    #[command(flatten)]
    pub payload: PayloadArgs,

    /// For how long, and how threads wait.
    #[command(flatten)]
    pub window: WindowArgs,

    /// Also report what the server's process PID uses: CPU time for each cycle, and memory
    #[arg(long, value_name = "PID", value_parser = process, help_heading = super::RESULT)]
    pub server_pid: Option<u32>,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Where what was measured goes.
    #[command(flatten)]
    pub recording: RecordingArgs,

    /// End with exit code 3 if this holds, such as 'p99>5ms' (of whole cycles), 'handshake.p99>2ms'
    /// or 'errors>0', or if what it is about could not be measured; repeatable
    #[arg(
        long, value_name = "CONDITION", action = ArgAction::Append,
        help_heading = super::CHECKS, value_parser = Condition::failure_of_cycles
    )]
    pub fail_if: Vec<Condition>,
}

impl ChurnArgs {
    /// Resolves and completes what the command line says.
    pub fn plan(&self) -> Result<ChurnPlan, PlanError> {
        let load = self.rate.clone().map_or(Load::Closed, Load::Open);
        let threads = self.connections.threads(load.polls(self.window.wait));
        let connector = self.connections.connector(&self.url)?;
        let connector = match (self.close, &self.connections.unix_socket) {
            (Closing::Handshake, _) => connector,
            (Closing::Abort, None) => connector.resetting(),
            (Closing::Abort, Some(path)) => {
                return Err(PlanError::AbortOfUnixSocket { path: path.clone() });
            }
        };
        Ok(ChurnPlan {
            connector: Arc::new(connector),
            connections: self.connections.connections,
            load,
            wait: self.window.wait,
            messages: self.messages,
            payload: self.payload.plan(Verify::Full)?,
            closing: self.close,
            answer_timeout: self.answer_timeout,
            warmup: self.window.warmup,
            duration: self.window.duration,
            threads,
            server_pid: self.server_pid,
        })
    }

    /// What must not hold.
    pub fn conditions(&self) -> Result<Vec<Condition>, PlanError> {
        let of_server =
            |condition: &&Condition| condition.subject().metric == Metric::ServerCpuPerCycle;
        if self.server_pid.is_none()
            && let Some(condition) = self.fail_if.iter().find(of_server)
        {
            let condition = condition.to_string();
            return Err(PlanError::FailIf { condition, flag: "--server-pid" });
        }
        Ok(self.fail_if.clone())
    }
}
