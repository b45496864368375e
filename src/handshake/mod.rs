//! The opening handshake (RFC 6455 §4.2): turns a request into an agreement or a refusal. Pure.
//!
//! [`negotiation`] judges what is the same over any HTTP: version, origin, subprotocol, extensions.
//! [`http1`] judges the rest of an HTTP/1.1 request, and writes the 101 that accepts it. Another
//! HTTP (RFC 8441) would be a file like it beside the same negotiation.

pub mod http1;
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
