//! A server's configuration: each knob once, in the file of its group.
//!
//! A group of flags in the help is a file here and a struct in it, and a field of that struct is
//! one knob: its name is the flag and the variable; type, default, help and reason stand with it. A
//! value cannot be out of range ([`Within`]); [`Config::check`] refuses values that contradict each
//! other. The use of the values is left to the other modules.

mod bounds;
#[doc(hidden)]
pub mod command_line;
mod cores;
mod echo;
mod file;
mod handshake;
mod http;
mod http2;
mod listen;
mod log;
mod network;
mod observation;
mod privileges;
mod proxies;
mod settings;
mod time;
mod tls;
mod values;

use clap::Args;
use thiserror::Error;

pub use self::{
    bounds::Bounds,
    cores::{Cores, DataPlane, Driver, HugePages},
    echo::{Echo, RECEIVE_BUFFER_START, RECEIVE_BUFFERS_TOTAL_MAX},
    file::{FILE_LEN_MAX, FileError, FileFlag},
    handshake::{Compression, EchoPath, EchoPathError, Handshake, Subprotocol, SubprotocolError},
    http::{Http, HttpEchoPath, HttpEchoPathError},
    http2::Http2,
    listen::{Listen, ListenAddress, SocketMode},
    log::{LogFormat, LogLevel, Logging},
    network::{Network, TakeoverPath},
    observation::{AccessLogTarget, Observation},
    privileges::{Account, Id, Privileges, Sandboxing},
    proxies::{Proxies, ProxyProtocol},
    settings::{Change, Settings},
    time::Time,
    tls::{Ktls, Tls},
    values::{PowerOfTwo, Quantity, ShortTime, Size, ValueError, Within, format_duration},
};
use crate::http::echo_paths::EchoPaths;
#[doc(inline)]
pub use crate::{
    handshake::origin::Origin,
    host::cpu_list::{CpuList, CpuListError},
    trust::{Subnet, TrustError, TrustedPeers},
};

/// A server's configuration. [`Config::default`] is that of the program without flags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Config {
    /// Where the server listens, and how connections come in.
    #[command(flatten)]
    pub network: Network,
    /// By which certificates the server is known, and whom it wants to know.
    #[command(flatten)]
    pub tls: Tls,
    /// Whose word is taken for who the client is.
    #[command(flatten)]
    pub proxies: Proxies,
    /// Which paths lead to the echo, who may connect, and what may be agreed on.
    #[command(flatten)]
    pub handshake: Handshake,
    /// What plain requests get beside the page and health checks.
    #[command(flatten)]
    pub http: Http,
    /// What a connection's buffers take, and what frames and messages may be.
    #[command(flatten)]
    pub echo: Echo,
    /// How long clients may take, and how long they may be silent.
    #[command(flatten)]
    pub time: Time,
    /// How many connections there may be, and how fast they may come.
    #[command(flatten)]
    pub bounds: Bounds,
    /// Whether HTTP/2 is spoken, and what one of its connections may take.
    #[command(flatten)]
    pub http2: Http2,
    /// How many workers run and where, and what carries their connections.
    #[command(flatten)]
    pub cores: Cores,
    /// What an operator sees of the server beside its log.
    #[command(flatten)]
    pub observation: Observation,
}

/// Values that a server cannot have together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The shared buffers take too much memory together.
    #[error(
        "--receive-buffers {number} of --receive-buffer {size} take {total} for each worker, but \
         may take at most {RECEIVE_BUFFERS_TOTAL_MAX}; have fewer or smaller ones"
    )]
    ReceiveBuffersTotal {
        /// The number of buffers.
        number: u32,
        /// The size of each buffer.
        size: Size,
        /// The size of all buffers together.
        total: Size,
    },
    /// There is nowhere to listen.
    #[error("--listen is empty, but must be one address or more, such as 127.0.0.1:9001")]
    ListenEmpty,
    /// An address is named twice.
    #[error("--listen names {0} twice")]
    ListenRepeated(ListenAddress),
    /// Two ways of spreading connections contradict each other.
    #[error(
        "--incoming-cpu leaves a connection on the CPU that its packets arrive on, but --balance \
         is on and would hand it to another; add --balance off"
    )]
    IncomingCpuBalanced,
    /// A listener speaks TLS, and there is no certificate.
    #[error(
        "--listen tls+… needs a certificate: add --tls-cert FILE and --tls-key FILE, or \
         --tls-self-signed for a trial"
    )]
    TlsCertificateMissing,
    /// There is a certificate, and no listener speaks TLS.
    #[error(
        "--tls-cert, --tls-client-ca and --tls-self-signed are for listeners with TLS, and there is \
         none: add --listen tls+ADDRESS:PORT"
    )]
    TlsListenerMissing,
    /// A certificate has no key, or a key no certificate.
    #[error(
        "--tls-cert names {certificates} files, and --tls-key {keys}; each certificate needs its \
         key, in the same order"
    )]
    TlsKeyMissing {
        /// The number of certificates.
        certificates: usize,
        /// The number of keys.
        keys: usize,
    },
    /// There are certificates, and another is to be made.
    #[error(
        "--tls-self-signed makes a certificate, and --tls-cert names one; leave one of them out"
    )]
    TlsCertifiedTwice,
    /// There is no echo path.
    #[error("--path is empty, but must be one path or more, such as /ws, or * for all")]
    PathsEmpty,
    /// An echo path is named twice.
    #[error("--path names {:?} twice", .0.as_ref())]
    PathRepeated(EchoPath),
    /// `*` is for all paths, and another path is named beside it.
    #[error("--path is * for all paths, and also {:?}; leave one of them out", .0.as_ref())]
    PathBesideAny(EchoPath),
    /// A subprotocol is named twice.
    #[error(
        "--subprotocol names {:?} twice, but its order is the server's preference", .0.as_ref()
    )]
    SubprotocolRepeated(Subprotocol),
    /// PROXY headers are read, and nobody's is believed.
    #[error(
        "--proxy-protocol needs --proxy-from: the addresses of the proxies whose headers are believed, \
         such as 10.0.0.7, 10.0.0.0/8 or unix; 0.0.0.0/0,::/0,unix believes everybody, and then any \
         client may pretend to be another"
    )]
    ProxyUnnamed,
    /// A flag names more networks than each connection should be compared with.
    #[error("{flag} has {number} networks, but may have at most {max}")]
    TrustedTooMany {
        /// The flag.
        flag: &'static str,
        /// How many it names.
        number: usize,
        /// The most that it may name.
        max: usize,
    },
}

impl Config {
    /// Takes over from `new` what may change while a server runs: what connections are answered
    /// with from now on, the times, which no connection holds a copy of, and the bounds and the
    /// trusted proxies, which only new connections meet.
    pub fn take_over(&mut self, new: &Self) {
        self.handshake.clone_from(&new.handshake);
        self.http.clone_from(&new.http);
        self.time.clone_from(&new.time);
        self.bounds.clone_from(&new.bounds);
        self.proxies.clone_from(&new.proxies);
        self.http2.clone_from(&new.http2);
    }

    /// Refuses values that a server cannot have together.
    pub fn check(&self) -> Result<(), ConfigError> {
        let (number, size) =
            (self.echo.receive_buffers.get().get(), self.echo.receive_buffer.get());
        let total = Size(u64::from(number) * size.0);
        if total > RECEIVE_BUFFERS_TOTAL_MAX {
            return Err(ConfigError::ReceiveBuffersTotal { number, size, total });
        }
        if self.cores.incoming_cpu && self.cores.balance {
            return Err(ConfigError::IncomingCpuBalanced);
        }
        check_listens(&self.network.listen)?;
        self.tls.check(self.network.listen.iter().any(|listen| listen.speaks_tls))?;
        self.proxies.check()?;
        check_paths(&self.handshake.paths)?;
        let subprotocols = &self.handshake.subprotocols;
        for (at, subprotocol) in subprotocols.iter().enumerate() {
            if subprotocols[..at].contains(subprotocol) {
                return Err(ConfigError::SubprotocolRepeated(subprotocol.clone()));
            }
        }
        Ok(())
    }
}

fn check_listens(listens: &[Listen]) -> Result<(), ConfigError> {
    if listens.is_empty() {
        return Err(ConfigError::ListenEmpty);
    }
    let is_free = |listen: &Listen| listen.socket_address().is_some_and(|it| it.port() == 0);
    for (at, Listen { address, .. }) in listens.iter().enumerate().filter(|(_, it)| !is_free(it)) {
        if listens[..at].iter().any(|other| other.address == *address) {
            return Err(ConfigError::ListenRepeated(address.clone()));
        }
    }
    Ok(())
}

fn check_paths(paths: &[EchoPath]) -> Result<(), ConfigError> {
    if paths.is_empty() {
        return Err(ConfigError::PathsEmpty);
    }
    if paths.iter().any(EchoPath::is_any) {
        return match paths.iter().find(|path| !path.is_any()) {
            Some(other) => Err(ConfigError::PathBesideAny(other.clone())),
            None => Ok(()),
        };
    }
    for (at, path) in paths.iter().enumerate() {
        if EchoPaths::new(&paths[..at]).lists(path.as_ref()) {
            return Err(ConfigError::PathRepeated(path.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_config_is_accepted() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn shared_buffers_are_bounded_together() {
        let check = |receive_buffers: &str, receive_buffer: &str| {
            let echo = Echo {
                receive_buffers: receive_buffers.parse().unwrap(),
                receive_buffer: receive_buffer.parse().unwrap(),
                ..Echo::default()
            };
            Config { echo, ..Config::default() }.check()
        };
        assert_eq!(check("64", "16MiB"), Ok(()));
        assert_eq!(check("1024", "1MiB"), Ok(()));
        assert_eq!(
            check("1024", "16MiB").unwrap_err().to_string(),
            "--receive-buffers 1024 of --receive-buffer 16MiB take 16GiB for each worker, but \
             may take at most 1GiB; have fewer or smaller ones"
        );
    }

    #[test]
    fn addresses_are_named_once_but_for_free_ports() {
        let check = |listens: &[&str]| {
            let listen = listens.iter().map(|listen| listen.parse().unwrap()).collect();
            let network = Network { listen, ..Network::default() };
            Config { network, ..Config::default() }.check()
        };
        assert_eq!(check(&["127.0.0.1:1", "[::1]:1", "unix:a"]), Ok(()));
        assert_eq!(check(&["127.0.0.1:0", "[::1]:0", "127.0.0.1:0"]), Ok(()));
        assert_eq!(check(&[]), Err(ConfigError::ListenEmpty));
        for repeated in [["unix:a", "tls+unix:a"], ["[::]:1", "[::]:1"]] {
            assert!(matches!(check(&repeated), Err(ConfigError::ListenRepeated(_))));
        }
    }

    #[test]
    fn headers_are_read_only_where_somebody_is_named_to_be_believed() {
        let check = |proxy_protocol, proxy_from: &[&str]| {
            let proxy_from = proxy_from.iter().map(|text| text.parse().unwrap()).collect();
            let proxies = Proxies { proxy_protocol, proxy_from, ..Proxies::default() };
            Config { proxies, ..Config::default() }.check()
        };
        for mode in [ProxyProtocol::Required, ProxyProtocol::Optional] {
            assert_eq!(check(mode, &[]), Err(ConfigError::ProxyUnnamed));
            assert_eq!(check(mode, &["10.0.0.7"]), Ok(()));
            assert_eq!(check(mode, &["0.0.0.0/0", "::/0", "unix"]), Ok(()));
        }
        assert_eq!(check(ProxyProtocol::Off, &["10.0.0.7"]), Ok(()));
        let refusal = check(ProxyProtocol::Off, &vec!["::1"; 1025]).unwrap_err().to_string();
        assert_eq!(refusal, "--proxy-from has 1025 networks, but may have at most 1024");
    }

    fn check(paths: &[&str]) -> Result<(), ConfigError> {
        let paths = paths.iter().map(|path| path.parse().unwrap()).collect();
        let handshake = Handshake { paths, ..Handshake::default() };
        Config { handshake, ..Config::default() }.check()
    }

    #[test]
    fn paths_are_named_once() {
        assert_eq!(check(&["/ws", "/", "/ws/", "/%7euser"]), Ok(()));
        assert_eq!(check(&["*"]), Ok(()));
        assert_eq!(check(&[]), Err(ConfigError::PathsEmpty));
        for repeated in [["/ws", "/ws"], ["/~a", "/%7Ea"], ["/%c3", "/%C3"]] {
            let refusal = ConfigError::PathRepeated(repeated[1].parse().unwrap());
            assert_eq!(check(&repeated), Err(refusal));
        }
        let refusal = Err(ConfigError::PathBesideAny("/ws".parse().unwrap()));
        assert_eq!(check(&["/ws", "*"]), refusal);
    }
}
