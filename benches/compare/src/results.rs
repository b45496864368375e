//! What was measured, and what follows from it: summaries, and ratios to the cheaper raw TCP echo,
//! over TLS to the TLS echo, among connections that come and go to the cheapest server, or to a server of the plan's choice.

#![expect(clippy::cast_precision_loss, reason = "memory is less than 2^52 bytes")]

use std::collections::BTreeMap;

use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeStruct},
};

use crate::{
    host::Host,
    plan::{Case, Plan, Unit},
    server::Echo,
    statistics::Summary,
};

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) host: Host,
    pub(crate) plan: Plan,
    /// By case, then by server.
    pub(crate) cases: Vec<Vec<Runs>>,
    /// Whether somebody ended the comparison early.
    pub(crate) is_interrupted: bool,
}

/// The runs of one server in one case.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Runs {
    /// By round; `None` where there was no run, or a failed one.
    pub(crate) rounds: Vec<Option<Measurement>>,
    /// Why the server has no place in this case: it could not be started, or a message was lost or
    /// changed. There are no further rounds after that.
    pub(crate) failure: Option<String>,
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measurement {
    /// What was counted.
    pub(crate) unit: Unit,
    /// Server CPU for each of them.
    pub(crate) server_cpu_us: f64,
    /// The part of it that is spent in the program, not in the kernel.
    pub(crate) server_user_us: f64,
    pub(crate) server_cpus_busy: f64,
    /// What is in memory at the end of the window.
    pub(crate) server_resident_bytes: u64,
    /// What is in memory beyond that of the server when it was up and had no connections yet; `None`
    /// if that could not be read.
    pub(crate) server_added_bytes: Option<u64>,
    pub(crate) generator_cpus_busy: f64,
    /// Whether a thread of the generator had no time left, so that rate and latency are its limit.
    pub(crate) is_generator_saturated: bool,
    /// How many of them a second.
    pub(crate) rate: f64,
    /// Latency of an echo, or of a whole cycle.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p99_9_us: f64,
}

/// The names of figures in JSON say what they are divided by.
fn cpu_name(unit: Unit) -> String {
    format!("server_cpu_us_per_{unit}")
}

fn rate_name(unit: Unit) -> String {
    format!("{unit}s_per_second")
}

impl Serialize for Measurement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry(&cpu_name(self.unit), &self.server_cpu_us)?;
        fields
            .serialize_entry(&format!("server_user_us_per_{}", self.unit), &self.server_user_us)?;
        fields.serialize_entry("server_cpus_busy", &self.server_cpus_busy)?;
        fields.serialize_entry("server_resident_bytes", &self.server_resident_bytes)?;
        fields.serialize_entry("server_added_bytes", &self.server_added_bytes)?;
        fields.serialize_entry("generator_cpus_busy", &self.generator_cpus_busy)?;
        fields.serialize_entry("generator_saturated", &self.is_generator_saturated)?;
        fields.serialize_entry(&rate_name(self.unit), &self.rate)?;
        fields.serialize_entry("p50_us", &self.p50_us)?;
        fields.serialize_entry("p99_us", &self.p99_us)?;
        fields.serialize_entry("p99_9_us", &self.p99_9_us)?;
        fields.end()
    }
}

impl Runs {
    pub(crate) fn summary(&self, value: impl Fn(&Measurement) -> f64) -> Option<Summary> {
        if self.failure.is_some() {
            return None;
        }
        Summary::of(self.rounds.iter().flatten().map(value))
    }

    pub(crate) fn cpu(&self) -> Option<Summary> {
        self.summary(|run| run.server_cpu_us)
    }

    pub(crate) fn resident_bytes(&self) -> Option<Summary> {
        self.summary(|run| run.server_resident_bytes as f64)
    }

    pub(crate) fn added_bytes(&self) -> Option<Summary> {
        if self.failure.is_some() {
            return None;
        }
        let added = self.rounds.iter().flatten().filter_map(|run| run.server_added_bytes);
        Summary::of(added.map(|bytes| bytes as f64))
    }

    /// Whether in more than half of the rounds the generator had no time left.
    pub(crate) fn is_generator_limited(&self) -> bool {
        let runs = || self.rounds.iter().flatten();
        runs().filter(|run| run.is_generator_saturated).count() * 2 > runs().count()
    }
}

impl Results {
    /// The server that costs are divided by in a case: that of the plan's choice, or else the raw
    /// TCP echo, or over TLS the TLS echo, that is cheaper in the case, by the median of its server CPU per message. A raw TCP
    /// echo has no closing handshake, so where connections come and go it is the cheapest server.
    pub(crate) fn baseline(&self, case: usize) -> Option<usize> {
        let runs = &self.cases[case];
        let cost = |server: &usize| runs[*server].cpu().map(|cpu| cpu.median);
        let is_candidate = |server: usize| {
            let server = &self.plan.servers[server];
            match (&self.plan.against, self.plan.cases[case].unit) {
                (Some(name), _) => server.name == *name,
                (None, Unit::Message) => server.echo == Echo::Bytes,
                (None, Unit::Cycle) => true,
            }
        };
        (0..runs.len())
            .filter(|server| is_candidate(*server))
            .filter(|server| cost(server).is_some_and(|cost| cost > 0.0))
            .min_by(|one, other| {
                f64::total_cmp(&cost(one).unwrap_or(0.0), &cost(other).unwrap_or(0.0))
            })
    }

    /// A server's CPU per message, or per cycle, in each round, divided by the baseline's in the same
    /// round.
    pub(crate) fn ratio(&self, case: usize, server: usize) -> Option<Summary> {
        let baseline = &self.cases[case][self.baseline(case)?];
        let runs = &self.cases[case][server];
        if runs.failure.is_some() {
            return None;
        }
        let pairs = runs.rounds.iter().zip(&baseline.rounds);
        let ratios = pairs.filter_map(|(run, base)| {
            let base = (*base)?.server_cpu_us;
            (base > 0.0).then_some((*run)?.server_cpu_us / base)
        });
        Summary::of(ratios)
    }

    /// Whether every server ran every case, and echoed every message.
    pub(crate) fn is_complete(&self) -> bool {
        !self.is_interrupted && self.failures().is_empty()
    }

    /// Why servers have no place in cases, each reason once, with its first case.
    pub(crate) fn failures(&self) -> Vec<(&str, &Case, &str)> {
        let mut failures = BTreeMap::new();
        for (case, runs) in self.plan.cases.iter().zip(&self.cases) {
            for (server, runs) in self.plan.servers.iter().zip(runs) {
                if let Some(failure) = &runs.failure {
                    failures.entry((&*server.name, &**failure)).or_insert(case);
                }
            }
        }
        failures.into_iter().map(|((server, failure), case)| (server, case, failure)).collect()
    }
}

/// As JSON: the host, the plan, and a list of cases with a list of servers in each.
impl Serialize for Results {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct CaseResults<'a> {
            case: &'a Case,
            /// The server that the ratios are to.
            baseline: Option<&'a str>,
            servers: Vec<ServerResults<'a>>,
        }
        #[derive(Serialize)]
        struct ServerResults<'a> {
            name: &'a str,
            /// Server CPU and rate, by their names.
            #[serde(flatten)]
            figures: BTreeMap<String, Option<Summary>>,
            server_resident_bytes: Option<Summary>,
            server_added_bytes: Option<Summary>,
            p50_us: Option<Summary>,
            p99_us: Option<Summary>,
            p99_9_us: Option<Summary>,
            ratio: Option<Summary>,
            #[serde(flatten)]
            runs: &'a Runs,
        }
        let figures = |unit: Unit, runs: &Runs| {
            BTreeMap::from([
                (cpu_name(unit), runs.cpu()),
                (rate_name(unit), runs.summary(|run| run.rate)),
            ])
        };
        let cases: Vec<CaseResults<'_>> = self
            .cases
            .iter()
            .enumerate()
            .map(|(case, servers)| CaseResults {
                case: &self.plan.cases[case],
                baseline: self.baseline(case).map(|server| &*self.plan.servers[server].name),
                servers: servers
                    .iter()
                    .enumerate()
                    .map(|(server, runs)| ServerResults {
                        name: &self.plan.servers[server].name,
                        figures: figures(self.plan.cases[case].unit, runs),
                        server_resident_bytes: runs.resident_bytes(),
                        server_added_bytes: runs.added_bytes(),
                        p50_us: runs.summary(|run| run.p50_us),
                        p99_us: runs.summary(|run| run.p99_us),
                        p99_9_us: runs.summary(|run| run.p99_9_us),
                        ratio: self.ratio(case, server),
                        runs,
                    })
                    .collect(),
            })
            .collect();
        let mut fields = serializer.serialize_struct("Results", 4)?;
        fields.serialize_field("host", &self.host)?;
        fields.serialize_field("plan", &self.plan)?;
        fields.serialize_field("interrupted", &self.is_interrupted)?;
        fields.serialize_field("cases", &cases)?;
        fields.end()
    }
}

/// Results to try things on.
#[cfg(test)]
pub(crate) mod examples {
    use std::time::Duration;

    use super::*;
    use crate::{
        plan::{Mode, cases},
        server,
    };

    fn measurement(cpu: f64) -> Measurement {
        Measurement {
            unit: Unit::Message,
            server_cpu_us: cpu,
            server_user_us: cpu / 10.0,
            server_cpus_busy: 0.9,
            server_resident_bytes: 4 << 20,
            server_added_bytes: Some(1 << 20),
            generator_cpus_busy: 0.9,
            is_generator_saturated: false,
            rate: 1e6 / cpu,
            p50_us: 64.0 * cpu,
            p99_us: 200.0 * cpu,
            p99_9_us: 300.0 * cpu,
        }
    }

    /// The same servers in the same cases, as boards have them.
    pub(crate) fn boards() -> Results {
        let mut results = results();
        results.plan.mode = Mode::Boards;
        results.plan.cases = crate::plan::boards(&[5], &[512, 4096], &[16]);
        results
    }

    /// The same servers in one case of connections that come and go.
    pub(crate) fn churn() -> Results {
        let mut results = results();
        results.plan.mode = Mode::Churn;
        results.plan.cases = crate::plan::churn(&[64], &[512]);
        results.cases.truncate(1);
        for run in results.cases[0].iter_mut().flat_map(|runs| runs.rounds.iter_mut().flatten()) {
            run.unit = Unit::Cycle;
        }
        // The raw TCP echoes take no part.
        results.plan.servers.drain(..2);
        results.cases[0].drain(..2);
        results
    }

    /// Two cases; two raw TCP echoes, a server that costs twice as much, and one that fails in the
    /// second case.
    pub(crate) fn results() -> Results {
        let names = ["tcp:epoll={port}", "tcp:uring={port}", "twice={port}", "shaky={port}"];
        let servers: Vec<_> = names.iter().map(|text| server::parse(text).unwrap()).collect();
        let cases = cases(&[64, 16 << 10], &[64], &[16]);
        let rounds = [1.0, 1.5, 0.9];
        let runs = |cost: f64| Runs {
            rounds: rounds.iter().map(|drift| Some(measurement(cost * drift))).collect(),
            failure: None,
        };
        let failed = Runs {
            rounds: vec![Some(measurement(1.0)), None, None],
            failure: Some("3 errors: an echo was changed".into()),
        };
        Results {
            host: Host::example(),
            plan: Plan {
                mode: Mode::Cases,
                servers,
                cases,
                against: None,
                rounds: 3,
                duration: Duration::from_secs(1),
                warmup: Duration::from_millis(200),
                left_out: None,
            },
            cases: vec![
                vec![runs(0.6), runs(0.5), runs(1.0), runs(4.0)],
                vec![runs(7.0), runs(8.0), runs(14.0), failed],
            ],
            is_interrupted: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{examples::results, *};

    #[test]
    fn the_baseline_is_the_raw_tcp_echo_that_is_cheaper_in_the_case() {
        let results = results();
        assert_eq!(results.baseline(0), Some(1));
        assert_eq!(results.baseline(1), Some(0));
    }

    #[test]
    fn a_raw_tcp_echo_that_failed_is_no_baseline() {
        let mut results = results();
        results.cases[0][1].failure = Some("it ended".into());
        assert_eq!(results.baseline(0), Some(0));
        results.cases[0][0].failure = Some("it ended, too".into());
        assert_eq!(results.baseline(0), None);
        assert_eq!(results.ratio(0, 2), None);
    }

    #[test]
    fn the_baseline_is_the_server_that_the_plan_names() {
        let mut results = results();
        results.plan.against = Some("twice".into());
        assert_eq!(results.baseline(0), Some(2));
        assert_eq!(results.ratio(0, 3), Some(Summary { median: 4.0, min: 4.0, max: 4.0 }));
        results.plan.against = Some("shaky".into());
        assert_eq!(results.baseline(1), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut results = results();
        // The machine drifts from round to round, and the ratio does not.
        assert_eq!(results.ratio(0, 2), Some(Summary { median: 2.0, min: 2.0, max: 2.0 }));
        // A round that one of the two has not run counts for neither.
        results.cases[0][2].rounds[0] = None;
        results.cases[0][2].rounds[1].as_mut().unwrap().server_cpu_us *= 2.0;
        assert_eq!(results.ratio(0, 2), Some(Summary { median: 3.0, min: 2.0, max: 4.0 }));
    }

    #[test]
    fn of_cycles_the_baseline_is_the_cheapest_server() {
        let results = examples::churn();
        assert_eq!(results.baseline(0), Some(0));
        assert_eq!(results.ratio(0, 1), Some(Summary { median: 4.0, min: 4.0, max: 4.0 }));
        let json = serde_json::to_value(results).unwrap();
        let server = &json["cases"][0]["servers"][1];
        assert_eq!(json["cases"][0]["case"]["unit"], "cycle");
        assert_eq!(server["server_cpu_us_per_cycle"]["median"], 4.0);
        assert_eq!(server["rounds"][0]["server_cpu_us_per_cycle"], 4.0);
        assert_eq!(server["cycles_per_second"]["median"], 250_000.0);
        assert_eq!(server["p99_9_us"]["median"], 1200.0);
        assert_eq!(server["rounds"][0]["p99_9_us"], 1200.0);
    }

    #[test]
    fn a_failure_is_told_once_with_its_first_case() {
        let mut results = results();
        assert!(!results.is_complete());
        let (server, case, failure) = results.failures()[0];
        assert_eq!((server, case.payload_bytes), ("shaky", 16 << 10));
        assert_eq!(failure, "3 errors: an echo was changed");
        results.cases[0][3] = results.cases[1][3].clone();
        assert_eq!(results.failures().len(), 1);
        assert_eq!(results.failures()[0].1.payload_bytes, 64);
    }

    #[test]
    fn json_has_every_round_and_what_follows_from_them() {
        let json = serde_json::to_value(results()).unwrap();
        assert_eq!(json["cases"][0]["baseline"], "uring");
        let server = &json["cases"][0]["servers"][2];
        assert_eq!(server["name"], "twice");
        assert_eq!(server["ratio"]["median"], 2.0);
        assert_eq!(server["server_resident_bytes"]["median"], 4_194_304.0);
        assert_eq!(server["server_added_bytes"]["median"], 1_048_576.0);
        assert_eq!(server["rounds"][1]["server_added_bytes"], 1_048_576);
        assert_eq!(server["rounds"][1]["server_cpu_us_per_message"], 1.5);
        assert_eq!(json["cases"][1]["servers"][3]["ratio"], serde_json::Value::Null);
        assert_eq!(json["host"]["cpus"], 2);
    }
}
