//! Messages of a server, compared with those that were sent to it.
//!
//! Payloads are compared where they lie; all that is copied are the first bytes of a message that
//! is not the expected echo. Echoes have to come in the order of their messages. What comes instead
//! is told apart by [`Doubt`], and the comparison goes on behind it: one echo that was dropped,
//! repeated, damaged or late is one error.
//!
//! A message takes the place of the expected echo only if it may be that echo. One of the other type
//! (a text in a binary run, or the other way round) is judged by its content: the echo of another
//! message, the expected one retyped, or one that nobody asked for, and then the echo is still to
//! come.

use ringecho::protocol::OpCode;

use super::{
    passed_over::PassedOver,
    received::{Irregularity, Received, WrongEcho},
};
use crate::payload::{
    IDENTITY_LEN, Message, PayloadKind, Payloads,
    deflate::{Inflater, NotDeflated},
};

/// The messages of one connection, the present one and what is expected of it.
#[derive(Debug)]
pub(super) struct Comparison {
    /// The number of the message whose echo is next.
    next: u64,
    /// The message whose echo the present one should be: the next one, unless there is a doubt.
    expected: Message,
    /// Bytes of payload of the present message so far.
    position: usize,
    /// The error of a present message that has another type than those that were sent.
    retyped: Option<WrongEcho>,
    /// Whether the present message is compressed.
    deflated: bool,
    /// The inflater, once a compressed message has come.
    inflater: Option<Box<Inflater>>,
    doubt: Option<Doubt>,
    passed_over: PassedOver,
}

/// What is known of a message that is not simply the next echo.
#[derive(Debug)]
enum Doubt {
    /// It does not begin like the next echo. These are its first bytes.
    Unidentified(Vec<u8>),
    /// Its role is known, and the first thing that is wrong with it as the echo of that message.
    Identified { role: Role, wrong: Option<WrongEcho> },
}

/// Which message a message is the echo of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The echo of the expected message, after `passed_over` messages without one.
    Next { passed_over: usize },
    /// The echo of a message that was passed over.
    Late,
    /// The echo of a message that was answered before.
    Repeated,
    /// No echo of any message on its way.
    Unasked,
}

/// The echo that was expected.
const NEXT: Role = Role::Next { passed_over: 0 };

impl Comparison {
    /// Expects the echo of message `sequence` first.
    pub(super) fn new(sequence: u64, payloads: &Payloads) -> Self {
        Self {
            next: sequence,
            expected: payloads.message(sequence),
            position: 0,
            retyped: None,
            deflated: false,
            inflater: None,
            doubt: None,
            passed_over: PassedOver::default(),
        }
    }

    /// Messages that were passed over and whose echo has not come since.
    pub(super) fn passed_over(&self) -> usize {
        self.passed_over.count()
    }

    /// Bytes of payload of the next echo, if no message has begun.
    #[inline]
    pub(super) fn expected_len(&self) -> usize {
        self.expected.len()
    }

    /// Takes the whole payload of the next echo, if `rest` begins with it, and returns what is
    /// behind it. No message may have begun.
    #[inline]
    pub(super) fn take_whole<'a>(
        &mut self,
        rest: &'a [u8],
        payloads: &Payloads,
    ) -> Option<&'a [u8]> {
        let (payload, behind) = rest.split_at_checked(self.expected.len())?;
        if !payloads.matches(&self.expected, 0, payload) {
            return None;
        }
        self.next = self.next.wrapping_add(1);
        self.expected = payloads.message(self.next);
        Some(behind)
    }

    /// Begins a message of the type `opcode`, compressed or not.
    pub(super) fn begin(
        &mut self,
        opcode: OpCode,
        deflated: bool,
        in_flight: usize,
        kind: PayloadKind,
    ) {
        self.retyped = match (kind, opcode) {
            (PayloadKind::Text, OpCode::Binary) => Some(WrongEcho::TextAsBinary),
            (PayloadKind::Binary, OpCode::Text) => Some(WrongEcho::BinaryAsText),
            _ => None,
        };
        if in_flight == 0 || self.retyped.is_some() {
            self.doubt = Some(Doubt::Unidentified(Vec::new()));
        }
        self.deflated = deflated;
        if deflated {
            self.inflater.get_or_insert_default().begin();
        }
    }

    /// Compares the next bytes of the message, as they came.
    #[inline]
    pub(super) fn take(&mut self, bytes: &[u8], in_flight: usize, payloads: &Payloads) {
        if self.deflated {
            self.inflate(Some(bytes), in_flight, payloads);
        } else {
            self.compare(bytes, in_flight, payloads);
        }
    }

    /// Ends the message, and counts it.
    pub(super) fn end(&mut self, in_flight: usize, payloads: &Payloads, received: &mut Received) {
        if self.deflated {
            self.inflate(None, in_flight, payloads);
        }
        if self.doubt.is_none() && self.position == self.expected.len() {
            received.echoes += 1;
            received.payload_len += self.position as u64;
            self.next = self.next.wrapping_add(1);
        } else {
            self.end_irregular(in_flight, payloads, received);
        }
        self.expected = payloads.message(self.next);
        self.position = 0;
    }

    /// Compares what the next bytes of a compressed message inflate to, or without bytes what is
    /// left at its end.
    fn inflate(&mut self, bytes: Option<&[u8]>, in_flight: usize, payloads: &Payloads) {
        let Some(mut inflater) = self.inflater.take() else {
            return;
        };
        let compare = |piece: &[u8]| self.compare(piece, in_flight, payloads);
        let outcome = match bytes {
            Some(bytes) => inflater.inflate(bytes, compare),
            None => inflater.end(compare),
        };
        self.inflater = Some(inflater);
        if outcome == Err(NotDeflated) {
            // What follows of the message cannot be understood.
            self.deflated = false;
            let role = match self.doubt {
                // Its first bytes have told.
                Some(Doubt::Identified { role, .. }) => role,
                _ if in_flight > 0 && self.retyped.is_none() => NEXT,
                _ => Role::Unasked,
            };
            let wrong = Some(WrongEcho::NotDeflated);
            self.doubt = Some(Doubt::Identified { role, wrong });
        }
    }

    /// Compares the next bytes of the message.
    #[inline]
    fn compare(&mut self, payload: &[u8], in_flight: usize, payloads: &Payloads) {
        let fits = payload.len() <= self.expected.len().saturating_sub(self.position);
        if self.doubt.is_none() && fits && payloads.matches(&self.expected, self.position, payload)
        {
            self.position += payload.len();
        } else {
            self.compare_doubtful(payload, in_flight, payloads);
        }
    }

    #[cold]
    fn compare_doubtful(&mut self, payload: &[u8], in_flight: usize, payloads: &Payloads) {
        let mut payload = payload;
        if self.doubt.is_none() {
            self.doubt = Some(self.first_doubt(payload, payloads));
        }
        if let Some(Doubt::Unidentified(front)) = &mut self.doubt {
            let here = (IDENTITY_LEN - front.len()).min(payload.len());
            front.extend_from_slice(&payload[..here]);
            if front.len() < IDENTITY_LEN {
                return;
            }
            payload = &payload[here..];
            self.identify(in_flight, payloads);
        }
        if let Some(Doubt::Identified { wrong, .. }) = &mut self.doubt {
            *wrong = wrong.or_else(|| difference(payloads, &self.expected, self.position, payload));
        }
        self.position += payload.len();
    }

    /// What to think of a message that was the next echo so far and now goes on with `payload`.
    fn first_doubt(&self, payload: &[u8], payloads: &Payloads) -> Doubt {
        let differs_at = payloads.first_difference(&self.expected, self.position, payload);
        let identity_len = payloads.identity_len(&self.expected);
        if differs_at.is_some_and(|(at, _)| at < identity_len) {
            let mut front = Vec::with_capacity(IDENTITY_LEN);
            payloads.append(&self.expected, 0, self.position, &mut front);
            return Doubt::Unidentified(front);
        }
        Doubt::Identified { role: NEXT, wrong: None }
    }

    /// Finds out which message the unidentified one is the echo of.
    fn identify(&mut self, in_flight: usize, payloads: &Payloads) {
        let Some(Doubt::Unidentified(front)) = &mut self.doubt else {
            return;
        };
        let front = std::mem::take(front);
        let has_type = self.retyped.is_none();
        let role = match payloads.identify(&front, self.next, in_flight, has_type) {
            Some(ahead @ 0..) if in_flight > 0 => {
                for _ in 0..ahead {
                    self.passed_over.insert(self.next);
                    self.next = self.next.wrapping_add(1);
                }
                self.expected = payloads.message(self.next);
                Role::Next { passed_over: ahead.cast_unsigned() as usize }
            }
            Some(behind @ ..0) => {
                let sequence = self.next.wrapping_add_signed(behind);
                self.expected = payloads.message(sequence);
                if self.passed_over.remove(sequence) { Role::Late } else { Role::Repeated }
            }
            _ if in_flight > 0 && self.resembles_next(&front, payloads) => NEXT,
            _ => Role::Unasked,
        };
        let wrong = difference(payloads, &self.expected, 0, &front);
        self.position = front.len();
        self.doubt = Some(Doubt::Identified { role, wrong });
    }

    /// Whether what begins with `front` may be the next echo, damaged.
    fn resembles_next(&self, front: &[u8], payloads: &Payloads) -> bool {
        match self.retyped {
            None => payloads.resembles(&self.expected, front),
            Some(WrongEcho::BinaryAsText) => payloads.resembles_as_text(&self.expected, front),
            Some(_) => payloads.resembles_in_full(&self.expected, front),
        }
    }

    /// Whether the present message, whose content is that of no message, is taken for the next echo
    /// all the same: it has the other type and, if lengths are verified, the next echo's length.
    fn stands_for_next(&self, in_flight: usize, payloads: &Payloads) -> bool {
        let has_length = !payloads.verifies_length() || self.position == self.expected.len();
        self.retyped.is_some() && in_flight > 0 && has_length
    }

    #[cold]
    fn end_irregular(&mut self, in_flight: usize, payloads: &Payloads, received: &mut Received) {
        self.identify(in_flight, payloads);
        let (role, wrong) = match self.doubt.take() {
            Some(Doubt::Identified { role: Role::Unasked, wrong })
                if self.stands_for_next(in_flight, payloads) =>
            {
                (NEXT, wrong)
            }
            Some(Doubt::Identified { role, wrong }) => (role, wrong),
            _ => (NEXT, None),
        };
        let too_short = payloads.verifies_length() && self.position < self.expected.len();
        let too_short = too_short.then_some(WrongEcho::TooShort(self.position));
        let wrong = self.retyped.or(wrong).or(too_short);
        received.irregularity = Some(match role {
            Role::Next { passed_over } => {
                self.next = self.next.wrapping_add(1);
                if wrong.is_none() {
                    received.payload_len += self.position as u64;
                }
                Irregularity { passed_over, answers: true, wrong }
            }
            Role::Late => extra(wrong.unwrap_or(WrongEcho::Late)),
            Role::Repeated => extra(WrongEcho::Repeated),
            Role::Unasked => extra(WrongEcho::Unasked),
        });
    }
}

/// A message that answers none in flight.
fn extra(wrong: WrongEcho) -> Irregularity {
    Irregularity { passed_over: 0, answers: false, wrong: Some(wrong) }
}

/// How `payload`, from byte `from` of a message on, differs from that of `expected`.
fn difference(
    payloads: &Payloads,
    expected: &Message,
    from: usize,
    payload: &[u8],
) -> Option<WrongEcho> {
    if let Some((at, expected)) = payloads.first_difference(expected, from, payload) {
        return Some(WrongEcho::Differs { at, expected, received: payload[at - from] });
    }
    let too_long = payloads.verifies_length() && from + payload.len() > expected.len();
    too_long.then_some(WrongEcho::TooLong(expected.len()))
}
