//! What TCP lets a peer do beside sending bytes in order: urgent bytes, which are left out of the
//! stream and cut what is received at once.

use socket2::SockRef;

use crate::{
    frames::{binary, text},
    peer::{Peer, UPGRADE, config, with_server},
};

const URGENT: &[u8] = b"!";

/// Sends an urgent byte. The kernel knows of one at a time, and leaves an earlier one that has not been
/// passed in the stream.
fn interject(peer: &Peer) {
    assert_eq!(SockRef::from(&peer.stream).send_out_of_band(URGENT).unwrap(), 1);
}

/// Bytes that come behind an urgent one are not announced by themselves.
#[test]
fn urgent_bytes_are_no_part_of_a_message_and_hold_up_nothing_behind_them() {
    with_server(&config(), |server| {
        for message in [text("small and held"), binary(vec![7; 10_000])] {
            let frame = message.encode();
            for cut in [1, 3, 7, frame.len() - 1] {
                let mut peer = server.open();
                for _ in 0..3 {
                    let (begin, rest) = frame.split_at(cut);
                    peer.send(begin);
                    interject(&peer);
                    peer.send(rest);
                    peer.expect(message.encode_echo());
                }
            }
        }
    });
}

#[test]
fn urgent_bytes_are_no_part_of_a_request_head() {
    with_server(&config(), |server| {
        let mut peer = server.connect();
        let (begin, rest) = UPGRADE.split_at(20);
        peer.send(begin);
        interject(&peer);
        peer.send(rest);
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
        peer.send(text("hello").encode());
        peer.expect(text("hello").encode_echo());
    });
}
