//! Balance under loom: every order in which threads can accept, hand over, leave and take.
//!
//! Connections are numbers and wakers are counters, so nothing here needs a kernel. Run by
//! scripts/loom.sh.

use loom::{
    model::Builder,
    sync::{Arc as LoomArc, atomic::AtomicUsize},
    thread::{self, JoinHandle},
};

use super::*;

/// A waker that counts how often its worker was woken.
#[derive(Clone)]
struct WakeCount(LoomArc<AtomicUsize>);

impl WakeCount {
    fn new() -> Self {
        Self(LoomArc::new(AtomicUsize::new(0)))
    }

    fn get(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl WakeWorker for WakeCount {
    fn wake(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

type ModelBalance = Balance<u32, WakeCount>;
type ModelMember = Member<u32, WakeCount>;

/// The most interruptions of a thread that could go on, in one order. Most defects of threads need
/// two or fewer, and without a bound three threads have too many orders.
const PREEMPTIONS_MAX: usize = 4;

fn check(name: &str, model: impl Fn() + Sync + Send + 'static) {
    // This atomic is std's, not loom's, since it counts across orders.
    let orders = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = orders.clone();
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        model();
    });
    println!("{name}: {} orders", orders.load(Relaxed));
}

/// Workers that all take part, and the counts of their wake-ups.
fn members(workers: usize) -> (Vec<ModelMember>, Vec<WakeCount>) {
    let balance = Arc::new(ModelBalance::new(workers));
    (0..workers)
        .map(|worker| {
            let wake_count = WakeCount::new();
            (balance.join_with(worker, wake_count.clone()), wake_count)
        })
        .unzip()
}

/// Accepts connections with these numbers on a thread of its own. The thread returns its member and
/// the connections that stay.
fn accept(member: ModelMember, numbers: &'static [u32]) -> JoinHandle<(ModelMember, Vec<u32>)> {
    thread::spawn(move || {
        let stay = numbers.iter().filter_map(|number| member.assign(*number, |number| number));
        let stayed = stay.collect();
        (member, stayed)
    })
}

fn count(member: &ModelMember) -> u32 {
    member.balance.connection_count(member.worker)
}

#[test]
fn connections_accepted_at_once_are_spread_exactly() {
    check("two workers accept two connections each", || {
        let (mut members, _) = members(2);
        let other = accept(members.pop().unwrap(), &[3, 4]);
        let own = members.pop().unwrap();
        let mut all: Vec<u32> = [1, 2].into_iter().filter_map(|n| own.assign(n, |n| n)).collect();
        let (other, stayed) = other.join().unwrap();
        assert_eq!((count(&own), count(&other)), (2, 2));
        all.extend(stayed);
        all.extend(own.take());
        all.extend(other.take());
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4], "each of them once");
    });
    check("three workers accept a connection each", || {
        let (mut members, _) = members(3);
        let third = accept(members.pop().unwrap(), &[3]);
        let second = accept(members.pop().unwrap(), &[2]);
        let own = members.pop().unwrap();
        own.assign(1, |number| number);
        let ((third, _), (second, _)) = (third.join().unwrap(), second.join().unwrap());
        assert_eq!([count(&own), count(&second), count(&third)], [1, 1, 1]);
    });
}

#[test]
fn worker_that_leaves_swallows_nothing() {
    check("two workers accept while a third leaves", || {
        let (mut members, _) = members(3);
        let leaving = members.pop().unwrap();
        let others =
            [accept(members.pop().unwrap(), &[1, 2]), accept(members.pop().unwrap(), &[3])];
        leaving.leave();
        let mut all = leaving.take();
        for other in others {
            let (member, stayed) = other.join().unwrap();
            all.extend(stayed);
            members.push(member);
        }
        all.extend(members.iter().flat_map(Member::take));
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3], "each of them once");
        assert!(leaving.take().is_empty(), "nothing comes behind the last");
    });
}

#[test]
fn replacement_finds_or_hears_of_whatever_waits() {
    check("a worker dies and is replaced while another accepts", || {
        let (mut members, _) = members(2);
        let dead = members.pop().unwrap();
        let balance = dead.balance.clone();
        let acceptor = accept(members.pop().unwrap(), &[1, 2, 3]);
        balance.leave(dead.worker);
        let wake_count = WakeCount::new();
        let replacement = balance.join_with(dead.worker, wake_count.clone());
        let mut all = replacement.take();
        let before = wake_count.get();
        all.extend(replacement.take());
        let (acceptor, stayed) = acceptor.join().unwrap();
        let waiting = replacement.take();
        assert!(waiting.is_empty() || wake_count.get() > before, "it is woken for {waiting:?}");
        all.extend(waiting);
        all.extend(stayed);
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3], "each of them once");
        assert!(acceptor.take().is_empty(), "nobody else accepts");
    });
}

#[test]
fn counts_are_those_of_connections_that_begin_and_end_at_once() {
    check("a worker accepts while another's connections end", || {
        let (mut members, _) = members(2);
        let own = members.pop().unwrap();
        own.assign(0, |number| number);
        let acceptor = accept(members.pop().unwrap(), &[1, 2]);
        own.connection_ended();
        let handed_over = own.take().len() as u32;
        let (acceptor, stayed) = acceptor.join().unwrap();
        let waiting = own.take().len() as u32;
        assert_eq!(count(&acceptor), stayed.len() as u32);
        assert_eq!(count(&own), handed_over + waiting);
        assert_eq!(count(&own) + count(&acceptor), 2);
    });
}
