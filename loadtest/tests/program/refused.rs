//! Systems that refuse something, as containers and tight limits do: the program does without what
//! it can do without, and says so; what it cannot is an error. It never waits for ever.

use std::{
    io::Read,
    process::{Command, Output, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::libc::{self, EINVAL, ENOMEM, ENOSYS, EPERM, c_long};

use crate::{
    filter::{Refused, refuse},
    invocation::{Outcome, program},
    servers::Server,
};

const SHORT: &str = "-c 2 -t 2 --warmup 0s --duration 100ms --json -";

/// After this time the program is taken to hang.
const PATIENCE: Duration = Duration::from_mins(1);

/// Runs `command` to its end, with these system calls refused.
#[track_caller]
fn run_refused(mut command: Command, refused: &[Refused]) -> Output {
    refuse(&mut command, refused);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = read_all(child.stdout.take().unwrap());
    let stderr = read_all(child.stderr.take().unwrap());
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{refused:?}: it hangs");
        }
        thread::sleep(Duration::from_millis(10));
    };
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

#[track_caller]
fn assert_warned(outcome: &Outcome, code: &str, said: &str) {
    let warnings = outcome.report["warnings"].as_array().unwrap();
    let found = warnings.iter().filter(|warning| warning["code"] == code).count();
    assert_eq!(found, 1, "{code}: {warnings:#?}");
    let lines = outcome.stderr.lines();
    let lines = lines.filter(|line| line.starts_with("warning: ") && line.contains(said)).count();
    assert_eq!(lines, 1, "{said}: {}", outcome.stderr);
}

#[test]
fn where_io_uring_is_refused_in_part_epoll_is_used() {
    let server = Server::honest();
    let [setup, enter, register] =
        [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
    for calls in
        [&[enter][..], &[setup], &[register], &[enter, register], &[setup, enter, register]]
    {
        for errno in [EPERM, ENOSYS] {
            let refused: Vec<_> = calls.iter().map(|call| Refused::always(*call, errno)).collect();
            for load in ["", "--rate 1k", "--rate 1k --wait sleep"] {
                let command = program(&format!("{} {SHORT} {load}", server.url()));
                let outcome = Outcome::read(&run_refused(command, &refused));
                outcome.assert_success();
                assert_eq!(outcome.report["driver"], "epoll");
                let cause = std::io::Error::from_raw_os_error(errno);
                let said = format!("io_uring cannot be used here ({cause}), epoll is used: allow ");
                assert_warned(&outcome, "io_uring_unavailable", &said);
            }
        }
    }
    for command in ["idle", "compare", "search"] {
        let url = server.url();
        let arguments = match command {
            "idle" => format!("idle {url} -c 2 --duration 10ms --json -"),
            "compare" => format!("compare {url} {url} --rounds 2 {SHORT}"),
            _ => format!("search {url} --slo p99<10s --start-rate 100 --max-rate 100 {SHORT}"),
        };
        let refused = [Refused::always(enter, EPERM)];
        let outcome = Outcome::read_any(&run_refused(program(&arguments), &refused));
        assert_warned(&outcome, "io_uring_unavailable", "io_uring cannot be used here");
    }
}

#[test]
fn where_epoll_is_asked_for_nothing_is_said() {
    let server = Server::honest();
    let mut command = program(&format!("{} {SHORT}", server.url()));
    command.env("MONOIO_FORCE_LEGACY_DRIVER", "1");
    let refused = [Refused::always(libc::SYS_io_uring_setup, EPERM)];
    let outcome = Outcome::read(&run_refused(command, &refused));
    outcome.assert_success();
    assert!(!outcome.stderr.contains("io_uring"), "{}", outcome.stderr);
}

#[test]
fn without_memory_for_a_ring_it_is_smaller_or_epoll_is_used() {
    let server = Server::honest();
    let lacking = "(Cannot allocate memory";
    for (entries, driver, code, said) in [
        (512, "io_uring", "small_rings", "a thread's ring has 256 entries instead of 1024"),
        (8, "epoll", "io_uring_unavailable", "a thread cannot have a ring of its own"),
        (0, "epoll", "io_uring_unavailable", "io_uring cannot be used here"),
    ] {
        let refused =
            [Refused { call: libc::SYS_io_uring_setup, errno: ENOMEM, above: Some(entries) }];
        let command = program(&format!("{} {SHORT}", server.url()));
        let outcome = Outcome::read(&run_refused(command, &refused));
        outcome.assert_success();
        assert_eq!(outcome.report["driver"], driver);
        assert_warned(&outcome, code, &format!("{said} {lacking}"));
        assert!(outcome.stderr.contains("ulimit -l unlimited"), "{}", outcome.stderr);
    }
}

#[test]
fn threads_that_cannot_be_pinned_run_anywhere() {
    let server = Server::honest();
    for errno in [EPERM, ENOSYS, EINVAL] {
        let refused = [Refused::always(libc::SYS_sched_setaffinity, errno)];
        let command = program(&format!("{} {SHORT} --cpus 0", server.url()));
        let outcome = Outcome::read(&run_refused(command, &refused));
        outcome.assert_success();
        assert!(outcome.report["cpus"].is_null());
        assert_warned(&outcome, "not_pinned", "cannot be pinned to CPU 0 (");
    }
}

#[test]
fn socket_options_that_are_refused_are_done_without() {
    let server = Server::honest();
    for (flags, option) in [
        ("", "TCP_NODELAY cannot be set"),
        ("--source 127.0.0.2", "IP_BIND_ADDRESS_NO_PORT cannot"),
    ] {
        let refused = [Refused::always(libc::SYS_setsockopt, EPERM)];
        let command = program(&format!("{} {SHORT} {flags}", server.url()));
        let outcome = Outcome::read(&run_refused(command, &refused));
        outcome.assert_success();
        assert_warned(&outcome, "socket_option_refused", option);
    }
}

/// What a start and connections call, but for what a process cannot even be loaded or end without,
/// and what the standard library does not start without: `poll` and `rt_sigaction`.
const CALLS: &[(&str, c_long)] = &[
    ("accept4", libc::SYS_accept4),
    ("access", libc::SYS_access),
    ("bind", libc::SYS_bind),
    ("clock_nanosleep", libc::SYS_clock_nanosleep),
    ("clone", libc::SYS_clone),
    ("clone3", libc::SYS_clone3),
    ("connect", libc::SYS_connect),
    ("epoll_create1", libc::SYS_epoll_create1),
    ("epoll_ctl", libc::SYS_epoll_ctl),
    ("epoll_wait", libc::SYS_epoll_wait),
    ("eventfd2", libc::SYS_eventfd2),
    ("faccessat2", libc::SYS_faccessat2),
    ("fcntl", libc::SYS_fcntl),
    ("getdents64", libc::SYS_getdents64),
    ("getpid", libc::SYS_getpid),
    ("getrandom", libc::SYS_getrandom),
    ("getsockopt", libc::SYS_getsockopt),
    ("gettid", libc::SYS_gettid),
    ("ioctl", libc::SYS_ioctl),
    ("lseek", libc::SYS_lseek),
    ("madvise", libc::SYS_madvise),
    ("mlock", libc::SYS_mlock),
    ("prctl", libc::SYS_prctl),
    ("prlimit64", libc::SYS_prlimit64),
    ("recvfrom", libc::SYS_recvfrom),
    ("rseq", libc::SYS_rseq),
    ("sched_getaffinity", libc::SYS_sched_getaffinity),
    ("sched_setaffinity", libc::SYS_sched_setaffinity),
    ("sched_yield", libc::SYS_sched_yield),
    ("sendto", libc::SYS_sendto),
    ("set_robust_list", libc::SYS_set_robust_list),
    ("setsockopt", libc::SYS_setsockopt),
    ("shutdown", libc::SYS_shutdown),
    ("sigaltstack", libc::SYS_sigaltstack),
    ("socket", libc::SYS_socket),
    ("socketpair", libc::SYS_socketpair),
    ("statx", libc::SYS_statx),
    ("sysinfo", libc::SYS_sysinfo),
    ("timerfd_create", libc::SYS_timerfd_create),
    ("timerfd_settime", libc::SYS_timerfd_settime),
    ("uname", libc::SYS_uname),
    ("writev", libc::SYS_writev),
];

#[test]
fn each_call_may_be_refused_without_a_panic_or_a_hang() {
    let server = Server::honest();
    let url = server.url();
    let ways = [
        ("", false),
        ("--cpus 0", true),
        ("--rate 1k", false),
        ("--rate 1k", true),
        ("--rate 1k --wait sleep --source 127.0.0.2", true),
    ];
    let faults: Vec<String> = thread::scope(|scope| {
        let check = |(load, on_epoll): (&str, bool)| {
            CALLS.iter().filter_map(|call| fault_of(&url, load, on_epoll, *call)).collect()
        };
        let checks: Vec<_> = ways.map(|way| scope.spawn(move || check(way))).into_iter().collect();
        let faults = checks.into_iter().map(|check| check.join().unwrap());
        faults.collect::<Vec<Vec<String>>>().concat()
    });
    assert!(faults.is_empty(), "{faults:#?}");
}

/// What is wrong with a run for which a call is refused.
fn fault_of(url: &str, load: &str, on_epoll: bool, call: (&str, c_long)) -> Option<String> {
    let (name, number) = call;
    let mut command = program(&format!("{url} {SHORT} {load}"));
    if on_epoll {
        command.env("MONOIO_FORCE_LEGACY_DRIVER", "1");
    }
    let output = run_refused(command, &[Refused::always(number, EPERM)]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let has_result = serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok();
    let is_right = match output.status.code() {
        Some(0) => has_result,
        Some(1) => has_result || stderr.contains("error: "),
        Some(2) => stderr.contains("error: "),
        _ => false,
    };
    let is_fault = !is_right || stderr.contains("panicked");
    is_fault.then(|| format!("{name} ({load}, epoll {on_epoll}): {:?} {stderr}", output.status))
}
