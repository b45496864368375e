//! Protocols other than HTTP, recognised by their first bytes, so that a refusal can say what to
//! change.

use thiserror::Error;

/// What a peer speaks instead of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ForeignProtocol {
    /// A TLS handshake (RFC 8446 §5.1).
    #[error(
        "this port speaks plain HTTP, and a TLS handshake came: use ws:// or http://, or put a TLS \
         proxy before it"
    )]
    Tls,
    /// A PROXY protocol header, which a proxy in front was told to send.
    #[error(
        "an HTTP request is expected here, and a PROXY protocol header came: have the proxy before this \
         port send none, or have the server read one, with --proxy-protocol and --proxy-from"
    )]
    ProxyHeader,
    /// SSH (RFC 4253 §4.2).
    #[error("this port speaks HTTP, and an SSH banner came")]
    Ssh,
    /// SOCKS 4 or 5.
    #[error("this port speaks HTTP, and a SOCKS request came: this is no proxy")]
    Socks,
    /// A WebSocket frame of a client that left the opening handshake out.
    #[error("a WebSocket frame came before the opening handshake: an HTTP request comes first")]
    WebSocketFrame,
}

impl ForeignProtocol {
    /// The protocol that begins with these bytes, as soon as they show it. No request line begins
    /// like one.
    pub fn recognize(beginning: &[u8]) -> Option<Self> {
        match beginning {
            [0x16, ..] => Some(Self::Tls),
            [0x04 | 0x05, ..] => Some(Self::Socks),
            // The first byte of a frame with an opcode of RFC 6455 (§5.2), with FIN or as a first
            // fragment.
            [0x01 | 0x02 | 0x80..=0x82 | 0x88..=0x8a, ..] => Some(Self::WebSocketFrame),
            [b'S', b'S', b'H', b'-', ..] => Some(Self::Ssh),
            // The two versions of its header. Of the signature of version 2, this much is enough.
            [b'P', b'R', b'O', b'X', b'Y', b' ', ..] | [b'\r', b'\n', b'\r', b'\n', 0, ..] => {
                Some(Self::ProxyHeader)
            }
            _ => None,
        }
    }
}
