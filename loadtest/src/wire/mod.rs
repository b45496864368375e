//! How a connection comes to be: from a target and its address through TLS and the opening
//! handshake to an open stream. What is sent on it is not decided here.

pub mod connector;
pub(crate) mod fields;
pub(crate) mod halves;
pub(crate) mod handshake;
pub(crate) mod opening_error;
pub(crate) mod permessage_deflate;
pub(crate) mod refusal;
pub mod request;
pub(crate) mod secrets;
pub mod stream;
pub mod target;
pub mod tls;
