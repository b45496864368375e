//! Accepting: connections come from this worker's listener, or from another worker that assigns them
//! here, and each becomes a task.

use std::{
    convert::Infallible,
    io, mem,
    net::{Shutdown, SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream},
    os::fd::AsRawFd,
    rc::Rc,
    time::Duration,
};

use nix::errno::Errno;
use socket2::SockRef;
use tracing::{debug, warn};

use super::{Worker, signal::Signal};
use crate::{
    connection::{ConnectionEnd, Control},
    entry::balance::{Accepted, Member},
    host::descriptors::{self, SystemCallError},
    plane::Plane,
};

/// How many connections are accepted before others have their turn.
const ACCEPTED_MAX: usize = 32;

/// How long accepting rests after the process ran out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepting failed since something is used up, as descriptors or memory.
struct Exhausted {
    error: io::Error,
    remedy: &'static str,
}

/// Whether what is tried again and again is failing. One warning is enough for as long as it fails.
#[derive(Default)]
pub(super) struct Failing(bool);

impl Failing {
    /// Notes a failure, and returns whether it is the first since a success.
    pub(super) fn begins(&mut self) -> bool {
        !mem::replace(&mut self.0, true)
    }

    /// Notes a success.
    pub(super) fn ends(&mut self) {
        self.0 = false;
    }
}

impl<P: Plane> Worker<P> {
    /// Tries to accept, to see whether that is allowed. A connection that waits already is admitted.
    pub(super) fn try_to_accept(
        self: &Rc<Self>,
        listener: &StdTcpListener,
    ) -> Result<(), SystemCallError> {
        match listener.accept() {
            Ok((stream, peer)) => self.assign(stream, peer),
            Err(error) if is_refusal(&error) => {
                return Err(SystemCallError { call: "accept4", source: error });
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Accepts connections for ever.
    pub(super) async fn accept(
        self: &Rc<Self>,
        listener: &StdTcpListener,
        source: &P::Source,
    ) -> Infallible {
        let (mut accepting, mut waiting) = (Failing::default(), Failing::default());
        loop {
            match self.accept_waiting(listener, ACCEPTED_MAX) {
                Ok(()) => {
                    accepting.ends();
                    match self.plane.readable(source).await {
                        Ok(()) => waiting.ends(),
                        Err(error) => {
                            if waiting.begins() {
                                warn!(%error, "cannot wait for connections; trying again");
                            }
                            self.plane.sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
                Err(Exhausted { error, remedy }) => {
                    if accepting.begins() {
                        warn!(%error, "cannot accept; {remedy}");
                    }
                    self.plane.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Accepts the connections that wait when the worker is to stop, at most `count_max`, and closes
    /// the queue.
    pub(super) fn accept_the_last(self: &Rc<Self>, listener: &StdTcpListener, count_max: usize) {
        // Closing the queue resets the connections in it. Those that come from here on may be reset.
        if let Err(Exhausted { error, remedy }) = self.accept_waiting(listener, count_max) {
            warn!(%error, "cannot accept all who wait; {remedy}");
        }
        // Without this, a ring that waits for the queue would keep it open for a while.
        let _ = SockRef::from(listener).shutdown(Shutdown::Both);
    }

    /// Accepts the connections that wait in the queue, at most `count_max`.
    fn accept_waiting(
        self: &Rc<Self>,
        listener: &StdTcpListener,
        count_max: usize,
    ) -> Result<(), Exhausted> {
        let mut failures = 0;
        for _ in 0..count_max {
            match listener.accept() {
                Ok((stream, peer)) => self.assign(stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    failures += 1;
                    if let Some(remedy) = remedy(&error) {
                        return Err(Exhausted { error, remedy });
                    }
                    if failures == ACCEPTED_MAX {
                        let remedy = "it fails again and again; trying on";
                        return Err(Exhausted { error, remedy });
                    }
                    // The peer was gone before it was accepted.
                    debug!(%error, "accept failed");
                }
            }
        }
        Ok(())
    }

    /// Admits an accepted connection, unless it is another worker's to admit.
    fn assign(self: &Rc<Self>, stream: StdTcpStream, peer: SocketAddr) {
        let release = |stream: StdTcpStream| Accepted { descriptor: stream.into(), peer };
        let stays = match &self.member {
            Some(member) => member.assign(stream, release),
            None => Some(stream),
        };
        if let Some(stream) = stays {
            self.admit(stream, peer);
        }
    }

    /// Admits what other workers assign to this one, until it leaves the balance.
    pub(super) async fn admit_assigned(self: Rc<Self>, mut woken: Signal<P>) {
        let Some(member) = &self.member else { return };
        let mut hearing = Failing::default();
        loop {
            // The inbox may have connections from the start, left by a worker that died.
            self.empty_inbox(member);
            match woken.heard(&self.plane).await {
                Ok(true) => hearing.ends(),
                Ok(false) => return,
                Err(error) => {
                    if hearing.begins() {
                        warn!(%error, "cannot hear of assigned connections; trying again");
                    }
                    self.plane.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    pub(super) fn empty_inbox(self: &Rc<Self>, member: &Member) {
        for Accepted { descriptor, peer } in member.take() {
            self.admit(descriptor.into(), peer);
        }
    }

    /// Starts the task of an accepted connection.
    fn admit(self: &Rc<Self>, stream: StdTcpStream, peer: SocketAddr) {
        self.counters.accepted.add(1);
        self.last_admission.set(Some(self.now.get()));
        let stream = match self.plane.stream(stream) {
            Ok(stream) => stream,
            Err(error) => return self.count_end(ConnectionEnd::Broken(error.kind())),
        };
        let control = Rc::new(Control::new(self.now.clone(), Some(stream.as_raw_fd())));
        let worker = self.clone();
        self.spawn_connection(control.clone(), async move {
            let end = worker.converse(stream, &control).await;
            debug!(%peer, ?end, "connection ended, or was handed over");
            end
        });
    }
}

/// What mends a failure to accept, if it comes from something that is used up or forbidden.
#[cold]
pub(super) fn remedy(error: &io::Error) -> Option<&'static str> {
    match Errno::from_raw(error.raw_os_error()?) {
        Errno::ENOBUFS | Errno::ENOMEM => Some("the kernel has no memory left for connections"),
        Errno::EPERM | Errno::ENOSYS => Some("allow accept4 in the container's seccomp profile"),
        errno => descriptors::remedy(errno),
    }
}

/// Whether a call is not allowed at all, as in a container's filter.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EPERM | Errno::ENOSYS))
}
