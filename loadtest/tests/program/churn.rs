//! `churn`: connections that come and go, and servers that refuse, lie, or end them otherwise than
//! they should.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    time::Duration,
};

use socket2::SockRef;

use crate::{
    invocation::{
        Files, Outcome, assert_matches, assert_matches_definition_of, assert_same_shapes, program,
        temporary,
    },
    ringecho::Ringecho,
    servers::{Server, accepting_response, corrupted, tls_server},
};

const SCHEMA: &str = include_str!("../../churn.schema.json");

const SHORT: &str = "-c 3 -t 2 --warmup 0s --duration 200ms --json -";

/// Runs a churn, and checks its result against the schema.
fn churn(url: &str, arguments: &str) -> Outcome {
    let output = program(&format!("churn {url} {SHORT} {arguments}")).output().unwrap();
    let outcome = Outcome::read_any(&output);
    assert_matches(&outcome.report, SCHEMA);
    outcome
}

/// Asserts that there were cycles and nothing went wrong. On a busy machine it can happen that all
/// of them end after the measured window.
#[track_caller]
fn assert_success(outcome: &Outcome) {
    let Outcome { report, stderr, code } = outcome;
    assert_eq!(outcome.number("/errors/total"), 0, "{report:#}\n{stderr}");
    assert!(outcome.number("/cycles_total") > 0, "{report:#}\n{stderr}");
    assert_eq!(*code, Some(i32::from(outcome.number("/cycles") == 0)), "{report:#}\n{stderr}");
}

/// Asserts that there were errors of this kind, no others, and of which cause.
#[track_caller]
fn assert_only(outcome: &Outcome, kind: &str, cause: &str) {
    let total = outcome.number("/errors/total");
    assert!(total > 0, "{:#}\n{}", outcome.report, outcome.stderr);
    outcome.assert_errors(&[(kind, total)]);
    outcome.assert_cause(cause);
}

#[test]
fn what_a_run_reports_too_has_the_same_shape() {
    let parts = [
        ("/$defs/times/properties", "/$defs/latency/properties"),
        ("/$defs/times/required", "/$defs/latency/required"),
        ("/properties/wrong_echoes", "/$defs/wrong_echoes"),
        ("/$defs/errors/required", "/$defs/errors/required"),
        ("/$defs/checks", "/$defs/checks"),
        ("/$defs/way_in", "/$defs/way_in"),
        ("/properties/host", "/properties/host"),
        ("/$defs/tls", "/$defs/tls"),
        ("/$defs/http2", "/$defs/http2"),
    ];
    assert_same_shapes(SCHEMA, &parts);
}

#[test]
fn cycles_with_ringecho_end_as_they_should_in_either_way() {
    let Some(server) = Ringecho::start(&[]) else { return };
    let pid = server.child.id();
    for (flags, close) in [
        ("--close handshake", "handshake"),
        ("--close abort", "abort"),
        ("--close abort --source 127.0.0.2-127.0.0.3", "abort"),
        ("--messages 3 --payload 1..100KiB --text", "handshake"),
        ("--messages 0", "handshake"),
    ] {
        let outcome = churn(&server.plain, &format!("{flags} --server-pid {pid}"));
        assert_success(&outcome);
        assert_eq!(outcome.report["close"], close, "{flags}");
        assert_eq!(outcome.number("/server/pid"), u64::from(pid));
        assert!(outcome.report["open_loop"].is_null());
    }
}

#[test]
fn cycles_over_tls_end_as_they_should_in_either_way() {
    let (authority, server) = tls_server();
    let path = temporary("churn-ca.pem");
    fs::write(&path, authority).unwrap();
    let url = format!("wss://localhost:{}/echo", server.port());
    for flags in ["--close handshake", "--close abort", "--messages 2 --payload 100KiB"] {
        let outcome = churn(&url, &format!("{flags} --ca {}", path.display()));
        assert_success(&outcome);
        assert_eq!(outcome.report["url"], url, "{flags}");
    }
    fs::remove_file(&path).unwrap();
    assert_only(&churn(&url, ""), "connect", "TLS: invalid peer certificate: ");
}

#[test]
fn every_cycle_sends_its_messages() {
    let server = Server::honest();
    let outcome = churn(&server.url(), "--messages 4");
    assert_success(&outcome);
    assert_eq!(server.received(), 4 * outcome.number("/cycles_total"));
}

#[test]
fn the_server_ends_tcp_first_so_its_port_is_the_one_that_stays_taken() {
    let server = Server::honest();
    let port = format!(":{:04X}", server.port());
    let outcome = churn(&server.url(), "");
    assert_success(&outcome);
    // Local address, remote address, state; a line for each socket.
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    let waiting: Vec<&str> = sockets
        .lines()
        .filter(|line| line.split_whitespace().nth(3) == Some("06"))
        .filter(|line| line.split_whitespace().nth(2).is_some_and(|to| to.ends_with(&port)))
        .collect();
    assert!(waiting.is_empty(), "{waiting:#?}");
}

#[test]
fn cycles_begin_at_planned_instants_whatever_threads_wait_with() {
    let server = Server::honest();
    for wait in ["poll", "sleep"] {
        let outcome = churn(&server.url(), &format!("--rate 50 --wait {wait}"));
        assert_eq!(outcome.number("/errors/total"), 0, "{:#}", outcome.report);
        assert_eq!(outcome.number("/open_loop/planned"), 10);
        assert_eq!(outcome.report["open_loop"]["wait"], wait);
        let begun = outcome.number("/open_loop/begin_lag_us/samples");
        assert_eq!(begun + outcome.number("/open_loop/unbegun"), 10);
        assert_eq!(outcome.number("/cycle_us/samples"), begun);
        // A cycle is either held back, or as late as the generator.
        let own = outcome.report["open_loop"]["generator_lag_us"]["samples"].as_u64();
        let held_back = outcome.number("/open_loop/held_back");
        assert_eq!(own.unwrap_or(0) + held_back, begun, "{:#}", outcome.report);
    }
}

#[test]
fn a_server_that_is_not_there_or_refuses_is_an_error_of_each_cycle() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outcome = churn(&format!("ws://{nobody}/"), "");
    assert_only(&outcome, "connect", "Connection refused");
    assert!(outcome.report["handshake_us"].is_null() && outcome.report["cycle_us"].is_null());
    assert!(outcome.stderr.contains("could be opened: connect: "), "{}", outcome.stderr);

    let server = Server::of_tcp(|mut stream| {
        accepting_response(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n");
    });
    assert_only(&churn(&server.url(), ""), "handshake", "503");
}

#[test]
fn an_echo_that_lies_or_does_not_come_ends_its_cycle() {
    let liar = Server::answering(|_, message| vec![corrupted(message, 20, 1)]);
    let outcome = churn(&liar.url(), "");
    assert_only(&outcome, "wrong", "byte 20 of an echo is ");
    assert_eq!(outcome.number("/wrong_echoes/corrupted"), outcome.number("/errors/wrong"));
    assert_eq!(outcome.number("/cycles_total"), 0);
    assert!(outcome.number("/handshake_us/samples") > 0);

    let silent = Server::answering(|_, _| Vec::new());
    let outcome = churn(&silent.url(), "--answer-timeout 100ms");
    assert_only(&outcome, "missing", "no echo came within 100ms");
}

#[test]
fn an_echo_that_comes_twice_is_noticed_in_the_closing_handshake() {
    let server = Server::answering(|_, message| vec![message.clone(), message]);
    let outcome = churn(&server.url(), "");
    assert_only(&outcome, "wrong", "an echo came twice");
}

/// A server that echoes one message of 5 bytes by hand, receives a Close frame, and ends the
/// connection with `end`.
fn ending(end: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Server {
    Server::of_tcp(move |mut stream| {
        let response = accepting_response(&mut stream);
        // Masked frames: a message, and a Close frame with a code.
        let (mut message, mut close) = ([0; 6 + 5], [0; 6 + 2]);
        let echoed = stream.write_all(&response).and_then(|()| stream.read_exact(&mut message));
        let (front, payload) = message.split_at(6);
        let unmasked = payload.iter().zip(front[2..].iter().cycle()).map(|(byte, key)| byte ^ key);
        let echo: Vec<u8> = [front[0], front[1] & 0x7f].into_iter().chain(unmasked).collect();
        // A client that has given up is gone.
        let _ = echoed
            .and_then(|()| stream.write_all(&echo))
            .and_then(|()| stream.read_exact(&mut close))
            .and_then(|()| end(&mut stream));
    })
}

/// Waits until the client has ended the connection.
fn hold(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.read_to_end(&mut Vec::new()).map(|_| ())
}

#[test]
fn a_closing_handshake_is_judged_to_the_end_of_tcp() {
    let flags = "--payload 5 --answer-timeout 300ms";
    for answer in [&b"\x88\x02\x03\xe8"[..], b"\x88\x00", b"\x88\x05\x03\xe8bye"] {
        let server = ending(move |stream| stream.write_all(answer));
        assert_success(&churn(&server.url(), flags));
    }
    for (answer, kind, cause) in [
        (&b""[..], "closed", "ended the connection without a Close frame"),
        (b"\x88\x02\x03\xed", "protocol", "a Close frame with code 1005, which may not be sent"),
        (b"\x88\x01\x03", "protocol", "a Close frame that is malformed"),
        (b"\x88\x02\x03\xea", "closed", "a Close frame with code 1002"),
        (b"\x88\x02\x03\xe8\x82\x00", "protocol", "something after its Close frame"),
        (b"\x82\x05apple\x88\x02\x03\xe8", "wrong", "no echo of any on its way"),
    ] {
        let server = ending(move |stream| stream.write_all(answer));
        assert_only(&churn(&server.url(), flags), kind, cause);
    }
}

#[test]
fn a_server_that_does_not_close_is_waited_for_no_longer_than_asked() {
    let flags = "--payload 5 --answer-timeout 100ms";
    let silent = ending(hold);
    assert_only(
        &churn(&silent.url(), flags),
        "missing",
        "no Close frame came within 100ms of ours",
    );
    let open = ending(|stream| {
        stream.write_all(b"\x88\x02\x03\xe8")?;
        hold(stream)
    });
    assert_only(
        &churn(&open.url(), flags),
        "missing",
        "the server did not end TCP within 100ms of its Close frame",
    );
}

#[test]
fn a_reset_is_no_end_of_tcp() {
    let server = ending(|stream| SockRef::from(&*stream).set_linger(Some(Duration::ZERO)));
    let outcome = churn(&server.url(), "--payload 5");
    assert_only(&outcome, "closed", "the connection broke: Connection reset by peer");
}

#[test]
fn with_abort_the_server_sees_a_reset_and_no_close_frame() {
    let (ends, seen) = std::sync::mpsc::channel();
    let server = Server::of_websockets(move |mut websocket| {
        let error = loop {
            match websocket.read() {
                Ok(message) if message.is_close() => break "a Close frame".to_owned(),
                Ok(message) => {
                    let _ = websocket.send(message);
                }
                Err(error) => break error.to_string(),
            }
        };
        let _ = websocket.get_ref().shutdown(Shutdown::Both);
        let _ = ends.send(error);
    });
    let outcome = churn(&server.url(), "--close abort");
    assert_success(&outcome);
    for _ in 0..outcome.number("/cycles_total") {
        let end = seen.recv().unwrap();
        assert!(end.contains("reset"), "{end}");
    }
}

#[test]
fn conditions_are_about_cycles() {
    let server = Server::honest();
    let held = ["--fail-if", "handshake.p50>0us", "--fail-if", "cycles_per_second<1"];
    let mut command = program(&format!("churn {} {SHORT}", server.url()));
    let outcome = Outcome::read_any(&command.args(held).output().unwrap());
    assert_matches(&outcome.report, SCHEMA);
    assert_eq!(outcome.code, Some(3));
    let checks = outcome.report["checks"].as_array().unwrap();
    assert_eq!(checks[0]["condition"], "handshake.p50>0us");
    assert_eq!(checks[0]["failed"], true);
    assert_eq!(checks[1]["value"], outcome.report["cycles_per_second"]);
}

#[test]
fn the_text_says_what_a_cycle_takes() {
    let server = Server::honest();
    let files = Files::new("churn-text");
    let arguments = format!(
        "churn {} -c 2 --warmup 0s --duration 1s --json {}",
        server.url(),
        files.path("json")
    );
    let output = program(&arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\n  2 cycles at once x 1 message x 64 B binary, "), "{text}");
    for line in ["\n  cycles      ", "\n  handshake   p50 ", "\n  cycle       p50 "] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.ends_with("\n  errors      none\n"), "{text}");
    assert_matches(&serde_json::from_str(&files.read("json")).unwrap(), SCHEMA);
}

#[test]
fn the_seconds_of_every_file_add_up_to_the_result() {
    let server = Server::honest();
    let files = Files::new("churn-files");
    let names = ["csv", "html", "hgrm", "hlog"];
    let flags = names.map(|name| format!("--{name} {}", files.path(name))).join(" ");
    let load = "-c 2 -t 2 --rate 50 --warmup 100ms --duration 1500ms --json -";
    let output = program(&format!("churn {} {load} {flags}", server.url())).output().unwrap();
    let outcome = Outcome::read_any(&output);
    assert_matches(&outcome.report, SCHEMA);
    assert_success(&outcome);

    let csv = files.read("csv");
    let mut rows = csv.lines().map(|row| row.split(',').collect::<Vec<&str>>());
    let header = rows.next().unwrap();
    let rows: Vec<Vec<&str>> = rows.collect();
    assert_eq!(rows.len(), 2, "{csv}");
    let column = |name: &str| header.iter().position(|it| *it == name).unwrap();
    for (name, path) in [("cycles", "/cycles"), ("cycle_samples", "/cycle_us/samples")] {
        let sum: u64 = rows.iter().map(|row| row[column(name)].parse::<u64>().unwrap()).sum();
        assert_eq!(sum, outcome.number(path), "{name}\n{csv}");
    }
    for (name, path) in [
        ("max_us", "/cycle_us/max"),
        ("handshake_max_us", "/handshake_us/max"),
        ("begin_lag_max_us", "/open_loop/begin_lag_us/max"),
    ] {
        let longest = rows.iter().filter_map(|row| row[column(name)].parse::<f64>().ok());
        let longest = longest.fold(0.0, f64::max);
        assert_eq!(outcome.report.pointer(path).unwrap().as_f64(), Some(longest), "{name}\n{csv}");
    }

    let percentiles = files.read("hgrm");
    let last = percentiles.lines().rfind(|line| !line.starts_with('#')).unwrap();
    let count = outcome.number("/cycle_us/samples").to_string();
    assert!(last.ends_with(&format!(" {count}")), "{last} does not end with {count}");
    let log = files.read("hlog");
    for tag in ["Tag=handshake,", "Tag=begin_lag,"] {
        assert!(log.lines().any(|line| line.starts_with(tag)), "{tag} is not in {log}");
    }
    let page = files.read("html");
    for title in [
        "Latency by percentile",
        "Cycles per second",
        "Cycle latency of each second",
        "Handshake latency of each second",
        "Begin lag of each second",
    ] {
        assert_eq!(page.matches(&format!("<h2>{title}</h2><svg ")).count(), 1, "{title}");
    }
    for part in ["<dt>cycles/s</dt>", "closing handshake", "generator's floor"] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let path = files.path("hlog");
    let merged = program(&format!("merge {path}")).output().unwrap();
    let error = format!(
        "error: cannot merge {path}: it is of cycles (`churn`), and only messages are merged: \
         expected the log of a run, or of merged runs\n"
    );
    assert_eq!(String::from_utf8(merged.stderr).unwrap(), error);
}

#[test]
fn a_file_that_turns_out_not_to_be_writable_costs_no_other_result() {
    let files = Files::new("churn-full");
    let server = Server::honest();
    let flags = format!("--csv /dev/full --html {}", files.path("html"));
    let arguments = format!("churn {} -c 1 --warmup 0s --duration 300ms {flags}", server.url());
    let output = program(&arguments).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: cannot write --csv /dev/full: No space left"), "{stderr}");
    assert!(files.read("html").ends_with("</html>"));
}

/// Runs `search churn` or `compare churn`, and checks its result against the schema.
fn many(mode: &str, urls: &str, arguments: &str) -> Outcome {
    let short = "-c 2 --warmup 0s --duration 300ms --json -";
    let output = program(&format!("{mode} churn {urls} {short} {arguments}")).output().unwrap();
    let outcome = Outcome::read_any(&output);
    assert_matches_definition_of(&outcome.report, SCHEMA, mode);
    outcome
}

#[test]
fn the_highest_rate_of_cycles_is_searched_under_a_target() {
    let server = Server::honest();
    let flags = "--slo p99<9s --slo handshake.p99<9s --start-rate 20 --max-rate 30 --confirm 1 \
                 --close abort";
    let outcome = many("search", &server.url(), flags);
    let probes = outcome.report["probes"].as_array().unwrap();
    assert!(probes.iter().all(|probe| probe["rate"].as_f64() <= Some(30.0)), "{probes:#?}");
    // On a busy machine a trial may miss.
    if let Some(rate) = outcome.report["rate"].as_f64() {
        let met = |probe: &serde_json::Value| {
            probe["rate"].as_f64() == Some(rate) && probe["verdict"] == "met"
        };
        assert!(probes.iter().any(met), "{probes:#?}");
    }
    assert_eq!(outcome.report["close"], "abort");
    let is_confirmed = outcome.report["confirmed"] == true;
    assert_eq!(outcome.code, Some(i32::from(!is_confirmed)));
}

#[test]
fn cycles_that_go_wrong_meet_no_target() {
    let server = Server::answering(|_, message| vec![corrupted(message, 20, 1)]);
    let outcome = many("search", &server.url(), "--slo handshake.p99<9s --start-rate 10");
    assert!(outcome.report["rate"].is_null());
    let reasons = outcome.report["probes"][0]["reasons"].as_array().unwrap();
    let errors = outcome.report["probes"][0]["errors"]["total"].as_u64().unwrap();
    let reason = if errors == 1 { "1 error".to_owned() } else { format!("{errors} errors") };
    assert!(reasons.iter().any(|it| *it == reason), "{reasons:?}");
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn two_servers_are_compared_by_their_cycles() {
    let (a, b) = (Server::honest(), Server::honest());
    let urls = format!("{} {}", a.url(), b.url());
    let flags = "--rounds 2 --messages 2 --fail-if errors>0 --fail-if ratio.handshake.p99>9999";
    let outcome = many("compare", &urls, flags);
    assert_eq!(outcome.report["messages_per_cycle"], 2);
    assert_eq!(outcome.report["close"], "handshake");
    assert!(outcome.report.get("rate").is_none());
    for side in ["a", "b"] {
        assert_eq!(outcome.report[side]["rounds"].as_array().unwrap().len(), 2);
    }
    let value = outcome.report["ratios"]["handshake.p99"]["estimate"].as_f64();
    assert!(value > Some(0.0), "{:#}", outcome.report);
    assert_eq!(outcome.report["checks"][1]["value"].as_f64(), value);
    assert_eq!(outcome.code, Some(0), "{:#}\n{}", outcome.report, outcome.stderr);
    assert!(a.received() > 0 && b.received() > 0);
}

#[test]
fn the_texts_of_many_churns_say_what_a_cycle_was() {
    let server = Server::honest();
    let url = server.url();
    let short = "-c 2 --warmup 0s --duration 100ms";
    for (arguments, cycle) in [
        (
            format!(
                "search churn {url} {short} --slo p99<9s --start-rate 20 --max-rate 20 --confirm 1"
            ),
            "\n  at most 2 cycles at once x 1 message x 64 B, closing handshake, runs of 0.1 s\n",
        ),
        (
            format!("compare churn {url} {url} {short} --rounds 2 --rate 50 --close abort"),
            "\n  at most 2 cycles at once x 1 message x 64 B, reset, 50 cycles/s, 2 rounds of 0.1 s \
             each\n",
        ),
    ] {
        let output = program(&arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(cycle), "{cycle} is not in\n{text}");
    }
}

#[test]
fn cycles_that_wait_for_a_connection_are_told_from_a_late_generator() {
    // Each cycle takes longer than the time to the next, and there is one connection.
    let server = Server::answering(|_, message| {
        std::thread::sleep(Duration::from_millis(50));
        vec![message]
    });
    let outcome = churn(&server.url(), "-c 1 -t 1 --rate 100");
    assert!(outcome.number("/open_loop/held_back") > 0, "{:#}", outcome.report);
    // The first cycle found a connection that was free.
    let own = outcome.number("/open_loop/generator_lag_us/samples");
    assert!(own < outcome.number("/open_loop/begin_lag_us/samples"), "{:#}", outcome.report);
}

#[test]
fn where_nobody_listens_no_cycles_are_searched_or_compared() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("ws://{nobody}/");
    let short = "-c 1 --warmup 0s --duration 100ms";
    for arguments in [
        format!("search churn {url} --slo p99<1s {short}"),
        format!("compare churn {url} {url} {short}"),
    ] {
        let output = program(&arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let message = format!("error: no connection to {url} could be opened: connect: ");
        assert!(stderr.contains(&message), "{stderr}");
    }
}
