//! Proxies between generator and server: scripted ones of HTTP and of SOCKS 5, honest and refusing,
//! and those that variables name.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use serde_json::{Value, json};

use crate::{
    invocation::{Outcome, assert_matches, assert_matches_definition, program, run, temporary},
    servers::{Server, tls_server},
};

const SHORT: &str = "--warmup 50ms --duration 300ms --threads 2 --connections 2";

/// What clients have asked a proxy for.
pub(crate) type Asked = Arc<Mutex<BTreeSet<String>>>;

/// A proxy of HTTP that connects to 127.0.0.1, whatever host it is asked for.
pub(crate) fn http_proxy() -> (Server, Asked) {
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    let server = Server::of_tcp(move |mut client| {
        let head = head(&mut client);
        let port = head.split([' ', ':']).nth(2).and_then(|port| port.parse().ok()).unwrap();
        noted.lock().unwrap().insert(head);
        let established = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 p\r\n\r\n";
        client.write_all(established).unwrap();
        relay(client, port);
    });
    (server, asked)
}

/// A head of HTTP, up to its empty line.
pub(crate) fn head(client: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if client.read_exact(&mut byte).is_err() {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A proxy of SOCKS 5 that connects to 127.0.0.1, wherever it is asked to connect to. It wants to
/// know who asks, if there is a `password`.
fn socks_proxy(password: Option<&'static str>) -> (Server, Asked) {
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    let server = Server::of_tcp(move |mut client| {
        let [5, count] = bytes(&mut client) else { panic!("no SOCKS 5") };
        let mut methods = vec![0; usize::from(count)];
        client.read_exact(&mut methods).unwrap();
        let method = if password.is_some() { 2 } else { 0 };
        assert!(methods.contains(&method), "{methods:?}");
        client.write_all(&[5, method]).unwrap();
        if let Some(password) = password {
            let [1] = bytes(&mut client) else { panic!("no RFC 1929") };
            let said = [text(&mut client), text(&mut client)].join(":");
            client.write_all(&[1, u8::from(said != password)]).unwrap();
        }
        let [5, 1, 0, address_type] = bytes(&mut client) else { panic!("no CONNECT") };
        let host = match address_type {
            1 => format!("address {:?}", bytes::<4>(&mut client)),
            4 => format!("address {:?}", bytes::<16>(&mut client)),
            _ => format!("name {}", text(&mut client)),
        };
        let port = u16::from_be_bytes(bytes(&mut client));
        noted.lock().unwrap().insert(host);
        // It is connected from a name, which is allowed.
        client.write_all(b"\x05\x00\x00\x03\x01p\x00\x50").unwrap();
        relay(client, port);
    });
    (server, asked)
}

fn bytes<const LEN: usize>(client: &mut TcpStream) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

/// A text with its length before it.
fn text(client: &mut TcpStream) -> String {
    let [len] = bytes(client);
    let mut text = vec![0; usize::from(len)];
    client.read_exact(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// Carries bytes between a client and a server until both are done.
fn relay(client: TcpStream, port: u16) {
    let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = (client.try_clone().unwrap(), client);
    let (mut from_server, mut to_server) = (server.try_clone().unwrap(), server);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let _ = io::copy(&mut from_server, &mut to_client);
    let _ = to_client.shutdown(Shutdown::Write);
}

/// A proxy that says `answers` in turn, one after each time that it is spoken to, and then closes the
/// connection.
fn scripted_proxy(answers: &'static [&'static [u8]]) -> Server {
    Server::of_tcp(move |mut client| {
        for answer in answers {
            if !matches!(client.read(&mut [0; 1024]), Ok(1..)) {
                return;
            }
            if client.write_all(answer).is_err() {
                return;
            }
        }
        // What is read no longer resets the connection.
        let _ = client.shutdown(Shutdown::Write);
        let _ = io::copy(&mut client, &mut io::sink());
    })
}

/// The URL of a server by a name that only a proxy knows.
fn hidden(server: &Server) -> String {
    format!("ws://echo.invalid:{}/echo", server.port())
}

/// Asserts that a result says so of its way, and warns of it.
#[track_caller]
fn assert_went_through(outcome: &Outcome, url: &str, from: &str) {
    assert_eq!(outcome.report["way_in"]["proxy"], json!({ "url": url, "from": from }));
    let warnings = outcome.report["warnings"].as_array().unwrap();
    let warning = warnings.iter().find(|warning| warning["code"] == "through_proxy").unwrap();
    let said = format!("connections went through the proxy {url}, which {from} names: ");
    assert!(warning["text"].as_str().unwrap().starts_with(&said), "{warning}");
    assert!(outcome.stderr.contains(&said), "{}", outcome.stderr);
}

#[test]
fn an_http_proxy_is_asked_for_the_name_and_told_who_asks() {
    let server = Server::honest();
    let (proxy, asked) = http_proxy();
    let at = format!("127.0.0.1:{}", proxy.port());
    let url = hidden(&server);
    let outcome = run(&format!("{url} {SHORT} --proxy http://me:a%40b@{at}"));
    outcome.assert_success();
    assert_went_through(&outcome, &format!("http://{at}"), "--proxy");
    let authority = format!("echo.invalid:{}", server.port());
    let head = format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\
         Proxy-Authorization: Basic bWU6YUBi\r\n\r\n"
    );
    assert_eq!(*asked.lock().unwrap(), BTreeSet::from([head]));
    assert!(!format!("{:#}{}", outcome.report, outcome.stderr).contains("a@b"));
}

#[test]
fn every_mode_goes_through_a_proxy_and_says_so() {
    let server = Server::honest();
    let (proxy, _) = socks_proxy(None);
    let shown = format!("socks5h://127.0.0.1:{}", proxy.port());
    let (url, by) = (hidden(&server), format!("--proxy {shown} --json - -c 2 -t 1"));
    let times = "--warmup 0s --duration 200ms";
    let result = |arguments: &str| Outcome::read_any(&program(arguments).output().unwrap());

    let idle = result(&format!("idle {url} {by} --duration 50ms --echo 64"));
    assert_matches(&idle.report, include_str!("../../idle.schema.json"));
    assert_went_through(&idle, &shown, "--proxy");
    let churn = result(&format!("churn {url} {by} {times}"));
    assert_matches(&churn.report, include_str!("../../churn.schema.json"));
    assert_went_through(&churn, &shown, "--proxy");
    for outcome in [&idle, &churn] {
        assert_eq!(outcome.code, Some(0), "{:#}\n{}", outcome.report, outcome.stderr);
    }

    let compare = result(&format!("compare {url} {url} {by} {times} --rounds 2"));
    assert_matches_definition(&compare.report, "compare");
    for side in ["a", "b"] {
        assert_eq!(compare.report[side]["way_in"]["proxy"]["url"], shown);
    }
    assert!(compare.stderr.contains("warning: B: connections went through the proxy"));
    let slo = "--slo p99<10s --start-rate 100 --max-rate 100 --confirm 1";
    let search = result(&format!("search {url} {by} {times} {slo}"));
    assert_matches_definition(&search.report, "search");
    assert_eq!(search.report["way_in"]["proxy"]["url"], shown);

    let text = program(&format!("{url} {SHORT} --proxy {shown}")).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.starts_with(&format!("{url}\n  through {shown} (--proxy)\n")), "{text}");
    let page = temporary("proxied.html");
    run(&format!("{url} {SHORT} --proxy {shown} --html {}", page.display())).assert_success();
    let html = fs::read_to_string(&page).unwrap();
    fs::remove_file(&page).unwrap();
    assert!(html.contains(&format!("through {shown} (--proxy)")), "{html}");
}

#[test]
fn socks_is_asked_for_a_name_or_for_the_address_that_it_has_here() {
    let server = Server::honest();
    let by_address = format!("ws://127.0.0.1:{}/", server.port());
    let by_local_name = format!("ws://localhost:{}/", server.port());
    let loopback = ["address [127, 0, 0, 1]", &format!("address {:?}", loopback_v6())];
    for (scheme, url, expected) in [
        ("socks5h", &hidden(&server), &["name echo.invalid"][..]),
        ("socks5h", &by_local_name, &["name localhost"]),
        ("socks5h", &by_address, &loopback[..1]),
        ("socks5", &by_address, &loopback[..1]),
        ("socks5", &by_local_name, &loopback),
    ] {
        for (userinfo, password) in [("", None), ("me:pass%3aword@", Some("me:pass:word"))] {
            let (proxy, asked) = socks_proxy(password);
            let at = format!("{scheme}://{userinfo}127.0.0.1:{}", proxy.port());
            run(&format!("{url} {SHORT} --proxy {at}")).assert_success();
            let asked = asked.lock().unwrap();
            let [asked] = &*asked.iter().collect::<Vec<_>>() else { panic!("{asked:?}") };
            assert!(expected.contains(&asked.as_str()), "{scheme} {url}: {asked}");
        }
    }
}

fn loopback_v6() -> [u8; 16] {
    std::net::Ipv6Addr::LOCALHOST.octets()
}

#[test]
fn tls_is_spoken_with_the_server_behind_the_proxy() {
    let (authority, server) = tls_server();
    let path = temporary("proxied-ca.pem");
    fs::write(&path, authority).unwrap();
    let url = format!("wss://localhost:{}/echo", server.port());
    let proxies = [("http", http_proxy()), ("socks5h", socks_proxy(None))];
    for (scheme, (proxy, asked)) in &proxies {
        let at = format!("{scheme}://127.0.0.1:{}", proxy.port());
        let outcome = run(&format!("{url} {SHORT} --proxy {at} --ca {}", path.display()));
        outcome.assert_success();
        assert!(!asked.lock().unwrap().is_empty());
    }
    fs::remove_file(&path).unwrap();
}

#[test]
fn what_keeps_an_http_proxy_from_connecting_is_named() {
    const CHALLENGE: &[u8] = b"HTTP/1.1 407 Proxy Authentication Required\r\n\
        Proxy-Authenticate: Basic realm=\"p\"\r\nContent-Length: 0\r\n\r\n";
    let cases: [(&str, &'static [&'static [u8]], &str); 8] = [
        (
            "",
            &[b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n\nnot you\n"],
            "it refused CONNECT with status 403: \"Forbidden\": \"not you\"",
        ),
        (
            "",
            &[b"HTTP/1.1 502 \r\n\r\nno \x1broute"],
            "it refused CONNECT with status 502: \"no \\u{1b}route\"",
        ),
        (
            "me:secret@",
            &[b"HTTP/1.1 503 Busy\r\n\r\nsecret me"],
            "it refused CONNECT with status 503: \"Busy\": \"*** me\"",
        ),
        (
            "",
            &[CHALLENGE],
            "it wants a user and a password, as in http://USER:PASSWORD@HOST:PORT (status 407, it \
             offers \"Basic realm=\\\"p\\\"\")",
        ),
        (
            "me:secret@",
            &[CHALLENGE],
            "it refused user and password, which were sent as Basic (status 407, it offers \"Basic",
        ),
        ("", &[b"\x05\xff"], "it does not speak HTTP: "),
        ("", &[b""], "it closed the connection while it was asked for one to the server"),
        (
            "",
            &[b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 400 Bad Request\r\n\r\n"],
            "it sent bytes behind its answer, before the server was sent anything",
        ),
    ];
    for (userinfo, answers, cause) in cases {
        let proxy = scripted_proxy(answers);
        let at = format!("127.0.0.1:{}", proxy.port());
        let outcome = run(&format!("ws://h.invalid/ {SHORT} --proxy http://{userinfo}{at}"));
        outcome.assert_errors(&[("proxy", 2)]);
        outcome.assert_cause(&format!("the proxy http://{at}: {cause}"));
        let said = "no connection to ws://h.invalid/ could be opened: proxy: the proxy http";
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    }
}

#[test]
fn what_keeps_a_socks_proxy_from_connecting_is_named() {
    let replies = [
        (&b"\x05\x01\x00\x01\0\0\0\0\0\0"[..], "general SOCKS server failure (reply 1)"),
        (b"\x05\x02\x00\x01\0\0\0\0\0\0", "connection not allowed by ruleset (reply 2)"),
        (b"\x05\x03\x00\x01\0\0\0\0\0\0", "network unreachable (reply 3)"),
        (b"\x05\x04\x00\x01\0\0\0\0\0\0", "host unreachable (reply 4)"),
        (b"\x05\x05\x00\x01\0\0\0\0\0\0", "connection refused (reply 5)"),
        (b"\x05\x06\x00\x01\0\0\0\0\0\0", "TTL expired (reply 6)"),
        (b"\x05\x07\x00\x01\0\0\0\0\0\0", "command not supported (reply 7)"),
        (b"\x05\x08\x00\x01\0\0\0\0\0\0", "address type not supported (reply 8)"),
        (b"\x05\x63\x00\x01\0\0\0\0\0\0", "for a reason without a name (reply 99)"),
    ];
    let replies = replies.map(|(reply, words)| {
        let answers: &'static [&'static [u8]] = Vec::leak(vec![&b"\x05\x00"[..], reply]);
        ("", answers, format!("it refused the connection: {words}"))
    });
    let others: [(&str, &'static [&'static [u8]], &str); 9] = [
        (
            "",
            &[b"\x05\xff"],
            "it wants a user and a password, as in socks5://USER:PASSWORD@HOST:PORT",
        ),
        ("me:x@", &[b"\x05\xff"], "it accepts neither user and password nor nobody (method 255)"),
        ("", &[b"\x05\x02"], "it chose method 2, which was not offered"),
        ("me:x@", &[b"\x05\x02", b"\x01\x01"], "it refused user and password (status 1)"),
        ("", &[b"HTTP/1.1 400 Bad Request\r\n\r\n"], "its answer begins with byte 0x48"),
        ("", &[b"\x05"], "it closed the connection while it was asked for one to the server"),
        ("", &[b"\x05\x00\x05\x00"], "it sent bytes behind its answer, before the server was sent"),
        (
            "",
            &[b"\x05\x00", b"\x05\x00\x00\x01\0\0\0\0\0\0HTTP"],
            "it sent bytes behind its answer, before the server was sent",
        ),
        ("", &[b"\x05\x00", b"\x05\x00\x00\x02"], "its reply has an address of the unknown type 2"),
    ];
    let others = others.map(|(userinfo, answers, cause)| (userinfo, answers, cause.to_owned()));
    for (userinfo, answers, cause) in replies.into_iter().chain(others) {
        let proxy = scripted_proxy(answers);
        let at = format!("127.0.0.1:{}", proxy.port());
        let outcome = run(&format!("ws://h.invalid/ {SHORT} --proxy socks5h://{userinfo}{at}"));
        outcome.assert_errors(&[("proxy", 2)]);
        outcome.assert_cause(&format!("the proxy socks5h://{at}: "));
        outcome.assert_cause(&cause);
    }
}

#[test]
fn a_proxy_that_is_not_there_or_never_answers_is_named() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outcome = run(&format!("ws://h.invalid/ {SHORT} --proxy http://{nobody}"));
    outcome.assert_errors(&[("proxy", 2)]);
    outcome.assert_cause(&format!("the proxy http://{nobody}: it cannot be reached: Connection"));

    let (streams, _kept_open) = mpsc::channel();
    let streams = Mutex::new(streams);
    let silent = Server::of_tcp(move |stream| streams.lock().unwrap().send(stream).unwrap());
    for scheme in ["http", "socks5h"] {
        let at = format!("{scheme}://127.0.0.1:{}", silent.port());
        for flag in ["--connect-timeout", "--opening-timeout"] {
            let outcome = run(&format!("ws://h.invalid/ {SHORT} --proxy {at} {flag} 200ms"));
            outcome.assert_errors(&[("timeout", 2)]);
            outcome.assert_cause(&format!("the proxy {at} had given no connection after 200ms"));
        }
    }
    // The tunnel is open, and the server behind it is silent.
    let (proxy, _) = http_proxy();
    let url = hidden(&silent);
    let at = format!("--proxy http://127.0.0.1:{}", proxy.port());
    let outcome = run(&format!("{url} {SHORT} {at} --opening-timeout 300ms"));
    outcome.assert_errors(&[("timeout", 2)]);
    outcome.assert_cause("the connection was not open after 300ms");
}

/// Runs with these variables.
fn run_with(variables: &[(&str, &str)], arguments: &str) -> Outcome {
    let mut command = program(&format!("{arguments} --json -"));
    command.envs(variables.iter().copied());
    Outcome::read(&command.output().unwrap())
}

#[test]
fn variables_name_a_proxy_but_not_for_this_machine_and_not_against_flags() {
    let server = Server::honest();
    let (proxy, asked) = http_proxy();
    let at = format!("http://127.0.0.1:{}", proxy.port());
    let url = hidden(&server);
    let all_proxy = [("ALL_PROXY", &*at)];
    let outcome = run_with(&all_proxy, &format!("{url} {SHORT}"));
    outcome.assert_success();
    assert_went_through(&outcome, &at, "ALL_PROXY");
    assert!(outcome.stderr.contains("--no-proxy does without it"), "{}", outcome.stderr);

    // Straight, and nobody asks the proxy.
    asked.lock().unwrap().clear();
    for local in [server.url(), format!("ws://localhost:{}/", server.port())] {
        let outcome = run_with(&all_proxy, &format!("{local} {SHORT}"));
        outcome.assert_success();
        assert_eq!(outcome.report["way_in"], Value::Null);
    }
    assert!(asked.lock().unwrap().is_empty());

    // The flag goes before the variable, and is for this machine too.
    let (other, _) = socks_proxy(None);
    let by_flag = format!("socks5h://127.0.0.1:{}", other.port());
    let outcome = run_with(&all_proxy, &format!("{} {SHORT} --proxy {by_flag}", server.url()));
    outcome.assert_success();
    assert_went_through(&outcome, &by_flag, "--proxy");
    assert!(asked.lock().unwrap().is_empty());

    // Without a proxy nobody knows the name.
    let excepted = [all_proxy[0], ("no_proxy", ".invalid")];
    for (variables, arguments) in [
        (&all_proxy[..], &["--no-proxy"][..]),
        (&all_proxy, &["--proxy", ""]),
        (&excepted, &[]),
        (&[("HTTP_PROXY", &*at), ("http_proxy", &at), ("HTTPS_PROXY", &at)], &[]),
    ] {
        let mut command = program(&url);
        command.args(arguments).envs(variables.iter().copied());
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains("cannot resolve \"echo.invalid\""), "{stderr}");
    }
}

#[test]
fn a_variable_that_names_no_proxy_is_refused_without_its_password() {
    for (value, message) in [
        (
            "https://me:secret@p:443",
            "error: invalid value 'https://p:443' of the variable all_proxy: TLS to the proxy itself \
             is not spoken; expected http://, socks5:// or socks5h://, each with \
             [USER:PASSWORD@]HOST:PORT; --no-proxy does without it\n",
        ),
        ("me:secret@p", "error: invalid value 'p' of the variable all_proxy: the port is missing;"),
    ] {
        let output = program("ws://h.invalid/").env("all_proxy", value).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.starts_with(message) && !stderr.contains("secret"), "{stderr}");
    }
}
