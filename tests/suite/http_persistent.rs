//! Connections that carry several requests: their order, their bodies, what ends them, and how they
//! are counted.

use std::time::Duration;

use ringecho::config::{Bounds, Config, ListenAddress, Observation, Time, Within};

use crate::{
    frames::text,
    peer::{Peer, TestServer, UPGRADE, config, planes, with_server},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

impl Peer {
    /// A response to another request than a HEAD: its head, and a body as long as it says.
    pub fn read_response(&mut self) -> (String, String) {
        let head = self.read_head();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        std::io::Read::read_exact(&mut self.stream, &mut body).expect("a whole body");
        (head, String::from_utf8(body).expect("text"))
    }

    /// A health check, and its answer on a connection that goes on.
    pub fn expect_health(&mut self) {
        self.send(HEALTH);
        let (head, body) = self.read_response();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("\r\nConnection: keep-alive\r\n"), "{head}");
        assert_eq!(body, "ok\n");
    }
}

fn ended(server: TestServer) -> Vec<(&'static str, u64)> {
    let totals = server.stop();
    assert_eq!(totals.accepted, totals.ended_count(), "{totals:?}");
    totals.ended
}

fn with_time(time: Time) -> Config {
    Config { time, ..config() }
}

/// The statuses of responses, one behind the other.
fn statuses(responses: &str) -> Vec<&str> {
    let behind = responses.match_indices("HTTP/1.1 ").map(|(at, it)| &responses[at + it.len()..]);
    let statuses = behind.filter_map(|it| it.get(..3));
    statuses.filter(|it| it.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

#[test]
fn requests_are_answered_in_their_order_however_they_are_cut() {
    let requests = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "200"),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "200"),
        ("GET /other HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        ("OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n", "204"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "204"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "405"),
        (
            "GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             5;x\r\nhello\r\n0\r\nA: b\r\n\r\n",
            "200",
        ),
        ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", "501"),
        ("\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "200"),
        ("GET /healthz HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "200"),
        ("GET / HTTP/1.0\r\n\r\n", "200"),
    ];
    let (all, expected): (Vec<&str>, Vec<&str>) = requests.into_iter().unzip();
    with_server(&config(), |server| {
        let mut one_by_one = server.connect();
        let mut responses = String::new();
        for request in &all {
            one_by_one.send(request);
            if request.starts_with("HEAD") {
                responses += &one_by_one.read_head();
            } else {
                let (head, body) = one_by_one.read_response();
                responses += &head;
                responses += &body;
            }
        }
        one_by_one.expect_end();
        assert_eq!(statuses(&responses), expected);
        assert_eq!(responses.matches("\r\nConnection: close\r\n").count(), 1);

        let mut at_once = server.connect();
        at_once.send(all.concat());
        assert_eq!(at_once.read_to_end(), responses);

        let mut slow = server.connect();
        for byte in all.concat().as_bytes() {
            slow.send([*byte]);
        }
        assert_eq!(slow.read_to_end(), responses);
    });
}

#[test]
fn upgrade_may_come_behind_other_requests_and_takes_what_is_behind_it_as_frames() {
    let message = text("behind pages");
    let post = "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nGET";
    let requests = [HEALTH.as_bytes(), post.as_bytes(), UPGRADE.as_bytes(), &message.encode()];
    with_server(&config(), |server| {
        for is_cut in [false, true] {
            let mut peer = server.connect();
            if is_cut {
                for byte in requests.concat() {
                    peer.send([byte]);
                }
            } else {
                peer.send(requests.concat());
            }
            assert!(peer.read_response().0.starts_with("HTTP/1.1 200 "));
            assert!(peer.read_response().0.starts_with("HTTP/1.1 405 "));
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
            peer.expect(message.encode_echo());
            peer.send(message.encode());
            peer.expect(message.encode_echo());
        }
        let mut waits = server.connect();
        waits.expect_health();
        waits.send(UPGRADE);
        assert!(waits.read_head().starts_with("HTTP/1.1 101 "));
        waits.send(message.encode());
        waits.expect(message.encode_echo());
    });
}

/// What is smuggled would be answered as a second request.
#[test]
fn requests_that_may_end_in_two_places_are_refused_and_nothing_behind_them_is_answered() {
    let smuggled = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    with_server(&config(), |server| {
        for (fields, body, status) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", "400"),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n", "400"),
            ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", "400"),
            ("Content-Length: 0\r\nContent-Length: 44\r\n", "", "400"),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello", "400"),
            ("Content-Length: 0, 44\r\n", "", "400"),
            ("Content-Length: +0\r\n", "", "400"),
            ("Content-Length: -1\r\n", "", "400"),
            ("Content-Length: 0x0\r\n", "", "400"),
            ("Content-Length: 0 44\r\n", "", "400"),
            ("Content-Length:\r\n", "", "400"),
            ("Content-Length : 5\r\n", "hello", "400"),
            ("Content-Length: 99999999999999999999\r\n", "", "400"),
            ("X: a\r\n Content-Length: 5\r\n", "hello", "400"),
            ("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n", "501"),
            ("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n", "400"),
            ("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n", "400"),
            ("Transfer-Encoding: identity\r\n", "", "400"),
            ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", "400"),
            ("Transfer-Encoding: chunked;a=b\r\n", "0\r\n\r\n", "400"),
            ("Transfer-Encoding:\u{b}chunked\r\n", "0\r\n\r\n", "400"),
            ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n", "400"),
            ("Transfer-Encoding: chunked\r\n", "0\n\r\n", "400"),
            ("Transfer-Encoding: chunked\r\n", "0\r\n\n", "400"),
            ("Transfer-Encoding: chunked\r\n", "0x0\r\n\r\n", "400"),
            ("Transfer-Encoding: chunked\r\n", "-0\r\n\r\n", "400"),
            ("Transfer-Encoding: chunked\r\n", "1\r\nab\r\n0\r\n\r\n", "400"),
            ("Transfer-Encoding: chunked\r\n", "1\r\na\n0\r\n\r\n", "400"),
            ("Transfer-Encoding: chunked\r\n", "1;a\nb\r\na\r\n0\r\n\r\n", "400"),
            ("Transfer-Encoding: chunked\r\n", "10000000000000000\r\n", "400"),
            ("Transfer-Encoding: chunked\r\n", "0\r\nGET / HTTP/1.1\r\n\r\n", "400"),
            ("Expect: tea\r\nContent-Length: 5\r\n", "hello", "417"),
        ] {
            let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}{smuggled}");
            let mut peer = server.connect();
            peer.send(&request);
            let response = peer.read_to_end();
            assert_eq!(statuses(&response), [status], "{request:?}: {response}");
            assert!(response.contains("\r\nConnection: close\r\n"), "{request:?}: {response}");
        }
        for (request, status) in [
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
            ("POST / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nhello", "411"),
        ] {
            let mut peer = server.connect();
            peer.send(format!("{request}{smuggled}"));
            assert_eq!(statuses(&peer.read_to_end()), [status], "{request:?}");
        }
    });
}

/// The bodies look like requests, and would be answered if they were taken for such.
#[test]
fn bodies_that_nobody_wants_are_passed_over_or_end_the_connection() {
    with_server(&config(), |server| {
        let mut peer = server.connect();
        for body_len in [HEALTH.len(), 8192, 65_536] {
            let body = HEALTH.repeat(body_len / HEALTH.len() + 1);
            let body = &body[..body_len];
            peer.send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {body_len}\r\n\r\n{body}"
            ));
            assert!(peer.read_response().0.starts_with("HTTP/1.1 405 "));
            peer.send(format!(
                "PUT /no HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {body_len:x}\r\n{body}\r\n0\r\n\r\n"
            ));
            assert!(peer.read_response().0.starts_with("HTTP/1.1 404 "));
        }
        peer.expect_health();
        for (fields, body) in [
            ("Content-Length: 65537", ""),
            ("Content-Length: 18446744073709551615", "GET / HTTP/1.1\r\n\r\n"),
            ("Transfer-Encoding: chunked", "10001\r\n"),
            ("Transfer-Encoding: chunked", "ffffffffffffffff\r\n"),
            // Whether its body comes is not certain, once it has its answer.
            ("Expect: 100-continue\r\nContent-Length: 5", ""),
        ] {
            let mut peer = server.connect();
            peer.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}"));
            let response = peer.read_to_end();
            assert_eq!(statuses(&response), ["405"], "{fields}: {response}");
            assert!(response.contains("\r\nConnection: close\r\n"), "{fields}: {response}");
        }
        let mut without_body = server.connect();
        without_body.send("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n");
        assert!(without_body.read_response().0.starts_with("HTTP/1.1 200 "));
        without_body.expect_health();
    });
}

#[test]
fn connection_goes_on_as_client_and_version_ask() {
    with_server(&config(), |server| {
        for (version, fields, is_kept) in [
            ("1.1", "", true),
            ("1.1", "Connection: keep-alive\r\n", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: TE, Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: keep-alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let mut peer = server.connect();
            for method in ["GET", "HEAD", "OPTIONS"] {
                peer.send(format!("{method} /healthz HTTP/{version}\r\nHost: a\r\n{fields}\r\n"));
                let head = if method == "HEAD" { peer.read_head() } else { peer.read_response().0 };
                let option = if is_kept { "keep-alive" } else { "close" };
                assert!(
                    head.contains(&format!("\r\nConnection: {option}\r\n")),
                    "{fields}: {head}"
                );
                if !is_kept {
                    peer.expect_end();
                    break;
                }
            }
        }
    });
}

#[test]
fn connection_is_closed_after_as_many_requests_as_it_may_have() {
    const REQUESTS: usize = 1000;
    with_server(&config(), |server| {
        let mut peer = server.connect();
        peer.send(HEALTH.repeat(REQUESTS + 1));
        let responses = peer.read_to_end();
        assert_eq!(responses.matches("HTTP/1.1 200 ").count(), REQUESTS);
        let (_, last) = responses.rsplit_once("HTTP/1.1 ").unwrap();
        assert!(last.contains("\r\nConnection: close\r\n"), "{last}");
        assert_eq!(responses.matches("Connection: close").count(), 1);
    });
}

#[test]
fn without_keep_alive_every_response_ends_its_connection() {
    let time = Time { http_keep_alive: Within::new(Duration::ZERO).unwrap(), ..Time::default() };
    with_server(&with_time(time), |server| {
        for request in [HEALTH, "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"] {
            let mut peer = server.connect();
            peer.send(request.repeat(2));
            let response = peer.read_to_end();
            assert_eq!(statuses(&response), ["200"], "{response}");
            assert!(response.contains("\r\nConnection: close\r\n"), "{response}");
        }
    });
}

#[test]
fn client_without_another_request_is_left_and_one_with_half_of_it_is_told() {
    let config = with_time(Time {
        http_keep_alive: Within::new(SECOND).unwrap(),
        handshake_timeout: Within::new(SECOND).unwrap(),
        ..Time::default()
    });
    for config in planes(&config) {
        let server = TestServer::start(&config);
        let [mut idle, mut half_headed, mut half_bodied] = [(); 3].map(|()| server.connect());
        for peer in [&mut idle, &mut half_headed, &mut half_bodied] {
            peer.expect_health();
        }
        half_headed.send("GET / HTTP/1.1\r\n");
        half_bodied.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell");
        idle.expect_end();
        for (peer, reason) in
            [(&mut half_headed, "the request head took"), (&mut half_bodied, "the body took")]
        {
            let response = peer.read_to_end();
            assert_eq!(statuses(&response), ["408"], "{response}");
            assert!(response.contains(reason), "{response}");
        }
        drop((half_headed, half_bodied));
        assert_eq!(ended(server), [("page_served", 1), ("refused", 2)]);
    }
}

/// The first request would have used the time of the second one up.
#[test]
fn each_request_has_its_own_time() {
    let config = with_time(Time {
        handshake_timeout: Within::new(2 * SECOND).unwrap(),
        http_keep_alive: Within::new(HOUR).unwrap(),
        ..Time::default()
    });
    with_server(&config, |server| {
        let mut witness = server.connect();
        let mut peer = server.connect();
        for half in ["GET /heal", "thz HTTP/1.1\r\nHost: a\r\n\r\n"] {
            peer.send(half);
        }
        assert!(peer.read_response().0.starts_with("HTTP/1.1 200 "));
        // As long as a request may take.
        assert!(witness.read_to_end().starts_with("HTTP/1.1 408 "));
        peer.expect_health();
    });
}

#[test]
fn stopping_server_leaves_connections_between_requests_at_once_and_without_a_word() {
    let time = Time {
        http_keep_alive: Within::new(HOUR).unwrap(),
        drain_timeout: Within::new(HOUR).unwrap(),
        ..Time::default()
    };
    for config in planes(&with_time(time)) {
        let server = TestServer::start(&config);
        let (mut answered, mut refused, mut busy) =
            (server.connect(), server.connect(), server.connect());
        answered.expect_health();
        busy.expect_health();
        busy.send("GET / HTTP/1.1\r\n");
        refused.send("GET /no HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(refused.read_response().0.starts_with("HTTP/1.1 404 "));
        // Served behind it, so that the half of a request has been read.
        drop(server.open());
        server.begin_to_stop();
        answered.expect_end();
        refused.expect_end();
        assert!(busy.read_to_end().starts_with("HTTP/1.1 503 "));
        drop(busy);
        let mut ends = ended(server);
        ends.retain(|(kind, _)| *kind != "peer_vanished");
        assert_eq!(ends, [("page_served", 1), ("refused", 2)]);
    }
}

/// While a stop is delayed, load balancers are to look elsewhere.
#[test]
fn server_that_is_about_to_stop_keeps_no_connection() {
    let time = Time { drain_delay: Within::new(HOUR).unwrap(), ..Time::default() };
    with_server(&with_time(time), |server| {
        let mut peer = server.connect();
        peer.expect_health();
        server.begin_to_stop();
        // A stop takes effect some time later.
        let response = loop {
            peer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let (head, _) = peer.read_response();
            if head.contains("\r\nConnection: close\r\n") {
                break head;
            }
        };
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        peer.expect_end();
        server.drain(ringecho::worker::Drain {
            spread: Duration::ZERO,
            timeout: HOUR,
            quiet: None,
            leaves_queues: false,
        });
    });
}

#[test]
fn connection_has_the_end_of_its_last_answer() {
    const REFUSED: &str = "GET /no HTTP/1.1\r\nHost: a\r\n\r\n";
    for (requests, expected) in [
        (&[HEALTH, HEALTH][..], ("page_served", "")),
        (&[HEALTH, LAST], ("page_served", "")),
        (&[REFUSED, HEALTH], ("page_served", "")),
        (&[HEALTH, REFUSED], ("refused", "path_unknown")),
        (&[HEALTH, "PUT / HTTP/1.1\r\nHost: a\r\n\r\n"], ("refused", "method_not_allowed")),
        (&[HEALTH, "GET / HTTP/1.1\r\n\r\n"], ("refused", "host_invalid")),
        (&[HEALTH, "\r\n\r\nGET"], ("refused", "lines_empty")),
        (&[HEALTH, "\x16"], ("refused", "foreign_protocol")),
        (&[HEALTH, "GET / HT"], ("peer_left", "")),
        (
            &[HEALTH, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhell"],
            ("peer_left", ""),
        ),
    ] {
        for config in planes(&config()) {
            let server = TestServer::start(&config);
            let mut peer = server.connect();
            peer.send(requests.concat());
            peer.end();
            peer.read_to_end();
            let totals = server.stop();
            assert_eq!(totals.ended, [(expected.0, 1)], "{requests:?}");
            let reasons: Vec<_> = totals.refused.iter().map(|(reason, _)| *reason).collect();
            assert_eq!(reasons.concat(), expected.1, "{requests:?}");
        }
    }
}

fn config_with_admin() -> Config {
    let admin = ListenAddress::Tcp(([127, 0, 0, 1], 0).into());
    let observation = Observation { admin_listen: Some(admin), ..Observation::default() };
    Config { observation, ..config() }
}

fn metrics(server: &TestServer) -> String {
    let Some(ListenAddress::Tcp(admin)) = server.admin else { panic!("it listens on TCP") };
    let mut asking = Peer::connect(admin);
    asking.send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    asking.read_to_end()
}

/// Buffers are counted once a second.
#[test]
fn connection_holds_a_buffer_for_a_request_and_none_between_two() {
    with_server(&config_with_admin(), |server| {
        let wait_for = |held: usize| {
            let sample = format!("\nringecho_receive_buffer_bytes{{kind=\"own\"}} {held}\n");
            while !metrics(server).contains(&sample) {
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        let mut peers = [(); 3].map(|()| server.connect());
        wait_for(3 * 8192);
        peers.iter_mut().for_each(Peer::expect_health);
        wait_for(0);
        peers[0].send("GET / HT");
        wait_for(8192);
        peers[0].send("TP/1.1\r\nHost: a\r\n\r\n");
        assert!(peers[0].read_response().0.starts_with("HTTP/1.1 200 "));
        wait_for(0);
    });
}

#[test]
fn requests_are_counted_by_the_class_of_their_status() {
    for config in planes(&config_with_admin()) {
        let server = TestServer::start(&config);
        let mut peer = server.connect();
        peer.expect_health();
        for request in [
            "OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /no HTTP/1.1\r\nHost: a\r\n\r\n",
            "BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            peer.send(request);
            peer.read_response();
        }
        peer.send(UPGRADE);
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
        peer.send(text("counted").encode());
        peer.expect(text("counted").encode_echo());
        let metrics = metrics(&server);
        for (class, count) in [("1xx", 1), ("2xx", 2), ("4xx", 1), ("5xx", 1)] {
            let sample = format!("\nringecho_http_requests_total{{status=\"{class}\"}} {count}\n");
            assert!(metrics.contains(&sample), "{sample}{metrics}");
        }
        drop(peer);
        server.stop();
    }
}

/// The only handshake that may be in progress is another client's, and then that of a connection which
/// has had one before.
#[test]
fn request_behind_others_counts_as_a_handshake_in_progress_while_it_comes() {
    let bounds = Bounds { handshakes_max: Within::new(1).unwrap(), ..Bounds::default() };
    with_server(&Config { bounds, ..config() }, |server| {
        let is_refused = |peer: &mut Peer| {
            let response = peer.read_to_end();
            response.starts_with("HTTP/1.1 503 ") && response.contains("\r\nRetry-After: 1\r\n")
        };
        let mut kept = server.connect();
        kept.expect_health();
        // Between requests it has no place.
        let mut other = server.connect();
        other.expect_health();
        let mut first = server.connect();
        first.send(&HEALTH[..20]);
        // Connections are accepted in their order, so the first has its place now.
        assert!(is_refused(&mut server.connect()));
        kept.send(HEALTH);
        assert!(is_refused(&mut kept));
        first.send(&HEALTH[20..]);
        assert!(first.read_response().0.starts_with("HTTP/1.1 200 "));
        // The next request of a connection takes the place as soon as it begins.
        other.send(&HEALTH[..20]);
        loop {
            let mut newcomer = server.connect();
            newcomer.send(LAST);
            if is_refused(&mut newcomer) {
                break;
            }
            // The newcomer may have been before it.
            if other.has_received() {
                other = server.connect();
                other.expect_health();
                other.send(&HEALTH[..20]);
            }
        }
        other.send(&HEALTH[20..]);
        assert!(other.read_response().0.starts_with("HTTP/1.1 200 "));
        first.expect_health();
        other.expect_health();
    });
}
