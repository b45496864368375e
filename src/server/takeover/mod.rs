//! Takeover: a new server gets the listening sockets of a running one, and takes its place.
//!
//! The running server listens at a socket file. The new one connects there, gets the **same** sockets
//! (`SCM_RIGHTS`), and starts its workers on them, so that for a moment both accept. Then it puts a
//! socket file of its own in the place of the other, and says that it accepts; the running server says
//! that it stops, and does. No queue is closed meanwhile, so no connection is refused or reset:
//!
//! ```text
//! new                                      running
//! Ask                                  ->
//!                                      <-  Sockets, with the descriptors; once or more
//! starts its workers, moves its file
//! Accepting                            ->
//!                                      <-  Yours
//!                                          leaves the queues to the other, and drains
//! ```
//!
//! Either may say `Off` instead, with a reason. A new server that dies, hangs, or says something else
//! leaves the running one as it was. What becomes of connections is left to the server and its workers.

mod door;
mod link;
#[doc(hidden)]
pub mod message;
mod predecessor;
mod successor;
#[cfg(test)]
mod tests;

use std::{io, path::Path};

use thiserror::Error;

pub use self::link::LinkError;
pub(super) use self::{
    door::Door,
    predecessor::Predecessor,
    successor::{Doorkeeper, HandOver, News, PATIENCE},
};
use crate::config::Listen;

/// Why a server cannot take over from the one that runs.
#[derive(Debug, Error)]
pub enum TakeoverError {
    /// The running server listens elsewhere.
    #[error(
        "--takeover {path}: the server there listens on {theirs}, and this one is told --listen \
         {ours}; give both the same addresses, or this one another --takeover"
    )]
    Elsewhere {
        /// The socket file.
        path: String,
        /// The address of the running server.
        theirs: Listen,
        /// The addresses in the configuration.
        ours: String,
    },
    /// The two servers do not come to terms.
    #[error("--takeover {path}: {source}")]
    Link {
        /// The socket file.
        path: String,
        /// Why not.
        source: LinkError,
    },
    /// There can be no socket file at the path.
    #[error("--takeover {path}: {source}")]
    File {
        /// The path.
        path: String,
        /// The kernel's error.
        source: io::Error,
    },
}

impl TakeoverError {
    /// Names the path of a failure of the socket file.
    pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::File { path: path.display().to_string(), source }
    }

    /// Names the path of a failure between the two servers.
    fn with(path: &Path) -> impl Fn(LinkError) -> Self {
        move |source| Self::Link { path: path.display().to_string(), source }
    }
}
