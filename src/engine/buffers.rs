//! The shared receive buffers.
//!
//! The kernel fills a buffer from front to back, in chunks, for whichever connection has bytes,
//! before it takes the next. The invariant: a byte belongs either to the kernel or to the one
//! [`Chunk`] it was received as, and a used-up buffer goes back to the kernel only in a later turn.

use std::io;

use memmap2::{MmapMut, MmapOptions};

use super::kernel::Kernel;

/// A part of a buffer that was received into. It is its holder's until the turn is over.
#[derive(Debug)]
pub(super) struct Chunk {
    buffer: u16,
    at: u32,
    len: u32,
    /// The turn that it belongs to.
    turn: u32,
}

pub(super) struct Buffers {
    memory: MmapMut,
    buffer_len: u32,
    /// How far each buffer is consumed.
    consumed: Vec<u32>,
    /// Buffers that are used up, and go back to the kernel when this turn is over.
    used_up: Vec<u16>,
    turn: u32,
}

impl Buffers {
    /// `count` buffers of `buffer_len` bytes, none of which the kernel has yet.
    pub(super) fn new(count: u16, buffer_len: u32) -> io::Result<Self> {
        // Populated: memory must not grow with the first large messages.
        let memory = MmapOptions::new()
            .len(usize::from(count) * buffer_len as usize)
            .populate()
            .map_anon()?;
        Ok(Self {
            memory,
            buffer_len,
            consumed: vec![0; count.into()],
            used_up: (0..count).collect(),
            turn: 0,
        })
    }

    /// Voids all chunks, and gives used-up buffers to the kernel.
    #[expect(unsafe_code, reason = "the kernel is given memory")]
    pub(super) fn next_turn(&mut self, kernel: &mut impl Kernel) {
        self.turn = self.turn.wrapping_add(1);
        if self.used_up.is_empty() {
            return;
        }
        let Self { memory, consumed, used_up, buffer_len, .. } = self;
        let buffers = used_up.drain(..).map(|buffer| {
            consumed[usize::from(buffer)] = 0;
            let start = usize::from(buffer) * *buffer_len as usize;
            (buffer, memory[start..].as_mut_ptr())
        });
        // SAFETY: each buffer lies within the memory, which the ring drops after the kernel, and
        // of which `chunk_mut` shows only what was received in the same turn.
        unsafe { kernel.provide(buffers, *buffer_len) };
    }

    /// The chunk of `len` bytes that the kernel has just put into `buffer`, with which it is done
    /// unless it `goes_on`.
    pub(super) fn take(&mut self, buffer: u16, len: u32, goes_on: bool) -> Chunk {
        let consumed = &mut self.consumed[usize::from(buffer)];
        let at = *consumed;
        *consumed += len;
        assert!(*consumed <= self.buffer_len, "the kernel stays within its buffer");
        if !goes_on {
            self.used_up.push(buffer);
        }
        Chunk { buffer, at, len, turn: self.turn }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.consumed.len()
    }

    /// The bytes of a chunk of this turn.
    pub(super) fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8] {
        assert_eq!(chunk.turn, self.turn, "a chunk lives for a turn");
        let start = usize::from(chunk.buffer) * self.buffer_len as usize + chunk.at as usize;
        &mut self.memory[start..start + chunk.len as usize]
    }
}
