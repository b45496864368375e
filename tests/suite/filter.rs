//! The program where a container's filter refuses the calls of `io_uring`, which is the default of
//! Docker and containerd: it says so, takes the next best, and echoes.

use std::{
    io::{self, Read},
    net::TcpStream,
};

use nix::{
    libc::{self, ENOSYS, EPERM, SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup},
    sys::signal::Signal,
};
use tungstenite::Message;

use crate::{
    program::{address, ringecho, signal, start, url},
    seccomp::{Refused, refuse},
};

const CALLS: [libc::c_long; 3] = [SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register];

/// Starts the program with these calls refused, has it echo a message, and stops it; returns its
/// ready line and its log.
fn echo_without(calls: &[libc::c_long], errno: i32) -> (String, String) {
    let refused: Vec<_> = calls.iter().map(|call| Refused::always(*call, errno)).collect();
    let mut command = ringecho();
    refuse(command.args(["--listen=127.0.0.1:0", "--workers=1"]), &refused);
    let (mut child, line) = start(&mut command);
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

#[test]
fn program_without_calls_of_io_uring_says_so_and_echoes_on_the_next_best() {
    for errno in [EPERM, ENOSYS] {
        for calls in [&CALLS[..1], &CALLS[1..2], &CALLS[2..], &CALLS[..]] {
            let (line, log) = echo_without(calls, errno);
            assert!(line.ends_with("/ws (1 worker, epoll)\n"), "{calls:?}: {line}");
            let cause = io::Error::from_raw_os_error(errno);
            for said in [
                &*format!("io_uring cannot be used here ({cause}): allow io_uring_setup, "),
                "; using epoll\n",
                "no engine, it needs io_uring; using the portable path\n",
            ] {
                assert_eq!(log.matches(said).count(), 1, "{calls:?}: {said} in {log}");
            }
        }
    }
}
