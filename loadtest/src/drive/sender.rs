//! The stream of masked frames that one connection sends, produced piece by piece.
//!
//! A message is one frame, or several, each with a masking key of its own. What is longer than a
//! write buffer is produced in pieces, so that memory stays constant for any payload. A compressed
//! message is the exception: its payload is built and deflated as a whole, and the deflated form
//! stays in memory until the last piece of it is produced.

use rand::{Rng, rngs::SmallRng};
use ringecho::protocol::{
    OpCode,
    frame_header::{FRAME_HEADER_LEN_MAX, FrameHeader},
    masking::{rotate, unmask},
};

use crate::payload::{EchoKind, Message, Payloads, deflate::Deflater};

/// Bytes that are given to the kernel with one write, at most (a control frame may come on top).
/// The socket buffer takes about as much at once; more would only fall out of the cache.
pub(crate) const WRITE_LEN_MAX: usize = 64 * 1024;

/// Where one connection is in its stream of frames.
#[derive(Debug)]
pub(crate) struct FrameSender {
    /// The sequence number of the next message.
    sequence: u64,
    echo_kind: EchoKind,
    /// Frames of each message.
    fragments: usize,
    compression: bool,
    unfinished: Option<Unfinished>,
}

/// A message of which the front is already produced.
#[derive(Debug)]
struct Unfinished {
    body: Body,
    /// Bytes of payload that are produced.
    position: usize,
    fragment: Fragment,
}

/// What the frames of a message consist of.
#[derive(Debug)]
enum Body {
    /// Its payload.
    Plain(Message),
    /// Its payload, compressed.
    Deflated(Vec<u8>),
}

impl Body {
    #[inline]
    fn len(&self) -> usize {
        match self {
            Self::Plain(message) => message.len(),
            Self::Deflated(bytes) => bytes.len(),
        }
    }

    #[inline]
    fn append(&self, from: usize, len: usize, payloads: &Payloads, buffer: &mut Vec<u8>) {
        match self {
            Self::Plain(message) => payloads.append(message, from, len, buffer),
            Self::Deflated(bytes) => buffer.extend_from_slice(&bytes[from..from + len]),
        }
    }
}

/// A frame of a message whose header is produced.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    number: usize,
    key: [u8; 4],
    /// Where in the message its payload begins and ends.
    start: usize,
    end: usize,
}

impl FrameSender {
    /// A stream whose first message has the number `sequence`, in so many fragments each.
    pub(crate) fn new(
        sequence: u64,
        echo_kind: EchoKind,
        fragments: usize,
        compression: bool,
    ) -> Self {
        Self { sequence, echo_kind, fragments, compression, unfinished: None }
    }

    /// Whether all messages so far are whole, so that a control frame may come next.
    #[inline]
    pub(crate) fn between_messages(&self) -> bool {
        self.unfinished.is_none()
    }

    /// Appends the rest of an unfinished message to `buffer`, as far as it may take it.
    #[inline]
    pub(crate) fn finish(&mut self, buffer: &mut Vec<u8>, payloads: &Payloads, rng: &mut SmallRng) {
        if let Some(unfinished) = self.unfinished.take() {
            self.append(unfinished, buffer, payloads, rng);
        }
    }

    /// Whether `buffer` may take the beginning of another message.
    #[inline]
    pub(crate) fn may_begin(&self, buffer: &[u8]) -> bool {
        self.between_messages() && buffer.len() < WRITE_LEN_MAX
    }

    /// Appends the next message to `buffer`, which [may](Self::may_begin) take it, or as much of it
    /// as fits.
    #[inline]
    pub(crate) fn begin(
        &mut self,
        buffer: &mut Vec<u8>,
        payloads: &Payloads,
        deflater: &mut Option<Deflater>,
        rng: &mut SmallRng,
    ) {
        let message = payloads.message(self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        let body = match deflater {
            Some(deflater) if self.compression => {
                let mut payload = Vec::with_capacity(message.len());
                payloads.append(&message, 0, message.len(), &mut payload);
                Body::Deflated(deflater.deflate(&payload))
            }
            _ => Body::Plain(message),
        };
        let fragment = self.begin_fragment(0, body.len(), payloads, buffer, rng);
        self.append(Unfinished { body, position: 0, fragment }, buffer, payloads, rng);
    }

    /// Appends the header of fragment `number` of a message of `len` bytes.
    #[inline]
    fn begin_fragment(
        &self,
        number: usize,
        len: usize,
        payloads: &Payloads,
        buffer: &mut Vec<u8>,
        rng: &mut SmallRng,
    ) -> Fragment {
        let start = len * number / self.fragments;
        let end = len * (number + 1) / self.fragments;
        let key = match self.echo_kind {
            EchoKind::Messages => rng.next_u32().to_ne_bytes(),
            EchoKind::Bytes => [0; 4],
        };
        let opcode = if number == 0 { payloads.kind().opcode() } else { OpCode::Continuation };
        let header = FrameHeader {
            fin: number + 1 == self.fragments,
            rsv1: self.compression && number == 0,
            opcode,
            masking_key: Some(key),
            payload_len: (end - start) as u64,
        };
        append_header(header, buffer);
        Fragment { number, key, start, end }
    }

    /// Appends as much of a message as the buffer may take.
    #[inline]
    fn append(
        &mut self,
        unfinished: Unfinished,
        buffer: &mut Vec<u8>,
        payloads: &Payloads,
        rng: &mut SmallRng,
    ) {
        let Unfinished { body, mut position, mut fragment } = unfinished;
        loop {
            let produced = buffer.len();
            let len = (fragment.end - position).min(WRITE_LEN_MAX.saturating_sub(produced));
            body.append(position, len, payloads, buffer);
            unmask(&mut buffer[produced..], rotate(fragment.key, position - fragment.start));
            position += len;
            let is_last = fragment.number + 1 == self.fragments;
            if position == fragment.end && is_last {
                return;
            }
            if buffer.len() >= WRITE_LEN_MAX {
                self.unfinished = Some(Unfinished { body, position, fragment });
                return;
            }
            let number = fragment.number + 1;
            fragment = self.begin_fragment(number, body.len(), payloads, buffer, rng);
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
    append_header(whole_frame(opcode, payload.len(), key), buffer);
    let start = buffer.len();
    buffer.extend_from_slice(payload);
    unmask(&mut buffer[start..], key);
}

/// Bytes of a frame with this payload.
pub(crate) fn frame_len(payload_len: usize) -> usize {
    whole_frame(OpCode::Binary, payload_len, [0; 4]).encoded_len() + payload_len
}

fn whole_frame(opcode: OpCode, payload_len: usize, key: [u8; 4]) -> FrameHeader {
    FrameHeader {
        fin: true,
        rsv1: false,
        opcode,
        masking_key: Some(key),
        payload_len: payload_len as u64,
    }
}

#[inline]
fn append_header(header: FrameHeader, buffer: &mut Vec<u8>) {
    let mut bytes = [0; FRAME_HEADER_LEN_MAX];
    let len = header.encode(&mut bytes);
    buffer.extend_from_slice(&bytes[..len]);
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::payload::{PayloadKind, PayloadPlan, deflate::Inflater};

    fn payloads(kind: PayloadKind, len: usize, rng: &mut SmallRng) -> Payloads {
        Payloads::new(&PayloadPlan::generated(kind, len), rng)
    }

    struct Frame {
        header: FrameHeader,
        payload: Vec<u8>,
    }

    /// Decodes whole masked frames, and unmasks their payloads.
    fn decode(mut bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let (header, len) = FrameHeader::decode(bytes).unwrap().unwrap();
            let end = len + header.payload_len as usize;
            let mut payload = bytes[len..end].to_vec();
            unmask(&mut payload, header.masking_key.unwrap());
            frames.push(Frame { header, payload });
            bytes = &bytes[end..];
        }
        frames
    }

    #[test]
    fn frames_of_one_turn_are_whole_and_masked_each_with_a_key_of_its_own() {
        let mut rng = SmallRng::seed_from_u64(1);
        let payloads = payloads(PayloadKind::Text, 200, &mut rng);
        let mut buffer = Vec::new();
        let mut sender = FrameSender::new(7, EchoKind::Messages, 1, false);
        for _ in 0..16 {
            assert!(sender.may_begin(&buffer));
            sender.begin(&mut buffer, &payloads, &mut None, &mut rng);
        }
        assert!(sender.between_messages());

        let frames = decode(&buffer);
        assert_eq!(frames.len(), 16);
        for (sequence, Frame { header, payload }) in (7..).zip(&frames) {
            assert!(header.fin && header.opcode == OpCode::Text);
            let key = header.masking_key;
            assert_eq!(frames.iter().filter(|frame| frame.header.masking_key == key).count(), 1);
            assert!(payloads.matches(&payloads.message(sequence), 0, payload));
        }
    }

    #[test]
    fn a_long_frame_comes_in_pieces_of_bounded_length() {
        let mut rng = SmallRng::seed_from_u64(2);
        let payloads = payloads(PayloadKind::Binary, 1_000_001, &mut rng);
        let mut sender = FrameSender::new(0, EchoKind::Messages, 1, false);
        let mut stream = Vec::new();
        let mut begun = 0;
        while begun < 3 || !sender.between_messages() {
            let mut buffer = Vec::new();
            sender.finish(&mut buffer, &payloads, &mut rng);
            while begun < 3 && sender.may_begin(&buffer) {
                sender.begin(&mut buffer, &payloads, &mut None, &mut rng);
                begun += 1;
            }
            assert!(buffer.len() <= WRITE_LEN_MAX + FRAME_HEADER_LEN_MAX);
            stream.append(&mut buffer);
        }
        let frames = decode(&stream);
        assert_eq!(frames.len(), 3);
        for (sequence, Frame { payload, .. }) in (0..).zip(&frames) {
            assert_eq!(payload.len(), 1_000_001);
            assert!(payloads.matches(&payloads.message(sequence), 0, payload));
        }
    }

    #[test]
    fn fragments_make_up_the_message() {
        let mut rng = SmallRng::seed_from_u64(4);
        for (len, fragments) in [(0, 3), (2, 3), (100, 1), (100, 7), (200_000, 5), (9, 1024)] {
            let payloads = payloads(PayloadKind::Text, len, &mut rng);
            let mut sender = FrameSender::new(7, EchoKind::Messages, fragments, false);
            let mut stream = Vec::new();
            sender.begin(&mut stream, &payloads, &mut None, &mut rng);
            while !sender.between_messages() {
                let mut buffer = Vec::new();
                sender.finish(&mut buffer, &payloads, &mut rng);
                stream.append(&mut buffer);
            }
            let frames = decode(&stream);
            assert_eq!(frames.len(), fragments);
            assert_eq!(frames[0].header.opcode, OpCode::Text);
            assert!(frames[1..].iter().all(|frame| frame.header.opcode == OpCode::Continuation));
            let (last, others) = frames.split_last().unwrap();
            assert!(last.header.fin && others.iter().all(|frame| !frame.header.fin));
            let lens = frames.iter().map(|frame| frame.payload.len());
            assert!(lens.clone().max().unwrap() - lens.min().unwrap() <= 1);
            let whole: Vec<u8> = frames.into_iter().flat_map(|frame| frame.payload).collect();
            assert_eq!(whole.len(), len);
            assert!(payloads.matches(&payloads.message(7), 0, &whole));
        }
    }

    #[test]
    fn a_compressed_message_says_so_in_its_first_frame() {
        let mut rng = SmallRng::seed_from_u64(5);
        let payloads = payloads(PayloadKind::Text, 1000, &mut rng);
        let mut sender = FrameSender::new(7, EchoKind::Messages, 2, true);
        let mut buffer = Vec::new();
        sender.begin(&mut buffer, &payloads, &mut Some(Deflater::default()), &mut rng);
        let frames = decode(&buffer);
        let rsv1: Vec<bool> = frames.iter().map(|frame| frame.header.rsv1).collect();
        assert_eq!(rsv1, [true, false]);
        let mut inflater = Inflater::default();
        let mut whole = Vec::new();
        for frame in &frames {
            inflater.inflate(&frame.payload, |bytes| whole.extend_from_slice(bytes)).unwrap();
        }
        inflater.end(|bytes| whole.extend_from_slice(bytes)).unwrap();
        assert!(payloads.matches(&payloads.message(7), 0, &whole));
        assert_eq!(whole.len(), 1000);
    }

    #[test]
    fn a_frame_without_payload_is_a_frame() {
        let mut rng = SmallRng::seed_from_u64(3);
        let payloads = payloads(PayloadKind::Binary, 0, &mut rng);
        let mut buffer = Vec::new();
        let mut sender = FrameSender::new(0, EchoKind::Messages, 1, false);
        for _ in 0..2 {
            sender.begin(&mut buffer, &payloads, &mut None, &mut rng);
            assert!(sender.between_messages());
        }
        assert_eq!(decode(&buffer).len(), 2);
    }
}
