//! What a result says of the layers below its WebSocket connections: TLS, and HTTP/2. Without them it says
//! nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    count::{latency::Histograms, latency_report::LatencyReport, tally::Tally},
    text::numbers::{counted, grouped},
    wire::connector::Connector,
};

/// The layers below WebSocket connections, as far as there were any.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Layers {
    /// TLS, with `wss://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsReport>,
    /// HTTP/2, with `--http2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http2: Option<Http2Report>,
}

/// How TLS was spoken.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TlsReport {
    /// The name that the server was asked for by (SNI); `None` where the URL has an address.
    pub server_name: Option<String>,
    /// What was agreed on, the most frequent first.
    pub agreed: Vec<Agreed>,
    /// Handshakes with certificates, in all.
    pub full: u64,
    /// Handshakes by tickets of earlier sessions.
    pub resumed: u64,
    /// From the connected socket to the end of the handshake. In a churn, of cycles that were to begin
    /// in the measured window; `None` if there were none.
    pub handshake_us: Option<LatencyReport>,
}

/// What sessions agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Agreed {
    /// `1.2` or `1.3`.
    pub version: String,
    /// By its name in IANA's registry.
    pub cipher_suite: String,
    /// The application protocol; `None` if the server chose none.
    pub alpn: Option<String>,
    /// How many sessions.
    pub sessions: u64,
}

/// How HTTP/2 was spoken.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Http2Report {
    /// Connections that streams were to be spread over.
    pub transports: usize,
    /// Connections that were opened: more, if the server ended some.
    pub transports_opened: u64,
    /// The least number of streams that the server allowed on one at once; `None` without a limit.
    pub max_concurrent_streams: Option<usize>,
    /// From the connected socket, or the end of its TLS handshake, to the server's SETTINGS.
    pub settings_us: Option<LatencyReport>,
    /// From the request of a stream to its response. In a churn, of cycles that were to begin in the
    /// measured window.
    pub stream_us: Option<LatencyReport>,
}

impl Layers {
    /// The names for people of what [`latencies`](Self::latencies) are of.
    pub(crate) const LATENCIES: [&'static str; 3] =
        ["TLS handshake", "HTTP/2 settings", "HTTP/2 stream"];

    /// What `tally` has of connections of `connector`.
    pub(crate) fn new(connector: &Connector, tally: &Tally) -> Self {
        let Tally { histograms, layers, .. } = tally;
        let layers = layers.as_deref().cloned().unwrap_or_default();
        let tls = connector.tls().map(|tls| {
            let agreed = layers.agreements.iter().map(|(agreed, sessions)| Agreed {
                version: agreed.version.to_owned(),
                cipher_suite: agreed.cipher_suite.clone(),
                alpn: agreed.alpn.clone(),
                sessions: *sessions,
            });
            TlsReport {
                server_name: tls.server_name(),
                agreed: sorted(agreed.collect()),
                full: layers.full,
                resumed: layers.resumed,
                handshake_us: LatencyReport::new(&histograms.tls),
            }
        });
        let transports = connector.transports();
        let http2 = (transports > 0).then(|| Http2Report {
            transports,
            transports_opened: layers.transports,
            max_concurrent_streams: layers.streams_max,
            settings_us: LatencyReport::new(&histograms.settings),
            stream_us: LatencyReport::new(&histograms.stream),
        });
        Self { tls, http2 }
    }

    /// Adds the counts of another run. Latencies are the histograms', which are added elsewhere.
    pub(crate) fn merge(&mut self, other: &Self) {
        match (&mut self.tls, &other.tls) {
            (Some(known), Some(tls)) => known.merge(tls),
            (tls @ None, other) => tls.clone_from(other),
            (Some(_), None) => {}
        }
        match (&mut self.http2, &other.http2) {
            (Some(known), Some(http2)) => known.merge(http2),
            (http2 @ None, other) => http2.clone_from(other),
            (Some(_), None) => {}
        }
    }

    /// Has the latencies of `histograms`.
    pub(crate) fn set_latencies(&mut self, histograms: &Histograms) {
        if let Some(tls) = &mut self.tls {
            tls.handshake_us = LatencyReport::new(&histograms.tls);
        }
        if let Some(http2) = &mut self.http2 {
            http2.settings_us = LatencyReport::new(&histograms.settings);
            http2.stream_us = LatencyReport::new(&histograms.stream);
        }
    }

    /// Each layer with its name for people, and what is to say of it.
    pub(crate) fn in_words(&self) -> Vec<(&'static str, String)> {
        let tls = self.tls.as_ref().map(|tls| ("TLS", tls.to_string()));
        let http2 = self.http2.as_ref().map(|http2| ("HTTP/2", http2.to_string()));
        tls.into_iter().chain(http2).collect()
    }

    /// The latencies that were measured, with their names for people.
    pub(crate) fn latencies(&self) -> Vec<(&'static str, LatencyReport)> {
        let tls = self.tls.as_ref().and_then(|tls| tls.handshake_us);
        let http2 = self.http2.as_ref();
        let settings = http2.and_then(|http2| http2.settings_us);
        let stream = http2.and_then(|http2| http2.stream_us);
        let all = Self::LATENCIES.into_iter().zip([tls, settings, stream]);
        all.filter_map(|(name, latency)| Some((name, latency?))).collect()
    }
}

fn sorted(mut agreed: Vec<Agreed>) -> Vec<Agreed> {
    agreed.sort_by_key(|agreed| std::cmp::Reverse(agreed.sessions));
    agreed
}

impl TlsReport {
    fn merge(&mut self, other: &Self) {
        let Self { server_name, agreed, full, resumed, handshake_us: _ } = other;
        if self.server_name != *server_name {
            self.server_name = None;
        }
        self.full += full;
        self.resumed += resumed;
        for one in agreed {
            let is_same = |known: &&mut Agreed| {
                (&known.version, &known.cipher_suite, &known.alpn)
                    == (&one.version, &one.cipher_suite, &one.alpn)
            };
            match self.agreed.iter_mut().find(is_same) {
                Some(known) => known.sessions += one.sessions,
                None => self.agreed.push(one.clone()),
            }
        }
        self.agreed = sorted(std::mem::take(&mut self.agreed));
    }
}

impl Http2Report {
    fn merge(&mut self, other: &Self) {
        let Self { transports, transports_opened, max_concurrent_streams, .. } = *other;
        self.transports += transports;
        self.transports_opened += transports_opened;
        self.max_concurrent_streams = match (self.max_concurrent_streams, max_concurrent_streams) {
            (Some(known), Some(max)) => Some(known.min(max)),
            (known, max) => known.or(max),
        };
    }
}

/// The lines of a text, behind the others about connections.
impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, words) in self.in_words() {
            writeln!(f, "  {name:<12}{words}")?;
        }
        if let Some(latency) = self.tls.as_ref().and_then(|tls| tls.handshake_us.as_ref()) {
            writeln!(f, "    handshake {latency}")?;
        }
        let http2 = self.http2.as_ref();
        if let Some(latency) = http2.and_then(|http2| http2.settings_us.as_ref()) {
            writeln!(f, "    settings  {latency}")?;
        }
        if let Some(latency) = http2.and_then(|http2| http2.stream_us.as_ref()) {
            writeln!(f, "    stream    {latency}")?;
        }
        Ok(())
    }
}

impl fmt::Display for TlsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server_name, agreed, full, resumed, .. } = self;
        let (full, resumed) = (grouped(*full), grouped(*resumed));
        write!(f, "{full} full, {resumed} resumed")?;
        for Agreed { version, cipher_suite, alpn, sessions } in agreed {
            write!(f, "; {version} {cipher_suite}")?;
            match alpn {
                Some(alpn) => write!(f, ", ALPN {alpn}")?,
                None => write!(f, ", no ALPN")?,
            }
            if agreed.len() > 1 {
                write!(f, " ({}x)", grouped(*sessions))?;
            }
        }
        if let Some(name) = server_name {
            write!(f, "; SNI {name}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Http2Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transports, transports_opened, max_concurrent_streams, .. } = *self;
        write!(f, "streams of {}", counted(transports as u64, "transport"))?;
        if transports_opened != transports as u64 {
            write!(f, ", {} opened", grouped(transports_opened))?;
        }
        match max_concurrent_streams {
            Some(max) => write!(f, "; the server allows {} on each", grouped(max as u64)),
            None => f.write_str("; the server allows any number"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(full: u64, resumed: u64, suite: &str) -> Layers {
        let agreed = Agreed {
            version: "1.3".to_owned(),
            cipher_suite: suite.to_owned(),
            alpn: None,
            sessions: full + resumed,
        };
        Layers {
            tls: Some(TlsReport {
                server_name: Some("localhost".to_owned()),
                agreed: vec![agreed],
                full,
                resumed,
                handshake_us: None,
            }),
            http2: None,
        }
    }

    #[test]
    fn layers_of_several_runs_add_up_and_read_as_one() {
        let mut total = Layers::default();
        for run in [tls(1, 2, "A"), tls(1000, 0, "B"), tls(0, 3, "A")] {
            total.merge(&run);
        }
        assert_eq!(
            total.to_string(),
            "  TLS         1,001 full, 5 resumed; 1.3 B, no ALPN (1,000x); 1.3 A, no ALPN (6x); SNI \
             localhost\n"
        );
        let http2 = |transports, max_concurrent_streams| Layers {
            tls: None,
            http2: Some(Http2Report {
                transports,
                transports_opened: transports as u64,
                max_concurrent_streams,
                settings_us: None,
                stream_us: None,
            }),
        };
        total = http2(1, None);
        assert_eq!(
            total.to_string(),
            "  HTTP/2      streams of 1 transport; the server allows any number\n"
        );
        total.merge(&http2(2, Some(100)));
        total.merge(&http2(2, Some(128)));
        assert_eq!(
            total.to_string(),
            "  HTTP/2      streams of 5 transports; the server allows 100 on each\n"
        );
    }
}
