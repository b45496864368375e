//! Ending a connection with a reset: for a peer that takes nothing, whom no Close frame can reach.

use std::{os::fd::AsFd, time::Duration};

use socket2::SockRef;

/// Has a connection reset when it is closed. What the kernel holds for its peer is then given up at
/// once, instead of being offered to the peer for minutes.
pub fn reset_when_closed(connection: &impl AsFd) {
    // A connection that is broken already holds nothing.
    let _ = SockRef::from(connection).set_linger(Some(Duration::ZERO));
}
