//! A list whose items are taken in turn, by whichever thread comes next.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Items that are taken one after the other, and then from the first one on again.
#[derive(Debug)]
pub struct InTurn<T> {
    items: Vec<T>,
    taken: AtomicUsize,
}

impl<T> InTurn<T> {
    /// These items, beginning with the first.
    pub fn new(items: Vec<T>) -> Self {
        Self { items, taken: AtomicUsize::new(0) }
    }

    /// The item whose turn it is; `None` if there are no items.
    pub(crate) fn next(&self) -> Option<&T> {
        match &*self.items {
            [] => None,
            [only] => Some(only),
            items => items.get(self.taken.fetch_add(1, Relaxed) % items.len()),
        }
    }

    /// All items, in their order.
    pub(crate) fn items(&self) -> &[T] {
        &self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_again_after_the_last() {
        for (items, taken) in [("", ""), ("a", "aaaa"), ("abc", "abca")] {
            let items = InTurn::new(items.chars().collect());
            let next: String = (0..4).filter_map(|_| items.next()).collect();
            assert_eq!(next, taken);
        }
    }
}
