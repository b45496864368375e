//! Accepting: connections come from this worker's listeners, or from another worker that assigns them
//! here, and each becomes a task.

use std::{
    convert::Infallible,
    io, mem,
    net::{Shutdown, TcpStream as StdTcpStream},
    os::{fd::AsRawFd, unix::net::UnixStream as StdUnixStream},
    pin::pin,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};
use nix::errno::Errno;
use socket2::SockRef;
use tracing::{debug, warn};

use super::{
    Worker,
    signal::{Signal, source},
};
use crate::{
    connection::{ConnectionEnd, Control, peer::Peer, record::Record},
    entry::{
        admission::{AdmissionRefusal, PauseEnd, Ticket},
        arrival::Arrival,
        balance::{Accepted, Member},
        listener::Listener,
    },
    host::descriptors::{self, SystemCallError},
    http::REQUEST_HEAD_LEN_MAX,
    metrics::RefusalReason,
    plane::Plane,
    pulse::Activity,
};

/// How many connections are accepted before others have their turn.
const ACCEPTED_MAX: usize = 32;

/// How long accepting pauses at most when descriptors or memory are used up. The end of a connection of
/// this process ends the pause at once; what another process gives back is found only by trying again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a worker's pause is ended by the end of a connection, on whatever worker. The stream is made at
/// the start, since there is no descriptor for it when it is needed.
struct PauseSignal<P: Plane> {
    end: PauseEnd,
    ended: Signal<P>,
}

impl<P: Plane> PauseSignal<P> {
    fn new(plane: &P) -> Result<Self, SystemCallError> {
        let (end, ended) = StdUnixStream::pair().map_err(SystemCallError::naming("socketpair"))?;
        end.set_nonblocking(true).map_err(SystemCallError::naming("ioctl(FIONBIO)"))?;
        Ok(Self { end: PauseEnd::new(end), ended: Signal::new(ended, plane)? })
    }
}

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

/// A listening socket, and the source by which the worker waits for it.
pub(super) struct Queue<P: Plane> {
    pub(super) listener: Listener,
    source: P::Source,
    /// Ends the pause after a failure to accept.
    pause: PauseSignal<P>,
}

impl<P: Plane> Queue<P> {
    pub(super) fn new(listener: Listener, plane: &P) -> Result<Self, SystemCallError> {
        let socket = &listener.socket;
        socket.set_nonblocking(true).map_err(SystemCallError::naming("ioctl(FIONBIO)"))?;
        let source = source(socket, plane)?;
        Ok(Self { listener, source, pause: PauseSignal::new(plane)? })
    }
}

impl<P: Plane> Worker<P> {
    /// Tries to accept, to see whether that is allowed. A connection that waits already is admitted.
    pub(super) fn try_to_accept(
        self: &Rc<Self>,
        listener: &Listener,
    ) -> Result<(), SystemCallError> {
        match listener.accept() {
            Ok((stream, arrival)) => self.receive(stream, arrival),
            Err(error) if is_refusal(&error) => {
                return Err(SystemCallError { call: "accept4", source: error });
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Accepts connections from one queue for ever. A worker with several queues does this for each
    /// at once, and each takes at most [`ACCEPTED_MAX`] before it waits, so that none waits for
    /// another.
    pub(super) async fn accept(self: &Rc<Self>, queue: &mut Queue<P>) -> Infallible {
        let Queue { listener, source, pause } = queue;
        let mut waiting = Failing::default();
        loop {
            let accepted = self.accept_waiting(listener, ACCEPTED_MAX);
            self.counters.pulse.begin(Activity::Tasks);
            if let Err(exhausted) = accepted
                && !self.may_try_again(pause)
            {
                self.pause(&exhausted, pause).await;
                continue;
            }
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
    }

    /// Makes room, or has the worker woken by the next end of a connection. Returns whether the worker
    /// is to try once more before it pauses.
    #[cold]
    fn may_try_again(&self, pause: &PauseSignal<P>) -> bool {
        // Those that were refused hold what the next connection needs.
        self.turned_away.close_all()
            || self.service().server.admission.pauses().begin(pause.end.clone())
    }

    /// Pauses until something may have become free that is used up.
    #[cold]
    async fn pause(&self, exhausted: &Exhausted, pause: &mut PauseSignal<P>) {
        let Exhausted { error, remedy } = exhausted;
        if let Some(unsaid) = self.service().server.complaints.note("accept", error, Instant::now())
        {
            warn!(%error, "cannot accept; {remedy}{unsaid}");
        }
        let timeout = pin!(self.plane.sleep(ACCEPT_PAUSE));
        if let Either::Left((Err(_), timeout)) =
            select(pin!(pause.ended.heard(&self.plane)), timeout).await
        {
            timeout.await;
        }
    }

    /// Accepts the connections that wait when the worker is to stop, at most `count_max`, and closes
    /// the queue.
    pub(super) fn accept_the_last(self: &Rc<Self>, listener: &Listener, count_max: usize) {
        // Closing the queue resets the connections in it. Those that come from here on may be reset.
        if let Err(Exhausted { error, remedy }) = self.accept_waiting(listener, count_max) {
            warn!(%error, "cannot accept all who wait; {remedy}");
        }
        self.counters.pulse.begin(Activity::Tasks);
        // Without this, a ring that waits for the queue would keep it open for a while.
        let _ = SockRef::from(&listener.socket).shutdown(Shutdown::Both);
    }

    /// Accepts the connections that wait in the queue, at most `count_max`.
    fn accept_waiting(
        self: &Rc<Self>,
        listener: &Listener,
        count_max: usize,
    ) -> Result<(), Exhausted> {
        let mut failures = 0;
        for _ in 0..count_max {
            self.counters.pulse.begin(Activity::Accepting);
            match listener.accept() {
                Ok((stream, arrival)) => self.receive(stream, arrival),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Another worker that has the same socket has emptied and closed the queue.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
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

    /// Admits an accepted connection, or turns it away.
    fn receive(self: &Rc<Self>, stream: StdTcpStream, arrival: Arrival) {
        // Who is behind a proxy is not known yet.
        let ip = arrival.peer.ip().filter(|_| !self.may_name_another(arrival.peer));
        match self.service().server.admission.admit(ip) {
            Ok(ticket) => self.assign(stream, arrival, ticket),
            Err(refusal) => self.turn_away(stream, arrival.peer, refusal),
        }
    }

    /// Refuses a connection without having read from it. It counts as accepted here, and as ended.
    #[cold]
    fn turn_away(&self, stream: StdTcpStream, peer: Peer, refusal: AdmissionRefusal) {
        let reason = RefusalReason::from(refusal);
        debug!(%peer, ?reason, "connection refused");
        let room = self.service().server.admission.room_for_refused();
        self.turned_away.answer(stream, refusal.response(), self.now.get(), room);
        self.counters.accepted.add(1);
        let number = self.latest_number();
        let record = self.access_log.is_some().then(|| Record::new(number, peer));
        self.note_end(ConnectionEnd::Refused(reason), None, record.as_ref());
    }

    /// Starts an admitted connection, unless it is another worker's to start.
    fn assign(self: &Rc<Self>, stream: StdTcpStream, arrival: Arrival, ticket: Ticket) {
        let release = |(stream, ticket): (StdTcpStream, Ticket)| Accepted {
            descriptor: stream.into(),
            arrival,
            ticket,
        };
        let stays = match &self.member {
            Some(member) => member.assign((stream, ticket), release),
            None => Some((stream, ticket)),
        };
        if let Some((stream, ticket)) = stays {
            self.admit(stream, arrival, ticket);
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
        for Accepted { descriptor, arrival, ticket } in member.take() {
            self.admit(descriptor.into(), arrival, ticket);
        }
    }

    /// Starts the task of an admitted connection.
    fn admit(self: &Rc<Self>, stream: StdTcpStream, arrival: Arrival, ticket: Ticket) {
        let peer = arrival.peer;
        self.counters.accepted.add(1);
        self.last_admission.set(Some(self.now.get()));
        let stream = match self.plane.stream(stream) {
            Ok(stream) => stream,
            Err(error) => {
                return self.count_end(ConnectionEnd::Broken(error.kind()), None, None);
            }
        };
        let descriptor = stream.as_raw_fd();
        let entered = self.roster.enter(ticket, descriptor);
        let record = self.records.enter(self.latest_number(), peer);
        let control = Control::new(self.now.clone(), Some(descriptor)).with_record(record);
        let control = Rc::new(control.with_share(self.memory.clone()));
        control.hold(REQUEST_HEAD_LEN_MAX);
        let worker = self.clone();
        let task_control = control.clone();
        let task = Box::pin(async move {
            let end = worker.converse(stream, arrival, &task_control, &entered).await;
            let peer = task_control.client().unwrap_or(peer);
            debug!(%peer, ?end, "connection ended, or was handed over");
            if end.is_none() {
                entered.hand_over();
            }
            end
        });
        self.start_connection(control, task);
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
