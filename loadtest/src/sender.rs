//! The stream of masked frames that one connection sends, produced piece by piece.
//!
//! A message is one frame with a masking key of its own. A frame that is longer than a write
//! buffer is produced in pieces, so that memory stays constant for any payload.

use rand::{Rng, rngs::SmallRng};
use ringecho::protocol::{
    OpCode,
    frame_header::{FRAME_HEADER_LEN_MAX, FrameHeader},
    masking::{rotate, unmask},
};

use crate::{
    payload::{Message, Payloads},
    plan::EchoKind,
};

/// Bytes that are given to the kernel with one write, at most (a control frame may come on top).
/// The socket buffer takes about as much at once; more would only fall out of the cache.
pub(crate) const WRITE_LEN_MAX: usize = 64 * 1024;

/// Where one connection is in its stream of frames.
#[derive(Debug)]
pub(crate) struct FrameSender {
    /// Of the next message.
    sequence: u64,
    echo_kind: EchoKind,
    unfinished: Option<Unfinished>,
}

/// A frame of which the front is already produced.
#[derive(Clone, Copy, Debug)]
struct Unfinished {
    message: Message,
    key: [u8; 4],
    position: usize,
}

impl FrameSender {
    /// A stream whose first message has the number `sequence`.
    pub(crate) fn new(sequence: u64, echo_kind: EchoKind) -> Self {
        Self { sequence, echo_kind, unfinished: None }
    }

    /// Whether all frames so far are whole, so that a control frame may come next.
    #[inline]
    pub(crate) fn between_frames(&self) -> bool {
        self.unfinished.is_none()
    }

    /// Appends the rest of an unfinished frame to `buffer`, as far as it may take it.
    #[inline]
    pub(crate) fn finish(&mut self, buffer: &mut Vec<u8>, payloads: &Payloads) {
        if let Some(frame) = self.unfinished.take() {
            self.append(frame, buffer, payloads);
        }
    }

    /// Whether `buffer` may take the beginning of another message.
    #[inline]
    pub(crate) fn may_begin(&self, buffer: &[u8]) -> bool {
        self.between_frames() && buffer.len() < WRITE_LEN_MAX
    }

    /// Appends the next message to `buffer`, which [may](Self::may_begin) take it, or as much of it
    /// as fits.
    #[inline]
    pub(crate) fn begin(&mut self, buffer: &mut Vec<u8>, payloads: &Payloads, rng: &mut SmallRng) {
        let key = match self.echo_kind {
            EchoKind::Messages => rng.next_u32().to_ne_bytes(),
            EchoKind::Bytes => [0; 4],
        };
        let message = payloads.message(self.sequence);
        append_header(payloads.kind().opcode(), message.len(), key, buffer);
        self.sequence = self.sequence.wrapping_add(1);
        self.append(Unfinished { message, key, position: 0 }, buffer, payloads);
    }

    /// Appends as much of a frame's payload as the buffer may take.
    #[inline]
    fn append(&mut self, frame: Unfinished, buffer: &mut Vec<u8>, payloads: &Payloads) {
        let Unfinished { message, key, position } = frame;
        let start = buffer.len();
        let len = (message.len() - position).min(WRITE_LEN_MAX.saturating_sub(start));
        payloads.append(&message, position, len, buffer);
        unmask(&mut buffer[start..], rotate(key, position));
        if position + len < message.len() {
            self.unfinished = Some(Unfinished { message, key, position: position + len });
        }
    }
}

/// Appends a control frame, with at most 125 bytes of payload.
pub(crate) fn append_control_frame(
    opcode: OpCode,
    payload: &[u8],
    rng: &mut SmallRng,
    buffer: &mut Vec<u8>,
) {
    let key = rng.next_u32().to_ne_bytes();
    append_header(opcode, payload.len(), key, buffer);
    let start = buffer.len();
    buffer.extend_from_slice(payload);
    unmask(&mut buffer[start..], key);
}

/// Bytes of a frame with this payload.
pub(crate) fn frame_len(payload_len: usize) -> usize {
    header(OpCode::Binary, payload_len, [0; 4]).encoded_len() + payload_len
}

#[inline]
fn append_header(opcode: OpCode, payload_len: usize, key: [u8; 4], buffer: &mut Vec<u8>) {
    let mut bytes = [0; FRAME_HEADER_LEN_MAX];
    let len = header(opcode, payload_len, key).encode(&mut bytes);
    buffer.extend_from_slice(&bytes[..len]);
}

#[inline]
fn header(opcode: OpCode, payload_len: usize, key: [u8; 4]) -> FrameHeader {
    FrameHeader {
        fin: true,
        rsv1: false,
        opcode,
        masking_key: Some(key),
        payload_len: payload_len as u64,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::payload::{PayloadKind, PayloadPlan};

    fn payloads(kind: PayloadKind, len: usize, rng: &mut SmallRng) -> Payloads {
        Payloads::new(&PayloadPlan::generated(kind, len), rng)
    }

    /// Decodes whole masked frames into opcode, key and unmasked payload.
    fn decode(mut bytes: &[u8]) -> Vec<(OpCode, [u8; 4], Vec<u8>)> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let (header, len) = FrameHeader::decode(bytes).unwrap().unwrap();
            assert!(header.fin && !header.rsv1);
            let key = header.masking_key.unwrap();
            let end = len + header.payload_len as usize;
            let mut payload = bytes[len..end].to_vec();
            unmask(&mut payload, key);
            frames.push((header.opcode, key, payload));
            bytes = &bytes[end..];
        }
        frames
    }

    #[test]
    fn frames_of_one_turn_are_whole_and_masked_each_with_a_key_of_its_own() {
        let mut rng = SmallRng::seed_from_u64(1);
        let payloads = payloads(PayloadKind::Text, 200, &mut rng);
        let mut buffer = Vec::new();
        let mut sender = FrameSender::new(7, EchoKind::Messages);
        for _ in 0..16 {
            assert!(sender.may_begin(&buffer));
            sender.begin(&mut buffer, &payloads, &mut rng);
        }
        assert!(sender.between_frames());

        let frames = decode(&buffer);
        assert_eq!(frames.len(), 16);
        for (sequence, (opcode, key, payload)) in (7..).zip(&frames) {
            assert_eq!(*opcode, OpCode::Text);
            assert_eq!(frames.iter().filter(|frame| frame.1 == *key).count(), 1);
            assert!(payloads.matches(&payloads.message(sequence), 0, payload));
        }
    }

    #[test]
    fn a_long_frame_comes_in_pieces_of_bounded_length() {
        let mut rng = SmallRng::seed_from_u64(2);
        let payloads = payloads(PayloadKind::Binary, 1_000_001, &mut rng);
        let mut sender = FrameSender::new(0, EchoKind::Messages);
        let mut stream = Vec::new();
        let mut begun = 0;
        while begun < 3 || !sender.between_frames() {
            let mut buffer = Vec::new();
            sender.finish(&mut buffer, &payloads);
            while begun < 3 && sender.may_begin(&buffer) {
                sender.begin(&mut buffer, &payloads, &mut rng);
                begun += 1;
            }
            assert!(buffer.len() <= WRITE_LEN_MAX + FRAME_HEADER_LEN_MAX);
            stream.append(&mut buffer);
        }
        let frames = decode(&stream);
        assert_eq!(frames.len(), 3);
        for (sequence, (_, _, payload)) in (0..).zip(&frames) {
            assert_eq!(payload.len(), 1_000_001);
            assert!(payloads.matches(&payloads.message(sequence), 0, payload));
        }
    }

    #[test]
    fn a_frame_without_payload_is_a_frame() {
        let mut rng = SmallRng::seed_from_u64(3);
        let payloads = payloads(PayloadKind::Binary, 0, &mut rng);
        let mut buffer = Vec::new();
        let mut sender = FrameSender::new(0, EchoKind::Messages);
        for _ in 0..2 {
            sender.begin(&mut buffer, &payloads, &mut rng);
            assert!(sender.between_frames());
        }
        assert_eq!(decode(&buffer).len(), 2);
    }
}
