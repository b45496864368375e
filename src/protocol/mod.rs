//! RFC 6455 without I/O, a clock or a socket: bytes in, bytes and verdicts out.
//!
//! [`echo`] is the heart; the other modules are what it is made of. Everything here is driven by
//! slices, so tests, fuzzers and benchmarks run it as the server does.

pub mod close_code;
pub mod echo;
pub mod error;
pub mod frame_header;
pub mod masking;
pub mod utf8;

pub use error::ProtocolError;
pub use fastwebsockets::OpCode;
