//! Signals to the program: what stops it, what ends it at once, and what it does as PID 1.

use std::{
    fs,
    net::TcpStream,
    process::{Child, Command},
    thread::sleep,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tungstenite::{Message, WebSocket};

use crate::program::{address, ringecho, signal, start, url};

/// A program with one client, for which it waits when it is to stop.
fn start_with_client() -> (Child, WebSocket<TcpStream>) {
    let (child, line) = start(ringecho().args(["--listen=127.0.0.1:0", "--drain-timeout=1h"]));
    let stream = TcpStream::connect(address(&line)).unwrap();
    (child, tungstenite::client(url(&line), stream).unwrap().0)
}

fn expect_close(client: &mut WebSocket<TcpStream>) {
    assert!(matches!(client.read().unwrap(), Message::Close(Some(_))));
}

#[test]
fn later_signal_ends_the_program_at_once() {
    let (mut child, mut client) = start_with_client();
    signal(&child, Signal::SIGINT);
    // The first has arrived when the client hears of it, and waits for an answer that never comes.
    expect_close(&mut client);
    let code = loop {
        signal(&child, Signal::SIGINT);
        match child.try_wait().unwrap() {
            Some(status) => break status.code(),
            None => sleep(Duration::from_millis(10)),
        }
    };
    assert_eq!(code, Some(130));
}

/// As when Ctrl-C reaches the program both from the terminal and from a wrapper.
#[test]
fn signals_that_come_together_stop_the_program_once() {
    let (mut child, mut client) = start_with_client();
    for next in [Signal::SIGSTOP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGCONT] {
        signal(&child, next);
    }
    expect_close(&mut client);
    // The answer to the Close frame.
    client.flush().unwrap();
    drop(client);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn hangup_stays_ignored_under_nohup() {
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" HUP; exec "$0" --listen 127.0.0.1:0"#]);
    command.arg(ringecho().get_program());
    let (mut child, _) = start(&mut command);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 1, 1, "{status}");
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn first_process_of_a_container_is_stopped_and_leaves_no_zombies() {
    let unshare = ["-pf", "--mount-proc", "--kill-child"];
    if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|s| s.success()) {
        return eprintln!("skipped, this user may not make a PID namespace");
    }
    let mut command = Command::new("unshare");
    command.args(unshare);
    command.args(["sh", "-c", r#"true & sleep 0.5 & exec "$0" --listen 127.0.0.1:0"#]);
    command.arg(ringecho().get_program());
    let (mut child, _) = start(&mut command);
    let first = children(child.id())[0];
    while !children(first).is_empty() {
        sleep(Duration::from_millis(10));
    }
    kill(Pid::from_raw(first.cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn children(parent: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    list.split_whitespace().map(|child| child.parse().unwrap()).collect()
}
