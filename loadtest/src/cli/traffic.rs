//! Flags about the traffic of a run: on which connections, what, and when.

use super::{ConnectionArgs, LoadArgs, PlanError};
use crate::{
    plan::{Load, Plan, rate::Rate},
    wire::target::Target,
};

/// Flags about the traffic of a run.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(mut_arg("wait", |wait| wait.requires("rate")))]
pub struct TrafficArgs {
    /// How the connections are.
    #[command(flatten)]
    pub connections: ConnectionArgs,

    /// What is sent.
    #[command(flatten)]
    pub load: LoadArgs,

    /// Send this many messages a second in all, at planned instants, whether the server keeps up or
    /// not: 50k, a ramp "10k..100k over 60s", or steps "10k,20k,50k over 30s" (without "over", they
    /// take --duration; the warm-up has the first rate)
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Rate>,
}

impl TrafficArgs {
    /// The plan of a run with `target`, whose process may be `server_pid`.
    pub(super) fn plan(&self, target: &Target, server_pid: Option<u32>) -> Result<Plan, PlanError> {
        let load = self.rate.clone().map_or(Load::Closed, Load::Open);
        self.load.plan(target, load, &self.connections, server_pid)
    }
}
