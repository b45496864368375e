//! Ends of connections by the close code that was sent. Codes of applications are chosen by peers, so
//! their number is bounded: once [`PLACES`] pairs of a kind and such a code have been seen, ends with
//! further ones are counted together.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use super::Counter;

/// Pairs of a kind of end and an application's close code that are counted apart.
const PLACES: usize = 32;

/// The first code of the protocol's own, and the number of those that are always counted apart.
const PROTOCOL_CODES_FIRST: u16 = 1000;
const PROTOCOL_CODES: usize = 16;

#[derive(Debug)]
pub(super) struct CloseCodes {
    /// Ends with the protocol's own codes, by kind.
    protocol: Vec<[Counter; PROTOCOL_CODES]>,
    places: [Place; PLACES],
    /// Ends with codes that found no place, by kind.
    others: Vec<Counter>,
}

#[derive(Debug, Default)]
struct Place {
    /// The kind and the code; 0 while the place is vacant, which no pair is.
    pair: AtomicU32,
    count: Counter,
}

/// A close code as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CountedCode {
    /// No Close frame was sent, or one without a code.
    Missing,
    /// This code.
    Code(u16),
    /// A code that is counted together with others.
    Other,
}

impl CloseCodes {
    pub(super) fn new(kinds: usize) -> Self {
        Self {
            protocol: (0..kinds).map(|_| Default::default()).collect(),
            places: Default::default(),
            others: (0..kinds).map(|_| Counter::default()).collect(),
        }
    }

    /// Counts an end. Only the counters' own thread may call this.
    pub(super) fn count(&self, kind: usize, code: u16) {
        let protocol = code.checked_sub(PROTOCOL_CODES_FIRST).map(usize::from);
        if let Some(counter) = protocol.and_then(|at| self.protocol[kind].get(at)) {
            return counter.add_last(1);
        }
        let pair = (kind as u32) << 16 | u32::from(code);
        for place in &self.places {
            let taken_by = place.pair.load(Relaxed);
            if taken_by == pair || taken_by == 0 {
                place.count.add_last(1);
                // Behind the count: whoever finds the pair finds its first end as well.
                place.pair.store(pair, Release);
                return;
            }
        }
        self.others[kind].add_last(1);
    }

    /// The ends of one kind by their code; those without ends are left out.
    pub(super) fn of_kind(&self, kind: usize) -> impl Iterator<Item = (CountedCode, u64)> {
        let codes = PROTOCOL_CODES_FIRST..;
        let protocol = codes.zip(&self.protocol[kind]).filter_map(|(code, counter)| {
            let count = counter.get_first();
            (count > 0).then_some((CountedCode::Code(code), count))
        });
        let places = self.places.iter().filter_map(move |place| {
            let pair = place.pair.load(Acquire);
            let is_of_kind = pair != 0 && pair >> 16 == kind as u32;
            is_of_kind.then(|| (CountedCode::Code(pair as u16), place.count.get_first()))
        });
        let others = self.others[kind].get_first();
        protocol.chain(places).chain((others > 0).then_some((CountedCode::Other, others)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_counted_apart_until_the_places_are_taken() {
        let codes = CloseCodes::new(2);
        for code in 3000..3000 + PLACES as u16 + 5 {
            codes.count(1, code);
        }
        codes.count(1, 3000);
        codes.count(0, 1000);
        let counted: Vec<_> = codes.of_kind(1).collect();
        assert_eq!(counted.len(), PLACES + 1);
        assert_eq!(counted[0], (CountedCode::Code(3000), 2));
        assert_eq!(counted[PLACES], (CountedCode::Other, 5));
        codes.count(0, 3000);
        let counted: Vec<_> = codes.of_kind(0).collect();
        assert_eq!(counted, [(CountedCode::Code(1000), 1), (CountedCode::Other, 1)]);
    }
}
