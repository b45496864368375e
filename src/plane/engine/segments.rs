//! What an engine keeps for each slot. It grows by a segment at a time and moves nothing, so it takes
//! the memory of what is in it and of less than one segment more.

use std::ops::{Index, IndexMut};

/// Slots in a segment.
pub(super) const SEGMENT_LEN: usize = 256;

/// A value for each slot from 0 on.
pub(super) struct Segments<T>(Vec<Box<[T; SEGMENT_LEN]>>);

impl<T> Segments<T> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// The first slot that has no value.
    pub(super) fn end(&self) -> u32 {
        (self.0.len() * SEGMENT_LEN) as u32
    }

    /// Adds a segment. `value` makes the value of each of its slots.
    #[cold]
    pub(super) fn grow(&mut self, value: impl FnMut(u32) -> T) {
        let first = self.end();
        let values: Box<[T]> = (first..first + SEGMENT_LEN as u32).map(value).collect();
        let Ok(segment) = values.try_into() else { unreachable!("there is one for each slot") };
        self.0.push(segment);
    }

    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        Some(&self.0.get(slot as usize / SEGMENT_LEN)?[slot as usize % SEGMENT_LEN])
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        Some(&mut self.0.get_mut(slot as usize / SEGMENT_LEN)?[slot as usize % SEGMENT_LEN])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(self.0.iter().flat_map(|segment| segment.iter()))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0..).zip(self.0.iter_mut().flat_map(|segment| segment.iter_mut()))
    }
}

impl<T> Index<u32> for Segments<T> {
    type Output = T;

    #[inline]
    fn index(&self, slot: u32) -> &T {
        &self.0[slot as usize / SEGMENT_LEN][slot as usize % SEGMENT_LEN]
    }
}

impl<T> IndexMut<u32> for Segments<T> {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut T {
        &mut self.0[slot as usize / SEGMENT_LEN][slot as usize % SEGMENT_LEN]
    }
}
