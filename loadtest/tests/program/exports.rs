//! What a run measured, in files for other tools.

use std::fs;

use base64::{Engine, prelude::BASE64_STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{
        Deserializer,
        interval_log::{IntervalLogIterator, LogEntry},
    },
};

use crate::{
    invocation::{Files, Outcome, program, run},
    servers::Server,
};

/// Runs for a second and a half, so that there are two seconds.
fn run_with(arguments: &str) -> Outcome {
    let server = Server::honest();
    let load = "-c 2 -t 2 --depth 2 --warmup 50ms --duration 1500ms";
    let outcome = run(&format!("{} {load} {arguments}", server.url()));
    outcome.assert_success();
    outcome
}

#[test]
fn the_seconds_of_the_csv_add_up_to_the_result() {
    let files = Files::new("csv");
    let outcome = run_with(&format!("--csv {}", files.path("run.csv")));
    let text = files.read("run.csv");
    let mut rows = text.lines().map(|row| row.split(',').collect::<Vec<&str>>());
    let header = rows.next().unwrap();
    let rows: Vec<Vec<&str>> = rows.collect();
    let column = |name: &str| header.iter().position(|it| *it == name).unwrap();
    let sum = |name: &str| -> u64 {
        rows.iter().map(|row| row[column(name)].parse::<u64>().unwrap()).sum()
    };
    assert_eq!(rows.len(), 2, "{text}");
    assert_eq!(sum("messages"), outcome.number("/messages"));
    assert_eq!(sum("latency_samples"), outcome.number("/latency_us/samples"));
    assert_eq!(sum("errors"), 0);
    let longest = rows.iter().map(|row| row[column("max_us")].parse::<f64>().unwrap());
    let longest = longest.fold(0.0, f64::max);
    assert_eq!(outcome.report["latency_us"]["max"].as_f64(), Some(longest));
}

#[test]
fn the_interval_log_holds_every_latency() {
    let files = Files::new("hlog");
    let outcome = run_with(&format!("--hlog {}", files.path("run.hlog")));
    let log = files.read("run.hlog");
    let mut total = Histogram::<u64>::new(3).unwrap();
    let mut times = Vec::new();
    for entry in IntervalLogIterator::new(log.as_bytes()) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        let bytes = BASE64_STANDARD.decode(interval.encoded_histogram()).unwrap();
        total.add(Deserializer::new().deserialize::<u64, _>(&mut &*bytes).unwrap()).unwrap();
        times.push((interval.start_timestamp().as_millis(), interval.duration().as_millis()));
    }
    assert_eq!(times, [(0, 1000), (1000, 500)]);
    assert_eq!(total.len(), outcome.number("/latency_us/samples"));
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99_99", 0.9999), ("max", 1.0)] {
        let nanoseconds = u32::try_from(total.value_at_quantile(quantile)).unwrap();
        let microseconds = (f64::from(nanoseconds) / 10.0).round() / 100.0;
        assert_eq!(outcome.report["latency_us"][name].as_f64(), Some(microseconds), "{name}");
    }
    for header in ["#[StartTime: ", "#[BaseTime: ", "#[Report: {\"version\":"] {
        assert_eq!(log.lines().filter(|line| line.starts_with(header)).count(), 1, "{header}");
    }
}

#[test]
fn the_percentiles_end_with_the_longest_latency_of_all() {
    let files = Files::new("hgrm");
    let outcome = run_with(&format!("--hgrm {}", files.path("run.hgrm")));
    let text = files.read("run.hgrm");
    let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
    let [value, quantile, count] = last.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{last}")
    };
    let microseconds = (value.parse::<f64>().unwrap() * 1e5).round() / 100.0;
    assert_eq!(outcome.report["latency_us"]["max"].as_f64(), Some(microseconds));
    assert_eq!(quantile, "1.000000000000");
    assert_eq!(count, outcome.number("/latency_us/samples").to_string());
}

#[test]
fn the_page_shows_the_result_and_needs_nothing_else() {
    let files = Files::new("html");
    let outcome = run_with(&format!("--html {}", files.path("run.html")));
    let page = files.read("run.html");
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"), "{page}");
    for title in ["Latency by percentile", "Messages per second", "Latency of each second"] {
        assert_eq!(page.matches(&format!("<h2>{title}</h2><svg ")).count(), 1, "{title}");
    }
    for part in [
        outcome.report["url"].as_str().unwrap(),
        outcome.report["began"].as_str().unwrap(),
        outcome.report["host"]["kernel"].as_str().unwrap(),
        "<li>this is a debug build, ",
        "@media (prefers-color-scheme: dark)",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    for outside in ["<script", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside} is in {page}");
    }
}

#[test]
fn the_page_shows_the_comparison_and_the_checks() {
    let files = Files::new("html-checks");
    let earlier = run_with("").report;
    fs::write(files.path("earlier.json"), earlier.to_string()).unwrap();
    let flags = format!(
        "--baseline {} --depth 3 --fail-if errors>0 --fail-if p99<9999s --html {}",
        files.path("earlier.json"),
        files.path("run.html")
    );
    let server = Server::honest();
    let outcome =
        run(&format!("{} -c 2 -t 2 --warmup 50ms --duration 300ms {flags}", server.url()));
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    let page = files.read("run.html");
    for part in [
        "<td><code>errors&gt;0</code></td><td>errors 0</td><td><strong>passed</strong></td>",
        "<tr class=\"bad\"><td><code>p99&lt;9999s</code></td><td>p99 ",
        "<td><strong>failed</strong></td>",
        &*format!("{}, began {}", files.path("earlier.json"), earlier["began"].as_str().unwrap()),
        "<th>messages_per_second</th><td>",
        "<th>p99.99</th><td>",
        "depth 2 there and 3 here",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
}

#[test]
fn files_that_cannot_be_written_are_errors() {
    let server = Server::honest();
    for flag in ["--csv", "--hgrm", "--hlog", "--html"] {
        let arguments = "-c 1 --warmup 0s --duration 100ms";
        let output = program(&format!("{} {arguments} {flag} /nonexistent/x", server.url()));
        let output = { output }.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let message = format!("error: cannot write {flag} /nonexistent/x: No such file");
        assert!(stderr.contains(&message), "{stderr}");
    }
    assert!(fs::metadata("/nonexistent").is_err());
}
