//! Open loops: what is planned is sent, and latency counts from the plan.
//!
//! Figures are compared with what the server stamped, or with bounds that follow from the order of
//! events; so a busy machine makes them larger, on both sides, and nothing fails.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts of a test stay below 2^52, none is negative"
)]

use std::{
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    invocation::{Outcome, program, run},
    servers::{Server, echo},
};

fn at_rate(server: &Server, rate: &str, arguments: &str) -> Command {
    let mut command = program(&format!("{} --json - {arguments}", server.url()));
    command.args(["--rate", rate]);
    command
}

fn run_at_rate(server: &Server, rate: &str, arguments: &str) -> Outcome {
    Outcome::read(&at_rate(server, rate, arguments).output().unwrap())
}

/// A figure of the report, in microseconds.
fn figure(outcome: &Outcome, path: &str) -> f64 {
    let value = outcome.report.pointer(path).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number {path} in {:#}", outcome.report))
}

fn assert_all_planned_were_sent(outcome: &Outcome, planned: u64) {
    outcome.assert_success();
    assert_eq!(outcome.number("/open_loop/planned"), planned);
    assert_eq!(outcome.number("/open_loop/unsent"), 0);
    assert_eq!(outcome.number("/latency_us/samples"), planned);
    assert_eq!(outcome.number("/open_loop/uncorrected_latency_us/samples"), planned);
    assert_eq!(outcome.number("/open_loop/send_lag_us/samples"), planned);
}

#[test]
fn every_planned_message_is_sent_once() {
    for (rate, wait, planned) in [
        ("2k", "poll", 1000),
        ("1k..3k", "sleep", 1000),
        ("1k..3k over 250ms", "poll", 500 + 750),
        ("1k,3k,2k over 300ms", "sleep", 100 + 300 + 200 + 400),
    ] {
        let server = Server::honest();
        let arguments = "--warmup 0s --duration 500ms --threads 2 --connections 5";
        let outcome = run_at_rate(&server, rate, &format!("{arguments} --wait {wait}"));
        assert_all_planned_were_sent(&outcome, planned);
        assert_eq!(outcome.report["open_loop"]["rate"], rate);
        assert_eq!(outcome.report["open_loop"]["wait"], wait);
        let in_vain = &outcome.report["open_loop"]["polled_in_vain"];
        assert_eq!(in_vain.as_f64().is_some_and(|cpus| cpus > 0.0), wait == "poll", "{in_vain}");
        assert_eq!(server.received(), planned, "{rate}");
        assert_eq!(outcome.number("/messages_total"), planned, "{rate}");
    }
}

#[test]
fn a_thread_with_nothing_left_to_send_is_not_saturated() {
    let server = Server::honest();
    let outcome = run_at_rate(&server, "1", "-c 1 --warmup 0s --duration 500ms");
    assert_all_planned_were_sent(&outcome, 1);
    let warnings = outcome.report["warnings"].as_array().unwrap();
    assert!(warnings.iter().all(|it| it["code"] != "generator_saturated"), "{warnings:?}");
}

#[test]
fn the_warm_up_has_the_first_rate_and_is_not_measured() {
    let server = Server::honest();
    let outcome = run_at_rate(&server, "400,2k", "--warmup 250ms --duration 500ms -c 3");
    assert_all_planned_were_sent(&outcome, 100 + 500);
    assert_eq!(server.received(), 100 + 600);
}

#[test]
fn on_epoll_every_planned_message_is_sent_too() {
    for wait in ["poll", "sleep"] {
        let server = Server::honest();
        let arguments = format!("--warmup 0s --duration 500ms -c 5 --wait {wait}");
        let output = at_rate(&server, "2k", &arguments)
            .env("MONOIO_FORCE_LEGACY_DRIVER", "1")
            .output()
            .unwrap();
        let outcome = Outcome::read(&output);
        assert_eq!(outcome.report["driver"], "epoll");
        assert_all_planned_were_sent(&outcome, 1000);
    }
}

#[test]
fn the_text_shows_both_latencies_and_the_lag() {
    let server = Server::honest();
    let arguments = "-c 2 --warmup 0s --duration 200ms --wait sleep";
    let output = program(&format!("{} {arguments}", server.url()))
        .args(["--rate", "1k..2k over 100ms"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "2 connections x 1k..2k over 100ms messages/s x 64 B binary",
        "\n  latency     p50 ",
        "\n   from send  p50 ",
        "\n  send lag    p50 ",
        "\n  planned     350 messages, all sent\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn a_silent_server_gets_as_many_messages_as_may_be_in_flight() {
    let server = Server::answering(|_, _| vec![]);
    let outcome = run_at_rate(&server, "5k", "--depth 40 -c 2 --warmup 0s --duration 200ms");
    outcome.assert_errors(&[("missing", 80)]);
    assert_eq!(server.received(), 80);
    assert_eq!(outcome.number("/open_loop/planned"), 1000);
    assert_eq!(outcome.number("/open_loop/unsent"), 920);
    let warning = "warning: 920 of 1,000 planned messages were not sent";
    assert!(outcome.stderr.contains(warning), "{}", outcome.stderr);
}

#[test]
fn the_rate_goes_on_after_connections_are_lost_and_reopened() {
    const DROPPED: u64 = 6;
    let [accepted, dropped] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    let (accepting, dropping) = (Arc::clone(&accepted), Arc::clone(&dropped));
    let server = Server::of_websockets(move |mut websocket| {
        if accepting.fetch_add(1, SeqCst) >= DROPPED {
            return echo(websocket);
        }
        for _ in 0..5 {
            let message = websocket.read().unwrap();
            websocket.send(message).unwrap();
        }
        // The next one has no echo.
        let _ = websocket.read();
        dropping.fetch_add(1, SeqCst);
    });
    let arguments = "-c 2 --reconnect --warmup 0s --duration 2s";
    let outcome = run_at_rate(&server, "1k", arguments);

    let missing = outcome.number("/errors/missing");
    assert_eq!(dropped.load(SeqCst), DROPPED, "{:#}", outcome.report);
    assert!(missing >= DROPPED, "{:#}", outcome.report);
    outcome.assert_errors(&[("closed", DROPPED), ("missing", missing)]);
    assert_eq!(outcome.number("/connections/opened"), 2);
    assert_eq!(outcome.number("/connections/lost"), DROPPED);
    assert_eq!(outcome.number("/connections/reopened"), DROPPED);
    assert_eq!(accepted.load(SeqCst), 2 + DROPPED);
    // What was planned while there was no connection is counted, and sent late, once.
    assert_eq!(outcome.number("/open_loop/planned"), 2000);
    assert_eq!(outcome.number("/open_loop/unsent"), 0);
    assert_eq!(outcome.number("/open_loop/send_lag_us/samples"), 2000);
    assert_eq!(outcome.number("/latency_us/samples"), 2000 - missing);
    assert_eq!(outcome.number("/messages_total"), 2000 - missing);
    // A lost connection waits for 10 ms, in which a message is planned every other one.
    assert!(figure(&outcome, "/open_loop/send_lag_us/max") > 7000.0, "{:#}", outcome.report);
}

/// When the server had read message `k`, and when it began to write its echo.
type Stamps = Arc<Mutex<Vec<[Instant; 2]>>>;

/// A server of one connection that keeps each message for as long as `hold` sleeps.
fn stamping_server(hold: impl Fn(u64) + Send + Sync + 'static) -> (Server, Stamps) {
    let stamps = Stamps::default();
    let written = Arc::clone(&stamps);
    let server = Server::answering(move |number, message| {
        let read = Instant::now();
        hold(number);
        written.lock().unwrap().push([read, Instant::now()]);
        vec![message]
    });
    (server, stamps)
}

/// The value that a fraction `quantile` of `values` stays within, as a histogram counts.
fn quantile(mut values: Vec<f64>, quantile: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let rank = (values.len() as f64 * quantile).ceil() as usize;
    values[rank.max(1) - 1]
}

/// Asserts that a figure lies between quantiles of lower and upper bounds of each message's time:
/// but for the histogram's error of a thousandth, and its microseconds with two decimals.
#[track_caller]
fn assert_within(figure: f64, lower: f64, upper: f64) {
    assert!(
        lower * 0.999 - 0.01 <= figure && figure <= upper * 1.001 + 0.01,
        "{figure} us is not within {lower} and {upper} us"
    );
}

#[test]
fn a_stall_counts_for_every_message_that_was_planned_in_it() {
    const RATE: f64 = 5000.0;
    const STALL: Duration = Duration::from_millis(100);
    let (server, stamps) = stamping_server(|number| {
        // Once a second of the plan.
        if number % 5000 == 2500 {
            thread::sleep(STALL);
        }
    });
    // With one message in flight the stall holds back the others, as it does in a generator that
    // waits for each answer.
    let arguments = "-c 1 --depth 1 --warmup 0s --duration 3s";
    let outcome = run_at_rate(&server, "5k", arguments);
    outcome.assert_success();

    let stamps = stamps.lock().unwrap();
    let epoch = stamps[0][0];
    let us = |instant: Instant| (instant - epoch).as_secs_f64() * 1e6;
    let read: Vec<f64> = stamps.iter().map(|stamp| us(stamp[0])).collect();
    let echoed: Vec<f64> = stamps.iter().map(|stamp| us(stamp[1])).collect();
    let planned = |k: usize| k as f64 * 1e6 / RATE;
    // Nothing is read before it was planned, and some echo arrived `min` after its plan: between
    // these two is the instant from which the plan counts.
    let earliest = |instants: &[f64]| {
        let since = instants.iter().enumerate().map(|(k, instant)| instant - planned(k));
        since.fold(f64::INFINITY, f64::min)
    };
    let origin_max = earliest(&read);
    let origin_min = earliest(&echoed) - figure(&outcome, "/latency_us/min") - 0.01;
    // Echo k arrived after it was sent, and before message k + 1 was read, which was sent for it.
    let count = stamps.len();
    let lower = (0..count).map(|k| echoed[k] - planned(k) - origin_max);
    let upper = (0..count - 1).map(|k| read[k + 1] - planned(k) - origin_min);
    let upper = upper.chain([f64::INFINITY]);

    assert_eq!(outcome.number("/latency_us/samples"), count as u64);
    let corrected = figure(&outcome, "/latency_us/p99");
    let uncorrected = figure(&outcome, "/open_loop/uncorrected_latency_us/p99");
    eprintln!("p99 from the plan: {corrected} us, from the send: {uncorrected} us");
    assert_within(corrected, quantile(lower.collect(), 0.99), quantile(upper.collect(), 0.99));
    // A tenth of the messages waited, evenly up to the whole stall: the last hundredth of all are
    // those that waited for nine tenths of it. A machine that is too slow adds to that.
    assert!(corrected > 0.89 * STALL.as_secs_f64() * 1e6, "{corrected} us");
    // One after another, a hundredth of 15,000 messages cannot take half of that each in 5 s.
    assert!(uncorrected < corrected / 2.0, "{uncorrected} us of {corrected} us");
}

/// A run against a server that keeps each message for 5 ms.
struct DelayedRun {
    /// As it was reported, in microseconds.
    p50: f64,
    /// For how long half of the messages were held.
    held: f64,
    /// From one echo to the next, as the server wrote them: quartiles. That is a message's time but
    /// for the order of its parts, since the client sends when an echo comes.
    cycles: [f64; 3],
}

impl DelayedRun {
    /// Carries it out, and asserts what holds on any machine.
    fn new() -> Self {
        const DELAY: Duration = Duration::from_millis(5);
        let (server, stamps) = stamping_server(|_| {
            let end = Instant::now() + DELAY;
            while Instant::now() < end {
                thread::sleep((end - Instant::now()) / 2);
            }
        });
        let outcome = run(&format!("{} -c 1 --warmup 0s --duration 1s", server.url()));
        outcome.assert_success();

        // What was sent before the measured window came first.
        let stamps = stamps.lock().unwrap();
        let count = outcome.number("/latency_us/samples") as usize;
        let stamps = &stamps[stamps.len() - count..];
        let us = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e6;
        // Message k was sent after echo k - 1 was, and its echo arrived before message k + 1 was
        // read.
        let lower = (0..count).map(|k| us(stamps[k][0], stamps[k][1])).collect();
        let upper = (1..count - 1).map(|k| us(stamps[k - 1][1], stamps[k + 1][0]));
        let upper = upper.chain([f64::INFINITY; 2]).collect();
        let p50 = figure(&outcome, "/latency_us/p50");
        let held = quantile(lower, 0.5);
        assert_within(p50, held, quantile(upper, 0.5));
        // A message is sent in the turn in which the echo before it is seen, so the times of all
        // follow each other without gaps. Only of the first and the last the server does not know
        // where they begin and end.
        let [first, last] = [stamps[0], stamps[count - 1]];
        let longest = figure(&outcome, "/latency_us/max");
        let mean_min = us(first[0], last[1]) / count as f64;
        let mean_max = (us(first[1], last[0]) + 2.0 * longest) / count as f64;
        assert_within(figure(&outcome, "/latency_us/mean"), mean_min, mean_max);

        let cycles: Vec<f64> = (1..count).map(|k| us(stamps[k - 1][1], stamps[k][1])).collect();
        let cycles = [0.25, 0.5, 0.75].map(|part| quantile(cycles.clone(), part));
        Self { p50, held, cycles }
    }
}

/// The median is that of the server's cycles, to 2 %.
///
/// Both have the same parts, but not in the same order, so on a machine that is busy with other
/// things their medians differ by chance: one round of five decides. If the middle half of the
/// cycles spreads over more than 4 % in all of them, nobody can tell.
#[test]
fn a_constant_delay_is_the_latency() {
    let mut spreads = Vec::new();
    while spreads.len() < 5 {
        let DelayedRun { p50, held, cycles: [quarter, half, three_quarters] } = DelayedRun::new();
        eprintln!("p50 {p50} us, cycles of {half:.1} us, held for {held:.1} us");
        if (p50 / half - 1.0).abs() <= 0.02 {
            return;
        }
        spreads.push((three_quarters - quarter) / half);
    }
    assert!(spreads.iter().all(|spread| *spread > 0.04), "no round agreed: {spreads:?}");
}
