//! WebSocket connections over HTTP/2 against a server of the h2 crate: loads of all kinds, and what
//! such a server may do instead of echoing.

use std::fs;

use h2::Reason;

use crate::{
    http2_server::{Conduct, Fate, Http2Server},
    invocation::{
        Files, Outcome, assert_matches, assert_matches_definition, in_long_enough, program, run,
    },
    servers::Server,
    tls::Authority,
};

const SHORT: &str = "--warmup 50ms --duration 500ms --threads 2 --connections 8 --http2";

#[track_caller]
fn assert_code(outcome: &Outcome, code: &str) {
    let causes = outcome.report["causes"].as_array().unwrap();
    assert!(causes.iter().any(|cause| cause["code"] == code), "{code}: {causes:#?}");
}

/// Runs a churn, for as long as `arguments` say, and checks its result against the schema.
fn churn(url: &str, arguments: &str) -> Outcome {
    let load = "-c 4 -t 2 --warmup 0s --http2 --json -";
    let output = program(&format!("churn {url} {load} {arguments}")).output().unwrap();
    let outcome = Outcome::read_any(&output);
    assert_matches(&outcome.report, include_str!("../../churn.schema.json"));
    outcome
}

/// The same against a server of its own, for long enough.
fn churn_long_enough(
    conduct: &Conduct,
    arguments: &str,
    is_enough: impl Fn(&Outcome) -> bool,
) -> (Http2Server, Outcome) {
    let measure = |window: &str| {
        let server = Http2Server::start(conduct.clone());
        let outcome = churn(&server.url(), &format!("{arguments} --duration {window}"));
        (server, outcome)
    };
    in_long_enough(measure, |(_, outcome)| is_enough(outcome))
}

#[test]
fn streams_are_spread_over_transports_and_echoes_verified() {
    for (load, transports) in [
        ("", 1),
        ("--transports 3", 3),
        ("--transports 8 --depth 16 --payload 1KiB", 8),
        ("--transports 2 --payload 100000", 2),
        ("--transports 2 --depth 3 --fragments 4 --payload 1..70KiB --text", 2),
        ("--transports 2 --rate 500 --wait sleep", 2),
    ] {
        let server = Http2Server::start(Conduct::default());
        let outcome = run(&format!("{} {SHORT} {load}", server.url()));
        outcome.assert_success();
        let http2 = &outcome.report["http2"];
        assert_eq!(http2["transports"], transports, "{load}");
        assert_eq!(http2["transports_opened"], transports, "{load}");
        assert_eq!(http2["settings_us"]["samples"], transports);
        assert_eq!(http2["stream_us"]["samples"], 8);
        assert!(outcome.report.get("tls").is_none());
        assert_eq!((server.connections(), server.streams()), (transports, 8), "{load}");
        assert!(server.messages() >= outcome.number("/messages_total"));
    }
}

#[test]
fn the_request_says_what_the_client_wants() {
    let server = Http2Server::start(Conduct::default());
    let url = server.url().replace("ws://", "ws://Aladdin:open%20sesame@");
    let mut command = program(&format!("{url} {SHORT} --json -"));
    command.args(["-H", "X-Room: a b", "-H", "Host: example.com", "--origin", "https://o.example"]);
    command.args(["--subprotocol", "chat", "--subprotocol", "superchat"]);
    Outcome::read(&command.output().unwrap()).assert_success();
    let (fields, uri) = server.request();
    assert_eq!(uri, "http://example.com/echo");
    for (name, value) in [
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat, superchat"),
        ("origin", "https://o.example"),
        ("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ("x-room", "a b"),
    ] {
        assert_eq!(fields[name], value);
    }
    for name in ["sec-websocket-key", "connection", "upgrade", "host"] {
        assert!(!fields.contains_key(name), "{name}");
    }
}

#[test]
fn http2_is_agreed_to_by_alpn_over_tls() {
    let files = Files::new("http2-tls");
    let authority = Authority::new();
    let ca = files.path("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let tls = authority.server_config(&["h2", "http/1.1"]);
    let server = Http2Server::start_with_tls(Conduct::default(), tls);
    let url = format!("wss://localhost:{}/echo", server.port());
    for load in ["--transports 2", "--transports 3 --depth 2 --payload 20000"] {
        let outcome = run(&format!("{url} {SHORT} --ca {ca} {load}"));
        outcome.assert_success();
        assert_eq!(outcome.report["tls"]["agreed"][0]["alpn"], "h2");
        assert_eq!(outcome.report["tls"]["full"], outcome.report["http2"]["transports"]);
    }
    let (_, uri) = server.request();
    assert!(uri.starts_with("https://localhost:"), "{uri}");

    let server = Http2Server::start_with_tls(Conduct::default(), authority.server_config(&[]));
    let url = format!("wss://localhost:{}/echo", server.port());
    let outcome = run(&format!("{url} {SHORT} --ca {ca}"));
    outcome.assert_errors(&[("connect", 8)]);
    outcome.assert_cause("did not agree to it by ALPN (it chose nothing)");
    assert_code(&outcome, "http2_alpn_declined");
}

#[test]
fn a_cycle_is_a_stream_and_transports_stay_open() {
    for (flags, resets) in [("--close handshake", false), ("--close abort", true)] {
        let load = format!("{flags} --transports 2 --messages 3");
        let (server, outcome) = churn_long_enough(&Conduct::default(), &load, |outcome| {
            outcome.number("/cycles_total") > 4
        });
        assert_eq!(outcome.number("/errors/total"), 0, "{:#}", outcome.report);
        let cycles = outcome.number("/cycles_total");
        assert!(cycles > 4, "{:#}", outcome.report);
        assert_eq!(server.connections(), 2);
        assert!(server.streams() >= cycles);
        assert_eq!(outcome.number("/http2/transports_opened"), 2);
        assert!(outcome.number("/http2/stream_us/samples") >= outcome.number("/cycles"));
        assert_eq!(server.resets() > 0, resets, "{flags}: {}", server.resets());
    }
}

#[test]
fn a_stream_whose_end_never_comes_is_missing_it() {
    let conduct = Conduct { fate: Fate::NeverEnd, ..Conduct::default() };
    let server = Http2Server::start(conduct);
    let outcome = churn(&server.url(), "--duration 300ms --answer-timeout 50ms");
    assert_eq!(outcome.number("/cycles_total"), 0);
    assert!(outcome.number("/errors/missing") > 0, "{:#}", outcome.report);
    outcome.assert_cause("the server did not end TCP within 50ms of its Close frame");
}

#[test]
fn other_modes_go_over_streams_too() {
    let server = Http2Server::start(Conduct::default());
    let url = server.url();
    let idle = format!("idle {url} -c 20 -t 2 --duration 50ms --echo 64 --http2 --transports 3");
    let outcome = Outcome::read_any(&program(&format!("{idle} --json -")).output().unwrap());
    assert_matches(&outcome.report, include_str!("../../idle.schema.json"));
    assert_eq!(outcome.code, Some(0), "{:#}", outcome.report);
    assert_eq!(outcome.number("/answered"), 20);
    assert_eq!(outcome.number("/http2/stream_us/samples"), 20);
    assert_eq!(server.connections(), 3);

    let short = "-c 2 --http2 --warmup 0s --duration 200ms --json -";
    let search =
        format!("search {url} {short} --slo p99<9s --start-rate 20 --max-rate 20 --confirm 1");
    let outcome = Outcome::read_any(&program(&search).output().unwrap());
    assert_matches_definition(&outcome.report, "search");
    assert_eq!(outcome.number("/probes/0/errors/total"), 0, "{:#}", outcome.report);

    let other = Server::honest();
    for compared in [format!("{url} {url} {short}"), format!("churn {url} {url} {short}")] {
        let output = program(&format!("compare {compared} --rounds 2")).output().unwrap();
        let outcome = Outcome::read_any(&output);
        assert_eq!(outcome.code, Some(0), "{:#}\n{}", outcome.report, outcome.stderr);
    }
    let output = program(&format!("compare {} {url} {short} --rounds 2", other.url()));
    let outcome = { output }.output().unwrap();
    let stderr = String::from_utf8(outcome.stderr).unwrap();
    assert!(stderr.contains("HTTP/2: the server does not speak it"), "{stderr}");
}

#[test]
fn servers_that_open_no_streams_are_named() {
    let refusing = |conduct| {
        let server = Http2Server::start(conduct);
        run(&format!("{} {SHORT}", server.url()))
    };
    let outcome = refusing(Conduct { connect_protocol: false, ..Conduct::default() });
    outcome.assert_errors(&[("connect", 8)]);
    outcome.assert_cause("no SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441)");
    assert_code(&outcome, "http2_connect_protocol_missing");

    for (status, body, cause) in [
        (403, "this origin may not\nat all", ":status 403 instead of 200: \"this origin may not\""),
        (404, "", ":status 404 instead of 200"),
        (501, "no WebSockets", ":status 501 instead of 200: \"no WebSockets\""),
        (
            302,
            "",
            ":status 302 instead of 200, and points to \"https://elsewhere.example/?token=***\"",
        ),
    ] {
        let outcome = refusing(Conduct { status, body, ..Conduct::default() });
        outcome.assert_errors(&[("handshake", 8)]);
        outcome.assert_cause(cause);
        assert_code(&outcome, &format!("refused_{status}"));
    }

    let server = Server::honest();
    let outcome = run(&format!("{} {SHORT}", server.url()));
    outcome.assert_errors(&[("connect", 8)]);
    assert_code(&outcome, "http2_not_spoken");
}

#[test]
fn streams_beyond_what_the_server_allows_say_how_many_transports_would_do() {
    let conduct = Conduct { streams_max: Some(3), ..Conduct::default() };
    let server = Http2Server::start(conduct);
    let outcome = run(&format!("{} {SHORT} --threads 1", server.url()));
    outcome.assert_errors(&[("handshake", 5)]);
    outcome.assert_cause(
        "the server allows 3 streams at once on one connection (SETTINGS_MAX_CONCURRENT_STREAMS); \
         spread the connections over more with --transports 3 or more",
    );
    assert_code(&outcome, "http2_streams_exhausted");
    assert_eq!(outcome.number("/http2/max_concurrent_streams"), 3);
    run(&format!("{} {SHORT} --threads 1 --transports 3", server.url())).assert_success();
    // Two threads have four streams each.
    let outcome = run(&format!("{} {SHORT} --transports 3", server.url()));
    outcome.assert_cause("with --transports 4 or more");
    run(&format!("{} {SHORT} --transports 4", server.url())).assert_success();
}

#[test]
fn streams_that_are_reset_and_connections_that_go_away_are_named() {
    let with = |fate| Http2Server::start(Conduct { fate, ..Conduct::default() });
    let server = with(Fate::Reset(Reason::CANCEL));
    let outcome = run(&format!("{} {SHORT}", server.url()));
    outcome.assert_errors(&[("closed", 8), ("missing", 8)]);
    outcome.assert_cause("the connection broke: the server reset the stream: CANCEL");
    assert_code(&outcome, "http2_stream_reset");

    let server = with(Fate::GoAway(20));
    let outcome = run(&format!("{} {SHORT}", server.url()));
    assert_eq!(outcome.number("/errors/closed"), 8, "{:#}", outcome.report);
    outcome.assert_cause("GOAWAY with ENHANCE_YOUR_CALM");
    assert_code(&outcome, "http2_goaway");
}

#[test]
fn a_transport_that_went_away_is_replaced() {
    let conduct = Conduct { fate: Fate::GoAway(50), ..Conduct::default() };
    let (server, outcome) = churn_long_enough(&conduct, "--transports 2", |outcome| {
        outcome.number("/http2/transports_opened") > 2
    });
    assert!(outcome.number("/cycles_total") > 0, "{:#}", outcome.report);
    assert!(outcome.number("/errors/total") > 0, "{:#}", outcome.report);
    let opened = outcome.number("/http2/transports_opened");
    assert!(opened > 2, "{:#}", outcome.report);
    assert!(server.connections() >= opened);
}

#[test]
fn wrong_echoes_are_noticed_over_streams() {
    let conduct = Conduct { fate: Fate::Corrupt, ..Conduct::default() };
    let server = Http2Server::start(conduct);
    let outcome = run(&format!("{} {SHORT} --payload 1KiB", server.url()));
    assert_eq!(outcome.number("/messages_total"), 0);
    assert!(outcome.number("/errors/wrong") > 0, "{:#}", outcome.report);
    assert_eq!(outcome.report["errors"]["wrong"], outcome.report["wrong_echoes"]["corrupted"]);
}

#[test]
fn streams_are_exported_and_merged() {
    let files = Files::new("http2-exports");
    let server = Http2Server::start(Conduct::default());
    let [csv, log] = ["csv", "hlog"].map(|name| files.path(name));
    run(&format!("{} {SHORT} --csv {csv} --hlog {log}", server.url())).assert_success();
    let header = files.read("csv").lines().next().unwrap().to_owned();
    assert!(
        header.ends_with(
            ",http2_settings_p50_us,http2_settings_p99_us,http2_settings_max_us,\
             http2_stream_p50_us,http2_stream_p99_us,http2_stream_max_us"
        ),
        "{header}"
    );
    let output = program(&format!("merge {log} {log} --json -")).output().unwrap();
    let merged = Outcome::read_any(&output);
    assert_matches_definition(&merged.report, "merged");
    assert_eq!(merged.number("/http2/transports"), 2);
    assert_eq!(merged.number("/http2/stream_us/samples"), 16);
}
