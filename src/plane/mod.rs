//! Who moves the bytes of upgraded connections.

pub mod engine;
