//! The balance against a naive model, and with threads that accept at once.

use std::{fs::File, io::Read, net::SocketAddr, sync::Barrier, thread};

use proptest::prelude::*;

use super::*;
use crate::{config::Bounds, connection::peer::Peer, entry::admission::Admission};

/// A connection that is known by its peer's port.
fn accepted(port: u16) -> Accepted {
    let descriptor = File::open("/dev/null").unwrap().into();
    let peer = SocketAddr::from(([127, 0, 0, 1], port)).into();
    let admission = Arc::new(Admission::new(&Bounds::default()));
    let arrival = Arrival { peer, speaks_tls: false };
    Accepted { descriptor, arrival, ticket: admission.admit(peer.ip()).unwrap() }
}

fn port(accepted: &Accepted) -> u16 {
    match accepted.arrival.peer {
        Peer::Address(address) => address.port(),
        Peer::Host(_) | Peer::Local => unreachable!("all are of TCP"),
    }
}

fn members(workers: usize) -> (Vec<Member>, Vec<UnixStream>) {
    let balance = Arc::new(Balance::new(workers));
    (0..workers).map(|worker| balance.join(worker).unwrap()).unzip()
}

fn count(member: &Member) -> u32 {
    member.balance.connection_count(member.worker)
}

fn counts(members: &[Member]) -> Vec<u32> {
    members.iter().map(count).collect()
}

#[derive(Clone, Debug)]
enum Step {
    /// This worker accepts a connection.
    Assign(usize),
    /// One of this worker's connections ends, if it has any.
    End(usize),
    /// This worker stops or dies.
    Leave(usize),
    /// This worker takes part again.
    Join(usize),
}

const WORKERS: usize = 5;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..WORKERS).prop_map(Step::Assign),
        6 => (0..WORKERS).prop_map(Step::End),
        1 => (0..WORKERS).prop_map(Step::Leave),
        1 => (0..WORKERS).prop_map(Step::Join),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn whatever_happened_before_a_connection_goes_to_a_lowest_worker(steps in steps()) {
        let balance = Arc::new(Balance::new(WORKERS));
        let (mut members, _woken): (Vec<_>, Vec<_>) =
            (0..WORKERS).map(|worker| balance.join(worker).unwrap()).unzip();
        // Each worker's connections, while it takes part.
        let mut model = [Some(0); WORKERS];
        for step in steps {
            match step {
                Step::Assign(acceptor) if model[acceptor].is_some() => {
                    let own = model[acceptor];
                    let lowest = *model.iter().flatten().min().unwrap();
                    let expected = if own == Some(lowest) {
                        acceptor
                    } else {
                        model.iter().position(|count| *count == Some(lowest)).unwrap()
                    };
                    let stays = members[acceptor].assign((), |()| accepted(0)).is_some();
                    prop_assert_eq!(stays, expected == acceptor);
                    prop_assert_eq!(members[expected].take().len(), usize::from(!stays));
                    model[expected] = Some(lowest + 1);
                }
                Step::End(worker) => {
                    if let Some(count @ 1..) = &mut model[worker] {
                        *count -= 1;
                        members[worker].connection_ended();
                    }
                }
                Step::Leave(worker) => {
                    members[worker].leave();
                    model[worker] = None;
                }
                Step::Join(worker) if model[worker].is_none() => {
                    members[worker] = balance.join(worker).unwrap().0;
                    model[worker] = Some(0);
                }
                Step::Assign(_) | Step::Join(_) => {}
            }
            for (member, expected) in members.iter().zip(model) {
                prop_assert!(expected.is_none_or(|expected| count(member) == expected));
            }
        }
    }
}

#[test]
fn connections_accepted_at_once_are_spread_exactly() {
    const EACH: u32 = 200;
    let (members, _woken) = members(8);
    let begin = Barrier::new(members.len());
    thread::scope(|scope| {
        for member in &members {
            scope.spawn(|| {
                begin.wait();
                for _ in 0..EACH {
                    member.assign((), |()| accepted(0));
                    member.take();
                }
            });
        }
    });
    assert_eq!(counts(&members), [EACH; 8]);
}

#[test]
fn worker_that_accepts_everything_hands_over_all_but_its_share() {
    let (members, _woken) = members(8);
    let stayed = (0..64).filter(|port| members[3].assign(*port, accepted).is_some()).count();
    assert_eq!(stayed, 8);
    assert_eq!(counts(&members), [8; 8]);
    let mut ports: Vec<u16> = members.iter().flat_map(Member::take).map(|it| port(&it)).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 56, "each of the others once");
}

#[test]
fn one_byte_says_that_connections_wait_and_the_end_that_none_will() {
    let (members, mut woken) = members(2);
    for inbox_len in [3, 2] {
        for port in 0..2 * inbox_len {
            members[0].assign(port, accepted);
        }
        assert_eq!(members[1].take().len(), usize::from(inbox_len));
    }
    members[1].leave();
    let mut said = Vec::new();
    woken[1].read_to_end(&mut said).unwrap();
    assert_eq!(said, [1, 1]);
}

#[test]
fn workers_that_leave_swallow_nothing() {
    const EACH: u16 = 2000;
    const ACCEPTORS: u16 = 3;
    let (members, _woken) = members(8);
    let (acceptors, others) = members.split_at(ACCEPTORS.into());
    let arrived = Mutex::new(Vec::new());
    let arrive = |accepted: Vec<Accepted>| {
        arrived.lock().unwrap().extend(accepted.iter().map(port));
    };
    thread::scope(|scope| {
        for (first, acceptor) in (0..).step_by(EACH.into()).zip(acceptors) {
            scope.spawn(move || {
                for port in first..first + EACH {
                    if acceptor.assign(port, accepted).is_some() {
                        arrive(vec![accepted(port)]);
                    }
                    arrive(acceptor.take());
                }
            });
        }
        for (wait_for, other) in (100..).step_by(100).zip(others) {
            scope.spawn(move || {
                let mut count = 0;
                while count < wait_for {
                    let accepted = other.take();
                    count += accepted.len();
                    arrive(accepted);
                }
                other.leave();
                arrive(other.take());
            });
        }
    });
    for acceptor in acceptors {
        arrive(acceptor.take());
    }
    let mut arrived = arrived.into_inner().unwrap();
    arrived.sort_unstable();
    assert!(arrived.into_iter().eq(0..ACCEPTORS * EACH), "each of them once");
    assert!(others.iter().all(|other| other.take().is_empty()));
}

#[test]
fn replacement_begins_with_what_waits_in_the_inbox() {
    let (members, _woken) = members(2);
    for port in 0..4 {
        members[0].assign(port, accepted);
    }
    members[1].take();
    members[0].assign(4, accepted);
    members[0].assign(5, accepted);
    assert_eq!(counts(&members), [3, 3]);
    members[1].leave();
    assert!(members[0].assign(6, accepted).is_some(), "nobody else is there");
    let (replacement, _woken) = members[1].balance.join(1).unwrap();
    assert_eq!(count(&replacement), 1);
    assert_eq!(port(&replacement.take()[0]), 5);
    assert!(members[0].assign(7, accepted).is_none());
}
