//! `search`: that its pieces are put together. What it decides is tested where it is decided.

use std::net::TcpListener;

use serde_json::Value;

use crate::{
    invocation::{Outcome, assert_matches_definition, program, program_with_descriptors},
    servers::{Server, corrupted},
};

fn search(url: &str, arguments: &str) -> Outcome {
    let arguments = format!("search {url} -c 2 --warmup 0s --duration 300ms --json - {arguments}");
    let outcome = Outcome::read_any(&program(&arguments).output().unwrap());
    assert_matches_definition(&outcome.report, "search");
    outcome
}

/// What was tried, with its stage and its verdict.
fn probes(outcome: &Outcome) -> Vec<(f64, String, String)> {
    let text = |value: &'_ Value| value.as_str().unwrap().to_owned();
    let probes = outcome.report["probes"].as_array().unwrap().iter();
    probes
        .map(|probe| {
            (probe["rate"].as_f64().unwrap(), text(&probe["stage"]), text(&probe["verdict"]))
        })
        .collect()
}

#[test]
fn a_server_whose_echoes_are_wrong_sustains_no_rate() {
    let server = Server::answering(|_, message| vec![corrupted(message, 40, 1)]);
    let outcome = search(&server.url(), "--slo p99<1s --start-rate 3");
    let tried = probes(&outcome);
    let rates: Vec<f64> = tried.iter().map(|probe| probe.0).collect();
    assert_eq!(rates, [3.0, 3.0, 1.5, 1.5, 1.0, 1.0], "{:#}", outcome.report);
    assert!(
        tried.iter().all(|(_, stage, verdict)| (&**stage, &**verdict) == ("bracket", "missed"))
    );
    assert!(outcome.report["rate"].is_null());
    assert_eq!(outcome.report["confirmed"], false);
    assert_eq!(outcome.report["limited_by"], "server");
    assert_eq!(outcome.report["probes"][5]["reasons"][1], "1 error");
    assert_eq!(outcome.code, Some(1));
}

#[test]
fn the_answer_is_a_rate_that_met_the_target() {
    let server = Server::honest();
    let outcome = search(
        &server.url(),
        "--slo p50<1s --slo errors<1 --start-rate 20 --max-rate 30 --confirm 2",
    );
    // On a busy machine a trial may miss; then the search goes another way to its answer.
    let tried = probes(&outcome);
    assert_eq!((tried[0].0, &*tried[0].1), (20.0, "bracket"));
    assert!(tried.iter().all(|(rate, ..)| *rate <= 30.0), "{tried:?}");
    if let Some(answer) = outcome.report["rate"].as_f64() {
        assert!(tried.iter().any(|(rate, _, verdict)| (*rate, &**verdict) == (answer, "met")));
    }
    let confirmations = tried.iter().rev().take_while(|probe| *probe == tried.last().unwrap());
    let confirmed = outcome.report["confirmed"] == true;
    assert_eq!(confirmed, tried.last().unwrap().1 == "confirm" && confirmations.count() == 2);
    assert_eq!(outcome.code, Some(i32::from(!confirmed)));
    assert_eq!(outcome.report["slo"], serde_json::json!(["p50<1s", "errors<1"]));
}

#[test]
fn the_text_lists_each_run_and_the_answer() {
    let server = Server::answering(|_, message| vec![corrupted(message, 40, 1)]);
    let arguments = "-c 1 --warmup 0s --duration 100ms --start-rate 1 --precision 10% --slo max<1s";
    let output = program(&format!("search {} {arguments}", server.url())).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "\n  1 connection x 64 B, runs of 0.1 s\n  target      max<1s, to 10 %\n",
        "\n  bracket          1.0 messages/s  missed: max not measured, 1 error, ",
        "\n  no rate met the target; the server missed it at 1.0\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn without_all_connections_nothing_is_searched() {
    let server = Server::honest();
    let output = program_with_descriptors(60)
        .args(["search", &server.url(), "--slo", "p99<9999s", "--start-rate", "10"])
        .args(["-c", "100", "-t", "1", "--warmup", "0s", "--duration", "200ms"])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(output.stdout.is_empty());
    let error = stderr.lines().last().unwrap();
    let message = " of 100 connections never opened: connect: Too many open files";
    assert!(error.starts_with("error: ") && error.contains(message), "{stderr}");
}

#[test]
fn where_nobody_listens_nothing_is_searched() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = program(&format!("search ws://{nobody}/ --slo p99<1s")).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(output.stdout.is_empty());
    let message = format!("error: no connection to ws://{nobody}/ could be opened: connect: ");
    assert!(stderr.contains(&message), "{stderr}");
}
