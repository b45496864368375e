//! Why a server does not start, and why it cannot go on. These are two types, since the program's
//! exit codes differ.

use std::{io, time::Duration};

use thiserror::Error;

use super::admin::AdminError;
use crate::{
    access_log::AccessLogError,
    config::{ConfigError, format_duration},
    entry::{listener::ListenError, tls::CertificateError},
    host::{cpu_list::CpuListError, descriptors::SystemCallError},
    metrics::Totals,
    server::{sandbox::SandboxError, supervisor::SupervisorError, takeover::TakeoverError},
};

/// Why a server did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A value of the configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no CPU that workers could be pinned to.
    #[error("{0}; name those that --workers are to be pinned to with --cpus")]
    Cpus(#[from] CpuListError),
    /// The server cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The admin listener cannot be had.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The access log cannot be written.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// The certificates cannot be served.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// `io_uring` was asked for and is not available.
    #[error("--driver io_uring: {0}; use --driver auto to fall back to epoll")]
    IoUringUnavailable(String),
    /// The engine was asked for and is not available.
    #[error(
        "--data-plane engine with --driver io_uring: {0}; use --driver auto to fall back to epoll"
    )]
    EngineUnavailable(String),
    /// Huge pages were asked for, and there is no engine whose buffers could be in them.
    #[error(
        "--huge-pages explicit: only an engine has receive buffers to put into huge pages, and \
         there is no engine: {0}; use --huge-pages off to start without"
    )]
    HugePagesUnavailable(String),
    /// There is a server to take over from, and that failed. It goes on.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// What the service manager has left cannot be used.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// A worker could not start.
    #[error("worker {worker}: {cause}")]
    Worker {
        /// The worker's number.
        worker: usize,
        /// The cause.
        cause: String,
    },
    /// A thread cannot be started.
    #[error(
        "no thread can be started ({0}); raise the limits on tasks (ulimit -u, or the container's \
         or service's) and on memory (ulimit -v), or lower --workers"
    )]
    Thread(#[source] io::Error),
    /// The program cannot give up what it should.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The system refused another call.
    #[error(transparent)]
    System(#[from] SystemCallError),
}

/// Why a server that had started could not go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// A worker died, and no other could be put in its place, or too many have died before it.
    #[error("{loss}")]
    WorkerLost {
        /// Which worker, and why.
        loss: WorkerLoss,
        /// The totals of all workers' counters until then.
        totals: Box<Totals>,
    },
}

/// A worker that died, and that the server does not go on without.
#[derive(Debug, Error)]
#[error("worker {worker} died, and {hopeless}: {cause}")]
pub struct WorkerLoss {
    /// The worker's number.
    pub worker: usize,
    /// Why it is not replaced.
    pub hopeless: Hopeless,
    /// The cause of the last failure.
    pub cause: String,
}

/// Why the server does not try to replace a worker any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Hopeless {
    /// None of so many replacements in a row was ready.
    #[error("could not be replaced in {0} tries")]
    Tries(u32),
    /// So many workers died within this time, this one the last.
    #[error("with it {deaths} workers within {}", format_duration(.within))]
    Deaths {
        /// The number of deaths, of all workers together.
        deaths: usize,
        /// The time that they took at most.
        within: Duration,
    },
}
