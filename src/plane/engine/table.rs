//! The connections of an engine by key. Slots are used again at once, keys only after 2^30 further
//! connections.

use std::mem;

use super::{
    connection::Connection,
    key::Key,
    segments::{SEGMENT_LEN, Segments},
};

/// The connections, by key.
pub(super) struct Table {
    entries: Segments<Entry>,
    /// The slot that is used next, if one is vacant.
    first_vacant: Option<u32>,
    len: usize,
    generation: u32,
    capacity: usize,
}

enum Entry {
    /// Nothing, and the slot that is used after this one.
    Vacant(Option<u32>),
    Occupied(Connection),
}

const _: () = assert!(size_of::<Entry>() == size_of::<Connection>(), "a slot takes no more");

impl Table {
    /// A table for at most `capacity` connections.
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            entries: Segments::new(),
            first_vacant: None,
            len: 0,
            generation: 0,
            capacity: capacity as usize,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.len == self.capacity
    }

    /// Inserts the connection that `connection` makes for its generation. The table is not full.
    pub(super) fn insert(
        &mut self,
        connection: impl FnOnce(u32) -> Connection,
    ) -> (Key, &mut Connection) {
        debug_assert!(!self.is_full(), "there is a slot");
        self.generation = Key::next_generation(self.generation);
        let slot = self.first_vacant.unwrap_or_else(|| self.grow());
        let entry = &mut self.entries[slot];
        let occupied = Entry::Occupied(connection(self.generation));
        let Entry::Vacant(next) = mem::replace(entry, occupied) else {
            unreachable!("the slot is vacant")
        };
        self.first_vacant = next;
        self.len += 1;
        let Entry::Occupied(connection) = entry else { unreachable!("it was just inserted") };
        (Key { slot, generation: self.generation }, connection)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Connection> {
        match self.entries.get_mut(key.slot)? {
            Entry::Occupied(connection) if connection.generation == key.generation => {
                Some(connection)
            }
            Entry::Occupied(_) | Entry::Vacant(_) => None,
        }
    }

    /// Whether the connection is there.
    pub(super) fn contains(&self, key: Key) -> bool {
        let entry = self.entries.get(key.slot);
        matches!(entry, Some(Entry::Occupied(there)) if there.generation == key.generation)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Connection> {
        self.get_mut(key)?;
        let vacant = Entry::Vacant(self.first_vacant);
        let Entry::Occupied(connection) = mem::replace(&mut self.entries[key.slot], vacant) else {
            unreachable!("the key's connection is there")
        };
        self.first_vacant = Some(key.slot);
        self.len -= 1;
        Some(connection)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut Connection)> {
        self.entries.iter_mut().filter_map(|(slot, entry)| match entry {
            Entry::Occupied(connection) => {
                Some((Key { slot, generation: connection.generation }, connection))
            }
            Entry::Vacant(_) => None,
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Connection)> {
        self.entries.iter().filter_map(|(slot, entry)| match entry {
            Entry::Occupied(connection) => {
                Some((Key { slot, generation: connection.generation }, connection))
            }
            Entry::Vacant(_) => None,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds vacant slots, and returns the first of them.
    #[cold]
    fn grow(&mut self) -> u32 {
        let first = self.entries.end();
        let last = first + SEGMENT_LEN as u32 - 1;
        self.entries.grow(|slot| Entry::Vacant((slot < last).then_some(slot + 1)));
        first
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::OwnedFd};

    use super::*;
    use crate::{connection::clock::Tick, protocol::echo::Compression};

    fn insert(table: &mut Table) -> Key {
        let descriptor = OwnedFd::from(File::open("/dev/null").unwrap());
        let connection = |generation| {
            Connection::new(descriptor, generation, Compression::None, Tick::default())
        };
        table.insert(connection).0
    }

    #[test]
    fn slots_are_used_again_and_keys_are_not() {
        const COUNT: usize = 2 * SEGMENT_LEN + 1;
        let mut table = Table::new(COUNT as u32);
        let keys: Vec<_> = (0..COUNT).map(|_| insert(&mut table)).collect();
        assert!(table.is_full());
        assert_eq!(table.iter().map(|(key, _)| key).collect::<Vec<_>>(), keys);

        let removed = [keys[SEGMENT_LEN], keys[0]];
        for key in removed {
            assert!(table.remove(key).is_some());
            assert!(table.get_mut(key).is_none() && table.remove(key).is_none());
        }
        assert_eq!((table.len(), table.iter_mut().count()), (COUNT - 2, COUNT - 2));
        for key in removed.into_iter().rev() {
            let successor = insert(&mut table);
            assert_eq!(successor.slot, key.slot);
            assert!(table.get_mut(key).is_none() && table.get_mut(successor).is_some());
        }
    }
}
