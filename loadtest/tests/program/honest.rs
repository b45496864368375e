//! Servers that echo, in all the ways in which they may.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use serde_json::Value;
use tungstenite::{
    Bytes, Message,
    protocol::frame::{
        Frame,
        coding::{CloseCode, Data, OpCode},
    },
};

use crate::{
    invocation::{Outcome, assert_matches_schema, program, run},
    servers::{Server, accept_with_early_bytes, accepting_response},
};

/// A run in which messages are echoed for certain.
const SHORT: &str = "--warmup 50ms --duration 500ms --threads 2 --connections 4";

fn run_short(server: &Server, arguments: &str) -> Outcome {
    run(&format!("{} {SHORT} {arguments}", server.url()))
}

#[test]
fn every_echo_is_counted() {
    for arguments in [
        "",
        "--depth 16",
        "--payload 0 --depth 3",
        "--payload 1 --depth 300",
        "--payload 125",
        "--payload 126 --depth 2",
        "--payload 65535",
        "--payload 65536 --depth 2",
        "--text",
        "--text --payload 3 --depth 5",
        "--text --payload 70001 --depth 2",
        "--payload 0..200 --depth 7",
        "--payload 16..64KiB --depth 3 --text",
        "--fragments 4 --depth 5",
        "--fragments 1024 --payload 100KiB",
        "--verify length",
        "--verify none --payload 1..100",
    ] {
        let server = Server::honest();
        let outcome = run_short(&server, arguments);
        outcome.assert_success();
        assert_eq!(outcome.number("/messages_total"), server.received(), "{arguments}");
        assert_eq!(outcome.number("/connections/opened"), 4);
        assert!(outcome.number("/messages") <= outcome.number("/messages_total"));
    }
}

/// A directory of its own for a test, with these files.
fn directory_of(name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let directory = format!("ringecho-loadtest-{}-{name}", std::process::id());
    let directory = std::env::temp_dir().join(directory);
    fs::create_dir(&directory).unwrap();
    for (name, content) in files {
        fs::write(directory.join(name), content).unwrap();
    }
    directory
}

#[test]
fn contents_of_files_are_sent_in_turn() {
    let files: [(_, &[u8]); 3] = [("a", b"first"), ("b", &[7; 16_000]), ("c", b"")];
    let directory = directory_of("files", &files);
    fs::create_dir(directory.join("inner")).unwrap();
    let received = Arc::new(Mutex::new(Vec::new()));
    let messages = Arc::clone(&received);
    let server = Server::answering(move |_, message| {
        messages.lock().unwrap().push(message.clone().into_data());
        vec![message]
    });
    let arguments = format!("-c 1 --depth 2 --payload-from {}", directory.display());
    let outcome = run_short(&server, &format!("--threads 1 {arguments}"));
    fs::remove_dir_all(&directory).unwrap();

    outcome.assert_success();
    assert_eq!(outcome.report["payload"], "3 files of 5.2 KiB on average");
    assert_eq!(outcome.number("/payload_bytes"), 16_005 / 3);
    let received = received.lock().unwrap();
    let first = files.iter().position(|(_, content)| received[0] == *content).unwrap();
    for (message, (_, content)) in received.iter().zip(files.iter().cycle().skip(first)) {
        assert_eq!(message, content);
    }
}

#[test]
fn files_that_cannot_be_sent_are_refused_with_the_reason() {
    let empty = directory_of("empty", &[]);
    let binary = directory_of("binary", &[("x", b"\xff")]);
    for (path, flags, reason) in [
        (&empty, "", "the directory has no files".to_owned()),
        (
            &binary,
            "--text",
            format!(
                "{}/x is not UTF-8, as the text messages of --text have to be",
                binary.display()
            ),
        ),
        (
            &empty.join("none"),
            "",
            format!("cannot read {}/none: No such file or directory (os error 2)", empty.display()),
        ),
    ] {
        let path = path.display();
        let output =
            program(&format!("ws://127.0.0.1:9/ {flags} --payload-from {path}")).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        let message =
            format!("error: invalid value '{path}' for '--payload-from <FILE>': {reason}");
        assert_eq!(stderr.trim_end(), message);
    }
    fs::remove_dir_all(empty).unwrap();
    fs::remove_dir_all(binary).unwrap();
}

#[test]
fn tcp_echo_is_verified_as_bytes() {
    let server = Server::of_tcp(|mut stream| {
        let response = accepting_response(&mut stream);
        stream.write_all(&response).unwrap();
        let _ = io::copy(&mut stream.try_clone().unwrap(), &mut stream);
    });
    for arguments in ["--raw-tcp", "--raw-tcp --depth 16 --payload 5000", "--raw-tcp --text"] {
        let outcome = run_short(&server, arguments);
        outcome.assert_success();
    }
    // As WebSocket messages the same bytes are a violation: they are masked.
    assert!(run_short(&server, "").number("/errors/protocol") > 0);
}

#[test]
fn result_is_printed_for_people_and_written_for_programs() {
    let server = Server::honest();
    let path = std::env::temp_dir().join(format!("ringecho-loadtest-{}.json", std::process::id()));
    let arguments = format!(
        "{} {SHORT} --depth 2 --payload 1KiB --server-pid {} --json {}",
        server.url(),
        std::process::id(),
        path.display()
    );
    let output = program(&arguments).output().unwrap();
    let report: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    fs::remove_file(&path).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();

    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_matches_schema(&report);
    assert_eq!(report["server"]["pid"], std::process::id());
    assert!(report["generator"]["cpu_us_per_message"]["total"].as_f64().is_some());
    assert_eq!(report["payload_bytes"], 1024);
    assert!(text.starts_with(&server.url()), "{text}");
    for part in [
        "4 connections x depth 2 x 1.0 KiB binary, 2 threads on ",
        " messages/s, ",
        " MB/s each way",
        "p99.99 ",
        " us of CPU per message (",
        " of memory (peak ",
        "errors      none\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn messages_that_fill_both_directions_do_not_block_each_other() {
    let server = Server::honest();
    run_short(&server, "--payload 1MiB --depth 16 --connections 2 --duration 1s").assert_success();
}

/// Writes in pieces of a few bytes.
struct Dribble(TcpStream);

impl Read for Dribble {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Dribble {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Without pauses in between: on a busy machine, each can take other programs' time slices.
        self.0.write(&bytes[..bytes.len().min(3)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn echoes_may_arrive_in_tiny_segments() {
    let server = Server::of_tcp(|stream| {
        let mut websocket = tungstenite::accept(Dribble(stream)).unwrap();
        while let Ok(message) = websocket.read() {
            if message.is_binary() && websocket.send(message).is_err() {
                return;
            }
        }
    });
    run_short(&server, "--payload 300 --depth 2").assert_success();
}

#[test]
fn echoes_may_be_fragmented_and_interrupted_by_pings() {
    for kind in ["", "--text"] {
        let server = Server::answering(|_, message| {
            let mut opcode =
                OpCode::Data(if message.is_text() { Data::Text } else { Data::Binary });
            let payload = message.into_data();
            let mut frames = Vec::new();
            for part in payload.chunks(7) {
                let part = Bytes::copy_from_slice(part);
                frames.push(Message::Frame(Frame::message(part, opcode, false)));
                frames.push(Message::Ping(Bytes::from_static(b"still there?")));
                frames.push(Message::Pong(Bytes::new()));
                opcode = OpCode::Data(Data::Continue);
            }
            frames.push(Message::Frame(Frame::message(Bytes::new(), opcode, true)));
            frames
        });
        run_short(&server, &format!("--payload 50 --depth 2 {kind}")).assert_success();
    }
}

#[test]
fn pings_are_answered_with_their_payload() {
    let server = Server::of_websockets(|mut websocket| {
        while let Ok(message) = websocket.read() {
            if !message.is_binary() {
                continue;
            }
            // The echo waits for the Pong: without one, it would be missing.
            websocket.send(Message::Ping(Bytes::from_static(b"are you there?"))).unwrap();
            while let Ok(answer) = websocket.read() {
                if answer == Message::Pong(Bytes::from_static(b"are you there?")) {
                    break;
                }
            }
            if websocket.send(message).is_err() {
                return;
            }
        }
    });
    run_short(&server, "").assert_success();
}

#[test]
fn frames_behind_the_response_head_are_not_lost() {
    let server = Server::of_tcp(|stream| {
        let mut websocket = accept_with_early_bytes(stream, b"\x89\x05early");
        let mut ponged = false;
        while let Ok(message) = websocket.read() {
            ponged |= message == Message::Pong(Bytes::from_static(b"early"));
            if message.is_binary() && (!ponged || websocket.send(message).is_err()) {
                return;
            }
        }
    });
    run_short(&server, "").assert_success();
}

#[test]
fn connections_are_closed_with_a_closing_handshake() {
    let (report_close, closed) = mpsc::channel();
    let server = Server::of_websockets(move |mut websocket| {
        loop {
            match websocket.read() {
                Ok(Message::Close(frame)) => {
                    report_close.send(frame.map(|frame| frame.code)).unwrap();
                }
                Ok(message) if message.is_binary() => websocket.send(message).unwrap(),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    });
    run_short(&server, "").assert_success();
    for _ in 0..4 {
        assert_eq!(closed.recv().unwrap(), Some(CloseCode::Normal));
    }
}

#[test]
fn interruption_ends_the_run_early_with_a_result() {
    let (report_echo, echoed) = mpsc::channel();
    let server = Server::answering(move |_, message| {
        // The test may be over already.
        let _ = report_echo.send(());
        vec![message]
    });
    let arguments = format!("{} -c 2 --warmup 0s --duration 1h --json -", server.url());
    let child = program(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    echoed.recv().unwrap();
    // After this the measured window has begun, unless the machine is very busy.
    thread::sleep(Duration::from_millis(100));
    echoed.try_iter().for_each(drop);
    for _ in 0..100 {
        echoed.recv().unwrap();
    }
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();

    let outcome = Outcome::read(&child.wait_with_output().unwrap());
    outcome.assert_success();
    assert_eq!(outcome.report["interrupted"], true);
    assert!(outcome.report["duration_seconds"].as_f64().unwrap() < 3600.0);
}

/// What a short run shows of itself on a terminal of so many columns.
fn shown_on_terminal(columns: u16, arguments: &str) -> String {
    let server = Server::honest();
    let size = nix::pty::Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = nix::pty::openpty(Some(&size), None).unwrap();
    let mut child = program(&format!("{} {SHORT} {arguments}", server.url()))
        .stdout(Stdio::null())
        .stderr(terminal.slave)
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    // Reading a terminal that nobody has open any longer is an error.
    let _ = File::from(terminal.master).read_to_end(&mut shown);
    assert!(child.wait().unwrap().success());
    String::from_utf8(shown).unwrap()
}

#[test]
fn progress_is_shown_on_a_terminal_and_removed() {
    let shown = shown_on_terminal(80, "--duration 2s");
    assert!(shown.contains(" messages/s, 4 connections, 0 errors\x1b[K"), "{shown:?}");
    let (line, warnings) = shown.rsplit_once("\r\x1b[K").unwrap();
    assert!(!line.contains('\n'), "{shown:?}");
    assert!(!warnings.contains("messages/s"), "{shown:?}");
}

#[test]
fn progress_fits_into_a_narrow_terminal() {
    let shown = shown_on_terminal(30, "");
    let (progress, _) = shown.rsplit_once("\r\x1b[K").unwrap();
    let lines: Vec<&str> = progress.split("\x1b[K").filter(|line| !line.is_empty()).collect();
    assert!(lines.iter().any(|line| line.starts_with("\rmeasuring, 1 s left: ")), "{lines:?}");
    for line in lines {
        assert!(line.trim_start_matches('\r').len() < 30, "{line:?}");
    }
}

#[test]
fn a_server_process_that_ends_is_not_measured() {
    let process = Command::new("sleep").arg("3600").spawn().unwrap();
    let pid = process.id();
    let process = Mutex::new(process);
    let server = Server::answering(move |_, message| {
        let mut process = process.lock().unwrap();
        process.kill().and_then(|()| process.wait()).unwrap();
        vec![message]
    });
    let outcome = run_short(&server, &format!("--server-pid {pid}"));
    outcome.assert_success();
    assert!(outcome.report["server"].is_null());
    let warning = format!("warning: --server-pid {pid}: the process had ended before");
    assert!(outcome.stderr.contains(&warning), "{}", outcome.stderr);
}

#[test]
fn without_io_uring_epoll_is_used() {
    let server = Server::honest();
    let output = program(&format!("{} {SHORT} --depth 2 --json -", server.url()))
        .env("MONOIO_FORCE_LEGACY_DRIVER", "1")
        .output()
        .unwrap();
    let outcome = Outcome::read(&output);
    outcome.assert_success();
    assert_eq!(outcome.report["driver"], "epoll");
    assert_eq!(outcome.number("/messages_total"), server.received());
}

#[test]
fn host_names_and_ipv6_addresses_are_understood() {
    let server = Server::honest();
    let by_name = format!("ws://localhost:{}/ {SHORT}", server.port());
    run(&by_name).assert_success();

    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped for IPv6: this machine has none");
        return;
    }
    let server = Server::answering_at("[::1]:0", |_, message| vec![message]);
    run_short(&server, "").assert_success();
}

#[test]
fn threads_can_be_pinned() {
    let usable = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    let cpu = (0..nix::sched::CpuSet::count()).find(|cpu| usable.is_set(*cpu).unwrap()).unwrap();
    let server = Server::honest();
    let outcome =
        run(&format!("{} --cpus {cpu} --connections 2 --warmup 0s --duration 500ms", server.url()));
    outcome.assert_success();
    assert_eq!(outcome.report["cpus"], serde_json::json!([cpu]));
    assert_eq!(outcome.number("/threads"), 1);
}
