//! One core: a monoio runtime, a listener, its connections, and the sweep that watches the time.
//!
//! A worker shares nothing with the others but counters that they read and their balance, through
//! which it gives away connections that it accepted but others admit. It reads each request head,
//! answers it, and hands upgraded connections to their data plane, which is also what its tasks wait
//! with. A defect in one connection's task ends that connection only; one in the engine, which has
//! no tasks, ends the worker.

mod runtime;

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    io::{self, Read},
    mem,
    net::{Shutdown, SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    panic::AssertUnwindSafe,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{Either, select},
};
use http::{Method, Request};
use nix::errno::Errno;
use slab::Slab;
use socket2::SockRef;
use thiserror::Error;
use tracing::{debug, error, warn};

use crate::{
    config::Limits,
    connection::{
        ConnectionEnd, Control, Demand,
        clock::{Deadlines, TICK, Tick},
        linger, write_all,
    },
    entry::balance::{Accepted, Member},
    handshake::{Policy, http1},
    host::descriptors::{self, Refused},
    http::{
        HeadError, Refusal, RequestRefusal, Route, echo_paths::EchoPaths, encode_refusal,
        read_request_head, route, without_body,
    },
    metrics::Counters,
    plane::{Bounds, Departure, OnEngine, Plane, Portable, Upgraded, engine},
};

pub(crate) use self::runtime::try_uring;

/// The kernel interface that a worker waits on; [`crate::config::Driver`] resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `io_uring`.
    IoUring,
    /// epoll.
    Epoll,
}

/// What a worker is to do.
pub struct Plan {
    /// The CPU that it is pinned to.
    pub cpu: usize,
    /// What it stands on, if the system grants it.
    pub footing: Footing,
    /// What it may stand on if not.
    pub fallback: Fallback,
    /// The listening socket, its own.
    pub listener: StdTcpListener,
    /// How many connections may wait in its queue.
    pub backlog: u32,
    /// Its place in the balance, with the stream that wakes it; `None` leaves connections where
    /// the kernel puts them.
    pub member: Option<(Member, StdUnixStream)>,
    /// The other end of this tells it to stop, by a byte or by its end.
    pub stop: StdUnixStream,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// What all workers answer with.
    pub site: Arc<Site>,
}

/// What a worker stands on.
#[derive(Clone, Copy, Debug)]
pub struct Footing {
    /// What it waits on.
    pub driver: Driver,
    /// The engine that carries connections after their opening handshake, if one does.
    pub engine: Option<engine::Dimensions>,
}

impl fmt::Display for Footing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.driver, self.engine) {
            (Driver::IoUring, Some(_)) => "io_uring with engine",
            (Driver::IoUring, None) => "io_uring",
            (Driver::Epoll, _) => "epoll",
        })
    }
}

/// Which parts of a footing may be replaced by the next best.
#[derive(Clone, Copy, Debug)]
pub struct Fallback {
    /// The engine, by the portable path.
    pub plane: bool,
    /// `io_uring`, by epoll.
    pub driver: bool,
}

/// What a worker that accepts connections has to say.
#[derive(Debug)]
pub struct Ready {
    /// What it stands on.
    pub footing: Footing,
    /// What it could not have, and does without.
    pub shortage: Option<Shortage>,
    /// Why it is not pinned to its CPU, if it is not.
    pub unpinned: Option<io::Error>,
}

/// Something that a worker does without.
#[derive(Debug)]
pub struct Shortage {
    /// What it is.
    pub kind: ShortageKind,
    /// Why it could not be had.
    pub error: io::Error,
}

/// What a worker may do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShortageKind {
    /// Its ring is smaller than it should be.
    SmallRing,
    /// It has no engine.
    NoEngine,
    /// It has no ring.
    NoRing,
}

/// Why a worker ended without having been told to.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// It could not start.
    #[error("it could not start: {0}")]
    Start(#[from] Refused),
    /// It cannot hear when it is to stop, or of connections that are assigned to it.
    #[error("it cannot read from the other threads: {0}")]
    Signal(io::Error),
    /// The ring that it waits in failed.
    #[error("its ring failed: {0}")]
    Ring(io::Error),
}

/// What all workers answer with.
pub struct Site {
    /// The paths that upgrade to the echo.
    pub echo_paths: EchoPaths,
    /// Who may connect, and what may be agreed on.
    pub policy: Policy,
    /// The response that carries the page.
    pub page: bytes::Bytes,
    /// Sizes and times.
    pub limits: Limits,
}

/// Runs a worker on this thread until it is told to stop and its connections have ended.
///
/// `ready` is called once connections are accepted.
pub fn run(plan: Plan, ready: impl FnOnce(Ready) + 'static) -> Result<(), WorkerError> {
    let unpinned = monoio::utils::bind_to_cpu_set([plan.cpu]).err().map(io::Error::from);
    Outset { plan, shortage: None, unpinned, ready }.run()
}

/// A worker that is about to start.
struct Outset<R> {
    plan: Plan,
    shortage: Option<Shortage>,
    unpinned: Option<io::Error>,
    ready: R,
}

impl<R: FnOnce(Ready) + 'static> Outset<R> {
    /// Runs on the best that can be had.
    fn run(mut self) -> Result<(), WorkerError> {
        let bounds = Bounds::new(&self.plan.site.limits);
        if let Some(dimensions) = self.plan.footing.engine {
            match OnEngine::new(dimensions, bounds.rules, self.plan.counters.clone()) {
                Ok(plane) => return self.run_on_engine(plane, bounds),
                Err(error) if !self.plan.fallback.plane => {
                    return Err(Refused { call: "io_uring", source: error }.into());
                }
                Err(error) => {
                    self.shortage = Some(Shortage { kind: ShortageKind::NoEngine, error });
                    self.plan.footing.engine = None;
                }
            }
        }
        if self.plan.footing.driver == Driver::IoUring {
            match runtime::uring() {
                Ok((mut runtime, is_reduced)) => {
                    self.note_small_ring(is_reduced);
                    return runtime.block_on(serve(Portable::on_uring(), self, bounds));
                }
                Err(error) if !self.plan.fallback.driver => {
                    return Err(Refused { call: "io_uring", source: error }.into());
                }
                Err(error) => {
                    self.shortage = Some(Shortage { kind: ShortageKind::NoRing, error });
                    self.plan.footing.driver = Driver::Epoll;
                }
            }
        }
        let mut runtime = runtime::epoll().map_err(Refused::naming("epoll"))?;
        runtime.block_on(serve(Portable::on_epoll(), self, bounds))
    }

    fn run_on_engine(mut self, plane: OnEngine, bounds: Bounds) -> Result<(), WorkerError> {
        self.note_small_ring(plane.is_reduced());
        let mut runtime = runtime::without_waiting().map_err(Refused::naming("epoll"))?;
        runtime.block_on(serve(plane, self, bounds))
    }

    fn note_small_ring(&mut self, is_reduced: bool) {
        if is_reduced {
            let error = io::Error::from(Errno::ENOMEM);
            self.shortage.get_or_insert(Shortage { kind: ShortageKind::SmallRing, error });
        }
    }
}

/// How many connections are accepted before others have their turn.
const ACCEPTED_MAX: usize = 32;

/// How long accepting rests after the process ran out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A worker's state, shared by its tasks.
struct Worker<P> {
    plane: P,
    member: Option<Member>,
    site: Arc<Site>,
    bounds: Bounds,
    counters: Arc<Counters>,
    deadlines: Deadlines,
    now: Rc<Cell<Tick>>,
    connections: RefCell<Slab<Rc<Control>>>,
    /// Waits for the last connection to end.
    drained: Cell<Option<Waker>>,
    /// Its work is done, and nothing is waited for any more.
    is_over: Cell<bool>,
}

/// The end of a worker, in whatever way. Tasks hold their worker, and it holds the wakers of those
/// that wait, so that by themselves none of them would go.
struct End<P: Plane>(Rc<Worker<P>>);

impl<P: Plane> Drop for End<P> {
    fn drop(&mut self) {
        self.0.plane.let_go();
        drop(self.0.drained.take());
        for (_, control) in mem::take(&mut *self.0.connections.borrow_mut()) {
            control.let_go();
        }
    }
}

/// A stream that tells something by a byte, or by its end.
struct Signal<S> {
    stream: StdUnixStream,
    source: S,
}

/// Accepting failed for want of something.
struct Exhausted {
    error: io::Error,
    remedy: &'static str,
}

/// How a request is answered.
enum Answer {
    /// By a 101, and then by echoes.
    Upgrade(http1::Acceptance),
    /// By this response, which ends the connection in this way.
    Respond(bytes::Bytes, ConnectionEnd),
}

impl Answer {
    /// As it is if the request is no HEAD, and else without the body of its response.
    fn without_body_if(self, is_head: bool) -> Self {
        match self {
            Self::Respond(response, end) if is_head => Self::Respond(without_body(response), end),
            other => other,
        }
    }
}

/// Starts a worker's tasks, and waits for their end.
async fn serve<P: Plane, R: FnOnce(Ready) + 'static>(
    plane: P,
    outset: Outset<R>,
    bounds: Bounds,
) -> Result<(), WorkerError> {
    let Outset { plan, shortage, unpinned, ready } = outset;
    let (member, woken) = plan.member.unzip();
    let worker = Rc::new(Worker::new(plane, plan.site, bounds, plan.counters, member));
    let _end = End(worker.clone());
    let stop = worker.signal(plan.stop)?;
    let woken = woken.map(|woken| worker.signal(woken)).transpose()?;
    plan.listener.set_nonblocking(true).map_err(Refused::naming("ioctl(FIONBIO)"))?;
    let source = worker.source(&plan.listener)?;
    worker.try_to_accept(&plan.listener)?;
    worker.plane.spawn(worker.clone().sweep());
    if let Some(woken) = woken {
        worker.plane.spawn(worker.clone().admit_assigned(woken));
    }
    let working = worker.clone();
    let work = worker.plane.spawn(async move {
        let result = working.work(plan.listener, plan.backlog, source, stop).await;
        working.is_over.set(true);
        result
    });
    ready(Ready { footing: plan.footing, shortage, unpinned });
    // A task among the others: what monoio blocks on has its turn only behind all of them.
    let driver = worker.clone();
    let drive = monoio::spawn(async move {
        let finish = |Departure { descriptor, end }| driver.finish(descriptor, end);
        driver.plane.drive(|| driver.is_over.get(), finish).await
    });
    match select(work, drive).await {
        Either::Left((result, drive)) => {
            worker.plane.settle(drive).await;
            result
        }
        Either::Right((result, _)) => result.map_err(WorkerError::Ring),
    }
}

impl<P: Plane> Worker<P> {
    fn new(
        plane: P,
        site: Arc<Site>,
        bounds: Bounds,
        counters: Arc<Counters>,
        member: Option<Member>,
    ) -> Self {
        Self {
            plane,
            member,
            bounds,
            counters,
            deadlines: Deadlines::new(&site.limits),
            site,
            now: Rc::default(),
            connections: RefCell::default(),
            drained: Cell::default(),
            is_over: Cell::new(false),
        }
    }

    fn signal(&self, stream: StdUnixStream) -> Result<Signal<P::Source>, Refused> {
        stream.set_nonblocking(true).map_err(Refused::naming("ioctl(FIONBIO)"))?;
        let source = self.source(&stream)?;
        Ok(Signal { stream, source })
    }

    /// A descriptor to wait for, beside the one that is read or accepted from.
    fn source(&self, descriptor: &impl AsFd) -> Result<P::Source, Refused> {
        let descriptor = descriptor.as_fd().try_clone_to_owned();
        let descriptor = descriptor.map_err(Refused::naming("fcntl(F_DUPFD_CLOEXEC)"))?;
        self.plane.source(descriptor).map_err(Refused::naming("epoll_ctl"))
    }

    /// Waits for bytes; false at the stream's end.
    async fn signalled(&self, signal: &mut Signal<P::Source>) -> io::Result<bool> {
        loop {
            self.plane.readable(&signal.source).await?;
            match signal.stream.read(&mut [0; 64]) {
                Err(error) if is_passing(&error) => {}
                result => return result.map(|len| len > 0),
            }
        }
    }

    /// Accepts connections until the worker is to stop, and waits for their ends.
    async fn work(
        self: &Rc<Self>,
        listener: StdTcpListener,
        backlog: u32,
        source: P::Source,
        mut stop: Signal<P::Source>,
    ) -> Result<(), WorkerError> {
        let accepting = self.accept(&listener, &source);
        let stopped = match select(pin!(self.signalled(&mut stop)), pin!(accepting)).await {
            Either::Left((stopped, _)) => stopped,
            Either::Right((never, _)) => match never {},
        };
        stopped.map_err(WorkerError::Signal)?;
        // Closing the queue would reset whoever waits in it. Who comes from now on may be reset.
        if let Err(Exhausted { error, remedy }) =
            self.accept_waiting(&listener, backlog as usize + 1)
        {
            warn!(%error, "cannot accept all who wait; {remedy}");
        }
        // A ring that waits for the queue would keep it open for a while, this ends it at once.
        let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
        drop((source, listener));
        if let Some(member) = &self.member {
            member.leave();
            self.empty_inbox(member);
        }
        self.drain().await;
        Ok(())
    }

    /// Accepts the first connection, if there already is one, to see whether that is allowed.
    fn try_to_accept(self: &Rc<Self>, listener: &StdTcpListener) -> Result<(), Refused> {
        match listener.accept() {
            Ok((stream, peer)) => self.assign(stream, peer),
            Err(error) if is_refusal(&error) => {
                return Err(Refused { call: "accept4", source: error });
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Accepts connections for ever.
    async fn accept(self: &Rc<Self>, listener: &StdTcpListener, source: &P::Source) -> Infallible {
        let mut is_paused = false;
        loop {
            match self.accept_waiting(listener, ACCEPTED_MAX) {
                Ok(()) => {
                    is_paused = false;
                    if let Err(error) = self.plane.readable(source).await {
                        warn!(%error, "cannot wait for connections; trying again");
                        self.plane.sleep(ACCEPT_PAUSE).await;
                    }
                }
                Err(Exhausted { error, remedy }) => {
                    if !mem::replace(&mut is_paused, true) {
                        warn!(%error, "cannot accept; {remedy}");
                    }
                    self.plane.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Accepts the connections that wait in the queue, at most so many.
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
    async fn admit_assigned(self: Rc<Self>, mut woken: Signal<P::Source>) {
        let Some(member) = &self.member else { return };
        loop {
            // Before the first wait too: a worker that died may have left some.
            self.empty_inbox(member);
            match self.signalled(&mut woken).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    warn!(%error, "cannot hear of assigned connections; trying again");
                    self.plane.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn empty_inbox(self: &Rc<Self>, member: &Member) {
        for Accepted { descriptor, peer } in member.take() {
            self.admit(descriptor.into(), peer);
        }
    }

    /// Starts the task of an accepted connection.
    fn admit(self: &Rc<Self>, stream: StdTcpStream, peer: SocketAddr) {
        self.counters.accepted.add(1);
        let stream = match self.plane.stream(stream) {
            Ok(stream) => stream,
            Err(error) => return self.count_end(ConnectionEnd::Broken(error.kind())),
        };
        let control = Rc::new(Control::new(self.now.clone(), Some(stream.as_raw_fd())));
        let key = self.connections.borrow_mut().insert(control.clone());
        let worker = self.clone();
        self.plane.spawn(async move {
            let end = contain(worker.converse(stream, &control)).await;
            worker.connections.borrow_mut().remove(key);
            debug!(%peer, ?end, "connection ended, or was handed over");
            if let Some(end) = end {
                worker.count_end(end);
            }
        });
    }

    /// Counts the end of a connection that is in no table any more.
    fn count_end(&self, end: ConnectionEnd) {
        self.counters.ended(end.kind()).add(1);
        if let Some(member) = &self.member {
            member.connection_ended();
        }
        if self.connection_count() == 0
            && let Some(drained) = self.drained.take()
        {
            drained.wake();
        }
    }

    fn connection_count(&self) -> usize {
        self.connections.borrow().len() + self.plane.connection_count()
    }

    /// One connection's life, as far as it is not handed over (`None`).
    async fn converse(&self, mut stream: P::Stream, control: &Control) -> Option<ConnectionEnd> {
        let (answer, early) = match self.answer_request(&mut stream, control).await {
            Ok(answer) => answer,
            Err(end) => return Some(end),
        };
        match answer {
            Answer::Upgrade(acceptance) => {
                let head = acceptance.response_head;
                let head_len = head.len();
                if let Err(end) = write_all(&mut stream, head, 0..head_len, control).await {
                    return Some(end);
                }
                self.counters.upgraded.add(1);
                let negotiated = acceptance.negotiated;
                let compression = negotiated.compression();
                debug!(subprotocol = negotiated.subprotocol, ?compression, "connection upgraded");
                let upgraded = Upgraded { stream, early, compression };
                self.plane.carry(upgraded, &self.bounds, &self.counters, control).await
            }
            Answer::Respond(response, end) => {
                // A client that does not take its response has no longer than one that stays.
                control.closing();
                let response_len = response.len();
                if let Err(end) = write_all(&mut stream, response, 0..response_len, control).await {
                    return Some(end);
                }
                let (mut reader, mut writer) = P::split(stream);
                linger(&mut reader, &mut writer, control).await;
                Some(end)
            }
        }
    }

    /// Ends a connection that the data plane had taken over.
    fn finish(self: &Rc<Self>, descriptor: OwnedFd, end: ConnectionEnd) {
        if !end.is_orderly() {
            drop(descriptor);
            return self.count_end(end);
        }
        let control = Rc::new(Control::new(self.now.clone(), Some(descriptor.as_raw_fd())));
        let key = self.connections.borrow_mut().insert(control.clone());
        let worker = self.clone();
        self.plane.spawn(async move {
            if let Ok(stream) = worker.plane.stream(descriptor.into()) {
                let (mut reader, mut writer) = P::split(stream);
                linger(&mut reader, &mut writer, &control).await;
            }
            worker.connections.borrow_mut().remove(key);
            worker.count_end(end);
        });
    }

    /// Reads the request head and finds its answer, with the bytes that came behind the head.
    async fn answer_request(
        &self,
        stream: &mut P::Stream,
        control: &Control,
    ) -> Result<(Answer, Vec<u8>), ConnectionEnd> {
        let mut head = pin!(read_request_head(stream));
        let (refusal, is_head) = loop {
            match select(head.as_mut(), pin!(control.demanded())).await {
                Either::Left((Ok((request, early)), _)) => {
                    let is_head = request.method() == Method::HEAD;
                    return Ok((self.answer(request).without_body_if(is_head), early.into()));
                }
                Either::Left((Err(HeadError::PeerLeft), _)) => return Err(ConnectionEnd::PeerLeft),
                Either::Left((Err(HeadError::Refused { refusal, is_head }), _)) => {
                    break (refusal, is_head);
                }
                Either::Right((Demand::TimeOut, _)) => break (RequestRefusal::TimedOut, false),
                Either::Right((Demand::Drain, _)) => break (RequestRefusal::Stopping, false),
                // There is nothing to ping yet.
                Either::Right((Demand::Ping, _)) => {}
                Either::Right((Demand::End(end), _)) => return Err(end),
            }
        };
        Ok((refuse(refusal).without_body_if(is_head), Vec::new()))
    }

    fn answer(&self, mut request: Request<()>) -> Answer {
        match route(&request, &self.site.echo_paths) {
            Ok(Route::Page) => Answer::Respond(self.site.page.clone(), ConnectionEnd::PageServed),
            Ok(Route::Echo) => match http1::answer(&mut request, &self.site.policy) {
                Ok(acceptance) => Answer::Upgrade(acceptance),
                Err(refusal) => refuse(refusal),
            },
            Err(refusal) => refuse(refusal),
        }
    }

    /// Counts the ticks, and at each has every connection's deadlines looked at.
    async fn sweep(self: Rc<Self>) {
        loop {
            self.plane.sleep(TICK).await;
            self.now.set(self.now.get().next());
            for (_, control) in self.connections.borrow().iter() {
                control.sweep(&self.deadlines);
            }
            self.plane.sweep(self.now.get(), &self.deadlines);
        }
    }

    /// Has every connection closed, and waits for their ends, for as long as the limits say.
    async fn drain(&self) {
        self.demand_of_all(Demand::Drain);
        self.plane.drain();
        let timeout = self.plane.sleep(self.site.limits.drain_timeout);
        if let Either::Right(_) = select(pin!(self.drained()), pin!(timeout)).await {
            self.demand_of_all(Demand::End(ConnectionEnd::Abandoned));
            self.plane.abandon();
            self.drained().await;
        }
    }

    fn demand_of_all(&self, demand: Demand) {
        for (_, control) in self.connections.borrow().iter() {
            control.demand(demand);
        }
    }

    /// Waits until no connection is left.
    async fn drained(&self) {
        poll_fn(|context| {
            if self.connection_count() == 0 {
                return Poll::Ready(());
            }
            self.drained.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// What helps where accepting fails for want of something.
#[cold]
fn remedy(error: &io::Error) -> Option<&'static str> {
    match Errno::from_raw(error.raw_os_error()?) {
        Errno::ENOBUFS | Errno::ENOMEM => Some("the kernel has no memory left for connections"),
        Errno::EPERM | Errno::ENOSYS => Some("allow accept4 in the container's seccomp profile"),
        errno => descriptors::remedy(errno),
    }
}

/// Whether a call is to be made again, now or later.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Whether a call is not allowed at all, as in a container's filter.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EPERM | Errno::ENOSYS))
}

fn refuse(reason: impl Into<Refusal>) -> Answer {
    let refusal = reason.into();
    Answer::Respond(encode_refusal(&refusal).into(), ConnectionEnd::Refused(refusal.status))
}

/// Turns a panic in a connection's task into its end.
async fn contain(connection: impl Future<Output = Option<ConnectionEnd>>) -> Option<ConnectionEnd> {
    AssertUnwindSafe(connection).catch_unwind().await.unwrap_or_else(|_| {
        error!("a connection's task panicked; this is a defect, please report it");
        Some(ConnectionEnd::Panicked)
    })
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        io::{Read, Write},
        net::TcpStream,
        os::fd::RawFd,
        process::Command,
        sync::mpsc::channel,
        thread::{self, JoinHandle},
    };

    use http::StatusCode;
    use tungstenite::WebSocket;

    use super::*;
    use crate::{config::HugePages, entry::balance::Balance, host::cpu_list::CpuList};

    fn site() -> Site {
        let policy = Policy {
            allowed_origins: Vec::new(),
            subprotocols: Vec::new(),
            passes_compression: false,
        };
        let limits = Limits::default();
        let echo_paths = EchoPaths::new(&["/ws".to_owned()]);
        Site { echo_paths, policy, page: bytes::Bytes::new(), limits }
    }

    const DIMENSIONS: engine::Dimensions = engine::Dimensions {
        receive_buffers: 2,
        receive_buffer_len: 4096,
        huge_pages: HugePages::Off,
        receive_quota: 0,
        unsent_max: 4096,
        connections_max: 1024,
    };

    /// Everything that a worker can stand on here.
    fn footings() -> Vec<Footing> {
        let engine = match engine::probe() {
            Ok(_) => Some(DIMENSIONS),
            Err(lack) => {
                eprintln!("without an engine: {lack}");
                None
            }
        };
        let mut footings = vec![
            Footing { driver: Driver::IoUring, engine: None },
            Footing { driver: Driver::Epoll, engine: None },
        ];
        footings.extend(engine.map(|_| Footing { driver: Driver::IoUring, engine }));
        footings
    }

    /// A worker that is alone.
    fn plan(
        footing: Footing,
        listener: StdTcpListener,
        stop: StdUnixStream,
        counters: Arc<Counters>,
        site: Site,
    ) -> Plan {
        let cpu = CpuList::usable().unwrap().as_slice()[0];
        let fallback = Fallback { plane: false, driver: false };
        let site = Arc::new(site);
        let (backlog, member) = (128, None);
        Plan { cpu, footing, fallback, listener, backlog, member, stop, counters, site }
    }

    /// An acceptor assigns connections to a worker that is told to stop in the middle of it. Each
    /// stays with the acceptor or is answered by the worker.
    #[test]
    fn stopping_worker_answers_everything_that_was_assigned_to_it() {
        const CONNECTIONS: usize = 200;
        for footing in footings() {
            let listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let balance = Arc::new(Balance::new(2));
            let (acceptor, _woken) = balance.join(0).unwrap();
            // So many that it has the fewest only when it is alone.
            for _ in 0..=CONNECTIONS {
                assert!(acceptor.assign((), |()| unreachable!("it is alone")).is_some());
            }
            let (stop, worker_stop) = StdUnixStream::pair().unwrap();
            let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
            let own_listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
            let plan = Plan {
                member: Some(balance.join(1).unwrap()),
                ..plan(footing, own_listener, worker_stop, counters.clone(), site())
            };
            let worker = thread::spawn(move || run(plan, |_| ()));
            let mut stop = Some(stop);
            let mut assigned = Vec::new();
            for at in 0..CONNECTIONS {
                let client = TcpStream::connect(address).unwrap();
                let (stream, peer) = listener.accept().unwrap();
                let release = |stream: TcpStream| Accepted { descriptor: stream.into(), peer };
                match acceptor.assign(stream, release) {
                    None => assigned.push(client),
                    Some(_) => assert!(stop.is_none(), "the worker has fewer"),
                }
                if at == CONNECTIONS / 2 {
                    stop = None;
                }
            }
            for client in &mut assigned {
                let mut response = String::new();
                client.read_to_string(&mut response).unwrap();
                assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
            }
            let assigned_count = assigned.len() as u64;
            drop(assigned);
            worker.join().unwrap().unwrap();
            assert_eq!(counters.accepted.get(), assigned_count);
        }
    }

    /// A page that no buffers of sockets hold, and a client that reads nothing of it. Were it taken
    /// for an open connection, it would be ended later and for its silence.
    #[test]
    fn response_that_is_not_taken_is_given_up_after_the_close_timeout() {
        const SECOND: Duration = Duration::from_secs(1);
        for footing in footings() {
            let limits = Limits {
                close_timeout: SECOND,
                keep_alive_interval: SECOND,
                keep_alive_timeout: SECOND,
                ..Limits::default()
            };
            let site = Site { page: vec![b' '; 64 << 20].into(), limits, ..site() };
            let listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let (stop, worker_stop) = StdUnixStream::pair().unwrap();
            let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
            let plan = plan(footing, listener, worker_stop, counters.clone(), site);
            let worker = thread::spawn(move || run(plan, |_| ()));
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            let ended = || (0..ConnectionEnd::KINDS.len()).find(|at| counters.ended(*at).get() > 0);
            let end = loop {
                match ended() {
                    Some(kind) => break kind,
                    None => thread::sleep(Duration::from_millis(10)),
                }
            };
            assert_eq!(ConnectionEnd::KINDS[end], "close_timeout", "{footing}");
            drop(stop);
            worker.join().unwrap().unwrap();
        }
    }

    /// A worker of its own thread that accepts connections, what it counts, and what stops it.
    fn start(
        footing: Footing,
        site: Site,
    ) -> (SocketAddr, JoinHandle<Result<(), WorkerError>>, Arc<Counters>, StdUnixStream) {
        let listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, worker_stop) = StdUnixStream::pair().unwrap();
        let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
        let plan = plan(footing, listener, worker_stop, counters.clone(), site);
        let (say, ready) = channel();
        let worker = thread::spawn(move || run(plan, move |_| say.send(()).unwrap()));
        ready.recv().unwrap();
        (address, worker, counters, stop)
    }

    fn open(address: SocketAddr) -> WebSocket<TcpStream> {
        let stream = TcpStream::connect(address).unwrap();
        tungstenite::client(format!("ws://{address}/ws"), stream).unwrap().0
    }

    /// The rings of this process, by their descriptors.
    fn rings() -> Vec<RawFd> {
        let ring = |entry: fs::DirEntry| {
            let target = fs::read_link(entry.path()).ok()?;
            let is_ring = target.to_string_lossy().contains("[io_uring]");
            is_ring.then(|| entry.file_name().to_string_lossy().parse().unwrap())
        };
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| ring(entry.unwrap())).collect()
    }

    /// Whether this is a process for one test alone, as those need that look at its descriptors.
    /// If not, that test runs in one.
    fn is_alone(test: &str) -> bool {
        const ALONE: &str = "RUN_ALONE";
        if env::var_os(ALONE).is_some() {
            return true;
        }
        let mut alone = Command::new(env::current_exe().unwrap());
        alone.args(["--exact", &format!("worker::tests::{test}")]).env(ALONE, "1");
        let output = alone.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        false
    }

    #[test]
    fn worker_whose_ring_fails_lets_go_of_its_listener_and_its_connections() {
        if !is_alone("worker_whose_ring_fails_lets_go_of_its_listener_and_its_connections") {
            return;
        }
        let Some(footing) = footings().into_iter().find(|footing| footing.engine.is_some()) else {
            return;
        };
        let (address, worker, _counters, _stop) = start(footing, site());
        let mut upgraded = open(address);
        upgraded.send("a".into()).unwrap();
        upgraded.read().unwrap();
        let mut half_headed = TcpStream::connect(address).unwrap();
        half_headed.write_all(b"GET").unwrap();
        let ring = rings();
        let null = fs::File::open("/dev/null").unwrap();
        // SAFETY: the descriptor stays open, but is another file's, as if the kernel had closed the
        // ring by itself.
        #[expect(unsafe_code, reason = "a descriptor that another thread owns is replaced")]
        let replaced = unsafe { libc::dup2(null.as_raw_fd(), ring[0]) };
        assert_eq!((ring.len(), replaced), (1, ring[0]));
        // Something for the worker to see that by.
        upgraded.send("b".into()).unwrap();
        assert!(matches!(worker.join().unwrap(), Err(WorkerError::Ring(_))));
        // The kernel closes a ring, and what it held, a little later.
        while TcpStream::connect(address).is_ok() {
            thread::yield_now();
        }
        assert!(upgraded.read().is_err());
        assert!(!matches!(half_headed.read(&mut [0]), Ok(1..)));
    }

    #[test]
    fn stopped_worker_leaves_no_ring_behind_however_many_connections_it_had() {
        if !is_alone("stopped_worker_leaves_no_ring_behind_however_many_connections_it_had") {
            return;
        }
        for footing in footings() {
            for clients in [0, 1, 20, 100] {
                let (address, worker, counters, stop) = start(footing, site());
                let connections: Vec<_> = (0..clients).map(|_| open(address)).collect();
                drop(stop);
                for mut connection in connections {
                    while connection.read().is_ok() {}
                }
                worker.join().unwrap().unwrap();
                assert_eq!(counters.accepted.get(), clients);
                assert!(rings().is_empty(), "{footing}");
            }
        }
    }

    /// What it sends is no sign that it takes anything.
    #[test]
    fn refused_peer_that_goes_on_sending_is_given_up_after_the_close_timeout() {
        for footing in footings() {
            let limits = Limits { close_timeout: Duration::from_secs(3), ..Limits::default() };
            let (address, worker, counters, stop) = start(footing, Site { limits, ..site() });
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            // Until it is reset.
            while client.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(100));
            }
            drop(stop);
            worker.join().unwrap().unwrap();
            let refused = ConnectionEnd::Refused(StatusCode::NOT_FOUND).kind();
            assert_eq!(counters.ended(refused).get(), 1, "{footing}");
        }
    }

    /// As when the drain timeout passes while the 101 is being written: the data plane would not
    /// know of it.
    #[test]
    fn connection_whose_end_was_demanded_is_not_handed_over() {
        runtime::epoll().unwrap().block_on(async {
            let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
            let (plane, bounds) = (Portable::on_epoll(), Bounds::new(&Limits::default()));
            let worker = Worker::new(plane, Arc::new(site()), bounds, counters.clone(), None);
            let listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client
                .write_all(
                    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                    Sec-WebSocket-Version: 13\r\n\r\n",
                )
                .unwrap();
            let stream = worker.plane.stream(listener.accept().unwrap().0).unwrap();
            let control = Control::new(worker.now.clone(), None);
            control.demand(Demand::End(ConnectionEnd::Abandoned));
            let end = worker.converse(stream, &control).await;
            assert_eq!(end, Some(ConnectionEnd::Abandoned));
            assert_eq!(counters.upgraded.get(), 0);
        });
    }

    #[test]
    fn remedy_is_that_of_what_is_wanting() {
        let remedy = |errno| remedy(&io::Error::from(errno));
        let said = |errno, what| remedy(errno).is_some_and(|remedy| remedy.contains(what));
        assert!(said(Errno::EMFILE, "ulimit -n"));
        assert!(said(Errno::ENOMEM, "memory") && said(Errno::ENOBUFS, "memory"));
        assert_eq!(remedy(Errno::ECONNABORTED), None);
    }

    #[test]
    fn panic_in_a_connection_ends_that_connection_only() {
        let end = contain(async { panic!("as a defect would") }).now_or_never();
        assert_eq!(end, Some(Some(ConnectionEnd::Panicked)));
        let end = contain(async { Some(ConnectionEnd::ClosedByPeer) }).now_or_never();
        assert_eq!(end, Some(Some(ConnectionEnd::ClosedByPeer)));
    }
}
