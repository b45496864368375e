//! A server: one worker on each core, from the free port to the last connection.
//!
//! Started workers accept on sockets of their own that share the port. A worker that dies of a
//! defect is replaced; its connections are lost, the others do not notice.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    process,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
};

use io_uring_monoio::IoUring;
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getaffinity},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Pid,
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tracing::{error, info, warn};

use crate::{
    config::{self, Compression, Config, ConfigError, DataPlane, Limits},
    connection::ConnectionEnd,
    engine,
    handshake::Policy,
    http::encode_page,
    metrics::{Counters, Totals},
    page,
    worker::{self, Driver, Plan, Site},
};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why a server did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A value of the configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A CPU was asked for that the process may not use.
    #[error("--cpus names CPU {wanted}, but this process may use only {allowed:?}")]
    CpuNotAllowed {
        /// The CPU asked for.
        wanted: usize,
        /// The CPUs of the process.
        allowed: Vec<usize>,
    },
    /// Another program listens on the address.
    #[error(
        "--listen {0}: another program listens there; choose another port, or share this one \
         with --reuse-port"
    )]
    AddressInUse(SocketAddr),
    /// The address cannot be listened on.
    #[error(
        "--listen {address}: {source}; it must be an address of this machine, with a port \
         that this user may listen on"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// `io_uring` was asked for and is not to be had.
    #[error("--driver io_uring: {0}; use --driver auto to fall back to epoll")]
    IoUringUnavailable(String),
    /// The engine was asked for and is not to be had.
    #[error("--data-plane engine: {0}; use --data-plane auto to fall back to the portable path")]
    EngineUnavailable(String),
    /// A worker could not start.
    #[error("worker {worker} could not start: {source}")]
    Worker {
        /// Its number.
        worker: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    driver: Driver,
    engine: Option<engine::Dimensions>,
    site: Arc<Site>,
    workers: Vec<WorkerThread>,
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
}

enum Event {
    Ready,
    /// A worker is over: it stopped, could not go on, or (`None`) panicked.
    Ended {
        worker: usize,
        result: Option<io::Result<()>>,
    },
    Stop,
}

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
        raise_descriptor_limit();
        let engine = resolve_data_plane(config, driver)?;
        if !config.reuse_port {
            probe_port(config.listen)?;
        }
        let mut listeners = vec![listen(config.listen)?];
        let address = listeners[0].local_addr()?;
        for _ in 1..cpus.len() {
            listeners.push(listen(address)?);
        }
        let (events_sender, events) = channel();
        let mut server = Self {
            address,
            driver,
            engine,
            site: Arc::new(site(config)),
            workers: Vec::new(),
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
        Ok(server)
    }

    /// The address that the server listens on, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a server says when it is ready.
    pub fn ready_line(&self) -> String {
        let Self { address, site, workers, driver, engine, .. } = self;
        let driver = match driver {
            Driver::IoUring => "io_uring",
            Driver::Epoll => "epoll",
        };
        let count = workers.len();
        let plural = if count == 1 { "worker" } else { "workers" };
        let plane = if engine.is_some() { " with engine" } else { "" };
        format!("listening on ws://{address}{} ({count} {plural}, {driver}{plane})", site.echo_path)
    }

    /// A handle that stops the server.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(self.events_sender.clone())
    }

    /// Has SIGINT and SIGTERM stop the server; a second one ends the process at once.
    pub fn stop_on_signals(&self) -> Result<(), StartError> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let stop = self.stop_handle();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut stopping = false;
            for signal in signals.forever() {
                if stopping {
                    // As the shell reports a process that a signal ended.
                    process::exit(128 + signal);
                }
                stopping = true;
                info!("stopping; once more to end at once");
                stop.stop();
            }
        })?;
        Ok(())
    }

    /// Runs until the server is stopped and its connections have ended; returns what it did.
    pub fn run(mut self) -> Result<Totals, StartError> {
        loop {
            match self.next_event() {
                Event::Stop => break,
                Event::Ready => {}
                Event::Ended { worker, result } => self.replace_worker(worker, result)?,
            }
        }
        let mut totals = Totals::default();
        let workers = std::mem::take(&mut self.workers);
        let counters: Vec<_> = workers.iter().map(|worker| worker.counters.clone()).collect();
        let threads: Vec<_> = workers.into_iter().map(WorkerThread::stop).collect();
        for thread in threads {
            thread.join().unwrap_or_else(|_| unreachable!("a worker's thread catches its panics"));
        }
        for counters in &counters {
            totals.add(counters);
        }
        Ok(totals)
    }

    fn next_event(&self) -> Event {
        self.events.recv().unwrap_or_else(|_| unreachable!("the server holds a sender itself"))
    }

    fn spawn_worker(
        &self,
        worker: usize,
        cpu: usize,
        listener: TcpListener,
        counters: Arc<Counters>,
    ) -> Result<WorkerThread, StartError> {
        let (stop, worker_stop) = UnixStream::pair()?;
        let plan = Plan {
            cpu,
            driver: self.driver,
            engine: self.engine,
            listener,
            stop: worker_stop,
            counters: counters.clone(),
            site: self.site.clone(),
        };
        let events = self.events_sender.clone();
        let on_ready = self.on_ready.clone();
        let thread = thread::Builder::new().name(format!("worker-{worker}")).spawn(move || {
            let ready = || {
                let _ = events.send(Event::Ready);
                on_ready(worker);
            };
            let result = catch_unwind(AssertUnwindSafe(|| worker::run(plan, ready))).ok();
            let _ = events.send(Event::Ended { worker, result });
        })?;
        Ok(WorkerThread { cpu, counters, stop, thread })
    }

    fn wait_until_ready(&self) -> Result<(), StartError> {
        let mut ready = 0;
        while ready < self.workers.len() {
            match self.next_event() {
                Event::Ready => ready += 1,
                Event::Ended { worker, result: Some(Err(source)) } => {
                    return Err(StartError::Worker { worker, source });
                }
                Event::Ended { worker, .. } => {
                    let source = io::Error::other("it ended");
                    return Err(StartError::Worker { worker, source });
                }
                Event::Stop => self.stop_handle().stop(),
            }
        }
        Ok(())
    }

    /// Puts a new worker in the place of one that ended without having been told to.
    fn replace_worker(
        &mut self,
        worker: usize,
        result: Option<io::Result<()>>,
    ) -> Result<(), StartError> {
        if let Some(Err(source)) = result {
            return Err(StartError::Worker { worker, source });
        }
        error!(worker, "a worker died of a defect, and its connections with it; replacing it");
        let WorkerThread { cpu, counters, .. } = &self.workers[worker];
        let (cpu, counters) = (*cpu, counters.clone());
        let mut totals = Totals::default();
        totals.add(&counters);
        let lost = totals.accepted - totals.ended_count();
        counters.ended(ConnectionEnd::Panicked.kind()).add(lost);
        let listener = listen(self.address)?;
        self.workers[worker] = self.spawn_worker(worker, cpu, listener, counters)?;
        Ok(())
    }
}

impl WorkerThread {
    /// Tells the worker to stop.
    fn stop(self) -> JoinHandle<()> {
        drop(self.stop);
        self.thread
    }
}

fn site(config: &Config) -> Site {
    Site {
        echo_path: config.path.clone(),
        policy: Policy {
            allowed_origins: config.allowed_origins.clone(),
            subprotocols: config.subprotocols.clone(),
            passes_compression: config.compression == Compression::PassThrough,
        },
        page: encode_page(&page::render(&config.path)).into(),
        limits: config.limits.clone(),
    }
}

fn resolve_driver(wanted: config::Driver) -> Result<Driver, StartError> {
    if wanted == config::Driver::Epoll {
        return Ok(Driver::Epoll);
    }
    let obstacle = match IoUring::new(worker::RING_PROBE_ENTRIES) {
        Ok(_) if monoio::utils::detect_uring() => return Ok(Driver::IoUring),
        Ok(_) => "this kernel's io_uring lacks an operation that is needed".to_owned(),
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
            Ok(probe) => return Ok(Some(engine_dimensions(&config.limits, probe)?)),
            Err(error) => format!(
                "this kernel lacks what it needs ({error}): deferred task running (Linux 6.1) and \
                 incremental buffers (6.12)"
            ),
        },
    };
    if config.data_plane == DataPlane::Engine {
        return Err(StartError::EngineUnavailable(obstacle));
    }
    info!("no engine, {obstacle}; using the portable path");
    Ok(None)
}

fn engine_dimensions(limits: &Limits, probe: engine::Probe) -> io::Result<engine::Dimensions> {
    let (descriptors_max, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let receive_share =
        if probe.limits_receives { limits.unsent_max.in_memory() as u32 / 2 } else { 0 };
    Ok(engine::Dimensions {
        receive_buffers: limits.receive_buffers,
        receive_buffer_len: limits.receive_buffer.in_memory() as u32,
        receive_share,
        connections_max: descriptors_max.min(ENGINE_CONNECTIONS_MAX) as u32,
    })
}

/// Slots of an engine, at most: they take kernel memory, whether they are used or not.
const ENGINE_CONNECTIONS_MAX: u64 = 1 << 20;

/// The CPU of each worker.
fn worker_cpus(config: &Config) -> Result<Vec<usize>, StartError> {
    let affinity = sched_getaffinity(Pid::from_raw(0)).map_err(io::Error::from)?;
    let allowed: Vec<usize> =
        (0..CpuSet::count()).filter(|cpu| affinity.is_set(*cpu).unwrap_or(false)).collect();
    if let Some(&wanted) = config.cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        return Err(StartError::CpuNotAllowed { wanted, allowed });
    }
    let cpus = if config.cpus.is_empty() { allowed } else { config.cpus.clone() };
    let count = config.workers.unwrap_or(cpus.len());
    Ok(cpus.into_iter().cycle().take(count).collect())
}

/// Takes as many descriptors as the system grants: each connection is one.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}

/// Finds out whether another program listens on `address`.
///
/// Sockets that share a port join it silently. One that does not share can only be bound where
/// nobody listens.
fn probe_port(address: SocketAddr) -> Result<(), StartError> {
    bound_socket(address, false).map(drop)
}

/// A socket of its own that listens on `address`, together with those of the other workers.
fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let socket = bound_socket(address, true)?;
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG).map_err(|source| listen_error(address, source))?;
    Ok(socket.into())
}

fn bound_socket(address: SocketAddr, reuse_port: bool) -> Result<Socket, StartError> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into()).map_err(|source| listen_error(address, source))?;
    Ok(socket)
}

fn listen_error(address: SocketAddr, source: io::Error) -> StartError {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => StartError::AddressInUse(address),
        _ => StartError::Listen { address, source },
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;

    fn config() -> Config {
        Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::default() }
    }

    #[test]
    fn accepted_connections_do_not_delay_small_segments() {
        let listener = listen(config().listen).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
    }

    #[test]
    fn taken_port_is_refused_unless_it_is_shared() {
        let server = Server::start(&config()).unwrap();
        let second = Config { listen: server.address(), ..config() };
        let refusal = Server::start(&second).err().expect("the port is taken");
        assert!(matches!(refusal, StartError::AddressInUse(_)), "{refusal}");
        let shared = Config { reuse_port: true, ..second };
        assert!(Server::start(&shared).is_ok());
    }

    #[test]
    fn cpus_outside_of_the_process_are_refused() {
        let wanted = CpuSet::count() - 1;
        let refusal = Server::start(&Config { cpus: vec![wanted], ..config() }).err();
        assert!(matches!(refusal, Some(StartError::CpuNotAllowed { .. })), "{refusal:?}");
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
