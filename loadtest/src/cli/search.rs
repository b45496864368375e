//! The flags of `search`.

use std::ops::RangeInclusive;

use clap::Subcommand;

use super::{
    ConnectionArgs, CycleArgs, LoadArgs, OutputArgs, PlanError,
    values::{number, percentage, process},
};
use crate::{
    modes::{
        churn,
        search::{bisection::Settings, plan::SearchPlan},
        trial::TrialPlan,
    },
    plan::{
        Load,
        condition::Condition,
        rate::{Rate, parse_number},
    },
    wire::target::Target,
};

const PRECISION: RangeInclusive<f64> = 1.0..=50.0;
const CONFIRM: RangeInclusive<usize> = 1..=20;

/// What a search is asked for: among messages, or among cycles.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SearchArgs {
    #[command(subcommand)]
    exchange: Option<SearchedExchange>,

    #[command(flatten)]
    messages: Option<SearchMessagesArgs>,
}

/// What the rate is of, if not of messages.
#[derive(Clone, Debug, Subcommand)]
enum SearchedExchange {
    /// Finds the highest rate of cycles: connections that are opened, used and closed, as by churn
    ///
    /// The exit code is 0 if a rate was found and confirmed, 1 if not, and 2 if a flag is wrong; 130
    /// after a second Ctrl-C.
    Churn(Box<SearchChurnArgs>),
}

/// What a search among messages is asked for.
// As of a run, clap does not see by itself what a struct with flattened ones consists of.
#[derive(Clone, Debug, clap::Args)]
#[group(args = ["url"])]
struct SearchMessagesArgs {
    /// Where to: `ws[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH]`
    #[arg(value_name = "URL")]
    url: Target,

    /// What the rate has to meet, such as p99<2ms: p50, p90, p99, p99.9, p99.99, max, mean (with
    /// ns, us, ms or s) or errors (without it there may be none); repeatable
    #[arg(long, value_name = "CONDITION", required = true, value_parser = Condition::goal)]
    slo: Vec<Condition>,

    /// How the search goes.
    #[command(flatten)]
    settings: SettingsArgs,

    /// How the connections are.
    #[command(flatten)]
    connections: ConnectionArgs,

    /// What is sent, in each run.
    #[command(flatten)]
    load: LoadArgs,
}

/// What a search among cycles is asked for.
#[derive(Clone, Debug, clap::Args)]
struct SearchChurnArgs {
    /// Where to: `ws[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH]`
    #[arg(value_name = "URL")]
    url: Target,

    /// What the rate has to meet, such as p99<20ms (of whole cycles) or handshake.p99<5ms: p50, p90,
    /// p99, p99.9, p99.99, max, mean, handshake.p50, .p90, .p99, .p99.9 or .max (with ns, us, ms or
    /// s) or errors (without it there may be none); repeatable
    #[arg(
        long, value_name = "CONDITION", required = true, value_parser = Condition::goal_of_cycles
    )]
    slo: Vec<Condition>,

    /// How the search goes.
    #[command(flatten)]
    settings: SettingsArgs,

    /// What a cycle is, in each run.
    #[command(flatten)]
    cycles: CycleArgs,
}

/// Flags about how a search goes.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
struct SettingsArgs {
    /// The first rate that is tried, in messages or cycles a second
    #[arg(long, value_name = "RATE", default_value = "1k", value_parser = parse_number)]
    start_rate: f64,

    /// The highest rate that is tried
    #[arg(long, value_name = "RATE", default_value = "100M", value_parser = parse_number)]
    max_rate: f64,

    /// How much below the highest rate the answer may be
    #[arg(
        long, value_name = "PERCENT", default_value = "5%", value_parser = percentage(PRECISION)
    )]
    precision: f64,

    /// How often the answer is tried again; if it misses once, the search goes on below
    #[arg(long, value_name = "N", default_value = "3", value_parser = number(CONFIRM))]
    confirm: usize,

    /// Where the result goes.
    #[command(flatten)]
    output: OutputArgs,

    /// Also report what the server's process PID uses in each run
    #[arg(long, value_name = "PID", value_parser = process)]
    server_pid: Option<u32>,
}

impl SearchArgs {
    /// Resolves and completes what the command line says.
    pub fn plan(&self) -> Result<SearchPlan, PlanError> {
        let settings = self.settings();
        let SettingsArgs { start_rate, max_rate, precision, confirm, server_pid, .. } = *settings;
        if max_rate < start_rate {
            return Err(PlanError::MaxRate { max_rate, start_rate });
        }
        let load = Load::Open(Rate::constant(start_rate));
        let (run, goals) = match self.exchange() {
            ExchangeArgs::Messages(args) => {
                let plan = args.load.plan(&args.url, load, &args.connections, server_pid)?;
                (TrialPlan::Messages(plan), &args.slo)
            }
            ExchangeArgs::Cycles(args) => {
                (TrialPlan::Cycles(args.cycles.plan(&args.url, load, server_pid)?), &args.slo)
            }
        };
        Ok(SearchPlan {
            run,
            goals: goals.clone(),
            settings: Settings {
                start: start_rate,
                max: max_rate,
                precision: precision / 100.0,
                confirmations: confirm,
            },
        })
    }

    /// How the connections are, and how many descriptors each takes.
    pub fn connections(&self) -> (&ConnectionArgs, usize) {
        match self.exchange() {
            ExchangeArgs::Messages(args) => (&args.connections, 1),
            ExchangeArgs::Cycles(args) => (&args.cycles.connections, churn::DESCRIPTORS_EACH),
        }
    }

    /// Where the result goes.
    pub fn output(&self) -> &OutputArgs {
        &self.settings().output
    }

    fn settings(&self) -> &SettingsArgs {
        match self.exchange() {
            ExchangeArgs::Messages(args) => &args.settings,
            ExchangeArgs::Cycles(args) => &args.settings,
        }
    }

    fn exchange(&self) -> ExchangeArgs<'_> {
        match self {
            Self { exchange: Some(SearchedExchange::Churn(args)), .. } => {
                ExchangeArgs::Cycles(args)
            }
            Self { messages: Some(args), .. } => ExchangeArgs::Messages(args),
            Self { exchange: None, messages: None } => unreachable!("clap demands one of them"),
        }
    }
}

/// What a search is asked for, of its exchange.
enum ExchangeArgs<'a> {
    Messages(&'a SearchMessagesArgs),
    Cycles(&'a SearchChurnArgs),
}
