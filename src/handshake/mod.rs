//! The opening handshake (RFC 6455 §4.2): turns a request into an agreement or a refusal. Pure.
//!
//! [`negotiation`] judges what is the same over any HTTP: version, origin, subprotocol, extensions.
//! [`http1`] judges the rest of an HTTP/1.1 request, and writes the 101 that accepts it; [`http2`]
//! the rest of an extended CONNECT (RFC 8441), and makes the 200.

pub mod http1;
pub mod http2;
pub mod negotiation;
pub mod origin;
pub mod permessage_deflate;
mod refusal;
#[cfg(test)]
mod tests;

pub use self::{
    negotiation::{Negotiated, Policy},
    refusal::HandshakeRefusal,
};
