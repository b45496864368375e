//! A load generator for WebSocket echo servers, closed-loop and open-loop, that verifies every byte
//! of every echo.
//!
//! The command line ([`cli`]) becomes a [`plan::Plan`]; [`run::run`] carries it out, one thread per
//! core, and returns a [`report::Report`], as text and as JSON; [`search`] and [`compare`] carry out
//! many, [`merge`] adds up those of several machines, and [`idle`] holds connections without a load.
//! Behind a run:
//!
//! ```text
//! run -> worker (one thread) -> connector (opens a connection) -> {stream -> tls, handshake}
//!                            -> client (drives it) -> {sender, verifier} -> payload
//!     -> {timeline (what was counted), window_usage (what was used)} -> report -> export
//! ```

pub mod baseline;
mod busy_poll;
pub mod cli;
mod client;
pub mod compare;
pub mod condition;
pub mod connector;
mod deflate;
mod encoding;
pub mod export;
mod fine_timer;
mod handshake;
pub mod host;
pub mod idle;
pub mod latency;
pub mod merge;
pub mod numbers;
mod pacer;
pub mod payload;
pub mod plan;
mod process_usage;
pub mod progress;
pub mod rate;
mod refusal;
pub mod report;
pub mod request;
mod reserve;
pub mod run;
mod runtime;
mod screen;
pub mod search;
mod secrets;
mod sender;
pub mod shortfall;
pub mod stream;
pub mod tally;
pub mod target;
mod thread_usage;
pub mod threads;
pub mod timeline;
pub mod tls;
mod verifier;
pub mod warning;
mod window_usage;
mod worker;
