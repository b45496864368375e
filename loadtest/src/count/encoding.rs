//! Histograms as HdrHistogram encodes them (V2, deflated): a few kilobytes or less, instead of the
//! 256 KiB that are quick to record into. Every count is kept, and with it every percentile.

use hdrhistogram::{
    Histogram,
    serialization::{DeserializeError, Deserializer, Serializer, V2DeflateSerializer},
};

use super::latency::{Histograms, Latencies};
use crate::plan::Exchange;

impl Histograms {
    /// Each histogram that such a load fills, with its tag in an interval log.
    pub(crate) fn tagged(
        &self,
        exchange: Exchange,
    ) -> impl Iterator<Item = (Option<&'static str>, &Latencies)> {
        let Self { latency, uncorrected, handshake, lag, .. } = self;
        let own = match exchange {
            Exchange::Message => {
                [(None, latency), (Some("uncorrected"), uncorrected), (Some("send_lag"), lag)]
            }
            Exchange::Cycle => {
                [(None, latency), (Some("handshake"), handshake), (Some("begin_lag"), lag)]
            }
        };
        let of_layers = self.of_layers().map(|(tag, latencies)| (Some(tag), latencies));
        own.into_iter().chain(of_layers)
    }

    /// The histograms of the layers below WebSocket connections, with their tags.
    pub(crate) fn of_layers(&self) -> [(&'static str, &Latencies); 3] {
        [("tls", &self.tls), ("http2_settings", &self.settings), ("http2_stream", &self.stream)]
    }

    /// The histogram of messages with a tag; `None` if no histogram has it.
    pub(crate) fn tagged_mut(&mut self, tag: Option<&str>) -> Option<&mut Latencies> {
        match tag {
            None => Some(&mut self.latency),
            Some("uncorrected") => Some(&mut self.uncorrected),
            Some("send_lag") => Some(&mut self.lag),
            Some("tls") => Some(&mut self.tls),
            Some("http2_settings") => Some(&mut self.settings),
            Some("http2_stream") => Some(&mut self.stream),
            Some(_) => None,
        }
    }
}

/// Encoded [`Histograms`].
#[derive(Clone, Debug)]
pub(crate) struct EncodedHistograms([Vec<u8>; 7]);

impl EncodedHistograms {
    pub(crate) fn new(histograms: &Histograms) -> Self {
        let Histograms { latency, uncorrected, handshake, lag, tls, settings, stream } = histograms;
        Self([latency, uncorrected, handshake, lag, tls, settings, stream].map(encode))
    }

    pub(crate) fn decode(&self) -> Histograms {
        let decoded = self.0.each_ref().map(|bytes| {
            let decoded = (!bytes.is_empty()).then(|| decode(bytes));
            decoded.transpose().expect("it was encoded by `new`").unwrap_or_default()
        });
        let [latency, uncorrected, handshake, lag, tls, settings, stream] = decoded;
        Histograms { latency, uncorrected, handshake, lag, tls, settings, stream }
    }
}

/// Encodes latencies; as nothing at all, if there are none.
fn encode(latencies: &Latencies) -> Vec<u8> {
    let mut bytes = Vec::new();
    if latencies.samples() > 0 {
        V2DeflateSerializer::new()
            .serialize(latencies.nanoseconds(), &mut bytes)
            .expect("counts are below 2^63, and memory takes every byte");
    }
    bytes
}

/// Decodes a histogram of nanoseconds, whatever its bounds are, deflated or not.
pub(crate) fn decode(mut bytes: &[u8]) -> Result<Latencies, DeserializeError> {
    let decoded: Histogram<u64> = Deserializer::new().deserialize(&mut bytes)?;
    let mut latencies = Latencies::default();
    for step in decoded.iter_recorded() {
        latencies.record(step.value_iterated_to(), step.count_at_value() as usize);
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_keeps_every_count_and_percentile() {
        let mut histograms = Histograms::default();
        for at in 0..5000_u64 {
            histograms.latency.record(at * at * 37, at as usize % 5);
            histograms.uncorrected.record(at * 3, 2);
            histograms.handshake.record(at * 1000, at as usize % 3);
            histograms.lag.record(at, 1);
            histograms.tls.record(at * 2000, 1);
            histograms.settings.record(at * 70, at as usize % 2);
            histograms.stream.record(at * 900, 3);
        }
        histograms.latency.record(u64::MAX, 1);
        let decoded = EncodedHistograms::new(&histograms).decode();
        let all = |it: &Histograms| {
            let own = [&it.latency, &it.uncorrected, &it.handshake, &it.lag].map(Clone::clone);
            let of_layers = it.of_layers().map(|(_, latencies)| latencies.clone());
            own.into_iter().chain(of_layers).collect::<Vec<Latencies>>()
        };
        for (decoded, latencies) in all(&decoded).iter().zip(&all(&histograms)) {
            assert_eq!(decoded.nanoseconds(), latencies.nanoseconds());
            for quantile in [0.0, 0.5, 0.999, 1.0] {
                let pair = [decoded, latencies].map(|it| it.quantile_us(quantile).to_bits());
                assert_eq!(pair[0], pair[1]);
            }
            assert_eq!(decoded.max_us().to_bits(), latencies.max_us().to_bits());
            assert_eq!(decoded.mean_us().to_bits(), latencies.mean_us().to_bits());
        }
    }

    #[test]
    fn histograms_with_other_bounds_are_understood() {
        let mut other = Histogram::<u64>::new_with_bounds(1, 10_000_000_000, 2).unwrap();
        other.record_n(1_000_000, 7).unwrap();
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&other, &mut bytes).unwrap();
        let decoded = decode(&bytes).unwrap();
        assert_eq!(decoded.samples(), 7);
        assert!((decoded.quantile_us(0.5) - 1000.0).abs() < 10.0);
        assert!(decode(b"no histogram").is_err());
    }
}
