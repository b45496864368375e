//! The opening handshake (RFC 6455 §4.2): turns a request into an agreement or a refusal. Pure.
//!
//! [`negotiation`] judges what is the same over any HTTP: version, origin, subprotocol, extensions.
//! [`http1`] judges the rest of an HTTP/1.1 request, and writes the 101 that accepts it. A file for
//! HTTP/2 (RFC 8441) would stand beside it and use the same negotiation; frames and streams of
//! HTTP/2 would not be in this module.

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
