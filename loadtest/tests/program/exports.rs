//! What a run measured, in files for other tools.

use std::{fs, io, process::Stdio};

use base64::{Engine, prelude::BASE64_STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{
        Deserializer,
        interval_log::{IntervalLogHistogram, IntervalLogIterator, LogEntry},
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
fn the_interval_log_of_an_open_loop_holds_every_latency_and_every_lag() {
    let files = Files::new("open-hlog");
    let outcome = run_with(&format!("--rate 5k --hlog {}", files.path("run.hlog")));
    let log = files.read("run.hlog");
    let samples = |tag: Option<&str>| {
        let intervals = IntervalLogIterator::new(log.as_bytes()).filter_map(|entry| {
            let LogEntry::Interval(interval) = entry.unwrap() else { return None };
            (interval.tag().map(|tag| tag.as_str()) == tag).then_some(interval)
        });
        let len = |interval: IntervalLogHistogram| {
            let bytes = BASE64_STANDARD.decode(interval.encoded_histogram()).unwrap();
            Deserializer::new().deserialize::<u64, _>(&mut &*bytes).unwrap().len()
        };
        intervals.map(len).sum::<u64>()
    };
    for (tag, path) in [
        (None, "/latency_us/samples"),
        (Some("uncorrected"), "/open_loop/uncorrected_latency_us/samples"),
        (Some("send_lag"), "/open_loop/send_lag_us/samples"),
    ] {
        assert_eq!(samples(tag), outcome.number(path), "{tag:?}");
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
fn send_lag_is_plotted_for_an_open_loop_alone() {
    let files = Files::new("html-lag");
    let title = "<h2>Send lag of each second</h2>";
    for (load, plots) in [("", 0), ("--rate 200", 1)] {
        run_with(&format!("{load} --html {}", files.path("run.html")));
        assert_eq!(files.read("run.html").matches(title).count(), plots, "{load:?}");
    }
}

/// Runs for a moment, and returns the exit code and what was printed on both outputs.
fn run_short(url: &str, arguments: &str) -> (Option<i32>, String, String) {
    let arguments = format!("{url} -c 1 --warmup 0s --duration 200ms {arguments}");
    let output = program(&arguments).output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code(), stdout, stderr)
}

#[test]
fn files_that_cannot_be_written_are_refused_before_anything_is_sent() {
    let server = Server::honest();
    for flag in ["--json", "--csv", "--hgrm", "--hlog", "--html"] {
        for (path, reason) in [
            ("/nonexistent/x", "No such file or directory (os error 2)"),
            ("/dev/null/x", "Not a directory (os error 20)"),
            ("/", "is a directory"),
        ] {
            let (code, _, stderr) = run_short(&server.url(), &format!("{flag} {path}"));
            assert_eq!(code, Some(2));
            let message = format!("error: invalid value '{path}' for '{flag} <FILE>': {reason}\n");
            assert!(stderr.starts_with(&message), "{stderr}");
        }
    }
    assert!(fs::metadata("/nonexistent").is_err());
    assert_eq!(server.received(), 0);
}

#[test]
fn what_turns_out_not_to_be_writable_costs_no_other_result() {
    let files = Files::new("full");
    let server = Server::honest();
    for flag in ["--json", "--csv", "--hgrm", "--hlog", "--html"] {
        let other = if flag == "--csv" { "--html" } else { "--csv" };
        let name = format!("beside{flag}");
        let arguments = format!("{flag} /dev/full {other} {}", files.path(&name));
        let (code, stdout, stderr) = run_short(&server.url(), &arguments);
        assert_eq!(code, Some(1), "{stderr}");
        let message = format!("error: cannot write {flag} /dev/full: No space left on device");
        assert!(stderr.contains(&message), "{stderr}");
        assert!(stdout.contains("errors      none"), "{stdout}");
        assert!(!files.read(&name).is_empty(), "{other}");
    }
}

#[test]
fn a_reader_that_has_had_enough_is_no_error() {
    let server = Server::honest();
    for arguments in ["", "--json -"] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let arguments = format!("{} -c 1 --warmup 0s --duration 500ms {arguments}", server.url());
        let mut run = program(&arguments);
        let output = run.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert!(!stderr.contains("error"), "{stderr}");
    }
}

#[test]
fn no_result_shows_the_values_of_the_query() {
    let files = Files::new("query");
    let server = Server::honest();
    let url = format!("{}?token=secret", server.url());
    let names = ["run.json", "run.html", "run.csv", "run.hgrm", "run.hlog"];
    let mut run = program(&format!("{url} -c 1 --warmup 0s --duration 300ms"));
    for name in names {
        let flag = name.split_once('.').unwrap().1;
        run.args([format!("--{flag}"), files.path(name)]);
    }
    let run = run.output().unwrap();
    let idle = program(&format!("idle {url} -c 1 --duration 10ms")).output().unwrap();
    let refused = program("ws://127.0.0.1:9/?token=secret -c 1").output().unwrap();
    let merged = program(&format!("merge {}", files.path("run.hlog"))).output().unwrap();
    let said = [run, idle, refused, merged].map(|output| {
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    });
    assert!(said[0].contains("?token=***"), "{}", said[0]);
    for text in said.into_iter().chain(names.map(|name| files.read(name))) {
        assert!(!text.contains("secret"), "{text}");
    }
}
