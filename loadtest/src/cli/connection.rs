//! Flags about connections: how many, how they are opened, and on which threads they live.

use std::{fs, ops::RangeInclusive, path::PathBuf, thread, time::Duration};

use clap::ArgAction;
use http::HeaderValue;
use ringecho::host::{cpu_list::CpuList, descriptors::raise_limit};

use super::{
    Http2Args, PlanError, TlsArgs, WayInArgs,
    values::{AddressList, number, time},
};
use crate::{
    drive::thread::OPENING_MAX,
    plan::threads::ThreadPlan,
    text::warning::{Warning, WarningCode},
    wire::{
        connector::{Connector, Limits, Wishes},
        request::{Field, Subprotocol},
        route::Route,
        stream::{Endpoint, Sources},
        target::Target,
    },
};

const CONNECTIONS: RangeInclusive<usize> = 1..=1_000_000;
const OPENING_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_hours(1);
const THREADS: RangeInclusive<usize> = 1..=1024;

/// Descriptors beside those of connections and threads: standard streams, and connections that are
/// being opened while others are being closed.
const DESCRIPTORS_BESIDE: usize = 128;

/// Descriptors of each thread: its ring, and at a rate what it polls or, twice, its timer.
const DESCRIPTORS_PER_THREAD: usize = 3;

/// The ports that the kernel takes for connections that do not name one, of both IP versions.
const LOCAL_PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Flags about connections.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = super::CONNECTIONS)]
pub struct ConnectionArgs {
    /// Connections, spread evenly over the threads
    #[arg(short, long, value_name = "N", default_value = "64", value_parser = number(CONNECTIONS))]
    pub connections: usize,

    /// How long opening a connection may take, opening handshake included
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time(OPENING_TIMEOUT))]
    pub opening_timeout: Duration,

    /// How long connecting may take, TLS included [default: --opening-timeout]
    #[arg(long, value_name = "TIME", value_parser = time(OPENING_TIMEOUT))]
    pub connect_timeout: Option<Duration>,

    /// Add a header field to the opening handshake; repeatable. Host, Origin and Authorization
    /// replace what would be sent
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", action = ArgAction::Append)]
    pub headers: Vec<Field>,

    /// Offer a subprotocol, the best first; repeatable
    #[arg(long = "subprotocol", value_name = "NAME", action = ArgAction::Append)]
    pub subprotocols: Vec<Subprotocol>,

    /// Come from a page of this origin, as a browser does
    #[arg(long)]
    pub origin: Option<HeaderValue>,

    /// Connect to a Unix socket instead of the URL's host
    #[arg(long, value_name = "PATH")]
    pub unix_socket: Option<PathBuf>,

    /// Connect from these addresses in turn, such as 127.0.0.2-127.0.0.9: each has local ports of
    /// its own
    #[arg(long, value_name = "LIST", conflicts_with = "unix_socket")]
    pub source: Option<AddressList>,

    /// How they get to the server.
    #[command(flatten)]
    pub way_in: WayInArgs,

    /// How TLS is spoken.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// Whether the connections are streams of HTTP/2.
    #[command(flatten)]
    pub http2: Http2Args,

    /// Threads, at most one for each connection, or for each of --transports [default: one for each
    /// of --cpus; without, one for each CPU, or at a rate for every other one, since threads that
    /// poll leave nothing of theirs]
    #[arg(short, long, value_name = "N", value_parser = number(THREADS))]
    pub threads: Option<usize>,

    /// Pin the threads to these CPUs, such as 1,3-5, in turn
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<CpuList>,
}

impl ConnectionArgs {
    /// What opens connections to `target`, which is resolved for it, or to where it redirects.
    pub(super) fn connector(&self, target: &Target) -> Result<Connector, PlanError> {
        self.way_in.connector(target, |target, is_other| self.connector_to(target, is_other))
    }

    /// What opens connections to `target`, or to another server than that of the command line.
    fn connector_to(&self, target: &Target, is_other: bool) -> Result<Connector, PlanError> {
        let limits = Limits {
            connect: self.connect_timeout.unwrap_or(self.opening_timeout),
            opening: self.opening_timeout,
        };
        let route = self.way_in.route(target, self.unix_socket.as_deref(), limits.connect)?;
        let sources = self.sources(&route)?;
        let is_sent = |field: &&Field| !is_other || !field.is_for_one_server();
        let wishes = Wishes {
            fields: self.headers.iter().filter(is_sent).cloned().collect(),
            subprotocols: self.subprotocols.clone(),
            origin: self.origin.clone(),
        };
        let tls = self.tls.tls(target, self.http2.http2, self.way_in.follow)?;
        let http2 = self.http2.http2(target, self.connections, &wishes)?;
        let connector = Connector::new(target, route, sources, tls, &wishes, limits);
        Ok(match http2 {
            Some(http2) => connector.over_http2(http2),
            None => connector,
        })
    }

    /// Sockets that are open at the same time, and the flag that says so.
    fn sockets(&self) -> (usize, &'static str) {
        match self.http2.transports(self.connections) {
            Some(transports) => (transports, "--transports"),
            None => (self.connections, "--connections"),
        }
    }

    fn sources(&self, route: &Route) -> Result<Sources, PlanError> {
        let addresses = self.source.as_ref().map_or_else(Vec::new, |list| list.as_slice().to_vec());
        for endpoint in route.endpoints() {
            if let Endpoint::Tcp(target) = endpoint
                && let Some(source) =
                    addresses.iter().find(|source| source.is_ipv4() != target.is_ipv4())
            {
                return Err(PlanError::SourceFamily {
                    source_address: *source,
                    whose: if route.proxy().is_some() { "proxy" } else { "server" },
                    target: target.ip(),
                });
            }
        }
        Ok(Sources::new(addresses))
    }

    /// The threads that the connections are spread over, which may poll.
    pub(super) fn threads(&self, poll: bool) -> ThreadPlan {
        let cpus = self.cpus.as_ref().map_or_else(Vec::new, |list| list.as_slice().to_vec());
        let count = self.threads.unwrap_or_else(|| match cpus.len() {
            0 => {
                let cpus = thread::available_parallelism().map_or(1, Into::into);
                if poll { usize::div_ceil(cpus, 2) } else { cpus }
            }
            cpus => cpus,
        });
        let (sockets, _) = self.sockets();
        ThreadPlan { count: count.min(sockets), cpus }
    }

    /// Prepares the process for so many connections, each of which takes up to `descriptors_each`
    /// descriptors, and warns where that is not possible.
    pub fn prepare_process(&self, descriptors_each: usize) -> Vec<Warning> {
        let ports = fs::read_to_string(LOCAL_PORT_RANGE).ok();
        let ports = ports.and_then(|range| count_ports(&range)).unwrap_or(usize::MAX);
        [self.too_few_descriptors(descriptors_each), self.too_few_ports(ports)]
            .into_iter()
            .flatten()
            .collect()
    }

    fn too_few_descriptors(&self, each: usize) -> Option<Warning> {
        let (sockets, flag) = self.sockets();
        // A socket that monoio has not made has a second descriptor while it connects.
        let twice = self.source.is_some() || self.unix_socket.is_some();
        let connecting = if twice { OPENING_MAX } else { 0 };
        let of_threads = self.threads(false).count * (DESCRIPTORS_PER_THREAD + connecting);
        let needed = (sockets * each + of_threads + DESCRIPTORS_BESIDE) as u64;
        let limit = raise_limit(needed).ok()?;
        (limit < needed).then(|| {
            let text = format!(
                "{flag} {sockets} needs {needed} open files, but the limit is {limit}; \
                 raise it for this shell: sudo prlimit --pid $$ --nofile={needed}:{needed}"
            );
            Warning::new(WarningCode::TooFewDescriptors, text)
        })
    }

    fn too_few_ports(&self, ports: usize) -> Option<Warning> {
        let (sockets, flag) = self.sockets();
        let addresses = self.source.as_ref().map_or(1, |list| list.as_slice().len());
        let ports = ports.saturating_mul(addresses);
        (ports < sockets && self.unix_socket.is_none()).then(|| {
            let text = format!(
                "{flag} {sockets} needs as many local ports, but there are {ports}; \
                 allow more with sudo sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\", or \
                 connect from more addresses with --source"
            );
            Warning::new(WarningCode::TooFewPorts, text)
        })
    }
}

/// How many ports a range has, which the kernel writes as its first and its last.
fn count_ports(range: &str) -> Option<usize> {
    let mut ends = range.split_ascii_whitespace().map(str::parse::<usize>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    (last + 1).checked_sub(first)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn ports_are_counted_with_both_ends_of_their_range() {
        assert_eq!(count_ports("32768\t60999\n"), Some(28232));
        assert_eq!(count_ports("x"), None);
        let cli = Cli::parse_from(["x", "ws://127.0.0.1", "--connections=28233"]);
        let Command::Run(args) = cli.command() else { panic!("not a run") };
        assert_eq!(args.traffic.connections.too_few_ports(28233), None);
        let more = Cli::parse_from([
            "x",
            "ws://127.0.0.1",
            "--connections=28233",
            "--source=127.0.0.2-127.0.0.3",
        ]);
        let Command::Run(more) = more.command() else { panic!("not a run") };
        assert_eq!(more.traffic.connections.too_few_ports(28232), None);
        let warning = args.traffic.connections.too_few_ports(28232).unwrap();
        assert_eq!(warning.code, WarningCode::TooFewPorts);
        assert!(warning.text.contains("--connections 28233 needs as many local ports, but "));
    }
}
