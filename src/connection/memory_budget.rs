//! The memory that all connections of the process may hold together, beyond what workers share: copies
//! of echoes for peers that do not read, receive buffers of their own, held frames, request heads.
//!
//! Each worker publishes what its connections hold and how much the largest of them does, in cache
//! lines of its own, on the rare paths where such memory comes and goes; no message does. Once the
//! budget is exceeded, the worker with the largest holder sheds it, and so on until what is left
//! fits. Who holds the memory, and how a connection is ended, is left to the carriers.
//!
//! The bound is not exact. What a worker's connections hold may grow by [`UNCHECKED_LEN_MAX`] until
//! the sum over all workers is looked at. Where the largest holder is another worker's, that worker
//! sheds it when its own memory grows or at its next sweep; until then the budget may be exceeded
//! [by an eighth](MemoryBudget::new), and from there on each worker sheds its own largest.

use std::{
    cell::Cell,
    collections::HashMap,
    future::poll_fn,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Poll, Waker},
};

/// The budget of all connections of the process.
#[derive(Debug)]
pub struct MemoryBudget {
    max: u64,
    published: Box<[Published]>,
}

/// What one share holds. A cache line of its own, since one thread writes it again and again.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Published {
    held: AtomicU64,
    largest: AtomicU64,
}

/// The part of the budget that some connections of one worker take: those that are tasks, or those
/// in the engine. What it holds is given back when it is dropped.
pub struct Share {
    budget: Arc<MemoryBudget>,
    index: usize,
    /// Bytes by which it has grown since the budget was last looked at.
    unchecked_len: Cell<usize>,
    /// The budget was exceeded when it was last looked at.
    is_exceeded: Cell<bool>,
    /// The task that waits for that.
    waker: Cell<Option<Waker>>,
}

/// The shares of one worker.
pub struct WorkerShares {
    /// For connections in the engine.
    pub engine: Share,
    /// For connections that are tasks.
    pub tasks: Share,
}

/// What each connection of a share holds, by key.
pub struct Holdings<K> {
    held: HashMap<K, usize>,
    share: Share,
}

/// Bytes by which a share may grow until the budget is looked at: as much as one receive brings, and
/// so much that adding up the shares of many workers costs little beside copying them.
pub const UNCHECKED_LEN_MAX: usize = 64 << 10;

impl MemoryBudget {
    /// A budget of `max` bytes for so many workers. It may be exceeded by an eighth for as long as the
    /// largest holder is another worker's.
    pub fn new(max: u64, workers: usize) -> Arc<Self> {
        let published = (0..2 * workers).map(|_| Published::default()).collect();
        Arc::new(Self { max, published })
    }

    /// The shares of a worker, or of its replacement.
    pub fn shares(self: &Arc<Self>, worker: usize) -> WorkerShares {
        let share = |index| {
            let share = Share {
                budget: self.clone(),
                index,
                unchecked_len: Cell::default(),
                is_exceeded: Cell::default(),
                waker: Cell::default(),
            };
            // A worker that died may have left something.
            share.clear();
            share
        };
        WorkerShares { engine: share(2 * worker), tasks: share(2 * worker + 1) }
    }

    /// Bytes that all connections hold.
    pub fn held(&self) -> u64 {
        self.published.iter().map(|published| published.held.load(Relaxed)).sum()
    }

    /// The most bytes that any connection holds, as far as is published.
    fn largest(&self) -> u64 {
        let largest = self.published.iter().map(|published| published.largest.load(Relaxed));
        largest.max().unwrap_or_default()
    }
}

impl Share {
    /// A share of a budget without a limit.
    pub fn unlimited() -> Self {
        MemoryBudget::new(u64::MAX, 1).shares(0).engine
    }

    /// A connection that held `before` bytes holds `after`.
    pub fn change(&self, before: usize, after: usize) {
        let Published { held, largest } = self.published();
        // Only the worker's thread writes these.
        held.store(held.load(Relaxed) + after as u64 - before as u64, Relaxed);
        if after <= before {
            return;
        }
        if after as u64 > largest.load(Relaxed) {
            largest.store(after as u64, Relaxed);
        }
        self.unchecked_len.set(self.unchecked_len.get() + after - before);
        if self.unchecked_len.get() >= UNCHECKED_LEN_MAX {
            self.check();
        }
    }

    /// Looks at the budget.
    pub fn check(&self) {
        self.unchecked_len.set(0);
        let is_exceeded = self.budget.held() > self.budget.max;
        self.is_exceeded.set(is_exceeded);
        if is_exceeded && let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether the budget was exceeded when it was last looked at. Then [`shed`](Self::shed) is to be
    /// called.
    #[inline]
    pub fn is_exceeded(&self) -> bool {
        self.is_exceeded.get()
    }

    /// Waits until the budget is exceeded.
    pub async fn exceeded(&self) {
        poll_fn(|context| {
            if self.is_exceeded() {
                return Poll::Ready(());
            }
            self.waker.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Drops the waker of the task that waits.
    pub fn let_go(&self) {
        drop(self.waker.take());
    }

    /// Has the largest of `holders`, all connections of this share with what each holds, ended until
    /// what all connections hold fits the budget, or the largest is another worker's. `end` ends a
    /// connection and returns what it held.
    pub fn shed<T>(&self, mut holders: Vec<(usize, T)>, mut end: impl FnMut(T)) {
        let largest = holders.iter().map(|(held, _)| *held).max().unwrap_or_default();
        if self.must_shed(largest) {
            holders.sort_unstable_by_key(|(held, _)| *held);
            while let Some((held, holder)) = holders.pop() {
                if !self.must_shed(held) {
                    break;
                }
                end(holder);
                let left = holders.last().map_or(0, |(held, _)| *held);
                self.published().largest.store(left as u64, Relaxed);
            }
        }
        self.is_exceeded.set(false);
    }

    /// Whether the budget is exceeded and this share, whose largest connection holds `largest`, is to
    /// end that.
    fn must_shed(&self, largest: usize) -> bool {
        let largest = largest as u64;
        self.published().largest.store(largest, Relaxed);
        let MemoryBudget { max, .. } = *self.budget;
        let held = self.budget.held();
        largest > 0
            && held > max
            && (largest >= self.budget.largest() || held > max.saturating_add(max / 8))
    }

    fn published(&self) -> &Published {
        &self.budget.published[self.index]
    }

    fn clear(&self) {
        let Published { held, largest } = self.published();
        held.store(0, Relaxed);
        largest.store(0, Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<K: Copy + Eq + Hash> Holdings<K> {
    /// Of connections that hold nothing yet.
    pub fn new(share: Share) -> Self {
        Self { held: HashMap::new(), share }
    }

    /// A connection holds so many bytes from now on.
    #[cold]
    pub fn set(&mut self, key: K, len: usize) {
        // Most connections end without ever having held anything.
        if len == 0 && self.held.is_empty() {
            return;
        }
        let before = if len == 0 { self.held.remove(&key) } else { self.held.insert(key, len) };
        self.share.change(before.unwrap_or_default(), len);
    }

    /// What a connection holds.
    pub fn get(&self, key: K) -> usize {
        self.held.get(&key).copied().unwrap_or_default()
    }

    /// The connections that hold something.
    pub fn keys(&self) -> Vec<K> {
        self.held.keys().copied().collect()
    }

    /// Whether no connection holds anything.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The share that they take.
    #[inline]
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// Takes out the largest holders, which are to be ended, as [`Share::shed`] says.
    #[cold]
    pub fn shed(&mut self) -> Vec<K> {
        let Self { held, share } = self;
        let holders = held.iter().map(|(key, len)| (*len, *key)).collect();
        let mut shed = Vec::new();
        share.shed(holders, |key| {
            share.change(held.remove(&key).unwrap_or_default(), 0);
            shed.push(key);
        });
        shed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn budget_of_two(max: usize) -> (Arc<MemoryBudget>, [Holdings<u32>; 2]) {
        let budget = MemoryBudget::new(max as u64, 2);
        let holdings = [0, 1].map(|worker| Holdings::new(budget.shares(worker).engine));
        (budget, holdings)
    }

    #[test]
    fn largest_holders_go_first_and_only_as_many_as_have_to() {
        let (budget, [mut holdings, _]) = budget_of_two(10 * MIB);
        for (key, len) in [(1, 3), (2, 4), (3, 3)] {
            holdings.set(key, len * MIB);
        }
        assert!(!holdings.share().is_exceeded());
        assert!(holdings.shed().is_empty());
        holdings.set(4, MIB);
        assert!(holdings.share().is_exceeded());
        assert_eq!(holdings.shed(), [2]);
        assert!(!holdings.share().is_exceeded());
        assert_eq!((budget.held(), holdings.get(2)), (7 * MIB as u64, 0));
    }

    #[test]
    fn worker_with_the_largest_holder_sheds_it_whoever_exceeds_the_budget() {
        let (budget, [mut first, mut second]) = budget_of_two(10 * MIB);
        first.set(1, 6 * MIB);
        second.set(2, 5 * MIB);
        assert!(second.share().is_exceeded());
        assert!(second.shed().is_empty());
        // At its sweep.
        assert!(!first.share().is_exceeded());
        first.share().check();
        assert_eq!(first.shed(), [1]);
        assert_eq!(budget.held(), 5 * MIB as u64);
    }

    #[test]
    fn budget_is_exceeded_by_no_more_than_an_eighth_while_another_worker_has_the_largest() {
        let (_, [mut first, mut second]) = budget_of_two(16 * MIB);
        first.set(1, 9 * MIB);
        second.set(2, 8 * MIB);
        assert!(second.shed().is_empty());
        second.set(3, MIB + 1);
        assert_eq!(second.shed(), [2]);
    }

    #[test]
    fn what_a_dead_worker_held_is_given_back() {
        let (budget, [mut first, second]) = budget_of_two(10 * MIB);
        first.set(1, 6 * MIB);
        drop(first);
        assert_eq!(budget.held(), 0);
        let mut replaced = second;
        replaced.set(2, MIB);
        // Its thread may have left without dropping anything.
        std::mem::forget(replaced);
        let _replacement = budget.shares(1);
        assert_eq!(budget.held(), 0);
    }
}
