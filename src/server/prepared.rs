//! A server's start in two halves, between which a program may confine itself (`sandbox`).
//!
//! The first half, [`Server::prepare`], runs on one thread and does what may need rights that are
//! given up then: it binds ports, opens files and takes over sockets. The second, [`Prepared::start`],
//! starts threads and needs none of that.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc::channel},
    thread,
};

use nix::sys::utsname::uname;
use tracing::warn;

use super::{
    RunWorker, Server, StartError, WorkerThread,
    admin::{AdminListener, Directory},
    build_service,
    capabilities::{Places, resolve_places, resolve_platforms, try_socket_pair},
    replacement::{Deaths, Place},
    room::find_room,
    sandbox::Needs,
    sockets::Sockets,
    succession::Succession,
    supervisor::{Inherited, Supervisor},
    takeover::Predecessor,
    watchdog::Watchdog,
};
use crate::{
    access_log::OpenAccessLog,
    config::{AccessLogTarget, Config, Listen, ListenAddress},
    connection::{ConnectionEnd, memory_budget::MemoryBudget},
    entry::{balance::Balance, tls::Certificates},
    host::descriptors::raise_limit,
    metrics::Counters,
    worker::{self, Driver, Platform, ServerState},
};

/// A server whose sockets are bound, and whose workers have not started.
pub struct Prepared<'a> {
    config: &'a Config,
    places: Places,
    platforms: Vec<Platform>,
    sockets: Sockets,
    /// The server that is to be taken over.
    predecessor: Option<Predecessor>,
    admin: Option<AdminListener>,
    access_log: Option<OpenAccessLog>,
    certificates: Option<Certificates>,
}

impl Server {
    /// Does what has to come first, on this thread alone: finds out what the kernel allows, binds the
    /// ports, and opens files. A program confines itself between this and [`Prepared::start`].
    pub fn prepare(config: &Config) -> Result<Prepared<'_>, StartError> {
        Self::prepare_on(config, Vec::new())
    }

    /// The same on sockets that a service manager has opened, if there are any, instead of on the
    /// configured address.
    pub fn prepare_on(
        config: &Config,
        inherited: Vec<Inherited>,
    ) -> Result<Prepared<'_>, StartError> {
        config.check()?;
        let observation = &config.observation;
        let takes_over = config.network.takeover.is_some();
        let bind = |address| AdminListener::bind(address, takes_over);
        let admin = observation.admin_listen.as_ref().map(bind).transpose()?;
        let access_log = observation.access_log.as_ref().map(OpenAccessLog::open).transpose()?;
        let certificates = Certificates::load(&config.tls, &names_of(config))?;
        let places = resolve_places(config)?;
        try_socket_pair()?;
        // Each connection takes a descriptor.
        if let Err(error) = raise_limit(u64::MAX) {
            warn!(%error, "the limit of open files stays as it is");
        }
        let platforms = resolve_platforms(config)?;
        let mut predecessor = Self::find_predecessor(config)?;
        let sockets = Sockets::find(config, predecessor.as_mut(), inherited, &places.cpus)?;
        Ok(Prepared {
            config,
            places,
            platforms,
            sockets,
            predecessor,
            admin,
            access_log,
            certificates,
        })
    }
}

impl Prepared<'_> {
    /// Starts the workers. The server accepts connections when this returns.
    pub fn start(self) -> Result<Server, StartError> {
        self.start_with(Arc::new(|_, plan, announce| worker::run(plan, announce)))
    }

    pub(super) fn start_with(self, run_worker: RunWorker) -> Result<Server, StartError> {
        let Self { config, places, platforms, sockets, predecessor, .. } = self;
        let Places { cpus, are_pinned } = places;
        let (events_sender, events) = channel();
        let certificates = self.certificates;
        let state = Arc::new(ServerState::new(config));
        let service = Arc::new(build_service(config, certificates.as_ref(), state));
        let access_log = self.access_log.map(OpenAccessLog::write_in_background).transpose()?;
        let access_log = access_log.map(Arc::new);
        let readiness = service.server.readiness.clone();
        let directory = Arc::new(Directory::new(config, readiness, access_log));
        let mut server = Server {
            sockets,
            succession: Succession::default(),
            supervisor: Supervisor::default(),
            watch: None,
            backlog: config.network.backlog.get(),
            config: config.clone(),
            certificates,
            certificates_due: None,
            service,
            accepts_until: None,
            balance: (config.cores.balance && cpus.len() > 1)
                .then(|| Arc::new(Balance::new(cpus.len()))),
            memory: MemoryBudget::new(config.echo.memory_max.get().0, cpus.len()),
            workers: Vec::new(),
            replacements: Vec::new(),
            deaths: Deaths::default(),
            watchdog: None,
            events,
            events_sender,
            run_worker,
            spawn_thread: |name, run| thread::Builder::new().name(name).spawn(run),
            directory,
            admin: None,
            summary: None,
        };
        for (worker, cpu) in cpus.into_iter().enumerate() {
            let counters = Arc::new(Counters::new(&ConnectionEnd::KINDS));
            let cpu = are_pinned.then_some(cpu);
            let (orders, thread) =
                server.spawn_worker(worker, cpu, &platforms, counters.clone())?;
            let (platforms, place) = (platforms.clone(), Place::new());
            server.workers.push(WorkerThread { cpu, platforms, counters, orders, thread, place });
        }
        server.succeed(config, predecessor)?;
        let watchdog = config.cores.watchdog.get();
        if !watchdog.is_zero() {
            let counters = server.workers.iter().map(|worker| worker.counters.clone()).collect();
            server.watchdog = Some(Watchdog::start(counters, watchdog)?);
        }
        let room = find_room(&config.bounds, server.workers.len());
        server.service.server.admission.set_room(room, &config.bounds);
        server.serve_observers(self.admin)?;
        Ok(server)
    }

    /// What a server that has started still needs of the system.
    #[doc(hidden)]
    pub fn needs(&self) -> Needs {
        let rings = self.platforms.iter().any(|platform| platform.driver == Driver::IoUring);
        let takeover =
            self.config.network.takeover.as_ref().map(|path| directory_of(path.as_ref()));
        // A server that runs makes its own file anew if it is gone.
        let local_sockets = takeover.is_some();
        let observation = &self.config.observation;
        let admin = match &observation.admin_listen {
            Some(ListenAddress::Unix(path)) => Some(directory_of(path)),
            Some(ListenAddress::Tcp(_)) | None => None,
        };
        // The file is opened anew after a rotation.
        let access_log = match &observation.access_log {
            Some(AccessLogTarget::File(path)) => Some(directory_of(path)),
            Some(AccessLogTarget::Stdout) | None => None,
        };
        let listens = self.sockets.listens().filter_map(|listen| match &listen.address {
            ListenAddress::Unix(path) => Some(directory_of(path)),
            ListenAddress::Tcp(_) => None,
        });
        let changeable =
            takeover.into_iter().chain(admin).chain(access_log).chain(listens).collect();
        // Certificates are read again when they change.
        let readable = Certificates::directories(&self.config.tls);
        Needs { rings, local_sockets, readable, changeable }.with_backtraces()
    }
}

/// The names that a certificate is for which is made for this run: those of this machine, and the
/// addresses that the server listens on.
fn names_of(config: &Config) -> Vec<String> {
    let mut names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let host = uname().ok().and_then(|it| it.nodename().to_str().map(str::to_owned));
    let addresses = config.network.listen.iter().filter_map(Listen::socket_address);
    let addresses = addresses.map(|address| address.ip()).filter(|ip| !ip.is_unspecified());
    for name in host.into_iter().chain(addresses.map(|ip| ip.to_string())) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The directory that a file is in.
#[doc(hidden)]
pub fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(directory) if directory != Path::new("") => directory.to_owned(),
        _ => PathBuf::from("."),
    }
}
