//! A server that stops: who is still accepted, and when each connection gets its Close frame.

use std::time::Duration;

use ringecho::{
    config::{Config, Time, Within},
    protocol::OpCode,
    worker::Drain,
};

use crate::{
    frames::{ClientFrame, close, server_close, text},
    peer::{Peer, TestServer, UPGRADE, config, config_with_workers, with_server},
};

const HOUR: Duration = Duration::from_hours(1);

/// How to drain if `spread` is all that matters.
fn over(spread: Duration) -> Drain {
    Drain { spread, timeout: HOUR, quiet: None, leaves_queues: false }
}

fn goodbye() -> Vec<u8> {
    server_close(1001, "the server is stopping")
}

/// Answers the server's Close frame, which must be all that comes.
fn say_goodbye(peer: &mut Peer) {
    peer.expect(goodbye());
    peer.send(close(1001, "").encode());
    peer.expect_end();
}

fn expect_echo(peer: &mut Peer, payload: &str) {
    peer.send(text(payload).encode());
    peer.expect(text(payload).encode_echo());
}

/// Of four connections the first has its turn at the first step of the hour, and the next one a
/// quarter of the hour later.
#[test]
fn connections_whose_turn_has_not_come_go_on() {
    with_server(&config(), |server| {
        let mut peers = [(); 4].map(|()| server.open());
        server.drain(over(HOUR));
        say_goodbye(&mut peers[0]);
        let [_, talking, closing, leaving] = &mut peers;
        for _ in 0..3 {
            expect_echo(talking, "still here");
        }
        closing.send(close(1000, "").encode());
        closing.expect(server_close(1000, ""));
        closing.expect_end();
        leaving.end();
        leaving.expect_over();
        expect_echo(talking, "the last one");
    });
}

#[test]
fn every_connection_of_every_worker_gets_its_close_frame_during_the_spread() {
    const PEERS: usize = 60;
    with_server(&config_with_workers(2), |server| {
        let mut peers: Vec<_> = (0..PEERS).map(|_| server.open()).collect();
        server.drain(over(Duration::from_millis(300)));
        peers.iter_mut().for_each(say_goodbye);
    });
}

/// The second connection's Close frame says that the turn of the first one has come.
#[test]
fn connection_with_a_message_under_way_is_closed_behind_that_message() {
    let first_half = ClientFrame::new(false, OpCode::Text, "first half, ");
    let second_half = ClientFrame::new(true, OpCode::Continuation, "second half");
    with_server(&config(), |server| {
        let (mut talking, mut idle) = (server.open(), server.open());
        talking.send(first_half.encode());
        talking.expect(first_half.encode_echo());
        server.drain(over(Duration::from_millis(20)));
        say_goodbye(&mut idle);
        talking.send(second_half.encode());
        talking.expect(second_half.encode_echo());
        say_goodbye(&mut talking);
    });
}

#[test]
fn requests_are_refused_at_once_however_long_the_spread() {
    with_server(&config(), |server| {
        let (mut first, mut second) = (server.open(), server.open());
        let mut half_said = server.connect();
        half_said.send(&UPGRADE.as_bytes()[..20]);
        // Served behind it, so that it has been accepted.
        let mut witness = server.open();
        server.drain(over(HOUR));
        assert!(half_said.read_to_end().starts_with("HTTP/1.1 503 "));
        say_goodbye(&mut first);
        expect_echo(&mut second, "still here");
        second.end();
        witness.end();
    });
}

#[test]
fn stopping_server_accepts_until_its_delay_is_over() {
    let time = Time { drain_delay: Within::new(HOUR).unwrap(), ..Time::default() };
    with_server(&Config { time, ..config() }, |server| {
        let mut early = server.open();
        server.begin_to_stop();
        expect_echo(&mut early, "not closed");
        let mut late = server.open();
        expect_echo(&mut late, "served");
        // Somebody does not want to wait.
        server.drain(over(Duration::ZERO));
        say_goodbye(&mut early);
        say_goodbye(&mut late);
    });
}

#[test]
fn delay_and_spread_of_the_configuration_end_by_themselves() {
    let time = Time {
        drain_delay: Within::new(Duration::from_millis(50)).unwrap(),
        drain_spread: Within::new(Duration::from_millis(50)).unwrap(),
        drain_timeout: Within::new(HOUR).unwrap(),
        ..Time::default()
    };
    let config = Config { time, ..config_with_workers(2) };
    with_server(&config, |server| {
        let mut peers: Vec<_> = (0..10).map(|_| server.open()).collect();
        server.begin_to_stop();
        peers.iter_mut().for_each(say_goodbye);
    });
    let server = TestServer::start(&config);
    let mut peers: Vec<_> = (0..10).map(|_| server.open()).collect();
    server.begin_to_stop();
    peers.iter_mut().for_each(say_goodbye);
    assert_eq!(server.stop().ended, [("closed_by_server", 10)]);
}
