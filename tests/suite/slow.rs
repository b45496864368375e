//! Peers that read slowly, or not at all: deadlines are for those that stand still.
//!
//! Slow is slower than what is sent fills the buffers on the way, and faster than the shortest
//! deadline that may be configured.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use ringecho::config::{Config, Echo, Size, Time, Within};
use socket2::{Domain, Socket, Type};

use crate::{
    frames::{binary, close},
    peer::{Peer, TestServer, UPGRADE, config, planes},
};

const SECOND: Duration = Duration::from_secs(1);

/// A connection after its opening handshake, whose buffer for what it has not read is small.
fn open_small(server: &TestServer) -> TcpStream {
    let socket = Socket::new(Domain::for_address(server.address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let mut peer = Peer { stream: socket.into() };
    peer.send(UPGRADE.as_bytes());
    assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    peer.stream
}

/// Reads `len` bytes, so many a second.
fn read_slowly(mut stream: &TcpStream, len: usize, bytes_per_second: usize) -> Vec<u8> {
    const PAUSE: Duration = Duration::from_millis(20);
    let mut bytes = vec![0; len];
    for piece in bytes.chunks_mut(bytes_per_second / 50) {
        stream.read_exact(piece).expect("everything arrives");
        thread::sleep(PAUSE);
    }
    bytes
}

#[test]
fn close_behind_echoes_reaches_a_peer_that_takes_them_slowly() {
    // More than the socket's buffer and what may be unsent, of which the last takes some seconds.
    const FRAMES: usize = 2200;
    let unsent_max = Within::new(Size(4 << 20)).unwrap();
    let echo = Echo { unsent_max, ..Echo::default() };
    let time = Time { close_timeout: Within::new(SECOND).unwrap(), ..Time::default() };
    for config in planes(&Config { echo, time, ..config() }) {
        let server = TestServer::start(&config);
        let stream = open_small(&server);
        let frame = binary(vec![7; 4000]);
        let mut request = frame.encode().repeat(FRAMES);
        request.extend(close(1000, "done").encode());
        let mut expected = frame.encode_echo().repeat(FRAMES);
        expected.extend(close(1000, "done").encode_echo());
        thread::scope(|scope| {
            scope.spawn(|| (&stream).write_all(&request).expect("the server reads"));
            let received = read_slowly(&stream, expected.len(), 1_200_000);
            assert!(received == expected);
        });
        assert_eq!((&stream).read(&mut [0]).expect("an orderly end"), 0);
        drop(stream);
        assert_eq!(server.stop().ended, [("closed_by_peer", 1)]);
    }
}

#[test]
fn peer_that_reads_steadily_is_not_given_up_for_its_silence() {
    const FRAMES: usize = 2000;
    let time = Time {
        keep_alive_interval: Within::new(SECOND).unwrap(),
        keep_alive_timeout: Within::new(SECOND).unwrap(),
        ..Time::default()
    };
    for config in planes(&Config { time, ..config() }) {
        let server = TestServer::start(&config);
        let stream = open_small(&server);
        let frame = binary(vec![7; 4000]);
        let request = frame.encode().repeat(FRAMES);
        thread::scope(|scope| {
            // The end of the test may find it writing.
            scope.spawn(|| _ = (&stream).write_all(&request));
            // Far less than is on its way, for longer than interval and timeout.
            let echo = frame.encode_echo().repeat(100);
            let received = read_slowly(&stream, echo.len(), 80_000);
            assert!(received == echo);
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        });
        let ended = server.stop().ended;
        assert!(!ended.contains(&("keep_alive_timeout", 1)), "{ended:?}");
    }
}

/// Neither its Close nor the end of its message can reach a peer that reads nothing, however long
/// the server may wait for its clients.
#[test]
fn peer_that_stands_still_does_not_keep_a_server_from_stopping() {
    let time = Time {
        close_timeout: Within::new(SECOND).unwrap(),
        drain_timeout: Within::new(Duration::from_hours(1)).unwrap(),
        ..Time::default()
    };
    for config in planes(&Config { time, ..config() }) {
        let server = TestServer::start(&config);
        let mut between_messages = server.open();
        between_messages.send_until_blocked(&binary(vec![7; 4000]).encode().repeat(5000));
        let mut within_one = server.open();
        within_one.send_until_blocked(&binary(vec![7; 32 << 20]).encode());
        assert_eq!(server.stop().ended, [("close_timeout", 2)]);
    }
}
