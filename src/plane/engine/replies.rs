//! The replies of one turn, in parts: those of each connection are a list, in the order in which
//! they are sent.

use super::{key::Key, sends::Part};

/// The replies that go out at the end of this turn.
#[derive(Default)]
pub(super) struct Replies {
    parts: Vec<QueuedPart>,
    connections: Vec<Key>,
}

/// The parts queued for a connection, by the indices of the first and the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PartQueue(Option<(u32, u32)>);

struct QueuedPart {
    /// Taken when it is sent.
    part: Option<Part>,
    /// The index of the part behind it.
    next: Option<u32>,
}

impl PartQueue {
    pub(super) fn is_empty(self) -> bool {
        self.0.is_none()
    }
}

impl Replies {
    pub(super) fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Puts a part behind the others of its connection.
    #[inline]
    pub(super) fn push(&mut self, key: Key, queue: &mut PartQueue, part: Part) {
        let index = self.parts.len() as u32;
        self.parts.push(QueuedPart { part: Some(part), next: None });
        if let PartQueue(Some((_, last))) = queue {
            self.parts[*last as usize].next = Some(index);
            *last = index;
        } else {
            queue.0 = Some((index, index));
            self.connections.push(key);
        }
    }

    /// Empties a connection's queue: its parts, in order.
    #[inline]
    pub(super) fn take(&mut self, queue: &mut PartQueue) -> impl Iterator<Item = Part> {
        let mut next = queue.0.take().map(|(first, _)| first);
        std::iter::from_fn(move || {
            let queued = &mut self.parts[next? as usize];
            next = queued.next;
            queued.part.take()
        })
    }

    /// The connections that have had parts queued, each once, except those that were emptied and
    /// filled again.
    pub(super) fn take_connections(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.connections)
    }

    /// Ends the turn, when every part has been taken. Takes the connections' memory back.
    pub(super) fn clear(&mut self, mut connections: Vec<Key>) {
        connections.clear();
        self.connections = connections;
        self.parts.clear();
    }
}
