//! Every knob of the server once: its default, unit, range and reason.
//!
//! The command line fills a [`Config`]; [`Config::check`] is the one place that refuses values.

pub mod cli;

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use bytesize::ByteSize;
use thiserror::Error;

use crate::{
    handshake::origin::Origin,
    host::cpu_list::CpuList,
    http::{
        echo_paths::{ANY_PATH, EchoPaths, as_asked_for},
        is_token,
    },
};

/// What a server is to do. [`Config::default`] is what the program does without flags.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether to join other processes on the same port instead of refusing to start.
    pub reuse_port: bool,
    /// See [`BACKLOG`].
    pub backlog: u32,
    /// The congestion control of accepted connections; `None` for the system's.
    pub tcp_congestion: Option<String>,
    /// Whether a connection goes to the worker on the CPU that its packets arrive on.
    pub incoming_cpu: bool,
    /// The paths that upgrade to the echo, the one that is proposed first; [`ANY_PATH`] alone for
    /// all.
    pub paths: Vec<String>,
    /// Origins that may connect; empty allows all.
    pub allowed_origins: Vec<Origin>,
    /// Subprotocols that may be agreed on, best first.
    pub subprotocols: Vec<String>,
    /// What is done about compression.
    pub compression: Compression,
    /// See [`WORKERS`]; `None` for one on each of `cpus`.
    pub workers: Option<usize>,
    /// CPUs that workers are pinned to, in turn; `None` for all that the process may use.
    pub cpus: Option<CpuList>,
    /// Whether a connection goes to the worker with the fewest, whoever accepts it.
    pub balance: bool,
    /// The kernel interface that workers wait on.
    pub driver: Driver,
    /// What carries connections after their opening handshake.
    pub data_plane: DataPlane,
    /// What pages the engine's receive buffers are in.
    pub huge_pages: HugePages,
    /// Sizes and times.
    pub limits: Limits,
}

/// What is done about compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// It is not agreed on.
    #[default]
    Off,
    /// permessage-deflate is agreed on where compressed messages can be echoed as they are.
    PassThrough,
}

/// The kernel interface that workers wait on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// `io_uring` where the kernel allows it, epoll elsewhere.
    #[default]
    Auto,
    /// `io_uring`, or a refusal to start.
    IoUring,
    /// epoll.
    Epoll,
}

/// What carries connections after their opening handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataPlane {
    /// The engine where the kernel has what it needs, the portable path elsewhere.
    #[default]
    Auto,
    /// The engine, or a refusal to start.
    Engine,
    /// The portable path.
    Portable,
}

/// What pages the engine's receive buffers are in.
///
/// Huge pages of 2 MiB spare the CPU translations of addresses. By default all of the buffers, 2
/// MiB for each worker, are 512 small pages or 1 huge one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Small pages.
    #[default]
    Off,
    /// Huge pages where the kernel finds some, small ones elsewhere.
    Transparent,
    /// Huge pages out of those that `vm.nr_hugepages` has set aside, or a refusal to start.
    Explicit,
}

/// Sizes and times that bound what one peer can cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// See [`RECEIVE_BUFFER`].
    pub receive_buffer: Size,
    /// See [`RECEIVE_BUFFERS`].
    pub receive_buffers: u16,
    /// See [`UNSENT_MAX`].
    pub unsent_max: Size,
    /// See [`HOLD`].
    pub hold: Size,
    /// See [`MESSAGE_SIZE_MAX`].
    pub message_size_max: Size,
    /// See [`HANDSHAKE_TIMEOUT`].
    pub handshake_timeout: Duration,
    /// See [`KEEP_ALIVE_INTERVAL`].
    pub keep_alive_interval: Duration,
    /// See [`KEEP_ALIVE_TIMEOUT`].
    pub keep_alive_timeout: Duration,
    /// See [`CLOSE_TIMEOUT`].
    pub close_timeout: Duration,
    /// See [`DRAIN_TIMEOUT`].
    pub drain_timeout: Duration,
}

/// A knob: the flag that sets it, its default, and the values that it may take.
#[derive(Clone, Copy, Debug)]
pub struct Knob<T> {
    /// The flag on the command line.
    pub flag: &'static str,
    /// The value without the flag.
    pub default: T,
    /// The smallest value.
    pub min: T,
    /// The largest value.
    pub max: T,
}

/// How many connections may wait to be accepted, at each worker; the kernel caps it at
/// `net.core.somaxconn`.
///
/// A burst of more is not refused but ignored, and tries again after a second. The default is that
/// of `net.core.somaxconn`.
pub const BACKLOG: Knob<u32> = Knob { flag: "--backlog", default: 4096, min: 1, max: 1 << 20 };

/// The size with which every connection's receive buffer starts: one page holds most messages.
pub const RECEIVE_BUFFER_START: Size = Size::kib(4);

/// How far a connection's receive buffer grows: it doubles whenever a read fills it.
///
/// Larger ones take fewer reads for large messages, until they no longer fit the CPU's cache.
pub const RECEIVE_BUFFER: Knob<Size> = Knob {
    flag: "--receive-buffer",
    default: Size::kib(256),
    min: RECEIVE_BUFFER_START,
    max: Size::kib(16 << 10),
};

/// How many receive buffers the connections of a worker share, on the engine: a power of two.
///
/// Enough for what arrives in a turn, which begins with those that the cache still holds. Each turn
/// lists them all for the kernel, so there are not too many.
pub const RECEIVE_BUFFERS: Knob<u16> =
    Knob { flag: "--receive-buffers", default: 8, min: 2, max: 1 << 10 };

/// The most memory that the shared receive buffers of a worker take together. They are all there
/// from the start; far fewer bytes already no longer fit any cache.
pub const RECEIVE_BUFFERS_TOTAL_MAX: Size = Size::kib(1 << 20);

/// The most that is kept for a peer that does not read its echoes; then nothing more is received
/// from it.
///
/// A peer that sends everything before it reads anything can send this much, beside what fits the
/// buffers of both sockets. Before Linux 6.17 the engine may keep as much more as fits its shared
/// buffers.
pub const UNSENT_MAX: Knob<Size> = Knob {
    flag: "--unsent-max",
    default: Size::kib(1 << 10),
    min: Size::kib(64),
    max: Size::kib(64 << 10),
};

/// The longest frame that is held until it has arrived whole; longer ones are sent on in pieces.
///
/// A fault in a held frame is answered with a close code; one in a frame that is half sent ends
/// the connection without. Memory for held bytes is taken only while a frame is incomplete.
pub const HOLD: Knob<Size> =
    Knob { flag: "--hold", default: Size::kib(4), min: Size(0), max: Size::kib(1 << 10) };

/// The longest message; a longer one is answered with close code 1009.
///
/// No message takes memory in proportion to its length, so the default needs no limit.
pub const MESSAGE_SIZE_MAX: Knob<Size> = Knob {
    flag: "--message-size-max",
    default: Size::UNLIMITED,
    min: Size(1),
    max: Size::UNLIMITED,
};

/// How long a client may take for its request head.
pub const HANDSHAKE_TIMEOUT: Knob<Duration> = Knob {
    flag: "--handshake-timeout",
    default: Duration::from_secs(10),
    min: Duration::from_secs(1),
    max: HOUR,
};

/// After how much silence a client is sent a Ping; zero for never.
///
/// ASP.NET Core's default. It keeps middleboxes from forgetting the connection.
pub const KEEP_ALIVE_INTERVAL: Knob<Duration> = Knob {
    flag: "--keep-alive-interval",
    default: Duration::from_mins(2),
    min: Duration::ZERO,
    max: DAY,
};

/// How long a client that was sent a Ping may stay silent before it is given up.
pub const KEEP_ALIVE_TIMEOUT: Knob<Duration> = Knob {
    flag: "--keep-alive-timeout",
    default: Duration::from_secs(20),
    min: Duration::from_secs(1),
    max: HOUR,
};

/// How long a closed connection is kept for the client to end it too.
pub const CLOSE_TIMEOUT: Knob<Duration> = Knob {
    flag: "--close-timeout",
    default: Duration::from_secs(5),
    min: Duration::from_secs(1),
    max: HOUR,
};

/// How long a stopping server waits for its clients to answer the Close that it sends.
pub const DRAIN_TIMEOUT: Knob<Duration> = Knob {
    flag: "--drain-timeout",
    default: Duration::from_secs(10),
    min: Duration::ZERO,
    max: HOUR,
};

/// Number of workers: without the flag one on each CPU; at most more threads than any machine has
/// CPUs.
pub const WORKERS: Knob<usize> = Knob { flag: "--workers", default: 1, min: 1, max: 4096 };

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// A number of bytes, written as people write it: `65536`, `64KiB`, `1MiB`, `unlimited`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A value that a server cannot run with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A number, size or time is outside of its range.
    #[error("{flag} is {value}, but must be from {min} to {max}")]
    OutOfRange {
        /// The flag.
        flag: &'static str,
        /// The value that it was given.
        value: String,
        /// The smallest value that it may have.
        min: String,
        /// The largest value that it may have.
        max: String,
    },
    /// The number of shared buffers does not fit the kernel's ring.
    #[error("--receive-buffers is {0}, but must be a power of two")]
    ReceiveBuffers(u16),
    /// The shared buffers are too much memory together.
    #[error(
        "--receive-buffers {number} of --receive-buffer {size} take {} for each worker, but may \
         take at most {RECEIVE_BUFFERS_TOTAL_MAX}; have fewer or smaller ones",
        Size(u64::from(*.number) * .size.0)
    )]
    ReceiveBuffersTotal {
        /// How many there are.
        number: u16,
        /// How large each is.
        size: Size,
    },
    /// Two ways of spreading connections contradict each other.
    #[error(
        "--incoming-cpu leaves a connection on the CPU that its packets arrive on, but --balance \
         is on and would hand it to another; add --balance off"
    )]
    IncomingCpuBalanced,
    /// There is no echo path.
    #[error("--path is empty, but must be one path or more, such as /ws, or * for all")]
    PathsEmpty,
    /// An echo path is not a path.
    #[error(
        "--path is {0:?}, but must be a path such as /ws: a slash, then letters, digits or any of \
         -._~!$&'()+;=:@/ or a percent sign with two hex digits; or * for all paths"
    )]
    Path(String),
    /// Clients ask for an echo path in another way.
    #[error("--path is {path:?}, which clients ask for as {asked:?}: write it like that")]
    PathNotAsAsked {
        /// The path.
        path: String,
        /// What is in the request of a client that was given this path.
        asked: String,
    },
    /// An echo path is named twice.
    #[error("--path names {0:?} twice")]
    PathRepeated(String),
    /// All paths, and others.
    #[error("--path is * for all paths, and also {0:?}; leave one of them out")]
    PathBesideAny(String),
    /// A subprotocol is not a token (RFC 6455 §4.1).
    #[error(
        "--subprotocol is {0:?}, but must be one or more letters, digits or any of \
         !#$%&'*+-.^_`|~"
    )]
    Subprotocol(String),
    /// A subprotocol is named twice.
    #[error("--subprotocol names {0:?} twice, but its order is the server's preference")]
    SubprotocolRepeated(String),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9001)),
            reuse_port: false,
            backlog: BACKLOG.default,
            tcp_congestion: None,
            incoming_cpu: false,
            paths: vec!["/ws".to_owned()],
            allowed_origins: Vec::new(),
            subprotocols: Vec::new(),
            compression: Compression::Off,
            workers: None,
            cpus: None,
            balance: true,
            driver: Driver::Auto,
            data_plane: DataPlane::Auto,
            huge_pages: HugePages::Off,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            receive_buffer: RECEIVE_BUFFER.default,
            receive_buffers: RECEIVE_BUFFERS.default,
            unsent_max: UNSENT_MAX.default,
            hold: HOLD.default,
            message_size_max: MESSAGE_SIZE_MAX.default,
            handshake_timeout: HANDSHAKE_TIMEOUT.default,
            keep_alive_interval: KEEP_ALIVE_INTERVAL.default,
            keep_alive_timeout: KEEP_ALIVE_TIMEOUT.default,
            close_timeout: CLOSE_TIMEOUT.default,
            drain_timeout: DRAIN_TIMEOUT.default,
        }
    }
}

impl Config {
    /// Refuses values that a server cannot run with.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.limits.check()?;
        BACKLOG.check(self.backlog, u32::to_string)?;
        if self.incoming_cpu && self.balance {
            return Err(ConfigError::IncomingCpuBalanced);
        }
        if let Some(workers) = self.workers {
            WORKERS.check(workers, ToString::to_string)?;
        }
        check_paths(&self.paths)?;
        for (at, subprotocol) in self.subprotocols.iter().enumerate() {
            if !is_token(subprotocol) {
                return Err(ConfigError::Subprotocol(subprotocol.clone()));
            }
            if self.subprotocols[..at].contains(subprotocol) {
                return Err(ConfigError::SubprotocolRepeated(subprotocol.clone()));
            }
        }
        Ok(())
    }
}

impl Limits {
    fn check(&self) -> Result<(), ConfigError> {
        RECEIVE_BUFFER.check(self.receive_buffer, Size::to_string)?;
        RECEIVE_BUFFERS.check(self.receive_buffers, u16::to_string)?;
        if !self.receive_buffers.is_power_of_two() {
            return Err(ConfigError::ReceiveBuffers(self.receive_buffers));
        }
        let (number, size) = (self.receive_buffers, self.receive_buffer);
        if u64::from(number) * size.0 > RECEIVE_BUFFERS_TOTAL_MAX.0 {
            return Err(ConfigError::ReceiveBuffersTotal { number, size });
        }
        UNSENT_MAX.check(self.unsent_max, Size::to_string)?;
        HOLD.check(self.hold, Size::to_string)?;
        MESSAGE_SIZE_MAX.check(self.message_size_max, Size::to_string)?;
        HANDSHAKE_TIMEOUT.check(self.handshake_timeout, format_duration)?;
        KEEP_ALIVE_INTERVAL.check(self.keep_alive_interval, format_duration)?;
        KEEP_ALIVE_TIMEOUT.check(self.keep_alive_timeout, format_duration)?;
        CLOSE_TIMEOUT.check(self.close_timeout, format_duration)?;
        DRAIN_TIMEOUT.check(self.drain_timeout, format_duration)
    }
}

impl<T: Copy + PartialOrd> Knob<T> {
    fn check(&self, value: T, format: impl Fn(&T) -> String) -> Result<(), ConfigError> {
        if self.min <= value && value <= self.max {
            return Ok(());
        }
        Err(ConfigError::OutOfRange {
            flag: self.flag,
            value: format(&value),
            min: format(&self.min),
            max: format(&self.max),
        })
    }
}

impl Size {
    /// More than any message has.
    pub const UNLIMITED: Self = Self(u64::MAX);

    const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// The size of something in memory.
    pub fn in_memory(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("unlimited"),
            0 => f.write_str("0"),
            bytes if bytes % (1 << 30) == 0 => write!(f, "{}GiB", bytes >> 30),
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}MiB", bytes >> 20),
            bytes if bytes % (1 << 10) == 0 => write!(f, "{}KiB", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unlimited" {
            return Ok(Self::UNLIMITED);
        }
        let size: ByteSize = text.parse().map_err(|_| {
            "a size is a number of bytes, or a number with a unit: 65536, 64KiB, 1MiB".to_owned()
        })?;
        Ok(Self(size.as_u64()))
    }
}

/// A duration, written as people write it: `10s`, `2m`.
pub fn format_duration(duration: &Duration) -> String {
    humantime::format_duration(*duration).to_string()
}

fn check_paths(paths: &[String]) -> Result<(), ConfigError> {
    if paths.is_empty() {
        return Err(ConfigError::PathsEmpty);
    }
    if paths.iter().any(|path| path == ANY_PATH) {
        return match paths.iter().find(|path| *path != ANY_PATH) {
            Some(other) => Err(ConfigError::PathBesideAny(other.clone())),
            None => Ok(()),
        };
    }
    for (at, path) in paths.iter().enumerate() {
        let asked = as_asked_for(path).ok_or_else(|| ConfigError::Path(path.clone()))?;
        if asked != *path {
            return Err(ConfigError::PathNotAsAsked { path: path.clone(), asked });
        }
        if EchoPaths::new(&paths[..at]).names(path) {
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
    fn refusal_names_flag_value_and_range() {
        let limits = Limits { receive_buffer: Size(1000), ..Limits::default() };
        let error = Config { limits, ..Config::default() }.check().unwrap_err();
        assert_eq!(error.to_string(), "--receive-buffer is 1000, but must be from 4KiB to 16MiB");
    }

    #[test]
    fn shared_buffers_are_bounded_together() {
        let check = |receive_buffers, receive_buffer| {
            let limits = Limits { receive_buffer, receive_buffers, ..Limits::default() };
            Config { limits, ..Config::default() }.check()
        };
        assert_eq!(check(64, RECEIVE_BUFFER.max), Ok(()));
        assert_eq!(check(RECEIVE_BUFFERS.max, Size::kib(1 << 10)), Ok(()));
        assert_eq!(
            check(RECEIVE_BUFFERS.max, RECEIVE_BUFFER.max).unwrap_err().to_string(),
            "--receive-buffers 1024 of --receive-buffer 16MiB take 16GiB for each worker, but \
             may take at most 1GiB; have fewer or smaller ones"
        );
    }

    #[test]
    fn sizes_are_read_and_written_as_people_write_them() {
        for (text, bytes) in [("4096", 4096), ("4KiB", 4096), ("1 MiB", 1 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["0", "1000", "4KiB", "16MiB", "3GiB", "unlimited"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert!("many".parse::<Size>().is_err());
        assert!("-1".parse::<Size>().is_err());
    }

    #[test]
    fn subprotocols_are_checked() {
        for subprotocol in ["", "a b", "a,b", "é"] {
            let config = Config { subprotocols: vec![subprotocol.to_owned()], ..Config::default() };
            assert_eq!(config.check(), Err(ConfigError::Subprotocol(subprotocol.to_owned())));
        }
    }

    fn check(paths: &[&str]) -> Result<(), ConfigError> {
        let paths = paths.iter().map(ToString::to_string).collect();
        Config { paths, ..Config::default() }.check()
    }

    #[test]
    fn paths_are_refused_unless_they_are_as_clients_ask_for_them() {
        assert_eq!(check(&["/ws", "/", "/ws/", "/%7euser"]), Ok(()));
        assert_eq!(check(&["*"]), Ok(()));
        assert_eq!(check(&["/ws", "ws"]), Err(ConfigError::Path("ws".to_owned())));
        assert_eq!(
            check(&["/a/../ws"]).unwrap_err().to_string(),
            "--path is \"/a/../ws\", which clients ask for as \"/ws\": write it like that"
        );
    }

    #[test]
    fn paths_are_named_once() {
        assert_eq!(check(&[]), Err(ConfigError::PathsEmpty));
        for repeated in [["/ws", "/ws"], ["/~a", "/%7Ea"], ["/%c3", "/%C3"]] {
            let refusal = ConfigError::PathRepeated(repeated[1].to_owned());
            assert_eq!(check(&repeated), Err(refusal));
        }
        let refusal = Err(ConfigError::PathBesideAny("/ws".to_owned()));
        assert_eq!(check(&["/ws", "*"]), refusal);
    }
}
