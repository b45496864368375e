//! One client does not keep the others waiting. How long they wait is for the benchmark
//! `fairness` to say; here nobody starves.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed},
    thread,
};

use ringecho::config::{Config, Echo, PowerOfTwo, Size, Within};
use socket2::SockRef;

use crate::{
    frames::binary,
    peer::{Peer, config, with_server},
};

const PEERS: usize = 200;

const ROUND_TRIPS: usize = 2;

#[test]
fn nobody_starves_beside_a_peer_that_streams() {
    with_server(&config(), |server| {
        let done = AtomicBool::new(false);
        let streamer = server.open();
        let mut peers: Vec<Peer> = (0..PEERS).map(|_| server.open()).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                let request = binary(vec![7; 64 << 10]).encode();
                while !done.load(Relaxed) {
                    (&streamer.stream).write_all(&request).expect("the server reads");
                }
                streamer.stream.shutdown(Shutdown::Write).expect("a connection");
            });
            scope.spawn(|| {
                io::copy(&mut &streamer.stream, &mut io::sink()).expect("the server echoes");
            });
            let message = binary("mine");
            for _ in 0..ROUND_TRIPS {
                for peer in &mut peers {
                    peer.send(message.encode());
                }
                for peer in &mut peers {
                    peer.expect(message.encode_echo());
                }
            }
            done.store(true, Relaxed);
        });
    });
}

#[test]
fn peers_that_do_not_read_do_not_disturb_the_others() {
    const STALLED: usize = 300;
    with_server(&config(), |server| {
        let request = binary(vec![7; 64 << 10]).encode();
        let stalled: Vec<Peer> = (0..STALLED)
            .map(|_| {
                let mut peer = server.open();
                // Small buffers are full soon.
                let socket = SockRef::from(&peer.stream);
                socket.set_recv_buffer_size(4096).unwrap();
                socket.set_send_buffer_size(4096).unwrap();
                socket.set_nonblocking(true).unwrap();
                while let Ok(1..) = peer.stream.write(&request) {}
                peer
            })
            .collect();
        let mut peer = server.open();
        let message = binary("mine");
        for _ in 0..100 {
            peer.send(message.encode());
            peer.expect(message.encode_echo());
        }
        drop(stalled);
    });
}

#[test]
fn peers_have_buffers_by_turns_when_there_are_too_few() {
    const STREAMING: isize = 32;
    /// What each receives when all are served alike.
    const SHARE: isize = 512 << 10;
    const PIECE: usize = 16 << 10;
    let echo = Echo {
        receive_buffers: Within::new(PowerOfTwo::new(2).unwrap()).unwrap(),
        receive_buffer: Within::new(Size(4096)).unwrap(),
        ..Echo::default()
    };
    with_server(&Config { echo, ..config() }, |server| {
        let request = binary(vec![7; 64 << 10]).encode();
        let peers: Vec<Peer> = (0..STREAMING).map(|_| server.open()).collect();
        let received: Vec<AtomicIsize> = (0..STREAMING).map(|_| AtomicIsize::new(0)).collect();
        let left = AtomicIsize::new(STREAMING * SHARE);
        thread::scope(|scope| {
            for (peer, received) in peers.iter().zip(&received) {
                scope.spawn(|| {
                    while left.load(Relaxed) > 0 {
                        (&peer.stream).write_all(&request).expect("the server reads");
                    }
                    peer.stream.shutdown(Shutdown::Write).expect("a connection");
                });
                scope.spawn(|| {
                    // A read alone may be interrupted.
                    let mut bytes = [0; PIECE];
                    let end = loop {
                        match (&peer.stream).read_exact(&mut bytes) {
                            Ok(()) if left.fetch_sub(PIECE.cast_signed(), Relaxed) > 0 => {
                                received.fetch_add(PIECE.cast_signed(), Relaxed);
                            }
                            Ok(()) => {}
                            Err(error) => break error.kind(),
                        }
                    };
                    assert_eq!(end, io::ErrorKind::UnexpectedEof);
                });
            }
        });
        let received: Vec<isize> = received.iter().map(|received| received.load(Relaxed)).collect();
        let least = received.iter().min().expect("peers");
        assert!(*least > SHARE / 16, "{received:?}");
    });
}
