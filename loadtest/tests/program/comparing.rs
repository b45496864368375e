//! `compare`, `--baseline` and `--fail-if`: that their pieces are put together. What they calculate
//! is tested where it is calculated.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::{
    invocation::{
        Files, Outcome, assert_matches_definition, program, program_with_descriptors, run,
    },
    servers::{Server, corrupted, echo},
};

const SHORT: &str = "-c 2 --warmup 0s --duration 300ms";

fn compare(a: &str, b: &str, arguments: &str) -> Outcome {
    let arguments = format!("compare {a} {b} {SHORT} --json - {arguments}");
    let outcome = Outcome::read_any(&program(&arguments).output().unwrap());
    assert_matches_definition(&outcome.report, "compare");
    outcome
}

/// A server that notes its name for each connection.
fn noting_server(name: char, notes: &Arc<Mutex<String>>) -> Server {
    let notes = Arc::clone(notes);
    Server::of_websockets(move |websocket| {
        notes.lock().unwrap().push(name);
        echo(websocket);
    })
}

#[test]
fn what_the_system_lacks_is_in_the_result() {
    let server = Server::honest();
    let output = program_with_descriptors(100)
        .args(["compare", &server.url(), &server.url(), "--rounds", "2", "-c", "2", "-t", "1"])
        .args(["--warmup", "0s", "--duration", "50ms", "--json", "-"])
        .output()
        .unwrap();
    let outcome = Outcome::read_any(&output);
    assert_matches_definition(&outcome.report, "compare");
    assert_eq!(outcome.report["warnings"][0]["code"], "too_few_descriptors");
}

#[test]
fn rounds_are_interleaved() {
    let notes = Arc::default();
    let (a, b) = (noting_server('a', &notes), noting_server('b', &notes));
    let outcome = compare(&a.url(), &b.url(), "--rounds 3 --seed 42");
    assert_eq!(*notes.lock().unwrap(), "aabbbbaaaabb");
    assert_eq!(outcome.report["a"]["url"], a.url());
    assert_eq!(outcome.report["b"]["url"], b.url());
    for side in ["a", "b"] {
        assert_eq!(outcome.report[side]["rounds"].as_array().unwrap().len(), 3);
    }
    assert_eq!(outcome.report["seed"], 42);
    assert_eq!(outcome.report["checks"], json!([]));
    assert!(outcome.report["ratios"]["server_cpu_per_message"].is_null());
}

#[test]
fn a_ratio_is_that_of_b_to_a() {
    // What A echoes is wrong but for every tenth message, so B has more by far.
    let a = Server::answering(|number, message| {
        vec![if number % 10 == 0 { message } else { corrupted(message, 40, 1) }]
    });
    let b = Server::honest();
    let outcome = compare(&a.url(), &b.url(), "--rounds 2 --depth 16");
    let rate = |side: &str, round: usize| {
        outcome.report[side]["rounds"][round]["messages_per_second"].as_f64().unwrap()
    };
    let rounds = [0, 1].map(|round| rate("b", round) / rate("a", round));
    let expected = (rounds[0] * rounds[1]).sqrt();
    let ratio = &outcome.report["ratios"]["messages_per_second"];
    let estimate = ratio["estimate"].as_f64().unwrap();
    assert!((estimate / expected - 1.0).abs() < 1e-6, "{estimate} is not {expected}");
    assert!(ratio["low"].as_f64() <= Some(estimate) && Some(estimate) <= ratio["high"].as_f64());
    assert_eq!(outcome.code, Some(1), "there were errors");
}

#[test]
fn a_condition_that_holds_has_an_exit_code_of_its_own() {
    let server = Server::honest();
    let url = server.url();
    for (conditions, failed, code) in [
        ("--fail-if max>9999s --fail-if errors>0", [false, false], 0),
        ("--fail-if errors<1 --fail-if errors>0", [true, false], 3),
    ] {
        for outcome in [
            run(&format!("{url} {SHORT} {conditions}")),
            compare(&url, &url, &format!("--rounds 2 {conditions}")),
        ] {
            assert_eq!(outcome.code, Some(code), "{:#}\n{}", outcome.report, outcome.stderr);
            let checks = outcome.report["checks"].as_array().unwrap();
            let verdicts: Vec<&Value> = checks.iter().map(|check| &check["failed"]).collect();
            assert_eq!(verdicts, [&json!(failed[0]), &json!(failed[1])]);
        }
    }
}

#[test]
fn a_run_is_held_against_an_earlier_one() {
    let files = Files::new("baseline");
    let server = Server::honest();
    let earlier = run(&format!("{} {SHORT}", server.url()));
    let path = files.path("earlier.json");
    std::fs::write(&path, earlier.report.to_string()).unwrap();
    let later = run(&format!("{} {SHORT} --baseline {path} --fail-if ratio.mean>0", server.url()));
    let baseline = &later.report["baseline"];
    assert_eq!(baseline["file"], path);
    assert_eq!(baseline["began"], earlier.report["began"]);
    for (name, pointer) in
        [("messages_per_second", "/messages_per_second"), ("p99.9", "/latency_us/p99_9")]
    {
        let [now, then] = [&later, &earlier].map(|run| run.report.pointer(pointer).unwrap());
        let expected = now.as_f64().unwrap() / then.as_f64().unwrap();
        let ratio = baseline["ratios"][name].as_f64().unwrap();
        assert!((ratio / expected - 1.0).abs() < 1e-6, "{name}: {ratio} is not {expected}");
    }
    assert_eq!(later.code, Some(3));
    assert_eq!(later.report["checks"][0]["value"], baseline["ratios"]["mean"]);
    assert_eq!(baseline["differences"], json!([]));
    assert!(!later.stderr.contains("--baseline"), "{}", later.stderr);
}

#[test]
fn what_an_earlier_run_had_not_in_common_is_named_with_both_values() {
    let files = Files::new("circumstances");
    let server = Server::honest();
    let mut earlier = run(&format!("{} {SHORT}", server.url())).report;
    // What no flag changes.
    earlier["version"] = json!("0.0.1");
    earlier["url"] = json!("wss://127.0.0.1/");
    earlier["driver"] = json!("kqueue");
    earlier["cpus"] = json!([7]);
    earlier["raw_tcp"] = json!(true);
    earlier["host"] = json!({ "cpu_model": "Z80", "cpus": 1000, "kernel": "CP/M" });
    let path = files.path("earlier.json");
    std::fs::write(&path, earlier.to_string()).unwrap();
    let load = "-c 3 -t 1 --depth 9 --rate 200 -p 100 --fragments 2 --compression --verify length \
                --text --warmup 0s --duration 300ms";
    let later = run(&format!("{} {load} --baseline {path}", server.url()));
    let differences = later.report["baseline"]["differences"].as_array().unwrap();
    let names: Vec<&str> = differences.iter().map(|it| it["name"].as_str().unwrap()).collect();
    let all = "version url driver threads cpus connections.requested depth open_loop.rate \
               open_loop.wait payload payload_bytes fragments compression verify text raw_tcp \
               host.cpu_model host.cpus host.kernel";
    let threads_differ = earlier["threads"] != 1;
    let expected = all.split(' ').filter(|name| threads_differ || *name != "threads");
    assert_eq!(names, expected.collect::<Vec<&str>>());
    let of = |name| differences.iter().find(|it| it["name"] == name).unwrap();
    for (name, earlier, now) in [
        ("url", json!("wss"), json!("ws")),
        ("depth", json!(1), json!(9)),
        ("open_loop.rate", json!(null), json!("200")),
        ("compression", json!(false), json!(true)),
    ] {
        assert_eq!(*of(name), json!({ "name": name, "earlier": earlier, "now": now }));
    }
    let text =
        format!("--baseline {path} was under other circumstances, and ratios tell of these too: ");
    for part in
        [text.as_str(), "connections.requested 2 there and 3 here, ", "host.kernel \"CP/M\" there"]
    {
        assert!(later.stderr.contains(part), "{part:?} is not in {}", later.stderr);
    }
    let warnings = later.report["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|warning| warning["code"] == "baseline_differs"), "{warnings:?}");
}

#[test]
fn the_texts_say_what_was_compared_and_checked() {
    let server = Server::honest();
    let url = server.url();
    let output = program(&format!("compare {url} {url} {SHORT} --rounds 2 --fail-if errors<1"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        &*format!("A  {url}\nB  {url}\n  2 connections x 64 B, 2 rounds of 0.3 s each\n"),
        "\n  messages_per_second ",
        "\n  errors                              0              0\n",
        " 95 % of 10,000 resamples, seed 1\n",
        "\n  failed      errors<1: errors 0\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn where_nobody_listens_nothing_is_compared() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::honest();
    let arguments = format!("compare {} ws://{nobody}/ {SHORT}", server.url());
    let output = program(&arguments).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let message = format!("error: no connection to ws://{nobody}/ could be opened: connect: ");
    assert!(stderr.contains(&message), "{stderr}");
}
