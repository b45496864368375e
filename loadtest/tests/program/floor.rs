//! The generator's own floor: that every result with latencies tells it, or why it does not.

use std::thread;

use serde_json::Value;

use crate::{
    invocation::{Outcome, program},
    servers::Server,
};

const SHORT: &str = "-c 1 --warmup 0s --duration 100ms";

/// What carries out each mode, and where the JSON has the p50 of its floor.
fn modes(url: &str) -> [(String, &'static str); 9] {
    let slo = "--slo p99<9s --start-rate 20 --max-rate 20 --confirm 1";
    [
        (format!("{url} {SHORT}"), "/floor_us/p50"),
        (format!("{url} {SHORT} --rate 100 --wait poll"), "/floor_us/p50"),
        (format!("{url} {SHORT} --rate 100 --wait sleep"), "/floor_us/p50"),
        (format!("search {url} {SHORT} {slo}"), "/floor_us/p50"),
        (format!("compare {url} {url} {SHORT} --rounds 2"), "/floor_us/p50"),
        (format!("churn {url} {SHORT} --close abort"), "/floor_us/cycle/p50"),
        (format!("churn {url} {SHORT} --rate 50"), "/floor_us/handshake/p50"),
        (format!("search churn {url} {SHORT} {slo}"), "/floor_us/cycle/p50"),
        (format!("compare churn {url} {url} {SHORT} --rounds 2"), "/floor_us/cycle/p50"),
    ]
}

#[test]
fn the_generators_own_part_of_latency_is_told_or_why_it_is_not_known() {
    let server = Server::honest();
    // One CPU cannot both send and echo. Several may be too busy for it.
    let is_possible = thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
    for (arguments, p50) in modes(&server.url()) {
        let output = program(&format!("{arguments} --json -")).output().unwrap();
        let outcome = Outcome::read_any(&output);
        let warnings = outcome.report["warnings"].as_array().unwrap();
        let is_unknown = warnings.iter().any(|it| it["code"] == "floor_unmeasured");
        assert_eq!(outcome.report["floor_us"].is_null(), is_unknown, "{arguments}: {warnings:?}");
        let p50 = outcome.report.pointer(p50).and_then(Value::as_f64);
        assert_eq!(p50.is_some_and(|us| us > 0.0), !is_unknown, "{arguments}: {p50:?}");
        assert!(is_possible || is_unknown, "{arguments}: {p50:?}");
    }
}

#[test]
fn the_floor_of_cycles_says_how_many_messages_they_had() {
    let server = Server::honest();
    for (messages, in_floor) in [(2, 2), (40, 16)] {
        let arguments = format!("churn {} {SHORT} --messages {messages} --json -", server.url());
        let outcome = Outcome::read_any(&program(&arguments).output().unwrap());
        let told = &outcome.report["floor_us"]["messages_per_cycle"];
        assert!(told.is_null() || *told == in_floor, "{told}");
        assert_eq!(told.is_null(), outcome.report["floor_us"].is_null());
    }
}

#[test]
fn the_texts_tell_the_floor_or_that_it_is_not_known() {
    let server = Server::honest();
    for (arguments, _) in modes(&server.url()) {
        let output = program(&arguments).output().unwrap();
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        let is_told =
            stdout.lines().any(|line| line.starts_with("  floor") && line.contains("p50 "));
        let is_unknown = stderr.contains("own part of latency could not be measured");
        assert_ne!(is_told, is_unknown, "{arguments}\n{stdout}{stderr}");
    }
}
