//! Memory that a thread's streams share while they work, so that none keeps a buffer of its own.

use std::cell::{Cell, RefCell};

use super::session::{RECORD_LEN_MAX, RECORD_PAYLOAD_MAX};

/// Bytes of plaintext that are encrypted for one write, at most.
pub(super) const WRITE_LEN_MAX: usize = 4 * RECORD_PAYLOAD_MAX;

/// Bytes of a buffer that is written from: it has room for the records of one write.
const RECORDS_LEN: usize = 4 * RECORD_LEN_MAX;

/// Buffers that a thread keeps for later writes, at most. On `io_uring` several writes are under way.
const KEPT_MAX: usize = 4;

/// Bytes of plaintext memory that a thread keeps, at most.
const PLAINTEXT_KEPT_MAX: usize = 512 << 10;

thread_local! {
    static RECORDS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static PLAINTEXT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer for the records of one write; its bytes are whatever was there before.
pub(super) fn take_records() -> Vec<u8> {
    RECORDS.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; RECORDS_LEN])
}

/// Gives a buffer back that [`take_records`] gave.
pub(super) fn give_back_records(buffer: Vec<u8>) {
    RECORDS.with_borrow_mut(|kept| {
        if kept.len() < KEPT_MAX && buffer.len() == RECORDS_LEN {
            kept.push(buffer);
        }
    });
}

/// Calls `work` with a buffer to receive into; its bytes are whatever was there before.
pub(super) fn with_ciphertext<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut ciphertext = take_records();
    let result = work(&mut ciphertext);
    give_back_records(ciphertext);
    result
}

/// Calls `work` with an empty buffer for plaintext.
pub(super) fn with_plaintext<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut plaintext = PLAINTEXT.take();
    let result = work(&mut plaintext);
    plaintext.clear();
    if plaintext.capacity() <= PLAINTEXT_KEPT_MAX {
        PLAINTEXT.set(plaintext);
    }
    result
}
