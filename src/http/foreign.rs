//! Protocols other than HTTP, told by their first bytes, so that whoever speaks one to this port
//! is told what to change.

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
    /// The header of a proxy that was told to send one.
    #[error(
        "this port speaks HTTP, and a PROXY protocol header came: have the proxy before it send none"
    )]
    ProxyHeader,
    /// SSH (RFC 4253 §4.2).
    #[error("this port speaks HTTP, and an SSH banner came")]
    Ssh,
    /// SOCKS 4 or 5.
    #[error("this port speaks HTTP, and a SOCKS request came: this is no proxy")]
    Socks,
    /// A frame of a client that has left the opening handshake out.
    #[error("a WebSocket frame came before the opening handshake: an HTTP request comes first")]
    WebSocketFrame,
}

impl ForeignProtocol {
    /// The protocol that begins so, as soon as that is clear. No request line begins so.
    pub fn recognize(beginning: &[u8]) -> Option<Self> {
        match beginning {
            [0x16, ..] => Some(Self::Tls),
            [0x04 | 0x05, ..] => Some(Self::Socks),
            // A frame of the opcodes that RFC 6455 has (§5.2), alone or as the first fragment.
            [0x01 | 0x02 | 0x80..=0x82 | 0x88..=0x8a, ..] => Some(Self::WebSocketFrame),
            [b'S', b'S', b'H', b'-', ..] => Some(Self::Ssh),
            [b'P', b'R', b'O', b'X', b'Y', b' ', ..] => Some(Self::ProxyHeader),
            _ => None,
        }
    }
}
