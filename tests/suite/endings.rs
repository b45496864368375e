//! Connections that end in every way, at any time: each is accounted for, and the next ones do not
//! notice.

use std::time::Duration;

use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng},
};
use socket2::SockRef;

use crate::{
    frames::{binary, close, text},
    peer::{Peer, TestServer, config_with_workers, with_server},
};

const CONNECTIONS: usize = 1000;

/// At most this many connections are open at a time.
const OPEN_MAX: usize = 50;

#[test]
fn every_ending_is_accounted_for() {
    with_server(&config_with_workers(2), |server| {
        let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut open: Vec<Peer> = Vec::new();
        for _ in 0..CONNECTIONS {
            open.push(begin(server, &mut rng));
            if open.len() == OPEN_MAX {
                let peer = open.swap_remove(rng.random_range(0..OPEN_MAX));
                end(peer, &mut rng);
            }
        }
        drop(open);
        let mut witness = server.open();
        witness.send(text("still here").encode());
        witness.expect(b"\x81\x0astill here");
        witness.send(close(1000, "").encode());
        witness.expect(b"\x88\x02\x03\xe8");
        witness.expect_end();
    });
}

/// Closing a socket with unread bytes in it would reset the connection, and the Close frame with it.
#[test]
fn bytes_behind_a_close_frame_reset_nothing() {
    with_server(&config_with_workers(1), |server| {
        let mut peer = server.open();
        let mut bytes = close(1000, "").encode();
        bytes.resize(bytes.len() + (1 << 20), 0);
        peer.send(bytes);
        peer.expect(b"\x88\x02\x03\xe8");
        peer.expect_end();
    });
}

/// A connection that has said something, or part of it, and may not have listened.
fn begin(server: &TestServer, rng: &mut TestRng) -> Peer {
    let mut peer = server.open();
    let message = binary(vec![7; rng.random_range(0..20_000)]);
    let request = message.encode();
    match rng.random_range(0..4) {
        0 => {}
        1 => peer.send(&request[..rng.random_range(0..request.len())]),
        2 => peer.send(request),
        _ => {
            peer.send(request);
            peer.expect(message.encode_echo());
        }
    }
    peer
}

fn end(mut peer: Peer, rng: &mut TestRng) {
    match rng.random_range(0..5) {
        0 => drop(peer),
        1 => {
            // A reset instead of an orderly end.
            SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
        }
        2 => peer.end(),
        3 => peer.send(close(1001, "going").encode()),
        _ => peer.send([0x83, 0x80, 0, 0, 0, 0]),
    }
}
