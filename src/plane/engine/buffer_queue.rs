//! Who waits for a shared receive buffer.
//!
//! Receives are armed for as many connections as there are free buffers, since the others would
//! find none. Who waited longest comes first, and who was armed but found no buffer, because others
//! took more than one, goes back to the front.

use std::collections::VecDeque;

use super::key::Key;

#[derive(Default)]
pub(super) struct BufferQueue {
    waiting: VecDeque<Key>,
    /// Connections that were armed this turn and found no buffer again, in that order.
    passed_over: Vec<Key>,
}

impl BufferQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.passed_over.is_empty()
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.waiting.contains(&key)
    }

    /// Puts a connection behind all that wait or, if it was armed and found no buffer, before them
    /// from the next turn on.
    pub(super) fn push(&mut self, key: Key, was_passed_over: bool) {
        if was_passed_over {
            self.passed_over.push(key);
        } else {
            self.waiting.push_back(key);
        }
    }

    /// Puts those in front that were passed over, when a turn's events have been handled.
    pub(super) fn begin_feeding(&mut self) {
        for key in self.passed_over.drain(..).rev() {
            self.waiting.push_front(key);
        }
    }

    /// The connection whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Key> {
        self.waiting.pop_front()
    }
}
