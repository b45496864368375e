//! Ways to a server that its URL does not say: PROXY protocol headers before everything else,
//! addresses by hand, and redirects.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
};

use proxy_header::{ParseConfig, ProxyHeader};
use serde_json::{Value, json};
use tungstenite::{
    Message,
    handshake::server::{Request, Response},
};

use crate::{
    invocation::{Files, Outcome, assert_matches_definition, program, run, temporary},
    proxies::{head, http_proxy},
    servers::{Server, accepting_response, config, echo, tls_server},
};

const SHORT: &str = "--warmup 50ms --duration 300ms --threads 2 --connections 4";

/// Source and destination that a header names; `None` if it names nobody.
type Ends = Option<(SocketAddr, SocketAddr)>;

/// Reads the header that a connection begins with, as a stock decoder understands it, and no byte
/// behind it.
fn proxy_header(stream: &mut impl Read) -> Ends {
    let mut read = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        read.push(byte[0]);
        match ProxyHeader::parse(&read, ParseConfig::default()) {
            Ok((header, len)) => {
                assert_eq!(len, read.len());
                let address = header.proxied_address();
                return address.map(|address| (address.source, address.destination));
            }
            Err(proxy_header::Error::BufferTooShort) => {}
            Err(error) => panic!("{error}: {}", read.escape_ascii()),
        }
    }
}

/// A server that wants a header before each connection, and what these were, each beside the address
/// that the connection came from.
fn announced_server() -> (Server, mpsc::Receiver<(SocketAddr, Ends)>) {
    let (ends, seen) = mpsc::channel();
    let ends = Mutex::new(ends);
    let server = Server::of_tcp(move |mut stream| {
        let header = proxy_header(&mut stream);
        let _ = ends.lock().unwrap().send((stream.peer_addr().unwrap(), header));
        if let Ok(websocket) = tungstenite::accept_with_config(stream, Some(config())) {
            echo(websocket);
        }
    });
    (server, seen)
}

#[test]
fn connections_are_announced_with_their_own_addresses() {
    for version in ["v1", "v2"] {
        let (server, seen) = announced_server();
        let outcome = run(&format!("{} {SHORT} --send-proxy {version}", server.url()));
        outcome.assert_success();
        let header = json!({ "version": version, "sources": null });
        assert_eq!(outcome.report["way_in"]["proxy_header"], header);
        let destination = SocketAddr::from(([127, 0, 0, 1], server.port()));
        let seen: Vec<_> = seen.try_iter().collect();
        assert_eq!(seen.len(), 4);
        for (peer, header) in seen {
            assert_eq!(header, Some((peer, destination)));
        }
    }
}

#[test]
fn connections_are_announced_as_many_clients() {
    for version in ["v1", "v2"] {
        for (sources, expected) in [
            ("10.0.0.1-10.0.0.3", &["10.0.0.1", "10.0.0.2", "10.0.0.3"][..]),
            ("2001:db8::1,10.0.0.1", &["2001:db8::1", "10.0.0.1"]),
        ] {
            let (server, seen) = announced_server();
            let flags = format!("--send-proxy {version} --send-proxy-source {sources}");
            let outcome = run(&format!("{} {SHORT} {flags}", server.url()));
            outcome.assert_success();
            let expected: BTreeSet<IpAddr> =
                expected.iter().map(|source| source.parse().unwrap()).collect();
            let mut named = BTreeSet::new();
            for (peer, header) in seen.try_iter() {
                let (source, destination) = header.unwrap();
                assert_eq!(source.port(), peer.port());
                assert_eq!(destination.ip().to_canonical(), IpAddr::from([127, 0, 0, 1]));
                assert_eq!(source.is_ipv4(), destination.is_ipv4());
                named.insert(source.ip());
            }
            assert_eq!(named, expected);
        }
    }
}

#[test]
fn a_unix_socket_is_announced_as_local_or_as_a_client() {
    let path = temporary("announced-socket");
    let listener = UnixListener::bind(&path).unwrap();
    let (ends, seen) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, ends) = (stream.unwrap(), ends.clone());
            thread::spawn(move || {
                ends.send(proxy_header(&mut stream)).unwrap();
                if let Ok(websocket) = tungstenite::accept_with_config(stream, Some(config())) {
                    echo(websocket);
                }
            });
        }
    });
    let arguments = format!("ws://nowhere.invalid:81/ {SHORT} --unix-socket {}", path.display());
    for version in ["v1", "v2"] {
        run(&format!("{arguments} --send-proxy {version}")).assert_success();
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), [None; 4]);
        let source = "--send-proxy-source 10.0.0.1";
        run(&format!("{arguments} --send-proxy {version} {source}")).assert_success();
        let mut ports = BTreeSet::new();
        for header in seen.try_iter() {
            let (source, destination) = header.unwrap();
            assert_eq!(source.ip(), IpAddr::from([10, 0, 0, 1]));
            assert_eq!(destination, "0.0.0.0:81".parse().unwrap());
            ports.insert(source.port());
        }
        assert_eq!(ports.len(), 4, "each client has a port of its own: {ports:?}");
    }
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_header_comes_before_tls_and_behind_the_answer_of_a_proxy() {
    let (authority, tls) = tls_server();
    let ca = temporary("announced-ca.pem");
    fs::write(&ca, authority).unwrap();
    let (ends, seen) = mpsc::channel();
    let ends = Mutex::new(ends);
    let tls_port = tls.port();
    let front = Server::of_tcp(move |mut client| {
        ends.lock().unwrap().send(proxy_header(&mut client)).unwrap();
        let server = TcpStream::connect(("127.0.0.1", tls_port)).unwrap();
        server.set_nodelay(true).unwrap();
        let (mut from_client, mut to_server) =
            (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
        let (mut from_server, mut to_client) = (server, client);
        let _ = std::io::copy(&mut from_server, &mut to_client);
    });
    let url = format!("wss://localhost:{}/", front.port());
    let flags = format!("--send-proxy v2 --ca {}", ca.display());
    let by_hand = format!("--resolve localhost:{}:127.0.0.1", front.port());
    run(&format!("{url} {SHORT} {flags} {by_hand}")).assert_success();
    let address = SocketAddr::from(([127, 0, 0, 1], front.port()));
    let announced: Vec<_> = seen.try_iter().collect();
    assert!(announced.iter().all(|ends| ends.unwrap().1 == address), "{announced:?}");

    // The proxy looks the name up, so the server's address is not known here.
    let (proxy, _) = http_proxy();
    let proxy = format!("--proxy http://127.0.0.1:{}", proxy.port());
    run(&format!("{url} {SHORT} {flags} {proxy}")).assert_success();
    let unknown = SocketAddr::from(([0, 0, 0, 0], front.port()));
    let announced: Vec<_> = seen.try_iter().collect();
    assert!(announced.iter().all(|ends| ends.unwrap().1 == unknown), "{announced:?}");
    fs::remove_file(&ca).unwrap();
}

/// The addresses that connections came to, and the hosts that they named.
type Reached = Arc<Mutex<BTreeSet<(IpAddr, String)>>>;

/// A server on all addresses of this machine.
fn noting_server() -> (Server, Reached) {
    let seen = Reached::default();
    let noted = Arc::clone(&seen);
    let server = Server::of_tcp_at("0.0.0.0:0", move |stream| {
        let address = stream.local_addr().unwrap().ip();
        let noted = &noted;
        #[expect(clippy::result_large_err, reason = "the library's signature")]
        let note = move |request: &Request, response: Response| {
            let host = request.headers()["host"].to_str().unwrap().to_owned();
            noted.lock().unwrap().insert((address, host));
            Ok(response)
        };
        if let Ok(websocket) = tungstenite::accept_hdr_with_config(stream, note, Some(config())) {
            echo(websocket);
        }
    });
    (server, seen)
}

#[test]
fn addresses_by_hand_are_taken_in_turn_and_the_host_stays() {
    let (server, seen) = noting_server();
    let host = format!("echo.invalid:{}", server.port());
    let url = format!("ws://{host}/");
    let both = ["127.0.0.1", "127.0.0.2"];
    let expected: BTreeSet<(IpAddr, String)> =
        both.iter().map(|address| (address.parse().unwrap(), host.clone())).collect();
    let port = server.port();
    for flags in [
        format!("--resolve {host}:127.0.0.1,127.0.0.2"),
        format!("--resolve {host}:127.0.0.1 --resolve ECHO.invalid:{port}:[127.0.0.2]"),
        format!("--resolve *:{port}:127.0.0.1,127.0.0.2 --resolve *:1:127.0.0.3"),
        format!("--resolve {host}:127.0.0.1,127.0.0.2 --resolve *:{port}:127.0.0.3"),
    ] {
        let outcome = run(&format!("{url} {SHORT} {flags}"));
        outcome.assert_success();
        assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), expected, "{flags}");
        let resolved = both.map(|address| format!("{address}:{port}"));
        assert_eq!(outcome.report["way_in"]["resolved"], json!(resolved));
        assert_eq!(outcome.report["url"], url);
    }
    // It is said of another port.
    let output = program(&format!("{url} --resolve echo.invalid:1:127.0.0.1")).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("cannot resolve \"echo.invalid\""), "{stderr}");
}

#[test]
fn addresses_by_hand_are_what_a_proxy_is_asked_for_and_where_it_is() {
    let (server, seen) = noting_server();
    let (proxy, asked) = http_proxy();
    let host = format!("echo.invalid:{}", server.port());
    let proxy_host = format!("proxy.invalid:{}", proxy.port());
    let flags = format!("--resolve {host}:127.0.0.1 --resolve {proxy_host}:127.0.0.1");
    let outcome = run(&format!("ws://{host}/ {SHORT} --proxy http://{proxy_host} {flags}"));
    outcome.assert_success();
    let asked = asked.lock().unwrap();
    let head = format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\n", server.port());
    assert!(asked.len() == 1 && asked.iter().all(|it| it.starts_with(&head)), "{asked:?}");
    assert!(seen.lock().unwrap().iter().all(|(_, named)| *named == host));
}

/// A server that redirects each request to what `location` says of its head, with `status`.
fn redirecting(
    status: u16,
    location: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (Server, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&heads);
    let server = Server::of_tcp(move |mut stream| {
        let head = head(&mut stream);
        let location = location(&head);
        noted.lock().unwrap().push(head);
        let _ = write!(
            stream,
            "HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        );
    });
    (server, heads)
}

#[test]
fn redirects_are_followed_once_for_all_connections() {
    for status in [301, 302, 303, 307, 308] {
        let (to, seen) = noting_server();
        let target = format!("http://127.0.0.1:{}/there?x=y#fragment", to.port());
        let (from, heads) = redirecting(status, move |head| {
            if head.starts_with("GET /a/b ") { "../c".to_owned() } else { target.clone() }
        });
        let url = format!("ws://127.0.0.1:{}", from.port());
        let outcome = run(&format!("{url}/a/b {SHORT} --follow"));
        outcome.assert_success();
        assert_eq!(outcome.report["url"], format!("ws://127.0.0.1:{}/there?x=***", to.port()));
        let redirects = [format!("{url}/a/b"), format!("{url}/c")];
        assert_eq!(outcome.report["way_in"]["redirects"], json!(redirects));
        assert_eq!(heads.lock().unwrap().len(), 2, "not once for each connection");
        assert!(!seen.lock().unwrap().is_empty());
    }
}

#[test]
fn a_redirect_that_is_not_followed_is_an_error_with_its_target() {
    let (server, heads) = redirecting(307, |_| "wss://h/?token=abc".to_owned());
    let outcome = run(&format!("{} {SHORT}", server.url()));
    outcome.assert_errors(&[("handshake", 4)]);
    outcome.assert_cause(
        "the server answered with status 307 instead of 101, and points to \"wss://h/?token=***\" \
         (--follow goes there, once and before the load)",
    );
    assert_eq!(heads.lock().unwrap().len(), 4);
}

#[test]
fn who_asks_before_the_load_takes_leave_and_asks_once() {
    let (closes, seen) = mpsc::channel();
    let closes = Mutex::new(closes);
    let opened = AtomicUsize::new(0);
    let server = Server::of_websockets(move |mut websocket| {
        if opened.fetch_add(1, SeqCst) > 0 {
            return echo(websocket);
        }
        if let Ok(Message::Close(Some(frame))) = websocket.read() {
            closes.lock().unwrap().send(u16::from(frame.code)).unwrap();
        }
        let _ = websocket.flush();
    });
    let outcome = run(&format!("{} {SHORT} --follow", server.url()));
    outcome.assert_success();
    assert_eq!(outcome.report["way_in"], Value::Null);
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [1000]);
}

#[test]
fn secrets_stay_with_their_server() {
    let (heads, seen) = mpsc::channel();
    let heads = Mutex::new(heads);
    let to = Server::of_tcp(move |mut stream| {
        let head = head(&mut stream);
        heads.lock().unwrap().send(head).unwrap();
    });
    let target = to.url();
    let (from, asked) = redirecting(302, move |head| {
        if head.starts_with("GET /echo") { "/again".to_owned() } else { target.clone() }
    });
    let url = from.url().replace("ws://", "ws://me:secret@");
    let mut command = program(&format!("{url} {SHORT} --follow --json -"));
    command.args(["-H", "Cookie: secret", "-H", "X-Room: 7", "-H", "Host: secret"]);
    let outcome = Outcome::read(&command.output().unwrap());
    outcome.assert_errors(&[("handshake", 4)]);
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 2);
    for head in &*asked {
        assert!(
            head.contains("Authorization: Basic ") && head.contains("cookie: secret"),
            "{head}"
        );
        assert!(head.contains("host: secret"), "{head}");
    }
    let host = format!("Host: 127.0.0.1:{}\r\n", to.port());
    for head in seen.try_iter() {
        assert!(!head.contains("Authorization") && !head.contains("secret"), "{head}");
        assert!(head.contains("x-room: 7") && head.contains(&host), "{head}");
    }
}

#[test]
fn redirects_that_nobody_should_follow_end_the_program() {
    let (around, _) = redirecting(302, |head| {
        if head.starts_with("GET /echo") { "/a".to_owned() } else { "/echo".to_owned() }
    });
    let number = AtomicUsize::new(0);
    let (endless, _) = redirecting(308, move |_| format!("/{}", number.fetch_add(1, SeqCst)));
    let (away, _) = redirecting(301, |_| "ftp://h/".to_owned());
    for (server, message) in [
        (&around, format!("the redirects go in a circle: {0} -> ", around.url())),
        (&endless, format!("more than 10 redirects: {} -> ", endless.url())),
        (&away, format!("{} points to \"ftp://h/\": the scheme has to be", away.url())),
    ] {
        for command in ["", "idle", "churn"] {
            let output = program(&format!("{command} {} --follow", server.url())).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert!(stderr.starts_with(&format!("error: --follow: {message}")), "{stderr}");
        }
    }
}

#[test]
fn both_sides_of_a_comparison_are_followed() {
    let (to, _) = noting_server();
    let target = format!("ws://127.0.0.1:{}/", to.port());
    let location = target.clone();
    let (from, _) = redirecting(302, move |_| location.clone());
    let (a, b) = (from.url(), &target);
    let arguments = "--warmup 0s --duration 100ms -c 2 --rounds 2 --follow --json -";
    let output = program(&format!("compare {a} {b} {arguments}")).output().unwrap();
    let outcome = Outcome::read_any(&output);
    assert_matches_definition(&outcome.report, "compare");
    assert_eq!(outcome.report["a"]["url"], target);
    assert_eq!(outcome.report["a"]["way_in"]["redirects"], json!([a]));
    assert_eq!(outcome.report["b"]["way_in"], Value::Null);
}

#[test]
fn a_target_where_nobody_listens_is_the_loads_to_report() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (from, _) = redirecting(302, move |_| format!("ws://{nobody}/"));
    let outcome = run(&format!("{} {SHORT} --follow", from.url()));
    outcome.assert_errors(&[("connect", 4)]);
    assert_eq!(outcome.report["url"], format!("ws://{nobody}/"));
}

#[test]
fn runs_that_came_by_different_ways_are_told_apart() {
    let files = Files::new("ways-in");
    let (server, _seen) = announced_server();
    let plain = Server::honest();
    let [v1, v2, straight] = ["v1", "v2", "straight"].map(|name| files.path(name));
    let arguments = "-c 1 --warmup 0s --duration 100ms";
    for (version, log) in [("v1", &v1), ("v2", &v2)] {
        let flags = format!("--send-proxy {version} --hlog {log} --json {log}.json");
        let output = program(&format!("{} {arguments} {flags}", server.url())).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let url = plain.url();
    let run = run(&format!("{url} {arguments} --hlog {straight} --baseline {v1}.json"));
    run.assert_success();
    let differences = run.report["baseline"]["differences"].as_array().unwrap();
    let difference = json!({ "name": "way_in.proxy_header.version", "earlier": "v1", "now": null });
    assert!(differences.contains(&difference), "{differences:#?}");

    let merged = |logs: &[&String]| {
        let logs: Vec<&str> = logs.iter().map(|log| log.as_str()).collect();
        let output = program(&format!("merge {} --json -", logs.join(" "))).output().unwrap();
        let outcome = Outcome::read_any(&output);
        assert_matches_definition(&outcome.report, "merged");
        outcome
    };
    let same = merged(&[&v1, &v1]);
    assert_eq!(same.report["way_in"]["proxy_header"]["version"], "v1");
    assert!(!same.stderr.contains("different ways"), "{}", same.stderr);
    for logs in [[&v1, &v2], [&v1, &straight]] {
        let different = merged(&logs);
        assert_eq!(different.report["way_in"], Value::Null);
        let said = format!(
            "warning: the runs came to the server by different ways, and their sum is of no single \
             one: {v1} announced by PROXY v1; "
        );
        assert!(different.stderr.contains(&said), "{}", different.stderr);
        let codes = different.report["warnings"].as_array().unwrap();
        assert!(codes.iter().any(|warning| warning["code"] == "ways_in_differ"), "{codes:#?}");
    }
}

#[test]
fn a_server_that_wants_no_header_is_told_from_one_that_refuses() {
    let server = Server::of_tcp(|mut stream| {
        let mut first = [0; 5];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"PROXY");
        let _ =
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 9\r\n\r\nno PROXY\n");
        let _ = accepting_response(&mut stream);
    });
    let outcome = run(&format!("{} {SHORT} --send-proxy v1", server.url()));
    outcome.assert_errors(&[("handshake", 4)]);
    outcome.assert_cause("status 400 instead of 101: \"no PROXY\"");
}
