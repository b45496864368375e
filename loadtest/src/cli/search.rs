//! The flags of `search`.

use std::ops::RangeInclusive;

use super::{
    ConnectionArgs, LoadArgs, OutputArgs, PlanError,
    values::{number, percentage, process},
};
use crate::{
    modes::search::{bisection::Settings, plan::SearchPlan},
    plan::{
        Load,
        condition::Condition,
        rate::{Rate, parse_number},
    },
    wire::target::Target,
};

const PRECISION: RangeInclusive<f64> = 1.0..=50.0;
const CONFIRM: RangeInclusive<usize> = 1..=20;

/// What a search is asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct SearchArgs {
    /// Where to: `ws[s]://[USER[:PASSWORD]@]HOST[:PORT][/PATH]`
    #[arg(value_name = "URL")]
    pub url: Target,

    /// What the rate has to meet, such as p99<2ms: p50, p90, p99, p99.9, p99.99, max, mean (with
    /// ns, us, ms or s) or errors (without it there may be none); repeatable
    #[arg(long, value_name = "CONDITION", required = true, value_parser = Condition::goal)]
    pub slo: Vec<Condition>,

    /// The first rate that is tried, in messages a second
    #[arg(long, value_name = "RATE", default_value = "1k", value_parser = parse_number)]
    pub start_rate: f64,

    /// The highest rate that is tried
    #[arg(long, value_name = "RATE", default_value = "100M", value_parser = parse_number)]
    pub max_rate: f64,

    /// How much below the highest rate the answer may be
    #[arg(
        long, value_name = "PERCENT", default_value = "5%", value_parser = percentage(PRECISION)
    )]
    pub precision: f64,

    /// How often the answer is tried again; if it misses once, the search goes on below
    #[arg(long, value_name = "N", default_value = "3", value_parser = number(CONFIRM))]
    pub confirm: usize,

    /// How the connections are.
    #[command(flatten)]
    pub connections: ConnectionArgs,

    /// What is sent, in each run.
    #[command(flatten)]
    pub load: LoadArgs,

    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Also report what the server's process PID uses in each run
    #[arg(long, value_name = "PID", value_parser = process)]
    pub server_pid: Option<u32>,
}

impl SearchArgs {
    /// Resolves and completes what the command line says.
    pub fn plan(&self) -> Result<SearchPlan, PlanError> {
        let Self { start_rate, max_rate, .. } = *self;
        if max_rate < start_rate {
            return Err(PlanError::MaxRate { max_rate, start_rate });
        }
        let load = Load::Open(Rate::constant(start_rate));
        Ok(SearchPlan {
            run: self.load.plan(&self.url, load, &self.connections, self.server_pid)?,
            goals: self.slo.clone(),
            settings: Settings {
                start: start_rate,
                max: max_rate,
                precision: self.precision / 100.0,
                confirmations: self.confirm,
            },
        })
    }
}
