//! How the layers below a WebSocket came about, for whoever counts it: TLS, HTTP/2, and what they took.

use std::time::Duration;

/// What both sides of a TLS session agreed on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TlsAgreement {
    /// `1.2` or `1.3`.
    pub(crate) version: &'static str,
    /// By its name in IANA's registry.
    pub(crate) cipher_suite: String,
    /// The application protocol; `None` if the server chose none.
    pub(crate) alpn: Option<String>,
}

/// A TLS handshake that is done.
#[derive(Clone, Debug)]
pub(crate) struct TlsOpening {
    pub(crate) agreed: TlsAgreement,
    /// Whether it went by the ticket of an earlier session.
    pub(crate) is_resumed: bool,
    /// From the connected socket to the end of the handshake.
    pub(crate) took: Duration,
}

impl TlsOpening {
    /// Whether the server chose HTTP/2, which is "h2" in ALPN (RFC 9113 §3.2).
    pub(crate) fn chose_http2(&self) -> bool {
        self.agreed.alpn.as_deref() == Some("h2")
    }
}

/// The layers of one WebSocket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Openings {
    /// TLS of its own; that of a stream is its transport's.
    pub(crate) tls: Option<TlsOpening>,
    /// From the request of a stream to its response; `None` but over HTTP/2.
    pub(crate) stream: Option<Duration>,
}

/// A connection of HTTP/2 that is ready for streams.
#[derive(Clone, Debug)]
pub(crate) struct TransportOpening {
    pub(crate) tls: Option<TlsOpening>,
    /// From the connected socket, or the end of its TLS handshake, to the server's SETTINGS.
    pub(crate) settings: Duration,
    /// How many streams the server allows at once; `None` without a limit.
    pub(crate) streams_max: Option<usize>,
}
