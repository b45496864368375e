//! The shared receive buffers.
//!
//! The kernel fills a buffer from front to back, in chunks, for whichever connection has bytes,
//! before it takes the next buffer. After each turn the kernel is told to begin anew, at the start of
//! the buffers that were sent from last. So light traffic passes through the same few bytes again and
//! again, and they stay in the cache.
//!
//! The invariant: a byte belongs either to the kernel or to the one [`Chunk`] that it was received
//! as, and a buffer with chunks goes back to the kernel only when their turn is over.

use std::{io, mem, ops::Range, slice};

use memmap2::{Advice, MmapMut, MmapOptions};

use super::kernel::Kernel;
use crate::config::HugePages;

/// Received bytes in a buffer. They are the chunk's holder's until the turn is over.
#[derive(Debug)]
pub(super) struct Chunk {
    buffer: u16,
    at: u32,
    len: u32,
    /// The turn that it belongs to.
    turn: u32,
}

pub(super) struct Buffers {
    memory: Memory,
    buffer_len: u32,
    /// The buffers that the kernel has, in reverse: it takes the last one next.
    provided: Vec<u16>,
    /// Buffers with chunks of this turn, in order.
    in_use: Vec<u16>,
    /// Bytes of the last buffer in use that have been received into.
    consumed: u32,
    /// Buffers whose turn is over.
    sent: Vec<u16>,
    turn: u32,
}

/// Mapped memory that the kernel shares. It is looked at through `start` alone, so that no reference
/// to all of it is ever made while the kernel writes to some of it.
struct Memory {
    start: *mut u8,
    len: usize,
    // Unmapped when this is dropped.
    _mapping: MmapMut,
}

impl Chunk {
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// A part of the chunk, the range within it.
    pub(super) fn narrow(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "it is within the chunk");
        Self { at: self.at + range.start as u32, len: range.len() as u32, ..self }
    }
}

impl Buffers {
    /// `count` buffers of `buffer_len` bytes, none of which the kernel has yet.
    pub(super) fn new(count: u16, buffer_len: u32, huge_pages: HugePages) -> io::Result<Self> {
        Ok(Self {
            memory: Memory::new(map(usize::from(count) * buffer_len as usize, huge_pages)?),
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

    /// The chunk of `len` bytes that the kernel has received into `buffer`.
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
            (*buffer, memory.at(start, *buffer_len as usize))
        });
        // SAFETY: each buffer lies within the memory, which outlives the kernel. Only chunks of this
        // turn are looked at until buffers are provided again, and those are in other buffers, or in
        // parts of these that have been received into.
        unsafe { kernel.provide(buffers, *buffer_len) };
    }

    /// Bytes of all buffers.
    pub(super) fn total_len(&self) -> usize {
        self.memory.len
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
    #[inline]
    #[expect(unsafe_code, reason = "the kernel shares this memory")]
    pub(super) fn chunk_mut(&mut self, chunk: &Chunk) -> &mut [u8] {
        let start = self.address(chunk);
        // SAFETY: the bytes are mapped and initialised. The kernel has received into them and leaves
        // them alone until its turn is over, and this is borrowed for as long as they are.
        unsafe { slice::from_raw_parts_mut(start, chunk.len()) }
    }

    /// Where a chunk of this turn lies, for the kernel to send from.
    #[inline]
    pub(super) fn piece(&mut self, chunk: &Chunk) -> libc::iovec {
        libc::iovec { iov_base: self.address(chunk).cast(), iov_len: chunk.len() }
    }

    /// The bytes of a chunk of the turn before, for a send that was short.
    #[expect(unsafe_code, reason = "the kernel shares this memory")]
    pub(super) fn sent_bytes(&self, chunk: &Chunk) -> &[u8] {
        let is_in_sent =
            chunk.turn == self.turn.wrapping_sub(1) && self.sent.contains(&chunk.buffer);
        assert!(is_in_sent, "its buffer has not been provided again");
        let start = self.memory.at(self.offset(chunk), chunk.len());
        // SAFETY: the bytes are mapped and initialised, and nobody writes to them: their buffer is
        // provided again only by this being borrowed mutably.
        unsafe { slice::from_raw_parts(start, chunk.len()) }
    }

    #[inline]
    fn address(&self, chunk: &Chunk) -> *mut u8 {
        assert_eq!(chunk.turn, self.turn, "a chunk lives for a turn");
        self.memory.at(self.offset(chunk), chunk.len())
    }

    fn offset(&self, chunk: &Chunk) -> usize {
        usize::from(chunk.buffer) * self.buffer_len as usize + chunk.at as usize
    }
}

impl Memory {
    fn new(mut mapping: MmapMut) -> Self {
        Self { start: mapping.as_mut_ptr(), len: mapping.len(), _mapping: mapping }
    }

    /// The address of `len` bytes at an offset.
    #[inline]
    #[expect(unsafe_code, reason = "an offset is added to an address")]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset + len <= self.len, "they are within the memory");
        // SAFETY: the offset is within the mapping.
        unsafe { self.start.add(offset) }
    }
}

/// Memory of at least `len` bytes. All of it is populated, so that the process does not grow when the
/// first large messages arrive.
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
