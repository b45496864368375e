//! Every peer echoes what it is sent, and those on WebSocket end in order; the raw TCP echoes also when their client does not read for
//! a while, and when it ends its side first. The TLS echo does the same under TLS 1.2 and 1.3.

#[path = "../../tls_client/mod.rs"]
mod tls_client;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
};

use rustls::{
    SupportedProtocolVersion,
    crypto::ring,
    version::{TLS12, TLS13},
};
use tungstenite::{Error, Message, WebSocket};

use self::tls_client::TlsStream;

const WEBSOCKET_PEERS: [&str; 5] = [
    env!("CARGO_BIN_EXE_ws-epoll"),
    env!("CARGO_BIN_EXE_fastwebsockets-tokio"),
    env!("CARGO_BIN_EXE_fastwebsockets-corked"),
    env!("CARGO_BIN_EXE_sockudo-ws"),
    env!("CARGO_BIN_EXE_tokio-tungstenite"),
];

const RAW_TCP_PEERS: [&str; 3] = [
    env!("CARGO_BIN_EXE_tcp-epoll"),
    env!("CARGO_BIN_EXE_tcp-monoio"),
    env!("CARGO_BIN_EXE_tcp-uring"),
];

const TLS_ECHO: &str = env!("CARGO_BIN_EXE_tls-echo");

/// More than the sockets of both sides hold, however far the kernel lets them grow.
const FLOOD_LEN: usize = 48 << 20;

/// A peer on a port of its own, for as long as this lives.
struct Peer {
    process: Child,
    address: SocketAddr,
}

impl Peer {
    fn start(program: &str) -> Self {
        let mut command = Command::new(program);
        command.arg("0").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect(program);
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let (_, url) = line.trim().split_once("://").expect(&line);
        let address = url.trim_end_matches('/').parse().expect(url);
        Self { process, address }
    }

    /// A connection after its opening handshake.
    fn connect(&self) -> WebSocket<TcpStream> {
        let stream = TcpStream::connect(self.address).unwrap();
        let url = format!("ws://{}/", self.address);
        tungstenite::client(url, stream).expect("the opening handshake succeeds").0
    }

    /// The same, without WebSocket.
    fn connect_raw(&self) -> TcpStream {
        let websocket = self.connect();
        websocket.get_ref().try_clone().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Bytes in which no two neighbourhoods are alike.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// Writes in a thread of its own, since a peer that is not read from stops reading.
fn write_beside(stream: &TcpStream, bytes: Vec<u8>) -> JoinHandle<()> {
    let mut stream = stream.try_clone().unwrap();
    thread::spawn(move || stream.write_all(&bytes).unwrap())
}

#[test]
fn messages_come_back_from_every_websocket_peer() {
    for program in WEBSOCKET_PEERS {
        let peer = Peer::start(program);
        let mut websocket = peer.connect();
        let messages: Vec<Message> = [0, 1, 125, 126, 5000, 65_536, 300_000]
            .into_iter()
            .map(|len| Message::binary(pattern(len)))
            .chain([Message::text("grüße")])
            .collect();
        for message in &messages {
            websocket.write(message.clone()).unwrap();
        }
        websocket.flush().unwrap();
        for message in &messages {
            assert_eq!(websocket.read().unwrap(), *message, "{program}");
        }
    }
}

#[test]
fn every_websocket_peer_answers_a_ping_and_a_close() {
    for program in WEBSOCKET_PEERS {
        let peer = Peer::start(program);
        let mut websocket = peer.connect();
        websocket.send(Message::Ping("there?".into())).unwrap();
        assert_eq!(websocket.read().unwrap(), Message::Pong("there?".into()), "{program}");
        websocket.close(None).unwrap();
        assert!(matches!(websocket.read().unwrap(), Message::Close(_)), "{program}");
        assert!(matches!(websocket.read(), Err(Error::ConnectionClosed)), "{program}");
    }
}

#[test]
fn bytes_come_back_from_every_raw_tcp_peer() {
    for program in RAW_TCP_PEERS {
        let peer = Peer::start(program);
        let mut streams: Vec<TcpStream> = (0..3).map(|_| peer.connect_raw()).collect();
        for len in [1, 64, 70_000, 1 << 20] {
            let sent = pattern(len);
            for stream in &mut streams {
                let writing = write_beside(stream, sent.clone());
                let mut received = vec![0; len];
                stream.read_exact(&mut received).unwrap();
                writing.join().unwrap();
                assert!(received == sent, "{program} changed {len} bytes");
            }
        }
    }
}

#[test]
fn raw_tcp_peers_keep_every_byte_for_a_client_that_reads_late() {
    for program in RAW_TCP_PEERS {
        let peer = Peer::start(program);
        let mut late = peer.connect_raw();
        let sent = pattern(FLOOD_LEN);
        let writing = write_beside(&late, sent.clone());
        // Another client is served all the while, until the flood has stopped moving.
        let mut other = peer.connect_raw();
        for _ in 0..2000 {
            other.write_all(b"still there?").unwrap();
            other.read_exact(&mut [0; 12]).unwrap();
        }
        assert!(!writing.is_finished(), "{FLOOD_LEN} bytes are no flood for {program}");
        let mut received = vec![0; FLOOD_LEN];
        late.read_exact(&mut received).unwrap();
        writing.join().unwrap();
        assert!(received == sent, "{program} changed the bytes");
    }
}

#[test]
fn raw_tcp_peers_answer_a_client_that_has_ended_its_side() {
    for program in RAW_TCP_PEERS {
        let peer = Peer::start(program);
        for len in [1, 5_000_000] {
            let mut stream = peer.connect_raw();
            let sent = pattern(len);
            let writing = write_beside(&stream, sent.clone());
            let ending = stream.try_clone().unwrap();
            let ending = thread::spawn(move || {
                writing.join().unwrap();
                ending.shutdown(Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            ending.join().unwrap();
            assert!(received == sent, "{program} changed {len} bytes");
        }
    }
}

#[test]
fn raw_tcp_peers_outlive_clients_that_vanish() {
    for program in RAW_TCP_PEERS {
        let peer = Peer::start(program);
        for _ in 0..50 {
            let mut stream = peer.connect_raw();
            stream.write_all(&pattern(100_000)).unwrap();
            // Dropped with unread bytes, which resets the connection.
        }
        let mut stream = peer.connect_raw();
        stream.write_all(b"and now?").unwrap();
        let mut received = [0; 8];
        stream.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"and now?", "{program}");
    }
}

/// A connection to the TLS echo after both handshakes.
fn connect_tls(peer: &Peer, version: &'static SupportedProtocolVersion) -> TlsStream {
    let mut suites = ring::ALL_CIPHER_SUITES.to_vec();
    suites.retain(|suite| suite.version() == version);
    let socket = TcpStream::connect(peer.address).unwrap();
    let mut stream = tls_client::client(tls_client::config(&suites, false), socket);
    tungstenite::client(format!("wss://{}/", peer.address), &mut stream)
        .expect("the opening handshake succeeds");
    stream
}

#[test]
fn bytes_come_back_from_the_tls_echo_and_its_end_as_well() {
    for version in [&TLS12, &TLS13] {
        let peer = Peer::start(TLS_ECHO);
        let mut streams: Vec<_> = (0..3).map(|_| connect_tls(&peer, version)).collect();
        for len in [1, 64, 16_384, 70_000, 1 << 20] {
            let sent = pattern(len);
            for stream in &mut streams {
                stream.write_all(&sent).unwrap();
                let mut received = vec![0; len];
                stream.read_exact(&mut received).unwrap();
                assert!(received == sent, "{len} bytes are changed under {version:?}");
            }
        }
        for mut stream in streams {
            stream.conn.send_close_notify();
            stream.flush().unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it says that it ends");
        }
    }
}
