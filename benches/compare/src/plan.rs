//! What is run, and in which order.

use std::{collections::BTreeSet, fmt, time::Duration};

use clap::ValueEnum;
use ringecho_loadtest::text::numbers::grouped;
use serde::Serialize;

use crate::{
    server::Server,
    words::{counted, payload},
};

/// What a run takes beside warm-up and measuring: starting and ending the generator, and opening a
/// connection.
const RUN_OVERHEAD: Duration = Duration::from_millis(200);
const CONNECTION_OVERHEAD: Duration = Duration::from_micros(150);

/// At least what a server is expected to echo. Warm-up and measuring are longer by the time in
/// which all that is in flight passes once at the slower of these rates, so that the longest queues
/// move as well: those of large messages, and those of many small ones.
const PAYLOAD_BYTES_PER_MS: u64 = 1_000_000;
const MESSAGES_PER_MS: u64 = 100;

/// Descriptors that generator and server may need beside one for each connection: the generator up
/// to 195 (its threads, and a second one for each of 64 connections that are being opened), servers
/// less.
const DESCRIPTORS_BESIDE: u64 = 256;

/// All that is run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) servers: Vec<Server>,
    pub(crate) cases: Vec<Case>,
    /// The server that costs are divided by; `None` for the cheaper raw TCP echo of each case, or
    /// for the cheapest server where connections come and go.
    pub(crate) against: Option<String>,
    pub(crate) rounds: u32,
    pub(crate) duration: Duration,
    pub(crate) warmup: Duration,
    /// What was asked for and is not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) left_out: Option<LeftOut>,
}

/// Numbers of connections for which a process may not open enough files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LeftOut {
    /// In ascending order, at least one.
    pub(crate) connections: Vec<u32>,
    /// Files that a process may have open.
    pub(crate) descriptor_limit: u64,
}

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// A table of cases.
    Cases,
    /// A table of cases as public boards have them, with memory.
    Boards,
    /// A table of cases of connections that come and go.
    Churn,
    /// A table of rates, at which messages are sent whatever the server does.
    Rates,
    /// A plot of the cost against one thing.
    Sweep(Axis),
}

/// What a sweep varies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Axis {
    /// The number of connections
    Connections,
    /// The payload of a message
    Payload,
    /// ringecho's workers, from 1 to the number of CPUs
    Workers,
    /// The size and the number of the receive buffers that ringecho's connections share
    Buffers,
}

/// What costs are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    /// An echo, on a connection that stays.
    Message,
    /// A connection: opened, one message echoed, closed.
    Cycle,
}

/// The load of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    pub(crate) unit: Unit,
    pub(crate) payload_bytes: u64,
    /// Whether messages are texts, and not binary.
    #[serde(rename = "text")]
    pub(crate) is_text: bool,
    pub(crate) connections: u32,
    /// Messages in flight on each connection; at a rate the generator has no such limit.
    pub(crate) depth: u32,
    /// Messages a second over all connections; `None` for as many as the server answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<u32>,
}

/// Each payload with each number of connections at each rate.
pub(crate) fn cases_at_rates(payloads: &[u64], connections: &[u32], rates: &[u32]) -> Vec<Case> {
    let at = |rate: u32| {
        let load = cases(payloads, connections, &[1]).into_iter();
        load.map(move |case| Case { rate: Some(rate), ..case })
    };
    rates.iter().copied().flat_map(at).collect()
}

/// Each payload with each number of connections and each depth.
pub(crate) fn cases(payloads: &[u64], connections: &[u32], depths: &[u32]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &payload_bytes in payloads {
        for &connections in connections {
            for &depth in depths {
                cases.push(Case {
                    unit: Unit::Message,
                    payload_bytes,
                    is_text: false,
                    connections,
                    depth,
                    rate: None,
                });
            }
        }
    }
    cases
}

/// Texts as public boards send them: each number of connections with each payload and each depth.
///
/// Connections ascend over all cases, each number once: memory that a server keeps when connections end then counts
/// in no case with fewer of them.
pub(crate) fn boards(payloads: &[u64], connections: &[u32], depths: &[u32]) -> Vec<Case> {
    let ascending: Vec<u32> =
        connections.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let texts = |connections| cases(payloads, &[connections], depths);
    let cases = ascending.into_iter().flat_map(texts);
    cases.map(|case| Case { is_text: true, ..case }).collect()
}

/// Connections that come and go: each payload with each number of them at a time.
pub(crate) fn churn(payloads: &[u64], connections: &[u32]) -> Vec<Case> {
    let cases = cases(payloads, connections, &[1]);
    cases.into_iter().map(|case| Case { unit: Unit::Cycle, ..case }).collect()
}

/// The order in which `servers` of them take their turns in a round: from the first to the last,
/// and in the next round back, so that a drift of the machine favours none.
pub(crate) fn turns(round: u32, servers: usize) -> Vec<usize> {
    let forth = 0..servers;
    if round.is_multiple_of(2) { forth.collect() } else { forth.rev().collect() }
}

impl Plan {
    /// Leaves out the cases whose connections need more descriptors than a process may have, which may
    /// be all.
    pub(crate) fn leave_out_beyond(&mut self, descriptor_limit: u64) {
        let is_allowed = |case: &Case| descriptors_needed(case.connections) <= descriptor_limit;
        let beyond: BTreeSet<u32> = self
            .cases
            .iter()
            .filter(|case| !is_allowed(case))
            .map(|case| case.connections)
            .collect();
        if beyond.is_empty() {
            return;
        }
        self.cases.retain(is_allowed);
        self.left_out =
            Some(LeftOut { connections: beyond.into_iter().collect(), descriptor_limit });
    }

    /// How long it will take, if every server works.
    pub(crate) fn estimate(&self) -> Duration {
        let turns = self.rounds * self.servers.len() as u32;
        let run = |case: &Case| {
            let opening = RUN_OVERHEAD + CONNECTION_OVERHEAD * case.connections;
            // At the end of a run, what is in flight passes once more.
            opening + self.warmup(case) + self.duration(case) + case.passage()
        };
        self.cases.iter().map(run).sum::<Duration>() * turns
    }

    /// How long a case is run before it is measured.
    pub(crate) fn warmup(&self, case: &Case) -> Duration {
        self.warmup + case.passage()
    }

    /// How long a case is measured.
    pub(crate) fn duration(&self, case: &Case) -> Duration {
        self.duration + case.passage()
    }

    /// What is about to happen, for a person.
    pub(crate) fn announcement(&self) -> String {
        let names: Vec<&str> = self.servers.iter().map(|server| &*server.name).collect();
        let minutes = self.estimate().as_secs_f64() / 60.0;
        format!(
            "{} servers: {}\n{} cases x {} rounds, {} each after {}: this takes about {minutes:.1} \
             minutes",
            names.len(),
            names.join("; "),
            self.cases.len(),
            self.rounds,
            humantime::format_duration(self.duration),
            humantime::format_duration(self.warmup),
        )
    }

    /// Why the numbers may mean little.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let shared: BTreeSet<usize> = self.servers.iter().flat_map(Server::shared_cpus).collect();
        let warning = |cpu: &usize| {
            format!("generator and server share CPU {cpu}; the numbers of such runs mean little")
        };
        let left_out = self.left_out.iter().map(ToString::to_string);
        shared.iter().map(warning).chain(left_out).collect()
    }
}

/// Open files that generator and server may need each.
fn descriptors_needed(connections: u32) -> u64 {
    u64::from(connections) + DESCRIPTORS_BESIDE
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, descriptor_limit } = self;
        let numbers: Vec<String> =
            connections.iter().map(|number| grouped(u64::from(*number))).collect();
        let needed = descriptors_needed(connections.last().copied().unwrap_or_default());
        write!(
            f,
            "{} connections are left out: generator and server need up to {needed} open files \
             each, and the hard limit is {descriptor_limit} (ulimit -Hn); raise it for this shell: \
             sudo prlimit --pid $$ --nofile={needed}:{needed}",
            numbers.join(" and "),
        )
    }
}

impl Case {
    fn passage(&self) -> Duration {
        let messages = u64::from(self.connections) * u64::from(self.depth);
        let payload_bytes = self.payload_bytes * messages;
        Duration::from_millis(
            (payload_bytes / PAYLOAD_BYTES_PER_MS).max(messages / MESSAGES_PER_MS),
        )
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (payload, connections) = (payload(self.payload_bytes), self.connections as usize);
        if self.unit == Unit::Cycle {
            return write!(f, "{payload} x {} at once", counted(connections, "cycle"));
        }
        let kind = if self.is_text { " text" } else { "" };
        write!(f, "{payload}{kind} x {}", counted(connections, "connection"))?;
        match self.rate {
            Some(rate) => write!(f, " at {} messages/s", grouped(rate.into())),
            None => write!(f, " x depth {}", self.depth),
        }
    }
}

/// In a word.
impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message => "message",
            Self::Cycle => "cycle",
        })
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connections => "connections",
            Self::Payload => "payload",
            Self::Workers => "workers",
            Self::Buffers => "buffers",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_go_forth_and_back() {
        assert_eq!(turns(0, 3), [0, 1, 2]);
        assert_eq!(turns(1, 3), [2, 1, 0]);
        assert_eq!(turns(2, 3), [0, 1, 2]);
    }

    #[test]
    fn cases_are_all_combinations() {
        let cases = cases(&[64, 1024], &[1, 64, 512], &[1, 16]);
        assert_eq!(cases.len(), 12);
        assert_eq!(cases[0].to_string(), "64 B x 1 connection x depth 1");
        assert_eq!(cases[11].to_string(), "1 KiB x 512 connections x depth 16");
    }

    #[test]
    fn cycles_have_no_depth() {
        let cases = churn(&[64], &[64, 512]);
        assert_eq!(cases[1].to_string(), "64 B x 512 cycles at once");
    }

    #[test]
    fn connections_of_boards_ascend_whatever_is_sent() {
        let cases = boards(&[5, 1024], &[512, 8, 512], &[1, 16]);
        let loads: Vec<(u32, u64, u32)> =
            cases.iter().map(|case| (case.connections, case.payload_bytes, case.depth)).collect();
        assert_eq!(
            loads,
            [
                (8, 5, 1),
                (8, 5, 16),
                (8, 1024, 1),
                (8, 1024, 16),
                (512, 5, 1),
                (512, 5, 16),
                (512, 1024, 1),
                (512, 1024, 16),
            ]
        );
    }

    #[test]
    fn rates_are_run_one_after_the_other() {
        let cases = cases_at_rates(&[64], &[1, 64], &[5000, 50_000]);
        let texts: Vec<String> = cases.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 4);
        assert_eq!(texts[0], "64 B x 1 connection at 5,000 messages/s");
        assert_eq!(texts[3], "64 B x 64 connections at 50,000 messages/s");
    }

    #[test]
    fn much_in_flight_is_given_time() {
        let passage = |payload_bytes, connections, depth| {
            cases(&[payload_bytes], &[connections], &[depth])[0].passage().as_millis()
        };
        assert_eq!(passage(64, 64, 1), 0);
        assert_eq!(passage(64, 512, 16), 81);
        assert_eq!(passage(5, 16_384, 16), 2621);
        assert_eq!(passage(256 << 10, 64, 16), 268);
        assert_eq!(passage(256 << 10, 512, 16), 2147);
    }

    #[test]
    fn connections_beyond_the_descriptor_limit_are_left_out() {
        let plan = |connections: &[u32]| Plan {
            mode: Mode::Boards,
            servers: Vec::new(),
            cases: boards(&[5], connections, &[1, 16]),
            against: None,
            rounds: 1,
            duration: Duration::from_secs(1),
            warmup: Duration::ZERO,
            left_out: None,
        };
        let mut all = plan(&[512, 4096, 16_384]);
        all.leave_out_beyond(16_384 + DESCRIPTORS_BESIDE);
        assert_eq!((all.cases.len(), all.left_out), (6, None));

        let mut some = plan(&[512, 4096, 16_384]);
        some.leave_out_beyond(1024);
        assert!(some.cases.iter().all(|case| case.connections == 512));
        assert_eq!(some.cases.len(), 2);
        assert_eq!(
            some.warnings(),
            [
                "4,096 and 16,384 connections are left out: generator and server need up to 16640 open \
              files each, and the hard limit is 1024 (ulimit -Hn); raise it for this shell: sudo \
              prlimit --pid $$ --nofile=16640:16640"
            ]
        );

        let mut none = plan(&[512]);
        none.leave_out_beyond(512);
        assert!(none.cases.is_empty() && none.left_out.is_some());
    }

    #[test]
    fn the_estimate_counts_every_run() {
        let server = crate::server::parse("x={port}").unwrap();
        let plan = Plan {
            mode: Mode::Cases,
            servers: vec![server.clone(), server],
            cases: cases(&[16], &[1000], &[1, 16]),
            against: None,
            rounds: 3,
            duration: Duration::from_secs(1),
            warmup: Duration::from_millis(650),
            left_out: None,
        };
        // All in flight passes three times: in 10 ms each at depth 1, and in 160 ms at depth 16.
        assert_eq!(plan.estimate(), Duration::from_millis(2030 + 2480) * 2 * 3);
    }
}
