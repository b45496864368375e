//! Listening sockets: whether their address is free, and what accepted connections inherit.
//!
//! At an address of IP each worker listens on a socket of its own. The sockets share the port, and the
//! kernel spreads connections over them. A Unix socket is one, which all workers accept from.

use std::{
    cell::RefCell,
    fs, io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;
use tracing::warn;

use super::{
    arrival::Arrival,
    socket_file::{Behind, SocketFile, knock, listen, remove_stale},
};
use crate::{
    config::{Config, Listen, ListenAddress},
    connection::peer::Peer,
    host::descriptors::SystemCallError,
};

/// A listening socket, and what is spoken on the connections that it accepts.
#[derive(Debug)]
pub struct Listener {
    /// The socket, of whatever family.
    pub socket: TcpListener,
    /// TLS is spoken.
    pub speaks_tls: bool,
}

impl Listener {
    /// Accepts a connection.
    pub fn accept(&self) -> io::Result<(TcpStream, Arrival)> {
        let (socket, address) = SockRef::from(&self.socket).accept()?;
        let peer = address.as_socket().map_or(Peer::Local, Peer::from);
        Ok((socket.into(), Arrival { peer, speaks_tls: self.speaks_tls }))
    }

    /// The same socket once more.
    pub fn duplicate(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, ..*self })
    }
}

/// Where a server's workers listen, and the options of their sockets.
#[derive(Clone, Debug)]
pub struct Listening {
    listen: Listen,
    /// At an address of IPv6: connections of IPv4 are not taken.
    only_v6: bool,
    unix_mode: u32,
    /// Whether other programs may listen there as well.
    reuse_port: bool,
    backlog: u32,
    tcp_congestion: Option<String>,
    incoming_cpu: bool,
    /// Socket options that were refused; each has been logged once.
    missing_options: RefCell<Vec<&'static str>>,
}

/// Why a server cannot listen.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Another program listens on the address.
    #[error(
        "--listen {0}: another program listens there; choose another port, or share this one \
         with --reuse-port"
    )]
    AddressInUse(Listen),
    /// Another program listens at the path of a Unix socket.
    #[error("--listen {0}: another program listens there; stop it, or choose another path")]
    PathInUse(Listen),
    /// There can be no Unix socket at the path.
    #[error(
        "--listen {listen}: {source}; it must be a path in a directory that this user may write to"
    )]
    Path {
        /// The path.
        listen: Listen,
        /// The cause.
        source: io::Error,
    },
    /// Another program listens on the address and does not share it.
    #[error(
        "--listen {0}: another program listens there, which does not share the port or runs as \
         another user; choose another port, or start that one as this user, with --reuse-port too"
    )]
    AddressNotShared(Listen),
    /// The address cannot be listened on.
    #[error(
        "--listen {listen}: {source}; it must be an address of this machine, with a port \
         that this user may listen on"
    )]
    Address {
        /// The address.
        listen: Listen,
        /// The kernel's error.
        source: io::Error,
    },
    /// The congestion control does not exist, or this user may not choose it.
    #[error(
        "--tcp-congestion {name}: {source}; this kernel has {available}, and without \
         CAP_NET_ADMIN {allowed} may be used (net.ipv4.tcp_allowed_congestion_control)"
    )]
    TcpCongestion {
        /// The name of the congestion control.
        name: String,
        /// The kernel's error.
        source: io::Error,
        /// The congestion controls that the kernel has loaded.
        available: String,
        /// The congestion controls that every user may choose.
        allowed: String,
    },
    /// The system refused another call.
    #[error("--listen {listen}: {source}")]
    System {
        /// The address.
        listen: Listen,
        /// The refused call.
        source: SystemCallError,
    },
}

/// How long an address may be in use before another program is assumed to listen there. The kernel
/// closes the sockets of a killed process a little after the process is gone.
const IN_USE_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause between two tries.
const IN_USE_PAUSE: Duration = Duration::from_millis(10);

/// How long it may take to find out whether somebody listens at a path.
const KNOCK_TIMEOUT: Duration = Duration::from_secs(1);

impl Listening {
    /// Takes addresses and options from the configuration, and warns if the kernel caps the backlog.
    pub fn all(config: &Config) -> Vec<Self> {
        let network = &config.network;
        warn_of_capped_backlog(network.backlog.get());
        let new = |listen: &Listen| Self {
            listen: listen.clone(),
            only_v6: has_v4_beside(listen, &network.listen),
            unix_mode: network.unix_mode.bits(),
            reuse_port: network.reuse_port,
            backlog: network.backlog.get(),
            tcp_congestion: network.tcp_congestion.clone(),
            incoming_cpu: config.cores.incoming_cpu,
            missing_options: RefCell::default(),
        };
        network.listen.iter().map(new).collect()
    }

    /// The same for what listens elsewhere, as on a socket of another process.
    #[must_use]
    pub fn at(&self, listen: Listen) -> Self {
        Self { listen, ..self.clone() }
    }

    /// Where it is listened, with the real port once a socket has been opened.
    pub fn listen(&self) -> &Listen {
        &self.listen
    }

    /// Opens the listening sockets of workers that are pinned to these CPUs: one for each worker, or
    /// one for all and its file.
    pub(crate) fn open(
        &mut self,
        cpus: &[usize],
    ) -> Result<(Vec<TcpListener>, Option<SocketFile>), ListenError> {
        if let ListenAddress::Unix(path) = &self.listen.address {
            let (socket, file) = self.open_unix(path)?;
            return Ok((vec![socket], Some(file)));
        }
        if !self.reuse_port {
            self.probe()?;
        }
        let sockets = cpus.iter().map(|cpu| self.open_tcp(*cpu));
        Ok((sockets.collect::<Result<_, _>>()?, None))
    }

    /// Finds out whether another program listens on the address.
    ///
    /// A socket that shares its port would join the other program's silently. A socket that does
    /// not share can only be bound where nobody listens.
    fn probe(&self) -> Result<(), ListenError> {
        let Some(address) = self.listen.socket_address() else { return Ok(()) };
        retry_while_in_use(|| self.bind(address, false)).map(drop)
    }

    /// Opens the listening socket of a worker. All workers' sockets share the address.
    fn open_tcp(&mut self, cpu: usize) -> Result<TcpListener, ListenError> {
        let Some(address) = self.listen.socket_address() else {
            unreachable!("Unix sockets are opened elsewhere")
        };
        let socket = retry_while_in_use(|| self.listen_tcp(address, cpu))?;
        let listener: TcpListener = socket.into();
        let address = listener.local_addr().map_err(self.system_error("getsockname"))?;
        self.listen.address = ListenAddress::Tcp(address);
        Ok(listener)
    }

    /// Opens the one socket at a path. The file of a server that is gone is replaced.
    fn open_unix(&self, path: &Path) -> Result<(TcpListener, SocketFile), ListenError> {
        let refuse = |source| ListenError::Path { listen: self.listen.clone(), source };
        match knock(path, Type::STREAM, KNOCK_TIMEOUT).map_err(refuse)? {
            Behind::Server(_) => return Err(ListenError::PathInUse(self.listen.clone())),
            Behind::Nobody => remove_stale(path),
        }
        let backlog = self.backlog.cast_signed();
        let socket = listen(path, Type::STREAM, self.unix_mode, backlog).map_err(refuse)?;
        let file = SocketFile::at(path).map_err(refuse)?;
        Ok((OwnedFd::from(socket).into(), file))
    }

    /// Gives a socket that another process has opened the options of this server's own, for a worker
    /// that is pinned to `cpu`. Its backlog becomes this server's as well.
    pub fn adopt(&mut self, listener: &TcpListener, cpu: usize) -> Result<(), ListenError> {
        let socket = SockRef::from(listener);
        if self.listen.socket_address().is_some() {
            self.set_options(&socket, cpu)?;
        }
        socket.listen(self.backlog.cast_signed()).map_err(self.system_error("listen"))
    }

    fn listen_tcp(&self, address: SocketAddr, cpu: usize) -> Result<Socket, ListenError> {
        let socket = self.bind(address, true)?;
        self.set_options(&socket, cpu)?;
        socket.listen(self.backlog.cast_signed()).map_err(|source| self.address_error(source))?;
        Ok(socket)
    }

    fn set_options(&self, socket: &Socket, cpu: usize) -> Result<(), ListenError> {
        // Accepted connections inherit TCP_NODELAY and the congestion control.
        self.try_option("TCP_NODELAY", socket.set_tcp_nodelay(true));
        if let Some(name) = &self.tcp_congestion {
            socket.set_tcp_congestion(name.as_bytes()).map_err(|source| {
                let name = name.clone();
                let [available, allowed] = ["available", "allowed"].map(|which| {
                    read_kernel_setting(&format!("net/ipv4/tcp_{which}_congestion_control"))
                        .unwrap_or_else(|| "unknown ones".to_owned())
                });
                ListenError::TcpCongestion { name, source, available, allowed }
            })?;
        }
        if self.incoming_cpu {
            let call = "setsockopt(SO_INCOMING_CPU), for --incoming-cpu";
            socket.set_cpu_affinity(cpu).map_err(self.system_error(call))?;
        }
        Ok(())
    }

    fn bind(&self, address: SocketAddr, reuse_port: bool) -> Result<Socket, ListenError> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP));
        let socket = socket.map_err(self.system_error("socket"))?;
        self.try_option("SO_REUSEADDR", socket.set_reuse_address(true));
        socket.set_reuse_port(reuse_port).map_err(self.system_error("setsockopt(SO_REUSEPORT)"))?;
        if address.is_ipv6() {
            self.try_option("IPV6_V6ONLY", socket.set_only_v6(self.only_v6));
        }
        socket.bind(&address.into()).map_err(|source| self.address_error(source))?;
        Ok(socket)
    }

    /// Goes on without a socket option that was refused, and logs that once.
    fn try_option(&self, option: &'static str, result: io::Result<()>) {
        let Err(error) = result else { return };
        let mut missing_options = self.missing_options.borrow_mut();
        if !missing_options.contains(&option) {
            missing_options.push(option);
            warn!(%error, "listening without {option}");
        }
    }

    fn system_error(&self, call: &'static str) -> impl Fn(io::Error) -> ListenError {
        let listen = self.listen.clone();
        move |source| ListenError::System {
            listen: listen.clone(),
            source: SystemCallError { call, source },
        }
    }

    fn address_error(&self, source: io::Error) -> ListenError {
        let listen = self.listen.clone();
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EADDRINUSE) if self.reuse_port => ListenError::AddressNotShared(listen),
            Some(Errno::EADDRINUSE) => ListenError::AddressInUse(listen),
            _ => ListenError::Address { listen, source },
        }
    }
}

fn warn_of_capped_backlog(backlog: u32) {
    let cap = read_kernel_setting("net/core/somaxconn").and_then(|cap| cap.parse().ok());
    if let Some(cap) = cap.filter(|cap: &u32| *cap < backlog) {
        warn!(
            "--backlog {backlog}: the kernel caps it at {cap}; to raise that: \
             sysctl -w net.core.somaxconn={backlog}"
        );
    }
}

/// Whether another address, of IPv4, takes the connections of IPv4 at the port of an address of IPv6.
fn has_v4_beside(listen: &Listen, all: &[Listen]) -> bool {
    listen.socket_address().is_some_and(|own| {
        let mut others = all.iter().filter_map(Listen::socket_address);
        own.port() != 0 && others.any(|other| other.is_ipv4() && other.port() == own.port())
    })
}

/// Tries again while the address is in use, until [`IN_USE_TIMEOUT`] has passed.
fn retry_while_in_use<T>(attempt: impl Fn() -> Result<T, ListenError>) -> Result<T, ListenError> {
    let first = Instant::now();
    loop {
        match attempt() {
            Err(ListenError::AddressInUse(_) | ListenError::AddressNotShared(_))
                if first.elapsed() < IN_USE_TIMEOUT =>
            {
                thread::sleep(IN_USE_PAUSE);
            }
            result => return result,
        }
    }
}

/// A setting of the kernel, by its path in /proc/sys; `None` if it cannot be read.
fn read_kernel_setting(path: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::{Cores, Network, Within},
        host::cpu_list::CpuList,
    };

    /// Opens a listener on a free port.
    fn open(network: Network, cores: Cores) -> Result<TcpListener, ListenError> {
        let network = Network { listen: vec!["127.0.0.1:0".parse().unwrap()], ..network };
        let config = Config { network, cores, ..Config::default() };
        Listening::all(&config)[0].open_tcp(CpuList::usable().unwrap().as_slice()[0])
    }

    /// A configuration that listens on an address that may be in use.
    fn config(listen: SocketAddr, reuse_port: bool) -> Config {
        let network = Network { listen: vec![listen.into()], reuse_port, ..Network::default() };
        Config { network, ..Config::default() }
    }

    /// Both ends of a connection.
    fn connect(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn port_that_its_owner_does_not_share_is_refused_with_what_helps() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = taken.local_addr().unwrap();
        for (reuse_port, advice) in
            [(false, "share this one with --reuse-port"), (true, "which does not share the port")]
        {
            let refusal =
                Listening::all(&config(listen, reuse_port))[0].open_tcp(0).unwrap_err().to_string();
            assert!(refusal.contains(advice), "{refusal}");
        }
    }

    #[test]
    fn port_that_is_still_being_closed_is_waited_for() {
        for reuse_port in [false, true] {
            let closing = TcpListener::bind("127.0.0.1:0").unwrap();
            let listen = closing.local_addr().unwrap();
            let mut listening = Listening::all(&config(listen, reuse_port)).remove(0);
            let closer = thread::spawn(move || {
                thread::sleep(5 * IN_USE_PAUSE);
                drop(closing);
            });
            assert_eq!(listening.open_tcp(0).unwrap().local_addr().unwrap(), listen);
            closer.join().unwrap();
        }
    }

    #[test]
    fn accepted_connections_do_not_delay_small_segments() {
        let (_client, accepted) = connect(&open(Network::default(), Cores::default()).unwrap());
        assert!(accepted.nodelay().unwrap());
    }

    #[test]
    fn accepted_connections_have_the_congestion_control_that_was_asked_for() {
        for name in
            read_kernel_setting("net/ipv4/tcp_allowed_congestion_control").unwrap().split(' ')
        {
            let tcp_congestion = Some(name.to_owned());
            let network = Network { tcp_congestion, ..Network::default() };
            let (_client, accepted) = connect(&open(network, Cores::default()).unwrap());
            let inherited = SockRef::from(&accepted).tcp_congestion().unwrap();
            let inherited = String::from_utf8(inherited).unwrap();
            assert_eq!(inherited.trim_end_matches('\0'), name);
        }
    }

    #[test]
    fn unknown_congestion_control_is_refused_with_the_known_ones() {
        for name in ["nonsense", ""] {
            let tcp_congestion = Some(name.to_owned());
            let network = Network { tcp_congestion, ..Network::default() };
            let refusal = open(network, Cores::default()).unwrap_err();
            assert!(matches!(refusal, ListenError::TcpCongestion { .. }), "{refusal}");
            assert!(refusal.to_string().contains("this kernel has reno"), "{refusal}");
        }
    }

    #[test]
    fn listener_asks_for_connections_of_its_cpu_only_if_told_to() {
        let cpu = CpuList::usable().unwrap().as_slice()[0];
        for (incoming_cpu, expected) in [(true, cpu), (false, usize::MAX)] {
            let cores = Cores { incoming_cpu, ..Cores::default() };
            let listener = open(Network::default(), cores).unwrap();
            // The kernel reports -1 for a listener without a CPU.
            assert_eq!(SockRef::from(&listener).cpu_affinity().unwrap(), expected);
        }
    }

    /// With a backlog of one the kernel queues two connections and ignores the next, whose client
    /// tries again after a second. A queue with room would take that connection at once.
    #[test]
    fn no_more_connections_wait_than_the_backlog_says() {
        const AT_ONCE: Duration = Duration::from_millis(200);
        let network = Network { backlog: Within::new(1).unwrap(), ..Network::default() };
        let listener = open(network, Cores::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let _waiting = [(); 2].map(|()| TcpStream::connect(address).unwrap());
        let ignored = TcpStream::connect_timeout(&address, AT_ONCE).unwrap_err();
        assert_eq!(ignored.kind(), io::ErrorKind::TimedOut);
    }
}
