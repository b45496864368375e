//! Admission by itself: blocks of addresses, buckets, and counts that are given back exactly once.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, Ipv6Addr},
    rc::Rc,
    sync::atomic::AtomicUsize,
    thread,
    time::Duration,
};

use proptest::prelude::*;

use super::{addresses::BUCKETS_MAX, *};
use crate::config::Within;

fn bounds(connections: u32, of_address: u32, handshakes: u32) -> Bounds {
    Bounds {
        connections_max: Some(Within::new(connections).unwrap()),
        connections_per_ip_max: Within::new(of_address).unwrap(),
        handshakes_max: Within::new(handshakes).unwrap(),
        ..Bounds::default()
    }
}

fn admission(bounds: &Bounds) -> Arc<Admission> {
    Arc::new(Admission::new(bounds))
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn here(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

#[test]
fn addresses_of_an_ipv6_network_count_as_one_and_mapped_ones_as_ipv4() {
    let block = |text| AddressBlock::from(address(text));
    assert_eq!(block("2001:db8:1:2::1"), block("2001:db8:1:2:ffff:ffff:ffff:ffff"));
    assert_ne!(block("2001:db8:1:2::1"), block("2001:db8:1:3::1"));
    assert_ne!(block("2001:db8:1:2::1"), block("2001:db8:2:2::1"));
    assert_eq!(block("::ffff:192.0.2.7"), block("192.0.2.7"));
    assert_ne!(block("::ffff:192.0.2.7"), block("::ffff:192.0.2.8"));
    assert_ne!(block("192.0.2.7"), block("192.0.2.8"));
    // An address of the network that the mapped ones are in, but none of them.
    assert_eq!(block("::1"), block("::2"));
    assert_ne!(block("::1"), block("0.0.0.1"));
}

#[test]
fn each_bound_refuses_for_its_own_reason_until_something_is_given_back() {
    let shared = admission(&bounds(3, 2, 3));
    let mut one = vec![shared.admit(here(1)).unwrap(), shared.admit(here(1)).unwrap()];
    let refusal = shared.admit(here(1)).unwrap_err();
    assert_eq!(refusal, AdmissionRefusal::ConnectionsPerIpMax);
    let other = shared.admit(here(2)).unwrap();
    assert_eq!(shared.admit(here(2)).unwrap_err(), AdmissionRefusal::ConnectionsMax);
    drop(one.pop());
    // What a refused connection was counted for has been given back.
    let second = shared.admit(here(2)).unwrap();
    drop((other, second));
    one.push(shared.admit(here(1)).unwrap());
    drop(one);
    assert_eq!(shared.counts(), (0, 0));

    let shared = admission(&bounds(3, 0, 1));
    let roster = Roster::new(shared.clone());
    let first = roster.enter(shared.admit(here(1)).unwrap(), 7);
    assert_eq!(shared.admit(here(2)).unwrap_err(), AdmissionRefusal::HandshakesMax);
    assert_eq!(shared.counts(), (1, 1));
    first.handshake_over();
    first.handshake_over();
    assert_eq!(shared.counts(), (1, 0));
    let second = shared.admit(here(2)).unwrap();
    // A further request on the first connection is a handshake again.
    assert_eq!(first.handshake_begins(), Err(AdmissionRefusal::HandshakesMax));
    drop(second);
    assert_eq!((first.handshake_begins(), first.handshake_begins()), (Ok(()), Ok(())));
    assert_eq!(shared.counts(), (1, 1));
    drop(first);
    assert_eq!(shared.counts(), (0, 0));
}

#[test]
fn room_bounds_connections_where_the_configuration_does_not() {
    let unbounded = Bounds::default();
    let shared = admission(&unbounded);
    let two = [shared.admit(here(1)).unwrap(), shared.admit(here(1)).unwrap()];
    shared.set_room(Room { connections: 2, refused: 0 }, &unbounded);
    assert_eq!(shared.admit(here(1)).unwrap_err(), AdmissionRefusal::ConnectionsMax);
    shared.set_bounds(&bounds(3, 0, 9));
    drop(shared.admit(here(1)).unwrap());
    shared.set_bounds(&unbounded);
    assert_eq!(shared.admit(here(1)).unwrap_err(), AdmissionRefusal::ConnectionsMax);
    drop(two);
    assert_eq!(shared.counts(), (0, 0));
}

#[test]
fn bounds_of_addresses_can_be_changed_while_connections_are_open() {
    let shared = admission(&bounds(9, 0, 9));
    let uncounted = shared.admit(here(1)).unwrap();
    shared.set_bounds(&bounds(9, 1, 9));
    let counted = shared.admit(here(1)).unwrap();
    drop(uncounted);
    assert_eq!(shared.admit(here(1)).unwrap_err(), AdmissionRefusal::ConnectionsPerIpMax);
    shared.set_bounds(&bounds(9, 0, 9));
    drop(counted);
    shared.set_bounds(&bounds(9, 1, 9));
    drop(shared.admit(here(1)).unwrap());
    assert_eq!(shared.addresses().known(), (0, 0));
}

/// Addresses of which each may open `rate` connections in a second.
fn with_rate(rate: u32) -> Addresses {
    let mut addresses = Addresses::default();
    addresses.rate_max = rate;
    addresses
}

/// How many of `count` connections are admitted at this time.
fn admitted(addresses: &mut Addresses, from: IpAddr, count: u32, milliseconds: u64) -> u32 {
    let now = Duration::from_millis(milliseconds);
    let mut admit = || addresses.admit(from.into(), now);
    (0..count).map(|_| u32::from(admit().is_ok())).sum()
}

#[test]
fn bucket_holds_the_connections_of_a_second_and_fills_evenly() {
    let mut addresses = with_rate(100);
    assert_eq!(admitted(&mut addresses, here(2), 150, 5_000), 100);
    assert_eq!(admitted(&mut addresses, here(3), 1, 5_000), 1, "another address has its own");
    assert_eq!(admitted(&mut addresses, here(2), 5, 5_009), 0);
    assert_eq!(admitted(&mut addresses, here(2), 5, 5_010), 1);
    assert_eq!(admitted(&mut addresses, here(2), 50, 5_310), 30);
    assert_eq!(admitted(&mut addresses, here(2), 500, 60_000), 100);
    let refusal = addresses.admit(here(2).into(), Duration::from_mins(1));
    assert_eq!(refusal, Err(AdmissionRefusal::ConnectRatePerIp));

    let mut addresses = with_rate(1);
    assert_eq!(admitted(&mut addresses, here(2), 2, 0), 1);
    assert_eq!(admitted(&mut addresses, here(2), 2, 999), 0);
    assert_eq!(admitted(&mut addresses, here(2), 2, 1_000), 1);
}

/// A bucket that moves from one generation to the next is as empty as before.
#[test]
fn bucket_admits_no_more_than_its_rate_over_many_seconds() {
    let mut addresses = with_rate(10);
    let admitted: u32 = (0..10_000).map(|now| admitted(&mut addresses, here(2), 1, now)).sum();
    assert_eq!(admitted, 10 + 99);
}

#[test]
fn buckets_of_many_addresses_are_bounded_and_forgotten_when_they_are_full() {
    let mut addresses = with_rate(1);
    let network = |at: u32| Ipv6Addr::from_bits(u128::from(at) << 64 | 0x2001_0db8 << 96);
    for at in 0..5 * BUCKETS_MAX as u32 {
        assert_eq!(admitted(&mut addresses, network(at).into(), 1, 7), 1);
        assert!(addresses.known().1 <= 2 * BUCKETS_MAX);
    }
    for seconds in [2, 3] {
        assert_eq!(admitted(&mut addresses, here(1), 1, seconds * 1_000), 1);
    }
    assert!(addresses.known().1 <= 2, "{:?}", addresses.known());
}

#[test]
fn flood_from_one_ipv6_network_is_one_address() {
    let mut addresses = with_rate(5);
    let flood = (0..100_000_u128).map(|at| Ipv6Addr::from_bits(0x2001_0db8 << 96 | at));
    let admitted: u32 = flood.map(|from| admitted(&mut addresses, from.into(), 1, 7)).sum();
    assert_eq!((admitted, addresses.known().1), (5, 1));
}

#[test]
fn addresses_are_known_only_while_they_have_connections() {
    let shared = admission(&bounds(1 << 20, 3, 1 << 20));
    let tickets: Vec<_> = (0..10_000)
        .map(|at| shared.admit(IpAddr::from(Ipv4Addr::from_bits(at))).unwrap())
        .collect();
    assert_eq!(shared.addresses().known(), (10_000, 0));
    drop(tickets);
    assert_eq!(shared.addresses().known(), (0, 0));
}

#[test]
fn connection_counts_for_the_address_that_it_turns_out_to_be_of() {
    let shared =
        admission(&Bounds { connect_rate_per_ip: Within::new(2).unwrap(), ..bounds(9, 1, 9) });
    let roster = Roster::new(shared.clone());
    let first = roster.enter(shared.admit(None).unwrap(), 3);
    let second = roster.enter(shared.admit(None).unwrap(), 4);
    assert_eq!(shared.addresses().known(), (0, 0));
    assert_eq!(first.belongs_to(Some(here(1))), Ok(()));
    // A further request of the same client takes nothing more.
    for _ in 0..9 {
        assert_eq!(first.belongs_to(Some(here(1))), Ok(()));
    }
    let refused = Err(AdmissionRefusal::ConnectionsPerIpMax);
    assert_eq!(second.belongs_to(Some(here(1))), refused);
    assert_eq!(second.belongs_to(Some(here(2))), Ok(()));
    // One that may not become another's stays what it was.
    assert_eq!(first.belongs_to(Some(here(2))), refused);
    assert_eq!(second.belongs_to(Some(here(1))), refused);
    assert_eq!(first.belongs_to(None), Ok(()));
    assert_eq!(second.belongs_to(Some(here(1))), Ok(()));
    assert_eq!(first.belongs_to(Some(here(2))), Ok(()));
    second.hand_over();
    assert_eq!(shared.addresses().known().0, 2);
    roster.leave(4);
    drop(first);
    assert_eq!((shared.counts(), shared.addresses().known().0), ((0, 0), 0));
}

#[test]
fn streams_count_for_their_own_addresses_and_their_connection_for_none() {
    let shared =
        admission(&Bounds { connect_rate_per_ip: Within::new(1000).unwrap(), ..bounds(9, 1, 9) });
    let roster = Roster::new(shared.clone());
    let connection = roster.enter(shared.admit(None).unwrap(), 3);
    let stream = |last| connection.admit_stream(Some(here(last))).map(Option::unwrap);
    let (first, second) = (stream(1).unwrap(), stream(2).unwrap());
    assert_eq!(shared.addresses().known(), (2, 2), "each has a place and has taken a token");
    assert_eq!(stream(1).unwrap_err(), AdmissionRefusal::ConnectionsPerIpMax);
    assert_eq!(shared.admit(here(1)).unwrap_err(), AdmissionRefusal::ConnectionsPerIpMax);
    drop((first, stream(3).unwrap()));
    drop(stream(1).unwrap());
    assert!(connection.admit_stream(None).unwrap().is_none());
    assert_eq!((shared.counts(), shared.addresses().known().0), ((1, 1), 1));
    drop(second);
    assert_eq!(shared.addresses().known().0, 0);
}

/// As when a worker dies and its runtime leaves tasks behind.
#[test]
fn closed_roster_gives_back_everything_once() {
    let shared = admission(&bounds(9, 9, 9));
    let roster = Roster::new(shared.clone());
    let enter = |descriptor| roster.enter(shared.admit(here(1)).unwrap(), descriptor);
    enter(3).hand_over();
    let (in_handshake, open) = (enter(4), enter(5));
    open.handshake_over();
    let stream = open.admit_stream(Some(here(2))).unwrap();
    let elsewhere = shared.admit(here(1)).unwrap();
    assert_eq!(shared.counts(), (4, 2));
    roster.close();
    assert_eq!(shared.counts(), (1, 1));
    assert_eq!(shared.addresses().known().0, 1);
    assert_eq!(open.handshake_begins(), Ok(()));
    assert!(open.admit_stream(Some(here(2))).unwrap().is_none());
    drop((in_handshake, open, stream));
    roster.leave(3);
    roster.close();
    assert_eq!(shared.counts(), (1, 1));
    drop(elsewhere);
    assert_eq!((shared.counts(), shared.addresses().known()), ((0, 0), (0, 0)));
}

/// What a worker's table knows of a connection.
struct Known {
    /// `None` as long as it is not known.
    from: Option<IpAddr>,
    roster: usize,
    is_in_handshake: bool,
    descriptor: RawDescriptor,
    /// `None` once it has been handed over.
    entered: Option<Entered>,
}

type RawDescriptor = i32;

#[derive(Clone, Copy, Debug)]
enum Step {
    Admit { from: u8, roster: usize },
    BelongTo(usize, u8),
    BeginHandshake(usize),
    EndHandshake(usize),
    OpenStream(usize, u8),
    EndStream(usize),
    HandOver(usize),
    End(usize),
    CloseRoster(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (any::<usize>(), 0..5_u8).prop_map(|(at, from)| Step::BelongTo(at, from)),
        6 => (0..5_u8, 0..2_usize).prop_map(|(from, roster)| Step::Admit { from, roster }),
        1 => any::<usize>().prop_map(Step::BeginHandshake),
        2 => any::<usize>().prop_map(Step::EndHandshake),
        2 => (any::<usize>(), 0..5_u8).prop_map(|(at, from)| Step::OpenStream(at, from)),
        2 => any::<usize>().prop_map(Step::EndStream),
        2 => any::<usize>().prop_map(Step::HandOver),
        3 => any::<usize>().prop_map(Step::End),
        1 => (0..2_usize).prop_map(Step::CloseRoster),
    ];
    prop::collection::vec(step, 0..200)
}

/// One of four addresses, or none.
fn address_of(number: u8) -> Option<IpAddr> {
    (number < 4).then(|| here(number))
}

/// A stream, of a connection in a roster.
struct KnownStream {
    from: Option<IpAddr>,
    roster: usize,
    entered: Option<EnteredStream>,
}

/// What a naive reader of the bounds would say to one more connection or stream of an address.
fn expected_of_address(
    (known, streams): (&[Known], &[KnownStream]),
    from: Option<IpAddr>,
) -> Result<(), AdmissionRefusal> {
    let known = known.iter().map(|it| it.from).chain(streams.iter().map(|it| it.from));
    if from.is_some() && known.filter(|it| *it == from).count() >= 3 {
        return Err(AdmissionRefusal::ConnectionsPerIpMax);
    }
    Ok(())
}

/// The same to one more connection.
fn expected(
    (known, streams): (&[Known], &[KnownStream]),
    from: Option<IpAddr>,
) -> Result<(), AdmissionRefusal> {
    expected_of_address((known, streams), from)?;
    if known.len() >= 8 {
        return Err(AdmissionRefusal::ConnectionsMax);
    }
    expected_of_handshake(known)
}

/// The same to one more handshake.
fn expected_of_handshake(known: &[Known]) -> Result<(), AdmissionRefusal> {
    if known.iter().filter(|it| it.is_in_handshake).count() >= 5 {
        return Err(AdmissionRefusal::HandshakesMax);
    }
    Ok(())
}

proptest! {
    /// Whatever connections and workers do, they are admitted as if all were counted anew each time.
    #[test]
    fn admission_is_that_of_a_count_of_all_connections(steps in steps()) {
        let shared = admission(&bounds(8, 3, 5));
        let mut rosters = [Roster::new(shared.clone()), Roster::new(shared.clone())];
        let mut known: Vec<Known> = Vec::new();
        let mut streams: Vec<KnownStream> = Vec::new();
        let mut left_behind = Vec::new();
        let mut streams_left_behind = Vec::new();
        for (descriptor, step) in (0..).zip(steps) {
            match step {
                Step::Admit { from, roster } => {
                    let from = address_of(from);
                    let ticket = shared.admit(from);
                    prop_assert_eq!(ticket.as_ref().map(|_| ()).map_err(|it| *it), expected((&known, &streams), from));
                    if let Ok(ticket) = ticket {
                        let entered = Some(rosters[roster].enter(ticket, descriptor));
                        known.push(Known { from, roster, is_in_handshake: true, descriptor, entered });
                    }
                }
                Step::BelongTo(at, from) if !known.is_empty() => {
                    let (at, from) = (at % known.len(), address_of(from));
                    let stays = known[at].from == from;
                    let expected = if stays { Ok(()) } else { expected_of_address((&known, &streams), from) };
                    if let Some(entered) = &known[at].entered {
                        prop_assert_eq!(entered.awaits_address(), known[at].from.is_none());
                        prop_assert_eq!(entered.belongs_to(from), expected);
                        if expected.is_ok() {
                            known[at].from = from;
                        }
                    }
                }
                Step::BeginHandshake(at) if !known.is_empty() => {
                    let at = at % known.len();
                    let stays = known[at].is_in_handshake;
                    let expected = if stays { Ok(()) } else { expected_of_handshake(&known) };
                    let it = &mut known[at];
                    if let Some(entered) = &it.entered {
                        prop_assert_eq!(entered.handshake_begins(), expected);
                        it.is_in_handshake |= expected.is_ok();
                    }
                }
                Step::OpenStream(at, from) if !known.is_empty() => {
                    let (at, from) = (at % known.len(), address_of(from));
                    let Known { roster, entered, .. } = &known[at];
                    if let Some(connection) = entered {
                        let entered = connection.admit_stream(from);
                        let expected = expected_of_address((&known, &streams), from);
                        prop_assert_eq!(entered.as_ref().map(|_| ()).map_err(|it| *it), expected);
                        if let Ok(entered) = entered {
                            prop_assert_eq!(entered.is_some(), from.is_some());
                            streams.push(KnownStream { from, roster: *roster, entered });
                        }
                    }
                }
                Step::EndStream(at) if !streams.is_empty() => {
                    drop(streams.swap_remove(at % streams.len()));
                }
                Step::EndHandshake(at) if !known.is_empty() => {
                    let at = at % known.len();
                    let it = &mut known[at];
                    if let Some(entered) = &it.entered {
                        entered.handshake_over();
                        it.is_in_handshake = false;
                    }
                }
                Step::HandOver(at) if !known.is_empty() => {
                    let at = at % known.len();
                    let it = &mut known[at];
                    if let Some(entered) = it.entered.take_if(|_| !it.is_in_handshake) {
                        entered.hand_over();
                    }
                }
                Step::End(at) if !known.is_empty() => {
                    let Known { roster, descriptor, entered, .. } = known.swap_remove(at % known.len());
                    if entered.is_none() {
                        rosters[roster].leave(descriptor);
                    }
                }
                Step::CloseRoster(roster) => {
                    rosters[roster].close();
                    rosters[roster] = Roster::new(shared.clone());
                    let (gone, rest) = known.into_iter().partition(|it| it.roster == roster);
                    known = rest;
                    let gone: Vec<Known> = gone;
                    left_behind.extend(gone);
                    let (gone, rest) = streams.into_iter().partition(|it| it.roster == roster);
                    streams = rest;
                    let gone: Vec<KnownStream> = gone;
                    streams_left_behind.extend(gone.into_iter().filter_map(|it| it.entered));
                }
                // There is none to take the step.
                _ => {}
            }
            let handshakes = known.iter().filter(|it| it.is_in_handshake).count() as u32;
            prop_assert_eq!(shared.counts(), (known.len() as u32, handshakes));
            let addresses: HashSet<IpAddr> = known
                .iter()
                .filter_map(|it| it.from)
                .chain(streams.iter().filter_map(|it| it.from))
                .collect();
            prop_assert_eq!(shared.addresses().known().0, addresses.len());
        }
        drop((left_behind, streams_left_behind, known, streams, rosters));
        prop_assert_eq!((shared.counts(), shared.addresses().known().0), ((0, 0), 0));
    }
}

#[test]
fn threads_never_have_more_than_the_bounds_together() {
    const THREADS: u8 = 4;
    let shared = admission(&bounds(5, 2, 4));
    let most = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (shared, most) = (&shared, &most);
            scope.spawn(move || {
                let roster: Rc<Roster> = Roster::new(shared.clone());
                for round in 0..2_000 {
                    let admitted = [1, 2].map(|last| shared.admit(here(last + thread % 2)).ok());
                    let (connections, handshakes) = shared.counts();
                    assert!(connections <= 5 && handshakes <= 4, "{connections}, {handshakes}");
                    most.fetch_max(connections as usize, Relaxed);
                    for (descriptor, ticket) in (0..).zip(admitted.into_iter().flatten()) {
                        let entered = roster.enter(ticket, descriptor);
                        if round % 2 == 0 {
                            entered.handshake_over();
                        }
                    }
                }
            });
        }
    });
    assert!(most.into_inner() > 0);
    assert_eq!((shared.counts(), shared.addresses().known().0), ((0, 0), 0));
}
