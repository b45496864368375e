//! What an operator sees: metrics that balance under load, connections in pages, health, and a line
//! for each connection that has ended.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use ringecho::config::{
    AccessLogTarget, Bounds, Config, Handshake, ListenAddress, Observation, Time, Within,
};
use serde_json::{Value, json};
use socket2::SockRef;

use crate::{
    frames::{binary, close, text},
    peer::{Peer, TestServer, UPGRADE, config_with_workers, planes, with_server},
};

pub fn config(workers: u32) -> Config {
    let admin_listen = Some("127.0.0.1:0".parse().unwrap());
    let observation = Observation { admin_listen, ..Observation::default() };
    Config { observation, ..config_with_workers(workers) }
}

/// The response of the admin listener to a request.
fn ask(server: &TestServer, request: &str) -> String {
    let Some(ListenAddress::Tcp(address)) = server.admin else { panic!("it listens on TCP") };
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// The body of a response with the status 200.
fn get(server: &TestServer, path: &str) -> String {
    let response = ask(server, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let (head, body) = response.split_once("\r\n\r\n").expect(&response);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    body.to_owned()
}

pub fn get_json(server: &TestServer, path: &str) -> Value {
    serde_json::from_str(&get(server, path)).unwrap()
}

/// The samples of an exposition.
pub fn scrape(server: &TestServer) -> BTreeMap<String, u64> {
    let text = get(server, "/metrics");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            // Sums of times are no whole numbers.
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// The sum of all samples of a family.
fn sum(samples: &BTreeMap<String, u64>, name: &str) -> u64 {
    let is_of = |sample: &str| sample.split('{').next() == Some(name);
    samples.iter().filter(|(sample, _)| is_of(sample)).map(|(_, value)| value).sum()
}

/// Scrapes until `expected` is so.
pub fn scrape_until(
    server: &TestServer,
    expected: impl Fn(&BTreeMap<String, u64>) -> bool,
) -> BTreeMap<String, u64> {
    loop {
        let samples = scrape(server);
        if expected(&samples) {
            return samples;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

const OPEN: &str = "ringecho_connections_open";
const ACCEPTED: &str = "ringecho_connections_accepted_total";
const ENDED: &str = "ringecho_connections_ended_total";

#[test]
fn totals_balance_in_every_scrape_under_load_and_exactly_behind_it() {
    const ROUNDS: usize = 40;
    const HELD: usize = 5;
    with_server(&config(2), |server| {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let load: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for round in 0..ROUNDS {
                            come_and_go(server, round);
                        }
                    })
                })
                .collect();
            let scraping = scope.spawn(|| {
                let (mut scrapes, mut before) = (0, scrape(server));
                while !is_over.load(Relaxed) {
                    let samples = scrape(server);
                    assert_eq!(samples[ACCEPTED], samples[OPEN] + sum(&samples, ENDED));
                    let grows = |(sample, value): (&String, &u64)| {
                        !sample.contains("_total")
                            || before.get(sample).is_none_or(|it| it <= value)
                    };
                    assert!(samples.iter().all(grows), "{before:?} {samples:?}");
                    (scrapes, before) = (scrapes + 1, samples);
                }
                scrapes
            });
            for thread in load {
                thread.join().unwrap();
            }
            is_over.store(true, Relaxed);
            assert!(scraping.join().unwrap() > 0);
        });
        let _held: Vec<Peer> = (0..HELD).map(|_| server.open()).collect();
        // The last peers have their 101 before the workers have counted it.
        let upgraded = (3 * ROUNDS + HELD) as u64;
        let samples = scrape_until(server, |samples| {
            samples[OPEN] == HELD as u64 && samples["ringecho_upgrades_total"] >= upgraded
        });
        assert_eq!(samples[ACCEPTED], (4 * ROUNDS + HELD) as u64);
        let ended = |labels: &str| samples[&format!("{ENDED}{{{labels}}}")];
        // A quarter of all, each in its own way; what a reset looks like depends on its time.
        let each = ROUNDS as u64;
        assert_eq!(ended("kind=\"closed_by_peer\",close_code=\"4321\""), each);
        assert_eq!(ended("kind=\"failed\",close_code=\"1002\""), each);
        assert_eq!(ended("kind=\"refused\",close_code=\"\""), each);
        assert_eq!(samples["ringecho_refusals_total{reason=\"path_unknown\"}"], each);
        assert_eq!(samples["ringecho_protocol_errors_total{error=\"opcode_reserved\"}"], each);
        assert_eq!(samples["ringecho_upgrades_total"], 3 * each + HELD as u64);
        assert_eq!(samples["ringecho_handshake_seconds_count"], 3 * each + HELD as u64);
        for direction in ["received", "sent"] {
            let messages = |kind: &str| {
                let labels = format!("direction=\"{direction}\",kind=\"{kind}\"");
                samples[&format!("ringecho_messages_total{{{labels}}}")]
            };
            assert_eq!((messages("text"), messages("binary")), (2 * each, each));
            let pings = format!("ringecho_pongs_total{{direction=\"{direction}\"}}");
            assert_eq!(samples[&pings], each);
        }
        // A text, a Ping, a Pong and a Close; a text and a frame that fails; a binary message.
        let received = samples["ringecho_bytes_total{direction=\"received\"}"];
        let (frame, sent) = (6, samples["ringecho_bytes_total{direction=\"sent\"}"]);
        assert_eq!(received, each * (7 * frame + 2 + 2 * 5 + 300 + 2));
        assert!(sent > 0 && sent < received, "{sent}");
    });
}

/// A connection that says something and ends, in the way of its round.
fn come_and_go(server: &TestServer, round: usize) {
    match round % 4 {
        0 => {
            let mut peer = server.open();
            peer.send(text("hello").encode());
            peer.expect(text("hello").encode_echo());
            peer.send(control(0x9));
            peer.expect(b"\x8a\x00");
            peer.send(control(0xa));
            peer.send(close(4321, "").encode());
            peer.expect(b"\x88\x02\x10\xe1");
            peer.expect_end();
        }
        1 => {
            let mut peer = server.open();
            peer.send(text("hello").encode());
            peer.expect(text("hello").encode_echo());
            peer.send(control(0xb));
            let mut rest = Vec::new();
            peer.stream.read_to_end(&mut rest).expect("an orderly end");
            assert!(rest.len() > 4, "a Close frame with its reason: {rest:?}");
        }
        2 => {
            let mut peer = server.open();
            let message = binary(vec![7; 300]);
            peer.send(message.encode());
            peer.expect(message.encode_echo());
            SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        _ => {
            let mut peer = server.connect();
            peer.send("GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            assert!(peer.read_to_end().starts_with("HTTP/1.1 404 "));
        }
    }
}

/// A frame without payload.
fn control(opcode: u8) -> [u8; 6] {
    [0x80 | opcode, 0x80, 0, 0, 0, 0]
}

#[test]
fn open_connections_are_listed_in_pages() {
    let handshake =
        Handshake { subprotocols: vec!["chat".parse().unwrap()], ..Handshake::default() };
    let config = Config { handshake, ..config(2) };
    with_server(&config, |server| {
        let mut peers: Vec<Peer> = (0..5)
            .map(|_| {
                let mut peer = server.connect();
                let fields = "Sec-WebSocket-Protocol: chat\r\nOrigin: https://a.example\r\n\
                    User-Agent: probe\r\n\r\n";
                peer.send(format!("{}{fields}", UPGRADE.strip_suffix("\r\n").unwrap()));
                assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
                peer.send(text("hello").encode());
                peer.expect(text("hello").encode_echo());
                peer
            })
            .collect();
        let silent = server.connect();
        scrape_until(server, |samples| samples[OPEN] == 6);

        let (mut found, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = get_json(server, &format!("/connections?limit=2{after}"));
            assert_eq!(page["silent_workers"], json!([]));
            found.extend(page["connections"].as_array().unwrap().clone());
            pages += 1;
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!((found.len(), pages), (6, 3), "{found:?}");
        let listed = |peer: &Peer| {
            let address = peer.stream.local_addr().unwrap().to_string();
            found.iter().find(|it| it["peer"] == json!(address)).expect("it is listed")
        };
        for peer in &peers {
            let connection = listed(peer);
            for (field, expected) in [
                ("state", json!("open")),
                ("path", json!("/ws")),
                ("origin", json!("https://a.example")),
                ("agent", json!("probe")),
                ("subprotocol", json!("chat")),
                ("messages", json!(1)),
                ("received_bytes", json!(11)),
                ("sent_bytes", json!(7)),
            ] {
                assert_eq!(connection[field], expected, "{field}");
            }
        }
        let listed = listed(&silent);
        assert_eq!((&listed["state"], &listed["path"]), (&json!("request"), &Value::Null));

        let mut first = peers.remove(0);
        first.send(close(1000, "").encode());
        first.expect(b"\x88\x02\x03\xe8");
        first.expect_end();
        drop(first);
        scrape_until(server, |samples| samples[OPEN] == 5);
        let page = get_json(server, "/connections");
        assert_eq!(page["connections"].as_array().unwrap().len(), 5);
    });
}

#[test]
fn status_tells_of_server_and_workers() {
    with_server(&config(2), |server| {
        let _peer = server.open();
        let status = get_json(server, "/status");
        assert_eq!(status["version"], json!(env!("CARGO_PKG_VERSION")));
        assert_eq!(status["listen"], json!(server.address.to_string()));
        assert_eq!(status["ready"], json!(true));
        assert!(!status["kernel"].as_str().unwrap().is_empty());
        assert_eq!(status["limits"]["unsent_max"], json!("1MiB"));
        let workers = status["workers"].as_array().unwrap();
        assert_eq!(workers.len(), 2);
        for worker in workers {
            assert_eq!(worker["answers"], json!(true));
            assert!(
                ["io_uring", "epoll"]
                    .iter()
                    .any(|driver| { worker["platform"].as_str().unwrap().starts_with(driver) })
            );
        }
        let open: u64 = workers.iter().map(|it| it["connections_open"].as_u64().unwrap()).sum();
        assert_eq!(open, 1);
    });
}

#[test]
fn admin_listener_answers_head_and_refuses_as_the_main_port_and_counts_nothing() {
    with_server(&config(1), |server| {
        for path in ["/", "/metrics", "/status", "/connections", "/healthz"] {
            let response = ask(server, &format!("HEAD {path} HTTP/1.0\r\n\r\n"));
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
            assert!(response.ends_with("\r\n\r\n"), "{response}");
            let response = ask(server, &format!("DELETE {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert!(response.starts_with("HTTP/1.1 405 "), "{response}");
            assert!(response.contains("\r\nAllow: GET, HEAD\r\n"), "{response}");
        }
        let response = ask(server, "GET /ws HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
        assert!(get(server, "/").contains("/metrics"));
        let accept = "Accept: text/plain;version=0.0.4\r\n";
        let classic = ask(server, &format!("GET /metrics HTTP/1.1\r\n{accept}\r\n"));
        assert!(classic.contains("\r\nContent-Type: text/plain; version=0.0.4"), "{classic}");
        assert!(classic.contains("# TYPE ringecho_connections_accepted_total counter"));
        let samples = scrape(server);
        assert_eq!((samples[ACCEPTED], samples[OPEN]), (0, 0));
    });
}

/// Connections without a request keep their places for some seconds, and no other is taken.
#[test]
fn admin_listener_turns_away_whoever_comes_when_all_places_are_taken() {
    const PLACES: usize = 16;
    let server = TestServer::start(&config(1));
    let Some(ListenAddress::Tcp(address)) = server.admin else { panic!("it listens on TCP") };
    let silent: Vec<_> = (0..PLACES).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut response = String::new();
    TcpStream::connect(address).unwrap().read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(response.contains("\r\nRetry-After: 1\r\n"), "{response}");
    drop(silent);
    // Until the places are free again. A request that comes behind the refusal resets the connection.
    let is_served = || {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut response = String::new();
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        asked.and_then(|()| stream.read_to_string(&mut response)).is_ok()
            && response.starts_with("HTTP/1.1 200 ")
    };
    while !is_served() {
        thread::sleep(Duration::from_millis(10));
    }
    // It was the admin listener that was busy.
    drop(server.open());
    server.stop();
}

/// A message under way keeps the server from its end.
#[test]
fn stopping_server_is_seen_and_not_healthy() {
    for config in planes(&config(1)) {
        let server = TestServer::start(&config);
        let mut peer = server.open();
        let message = text("hello").encode();
        peer.send(&message[..8]);
        server.begin_to_stop();
        let request = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
        while !ask(&server, request).starts_with("HTTP/1.1 503 ") {
            thread::sleep(Duration::from_millis(10));
        }
        let samples = scrape(&server);
        assert_eq!((samples["ringecho_ready"], samples[OPEN]), (0, 1));
        peer.send(&message[8..]);
        peer.expect(text("hello").encode_echo());
        drop(peer);
        server.stop();
    }
}

#[test]
fn unix_socket_serves_the_same_and_is_gone_with_its_server() {
    let path = std::env::temp_dir().join(format!("ringecho-{}-seen.sock", std::process::id()));
    let admin_listen = Some(ListenAddress::Unix(path.clone()));
    let observation = Observation { admin_listen, ..Observation::default() };
    let config = Config { observation, ..config_with_workers(1) };
    let server = TestServer::start(&config);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.contains("application/openmetrics-text; version=1.0.0"), "{response}");
    assert!(response.ends_with("# EOF\n"));
    server.stop();
    assert!(!path.exists());
}

#[test]
fn every_connection_has_a_line_in_the_access_log_when_it_ends() {
    for (at, config) in planes(&config_with_workers(2)).iter().enumerate() {
        let name = format!("ringecho-{}-access-{at}.log", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_file(&path);
        let access_log = Some(AccessLogTarget::File(path.clone()));
        let observation = Observation { access_log, ..Observation::default() };
        let drain_timeout = Within::new(Duration::ZERO).unwrap();
        let time = Time { drain_timeout, ..config.time.clone() };
        let config = Config { observation, time, ..config.clone() };
        let server = TestServer::start(&config);
        for round in 0..8 {
            come_and_go(&server, round);
        }
        let mut peer = server.connect();
        // The bytes of these characters may stand in a field.
        let agent = "User-Agent: a\" \u{85}\u{202e}\r\n\r\n";
        peer.send(UPGRADE.replace("\r\n\r\n", &format!("\r\n{agent}")).as_bytes());
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
        let totals = server.stop();
        drop(peer);

        let lines = lines(&path);
        assert_eq!(lines.len() as u64, totals.accepted);
        for (kind, count) in &totals.ended {
            let logged = lines.iter().filter(|line| line["end"] == json!(kind)).count();
            assert_eq!(logged as u64, *count, "{kind}");
        }
        let with = |field: &'static str, value: Value| {
            lines.iter().filter(move |line| line[field] == value)
        };
        let closed: Vec<_> = with("close_code", json!(4321)).collect();
        assert_eq!(closed.len(), 2);
        assert_eq!((&closed[0]["messages"], &closed[0]["path"]), (&json!(1), &json!("/ws")));
        assert_eq!(closed[0]["received_bytes"], json!(11 + 6 + 6 + 8));
        assert_eq!(closed[0]["sent_bytes"], json!(7 + 2 + 4));
        let refused = with("refusal", json!("path_unknown"));
        assert!(refused.into_iter().all(|line| line["path"] == json!("/nowhere")));
        let agents: Vec<_> = lines.iter().filter_map(|line| line["agent"].as_str()).collect();
        assert_eq!(agents, [r#"a" \u{85}\u{202e}"#]);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn connection_beyond_a_bound_has_a_line_in_the_access_log_too() {
    let name = format!("ringecho-{}-access-beyond.log", std::process::id());
    let path = std::env::temp_dir().join(name);
    let _ = fs::remove_file(&path);
    let access_log = Some(AccessLogTarget::File(path.clone()));
    let observation = Observation { access_log, ..Observation::default() };
    let bounds = Bounds { connections_max: Some(Within::new(1).unwrap()), ..Bounds::default() };
    let server = TestServer::start(&Config { observation, bounds, ..config_with_workers(1) });
    let open = server.open();
    let mut response = String::new();
    TcpStream::connect(server.address).unwrap().read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    drop(open);
    assert_eq!(server.stop().accepted, 2);
    let lines = lines(&path);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["refusal"], json!("connections_max"));
    assert_eq!((&lines[0]["end"], &lines[0]["path"]), (&json!("refused"), &Value::Null));
    fs::remove_file(path).unwrap();
}

pub fn lines(path: &PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(!text.bytes().any(|byte| byte.is_ascii_control() && byte != b'\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
