//! What a server sends, frame by frame.
//!
//! [`Verifier`] is the receiving side of one connection, without I/O or a clock. It consumes every
//! received chunk, wherever the stream was cut: nothing is copied or collected but a split frame
//! header and the payload of a control frame. The payload of data frames goes to [`Comparison`],
//! which knows messages and no frames; so the server may fragment an echo as it likes.

use ringecho::protocol::{
    OpCode, ProtocolError,
    close_code::decode_close_payload,
    frame_header::{CONTROL_PAYLOAD_LEN_MAX, FRAME_HEADER_LEN_MAX, FrameHeader},
    masking::unmask,
};

use super::{
    comparison::Comparison,
    received::{Received, StreamEnd, Violation},
};
use crate::payload::{EchoKind, Payloads};

/// The receiving side of one connection.
#[derive(Debug)]
pub(crate) struct Verifier {
    phase: Phase,
    /// The part of a frame header that has arrived, or of a control frame's payload.
    held: Vec<u8>,
    echo_kind: EchoKind,
    /// Whether a message has begun and its last frame has not.
    fragmented: bool,
    /// Whether the server may compress messages.
    compression: bool,
    comparison: Comparison,
}

/// What the next received byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// A frame header.
    FrameHeader,
    /// The payload of a data frame, of which `remaining` bytes have not arrived.
    Data { remaining: u64, fin: bool },
    /// The payload of a control frame, of `len` bytes.
    Control { opcode: OpCode, len: usize, masking_key: Option<[u8; 4]> },
}

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
            fragmented: false,
            compression,
            comparison: Comparison::new(sequence, payloads),
        }
    }

    /// Messages that were passed over and whose echo has not come since.
    pub(crate) fn passed_over(&self) -> usize {
        self.comparison.passed_over()
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
        while !rest.is_empty() && received.irregularity.is_none() && received.end.is_none() {
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
                self.comparison.take(payload, in_flight, payloads);
                if remaining == 0 {
                    self.end_data_frame(fin, in_flight, payloads, received);
                }
                Ok(behind)
            }
            Phase::Control { len, .. } => {
                let (payload, behind) = rest.split_at((len - self.held.len()).min(rest.len()));
                self.held.extend_from_slice(payload);
                self.end_control_frame(received);
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
            && header.payload_len == self.comparison.expected_len() as u64
            && !self.fragmented
            && in_flight > 0;
        if !is_whole {
            return None;
        }
        self.comparison.take_whole(rest, payloads)
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
        match self.echo_kind {
            EchoKind::Messages => header.check_server_masking()?,
            EchoKind::Bytes if header.masking_key.is_none() => {
                return Err(Violation::NotMasked.into());
            }
            EchoKind::Bytes => {}
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
                let (opcode, masking_key) = (header.opcode, header.masking_key);
                self.phase = Phase::Control { opcode, len, masking_key };
                self.end_control_frame(received);
                return Ok(());
            }
            (OpCode::Continuation, false) => {
                return Err(ProtocolError::ContinuationUnexpected.into());
            }
            (OpCode::Text | OpCode::Binary, true) => {
                return Err(ProtocolError::ContinuationMissing.into());
            }
            (OpCode::Text | OpCode::Binary, false) => {
                self.comparison.begin(header.opcode, header.rsv1, in_flight, payloads.kind());
            }
            (OpCode::Continuation, true) => {}
        }
        self.phase = Phase::Data { remaining: header.payload_len, fin: header.fin };
        if header.payload_len == 0 {
            self.end_data_frame(header.fin, in_flight, payloads, received);
        }
        Ok(())
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
        if fin {
            self.comparison.end(in_flight, payloads, received);
        }
    }

    /// Acts on a control frame, if its payload is there.
    #[cold]
    fn end_control_frame(&mut self, received: &mut Received) {
        let Phase::Control { opcode, len, masking_key } = self.phase else {
            return;
        };
        if self.held.len() < len {
            return;
        }
        self.phase = Phase::FrameHeader;
        let mut payload = std::mem::take(&mut self.held);
        if let Some(key) = masking_key {
            unmask(&mut payload, key);
        }
        match opcode {
            OpCode::Ping => received.ping = Some(payload),
            OpCode::Close => received.end = Some(judge_close(&payload)),
            _ => received.pong = Some(payload),
        }
    }
}

/// What a Close frame says, if it may say that.
#[cold]
fn judge_close(payload: &[u8]) -> StreamEnd {
    match (decode_close_payload(payload), payload.first_chunk()) {
        (Ok(code), _) => StreamEnd::Close(code),
        (Err(ProtocolError::CloseCodeInvalid), Some(&code)) => {
            Violation::CloseCodeInvalid(u16::from_be_bytes(code)).into()
        }
        (Err(error), _) => Violation::CloseMalformed(error).into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        payload::{PayloadKind, PayloadPlan, Verify, deflate::Deflater},
        verify::received::WrongEcho,
    };

    const FIRST: u64 = 1000;

    /// The bit of a frame's first byte that says that the message is compressed.
    const RSV1: u8 = 0x40;

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
        let verifier = Verifier::new(FIRST, EchoKind::Messages, false, payloads);
        account_of(verifier, chunks, sent, payloads)
    }

    fn account_of<'a>(
        mut verifier: Verifier,
        chunks: impl IntoIterator<Item = &'a [u8]>,
        sent: usize,
        payloads: &Payloads,
    ) -> Account {
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
    fn a_message_of_the_other_type_is_judged_by_its_content() {
        let payloads = payloads(PayloadKind::Binary, 300);
        let text = |payload: &[u8]| frame(true, OpCode::Text, payload);
        let retyped = |index| text(&payload(&payloads, index));
        let [first, second] = [0, 1].map(|index| echo(&payloads, index));
        let lossy = String::from_utf8_lossy(&payload(&payloads, 0)).into_owned();
        let unasked = [WrongEcho::Unasked];
        let as_text = [WrongEcho::BinaryAsText];
        for (stream, wrong, missing) in [
            ([text(b"oops"), first.clone(), second.clone()], &unasked[..], 0),
            ([text(b""), first.clone(), second.clone()], &unasked, 0),
            ([text(&[b'x'; 64]), first.clone(), second.clone()], &unasked, 0),
            ([first.clone(), text(&[b'x'; 1000]), second.clone()], &unasked, 0),
            ([retyped(0), second.clone(), vec![]], &as_text, 0),
            ([text(lossy.as_bytes()), second.clone(), vec![]], &as_text, 0),
            // Its length is all that is known of it.
            ([text(&[b'x'; 300]), second.clone(), vec![]], &as_text, 0),
            ([first.clone(), retyped(0), second.clone()], &[WrongEcho::Repeated], 0),
            ([second.clone(), retyped(0), vec![]], &as_text, 0),
            ([retyped(1), vec![], vec![]], &as_text, 1),
        ] {
            let account = account([&stream.concat()[..]], 2, &payloads);
            assert_eq!(account.wrong, wrong);
            assert_eq!(account.missing, missing, "{wrong:?}");
        }
    }

    #[test]
    fn a_few_bytes_are_no_echo_of_any_message_but_the_next_one() {
        // They are the low digits of 727, which would be a message behind.
        for (kind, front) in [(PayloadKind::Binary, b"\xd7\x02"), (PayloadKind::Text, b"7d")] {
            let payloads = payloads(kind, 300);
            let stray = frame(true, kind.opcode(), front);
            let stream = [stray, echo(&payloads, 0), echo(&payloads, 1)].concat();
            let account = account([&stream[..]], 2, &payloads);
            assert_eq!(account.wrong, [WrongEcho::Unasked], "{kind:?}");
            assert_eq!((account.echoes, account.missing), (2, 0), "{kind:?}");
        }
    }

    fn deflated_frame(payload: &[u8]) -> Vec<u8> {
        let mut bytes = frame(true, OpCode::Binary, payload);
        bytes[0] |= RSV1;
        bytes
    }

    #[test]
    fn a_compressed_echo_that_is_damaged_far_behind_its_beginning_is_known_by_that() {
        let payloads = payloads(PayloadKind::Binary, 40_000);
        let mut deflater = Deflater::default();
        let mut whole = |index| deflated_frame(&deflater.deflate(&payload(&payloads, index)));
        let (second, third, fourth) = (whole(1), whole(2), whole(3));
        // The first half is a block of its own, and behind it there is one of a reserved type.
        let mut damaged = |index| {
            let half = deflater.deflate(&payload(&payloads, index)[..20_000]);
            deflated_frame(&[&half[..], &[0, 0, 0xff, 0xff, 0x07]].concat())
        };
        for (stream, sent, echoes, missing) in [
            // Two were dropped before it.
            ([damaged(2), fourth].concat(), 4, 1, 2),
            // It comes after that of a later message.
            ([second, damaged(0), third].concat(), 3, 2, 0),
        ] {
            let verifier = Verifier::new(FIRST, EchoKind::Messages, true, &payloads);
            let account = account_of(verifier, stream.chunks(4096), sent, &payloads);
            assert_eq!(account.wrong, [WrongEcho::NotDeflated]);
            assert_eq!((account.echoes, account.missing), (echoes, missing));
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
            (&[0x82, 0x84, 1, 2, 3, 4, 0, 0, 0, 0][..], ProtocolError::MaskUnexpected.into()),
            (&[0xc2, 4], ProtocolError::ReservedBitSet.into()),
            (&[0x80, 4], ProtocolError::ContinuationUnexpected.into()),
            (&[0x02, 0, 0x82, 4], ProtocolError::ContinuationMissing.into()),
            (&[0x83, 0], ProtocolError::OpcodeReserved.into()),
            (&[0x88, 0x80, 1, 2, 3, 4], ProtocolError::MaskUnexpected.into()),
            (&[0x08, 0], ProtocolError::ControlFrameFragmented.into()),
            (&[0x88, 126, 0, 126], ProtocolError::ControlFrameTooLong.into()),
            (&[0x88, 1, 3], Violation::CloseMalformed(ProtocolError::CloseCodeTruncated)),
            (&[0x88, 2, 0, 0], Violation::CloseCodeInvalid(0)),
            (&[0x88, 2, 0x03, 0xed], Violation::CloseCodeInvalid(1005)),
            (&[0x88, 3, 0x13, 0x88, b'x'], Violation::CloseCodeInvalid(5000)),
            (
                &[0x88, 4, 0x03, 0xe8, b'x', 0xff],
                Violation::CloseMalformed(ProtocolError::CloseReasonNotUtf8),
            ),
        ] {
            assert_eq!(end_of(stream, &payloads), Some(StreamEnd::Violation(violation)));
        }
    }

    #[test]
    fn close_frames_that_may_be_sent_end_the_stream_with_their_code() {
        let payloads = payloads(PayloadKind::Binary, 4);
        let longest = [&[0x88, 125, 0x0f, 0xa0][..], "\u{e4}".repeat(61).as_bytes(), b"!"].concat();
        for (stream, code) in [
            (&[0x88, 0][..], None),
            (&[0x88, 2, 0x03, 0xe8], Some(1000)),
            (&[0x88, 5, 0x03, 0xf6, b'b', b'y', b'e'], Some(1014)),
            (&longest, Some(4000)),
        ] {
            assert_eq!(end_of(stream, &payloads), Some(StreamEnd::Close(code)), "{stream:x?}");
        }
    }

    #[test]
    fn close_frame_that_a_tcp_echo_returns_is_read_through_its_mask() {
        let payloads = payloads(PayloadKind::Binary, 4);
        let mut verifier = Verifier::new(FIRST, EchoKind::Bytes, false, &payloads);
        let frame = [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe8 ^ 2];
        let end = verifier.consume(&frame, 0, &payloads).end;
        assert_eq!(end, Some(StreamEnd::Close(Some(1000))));
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

    #[test]
    fn floods_of_fragments_and_control_frames_are_not_remembered() {
        let payloads = payloads(PayloadKind::Binary, 300);
        let mut verifier = Verifier::new(FIRST, EchoKind::Messages, false, &payloads);
        let begun = frame(false, OpCode::Binary, &payload(&payloads, 0)[..100]);
        verifier.consume(&begun, 1, &payloads);
        for (opcode, payload) in [
            (OpCode::Continuation, &b""[..]),
            (OpCode::Continuation, b"x"),
            (OpCode::Ping, &[b'p'; 125]),
            (OpCode::Pong, &[b'p'; 125]),
        ] {
            let fin = opcode != OpCode::Continuation;
            let flood = frame(fin, opcode, payload).repeat(1000);
            let mut shown_len_max = 0;
            for turn in 0..100 {
                assert_eq!(verifier.consume(&flood, 1, &payloads).consumed, flood.len());
                // Everything that it holds is shown; numbers in it may grow by some digits.
                let shown_len = format!("{verifier:?}").len();
                if turn == 0 {
                    shown_len_max = shown_len + 20;
                }
                assert!(shown_len <= shown_len_max, "{opcode:?}: {verifier:?}");
            }
        }
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
