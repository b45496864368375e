//! How a connection comes to be: from a target and the route to it through TLS and the opening
//! handshake to an open stream. What is sent on it is not decided here.

pub mod connector;
pub(crate) mod fields;
pub(crate) mod halves;
pub(crate) mod handshake;
pub(crate) mod http2;
pub mod in_turn;
pub(crate) mod opening_error;
pub(crate) mod openings;
pub(crate) mod permessage_deflate;
pub mod proxy;
pub mod proxy_header;
pub mod redirect;
pub(crate) mod refusal;
pub mod request;
pub mod resolution;
pub mod route;
pub(crate) mod secrets;
pub mod stream;
pub mod target;
pub(crate) mod thread_connector;
mod tickets;
pub mod tls;
