//! A load generator for WebSocket echo servers, closed-loop and open-loop, that verifies every byte
//! of every echo.
//!
//! The command line ([`cli`]) becomes a [`plan::Plan`]; [`run::run`] carries it out, one thread per
//! core, and returns a [`report::Report`], as text and as JSON. The rest is private:
//!
//! ```text
//! run -> worker (one thread) -> connector (opens a connection) -> {stream -> tls, handshake}
//!                            -> client (drives it) -> {sender, verifier} -> payload
//! ```

pub mod cli;
mod client;
pub mod connector;
mod fine_timer;
mod handshake;
pub mod idle;
pub mod latency;
mod pacer;
mod passed_over;
pub mod payload;
pub mod payload_files;
pub mod plan;
mod process_usage;
pub mod progress;
pub mod rate;
pub mod report;
pub mod request;
pub mod run;
mod sender;
pub mod stream;
pub mod tally;
pub mod target;
pub mod tls;
mod verifier;
mod worker;
