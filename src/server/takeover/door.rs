//! The socket file at which a running server hears of its successor. A new server's takes the place of
//! the old one's in one step, and only its owner may connect.

use std::{io, io::ErrorKind, net::Shutdown, path::Path, time::Duration};

use socket2::Socket;

use super::link::Link;
pub(super) use crate::entry::socket_file::Behind;
use crate::entry::socket_file::{self, PassingFile, SocketFile};

/// A listening socket, and the file by which it is reached.
pub(in crate::server) struct Door {
    socket: Socket,
    file: SocketFile,
}

/// Takeovers that may wait for the one that is under way.
const WAITING_MAX: i32 = 8;

/// Whoever may connect: the server's user.
const MODE: u32 = 0o600;

impl Door {
    /// Listens at a path, in place of whoever listened there.
    pub(in crate::server) fn open(path: &Path) -> io::Result<Self> {
        let (socket, file) = PassingFile::listen(path, Link::TYPE, MODE, WAITING_MAX)?;
        Ok(Self { socket, file: file.put_in_place()? })
    }

    /// A second handle on the same door.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, file: self.file.clone() })
    }

    /// Waits for a new server for at most this long.
    pub(super) fn accept(&self, patience: Duration) -> io::Result<Option<Socket>> {
        self.socket.set_read_timeout(Some(patience))?;
        match self.socket.accept() {
            Ok((socket, _)) => Ok(Some(socket)),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends [`accept`](Self::accept), on whichever thread and handle. Whoever waits is turned away.
    pub(super) fn shut(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Whether the file at the path is this door's.
    pub(super) fn is_in_place(&self) -> bool {
        self.file.is_in_place()
    }

    /// Removes the file, unless it is another server's by now.
    pub(super) fn remove(&self) {
        self.file.remove();
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }
}

/// Finds out who is behind a path. Connecting waits for at most this long.
pub(super) fn knock(path: &Path, patience: Duration) -> io::Result<Behind> {
    socket_file::knock(path, Link::TYPE, patience)
}
