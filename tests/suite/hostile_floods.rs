//! Floods of what is cheap to send: fragments, control frames, connections, resets, requests. As in
//! [`hostile`](crate::hostile), each costs no more memory than a bound, and the next peer is served.

use std::{io::Read, net::SocketAddr, thread, time::Duration};

use ringecho::protocol::OpCode;
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    frames::{ClientFrame, pong, text},
    hostile::{KIB, MIB, ONCE_MAX, Target, assert_bounded, assert_bounded_on, flood},
    peer::{Peer, UPGRADE},
};

const PAGE_REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// A fragment without payload adds nothing to its message, so no bound on payload stops it.
#[test]
fn a_million_empty_fragments_take_no_memory() {
    let fragment = ClientFrame::new(false, OpCode::Continuation, "");
    let (requests, replies) = (fragment.encode().repeat(1000), fragment.encode_echo().repeat(1000));
    let first = ClientFrame::new(false, OpCode::Text, "x");
    // As long as the message of the client that is served afterwards.
    let bounded = ["--message-size-max=6"];
    assert_bounded("a million empty fragments", ONCE_MAX, &bounded, |address| {
        let mut peer = Peer::open(address);
        peer.send(first.encode());
        peer.expect(first.encode_echo());
        flood(&mut peer, requests.clone(), &replies, 1000, Duration::ZERO);
    });
}

/// Each connection holds a message that never ends, and the server nothing of it.
#[test]
fn endless_messages_of_small_fragments_on_many_connections_take_no_memory() {
    const CONNECTIONS: usize = 100;
    const FRAGMENTS: usize = 10_000;
    let first = ClientFrame::new(false, OpCode::Binary, "x");
    let fragment = ClientFrame::new(false, OpCode::Continuation, "x");
    let request = [first.encode(), fragment.encode().repeat(FRAGMENTS)].concat();
    let reply = [first.encode_echo(), fragment.encode_echo().repeat(FRAGMENTS)].concat();
    let name = "100 messages of 10,000 fragments of one byte, without their ends";
    assert_bounded(name, ONCE_MAX + CONNECTIONS as u64 * 16 * KIB, &[], |address| {
        (0..CONNECTIONS)
            .map(|_| {
                let mut peer = Peer::open(address);
                flood(&mut peer, request.clone(), &reply, 1, Duration::ZERO);
                peer
            })
            .collect::<Vec<_>>()
    });
}

#[test]
fn flood_of_pongs_takes_no_memory_and_no_answer() {
    let request = pong(&"p".repeat(125)).encode().repeat(1000);
    let (question, answer) = (text("still here?").encode(), text("still here?").encode_echo());
    assert_bounded("100,000 Pongs of 125 bytes", ONCE_MAX, &[], |address| {
        let mut peer = Peer::open(address);
        for _ in 0..100 {
            peer.send(&request);
        }
        peer.send(&question);
        peer.expect(&answer);
    });
}

#[test]
fn flood_of_connections_that_are_reset_leaves_nothing_behind() {
    let resets = |target: &Target| {
        let descriptors = target.descriptors();
        for said in ["", "G", &UPGRADE[..UPGRADE.len() - 2], UPGRADE].repeat(500) {
            let mut peer = Peer::connect(target.address);
            peer.send(said);
            SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        target.expect_descriptors(descriptors);
    };
    assert_bounded_on("2,000 connections that are reset", ONCE_MAX, &[], resets);
}

#[test]
fn upgrades_that_end_at_once_leave_nothing_behind() {
    let leave = |target: &Target| {
        let descriptors = target.descriptors();
        for _ in 0..2000 {
            drop(Peer::open(target.address));
        }
        target.expect_descriptors(descriptors);
    };
    assert_bounded_on("2,000 upgrades that end at once", ONCE_MAX, &[], leave);
}

#[test]
fn a_thousand_connections_that_say_nothing_end_with_their_time() {
    let arguments = ["--handshake-timeout=1s"];
    // Room for a request head of 8 KiB, and what a task takes.
    let growth_max = ONCE_MAX + 1000 * 12 * KIB;
    assert_bounded("1,000 connections that say nothing", growth_max, &arguments, |address| {
        let mut peers: Vec<Peer> = (0..1000).map(|_| Peer::connect(address)).collect();
        for peer in &mut peers {
            assert!(peer.read_to_end().starts_with("HTTP/1.1 408 "));
        }
    });
}

#[test]
fn pages_that_nobody_takes_end_with_their_time() {
    const PEERS: usize = 300;
    let arguments = ["--close-timeout=1s"];
    let growth_max = ONCE_MAX + PEERS as u64 * 12 * KIB;
    assert_bounded_on("300 pages that nobody takes", growth_max, &arguments, |target| {
        let descriptors = target.descriptors();
        let peers: Vec<Peer> = (0..PEERS)
            .map(|_| {
                let mut peer = connect_with_room(target.address, 1);
                peer.send(PAGE_REQUEST);
                peer
            })
            .collect();
        // The peers are still there, and their side is open.
        target.expect_descriptors(descriptors);
        peers
    });
}

/// A connection whose receive buffer is asked to have so many bytes; the kernel has a least.
pub fn connect_with_room(address: SocketAddr, len: usize) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(len).unwrap();
    socket.connect(&address.into()).unwrap();
    Peer { stream: socket.into() }
}

/// What a peer has taken and what comes in its place may not be kept at the same time.
#[test]
fn peers_that_read_a_little_now_and_then_are_held_back() {
    const PEERS: usize = 10;
    let mut endless = vec![0x82, 0xff];
    endless.extend_from_slice(&(1_u64 << 40).to_be_bytes());
    endless.extend_from_slice(&[0; 4]);
    endless.resize(64 << 20, 7);
    let arguments = ["--unsent-max=4MiB", "--receive-buffer=64KiB"];
    // On the portable path, each has a receive buffer of its own. 4 MiB is what a worker keeps of copies
    // for those to come; the allocator gives back what is freed some time later.
    let growth_max = PEERS as u64 * (4 * MIB + 64 * KIB) + 12 * MIB;
    let name = "10 peers that send without end and read a little";
    assert_bounded(name, growth_max, &arguments, |address| {
        let open = || {
            let mut peer = connect_with_room(address, 32 << 10);
            peer.send(UPGRADE);
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
            peer
        };
        let mut peers: Vec<Peer> = (0..PEERS).map(|_| open()).collect();
        thread::scope(|scope| {
            for peer in &mut peers {
                scope.spawn(|| send_and_read_a_little(peer, &endless));
            }
        });
        peers
    });
}

/// Sends as much as the server takes, and reads some of what it sends back, in turns.
fn send_and_read_a_little(peer: &mut Peer, mut endless: &[u8]) {
    const TURNS: usize = 20;
    for turn in 1..=TURNS {
        loop {
            match peer.send_until_blocked(endless) {
                0 => break,
                sent_len => endless = &endless[sent_len..],
            }
        }
        assert!(!endless.is_empty(), "the server goes on receiving");
        peer.stream.read_exact(&mut vec![0; turn * (64 << 10)]).unwrap();
    }
}
