//! Counters: each worker counts for itself, and a reader sums the workers.
//!
//! A counter has one writer, so counting is a load and a store without a lock prefix.
//!
//! Here are the counters and their totals; `close_codes` counts ends by their close code, `histogram`
//! counts times by their length, and [`exposition`] writes all of it for Prometheus. What is counted,
//! and when, is left to whoever counts.

mod close_codes;
pub mod exposition;
mod histogram;
mod http2;
mod refusal_reason;
mod tls;

use std::{
    array,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use strum::{EnumCount, VariantNames};

use self::{
    close_codes::CloseCodes,
    histogram::{HANDSHAKE_TIMES, LATENESSES, TURN_TIMES},
};
use crate::{
    protocol::{
        ProtocolError,
        reply::{ControlFrames, Reply},
    },
    pulse::Pulse,
};

pub use self::{http2::Http2Error, refusal_reason::RefusalReason};

#[doc(hidden)]
pub use self::{histogram::Histogram, http2::Http2Counters, tls::TlsCounters};

/// The classes of status that responses other than a 101 have.
const RESPONSE_CLASSES: [&str; 3] = ["2xx", "4xx", "5xx"];

/// What one worker counts. The numbers only grow, but for those that are a [`Level`].
#[doc(hidden)]
#[derive(Debug)]
pub struct Counters {
    /// Connections admitted, whichever worker accepted them.
    pub accepted: Counter,
    /// Connections upgraded to the WebSocket protocol.
    pub upgraded: Counter,
    /// Messages whose echo was produced.
    pub messages: Counter,
    /// Those of them that were text; the others were binary.
    pub text_messages: Counter,
    /// Bytes received on upgraded connections.
    pub received_bytes: Counter,
    /// Bytes that upgraded connections were sent: given to the kernel, or copied for a peer that does
    /// not read.
    pub sent_bytes: Counter,
    /// Pings answered with a Pong.
    pub pings_received: Counter,
    /// Pings sent to silent peers.
    pub pings_sent: Counter,
    /// Pongs received.
    pub pongs_received: Counter,
    /// Wake-ups that the kernel lost: what had arrived was found only by the next sweep.
    pub late_wake_ups: Counter,
    /// Bytes of the receive buffers that the connections share.
    pub shared_buffer_bytes: Level,
    /// Bytes that connections hold which are tasks, as of the last sweep: request heads, receive
    /// buffers, held frames, and what was received ahead of a peer that does not read.
    pub own_buffer_bytes: Level,
    /// Bytes of the engine's copies for peers that do not read, as of the last sweep.
    pub copy_bytes: Level,
    /// TLS handshakes.
    pub tls: TlsCounters,
    /// From a connection's admission to its 101.
    pub handshake_times: Histogram,
    /// From what the kernel reports in a turn of the engine to the end of the turn; of every so many
    /// turns one.
    pub turn_times: Histogram,
    /// How late sweeps began.
    pub sweep_latenesses: Histogram,
    /// Connections that ended without a close code, by kind of end.
    ended: Vec<(&'static str, Counter)>,
    /// Connections that ended with a close code.
    ended_with_code: CloseCodes,
    /// Refused connections and streams by reason; together they are those that ended as refused.
    refused: [Counter; RefusalReason::COUNT],
    /// Responses to requests other than a 101, by class of status: 2xx, 4xx, 5xx.
    responses: [Counter; RESPONSE_CLASSES.len()],
    /// Failed connections, by what the peer did.
    protocol_errors: Vec<(&'static str, Counter)>,
    /// What is counted of HTTP/2.
    pub http2: Http2Counters,
    /// What its thread is doing.
    pub pulse: Pulse,
}

/// A number of which one thread says how large it is, and any thread reads it.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

/// Connections that ended in one way: the counter of those that had no close code, and the number of
/// all.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    counters: &'a Counters,
    kind: usize,
}

/// A number that one thread counts up and any thread reads.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// The counters of all workers, summed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections accepted, by worker.
    pub accepted_by_worker: Vec<u64>,
    /// TLS handshakes done.
    pub tls_handshakes: u64,
    /// Connections upgraded to the WebSocket protocol.
    pub upgraded: u64,
    /// Messages whose echo was produced.
    pub messages: u64,
    /// Bytes received on upgraded connections.
    pub received_bytes: u64,
    /// Wake-ups that the kernel lost: what had arrived was found only by the next sweep.
    pub late_wake_ups: u64,
    /// Connections that ended, by kind of end; kinds that did not occur are left out.
    pub ended: Vec<(&'static str, u64)>,
    /// Refused connections, by reason; reasons that did not occur are left out.
    pub refused: Vec<(&'static str, u64)>,
    /// Streams of HTTP/2, each a request.
    pub streams: u64,
    /// Streams of HTTP/2 that ended, by kind of end; kinds that did not occur are left out.
    pub streams_ended: Vec<(&'static str, u64)>,
    /// Failed connections of HTTP/2 by error; errors that did not occur are left out.
    pub http2_errors: Vec<(&'static str, u64)>,
}

impl Counters {
    /// All at zero, for these kinds of end.
    pub fn new(end_kinds: &[&'static str]) -> Self {
        Self {
            accepted: Counter::default(),
            upgraded: Counter::default(),
            messages: Counter::default(),
            text_messages: Counter::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            pings_received: Counter::default(),
            pings_sent: Counter::default(),
            pongs_received: Counter::default(),
            late_wake_ups: Counter::default(),
            shared_buffer_bytes: Level::default(),
            own_buffer_bytes: Level::default(),
            copy_bytes: Level::default(),
            tls: TlsCounters::default(),
            handshake_times: Histogram::new(HANDSHAKE_TIMES),
            turn_times: Histogram::new(TURN_TIMES),
            sweep_latenesses: Histogram::new(LATENESSES),
            ended: counters_of(end_kinds.iter().copied()),
            ended_with_code: CloseCodes::new(end_kinds.len()),
            refused: array::from_fn(|_| Counter::default()),
            responses: Default::default(),
            protocol_errors: counters_of(ProtocolError::VARIANTS.iter().copied()),
            http2: Http2Counters::new(end_kinds),
            pulse: Pulse::default(),
        }
    }

    /// Connections that ended in the way with this index among the kinds.
    pub fn ended(&self, kind: usize) -> Ended<'_> {
        Ended { counters: self, kind }
    }

    /// Counts a connection that ended in the way with this index, with the close code that it was
    /// sent, if it was sent one.
    pub fn count_end(&self, kind: usize, close_code: Option<u16>) {
        match close_code {
            None => self.ended[kind].1.add_last(1),
            Some(code) => self.ended_with_code.count(kind, code),
        }
    }

    /// The number of connections that ended, in any way.
    pub fn ended_count(&self) -> u64 {
        (0..self.ended.len()).map(|kind| self.ended(kind).get()).sum()
    }

    /// The refused requests and failed connections by reason.
    pub fn faults(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let errors = self.protocol_errors.iter().map(|(name, counter)| (*name, counter.get()));
        self.refusals().chain(errors)
    }

    /// The refused connections by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RefusalReason::NAMES.into_iter().zip(self.refused.iter().map(Counter::get))
    }

    /// The counter for connections that were refused for this reason.
    pub fn refused(&self, reason: RefusalReason) -> &Counter {
        &self.refused[reason.index()]
    }

    /// Counts a response to a request, other than a 101.
    pub fn count_response(&self, status: http::StatusCode) {
        let class = match status.as_u16() {
            500.. => 2,
            400.. => 1,
            _ => 0,
        };
        self.responses[class].add(1);
    }

    /// Answered requests, by class of status; a 101 is what upgrades.
    pub fn responses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let others = self.responses.iter().map(Counter::get);
        [("1xx", self.upgraded.get())].into_iter().chain(RESPONSE_CLASSES.into_iter().zip(others))
    }

    /// Counts a failed connection by what its peer did.
    pub fn count_protocol_error(&self, error: ProtocolError) {
        self.protocol_errors[error as usize].1.add(1);
    }

    /// Counts what a chunk of received bytes has been answered with.
    #[inline]
    pub fn count_reply(&self, received_len: usize, reply: &Reply) {
        self.received_bytes.add(received_len as u64);
        self.messages.add(reply.messages.into());
        self.text_messages.add(reply.texts.into());
        self.sent_bytes.add(reply.sent_len() as u64);
        if reply.controls != ControlFrames::default() {
            self.count_control_frames(reply.controls);
        }
    }

    #[cold]
    fn count_control_frames(&self, controls: ControlFrames) {
        self.pings_received.add(controls.pings.into());
        self.pongs_received.add(controls.pongs.into());
    }
}

/// Counters at zero, by name.
fn counters_of(names: impl Iterator<Item = &'static str>) -> Vec<(&'static str, Counter)> {
    names.map(|name| (name, Counter::default())).collect()
}

impl Ended<'_> {
    /// Adds connections that ended without a close code.
    pub fn add(self, amount: u64) {
        self.counters.ended[self.kind].1.add_last(amount);
    }

    /// The number of connections that ended in this way.
    pub fn get(self) -> u64 {
        let Self { counters, kind } = self;
        let with_code: u64 = counters.ended_with_code.of_kind(kind).map(|(_, count)| count).sum();
        counters.ended[kind].1.get_first() + with_code
    }
}

impl Level {
    /// Says how large the number is.
    pub fn set(&self, level: u64) {
        self.0.store(level, Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Counter {
    /// Adds `amount`. Only the counter's own thread may call this, since the load and the store are
    /// not one step: of two threads that add at once, one would undo the other's addition.
    ///
    /// After the end of a worker another thread may add in its place, if it has learned of that end
    /// by a channel or a join, which order its load behind the worker's last store.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.get() + amount, Relaxed);
    }

    /// The same, for what comes last: whoever reads this amount by [`get_first`](Self::get_first) then
    /// also finds what this thread has counted before.
    fn add_last(&self, amount: u64) {
        self.0.store(self.get() + amount, Release);
    }

    /// The number now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn get_first(&self) -> u64 {
        self.0.load(Acquire)
    }
}

impl Totals {
    /// Adds the next worker's counters.
    #[doc(hidden)]
    pub fn add(&mut self, counters: &Counters) {
        // Ends come first, so that no connection seems to have ended before it was accepted.
        let kinds = counters.ended.iter().enumerate();
        let ended = kinds.map(|(kind, (name, _))| (*name, counters.ended(kind).get()));
        add_by_name(&mut self.ended, ended);
        add_by_name(&mut self.refused, counters.refusals());
        add_by_name(&mut self.streams_ended, counters.http2.ended());
        add_by_name(&mut self.http2_errors, counters.http2.errors());
        self.streams += counters.http2.streams.get();
        self.accepted += counters.accepted.get();
        self.accepted_by_worker.push(counters.accepted.get());
        self.tls_handshakes += counters.tls.done_count();
        self.upgraded += counters.upgraded.get();
        self.messages += counters.messages.get();
        self.received_bytes += counters.received_bytes.get();
        self.late_wake_ups += counters.late_wake_ups.get();
    }

    /// Connections that have ended, in any way.
    pub fn ended_count(&self) -> u64 {
        self.ended.iter().map(|(_, count)| count).sum()
    }
}

/// Adds numbers to the sums of the same names; those of zero are left out.
fn add_by_name(
    sums: &mut Vec<(&'static str, u64)>,
    numbers: impl Iterator<Item = (&'static str, u64)>,
) {
    for (name, number) in numbers.filter(|(_, number)| *number > 0) {
        match sums.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += number,
            None => sums.push((name, number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_sum_the_workers() {
        let workers = [Counters::new(&["closed", "failed"]), Counters::new(&["closed", "failed"])];
        workers[0].accepted.add(2);
        workers[1].accepted.add(3);
        workers[0].ended(0).add(1);
        workers[1].count_end(0, Some(1000));
        workers[0].refused(RefusalReason::NoEcho).add(1);
        workers[1].refused(RefusalReason::NoEcho).add(2);
        workers[1].refused(RefusalReason::Stopping).add(1);
        let mut totals = Totals::default();
        for counters in &workers {
            totals.add(counters);
        }
        assert_eq!(totals.accepted, 5);
        assert_eq!(totals.accepted_by_worker, [2, 3]);
        assert_eq!(totals.ended, [("closed", 2)]);
        assert_eq!(totals.ended_count(), 2);
        assert_eq!(totals.refused, [("no_echo", 3), ("stopping", 1)]);
    }
}
