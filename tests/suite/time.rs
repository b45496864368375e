//! Deadlines. A test waits for what must happen, and never says how fast: the times are the
//! shortest that may be configured, and what happens too early shows as a wrong conversation.

use std::{io::Read, time::Duration};

use ringecho::config::{Config, Time, Within};

use crate::{
    frames::{ClientFrame, close, pong, server_close, text},
    peer::{TestServer, config, planes, with_server},
};
use ringecho::protocol::OpCode;

const SECOND: Duration = Duration::from_secs(1);

fn with_time(time: Time) -> Config {
    Config { time, ..config() }
}

fn ended(server: TestServer) -> Vec<(&'static str, u64)> {
    server.stop().ended
}

#[test]
fn silent_client_is_pinged_and_its_pong_keeps_it() {
    let config = with_time(Time {
        keep_alive_interval: Within::new(SECOND).unwrap(),
        keep_alive_timeout: Within::new(SECOND).unwrap(),
        ..Time::default()
    });
    with_server(&config, |server| {
        let mut peer = server.open();
        for _ in 0..2 {
            peer.expect(b"\x89\x00");
            peer.send(pong("").encode());
        }
        peer.send(text("still here").encode());
        peer.expect(b"\x81\x0astill here");
    });
}

#[test]
fn client_that_answers_nothing_is_given_up() {
    let config = with_time(Time {
        keep_alive_interval: Within::new(SECOND).unwrap(),
        keep_alive_timeout: Within::new(SECOND).unwrap(),
        ..Time::default()
    });
    for config in planes(&config) {
        let server = TestServer::start(&config);
        let mut peer = server.open();
        peer.expect(b"\x89\x00");
        peer.expect_over();
        assert_eq!(ended(server), [("keep_alive_timeout", 1)]);
    }
}

#[test]
fn no_ping_lands_inside_a_frame_that_is_half_sent() {
    let config = with_time(Time {
        keep_alive_interval: Within::new(SECOND).unwrap(),
        keep_alive_timeout: Within::new(30 * SECOND).unwrap(),
        ..Time::default()
    });
    for config in planes(&config) {
        let server = TestServer::start(&config);
        let mut peer = server.open();
        let mut witness = server.open();
        let frame = ClientFrame::new(true, OpCode::Binary, vec![1; 10_000]);
        let (request, reply) = (frame.encode(), frame.encode_echo());
        peer.send(&request[..5008]);
        peer.expect(&reply[..5004]);
        // Both have been silent for as long when the witness gets its Ping.
        witness.expect(b"\x89\x00");
        peer.send(&request[5008..]);
        peer.expect(&reply[5004..]);
        peer.expect(b"\x89\x00");
        server.stop();
    }
}

#[test]
fn request_head_that_takes_too_long_is_answered_408() {
    let config =
        with_time(Time { handshake_timeout: Within::new(SECOND).unwrap(), ..Time::default() });
    with_server(&config, |server| {
        let mut peer = server.connect();
        peer.send("GET / HTTP/1.1\r\nHost: loc");
        assert!(peer.read_to_end().starts_with("HTTP/1.1 408 Request Timeout\r\n"));
        assert!(server.connect().read_to_end().starts_with("HTTP/1.1 408 "));
    });
}

#[test]
fn closed_connection_does_not_wait_forever_for_its_peer() {
    let config = with_time(Time { close_timeout: Within::new(SECOND).unwrap(), ..Time::default() });
    with_server(&config, |server| {
        let mut peer = server.open();
        peer.send([0x83, 0x80]);
        peer.expect(server_close(1002, "the opcode is reserved"));
        peer.expect_end();
        // This side stays open and silent; the server ends all the same, or the test hangs.
        let mut other = server.open();
        other.send(text("next").encode());
        other.expect(b"\x81\x04next");
        server.begin_to_stop();
        other.expect(server_close(1001, "the server is stopping"));
    });
}

#[test]
fn stopping_server_abandons_those_who_do_not_answer() {
    let config = with_time(Time { drain_timeout: Within::new(SECOND).unwrap(), ..Time::default() });
    for config in planes(&config) {
        let server = TestServer::start(&config);
        let mut deaf = server.open();
        let mut stalled = server.open();
        stalled.send(ClientFrame::new(false, OpCode::Text, "never finished").encode());
        stalled.expect(b"\x01\x0enever finished");
        // Nothing is read from here on, so replies pile up until the server has to wait.
        let mut clogged = server.open();
        clogged.send_until_blocked(
            &ClientFrame::new(true, OpCode::Binary, vec![0; 32 << 20]).encode(),
        );
        server.begin_to_stop();
        deaf.expect(server_close(1001, "the server is stopping"));
        assert_eq!(ended(server), [("abandoned", 3)]);
        let _ = stalled.stream.read(&mut [0; 1]);
    }
}

#[test]
fn client_without_a_message_is_closed_and_counted_as_idle_whether_it_answers_or_not() {
    let config = with_time(Time {
        idle_timeout: Within::new(2 * SECOND).unwrap(),
        keep_alive_interval: Within::new(SECOND).unwrap(),
        close_timeout: Within::new(SECOND).unwrap(),
        ..Time::default()
    });
    for config in planes(&config) {
        let server = TestServer::start(&config);
        let goodbye = server_close(1001, "no message has come for too long");
        let [mut answers, mut leaves, mut is_deaf] = [(); 3].map(|()| server.open());
        // Pings and Pongs are no messages.
        answers.expect(b"\x89\x00");
        answers.send(pong("").encode());
        for peer in [&mut leaves, &mut is_deaf] {
            peer.expect(b"\x89\x00");
        }
        let said = answers.read_frames_until(&goodbye);
        assert!(said.iter().all(|frame| frame == b"\x89\x00"), "{said:?}");
        answers.send(close(1001, "").encode());
        answers.expect_end();
        leaves.read_frames_until(&goodbye);
        drop(leaves);
        is_deaf.read_frames_until(&goodbye);
        is_deaf.expect_over();
        assert_eq!(ended(server), [("idle_timeout", 3)]);
    }
}

#[test]
fn message_under_way_is_no_idleness() {
    let config = with_time(Time { idle_timeout: Within::new(SECOND).unwrap(), ..Time::default() });
    with_server(&config, |server| {
        let mut witness = server.open();
        let mut peer = server.open();
        let fragment = ClientFrame::new(false, OpCode::Text, "to be ");
        peer.send(fragment.encode());
        peer.expect(fragment.encode_echo());
        // Whoever has no message under way is closed meanwhile.
        witness.expect(server_close(1001, "no message has come for too long"));
        let rest = ClientFrame::new(true, OpCode::Continuation, "continued");
        peer.send(rest.encode());
        peer.expect(rest.encode_echo());
        peer.expect(server_close(1001, "no message has come for too long"));
    });
}

#[test]
fn old_connection_is_closed_between_two_messages_and_one_that_never_ends_is_cut() {
    let config = with_time(Time {
        lifetime_max: Within::new(SECOND).unwrap(),
        close_timeout: Within::new(2 * SECOND).unwrap(),
        ..Time::default()
    });
    for config in planes(&config) {
        let server = TestServer::start(&config);
        let goodbye = server_close(1001, "the connection is as old as it may become");
        let [mut witness, mut ends, mut never_ends] = [(); 3].map(|()| server.open());
        let fragment = ClientFrame::new(false, OpCode::Text, "to be ");
        for peer in [&mut ends, &mut never_ends] {
            peer.send(fragment.encode());
            peer.expect(fragment.encode_echo());
        }
        witness.expect(&goodbye);
        let rest = ClientFrame::new(true, OpCode::Continuation, "continued");
        ends.send(rest.encode());
        ends.expect(rest.encode_echo());
        ends.expect(&goodbye);
        for peer in [&mut witness, &mut ends] {
            peer.send(close(1001, "").encode());
            peer.expect_end();
        }
        never_ends.expect_over();
        assert_eq!(ended(server), [("lifetime_max", 3)]);
    }
}
