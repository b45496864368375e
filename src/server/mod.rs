//! A server: starts a worker for each core, replaces workers that die, and stops them all. A
//! worker's own work is left to `worker`.
//!
//! Each worker accepts on a socket of its own, and the sockets share the port; the server keeps them
//! open beside the workers. A worker that dies of a defect is replaced: its own connections are lost,
//! those of other workers go on, and so do those that wait in its queue.

mod admin;
mod capabilities;
mod errors;
mod prepared;
mod replacement;
mod room;
#[doc(hidden)]
pub mod sandbox;
mod shortages;
pub mod signals;
mod sockets;
mod succession;
mod summary;
pub mod supervisor;
pub mod takeover;
#[cfg(test)]
mod tests;
mod watchdog;

use std::{
    error::Error,
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

#[doc(hidden)]
pub use self::prepared::directory_of;
pub use self::{
    admin::AdminError,
    errors::{Hopeless, RunError, StartError, WorkerLoss},
    prepared::Prepared,
};
use self::{
    admin::{Admin, AdminListener, Directory},
    replacement::{Deaths, Place, Verdict},
    shortages::{log_shortage_of_replacement, log_shortages},
    sockets::Sockets,
    succession::Succession,
    summary::Summary,
    supervisor::{Supervisor, Watch},
    takeover::News,
    watchdog::Watchdog,
};
use crate::{
    config::{Config, Listen, ListenAddress},
    connection::{ConnectionEnd, memory_budget::MemoryBudget},
    entry::{balance::Balance, tls::Certificates},
    host::descriptors::{SystemCallError, find_want},
    http::{Response, SharedResponse, page},
    metrics::{Counters, Totals},
    pulse::Activity,
    worker::{
        self, Drain, Driver, OrderSender, Plan, Platform, Ready, ServerState, Service, WorkerError,
    },
};

/// A running server.
pub struct Server {
    sockets: Sockets,
    succession: Succession,
    supervisor: Supervisor,
    /// Of the supervisor's watchdog, if it has one.
    watch: Option<Watch>,
    backlog: u32,
    /// The configuration, with what has been taken over since the start.
    config: Config,
    certificates: Option<Certificates>,
    /// When the certificates' files are looked at next.
    certificates_due: Option<Instant>,
    service: Arc<Service>,
    /// When the server, which is to stop, stops accepting.
    accepts_until: Option<Instant>,
    balance: Option<Arc<Balance>>,
    memory: Arc<MemoryBudget>,
    workers: Vec<WorkerThread>,
    /// Workers to replace, each with the time when that is due.
    replacements: Vec<(Instant, usize)>,
    deaths: Deaths,
    /// Watches the workers until they have ended.
    watchdog: Option<Watchdog>,
    events: Receiver<Event>,
    events_sender: Sender<Event>,
    run_worker: RunWorker,
    spawn_thread: SpawnThread,
    /// The workers, for those who want to know of them.
    directory: Arc<Directory>,
    admin: Option<Admin>,
    /// Dropped with the server.
    summary: Option<Summary>,
}

/// Runs the worker with this number on its thread. The last argument is called once the worker
/// accepts connections.
type RunWorker = Arc<dyn Fn(usize, Plan, Announce) -> Result<(), WorkerError> + Send + Sync>;

/// Starts a thread of this name.
type SpawnThread = fn(String, Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>;

/// Tells the server that a worker accepts connections.
type Announce = Box<dyn FnOnce(Ready)>;

/// Stops a running server, from any thread.
#[derive(Clone)]
pub struct StopHandle(Sender<Event>);

struct WorkerThread {
    /// The CPU that it is pinned to, if it is.
    cpu: Option<usize>,
    /// What it, or its replacement, may run on, the best first.
    platforms: Vec<Platform>,
    counters: Arc<Counters>,
    /// Dropped to stop the worker.
    orders: OrderSender,
    thread: JoinHandle<()>,
    place: Place,
}

enum Event {
    Ready {
        worker: usize,
        ready: Ready,
    },
    Ended {
        worker: usize,
        end: WorkerEnd,
    },
    ReplacementDue {
        worker: usize,
    },
    Configure(Box<Config>),
    /// A new server is about to take over.
    Successor(News),
    WatchDue,
    CertificatesDue,
    Stop(Stop),
}

/// Why a server is to stop.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// Somebody asked for it: the server drains as its configuration says.
    Asked,
    /// The time is over for which a server accepted that had been asked.
    DelayOver,
    /// The server drains in this way.
    Ordered(Drain),
}

/// How a worker ended.
enum WorkerEnd {
    /// It stopped, and its connections have ended.
    Stopped,
    /// It could not go on.
    Failed(WorkerError),
    /// It panicked, which is a defect.
    Panicked,
}

impl StopHandle {
    /// Stops the server: no new connections, and a Close frame for every open one.
    pub fn stop(&self) {
        // Sending fails once the server has ended, and then there is nothing to stop.
        let _ = self.0.send(Event::Stop(Stop::Asked));
    }

    /// Has the server take over what may change while it runs, as [`Config::take_over`] says, and
    /// open again what it holds open by its name. New connections see the new values.
    pub fn configure(&self, config: Config) {
        let _ = self.0.send(Event::Configure(Box::new(config)));
    }

    /// Stops the server, and has its workers drain in this way instead of the configured one.
    pub fn drain(&self, drain: Drain) {
        let _ = self.0.send(Event::Stop(Stop::Ordered(drain)));
    }
}

impl Server {
    /// Starts a server. It accepts connections when this returns.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::prepare(config)?.start()
    }

    #[cfg(test)]
    fn start_with(config: &Config, run_worker: RunWorker) -> Result<Self, StartError> {
        Self::prepare(config)?.start_with(run_worker)
    }

    /// Where the server listens, in the order of the configuration, with real ports.
    pub fn listens(&self) -> impl Iterator<Item = &Listen> {
        self.sockets.listens()
    }

    /// The first of these addresses that is one of IP.
    ///
    /// # Panics
    ///
    /// If the server listens on Unix sockets alone.
    pub fn address(&self) -> SocketAddr {
        let address = self.listens().find_map(Listen::socket_address);
        address.expect("the server listens at an address of IP")
    }

    /// Where metrics, status and connections are served, with the real port, if they are.
    pub fn admin_address(&self) -> Option<&ListenAddress> {
        self.admin.as_ref().map(Admin::address)
    }

    /// The line that says that the server is ready, and its first address. Workers that had to fall back are in the log.
    pub fn ready_line(&self) -> String {
        let platform = self.workers[0].platforms[0];
        let count = self.workers.len();
        let plural = if count == 1 { "worker" } else { "workers" };
        let first = self.listening_lines().next().unwrap_or_default();
        format!("{first} ({count} {plural}, {platform})")
    }

    /// The lines of the other addresses at which the server listens.
    pub fn further_ready_lines(&self) -> impl Iterator<Item = String> {
        self.listening_lines().skip(1)
    }

    fn listening_lines(&self) -> impl Iterator<Item = String> {
        let path = self.service.echo_paths.first();
        self.listens().map(move |listen| match (&listen.address, listen.speaks_tls) {
            (ListenAddress::Tcp(address), false) => format!("listening on ws://{address}{path}"),
            (ListenAddress::Tcp(address), true) => format!("listening on wss://{address}{path}"),
            (ListenAddress::Unix(_), _) => format!("listening on {listen}"),
        })
    }

    /// Tells a service manager that the server is ready, and from now on what becomes of it.
    pub fn report_to(&mut self, supervisor: Supervisor) {
        supervisor.ready(&self.ready_line(), self.succession.has_taken_over);
        let now = Instant::now();
        self.watch = supervisor.watchdog().map(|it| Watch::new(it, self.workers.len(), now));
        self.supervisor = supervisor;
    }

    /// A handle that stops the server.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(self.events_sender.clone())
    }

    /// Runs until the server is stopped or cannot go on, and until its connections have ended.
    /// Returns the totals of all workers' counters, also in the error.
    pub fn run(mut self) -> Result<Totals, RunError> {
        let result = self.run_until_stopped();
        self.service.server.readiness.end();
        let configured = Drain::configured(&self.config.time);
        let totals = self.stop_workers(*result.as_ref().unwrap_or(&configured));
        if let Some(access_log) = self.directory.access_log() {
            access_log.finish();
        }
        match result {
            Ok(_) => Ok(totals),
            Err(loss) => Err(RunError::WorkerLost { loss, totals: Box::new(totals) }),
        }
    }

    fn run_until_stopped(&mut self) -> Result<Drain, WorkerLoss> {
        self.look_at_certificates();
        loop {
            match self.next_event() {
                Event::Stop(stop) => {
                    if let Some(drain) = self.stop(stop) {
                        self.supervisor.stopping();
                        return Ok(drain);
                    }
                }
                Event::Configure(config) => self.configure(&config),
                Event::Successor(news) => {
                    let stop = self.hear_of_successor(news);
                    if let Some(drain) = stop.and_then(|stop| self.stop(stop)) {
                        return Ok(drain);
                    }
                }
                Event::WatchDue => self.watch_workers(),
                Event::CertificatesDue => self.look_at_certificates(),
                Event::Ready { worker, ready } => {
                    self.workers[worker].place.mark_ready();
                    self.directory.mark_ready(worker, ready.platform);
                    log_shortage_of_replacement(worker, &ready);
                }
                Event::Ended { worker, end } => self.plan_replacement(worker, end)?,
                Event::ReplacementDue { worker } => self.replace_worker(worker)?,
            }
        }
    }

    /// Begins to stop. Returns how to drain, unless connections are still accepted for a while.
    fn stop(&mut self, stop: Stop) -> Option<Drain> {
        self.service.server.readiness.end();
        let delay = self.config.time.drain_delay.get();
        match stop {
            Stop::Ordered(drain) => Some(drain),
            Stop::Asked if delay > Duration::ZERO => {
                let until = Instant::now() + delay;
                if self.accepts_until.is_none() {
                    info!(?delay, "not ready any more; still accepting");
                }
                self.accepts_until.get_or_insert(until);
                None
            }
            Stop::Asked | Stop::DelayOver => Some(Drain::configured(&self.config.time)),
        }
    }

    /// Takes over what may change, and gives it to the workers.
    fn configure(&mut self, config: &Config) {
        self.supervisor.reloading();
        self.config.take_over(config);
        self.service.server.admission.set_bounds(&self.config.bounds);
        if let Some(certificates) = &mut self.certificates {
            certificates.reload();
        }
        self.renew_service();
        if let Some(access_log) = self.directory.access_log() {
            access_log.reopen();
        }
        self.supervisor.ready(&self.ready_line(), false);
    }

    /// Has the workers answer with what the configuration and the certificates say now.
    fn renew_service(&mut self) {
        let Self { config, certificates, service, workers, .. } = self;
        *service = Arc::new(build_service(config, certificates.as_ref(), service.server.clone()));
        for worker in workers {
            worker.orders.serve(service.clone());
        }
    }

    /// Reads the certificates again if their files have changed, and plans the next look.
    fn look_at_certificates(&mut self) {
        let Some(certificates) = &mut self.certificates else { return };
        self.certificates_due = Some(Instant::now() + CERTIFICATES_INTERVAL);
        if certificates.reload_if_changed() {
            self.renew_service();
        }
    }

    /// Stops all workers, waits for their ends, and returns the totals of their counters.
    fn stop_workers(&mut self, drain: Drain) -> Totals {
        let drain = self.leaving_shared_queues(drain);
        self.succession.end();
        // The queues end with the workers, and that of a dead worker at once.
        self.sockets.close(drain.leaves_queues);
        let mut totals = Totals::default();
        let workers = std::mem::take(&mut self.workers);
        let counters: Vec<_> = workers.iter().map(|worker| worker.counters.clone()).collect();
        let threads: Vec<_> = workers.into_iter().map(|worker| worker.stop(drain)).collect();
        for thread in threads {
            thread.join().unwrap_or_else(|_| unreachable!("a worker's thread catches its panics"));
        }
        drop(self.watchdog.take());
        let dead = self.count_deaths_while_stopping(&counters);
        debug_assert!(
            self.is_balance_settled(&dead),
            "a worker that stopped has no connections left"
        );
        debug_assert!(
            !dead.is_empty()
                || !self.replacements.is_empty()
                || self.service.server.admission.counts() == (0, 0),
            "what connections were counted for has been given back"
        );
        for counters in &counters {
            totals.add(counters);
        }
        totals
    }

    /// Finds the workers that died instead of stopping, and counts the connections that they lost.
    fn count_deaths_while_stopping(&self, counters: &[Arc<Counters>]) -> Vec<usize> {
        let mut dead = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            let Event::Ended { worker, end } = event else { continue };
            let Some(cause) = end.cause_of_death() else { continue };
            let lost = count_lost_connections(&counters[worker]);
            error!(worker, lost, "a worker died while it was to stop: {cause}");
            dead.push(worker);
        }
        dead
    }

    /// Whether the balance counts no connections any more for the workers that stopped. Workers
    /// that died (`dead`, and those that wait for a replacement) may have left some counted, so
    /// they are not looked at.
    fn is_balance_settled(&self, dead: &[usize]) -> bool {
        let is_replaced = |worker| self.replacements.iter().any(|(_, dead)| *dead == worker);
        let is_dead = |worker| dead.contains(&worker) || is_replaced(worker);
        self.balance.as_ref().is_none_or(|balance| {
            (0..balance.worker_count())
                .all(|worker| is_dead(worker) || balance.connection_count(worker) == 0)
        })
    }

    fn next_event(&self) -> Event {
        let replacement = self.replacements.iter().min();
        let watch = self.watch.as_ref().map(Watch::next);
        let replacement_due = replacement.map(|(due, _)| *due);
        let due = replacement_due.into_iter().chain(self.accepts_until).chain(watch);
        let due = due.chain(self.certificates_due).min();
        let wait = due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
        match (self.events.recv_timeout(wait), replacement) {
            (Ok(event), _) => event,
            (Err(RecvTimeoutError::Timeout), _) if due == self.accepts_until => {
                Event::Stop(Stop::DelayOver)
            }
            (Err(RecvTimeoutError::Timeout), Some(&(at, worker))) if Some(at) == due => {
                Event::ReplacementDue { worker }
            }
            (Err(RecvTimeoutError::Timeout), _) if due == self.certificates_due => {
                Event::CertificatesDue
            }
            (Err(RecvTimeoutError::Timeout), _) => Event::WatchDue,
            (Err(RecvTimeoutError::Disconnected), _) => {
                unreachable!("the server holds a sender itself")
            }
        }
    }

    /// Tells the service manager's watchdog that the server is alive, if all workers are.
    fn watch_workers(&mut self) {
        let Self { watch: Some(watch), workers, replacements, .. } = self else { return };
        let sweeps = workers.iter().enumerate().map(|(worker, WorkerThread { counters, .. })| {
            let is_replaced = replacements.iter().any(|(_, replaced)| *replaced == worker);
            (!is_replaced).then(|| counters.pulse.sweeps())
        });
        if watch.look(Instant::now(), sweeps) {
            self.supervisor.alive();
        }
    }

    /// Starts the thread of a worker. The worker stops when the returned sender is dropped.
    fn spawn_worker(
        &mut self,
        worker: usize,
        cpu: Option<usize>,
        platforms: &[Platform],
        counters: Arc<Counters>,
    ) -> Result<(OrderSender, JoinHandle<()>), StartError> {
        let listeners = self.sockets.of_worker(worker)?;
        let (orders, worker_orders) =
            worker::orders().map_err(SystemCallError::naming("socketpair"))?;
        let balance = self.balance.clone();
        let observers = self.directory.enter(worker, cpu, &counters);
        let observers = observers.map_err(SystemCallError::naming("socketpair"))?;
        let plan = Plan {
            cpu,
            platforms: platforms.to_vec(),
            listeners,
            backlog: self.backlog,
            member: balance
                .as_ref()
                .map(|balance| balance.join(worker).map_err(SystemCallError::naming("socketpair")))
                .transpose()?,
            orders: worker_orders,
            counters,
            memory: self.memory.shares(worker),
            service: self.service.clone(),
            observers,
        };
        let events = self.events_sender.clone();
        let run_worker = self.run_worker.clone();
        let leaving = balance.clone();
        let ending = plan.counters.clone();
        let run = move || {
            let announcing = events.clone();
            let announce = Box::new(move |ready| {
                let _ = announcing.send(Event::Ready { worker, ready });
            });
            let run = AssertUnwindSafe(|| run_worker(worker, plan, announce));
            let end = match catch_unwind(run) {
                Ok(Ok(())) => WorkerEnd::Stopped,
                Ok(Err(error)) => WorkerEnd::Failed(error),
                Err(_) => WorkerEnd::Panicked,
            };
            ending.pulse.begin(Activity::NotRunning);
            if let Some(balance) = leaving {
                balance.leave(worker);
            }
            let _ = events.send(Event::Ended { worker, end });
        };
        match (self.spawn_thread)(format!("worker-{worker}"), Box::new(run)) {
            Ok(thread) => Ok((orders, thread)),
            Err(error) => {
                // The seat has been open since the plan was made, and nobody will read its inbox.
                if let Some(balance) = balance {
                    balance.leave(worker);
                }
                Err(StartError::Thread(error))
            }
        }
    }

    fn wait_until_ready(&self) -> Result<(), StartError> {
        let mut all_ready = Vec::new();
        while all_ready.len() < self.workers.len() {
            match self.next_event() {
                Event::Ready { worker, ready } => {
                    self.directory.mark_ready(worker, ready.platform);
                    all_ready.push(ready);
                }
                Event::Ended { worker, end } => {
                    let cause = end.cause_of_death().unwrap_or_else(|| "it ended".to_owned());
                    return Err(StartError::Worker { worker, cause });
                }
                Event::Stop(_)
                | Event::Configure(_)
                | Event::Successor(_)
                | Event::WatchDue
                | Event::CertificatesDue
                | Event::ReplacementDue { .. } => {
                    unreachable!("nobody knows of the server yet, and nothing is replaced")
                }
            }
        }
        log_shortages(&all_ready);
        Ok(())
    }

    /// Starts the threads of those who want to know of the server.
    fn serve_observers(&mut self, admin: Option<AdminListener>) -> Result<(), StartError> {
        self.directory.listens_at(self.listens().map(ToString::to_string).collect());
        let summary = Summary::start(self.directory.counters()).map_err(StartError::Thread)?;
        self.summary = Some(summary);
        if let Some(listener) = admin {
            let serving = listener.serve(self.directory.clone());
            self.admin = Some(serving.map_err(StartError::Thread)?);
        }
        Ok(())
    }

    /// Schedules the replacement of a worker that ended without having been told to.
    fn plan_replacement(&mut self, worker: usize, end: WorkerEnd) -> Result<(), WorkerLoss> {
        self.directory.mark_dead(worker);
        let WorkerThread { platforms, counters, .. } = &mut self.workers[worker];
        if matches!(end, WorkerEnd::Failed(WorkerError::Engine(_))) {
            keep_without_rings(platforms);
        }
        let lost = count_lost_connections(counters);
        if let WorkerEnd::Failed(error) = &end
            && let Some(want) = find_want(error)
        {
            self.postpone(worker, error, want);
            return Ok(());
        }
        let cause = end.cause_of_death().unwrap_or_else(|| "it ended".to_owned());
        error!(worker, lost, "a worker died, and its connections with it: {cause}");
        self.schedule_retry(worker, cause)
    }

    /// Tries again soon to put a worker in this place, for which there were no descriptors. That is
    /// no defect of the worker's, and the others need the descriptors that they have.
    fn postpone(&mut self, worker: usize, error: &dyn Error, want: &io::Error) {
        let now = Instant::now();
        if let Some(unsaid) = self.service.server.complaints.note("replace", want, now) {
            warn!(worker, "a worker cannot be replaced yet: {error}{unsaid}");
        }
        self.workers[worker].place.excuse();
        self.replacements.push((now + WANT_PAUSE, worker));
    }

    /// Schedules the next try to fill a worker's place, unless its [`Place`] gives up.
    fn schedule_retry(&mut self, worker: usize, cause: String) -> Result<(), WorkerLoss> {
        let now = Instant::now();
        match self.workers[worker].place.vacate(now, &mut self.deaths) {
            Verdict::Replace(pause) => {
                info!(worker, ?pause, "replacing a worker");
                self.replacements.push((now + pause, worker));
                Ok(())
            }
            Verdict::GiveUp(hopeless) => {
                // The worker stays among the replacements, where `is_balance_settled` finds it.
                self.replacements.push((now, worker));
                Err(WorkerLoss { worker, hopeless, cause })
            }
        }
    }

    /// Puts a new worker in the place of one that died.
    fn replace_worker(&mut self, worker: usize) -> Result<(), WorkerLoss> {
        self.replacements.retain(|(_, replaced)| *replaced != worker);
        let result = self.start_replacement(worker);
        self.workers[worker].place.refill();
        let Err(error) = result else { return Ok(()) };
        if let Some(want) = find_want(&error) {
            self.postpone(worker, &error, want);
            return Ok(());
        }
        error!(worker, "a worker cannot be replaced: {error}");
        self.schedule_retry(worker, error.to_string())
    }

    fn start_replacement(&mut self, worker: usize) -> Result<(), StartError> {
        let WorkerThread { cpu, platforms, counters, .. } = &self.workers[worker];
        let (cpu, platforms, counters) = (*cpu, platforms.clone(), counters.clone());
        let (orders, thread) = self.spawn_worker(worker, cpu, &platforms, counters)?;
        let replaced = &mut self.workers[worker];
        (replaced.orders, replaced.thread) = (orders, thread);
        Ok(())
    }
}

impl WorkerThread {
    /// Tells the worker to stop, and returns its thread.
    fn stop(self, drain: Drain) -> JoinHandle<()> {
        self.orders.drain(drain);
        self.thread
    }
}

impl WorkerEnd {
    /// The cause of a worker's death; `None` if the worker stopped as it was told.
    fn cause_of_death(self) -> Option<String> {
        match self {
            Self::Stopped => None,
            Self::Failed(error) => Some(error.to_string()),
            Self::Panicked => Some("a defect of this program; please report it".to_owned()),
        }
    }
}

/// The pause before a worker is put in a place for which there were no descriptors.
const WANT_PAUSE: Duration = Duration::from_millis(100);

/// The time between two looks at the certificates' files.
const CERTIFICATES_INTERVAL: Duration = Duration::from_secs(5);

/// Leaves out the platforms on `io_uring`, which has failed, if there are others.
fn keep_without_rings(platforms: &mut Vec<Platform>) {
    if platforms.iter().any(|platform| platform.driver == Driver::Epoll) {
        platforms.retain(|platform| platform.driver == Driver::Epoll);
    }
}

/// Counts a dead worker's open connections as ended, and returns their number.
///
/// The server's thread may add to these counters: the event by which it learned of the death is
/// the last thing that the worker's thread did, and a replacement does not count before this.
fn count_lost_connections(counters: &Counters) -> u64 {
    let mut totals = Totals::default();
    totals.add(counters);
    let lost = totals.accepted - totals.ended_count();
    counters.ended(ConnectionEnd::WorkerDied.kind()).add(lost);
    lost
}

/// What TLS handshakes are answered with: without HTTP/2 among the protocols (ALPN) if it is not spoken.
fn offer(tls: Arc<rustls::ServerConfig>, speaks_http2: bool) -> Arc<rustls::ServerConfig> {
    if speaks_http2 {
        return tls;
    }
    let mut without = rustls::ServerConfig::clone(&tls);
    without.alpn_protocols.retain(|protocol| protocol != b"h2");
    Arc::new(without)
}

fn build_service(
    config: &Config,
    certificates: Option<&Certificates>,
    server: Arc<ServerState>,
) -> Service {
    let echo_paths = config.handshake.echo_paths();
    Service {
        policy: config.handshake.policy(),
        proxies: config.proxies.clone(),
        page: SharedResponse::new(&Response::page(page::render(echo_paths.first()))),
        http_echo: config.http.echo(),
        echo_paths,
        echo: config.echo.clone(),
        time: config.time.clone(),
        header_fields_max: config.bounds.header_fields_max.get() as usize,
        tls: certificates.map(|it| offer(it.config(), config.http2.is_spoken)),
        http2: config.http2.clone(),
        server,
    }
}
