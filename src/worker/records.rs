//! The records of a worker's connections, by number, whoever carries them. They are kept only where
//! somebody may ask for them: for `--admin-listen` and `--access-log`.

use std::{cell::RefCell, collections::BTreeMap, ops::Bound, rc::Rc};

use super::inquiry::Answer;
use crate::connection::{peer::Peer, record::Record};

/// Records of connections that have not ended, if they are kept.
#[derive(Debug, Default)]
pub(super) struct Records(Option<RefCell<BTreeMap<u64, Rc<Record>>>>);

impl Records {
    /// Records that are kept.
    pub(super) fn keeping() -> Self {
        Self(Some(RefCell::default()))
    }

    /// The record of a connection that is admitted now, if records are kept. The number must be new.
    pub(super) fn enter(&self, number: u64, peer: Peer) -> Option<Rc<Record>> {
        self.keep(|| Record::new(number, peer))
    }

    /// The record of a stream of HTTP/2 that begins now, if records are kept. The number must be new,
    /// and `carrier` is that of its connection.
    pub(super) fn enter_stream(&self, number: u64, peer: Peer, carrier: u64) -> Option<Rc<Record>> {
        self.keep(|| Record::of_stream(number, peer, carrier))
    }

    fn keep(&self, record: impl FnOnce() -> Record) -> Option<Rc<Record>> {
        let records = self.0.as_ref()?;
        let record = Rc::new(record());
        records.borrow_mut().insert(record.number(), record.clone());
        Some(record)
    }

    /// Takes a connection out that has ended.
    pub(super) fn leave(&self, record: &Record) {
        if let Some(records) = &self.0 {
            records.borrow_mut().remove(&record.number());
        }
    }

    /// Takes all connections out, when their worker ends in whatever way.
    pub(super) fn clear(&self) -> Vec<Rc<Record>> {
        let records = self.0.as_ref().map(RefCell::take).unwrap_or_default();
        records.into_values().collect()
    }

    /// The first `count_max` connections whose numbers are behind `after`.
    pub(super) fn list(&self, after: Option<u64>, count_max: usize) -> Answer {
        let Some(records) = &self.0 else {
            return Answer { connections: Vec::new(), has_more: false };
        };
        let records = records.borrow();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut following = records.range((start, Bound::Unbounded)).map(|(_, record)| record);
        let connections = following.by_ref().take(count_max).map(|record| record.view()).collect();
        Answer { connections, has_more: following.next().is_some() }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn connections_are_listed_in_pages() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 80)).into();
        assert!(Records::default().enter(1, peer).is_none());
        let kept = Records::keeping();
        let records: Vec<_> = (1..=5).map(|number| kept.enter(number, peer).unwrap()).collect();
        kept.leave(&records[1]);
        let numbers = |after, count_max| {
            let Answer { connections, has_more } = kept.list(after, count_max);
            (connections.iter().map(|it| it.number).collect::<Vec<_>>(), has_more)
        };
        assert_eq!(numbers(None, 2), (vec![1, 3], true));
        assert_eq!(numbers(Some(3), 2), (vec![4, 5], false));
        assert_eq!(numbers(Some(1), 0), (vec![], true));
        assert_eq!(numbers(Some(u64::MAX), 9), (vec![], false));
        assert_eq!(kept.clear().len(), 4);
        assert_eq!(numbers(None, 9), (vec![], false));
    }
}
