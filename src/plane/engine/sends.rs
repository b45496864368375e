//! The sends of one turn: what they send from, and where that lies for the kernel.
//!
//! A send owns its parts from when it is pushed until the turn is over, so that the memory that the
//! kernel is given stays where it is.

use std::ptr;

use super::{
    buffers::{Buffers, Chunk},
    kernel::SendFrom,
    key::Key,
};

/// A piece of a reply.
#[derive(Debug)]
pub(super) enum Part {
    /// Received bytes, answered in place.
    Chunk(Chunk),
    /// Bytes of their own.
    Owned(Vec<u8>),
}

/// The sends of this turn, by their number in it.
#[derive(Default)]
pub(super) struct Sends {
    records: Vec<Record>,
    /// Sends from several parts. Those behind `gathered_used` are memory for later turns.
    #[expect(clippy::vec_box, reason = "the kernel is given their addresses")]
    gathered: Vec<Box<GatheredSend>>,
    gathered_used: usize,
}

struct Record {
    key: Key,
    from: Parts,
}

enum Parts {
    One(Part),
    /// An index into [`Sends::gathered`].
    Gathered(usize),
}

/// A send from several parts, as `sendmsg` takes it.
struct GatheredSend {
    /// Points to `pieces`.
    header: libc::msghdr,
    /// Where the parts lie.
    pieces: Vec<libc::iovec>,
    parts: Vec<Part>,
}

/// The most pieces that one send may have (`UIO_MAXIOV`).
const PIECES_MAX: usize = 1024;

const EMPTY_HEADER: libc::msghdr = libc::msghdr {
    msg_name: ptr::null_mut(),
    msg_namelen: 0,
    msg_iov: ptr::null_mut(),
    msg_iovlen: 0,
    msg_control: ptr::null_mut(),
    msg_controllen: 0,
    msg_flags: 0,
};

impl Sends {
    /// Adds a send of all `parts`, of which there is at least one. Returns its number, and where its
    /// bytes lie: there they stay until [`clear`](Self::clear).
    pub(super) fn push(
        &mut self,
        key: Key,
        mut first: Part,
        mut more: impl Iterator<Item = Part>,
        buffers: &mut Buffers,
    ) -> (u64, SendFrom) {
        let number = self.records.len() as u64;
        let (parts, from) = match more.next() {
            None => {
                let piece = first.piece(buffers);
                (Parts::One(first), SendFrom::Piece(piece))
            }
            Some(second) => {
                let (index, header) = self.gather([first, second].into_iter().chain(more), buffers);
                (Parts::Gathered(index), SendFrom::Gathered(header))
            }
        };
        self.records.push(Record { key, from: parts });
        (number, from)
    }

    /// Whose send a number is.
    pub(super) fn key(&self, number: u64) -> Key {
        self.records[number as usize].key
    }

    /// Appends to `rest` what a send has left behind its first `sent` bytes.
    pub(super) fn copy_unsent(
        &self,
        number: u64,
        sent: usize,
        buffers: &Buffers,
        rest: &mut Vec<u8>,
    ) {
        let parts = match &self.records[number as usize].from {
            Parts::One(part) => std::slice::from_ref(part),
            Parts::Gathered(index) => &self.gathered[*index].parts,
        };
        let len: usize = parts.iter().map(Part::len).sum();
        rest.reserve_exact(len - sent);
        let mut skipped = 0;
        for part in parts {
            let bytes = part.sent_bytes(buffers);
            let skip = (sent - skipped).min(bytes.len());
            skipped += skip;
            rest.extend_from_slice(&bytes[skip..]);
        }
    }

    /// Ends the turn: the kernel needs none of the parts any more.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        for send in &mut self.gathered[..self.gathered_used] {
            send.parts.clear();
        }
        self.gathered_used = 0;
    }

    /// A send from several parts; returns its index and the address of its header.
    fn gather(
        &mut self,
        mut parts: impl Iterator<Item = Part>,
        buffers: &mut Buffers,
    ) -> (usize, *const libc::msghdr) {
        let index = self.gathered_used;
        self.gathered_used += 1;
        if self.gathered.len() == index {
            let (pieces, parts) = (Vec::new(), Vec::new());
            self.gathered.push(Box::new(GatheredSend { header: EMPTY_HEADER, pieces, parts }));
        }
        let send = &mut *self.gathered[index];
        send.parts.extend(parts.by_ref().take(PIECES_MAX - 1));
        let rest = concatenate(parts, buffers);
        if !rest.is_empty() {
            send.parts.push(Part::Owned(rest));
        }
        send.pieces.clear();
        send.pieces.extend(send.parts.iter_mut().map(|part| part.piece(buffers)));
        send.header.msg_iov = send.pieces.as_mut_ptr();
        send.header.msg_iovlen = send.pieces.len();
        (index, &raw const send.header)
    }
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Chunk(chunk) => chunk.len(),
            Self::Owned(bytes) => bytes.len(),
        }
    }

    /// Where the part lies, for the kernel to read.
    #[inline]
    fn piece(&mut self, buffers: &mut Buffers) -> libc::iovec {
        let bytes = match self {
            Self::Chunk(chunk) => return buffers.piece(chunk),
            Self::Owned(bytes) => bytes,
        };
        libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
    }

    /// The bytes of a part whose send is over.
    fn sent_bytes<'a>(&'a self, buffers: &'a Buffers) -> &'a [u8] {
        match self {
            Self::Chunk(chunk) => buffers.sent_bytes(chunk),
            Self::Owned(bytes) => bytes,
        }
    }

    /// Appends the bytes of a part of this turn.
    pub(super) fn append_to(&self, bytes: &mut Vec<u8>, buffers: &mut Buffers) {
        bytes.extend_from_slice(match self {
            Self::Chunk(chunk) => buffers.chunk_mut(chunk),
            Self::Owned(part) => part,
        });
    }
}

fn concatenate(parts: impl Iterator<Item = Part>, buffers: &mut Buffers) -> Vec<u8> {
    let mut bytes = Vec::new();
    parts.for_each(|part| part.append_to(&mut bytes, buffers));
    bytes
}
