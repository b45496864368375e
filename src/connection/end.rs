//! How connections end: each in one way, which is counted.

use std::io;

use http::StatusCode;

use crate::protocol::{ProtocolError, session};

/// How a connection ended. Every accepted connection ends in one of these ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The page was delivered.
    PageServed,
    /// The request was refused with this status.
    Refused(StatusCode),
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
    /// A defect of this program.
    Panicked,
}

impl ConnectionEnd {
    /// The names under which ends are counted, by [`kind`](Self::kind).
    pub const KINDS: [&'static str; 13] = [
        "page_served",
        "refused",
        "peer_left",
        "closed_by_peer",
        "closed_by_server",
        "failed",
        "peer_vanished",
        "broken",
        "handshake_timeout",
        "keep_alive_timeout",
        "close_timeout",
        "abandoned",
        "panicked",
    ];

    /// Whether there is nothing more to say, rather than nobody to say it to: only then is it
    /// worth waiting until the peer has taken what was sent.
    pub fn is_orderly(self) -> bool {
        matches!(self, Self::ClosedByPeer | Self::ClosedByServer | Self::Failed(_))
    }

    /// The index into [`KINDS`](Self::KINDS).
    pub fn kind(self) -> usize {
        match self {
            Self::PageServed => 0,
            Self::Refused(_) => 1,
            Self::PeerLeft => 2,
            Self::ClosedByPeer => 3,
            Self::ClosedByServer => 4,
            Self::Failed(_) => 5,
            Self::PeerVanished => 6,
            Self::Broken(_) => 7,
            Self::HandshakeTimeout => 8,
            Self::KeepAliveTimeout => 9,
            Self::CloseTimeout => 10,
            Self::Abandoned => 11,
            Self::Panicked => 12,
        }
    }
}

impl From<session::End> for ConnectionEnd {
    fn from(end: session::End) -> Self {
        match end {
            session::End::ClosedByPeer => Self::ClosedByPeer,
            session::End::ClosedByServer => Self::ClosedByServer,
            session::End::Failed(error) => Self::Failed(error),
        }
    }
}
