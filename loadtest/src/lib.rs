//! A load generator for WebSocket echo servers, closed-loop and open-loop, that verifies every byte
//! of every echo.
//!
//! The command line ([`cli`]) becomes a [`plan::Plan`]; [`run::run`] carries it out, one thread per
//! core, and returns a [`report::Report`], as text and as JSON. The rest is private:
//!
//! ```text
//! run -> worker (one thread) -> client (one connection) -> {handshake, sender, verifier} -> payload
//! ```

pub mod cli;
mod client;
mod fine_timer;
mod handshake;
pub mod latency;
mod pacer;
mod passed_over;
pub mod payload;
pub mod plan;
mod process_usage;
pub mod progress;
pub mod rate;
pub mod report;
pub mod run;
mod sender;
pub mod tally;
pub mod target;
mod verifier;
mod worker;
