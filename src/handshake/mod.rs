//! The opening handshake (RFC 6455 §4.2): a request in, an agreement or a refusal out. Pure.
//!
//! [`negotiation`] judges what is the same over any HTTP: version, origin, subprotocol, extensions.
//! [`http1`] judges the rest of a request of HTTP/1.1, and writes the 101 of what was agreed on. A
//! request of another HTTP (RFC 8441) takes a file like it, and the same negotiation.

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
