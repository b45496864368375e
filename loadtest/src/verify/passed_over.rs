//! The messages of one connection that were passed over: a later one's echo has come, theirs has
//! not.

use std::collections::VecDeque;

/// Messages that are further back than this are given up: an echo of theirs would be taken for a
/// second one.
const REMEMBERED_MAX: u64 = 65_536;

/// What was passed over and has not come since.
#[derive(Debug, Default)]
pub(super) struct PassedOver {
    /// In the order of their numbers; at most [`REMEMBERED_MAX`].
    remembered: VecDeque<u64>,
    given_up: usize,
}

impl PassedOver {
    /// Passes over the message `sequence`, the latest so far.
    pub(super) fn insert(&mut self, sequence: u64) {
        while self.remembered.front().is_some_and(|first| first.abs_diff(sequence) > REMEMBERED_MAX)
        {
            self.remembered.pop_front();
            self.given_up += 1;
        }
        self.remembered.push_back(sequence);
    }

    /// Takes out the message `sequence`, and says whether it was there.
    pub(super) fn remove(&mut self, sequence: u64) -> bool {
        let at = self.remembered.iter().position(|passed_over| *passed_over == sequence);
        at.and_then(|at| self.remembered.remove(at)).is_some()
    }

    /// How many there are, those given up included.
    pub(super) fn count(&self) -> usize {
        self.remembered.len() + self.given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_is_no_longer_passed_over() {
        let mut passed_over = PassedOver::default();
        passed_over.insert(7);
        passed_over.insert(9);
        assert!(passed_over.remove(7));
        assert!(!passed_over.remove(7));
        assert!(!passed_over.remove(8));
        assert_eq!(passed_over.count(), 1);
    }

    #[test]
    fn memory_is_bounded_and_the_count_is_not() {
        let mut passed_over = PassedOver::default();
        for sequence in 0..3 * REMEMBERED_MAX {
            passed_over.insert(sequence);
        }
        assert_eq!(passed_over.count() as u64, 3 * REMEMBERED_MAX);
        assert!(passed_over.remembered.len() as u64 <= REMEMBERED_MAX + 1);
        assert!(!passed_over.remove(0));
        assert!(passed_over.remove(3 * REMEMBERED_MAX - 1));
    }
}
