//! A server: one worker on each core, from the free port to the last connection.
//!
//! Started workers accept on sockets of their own that share the port. A worker that dies of a
//! defect is replaced; its connections are lost, the others do not notice.

pub mod signals;

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit};
use thiserror::Error;
use tracing::{error, info, warn};

use crate::{
    config::{self, Compression, Config, ConfigError, DataPlane, HugePages},
    connection::{ConnectionEnd, RECEIVE_QUOTA},
    entry::{
        balance::Balance,
        listener::{ListenError, Listening},
    },
    handshake::Policy,
    host::{
        cpu_list::{CpuList, CpuListError},
        descriptors::{self, Refused, raise_limit},
    },
    http::{echo_paths::EchoPaths, encode_page, page},
    metrics::{Counters, Totals},
    plane::engine::{self, Lack},
    worker::{
        self, Driver, Fallback, Footing, Plan, Ready, Shortage, ShortageKind, Site, WorkerError,
    },
};

/// Why a server did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A value of the configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no CPU that workers could be pinned to.
    #[error("{0}; name those that --workers are to be pinned to with --cpus")]
    Cpus(#[from] CpuListError),
    /// The server cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// `io_uring` was asked for and is not to be had.
    #[error("--driver io_uring: {0}; use --driver auto to fall back to epoll")]
    IoUringUnavailable(String),
    /// The engine was asked for and is not to be had.
    #[error("--data-plane engine: {0}; use --data-plane auto to fall back to the portable path")]
    EngineUnavailable(String),
    /// A worker could not start.
    #[error("worker {worker}: {cause}")]
    Worker {
        /// Its number.
        worker: usize,
        /// Why.
        cause: String,
    },
    /// A thread cannot be started.
    #[error(
        "no thread can be started ({0}); raise the limits on tasks (ulimit -u, or the container's \
         or service's) and on memory (ulimit -v), or lower --workers"
    )]
    Thread(#[source] io::Error),
    /// The system refused something else.
    #[error(transparent)]
    System(#[from] Refused),
}

/// Why a server that had started could not go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// A worker died, and no other could be put in its place.
    #[error("worker {worker} died, and could not be replaced in {tries} tries: {cause}")]
    WorkerLost {
        /// Its number.
        worker: usize,
        /// How often it was tried.
        tries: u32,
        /// Why the last one failed.
        cause: String,
    },
}

/// A running server.
pub struct Server {
    listening: Listening,
    footing: Footing,
    fallback: Fallback,
    backlog: u32,
    site: Arc<Site>,
    balance: Option<Arc<Balance>>,
    workers: Vec<WorkerThread>,
    /// Workers to replace, and when.
    replacements: Vec<(Instant, usize)>,
    events: Receiver<Event>,
    events_sender: Sender<Event>,
    /// Called on each worker's thread once it accepts connections.
    on_ready: OnReady,
}

type OnReady = Arc<dyn Fn(usize) + Send + Sync>;

/// Stops a running server, from any thread.
#[derive(Clone)]
pub struct StopHandle(Sender<Event>);

struct WorkerThread {
    cpu: usize,
    counters: Arc<Counters>,
    /// Dropped to stop the worker.
    stop: UnixStream,
    thread: JoinHandle<()>,
    started: Instant,
    /// How long its place was empty before.
    pause: Duration,
    /// How many have been put in this place since one was last ready.
    tries: u32,
}

enum Event {
    Ready {
        worker: usize,
        ready: Ready,
    },
    /// A worker is over: it stopped, could not go on, or (`None`) panicked.
    Ended {
        worker: usize,
        result: Option<Result<(), WorkerError>>,
    },
    ReplacementDue {
        worker: usize,
    },
    Stop,
}

/// A worker that lives for less than this probably dies of something that its replacement meets
/// as well.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// How often a place is tried to be filled before the server gives up: for some 25 seconds.
const TRIES_MAX: u32 = 8;

/// How long the place of a short-lived worker stays empty, the first time and at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

impl StopHandle {
    /// Stops the server: no new connections, and a Close frame for every open one.
    pub fn stop(&self) {
        // Nobody receives once the server has ended, and then there is nothing to stop.
        let _ = self.0.send(Event::Stop);
    }
}

impl Server {
    /// Starts a server, which accepts connections when this returns.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_with(config, Arc::new(|_| ()))
    }

    fn start_with(config: &Config, on_ready: OnReady) -> Result<Self, StartError> {
        config.check()?;
        let driver = resolve_driver(config.driver)?;
        let cpus = worker_cpus(config)?;
        try_streams()?;
        // Each connection takes a descriptor.
        if let Err(error) = raise_limit(u64::MAX) {
            warn!(%error, "the limit of open files stays as it is");
        }
        let footing = Footing { driver, engine: resolve_data_plane(config, driver)? };
        let fallback = Fallback {
            // Huge pages were asked for, so there is to be something in them.
            plane: config.data_plane == DataPlane::Auto && config.huge_pages == HugePages::Off,
            driver: config.driver == config::Driver::Auto,
        };
        let mut listening = Listening::new(config);
        if !config.reuse_port {
            listening.probe()?;
        }
        let listeners: Vec<_> =
            cpus.iter().map(|cpu| listening.open(*cpu)).collect::<Result<_, _>>()?;
        let (events_sender, events) = channel();
        let mut server = Self {
            listening,
            footing,
            fallback,
            backlog: config.backlog,
            site: Arc::new(site(config)),
            balance: (config.balance && cpus.len() > 1).then(|| Arc::new(Balance::new(cpus.len()))),
            workers: Vec::new(),
            replacements: Vec::new(),
            events,
            events_sender,
            on_ready,
        };
        for (cpu, listener) in cpus.into_iter().zip(listeners) {
            let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
            let thread = server.spawn_worker(server.workers.len(), cpu, listener, counters)?;
            server.workers.push(thread);
        }
        server.wait_until_ready()?;
        warn_of_few_descriptors();
        Ok(server)
    }

    /// The address that the server listens on, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.listening.address()
    }

    /// What a server says when it is ready. Workers that had to fall back are told of in the log.
    pub fn ready_line(&self) -> String {
        let address = self.address();
        let Self { site, workers, footing, .. } = self;
        let count = workers.len();
        let plural = if count == 1 { "worker" } else { "workers" };
        let path = site.echo_paths.first();
        format!("listening on ws://{address}{path} ({count} {plural}, {footing})")
    }

    /// A handle that stops the server.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(self.events_sender.clone())
    }

    /// Runs until the server is stopped, or cannot go on, and its connections have ended; returns
    /// what it did.
    pub fn run(mut self) -> Result<Totals, RunError> {
        let result = self.run_until_stopped();
        let totals = self.stop_workers();
        result.map(|()| totals)
    }

    fn run_until_stopped(&mut self) -> Result<(), RunError> {
        loop {
            match self.next_event() {
                Event::Stop => return Ok(()),
                Event::Ready { worker, ready } => {
                    self.workers[worker].tries = 0;
                    tell_of_shortages(&[ready]);
                }
                Event::Ended { worker, result } => self.plan_replacement(worker, result)?,
                Event::ReplacementDue { worker } => self.replace_worker(worker)?,
            }
        }
    }

    /// Stops all workers, and returns what they did.
    fn stop_workers(&mut self) -> Totals {
        let mut totals = Totals::default();
        let workers = std::mem::take(&mut self.workers);
        let counters: Vec<_> = workers.iter().map(|worker| worker.counters.clone()).collect();
        let threads: Vec<_> = workers.into_iter().map(WorkerThread::stop).collect();
        for thread in threads {
            thread.join().unwrap_or_else(|_| unreachable!("a worker's thread catches its panics"));
        }
        let dead = self.count_deaths_while_stopping(&counters);
        debug_assert!(self.is_balance_settled(&dead), "what was assigned to the living has ended");
        for counters in &counters {
            totals.add(counters);
        }
        totals
    }

    /// Finds the workers that died instead of stopping.
    fn count_deaths_while_stopping(&self, counters: &[Arc<Counters>]) -> Vec<usize> {
        let mut dead = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            let Event::Ended { worker, result } = event else { continue };
            let Some(cause) = cause_of_death(result) else { continue };
            let lost = count_lost(&counters[worker]);
            error!(worker, lost, "a worker died while it was to stop: {cause}");
            dead.push(worker);
        }
        dead
    }

    /// Whether no worker but the `dead` is said to have connections, now that there are none.
    fn is_balance_settled(&self, dead: &[usize]) -> bool {
        let is_replaced = |worker| self.replacements.iter().any(|(_, dead)| *dead == worker);
        let is_dead = |worker| dead.contains(&worker) || is_replaced(worker);
        self.balance.as_ref().is_none_or(|balance| {
            (0..balance.workers())
                .all(|worker| is_dead(worker) || balance.connection_count(worker) == 0)
        })
    }

    fn next_event(&self) -> Event {
        let next = self.replacements.iter().min();
        let wait =
            next.map_or(Duration::MAX, |(due, _)| due.saturating_duration_since(Instant::now()));
        match (self.events.recv_timeout(wait), next) {
            (Ok(event), _) => event,
            (Err(RecvTimeoutError::Timeout), Some(&(_, worker))) => {
                Event::ReplacementDue { worker }
            }
            (Err(_), _) => unreachable!("the server holds a sender itself"),
        }
    }

    fn spawn_worker(
        &self,
        worker: usize,
        cpu: usize,
        listener: TcpListener,
        counters: Arc<Counters>,
    ) -> Result<WorkerThread, StartError> {
        let (stop, worker_stop) = UnixStream::pair().map_err(Refused::naming("socketpair"))?;
        let balance = self.balance.clone();
        let plan = Plan {
            cpu,
            footing: self.footing,
            fallback: self.fallback,
            listener,
            backlog: self.backlog,
            member: balance
                .as_ref()
                .map(|balance| balance.join(worker).map_err(Refused::naming("socketpair")))
                .transpose()?,
            stop: worker_stop,
            counters: counters.clone(),
            site: self.site.clone(),
        };
        let events = self.events_sender.clone();
        let on_ready = self.on_ready.clone();
        let run = move || {
            let ready = {
                let events = events.clone();
                move |ready| {
                    let _ = events.send(Event::Ready { worker, ready });
                    on_ready(worker);
                }
            };
            let result = catch_unwind(AssertUnwindSafe(|| worker::run(plan, ready))).ok();
            if let Some(balance) = balance {
                balance.leave(worker);
            }
            let _ = events.send(Event::Ended { worker, result });
        };
        let thread = thread::Builder::new().name(format!("worker-{worker}"));
        let thread = thread.spawn(run).map_err(StartError::Thread)?;
        let (started, pause, tries) = (Instant::now(), Duration::ZERO, 0);
        Ok(WorkerThread { cpu, counters, stop, thread, started, pause, tries })
    }

    fn wait_until_ready(&self) -> Result<(), StartError> {
        let mut all_ready = Vec::new();
        while all_ready.len() < self.workers.len() {
            match self.next_event() {
                Event::Ready { ready, .. } => all_ready.push(ready),
                Event::Ended { worker, result } => {
                    let cause = cause_of_death(result).unwrap_or_else(|| "it ended".to_owned());
                    return Err(StartError::Worker { worker, cause });
                }
                Event::Stop | Event::ReplacementDue { .. } => {
                    unreachable!("nobody has a stop handle yet, and nothing is replaced")
                }
            }
        }
        tell_of_shortages(&all_ready);
        Ok(())
    }

    /// Has a worker replaced that ended without having been told to.
    fn plan_replacement(
        &mut self,
        worker: usize,
        result: Option<Result<(), WorkerError>>,
    ) -> Result<(), RunError> {
        let cause = cause_of_death(result).unwrap_or_else(|| "it ended".to_owned());
        let lost = count_lost(&self.workers[worker].counters);
        error!(worker, lost, "a worker died, and its connections with it: {cause}");
        self.try_again(worker, cause)
    }

    /// Has a place tried to be filled again later, unless that has been tried often enough.
    fn try_again(&mut self, worker: usize, cause: String) -> Result<(), RunError> {
        let WorkerThread { started, pause, tries, .. } = &mut self.workers[worker];
        if *tries == TRIES_MAX {
            // It stays among those whose place is empty.
            self.replacements.push((Instant::now(), worker));
            return Err(RunError::WorkerLost { worker, tries: *tries, cause });
        }
        *pause = replacement_pause(started.elapsed(), *pause);
        info!(worker, ?pause, "replacing a worker");
        self.replacements.push((Instant::now() + *pause, worker));
        Ok(())
    }

    /// Puts a new worker in the place of one that died.
    fn replace_worker(&mut self, worker: usize) -> Result<(), RunError> {
        self.replacements.retain(|(_, replaced)| *replaced != worker);
        let WorkerThread { cpu, counters, pause, tries, .. } = &self.workers[worker];
        let (cpu, counters, pause, tries) = (*cpu, counters.clone(), *pause, *tries + 1);
        match self.start_replacement(worker, cpu, counters) {
            Ok(thread) => self.workers[worker] = WorkerThread { pause, tries, ..thread },
            Err(error) => {
                error!(worker, "a worker cannot be replaced: {error}");
                self.workers[worker].tries = tries;
                // As if it had lived for no time at all.
                self.workers[worker].started = Instant::now();
                self.try_again(worker, error.to_string())?;
            }
        }
        Ok(())
    }

    fn start_replacement(
        &mut self,
        worker: usize,
        cpu: usize,
        counters: Arc<Counters>,
    ) -> Result<WorkerThread, StartError> {
        let listener = self.listening.open(cpu)?;
        self.spawn_worker(worker, cpu, listener, counters)
    }
}

/// What a worker died of, unless it did as it was told.
fn cause_of_death(result: Option<Result<(), WorkerError>>) -> Option<String> {
    match result {
        Some(Ok(())) => None,
        Some(Err(error)) => Some(error.to_string()),
        None => Some("a defect of this program; please report it".to_owned()),
    }
}

/// Says in one line how many workers do without what others have, and why.
fn tell_of_shortages(all_ready: &[Ready]) {
    let shortages: Vec<_> = all_ready.iter().filter_map(|ready| ready.shortage.as_ref()).collect();
    if let Some(Shortage { error, .. }) = shortages.first() {
        let kinds = [
            (ShortageKind::SmallRing, "with smaller rings than they should have"),
            (ShortageKind::NoEngine, "without an engine, on the portable path"),
            (ShortageKind::NoRing, "without a ring, on epoll"),
        ];
        let counted = kinds.map(|(kind, how)| {
            (shortages.iter().filter(|shortage| shortage.kind == kind).count(), how)
        });
        let told: Vec<_> = counted
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, how)| format!("{count} {how}"))
            .collect();
        let (total, told) = (all_ready.len(), told.join("; "));
        let remedy = if error.kind() == io::ErrorKind::OutOfMemory { MORE_MEMORY } else { "" };
        warn!("of {total} workers {told}: {error}{remedy}");
    }
    if let Some(error) = all_ready.iter().find_map(|ready| ready.unpinned.as_ref()) {
        warn!("workers are not pinned to CPUs (sched_setaffinity: {error})");
    }
}

/// What helps where a ring needs more memory than may be locked.
const MORE_MEMORY: &str = "; let this user lock more memory (ulimit -l, LimitMEMLOCK= or \
                           --ulimit memlock), or have fewer --workers";

/// Counts the connections that a worker's death has ended, and says how many they are.
fn count_lost(counters: &Counters) -> u64 {
    let mut totals = Totals::default();
    totals.add(counters);
    let lost = totals.accepted - totals.ended_count();
    counters.ended(ConnectionEnd::Panicked.kind()).add(lost);
    lost
}

/// How long the place of a worker stays empty that died after it `lived` so long, and before which
/// it had been empty for `pause`: not at all, or twice as long as before.
fn replacement_pause(lived: Duration, pause: Duration) -> Duration {
    if lived < SHORT_LIFE { (2 * pause).clamp(PAUSE_MIN, PAUSE_MAX) } else { Duration::ZERO }
}

impl WorkerThread {
    /// Tells the worker to stop.
    fn stop(self) -> JoinHandle<()> {
        drop(self.stop);
        self.thread
    }
}

/// Free descriptors that are worth a warning.
const DESCRIPTORS_FEW: u64 = 1024;

fn warn_of_few_descriptors() {
    let free = descriptors::count_free();
    if free < DESCRIPTORS_FEW {
        warn!(
            "the limit of open files leaves room for {free} connections; raise it with ulimit -n, \
             or LimitNOFILE= of the service"
        );
    }
}

fn site(config: &Config) -> Site {
    let echo_paths = EchoPaths::new(&config.paths);
    Site {
        policy: Policy {
            allowed_origins: config.allowed_origins.clone(),
            subprotocols: config.subprotocols.clone(),
            passes_compression: config.compression == Compression::PassThrough,
        },
        page: encode_page(&page::render(echo_paths.first())).into(),
        echo_paths,
        limits: config.limits.clone(),
    }
}

fn resolve_driver(wanted: config::Driver) -> Result<Driver, StartError> {
    if wanted == config::Driver::Epoll {
        return Ok(Driver::Epoll);
    }
    let obstacle = match worker::try_uring() {
        Ok(()) if monoio::utils::detect_uring() => return Ok(Driver::IoUring),
        Ok(()) => "this kernel's io_uring lacks an operation that is needed".to_owned(),
        // Each worker takes what it can have, and says so.
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => return Ok(Driver::IoUring),
        Err(error) => format!(
            "io_uring cannot be used here ({error}): allow io_uring_setup, io_uring_enter and \
             io_uring_register in the container's seccomp profile, or set \
             kernel.io_uring_disabled=0"
        ),
    };
    if wanted == config::Driver::IoUring {
        return Err(StartError::IoUringUnavailable(obstacle));
    }
    warn!("{obstacle}; using epoll");
    Ok(Driver::Epoll)
}

/// Tries what connections and workers cannot do without, so that a refusal is told here and not
/// found by somebody who waits for an answer.
fn try_streams() -> Result<(), Refused> {
    let (mut one, mut other) = UnixStream::pair().map_err(Refused::naming("socketpair"))?;
    one.write_all(b"?").map_err(Refused::naming("sendto"))?;
    other.read_exact(&mut [0]).map_err(Refused::naming("recvfrom"))
}

/// The engine that this kernel can carry, if one is wanted.
fn resolve_data_plane(
    config: &Config,
    driver: Driver,
) -> Result<Option<engine::Dimensions>, StartError> {
    if config.data_plane == DataPlane::Portable {
        return Ok(None);
    }
    let obstacle = match driver {
        Driver::Epoll => "it needs io_uring".to_owned(),
        Driver::IoUring => match engine::probe() {
            Ok(probe) => return Ok(Some(engine_dimensions(config, probe))),
            Err(Lack::Memory(error)) => {
                format!("there is no memory for its ring ({error}){MORE_MEMORY}")
            }
            Err(lack) => lack.to_string(),
        },
    };
    if config.data_plane == DataPlane::Engine {
        return Err(StartError::EngineUnavailable(obstacle));
    }
    info!("no engine, {obstacle}; using the portable path");
    Ok(None)
}

fn engine_dimensions(config: &Config, probe: engine::Probe) -> engine::Dimensions {
    let limits = &config.limits;
    // Where it is not told, it is probably the lowest that is usual.
    let (descriptors_max, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let unsent_max = limits.unsent_max.in_memory();
    let receive_quota =
        if probe.limits_receives { RECEIVE_QUOTA.min(unsent_max / 4) as u32 } else { 0 };
    engine::Dimensions {
        receive_buffers: limits.receive_buffers,
        receive_buffer_len: limits.receive_buffer.in_memory() as u32,
        huge_pages: config.huge_pages,
        receive_quota,
        unsent_max,
        connections_max: descriptors_max.min(ENGINE_CONNECTIONS_MAX) as u32,
    }
}

/// Slots of an engine, at most: they take kernel memory, whether they are used or not.
const ENGINE_CONNECTIONS_MAX: u64 = 1 << 20;

/// The CPU of each worker.
fn worker_cpus(config: &Config) -> Result<Vec<usize>, StartError> {
    let cpus = match &config.cpus {
        Some(cpus) => cpus.clone(),
        None => CpuList::usable()?,
    };
    let cpus = cpus.as_slice();
    let count = config.workers.unwrap_or(cpus.len());
    Ok(cpus.iter().copied().cycle().take(count).collect())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        sync::{
            Barrier, Mutex,
            atomic::{AtomicBool, AtomicU32, Ordering},
        },
    };

    use super::*;

    fn config() -> Config {
        Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::default() }
    }

    /// Has a worker die when it is told to, which it waits for once it is ready.
    fn dying_when_told(dying: usize) -> (Sender<()>, OnReady) {
        let (die, told) = channel();
        let told = Mutex::new(told);
        let on_ready = Arc::new(move |worker| {
            if worker == dying {
                told.lock().unwrap().recv().unwrap();
                panic!("a defect, for the test");
            }
        });
        (die, on_ready)
    }

    #[test]
    fn taken_port_is_refused_unless_it_is_shared() {
        let server = Server::start(&config()).unwrap();
        let second = Config { listen: server.address(), ..config() };
        let refusal = Server::start(&second).err().expect("the port is taken");
        assert!(matches!(refusal, StartError::Listen(ListenError::AddressInUse(_))), "{refusal}");
        let shared = Config { reuse_port: true, ..second };
        assert!(Server::start(&shared).is_ok());
    }

    #[test]
    fn place_of_a_worker_that_dies_young_stays_empty_for_longer_and_longer() {
        let mut pauses = vec![Duration::ZERO];
        for _ in 0..10 {
            pauses.push(replacement_pause(Duration::ZERO, pauses[pauses.len() - 1]));
        }
        assert_eq!(pauses[1..4], [PAUSE_MIN, 2 * PAUSE_MIN, 4 * PAUSE_MIN]);
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&PAUSE_MAX));
        assert_eq!(replacement_pause(SHORT_LIFE, PAUSE_MAX), Duration::ZERO);
    }

    #[test]
    fn replacement_has_its_share_of_the_connections() {
        let both_ready = Barrier::new(2);
        let lives = AtomicU32::new(0);
        let (ready, replaced) = channel();
        let on_ready: OnReady = Arc::new(move |worker| {
            if worker == 0 {
                both_ready.wait();
                return;
            }
            match lives.fetch_add(1, Ordering::Relaxed) {
                // A server whose worker dies before the others are ready does not start.
                0 => both_ready.wait().is_leader(),
                1 => false,
                _ => return ready.send(()).unwrap(),
            };
            panic!("a defect, for the test");
        });
        let server =
            Server::start_with(&Config { workers: Some(2), ..config() }, on_ready).unwrap();
        let (address, stop) = (server.address(), server.stop_handle());
        let running = thread::spawn(move || server.run());
        replaced.recv().unwrap();

        let url = format!("ws://{address}/ws");
        let connect = |_| tungstenite::client(&url, TcpStream::connect(address).unwrap()).unwrap();
        let clients: Vec<_> = (0..8).map(connect).collect();
        drop(clients);
        stop.stop();
        let totals = running.join().unwrap().unwrap();
        assert_eq!(totals.accepted_by_worker, [4, 4]);
        assert_eq!(totals.ended_count(), 8);
    }

    #[test]
    fn connections_of_a_worker_that_dies_while_it_is_to_stop_are_counted() {
        const LOST: u64 = 3;
        let (die, on_ready) = dying_when_told(1);
        let config = Config { workers: Some(2), ..config() };
        let server = Server::start_with(&config, on_ready).unwrap();
        server.workers[1].counters.accepted.add(LOST);
        server.stop_handle().stop();
        die.send(()).unwrap();
        let totals = server.run().unwrap();
        assert_eq!(totals.ended, [("panicked", LOST)]);
    }

    /// The connections of a worker that is lost are not among those that were to end.
    #[test]
    fn server_that_loses_a_worker_with_connections_ends() {
        let (die, on_ready) = dying_when_told(0);
        let config = Config { workers: Some(2), ..config() };
        let mut server = Server::start_with(&config, on_ready).unwrap();
        let clients = [(); 16].map(|()| TcpStream::connect(server.address()).unwrap());
        while server.workers[1].counters.accepted.get() == 0 {
            thread::yield_now();
        }
        server.workers[0].tries = TRIES_MAX;
        die.send(()).unwrap();
        drop(clients);
        assert!(matches!(server.run(), Err(RunError::WorkerLost { worker: 0, .. })));
    }

    #[test]
    fn replacement_that_cannot_start_is_tried_again_until_the_server_gives_up() {
        let mut server = Server::start(&config()).unwrap();
        // A network for documentation: no address of this machine.
        let elsewhere = Config { listen: SocketAddr::from(([192, 0, 2, 1], 9001)), ..config() };
        server.listening = Listening::new(&elsewhere);
        for tried in 1..TRIES_MAX {
            server.replace_worker(0).unwrap();
            assert_eq!(server.workers[0].tries, tried);
            assert_eq!(server.replacements.len(), 1);
        }
        let error = server.replace_worker(0).unwrap_err();
        assert!(matches!(error, RunError::WorkerLost { worker: 0, tries: TRIES_MAX, .. }));
        assert!(error.to_string().contains("192.0.2.1:9001"), "{error}");
        server.stop_workers();
    }

    #[test]
    fn ring_that_fails_is_no_defect() {
        let failure = WorkerError::Ring(io::Error::from(nix::errno::Errno::EPERM));
        let cause = cause_of_death(Some(Err(failure))).unwrap();
        assert!(cause.starts_with("its ring failed: ") && !cause.contains("defect"), "{cause}");
        assert!(cause_of_death(None).unwrap().contains("defect"));
        assert_eq!(cause_of_death(Some(Ok(()))), None);
    }

    #[test]
    fn worker_that_dies_is_replaced() {
        let first = AtomicBool::new(true);
        let (ready, replaced) = channel();
        let on_ready: OnReady = Arc::new(move |_| {
            assert!(!first.swap(false, Ordering::Relaxed), "a defect, for the test");
            ready.send(()).unwrap();
        });
        let config = Config { workers: Some(1), ..config() };
        let server = Server::start_with(&config, on_ready).unwrap();
        let (address, stop) = (server.address(), server.stop_handle());
        let running = thread::spawn(move || server.run());
        replaced.recv().unwrap();

        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
        stop.stop();
        let totals = running.join().unwrap().unwrap();
        assert_eq!(totals.ended, [("refused", 1)]);
    }
}
