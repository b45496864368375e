//! What the engine asks of the kernel, and what comes back. [`super::ring`] does it with a ring;
//! the tests do it with a kernel that completes in any order.

use std::{io, ops::Range, os::fd::BorrowedFd};

use super::table::Key;

/// A part of a shared buffer that was received into, and is its holder's until the turn is over.
#[derive(Debug)]
pub struct Chunk {
    pub(super) buffer: u16,
    pub(super) at: u32,
    pub(super) len: u32,
    /// The turn that it belongs to.
    pub(super) turn: u32,
}

/// A piece of a reply.
#[derive(Debug)]
pub enum Part {
    /// A range within a chunk.
    Chunk(Chunk, Range<usize>),
    /// Bytes of their own.
    Owned(Vec<u8>),
}

/// What the kernel has done in a turn.
#[derive(Debug, Default)]
pub struct Completions {
    /// Sends of the turn before that did not go out whole. They are to be looked at first, since
    /// what has been received meanwhile is answered behind them.
    pub(super) unsent: Vec<(Key, Unsent)>,
    /// Everything else, in order.
    pub(super) others: Vec<(Key, Completion)>,
}

/// Why a reply did not go out whole.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The socket takes no more for now; this much is left.
    Rest(Vec<u8>),
    /// The connection broke.
    Broken(io::ErrorKind),
}

/// Something that happened on a connection.
#[derive(Debug)]
pub(super) enum Completion {
    /// Bytes arrived. Unless the receive goes on, it has to be armed again.
    Received { chunk: Chunk, goes_on: bool },
    /// The peer has ended its side, and the receive is over.
    PeerEnded,
    /// The receive ended without bytes.
    ReceiveEnded(ReceiveEnd),
    /// All of a patient send is sent.
    Unblocked,
    /// A patient send failed.
    SendBroken(io::ErrorKind),
}

/// Why a multishot receive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReceiveEnd {
    /// No shared buffer was free.
    BuffersExhausted,
    /// It was cancelled.
    Cancelled,
    /// The connection broke.
    Broken(io::ErrorKind),
}

/// The kernel, as the engine sees it. Nothing happens before [`turn`](Self::turn).
pub trait Kernel {
    /// Makes a connection known under its key's slot.
    fn adopt(&mut self, key: Key, descriptor: BorrowedFd<'_>) -> io::Result<()>;

    /// Forgets a connection. Nothing may be under way on it.
    fn release(&mut self, key: Key) -> io::Result<()>;

    /// Receives into shared buffers until the receive ends.
    fn receive(&mut self, key: Key);

    /// Ends the receive; its end is completed all the same.
    fn cancel_receive(&mut self, key: Key);

    /// The bytes of a chunk of this turn.
    fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8];

    /// Sends a reply as far as the socket takes it at once. Completes only if that is not all.
    fn send(&mut self, key: Key, parts: impl Iterator<Item = Part>);

    /// Sends bytes as the peer takes them. Completes in any case.
    fn send_patiently(&mut self, key: Key, bytes: Vec<u8>);

    /// Has everything done that was asked for, and collects what has completed. Chunks of the
    /// turns before are void from here on.
    fn turn(&mut self, completions: &mut Completions) -> io::Result<()>;
}
