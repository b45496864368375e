//! What a result was measured with, and on whom: the fields that results of different kinds begin
//! with.

use serde::Serialize;

use super::counted;
use crate::connector::Connector;

/// Of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a result was measured with, and on whom.
#[derive(Clone, Debug, Serialize)]
pub struct Provenance {
    /// Of this program.
    pub version: &'static str,
    /// Where to.
    pub url: String,
    /// What the generator waits with: `io_uring` or `epoll`.
    pub driver: &'static str,
    /// Of the generator.
    pub threads: usize,
    /// The CPUs that the threads were pinned to; `None` if they were not.
    pub cpus: Option<Vec<usize>>,
}

impl Provenance {
    /// Of what threads on `cpus`, which are none if they were not pinned, did with connections.
    pub(crate) fn new(connector: &Connector, threads: usize, cpus: &[usize]) -> Self {
        Self {
            version: VERSION,
            url: connector.url().to_owned(),
            driver: if monoio::utils::detect_uring() { "io_uring" } else { "epoll" },
            threads,
            cpus: (!cpus.is_empty()).then(|| cpus.to_vec()),
        }
    }

    /// The generator, in words: `2 threads on io_uring`.
    pub(crate) fn generator(&self) -> String {
        format!("{} on {}", counted(self.threads as u64, "thread"), self.driver)
    }
}
