//! The program when the machine is hard on its process: stopped for longer than any deadline, out of
//! descriptors, out of memory. It goes on, or it ends in a way that has a name.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tungstenite::{Error, Message, WebSocket};

use crate::{
    frames::text,
    peer::{PATIENCE, Peer, UPGRADE},
    program::{address, ringecho, signal, url},
};

/// What the program is started with for each data plane and driver.
const PLANES: [&[&str]; 4] = [
    &[],
    &["--driver=epoll", "--data-plane=engine"],
    &["--data-plane=portable"],
    &["--driver=epoll", "--data-plane=portable"],
];

/// The program, with its log in a file.
struct Program {
    child: Child,
    ready: String,
    log: PathBuf,
}

impl Program {
    /// Starts it in a shell that runs `preparation` first; `name` is that of the log's file.
    fn start(name: &str, preparation: &str, arguments: &[&str]) -> Self {
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.log"));
        let mut command = ringecho();
        let script = format!(r#"{preparation} exec "$0" "$@""#);
        let program = command.get_program().to_owned();
        let mut shell = Command::new("sh");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        command = shell;
        command.arg("-c").arg(script).arg(program).arg("--listen=127.0.0.1:0").args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut ready = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut ready).unwrap();
        Self { child, ready, log }
    }

    fn address(&self) -> SocketAddr {
        address(&self.ready).parse().unwrap()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Stops it; returns the number of connections, and those by kind of end, which balance.
    fn stop(mut self) -> Vec<(String, u64)> {
        signal(&self.child, Signal::SIGTERM);
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{}", self.said());
        let said = self.said();
        let totals = said.lines().find(|line| line.contains("stopped connections=")).expect(&said);
        let number = |text: &str| text.trim().parse::<u64>().expect(totals);
        let field = |name| totals.split_once(name).expect(totals).1;
        let accepted = number(field("connections=").split(' ').next().unwrap());
        // As in `[("closed_by_peer", 3), ("broken", 1)]`.
        let (list, _) = field("ended=[").split_once(']').expect(totals);
        let ended: Vec<_> = list
            .split("(\"")
            .filter_map(|pair| pair.split_once("\", "))
            .map(|(kind, count)| (kind.to_owned(), number(count.split(')').next().unwrap())))
            .collect();
        assert_eq!(accepted, ended.iter().map(|(_, count)| count).sum::<u64>(), "{totals}");
        ended
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already unless a test failed, or had it killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that answers Pings, since it reads, and looks up now and then.
fn open(program: &Program) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(program.address()).unwrap();
    let (client, _) = tungstenite::client(url(&program.ready), stream).unwrap();
    client.get_ref().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    client
}

/// Reads until there is a message; `None` if there has been none for a while.
fn read(client: &mut WebSocket<TcpStream>) -> Option<Message> {
    loop {
        match client.read() {
            Ok(Message::Ping(_)) => {}
            Ok(message) => return Some(message),
            Err(Error::Io(error)) if is_timeout(&error) => return None,
            Err(error) => panic!("its connection has ended: {error}"),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Deadlines are counted in sweeps, and a process that is stopped makes none.
#[test]
fn nobody_is_given_up_for_the_time_that_the_program_was_stopped() {
    const CLIENTS: usize = 20;
    /// Longer than interval and timeout together.
    const STOPPED: Duration = Duration::from_secs(8);
    let run = |plane: usize| {
        let name = format!("stopped-{plane}");
        let deadlines = ["--workers=2", "--keep-alive-interval=1s", "--keep-alive-timeout=3s"];
        let program = Program::start(&name, "", &[&deadlines[..], PLANES[plane]].concat());
        let clients: Vec<_> = (0..CLIENTS).map(|_| open(&program)).collect();
        // Neither has its request head: the deadline of a handshake is 10 s.
        let mut half_headed = Peer::connect(program.address());
        half_headed.send(&UPGRADE[..40]);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for (number, mut client) in clients.into_iter().enumerate() {
                let is_over = &is_over;
                scope.spawn(move || {
                    let mut sent = 0;
                    // Every other client is idle but for its Pongs.
                    while !is_over.load(Relaxed) {
                        if number % 2 == 0 {
                            echo(&mut client, &format!("message {sent}"));
                            sent += 1;
                        } else {
                            assert_eq!(read(&mut client), None);
                        }
                    }
                    echo(&mut client, "still here");
                    client.close(None).unwrap();
                    while client.read().is_ok() {}
                });
            }
            thread::sleep(Duration::from_secs(2));
            signal(&program.child, Signal::SIGSTOP);
            thread::sleep(STOPPED);
            signal(&program.child, Signal::SIGCONT);
            // As long as a timeout that began before would last.
            thread::sleep(Duration::from_secs(4));
            is_over.store(true, Relaxed);
        });
        half_headed.send(&UPGRADE[40..]);
        assert!(half_headed.read_head().starts_with("HTTP/1.1 101 "));
        drop(half_headed);
        let mut ended = program.stop();
        ended.sort();
        let count = CLIENTS as u64;
        let expected = [("closed_by_peer".to_owned(), count), ("peer_vanished".to_owned(), 1)];
        assert_eq!(ended, expected, "{:?}", PLANES[plane]);
    };
    thread::scope(|scope| {
        for plane in 0..PLANES.len() {
            scope.spawn(move || run(plane));
        }
    });
}

/// Has a message echoed, however long that takes.
fn echo(client: &mut WebSocket<TcpStream>, message: &str) {
    client.send(Message::text(message)).unwrap();
    let until = Instant::now() + PATIENCE;
    let echo = std::iter::repeat_with(|| read(client))
        .take_while(|_| Instant::now() < until)
        .find_map(|message| message);
    assert_eq!(echo, Some(Message::text(message)));
}

/// The clients hold more connections than the program has descriptors. Each is served or refused,
/// at once or when others have left.
#[test]
fn full_table_of_descriptors_ends_nobody_and_service_goes_on_when_some_are_free() {
    const CLIENTS: usize = 120;
    const SERVED_MIN: usize = 20;
    for (plane, flags) in PLANES.iter().enumerate() {
        let name = format!("descriptors-{plane}");
        let arguments = [&["--workers=2"], *flags].concat();
        let program = Program::start(&name, "ulimit -n 64;", &arguments);
        let request = [UPGRADE.as_bytes(), &text("hello").encode()].concat();
        let mut clients: Vec<Waiting> =
            (0..CLIENTS).map(|_| Waiting::connect(program.address(), &request)).collect();
        let until = Instant::now() + PATIENCE;
        let is_time_left = || {
            thread::sleep(Duration::from_millis(5));
            Instant::now() < until
        };
        // The table is full when somebody has been refused, or the log says so.
        loop {
            clients.iter_mut().for_each(Waiting::look);
            let is_refused = clients.iter().any(|client| client.outcome() == Some(false));
            if is_refused || program.said().contains("Too many open files") {
                break;
            }
            assert!(is_time_left(), "{flags:?}: the table is not full: {}", program.said());
        }
        let mut served = 0;
        while !clients.is_empty() {
            clients.iter_mut().for_each(Waiting::look);
            clients.retain(|client| {
                let outcome = client.outcome();
                served += usize::from(outcome == Some(true));
                // Whoever is done goes, and makes room.
                outcome.is_none()
            });
            let left = clients.len();
            assert!(left == 0 || is_time_left(), "{flags:?}: {left} wait: {}", program.said());
        }
        assert!(served >= SERVED_MIN, "{flags:?}: {served} served: {}", program.said());
        let mut witness = Peer::open(program.address());
        witness.send(text("and I?").encode());
        witness.expect(text("and I?").encode_echo());
        drop(witness);
        program.stop();
    }
}

/// A client that has asked for an upgrade and an echo.
struct Waiting {
    stream: TcpStream,
    received: Vec<u8>,
    is_over: bool,
}

impl Waiting {
    fn connect(address: SocketAddr, request: &[u8]) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream, received: Vec::new(), is_over: false }
    }

    /// Takes what has come.
    fn look(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return self.is_over = true,
                Ok(len) => self.received.extend(&bytes[..len]),
                Err(error) if is_timeout(&error) => return,
                Err(error) => panic!("{error} behind {}", self.received.escape_ascii()),
            }
        }
    }

    /// Whether it was served (or refused); `None` if neither has happened yet.
    fn outcome(&self) -> Option<bool> {
        if self.received.is_empty() && !self.is_over {
            return None;
        }
        let end = self.received.windows(4).position(|end| end == b"\r\n\r\n")?;
        let (head, body) = self.received.split_at(end + 4);
        if head.starts_with(b"HTTP/1.1 101 ") {
            // A Close frame with 1013 is a refusal that came late.
            let is_turned_away = body.starts_with(&[0x88]);
            let is_served = body.starts_with(&text("hello").encode_echo());
            return (is_turned_away || is_served).then_some(is_served);
        }
        assert!(head.starts_with(b"HTTP/1.1 503 "), "{}", self.received.escape_ascii());
        Some(false)
    }
}

/// A control group of its own for the memory of a program.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// A group with this limit, or why there is none.
    fn new(name: &str, limit: u64) -> Result<Self, String> {
        let (parent, file) = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            ("/sys/fs/cgroup", "memory.max")
        } else {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        };
        let directory = Path::new(parent).join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let group = Self(directory);
        let file = group.0.join(file);
        fs::write(&file, limit.to_string())
            .map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(group)
    }

    /// What a shell does to enter it.
    fn enter(&self) -> String {
        format!("echo $$ >'{}/cgroup.procs' || exit 1;", self.0.display())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The kernel lets go of a process a moment after it has been waited for.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A new client has its message echoed, or what went wrong.
fn is_served(address: SocketAddr) -> io::Result<()> {
    let mut witness = TcpStream::connect(address)?;
    witness.set_read_timeout(Some(PATIENCE))?;
    witness.write_all(UPGRADE.as_bytes())?;
    witness.write_all(&text("and I?").encode())?;
    let mut received = Vec::new();
    while !received.ends_with(&text("and I?").encode_echo()) {
        let mut byte = [0];
        witness.read_exact(&mut byte)?;
        received.extend(byte);
    }
    Ok(())
}

/// What the kernel takes for sockets is in the group's limit too where it is one of v2.
#[test]
fn program_in_a_memory_group_goes_on_within_it_and_is_killed_by_the_kernel_beyond() {
    const MIB: u64 = 1 << 20;
    const LIMIT: u64 = 64 * MIB;
    for (plane, flags) in PLANES.iter().enumerate() {
        for (unsent_max, peers) in [("64KiB", 24), ("16MiB", 24)] {
            let name = format!("memory-{plane}-{unsent_max}");
            let group = match MemoryGroup::new(&format!("ringecho-{name}"), LIMIT) {
                Ok(group) => group,
                Err(reason) => return eprintln!("skipped: no memory group can be made: {reason}"),
            };
            let unsent_flag = format!("--unsent-max={unsent_max}");
            let own = ["--workers=2", "--receive-buffer=64KiB", &unsent_flag];
            let mut program = Program::start(&name, &group.enter(), &[&own[..], flags].concat());
            let address = program.address();
            // A frame without end, whose echo nobody reads.
            let mut endless = vec![0x82, 0xff];
            endless.extend_from_slice(&(1_u64 << 40).to_be_bytes());
            endless.extend_from_slice(&[0; 4]);
            endless.resize(24 << 20, 7);
            let stalled: Vec<_> = (0..peers)
                .map_while(|_| {
                    // The program may be gone at any time.
                    let mut peer = TcpStream::connect(address).ok()?;
                    peer.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
                    peer.write_all(UPGRADE.as_bytes()).ok()?;
                    let mut sent = 0;
                    while let Ok(len @ 1..) = peer.write(&endless[sent..]) {
                        sent += len;
                    }
                    Some(peer)
                })
                .collect();
            // A program that is killed has lost its sockets before it is gone.
            match is_served(address) {
                Ok(()) => {
                    drop(stalled);
                    program.stop();
                    eprintln!("{flags:?}, {unsent_flag}: served");
                }
                Err(error) => {
                    assert_eq!(unsent_max, "16MiB", "what may be unsent fits: {error}");
                    let status = program.child.wait().unwrap();
                    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}: {error}");
                    eprintln!("{flags:?}, {unsent_flag}: {status}");
                }
            }
        }
    }
}
