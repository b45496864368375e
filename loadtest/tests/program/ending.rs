//! How the program ends when somebody wants it to, and where nobody hears what it says.

use std::{
    fs::OpenOptions,
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use crate::{
    invocation::{Files, Outcome, program},
    servers::{Server, accepting_response, corrupted, echo},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

fn start(arguments: &str) -> Child {
    let mut command = program(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

fn outcome(child: Child) -> Outcome {
    Outcome::read_any(&child.wait_with_output().unwrap())
}

/// A server that opens connections and says that something has come, but answers nothing.
fn silent_server() -> (Server, mpsc::Receiver<()>) {
    let (report, received) = mpsc::channel();
    let report = Mutex::new(report);
    let server = Server::of_tcp(move |mut stream| {
        let report = report.lock().unwrap().clone();
        let response = accepting_response(&mut stream);
        stream.write_all(&response).unwrap();
        report_all(&mut stream, &report);
    });
    (server, received)
}

fn report_all(stream: &mut TcpStream, report: &mpsc::Sender<()>) {
    while stream.read(&mut [0; 256]).is_ok_and(|len| len > 0) {
        let _ = report.send(());
    }
}

#[test]
fn a_hang_up_ends_a_run_with_a_result() {
    for signals in [&[Signal::SIGHUP][..], &[Signal::SIGHUP, Signal::SIGHUP], &[Signal::SIGTERM]] {
        let (server, received) = silent_server();
        let child = start(&format!("{} -c 1 --warmup 0s --duration 1h --json -", server.url()));
        received.recv().unwrap();
        for each in signals {
            signal(&child, *each);
        }
        let outcome = outcome(child);
        assert_eq!(outcome.report["interrupted"], true);
        outcome.assert_errors(&[("missing", 1)]);
    }
}

#[test]
fn who_was_started_with_nohup_goes_on_after_a_hang_up() {
    let (report, received) = mpsc::channel();
    let report = Mutex::new(report);
    let server = Server::answering(move |_, message| {
        let _ = report.lock().unwrap().send(());
        vec![message]
    });
    let program = program("").get_program().to_owned();
    let child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(program)
        .args([&*server.url(), "-c", "1", "--warmup", "0s", "--duration", "1s", "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    received.recv().unwrap();
    signal(&child, Signal::SIGHUP);
    let outcome = outcome(child);
    outcome.assert_success();
    assert_eq!(outcome.report["interrupted"], false);
}

/// A server that answers with what nobody asked for, again and again, so that a client that waits for
/// its echoes waits on. It tells when something has come, and whether a client has waited to the end,
/// which is after some seconds.
fn babbling_server() -> (Server, mpsc::Receiver<()>, Arc<AtomicBool>) {
    let (report, received) = mpsc::channel();
    let report = Mutex::new(report);
    let was_awaited = Arc::new(AtomicBool::new(false));
    let is_awaited = Arc::clone(&was_awaited);
    let server = Server::of_tcp(move |mut stream| {
        let report = report.lock().unwrap().clone();
        let response = accepting_response(&mut stream);
        stream.write_all(&response).unwrap();
        let mut requests = stream.try_clone().unwrap();
        thread::spawn(move || report_all(&mut requests, &report));
        for _ in 0..200 {
            if stream.write_all(b"\x82\x03?!?").is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        is_awaited.store(true, SeqCst);
    });
    (server, received, was_awaited)
}

#[test]
fn outstanding_echoes_are_not_awaited_after_a_ctrl_c() {
    let (server, received, was_awaited) = babbling_server();
    let child = start(&format!("{} -c 1 --warmup 0s --duration 10ms --json -", server.url()));
    received.recv().unwrap();
    // By now the window is over, unless the machine is very busy.
    thread::sleep(Duration::from_millis(500));
    signal(&child, Signal::SIGINT);
    let outcome = outcome(child);
    assert_eq!(outcome.report["interrupted"], true);
    assert_eq!(outcome.number("/errors/missing"), 1);
    assert!(!was_awaited.load(SeqCst), "{:#}", outcome.report);
}

#[test]
fn runs_that_belong_together_end_at_a_ctrl_c_while_echoes_are_awaited() {
    let (server, received, was_awaited) = babbling_server();
    let url = server.url();
    let short = "-c 1 --warmup 0s --duration 10ms --json -";
    for arguments in [
        format!("compare {url} {url} {short}"),
        format!("search {url} --slo p99<1s --start-rate 100 {short}"),
    ] {
        received.try_iter().for_each(drop);
        let child = start(&arguments);
        received.recv().unwrap();
        thread::sleep(Duration::from_millis(500));
        signal(&child, Signal::SIGINT);
        let outcome = outcome(child);
        assert_eq!(outcome.code, Some(1));
        let is_interrupted =
            outcome.report["interrupted"] == true || outcome.report["limited_by"] == "interrupted";
        assert!(is_interrupted, "{:#}", outcome.report);
        assert!(!was_awaited.load(SeqCst), "{arguments}");
    }
}

/// A server that echoes, and that says of its third connection that it has come. The first message
/// of that one comes back with a wrong byte if `lies`.
fn server_that_tells_of_its_third_connection(lies: bool) -> (Server, mpsc::Receiver<()>) {
    let (report, received) = mpsc::channel();
    let state = Mutex::new((0, report));
    let server = Server::of_websockets(move |mut websocket| {
        let (number, report) = {
            let mut state = state.lock().unwrap();
            state.0 += 1;
            (state.0, state.1.clone())
        };
        if number == 3 {
            let message = websocket.read().unwrap();
            let message = if lies { corrupted(message, 40, 1) } else { message };
            websocket.send(message).unwrap();
            report.send(()).unwrap();
        }
        echo(websocket);
    });
    (server, received)
}

#[test]
fn what_a_comparison_leaves_out_after_a_ctrl_c_counts_for_its_exit_code() {
    for (lies, condition, code) in [(false, "", 0), (true, "", 1), (true, "--fail-if max<9999s", 3)]
    {
        let (server, received) = server_that_tells_of_its_third_connection(lies);
        let url = server.url();
        let arguments = "-c 1 -t 1 --rounds 1000 --warmup 0s --duration 1s --json -";
        let child = start(&format!("compare {url} {url} {arguments} {condition}"));
        received.recv().unwrap();
        signal(&child, Signal::SIGINT);
        let outcome = outcome(child);
        assert_eq!(outcome.report["interrupted"], true);
        let errors = outcome.report["a"]["rounds"][0]["errors"]["total"].as_u64();
        assert_eq!(errors, Some(0), "the first round was complete and right");
        assert_eq!(outcome.code, Some(code), "{:#}\n{}", outcome.report, outcome.stderr);
    }
}

#[test]
fn a_comparison_without_a_complete_round_has_failed() {
    for (condition, code) in [("", 1), ("--fail-if errors>0", 1), ("--fail-if p99>9999s", 3)] {
        let (server, received) = silent_server();
        let url = server.url();
        let arguments = "-c 1 --warmup 0s --duration 1h --json -";
        let child = start(&format!("compare {url} {url} {arguments} {condition}"));
        received.recv().unwrap();
        signal(&child, Signal::SIGINT);
        let outcome = outcome(child);
        assert_eq!(outcome.report["a"]["rounds"], json!([]));
        assert_eq!(outcome.code, Some(code), "{condition}: {}", outcome.stderr);
    }
}

#[test]
fn a_second_ctrl_c_ends_a_comparison_at_once() {
    let (server, received, _) = babbling_server();
    let url = server.url();
    let child = start(&format!("compare {url} {url} -c 1 --warmup 0s --duration 1h"));
    received.recv().unwrap();
    signal(&child, Signal::SIGINT);
    thread::sleep(Duration::from_millis(300));
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
}

#[test]
fn a_comparison_with_a_wrong_flag_is_not_begun() {
    for flags in ["--rounds 1", "--fail-if p95>1ms", "--fail-if ratio.server_cpu_per_message>1"] {
        let arguments = format!("compare ws://127.0.0.1:1/ ws://127.0.0.1:1/ {flags}");
        assert_eq!(program(&arguments).output().unwrap().status.code(), Some(2), "{flags}");
    }
}

#[test]
fn idle_connections_wait_for_no_answers_after_a_ctrl_c() {
    let (server, received) = silent_server();
    for arguments in ["--echo 10 --duration 1h", "--duration 10ms"] {
        let arguments = format!("{arguments} --answer-timeout 10m -c 2 --json -");
        let child = start(&format!("idle {} {arguments}", server.url()));
        received.recv().unwrap();
        signal(&child, Signal::SIGINT);
        let outcome = outcome(child);
        assert_eq!(outcome.report["interrupted"], true);
        assert_eq!(outcome.code, Some(1));
        received.try_iter().for_each(drop);
    }
}

#[test]
fn a_ctrl_c_is_heard_while_connections_are_opened() {
    let (report, received) = mpsc::channel();
    let report = Mutex::new(report);
    let server = Server::of_tcp(move |mut stream| {
        let report = report.lock().unwrap().clone();
        report_all(&mut stream, &report);
    });
    for command in ["", "idle"] {
        let arguments = "-c 2 --opening-timeout 1h --duration 1h --json -";
        let child = start(&format!("{command} {} {arguments}", server.url()));
        received.recv().unwrap();
        signal(&child, Signal::SIGINT);
        let outcome = outcome(child);
        assert_eq!(outcome.report["interrupted"], true);
        assert_eq!(outcome.number("/connections/opened"), 0);
        received.try_iter().for_each(drop);
    }
}

const SHORT: &str = "-c 1 --warmup 0s --duration 300ms";

#[test]
fn a_result_does_not_depend_on_who_hears_the_warnings() {
    let server = Server::honest();
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let nobody = || {
        let (_, writer) = nix::unistd::pipe().unwrap();
        Stdio::from(writer)
    };
    let errors = [full as fn() -> Stdio, nobody];
    for stderr in errors {
        let mut command = program(&format!("{} {SHORT} --json -", server.url()));
        let outcome = Outcome::read(&command.stderr(stderr()).output().unwrap());
        outcome.assert_success();
        for (arguments, code) in [("--depth 0", 2), ("merge /nonexistent", 1), ("--version", 0)] {
            let status = program(arguments).stderr(stderr()).stdout(Stdio::null()).status();
            assert_eq!(status.unwrap().code(), Some(code), "{arguments}");
        }
    }
}

#[test]
fn closed_standard_streams_change_no_exit_code() {
    let server = Server::honest();
    for closed in ["2>&-", ">&-", ">&- 2>&- <&-"] {
        let files = Files::new(&format!("closed-{}", closed.len()));
        let path = files.path("run.json");
        let script = format!("exec \"$@\" {closed}");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(program("").get_program());
        command.args(format!("{} {SHORT} --json {path}", server.url()).split_whitespace());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{closed}");
        assert!(files.read("run.json").contains("\"messages\""), "{closed}");
    }
}

#[test]
fn what_standard_output_does_not_take_is_an_error() {
    let server = Server::honest();
    let run = format!("{} {SHORT}", server.url());
    for arguments in [&*run, "--help", "--version", "idle --help"] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = program(arguments).stdout(full).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("error: cannot write to standard output: No space"), "{stderr}");
        // Its reader has had enough, and that is no error.
        let (_, nobody) = nix::unistd::pipe().unwrap();
        let status = program(arguments).stdout(nobody).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{arguments}");
    }
}
