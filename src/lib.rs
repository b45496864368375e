//! A WebSocket echo server for Linux: `io_uring`, one runtime per core, frames echoed in place.
//!
//! The program is a thin shell around [`server::Server`]; the library is there for tests,
//! benchmarks, and programs that want an echo server inside.

pub mod balance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection;
pub mod cpu_list;
pub mod descriptors;
pub mod echo_paths;
pub mod engine;
pub mod extensions;
pub mod handshake;
pub mod http;
pub mod intake;
pub mod listener;
pub mod log;
pub mod metrics;
pub mod origin;
pub mod page;
pub mod permessage_deflate;
pub mod protocol;
pub mod server;
pub mod signals;
pub mod trial;
pub mod worker;
