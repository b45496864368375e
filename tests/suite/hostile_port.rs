//! Other users of the machine: none of them gets connections that are meant for the server.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    thread,
};

use nix::libc;
use socket2::{Domain, Socket, Type};

use crate::program::{address, ringecho, start};

/// A user that owns nothing.
const NOBODY: libc::uid_t = 65534;

/// Every worker's socket shares its port, so the kernel alone keeps others out: it lets only sockets
/// of the same user share. Only root can try what another user may do.
#[test]
fn other_user_cannot_share_the_port() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return println!("skipped: this needs root");
    }
    for flags in [&[][..], &["--reuse-port"]] {
        for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
            let mut command = ringecho();
            let (mut program, line) = start(command.args(["--listen", listen]).args(flags));
            let port = address(&line).parse::<SocketAddr>().unwrap().port();
            for host in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
                let address = SocketAddr::from((host, port));
                let error = thread::spawn(move || listen_as(NOBODY, address)).join().unwrap();
                let kind = error.expect_err("the port is taken").kind();
                assert_eq!(kind, io::ErrorKind::AddrInUse, "{flags:?} {listen} {address}");
            }
            program.kill().unwrap();
            program.wait().unwrap();
        }
    }
}

/// Listens on a shared port as another user, which the calling thread is from then on.
#[expect(unsafe_code, reason = "nix changes the user of the whole process")]
fn listen_as(user: libc::uid_t, address: SocketAddr) -> io::Result<Socket> {
    // SAFETY: the call takes numbers, and changes this thread alone.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
    assert_eq!(result, 0);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    Ok(socket)
}
