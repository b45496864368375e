//! The flags of `compare`.

use std::ops::RangeInclusive;

use super::{
    CheckArgs, OutputArgs, PlanError, TrafficArgs,
    values::{any_number, number, process},
};
use crate::{
    modes::compare::plan::ComparePlan,
    plan::condition::{Subject, metric::Metric},
    wire::target::Target,
};

const ROUNDS: RangeInclusive<usize> = 2..=1000;

/// What a comparison is asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct CompareArgs {
    /// What the other is compared with: `ws[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH]`
    #[arg(value_name = "URL_A")]
    pub url_a: Target,

    /// What is compared with it
    #[arg(value_name = "URL_B")]
    pub url_b: Target,

    /// How many runs of each, in the order A B B A A B ...
    #[arg(long, value_name = "N", default_value = "6", value_parser = number(ROUNDS))]
    pub rounds: usize,

    /// What the random draws behind the confidence intervals follow from
    #[arg(long, value_name = "N", default_value = "1", value_parser = any_number)]
    pub seed: u64,

    /// What is sent, in each run.
    #[command(flatten)]
    pub traffic: TrafficArgs,

    /// Also compare what the servers' processes use: PID is that of A
    #[arg(
        long, value_name = "PID",
        help_heading = super::RESULT, requires = "server_pid_b", value_parser = process
    )]
    pub server_pid_a: Option<u32>,

    /// The process of B
    #[arg(
        long, value_name = "PID",
        help_heading = super::RESULT, requires = "server_pid_a", value_parser = process
    )]
    pub server_pid_b: Option<u32>,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,

    /// What must not be.
    #[command(flatten)]
    pub checks: CheckArgs,
}

impl CompareArgs {
    /// Resolves and completes what the command line says.
    pub fn plan(&self) -> Result<ComparePlan, PlanError> {
        let missing = |subject: Subject| {
            let of_server = subject.metric == Metric::ServerCpuPerMessage;
            (of_server && self.server_pid_b.is_none()).then_some("--server-pid-a and -b")
        };
        Ok(ComparePlan {
            fail_if: self.checks.conditions(missing)?,
            runs: [
                self.traffic.plan(&self.url_a, self.server_pid_a)?,
                self.traffic.plan(&self.url_b, self.server_pid_b)?,
            ],
            rounds: self.rounds,
            seed: self.seed,
        })
    }
}
