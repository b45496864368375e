//! The flags of a run.

use std::{path::PathBuf, time::SystemTime};

use super::{
    CheckArgs, OutputArgs, PlanError, RecordingArgs, TrafficArgs,
    values::{instant, process},
};
use crate::{
    plan::{
        Plan,
        condition::{Condition, Subject, metric::Metric},
    },
    result::baseline::Baseline,
    wire::target::Target,
};

/// What a run is asked for.
// A run is asked for if there is a URL: clap does not see by itself what a struct with flattened
// ones consists of.
#[derive(Clone, Debug, clap::Args)]
#[group(args = ["url"])]
pub struct RunArgs {
    /// Where to: `ws[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH]`
    #[arg(value_name = "URL")]
    pub url: Target,

    /// What is sent.
    #[command(flatten)]
    pub traffic: TrafficArgs,

    /// When to start the load, connections being open by then: in RFC 3339 such as
    /// 2026-01-31T12:00:00Z, or in seconds since 1970. For runs on several machines
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub start_at: Option<SystemTime>,

    /// Also report what the server's process PID uses: CPU time for each message, and memory
    #[arg(long, value_name = "PID", value_parser = process, help_heading = super::RESULT)]
    pub server_pid: Option<u32>,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Where what was measured goes.
    #[command(flatten)]
    pub recording: RecordingArgs,

    /// On a terminal, show rate, latency and errors over time while it runs, on the whole screen
    #[arg(long)]
    pub full_screen: bool,

    /// Also compare with the result of an earlier run, which it has written as JSON
    #[arg(long, value_name = "FILE", help_heading = super::CHECKS)]
    pub baseline: Option<PathBuf>,

    /// What must not be.
    #[command(flatten)]
    pub checks: CheckArgs,
}

impl RunArgs {
    /// Resolves and completes what the command line says.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        let plan = self.traffic.plan(&self.url, self.server_pid)?;
        Ok(Plan { start_at: self.start_at, ..plan })
    }

    /// Reads the earlier result, if there is to be one.
    pub fn baseline(&self) -> Result<Option<Baseline>, PlanError> {
        let read = |path: &PathBuf| {
            Baseline::read(path).map_err(|cause| PlanError::Baseline { path: path.clone(), cause })
        };
        self.baseline.as_ref().map(read).transpose()
    }

    /// What must not hold.
    pub fn conditions(&self) -> Result<Vec<Condition>, PlanError> {
        self.checks.conditions(|Subject { metric, is_ratio }| {
            if is_ratio && self.baseline.is_none() {
                Some("--baseline")
            } else if metric == Metric::ServerCpuPerMessage && self.server_pid.is_none() {
                Some("--server-pid")
            } else {
                None
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command};

    #[test]
    fn connections_are_spread_evenly() {
        let cli = Cli::parse_from(["x", "ws://127.0.0.1", "--connections=7", "--threads=3"]);
        let Command::Run(args) = cli.command() else {
            panic!("a URL is a run");
        };
        let plan = args.plan().unwrap();
        let spread: Vec<usize> =
            (0..plan.threads.count).map(|thread| plan.connections_of(thread)).collect();
        assert_eq!(spread, [3, 2, 2]);
    }
}
