//! The reasons of all refusals, as they are counted.

use strum::{EnumCount, VariantNames};

/// Why a connection was refused. Each room that refuses says which of its reasons is which of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumCount, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum RefusalReason {
    /// As many connections are open as may be.
    ConnectionsMax,
    /// As many connections of its address are open as may be.
    ConnectionsPerIpMax,
    /// As many opening handshakes are in progress as may be.
    HandshakesMax,
    /// Its address opens connections faster than it may.
    ConnectRatePerIp,
    /// The engine has no room for one more connection.
    EngineFull,
    /// Something else came where a PROXY header is required.
    ProxyHeaderMissing,
    /// The PROXY header is malformed.
    ProxyHeaderMalformed,
    /// The PROXY header is too long.
    ProxyHeaderTooLong,
    /// The checksum of the PROXY header is wrong.
    ProxyHeaderChecksumWrong,
    /// The PROXY header did not arrive in time.
    ProxyHeaderTimedOut,
    /// The PROXY header, or a connection that needs one, came from an address that is not trusted.
    ProxyHeaderUntrusted,
    /// The request head is too long.
    HeadTooLong,
    /// The request line is too long.
    TargetTooLong,
    /// The request head has too many header fields.
    HeaderFieldsTooMany,
    /// The request is not HTTP/1.
    RequestMalformed,
    /// The peer speaks another protocol.
    ForeignProtocol,
    /// Empty lines came instead of a request line.
    LinesEmpty,
    /// A line of the head ends with CR or LF alone.
    LineEndBare,
    /// The request head did not arrive in time.
    HeadTimedOut,
    /// The version of HTTP is neither 1.1 nor 1.0.
    HttpVersionUnsupported,
    /// `Host` is missing, repeated or invalid.
    HostInvalid,
    /// Nothing is at the path.
    PathUnknown,
    /// The path does not upgrade.
    NoEcho,
    /// The method is not possible at the path.
    MethodNotAllowed,
    /// The method is not known.
    MethodUnknown,
    /// `Expect` is something else than 100-continue.
    ExpectationUnknown,
    /// It is not certain where the request ends.
    LengthUnclear,
    /// Nothing tells the length of the body.
    LengthMissing,
    /// The body has another transfer coding than chunked.
    TransferCodingUnknown,
    /// The chunks of the body are malformed.
    BodyMalformed,
    /// The body is too long.
    BodyTooLong,
    /// The body did not arrive in time.
    BodyTimedOut,
    /// The server is stopping.
    Stopping,
    /// The request does not ask for an upgrade.
    NotAnUpgrade,
    /// The upgrade was asked for over HTTP/1.0.
    HttpVersionTooLow,
    /// The handshake announces a body.
    BodyAnnounced,
    /// `Sec-WebSocket-Version` is not 13.
    WebsocketVersionUnsupported,
    /// `Sec-WebSocket-Key` is invalid.
    KeyInvalid,
    /// `Sec-WebSocket-Protocol` is malformed.
    SubprotocolsMalformed,
    /// `Sec-WebSocket-Extensions` is malformed.
    ExtensionsMalformed,
    /// The origin is not allowed.
    OriginForbidden,
    /// A plain request came where TLS is spoken.
    PlainHttpOnTls,
    /// The TLS handshake did not end in time.
    TlsTimedOut,
    /// What the peer sent in its TLS handshake is not TLS, or breaks its rules.
    TlsMalformed,
    /// The peer's TLS handshake is too long.
    TlsHandshakeTooLong,
    /// No version of TLS, cipher suite or application protocol is common to both.
    TlsIncompatible,
    /// The client has no certificate, and needs one.
    TlsCertificateMissing,
    /// The client's certificate is not accepted.
    TlsCertificateRefused,
    /// The client refused the server, as for a certificate that it does not trust.
    TlsRefusedByClient,
    /// TLS failed without the client's fault.
    TlsFailed,
    /// An extended CONNECT of HTTP/2 asks for another protocol.
    ProtocolUnknown,
}

impl RefusalReason {
    /// The names under which refusals are counted, by [`index`](Self::index).
    pub const NAMES: [&'static str; Self::COUNT] = *Self::VARIANTS.first_chunk().unwrap();

    /// The index into [`NAMES`](Self::NAMES).
    pub fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_under_the_names_of_their_variants() {
        for (reason, name) in [
            (RefusalReason::ConnectionsMax, "connections_max"),
            (RefusalReason::ConnectRatePerIp, "connect_rate_per_ip"),
            (RefusalReason::WebsocketVersionUnsupported, "websocket_version_unsupported"),
            (RefusalReason::OriginForbidden, "origin_forbidden"),
        ] {
            assert_eq!(RefusalReason::NAMES[reason.index()], name);
        }
        assert_eq!(RefusalReason::NAMES.len(), 51);
    }
}
