//! Socket files: local sockets that listen, and the files by which they are reached.
//!
//! A file that takes the place of another server's is made under a name of its own and renamed, so at
//! its path there is a living server's socket at every moment. The invariant: a server removes no file
//! but its own, and no file that is no socket.

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};

/// A socket's file at the path by which it is reached.
#[derive(Clone, Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// A socket's file under a name that no other server has, which is removed unless it is put in its
/// place.
#[derive(Debug)]
pub(crate) struct PassingFile {
    name: PathBuf,
    path: PathBuf,
}

/// What is behind a path.
pub(crate) enum Behind {
    /// A server that listens.
    Server(Socket),
    /// Nothing, or the file of a server that is gone.
    Nobody,
}

/// Listens at a path at which there is no file.
pub(crate) fn listen(path: &Path, kind: Type, mode: u32, backlog: i32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Nobody can connect before the socket listens.
    let listens = fs::set_permissions(path, Permissions::from_mode(mode))
        .and_then(|()| socket.listen(backlog));
    match listens {
        Ok(()) => Ok(socket),
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

/// Finds out who is behind a path. Connecting waits for at most this long.
pub(crate) fn knock(path: &Path, kind: Type, patience: Duration) -> io::Result<Behind> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Behind::Nobody),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let text = "there is a file that is no socket; remove it, or name another path";
            return Err(io::Error::new(ErrorKind::AlreadyExists, text));
        }
        Ok(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, kind, None)?;
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

/// Removes the file of a server that is gone, if one is there.
pub(crate) fn remove_stale(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        let _ = fs::remove_file(path);
    }
}

impl SocketFile {
    /// The file that is at a path now.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file at the path is still this one.
    pub(crate) fn is_in_place(&self) -> bool {
        Self::at(&self.path)
            .is_ok_and(|file| (file.device, file.inode) == (self.device, self.inode))
    }

    /// Removes the file, unless it is another server's by now.
    pub(crate) fn remove(&self) {
        if self.is_in_place() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl PassingFile {
    /// Listens under a name of its own, to be put at a path later.
    pub(crate) fn listen(
        path: &Path,
        kind: Type,
        mode: u32,
        backlog: i32,
    ) -> io::Result<(Socket, Self)> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{:x}-{:x}", process::id(), COUNT.fetch_add(1, Relaxed) & 0xFFF));
        let name = PathBuf::from(name);
        // A process that died with this number may have left one.
        let _ = fs::remove_file(&name);
        let socket = listen(&name, kind, mode, backlog)?;
        Ok((socket, Self { name, path: path.to_owned() }))
    }

    /// Puts the file at its path, in place of whichever is there.
    pub(crate) fn put_in_place(self) -> io::Result<SocketFile> {
        let file = SocketFile::at(&self.name)?;
        fs::rename(&self.name, &self.path)?;
        Ok(SocketFile { path: self.path.clone(), ..file })
    }
}

impl Drop for PassingFile {
    fn drop(&mut self) {
        // There is none any more once it is in its place.
        let _ = fs::remove_file(&self.name);
    }
}
