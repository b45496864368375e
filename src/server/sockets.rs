//! A server's listening sockets, and which of its workers accepts from which.
//!
//! The server keeps every socket open beside its workers, so that a connection that waits in a queue
//! outlives the worker that would have accepted it: the worker's replacement finds it there. The
//! invariants: every socket is at least one worker's, and every worker has at least one. Opening and
//! setting sockets is left to `entry::listener`.

use std::{io, net::TcpListener, os::fd::AsFd, path::Path};

use socket2::{SockAddr, SockRef};

use super::{StartError, supervisor::Inherited, takeover::Predecessor};
use crate::{
    config::{Config, Listen, ListenAddress},
    entry::{
        listener::{ListenError, Listener, Listening},
        socket_file::SocketFile,
    },
    host::descriptors::SystemCallError,
};

/// The listening sockets of a server.
pub(super) struct Sockets {
    /// At least one, in the order of the configuration.
    groups: Vec<Group>,
    workers: usize,
    /// The service manager has opened them, and keeps them.
    are_supervised: bool,
}

/// The sockets at one address.
struct Group {
    listening: Listening,
    all: Vec<TcpListener>,
    /// The file of a Unix socket, if it is the server's to remove.
    file: Option<SocketFile>,
}

/// A socket that another process has opened, and where it listens.
pub(super) struct Opened {
    pub(super) socket: TcpListener,
    pub(super) listen: Listen,
}

impl Sockets {
    /// The sockets of the server that is taken over, else those that the service manager has opened,
    /// else new ones. Where the server that is taken over does not listen, new ones are opened.
    pub(super) fn find(
        config: &Config,
        predecessor: Option<&mut Predecessor>,
        inherited: Vec<Inherited>,
        cpus: &[usize],
    ) -> Result<Self, StartError> {
        let (opened, are_supervised) = if let Some(predecessor) = predecessor {
            (predecessor.take_sockets(), predecessor.are_supervised())
        } else {
            let are_supervised = !inherited.is_empty();
            (inherited.into_iter().map(Inherited::into_opened).collect(), are_supervised)
        };
        let mut listenings = Listening::all(config);
        if are_supervised {
            listenings = places(&opened).into_iter().map(|it| listenings[0].at(it)).collect();
        }
        let mut opened: Vec<_> = opened.into_iter().map(Some).collect();
        let groups = listenings.into_iter().map(|listening| {
            let theirs = take_fitting(&mut opened, listening.listen());
            if theirs.is_empty() {
                return Group::open(listening, cpus);
            }
            let group = Group::adopt(&listening, theirs, cpus)?;
            // The service manager's files are its own.
            Ok(if are_supervised { Group { file: None, ..group } } else { group })
        });
        let groups = groups.collect::<Result<_, _>>()?;
        Ok(Self { groups, workers: cpus.len(), are_supervised })
    }

    /// Whether the service manager keeps the sockets.
    pub(super) fn are_supervised(&self) -> bool {
        self.are_supervised
    }

    /// Where the server listens, with real ports.
    pub(super) fn listens(&self) -> impl Iterator<Item = &Listen> {
        self.groups.iter().map(|group| group.listening.listen())
    }

    /// The sockets of a worker: duplicates of the server's own. With more sockets than workers a
    /// worker has several of an address; with fewer, workers share them.
    pub(super) fn of_worker(&self, worker: usize) -> Result<Vec<Listener>, SystemCallError> {
        let of_group = |group: &Group| -> Vec<_> {
            let Listen { speaks_tls, .. } = *group.listening.listen();
            let places = turns(group.all.len(), self.workers, worker);
            let listener = |socket| Listener { socket, speaks_tls };
            places.map(|place| duplicate(&group.all[place]).map(listener)).collect()
        };
        self.groups.iter().flat_map(of_group).collect()
    }

    /// Closes all of the server's own duplicates. The files of Unix sockets go too, unless another
    /// process has these sockets and `keeps_files`.
    pub(super) fn close(&mut self, keeps_files: bool) {
        for Group { all, file, .. } in &mut self.groups {
            all.clear();
            if let Some(file) = file.take().filter(|_| !keeps_files) {
                file.remove();
            }
        }
    }

    /// Duplicates of all sockets, for another server.
    pub(super) fn duplicates(&self) -> Result<Vec<Opened>, SystemCallError> {
        let of_group = |group: &Group| -> Vec<_> {
            let opened = |socket| Opened { socket, listen: group.listening.listen().clone() };
            group.all.iter().map(|socket| duplicate(socket).map(opened)).collect()
        };
        self.groups.iter().flat_map(of_group).collect()
    }
}

impl Group {
    /// Opens new sockets for workers that are pinned to these CPUs.
    fn open(mut listening: Listening, cpus: &[usize]) -> Result<Self, ListenError> {
        let (all, file) = listening.open(cpus)?;
        Ok(Self { listening, all, file })
    }

    /// Takes over sockets, at least one, that another process has opened at one address.
    fn adopt(
        listening: &Listening,
        opened: Vec<Opened>,
        cpus: &[usize],
    ) -> Result<Self, ListenError> {
        let mut listening = listening.at(opened[0].listen.clone());
        let all: Vec<_> = opened.into_iter().map(|it| it.socket).collect();
        // Worker numbers follow the sockets' order, as in `turns`.
        for (at, socket) in all.iter().enumerate() {
            listening.adopt(socket, cpus[at % cpus.len()])?;
        }
        let file = match &listening.listen().address {
            ListenAddress::Unix(path) => SocketFile::at(path).ok(),
            ListenAddress::Tcp(_) => None,
        };
        Ok(Self { listening, all, file })
    }
}

/// Where a socket listens. A Unix socket without a path has an empty one.
pub(super) fn listen_address(socket: &impl AsFd) -> ListenAddress {
    let address = SockRef::from(socket).local_addr().ok();
    let of_ip = address.as_ref().and_then(SockAddr::as_socket);
    of_ip.map_or_else(
        || {
            let path = address.as_ref().and_then(SockAddr::as_pathname);
            ListenAddress::Unix(path.unwrap_or(Path::new("")).to_owned())
        },
        ListenAddress::Tcp,
    )
}

/// Where sockets listen: each place once.
fn places(opened: &[Opened]) -> Vec<Listen> {
    let mut places: Vec<Listen> = Vec::new();
    for Opened { listen, .. } in opened {
        if !places.contains(listen) {
            places.push(listen.clone());
        }
    }
    places
}

/// Takes the sockets of the first address out at which a server may listen that is told `listen`.
fn take_fitting(opened: &mut [Option<Opened>], listen: &Listen) -> Vec<Opened> {
    let first = opened.iter().flatten().find(|it| fits(listen, &it.listen));
    let Some(first) = first.map(|it| it.listen.clone()) else { return Vec::new() };
    let of_first = opened.iter_mut().filter_map(|it| it.take_if(|it| it.listen == first));
    of_first.collect()
}

/// Whether a server that is told to listen at `listen` may take a socket that listens at `found`.
/// Port 0 is any port.
pub(super) fn fits(listen: &Listen, found: &Listen) -> bool {
    let is_same_kind = listen.speaks_tls == found.speaks_tls;
    is_same_kind
        && match (listen.socket_address(), found.socket_address()) {
            (Some(listen), Some(found)) => {
                listen.ip() == found.ip() && [0, found.port()].contains(&listen.port())
            }
            _ => listen.address == found.address,
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
    fn address_fits_that_is_the_same_or_has_any_port() {
        for (listen, found, expected) in [
            ("127.0.0.1:9001", "127.0.0.1:9001", true),
            ("127.0.0.1:0", "127.0.0.1:9001", true),
            ("127.0.0.1:9002", "127.0.0.1:9001", false),
            ("0.0.0.0:9001", "127.0.0.1:9001", false),
            ("0.0.0.0:0", "127.0.0.1:9001", false),
            ("[::1]:9001", "127.0.0.1:9001", false),
            ("tls+127.0.0.1:0", "127.0.0.1:9001", false),
            ("tls+127.0.0.1:0", "tls+127.0.0.1:9001", true),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
            ("unix:/a", "127.0.0.1:9001", false),
        ] {
            let (listen, found) = (listen.parse().unwrap(), found.parse().unwrap());
            assert_eq!(fits(&listen, &found), expected, "{listen} {found}");
        }
    }

    #[test]
    fn each_address_gets_its_own_sockets_and_free_ports_get_one_address_each() {
        let opened = |listen: &str| {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            Opened { socket, listen: listen.parse().unwrap() }
        };
        let all = ["127.0.0.1:1", "127.0.0.1:2", "tls+127.0.0.1:3", "127.0.0.1:1"].map(opened);
        assert_eq!(places(&all).len(), 3);
        let mut all = all.map(Some);
        let mut taken = |listen: &str| -> Vec<String> {
            let taken = take_fitting(&mut all, &listen.parse().unwrap());
            taken.iter().map(|it| it.listen.to_string()).collect()
        };
        assert_eq!(taken("127.0.0.1:0"), ["127.0.0.1:1", "127.0.0.1:1"]);
        assert_eq!(taken("127.0.0.1:0"), ["127.0.0.1:2"]);
        assert_eq!(taken("127.0.0.1:0"), [""; 0]);
        assert_eq!(taken("tls+127.0.0.1:3"), ["tls+127.0.0.1:3"]);
    }

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
