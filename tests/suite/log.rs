//! Logs that nobody reads, and stdout that nobody reads: the server goes on without them.

use std::{
    fs::File,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    thread,
};

use nix::sys::signal::Signal;
use ringecho::{
    config::{LogFormat, LogLevel},
    log::Log,
};
use tungstenite::{Message, WebSocket, protocol::frame::coding::CloseCode};

use crate::program::{address, ringecho, signal, url};

/// How a shell gives a log that is closed, and one in a file that may not grow.
const CLOSED: &str = "exec 2>&-";
const FILE_AT_ITS_LIMIT: &str = r#"file=$(mktemp); exec 2>"$file"; rm "$file"; ulimit -f 0"#;

#[test]
fn server_serves_and_stops_whatever_becomes_of_its_log() {
    for level in ["info", "debug"] {
        let arguments = ["--listen=127.0.0.1:0", "--workers=1", "--log-level", level];
        let reader_gone = || UnixStream::pair().unwrap().0;
        let (stalled, _reader) = stalled_stream(false);
        let (stalled_nonblocking, _second_reader) = stalled_stream(true);
        for stderr in [reader_gone(), stalled, stalled_nonblocking].map(OwnedFd::from) {
            let mut command = ringecho();
            is_served_and_stops(command.args(arguments).stderr(stderr));
        }
        let full = File::options().write(true).open("/dev/full").unwrap();
        is_served_and_stops(ringecho().args(arguments).stderr(full));
        for preparation in [CLOSED, FILE_AT_ITS_LIMIT] {
            let script = format!(r#"{preparation}; exec "$@""#);
            let mut command = Command::new("sh");
            command.args(["-c", &script, "sh"]).arg(ringecho().get_program()).args(arguments);
            is_served_and_stops(&mut command);
        }
    }
}

fn is_served_and_stops(command: &mut Command) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let stream = TcpStream::connect(address(&line)).unwrap();
    let (client, _) = tungstenite::client(url(&line), stream).unwrap();
    echoes_and_stops(child, client);
}

fn echoes_and_stops(mut child: Child, mut client: WebSocket<TcpStream>) {
    client.send(Message::text("hello")).unwrap();
    assert_eq!(client.read().unwrap(), Message::text("hello"));
    signal(&child, Signal::SIGTERM);
    let Message::Close(Some(close)) = client.read().unwrap() else { panic!("a Close frame") };
    assert_eq!(close.code, CloseCode::Away);
    client.flush().unwrap();
    drop(client);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A stream that takes nothing more, and the end that does not read.
fn stalled_stream(nonblocking: bool) -> (UnixStream, UnixStream) {
    let (mut stalled, reader) = UnixStream::pair().unwrap();
    stalled.set_nonblocking(true).unwrap();
    while match stalled.write(&[b'.'; 4096]) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    } {}
    stalled.set_nonblocking(nonblocking).unwrap();
    (stalled, reader)
}

#[test]
fn last_lines_reach_a_reader_that_reads_late() {
    let (stderr, mut reader) = stalled_stream(false);
    let mut command = ringecho();
    command.args(["--listen=127.0.0.1:0", "--workers=1"]).stderr(OwnedFd::from(stderr));
    let child = command.stdout(Stdio::piped()).spawn();
    drop(command);
    let mut child = child.unwrap();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    signal(&child, Signal::SIGTERM);
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    assert!(log.contains("stopped connections=0"), "{}", log.trim_matches('.'));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn server_runs_without_a_reader_of_its_ready_line() {
    let (stalled, _reader) = stalled_stream(false);
    for stdout in [stalled, UnixStream::pair().unwrap().0] {
        // Nobody says which port it takes if it takes a free one.
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = ringecho();
        command.args(["--workers=1", "--listen", &listen.to_string()]);
        let child = command.stdout(OwnedFd::from(stdout)).stderr(Stdio::null()).spawn().unwrap();
        let stream = loop {
            match TcpStream::connect(listen) {
                Ok(stream) => break stream,
                Err(_) => thread::yield_now(),
            }
        };
        let (client, _) = tungstenite::client(format!("ws://{listen}/ws"), stream).unwrap();
        echoes_and_stops(child, client);
    }
}

#[test]
fn ready_line_that_cannot_be_written_is_a_warning() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let not_for_writing = File::open("/dev/null").unwrap();
    for stdout in [full, not_for_writing] {
        let mut command = ringecho();
        command.args(["--listen=127.0.0.1:0", "--workers=1"]).stdout(stdout);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = String::new();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        while !lines.contains("the ready line could not be written") {
            assert_ne!(log.read_line(&mut lines).unwrap(), 0, "{lines}");
        }
        signal(&child, Signal::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn failure_that_nobody_can_read_has_its_exit_code() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let (stalled, _reader) = stalled_stream(false);
    let (second_stalled, _second_reader) = stalled_stream(false);
    for (arguments, stderr, code) in [
        (["--listen", &listen], full().into(), 1),
        (["--listen", &listen], OwnedFd::from(stalled), 1),
        (["--hold", "2MiB"], full().into(), 2),
        (["--hold", "big"], full().into(), 2),
        (["--log-format=json", "--hold=big"], full().into(), 2),
        (["--log-format=json", "--hold=big"], OwnedFd::from(second_stalled), 2),
    ] {
        let failed = ringecho().args(arguments).stderr(stderr).status().unwrap();
        assert_eq!(failed.code(), Some(code), "{arguments:?}");
    }
    for arguments in ["--help", "--version"] {
        let mut command = ringecho();
        command
            .arg(arguments)
            .stdout(UnixStream::pair().map(|(ours, _)| OwnedFd::from(ours)).unwrap());
        assert_eq!(command.status().unwrap().code(), Some(0), "{arguments}");
    }
}

/// The test runs itself once more, as a process that panics.
#[test]
fn panics_are_lines_of_the_log() {
    const PANICS: &str = "RINGECHO_TEST_PANICS";
    if std::env::var_os(PANICS).is_some() {
        let mut log = Log::start(LogLevel::Error, LogFormat::Json);
        log.write_in_background().unwrap();
        let panicked = thread::Builder::new().name("worker-7".to_owned()).spawn(|| {
            panic!("a defect, for the test");
        });
        assert!(panicked.unwrap().join().is_err());
        return log.finish();
    }
    let test = ["log::panics_are_lines_of_the_log", "--exact", "--nocapture"];
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(test).env(PANICS, "1").env("RUST_BACKTRACE", "0").output().unwrap();
    assert!(output.status.success());
    let log = String::from_utf8(output.stderr).unwrap();
    let line: serde_json::Value = serde_json::from_str(&log).expect(&log);
    assert_eq!(line["fields"]["message"], "panicked: a defect, for the test");
    assert_eq!(line["fields"]["thread"], "worker-7");
    assert!(line["fields"]["location"].as_str().unwrap().starts_with("tests/suite/log.rs:"));
}
