//! Runs of several machines, merged; and begun together.

use std::{
    fs,
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::{
    invocation::{Files, Outcome, assert_matches_definition, program, run},
    servers::{Server, corrupted},
};

/// Merges logs of a test's files.
fn merge(files: &Files, arguments: &str) -> (Option<i32>, Value, String) {
    let output = program(&format!("merge {arguments} --json {}", files.path("merged.json")))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let merged: Value = serde_json::from_str(&files.read("merged.json"))
        .unwrap_or_else(|error| panic!("{error}: {stderr}"));
    assert_matches_definition(&merged, "merged");
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), merged, text + &stderr)
}

#[test]
fn runs_that_began_together_are_merged_exactly() {
    let files = Files::new("merge");
    let server = Server::honest();
    let begin = SystemTime::now() + Duration::from_secs(1);
    let begin = humantime::format_rfc3339_millis(begin);
    let children: Vec<_> = ["a", "b"]
        .map(|name| {
            let log = files.path(&format!("{name}.hlog"));
            let arguments = "-c 2 --warmup 100ms --duration 1500ms --json -";
            program(&format!("{} {arguments} --start-at {begin} --hlog {log}", server.url()))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .into();
    let runs: Vec<Outcome> = children
        .into_iter()
        .map(|child| Outcome::read(&child.wait_with_output().unwrap()))
        .collect();
    let sum = |path: &str| runs.iter().map(|run| run.number(path)).sum::<u64>();
    let [a, b, both] = ["a.hlog", "b.hlog", "both.hlog"].map(|name| files.path(name));
    let (code, merged, said) =
        merge(&files, &format!("{a} {b} --hlog {both} --hgrm {}", files.path("both.hgrm")));

    assert_eq!(code, Some(0), "{said}");
    for path in ["/messages", "/messages_total", "/latency_us/samples", "/connections/opened"] {
        assert_eq!(merged.pointer(path).and_then(Value::as_u64), Some(sum(path)), "{path}");
    }
    let longest = runs.iter().map(|run| run.report["latency_us"]["max"].as_f64().unwrap());
    let longest = longest.fold(0.0, f64::max);
    assert_eq!(merged["latency_us"]["max"].as_f64(), Some(longest));
    assert!(said.starts_with(&format!("2 runs: {a}, {b}\n  4 connections, ")), "{said}");

    // What was merged can be merged again, with what was merged before.
    let (_, again, said) = merge(&files, &format!("{both} {a}"));
    let expected = merged["messages"].as_u64().unwrap() + runs[0].number("/messages");
    assert_eq!(again["messages"], expected, "{said}");
    let expected = sum("/latency_us/samples") + runs[0].number("/latency_us/samples");
    assert_eq!(again["latency_us"]["samples"], expected);
    let (_, once_more, _) = merge(&files, &both);
    assert_eq!(once_more["latency_us"], merged["latency_us"]);
    let percentiles = files.read("both.hgrm");
    assert!(percentiles.contains(&format!("Total count    = {:>12}", sum("/latency_us/samples"))));
}

#[test]
fn errors_of_all_runs_are_counted_by_cause() {
    let files = Files::new("merge-errors");
    let server = Server::answering(|number, message| {
        vec![if number == 3 { corrupted(message, 5, 1) } else { message }]
    });
    let logs = ["a", "b"].map(|name| files.path(name));
    for (log, connections) in logs.iter().zip([1, 2]) {
        let arguments = "--warmup 0s --duration 100ms --hlog";
        run(&format!("{} -c {connections} {arguments} {log}", server.url()));
    }
    let (code, merged, said) = merge(&files, &logs.join(" "));
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(merged["errors"]["wrong"], 3);
    assert_eq!(merged["wrong_echoes"]["corrupted"], 3);
    let causes = merged["causes"].as_array().unwrap();
    let counted: u64 = causes.iter().map(|cause| cause["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, 3, "{causes:?}");
}

#[test]
fn doubts_about_each_run_are_told_with_its_log() {
    let files = Files::new("merge-doubts");
    let server = Server::honest();
    let [doubtful, other, both] = ["doubtful", "other", "both"].map(|name| files.path(name));
    let arguments = "-c 1 --warmup 0s --duration 100ms --hlog";
    // The server declines it.
    run(&format!("{} --compression {arguments} {doubtful}", server.url())).assert_success();
    run(&format!("{} {arguments} {other}", server.url())).assert_success();
    let declined = |merged: &Value| -> Vec<String> {
        let warnings = merged["warnings"].as_array().unwrap().iter();
        let declined = warnings.filter(|warning| warning["code"] == "compression_declined");
        declined.map(|warning| warning["text"].as_str().unwrap().to_owned()).collect()
    };
    let (_, merged, said) = merge(&files, &format!("{doubtful} {other} --hlog {both}"));
    let doubt = format!("{doubtful}: the server declined --compression on 1 of 1 connection");
    assert_eq!(declined(&merged), [&*doubt]);
    assert!(said.contains(&format!("warning: {doubt}\n")), "{said}");

    // No matter how often a log is named, and where it is in.
    let (_, merged, _) = merge(&files, &format!("{doubtful} {both} {doubtful}"));
    assert_eq!(declined(&merged), [doubt.clone(), format!("{both}: {doubt}")]);
}

#[test]
fn runs_that_began_apart_are_warned_about() {
    let files = Files::new("merge-apart");
    let server = Server::honest();
    let [early, late] = ["early", "late"].map(|name| files.path(name));
    let arguments = "-c 1 --warmup 0s --duration 100ms --hlog";
    run(&format!("{} {arguments} {early}", server.url())).assert_success();
    let log = files.read("early");
    let base = log.lines().find_map(|line| line.strip_prefix("#[BaseTime: ")).unwrap();
    let (seconds, _) = base.split_once('.').unwrap();
    let later = (seconds.parse::<u64>().unwrap() + 60).to_string();
    fs::write(&late, log.replace(seconds, &later)).unwrap();
    let (code, merged, said) = merge(&files, &format!("{early} {late}"));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(merged["begins_apart_seconds"], 60.0);
    assert!(said.contains("warning: the measured windows began 60.0 s apart"), "{said}");
}

#[test]
fn files_that_are_no_logs_are_refused_with_the_reason() {
    let files = Files::new("merge-refused");
    let path = files.path("x.hlog");
    let histogram = "0.000,1.000,1.000,HISTFAAAAB542pNpmSzMwMDAxAABzFCaEUoz2X+AsQA/awKA";
    for (text, reason) in [
        ("hello\n", "line 1 is none of an HdrHistogram interval log"),
        ("#[BaseTime: 1.000 (s)]\n", "it holds no report: expected a log that "),
        ("#[Report: {}]\n#[BaseTime: 1.000 (s)]\n", "its report cannot be understood: missing"),
    ] {
        fs::write(&path, format!("{text}{histogram}\n")).unwrap();
        let output = program(&format!("merge {path}")).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with(&format!("error: cannot merge {path}: {reason}")), "{stderr}");
    }
    let output = program("merge /nonexistent.hlog").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: cannot read /nonexistent.hlog: No such file"), "{stderr}");
}

#[test]
fn a_load_does_not_start_before_its_time() {
    let files = Files::new("start-at");
    let server = Server::honest();
    let begin = SystemTime::now() + Duration::from_secs(1);
    let begin = begin.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let arguments = "-c 1 --warmup 100ms --duration 100ms --csv";
    let csv = files.path("run.csv");
    run(&format!("{} {arguments} {csv} --start-at {begin:.3}", server.url())).assert_success();
    let text = files.read("run.csv");
    let window_began: f64 =
        text.lines().nth(1).unwrap().split(',').nth(1).unwrap().parse().unwrap();
    assert!(window_began >= begin + 0.099, "{window_began} is before {begin}");
}
