//! Odd places to start in, and what is said of those that are too narrow.

use std::{
    fs,
    io::Read,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread::sleep,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::program::{address, ringecho, signal, start, url};

/// The program, started by a shell that has prepared the place.
fn ringecho_after(preparation: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!(r#"{preparation} && exec "$@""#), "sh"]);
    command.arg(ringecho().get_program()).args(["--listen", "127.0.0.1:0"]).args(arguments);
    command
}

/// Runs it, sees an echo, stops it, and returns its log.
fn log_of_an_echo(command: &mut Command) -> String {
    let (mut child, line) = start(command);
    let stream = TcpStream::connect(address(&line)).unwrap();
    let (mut client, _) = tungstenite::client(url(&line), stream).unwrap();
    client.send("hello".into()).unwrap();
    assert_eq!(client.read().unwrap(), "hello".into());
    drop(client);
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    child.stderr.unwrap().read_to_string(&mut log).unwrap();
    log
}

#[test]
fn few_open_files_are_announced_with_how_many_connections_they_leave_room_for() {
    for (limit, driver) in [(64, "auto"), (64, "epoll"), (1024, "auto")] {
        let preparation = format!("ulimit -n {limit}");
        let arguments = ["--workers=2", "--driver", driver];
        let log = log_of_an_echo(&mut ringecho_after(&preparation, &arguments));
        let room = log.split("the limit of open files leaves room for ").nth(1).expect(&log);
        let (room, advice) = room.split_once(' ').unwrap();
        assert!((1..limit).contains(&room.parse().unwrap()), "{log}");
        assert!(advice.starts_with("connections; raise it with ulimit -n"), "{log}");
    }
}

#[test]
fn too_few_open_files_are_refused_with_what_helps() {
    for limit in [8, 12, 16] {
        let preparation = format!("ulimit -n {limit}");
        let mut command = ringecho_after(&preparation, &["--workers=4"]);
        let Output { status, stderr, .. } = command.output().unwrap();
        let message = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{limit}: {message}");
        assert!(message.contains("raise the limit of this process with ulimit -n"), "{message}");
    }
}

#[test]
fn thread_that_cannot_be_started_is_refused_with_what_helps() {
    // The limit is one for all processes of a user, and none for root.
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut setpriv = Command::new("setpriv");
    setpriv.args(user).arg(ringecho().get_program()).arg("--version");
    if !setpriv.output().is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped, this user may not become another, or that one not start it");
    }
    let mut command = Command::new("prlimit");
    command.args(["--nproc=1:1", "setpriv"]).args(user).arg(ringecho().get_program());
    let Output { status, stderr, .. } = command.args(["--listen=127.0.0.1:0"]).output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{message}");
    // Before it may stand that io_uring could not be tried, for which a thread is needed too.
    let refusal = message.lines().last().unwrap();
    assert!(refusal.starts_with("error: no thread can be started"), "{message}");
    assert!(message.contains("ulimit -u") && message.contains("ulimit -v"), "{message}");
}

#[test]
fn server_needs_neither_environment_nor_working_directory() {
    let preparation = r#"place=$(mktemp -d) && cd "$place" && rmdir "$place" && unset HOME LANG"#;
    let log = log_of_an_echo(&mut ringecho_after(preparation, &[]));
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

#[test]
fn server_needs_neither_proc_nor_sys_nor_a_writable_root() {
    let mut unshare = Command::new("unshare");
    if !unshare.args(["--mount", "true"]).status().is_ok_and(|status| status.success()) {
        return eprintln!("skipped, this user may not mount");
    }
    let preparation = "mount -t tmpfs none /proc && mount -t tmpfs none /sys && \
                       mount -o remount,bind,ro /";
    let prepared = ringecho_after(preparation, &[]);
    let mut command = Command::new("unshare");
    command.arg("--mount").arg(prepared.get_program()).args(prepared.get_args());
    let log = log_of_an_echo(&mut command);
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

#[test]
fn cpu_that_may_not_be_used_is_refused_with_those_that_may() {
    let cpus = ringecho::host::cpu_list::CpuList::usable().unwrap();
    let &[allowed, other, ..] = cpus.as_slice() else {
        return eprintln!("skipped, this machine has one CPU");
    };
    let preparation = format!("taskset -p -c {allowed} $$ >/dev/null");
    log_of_an_echo(&mut ringecho_after(&preparation, &[]));
    let mut command = ringecho_after(&preparation, &["--cpus", &other.to_string()]);
    let Output { status, stderr, .. } = command.output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{message}");
    let refusal = format!(
        "'{other}' for '--cpus <LIST>': CPU {other} is not among the CPUs that this process may \
         use: {allowed}"
    );
    assert!(message.contains(&refusal), "{message}");
}

/// Only the engine has buffers that could be in them.
#[test]
fn huge_pages_without_an_engine_are_refused_or_announced() {
    let why = "there is no engine: --data-plane is portable";
    let mut command = ringecho();
    command.args(["--listen=127.0.0.1:0", "--huge-pages=explicit", "--data-plane=portable"]);
    let Output { status, stderr, .. } = command.output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{message}");
    for said in ["error: --huge-pages explicit: ", why, "use --huge-pages off"] {
        assert!(message.contains(said), "{message}");
    }
    let mut command = ringecho();
    command.args(["--listen=127.0.0.1:0", "--huge-pages=transparent", "--data-plane=portable"]);
    let log = log_of_an_echo(&mut command);
    assert!(log.contains("--huge-pages transparent: ") && log.contains(why), "{log}");
}

/// Only the engine polls before it sleeps.
#[test]
fn spinning_without_an_engine_is_announced() {
    for (data_plane, is_told) in [("--data-plane=portable", true), ("--data-plane=auto", false)] {
        let mut command = ringecho();
        command.args(["--listen=127.0.0.1:0", "--driver=epoll", "--spin=50us", data_plane]);
        let log = log_of_an_echo(&mut command);
        let said = "--spin 50us: only an engine polls, and there is no engine: --data-plane is";
        assert_eq!(log.contains(said), is_told, "{log}");
    }
}

/// A control group of this machine that may use the time of half a CPU, in either version.
struct HalfACpu(PathBuf);

impl HalfACpu {
    fn new() -> Option<Self> {
        let name = format!("ringecho-test-{}", std::process::id());
        for (root, quota) in [
            (
                "/sys/fs/cgroup/cpu",
                &[("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")][..],
            ),
            ("/sys/fs/cgroup", &[("cpu.max", "50000 100000")]),
        ] {
            let group = Self(Path::new(root).join(&name));
            let is_made = fs::create_dir(&group.0).is_ok()
                && quota.iter().all(|(file, text)| {
                    let file = group.0.join(file);
                    file.exists() && fs::write(file, text).is_ok()
                });
            if is_made {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for HalfACpu {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn quota_of_cpu_time_lowers_the_number_of_workers_unless_it_is_given() {
    let cpus = ringecho::host::cpu_list::CpuList::usable().unwrap().as_slice().len();
    let Some(group) = HalfACpu::new().filter(|_| cpus > 1) else {
        return eprintln!("skipped, this machine has one CPU or gives this user no control group");
    };
    let preparation = format!("echo $$ > {}/cgroup.procs", group.0.display());
    for (arguments, is_lowered) in [(&[][..], true), (&["--workers=2"], false)] {
        let (mut child, line) = start(&mut ringecho_after(&preparation, arguments));
        assert_eq!(line.contains("(1 worker, "), is_lowered, "{line}");
        signal(&child, Signal::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let mut log = String::new();
        child.stderr.unwrap().read_to_string(&mut log).unwrap();
        let said = format!(
            "fewer workers (1) than CPUs ({cpus}): the control group may use the time of 0.5"
        );
        assert_eq!(log.contains(&said), is_lowered, "{log}");
    }
}

/// The watchdog stood still as well.
#[test]
fn program_that_was_stopped_and_goes_on_is_no_worker_that_stands_still() {
    let (mut child, line) = start(&mut ringecho_after("true", &["--watchdog=2s"]));
    signal(&child, Signal::SIGSTOP);
    sleep(Duration::from_secs(4));
    signal(&child, Signal::SIGCONT);
    assert!(TcpStream::connect(address(&line)).is_ok());
    // So long that the watchdog looks again.
    sleep(Duration::from_secs(1));
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    child.stderr.unwrap().read_to_string(&mut log).unwrap();
    assert!(!log.contains("stands still"), "{log}");
}
