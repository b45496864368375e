//! How much one connection may receive before the other tasks of its worker have their turn.

use std::{
    future::{Future, poll_fn},
    pin::pin,
};

use crate::config::RECEIVE_BUFFER_START;

/// Bytes that a connection may receive before others have their turn, on every data plane.
///
/// The engine limits each of its receives by it, if the kernel can. A task on epoll reads and writes
/// without ever waiting while its peer streams, so it has to count by itself.
pub const RECEIVE_QUOTA: usize = 256 << 10;

/// What a connection has left of [`RECEIVE_QUOTA`].
pub(crate) struct Quota(usize);

impl Default for Quota {
    fn default() -> Self {
        Self(RECEIVE_QUOTA)
    }
}

impl Quota {
    /// Counts received bytes, and lets others go on when the quota is used up. A task that has waited
    /// for the bytes has let them go on already.
    pub(crate) async fn spend(&mut self, len: usize, has_waited: bool) {
        if has_waited {
            *self = Self::default();
            return;
        }
        // A small piece costs nearly the time of a page.
        self.0 = self.0.saturating_sub(len.max(RECEIVE_BUFFER_START.in_memory()));
        if self.0 == 0 {
            *self = Self::default();
            let_others_go_on().await;
        }
    }
}

/// The output of a future, and whether it had to wait.
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
/// monoio runs a task that wakes itself before all others. A task that waits for a new task runs
/// behind them.
pub(crate) async fn let_others_go_on() {
    monoio::spawn(async {}).await;
}
