//! A load generator for WebSocket echo servers, closed-loop and open-loop, that verifies every byte
//! of every echo.
//!
//! The command line ([`cli`]) becomes a [`plan::Plan`]; [`modes::run::run`] carries it out, one
//! thread per core, and returns a [`result::report::Report`], as text and as JSON. The other modes
//! open and close connections over and over ([`modes::churn`]), carry out many runs or churns
//! ([`modes::search`], [`modes::compare`]), hold connections without a load ([`modes::idle`]) or add
//! up the results of several machines ([`modes::merge`]).
//!
//! Each room knows the rooms below it and no others:
//!
//! ```text
//! cli      flags and their values
//! modes    what each command does
//! result   reports, baselines, exports, progress
//! drive    threads, runtimes, clients: who sends, and when
//! count    tallies, latencies, seconds, the use of CPUs and memory
//! plan     what is sent, at which rate, for how long; conditions on results
//! wire     from an address through TLS and the opening handshake to a stream
//! verify   what a server sends, held against what was sent to it
//! payload  the bytes of messages
//! text     how numbers, warnings and what a server says are written
//! ```

pub mod cli;
pub mod count;
pub mod drive;
pub mod modes;
pub mod payload;
pub mod plan;
pub mod result;
pub mod text;
mod verify;
pub mod wire;
