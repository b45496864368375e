//! What is counted while a load runs: echoes and errors, latencies, seconds, and the use of CPUs and
//! memory.

pub(crate) mod connection_error;
pub(crate) mod encoding;
pub mod errors;
pub mod latency;
pub mod latency_report;
pub(crate) mod layers;
pub mod process_usage;
pub mod tally;
pub(crate) mod thread_usage;
pub mod timeline;
pub(crate) mod window_usage;
