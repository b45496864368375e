//! What a thread has counted, and how tallies add up.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    connection_error::ConnectionError,
    errors::{Cause, ErrorCounts, ErrorKind, WrongEchoCounts},
    latency::{GeneratorLag, Histograms},
    layers::LayerTally,
};
use crate::{
    verify::received::WrongEcho,
    wire::openings::{Openings, TlsOpening, TransportOpening},
};

/// The most different causes of errors that are kept apart; further ones are only counted.
const CAUSES_MAX: usize = 16;

/// What a thread has counted since it last handed that over. Exchanges are messages with their
/// echoes, or in a churn cycles.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Connections whose opening handshake succeeded.
    pub(crate) opened: u64,
    /// Connections whose messages are compressed, also those that were opened again.
    pub(crate) compressed: u64,
    /// Opened connections that an error ended.
    pub(crate) lost: u64,
    /// Lost connections that were opened again.
    pub(crate) reopened: u64,
    /// Correct exchanges, in all.
    pub(crate) exchanges: u64,
    /// Correct exchanges that ended in the measured window.
    pub(crate) exchanges_measured: u64,
    /// Bytes of payload of these.
    pub(crate) payload_measured: u64,
    pub(crate) histograms: Histograms,
    /// `None` until something is recorded in it, which only an open loop of a churn does.
    pub(crate) generator_lag: Option<Box<GeneratorLag>>,
    /// `None` until a connection has layers below.
    pub(crate) layers: Option<Box<LayerTally>>,
    pub(crate) errors: ErrorCounts,
    pub(crate) wrong_echoes: WrongEchoCounts,
    causes: BTreeMap<(ErrorKind, String), CauseCount>,
}

/// How often a cause was one, and its name for scripts.
#[derive(Clone, Debug, Default)]
struct CauseCount {
    code: Option<Cow<'static, str>>,
    count: u64,
}

impl Tally {
    /// Counts what went wrong with one connection.
    #[cold]
    pub(crate) fn count_error(&mut self, error: &ConnectionError) {
        self.count(error.kind(), error.to_string(), error.code());
    }

    /// Counts the layers of a connection that was opened; their times only if it `is_measured`.
    pub(crate) fn count_openings(&mut self, openings: &Openings, is_measured: bool) {
        if let Some(tls) = &openings.tls {
            self.count_tls(tls, is_measured);
        }
        if let Some(took) = openings.stream.filter(|_| is_measured) {
            self.histograms.stream.record(took.as_nanos() as u64, 1);
        }
    }

    /// Counts transports that were opened.
    pub(crate) fn count_transports(&mut self, opened: &[TransportOpening]) {
        for TransportOpening { tls, settings, streams_max } in opened {
            if let Some(tls) = tls {
                self.count_tls(tls, true);
            }
            self.histograms.settings.record(settings.as_nanos() as u64, 1);
            self.layers.get_or_insert_default().count_transport(*streams_max);
        }
    }

    fn count_tls(
        &mut self,
        TlsOpening { agreed, is_resumed, took }: &TlsOpening,
        is_measured: bool,
    ) {
        self.layers.get_or_insert_default().count_tls(agreed, *is_resumed);
        if is_measured {
            self.histograms.tls.record(took.as_nanos() as u64, 1);
        }
    }

    /// Counts a message that is not the echo that it should be.
    #[cold]
    pub(crate) fn count_wrong(&mut self, wrong: WrongEcho) {
        *self.wrong_echoes.of(wrong) += 1;
        self.count(ErrorKind::Wrong, wrong.to_string(), None);
    }

    /// Counts messages whose echo never came.
    #[cold]
    pub(crate) fn count_missing(&mut self, messages: usize) {
        self.errors.add(ErrorKind::Missing, messages as u64);
    }

    fn count(&mut self, kind: ErrorKind, cause: String, code: Option<Cow<'static, str>>) {
        self.errors.add(kind, 1);
        self.note_cause((kind, cause), CauseCount { code, count: 1 });
    }

    fn note_cause(&mut self, cause: (ErrorKind, String), CauseCount { code, count }: CauseCount) {
        let known = self.causes.len();
        if known < CAUSES_MAX || self.causes.contains_key(&cause) {
            let noted = self.causes.entry(cause).or_default();
            noted.code = code;
            noted.count += count;
        }
    }

    /// Forgets everything, but keeps the memory.
    pub(crate) fn clear(&mut self) {
        let Self {
            opened,
            compressed,
            lost,
            reopened,
            exchanges,
            exchanges_measured,
            payload_measured,
            histograms,
            generator_lag,
            layers,
            errors,
            wrong_echoes,
            causes,
        } = self;
        for count in
            [opened, compressed, lost, reopened, exchanges, exchanges_measured, payload_measured]
        {
            *count = 0;
        }
        histograms.clear();
        if let Some(generator_lag) = generator_lag {
            generator_lag.clear();
        }
        *layers = None;
        *errors = ErrorCounts::default();
        *wrong_echoes = WrongEchoCounts::default();
        causes.clear();
    }

    /// Adds another one's counts.
    pub(crate) fn merge(&mut self, other: &Self) {
        let Self {
            opened,
            compressed,
            lost,
            reopened,
            exchanges,
            exchanges_measured,
            payload_measured,
            histograms,
            generator_lag,
            layers,
            errors,
            wrong_echoes,
            causes,
        } = other;
        self.opened += opened;
        self.compressed += compressed;
        self.lost += lost;
        self.reopened += reopened;
        self.exchanges += exchanges;
        self.exchanges_measured += exchanges_measured;
        self.payload_measured += payload_measured;
        self.histograms.merge(histograms);
        if let Some(generator_lag) = generator_lag {
            self.generator_lag.get_or_insert_default().merge(generator_lag);
        }
        if let Some(layers) = layers {
            self.layers.get_or_insert_default().merge(layers);
        }
        self.errors.merge(*errors);
        self.wrong_echoes.merge(*wrong_echoes);
        for (cause, count) in causes {
            self.note_cause(cause.clone(), count.clone());
        }
    }

    /// Why errors happened, most frequent first, as far as they were kept apart.
    pub(crate) fn causes(&self) -> Vec<Cause> {
        let mut causes: Vec<Cause> = self
            .causes
            .iter()
            .map(|((kind, cause), CauseCount { code, count })| Cause {
                kind: *kind,
                code: code.clone(),
                cause: cause.clone(),
                count: *count,
            })
            .collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.count));
        causes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_bounded_and_counts_are_not() {
        let mut total = Tally::default();
        for thread in 0..2 {
            let mut tally = Tally::default();
            for at in 0..100 {
                tally.count_wrong(WrongEcho::TooShort(at + 50 * thread));
            }
            tally.count_missing(7);
            total.merge(&tally);
        }
        assert_eq!(total.errors.wrong, 200);
        assert_eq!(total.wrong_echoes.truncated, 200);
        assert_eq!(total.errors.missing, 14);
        assert_eq!(total.errors.total, 214);
        assert_eq!(total.causes().len(), CAUSES_MAX);
    }
}
