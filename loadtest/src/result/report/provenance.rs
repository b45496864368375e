//! What a result was measured with, and on whom: the fields that results of different kinds begin
//! with.

use serde::Serialize;

use super::WayIn;
use crate::{
    drive::runtime,
    plan::threads::ThreadPlan,
    text::{numbers::counted, shortfall::is_noted, warning::WarningCode},
    wire::connector::Connector,
};

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a result was measured with, and on whom.
#[derive(Clone, Debug, Serialize)]
pub struct Provenance {
    /// The version of this program.
    pub version: &'static str,
    /// The URL that connections were opened to.
    pub url: String,
    /// How they got there; `None` if straight.
    pub way_in: Option<WayIn>,
    /// What the generator waits with: `io_uring` or `epoll`.
    pub driver: &'static str,
    /// Threads of the generator.
    pub threads: usize,
    /// The CPUs that the threads were pinned to; `None` if they were not.
    pub cpus: Option<Vec<usize>>,
}

impl Provenance {
    pub(crate) fn new(connector: &Connector, threads: &ThreadPlan) -> Self {
        let ThreadPlan { count, cpus } = threads;
        Self {
            version: VERSION,
            url: connector.url().to_owned(),
            way_in: WayIn::of(connector),
            driver: runtime::driver(),
            threads: *count,
            cpus: (!cpus.is_empty() && !is_noted(WarningCode::NotPinned)).then(|| cpus.clone()),
        }
    }

    /// The generator, in words: `2 threads on io_uring`.
    pub(crate) fn generator(&self) -> String {
        format!("{} on {}", counted(self.threads as u64, "thread"), self.driver)
    }
}
