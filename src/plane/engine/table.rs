//! The connections of an engine: slots that are used again, and keys that are not.

use std::os::fd::OwnedFd;

use slab::Slab;

use crate::{
    connection::{ConnectionEnd, clock::Timing},
    protocol::echo::{Compression, Echo},
};

/// A connection's slot, and which of the slot's successive connections it is. A late completion
/// can therefore never reach a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) slot: u32,
    generation: u32,
}

/// All that an idle connection costs.
pub(super) struct Connection {
    pub(super) echo: Echo,
    pub(super) timing: Timing,
    /// Open beside its registration, so that it can be given back.
    pub(super) descriptor: OwnedFd,
    generation: u32,
    pub(super) receive: Receive,
    /// It has waited for a shared buffer, and not received since.
    pub(super) is_hungry: bool,
    pub(super) send: Send,
    /// A Close frame has been sent, so nothing else may be.
    pub(super) close_sent: bool,
    /// How it ended; it leaves the engine once nothing is under way on it.
    pub(super) leaving: Option<ConnectionEnd>,
}

const _: () = assert!(size_of::<Echo>() <= 72, "most of an entry");
const _: () = assert!(size_of::<Connection>() <= 120, "an idle connection weighs no more");

/// What the kernel is doing about received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receive {
    Idle,
    Armed,
    Cancelling,
    /// Nothing, until it is its turn to have a shared buffer.
    Starved,
}

/// What the kernel is doing about sent bytes.
#[derive(Debug)]
pub(super) enum Send {
    /// Nothing that is not over when the next turn begins. The parts queued for this turn.
    Ready(Queue),
    /// A patient send, and then these bytes.
    #[expect(clippy::box_collection, reason = "a word in the table, for what is rare")]
    Blocked(Box<Vec<u8>>),
}

/// The parts queued for a turn, by the indices of the first and the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue(Option<(u32, u32)>);

/// The connections, by key.
pub(super) struct Table {
    connections: Slab<Connection>,
    generation: u32,
    capacity: usize,
}

impl Queue {
    pub(super) fn is_empty(self) -> bool {
        self.0.is_none()
    }

    /// Puts an index behind the others, and returns the one that was the last.
    #[inline]
    pub(super) fn push(&mut self, index: u32) -> Option<u32> {
        let ends = self.0;
        self.0 = Some((ends.map_or(index, |(first, _)| first), index));
        ends.map(|(_, last)| last)
    }

    /// Empties the queue, and returns the first index.
    #[inline]
    pub(super) fn take_first(&mut self) -> Option<u32> {
        self.0.take().map(|(first, _)| first)
    }
}

impl Key {
    /// Bits of [`to_bits`](Self::to_bits) that are used.
    pub(super) const BITS: u32 = 62;

    const GENERATION_MASK: u32 = (1 << (Self::BITS - u32::BITS)) - 1;

    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.generation) << u32::BITS | u64::from(self.slot)
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> u32::BITS) as u32 }
    }
}

impl Table {
    /// A table for at most `capacity` connections.
    pub(super) fn new(capacity: u32) -> Self {
        Self { connections: Slab::new(), generation: 0, capacity: capacity as usize }
    }

    /// Puts a connection in, or gives its descriptor back when there is no slot.
    pub(super) fn insert(
        &mut self,
        descriptor: OwnedFd,
        timing: Timing,
        compression: Compression,
    ) -> Result<Key, OwnedFd> {
        if self.connections.len() == self.capacity {
            return Err(descriptor);
        }
        self.generation = self.generation.wrapping_add(1) & Key::GENERATION_MASK;
        let slot = self.connections.insert(Connection {
            echo: Echo::with_compression(compression),
            timing,
            descriptor,
            generation: self.generation,
            receive: Receive::Idle,
            is_hungry: false,
            send: Send::Ready(Queue::default()),
            close_sent: false,
            leaving: None,
        });
        Ok(Key { slot: slot as u32, generation: self.generation })
    }

    /// A connection that is known to be in the table.
    ///
    /// # Panics
    ///
    /// When it has been removed.
    #[inline]
    pub(super) fn present_mut(&mut self, key: Key) -> &mut Connection {
        self.get_mut(key).expect("the connection has not departed")
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Connection> {
        self.connections
            .get_mut(key.slot as usize)
            .filter(|connection| connection.generation == key.generation)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Connection> {
        self.get_mut(key)?;
        self.connections.try_remove(key.slot as usize)
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut Connection)> {
        self.connections.iter_mut().map(|(slot, connection)| {
            (Key { slot: slot as u32, generation: connection.generation }, connection)
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Connection)> {
        self.connections.iter().map(|(slot, connection)| {
            (Key { slot: slot as u32, generation: connection.generation }, connection)
        })
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }
}
