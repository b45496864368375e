//! A WebSocket echo server for Linux.
pub mod protocol;
