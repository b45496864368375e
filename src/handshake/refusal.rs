//! Why handshakes are refused, and the response over HTTP for each reason.

use http::StatusCode;
use thiserror::Error;

use crate::{http::Refusal, metrics::RefusalReason};

/// Why a request to the echo path is not upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeRefusal {
    /// The request does not ask for an upgrade to the WebSocket protocol.
    #[error(
        "this path is for WebSocket clients: send Upgrade: websocket and Connection: Upgrade with \
         a GET; a proxy in between has to pass both on, over HTTP/1.1"
    )]
    NotAnUpgrade,
    /// The request's version is HTTP/1.0, which has no upgrades.
    #[error(
        "a WebSocket handshake needs HTTP/1.1, and this is HTTP/1.0; a proxy in between has to \
         speak HTTP/1.1 to this server"
    )]
    HttpVersionTooLow,
    /// The request announces a body, which would be taken for frames.
    #[error("a WebSocket handshake has no body")]
    BodyAnnounced,
    /// `Sec-WebSocket-Version` is missing or not 13.
    #[error("Sec-WebSocket-Version must be 13")]
    VersionUnsupported,
    /// `Sec-WebSocket-Key` is missing, repeated, or not 16 bytes of base64.
    #[error("Sec-WebSocket-Key must be there once, with 16 bytes in base64")]
    KeyInvalid,
    /// `Sec-WebSocket-Protocol` does not have the form of a list of subprotocols.
    #[error("Sec-WebSocket-Protocol is not a list of subprotocols")]
    SubprotocolsMalformed,
    /// `Sec-WebSocket-Extensions` does not have the form of a list of extensions.
    #[error("Sec-WebSocket-Extensions is not a list of extensions")]
    ExtensionsMalformed,
    /// The `:protocol` of an extended CONNECT is not websocket, or there is none.
    #[error("over HTTP/2, this path is for extended CONNECT requests with :protocol websocket")]
    ProtocolUnknown,
    /// The origin is not among the allowed ones.
    #[error("this origin is not allowed")]
    OriginForbidden,
}

impl From<HandshakeRefusal> for Refusal {
    fn from(reason: HandshakeRefusal) -> Self {
        use HandshakeRefusal::{
            BodyAnnounced, ExtensionsMalformed, HttpVersionTooLow, KeyInvalid, NotAnUpgrade,
            OriginForbidden, ProtocolUnknown, SubprotocolsMalformed, VersionUnsupported,
        };
        let (status, headers): (_, &[_]) = match reason {
            NotAnUpgrade
            | HttpVersionTooLow
            | BodyAnnounced
            | KeyInvalid
            | SubprotocolsMalformed
            | ExtensionsMalformed => (StatusCode::BAD_REQUEST, &[]),
            //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
            //# If this version does not match a version understood by the server, the server MUST
            //# abort the WebSocket handshake described in this section and instead send an
            //# appropriate HTTP error code (such as 426 Upgrade Required) and a
            //# |Sec-WebSocket-Version| header field indicating the version(s) the server is capable
            //# of understanding.
            VersionUnsupported => (
                StatusCode::UPGRADE_REQUIRED,
                &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
            ),
            //= https://www.rfc-editor.org/rfc/rfc9220#section-3
            //# If a server receives Extended CONNECT with a ":protocol" value that is unknown or is
            //# not supported, the server SHOULD respond to the request with a 501 (Not Implemented)
            //# status code
            ProtocolUnknown => (StatusCode::NOT_IMPLEMENTED, &[]),
            OriginForbidden => (StatusCode::FORBIDDEN, &[]),
        };
        Self { status, headers, text: reason.to_string() }
    }
}

impl From<&HandshakeRefusal> for RefusalReason {
    fn from(reason: &HandshakeRefusal) -> Self {
        match reason {
            HandshakeRefusal::NotAnUpgrade => Self::NotAnUpgrade,
            HandshakeRefusal::HttpVersionTooLow => Self::HttpVersionTooLow,
            HandshakeRefusal::BodyAnnounced => Self::BodyAnnounced,
            HandshakeRefusal::VersionUnsupported => Self::WebsocketVersionUnsupported,
            HandshakeRefusal::KeyInvalid => Self::KeyInvalid,
            HandshakeRefusal::SubprotocolsMalformed => Self::SubprotocolsMalformed,
            HandshakeRefusal::ExtensionsMalformed => Self::ExtensionsMalformed,
            HandshakeRefusal::ProtocolUnknown => Self::ProtocolUnknown,
            HandshakeRefusal::OriginForbidden => Self::OriginForbidden,
        }
    }
}
