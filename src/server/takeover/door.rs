//! The socket file at which a running server hears of its successor.
//!
//! The file appears by a rename, so at its path there is a living server's socket at every moment,
//! and a new server's takes the place of the old one's in one step. Only its owner may connect. The
//! invariant: a server removes no file but its own.

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    net::Shutdown,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket};

use super::link::Link;

/// A listening socket, and the file by which it is reached.
pub(in crate::server) struct Door {
    socket: Socket,
    path: PathBuf,
    file: FileId,
}

/// Which file is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

/// What is behind a path.
pub(super) enum Behind {
    /// A server that listens.
    Server(Socket),
    /// Nothing, or the file of a server that is gone.
    Nobody,
}

/// Takeovers that may wait for the one that is under way.
const WAITING_MAX: i32 = 8;

impl Door {
    /// Listens at a path, in place of whoever listened there.
    pub(in crate::server) fn open(path: &Path) -> io::Result<Self> {
        let new_path = passing_path(path);
        // A process that died with this number may have left one.
        let _ = fs::remove_file(&new_path);
        let socket = Socket::new(Domain::UNIX, Link::TYPE, None)?;
        socket.bind(&SockAddr::unix(&new_path)?)?;
        let opened = (|| {
            // Nobody can connect before the socket listens.
            fs::set_permissions(&new_path, Permissions::from_mode(0o600))?;
            socket.listen(WAITING_MAX)?;
            let file = FileId::at(&new_path)?;
            fs::rename(&new_path, path)?;
            Ok(file)
        })();
        match opened {
            Ok(file) => Ok(Self { socket, path: path.to_owned(), file }),
            Err(error) => {
                let _ = fs::remove_file(&new_path);
                Err(error)
            }
        }
    }

    /// A second handle on the same door.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let Self { socket, path, file } = self;
        Ok(Self { socket: socket.try_clone()?, path: path.clone(), file: *file })
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
        FileId::at(&self.path).is_ok_and(|file| file == self.file)
    }

    /// Removes the file, unless it is another server's by now.
    pub(super) fn remove(&self) {
        if self.is_in_place() {
            let _ = fs::remove_file(&self.path);
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl FileId {
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// Finds out who is behind a path. Connecting waits for at most this long.
pub(super) fn knock(path: &Path, patience: Duration) -> io::Result<Behind> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Behind::Nobody),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let text = "there is a file that is no socket; remove it, or name another path";
            return Err(io::Error::new(ErrorKind::AlreadyExists, text));
        }
        Ok(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Link::TYPE, None)?;
    socket.set_write_timeout(Some(patience))?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(Behind::Server(socket)),
        Err(error)
            if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) =>
        {
            Ok(Behind::Nobody)
        }
        Err(error) => Err(error),
    }
}

/// The name of a socket file until it is renamed: no two servers have the same.
fn passing_path(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:x}-{:x}", process::id(), COUNT.fetch_add(1, Relaxed) & 0xFFF));
    name.into()
}
