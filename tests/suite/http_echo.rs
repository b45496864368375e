//! The echo of plain requests: what comes back as JSON, what is refused, and what the documentation
//! says of it.

use std::{collections::BTreeSet, fmt::Write};

use http::{Request, StatusCode};
use ringecho::config::{Config, Http, Network, Tls, Within};
use rustls::crypto::ring::cipher_suite::TLS13_AES_256_GCM_SHA384;
use serde_json::{Value, json};

use crate::{
    http2_peer,
    peer::{Peer, TestServer, UPGRADE, config, with_server},
    tls_client,
};

fn config_with_echo(body_len_max: &str) -> Config {
    let http = Http {
        http_echo: Some("/http".parse().unwrap()),
        http_echo_body_max: body_len_max.parse().unwrap(),
    };
    Config { http, ..config() }
}

/// The JSON that a request gets.
fn echo_of(peer: &mut Peer, request: &[u8]) -> Value {
    peer.send(request);
    let (head, body) = peer.read_response();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}{body}");
    for field in [
        "Content-Type: application/json",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Cross-Origin-Resource-Policy: same-origin",
    ] {
        assert!(head.contains(&format!("\r\n{field}\r\n")), "{head}");
    }
    assert!(!head.contains("Access-Control-"), "{head}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn requests_come_back_as_they_came_on_one_connection() {
    with_server(&config_with_echo("64KiB"), |server| {
        let mut peer = server.connect();
        let address = peer.stream.local_addr().unwrap().to_string();
        let get = b"GET /http?x=%20y HTTP/1.1\r\nHost: a\r\nX-B: 1\r\nx-a: 2\r\nX-B: 3\r\n\r\n";
        let expected = json!({
            "method": "GET", "target": "/http?x=%20y", "path": "/http", "query": "x=%20y",
            "version": "HTTP/1.1",
            "headers": [["Host", "a"], ["X-B", "1"], ["x-a", "2"], ["X-B", "3"]],
            "body_length": 0, "body": "", "peer": address, "via": null, "tls": null
        });
        assert_eq!(echo_of(&mut peer, get), expected);
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let head = format!("{method} /http HTTP/1.1\r\nHost: a\r\n");
            let echoed = echo_of(
                &mut peer,
                format!("{head}Content-Length: 8\r\n\r\n<b>\u{e4}</b").as_bytes(),
            );
            assert_eq!(echoed["method"], method);
            assert_eq!(
                (&echoed["body"], &echoed["body_length"]),
                (&json!("<b>\u{e4}</b"), &json!(8))
            );
            let mut chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
            chunked.extend_from_slice(b"1;x=y\r\n\xff\r\n2\r\nab\r\n0\r\nTrailer: t\r\n\r\n");
            let echoed = echo_of(&mut peer, &chunked);
            assert_eq!(echoed["body"], json!({"base64": "/2Fi"}));
            assert_eq!(echoed["body_length"], 3);
        }
        peer.send("HEAD /http HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = peer.read_head();
        assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("Content-Length: 0"), "{head}");
        peer.send("OPTIONS /http HTTP/1.1\r\nHost: a\r\nOrigin: https://b.example\r\n\r\n");
        let (head, _) = peer.read_response();
        assert!(head.starts_with("HTTP/1.1 204 No Content\r\n"), "{head}");
        assert!(head.contains("\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"));
        assert!(!head.contains("Content-Length") && !head.contains("Access-Control-"), "{head}");
        peer.send("TRACE /http HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(peer.read_response().0.starts_with("HTTP/1.1 405 "));
        assert_eq!(echo_of(&mut peer, b"GET /http HTTP/1.0\r\n\r\n")["version"], "HTTP/1.0");
        peer.expect_end();
    });
}

/// The same over HTTP/2, whose fields have no case, by prior knowledge and over TLS.
#[test]
fn requests_on_streams_come_back_as_they_came() {
    let config = config_with_echo("64KiB");
    let listen = vec!["tls+127.0.0.1:0".parse().unwrap()];
    let network = Network { listen, ..config.network.clone() };
    let tls = Tls { self_signed: true, ..Tls::default() };
    for config in [config.clone(), Config { network, tls, ..config }] {
        let is_secure = config.tls.self_signed;
        with_server(&config, |server| {
            let mut client = if is_secure {
                let suites = [TLS13_AES_256_GCM_SHA384];
                let config = tls_client::config(&suites, false);
                http2_peer::Client::connect_securely(server.address, &config)
            } else {
                http2_peer::Client::connect(server)
            };
            let request = |method: &str| {
                let request = Request::builder().method(method);
                let request = request.uri("https://localhost/http?x=%20y").header("x-b", "1");
                request.header("x-a", "2").header("x-b", "3").body(()).unwrap()
            };
            let mut echo_of = |method: &str, body: &[u8]| -> Value {
                let (head, echo) = client.ask_with(request(method), body);
                assert_eq!(head.status, StatusCode::OK, "{echo}");
                assert_eq!(head.headers["content-type"], "application/json");
                assert_eq!(head.headers["cache-control"], "no-store");
                serde_json::from_str(&echo).unwrap()
            };
            let mut echoed = echo_of("GET", b"");
            let peer = echoed["peer"].take();
            assert!(peer.as_str().is_some_and(|it| it.starts_with("127.0.0.1:")), "{peer}");
            let tls = is_secure.then(|| {
                json!({
                    "version": "TLSv1.3", "cipher": "TLS13_AES_256_GCM_SHA384",
                    "sni": "localhost", "alpn": "h2", "client_name": null
                })
            });
            let expected = json!({
                "method": "GET", "target": "https://localhost/http?x=%20y", "path": "/http",
                "query": "x=%20y", "version": "HTTP/2",
                "headers": [["x-b", "1"], ["x-b", "3"], ["x-a", "2"], ["host", "localhost"]],
                "body_length": 0, "body": "", "peer": null, "via": null, "tls": tls
            });
            assert_eq!(echoed, expected);
            for method in ["POST", "PUT", "PATCH", "DELETE"] {
                let echoed = echo_of(method, "<b>\u{e4}</b".as_bytes());
                assert_eq!(echoed["method"], method);
                assert_eq!(echoed["body"], "<b>\u{e4}</b");
                assert_eq!(echo_of(method, b"\xffab")["body"], json!({"base64": "/2Fi"}));
            }
            // Both windows of the client's are shorter than that.
            let long = "x".repeat(64 << 10);
            assert!(echo_of("POST", long.as_bytes())["body"] == *long);
            let (head, _) = client.ask_with(request("POST"), &vec![b'x'; (64 << 10) + 1]);
            assert_eq!(head.status, StatusCode::PAYLOAD_TOO_LARGE);
            let (head, body) = client.ask(request("HEAD"));
            assert_eq!((head.status, body.as_str()), (StatusCode::OK, ""));
            client.leave();
        });
    }
}

#[test]
fn client_that_waits_for_a_100_gets_it_before_it_sends_its_body() {
    with_server(&config_with_echo("64KiB"), |server| {
        let mut peer = server.connect();
        for _ in 0..2 {
            peer.send(
                "POST /http HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
            );
            assert_eq!(peer.read_head(), "HTTP/1.1 100 Continue\r\n\r\n");
            assert_eq!(echo_of(&mut peer, b"hello")["body"], "hello");
        }
        // Too long a body is not even asked for, and HTTP/1.0 knows no expectations.
        let mut too_long = server.connect();
        too_long.send(
            "POST /http HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 65537\r\n\r\n",
        );
        assert!(too_long.read_to_end().starts_with("HTTP/1.1 413 "));
        let mut old = server.connect();
        old.send("POST /http HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
        assert!(old.read_to_end().starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn bodies_are_bounded_and_need_a_length() {
    with_server(&config_with_echo("10"), |server| {
        let mut peer = server.connect();
        let whole = b"POST /http HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789";
        assert_eq!(echo_of(&mut peer, whole)["body"], "0123456789");
        for (request, status) in [
            ("POST /http HTTP/1.1\r\nContent-Length: 11\r\nHost: a\r\n\r\n", "413 "),
            (
                "POST /http HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a\r\n\r\n\
                 a\r\n0123456789\r\n1\r\n",
                "413 ",
            ),
            ("POST /http HTTP/1.0\r\n\r\nhello", "411 "),
            ("POST /http HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "501 "),
            ("POST /http HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", "417 "),
            ("BREW /http HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "501 "),
        ] {
            let mut peer = server.connect();
            peer.send(request);
            let response = peer.read_to_end();
            assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {response}");
            assert!(response.contains("\r\nConnection: close\r\n"), "{request}: {response}");
        }
    });
}

#[test]
fn longest_body_comes_back_whole_however_it_is_cut() {
    const LEN: usize = 1 << 20;
    let http_echo_body_max = Within::new(ringecho::config::Size(LEN as u64)).unwrap();
    let config = config_with_echo("64KiB");
    let http = Http { http_echo_body_max, ..config.http.clone() };
    let body: String = ('a'..='z').cycle().take(LEN).collect();
    with_server(&Config { http, ..config }, |server| {
        let mut peer = server.connect();
        let head = format!("POST /http HTTP/1.1\r\nHost: a\r\nContent-Length: {LEN}\r\n\r\n");
        let echoed = echo_of(&mut peer, format!("{head}{body}").as_bytes());
        assert!(echoed["body"] == *body);
        let mut chunks = String::new();
        for chunk in body.as_bytes().chunks(1000) {
            let text = str::from_utf8(chunk).unwrap();
            write!(chunks, "{:x}\r\n{text}\r\n", chunk.len()).unwrap();
        }
        let head = "POST /http HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let echoed = echo_of(&mut peer, format!("{head}{chunks}0\r\n\r\n").as_bytes());
        assert!(echoed["body"] == *body);
    });
}

#[test]
fn echo_is_off_by_default_and_leaves_upgrades_to_the_path_that_they_share() {
    with_server(&config(), |server| {
        let mut peer = server.connect();
        peer.send("GET /http HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(peer.read_response().0.starts_with("HTTP/1.1 404 "));
    });
    let http = Http { http_echo: Some("/ws".parse().unwrap()), ..Http::default() };
    with_server(&Config { http, ..config() }, |server: &TestServer| {
        let mut peer = server.connect();
        assert_eq!(echo_of(&mut peer, b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n")["path"], "/ws");
        peer.send(UPGRADE);
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    });
}

/// The names of the members that the table of docs/use.md lists.
#[test]
fn documentation_lists_the_members_of_the_json() {
    let docs = include_str!("../../docs/use.md");
    let (_, section) = docs.split_once("## Plain requests, sent back").expect("a section");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let listed: BTreeSet<String> = rows.map(|(name, _)| name.to_owned()).collect();
    let tls = ringecho::http::Tls::default();
    let client = ringecho::http::Client { tls: Some(tls), ..ringecho::http::Client::default() };
    let request = Request::new(());
    let json = ringecho::http::encode_request(&request, b"", &client);
    let json: Value = serde_json::from_slice(&json).unwrap();
    let mut members = BTreeSet::new();
    for (name, value) in json.as_object().unwrap() {
        members.insert(name.clone());
        for inner in value.as_object().into_iter().flat_map(|it| it.keys()) {
            members.insert(format!("{name}.{inner}"));
        }
    }
    assert_eq!(listed, members);
}
