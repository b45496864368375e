//! A WebSocket echo server for Linux: `io_uring`, one runtime per core, frames echoed in place.
//!
//! The program is a thin shell around [`server::Server`]; the library is there for tests,
//! benchmarks, and programs that want an echo server inside.

pub mod config;
pub mod connection;
pub mod entry;
pub mod handshake;
pub mod host;
pub mod http;
pub mod log;
pub mod metrics;
pub mod plane;
pub mod protocol;
pub mod server;
pub mod worker;
