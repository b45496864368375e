//! What clients need to reach servers: header fields, credentials, sources, Unix sockets, TLS.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    os::unix::net::UnixListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
};

use tungstenite::handshake::server::{Request, Response};

use crate::{
    invocation::{Outcome, program, run, temporary},
    servers::{Server, config, echo, tls_server},
};

const SHORT: &str = "--warmup 50ms --duration 500ms --threads 2 --connections 4";

#[test]
fn the_opening_handshake_says_what_the_client_wants() {
    let (heads, seen) = mpsc::channel();
    let heads = Mutex::new(heads);
    let server = Server::of_tcp(move |stream| {
        let heads = heads.lock().unwrap().clone();
        #[expect(clippy::result_large_err, reason = "the library's signature")]
        let note = move |request: &Request, mut response: Response| {
            let _ = heads.send(request.headers().clone());
            let agreed = "superchat".parse().unwrap();
            response.headers_mut().insert("sec-websocket-protocol", agreed);
            Ok(response)
        };
        if let Ok(websocket) = tungstenite::accept_hdr_with_config(stream, note, Some(config())) {
            echo(websocket);
        }
    });
    let url = server.url().replace("ws://", "ws://Aladdin:open%20sesame@");
    let mut command = program(&format!("{url} {SHORT} --json -"));
    command.args(["-H", "X-Room: a b", "-H", "x-room: 8", "--origin", "https://example.com"]);
    command.args(["--subprotocol", "chat", "--subprotocol", "superchat"]);
    let outcome = Outcome::read(&command.output().unwrap());
    outcome.assert_success();
    assert_eq!(outcome.report["url"], server.url(), "a password is not shown");

    let head = seen.recv().unwrap();
    let values = |name| head.get_all(name).iter().map(|value| value.to_str().unwrap());
    assert!(values("x-room").eq(["a b", "8"]));
    assert!(values("origin").eq(["https://example.com"]));
    assert!(values("sec-websocket-protocol").eq(["chat, superchat"]));
    assert!(values("authorization").eq(["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]));
}

#[test]
fn ipv6_is_spoken() {
    let server = Server::answering_at("[::1]:0", |_, message| vec![message]);
    run(&format!("{} {SHORT}", server.url())).assert_success();
}

#[test]
fn connections_come_from_the_sources_in_turn() {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let noted = Arc::clone(&seen);
    let server = Server::of_tcp(move |stream| {
        noted.lock().unwrap().insert(stream.peer_addr().unwrap().ip());
        if let Ok(websocket) = tungstenite::accept_with_config(stream, Some(config())) {
            echo(websocket);
        }
    });
    let outcome = run(&format!("{} {SHORT} --source 127.0.0.2-127.0.0.4", server.url()));
    outcome.assert_success();
    let expected = ["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(|ip| ip.parse::<IpAddr>().unwrap());
    assert!(seen.lock().unwrap().iter().eq(&expected));
}

#[test]
fn a_source_that_is_nobodys_is_an_error_of_connecting() {
    let server = Server::honest();
    let outcome = run(&format!("{} {SHORT} --source 192.0.2.1", server.url()));
    outcome.assert_errors(&[("connect", 4)]);
}

#[test]
fn a_unix_socket_is_reached() {
    let path = temporary("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(|| {
                if let Ok(websocket) = tungstenite::accept_with_config(stream, Some(config())) {
                    echo(websocket);
                }
            });
        }
    });
    let shown = path.display();
    let outcome = run(&format!("ws://nowhere.invalid/echo {SHORT} --unix-socket {shown}"));
    fs::remove_file(&path).unwrap();
    outcome.assert_success();
    let outcome = run(&format!("ws://localhost/ {SHORT} --unix-socket {shown}"));
    outcome.assert_errors(&[("connect", 4)]);
    outcome.assert_cause("No such file or directory");
}

#[test]
fn tls_is_spoken_with_whom_the_authority_has_certified() {
    let (authority, server) = tls_server();
    let path = temporary("ca.pem");
    fs::write(&path, authority).unwrap();
    let url = format!("wss://localhost:{}/echo", server.port());
    for load in ["", "--depth 16 --payload 1KiB", "--payload 300000 --depth 2"] {
        let outcome = run(&format!("{url} {SHORT} {load} --ca {}", path.display()));
        outcome.assert_success();
        assert_eq!(outcome.report["url"], url);
    }
    let idle = format!("idle {url} -c 3 --duration 50ms --echo 64 --ca {}", path.display());
    assert_eq!(program(&idle).output().unwrap().status.code(), Some(0));
    fs::remove_file(&path).unwrap();
}

#[test]
fn strangers_are_believed_only_if_that_is_asked_for() {
    let (_, server) = tls_server();
    let (_, stranger) = tls_server();
    let url = format!("wss://localhost:{}/echo", stranger.port());
    let (authority, _) = tls_server();
    let path = temporary("other-ca.pem");
    fs::write(&path, authority).unwrap();
    let outcome = run(&format!("{url} {SHORT} --ca {}", path.display()));
    fs::remove_file(&path).unwrap();
    outcome.assert_errors(&[("connect", 4)]);
    outcome.assert_cause("TLS: invalid peer certificate: ");
    outcome.assert_cause("--ca FILE, or use --insecure");
    // Its certificate is not for the address either.
    let url = server.url().replace("ws://", "wss://");
    run(&format!("{url} {SHORT} --insecure")).assert_success();
}

#[test]
fn lost_connections_are_opened_again_and_counted() {
    let accepted = AtomicUsize::new(0);
    let server = Server::of_websockets(move |mut websocket| {
        // All four are open before the first message is sent.
        if accepted.fetch_add(1, SeqCst) < 4 {
            let _ = websocket.read();
        } else {
            echo(websocket);
        }
    });
    let outcome = run(&format!("{} {SHORT} --reconnect", server.url()));
    outcome.assert_errors(&[("closed", 4), ("missing", 4)]);
    for (path, count) in [("opened", 4), ("lost", 4), ("reopened", 4)] {
        assert_eq!(outcome.number(&format!("/connections/{path}")), count, "{path}");
    }
    assert!(outcome.number("/messages_total") > 0, "{:#}", outcome.report);
}

#[test]
fn a_server_that_never_speaks_tls_is_given_up() {
    let (streams, _kept_open) = mpsc::channel();
    let streams = Mutex::new(streams);
    let server = Server::of_tcp(move |stream| streams.lock().unwrap().send(stream).unwrap());
    let url = server.url().replace("ws://", "wss://");
    let outcome = run(&format!("{url} {SHORT} --insecure --connect-timeout 200ms"));
    outcome.assert_errors(&[("timeout", 4)]);
    outcome.assert_cause("not connected after 200ms");
}
