//! Turns: how much one connection may do before the others of its worker have theirs.

use std::{
    future::{Future, poll_fn},
    pin::pin,
};

use crate::config::RECEIVE_BUFFER_START;

/// How much a connection receives without waiting before others have their turn, in bytes.
///
/// On epoll what is at hand is read and written at once, so a peer that streams would never let
/// the others go on.
pub const RECEIVE_QUOTA: usize = 256 << 10;

/// What of that a connection has left.
pub(crate) struct Quota(usize);

impl Default for Quota {
    fn default() -> Self {
        Self(RECEIVE_QUOTA)
    }
}

impl Quota {
    /// Counts what was received, and lets others go on when that is all. Who has waited for it has
    /// done so already.
    pub(crate) async fn spend(&mut self, len: usize, has_waited: bool) {
        if has_waited {
            *self = Self::default();
            return;
        }
        // Even the smallest piece has cost the others the time of a page.
        self.0 = self.0.saturating_sub(len.max(RECEIVE_BUFFER_START.in_memory()));
        if self.0 == 0 {
            *self = Self::default();
            let_others_go_on().await;
        }
    }
}

/// What a future comes to, and whether others had their turn meanwhile.
pub(crate) async fn noting_waits<T>(future: impl Future<Output = T>) -> (T, bool) {
    let mut future = pin!(future);
    let mut has_waited = false;
    let output = poll_fn(|context| {
        let poll = future.as_mut().poll(context);
        has_waited |= poll.is_pending();
        poll
    });
    (output.await, has_waited)
}

/// Lets every other task have its turn first.
///
/// monoio runs a task that wakes itself before all others; one that waits for a new task to end
/// comes behind them.
pub(crate) async fn let_others_go_on() {
    monoio::spawn(async {}).await;
}
