//! How connections end: each in one way, which is counted.

use std::io;

use strum::{EnumCount, EnumDiscriminants, VariantNames};

use crate::{
    metrics::{Http2Error, RefusalReason},
    protocol::{
        ProtocolError, reply,
        session::{Goodbye, Session},
    },
    tls::{TlsError, TlsFault},
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
    /// TLS could not go on after its handshake: a record was no record of the session's, or the peer
    /// said that it found such a fault.
    TlsFailed(TlsFault),
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
    /// The peer took no byte of what it was sent.
    WriteTimeout,
    /// No message came, and the server closed.
    IdleTimeout,
    /// The connection was as old as it may become, and the server closed.
    LifetimeMax,
    /// The memory of all connections was used up, and this one held the most.
    MemoryShed,
    /// The stopping server waited no longer.
    Abandoned,
    /// Its worker died, and all connections of that worker with it.
    WorkerDied,
    /// Its task panicked, which is a defect of this program.
    Panicked,
    /// The connection carried streams of HTTP/2, and was ended in order.
    Http2Closed,
    /// The peer violated HTTP/2, or sent more of something than it may.
    Http2Failed(Http2Error),
}

impl ConnectionEnd {
    /// The names under which ends are counted, by [`kind`](Self::kind): those of the variants.
    pub const KINDS: [&'static str; EndKind::COUNT] = *EndKind::VARIANTS.first_chunk().unwrap();

    /// The end of a connection whose stream has failed with this error.
    pub fn of_failure(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
        tls.map_or(Self::Broken(error.kind()), |error| Self::TlsFailed(error.fault()))
    }

    /// Whether the peer may still be reading, so that the connection lingers instead of closing at
    /// once: in the engine, or by [`linger`](super::linger()).
    pub fn is_orderly(self) -> bool {
        matches!(
            self,
            Self::ClosedByPeer | Self::ClosedByServer | Self::Failed(_) | Self::TlsFailed(_)
        )
    }

    /// Whether the connection is reset when it is closed, since its peer takes nothing.
    pub fn is_reset(self) -> bool {
        matches!(self, Self::WriteTimeout | Self::MemoryShed)
    }

    /// The end as it is counted, of a connection with this session. Once the server has closed a
    /// connection for its silence or its age, that is what ended it, whether or not the peer answered.
    #[must_use]
    pub fn for_its_cause(self, session: &Session) -> Self {
        self.after(session.goodbye(), session.has_said_goodbye())
    }

    /// The same, after the server has begun to say goodbye for this reason. `is_said`: it has sent
    /// its Close frame, and awaits the peer's.
    pub(crate) fn after(self, goodbye: Option<Goodbye>, is_said: bool) -> Self {
        let is_its_end = match self {
            // The close timeout also ends a peer that has not taken what comes before the Close frame.
            Self::ClosedByServer | Self::CloseTimeout => true,
            Self::PeerVanished | Self::Broken(_) | Self::WriteTimeout | Self::Abandoned => is_said,
            _ => false,
        };
        match goodbye {
            Some(Goodbye::Idle) if is_its_end => Self::IdleTimeout,
            Some(Goodbye::LifetimeOver) if is_its_end => Self::LifetimeMax,
            _ => self,
        }
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
            (ConnectionEnd::TlsFailed(TlsFault::NotDecrypted), "tls_failed"),
            (ConnectionEnd::KeepAliveTimeout, "keep_alive_timeout"),
            (ConnectionEnd::WriteTimeout, "write_timeout"),
            (ConnectionEnd::IdleTimeout, "idle_timeout"),
            (ConnectionEnd::LifetimeMax, "lifetime_max"),
            (ConnectionEnd::MemoryShed, "memory_shed"),
            (ConnectionEnd::Panicked, "panicked"),
            (ConnectionEnd::Http2Closed, "http2_closed"),
            (ConnectionEnd::Http2Failed(Http2Error::EnhanceYourCalm), "http2_failed"),
        ] {
            assert_eq!(ConnectionEnd::KINDS[end.kind()], name);
        }
        assert_eq!(ConnectionEnd::KINDS.len(), 21);
    }

    #[test]
    fn failure_of_tls_is_told_from_that_of_a_socket() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(
            ConnectionEnd::of_failure(&reset),
            ConnectionEnd::Broken(io::ErrorKind::ConnectionReset)
        );
        let fault = TlsFault::NotDecrypted;
        let failed = io::Error::new(io::ErrorKind::InvalidData, TlsError::from(fault));
        assert_eq!(ConnectionEnd::of_failure(&failed), ConnectionEnd::TlsFailed(fault));
    }

    #[test]
    fn end_after_a_goodbye_is_counted_for_the_cause_of_the_goodbye() {
        use ConnectionEnd::{
            Abandoned, Broken, CloseTimeout, ClosedByPeer, ClosedByServer, Failed, IdleTimeout,
            MemoryShed, PeerVanished, WriteTimeout,
        };
        let broken = Broken(io::ErrorKind::ConnectionReset);
        let failed = Failed(ProtocolError::MaskMissing);
        for (end, begun, said) in [
            (ClosedByServer, IdleTimeout, IdleTimeout),
            (CloseTimeout, IdleTimeout, IdleTimeout),
            (PeerVanished, PeerVanished, IdleTimeout),
            (broken, broken, IdleTimeout),
            (WriteTimeout, WriteTimeout, IdleTimeout),
            (Abandoned, Abandoned, IdleTimeout),
            (ClosedByPeer, ClosedByPeer, ClosedByPeer),
            (failed, failed, failed),
            (MemoryShed, MemoryShed, MemoryShed),
        ] {
            assert_eq!(end.after(Some(Goodbye::Idle), false), begun);
            assert_eq!(end.after(Some(Goodbye::Idle), true), said);
            for unnamed in [None, Some(Goodbye::Stopping)] {
                assert_eq!(end.after(unnamed, true), end, "a stop has kinds of its own");
            }
        }
    }
}
