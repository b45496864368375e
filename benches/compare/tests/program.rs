//! The program as its users see it: real servers, the real generator, runs as short as they can
//! be. Nothing here depends on how long anything takes.

use std::{
    env, fs,
    path::PathBuf,
    process::{self, Command},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;

const PROGRAMS: [&str; 4] = ["ringecho-loadtest", "tcp-epoll", "tls-echo", "tokio-tungstenite"];

/// What a comparison has said and written.
struct Compared {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    json: Value,
    svg: String,
    markdown: String,
}

/// Compares servers, with tokio-tungstenite's as `mine` among those to choose from.
fn compare(flags: &str, further: &[&str]) -> Compared {
    compare_by(Command::new(env!("CARGO_BIN_EXE_ringecho-compare")), flags, further)
}

/// The program, with a limit on the files that it and what it runs may have open.
fn with_descriptors(limit: u32) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {limit} && exec \"$0\" \"$@\""));
    command.arg(env!("CARGO_BIN_EXE_ringecho-compare"));
    command
}

/// Compares servers with the program that a command runs.
fn compare_by(mut program: Command, flags: &str, further: &[&str]) -> Compared {
    static COMPARISONS: AtomicUsize = AtomicUsize::new(0);
    let mine = format!("mine={}/tokio-tungstenite {{port}}", programs().display());
    let number = COMPARISONS.fetch_add(1, Ordering::Relaxed);
    let directory = env::temp_dir().join(format!("ringecho-compare-{}-{number}", process::id()));
    fs::create_dir_all(&directory).unwrap();
    let file = |name: &str| directory.join(name);
    let output = program
        .args(flags.split(' '))
        .args(further)
        .arg(&mine)
        .args([format!("--json={}", file("json").display())])
        .args([format!("--svg={}", file("svg").display())])
        .args([format!("--markdown={}", file("md").display())])
        .output()
        .unwrap();
    let written = |name: &str| fs::read_to_string(file(name)).unwrap();
    let compared = Compared {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        json: serde_json::from_str(&written("json")).unwrap(),
        svg: written("svg"),
        markdown: written("md"),
    };
    fs::remove_dir_all(directory).unwrap();
    compared
}

/// Builds the programs that a comparison runs, and returns where they are.
fn programs() -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    // Of the workspace, since `cargo test --workspace` has built most of it.
    build.args(["build", "--locked", "--workspace"]);
    build.args(PROGRAMS.map(|program| format!("--bin={program}")));
    assert!(build.status().unwrap().success(), "cannot build {PROGRAMS:?}");
    let comparison = PathBuf::from(env!("CARGO_BIN_EXE_ringecho-compare"));
    comparison.parent().unwrap().to_owned()
}

#[test]
fn servers_are_compared_and_a_broken_one_does_not_keep_the_others_from_it() {
    let Compared { code, stdout, stderr, json, svg, markdown } = compare(
        "--servers=broken,mine,tcp-epoll --payloads=64 --connections=2 --depths=1 --rounds=2 \
         --duration=300ms --warmup=10ms",
        &["broken=false {port}"],
    );
    // One server has failed, so not everything is well.
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(stderr.contains("this takes about"), "{stderr}");
    assert!(
        stdout.contains("64 B x 2 connections x depth 1; ratio to tcp-epoll"),
        "{stdout}{stderr}"
    );
    assert!(stdout.contains("broken: FAILED: it cannot be started: it ended"), "{stdout}");

    let servers = json["cases"][0]["servers"].as_array().unwrap();
    let names: Vec<&str> = servers.iter().map(|server| server["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["broken", "mine", "tcp-epoll"]);
    for server in &servers[1..] {
        let rounds = server["rounds"].as_array().unwrap();
        assert!(rounds.iter().all(|round| round["messages_per_second"].as_f64() > Some(0.0)));
        assert_eq!(server["failure"], Value::Null);
    }
    assert!(svg.contains("<svg"));
    assert!(markdown.contains("| 64 B x 2 x 1 |"));
}

#[test]
fn over_tls_the_ratios_are_to_the_tls_echo() {
    let Compared { code, stdout, stderr, json, svg, .. } = compare(
        "--tls --servers=tls-echo --payloads=20KiB --connections=2 --depths=2 --rounds=1 \
         --duration=300ms --warmup=10ms",
        &[],
    );
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let title = "20 KiB x 2 connections x depth 2; ratio to tls-echo, the TLS echo";
    assert!(stdout.contains(title), "{stdout}{stderr}");
    assert_eq!(json["plan"]["servers"][0]["tls"], true);
    assert!(svg.contains("over TLS"));
}

#[test]
fn connections_that_come_and_go_are_compared_with_the_cheapest_server() {
    let Compared { code, stdout, stderr, json, svg, markdown } = compare(
        "--case=churn --servers=mine,tokio-tungstenite --connections=2 --rounds=2 \
         --duration=300ms --warmup=10ms",
        &[],
    );
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("64 B x 2 cycles at once; ratio to "), "{stdout}{stderr}");
    assert!(stdout.contains("server CPU, us/cycle"), "{stdout}");

    assert_eq!(json["plan"]["mode"], "churn");
    for server in json["cases"][0]["servers"].as_array().unwrap() {
        let rounds = server["rounds"].as_array().unwrap();
        assert!(rounds.iter().all(|round| round["cycles_per_second"].as_f64() > Some(0.0)));
        assert!(rounds.iter().all(|round| round["p99_9_us"].as_f64() >= round["p50_us"].as_f64()));
        assert_eq!(server["failure"], Value::Null);
    }
    assert!(svg.contains("Server CPU per cycle"));
    assert!(markdown.contains("| 64 B x 2 |"));
}

#[test]
fn servers_are_compared_as_boards_do_and_too_many_connections_are_left_out() {
    let Compared { code, stdout, stderr, json, svg, markdown } = compare_by(
        with_descriptors(1000),
        "--boards --servers=tcp-epoll,mine --connections=8,4096 --depths=1 --rounds=1 \
         --duration=1s --warmup=10ms",
        &[],
    );
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stderr.contains("warning: 4,096 connections are left out: "), "{stderr}");
    assert!(stderr.contains("the hard limit is 1000 (ulimit -Hn)"), "{stderr}");
    assert!(stdout.contains("5 B text x 8 connections x depth 1"), "{stdout}{stderr}");
    assert!(stdout.contains("memory, MiB  of it added, MiB"), "{stdout}");

    assert_eq!(json["plan"]["mode"], "boards");
    assert_eq!(json["plan"]["left_out"]["connections"][0], 4096);
    let cases = json["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 1);
    assert_eq!(cases[0]["case"]["text"], true);
    for server in cases[0]["servers"].as_array().unwrap() {
        let run = &server["rounds"][0];
        assert!(run["messages_per_second"].as_f64() > Some(0.0), "{run}");
        assert!(run["server_added_bytes"].is_u64(), "{run}");
        assert!(run["server_resident_bytes"].as_u64() > run["server_added_bytes"].as_u64());
        assert!(run["generator_saturated"].is_boolean(), "{run}");
        assert!(run["p99_9_us"].as_f64() >= run["p50_us"].as_f64(), "{run}");
        assert_eq!(server["failure"], Value::Null);
    }
    assert!(svg.contains("<svg"));
    assert!(markdown.contains("| memory, MiB | tcp-epoll | mine |"), "{markdown}");
}

#[test]
fn connections_that_are_all_too_many_are_refused_before_anything_starts() {
    let output = with_descriptors(300).args(["--boards", "--connections=512"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let message = "error: --connections: none is left to compare: 512 connections are left out";
    assert!(stderr.starts_with(message), "{stderr}");
}

#[test]
fn a_wrong_flag_is_refused_before_anything_starts() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringecho-compare"))
        .arg("--servers=nobody")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: --servers: there is no \"nobody\""), "{stderr}");
}

#[test]
fn servers_are_compared_at_a_rate() {
    let programs = programs();
    let mine = format!("mine={}/tokio-tungstenite {{port}}", programs.display());
    let output = Command::new(env!("CARGO_BIN_EXE_ringecho-compare"))
        .args(["--servers=tcp-epoll,mine", &mine, "--rates=200", "--connections=2", "--rounds=1"])
        .args(["--duration=300ms", "--warmup=10ms", "--json=/dev/stdout"])
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    // Without the ratio: so few messages may cost less CPU than the kernel counts.
    assert!(stdout.contains("64 B x 2 connections at 200 messages/s"), "{stdout}");
    let json: Value = serde_json::from_str(&stdout[stdout.find("\n{").unwrap()..]).unwrap();
    assert_eq!(json["plan"]["against"], "mine");
    assert_eq!(json["cases"][0]["case"]["rate"], 200);
    for server in json["cases"][0]["servers"].as_array().unwrap() {
        let run = &server["rounds"][0];
        assert!(run["p99_9_us"].as_f64() >= run["p50_us"].as_f64(), "{run}");
    }
}
