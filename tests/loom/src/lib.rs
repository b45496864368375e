//! What threads of the server share, compiled by itself and with loom's atomics and locks, so that its
//! models run without what else the server is made of. Empty without `--cfg loom`.
#![cfg(loom)]

#[path = "../../../src/entry/balance/mod.rs"]
pub mod balance;

#[path = "../../../src/entry/admission/pauses.rs"]
pub mod pauses;
