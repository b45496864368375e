//! The program: its line when it is ready, its refusals, and its end by signals.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Once},
};

use clap::CommandFactory;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ringecho::config::command_line::Arguments;
use signal_hook::consts::SIGHUP;

pub fn ringecho() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringecho"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RINGECHO_")) {
        command.env_remove(name);
    }
    // Those of a service that runs the tests.
    for name in ["LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_USEC"] {
        command.env_remove(name);
    }
    if cfg!(not(feature = "mimalloc")) {
        // Under AddressSanitizer, whose report is a file, which the sandbox would not let be written.
        command.env("RINGECHO_SANDBOX", "off");
    }
    hear_hangups();
    command.stdin(Stdio::null());
    command
}

/// Has programs that are started here hear hang-ups, also where this process was started with `nohup`:
/// they would ignore what it ignores, but not what it catches.
fn hear_hangups() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        signal_hook::flag::register(SIGHUP, Arc::default()).unwrap();
    });
}

fn output(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    (output, stderr)
}

/// A started program, and the line that it says when it is ready.
pub fn start(command: &mut Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, line)
}

pub fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// The URL in the ready line.
pub fn url(line: &str) -> &str {
    line.strip_prefix("listening on ").unwrap().split(' ').next().unwrap()
}

/// The address in that URL.
pub fn address(line: &str) -> &str {
    url(line).strip_prefix("ws://").unwrap().strip_suffix("/ws").unwrap()
}

#[test]
fn ready_line_names_the_real_port_and_signals_end_the_program() {
    for (stop, plane) in [
        (Signal::SIGINT, "--data-plane=auto"),
        (Signal::SIGTERM, "--data-plane=portable"),
        (Signal::SIGHUP, "--driver=epoll"),
    ] {
        let (mut child, line) =
            start(ringecho().args(["--listen", "127.0.0.1:0", "--workers=2", plane]));
        let address = address(&line);
        assert!(
            line.starts_with(&format!("listening on ws://{address}/ws (2 workers, ")),
            "{line}"
        );
        assert!(TcpStream::connect(address).is_ok());
        signal(&child, stop);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let mut log = String::new();
        child.stderr.unwrap().read_to_string(&mut log).unwrap();
        let by_worker = ["[1, 0]", "[0, 1]"]
            .map(|by_worker| log.contains(&format!("stopped connections=1 by_worker={by_worker}")));
        assert!(by_worker.contains(&true), "{log}");
        assert!(TcpStream::connect(address).is_err());
    }
}

#[test]
fn log_is_json_if_wanted() {
    let (mut child, _) = start(ringecho().args(["--listen=127.0.0.1:0", "--log-format=json"]));
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    child.stderr.unwrap().read_to_string(&mut log).unwrap();
    assert!(log.lines().count() >= 2);
    assert!(log.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{log}");
}

#[test]
fn variables_set_what_flags_set_and_flags_win() {
    let (mut child, line) = start(
        ringecho()
            .env("RINGECHO_LISTEN", "127.0.0.1:0")
            .env("RINGECHO_PATH", "/from-variable")
            .env("RINGECHO_WORKERS", "3")
            .args(["--workers", "1", "--driver", "epoll"]),
    );
    assert!(line.ends_with("/from-variable (1 worker, epoll with engine)\n"), "{line}");
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn ready_line_has_a_url_that_works_whatever_the_paths_are() {
    for (paths, path) in [("/a,/b", "/a"), ("*", "/"), ("/", "/"), ("/%7eme", "/~me")] {
        let mut command = ringecho();
        let (mut child, line) = start(command.env("RINGECHO_PATH", paths).arg("--listen=[::1]:0"));
        let address = url(&line).strip_prefix("ws://").unwrap().strip_suffix(path).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let (_, response) = tungstenite::client(url(&line), stream).unwrap();
        assert_eq!(response.status(), 101);
        signal(&child, Signal::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn variables_without_a_value_are_not_set() {
    let mut command = ringecho();
    for flag in Arguments::command().get_arguments().filter(|flag| flag.get_env().is_some()) {
        command.env(flag.get_env().unwrap(), "");
    }
    let (mut child, line) = start(command.args(["--listen=127.0.0.1:0", "--workers=1"]));
    assert!(line.contains("/ws (1 worker, "), "{line}");
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));

    // That a flag has no value is a mistake all the same.
    let (refused, message) = output(ringecho().args(["--workers", ""]));
    assert_eq!(refused.status.code(), Some(2));
    assert!(message.contains("--workers <COUNT>"), "{message}");
}

#[test]
fn switches_are_variables_that_can_be_on_or_off() {
    for off in ["0", "false", "No", "OFF"] {
        let mut command = ringecho();
        let command = command.envs([("RINGECHO_INCOMING_CPU", off), ("RINGECHO_REUSE_PORT", off)]);
        let (mut child, _) = start(command.arg("--listen=127.0.0.1:0"));
        signal(&child, Signal::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{off}");
    }
    for on in ["1", "true", "Yes", "ON"] {
        let (refused, message) = output(ringecho().env("RINGECHO_INCOMING_CPU", on));
        assert_eq!(refused.status.code(), Some(2), "{on}");
        assert!(message.contains("--balance is on and would hand it to another"), "{message}");
    }
}

#[test]
fn wrong_values_of_variables_are_refused_with_their_names() {
    for (variable, value, expected) in [
        ("RINGECHO_REUSE_PORT", "maybe", "'--reuse-port or RINGECHO_REUSE_PORT': expected on or"),
        ("RINGECHO_HOLD", "big", "'--hold <SIZE> or RINGECHO_HOLD': a size is a number"),
        ("RINGECHO_HOLD", "2MiB", "'--hold <SIZE> or RINGECHO_HOLD': must be from 0 to 1MiB"),
        ("RINGECHO_DRIVER", "kqueue", "'--driver <NAME> or RINGECHO_DRIVER'"),
    ] {
        let (refused, message) = output(ringecho().env(variable, value));
        assert_eq!(refused.status.code(), Some(2), "{variable}: {message}");
        assert!(message.contains(&format!("invalid value '{value}' for {expected}")), "{message}");
    }
}

#[test]
fn negative_values_are_refused_with_flag_and_what_is_allowed() {
    for (flag, value, expected) in [
        ("--message-size-max", "-1", "<SIZE>': a size is a number of bytes"),
        ("--hold", "-4KiB", "<SIZE>': a size is a number of bytes"),
        ("--close-timeout", "-5s", "<TIME>': a time is a number with a unit"),
        ("--workers", "-1", "<COUNT>': expected a whole number from 1 to 4096"),
        ("--workers", "99999999999999999999", "<COUNT>': expected a whole number from 1 to 4096"),
        ("--backlog", "-.5", "<COUNT>': expected a whole number from 1 to 1048576"),
        ("--receive-buffers", "-2", "<COUNT>': expected a power of two from 2 to 1024"),
        ("--cpus", "-1", "<LIST>': \"-1\" is no CPU; expected numbers"),
        ("--listen", "-1:80", "<[tls+]ADDRESS:PORT|unix:PATH>': an IP address and a port"),
        ("--balance", "-1", "<CHOICE>': expected on or off"),
    ] {
        let (refused, message) = output(ringecho().args([flag, value]));
        assert_eq!(refused.status.code(), Some(2), "{flag}: {message}");
        let expected = format!("invalid value '{value}' for '{flag} {expected}");
        assert!(message.contains(&expected), "{flag}: {message}");
    }
    let (_, message) = output(ringecho().args(["--reuse-port", "-1"]));
    assert!(message.contains("unexpected value '-1' for '--reuse-port'"), "{message}");
}

#[test]
fn taken_port_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let listener = TcpListener::bind(&taken).unwrap();
    let (refused, message) = output(ringecho().args(["--listen", &taken]));
    assert_eq!(refused.status.code(), Some(1));
    // Before it may stand what this kernel lacks.
    let refusal = message.lines().last().unwrap();
    assert_eq!(
        refusal,
        format!(
            "error: --listen {taken}: another program listens there; choose another port, or \
             share this one with --reuse-port"
        )
    );
    drop(listener);
}

#[test]
fn port_of_a_program_that_was_killed_is_free_at_once() {
    let (mut killed, line) = start(ringecho().args(["--listen=127.0.0.1:0", "--workers=2"]));
    let address = address(&line).to_owned();
    for _ in 0..10 {
        let clients: Vec<_> = (0..50).map(|_| TcpStream::connect(&address).unwrap()).collect();
        signal(&killed, Signal::SIGKILL);
        let (next, line) = start(ringecho().args(["--listen", &address, "--workers=2"]));
        assert_eq!(self::address(&line), address);
        killed.wait().unwrap();
        killed = next;
        drop(clients);
    }
    signal(&killed, Signal::SIGKILL);
    killed.wait().unwrap();
}

#[test]
fn failure_is_a_line_of_json_in_a_log_of_json() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let in_use = format!("--listen {listen}: another program listens there; choose another port");
    for (arguments, code, reason) in [
        (["--listen", &listen], 1, &*in_use),
        (["--hold", "2MiB"], 2, "invalid value '2MiB' for '--hold <SIZE>': must be from 0 to 1MiB"),
        (
            ["--hold", "big"],
            2,
            "invalid value 'big' for '--hold <SIZE>': a size is a number of bytes",
        ),
        (["--receive-buffers=1024", "--receive-buffer=16MiB"], 2, "--receive-buffers 1024 of "),
    ] {
        for level in ["info", "off"] {
            let mut command = ringecho();
            command.args(arguments).args(["--log-format=json", "--log-level", level]);
            let (failed, log) = output(&mut command);
            assert_eq!(failed.status.code(), Some(code), "{log}");
            // Before it may stand what this kernel lacks.
            let line = log.lines().last().expect("a line");
            let line: serde_json::Value = serde_json::from_str(line).expect(&log);
            assert_eq!(line["level"], "ERROR");
            assert!(line["fields"]["message"].as_str().unwrap().starts_with(reason), "{log}");
        }
    }
}

#[test]
fn bad_values_are_refused_with_flag_value_and_what_is_allowed() {
    for (arguments, expected) in [
        (
            &["--listen", "9001"][..],
            "'9001' for '--listen <[tls+]ADDRESS:PORT|unix:PATH>': an IP address and",
        ),
        (
            &["--receive-buffer", "1KiB"],
            "'1KiB' for '--receive-buffer <SIZE>': must be from 4KiB to 16MiB",
        ),
        (&["--receive-buffer", "big"], "'big' for '--receive-buffer <SIZE>': a size is a number"),
        (
            &["--receive-buffers", "1"],
            "'1' for '--receive-buffers <COUNT>': must be from 2 to 1024",
        ),
        (
            &["--receive-buffers", "3"],
            "'3' for '--receive-buffers <COUNT>': expected a power of two",
        ),
        (
            &["--unsent-max", "1KiB"],
            "'1KiB' for '--unsent-max <SIZE>': must be from 64KiB to 64MiB",
        ),
        (&["--hold", "2MiB"], "'2MiB' for '--hold <SIZE>': must be from 0 to 1MiB"),
        (
            &["--message-size-max", "0"],
            "'0' for '--message-size-max <SIZE>': must be from 1 to unlimited",
        ),
        (
            &["--keep-alive-timeout", "0s"],
            "'0s' for '--keep-alive-timeout <TIME>': must be from 1s to 1h",
        ),
        (
            &["--keep-alive-interval", "2days"],
            "'2days' for '--keep-alive-interval <TIME>': must be from 0s to 1day",
        ),
        (&["--close-timeout", "5"], "'5' for '--close-timeout <TIME>': a time is a number with"),
        (&["--workers", "0"], "'0' for '--workers <COUNT>': must be from 1 to 4096"),
        (&["--cpus", "3-1"], "'3-1' for '--cpus <LIST>': \"3-1\" is no CPU; expected numbers"),
        (&["--cpus", "8191"], "CPU 8191 is not among the CPUs that this process may use: "),
        (&["--path", "ws"], "'ws' for '--path <PATH>': must be a path such as /ws"),
        (
            &["--path", "/ws,/ä"],
            "'/ä' for '--path <PATH>': clients ask for this path as \"/%C3%A4\": write it",
        ),
        (&["--path=/~a", "--path=/%7ea"], "--path names \"/%7ea\" twice"),
        (&["--path=*", "--path=/ws"], "--path is * for all paths, and also \"/ws\"; leave one"),
        (
            &["--allowed-origin", "example.org"],
            "'example.org' for '--allowed-origin <ORIGIN>': an origin is a scheme and a host",
        ),
        (
            &["--allowed-origin", "https://Example.org:443/"],
            "for '--allowed-origin <ORIGIN>': browsers send the origin of the page alone, which is \
             https://example.org here",
        ),
        (
            &["--listen", "localhost:9001"],
            "'localhost:9001' for '--listen <[tls+]ADDRESS:PORT|unix:PATH>': an IP",
        ),
        (
            &["--subprotocol", "a b"],
            "'a b' for '--subprotocol <NAME>': must be one or more letters",
        ),
        (&["--subprotocol=a", "--subprotocol=a"], "--subprotocol names \"a\" twice"),
        (&["--backlog", "0"], "'0' for '--backlog <COUNT>': must be from 1 to 1048576"),
        (&["--incoming-cpu"], "--balance is on and would hand it to another; add --balance off"),
        (&["--huge-pages", "many"], "[possible values: off, transparent, explicit]"),
        (&["--balance", "maybe"], "'maybe' for '--balance <CHOICE>': expected on or off"),
        (&["--compression", "on"], "[possible values: off, pass-through]"),
        (&["--driver", "kqueue"], "[possible values: auto, io_uring, epoll]"),
        (&["--bogus"], "unexpected argument '--bogus' found"),
    ] {
        let (refused, message) = output(ringecho().args(arguments));
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
        assert!(refused.stdout.is_empty());
    }
    let arguments = ["--listen=127.0.0.1:0", "--tcp-congestion", "nonsense"];
    let (refused, message) = output(ringecho().args(arguments));
    assert_eq!(refused.status.code(), Some(1));
    assert!(message.contains("--tcp-congestion nonsense: No such file"), "{message}");
}

#[test]
fn backlog_that_the_kernel_caps_is_announced() {
    let somaxconn = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let is_capped = somaxconn.trim().parse::<u32>().unwrap() < 1 << 20;
    let (mut child, _) = start(ringecho().args(["--listen=127.0.0.1:0", "--backlog=1048576"]));
    signal(&child, Signal::SIGTERM);
    child.wait().unwrap();
    let mut log = String::new();
    child.stderr.unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(log.contains("--backlog 1048576: the kernel caps it at"), is_capped, "{log}");
}

#[test]
fn echoes_come_out_of_huge_pages() {
    for driver in ["--driver=auto", "--driver=epoll"] {
        let mut command = ringecho();
        command.args(["--listen=127.0.0.1:0", driver, "--huge-pages=transparent"]);
        let (mut child, line) = start(&mut command);
        let stream = TcpStream::connect(address(&line)).unwrap();
        let (mut socket, _) = tungstenite::client(url(&line), stream).unwrap();
        let message = tungstenite::Message::Binary((0..=u8::MAX).cycle().take(1 << 20).collect());
        socket.send(message.clone()).unwrap();
        assert!(socket.read().unwrap() == message);
        drop(socket);
        signal(&child, Signal::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

/// Whoever is in the queue of a listening socket has been promised a connection by the kernel.
#[test]
fn whoever_waits_to_be_accepted_when_the_program_stops_is_answered() {
    const CLIENTS: usize = 40;
    for flags in [&[][..], &["--data-plane=portable"], &["--driver=epoll"]] {
        let mut command = ringecho();
        let (mut child, line) =
            start(command.args(["--listen=127.0.0.1:0", "--workers=2"]).args(flags));
        let address = url(&line).strip_prefix("ws://").unwrap().strip_suffix("/ws").unwrap();
        signal(&child, Signal::SIGSTOP);
        let mut clients: Vec<TcpStream> =
            (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
        for client in &mut clients {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        }
        signal(&child, Signal::SIGTERM);
        signal(&child, Signal::SIGCONT);
        for mut client in clients {
            let mut response = String::new();
            client.read_to_string(&mut response).unwrap();
            let is_answered =
                ["HTTP/1.1 200 ", "HTTP/1.1 503 "].iter().any(|line| response.starts_with(line));
            assert!(is_answered, "{flags:?}: {response:.100}");
        }
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
