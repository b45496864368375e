//! How other threads tell a worker something: by a byte in a stream, or by the stream's end.

use std::{
    io::{self, Read},
    os::{fd::AsFd, unix::net::UnixStream},
};

use crate::{host::descriptors::SystemCallError, plane::Plane};

/// The worker's end of such a stream.
pub(super) struct Signal<P: Plane> {
    stream: UnixStream,
    source: P::Source,
}

impl<P: Plane> Signal<P> {
    pub(super) fn new(stream: UnixStream, plane: &P) -> Result<Self, SystemCallError> {
        stream.set_nonblocking(true).map_err(SystemCallError::naming("ioctl(FIONBIO)"))?;
        let source = source(&stream, plane)?;
        Ok(Self { stream, source })
    }

    /// Waits for bytes; false at the stream's end.
    pub(super) async fn heard(&mut self, plane: &P) -> io::Result<bool> {
        loop {
            plane.readable(&self.source).await?;
            match self.stream.read(&mut [0; 64]) {
                Err(error) if is_passing(&error) => {}
                result => return result.map(|len| len > 0),
            }
        }
    }
}

/// A descriptor to wait for, beside the one that is read or accepted from.
pub(super) fn source<P: Plane>(
    descriptor: &impl AsFd,
    plane: &P,
) -> Result<P::Source, SystemCallError> {
    let descriptor = descriptor.as_fd().try_clone_to_owned();
    let descriptor = descriptor.map_err(SystemCallError::naming("fcntl(F_DUPFD_CLOEXEC)"))?;
    plane.source(descriptor).map_err(SystemCallError::naming("epoll_ctl"))
}

/// Whether a call is to be made again, now or later.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
