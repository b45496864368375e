//! The program as its users see it: flags in; text, JSON and an exit code out. It is run against
//! servers of a stock WebSocket library, honest and lying ones, and against ringecho.
//!
//! No test measures time. Runs are as short as they can be for a message to be echoed in them on a
//! busy machine; the faults of lying servers happen at the first messages.

mod churn;
mod comparing;
mod compression;
mod ending;
mod exports;
#[path = "../../../tests/seccomp/mod.rs"]
mod filter;
mod flags;
mod floor;
mod honest;
mod http2;
mod http2_server;
mod idle;
mod invocation;
mod lying;
mod merging;
mod open_loop;
mod proxies;
mod reach;
mod refused;
mod ringecho;
mod screen;
mod search;
mod servers;
mod tls;
mod ways_in;
