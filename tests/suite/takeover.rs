//! Servers that take over from each other: what becomes of connections, old and new, and of the
//! programs.

use std::{
    env, fs,
    io::{ErrorKind, Read},
    mem,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use ringecho::config::{Config, Network, Time, Within};
use tungstenite::{Message, WebSocket, protocol::frame::coding::CloseCode};

use crate::{
    frames::{close, text},
    peer::{Peer, TestServer, UPGRADE, config, planes},
    program::{address, ringecho, signal, start, url},
};

/// A path for a takeover's socket file that no other test has.
pub struct TestPath(PathBuf);

impl TestPath {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringecho-suite-{}-{}", process::id(), COUNT.fetch_add(1, Relaxed));
        Self(env::temp_dir().join(name))
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TestPath {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const NEVER: Duration = Duration::from_mins(1);

/// A configuration whose server can be taken over, and is quiet after so long.
fn with_takeover(config: Config, path: &TestPath, drain_quiet: Duration) -> Config {
    let takeover = Some(path.as_str().parse().unwrap());
    let drain_quiet = Within::new(drain_quiet).unwrap();
    // Longer than a test, so that quiet is what decides.
    let drain_timeout = Within::new(Duration::from_mins(10)).unwrap();
    let network = Network { takeover, ..config.network };
    Config { network, time: Time { drain_quiet, drain_timeout, ..config.time }, ..config }
}

/// The configuration of a server that takes over.
fn successor(config: &Config, listen: SocketAddr) -> Config {
    let listen = vec![listen.into()];
    Config { network: Network { listen, ..config.network.clone() }, ..config.clone() }
}

fn echo(peer: &mut Peer, message: &str) {
    peer.send(text(message).encode());
    peer.expect(text(message).encode_echo());
}

/// The peer ends its side too, so that the server need not wait for that.
fn expect_goodbye(mut peer: Peer) {
    let goodbye = close(1001, "the server is stopping");
    peer.expect(goodbye.encode_echo());
    peer.send(goodbye.encode());
    peer.expect_end();
}

#[test]
fn old_connections_go_on_and_new_ones_go_to_the_new_server() {
    let path = TestPath::new();
    for config in planes(&with_takeover(config(), &path, NEVER)) {
        let old = TestServer::start(&config);
        let mut before = old.open();
        echo(&mut before, "before");
        let mut waiting = old.connect();
        let (first, rest) = UPGRADE.split_at(UPGRADE.len() / 2);
        waiting.send(first);
        // The old server has accepted both: it assigns connections one after another.
        echo(&mut old.open(), "both are accepted");

        let new = TestServer::start(&successor(&config, old.address));
        assert_eq!(new.address, old.address);
        let mut after = new.open();
        echo(&mut after, "after");
        echo(&mut before, "still here");
        // An opening handshake that was under way goes through.
        waiting.send(rest);
        assert!(waiting.read_head().starts_with("HTTP/1.1 101 "));
        echo(&mut waiting, "waited");
        for mut peer in [before, waiting] {
            peer.send(close(1000, "").encode());
            peer.expect(b"\x88\x02\x03\xe8");
            peer.expect_end();
        }
        drop(after);
        let totals = old.stop();
        let closed = totals.ended.iter().find(|(kind, _)| *kind == "closed_by_peer");
        assert_eq!(closed, Some(&("closed_by_peer", 2)), "{totals:?}");
        echo(&mut new.open(), "one server is left");
        // Both accept for a moment, so either may have had the one behind the takeover.
        let of_new = new.stop().accepted;
        assert_eq!(totals.accepted + of_new, 5, "{totals:?}");
        assert!(of_new > 0);
    }
}

#[test]
fn quiet_connection_is_told_to_go_and_a_message_that_is_under_way_is_echoed_first() {
    let path = TestPath::new();
    for config in planes(&with_takeover(config(), &path, Duration::from_millis(20))) {
        let old = TestServer::start(&config);
        let mut quiet = old.open();
        let mut halfway = old.open();
        let message = text("halfway").encode();
        halfway.send(&message[..8]);
        echo(&mut quiet, "both are there");
        let new = TestServer::start(&successor(&config, old.address));
        expect_goodbye(quiet);
        // By now the other one has been quiet for as long, but for its message.
        halfway.send(&message[8..]);
        halfway.expect(text("halfway").encode_echo());
        expect_goodbye(halfway);
        let totals = old.stop();
        assert_eq!(totals.ended, [("closed_by_server", 2)], "{totals:?}");
        assert_eq!(new.stop().accepted, 0);
    }
}

#[test]
fn connection_that_is_never_quiet_is_told_to_go_when_the_time_is_over() {
    let path = TestPath::new();
    for config in planes(&with_takeover(config(), &path, NEVER)) {
        let drain_timeout = Within::new(Duration::from_secs(1)).unwrap();
        let time = Time { drain_timeout, ..config.time.clone() };
        let config = Config { time, ..config };
        let old = TestServer::start(&config);
        let mut peer = old.open();
        echo(&mut peer, "before");
        let new = TestServer::start(&successor(&config, old.address));
        expect_goodbye(peer);
        assert_eq!(old.stop().ended, [("closed_by_server", 1)]);
        new.stop();
    }
}

#[test]
fn numbers_of_workers_may_differ_from_one_server_to_the_next() {
    const PEERS: u64 = 12;
    let path = TestPath::new();
    for config in planes(&with_takeover(config(), &path, Duration::ZERO)) {
        let mut running: Option<TestServer> = None;
        for workers in [1, 3, 2, 5, 1] {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let listen = running.as_ref().map_or(any, |server| server.address);
            let mut config = successor(&config, listen);
            config.cores.workers = Some(Within::new(workers).unwrap());
            let new = TestServer::start(&config);
            if let Some(old) = running.replace(new) {
                assert_eq!(old.stop().accepted, PEERS);
            }
            let server = running.as_ref().unwrap();
            let mut peers: Vec<_> = (0..PEERS).map(|_| server.open()).collect();
            for peer in &mut peers {
                echo(peer, "here");
            }
            for peer in &mut peers {
                peer.send(close(1000, "").encode());
                peer.expect(b"\x88\x02\x03\xe8");
                peer.expect_end();
            }
        }
        let totals = running.unwrap().stop();
        assert_eq!((totals.accepted, totals.accepted_by_worker.len()), (PEERS, 1));
    }
}

/// A started program that is killed at the end, if it still runs.
struct Running(Child);

impl Running {
    /// Waits for the end by itself, and returns exit code and log.
    fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.0.wait().unwrap().code(), log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(path: &TestPath, listen: &str) -> Command {
    program_with(path, listen, 1)
}

fn program_with(path: &TestPath, listen: &str, workers: u32) -> Command {
    let mut command = ringecho();
    command.args(["--takeover", path.as_str(), "--listen", listen]);
    command.args(["--workers", &workers.to_string()]);
    command
}

fn started(command: &mut Command) -> (Running, String) {
    let (child, line) = start(command);
    (Running(child), line)
}

fn connect(line: &str) -> WebSocket<TcpStream> {
    tungstenite::client(url(line), TcpStream::connect(address(line)).unwrap()).unwrap().0
}

#[test]
fn third_program_takes_over_from_the_second() {
    take_over_twice(|_| ());
}

/// A server that is not root's looks at the user of the other end from within its sandbox.
#[test]
fn program_of_another_user_than_root_is_taken_over_by_its_kin() {
    if can_be_nobody() {
        take_over_twice(as_nobody);
    }
}

fn take_over_twice(as_user: fn(&mut Command)) {
    let path = TestPath::new();
    let run = |listen: &str| {
        let mut command = program(&path, listen);
        as_user(&mut command);
        started(&mut command)
    };
    let (first, line) = run("127.0.0.1:0");
    let listen = address(&line).to_owned();
    let mut generations = vec![first];
    for _ in 0..2 {
        let mut client = connect(&line);
        client.send("hello".into()).unwrap();
        assert_eq!(client.read().unwrap(), "hello".into());
        let (next, next_line) = run(&listen);
        assert_eq!(url(&next_line), url(&line));
        let Message::Close(Some(frame)) = client.read().unwrap() else { panic!("no goodbye") };
        assert_eq!(frame.code, CloseCode::Away);
        while client.read().is_ok() {}
        drop(client);
        let (code, log) = generations.pop().unwrap().end();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("another server has taken over"), "{log}");
        assert!(log.contains("closed_by_server"), "{log}");
        generations.push(next);
    }
    let last = generations.pop().unwrap();
    signal(&last.0, Signal::SIGTERM);
    let (code, log) = last.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("took over from another server"), "{log}");
    assert!(!path.0.exists() && TcpStream::connect(listen).is_err());
}

/// The new program cannot start its workers, and ends: it has had the sockets all the same.
#[test]
fn program_that_cannot_start_leaves_the_running_one_alone() {
    let path = TestPath::new();
    let (running, line) = started(&mut program(&path, "127.0.0.1:0"));
    let mut client = connect(&line);
    let mut without_congestion_control = program(&path, address(&line));
    without_congestion_control.arg("--tcp-congestion=nonsense");
    for (mut command, refusal) in [
        (without_congestion_control, "--tcp-congestion nonsense"),
        (program(&path, "127.0.0.1:1"), "--listen 127.0.0.1:1; give both the same address"),
    ] {
        let output = command.output();
        let output = output.unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(refusal), "{log}");
        client.send("still here".into()).unwrap();
        assert_eq!(client.read().unwrap(), "still here".into());
        drop(connect(&line));
    }
    signal(&running.0, Signal::SIGTERM);
    drop(client);
    let (code, log) = running.end();
    assert_eq!(code, Some(0));
    assert_eq!(log.matches("a takeover failed, and this server goes on").count(), 2, "{log}");
}

#[test]
fn killed_program_leaves_a_file_that_the_next_one_replaces() {
    let path = TestPath::new();
    let (killed, line) = started(&mut program(&path, "127.0.0.1:0"));
    let listen = address(&line).to_owned();
    drop(killed);
    assert!(path.0.exists());
    let (next, line) = started(&mut program(&path, &listen));
    drop(connect(&line));
    signal(&next.0, Signal::SIGTERM);
    assert_eq!(next.end().0, Some(0));
}

#[test]
fn path_that_no_socket_can_have_is_refused() {
    let long = format!("/{}", "a".repeat(95));
    let output = ringecho().args(["--takeover", &long]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("a path of a file is needed, of 1 to 95 bytes"), "{message}");
    let output = ringecho().args(["--listen=127.0.0.1:0", "--takeover=/nowhere/socket"]).output();
    let output = output.unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("--takeover /nowhere/socket: No such file"), "{message}");
}

const NOBODY: u32 = 65_534;

fn as_nobody(command: &mut Command) {
    command.uid(NOBODY).gid(NOBODY);
}

/// Whether the program can be run as another user; says why not.
fn can_be_nobody() -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped, only root can be another user");
        return false;
    }
    let mut trial = ringecho();
    as_nobody(trial.arg("--version").stdout(Stdio::null()));
    let is_run = trial.status().is_ok_and(|status| status.success());
    if !is_run {
        eprintln!("skipped, another user cannot read the program");
    }
    is_run
}

#[test]
fn programs_of_other_users_do_not_take_over() {
    if !can_be_nobody() {
        return;
    }
    let path = TestPath::new();
    let (roots, line) = started(&mut program(&path, "127.0.0.1:0"));
    let mut command = program(&path, address(&line));
    as_nobody(&mut command);
    let output = command.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("Permission denied"), "{message}");
    drop(connect(&line));
    drop(roots);

    let path = TestPath::new();
    let mut command = program(&path, "127.0.0.1:0");
    as_nobody(&mut command);
    let (nobodys, line) = started(&mut command);
    let output = program(&path, address(&line)).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("runs as user 65534, and this one as user 0"), "{message}");
    drop(connect(&line));
    drop(nobodys);
}

/// What long-lived clients have met.
#[derive(Debug, Default)]
struct Tally {
    opened: AtomicU64,
    echoed: AtomicU64,
    /// Close frames with 1001, upon which a client connects anew.
    goodbyes: AtomicU64,
    failed: AtomicU64,
    lost: AtomicU64,
    /// What went wrong, the first few.
    faults: Mutex<Vec<String>>,
}

impl Tally {
    fn fault(&self, counter: &AtomicU64, fault: String) {
        counter.fetch_add(1, Relaxed);
        let mut faults = self.faults.lock().unwrap();
        if faults.len() < 10 {
            faults.push(fault);
        }
    }
}

/// Messages that a client still has echoed by a server that another has taken over.
const MESSAGES_AFTER: u32 = 20;

/// The pause between two messages, in which nobody is quiet.
const PAUSE: Duration = Duration::from_millis(10);

/// Echoes without end. Some messages after a takeover it falls silent until it is told to go, and
/// connects anew.
fn live(url: &str, address: &str, takeover: &AtomicU64, tally: &Tally, is_over: &AtomicBool) {
    while !is_over.load(Relaxed) {
        let connected_at = takeover.load(Relaxed);
        let client =
            TcpStream::connect(address).map_err(|error| error.to_string()).and_then(|stream| {
                stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                tungstenite::client(url, stream).map_err(|error| error.to_string())
            });
        let mut client = match client {
            Ok((client, _)) => client,
            Err(error) => {
                tally.fault(&tally.failed, error);
                continue;
            }
        };
        tally.opened.fetch_add(1, Relaxed);
        let mut rest = MESSAGES_AFTER;
        for number in 0_u64.. {
            let message = format!("{connected_at} {number}");
            let echo = client.send(message.clone().into()).and_then(|()| client.read());
            match echo {
                Ok(Message::Text(echo)) if *echo == *message => tally.echoed.fetch_add(1, Relaxed),
                other => {
                    tally.fault(&tally.lost, format!("{other:?} instead of an echo"));
                    break;
                }
            };
            if takeover.load(Relaxed) != connected_at {
                rest -= 1;
            }
            if rest == 0 || is_over.load(Relaxed) {
                match wait_for_goodbye(&mut client, is_over) {
                    Ok(true) => drop(tally.goodbyes.fetch_add(1, Relaxed)),
                    Ok(false) => drop(client.close(None)),
                    Err(fault) => tally.fault(&tally.lost, fault),
                }
                while client.read().is_ok() {}
                break;
            }
            sleep(PAUSE);
        }
    }
}

/// Waits until the server says goodbye, or until all is over.
fn wait_for_goodbye(
    client: &mut WebSocket<TcpStream>,
    is_over: &AtomicBool,
) -> Result<bool, String> {
    client.get_ref().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while !is_over.load(Relaxed) {
        match client.read() {
            Ok(Message::Close(Some(frame))) if frame.code == CloseCode::Away => return Ok(true),
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
            other => return Err(format!("{other:?} instead of a goodbye")),
        }
    }
    Ok(false)
}

/// `scripts/takeover.sh` runs this: a generator's cycles and long-lived clients through a number of
/// takeovers. Neither loses anything.
#[test]
#[ignore = "takes a generator, and a while: scripts/takeover.sh"]
fn nothing_is_lost_through_many_takeovers() {
    const CLIENTS: usize = 32;
    const INTERVAL: Duration = Duration::from_secs(1);
    let number = |name: &str, default| {
        env::var(name).map_or(default, |value| value.parse().expect("a number"))
    };
    let (takeovers, rate) = (number("TAKEOVERS", 3), number("RATE", 1000));
    let generator = env::var("GENERATOR").expect("GENERATOR is the path of ringecho-loadtest");
    let path = TestPath::new();
    let (mut running, line) = started(&mut program_with(&path, "127.0.0.1:0", 1));
    let (url, address) = (url(&line), address(&line).to_owned());
    let (tally, takeover, is_over) = (Tally::default(), AtomicU64::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let duration = format!("{}s", takeovers + 2);
    let mut churn = Command::new(generator)
        .args(["churn", url, "--rate", &rate.to_string(), "--json", "-", "--wait", "sleep"])
        .args(["--warmup", "0s", "--threads", "1", "--duration", &duration])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the generator starts");
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| live(url, &address, &takeover, &tally, &is_over));
        }
        for done in 1..=takeovers {
            let due = began + INTERVAL * done as u32;
            sleep(due.saturating_duration_since(Instant::now()));
            // Numbers of workers that differ.
            let workers = [1, 2, 3][done as usize % 3];
            let (next, _) = started(&mut program_with(&path, &address, workers));
            takeover.store(done, Relaxed);
            let old = mem::replace(&mut running, next);
            scope.spawn(move || {
                let (code, log) = old.end();
                assert_eq!(code, Some(0), "{log}");
                for cut in ["abandoned", "worker_died", "panicked", "broken"] {
                    assert!(!log.contains(cut), "{log}");
                }
            });
        }
        let mut report = String::new();
        churn.stdout.take().unwrap().read_to_string(&mut report).unwrap();
        let status = churn.wait().unwrap();
        is_over.store(true, Relaxed);
        let report: serde_json::Value = serde_json::from_str(&report).expect(&report);
        println!("{takeovers} takeovers");
        println!("the generator's cycles: {}, errors: {}", report["cycles"], report["errors"]);
        assert!(status.success(), "the generator met errors: {}", report["errors"]);
    });
    println!("{CLIENTS} long-lived clients: {tally:?}");
    assert_eq!(tally.failed.load(Relaxed), 0);
    assert_eq!(tally.lost.load(Relaxed), 0);
    assert!(tally.goodbyes.load(Relaxed) >= takeovers, "every server says goodbye to somebody");
    signal(&running.0, Signal::SIGTERM);
    assert_eq!(running.end().0, Some(0));
}
