//! Pauses under loom: every order in which workers can pause and connections can end.
//!
//! Descriptors are a number, and wakers are counters, so nothing here needs a kernel. Run by
//! scripts/loom.sh.

use loom::{
    model::Builder,
    sync::{Arc as LoomArc, atomic::AtomicUsize},
    thread,
};

use super::*;

/// A waker that counts how often its worker was woken.
#[derive(Clone)]
struct WakeCount(LoomArc<AtomicUsize>);

impl PartialEq for WakeCount {
    fn eq(&self, other: &Self) -> bool {
        LoomArc::ptr_eq(&self.0, &other.0)
    }
}

impl Wake for WakeCount {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The descriptors that are free.
type Free = AtomicUsize;

fn accept(free: &Free) -> bool {
    let one_less = |free: usize| free.checked_sub(1);
    free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
}

/// Tries to accept as a worker does. Returns whether it has; if not, it would wait now.
fn try_to_accept(free: &Free, pauses: &Pauses<WakeCount>, waker: &WakeCount) -> bool {
    accept(free) || pauses.begin(waker.clone()) && accept(free)
}

fn end_connection(free: &Free, pauses: &Pauses<WakeCount>) {
    free.fetch_add(1, Ordering::Relaxed);
    pauses.end_all();
}

/// Has this many workers pause while a connection ends, in every order. No worker may wait unwoken
/// while there is a free descriptor: no other end might come.
fn check(workers: usize) {
    // This atomic is std's, not loom's, since it counts across orders.
    let orders = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = orders.clone();
    let mut builder = Builder::new();
    // As in the balance's models, without a bound there are too many orders.
    builder.preemption_bound = Some(4);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let free = LoomArc::new(Free::new(0));
        let pauses = LoomArc::new(Pauses::default());
        let pausing: Vec<_> = (0..workers)
            .map(|_| {
                let (free, pauses) = (free.clone(), pauses.clone());
                thread::spawn(move || {
                    let waker = WakeCount(LoomArc::new(AtomicUsize::new(0)));
                    let has_accepted = try_to_accept(&free, &pauses, &waker);
                    (has_accepted, waker)
                })
            })
            .collect();
        end_connection(&free, &pauses);
        let workers: Vec<_> = pausing.into_iter().map(|worker| worker.join().unwrap()).collect();
        let is_free = free.load(Ordering::Relaxed) > 0;
        for (has_accepted, waker) in workers {
            let is_woken = waker.0.load(Ordering::Relaxed) > 0;
            assert!(has_accepted || is_woken || !is_free, "it waits while one is free");
        }
    });
    println!(
        "a connection ends while {workers} workers pause: {} orders",
        orders.load(Ordering::Relaxed)
    );
}

#[test]
fn worker_that_pauses_is_woken_by_the_next_end() {
    check(1);
}

#[test]
fn workers_that_pause_are_all_woken_by_the_next_end() {
    check(2);
}
