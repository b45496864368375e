//! The shared receive buffers.
//!
//! The kernel fills a buffer from front to back, in chunks, for whichever connection has bytes,
//! before it takes the next. After each turn it is told to begin anew, at the start of the buffers
//! that have been sent from last: while little is under way, all of it passes through the same few
//! bytes, which therefore stay in the cache.
//!
//! The invariant: a byte belongs either to the kernel or to the one [`Chunk`] it was received as,
//! and a buffer that was received into goes back to the kernel only when its turn is over.

use std::{io, mem};

use memmap2::{Advice, MmapMut, MmapOptions};

use super::kernel::Kernel;
use crate::config::HugePages;

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
    /// What the kernel has, the buffer that it takes next last.
    provided: Vec<u16>,
    /// Buffers with chunks of this turn, in order.
    in_use: Vec<u16>,
    /// How far the last of them is consumed.
    consumed: u32,
    /// Buffers whose turn is over.
    sent: Vec<u16>,
    turn: u32,
}

impl Buffers {
    /// `count` buffers of `buffer_len` bytes, none of which the kernel has yet.
    pub(super) fn new(count: u16, buffer_len: u32, huge_pages: HugePages) -> io::Result<Self> {
        Ok(Self {
            memory: map(usize::from(count) * buffer_len as usize, huge_pages)?,
            buffer_len,
            provided: Vec::new(),
            in_use: Vec::new(),
            consumed: 0,
            sent: (0..count).collect(),
            turn: 0,
        })
    }

    /// Voids all chunks.
    pub(super) fn next_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        mem::swap(&mut self.in_use, &mut self.sent);
    }

    /// The chunk of `len` bytes that the kernel has put into `buffer`.
    pub(super) fn take(&mut self, buffer: u16, len: u32) -> Chunk {
        if self.in_use.last() != Some(&buffer) {
            let next = self.provided.pop();
            assert_eq!(next, Some(buffer), "the kernel takes its buffers in order");
            self.in_use.push(buffer);
            self.consumed = 0;
        }
        let at = self.consumed;
        self.consumed += len;
        assert!(self.consumed <= self.buffer_len, "the kernel stays within its buffer");
        Chunk { buffer, at, len, turn: self.turn }
    }

    /// Provides the kernel with all buffers that have no chunks of this turn.
    #[expect(unsafe_code, reason = "the kernel is given memory")]
    pub(super) fn provide(&mut self, kernel: &mut impl Kernel) {
        if self.in_use.is_empty() && self.sent.is_empty() {
            return;
        }
        let Self { memory, buffer_len, provided, sent, .. } = self;
        provided.extend(sent.drain(..).rev());
        let buffers = provided.iter().rev().map(|buffer| {
            let start = usize::from(*buffer) * *buffer_len as usize;
            (*buffer, memory[start..].as_mut_ptr())
        });
        // SAFETY: each buffer lies within the memory, which the ring drops after the kernel, and
        // `chunk_mut` shows only what was received in this turn, in other buffers than these.
        unsafe { kernel.provide(buffers, *buffer_len) };
    }

    /// How many buffers the kernel has.
    pub(super) fn free(&self) -> usize {
        self.provided.len()
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.provided.len() + self.in_use.len() + self.sent.len()
    }

    /// The bytes of a chunk of this turn.
    pub(super) fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8] {
        assert_eq!(chunk.turn, self.turn, "a chunk lives for a turn");
        let start = usize::from(chunk.buffer) * self.buffer_len as usize + chunk.at as usize;
        &mut self.memory[start..start + chunk.len as usize]
    }
}

/// Memory of at least `len` bytes, all of it there: it must not grow with the first large messages.
fn map(len: usize, huge_pages: HugePages) -> io::Result<MmapMut> {
    match huge_pages {
        HugePages::Off => MmapOptions::new().len(len).populate().map_anon(),
        HugePages::Transparent => {
            // Populated only after the advice, or else with small pages.
            let memory = MmapOptions::new().len(len).map_anon()?;
            memory.advise(Advice::HugePage).map_err(|error| {
                let message = format!("--huge-pages transparent: this kernel has none ({error})");
                io::Error::new(error.kind(), message)
            })?;
            memory.advise(Advice::PopulateWrite)?;
            Ok(memory)
        }
        HugePages::Explicit => {
            // Only whole pages can be unmapped.
            let pages = len.div_ceil(1 << HUGE_PAGE_BITS);
            let mut options = MmapOptions::new();
            options.len(pages << HUGE_PAGE_BITS).huge(Some(HUGE_PAGE_BITS)).populate();
            options.map_anon().map_err(|error| {
                let message = format!(
                    "--huge-pages explicit: {error}; each worker needs {pages} free huge pages of \
                     2 MiB: raise vm.nr_hugepages, or use --huge-pages transparent"
                );
                io::Error::new(error.kind(), message)
            })
        }
    }
}

/// Huge pages of 2 MiB, the smallest that x86-64 has, and 64-bit ARM with pages of 4 KiB.
const HUGE_PAGE_BITS: u8 = 21;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LEN: usize = 3 << 20;

    /// Whether the mapping that this memory is in has this flag, as the kernel tells.
    fn has_flag(memory: &MmapMut, flag: &str) -> bool {
        let address = memory.as_ptr() as usize;
        let hex = |text: &str| usize::from_str_radix(text, 16).ok();
        let is_there = |line: &&str| {
            let (start, rest) = line.split_once('-').unwrap_or_default();
            let (end, _) = rest.split_once(' ').unwrap_or_default();
            hex(start).zip(hex(end)).is_some_and(|(start, end)| (start..end).contains(&address))
        };
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut mapping = smaps.lines().skip_while(|line| !is_there(line));
        let flags = mapping.find_map(|line| line.strip_prefix("VmFlags: ")).expect("it is mapped");
        flags.split(' ').any(|there| there == flag)
    }

    #[test]
    fn transparent_huge_pages_are_asked_for_only_if_wanted() {
        for (huge_pages, wanted) in [(HugePages::Transparent, true), (HugePages::Off, false)] {
            let memory = map(LEN, huge_pages).unwrap();
            assert_eq!(memory.len(), LEN);
            assert_eq!(has_flag(&memory, "hg"), wanted);
        }
    }

    #[test]
    fn explicit_huge_pages_are_there_or_their_lack_is_told() {
        match map(LEN, HugePages::Explicit) {
            Ok(memory) => {
                assert_eq!(memory.len(), 4 << 20);
                assert!(has_flag(&memory, "ht"));
            }
            Err(error) => {
                let message = "each worker needs 2 free huge pages of 2 MiB: raise vm.nr_hugepages";
                assert!(error.to_string().contains(message), "{error}");
            }
        }
    }
}
