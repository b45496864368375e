//! The workers of a server, as those see them who want to know of them: what each counts, what it runs
//! on, and how it is asked. The server's thread writes it when workers start; admin threads read it.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc::Receiver},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    access_log::AccessLog,
    config::Config,
    metrics::{
        Counters,
        exposition::{Process, expose},
    },
    worker::{
        Observers, Platform, Readiness,
        inquiry::{Answer, Inquirer, inquiry},
    },
};

/// How long workers may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The workers, and what the server's answers need beside.
pub(in crate::server) struct Directory {
    pub(super) config: Config,
    pub(super) started: Instant,
    started_at: SystemTime,
    pub(super) listens: OnceLock<Vec<String>>,
    readiness: Arc<Readiness>,
    access_log: Option<Arc<AccessLog>>,
    workers: Mutex<Vec<Worker>>,
}

/// A place of a worker, whoever fills it.
struct Worker {
    cpu: Option<usize>,
    counters: Arc<Counters>,
    /// What it runs on, once it accepts connections.
    platform: Option<Platform>,
    /// How it is asked, if it can be.
    inquirer: Option<Inquirer>,
}

/// What is known of a worker without asking it.
pub(super) struct WorkerView {
    pub(super) cpu: Option<usize>,
    pub(super) platform: Option<Platform>,
    pub(super) accepted: u64,
    pub(super) open: u64,
}

impl Directory {
    pub(in crate::server) fn new(
        config: &Config,
        readiness: Arc<Readiness>,
        access_log: Option<Arc<AccessLog>>,
    ) -> Self {
        Self {
            config: config.clone(),
            started: Instant::now(),
            started_at: SystemTime::now(),
            listens: OnceLock::new(),
            readiness,
            access_log,
            workers: Mutex::default(),
        }
    }

    /// Notes where the server listens.
    pub(in crate::server) fn listens_at(&self, listens: Vec<String>) {
        let _ = self.listens.set(listens);
    }

    /// The access log, if there is one.
    pub(in crate::server) fn access_log(&self) -> Option<&Arc<AccessLog>> {
        self.access_log.as_ref()
    }

    /// Lists a worker that is about to start, or to replace the one at its place, and returns who wants
    /// to know of its connections.
    pub(in crate::server) fn enter(
        &self,
        worker: usize,
        cpu: Option<usize>,
        counters: &Arc<Counters>,
    ) -> io::Result<Observers> {
        let can_be_asked = self.config.observation.admin_listen.is_some();
        let (inquirer, inquiries) = can_be_asked.then(inquiry).transpose()?.unzip();
        let entry = Worker { cpu, counters: counters.clone(), platform: None, inquirer };
        let mut workers = self.workers();
        if worker < workers.len() {
            workers[worker] = entry;
        } else {
            workers.push(entry);
        }
        Ok(Observers { access_log: self.access_log.clone(), inquiries })
    }

    /// Notes that a worker accepts connections, and what it runs on.
    pub(in crate::server) fn mark_ready(&self, worker: usize, platform: Platform) {
        if let Some(entry) = self.workers().get_mut(worker) {
            entry.platform = Some(platform);
        }
    }

    /// Notes that a worker has died.
    pub(in crate::server) fn mark_dead(&self, worker: usize) {
        if let Some(entry) = self.workers().get_mut(worker) {
            (entry.platform, entry.inquirer) = (None, None);
        }
    }

    /// The counters of all workers.
    pub(in crate::server) fn counters(&self) -> Vec<Arc<Counters>> {
        self.workers().iter().map(|worker| worker.counters.clone()).collect()
    }

    /// Whether new connections are wanted.
    pub(super) fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    #[cfg(test)]
    pub(super) fn end_readiness(&self) {
        self.readiness.end();
    }

    /// The counters of all workers, as `OpenMetrics` text.
    pub(super) fn expose(&self) -> String {
        let start_time = self.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let process = Process {
            start_time: start_time.as_secs(),
            is_ready: self.is_ready(),
            access_log_lines_lost: self.access_log.as_ref().map_or(0, |log| log.lost()),
        };
        expose(&self.counters(), process)
    }

    /// What is known of each worker without asking it.
    pub(super) fn views(&self) -> Vec<WorkerView> {
        let view = |worker: &Worker| {
            let Worker { cpu, counters, platform, .. } = worker;
            let ended = counters.ended_count();
            let accepted = counters.accepted.get();
            let open = accepted.saturating_sub(ended);
            WorkerView { cpu: *cpu, platform: *platform, accepted, open }
        };
        self.workers().iter().map(view).collect()
    }

    /// Asks all workers at once for connections behind those that `after` names for each worker.
    /// Returns the answer of each that answers within a second.
    pub(super) fn ask_all(
        &self,
        after: impl Fn(usize) -> Option<u64>,
        count_max: usize,
    ) -> Vec<Option<Answer>> {
        let asked: Vec<_> = {
            let workers = self.workers();
            let ask = |(worker, entry): (usize, &Worker)| {
                entry.inquirer.as_ref()?.ask(after(worker), count_max)
            };
            workers.iter().enumerate().map(ask).collect()
        };
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let hear = |answer: Option<Receiver<Answer>>| {
            answer?.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
        };
        asked.into_iter().map(hear).collect()
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
