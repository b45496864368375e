//! Compares what a server sends with the messages that were sent to it.
//!
//! [`Verifier`] is the receiving side of one connection, without I/O or a clock. It consumes every
//! received chunk, wherever the stream was cut, and compares payloads where they lie: nothing is
//! copied or collected but a split frame header, the payload of a control frame, and the first
//! bytes of a message that is not the expected echo. The server may fragment an echo as it likes.
//!
//! Echoes have to come in the order of their messages. What comes instead is told apart by
//! [`Doubt`], and verification goes on behind it: one echo that was dropped, repeated, damaged or
//! late is one error.

use ringecho::protocol::{
    OpCode, ProtocolError,
    frame_header::{CONTROL_PAYLOAD_LEN_MAX, FRAME_HEADER_LEN_MAX, FrameHeader},
};
use thiserror::Error;

use crate::{
    deflate::{Inflater, NotDeflated},
    passed_over::PassedOver,
    payload::{IDENTITY_LEN, Message, PayloadKind, Payloads},
    plan::EchoKind,
};

/// What the consumed part of a chunk contained.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes of the chunk that were consumed: all of them, unless there is an `irregularity` or an
    /// `end`.
    pub(crate) consumed: usize,
    /// Messages whose echo was completed, correct and in order.
    pub(crate) echoes: usize,
    /// Bytes of payload of these echoes.
    pub(crate) payload_len: u64,
    /// The message behind these echoes, if it was another one than the next echo.
    pub(crate) irregularity: Option<Irregularity>,
    /// The payload of the last Ping, which is the only one that has to be answered (RFC 6455
    /// §5.5.3).
    pub(crate) ping: Option<Vec<u8>>,
    /// The payload of the last Pong.
    pub(crate) pong: Option<Vec<u8>>,
    /// Why nothing further is looked at.
    pub(crate) end: Option<StreamEnd>,
}

/// A message that is not the next echo, or not as it should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Irregularity {
    /// Messages in flight that are older than the echo: theirs are late, or will not come.
    pub(crate) passed_over: usize,
    /// Whether the oldest message behind these is answered by it.
    pub(crate) answers: bool,
    /// What is wrong with it; nothing if all that is irregular is what was passed over.
    pub(crate) wrong: Option<WrongEcho>,
}

/// Why the stream of frames ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The server sent a Close frame, with this code if any.
    Close(Option<u16>),
    /// The server violated the protocol.
    Violation(Violation),
}

/// How a message differs from the echo that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum WrongEcho {
    #[error("byte {at} of an echo is {received:#04x} instead of {expected:#04x}")]
    Differs { at: usize, expected: u8, received: u8 },
    #[error("an echo has {0} bytes of payload, less than its message")]
    TooShort(usize),
    #[error("an echo has more bytes of payload than the {0} of its message")]
    TooLong(usize),
    #[error("an echo is not compressed as RFC 7692 says")]
    NotDeflated,
    #[error("a text message came back as binary")]
    TextAsBinary,
    #[error("a binary message came back as text")]
    BinaryAsText,
    #[error("an echo came after that of a later message")]
    Late,
    #[error("an echo came twice")]
    Repeated,
    #[error("a message came that is no echo of any on its way")]
    Unasked,
}

/// A violation of RFC 6455 by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Violation {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.1
    //# A client MUST close a connection if it detects a masked
    //# frame.
    #[error("a frame from the server is masked")]
    Masked,
    #[error("a frame is not masked, so it is not what was sent")]
    NotMasked,
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
}

impl<V: Into<Violation>> From<V> for StreamEnd {
    fn from(violation: V) -> Self {
        Self::Violation(violation.into())
    }
}

/// The receiving side of one connection.
#[derive(Debug)]
pub(crate) struct Verifier {
    phase: Phase,
    /// The part of a frame header that has arrived, or of a control frame's payload.
    held: Vec<u8>,
    echo_kind: EchoKind,
    /// The number of the message whose echo is next.
    next: u64,
    /// What the present message is compared with: the next one's, unless there is a doubt.
    expected: Message,
    /// Bytes of payload of the present message in the frames so far.
    position: usize,
    /// Whether the message has begun and its last frame has not.
    fragmented: bool,
    /// Whether the server may compress messages.
    compression: bool,
    /// Whether the present message is compressed.
    deflated: bool,
    /// Once a compressed message has come.
    inflater: Option<Box<Inflater>>,
    doubt: Option<Doubt>,
    passed_over: PassedOver,
}

/// What the next received byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// A frame header.
    FrameHeader,
    /// The payload of a data frame, of which `remaining` bytes have not arrived.
    Data { remaining: u64, fin: bool },
    /// The payload of a control frame, of `len` bytes.
    Control { opcode: OpCode, len: usize },
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
    /// That of the next one, once so many are passed over.
    Next { passed_over: usize },
    /// One that was passed over.
    Late,
    /// One that was answered before.
    Repeated,
    /// None.
    Unasked,
}

/// The echo that was expected.
const NEXT: Role = Role::Next { passed_over: 0 };

impl Verifier {
    /// Expects the echo of message `sequence` first.
    pub(crate) fn new(
        sequence: u64,
        echo_kind: EchoKind,
        compression: bool,
        payloads: &Payloads,
    ) -> Self {
        Self {
            phase: Phase::FrameHeader,
            held: Vec::new(),
            echo_kind,
            next: sequence,
            expected: payloads.message(sequence),
            position: 0,
            fragmented: false,
            compression,
            deflated: false,
            inflater: None,
            doubt: None,
            passed_over: PassedOver::default(),
        }
    }

    /// Messages that were passed over and whose echo has not come since.
    pub(crate) fn passed_over(&self) -> usize {
        self.passed_over.count()
    }

    /// Consumes the next chunk of the stream up to the first irregularity, while `in_flight`
    /// messages are not answered.
    pub(crate) fn consume(
        &mut self,
        chunk: &[u8],
        in_flight: usize,
        payloads: &Payloads,
    ) -> Received {
        let mut received = Received::default();
        let mut rest = chunk;
        while !rest.is_empty() && received.irregularity.is_none() {
            let in_flight = in_flight - received.echoes;
            match self.consume_part(rest, in_flight, payloads, &mut received) {
                Ok(behind) => rest = behind,
                Err(end) => {
                    received.end = Some(end);
                    break;
                }
            }
        }
        received.consumed = chunk.len() - rest.len();
        received
    }

    /// Consumes a frame header or (a part of) a frame's payload, and returns what is behind it.
    #[inline]
    fn consume_part<'a>(
        &mut self,
        rest: &'a [u8],
        in_flight: usize,
        payloads: &Payloads,
        received: &mut Received,
    ) -> Result<&'a [u8], StreamEnd> {
        match self.phase {
            Phase::FrameHeader if self.held.is_empty() => {
                let Some((header, len)) = FrameHeader::decode(rest)? else {
                    self.held.extend_from_slice(rest);
                    return Ok(&[]);
                };
                if let Some(behind) = self.whole_echo(&header, &rest[len..], in_flight, payloads) {
                    received.echoes += 1;
                    received.payload_len += header.payload_len;
                    return Ok(behind);
                }
                self.begin_frame(&header, in_flight, payloads, received)?;
                Ok(&rest[len..])
            }
            Phase::FrameHeader => self.complete_header(rest, in_flight, payloads, received),
            Phase::Data { remaining, fin } => {
                let here = remaining.min(rest.len() as u64) as usize;
                let (payload, behind) = rest.split_at(here);
                let remaining = remaining - here as u64;
                self.phase = Phase::Data { remaining, fin };
                if self.deflated {
                    self.inflate(Some(payload), in_flight, payloads);
                } else {
                    self.compare(payload, in_flight, payloads);
                }
                if remaining == 0 {
                    self.end_data_frame(fin, in_flight, payloads, received);
                }
                Ok(behind)
            }
            Phase::Control { len, .. } => {
                let (payload, behind) = rest.split_at((len - self.held.len()).min(rest.len()));
                self.held.extend_from_slice(payload);
                self.end_control_frame(received)?;
                Ok(behind)
            }
        }
    }

    /// The common case: `rest` begins with the whole payload of the next echo, in one frame.
    /// Returns what is behind it.
    #[inline]
    fn whole_echo<'a>(
        &mut self,
        header: &FrameHeader,
        rest: &'a [u8],
        in_flight: usize,
        payloads: &Payloads,
    ) -> Option<&'a [u8]> {
        let masked = self.echo_kind == EchoKind::Bytes;
        let is_whole = header.fin
            && !header.rsv1
            && header.masking_key.is_some() == masked
            && header.opcode == payloads.kind().opcode()
            && header.payload_len == self.expected.len() as u64
            && !self.fragmented
            && in_flight > 0;
        if !is_whole {
            return None;
        }
        let (payload, behind) = rest.split_at_checked(self.expected.len())?;
        if !payloads.matches(&self.expected, 0, payload) {
            return None;
        }
        self.next = self.next.wrapping_add(1);
        self.expected = payloads.message(self.next);
        Some(behind)
    }

    /// Completes a header that was split, and returns what is behind it.
    #[cold]
    fn complete_header<'a>(
        &mut self,
        rest: &'a [u8],
        in_flight: usize,
        payloads: &Payloads,
        received: &mut Received,
    ) -> Result<&'a [u8], StreamEnd> {
        let held_len = self.held.len();
        self.held.extend_from_slice(&rest[..rest.len().min(FRAME_HEADER_LEN_MAX - held_len)]);
        let Some((header, len)) = FrameHeader::decode(&self.held)? else {
            return Ok(&[]);
        };
        self.held.clear();
        self.begin_frame(&header, in_flight, payloads, received)?;
        Ok(&rest[len - held_len..])
    }

    fn begin_frame(
        &mut self,
        header: &FrameHeader,
        in_flight: usize,
        payloads: &Payloads,
        received: &mut Received,
    ) -> Result<(), StreamEnd> {
        match (self.echo_kind, header.masking_key) {
            (EchoKind::Messages, None) | (EchoKind::Bytes, Some(_)) => {}
            (EchoKind::Messages, Some(_)) => return Err(Violation::Masked.into()),
            (EchoKind::Bytes, None) => return Err(Violation::NotMasked.into()),
        }
        //= https://www.rfc-editor.org/rfc/rfc7692#section-6.1
        //# An endpoint MUST NOT set the "Per-Message Compressed" bit of control
        //# frames and non-first fragments of a data message.
        let may_be_deflated = matches!(header.opcode, OpCode::Text | OpCode::Binary);
        if header.rsv1 && !(self.compression && may_be_deflated) {
            return Err(ProtocolError::ReservedBitSet.into());
        }
        match (header.opcode, self.fragmented) {
            (OpCode::Close | OpCode::Ping | OpCode::Pong, _) => {
                let len = header.payload_len.min(CONTROL_PAYLOAD_LEN_MAX) as usize;
                self.phase = Phase::Control { opcode: header.opcode, len };
                return self.end_control_frame(received);
            }
            (OpCode::Continuation, false) => {
                return Err(ProtocolError::ContinuationUnexpected.into());
            }
            (OpCode::Text | OpCode::Binary, true) => {
                return Err(ProtocolError::ContinuationMissing.into());
            }
            (OpCode::Text | OpCode::Binary, false) => {
                self.begin_message(header.opcode, in_flight, payloads.kind());
                self.deflated = header.rsv1;
                if self.deflated {
                    self.inflater.get_or_insert_default().begin();
                }
            }
            (OpCode::Continuation, true) => {}
        }
        self.phase = Phase::Data { remaining: header.payload_len, fin: header.fin };
        if header.payload_len == 0 {
            self.end_data_frame(header.fin, in_flight, payloads, received);
        }
        Ok(())
    }

    fn begin_message(&mut self, opcode: OpCode, in_flight: usize, kind: PayloadKind) {
        let retyped = match (kind, opcode) {
            (PayloadKind::Text, OpCode::Binary) => Some(WrongEcho::TextAsBinary),
            (PayloadKind::Binary, OpCode::Text) => Some(WrongEcho::BinaryAsText),
            _ => None,
        };
        if in_flight == 0 {
            self.doubt = Some(Doubt::Unidentified(Vec::new()));
        } else if retyped.is_some() {
            self.doubt = Some(Doubt::Identified { role: NEXT, wrong: retyped });
        }
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
            let role = if in_flight > 0 { NEXT } else { Role::Unasked };
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
        let role = match payloads.identify(&front, self.next, in_flight) {
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
            _ if in_flight > 0 && payloads.resembles(&self.expected, &front) => NEXT,
            _ => Role::Unasked,
        };
        let wrong = difference(payloads, &self.expected, 0, &front);
        self.position = front.len();
        self.doubt = Some(Doubt::Identified { role, wrong });
    }

    fn end_data_frame(
        &mut self,
        fin: bool,
        in_flight: usize,
        payloads: &Payloads,
        received: &mut Received,
    ) {
        self.phase = Phase::FrameHeader;
        self.fragmented = !fin;
        if !fin {
            return;
        }
        if self.deflated {
            self.inflate(None, in_flight, payloads);
        }
        if self.doubt.is_none() && self.position == self.expected.len() {
            received.echoes += 1;
            received.payload_len += self.position as u64;
            self.next = self.next.wrapping_add(1);
        } else {
            self.end_irregular_message(in_flight, payloads, received);
        }
        self.expected = payloads.message(self.next);
        self.position = 0;
    }

    #[cold]
    fn end_irregular_message(
        &mut self,
        in_flight: usize,
        payloads: &Payloads,
        received: &mut Received,
    ) {
        self.identify(in_flight, payloads);
        let (role, wrong) = match self.doubt.take() {
            Some(Doubt::Identified { role, wrong }) => (role, wrong),
            _ => (NEXT, None),
        };
        let too_short = payloads.verifies_length() && self.position < self.expected.len();
        let wrong = wrong.or(too_short.then_some(WrongEcho::TooShort(self.position)));
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

    /// Acts on a control frame, if its payload is there.
    #[cold]
    fn end_control_frame(&mut self, received: &mut Received) -> Result<(), StreamEnd> {
        let Phase::Control { opcode, len } = self.phase else {
            return Ok(());
        };
        if self.held.len() < len {
            return Ok(());
        }
        self.phase = Phase::FrameHeader;
        let payload = std::mem::take(&mut self.held);
        match opcode {
            OpCode::Ping => received.ping = Some(payload),
            OpCode::Close => return Err(close(&payload)),
            _ => received.pong = Some(payload),
        }
        Ok(())
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

fn close(payload: &[u8]) -> StreamEnd {
    match *payload {
        [] => StreamEnd::Close(None),
        [_] => ProtocolError::CloseCodeTruncated.into(),
        [high, low, ..] => StreamEnd::Close(Some(u16::from_be_bytes([high, low]))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::payload::{PayloadPlan, Verify};

    const FIRST: u64 = 1000;

    fn payloads(kind: PayloadKind, len: usize) -> Payloads {
        Payloads::new(&PayloadPlan::generated(kind, len), &mut SmallRng::seed_from_u64(1))
    }

    fn frame(fin: bool, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
        let payload_len = payload.len() as u64;
        let header = FrameHeader { fin, rsv1: false, opcode, masking_key: None, payload_len };
        let mut bytes = vec![0; header.encoded_len()];
        header.encode(&mut bytes);
        bytes.extend_from_slice(payload);
        bytes
    }

    fn payload(payloads: &Payloads, index: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let message = payloads.message(FIRST + index);
        payloads.append(&message, 0, message.len(), &mut bytes);
        bytes
    }

    fn echo(payloads: &Payloads, index: u64) -> Vec<u8> {
        frame(true, payloads.kind().opcode(), &payload(payloads, index))
    }

    fn consume(stream: &[u8], in_flight: usize, payloads: &Payloads) -> Received {
        Verifier::new(FIRST, EchoKind::Messages, false, payloads)
            .consume(stream, in_flight, payloads)
    }

    fn end_of(stream: &[u8], payloads: &Payloads) -> Option<StreamEnd> {
        consume(stream, 2, payloads).end
    }

    /// What a whole stream contained.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Account {
        echoes: usize,
        payload_len: u64,
        wrong: Vec<WrongEcho>,
        /// Messages without an echo.
        missing: usize,
        ping: Option<Vec<u8>>,
        pong: Option<Vec<u8>>,
        end: Option<StreamEnd>,
    }

    /// Verifies a stream that arrives in `chunks`, in answer to `sent` messages.
    fn account<'a>(
        chunks: impl IntoIterator<Item = &'a [u8]>,
        sent: usize,
        payloads: &Payloads,
    ) -> Account {
        let mut verifier = Verifier::new(FIRST, EchoKind::Messages, false, payloads);
        let mut account = Account::default();
        let mut in_flight = sent;
        for mut rest in chunks {
            while !rest.is_empty() && account.end.is_none() {
                let received = verifier.consume(rest, in_flight, payloads);
                rest = &rest[received.consumed..];
                account.echoes += received.echoes;
                account.payload_len += received.payload_len;
                in_flight -= received.echoes;
                account.ping = received.ping.or(account.ping);
                account.pong = received.pong.or(account.pong);
                account.end = received.end;
                if let Some(irregularity) = received.irregularity {
                    in_flight -= irregularity.passed_over + usize::from(irregularity.answers);
                    account.echoes += usize::from(irregularity.wrong.is_none());
                    account.wrong.extend(irregularity.wrong);
                }
            }
        }
        account.missing = in_flight + verifier.passed_over();
        account
    }

    #[test]
    fn echoes_in_order_are_counted() {
        let payloads = payloads(PayloadKind::Binary, 300);
        let stream = [echo(&payloads, 0), echo(&payloads, 1)].concat();
        let received = consume(&stream, 2, &payloads);
        assert_eq!(
            received,
            Received { consumed: 608, echoes: 2, payload_len: 600, ..Default::default() }
        );
    }

    /// Messages are answered by echoes with these numbers: what is wrong with them, and how many
    /// never come.
    #[track_caller]
    fn assert_order(numbers: &[u64], wrong: &[WrongEcho], missing: usize) {
        for kind in [PayloadKind::Binary, PayloadKind::Text] {
            for len in [16, 20, 300, 70_000] {
                let payloads = payloads(kind, len);
                let stream: Vec<u8> =
                    numbers.iter().flat_map(|number| echo(&payloads, *number)).collect();
                let account = account([&stream[..]], 5, &payloads);
                assert_eq!(account.wrong, wrong, "{kind:?} of {len} bytes");
                assert_eq!(account.missing, missing, "{kind:?} of {len} bytes");
                assert_eq!(account.echoes + account.missing + late(wrong), 5);
            }
        }
    }

    fn late(wrong: &[WrongEcho]) -> usize {
        wrong.iter().filter(|wrong| **wrong == WrongEcho::Late).count()
    }

    #[test]
    fn a_dropped_echo_is_missing_and_no_other() {
        assert_order(&[0, 1, 3, 4], &[], 1);
        assert_order(&[3, 4], &[], 3);
        assert_order(&[0, 1, 2, 3], &[], 1);
    }

    #[test]
    fn a_repeated_echo_is_one_too_many() {
        assert_order(&[0, 1, 1, 2, 3, 4], &[WrongEcho::Repeated], 0);
        assert_order(&[0, 1, 2, 3, 4, 4], &[WrongEcho::Repeated], 0);
        assert_order(&[0, 1, 2, 0, 3, 4], &[WrongEcho::Repeated], 0);
    }

    #[test]
    fn an_echo_out_of_order_is_late() {
        assert_order(&[0, 2, 1, 3, 4], &[WrongEcho::Late], 0);
        assert_order(&[3, 0, 1, 2, 4], &[WrongEcho::Late; 3], 0);
        assert_order(&[0, 2, 1, 1, 3, 4], &[WrongEcho::Late, WrongEcho::Repeated], 0);
    }

    #[test]
    fn a_message_that_nobody_sent_is_unasked() {
        assert_order(&[0, 1, 2, 3, 4, 5], &[WrongEcho::Unasked], 0);
        assert_order(&[0, 0x9e37_79b9_7f4a_7c15, 1, 2, 3, 4], &[WrongEcho::Unasked], 0);
    }

    #[test]
    fn echoes_that_are_not_the_message_are_wrong_and_the_next_one_is_right() {
        let payloads = payloads(PayloadKind::Binary, 300);
        let message = payload(&payloads, 0);
        let longer = [&message[..], b"x"].concat();
        let differs = |at: usize| {
            let mut corrupted = message.clone();
            corrupted[at] ^= 1;
            let (expected, received) = (message[at], corrupted[at]);
            let stream = frame(true, OpCode::Binary, &corrupted);
            (stream, WrongEcho::Differs { at, expected, received })
        };
        for (stream, wrong) in [
            differs(0),
            differs(7),
            differs(8),
            differs(200),
            differs(299),
            (frame(true, OpCode::Binary, &message[..299]), WrongEcho::TooShort(299)),
            (frame(true, OpCode::Binary, &message[..3]), WrongEcho::TooShort(3)),
            (frame(true, OpCode::Binary, b""), WrongEcho::TooShort(0)),
            (frame(true, OpCode::Binary, &longer), WrongEcho::TooLong(300)),
            (frame(true, OpCode::Text, &message), WrongEcho::BinaryAsText),
        ] {
            let stream = [stream, echo(&payloads, 1)].concat();
            let account = account([&stream[..]], 2, &payloads);
            assert_eq!(account.wrong, [wrong]);
            assert_eq!((account.echoes, account.missing), (1, 0), "{wrong}");
        }
    }

    #[test]
    fn only_what_is_to_be_verified_is() {
        let plan =
            |verify| PayloadPlan { verify, ..PayloadPlan::generated(PayloadKind::Binary, 300) };
        let stream = [
            frame(true, OpCode::Binary, &[7; 300]),
            frame(true, OpCode::Binary, &[7; 299]),
            frame(true, OpCode::Binary, &[7; 301]),
            frame(true, OpCode::Binary, &[7; 300]),
        ]
        .concat();
        for (verify, echoes, wrong) in [
            (Verify::Length, 1, &[WrongEcho::TooShort(299), WrongEcho::TooLong(300)][..]),
            (Verify::None, 3, &[]),
        ] {
            let payloads = Payloads::new(&plan(verify), &mut SmallRng::seed_from_u64(1));
            let account = account([&stream[..]], 3, &payloads);
            assert_eq!(account.echoes, echoes, "{verify:?}");
            assert_eq!(account.wrong, [wrong, &[WrongEcho::Unasked]].concat(), "{verify:?}");
        }
    }

    #[test]
    fn violations_are_named() {
        let payloads = payloads(PayloadKind::Binary, 4);
        for (stream, violation) in [
            (&[0x82, 0x84, 1, 2, 3, 4, 0, 0, 0, 0][..], Violation::Masked),
            (&[0xc2, 4], ProtocolError::ReservedBitSet.into()),
            (&[0x80, 4], ProtocolError::ContinuationUnexpected.into()),
            (&[0x02, 0, 0x82, 4], ProtocolError::ContinuationMissing.into()),
            (&[0x83, 0], ProtocolError::OpcodeReserved.into()),
            (&[0x88, 1, 3], ProtocolError::CloseCodeTruncated.into()),
        ] {
            assert_eq!(end_of(stream, &payloads), Some(StreamEnd::Violation(violation)));
        }
    }

    #[test]
    fn control_frames_may_stand_between_fragments() {
        let payloads = payloads(PayloadKind::Text, 100);
        let text = payload(&payloads, 0);
        let stream = [
            frame(false, OpCode::Text, &text[..33]),
            frame(true, OpCode::Ping, b"hello"),
            frame(false, OpCode::Continuation, b""),
            frame(true, OpCode::Pong, b"unasked"),
            frame(true, OpCode::Continuation, &text[33..]),
            frame(true, OpCode::Close, &[0x03, 0xe9]),
            b"whatever follows a Close frame".to_vec(),
        ]
        .concat();
        assert_eq!(
            account([&stream[..]], 1, &payloads),
            Account {
                echoes: 1,
                payload_len: 100,
                ping: Some(b"hello".to_vec()),
                pong: Some(b"unasked".to_vec()),
                end: Some(StreamEnd::Close(Some(1001))),
                ..Default::default()
            }
        );
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_stream_is_cut(
            len in 0_usize..70_000,
            fragments in 1_usize..5,
            fault: Option<prop::sample::Index>,
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let payloads = payloads(PayloadKind::Binary, len);
            let mut stream = Vec::new();
            for index in 0..3 {
                let bytes = payload(&payloads, index);
                let mut opcode = OpCode::Binary;
                for part in bytes.chunks((len / fragments).max(1)) {
                    stream.extend(frame(false, opcode, part));
                    stream.extend(frame(true, OpCode::Ping, &[index as u8]));
                    opcode = OpCode::Continuation;
                }
                stream.extend(frame(true, opcode, b""));
            }
            if let Some(at) = fault {
                let at = at.index(stream.len());
                stream[at] ^= 0x20;
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();

            let pieces = cuts.windows(2).map(|piece| &stream[piece[0]..piece[1]]);
            prop_assert_eq!(account(pieces, 3, &payloads), account([&stream[..]], 3, &payloads));
        }
    }
}
