//! The command line: flags in, a [`Plan`] out. Every value is checked here, before anything starts.

use std::{env, path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use bytesize::ByteSize;
use clap::{Parser, ValueEnum};
use ringecho::host::cpu_list::CpuList;

use crate::{
    plan::{Axis, Case, Mode, Plan, boards, cases, cases_at_rates, churn},
    server::{self, Echo, Programs, Server},
};

/// Compares echo servers on one machine, in turns: server CPU for each message beside what a raw
/// TCP echo costs
///
/// Without --case, --sweep, --rates and --boards, every server runs every case: each payload with
/// each number of connections and each depth. The servers take turns, in rounds of alternating
/// order, on one CPU; the load generator has another one, and compares every byte of every echo.
/// The results go to standard output, progress and warnings to standard error. The exit code is 0
/// if every server echoed every message, 1 if not, and 2 if a flag is wrong.
#[derive(Debug, Parser)]
#[command(name = "ringecho-compare", version, max_term_width = 100)]
pub(crate) struct Args {
    /// A further server, as NAME=COMMAND, NAME/PATH=COMMAND or tcp:NAME=COMMAND
    ///
    /// COMMAND is run without a shell, on the server's CPU, with {port} in it replaced by the port
    /// of 127.0.0.1 to listen on. It must be the process itself that echoes. PATH is that of its
    /// URL (default: /). With "tcp:" it answers 101 and then echoes TCP as it is.
    /// Example: uws='./uws-echo {port}'
    #[arg(value_name = "NAME=COMMAND", value_parser = server::parse)]
    further: Vec<Server>,

    /// Compare only these, by name and with commas between [default: all; with --sweep a choice]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    servers: Vec<String>,

    /// Compare something else than echoes
    #[arg(long, value_name = "WHAT", value_enum, conflicts_with_all = ["sweep", "rates", "depths"])]
    case: Option<SpecialCase>,

    /// Compare by what public benchmark boards rank servers by, memory and p99.9 included
    ///
    /// Texts of 5 bytes on up to 16,384 connections, which need as many open files in server and
    /// generator each: numbers of connections beyond the limit (ulimit -Hn) are left out. Memory is
    /// what is resident while all connections are open. 12 servers take about half an hour; --rounds
    /// and --servers make it less.
    #[arg(long, conflicts_with_all = ["case", "sweep", "rates"])]
    boards: bool,

    /// Compare over TLS: ringecho, and an echo that decrypts and encrypts, which ratios are to
    ///
    /// A further NAME=COMMAND speaks TLS then, and the generator believes every server. Ratios are
    /// to the TLS echo (tls-echo). Not beside --sweep.
    #[arg(long, conflicts_with = "sweep")]
    tls: bool,

    /// Vary one thing over its range instead, and plot the cost against it
    #[arg(long, value_name = "WHAT", value_enum)]
    sweep: Option<Axis>,

    /// Send at these rates, in messages/s over all connections, and not as fast as servers answer
    ///
    /// Latency then counts from the planned instant of sending. Ratios are to a WebSocket server
    /// (--against). Without a list: 5000,20000,50000.
    #[arg(
        long, value_name = "LIST", num_args = 0.., require_equals = true, value_delimiter = ',',
        default_missing_values = ["5000", "20000", "50000"], conflicts_with_all = ["sweep", "svg"],
        value_parser = clap::value_parser!(u32).range(1..=10_000_000)
    )]
    rates: Option<Vec<u32>>,

    /// With --rates, the server that the ratios are to [default: the first WebSocket server]
    #[arg(long, value_name = "NAME", requires = "rates")]
    against: Option<String>,

    /// Payloads of the messages [default: 64,1KiB,16KiB,256KiB; over TLS not the last; at rates and
    /// churn: 64; boards: 5; swept: 16 to 1MiB]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    payloads: Vec<ByteSize>,

    /// Numbers of connections, of those that come and go at a time [default: 1,64,512; over TLS not
    /// the first; at rates: 64; churn: 64,512; boards: 512,4096,16384; swept: 1 to 10000]
    #[arg(
        long, value_name = "LIST", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    connections: Vec<u32>,

    /// Messages in flight on each connection [default: 1,16; with --sweep 1, for buffers 16]
    #[arg(
        long, value_name = "LIST", value_delimiter = ',', conflicts_with = "rates",
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    depths: Vec<u32>,

    /// How often each server runs each case [default: 5, with --sweep 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,

    /// How long to measure in each run
    #[arg(
        long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration
    )]
    duration: Duration,

    /// How long to run the load before measuring
    #[arg(
        long, value_name = "TIME", default_value = "200ms",
        value_parser = humantime::parse_duration
    )]
    warmup: Duration,

    /// CPU that the servers run on, one at a time [default: the first that may be used]
    #[arg(long, value_name = "N")]
    server_cpu: Option<CpuList>,

    /// CPU that the generator runs on [default: the last that may be used]
    #[arg(long, value_name = "N")]
    generator_cpu: Option<CpuList>,

    /// Write everything, each round's values included, as JSON to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Write the tables as Markdown to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,

    /// Write a picture to FILE: the ratios of all cases, or the plot of a sweep
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,

    /// Where ringecho, ringecho-loadtest and the peers are [default: where this program is]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,

    /// The echo server on node's ws (benches/peers/node-ws/echo.mjs, beside its dependencies)
    #[arg(long, value_name = "FILE")]
    node_ws: Option<PathBuf>,
}

/// What is compared instead of echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SpecialCase {
    /// Connections that come and go: server CPU for each cycle of connecting, opening handshake, one
    /// message and closing handshake, relative to the cheapest server
    Churn,
}

impl Args {
    /// Where the programs are that this one runs.
    pub(crate) fn programs(&self) -> anyhow::Result<Programs> {
        let directory = if let Some(directory) = &self.programs {
            directory.clone()
        } else {
            let program = env::current_exe().context("cannot find this program's own file")?;
            program.parent().context("this program is in no directory")?.to_owned()
        };
        Ok(Programs { directory, node_ws: self.node_ws.clone() })
    }

    /// Completes what the command line says.
    pub(crate) fn plan(&self) -> anyhow::Result<Plan> {
        let usable = CpuList::usable()?;
        let usable = usable.as_slice();
        let mode = match (self.case, self.sweep, &self.rates) {
            (Some(SpecialCase::Churn), _, _) => Mode::Churn,
            (None, Some(axis), _) => Mode::Sweep(axis),
            (None, None, Some(_)) => Mode::Rates,
            (None, None, None) if self.boards => Mode::Boards,
            (None, None, None) => Mode::Cases,
        };
        let server_cpu = single(self.server_cpu.as_ref(), "--server-cpu")?.unwrap_or(usable[0]);
        let generator_cpu = single(self.generator_cpu.as_ref(), "--generator-cpu")?
            .unwrap_or(usable[usable.len() - 1]);
        let servers = self.servers(mode, server_cpu, generator_cpu, usable)?;
        let plan = Plan {
            mode,
            cases: self.cases(mode)?,
            against: self.against(&servers)?,
            servers,
            rounds: self.rounds.unwrap_or(if let Mode::Sweep(_) = mode { 3 } else { 5 }),
            duration: self.duration,
            warmup: self.warmup,
            left_out: None,
        };
        Ok(plan)
    }

    /// The servers that were chosen, in the order in which they are shown.
    fn servers(
        &self,
        mode: Mode,
        server_cpu: usize,
        generator_cpu: usize,
        usable: &[usize],
    ) -> anyhow::Result<Vec<Server>> {
        let programs = self.programs()?;
        if let Mode::Sweep(axis @ (Axis::Workers | Axis::Buffers)) = mode {
            ensure!(
                self.servers.is_empty() && self.further.is_empty(),
                "--sweep {axis} is about ringecho alone; leave out --servers and NAME=COMMAND"
            );
            return Ok(match axis {
                Axis::Workers => server::with_workers(&programs, usable, generator_cpu),
                _ => server::with_buffers(&programs, server_cpu, generator_cpu),
            });
        }
        let mut all = if self.tls {
            server::built_in_over_tls(&programs)
        } else {
            server::built_in(&programs)
        };
        all.extend(self.further.iter().cloned());
        for (at, server) in all.iter().enumerate() {
            let is_repeated = all[..at].iter().any(|other| other.name == server.name);
            ensure!(!is_repeated, "there are two servers with the name {}", server.name);
        }
        let names: Vec<&str> = match (&self.servers[..], mode) {
            ([], Mode::Churn) => all
                .iter()
                .filter(|server| server.echo == Echo::Messages)
                .map(|server| &*server.name)
                .collect(),
            ([], Mode::Cases | Mode::Boards | Mode::Rates) => {
                all.iter().map(|server| &*server.name).collect()
            }
            ([], Mode::Sweep(_)) => {
                let further = self.further.iter().map(|server| &*server.name);
                server::SWEPT.into_iter().chain(further).collect()
            }
            (names, _) => names.iter().map(|name| name.trim()).collect(),
        };
        let mut chosen = Vec::new();
        for name in names {
            let Some(server) = all.iter().find(|server| server.name == name) else {
                let known: Vec<&str> = all.iter().map(|server| &*server.name).collect();
                bail!("--servers: there is no {name:?}; expected some of {}", known.join(","));
            };
            ensure!(
                mode != Mode::Churn || server.echo == Echo::Messages,
                "--servers: {name} echoes bytes, so it has no closing handshake; leave it out with \
                 --case churn"
            );
            let mut server = server.clone();
            server.is_tls = self.tls;
            server.cpus = vec![server_cpu];
            server.generator_cpus = vec![generator_cpu];
            chosen.push(server);
        }
        Ok(chosen)
    }

    /// The name of the server that the ratios are to, if it is not the cheaper raw TCP echo.
    fn against(&self, servers: &[Server]) -> anyhow::Result<Option<String>> {
        if self.rates.is_none() {
            return Ok(None);
        }
        let mut names = servers.iter().map(|server| &server.name);
        if let Some(against) = &self.against {
            let known: Vec<&str> = servers.iter().map(|server| &*server.name).collect();
            ensure!(
                names.any(|name| name == against),
                "--against: there is no {against:?}; expected one of {}",
                known.join(",")
            );
            return Ok(Some(against.clone()));
        }
        let first = servers.iter().find(|server| server.echo == Echo::Messages);
        Ok(first.map(|server| server.name.clone()))
    }

    fn cases(&self, mode: Mode) -> anyhow::Result<Vec<Case>> {
        let (payloads, connections, depths): (&[u64], &[u32], &[u32]) = match mode {
            Mode::Cases if self.tls => (&[64, 1 << 10, 16 << 10], &[64, 512], &[1, 16]),
            Mode::Cases => (&[64, 1 << 10, 16 << 10, 256 << 10], &[1, 64, 512], &[1, 16]),
            Mode::Boards => (&[5], &[512, 4096, 16_384], &[1, 16]),
            Mode::Churn => (&[64], &[64, 512], &[1]),
            Mode::Sweep(Axis::Connections) => {
                (&[64], &[1, 4, 16, 64, 256, 1024, 4096, 10_000], &[1])
            }
            Mode::Sweep(Axis::Payload) => {
                let payloads =
                    &[16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
                (payloads, &[64], &[1])
            }
            Mode::Rates | Mode::Sweep(Axis::Workers) => (&[64], &[64], &[1]),
            Mode::Sweep(Axis::Buffers) => (&[16 << 10], &[64], &[16]),
        };
        let bytes: Vec<u64> = self.payloads.iter().map(ByteSize::as_u64).collect();
        let payloads = if bytes.is_empty() { payloads } else { &bytes };
        let connections = if self.connections.is_empty() { connections } else { &self.connections };
        let depths = if self.depths.is_empty() { depths } else { &self.depths };
        if let Mode::Sweep(axis) = mode {
            for (flag, count, is_swept) in [
                ("--payloads", payloads.len(), axis == Axis::Payload),
                ("--connections", connections.len(), axis == Axis::Connections),
                ("--depths", depths.len(), false),
            ] {
                ensure!(
                    is_swept || count == 1,
                    "{flag} has {count} values; with --sweep {axis} there can be only one"
                );
            }
        }
        Ok(match (mode, &self.rates) {
            (Mode::Churn, _) => churn(payloads, connections),
            (Mode::Boards, _) => boards(payloads, connections, depths),
            (_, Some(rates)) => cases_at_rates(payloads, connections, rates),
            (_, None) => cases(payloads, connections, depths),
        })
    }
}

/// The one CPU of a flag.
fn single(cpus: Option<&CpuList>, flag: &str) -> anyhow::Result<Option<usize>> {
    let Some(cpus) = cpus.map(CpuList::as_slice) else { return Ok(None) };
    ensure!(cpus.len() == 1, "{flag} is one CPU, not {}", cpus.len());
    Ok(Some(cpus[0]))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn plan(arguments: &str) -> anyhow::Result<Plan> {
        let arguments = arguments.split_whitespace();
        Args::try_parse_from(["ringecho-compare"].into_iter().chain(arguments))?.plan()
    }

    #[test]
    fn command_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn without_flags_every_server_runs_every_case() {
        let plan = plan("").unwrap();
        assert_eq!(plan.cases.len(), 4 * 3 * 2);
        assert_eq!(plan.servers.len(), server::built_in(&Programs::default()).len());
    }

    #[test]
    fn boards_have_texts_on_many_connections_and_every_server() {
        let of_boards = plan("--boards mine={port}").unwrap();
        let cases: Vec<String> = of_boards.cases.iter().map(ToString::to_string).collect();
        assert_eq!(cases.len(), 3 * 2);
        assert_eq!(cases[0], "5 B text x 512 connections x depth 1");
        assert_eq!(cases[5], "5 B text x 16384 connections x depth 16");
        assert_eq!(of_boards.servers.len(), plan("mine={port}").unwrap().servers.len());
        let fewer = plan("--boards --connections 64,8,64 --depths 2").unwrap();
        let connections: Vec<u32> = fewer.cases.iter().map(|case| case.connections).collect();
        assert_eq!(connections, [8, 64]);
    }

    #[test]
    fn over_tls_only_what_speaks_it_is_compared() {
        let over_tls = plan("--tls mine={port}").unwrap();
        assert_eq!(over_tls.cases.len(), 3 * 2 * 2);
        let names: Vec<&str> = over_tls.servers.iter().map(|server| &*server.name).collect();
        assert_eq!(
            names,
            ["ringecho-engine", "ringecho-epoll", "ringecho-portable", "tls-echo", "mine"]
        );
        assert!(over_tls.servers.iter().all(|server| server.url(1).starts_with("wss://")));
        let error = plan("--tls --sweep payload").unwrap_err().to_string();
        assert!(error.contains("cannot be used with"), "{error}");
    }

    #[test]
    fn of_connections_that_come_and_go_only_websocket_servers_are_compared() {
        let plan = plan("--case churn mine={port}").unwrap();
        let cases: Vec<String> = plan.cases.iter().map(ToString::to_string).collect();
        assert_eq!(cases, ["64 B x 64 cycles at once", "64 B x 512 cycles at once"]);
        assert!(plan.servers.iter().all(|server| server.echo == Echo::Messages));
        assert_eq!(plan.servers.last().unwrap().name, "mine");
        assert_eq!(plan.rounds, 5);
    }

    #[test]
    fn rates_are_run_with_ratios_to_a_websocket_server() {
        let rates = |plan: &Plan| plan.cases.iter().map(|case| case.rate).collect::<Vec<_>>();
        let all = plan("--rates").unwrap();
        assert_eq!(rates(&all), [Some(5000), Some(20_000), Some(50_000)]);
        assert_eq!(all.against.as_deref(), Some("ringecho-engine"));
        let some = plan("--rates=10,200 --servers tcp-epoll,mine mine={port}").unwrap();
        assert_eq!(rates(&some), [Some(10), Some(200)]);
        assert_eq!(some.against.as_deref(), Some("mine"));
        let named = plan("--rates --against tcp-epoll").unwrap();
        assert_eq!(named.against.as_deref(), Some("tcp-epoll"));
        assert_eq!(plan("").unwrap().against, None);
    }

    #[test]
    fn servers_are_chosen_by_name_and_in_that_order() {
        let plan = plan("--servers mine,tcp-epoll mine/ws={port}").unwrap();
        let names: Vec<&str> = plan.servers.iter().map(|server| &*server.name).collect();
        assert_eq!(names, ["mine", "tcp-epoll"]);
    }

    #[test]
    fn wrong_values_are_refused_with_what_is_allowed() {
        for (arguments, expected) in [
            ("--servers nobody", "there is no \"nobody\"; expected some of ringecho-engine,"),
            ("tcp-epoll={port}", "two servers with the name tcp-epoll"),
            ("mine=sleep", "has no {port}"),
            ("--sweep payload --connections 1,2", "--connections has 2 values; with --sweep"),
            ("--sweep workers --servers tcp-epoll", "is about ringecho alone"),
            ("--case churn --servers tcp-epoll", "tcp-epoll echoes bytes, so it has no closing"),
            ("--case churn --depths 2", "cannot be used with '--depths <LIST>'"),
            ("--rates --depths 1", "cannot be used with"),
            ("--boards --rates", "cannot be used with"),
            ("--boards --sweep payload", "cannot be used with"),
            ("--boards --case churn", "cannot be used with"),
            ("--rates --sweep payload", "cannot be used with"),
            ("--against tcp-epoll", "required arguments were not provided"),
            (
                "--rates --against me --servers tcp-epoll",
                "there is no \"me\"; expected one of tcp-",
            ),
            ("--rates=0", "0 is not in 1..=10000000"),
            ("--rates --case churn", "cannot be used with"),
            ("--connections 0", "0 is not in 1..=1000000"),
            ("--payloads much", "invalid value 'much' for '--payloads <LIST>'"),
        ] {
            let error = plan(arguments).unwrap_err().to_string();
            assert!(error.contains(expected), "{arguments}: {error}");
        }
    }
}
