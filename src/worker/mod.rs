//! One core: a monoio runtime, a listener, its connections, and the sweep that watches the time.
//!
//! A worker accepts connections, reads each request head, answers it, and hands upgraded connections
//! to its data plane. A panic in one connection's task ends that connection only; a panic in the
//! engine, which carries connections without tasks, ends the worker.
//!
//! Workers share the port, at which each has one listener or several, of its own or shared with
//! others; what they answer with ([`Service`]), which never changes, but may be replaced by another;
//! and the balance, through which a worker gives away a
//! connection that another is to admit. Counters are a worker's own, and other threads read them.
//!
//! Here are a worker's start and sweep; `accept` makes connections of what comes in, `conversation`
//! is one connection's life, `client` who is at its other end, `secure` its TLS handshake, `requests`
//! its HTTP/1.1, `streams` its HTTP/2, and `interruption` what calls it away meanwhile; `drain` is the
//! end of all of them, `platform` what a worker runs on, `orders` what the server has it do, and
//! `signal` how other threads reach it. `records` has what an operator may ask of each connection, and
//! `inquiry` is how it is asked; `readiness` is what health checks are told.

mod accept;
mod client;
mod conversation;
mod drain;
pub mod inquiry;
mod interruption;
mod orders;
mod platform;
mod quiet;
mod readiness;
mod records;
mod requests;
mod secure;
mod signal;
mod streams;
#[cfg(test)]
mod tests;
mod turned_away;

use std::{
    cell::{Cell, Ref, RefCell},
    future::poll_fn,
    io, mem,
    os::{fd::AsRawFd, unix::net::UnixStream as StdUnixStream},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
    time::Instant,
};

use bytes::BytesMut;
use futures_util::future::{Either, select, select_all};
use slab::Slab;
use socket2::SockRef;
use thiserror::Error;
use tracing::{Level, debug, enabled};

use self::{
    accept::Queue, inquiry::Inquiries, orders::Inbox, platform::Ground, records::Records,
    signal::Signal, turned_away::TurnedAway,
};
use crate::{
    access_log::AccessLog,
    config::{Config, Echo, Http2, Proxies, Time},
    connection::{
        ConnectionEnd, Control, Demand,
        clock::{Deadlines, TICK, Tick},
        let_others_go_on,
        memory_budget::{Share, WorkerShares},
        peer::Peer,
        record::Record,
    },
    entry::{
        admission::{Admission, Roster},
        balance::Member,
        complaints::Complaints,
        listener::Listener,
    },
    handshake::Policy,
    host::{descriptors::SystemCallError, memory, runtime},
    http::{HttpEcho, SharedResponse, echo_paths::EchoPaths},
    metrics::Counters,
    plane::{
        Bounds, Departure, OnEngine, Plane, Portable,
        engine::{Engine, Kernel},
    },
    pulse::Activity,
};

pub use self::{
    orders::{Drain, OrderReceiver, OrderSender, orders},
    platform::{Driver, Platform, Ready, Shortage, ShortageKind},
    readiness::Readiness,
    turned_away::TURNED_AWAY_MAX,
};

/// What a worker is to do.
pub struct Plan {
    /// The CPU that it is pinned to; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
    /// What it may run on, the best first. It runs on the first that the system grants.
    pub platforms: Vec<Platform>,
    /// The sockets that it accepts from, at least one. Other workers, and the server, may have the
    /// same ones.
    pub listeners: Vec<Listener>,
    /// How many connections may wait in the queue of each.
    pub backlog: u32,
    /// Its place in the balance, with the stream that wakes it; `None` leaves connections where
    /// the kernel puts them.
    pub member: Option<(Member, StdUnixStream)>,
    /// Tells the worker to stop, or what to answer from now on.
    pub orders: OrderReceiver,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Its shares of the memory that all connections of the process may hold.
    pub memory: WorkerShares,
    /// What all workers answer with, until they are ordered to answer with another.
    pub service: Arc<Service>,
    /// Who wants to know of each of its connections.
    pub observers: Observers,
}

/// Who wants to know of each connection of a worker. Where nobody does, nothing is kept of them.
#[derive(Debug, Default)]
pub struct Observers {
    /// Is told of each connection when it ends.
    pub access_log: Option<Arc<AccessLog>>,
    /// Asks for those that are open.
    pub inquiries: Option<Inquiries>,
}

/// Why a worker ended without having been told to.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// It could not start.
    #[error("it could not start: {0}")]
    Start(#[from] SystemCallError),
    /// It cannot read the stream by which another thread tells it to stop.
    #[error("it cannot read from the other threads: {0}")]
    Signal(io::Error),
    /// The engine's kernel, in which it waits, failed.
    #[error("its engine failed: {0}")]
    Engine(io::Error),
}

/// What all workers answer with.
pub struct Service {
    /// The paths that upgrade to the echo.
    pub echo_paths: EchoPaths,
    /// Who may connect, and what may be agreed on.
    pub policy: Policy,
    /// Whose word is taken for who the client is.
    pub proxies: Proxies,
    /// The page.
    pub page: SharedResponse,
    /// Where plain requests are sent back, if they are.
    pub http_echo: Option<HttpEcho>,
    /// What connections' buffers take, and what their frames may be.
    pub echo: Echo,
    /// How long clients may take and be silent.
    pub time: Time,
    /// The most header fields of a request.
    pub header_fields_max: usize,
    /// What TLS handshakes are answered with, if there are certificates.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whether HTTP/2 is spoken, and what one of its connections may take.
    pub http2: Http2,
    /// What stays when the service is replaced.
    pub server: Arc<ServerState>,
}

/// What all workers of a server share, and what stays when its service is replaced.
pub struct ServerState {
    /// Whether new connections are wanted, as health checks are told.
    pub readiness: Arc<Readiness>,
    /// Which connections may stay.
    pub admission: Arc<Admission>,
    /// What fails again and again, on whatever worker.
    pub complaints: Complaints,
}

impl ServerState {
    /// The state of a server that starts.
    pub fn new(config: &Config) -> Self {
        Self {
            readiness: Arc::default(),
            admission: Arc::new(Admission::new(&config.bounds)),
            complaints: Complaints::default(),
        }
    }
}

/// Runs a worker on this thread until it is told to stop and its connections have ended.
///
/// `ready` is called once connections are accepted.
pub fn run(plan: Plan, ready: impl FnOnce(Ready) + 'static) -> Result<(), WorkerError> {
    plan.counters.pulse.begin(Activity::Starting);
    let unpinned = plan.cpu.and_then(|cpu| runtime::pin_thread(cpu).err());
    let bounds = Bounds::new(&plan.service.echo);
    let (ground, platform, shortage) = Ground::find(&plan, bounds.rules)?;
    let report = Ready { platform, shortage, unpinned };
    let start = Start { plan, bounds, report, ready };
    match ground {
        Ground::EngineOnRing(engine) => start.run_on_engine(engine),
        Ground::EngineOnEpoll(engine) => start.run_on_engine(engine),
        Ground::PortableOnRing(mut runtime) => runtime.block_on(start.serve(Portable::on_uring())),
        Ground::PortableOnEpoll(mut runtime) => runtime.block_on(start.serve(Portable::on_epoll())),
    }
}

/// A worker that is about to start.
struct Start<R> {
    plan: Plan,
    bounds: Bounds,
    /// What [`ready`](Self::ready) is told.
    report: Ready,
    ready: R,
}

impl<R: FnOnce(Ready) + 'static> Start<R> {
    fn run_on_engine<K: Kernel>(mut self, engine: Engine<K>) -> Result<(), WorkerError> {
        let share = mem::replace(&mut self.plan.memory.engine, Share::unlimited());
        let engine = engine.with_share(share);
        let plane = OnEngine::new(engine, self.plan.counters.clone());
        let mut runtime =
            runtime::build_without_waiting().map_err(SystemCallError::naming("epoll"))?;
        runtime.block_on(self.serve(plane))
    }

    /// Starts the worker's tasks, and waits for their end.
    async fn serve<P: Plane>(self, plane: P) -> Result<(), WorkerError> {
        let Self { plan, bounds, report, ready } = self;
        let (member, woken) = plan.member.unzip();
        let tasks = plan.memory.tasks;
        let mut worker = Worker::new(plane, plan.service, bounds, plan.counters, member, tasks);
        let inquiries = worker.admit_observers(plan.observers);
        let worker = Rc::new(worker);
        let _teardown = Teardown(worker.clone());
        let (ordered, orders) = plan.orders.split();
        let ordered = Signal::new(ordered, &worker.plane)?;
        let woken = woken.map(|woken| Signal::new(woken, &worker.plane)).transpose()?;
        let mut queues = Vec::new();
        for listener in plan.listeners {
            let queue = Queue::new(listener, &worker.plane)?;
            worker.try_to_accept(&queue.listener)?;
            queues.push(queue);
        }
        worker.plane.spawn(worker.clone().sweep());
        worker.plane.spawn(worker.clone().shed());
        if let Some(inquiries) = inquiries {
            worker.plane.spawn(worker.clone().answer_inquiries(inquiries));
        }
        if let Some(woken) = woken {
            worker.plane.spawn(worker.clone().admit_assigned(woken));
        }
        let working = worker.clone();
        let work = worker.plane.spawn(async move {
            let result = working.work(queues, plan.backlog, ordered, orders).await;
            working.is_over.set(true);
            result
        });
        ready(report);
        // The plane is driven by a task, since monoio polls the future that it blocks on only after all
        // tasks.
        let driver = worker.clone();
        let drive = monoio::spawn(async move {
            let finish = |departure| driver.finish(departure);
            driver.plane.drive(|| driver.is_over.get(), finish).await
        });
        match select(work, drive).await {
            Either::Left((result, drive)) => {
                worker.plane.settle(drive).await;
                result
            }
            Either::Right((result, _)) => result.map_err(WorkerError::Engine),
        }
    }
}

/// A worker's state, shared by its tasks.
struct Worker<P> {
    plane: P,
    member: Option<Member>,
    service: RefCell<Arc<Service>>,
    bounds: Bounds,
    counters: Arc<Counters>,
    deadlines: Cell<Deadlines>,
    now: Rc<Cell<Tick>>,
    /// What the connections that are tasks hold of the memory budget.
    memory: Rc<Share>,
    connections: RefCell<Slab<Rc<Control>>>,
    /// What the next request head is read into, if there is memory left of an earlier one.
    head_memory: Cell<BytesMut>,
    /// All its connections, also those that its plane has taken over.
    roster: Rc<Roster>,
    turned_away: TurnedAway,
    /// What an operator may ask of connections, if that is kept.
    records: Records,
    access_log: Option<Arc<AccessLog>>,
    /// When a connection was last admitted, unless memory has been given back since.
    last_admission: Cell<Option<Tick>>,
    /// Waits for the last connection to end.
    drained: Cell<Option<Waker>>,
    /// Its work is done, and nothing is waited for any more.
    is_over: Cell<bool>,
}

/// Frees a worker when it ends, in whatever way. Its tasks hold the worker, and the worker holds the
/// wakers of waiting tasks, so that without this neither would ever be dropped.
struct Teardown<P: Plane>(Rc<Worker<P>>);

impl<P: Plane> Drop for Teardown<P> {
    fn drop(&mut self) {
        self.0.plane.let_go();
        self.0.roster.close();
        self.0.memory.let_go();
        drop(self.0.drained.take());
        // The borrow ends here, since what is let go of may look at the connections.
        let connections = mem::take(&mut *self.0.connections.borrow_mut());
        for (_, control) in connections {
            control.let_go();
        }
        // None are left but of a worker that dies.
        if let (records, Some(access_log)) = (self.0.records.clear(), &self.0.access_log) {
            for record in records {
                access_log.write(&record.view(), ConnectionEnd::WorkerDied, None);
            }
        }
    }
}

impl<P: Plane> Worker<P> {
    fn new(
        plane: P,
        service: Arc<Service>,
        bounds: Bounds,
        counters: Arc<Counters>,
        member: Option<Member>,
        memory: Share,
    ) -> Self {
        Self {
            plane,
            member,
            bounds,
            counters,
            deadlines: Cell::new(Deadlines::new(&service.time)),
            roster: Roster::new(service.server.admission.clone()),
            turned_away: TurnedAway::default(),
            service: RefCell::new(service),
            now: Rc::default(),
            memory: Rc::new(memory),
            connections: RefCell::default(),
            head_memory: Cell::default(),
            records: Records::default(),
            access_log: None,
            last_admission: Cell::default(),
            drained: Cell::default(),
            is_over: Cell::new(false),
        }
    }

    /// Keeps records of connections from now on, if anybody asks for them.
    fn admit_observers(&mut self, observers: Observers) -> Option<Inquiries> {
        let Observers { access_log, inquiries } = observers;
        if access_log.is_some() || inquiries.is_some() {
            self.records = Records::keeping();
        }
        self.access_log = access_log;
        inquiries
    }

    /// Accepts connections until the worker is to stop, and waits for their ends.
    async fn work(
        self: &Rc<Self>,
        mut queues: Vec<Queue<P>>,
        backlog: u32,
        mut ordered: Signal<P>,
        orders: Inbox,
    ) -> Result<(), WorkerError> {
        let accepting = select_all(queues.iter_mut().map(|queue| Box::pin(self.accept(queue))));
        let drain = match select(pin!(self.obey(&mut ordered, &orders)), accepting).await {
            Either::Left((drain, _)) => drain.map_err(WorkerError::Signal)?,
            Either::Right(((never, ..), _)) => match never {},
        };
        if !drain.leaves_queues {
            for Queue { listener, .. } in &queues {
                self.accept_the_last(listener, backlog as usize + 1);
            }
        }
        drop(queues);
        if let Some(member) = &self.member {
            member.leave();
            self.empty_inbox(member);
        }
        let drain = self.close_the_quiet(drain).await;
        self.drain(drain).await;
        Ok(())
    }

    /// Does what it is ordered to, until it is ordered to drain.
    async fn obey(&self, ordered: &mut Signal<P>, orders: &Inbox) -> io::Result<Drain> {
        loop {
            let goes_on = ordered.heard(&self.plane).await?;
            let pending = orders.take();
            if let Some(service) = pending.service {
                self.deadlines.set(Deadlines::new(&service.time));
                self.service.replace(service);
            }
            if let Some(drain) = pending.drain {
                return Ok(drain);
            }
            if !goes_on {
                // Others may have the sockets too, since nobody has said that they do not.
                return Ok(Drain {
                    leaves_queues: true,
                    ..Drain::configured(&self.service().time)
                });
            }
        }
    }

    /// What it answers with now.
    fn service(&self) -> Ref<'_, Service> {
        Ref::map(self.service.borrow(), |service| &**service)
    }

    /// Closes and counts a connection that has left the plane.
    fn finish(&self, departure: Departure) {
        let Departure { descriptor, end, close_code, record } = departure;
        if enabled!(Level::DEBUG) {
            let address = || SockRef::from(&descriptor).peer_addr().ok()?.as_socket();
            let known = record.as_ref().map(|record| record.view().peer);
            let peer = known.or_else(|| address().map(Peer::from)).unwrap_or(Peer::Local);
            debug!(%peer, ?end, "connection ended");
        }
        let number = descriptor.as_raw_fd();
        drop(descriptor);
        self.roster.leave(number);
        self.count_end(end, close_code, record.as_deref());
    }

    /// Counts the end of a connection that has been removed from its table, with the close code that
    /// it was sent.
    fn count_end(&self, end: ConnectionEnd, close_code: Option<u16>, record: Option<&Record>) {
        if let Some(record) = record {
            self.records.leave(record);
        }
        self.note_end(end, close_code, record);
        if let Some(member) = &self.member {
            member.connection_ended();
        }
        self.wake_if_drained();
    }

    /// Wakes whoever waits for the last connection to end, if that was it.
    fn wake_if_drained(&self) {
        if self.connection_count() == 0
            && let Some(drained) = self.drained.take()
        {
            drained.wake();
        }
    }

    /// Counts an end, and tells whoever wants to know of it.
    fn note_end(&self, end: ConnectionEnd, close_code: Option<u16>, record: Option<&Record>) {
        self.counters.count_end(end.kind(), close_code);
        self.note_cause(end);
        if let (Some(record), Some(access_log)) = (record, &self.access_log) {
            access_log.write(&record.view(), end, close_code);
        }
    }

    /// Counts why a connection or a stream has ended, if there is more to say than how.
    fn note_cause(&self, end: ConnectionEnd) {
        match end {
            ConnectionEnd::Refused(reason) => self.counters.refused(reason).add(1),
            ConnectionEnd::Failed(error) => self.counters.count_protocol_error(error),
            ConnectionEnd::Http2Failed(error) => self.counters.http2.count_error(error),
            _ => {}
        }
    }

    /// The number of the connection or stream that has been counted last. Each has another one.
    fn latest_number(&self) -> u64 {
        self.counters.accepted.get() + self.counters.http2.streams.get()
    }

    fn connection_count(&self) -> usize {
        self.connections.borrow().len() + self.plane.connection_count()
    }

    /// Counts the ticks, and at each has every connection's deadlines looked at.
    async fn sweep(self: Rc<Self>) {
        loop {
            let began = Instant::now();
            self.plane.sleep(TICK).await;
            self.counters.sweep_latenesses.count(began.elapsed().saturating_sub(TICK));
            self.now.set(self.now.get().next());
            self.counters.pulse.sweep();
            let deadlines = self.deadlines.get();
            let mut held = 0;
            for (_, control) in self.connections.borrow().iter() {
                control.sweep(&deadlines);
                held += control.held();
            }
            self.counters.own_buffer_bytes.set(held as u64);
            self.counters.copy_bytes.set(self.plane.copy_len() as u64);
            self.plane.sweep(self.now.get(), &deadlines);
            self.turned_away.sweep(self.now.get());
            self.memory.check();
            self.give_memory_back();
            self.counters.pulse.begin(Activity::Tasks);
        }
    }

    /// Ends the tasks of the connections that hold the most, whenever all connections of the process
    /// together hold too much.
    async fn shed(self: Rc<Self>) {
        loop {
            self.memory.exceeded().await;
            self.memory.shed(self.task_holders(), |control| control.shed());
            let_others_go_on().await;
        }
    }

    /// The connections that are tasks, with what each holds.
    fn task_holders(&self) -> Vec<(usize, Rc<Control>)> {
        let connections = self.connections.borrow();
        connections.iter().map(|(_, control)| (control.held(), control.clone())).collect()
    }

    /// Gives back what opening handshakes have taken, many times what a connection takes that the
    /// engine has, once none is under way and a whole tick has passed without a new connection.
    fn give_memory_back(&self) {
        let is_calm = self.last_admission.get().is_some_and(|last| last.next() != self.now.get());
        if is_calm && self.connections.borrow().is_empty() {
            self.last_admission.set(None);
            self.head_memory.take();
            memory::give_back();
        }
    }

    /// Demands something of the first tasks to which this applies, at most `count_max`, and returns
    /// their number.
    fn demand_of(
        &self,
        applies: impl Fn(&Control) -> bool,
        count_max: usize,
        demand: Demand,
    ) -> usize {
        let connections = self.connections.borrow();
        let chosen = connections.iter().filter(|(_, control)| applies(control)).take(count_max);
        chosen.map(|(_, control)| control.demand(demand)).count()
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
