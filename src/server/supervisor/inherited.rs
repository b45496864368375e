//! Listening sockets that a service manager has opened before this process began.

use std::{
    io,
    net::TcpListener,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use socket2::{Domain, SockRef, Type};
use tracing::info;

use super::SupervisorError;
use crate::{
    config::Listen,
    server::sockets::{Opened, listen_address},
};

/// A listening socket that a service manager has opened.
#[derive(Debug)]
pub struct Inherited {
    /// The socket.
    pub listener: TcpListener,
    /// Its name, as in `FileDescriptorName=`.
    pub name: String,
}

/// The beginning of the names of sockets on which TLS is spoken.
const TLS: &str = "tls";

impl Inherited {
    /// The socket, and where it listens.
    pub(in crate::server) fn into_opened(self) -> Opened {
        let Self { listener: socket, name } = self;
        let address = listen_address(&socket);
        info!(%address, name, "listening on a socket of the service manager");
        Opened { socket, listen: Listen { address, speaks_tls: name.starts_with(TLS) } }
    }
}

/// The number of the first descriptor (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// The name of a descriptor that has none.
const UNNAMED: &str = "unnamed";

/// Takes so many descriptors, from [`FIRST`] on.
pub(super) fn claim(count: u32, names: &[String]) -> Result<Vec<Inherited>, SupervisorError> {
    let descriptors = FIRST..FIRST + count.cast_signed();
    let with_names = descriptors.enumerate().map(|(at, descriptor)| {
        let name = names.get(at).filter(|name| !name.is_empty());
        (descriptor, name.map_or(UNNAMED, String::as_str).to_owned())
    });
    let inherited = with_names.map(|(descriptor, name)| {
        let refusal = |found| SupervisorError::Socket { descriptor, name: name.clone(), found };
        let owned = own(descriptor).ok_or_else(|| refusal("not open"))?;
        if let Some(found) = fault(owned.as_fd()) {
            return Err(refusal(found));
        }
        Ok(Inherited { listener: owned.into(), name: name.clone() })
    });
    inherited.collect()
}

/// What a descriptor is, unless it is a listening socket of TCP or a Unix one.
fn fault(descriptor: BorrowedFd<'_>) -> Option<&'static str> {
    let socket = SockRef::from(&descriptor);
    let Ok(kind) = socket.r#type() else { return Some("no socket") };
    if !matches!(socket.domain(), Ok(Domain::IPV4 | Domain::IPV6 | Domain::UNIX)) {
        return Some("no socket of IP, and no Unix socket");
    }
    if kind != Type::STREAM {
        return Some("no stream socket");
    }
    let is_listener = socket.is_listener().is_ok_and(|it| it);
    (!is_listener).then_some("a socket that does not listen")
}

/// Makes an inherited descriptor this process's own, to be closed in programs that it starts; `None`
/// if it is not open.
#[expect(unsafe_code, reason = "a service manager passes descriptors by their numbers")]
fn own(descriptor: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl with F_SETFD takes any number, and changes a flag of an open descriptor.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        debug_assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EBADF));
        return None;
    }
    // SAFETY: the descriptor is open, and the variables say that it was opened for this process, which
    // has opened none with that number itself; it is taken once.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        net::{TcpStream, UdpSocket},
        os::unix::net::UnixListener,
    };

    use super::*;

    #[test]
    fn only_listening_stream_sockets_are_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let path = std::env::temp_dir().join(format!("inherited-{}", std::process::id()));
        let unix = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let sixth = TcpListener::bind("[::1]:0").unwrap();
        assert_eq!(fault(listener.as_fd()), None);
        assert_eq!(fault(sixth.as_fd()), None);
        assert_eq!(fault(connected.as_fd()), Some("a socket that does not listen"));
        assert_eq!(fault(unix.as_fd()), None);
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(fault(datagrams.as_fd()), Some("no stream socket"));
        assert_eq!(fault(File::open("/dev/null").unwrap().as_fd()), Some("no socket"));
    }

    #[test]
    fn descriptor_that_is_not_open_is_refused() {
        // Beyond every limit on descriptors.
        assert!(own(RawFd::MAX).is_none());
    }
}
