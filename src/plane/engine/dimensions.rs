//! How large an engine is, and how long it polls.

use std::time::Duration;

use crate::config::HugePages;

/// The memory that an engine works with, the connections that it has room for, and the time that it
/// spends on polling.
#[derive(Clone, Copy, Debug)]
pub struct Dimensions {
    /// Shared receive buffers, a power of two.
    pub receive_buffers: u16,
    /// Bytes of each of them.
    pub receive_buffer_len: u32,
    /// What pages the receive buffers are in.
    pub huge_pages: HugePages,
    /// Bytes that a connection receives before others have their turn; 0 for no limit.
    pub receive_quota: u32,
    /// Bytes that may wait for a peer that does not read; then nothing more is received from it.
    pub unsent_max: usize,
    /// Connections at a time.
    pub connections_max: u32,
    /// How long it polls for events before it sleeps; zero for not at all.
    pub spin: Duration,
}
