//! One core: a monoio runtime, a listener, its connections, and the sweep that watches the time.
//!
//! A worker shares nothing with the others but counters that they read and their balance, through
//! which it gives away connections that it accepted but others admit. It reads each request head,
//! answers it, and hands upgraded connections to their data plane. A defect in one
//! connection's task ends that connection only; one in the engine, which has no tasks, ends the
//! worker.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    os::{
        fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd},
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
use http::{Request, StatusCode};
use io_uring_monoio::IoUring;
use monoio::{
    IoUringDriver, LegacyDriver, RuntimeBuilder,
    fs::File,
    io::{AsyncReadRent, CancelHandle, Canceller, Splitable},
    net::{TcpListener, TcpStream, UnixStream},
    time::TimeDriver,
};
use nix::{
    errno::Errno,
    sys::eventfd::{EfdFlags, EventFd},
};
use slab::Slab;
use tracing::{debug, error, warn};

use crate::{
    balance::{Accepted, Member},
    clock::{Deadlines, TICK, Tick},
    config::Limits,
    connection::{
        self, ConnectionEnd, Control, Demand, Shared, let_others_go_on, linger, write_all,
    },
    engine::{self, Calls, Departure, Engine},
    handshake::{self, Negotiated, Policy},
    http::{HeadError, RequestRefusal, Route, encode_refusal, read_request_head, route},
    metrics::Counters,
};

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
    /// What it waits on.
    pub driver: Driver,
    /// The engine that carries connections after their opening handshake, if one does.
    pub engine: Option<engine::Dimensions>,
    /// The listening socket, its own.
    pub listener: StdTcpListener,
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

/// What all workers answer with.
pub struct Site {
    /// The path that upgrades to the echo.
    pub echo_path: String,
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
pub fn run(plan: Plan, ready: impl FnOnce() + 'static) -> io::Result<()> {
    monoio::utils::bind_to_cpu_set([plan.cpu])?;
    let driver = plan.driver;
    // As a task it has its turns among the others; monoio runs what it blocks on behind all tasks.
    let served = async move { monoio::spawn(serve(plan, ready)).await };
    match driver {
        Driver::IoUring => ring_builder()?.build()?.block_on(served),
        Driver::Epoll => {
            RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?.block_on(served)
        }
    }
}

/// A runtime whose ring has the flags that this kernel knows.
///
/// With deferred task running (6.1) the kernel does the work of completions only when the worker
/// enters it, instead of interrupting it; cooperative task running (5.19) is the next best.
fn ring_builder() -> io::Result<RuntimeBuilder<TimeDriver<IoUringDriver>>> {
    let mut deferred = IoUring::builder();
    deferred.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    let mut cooperative = IoUring::builder();
    cooperative.setup_coop_taskrun().setup_submit_all();
    let flags = [deferred, cooperative, IoUring::builder()]
        .into_iter()
        .find(|flags| flags.build(RING_PROBE_ENTRIES).is_ok())
        .ok_or_else(io::Error::last_os_error)?;
    Ok(RuntimeBuilder::<IoUringDriver>::new().uring_builder(flags).enable_timer())
}

/// Entries of a ring that is made only to see whether it can be.
pub(crate) const RING_PROBE_ENTRIES: u32 = 8;

/// How long accepting rests after the process ran out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long the engine may go on before it lets accepts, requests and the sweep have their turn,
/// unless those call it.
const ENGINE_SLICE: Duration = Duration::from_millis(1);

/// The same while there are connections in their opening or closing handshake: each takes a few
/// turns of its own.
const ENGINE_SLICE_SHORT: Duration = Duration::from_micros(100);

/// A worker's state, shared by its tasks.
struct Worker {
    member: Option<Member>,
    engine: Option<EnginePlane>,
    site: Arc<Site>,
    shared: Shared,
    deadlines: Deadlines,
    now: Rc<Cell<Tick>>,
    connections: RefCell<Slab<Rc<Control>>>,
    /// Waits for the last connection to end.
    drained: Cell<Option<Waker>>,
}

/// The engine, what wakes it, and what calls it back from its own ring.
struct EnginePlane {
    engine: RefCell<Engine>,
    wake: EventFd,
    calls: Calls,
}

/// A connection whose opening handshake is done: what a data plane takes over.
struct Upgraded {
    stream: TcpStream,
    /// What came together with the request head: the first frames.
    early: Vec<u8>,
    negotiated: Negotiated,
}

/// How a request is answered.
enum Answer {
    /// By a 101, and then by echoes.
    Upgrade(handshake::Acceptance),
    /// By this response, which ends the connection in this way.
    Respond(bytes::Bytes, ConnectionEnd),
}

async fn serve(plan: Plan, ready: impl FnOnce()) -> io::Result<()> {
    // Only epoll wants descriptors that do not block; io_uring waits by itself.
    let nonblocking = plan.driver == Driver::Epoll;
    plan.listener.set_nonblocking(nonblocking)?;
    plan.stop.set_nonblocking(nonblocking)?;
    let (member, woken) = plan.member.unzip();

    let worker = Rc::new(Worker::new(plan.site, plan.counters, plan.engine, member)?);
    monoio::spawn(worker.clone().sweep());
    if let Some(plane) = &worker.engine {
        plane.calls.add(&plan.listener)?;
        for stream in [&plan.stop].into_iter().chain(&woken) {
            plane.calls.add(stream)?;
        }
        let wake = File::from_std(plane.wake.as_fd().try_clone_to_owned()?.into())?;
        monoio::spawn(worker.clone().drive_engine(wake));
    }
    let listener = TcpListener::from_std(plan.listener)?;
    let mut stop = UnixStream::from_std(plan.stop)?;
    if let Some(woken) = woken {
        woken.set_nonblocking(nonblocking)?;
        monoio::spawn(worker.clone().admit_assigned(UnixStream::from_std(woken)?));
    }
    ready();
    {
        // A pending accept is cancelled rather than dropped: it may just have got a connection.
        let canceller = Canceller::new();
        let accepting = pin!(worker.accept(&listener, canceller.handle()));
        if let Either::Left((_, accepting)) = select(pin!(stop.read(vec![0])), accepting).await {
            canceller.cancel();
            accepting.await;
        }
    }
    drop(listener);
    if let Some(member) = &worker.member {
        member.leave();
        worker.empty_inbox(member);
    }
    worker.drain().await;
    Ok(())
}

impl Worker {
    fn new(
        site: Arc<Site>,
        counters: Arc<Counters>,
        engine: Option<engine::Dimensions>,
        member: Option<Member>,
    ) -> io::Result<Self> {
        let shared = Shared::new(&site.limits, counters);
        let engine = engine.map(|dimensions| EnginePlane::new(dimensions, &shared)).transpose()?;
        Ok(Self {
            member,
            engine,
            shared,
            deadlines: Deadlines::new(&site.limits),
            site,
            now: Rc::default(),
            connections: RefCell::default(),
            drained: Cell::default(),
        })
    }

    /// Accepts connections until it is cancelled.
    async fn accept(self: &Rc<Self>, listener: &TcpListener, cancel: CancelHandle) {
        let mut out_of_resources = false;
        loop {
            match listener.cancelable_accept(cancel.clone()).await {
                Ok((stream, peer)) => {
                    out_of_resources = false;
                    self.assign(stream, peer);
                }
                Err(error) => {
                    let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
                    if errno == Errno::ECANCELED {
                        return;
                    }
                    let Some(remedy) = remedy(errno) else {
                        // The peer was gone before it was accepted.
                        debug!(%error, "accept failed");
                        continue;
                    };
                    if !out_of_resources {
                        warn!(%error, "cannot accept; {remedy}");
                    }
                    out_of_resources = true;
                    monoio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Admits an accepted connection, unless it is another worker's to admit.
    fn assign(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let release = |stream| Accepted { descriptor: into_descriptor(stream), peer };
        let stays = match &self.member {
            Some(member) => member.assign(stream, release),
            None => Some(stream),
        };
        if let Some(stream) = stays {
            self.admit(stream, peer);
        }
    }

    /// Admits what other workers assign to this one, until it leaves the balance.
    async fn admit_assigned(self: Rc<Self>, mut woken: UnixStream) {
        let Some(member) = &self.member else { return };
        let mut buffer = vec![0];
        loop {
            // Before the first wait too: a worker that died may have left some.
            self.empty_inbox(member);
            let woken = woken.read(buffer).await;
            let (Ok(1..), read) = woken else { return };
            buffer = read;
        }
    }

    fn empty_inbox(self: &Rc<Self>, member: &Member) {
        for Accepted { descriptor, peer } in member.take() {
            match TcpStream::from_std(descriptor.into()) {
                Ok(stream) => self.admit(stream, peer),
                Err(error) => {
                    self.shared.counters.accepted.add(1);
                    self.count_end(ConnectionEnd::Broken(error.kind()));
                }
            }
        }
    }

    /// Starts the task of an accepted connection.
    fn admit(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        self.shared.counters.accepted.add(1);
        let control = Rc::new(Control::new(self.now.clone()));
        let key = self.connections.borrow_mut().insert(control.clone());
        let worker = self.clone();
        monoio::spawn(async move {
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
        self.shared.counters.ended(end.kind()).add(1);
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
        let in_engine =
            self.engine.as_ref().map_or(0, |plane| plane.engine.borrow().connection_count());
        self.connections.borrow().len() + in_engine
    }

    /// One connection's life, as far as it is not handed over (`None`).
    async fn converse(&self, mut stream: TcpStream, control: &Control) -> Option<ConnectionEnd> {
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
                self.shared.counters.upgraded.add(1);
                let negotiated = acceptance.negotiated;
                self.hand_over(Upgraded { stream, early, negotiated }, control).await
            }
            Answer::Respond(response, end) => {
                // A client that does not take its response has no longer than one that stays.
                control.closing();
                let response_len = response.len();
                if let Err(end) = write_all(&mut stream, response, 0..response_len, control).await {
                    return Some(end);
                }
                let (mut reader, mut writer) = stream.into_split();
                linger(&mut reader, &mut writer, control).await;
                Some(end)
            }
        }
    }

    /// Gives an upgraded connection to its data plane: the engine, or the portable path where
    /// there is no engine or it is full.
    async fn hand_over(&self, upgraded: Upgraded, control: &Control) -> Option<ConnectionEnd> {
        // The engine, which has no control, would not see it.
        if let Some(end) = control.demanded_end() {
            return Some(end);
        }
        let Upgraded { mut stream, mut early, negotiated } = upgraded;
        let Negotiated { subprotocol, compression } = negotiated;
        debug!(subprotocol, ?compression, "connection upgraded");
        if let Some(plane) = &self.engine {
            let descriptor = into_descriptor(stream);
            let adopted = plane.engine.borrow_mut().adopt(descriptor, compression, early);
            plane.wake();
            let Err((descriptor, given_back)) = adopted else { return None };
            stream = match TcpStream::from_std(descriptor.into()) {
                Ok(stream) => stream,
                Err(error) => return Some(ConnectionEnd::Broken(error.kind())),
            };
            early = given_back;
        }
        let (reader, writer) = stream.into_split();
        Some(connection::run(reader, writer, early, compression, control, &self.shared).await)
    }

    /// Runs the engine whenever it is woken. Its event counter is read first; the engine then
    /// turns until nothing comes, so that no wake-up is lost.
    async fn drive_engine(self: Rc<Self>, wake: File) {
        let Some(plane) = &self.engine else { return };
        let mut count = vec![0; size_of::<u64>()];
        loop {
            (_, count) = wake.read_at(count, 0).await;
            // What has completed in this ring calls no more, and must not wait for the engine.
            let_others_go_on().await;
            let is_alone = self.connections.borrow().is_empty();
            for departure in plane.run(is_alone) {
                self.finish(departure);
            }
        }
    }

    /// Ends a connection that has left the engine.
    fn finish(self: &Rc<Self>, departure: Departure) {
        let Departure { descriptor, end } = departure;
        if !end.is_orderly() {
            drop(descriptor);
            return self.count_end(end);
        }
        let control = Rc::new(Control::new(self.now.clone()));
        let key = self.connections.borrow_mut().insert(control.clone());
        let worker = self.clone();
        monoio::spawn(async move {
            if let Ok(stream) = TcpStream::from_std(descriptor.into()) {
                let (mut reader, mut writer) = stream.into_split();
                linger(&mut reader, &mut writer, &control).await;
            }
            worker.connections.borrow_mut().remove(key);
            worker.count_end(end);
        });
    }

    /// Reads the request head and finds its answer, with the bytes that came behind the head.
    async fn answer_request(
        &self,
        stream: &mut TcpStream,
        control: &Control,
    ) -> Result<(Answer, Vec<u8>), ConnectionEnd> {
        let refusal = match select(pin!(read_request_head(stream)), pin!(control.demanded())).await
        {
            Either::Left((Ok((request, early)), _)) => {
                return Ok((self.answer(request), early.into()));
            }
            Either::Left((Err(HeadError::PeerLeft), _)) => return Err(ConnectionEnd::PeerLeft),
            Either::Left((Err(HeadError::Refused(refusal)), _)) => refusal,
            Either::Right((Demand::TimeOut, _)) => RequestRefusal::TimedOut,
            Either::Right((Demand::Drain | Demand::Ping, _)) => RequestRefusal::Stopping,
            Either::Right((Demand::End(end), _)) => return Err(end),
        };
        Ok((refuse(refusal.status(), &refusal), Vec::new()))
    }

    fn answer(&self, mut request: Request<()>) -> Answer {
        match route(&request, &self.site.echo_path) {
            Ok(Route::Page) => Answer::Respond(self.site.page.clone(), ConnectionEnd::PageServed),
            Ok(Route::Echo) => match handshake::answer(&mut request, &self.site.policy) {
                Ok(acceptance) => Answer::Upgrade(acceptance),
                Err(refusal) => refuse(refusal.status(), &refusal),
            },
            Err(refusal) => refuse(refusal.status(), &refusal),
        }
    }

    /// Counts the ticks, and at each has every connection's deadlines looked at.
    async fn sweep(self: Rc<Self>) {
        loop {
            monoio::time::sleep(TICK).await;
            self.now.set(self.now.get().next());
            for (_, control) in self.connections.borrow().iter() {
                control.sweep(&self.deadlines);
            }
            self.with_engine(|engine| engine.sweep(self.now.get(), &self.deadlines));
        }
    }

    /// Has every connection closed, and waits for their ends, for as long as the limits say.
    async fn drain(&self) {
        self.demand_of_all(Demand::Drain);
        self.with_engine(Engine::drain);
        let timeout = monoio::time::sleep(self.site.limits.drain_timeout);
        if let Either::Right(_) = select(pin!(self.drained()), pin!(timeout)).await {
            self.demand_of_all(Demand::End(ConnectionEnd::Abandoned));
            self.with_engine(Engine::abandon);
            self.drained().await;
        }
        self.with_engine(|engine| debug_assert!(engine.is_idle(), "nothing is left under way"));
    }

    /// Has the engine do something, and what comes of it.
    fn with_engine(&self, act: impl FnOnce(&mut Engine)) {
        if let Some(plane) = &self.engine {
            act(&mut plane.engine.borrow_mut());
            plane.wake();
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

impl EnginePlane {
    fn new(dimensions: engine::Dimensions, shared: &Shared) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        let counters = shared.counters.clone();
        let engine = Engine::new(dimensions, shared.rules, counters, &wake)?;
        Ok(Self { engine: RefCell::new(engine), wake, calls: Calls::new()? })
    }

    /// Has the engine turn soon.
    fn wake(&self) {
        // It fails when the counter is full, and then the engine is about to be woken anyway.
        let _ = self.wake.write(1);
    }

    /// Has the engine turn until it is idle, or others are to have their turn; then it wakes itself
    /// behind them. If it carries all of the worker's connections, others are those that call.
    /// Returns the connections that have left.
    fn run(&self, is_alone: bool) -> Vec<Departure> {
        let mut engine = self.engine.borrow_mut();
        let is_idle = if is_alone && engine.is_active() {
            engine.stay(&self.calls)
        } else {
            engine.turn_until_idle(if is_alone { ENGINE_SLICE } else { ENGINE_SLICE_SHORT })
        };
        if !is_idle.expect("the engine's ring works") {
            self.wake();
        }
        engine.departures()
    }
}

/// Takes a stream's descriptor out of monoio's hands.
#[expect(unsafe_code, reason = "monoio gives descriptors away only raw")]
fn into_descriptor(stream: TcpStream) -> OwnedFd {
    // SAFETY: into_raw_fd gives up the ownership of an open descriptor.
    unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) }
}

/// What helps where accepting fails for want of something.
#[cold]
fn remedy(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::EMFILE => Some("raise the limit of this process with ulimit -n"),
        Errno::ENFILE => Some("raise the limit of the system with sysctl -w fs.file-max=N"),
        Errno::ENOBUFS | Errno::ENOMEM => Some("the kernel has no memory left for connections"),
        _ => None,
    }
}

fn refuse(status: StatusCode, reason: &impl ToString) -> Answer {
    let response = encode_refusal(status, &reason.to_string());
    Answer::Respond(response.into(), ConnectionEnd::Refused(status))
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
        io::{Read, Write},
        net::TcpStream,
        thread,
    };

    use super::*;
    use crate::{
        balance::Balance, config::HugePages, cpu_list::CpuList, protocol::echo::Compression,
    };

    fn site() -> Site {
        let policy = Policy {
            allowed_origins: Vec::new(),
            subprotocols: Vec::new(),
            passes_compression: false,
        };
        let limits = Limits::default();
        Site { echo_path: "/ws".to_owned(), policy, page: bytes::Bytes::new(), limits }
    }

    /// A worker without an engine, and alone.
    fn plan(
        driver: Driver,
        listener: StdTcpListener,
        stop: StdUnixStream,
        counters: Arc<Counters>,
        site: Site,
    ) -> Plan {
        let cpu = CpuList::usable().unwrap().as_slice()[0];
        let site = Arc::new(site);
        Plan { cpu, driver, engine: None, listener, member: None, stop, counters, site }
    }

    /// An acceptor assigns connections to a worker that is told to stop in the middle of it. Each
    /// stays with the acceptor or is answered by the worker.
    #[test]
    fn stopping_worker_answers_everything_that_was_assigned_to_it() {
        const CONNECTIONS: usize = 200;
        for driver in [Driver::IoUring, Driver::Epoll] {
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
                ..plan(driver, own_listener, worker_stop, counters.clone(), site())
            };
            let worker = thread::spawn(move || run(plan, || ()));
            let mut stop = Some(stop);
            let mut assigned = Vec::new();
            for at in 0..CONNECTIONS {
                let client = TcpStream::connect(address).unwrap();
                let (stream, peer) = listener.accept().unwrap();
                stream.set_nonblocking(driver == Driver::Epoll).unwrap();
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
        for driver in [Driver::IoUring, Driver::Epoll] {
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
            let plan = plan(driver, listener, worker_stop, counters.clone(), site);
            let worker = thread::spawn(move || run(plan, || ()));
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            let ended = || (0..ConnectionEnd::KINDS.len()).find(|at| counters.ended(*at).get() > 0);
            let end = loop {
                match ended() {
                    Some(kind) => break kind,
                    None => thread::sleep(Duration::from_millis(10)),
                }
            };
            assert_eq!(ConnectionEnd::KINDS[end], "close_timeout", "{driver:?}");
            drop(stop);
            worker.join().unwrap().unwrap();
        }
    }

    /// As when the drain timeout passes while the 101 is being written.
    #[test]
    fn connection_whose_end_was_demanded_is_not_handed_over() {
        if let Err(error) = engine::probe() {
            return eprintln!("skipped, this kernel carries no engine: {error}");
        }
        let dimensions = engine::Dimensions {
            receive_buffers: 2,
            receive_buffer_len: 4096,
            huge_pages: HugePages::Off,
            receive_share: 0,
            unsent_max: 4096,
            connections_max: 1,
        };
        ring_builder().unwrap().build().unwrap().block_on(async {
            let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
            let worker = Worker::new(Arc::new(site()), counters, Some(dimensions), None).unwrap();
            let listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().unwrap();
            let upgraded = Upgraded {
                stream: super::TcpStream::from_std(stream).unwrap(),
                early: Vec::new(),
                negotiated: Negotiated { subprotocol: None, compression: Compression::None },
            };
            let control = Control::new(worker.now.clone());
            control.demand(Demand::End(ConnectionEnd::Abandoned));
            let end = worker.hand_over(upgraded, &control).await;
            assert_eq!(end, Some(ConnectionEnd::Abandoned));
        });
    }

    #[test]
    fn remedy_is_that_of_what_is_wanting() {
        let said = |errno, what| remedy(errno).is_some_and(|remedy| remedy.contains(what));
        assert!(said(Errno::EMFILE, "ulimit -n"));
        assert!(said(Errno::ENFILE, "sysctl -w fs.file-max"));
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
