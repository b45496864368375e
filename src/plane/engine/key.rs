//! How the engine and its kernel name a connection.

/// A connection's slot, and which of the slot's successive connections it is. A late completion
/// can therefore never reach a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl Key {
    /// Bits of [`to_bits`](Self::to_bits) that are used.
    pub(super) const BITS: u32 = 62;

    const GENERATION_MASK: u32 = (1 << (Self::BITS - u32::BITS)) - 1;

    /// The generation that follows `generation`.
    pub(super) fn next_generation(generation: u32) -> u32 {
        generation.wrapping_add(1) & Self::GENERATION_MASK
    }

    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.generation) << u32::BITS | u64::from(self.slot)
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> u32::BITS) as u32 }
    }
}
