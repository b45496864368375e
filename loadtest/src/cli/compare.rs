//! The flags of `compare`.

use std::ops::RangeInclusive;

use clap::{ArgAction, Subcommand};

use super::{
    CheckArgs, ConnectionArgs, CycleArgs, OutputArgs, PlanError, TrafficArgs,
    check::measured,
    values::{any_number, number, process},
};
use crate::{
    modes::{churn, compare::plan::ComparePlan, trial::TrialPlan},
    plan::{
        Load,
        condition::{Condition, Subject, metric::Metric},
        rate::Rate,
    },
    wire::target::Target,
};

const ROUNDS: RangeInclusive<usize> = 2..=1000;

/// What a comparison is asked for: of messages, or of cycles.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CompareArgs {
    #[command(subcommand)]
    exchange: Option<ComparedExchange>,

    #[command(flatten)]
    messages: Option<CompareMessagesArgs>,
}

/// What the load is of, if not of messages.
#[derive(Clone, Debug, Subcommand)]
enum ComparedExchange {
    /// Compares two servers by cycles: connections that are opened, used and closed, as by churn
    ///
    /// The exit code is 0 if every cycle went as it should, 1 if not, or if no round was complete,
    /// 2 if a flag is wrong, and 3, whatever else, if a condition of --fail-if holds; 130 after a
    /// second Ctrl-C.
    Churn(Box<CompareChurnArgs>),
}

/// What a comparison of messages is asked for.
// As of a run, clap does not see by itself what a struct with flattened ones consists of.
#[derive(Clone, Debug, clap::Args)]
#[group(args = ["url_a"])]
struct CompareMessagesArgs {
    /// Who is compared, and how often.
    #[command(flatten)]
    sides: SideArgs,

    /// What is sent, in each run.
    #[command(flatten)]
    traffic: TrafficArgs,

    /// What must not be.
    #[command(flatten)]
    checks: CheckArgs,
}

/// What a comparison of cycles is asked for.
#[derive(Clone, Debug, clap::Args)]
#[command(mut_arg("wait", |wait| wait.requires("rate")))]
struct CompareChurnArgs {
    /// Who is compared, and how often.
    #[command(flatten)]
    sides: SideArgs,

    /// What a cycle is, in each run.
    #[command(flatten)]
    cycles: CycleArgs,

    /// Begin this many cycles a second in all, at planned instants, as with churn
    #[arg(long, value_name = "RATE", help_heading = super::LOAD)]
    rate: Option<Rate>,

    /// End with exit code 3 if this holds, such as 'ratio.p99>1.1', 'ratio.handshake.p99>1.1' or
    /// 'errors>0', or if what it is about could not be measured; repeatable
    #[arg(
        long, value_name = "CONDITION", action = ArgAction::Append,
        help_heading = super::CHECKS, value_parser = Condition::failure_of_compared_cycles
    )]
    fail_if: Vec<Condition>,
}

/// Flags about who is compared.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
struct SideArgs {
    /// What the other is compared with: `ws[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH]`
    #[arg(value_name = "URL_A")]
    url_a: Target,

    /// What is compared with it
    #[arg(value_name = "URL_B")]
    url_b: Target,

    /// How many runs of each, in the order A B B A A B ...
    #[arg(long, value_name = "N", default_value = "6", value_parser = number(ROUNDS))]
    rounds: usize,

    /// What the random draws behind the confidence intervals follow from
    #[arg(long, value_name = "N", default_value = "1", value_parser = any_number)]
    seed: u64,

    /// Also compare what the servers' processes use: PID is that of A
    #[arg(
        long, value_name = "PID",
        help_heading = super::RESULT, requires = "server_pid_b", value_parser = process
    )]
    server_pid_a: Option<u32>,

    /// The process of B
    #[arg(
        long, value_name = "PID",
        help_heading = super::RESULT, requires = "server_pid_a", value_parser = process
    )]
    server_pid_b: Option<u32>,

    /// Where the result goes.
    #[command(flatten)]
    output: OutputArgs,
}

impl CompareArgs {
    /// Resolves and completes what the command line says.
    pub fn plan(&self) -> Result<ComparePlan, PlanError> {
        let SideArgs { url_a, url_b, rounds, seed, server_pid_a, server_pid_b, .. } = self.sides();
        let sides = [(url_a, *server_pid_a), (url_b, *server_pid_b)];
        let missing = |subject: Subject| {
            let of_server = [Metric::ServerCpuPerMessage, Metric::ServerCpuPerCycle];
            (of_server.contains(&subject.metric) && server_pid_b.is_none())
                .then_some("--server-pid-a and --server-pid-b")
        };
        let (runs, fail_if) = match self.exchange() {
            ExchangeArgs::Messages(args) => {
                let fail_if = args.checks.conditions(missing)?;
                let [a, b] = sides.map(|(url, pid)| args.traffic.plan(url, pid));
                ([TrialPlan::Messages(a?), TrialPlan::Messages(b?)], fail_if)
            }
            ExchangeArgs::Cycles(args) => {
                let fail_if = measured(&args.fail_if, missing)?;
                let load = || args.rate.clone().map_or(Load::Closed, Load::Open);
                let [a, b] = sides.map(|(url, pid)| args.cycles.plan(url, load(), pid));
                ([TrialPlan::Cycles(a?), TrialPlan::Cycles(b?)], fail_if)
            }
        };
        Ok(ComparePlan { fail_if, runs, rounds: *rounds, seed: *seed })
    }

    /// How the connections are, and how many descriptors each takes.
    pub fn connections(&self) -> (&ConnectionArgs, usize) {
        match self.exchange() {
            ExchangeArgs::Messages(args) => (&args.traffic.connections, 1),
            ExchangeArgs::Cycles(args) => (&args.cycles.connections, churn::DESCRIPTORS_EACH),
        }
    }

    /// Where the result goes.
    pub fn output(&self) -> &OutputArgs {
        &self.sides().output
    }

    fn sides(&self) -> &SideArgs {
        match self.exchange() {
            ExchangeArgs::Messages(args) => &args.sides,
            ExchangeArgs::Cycles(args) => &args.sides,
        }
    }

    fn exchange(&self) -> ExchangeArgs<'_> {
        match self {
            Self { exchange: Some(ComparedExchange::Churn(args)), .. } => {
                ExchangeArgs::Cycles(args)
            }
            Self { messages: Some(args), .. } => ExchangeArgs::Messages(args),
            Self { exchange: None, messages: None } => unreachable!("clap demands one of them"),
        }
    }
}

/// What a comparison is asked for, of its exchange.
enum ExchangeArgs<'a> {
    Messages(&'a CompareMessagesArgs),
    Cycles(&'a CompareChurnArgs),
}
