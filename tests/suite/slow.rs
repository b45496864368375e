//! Peers that read slowly, or not at all: deadlines are for those that stand still.
//!
//! Slow is slower than what is sent fills the buffers on the way, and faster than the shortest
//! deadline that may be configured.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::fd::AsFd,
    thread,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringecho::config::{Config, Echo, Size, Time, Within};
use socket2::{Domain, Socket, Type};

use crate::{
    frames::{binary, close, ping},
    peer::{Peer, TestServer, UPGRADE, config, config_with_workers, planes},
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
        let rest = (&stream).read_to_end(&mut Vec::new());
        assert_eq!(rest.expect("an orderly end"), 0);
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

/// Without keep-alive nothing else would find them: one whose echoes wait in the server, one whose
/// echoes all fit its socket, one that has also been sent a Ping's Pong and a Close.
#[test]
fn peer_that_takes_nothing_is_given_up_without_keep_alive() {
    let time = Time {
        keep_alive_interval: Within::new(Duration::ZERO).unwrap(),
        close_timeout: Within::new(Duration::from_hours(1)).unwrap(),
        write_timeout: Within::new(2 * SECOND).unwrap(),
        ..Time::default()
    };
    for config in planes(&Config { time, ..config() }) {
        let server = TestServer::start(&config);
        let message = binary(vec![7; 4000]).encode();
        let blocks = open_small(&server);
        Peer { stream: blocks.try_clone().unwrap() }.send_until_blocked(&message.repeat(5000));
        let fits_the_socket = open_small(&server);
        (&fits_the_socket).write_all(&message.repeat(50)).unwrap();
        let closes = open_small(&server);
        (&closes).write_all(&message.repeat(300)).unwrap();
        (&closes).write_all(&[ping("?").encode(), close(1000, "").encode()].concat()).unwrap();
        let mut witness = server.open();
        for stream in [&blocks, &fits_the_socket, &closes] {
            while is_alive(stream) {
                thread::sleep(SECOND / 20);
            }
        }
        witness.send(close(1000, "").encode());
        witness.expect(close(1000, "").encode_echo());
        witness.expect_end();
        let ended = server.stop().ended;
        let count = |kind| ended.iter().find(|(it, _)| *it == kind).map_or(0, |(_, count)| *count);
        // A peer that has closed, and does not take the answer, was closed by itself.
        assert!(count("write_timeout") >= 2, "{ended:?}");
        assert_eq!(count("write_timeout") + count("closed_by_peer"), 4, "{ended:?}");
    }
}

/// Whether the server has not reset a connection, of which nothing is read.
fn is_alive(stream: &TcpStream) -> bool {
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO).unwrap();
    !polled[0].revents().unwrap().contains(PollFlags::POLLERR)
}

/// The large one is reset, wherever it is carried; the small ones keep their echoes, and somebody who
/// reads does not notice.
#[test]
fn connection_that_holds_the_most_goes_first_when_memory_is_used_up() {
    const SMALL: usize = 20;
    let echo = Echo {
        unsent_max: Within::new(Size(64 << 20)).unwrap(),
        memory_max: Within::new(Size(24 << 20)).unwrap(),
        ..Echo::default()
    };
    let time =
        Time { write_timeout: Within::new(Duration::from_hours(1)).unwrap(), ..Time::default() };
    for config in planes(&Config { echo, time, ..config_with_workers(2) }) {
        let server = TestServer::start(&config);
        let message = binary(vec![7; 4000]);
        let (request, reply) = (message.encode().repeat(100), message.encode_echo().repeat(100));
        let small: Vec<TcpStream> = (0..SMALL).map(|_| open_small(&server)).collect();
        for stream in &small {
            (&*stream).write_all(&request).expect("the server reads");
        }
        let large = open_small(&server);
        let mut innocent = server.open();
        thread::scope(|scope| {
            // Until it is reset.
            let writing = scope.spawn(|| while (&large).write_all(&request).is_ok() {});
            while !writing.is_finished() {
                innocent.send(message.encode());
                innocent.expect(message.encode_echo());
                thread::sleep(SECOND / 100);
            }
        });
        for stream in &small {
            let mut received = vec![0; reply.len()];
            (&*stream).read_exact(&mut received).expect("its echoes");
            assert!(received == reply);
        }
        innocent.send(message.encode());
        innocent.expect(message.encode_echo());
        drop((small, large, innocent));
        let ended = server.stop().ended;
        assert!(ended.contains(&("memory_shed", 1)), "{ended:?}");
    }
}
