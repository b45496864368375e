//! Compares what a server sends with the messages that were sent to it.
//!
//! [`Verifier`] is the receiving side of one connection, without I/O or a clock. It consumes every
//! received chunk whole, wherever the stream was cut, and compares payloads where they lie: nothing
//! is copied or collected but a split frame header and the payload of a control frame. The server
//! may fragment an echo as it likes. Echoes have to come in the order of their messages.

use ringecho::protocol::{
    OpCode, ProtocolError,
    frame_header::{CONTROL_PAYLOAD_LEN_MAX, FRAME_HEADER_LEN_MAX, FrameHeader},
};
use thiserror::Error;

use crate::{
    payload::{Message, PayloadKind, Payloads},
    plan::EchoKind,
};

/// What one chunk contained.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// Messages whose echo was completed, and correct.
    pub(crate) echoes: usize,
    /// The payload of the last Ping, which is the only one that has to be answered (RFC 6455
    /// §5.5.3).
    pub(crate) ping: Option<Vec<u8>>,
    /// Why nothing further is looked at.
    pub(crate) end: Option<StreamEnd>,
}

/// Why the stream of frames ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The server sent a Close frame, with this code if any.
    Close(Option<u16>),
    /// A message came that is not the next echo.
    Wrong(WrongEcho),
    /// The server violated the protocol.
    Violation(Violation),
}

/// How a message differs from the echo that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum WrongEcho {
    #[error("byte {at} of an echo is {received:#04x} instead of {expected:#04x}")]
    Differs { at: usize, expected: u8, received: u8 },
    #[error("an echo has {0} bytes of payload, less than its message")]
    TooShort(u64),
    #[error("an echo has {0} bytes of payload or more, more than its message")]
    TooLong(u64),
    #[error("a text message came back as binary")]
    TextAsBinary,
    #[error("a binary message came back as text")]
    BinaryAsText,
    #[error("a message came while none was on its way")]
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

impl From<WrongEcho> for StreamEnd {
    fn from(wrong: WrongEcho) -> Self {
        Self::Wrong(wrong)
    }
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
    echo_kind: EchoKind,
    /// The number of the message whose echo is next.
    sequence: u64,
    expected: Message,
    /// Bytes of the echo in the frames so far.
    position: usize,
    /// Whether the echo has begun and its last frame has not.
    fragmented: bool,
}

/// What the next received byte belongs to.
#[derive(Debug)]
enum Phase {
    /// A frame header, of which this much has arrived.
    FrameHeader(Vec<u8>),
    /// The payload of a data frame, of which `remaining` bytes have not arrived.
    Data { remaining: u64, fin: bool },
    /// The payload of a control frame, of which this much of `len` bytes has arrived.
    Control { opcode: OpCode, payload: Vec<u8>, len: usize },
}

const BETWEEN_FRAMES: Phase = Phase::FrameHeader(Vec::new());

impl Verifier {
    /// Expects the echo of message `sequence` first.
    pub(crate) fn new(sequence: u64, echo_kind: EchoKind, payloads: &Payloads) -> Self {
        Self {
            phase: BETWEEN_FRAMES,
            echo_kind,
            sequence,
            expected: payloads.message(sequence),
            position: 0,
            fragmented: false,
        }
    }

    /// Consumes the next chunk of the stream, while `in_flight` messages are not answered.
    pub(crate) fn consume(
        &mut self,
        chunk: &[u8],
        in_flight: usize,
        payloads: &Payloads,
    ) -> Received {
        let mut received = Received::default();
        received.end = self.consume_frames(chunk, in_flight, payloads, &mut received).err();
        received
    }

    fn consume_frames(
        &mut self,
        mut rest: &[u8],
        in_flight: usize,
        payloads: &Payloads,
        received: &mut Received,
    ) -> Result<(), StreamEnd> {
        while !rest.is_empty() {
            rest = match &mut self.phase {
                Phase::FrameHeader(kept) if kept.is_empty() => {
                    let Some((header, len)) = FrameHeader::decode(rest)? else {
                        kept.extend_from_slice(rest);
                        return Ok(());
                    };
                    self.begin_frame(&header, in_flight - received.echoes, payloads, received)?;
                    &rest[len..]
                }
                Phase::FrameHeader(_) => {
                    let in_flight = in_flight - received.echoes;
                    self.complete_header(rest, in_flight, payloads, received)?
                }
                Phase::Data { remaining, fin } => {
                    let here = (*remaining).min(rest.len() as u64) as usize;
                    let (payload, behind) = rest.split_at(here);
                    *remaining -= here as u64;
                    let frame_ends = (*remaining == 0).then_some(*fin);
                    self.compare(payload, payloads)?;
                    if let Some(fin) = frame_ends {
                        self.end_data_frame(fin, payloads, received);
                    }
                    behind
                }
                Phase::Control { payload, len, .. } => {
                    let here = (*len - payload.len()).min(rest.len());
                    payload.extend_from_slice(&rest[..here]);
                    self.end_control_frame(received)?;
                    &rest[here..]
                }
            };
        }
        Ok(())
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
        let Phase::FrameHeader(kept) = &mut self.phase else {
            return Ok(rest);
        };
        let kept_len = kept.len();
        kept.extend_from_slice(&rest[..rest.len().min(FRAME_HEADER_LEN_MAX - kept_len)]);
        let Some((header, len)) = FrameHeader::decode(kept)? else {
            return Ok(&[]);
        };
        self.begin_frame(&header, in_flight, payloads, received)?;
        Ok(&rest[len - kept_len..])
    }

    #[inline]
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
        if header.rsv1 {
            return Err(ProtocolError::ReservedBitSet.into());
        }
        match (header.opcode, self.fragmented) {
            (OpCode::Close | OpCode::Ping | OpCode::Pong, _) => {
                let len = header.payload_len.min(CONTROL_PAYLOAD_LEN_MAX) as usize;
                self.phase = Phase::Control { opcode: header.opcode, payload: Vec::new(), len };
                return self.end_control_frame(received);
            }
            (OpCode::Continuation, false) => {
                return Err(ProtocolError::ContinuationUnexpected.into());
            }
            (OpCode::Text | OpCode::Binary, true) => {
                return Err(ProtocolError::ContinuationMissing.into());
            }
            (OpCode::Text | OpCode::Binary, false) => {
                check_message(header.opcode, in_flight, payloads.kind())?;
            }
            (OpCode::Continuation, true) => {}
        }
        let len = self.position as u64 + header.payload_len;
        if len > payloads.len() as u64 {
            return Err(WrongEcho::TooLong(len).into());
        }
        if header.fin && len < payloads.len() as u64 {
            return Err(WrongEcho::TooShort(len).into());
        }
        if header.payload_len == 0 {
            self.end_data_frame(header.fin, payloads, received);
        } else {
            self.phase = Phase::Data { remaining: header.payload_len, fin: header.fin };
        }
        Ok(())
    }

    /// Compares the next bytes of the echo.
    #[inline]
    fn compare(&mut self, payload: &[u8], payloads: &Payloads) -> Result<(), WrongEcho> {
        if !payloads.matches(&self.expected, self.position, payload) {
            return Err(self.difference(payload, payloads));
        }
        self.position += payload.len();
        Ok(())
    }

    #[cold]
    fn difference(&self, payload: &[u8], payloads: &Payloads) -> WrongEcho {
        let (at, expected) = payloads
            .first_difference(&self.expected, self.position, payload)
            .expect("the payload was found to differ");
        WrongEcho::Differs { at, expected, received: payload[at - self.position] }
    }

    #[inline]
    fn end_data_frame(&mut self, fin: bool, payloads: &Payloads, received: &mut Received) {
        self.phase = BETWEEN_FRAMES;
        self.fragmented = !fin;
        if fin {
            received.echoes += 1;
            self.sequence = self.sequence.wrapping_add(1);
            self.expected = payloads.message(self.sequence);
            self.position = 0;
        }
    }

    /// Acts on a control frame, if its payload is there.
    #[cold]
    fn end_control_frame(&mut self, received: &mut Received) -> Result<(), StreamEnd> {
        let Phase::Control { opcode, payload, len } = &mut self.phase else {
            return Ok(());
        };
        if payload.len() < *len {
            return Ok(());
        }
        match opcode {
            OpCode::Ping => received.ping = Some(std::mem::take(payload)),
            OpCode::Close => return Err(close(payload)),
            _ => {}
        }
        self.phase = BETWEEN_FRAMES;
        Ok(())
    }
}

/// Whether a message may begin, as the next echo.
#[inline]
fn check_message(opcode: OpCode, in_flight: usize, kind: PayloadKind) -> Result<(), WrongEcho> {
    if in_flight == 0 {
        return Err(WrongEcho::Unasked);
    }
    match (kind, opcode) {
        (PayloadKind::Text, OpCode::Binary) => Err(WrongEcho::TextAsBinary),
        (PayloadKind::Binary, OpCode::Text) => Err(WrongEcho::BinaryAsText),
        _ => Ok(()),
    }
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

    const FIRST: u64 = 1000;

    fn payloads(kind: PayloadKind, len: usize) -> Payloads {
        Payloads::new(kind, len, &mut SmallRng::seed_from_u64(1))
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
        payloads.append(&payloads.message(FIRST + index), 0, payloads.len(), &mut bytes);
        bytes
    }

    fn echo(payloads: &Payloads, index: u64) -> Vec<u8> {
        frame(true, payloads.kind().opcode(), &payload(payloads, index))
    }

    fn consume(stream: &[u8], in_flight: usize, payloads: &Payloads) -> Received {
        Verifier::new(FIRST, EchoKind::Messages, payloads).consume(stream, in_flight, payloads)
    }

    fn end_of(stream: &[u8], payloads: &Payloads) -> Option<StreamEnd> {
        consume(stream, 2, payloads).end
    }

    #[test]
    fn echoes_in_order_are_counted() {
        let payloads = payloads(PayloadKind::Binary, 300);
        let stream = [echo(&payloads, 0), echo(&payloads, 1)].concat();
        assert_eq!(consume(&stream, 2, &payloads), Received { echoes: 2, ..Default::default() });
    }

    #[test]
    fn an_echo_out_of_order_is_wrong() {
        let payloads = payloads(PayloadKind::Binary, 300);
        let swapped = [echo(&payloads, 1), echo(&payloads, 0)].concat();
        assert!(matches!(
            end_of(&swapped, &payloads),
            Some(StreamEnd::Wrong(WrongEcho::Differs { at: 0, .. }))
        ));
        let repeated = [echo(&payloads, 0), echo(&payloads, 0)].concat();
        assert!(matches!(end_of(&repeated, &payloads), Some(StreamEnd::Wrong(_))));
    }

    #[test]
    fn echoes_that_are_not_the_message_are_wrong() {
        let payloads = payloads(PayloadKind::Binary, 300);
        let message = payload(&payloads, 0);
        let mut corrupted = message.clone();
        corrupted[200] ^= 1;
        let longer = [&message[..], b"x"].concat();
        for (stream, wrong) in [
            (
                frame(true, OpCode::Binary, &corrupted),
                WrongEcho::Differs { at: 200, expected: message[200], received: message[200] ^ 1 },
            ),
            (frame(true, OpCode::Binary, &message[..299]), WrongEcho::TooShort(299)),
            (frame(true, OpCode::Binary, &longer), WrongEcho::TooLong(301)),
            (frame(true, OpCode::Text, &message), WrongEcho::BinaryAsText),
        ] {
            assert_eq!(end_of(&stream, &payloads), Some(StreamEnd::Wrong(wrong)));
        }
    }

    #[test]
    fn a_message_that_nobody_sent_is_wrong() {
        let payloads = payloads(PayloadKind::Text, 20);
        let stream = [echo(&payloads, 0), echo(&payloads, 1)].concat();
        let received = consume(&stream, 1, &payloads);
        assert_eq!(received.echoes, 1);
        assert_eq!(received.end, Some(StreamEnd::Wrong(WrongEcho::Unasked)));
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
            consume(&stream, 1, &payloads),
            Received {
                echoes: 1,
                ping: Some(b"hello".to_vec()),
                end: Some(StreamEnd::Close(Some(1001)))
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

            let mut verifier = Verifier::new(FIRST, EchoKind::Messages, &payloads);
            let mut in_pieces = Received::default();
            for piece in cuts.windows(2) {
                let chunk = &stream[piece[0]..piece[1]];
                let received = verifier.consume(chunk, 3 - in_pieces.echoes, &payloads);
                in_pieces.echoes += received.echoes;
                in_pieces.ping = received.ping.or(in_pieces.ping);
                in_pieces.end = received.end;
                if in_pieces.end.is_some() {
                    break;
                }
            }
            prop_assert_eq!(in_pieces, consume(&stream, 3, &payloads));
        }
    }
}
