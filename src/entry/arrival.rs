//! How a connection came in: what its worker knows of it before a byte has been read.

use crate::connection::peer::Peer;

/// How a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Who is at the other end.
    pub peer: Peer,
    /// Its listener speaks TLS.
    pub speaks_tls: bool,
}
