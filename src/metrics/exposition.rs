//! What all workers have counted, as text for Prometheus: `OpenMetrics`, or the older text format for
//! whoever asks for that.
//!
//! One exposition is consistent in itself: ends are read before admissions, and the number of open
//! connections is the difference. So accepted = open + ended in every one of them, and none is
//! negative.

use std::{collections::BTreeMap, fmt, fmt::Write, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{Counters, close_codes::CountedCode, histogram::Distribution, http2::Http2Snapshot};

/// The media type of `OpenMetrics` text.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The media type of the older text format.
pub const CLASSIC_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is exposed beside the counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// When the process's server started, in seconds since 1970.
    pub start_time: u64,
    /// Whether new connections are wanted.
    pub is_ready: bool,
    /// Lines of the access log that were lost.
    pub access_log_lines_lost: u64,
}

/// The counters of all workers, read once.
#[derive(Debug, Default)]
struct Snapshot {
    process: Process,
    ended: BTreeMap<(&'static str, CountedCode), u64>,
    accepted: u64,
    open_by_worker: Vec<u64>,
    upgraded: u64,
    messages: u64,
    text_messages: u64,
    received_bytes: u64,
    sent_bytes: u64,
    pings_received: u64,
    pings_sent: u64,
    pongs_received: u64,
    late_wake_ups: u64,
    shared_buffer_bytes: u64,
    own_buffer_bytes: u64,
    copy_bytes: u64,
    tls_handshakes: BTreeMap<(&'static str, &'static str), u64>,
    tls_handshake_times: Distribution,
    handshake_times: Distribution,
    turn_times: Distribution,
    sweep_latenesses: Distribution,
    refusals: BTreeMap<&'static str, u64>,
    responses: BTreeMap<&'static str, u64>,
    protocol_errors: BTreeMap<&'static str, u64>,
    http2: Http2Snapshot,
}

/// The workers' counters as `OpenMetrics` text.
pub fn expose(workers: &[Arc<Counters>], process: Process) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot::take(workers, process)));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap_or_else(|_| unreachable!("a string takes any text"));
    text
}

/// `OpenMetrics` text in the older format, where a counter's family has the name of its samples, and
/// there are neither units nor an end.
pub fn to_classic_text(open_metrics: &str) -> String {
    let counters = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
    let counters: Vec<&str> = counters.collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "EOF"] | ["#", "UNIT", ..] => continue,
            ["#", keyword, name, rest] if counters.contains(&name) => {
                let _ = write!(text, "# {keyword} {name}_total {rest}");
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

impl Snapshot {
    fn take(workers: &[Arc<Counters>], process: Process) -> Self {
        let mut snapshot = Self { process, ..Self::default() };
        for counters in workers {
            snapshot.add(counters);
        }
        snapshot
    }

    fn add(&mut self, counters: &Counters) {
        // Ends come first, so that no connection seems to have ended before it was accepted.
        let mut ended_count = 0;
        for (kind, (name, counter)) in counters.ended.iter().enumerate() {
            let without_code = (CountedCode::Missing, counter.get_first());
            let with_code = counters.ended_with_code.of_kind(kind);
            for (code, count) in with_code.chain([without_code]) {
                *self.ended.entry((name, code)).or_default() += count;
                ended_count += count;
            }
        }
        let accepted = counters.accepted.get();
        self.accepted += accepted;
        self.open_by_worker.push(accepted.saturating_sub(ended_count));
        for (sum, counter) in [
            (&mut self.upgraded, &counters.upgraded),
            (&mut self.messages, &counters.messages),
            (&mut self.received_bytes, &counters.received_bytes),
            (&mut self.sent_bytes, &counters.sent_bytes),
            (&mut self.pings_received, &counters.pings_received),
            (&mut self.pings_sent, &counters.pings_sent),
            (&mut self.pongs_received, &counters.pongs_received),
            (&mut self.late_wake_ups, &counters.late_wake_ups),
        ] {
            *sum += counter.get();
        }
        // No more of them are text than there are.
        self.text_messages += counters.text_messages.get().min(counters.messages.get());
        for (sum, level) in [
            (&mut self.shared_buffer_bytes, &counters.shared_buffer_bytes),
            (&mut self.own_buffer_bytes, &counters.own_buffer_bytes),
            (&mut self.copy_bytes, &counters.copy_bytes),
        ] {
            *sum += level.get();
        }
        for (outcome, version, count) in counters.tls.handshakes() {
            *self.tls_handshakes.entry((outcome, version)).or_default() += count;
        }
        self.tls_handshake_times.add(&counters.tls.times);
        self.handshake_times.add(&counters.handshake_times);
        self.turn_times.add(&counters.turn_times);
        self.sweep_latenesses.add(&counters.sweep_latenesses);
        for (name, count) in counters.refusals() {
            *self.refusals.entry(name).or_default() += count;
        }
        for (class, count) in counters.responses() {
            *self.responses.entry(class).or_default() += count;
        }
        self.http2.add(&counters.http2);
        for (name, counter) in &counters.protocol_errors {
            *self.protocol_errors.entry(name).or_default() += counter.get();
        }
    }
}

/// Writes families of metrics.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// A family of counters or gauges: the labels and the value of each.
    fn add<const LABELS: usize>(
        &mut self,
        (name, help): (&str, &str),
        metric_type: MetricType,
        samples: impl IntoIterator<Item = ([(&'static str, String); LABELS], u64)>,
    ) -> fmt::Result {
        let is_counter = matches!(metric_type, MetricType::Counter);
        let mut family = self.0.encode_descriptor(name, help, None, metric_type)?;
        for (labels, value) in samples {
            let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
            if LABELS == 0 {
                if is_counter {
                    family.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
                } else {
                    family.encode_gauge(&value)?;
                }
                continue;
            }
            let mut metric = family.encode_family(&labels)?;
            if is_counter {
                metric.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
            } else {
                metric.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.add((name, help), MetricType::Counter, [([], value)])
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.add((name, help), MetricType::Gauge, [([], value)])
    }

    /// A histogram of times; its name gets `_seconds`.
    fn histogram(&mut self, name: &str, help: &str, times: &Distribution) -> fmt::Result {
        let mut family =
            self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        let Distribution { buckets, sum, count } = times;
        family.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.encode_connections(&mut families)?;
        self.encode_http2(&mut families)?;
        self.encode_traffic(&mut families)?;
        self.encode_memory(&mut families)?;
        families.histogram(
            "ringecho_handshake",
            "From a connection's admission to its 101",
            &self.handshake_times,
        )?;
        families.histogram(
            "ringecho_tls_handshake",
            "From the first bytes of a TLS handshake to its end",
            &self.tls_handshake_times,
        )?;
        families.histogram(
            "ringecho_engine_turn",
            "From what the kernel reports in a turn of an engine to the end of the turn; one turn of 64",
            &self.turn_times,
        )?;
        families.histogram(
            "ringecho_sweep_lateness",
            "How late the sweeps began that watch all deadlines once a second",
            &self.sweep_latenesses,
        )?;
        self.encode_process(&mut families)
    }
}

impl Snapshot {
    fn encode_connections(&self, families: &mut Families<'_>) -> fmt::Result {
        families.gauge(
            "ringecho_connections_open",
            "Connections that have not ended",
            self.open_by_worker.iter().sum::<u64>(),
        )?;
        families.counter(
            "ringecho_connections_accepted",
            "Connections of the main listeners",
            self.accepted,
        )?;
        let ended = self.ended.iter().map(|((kind, code), count)| {
            ([("kind", (*kind).to_owned()), ("close_code", code.to_string())], *count)
        });
        let help = "Connections by kind of end, and by the close code that was sent or echoed";
        families.add(("ringecho_connections_ended", help), MetricType::Counter, ended)?;
        let workers = self.open_by_worker.iter().enumerate();
        let open = workers.map(|(at, count)| ([("worker", at.to_string())], *count));
        let help = "Connections of each worker that have not ended";
        families.add(("ringecho_worker_connections_open", help), MetricType::Gauge, open)?;
        families.counter("ringecho_upgrades", "Opening handshakes done", self.upgraded)?;
        let help = "Answered requests of HTTP, by class of status; 1xx are upgrades";
        let responses = by_name("status", &self.responses);
        families.add(("ringecho_http_requests", help), MetricType::Counter, responses)?;
        let handshakes = self.tls_handshakes.iter().map(|((outcome, version), count)| {
            let labels = [("outcome", (*outcome).to_owned()), ("version", (*version).to_owned())];
            (labels, *count)
        });
        let help = "TLS handshakes by outcome, and by the version of those that were done";
        families.add(("ringecho_tls_handshakes", help), MetricType::Counter, handshakes)?;
        let help = "Connections that ended with a refusal, by reason";
        families.add(
            ("ringecho_refusals", help),
            MetricType::Counter,
            by_name("reason", &self.refusals),
        )?;
        let help = "Failed connections by what the peer did against the protocol";
        let errors = by_name("error", &self.protocol_errors);
        families.add(("ringecho_protocol_errors", help), MetricType::Counter, errors)
    }

    fn encode_http2(&self, families: &mut Families<'_>) -> fmt::Result {
        let Http2Snapshot { connections, streams, ended, errors } = &self.http2;
        let help = "Connections that have spoken HTTP/2";
        families.counter("ringecho_http2_connections", help, *connections)?;
        let help = "Streams of HTTP/2 that have not ended";
        families.gauge("ringecho_http2_streams_open", help, self.http2.open())?;
        families.counter("ringecho_http2_streams", "Requests over HTTP/2", *streams)?;
        let ended = ended.iter().map(|((kind, code), count)| {
            ([("kind", (*kind).to_owned()), ("close_code", code.to_string())], *count)
        });
        let help =
            "Streams of HTTP/2 by kind of end, and by the close code that was sent or echoed";
        families.add(("ringecho_http2_streams_ended", help), MetricType::Counter, ended)?;
        let help = "Failed connections of HTTP/2 by the error code that the peer was told";
        let errors = by_name("error", errors);
        families.add(("ringecho_http2_errors", help), MetricType::Counter, errors)
    }

    fn encode_traffic(&self, families: &mut Families<'_>) -> fmt::Result {
        let binary = self.messages - self.text_messages;
        let messages = ["received", "sent"].into_iter().flat_map(|direction| {
            [("text", self.text_messages), ("binary", binary)].map(|(kind, count)| {
                let labels = [("direction", direction.to_owned()), ("kind", kind.to_owned())];
                (labels, count)
            })
        });
        let help = "Messages received, and their echoes; binary ones include compressed ones";
        families.add(("ringecho_messages", help), MetricType::Counter, messages)?;
        let by_direction = |received: u64, sent: u64| {
            [("received", received), ("sent", sent)]
                .map(|(direction, count)| ([("direction", direction.to_owned())], count))
        };
        for (name, help, received, sent) in [
            (
                "ringecho_bytes",
                "Bytes of upgraded connections, frame headers included",
                self.received_bytes,
                self.sent_bytes,
            ),
            ("ringecho_pings", "Ping frames", self.pings_received, self.pings_sent),
            // Each Ping that was received was answered.
            ("ringecho_pongs", "Pong frames", self.pongs_received, self.pings_received),
        ] {
            families.add((name, help), MetricType::Counter, by_direction(received, sent))?;
        }
        families.counter(
            "ringecho_late_wake_ups",
            "Wake-ups that the kernel lost, so that only a sweep found what had arrived",
            self.late_wake_ups,
        )
    }

    fn encode_memory(&self, families: &mut Families<'_>) -> fmt::Result {
        let kinds = [("shared", self.shared_buffer_bytes), ("own", self.own_buffer_bytes)];
        let buffers = kinds.map(|(kind, count)| ([("kind", kind.to_owned())], count));
        let help = "Receive buffers, shared by a worker's connections or of one connection each";
        families.add(("ringecho_receive_buffer_bytes", help), MetricType::Gauge, buffers)?;
        families.gauge(
            "ringecho_copy_bytes",
            "Copies for peers that do not read, as of the last sweep",
            self.copy_bytes,
        )
    }

    fn encode_process(&self, families: &mut Families<'_>) -> fmt::Result {
        let Process { start_time, is_ready, access_log_lines_lost } = self.process;
        families.gauge(
            "ringecho_start_time_seconds",
            "When the server started, in seconds since 1970",
            start_time,
        )?;
        let is_ready = u64::from(is_ready);
        families.gauge("ringecho_ready", "1 while new connections are wanted", is_ready)?;
        families.counter(
            "ringecho_access_log_lines_lost",
            "Lines of the access log that found no room or could not be written",
            access_log_lines_lost,
        )?;
        let version = [([("version", env!("CARGO_PKG_VERSION").to_owned())], 1)];
        families.add(("ringecho_build_info", "Always 1"), MetricType::Gauge, version)
    }
}

/// Samples of a family by the name of each.
fn by_name(
    label: &'static str,
    counts: &BTreeMap<&'static str, u64>,
) -> impl Iterator<Item = ([(&'static str, String); 1], u64)> {
    counts.iter().map(move |(name, count)| ([(label, (*name).to_owned())], *count))
}

/// As the label `close_code`.
impl fmt::Display for CountedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => Ok(()),
            Self::Code(code) => code.fmt(f),
            Self::Other => f.write_str("other"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;
    use crate::{connection::ConnectionEnd, metrics::RefusalReason, protocol::ProtocolError};

    fn counters() -> Arc<Counters> {
        Arc::new(Counters::new(&ConnectionEnd::KINDS))
    }

    /// The value of a sample by its name and labels.
    fn value(text: &str, sample: &str) -> u64 {
        let found = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("{sample} is not in:\n{text}")).parse().unwrap()
    }

    #[test]
    fn exposition_is_open_metrics_with_every_family_once() {
        let text = expose(&[counters(), counters()], Process::default());
        assert!(text.ends_with("# EOF\n"));
        let families: Vec<(&str, &str)> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        assert_eq!(
            families,
            [
                ("ringecho_connections_open", "gauge"),
                ("ringecho_connections_accepted", "counter"),
                ("ringecho_connections_ended", "counter"),
                ("ringecho_worker_connections_open", "gauge"),
                ("ringecho_upgrades", "counter"),
                ("ringecho_http_requests", "counter"),
                ("ringecho_tls_handshakes", "counter"),
                ("ringecho_refusals", "counter"),
                ("ringecho_protocol_errors", "counter"),
                ("ringecho_http2_connections", "counter"),
                ("ringecho_http2_streams_open", "gauge"),
                ("ringecho_http2_streams", "counter"),
                ("ringecho_http2_streams_ended", "counter"),
                ("ringecho_http2_errors", "counter"),
                ("ringecho_messages", "counter"),
                ("ringecho_bytes", "counter"),
                ("ringecho_pings", "counter"),
                ("ringecho_pongs", "counter"),
                ("ringecho_late_wake_ups", "counter"),
                ("ringecho_receive_buffer_bytes", "gauge"),
                ("ringecho_copy_bytes", "gauge"),
                ("ringecho_handshake_seconds", "histogram"),
                ("ringecho_tls_handshake_seconds", "histogram"),
                ("ringecho_engine_turn_seconds", "histogram"),
                ("ringecho_sweep_lateness_seconds", "histogram"),
                ("ringecho_start_time_seconds", "gauge"),
                ("ringecho_ready", "gauge"),
                ("ringecho_access_log_lines_lost", "counter"),
                ("ringecho_build_info", "gauge"),
            ]
        );
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
            let name = sample.split('{').next().unwrap();
            let is_of = |(family, kind): &(&str, &str)| {
                name.strip_prefix(family).is_some_and(|suffix| match *kind {
                    "counter" => suffix == "_total",
                    "gauge" => suffix.is_empty(),
                    _ => ["_bucket", "_sum", "_count"].contains(&suffix),
                })
            };
            assert!(families.iter().any(is_of), "{line}");
        }
    }

    #[test]
    fn every_end_refusal_and_error_has_its_sample_from_the_start() {
        let text = expose(&[counters()], Process::default());
        for kind in ConnectionEnd::KINDS {
            let sample =
                format!("ringecho_connections_ended_total{{kind=\"{kind}\",close_code=\"\"}}");
            assert_eq!(value(&text, &sample), 0);
        }
        for reason in RefusalReason::NAMES {
            assert_eq!(value(&text, &format!("ringecho_refusals_total{{reason=\"{reason}\"}}")), 0);
        }
        let sample = "ringecho_protocol_errors_total{error=\"mask_missing\"}";
        assert_eq!(value(&text, sample), 0);
    }

    #[test]
    fn workers_are_summed_and_the_totals_balance() {
        let workers = [counters(), counters()];
        let closed = ConnectionEnd::ClosedByPeer.kind();
        for worker in &workers {
            worker.accepted.add(5);
            worker.count_end(closed, Some(1000));
            worker.count_end(closed, None);
            worker.count_protocol_error(ProtocolError::TextNotUtf8);
            worker.refused(RefusalReason::OriginForbidden).add(1);
            worker.upgraded.add(2);
            worker.count_response(StatusCode::NO_CONTENT);
            worker.count_response(StatusCode::NOT_IMPLEMENTED);
            worker.turn_times.count(Duration::from_micros(7));
            worker.messages.add(3);
            worker.text_messages.add(1);
        }
        let text = expose(&workers, Process { is_ready: true, ..Process::default() });
        for (sample, expected) in [
            ("ringecho_connections_open", 6),
            ("ringecho_connections_accepted_total", 10),
            ("ringecho_connections_ended_total{kind=\"closed_by_peer\",close_code=\"1000\"}", 2),
            ("ringecho_connections_ended_total{kind=\"closed_by_peer\",close_code=\"\"}", 2),
            ("ringecho_worker_connections_open{worker=\"1\"}", 3),
            ("ringecho_protocol_errors_total{error=\"text_not_utf8\"}", 2),
            ("ringecho_refusals_total{reason=\"origin_forbidden\"}", 2),
            ("ringecho_http_requests_total{status=\"1xx\"}", 4),
            ("ringecho_http_requests_total{status=\"2xx\"}", 2),
            ("ringecho_http_requests_total{status=\"4xx\"}", 0),
            ("ringecho_http_requests_total{status=\"5xx\"}", 2),
            ("ringecho_messages_total{direction=\"sent\",kind=\"binary\"}", 4),
            ("ringecho_messages_total{direction=\"received\",kind=\"text\"}", 2),
            ("ringecho_engine_turn_seconds_count", 2),
            ("ringecho_engine_turn_seconds_bucket{le=\"0.000005\"}", 0),
            ("ringecho_engine_turn_seconds_bucket{le=\"+Inf\"}", 2),
            ("ringecho_ready", 1),
        ] {
            assert_eq!(value(&text, sample), expected, "{sample}");
        }
    }

    #[test]
    fn older_format_names_counters_as_their_samples() {
        let text = to_classic_text(&expose(&[counters()], Process::default()));
        assert!(text.contains("\n# TYPE ringecho_upgrades_total counter\n"), "{text}");
        assert!(text.contains("\n# HELP ringecho_upgrades_total Opening"));
        assert!(text.contains("\n# TYPE ringecho_handshake_seconds histogram\n"));
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    }
}
