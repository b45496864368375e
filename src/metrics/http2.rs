//! What is counted of HTTP/2: its connections, their streams, and why connections failed. A stream is no
//! connection to the other counters, but for the upgrades, refusals and messages that it has like any.

use std::collections::BTreeMap;

use strum::{EnumCount, VariantNames};

use super::{
    Counter,
    close_codes::{CloseCodes, CountedCode},
    counters_of,
};

/// Why a connection of HTTP/2 was ended by the server, by the error code that its peer was told
/// (RFC 9113 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumCount, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Http2Error {
    /// The peer did what the protocol does not allow.
    ProtocolError,
    /// The server was at fault, or the code has no name here.
    InternalError,
    /// The peer sent more than its windows allowed.
    FlowControlError,
    /// The peer did not acknowledge the settings.
    SettingsTimeout,
    /// The peer sent a frame for a stream that was closed.
    StreamClosed,
    /// A frame had a length that its type does not allow.
    FrameSizeError,
    /// A header block could not be decompressed.
    CompressionError,
    /// The peer sent too much of something.
    EnhanceYourCalm,
}

impl Http2Error {
    /// The names under which they are counted.
    pub const NAMES: [&'static str; Self::COUNT] = *Self::VARIANTS.first_chunk().unwrap();
}

impl From<h2::Reason> for Http2Error {
    fn from(reason: h2::Reason) -> Self {
        match reason {
            h2::Reason::PROTOCOL_ERROR => Self::ProtocolError,
            h2::Reason::FLOW_CONTROL_ERROR => Self::FlowControlError,
            h2::Reason::SETTINGS_TIMEOUT => Self::SettingsTimeout,
            h2::Reason::STREAM_CLOSED => Self::StreamClosed,
            h2::Reason::FRAME_SIZE_ERROR => Self::FrameSizeError,
            h2::Reason::COMPRESSION_ERROR => Self::CompressionError,
            h2::Reason::ENHANCE_YOUR_CALM => Self::EnhanceYourCalm,
            _ => Self::InternalError,
        }
    }
}

/// What one worker counts of HTTP/2.
#[doc(hidden)]
#[derive(Debug)]
pub struct Http2Counters {
    /// Connections that began to speak HTTP/2.
    pub connections: Counter,
    /// Their requests, each of which is a stream.
    pub streams: Counter,
    /// Streams that ended without a close code, by kind of end.
    ended: Vec<(&'static str, Counter)>,
    /// Streams that ended with a close code.
    ended_with_code: CloseCodes,
    /// Failed connections by error.
    errors: [Counter; Http2Error::COUNT],
}

/// The same of all workers, read once.
#[derive(Debug, Default)]
pub(super) struct Http2Snapshot {
    pub(super) connections: u64,
    pub(super) streams: u64,
    pub(super) ended: BTreeMap<(&'static str, CountedCode), u64>,
    pub(super) errors: BTreeMap<&'static str, u64>,
}

impl Http2Counters {
    /// All at zero, for these kinds of end.
    pub(super) fn new(end_kinds: &[&'static str]) -> Self {
        Self {
            connections: Counter::default(),
            streams: Counter::default(),
            ended: counters_of(end_kinds.iter().copied()),
            ended_with_code: CloseCodes::new(end_kinds.len()),
            errors: Default::default(),
        }
    }

    /// Counts a stream that ended in the way with this index, with the close code that it was sent, if
    /// it was sent one.
    pub fn count_end(&self, kind: usize, close_code: Option<u16>) {
        match close_code {
            None => self.ended[kind].1.add_last(1),
            Some(code) => self.ended_with_code.count(kind, code),
        }
    }

    /// Counts a failed connection.
    pub fn count_error(&self, error: Http2Error) {
        self.errors[error as usize].add(1);
    }

    /// The streams that ended, by kind.
    pub(super) fn ended(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.ended.iter().enumerate().map(|(kind, (name, counter))| {
            let with_code: u64 = self.ended_with_code.of_kind(kind).map(|(_, count)| count).sum();
            (*name, counter.get_first() + with_code)
        })
    }

    /// The failed connections by error.
    pub(super) fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Http2Error::NAMES.into_iter().zip(self.errors.iter().map(Counter::get))
    }
}

impl Http2Snapshot {
    /// Adds a worker's counters.
    pub(super) fn add(&mut self, counters: &Http2Counters) {
        // Ends come first, so that no stream seems to have ended before it began.
        for (kind, (name, counter)) in counters.ended.iter().enumerate() {
            let without_code = (CountedCode::Missing, counter.get_first());
            let with_code = counters.ended_with_code.of_kind(kind);
            for (code, count) in with_code.chain([without_code]) {
                *self.ended.entry((name, code)).or_default() += count;
            }
        }
        self.streams += counters.streams.get();
        self.connections += counters.connections.get();
        for (name, count) in counters.errors() {
            *self.errors.entry(name).or_default() += count;
        }
    }

    /// Streams that have not ended.
    pub(super) fn open(&self) -> u64 {
        self.streams.saturating_sub(self.ended.values().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_under_the_names_of_their_codes() {
        let counters = Http2Counters::new(&[]);
        counters.count_error(h2::Reason::ENHANCE_YOUR_CALM.into());
        counters.count_error(h2::Reason::from(0xff).into());
        let counted: Vec<_> = counters.errors().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("internal_error", 1), ("enhance_your_calm", 1)]);
    }

    #[test]
    fn streams_balance_whatever_they_end_with() {
        let counters = Http2Counters::new(&["closed", "refused"]);
        counters.streams.add(5);
        counters.count_end(0, Some(1000));
        counters.count_end(0, None);
        counters.count_end(1, None);
        let mut snapshot = Http2Snapshot::default();
        snapshot.add(&counters);
        assert_eq!(snapshot.open(), 2);
        assert_eq!(counters.ended().collect::<Vec<_>>(), [("closed", 2), ("refused", 1)]);
    }
}
