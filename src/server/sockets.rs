//! A server's listening sockets, and which of its workers accepts from which.
//!
//! The server keeps every socket open beside its workers, so that a connection that waits in a queue
//! outlives the worker that would have accepted it: the worker's replacement finds it there. The
//! invariants: every socket is at least one worker's, and every worker has at least one. Opening and
//! setting sockets is left to `entry::listener`.

use std::{io, net::TcpListener};

use tracing::info;

use super::{StartError, supervisor::Inherited, takeover::Predecessor};
use crate::{
    config::Config,
    entry::listener::{ListenError, Listener, Listening},
    host::descriptors::SystemCallError,
};

/// The listening sockets of a server.
pub(super) struct Sockets {
    all: Vec<TcpListener>,
    workers: usize,
    /// The service manager has opened them, and keeps them.
    are_supervised: bool,
}

impl Sockets {
    /// The sockets of the server that is taken over, else those that the service manager has opened,
    /// else new ones.
    pub(super) fn find(
        config: &Config,
        predecessor: Option<&mut Predecessor>,
        inherited: Vec<Inherited>,
        listening: &mut Listening,
        cpus: &[usize],
    ) -> Result<Self, StartError> {
        if let Some(predecessor) = predecessor {
            let are_supervised = predecessor.are_supervised();
            let sockets = Self::adopt(predecessor.take_sockets(), listening, cpus)?;
            return Ok(Self { are_supervised, ..sockets });
        }
        if !inherited.is_empty() {
            let log_and_take = |Inherited { listener, name }: Inherited| {
                if let Ok(address) = listener.local_addr() {
                    info!(%address, name, "listening on a socket of the service manager");
                }
                listener
            };
            let sockets = inherited.into_iter().map(log_and_take).collect();
            return Ok(Self { are_supervised: true, ..Self::adopt(sockets, listening, cpus)? });
        }
        if !config.network.reuse_port {
            listening.probe()?;
        }
        Ok(Self::open(listening, cpus)?)
    }

    /// Whether the service manager keeps the sockets.
    pub(super) fn are_supervised(&self) -> bool {
        self.are_supervised
    }

    /// Opens a socket for each worker, by the CPUs that the workers are pinned to.
    fn open(listening: &mut Listening, cpus: &[usize]) -> Result<Self, ListenError> {
        let all = cpus.iter().map(|cpu| listening.open(*cpu));
        let all = all.collect::<Result<_, _>>()?;
        Ok(Self { all, workers: cpus.len(), are_supervised: false })
    }

    /// Takes over sockets, at least one, that another process has opened.
    fn adopt(
        sockets: Vec<TcpListener>,
        listening: &mut Listening,
        cpus: &[usize],
    ) -> Result<Self, ListenError> {
        let workers = cpus.len();
        // Worker numbers follow the sockets' order, as in `turns`. The first comes last, since the
        // address of the last one is the server's.
        for (at, socket) in sockets.iter().enumerate().rev() {
            listening.adopt(socket, cpus[at % workers])?;
        }
        Ok(Self { all: sockets, workers, are_supervised: false })
    }

    /// The sockets of a worker: duplicates of the server's own. With more sockets than workers a
    /// worker has several; with fewer, workers share them.
    pub(super) fn of_worker(&self, worker: usize) -> Result<Vec<Listener>, SystemCallError> {
        let Self { all, workers, .. } = self;
        let duplicates = turns(all.len(), *workers, worker).map(|place| duplicate(&all[place]));
        duplicates.map(|socket| Ok(Listener { socket: socket?, speaks_tls: false })).collect()
    }

    /// Closes all of the server's own duplicates.
    pub(super) fn close(&mut self) {
        self.all.clear();
    }

    /// Duplicates of all sockets, for another server.
    pub(super) fn duplicates(&self) -> Result<Vec<TcpListener>, SystemCallError> {
        self.all.iter().map(duplicate).collect()
    }
}

/// The places of a worker's sockets. Workers and sockets are dealt out to each other in turns, until
/// each has had one.
fn turns(sockets: usize, workers: usize, worker: usize) -> impl Iterator<Item = usize> {
    let turns = (worker..sockets.max(workers)).step_by(workers);
    turns.map(move |turn| turn % sockets)
}

fn duplicate(socket: &TcpListener) -> Result<TcpListener, SystemCallError> {
    let duplicate: io::Result<_> = socket.try_clone();
    duplicate.map_err(SystemCallError::naming("fcntl(F_DUPFD_CLOEXEC)"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_worker_has_a_socket_and_every_socket_a_worker() {
        for (sockets, workers) in (1..=9).flat_map(|s| (1..=9).map(move |w| (s, w))) {
            let dealt: Vec<Vec<_>> =
                (0..workers).map(|worker| turns(sockets, workers, worker).collect()).collect();
            assert!(dealt.iter().all(|places| !places.is_empty()), "{sockets} {workers} {dealt:?}");
            let seen: HashSet<_> = dealt.iter().flatten().copied().collect();
            assert_eq!(seen, (0..sockets).collect(), "{sockets} {workers} {dealt:?}");
            // Loads differ by one at most.
            let lens: Vec<_> = dealt.iter().map(Vec::len).collect();
            assert!(lens.iter().max().unwrap() - lens.iter().min().unwrap() <= 1, "{dealt:?}");
        }
    }
}
