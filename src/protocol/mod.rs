//! RFC 6455 without I/O, a clock or a socket: bytes in, bytes and verdicts out.
//!
//! [`session`] is a connection between its two handshakes, and [`echo`] the transformer in it.
//! [`extensions`] and [`token`] read header fields of both endpoints' opening handshakes. The other
//! modules are parts of these. Everything works on slices, so tests, fuzzers, benchmarks and the
//! load generator run it as the server does.

pub mod close_code;
pub mod echo;
pub mod error;
pub mod extensions;
pub mod frame_header;
pub mod masking;
pub mod reply;
pub mod session;
pub mod token;
pub mod utf8;

pub use self::{error::ProtocolError, frame_header::OpCode};
