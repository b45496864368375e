//! What is said between a scripted peer and a real worker.

use std::{io::Read, net::SocketAddr, thread};

use ringecho::{
    config::{self, Config, Echo, Handshake, Network, Size, Within},
    protocol::OpCode,
};
use socket2::SockRef;

use crate::{
    frames::{ClientFrame, binary, close, ping, pong, server_close, text},
    peer::{Peer, UPGRADE, config, with_server},
};

//= https://www.rfc-editor.org/rfc/rfc6455#section-6.1
//= type=test
//# The opcode (frame-opcode) of the first frame containing the data MUST be set to the appropriate
//# value from Section 5.2 for data that is to be interpreted by the recipient as text or binary
//# data.
#[test]
fn text_and_binary_are_echoed() {
    with_server(&config(), |server| {
        let mut peer = server.open();
        for frame in [text("hello"), binary([0, 255, 7]), text(""), binary(vec![1; 70_000])] {
            peer.send(frame.encode());
            peer.expect(frame.encode_echo());
        }
    });
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.2
//= type=test
//# Upon receipt of a Ping frame, an endpoint MUST send a Pong frame in response, unless it already
//# received a Close frame.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.3
//= type=test
//# A Pong frame sent in response to a Ping frame must have identical "Application data" as found in
//# the message body of the Ping frame being replied to.
#[test]
fn ping_is_answered_with_the_same_payload() {
    with_server(&config(), |server| {
        let mut peer = server.open();
        peer.send(ping("are you there?").encode());
        peer.expect(b"\x8a\x0eare you there?");
        peer.send(pong("unasked").encode());
        peer.send(text("still here").encode());
        peer.expect(b"\x81\x0astill here");
    });
}

#[test]
fn a_peer_may_send_much_before_it_reads() {
    // More than the sockets' buffers take.
    const LEN: usize = 24 << 20;
    let unsent_max = Within::new(Size(LEN as u64 + 1024)).unwrap();
    let echo = Echo { unsent_max, ..Echo::default() };
    with_server(&Config { echo, ..config() }, |server| {
        let mut peer = server.open();
        let message = binary(vec![5; LEN]);
        peer.send(message.encode());
        peer.expect(message.encode_echo());
    });
}

#[test]
fn frames_that_come_with_the_request_are_echoed() {
    with_server(&config(), |server| {
        let mut peer = server.connect();
        let first = text("early bird");
        let second = binary(vec![3; 3000]);
        let second_request = second.encode();
        let (begin, rest) = second_request.split_at(1000);
        peer.send([UPGRADE.as_bytes(), &first.encode(), begin].concat());
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
        peer.expect(first.encode_echo());
        peer.send(rest);
        peer.expect(second.encode_echo());
    });
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
//= type=test
//# If an endpoint receives a Close frame and did not previously send a Close frame, the endpoint
//# MUST send a Close frame in response.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
//= type=test
//# After both sending and receiving a Close message, an endpoint considers the WebSocket connection
//# closed and MUST close the underlying TCP connection.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
//= type=test
//# The server MUST close the underlying TCP connection immediately
#[test]
fn close_is_echoed_with_code_and_reason_and_then_the_connection_ends() {
    with_server(&config(), |server| {
        for (code, reason) in [(1000, ""), (1001, "going"), (4999, "private")] {
            let mut peer = server.open();
            peer.send(close(code, reason).encode());
            peer.expect(server_close(code, reason));
            peer.expect_end();
        }
        let mut peer = server.open();
        peer.send(ClientFrame::new(true, OpCode::Close, []).encode());
        peer.expect(b"\x88\x00");
        peer.expect_end();
    });
}

#[test]
fn everything_before_a_close_is_echoed_although_more_follows_it() {
    with_server(&config(), |server| {
        let mut peer = server.open();
        let messages: Vec<_> = (0..200).map(|number| binary(vec![number; 500])).collect();
        let mut request: Vec<u8> = messages.iter().flat_map(ClientFrame::encode).collect();
        request.extend(close(1000, "that was all").encode());
        request.extend(text("not any more").encode().repeat(1000));
        let mut writer = peer.stream.try_clone().unwrap();
        let sending = thread::spawn(move || {
            // The server stops reading at some time after the Close.
            let _ = std::io::Write::write_all(&mut writer, &request);
        });
        for message in &messages {
            peer.expect(message.encode_echo());
        }
        peer.expect(server_close(1000, "that was all"));
        peer.expect_end();
        sending.join().unwrap();
    });
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-5.1
//= type=test
//# The server MUST close the connection upon receiving a frame that is not masked.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
//= type=test
//# Control frames themselves MUST NOT be fragmented.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
//= type=test
//# The fragments of one message MUST NOT be interleaved between the fragments of another message
//# unless an extension has been negotiated that can interpret the interleaving.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
//= type=test
//# Since control frames cannot be fragmented, the type for all fragments in a message MUST be
//# either text, binary, or one of the reserved opcodes.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.5
//= type=test
//# All control frames MUST have a payload length of 125 bytes or less and MUST NOT be fragmented.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
//= type=test
//# If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer (in
//# network byte order) representing a status code with value /code/ defined in Section 7.4.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.6
//= type=test
//# Note that a particular text frame might include a partial UTF-8 sequence; however, the whole
//# message MUST contain valid UTF-8.
//= https://www.rfc-editor.org/rfc/rfc6455#section-7.1.7
//= type=test
//# Similarly, to do so, the server MUST _Close the WebSocket Connection_, and SHOULD log the
//# problem.
#[test]
fn violations_are_answered_with_their_close_code() {
    let message_size_max = Within::new(Size(1000)).unwrap();
    let frame_size_max = Within::new(Size(5000)).unwrap();
    let echo = Echo { message_size_max, frame_size_max, ..Echo::default() };
    with_server(&Config { echo, ..config() }, |server| {
        let fragment = |opcode| ClientFrame::new(false, opcode, "x").encode();
        for (violation, code, reason) in [
            (vec![0x81, 0x01, b'x'], 1002, "a frame from a client is not masked"),
            (vec![0xf1, 0x80, 0, 0, 0, 0], 1002, "a reserved bit is set"),
            (vec![0xc1, 0x80, 0, 0, 0, 0], 1002, "a reserved bit is set"),
            (vec![0x83, 0x80], 1002, "the opcode is reserved"),
            (vec![0x09, 0x80], 1002, "a control frame is fragmented"),
            (vec![0x89, 0xfe], 1002, "a control frame has more than 125 bytes"),
            (fragment(OpCode::Continuation), 1002, "a continuation frame continues nothing"),
            (
                [fragment(OpCode::Text), fragment(OpCode::Text)].concat(),
                1002,
                "a new message begins inside a fragmented one",
            ),
            (
                binary(vec![0; 1001]).encode(),
                1009,
                "the message is longer than this server accepts",
            ),
            // The header alone.
            (
                binary(vec![0; 5001]).encode()[..8].to_vec(),
                1009,
                "a frame is longer than this server accepts",
            ),
            (
                ClientFrame::new(true, OpCode::Text, [b'a', 0xff]).encode(),
                1007,
                "a text message is not UTF-8",
            ),
            (
                ClientFrame::new(true, OpCode::Text, [0xe2, 0x82]).encode(),
                1007,
                "a text message is not UTF-8",
            ),
            (
                ClientFrame::new(true, OpCode::Close, [3]).encode(),
                1002,
                "a Close frame has half a close code",
            ),
            (close(1005, "").encode(), 1002, "the close code may not be sent"),
            (
                ClientFrame::new(true, OpCode::Close, [3, 232, 0xff]).encode(),
                1007,
                "the reason in a Close frame is not UTF-8",
            ),
        ] {
            let mut peer = server.open();
            let before = binary("before");
            peer.send([before.encode(), violation.clone()].concat());
            peer.expect(before.encode_echo());
            if reason == "a new message begins inside a fragmented one" {
                peer.expect(b"\x01\x01x");
            }
            peer.expect(server_close(code, reason));
            peer.expect_end();
        }
    });
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-8.1
//= type=test
//# When an endpoint is to interpret a byte stream as UTF-8 but finds that the byte stream is not,
//# in fact, a valid UTF-8 stream, that endpoint MUST _Fail the WebSocket Connection_.
#[test]
fn fault_in_a_text_is_answered_before_its_frame_is_whole() {
    with_server(&config(), |server| {
        let mut peer = server.open();
        let frame = ClientFrame::new(true, OpCode::Text, &b"caf\xc3\xff, and much more"[..]);
        let request = frame.encode();
        peer.send(&request[..6 + 4]);
        peer.send(&request[6 + 4..6 + 5]);
        peer.expect(server_close(1007, "a text message is not UTF-8"));
        peer.expect_end();
    });
}

#[test]
fn compressed_messages_come_back_as_they_are() {
    let compression = config::Compression::PassThrough;
    let handshake = Handshake { compression, ..Handshake::default() };
    let config = Config { handshake, ..config() };
    with_server(&config, |server| {
        let mut peer = server.connect();
        let offer = "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
        peer.send(UPGRADE.replace("\r\n\r\n", offer));
        assert!(peer.read_head().ends_with(offer));
        // RFC 7692 §7.2.3.1 and §7.2.3.2: "Hello" compressed, then once more out of the context.
        for payload in [
            vec![0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            vec![0xf2, 0x00, 0x11, 0x00, 0x00],
            vec![0xff; 70_000],
        ] {
            let frame = ClientFrame { rsv1: true, ..ClientFrame::new(true, OpCode::Text, payload) };
            peer.send(frame.encode());
            peer.expect(frame.encode_echo());
        }
        let mut plain = server.open();
        plain.send([0xc1, 0x80, 0, 0, 0, 0]);
        plain.expect(server_close(1002, "a reserved bit is set"));
        plain.expect_end();
    });
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
//= type=test
//# An endpoint MUST be capable of handling control frames in the middle of a fragmented message.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
//= type=test
//# Clients and servers MUST support receiving both fragmented and unfragmented messages.
//= https://www.rfc-editor.org/rfc/rfc6455#section-6.1
//= type=test
//# The FIN bit (frame-fin) of the last frame containing the data MUST be set to 1 as defined in
//# Section 5.2.
#[test]
fn fragments_come_back_as_they_were_sent() {
    with_server(&config(), |server| {
        let mut peer = server.open();
        let fragments = [
            ClientFrame::new(false, OpCode::Text, "one "),
            ClientFrame::new(false, OpCode::Continuation, ""),
            ClientFrame::new(true, OpCode::Continuation, "message"),
        ];
        for fragment in &fragments {
            peer.send(fragment.encode());
            peer.expect(fragment.encode_echo());
            peer.send(ping("between").encode());
            peer.expect(b"\x8a\x07between");
        }
    });
}

#[test]
fn peer_that_ends_its_side_still_gets_its_echoes() {
    with_server(&config(), |server| {
        let mut peer = server.open();
        peer.send(binary(vec![5; 100_000]).encode());
        peer.end();
        peer.expect(binary(vec![5; 100_000]).encode_echo());
        peer.expect_end();
    });
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-6.1
//= type=test
//# The frame(s) that have been formed MUST be transmitted over the underlying network connection.
#[test]
fn slow_reader_gets_everything_and_the_pong_behind_it() {
    with_server(&config(), |server| {
        let mut peer = server.open();
        let message = binary((0..=u8::MAX).cycle().take(8 << 20).collect::<Vec<u8>>());
        let ping = ping("while the echo is blocked");
        let mut writer = peer.stream.try_clone().unwrap();
        let request = [message.encode(), ping.encode()].concat();
        let sending = thread::spawn(move || {
            std::io::Write::write_all(&mut writer, &request).expect("the server reads");
        });
        let expected = [message.encode_echo(), ping.encode_echo()].concat();
        let mut received = vec![0; expected.len()];
        for piece in received.chunks_mut(100_001) {
            thread::yield_now();
            peer.stream.read_exact(piece).unwrap();
        }
        assert!(received == expected);
        sending.join().unwrap();
    });
}

#[test]
fn peers_that_do_not_read_hold_up_nobody_and_lose_nothing() {
    // One endless frame each, as much of it as the server takes while nobody reads.
    let (request, reply) = (endless_frame(true), endless_frame(false));
    with_server(&config(), |server| {
        let stalled: Vec<(Peer, usize)> = (0..5)
            .map(|_| {
                let mut peer = server.open();
                let buffer_len = 64 << 10;
                SockRef::from(&peer.stream).set_recv_buffer_size(buffer_len).unwrap();
                SockRef::from(&peer.stream).set_send_buffer_size(buffer_len).unwrap();
                let sent_len = peer.send_until_blocked(&request);
                assert!(sent_len < request.len());
                (peer, sent_len)
            })
            .collect();
        let mut witness = server.open();
        for number in 0..200 {
            let message = binary(vec![number; 1000]);
            witness.send(message.encode());
            witness.expect(message.encode_echo());
        }
        for (mut peer, sent_len) in stalled {
            peer.expect(&reply[..sent_len - 4]);
        }
    });
}

/// The begin of a frame, 64 MiB, which is more than sockets hold: what a client sends of it, with a
/// masking key of zero, or what comes back.
fn endless_frame(masked: bool) -> Vec<u8> {
    let mut frame = vec![0x82, if masked { 0xff } else { 0x7f }];
    frame.extend_from_slice(&(1_u64 << 40).to_be_bytes());
    frame.extend_from_slice(if masked { &[0; 4] } else { &[] });
    for number in 0..1_u32 << 24 {
        frame.extend_from_slice(&number.to_ne_bytes());
    }
    frame
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
//= type=test
//# The application MUST NOT send any more data frames after sending a Close frame.
#[test]
fn stopping_server_says_goodbye_between_messages() {
    with_server(&config(), |server| {
        let mut idle = server.open();
        let mut requesting = server.connect();
        requesting.send("GET / HTTP/1.1\r\n");
        // Connections are accepted in turn: once this one is open, the one before is accepted.
        let mut busy = server.open();
        let halves = [
            ClientFrame::new(false, OpCode::Text, "half a message"),
            ClientFrame::new(true, OpCode::Continuation, " and its end"),
        ];
        busy.send(halves[0].encode());
        busy.expect(halves[0].encode_echo());
        server.begin_to_stop();

        idle.expect(server_close(1001, "the server is stopping"));
        idle.send(text("said before the goodbye was heard").encode());
        idle.send(close(1001, "").encode());
        idle.expect_end();

        assert!(requesting.read_to_end().starts_with("HTTP/1.1 503 "));

        busy.send(halves[1].encode());
        busy.expect(halves[1].encode_echo());
        busy.expect(server_close(1001, "the server is stopping"));
        busy.send(close(1001, "").encode());
        busy.expect_end();
    });
}

#[test]
fn ipv6_is_served() {
    let listen = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0));
    let network = Network { listen: vec![listen.into()], ..Network::default() };
    with_server(&Config { network, ..config() }, |server| {
        let mut peer = server.open();
        peer.send(text("over IPv6").encode());
        peer.expect(b"\x81\x09over IPv6");
    });
}
