//! The connections of an engine by key. Slots are used again at once, keys only after 2^30 further
//! connections.

use slab::Slab;

use super::{connection::Connection, key::Key};

/// The connections, by key.
pub(super) struct Table {
    connections: Slab<Connection>,
    generation: u32,
    capacity: usize,
}

impl Table {
    /// A table for at most `capacity` connections.
    pub(super) fn new(capacity: u32) -> Self {
        Self { connections: Slab::new(), generation: 0, capacity: capacity as usize }
    }

    pub(super) fn is_full(&self) -> bool {
        self.connections.len() == self.capacity
    }

    /// Inserts the connection that `connection` makes for its generation. The table is not full.
    pub(super) fn insert(
        &mut self,
        connection: impl FnOnce(u32) -> Connection,
    ) -> (Key, &mut Connection) {
        debug_assert!(!self.is_full(), "there is a slot");
        self.generation = Key::next_generation(self.generation);
        let entry = self.connections.vacant_entry();
        let key = Key { slot: entry.key() as u32, generation: self.generation };
        (key, entry.insert(connection(self.generation)))
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
