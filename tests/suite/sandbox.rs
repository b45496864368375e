//! The sandbox: the whole program inside of it, and what is forbidden, tried from inside by a child
//! process that shuts itself in by the same functions.
#![expect(unsafe_code, reason = "forbidden system calls are tried by their numbers")]

use std::{
    env,
    ffi::CString,
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
};

use io_uring::{IoUring, opcode, squeue, types::Fd};
use nix::{libc, sys::signal::Signal};
use ringecho::{
    config::{Privileges, Sandboxing},
    server::sandbox::{Needs, Sandbox, seccomp},
};
use tungstenite::{Message, WebSocket};

use crate::{
    program::{address, ringecho, signal, start, url},
    seccomp::{Refused, refuse},
};

/// Every driver and data plane.
const PLANES: [&[&str]; 4] = [
    &[],
    &["--driver=epoll"],
    &["--data-plane=portable"],
    &["--driver=epoll", "--data-plane=portable"],
];

fn confined(flags: &[&str]) -> Command {
    let mut command = ringecho();
    command.args(["--listen=127.0.0.1:0", "--sandbox=required"]).args(flags);
    command
}

/// Whether this kernel has all of the sandbox; `RINGECHO_TESTS_NEED_ENGINE` stands for a kernel that
/// has everything.
fn has_sandbox() -> bool {
    let mut child = match start_or_say(&mut confined(&[])) {
        Ok(child) => child,
        Err(said) => {
            assert!(
                env::var_os("RINGECHO_TESTS_NEED_ENGINE").is_none_or(|it| it.is_empty()),
                "{said}"
            );
            eprintln!("skipped: {said}");
            return false;
        }
    };
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    true
}

fn start_or_say(command: &mut Command) -> Result<Child, String> {
    let (mut child, line) = start(command);
    if !line.is_empty() {
        return Ok(child);
    }
    assert_eq!(child.wait().unwrap().code(), Some(1));
    Err(log(child))
}

fn log(child: Child) -> String {
    let mut log = String::new();
    child.stderr.unwrap().read_to_string(&mut log).unwrap();
    log
}

fn connect(line: &str) -> WebSocket<TcpStream> {
    tungstenite::client(url(line), TcpStream::connect(address(line)).unwrap()).unwrap().0
}

fn echo(client: &mut WebSocket<TcpStream>, message: &Message) {
    client.send(message.clone()).unwrap();
    assert!(client.read().unwrap() == *message);
}

/// Every thread's value of a field in `/proc/PID/task/TID/status`.
fn of_threads(child: &Child, field: &str) -> Vec<String> {
    fs::read_dir(format!("/proc/{}/task", child.id()))
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok())
        .map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            line.unwrap().trim_start_matches(':').trim().to_owned()
        })
        .collect()
}

#[test]
fn confined_program_serves_and_drains_on_every_data_plane() {
    if !has_sandbox() {
        return;
    }
    for flags in PLANES {
        let (mut child, line) = start(confined(flags).args(["--workers=2", "--log-level=debug"]));
        assert!(of_threads(&child, "NoNewPrivs").iter().all(|it| it == "1"));
        let modes = of_threads(&child, "Seccomp");
        assert!(modes.len() > 3 && modes.iter().all(|mode| mode == "2"), "{modes:?}");
        let mut clients: Vec<_> = (0..50).map(|_| connect(&line)).collect();
        for client in &mut clients {
            echo(client, &Message::text("hello"));
            echo(client, &Message::Binary((0..=u8::MAX).cycle().take(300_000).collect()));
        }
        let mut page = TcpStream::connect(address(&line)).unwrap();
        page.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        page.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200 "), "{response:.100}");
        signal(&child, Signal::SIGTERM);
        for client in &mut clients {
            assert!(matches!(client.read().unwrap(), Message::Close(Some(_))));
            client.flush().unwrap();
        }
        drop(clients);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let log = log(child);
        assert!(log.contains("the sandbox is shut") && !log.contains("WARN"), "{flags:?}: {log}");
        assert!(log.contains("closed_by_server\", 50"), "{flags:?}: {log}");
    }
}

/// Its log is rotated, its configuration changed, its socket file removed, and it is taken over.
#[test]
fn confined_program_does_what_its_flags_ask_for_later() {
    if !has_sandbox() {
        return;
    }
    let directory = Directory::new();
    let path = |name: &str| directory.0.join(name).to_str().unwrap().to_owned();
    let (log_file, config, takeover) = (path("access.log"), path("config.toml"), path("takeover"));
    fs::write(&config, "allowed-origin = 'https://a.example'\n").unwrap();
    let flags = [
        format!("--access-log={log_file}"),
        format!("--config={config}"),
        format!("--takeover={takeover}"),
        format!("--admin-listen=unix:{}", path("admin")),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let (mut old, line) = start(&mut confined(&flags));
    let ask_for_page = || {
        let mut page = TcpStream::connect(address(&line)).unwrap();
        page.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        page.read_to_end(&mut Vec::new()).unwrap();
    };
    let wait_for = |is_there: &dyn Fn() -> bool| {
        while !is_there() {
            thread::yield_now();
        }
    };
    let has_a_line = || fs::read_to_string(&log_file).is_ok_and(|it| it.ends_with('\n'));
    ask_for_page();
    wait_for(&has_a_line);
    fs::rename(&log_file, path("access.log.1")).unwrap();
    // Editors put a new file into the place of the old one.
    fs::write(path("new"), "allowed-origin = 'https://b.example'\n").unwrap();
    fs::rename(path("new"), &config).unwrap();
    signal(&old, Signal::SIGHUP);
    wait_for(&|| {
        ask_for_page();
        has_a_line()
    });
    fs::remove_file(&takeover).unwrap();
    wait_for(&|| Path::new(&takeover).exists());
    let listen = format!("--listen={}", address(&line));
    let mut flags_of_new = flags.clone();
    flags_of_new.push(&listen);
    let mut new = ringecho();
    let (mut new, _) = start(new.arg("--sandbox=required").args(&flags_of_new));
    assert_eq!(old.wait().unwrap().code(), Some(0));
    assert!(UnixStream::connect(path("admin")).is_ok());
    signal(&new, Signal::SIGTERM);
    assert_eq!(new.wait().unwrap().code(), Some(0));
    let log = log(old);
    assert!(log.contains("https://b.example") && !log.contains("WARN"), "{log}");
    assert!(log.contains("another server has taken over"), "{log}");
    assert!(!Path::new(&takeover).exists() && !Path::new(&path("admin")).exists());
}

/// A directory of a test's own, which goes with this.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = env::temp_dir().join(format!("ringecho-sandbox-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_of_the_sandbox_cannot_be_had_is_said_once_or_refused() {
    for (call, said) in [
        (libc::SYS_seccomp, "system calls are not limited (seccomp: "),
        (libc::SYS_landlock_create_ruleset, "files are not shut off (Landlock: "),
    ] {
        let refused = [Refused::always(call, libc::ENOSYS)];
        let mut command = ringecho();
        refuse(command.arg("--listen=127.0.0.1:0"), &refused);
        let (mut child, line) = start(&mut command);
        echo(&mut connect(&line), &Message::text("hello"));
        signal(&child, Signal::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let log = log(child);
        assert_eq!(log.matches("the sandbox is not whole: ").count(), 1, "{log}");
        assert!(log.contains(said), "{log}");

        let mut command = confined(&[]);
        refuse(&mut command, &refused);
        let message = start_or_say(&mut command).expect_err("it is refused");
        assert!(message.contains(&format!("error: --sandbox required: {said}")), "{message}");
    }
}

#[test]
fn sandbox_that_is_off_changes_nothing() {
    let (mut child, _) = start(ringecho().args(["--listen=127.0.0.1:0", "--sandbox=off"]));
    assert!(of_threads(&child, "Seccomp").iter().all(|mode| mode == "0"));
    assert!(of_threads(&child, "NoNewPrivs").iter().all(|it| it == "0"));
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// The program that root has started is another user, without groups and without a way back, and
/// its workers have what they need.
#[test]
fn program_becomes_another_user_when_its_port_is_bound() {
    if !nix::unistd::geteuid().is_root() {
        let output = ringecho().args(["--listen=127.0.0.1:0", "--user=nobody"]).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains("error: --user nobody: only root may become another"),
            "{message}"
        );
        return;
    }
    for sandbox in ["--sandbox=auto", "--sandbox=off"] {
        for flags in PLANES {
            let mut command = ringecho();
            command.args(["--listen=127.0.0.1:0", "--user=65533:65532", sandbox]).args(flags);
            let (mut child, line) = start(&mut command);
            for (field, expected) in
                [("Uid", "65533"), ("Gid", "65532"), ("Groups", ""), ("CapEff", "0000000000000000")]
            {
                for value in of_threads(&child, field) {
                    let parts: Vec<_> = value.split_whitespace().collect();
                    assert!(parts.iter().all(|part| *part == expected), "{field}: {value}");
                }
            }
            echo(&mut connect(&line), &Message::text("hello"));
            signal(&child, Signal::SIGTERM);
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
    }
    for (user, said) in [
        ("0", "--user 0: this user is root"),
        ("nobody-of-this-name", "--user nobody-of-this-name: there is no such user"),
        ("65533", "no entry of /etc/passwd tells this user's group; name it too, as 65533:65533"),
    ] {
        let output = ringecho().args(["--listen=127.0.0.1:0", "--user", user]).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(said), "{message}");
    }
}

/// What a child tries from inside, and whether it is allowed.
struct Attempt {
    what: &'static str,
    run: fn(&Path) -> io::Result<()>,
    is_allowed: bool,
}

const fn forbidden(what: &'static str, run: fn(&Path) -> io::Result<()>) -> Attempt {
    Attempt { what, run, is_allowed: false }
}

const fn allowed(what: &'static str, run: fn(&Path) -> io::Result<()>) -> Attempt {
    Attempt { what, run, is_allowed: true }
}

/// The result of a call by its number.
fn call(number: libc::c_long, arguments: [usize; 3]) -> io::Result<()> {
    let [one, two, three] = arguments;
    // SAFETY: the calls that are tried are given no memory that the kernel could write to.
    match unsafe { libc::syscall(number, one, two, three) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// What neither filter nor Landlock lets through; `place` is a directory that may be changed.
const ATTEMPTS: &[Attempt] = &[
    forbidden("to run a program", |_| Command::new("/bin/true").status().map(drop)),
    forbidden("to fork", |_| call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0])),
    forbidden("to make a namespace", |_| {
        call(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0])
    }),
    forbidden("to trace", |_| call(libc::SYS_ptrace, [libc::PTRACE_TRACEME as usize, 0, 0])),
    forbidden("to read a file", |_| fs::read("/etc/passwd").map(drop)),
    forbidden("to write a file elsewhere", |_| {
        fs::write(env::temp_dir().join(format!("sandbox-{}", std::process::id())), "")
    }),
    forbidden("to connect", |_| TcpStream::connect("127.0.0.1:1").map(drop)),
    forbidden("to connect to a local socket", |_| UnixStream::connect("/dev/log").map(drop)),
    forbidden("to send a datagram", |_| UdpSocket::bind("127.0.0.1:0").map(drop)),
    forbidden("to listen", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
    forbidden("to kill", |_| call(libc::SYS_kill, [1, 0, 0])),
    forbidden("to have memory that is code", |_| {
        // SAFETY: a new mapping touches no memory of ours.
        let memory = unsafe {
            let protection = libc::PROT_READ | libc::PROT_EXEC;
            let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), 4096, protection, kind, -1, 0)
        };
        if memory == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }),
    forbidden("to become root", |_| call(libc::SYS_setuid, [0, 0, 0])),
    forbidden("to loosen the filter", |_| call(libc::SYS_seccomp, [1, 0, 0])),
    forbidden("to be dumped", |_| call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0])),
    allowed("to start a thread", |_| {
        thread::Builder::new().spawn(|| ()).map(|thread| thread.join().unwrap())
    }),
    allowed("to make a pair of sockets", |_| UnixStream::pair().map(drop)),
    allowed("to write, rename and remove where it may", |place| {
        fs::write(place.join("a"), "")?;
        fs::rename(place.join("a"), place.join("b"))?;
        fs::remove_file(place.join("b"))
    }),
];

const PLACE: &str = "RINGECHO_TESTS_SANDBOX_PLACE";

/// The child. On its own it has nothing to try.
#[test]
fn inside() {
    let Some(place) = env::var_os(PLACE).map(PathBuf::from) else { return };
    let needs = Needs { changeable: vec![place.clone()], ..Needs::default() };
    let privileges = Privileges { sandbox: Sandboxing::Required, user: None };
    Sandbox::begin(&privileges, needs).unwrap().finish().unwrap();
    for Attempt { what, run, is_allowed } in ATTEMPTS {
        let result = run(&place);
        let is_refused = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        let is_right =
            if *is_allowed { result.is_ok() } else { result.as_ref().is_err_and(is_refused) };
        println!("{what}: {is_right} {result:?}");
    }
    println!("tried all");
}

/// The same with the filter alone, which knows no paths.
#[test]
fn inside_of_the_filter() {
    if env::var_os(PLACE).is_none() {
        return;
    }
    seccomp::restrict_all_threads(&Needs::default()).unwrap();
    assert!(fs::read("/etc/passwd").is_ok());
    let error = fs::write("/tmp/sandbox-that-is-not-there", "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    for ring in [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
        assert_eq!(call(ring, [0, 0, 0]).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
    println!("tried all");
}

/// What a ring does passes the filter by, and not Landlock.
#[test]
fn inside_of_a_ring() {
    let Some(place) = env::var_os(PLACE).map(PathBuf::from) else { return };
    let needs = Needs { rings: true, changeable: vec![place.clone()], ..Needs::default() };
    let privileges = Privileges { sandbox: Sandboxing::Required, user: None };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    Sandbox::begin(&privileges, needs).unwrap().finish().unwrap();
    let Ok(mut ring) = IoUring::new(8) else { return println!("tried all, no ring") };
    let mut result = |entry: squeue::Entry| {
        // SAFETY: what the entry points to outlives its completion, which is waited for.
        unsafe { ring.submission().push(&entry) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        ring.completion().next().unwrap().result()
    };
    let mut open = |path: &Path, flags| {
        let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        let open = opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).flags(flags);
        result(open.mode(0o600).build())
    };
    assert_eq!(open(Path::new("/etc/passwd"), libc::O_RDONLY), -libc::EACCES);
    assert_eq!(open(Path::new("/tmp/sandbox"), libc::O_CREAT | libc::O_WRONLY), -libc::EACCES);
    assert!(open(&place.join("a"), libc::O_CREAT | libc::O_WRONLY) >= 0);
    let socket = result(opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build());
    assert!(socket >= 0, "{socket}");
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    };
    let address_len = size_of_val(&address) as u32;
    let connect = opcode::Connect::new(Fd(socket), (&raw const address).cast(), address_len);
    assert_eq!(result(connect.build()), -libc::EACCES);
    println!("tried all");
}

fn try_inside(child: &str) -> String {
    let place = env::temp_dir().join(format!("ringecho-sandbox-{}-{child}", std::process::id()));
    fs::create_dir(&place).unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &format!("sandbox::{child}"), "--nocapture"]).env(PLACE, &place);
    let output = command.output().unwrap();
    fs::remove_dir_all(&place).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("tried all"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn what_is_forbidden_fails_from_inside() {
    if !has_sandbox() {
        return;
    }
    let said = try_inside("inside");
    for Attempt { what, .. } in ATTEMPTS {
        assert!(said.contains(&format!("{what}: true")), "{said}");
    }
    try_inside("inside_of_the_filter");
    try_inside("inside_of_a_ring");
}
