//! What is counted of the layers below WebSocket connections: TLS sessions, and the transports of
//! HTTP/2. Their times are in [`Histograms`](super::latency::Histograms).

use std::collections::BTreeMap;

use crate::wire::openings::TlsAgreement;

/// The most different agreements that are kept apart; further ones are only counted as full or resumed.
const AGREEMENTS_MAX: usize = 16;

/// Counts of the layers, of whole runs, warm-up included.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerTally {
    /// TLS handshakes by what was agreed on.
    pub(crate) agreements: BTreeMap<TlsAgreement, u64>,
    /// TLS handshakes with certificates.
    pub(crate) full: u64,
    /// TLS handshakes by tickets.
    pub(crate) resumed: u64,
    /// Transports that were opened.
    pub(crate) transports: u64,
    /// The least number of streams that a server allowed at once; `None` without a limit.
    pub(crate) streams_max: Option<usize>,
}

impl LayerTally {
    pub(super) fn count_tls(&mut self, agreed: &TlsAgreement, is_resumed: bool) {
        if is_resumed {
            self.resumed += 1;
        } else {
            self.full += 1;
        }
        self.count_agreement(agreed, 1);
    }

    fn count_agreement(&mut self, agreed: &TlsAgreement, count: u64) {
        let known = self.agreements.len();
        if known < AGREEMENTS_MAX || self.agreements.contains_key(agreed) {
            *self.agreements.entry(agreed.clone()).or_default() += count;
        }
    }

    pub(super) fn count_transport(&mut self, streams_max: Option<usize>) {
        self.transports += 1;
        self.note_streams_max(streams_max);
    }

    fn note_streams_max(&mut self, streams_max: Option<usize>) {
        self.streams_max = match (self.streams_max, streams_max) {
            (Some(known), Some(max)) => Some(known.min(max)),
            (known, max) => known.or(max),
        };
    }

    /// Adds another thread's.
    pub(super) fn merge(&mut self, other: &Self) {
        let Self { agreements, full, resumed, transports, streams_max } = other;
        for (agreed, count) in agreements {
            self.count_agreement(agreed, *count);
        }
        self.full += full;
        self.resumed += resumed;
        self.transports += transports;
        self.note_streams_max(*streams_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreements_are_bounded_and_handshakes_are_not() {
        let mut tally = LayerTally::default();
        for at in 0..100 {
            let agreed = TlsAgreement {
                version: "1.3",
                cipher_suite: format!("suite {}", at % 20),
                alpn: None,
            };
            tally.count_tls(&agreed, at % 4 == 0);
        }
        let mut total = tally.clone();
        total.merge(&tally);
        assert_eq!((total.full, total.resumed), (150, 50));
        assert_eq!(total.agreements.len(), AGREEMENTS_MAX);
        assert!(total.agreements.values().all(|count| *count == 10));
    }

    #[test]
    fn the_least_limit_of_streams_counts() {
        let mut tally = LayerTally::default();
        for max in [None, Some(100), Some(7), None, Some(8)] {
            tally.count_transport(max);
        }
        assert_eq!((tally.transports, tally.streams_max), (5, Some(7)));
    }
}
