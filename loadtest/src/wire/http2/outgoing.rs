//! The payload of a DATA frame: a buffer that goes back to a pool when HTTP/2 has sent it.

use std::{cell::RefCell, mem, rc::Rc};

use bytes::Buf;

/// Buffers of one transport that are not in use: as many as were being sent at once.
#[derive(Clone, Debug, Default)]
pub(super) struct BufferPool(Rc<RefCell<Vec<Vec<u8>>>>);

impl BufferPool {
    /// An empty buffer, with the memory of one that was sent if there is one.
    pub(super) fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }
}

/// Bytes that are to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    pool: BufferPool,
}

impl Outgoing {
    /// All of `bytes`, whose memory goes to `pool`.
    pub(super) fn new(bytes: Vec<u8>, pool: &BufferPool) -> Self {
        Self { bytes, sent: 0, pool: pool.clone() }
    }

    /// No bytes.
    pub(super) fn nothing() -> Self {
        Self { bytes: Vec::new(), sent: 0, pool: BufferPool::default() }
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn advance(&mut self, len: usize) {
        assert!(len <= self.remaining(), "{len} bytes of {}", self.remaining());
        self.sent += len;
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if self.bytes.capacity() > 0 {
            let mut bytes = mem::take(&mut self.bytes);
            bytes.clear();
            self.pool.0.borrow_mut().push(bytes);
        }
    }
}
