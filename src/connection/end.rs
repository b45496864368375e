//! How connections end: each in one way, which is counted.

use std::io;

use strum::{EnumCount, EnumDiscriminants, VariantNames};

use crate::{
    metrics::RefusalReason,
    protocol::{ProtocolError, reply},
};

/// How a connection ended. Every accepted connection ends in one of these ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(name(EndKind), derive(EnumCount, VariantNames), vis(pub))]
#[strum_discriminants(strum(serialize_all = "snake_case"), doc = "The kinds of ends, as counted.")]
pub enum ConnectionEnd {
    /// The page was delivered, or a health check was told that all is well.
    PageServed,
    /// The connection or its request was refused for this reason, and told so.
    Refused(RefusalReason),
    /// The peer left, or its connection broke, before a request head was whole.
    PeerLeft,
    /// The peer closed, and got the echo of its Close frame.
    ClosedByPeer,
    /// The stopping server closed, and the peer answered.
    ClosedByServer,
    /// The peer violated the protocol.
    Failed(ProtocolError),
    /// The peer ended its side without a Close frame.
    PeerVanished,
    /// The connection broke.
    Broken(io::ErrorKind),
    /// The peer did not take the response to its opening handshake in time.
    HandshakeTimeout,
    /// The peer was silent even after a Ping.
    KeepAliveTimeout,
    /// The peer did not answer the server's Close frame.
    CloseTimeout,
    /// The stopping server waited no longer.
    Abandoned,
    /// Its worker died, and all connections of that worker with it.
    WorkerDied,
    /// Its task panicked, which is a defect of this program.
    Panicked,
}

impl ConnectionEnd {
    /// The names under which ends are counted, by [`kind`](Self::kind): those of the variants.
    pub const KINDS: [&'static str; EndKind::COUNT] = *EndKind::VARIANTS.first_chunk().unwrap();

    /// Whether the peer may still be reading, so that the connection lingers instead of closing at
    /// once: in the engine, or by [`linger`](super::linger()).
    pub fn is_orderly(self) -> bool {
        matches!(self, Self::ClosedByPeer | Self::ClosedByServer | Self::Failed(_))
    }

    /// The index into [`KINDS`](Self::KINDS).
    pub fn kind(self) -> usize {
        EndKind::from(self) as usize
    }
}

impl From<reply::End> for ConnectionEnd {
    fn from(end: reply::End) -> Self {
        match end {
            reply::End::ClosedByPeer => Self::ClosedByPeer,
            reply::End::ClosedByServer => Self::ClosedByServer,
            reply::End::Failed(error) => Self::Failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_counted_under_the_names_of_their_variants() {
        for (end, name) in [
            (ConnectionEnd::PageServed, "page_served"),
            (ConnectionEnd::Refused(RefusalReason::PathUnknown), "refused"),
            (ConnectionEnd::Failed(ProtocolError::MaskMissing), "failed"),
            (ConnectionEnd::KeepAliveTimeout, "keep_alive_timeout"),
            (ConnectionEnd::Panicked, "panicked"),
        ] {
            assert_eq!(ConnectionEnd::KINDS[end.kind()], name);
        }
        assert_eq!(ConnectionEnd::KINDS.len(), 14);
    }
}
