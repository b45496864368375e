//! Hostile requests against the program itself: bodies without end, and connections that are kept.

use std::io::Write;

use crate::{
    hostile::{KIB, ONCE_MAX, assert_bounded, assert_bounded_on},
    hostile_floods::connect_with_room,
    peer::Peer,
};

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";

/// What a peer sends until the server takes no more, at most 4 MiB; the server may answer, and close,
/// before that.
fn pour(peer: &mut Peer, head: &str, piece: &[u8]) {
    peer.send(head);
    let piece = piece.repeat((1 << 16) / piece.len() + 1);
    for _ in 0..64 {
        if peer.stream.write_all(&piece).is_err() {
            return;
        }
    }
}

#[test]
fn endless_bodies_take_no_memory() {
    let long_line = [b"1;", &[b'x'; 1000][..], b"\r\na\r\n"].concat();
    for (name, fields, piece) in [
        ("a body of 2^63 bytes", "Content-Length: 9223372036854775808", &b"body"[..]),
        ("a body of chunks of one byte", "Transfer-Encoding: chunked", b"1\r\na\r\n"),
        ("a body of chunk extensions", "Transfer-Encoding: chunked", &long_line),
        ("a chunk of 2^64 - 1 bytes", "Transfer-Encoding: chunked", b"ffffffffffffffff\r\n"),
        ("a line without an end", "Transfer-Encoding: chunked", b"1;xxxx"),
        (
            "a trailer section without an end",
            "Transfer-Encoding: chunked\r\nX: y",
            b"0\r\na: b\r\n",
        ),
    ] {
        for path in ["/", "/http"] {
            let name = format!("20 times {name}, to {path}");
            let arguments = ["--http-echo=/http", "--handshake-timeout=1h"];
            assert_bounded(&name, ONCE_MAX, &arguments, |address| {
                let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
                for _ in 0..20 {
                    let mut peer = Peer::connect(address);
                    pour(&mut peer, &head, piece);
                }
            });
        }
    }
}

#[test]
fn a_million_empty_lines_between_requests_take_no_memory() {
    assert_bounded("a million empty lines behind a request", ONCE_MAX, &[], |address| {
        let mut peer = Peer::connect(address);
        peer.expect_health();
        pour(&mut peer, "", b"\r\n");
    });
}

/// Each waits with what its task takes, and without the 8 KiB of a request head.
#[test]
fn connections_between_requests_hold_no_buffers() {
    const PEERS: u64 = 2000;
    let growth_max = ONCE_MAX + PEERS * 5 * KIB;
    assert_bounded("2,000 connections between two requests", growth_max, &[], |address| {
        let mut peers: Vec<Peer> = (0..PEERS).map(|_| Peer::connect(address)).collect();
        for peer in &mut peers {
            peer.expect_health();
        }
        peers
    });
}

/// The server's socket takes the whole page, so the response has been sent, and another request may
/// come.
#[test]
fn pages_that_nobody_takes_on_connections_that_go_on_end_with_their_time() {
    const PEERS: usize = 100;
    let arguments = ["--write-timeout=1s", "--close-timeout=1s"];
    let growth_max = ONCE_MAX + PEERS as u64 * 12 * KIB;
    assert_bounded_on("100 pages that nobody takes, kept", growth_max, &arguments, |target| {
        let descriptors = target.descriptors();
        let peers: Vec<Peer> = (0..PEERS)
            .map(|_| {
                let mut peer = connect_with_room(target.address, 1);
                peer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                peer
            })
            .collect();
        // The peers are still there, and their side is open.
        target.expect_descriptors(descriptors);
        peers
    });
}

/// The responses of a thousand requests are sent as the peer takes them.
#[test]
fn requests_without_end_wait_for_their_peer() {
    const PEERS: usize = 20;
    let growth_max = ONCE_MAX + PEERS as u64 * 24 * KIB;
    assert_bounded("20 times 1,000 requests for the page", growth_max, &[], |address| {
        (0..PEERS)
            .map(|_| {
                let mut peer = connect_with_room(address, 1);
                peer.send_until_blocked(
                    "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000).as_bytes(),
                );
                peer.send_until_blocked(HEALTH.as_bytes());
                peer
            })
            .collect::<Vec<_>>()
    });
}
