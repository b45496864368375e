//! The program where a container's filter refuses the calls of `io_uring`, which is the default of
//! Docker and containerd: it says so, takes the next best, and echoes.

use std::{
    io::{self, Read},
    net::TcpStream,
    process::Command,
};

use nix::{
    libc::{self, ENOSYS, EPERM, SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup},
    sys::signal::Signal,
};
use ringecho::plane::engine::{self, Lack};
use tungstenite::Message;

use crate::{
    program::{address, ringecho, signal, start, url},
    seccomp::{Refused, refuse},
};

const CALLS: [libc::c_long; 3] = [SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register];

/// The program, with these calls refused.
fn without(calls: &[libc::c_long], errno: i32, flags: &[&str]) -> Command {
    let refused: Vec<_> = calls.iter().map(|call| Refused::always(*call, errno)).collect();
    let mut command = ringecho();
    refuse(command.args(["--listen=127.0.0.1:0", "--workers=1"]).args(flags), &refused);
    command
}

/// Starts the program, has it echo a message, and stops it; returns its ready line and its log.
fn echo(command: &mut Command) -> (String, String) {
    let (mut child, line) = start(command);
    let stream = TcpStream::connect(address(&line)).unwrap();
    let (mut client, _) = tungstenite::client(url(&line), stream).unwrap();
    client.send(Message::text("hello")).unwrap();
    assert_eq!(client.read().unwrap(), Message::text("hello"));
    drop(client);
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    child.stderr.unwrap().read_to_string(&mut log).unwrap();
    (line, log)
}

/// Calls `check` for each of the three calls and for all together, refused in both ways, with what the
/// program says of it if it wants the engine, and if it wants the portable path.
fn each_refusal(check: impl Fn(&[libc::c_long], i32, [&str; 2])) {
    // Where a ring lacks something, the engine's probe finds that before it enters the ring.
    let lacks_something = matches!(engine::probe(), Err(Lack::Unknown(_)));
    for errno in [EPERM, ENOSYS] {
        let cause = io::Error::from_raw_os_error(errno);
        let forbidden = format!("io_uring cannot be used here ({cause}): allow io_uring_setup, ");
        for calls in [&CALLS[..1], &CALLS[1..2], &CALLS[2..], &CALLS[..]] {
            let engines = if lacks_something && calls == [SYS_io_uring_enter] {
                "this kernel's io_uring lacks what the engine needs "
            } else {
                &*forbidden
            };
            check(calls, errno, [engines, &forbidden]);
        }
    }
}

#[test]
fn program_without_calls_of_io_uring_says_so_and_echoes_on_epoll() {
    each_refusal(|calls, errno, [engines, portables]| {
        for (flags, platform, obstacle, said) in [
            (&[][..], "epoll with engine", engines, "; the engine uses epoll\n"),
            (&["--data-plane=engine"], "epoll with engine", engines, "; the engine uses epoll\n"),
            (&["--data-plane=portable"], "epoll", portables, "; using epoll\n"),
        ] {
            let (line, log) = echo(&mut without(calls, errno, flags));
            assert!(line.ends_with(&format!("/ws (1 worker, {platform})\n")), "{calls:?}: {line}");
            for said in [obstacle, said] {
                assert_eq!(log.matches(said).count(), 1, "{calls:?}: {said} in {log}");
            }
        }
    });
}

#[test]
fn program_that_is_told_to_use_epoll_calls_nothing_of_io_uring() {
    for flags in [&["--driver=epoll"][..], &["--driver=epoll", "--data-plane=portable"]] {
        let refused = CALLS.map(Refused::fatally);
        let mut command = ringecho();
        refuse(command.args(["--listen=127.0.0.1:0", "--workers=1"]).args(flags), &refused);
        let (_, log) = echo(&mut command);
        assert!(!log.contains("io_uring"), "{log}");
    }
}

#[test]
fn program_that_insists_on_io_uring_is_refused() {
    each_refusal(|calls, errno, [engines, portables]| {
        for (flags, flag, obstacle) in [
            (&["--driver=io_uring"][..], "--driver io_uring: ", portables),
            (&["--driver=io_uring", "--data-plane=portable"], "--driver io_uring: ", portables),
            (
                &["--driver=io_uring", "--data-plane=engine"],
                "--data-plane engine with --driver io_uring: ",
                engines,
            ),
        ] {
            let output = without(calls, errno, flags).output().unwrap();
            let message = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{message}");
            assert!(message.contains(&format!("error: {flag}{obstacle}")), "{message}");
        }
    });
}

#[test]
fn program_whose_epoll_is_refused_does_not_start() {
    #[cfg(target_arch = "x86_64")]
    const WAIT: libc::c_long = libc::SYS_epoll_wait;
    #[cfg(not(target_arch = "x86_64"))]
    const WAIT: libc::c_long = libc::SYS_epoll_pwait;
    for call in [libc::SYS_epoll_create1, libc::SYS_epoll_ctl, WAIT] {
        for data_plane in ["--data-plane=engine", "--data-plane=portable"] {
            let output = without(&[call], EPERM, &["--driver=epoll", data_plane]).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            let message = "error: worker 0: it could not start: epoll: Operation not permitted";
            assert_eq!(output.status.code(), Some(1), "{call}: {said}");
            assert!(said.starts_with(message) && said.lines().count() == 1, "{call}: {said}");
        }
    }
}
