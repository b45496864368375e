//! Where a server listens: several addresses, Unix sockets, IPv4 beside IPv6, each on all data planes.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    thread,
};

use nix::sys::signal::Signal;
use ringecho::{
    config::{Bounds, Config, Listen, Network, Within},
    entry::listener::ListenError,
    metrics::Totals,
    server::{Server, StartError},
};

use crate::{
    frames::{close, server_close, text},
    peer::{Peer, TestServer, config, config_with_workers, planes, with_server},
    program::{ringecho, signal},
    takeover::TestPath,
};

fn listening_at(listens: &[&str], config: Config) -> Config {
    let listen = listens.iter().map(|listen| listen.parse().unwrap()).collect();
    Config { network: Network { listen, ..config.network }, ..config }
}

pub fn at_path(path: &TestPath, config: Config) -> Config {
    listening_at(&[&format!("unix:{}", path.as_str())], config)
}

fn echo(peer: &mut Peer, message: &str) {
    peer.send(text(message).encode());
    peer.expect(text(message).encode_echo());
}

fn refusal(config: &Config) -> StartError {
    Server::start(config).err().expect("the server does not start")
}

fn ended(totals: &Totals, kind: &str) -> u64 {
    totals.ended.iter().find(|(ended, _)| *ended == kind).map_or(0, |(_, count)| *count)
}

#[test]
fn server_listens_at_every_address() {
    let path = TestPath::new();
    let unix = format!("unix:{}", path.as_str());
    let listens = ["127.0.0.1:0", &unix, "[::1]:0", "127.0.0.2:0"];
    for workers in [1, 3] {
        with_server(&listening_at(&listens, config_with_workers(workers)), |server| {
            let places: Vec<_> = server.listens.iter().map(ToString::to_string).collect();
            assert!(
                places[0].starts_with("127.0.0.1:") && !places[0].ends_with(":0"),
                "{places:?}"
            );
            assert_eq!(places[1], unix);
            assert!(places[2].starts_with("[::1]:") && places[3].starts_with("127.0.0.2:"));
            let mut peers: Vec<_> = server.listens.iter().map(Peer::open_at).collect();
            for (peer, place) in peers.iter_mut().zip(&places) {
                echo(peer, place);
            }
        });
    }
}

/// Some kernels lose the end of a Unix stream that comes right behind data, for a receive that goes on
/// (liburing issue 1549).
#[test]
fn endings_over_a_unix_socket_are_those_of_tcp() {
    const ROUNDS: u64 = 200;
    let path = TestPath::new();
    for config in planes(&at_path(&path, config())) {
        let server = TestServer::start(&config);
        let open = || Peer::open_at(&server.listens[0]);
        for _ in 0..ROUNDS {
            let mut peer = open();
            peer.send(text("last words").encode());
            peer.end();
            peer.expect(text("last words").encode_echo());
            peer.expect_end();
        }
        for _ in 0..ROUNDS {
            let mut peer = open();
            peer.send([text("a").encode(), close(1000, "bye").encode()].concat());
            peer.expect([text("a").encode_echo(), server_close(1000, "bye")].concat());
            peer.expect_end();
        }
        for _ in 0..ROUNDS {
            drop(open());
        }
        let totals = server.stop();
        assert_eq!(totals.accepted, 3 * ROUNDS);
        assert_eq!(ended(&totals, "closed_by_peer"), ROUNDS, "{totals:?}");
        assert_eq!(totals.accepted, totals.ended_count());
    }
}

#[test]
fn large_messages_and_slow_readers_go_over_a_unix_socket() {
    const LEN: usize = 4 << 20;
    let path = TestPath::new();
    with_server(&at_path(&path, config()), |server| {
        let mut peer = Peer::open_at(&server.listens[0]);
        let message = "m".repeat(LEN);
        let frame = text(&message).encode();
        let mut sender = Peer { stream: peer.stream.try_clone().unwrap() };
        let sending = thread::spawn(move || sender.send(frame));
        peer.expect(text(&message).encode_echo());
        sending.join().unwrap();

        // It reads nothing, so the server keeps only so much of its echoes.
        let sent_len = peer.send_until_blocked(&text(&"n".repeat(16 << 20)).encode());
        assert!(sent_len < 8 << 20, "{sent_len}");
    });
}

#[test]
fn file_of_a_unix_socket_has_its_mode_and_goes_with_the_server() {
    for (mode, expected) in [(None, 0o660), (Some("600"), 0o600), (Some("0666"), 0o666)] {
        let path = TestPath::new();
        let mut config = at_path(&path, config());
        if let Some(mode) = mode {
            config.network.unix_mode = mode.parse().unwrap();
        }
        let server = TestServer::start(&config);
        let mode = fs::metadata(path.as_str()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, expected);
        server.stop();
        assert!(!Path::new(path.as_str()).exists());
    }
}

#[test]
fn only_a_dead_servers_file_is_replaced() {
    let path = TestPath::new();
    let config = at_path(&path, config());
    // A listener that is dropped leaves its file behind, as a killed process does.
    drop(UnixListener::bind(path.as_str()).unwrap());
    let server = TestServer::start(&config);
    let refused = refusal(&config);
    assert!(matches!(refused, StartError::Listen(ListenError::PathInUse(_))), "{refused}");
    echo(&mut Peer::open_at(&server.listens[0]), "it lives");
    server.stop();

    fs::write(path.as_str(), "a file").unwrap();
    let refused = refusal(&config).to_string();
    assert!(refused.contains("there is a file that is no socket"), "{refused}");
    assert_eq!(fs::read_to_string(path.as_str()).unwrap(), "a file");

    let nowhere = listening_at(&["unix:/nonexistent/echo.sock"], config);
    let refused = refusal(&nowhere).to_string();
    assert!(refused.starts_with("--listen unix:/nonexistent/echo.sock: "), "{refused}");
}

#[test]
fn peers_without_an_address_meet_the_bounds_of_all_alone() {
    let path = TestPath::new();
    let bounds = Bounds {
        connections_per_ip_max: Within::new(1).unwrap(),
        connections_max: Some(Within::new(3).unwrap()),
        ..Bounds::default()
    };
    with_server(&at_path(&path, Config { bounds, ..config() }), |server| {
        let mut peers = [(); 3].map(|()| Peer::open_at(&server.listens[0]));
        let mut fourth = Peer::connect_unix(Path::new(path.as_str()));
        assert!(fourth.read_to_end().starts_with("HTTP/1.1 503 "));
        for peer in &mut peers {
            echo(peer, "still here");
        }
    });
}

fn port(listen: &Listen) -> u16 {
    listen.socket_address().unwrap().port()
}

#[test]
fn unspecified_address_of_ipv6_takes_ipv4_too_unless_that_is_named_beside_it() {
    let server = TestServer::start(&listening_at(&["[::]:0"], config()));
    let port = port(&server.listens[0]);
    for host in ["127.0.0.1", "[::1]"] {
        let address: SocketAddr = format!("{host}:{port}").parse().unwrap();
        echo(&mut Peer::open(address), host);
    }
    assert_eq!(server.stop().accepted, 2);

    // The port is free, since its server has just stopped.
    let both = [format!("[::]:{port}"), format!("0.0.0.0:{port}")];
    let server = TestServer::start(&listening_at(&both.each_ref().map(|it| &**it), config()));
    for host in ["127.0.0.1", "[::1]"] {
        let address: SocketAddr = format!("{host}:{port}").parse().unwrap();
        echo(&mut Peer::open(address), host);
    }
    server.stop();
}

#[test]
fn new_server_takes_over_every_address_and_may_have_more_of_them() {
    let (door, path, other) = (TestPath::new(), TestPath::new(), TestPath::new());
    let unix = format!("unix:{}", path.as_str());
    for plane in planes(&config()) {
        let takeover = Some(door.as_str().parse().unwrap());
        let network = Network { takeover, ..plane.network };
        let config = listening_at(&["127.0.0.1:0", &unix], Config { network, ..plane });
        let old = TestServer::start(&config);
        let first = old.listens[0].to_string();
        let mut early: Vec<_> = old.listens.iter().map(Peer::open_at).collect();

        let elsewhere = listening_at(&[&first], config.clone());
        let refused = refusal(&elsewhere).to_string();
        assert!(refused.contains(&format!("the server there listens on {unix}")), "{refused}");

        let more = [&unix, &first, &format!("unix:{}", other.as_str())[..]];
        let new = TestServer::start(&listening_at(&more, config));
        for peer in &mut early {
            peer.expect(server_close(1001, "the server is stopping"));
            peer.send(close(1001, "").encode());
            peer.expect_end();
        }
        assert_eq!(old.stop().accepted, 2);
        // The file stays, since the socket is the new server's.
        new.listens.iter().for_each(|listen| echo(&mut Peer::open_at(listen), "new"));

        assert_eq!(new.stop().accepted, 3);
        assert!(!Path::new(path.as_str()).exists() && !Path::new(other.as_str()).exists());
    }
}

#[test]
fn each_address_has_a_ready_line_and_the_first_is_first() {
    let path = TestPath::new();
    let unix = format!("unix:{}", path.as_str());
    let mut program = ringecho();
    program.args(["--listen", "127.0.0.1:0", "--listen", &unix, "--workers=1"]);
    program.args(["--listen=[::1]:0", "--path=/a,/b"]);
    let mut child = program.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    let first = line();
    assert!(first.starts_with("listening on ws://127.0.0.1:"), "{first}");
    assert!(first.contains("/a (1 worker, "), "{first}");
    assert_eq!(line(), format!("listening on {unix}"));
    let third = line();
    let address = third.strip_prefix("listening on ws://").unwrap().strip_suffix("/a").unwrap();
    assert!(TcpStream::connect(address).is_ok(), "{third}");
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!Path::new(path.as_str()).exists());
}
