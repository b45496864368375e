//! The flags of `churn`.

use clap::ArgAction;

use super::{CycleArgs, OutputArgs, PlanError, RecordingArgs, check::measured, values::process};
use crate::{
    modes::churn::plan::ChurnPlan,
    plan::{
        Load,
        condition::{Condition, metric::Metric},
        rate::Rate,
    },
    wire::target::Target,
};

/// What `churn` is asked for.
#[derive(Clone, Debug, clap::Args)]
#[command(mut_arg("wait", |wait| wait.requires("rate")))]
pub struct ChurnArgs {
    /// Where to: `ws[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH]`
    #[arg(value_name = "URL")]
    pub url: Target,

    /// What a cycle is.
    #[command(flatten)]
    pub cycles: CycleArgs,

    /// Begin this many cycles a second in all, at planned instants, whether the server keeps up or
    /// not: 5k, a ramp "1k..10k over 60s", or steps "1k,2k,5k over 30s" (without "over", they take
    /// --duration; the warm-up has the first rate)
    #[arg(long, value_name = "RATE", help_heading = super::LOAD)]
    pub rate: Option<Rate>,

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
        self.cycles.plan(&self.url, load, self.server_pid)
    }

    /// What must not hold.
    pub fn conditions(&self) -> Result<Vec<Condition>, PlanError> {
        measured(&self.fail_if, |subject| {
            let of_server = subject.metric == Metric::ServerCpuPerCycle;
            (of_server && self.server_pid.is_none()).then_some("--server-pid")
        })
    }
}
