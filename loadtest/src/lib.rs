//! A load generator for WebSocket echo servers, closed-loop and open-loop, that verifies every byte
//! of every echo.
//!
//! The command line ([`cli`]) becomes a [`plan::Plan`]; [`modes::run::run`] carries it out, one thread per
//! core, and returns a [`result::report::Report`], as text and as JSON; [`modes::search`] and [`modes::compare`] carry out
//! many, [`modes::merge`] adds up those of several machines, and [`modes::idle`] holds connections without a load.
//! Behind a run:
//!
//! ```text
//! run -> worker (one thread) -> connector (opens a connection) -> {stream -> tls, handshake}
//!                            -> client (drives it) -> {sender, verifier} -> payload
//!     -> {timeline (what was counted), window_usage (what was used)} -> report -> export
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
