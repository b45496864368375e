//! The echo of a connection's frames, written over the received bytes.
//!
//! A client's frame is `header | masking key | masked payload`, its echo `header | payload`, four
//! bytes shorter. So the replies to everything in a received chunk are written into that chunk, in
//! one pass from front to back, as one contiguous range:
//!
//! ```text
//! received   [h1|k1|p1.........][h2|k2|p2....][h3|k3|p3..        (the rest of p3 has not arrived)
//! replies        [h1|p1.........][h2|p2....][h3|p3..
//! ```
//!
//! [`Echo`] is the state of one connection. It does no I/O and reads no clock, and it consumes
//! every chunk whole: it keeps bytes that it cannot answer yet. Its invariant: the replies, put one
//! after the other, do not depend on where the received bytes were cut.
//!
//! A frame that has not arrived whole is either *held* (up to [`Rules::hold`] bytes of payload, and
//! every control frame): its reply is collected, unmasked and checked as the payload comes, so that
//! a fault in it can still be answered by a Close frame; or *cut through*: its reply is sent piece
//! by piece, so memory stays constant for any length.

use std::ops::Range;

use super::{
    OpCode, ProtocolError,
    close_code::decode_close_payload,
    frame_header::{FIN, FRAME_HEADER_LEN_MAX, FrameHeader, LENGTH_IN_16_BITS, MASK, is_control},
    masking::{rotate, unmask, unmask_to},
    reply::{ControlFrames, Next, Reply},
    utf8::{Utf8Validator, is_utf8},
};

/// The frames and messages that a server allows; the same for all of its connections.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Longest payload, in bytes, of a data frame that is held until it is whole.
    pub hold: usize,
    /// Longest payload, in bytes, of a data frame; a longer one is a fault, found at its header.
    pub frame_size_max: u64,
    /// Longest message, in bytes of payload; a longer one is a fault.
    pub message_size_max: u64,
}

/// What the opening handshake agreed on about compression (RFC 7692).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// No compression: RSV1 has no meaning.
    #[default]
    None,
    /// A message whose first frame has RSV1 is compressed. Its bytes are echoed as they are;
    /// nothing checks what they decompress to.
    PermessageDeflate,
}

/// One connection's position in the stream of frames.
#[derive(Debug)]
pub struct Echo {
    phase: Phase,
    message: Message,
    /// Bytes of payload in all frames of the message so far, the current one counted whole.
    message_len: u64,
    compression: Compression,
}

/// What the next received byte belongs to.
#[derive(Debug)]
enum Phase {
    /// A frame header, of which `len` bytes have arrived.
    FrameHeader { bytes: [u8; FRAME_HEADER_LEN_MAX - 1], len: u8 },
    /// The payload of a frame that is held. It is rare, so that it does not weigh on each connection.
    Held(Box<HeldFrame>),
    /// The payload of a frame whose header is sent.
    CutThrough(PendingPayload),
    /// No frame: the stream has ended, by a Close frame or a fault. The close code of the peer's Close
    /// frame, or of the one that answers the fault; 0 is none.
    Ended { close_code: u16 },
}

/// A frame that is held.
#[derive(Debug)]
struct HeldFrame {
    payload: PendingPayload,
    /// The reply to it, as far as the frame has arrived.
    reply: Vec<u8>,
}

/// The part of a frame's payload that has not arrived. In this order of its fields, a phase takes no
/// more memory than this.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct PendingPayload {
    fin: bool,
    opcode: OpCode,
    /// The masking key, rotated to the next byte.
    key: [u8; 4],
    remaining: u64,
}

const _: () = assert!(size_of::<Phase>() == size_of::<PendingPayload>(), "each connection has one");

/// The message that has begun and not ended.
#[derive(Clone, Copy, Debug)]
struct Message {
    kind: Option<MessageKind>,
    utf8: Utf8Validator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MessageKind {
    Text,
    /// Binary, or compressed.
    Opaque,
}

/// The reply to a chunk, as far as the chunk has been worked through.
struct Progress {
    prefix: Vec<u8>,
    range: Range<usize>,
    messages: u32,
    texts: u32,
    controls: ControlFrames,
}

/// A message in one masked frame that is whole, shorter than 64 KiB, and without an RSV bit: what most
/// clients send most of the time. It needs no state, so it is answered apart from all others, with
/// fewer instructions; the tests hold both ways against the same oracle.
///
/// `HEADER_LEN` is the length of its echo's header: 2, or 4 with a length in 16 bits.
#[derive(Clone, Copy)]
struct PlainMessage<const HEADER_LEN: usize> {
    /// The header of its echo: that of its frame without mask bit and key.
    header: [u8; HEADER_LEN],
    payload_len: usize,
    key: [u8; MASKING_KEY_LEN],
}

/// The first byte of a [`PlainMessage`].
const PLAIN_TEXT: u8 = FIN | OpCode::Text as u8;
const PLAIN_BINARY: u8 = FIN | OpCode::Binary as u8;

const MASKING_KEY_LEN: usize = 4;

/// Instead of a close code, which is never 0.
const NO_CLOSE_CODE: u16 = 0;

const BETWEEN_FRAMES: Phase = Phase::FrameHeader { bytes: [0; FRAME_HEADER_LEN_MAX - 1], len: 0 };

const NO_MESSAGE: Message = Message { kind: None, utf8: Utf8Validator::START };

impl Default for Echo {
    fn default() -> Self {
        Self {
            phase: BETWEEN_FRAMES,
            message: NO_MESSAGE,
            message_len: 0,
            compression: Compression::None,
        }
    }
}

impl Echo {
    /// The state of a connection right after its opening handshake.
    pub fn new() -> Self {
        Self::default()
    }

    /// The state of a connection whose opening handshake agreed on `compression`.
    pub fn with_compression(compression: Compression) -> Self {
        Self { compression, ..Self::default() }
    }

    /// Whether the replies so far end with a whole frame, so that another may follow.
    pub fn between_frames(&self) -> bool {
        !matches!(self.phase, Phase::CutThrough(_))
    }

    /// Whether all that has arrived is answered, and no message is under way.
    pub fn between_messages(&self) -> bool {
        matches!(self.phase, Phase::FrameHeader { len: 0, .. }) && self.message.kind.is_none()
    }

    /// The close code with which the stream has ended: the peer's own, or that of its fault.
    pub fn close_code(&self) -> Option<u16> {
        match self.phase {
            Phase::Ended { close_code } if close_code != NO_CLOSE_CODE => Some(close_code),
            _ => None,
        }
    }

    /// Bytes that are kept of a frame until it is whole; none if no frame is held.
    #[inline]
    pub fn held_len(&self) -> usize {
        match &self.phase {
            Phase::Held(frame) => frame.reply.len(),
            _ => 0,
        }
    }

    /// Turns `chunk`, the next received bytes, into the reply to them.
    ///
    /// After a [`Next`] other than `Continue` all further chunks are answered with nothing.
    #[inline]
    pub fn transform(&mut self, chunk: &mut [u8], rules: &Rules) -> Reply {
        self.transform_until::<false>(chunk, rules, &mut 0)
    }

    /// The same, but stops at the first end of a frame where no message is under way. Returns also
    /// how many bytes of the chunk have been answered: all of them, unless it has stopped there.
    #[cold]
    pub fn transform_to_boundary(&mut self, chunk: &mut [u8], rules: &Rules) -> (Reply, usize) {
        let mut answered_len = chunk.len();
        (self.transform_until::<true>(chunk, rules, &mut answered_len), answered_len)
    }

    fn transform_until<const BOUNDARY: bool>(
        &mut self,
        chunk: &mut [u8],
        rules: &Rules,
        answered_len: &mut usize,
    ) -> Reply {
        let mut progress = Progress {
            prefix: Vec::new(),
            range: 0..0,
            messages: 0,
            texts: 0,
            controls: ControlFrames::default(),
        };
        let next = match self.consume::<BOUNDARY>(chunk, rules, &mut progress, answered_len) {
            Ok(next) => next,
            Err(error) => self.fail(error),
        };
        let Progress { prefix, range, messages, texts, controls } = progress;
        Reply { prefix, range, messages, texts, controls, next, closing: None }
    }

    fn consume<const BOUNDARY: bool>(
        &mut self,
        chunk: &mut [u8],
        rules: &Rules,
        progress: &mut Progress,
        answered_len: &mut usize,
    ) -> Result<Next, ProtocolError> {
        let mut read = 0;
        if !matches!(self.phase, Phase::FrameHeader { len: 0, .. }) {
            match self.resume(chunk, rules, progress)? {
                (consumed, Next::Continue) => read = consumed,
                (_, next) => return Ok(next),
            }
            if BOUNDARY && self.between_messages() {
                *answered_len = read;
                return Ok(Next::Continue);
            }
        }
        // A plain message is one frame, so both bounds are for it.
        let len_max = rules.frame_size_max.min(rules.message_size_max);
        while read < chunk.len() {
            if !BOUNDARY && matches!(chunk[read], PLAIN_TEXT | PLAIN_BINARY) {
                let plain_len =
                    match self.answer_plain_message::<2>(chunk, read, len_max, progress)? {
                        0 => self.answer_plain_message::<4>(chunk, read, len_max, progress)?,
                        len => len,
                    };
                if plain_len > 0 {
                    read += plain_len;
                    continue;
                }
            }
            //= https://www.rfc-editor.org/rfc/rfc6455#section-6.2
            //# Incoming data MUST be parsed as WebSocket frames as defined in Section 5.2.
            let Some((header, header_len)) = FrameHeader::decode(&chunk[read..])? else {
                self.keep_header(&chunk[read..]);
                break;
            };
            //= https://www.rfc-editor.org/rfc/rfc6455#section-10.7
            //# Incoming data MUST always be validated by both clients and servers.
            let key = self.admit(&header, rules)?;
            let payload_at = read + header_len;
            if header.payload_len > (chunk.len() - payload_at) as u64 {
                self.begin_frame(chunk, payload_at, header, key, rules, progress)?;
                break;
            }
            let payload = payload_at..payload_at + header.payload_len as usize;
            read = payload.end;
            //= https://www.rfc-editor.org/rfc/rfc6455#section-6.2
            //# If a control frame (Section 5.5) is received, the frame MUST be handled as defined
            //# by Section 5.5.
            if is_control(header.opcode) {
                let next = self.answer_control_frame(chunk, payload, header, key, progress)?;
                if next != Next::Continue {
                    return Ok(next);
                }
            } else {
                let payload = progress.append(chunk, header, payload, key);
                self.message.check_text(&chunk[payload.clone()])?;
                self.end_data_frame(header.fin, progress)?;
                progress.range.end = payload.end;
            }
            if BOUNDARY && self.between_messages() {
                *answered_len = read;
                break;
            }
        }
        Ok(Next::Continue)
    }

    /// Answers the [`PlainMessage`] at `at` in the chunk, of at most `len_max` bytes; returns the
    /// length of its frame, or 0 if there is none.
    #[expect(clippy::inline_always, reason = "the call takes 40 instructions a frame")]
    #[inline(always)]
    fn answer_plain_message<const HEADER_LEN: usize>(
        &self,
        chunk: &mut [u8],
        at: usize,
        len_max: u64,
        progress: &mut Progress,
    ) -> Result<usize, ProtocolError> {
        match PlainMessage::<HEADER_LEN>::at_start(&chunk[at..]) {
            Some(message)
                if self.message.kind.is_none() && message.payload_len as u64 <= len_max =>
            {
                progress.append_plain(chunk, at, message)?;
                Ok(message.frame_len())
            }
            _ => Ok(0),
        }
    }

    /// Checks a header against the connection's state, counts its frame into the message, and
    /// returns the masking key.
    #[inline]
    fn admit(&mut self, header: &FrameHeader, rules: &Rules) -> Result<[u8; 4], ProtocolError> {
        if header.rsv1 && !self.may_be_compressed(header) {
            return Err(ProtocolError::ReservedBitSet);
        }
        let key = header.client_masking_key()?;
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
        //# The fragments of one message MUST NOT be interleaved between the
        //# fragments of another message unless an extension has been
        //# negotiated that can interpret the interleaving.
        match (header.opcode, self.message.kind) {
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
            //# An endpoint MUST be capable of handling control frames in the middle of a fragmented
            //# message.
            (OpCode::Close | OpCode::Ping | OpCode::Pong, _) => return Ok(key),
            (OpCode::Continuation, Some(_)) => {}
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
            //# Since control frames cannot be fragmented, the type for all fragments in a message
            //# MUST be either text, binary, or one of the reserved opcodes.
            (OpCode::Continuation, None) => return Err(ProtocolError::ContinuationUnexpected),
            (OpCode::Text | OpCode::Binary, Some(_)) => {
                return Err(ProtocolError::ContinuationMissing);
            }
            //= https://www.rfc-editor.org/rfc/rfc6455#section-6.2
            //# Upon receiving a data frame (Section 5.6), the endpoint MUST note the /type/ of the
            //# data as defined by the opcode (frame-opcode) from Section 5.2.
            (OpCode::Text, None) if !header.rsv1 => self.message.kind = Some(MessageKind::Text),
            (OpCode::Text | OpCode::Binary, None) => {
                self.message.kind = Some(MessageKind::Opaque);
            }
        }
        if header.payload_len > rules.frame_size_max {
            return Err(ProtocolError::FrameTooBig);
        }
        self.message_len = self.message_len.saturating_add(header.payload_len);
        //= https://www.rfc-editor.org/rfc/rfc6455#section-10.4
        //# Implementations that have implementation- and/or platform-specific limitations regarding
        //# the frame size or total message size after reassembly from multiple frames MUST protect
        //# themselves against exceeding those limits.
        if self.message_len > rules.message_size_max {
            return Err(ProtocolError::MessageTooBig);
        }
        Ok(key)
    }

    /// Whether a frame may have RSV1, "Per-Message Compressed".
    fn may_be_compressed(&self, header: &FrameHeader) -> bool {
        //= https://www.rfc-editor.org/rfc/rfc7692#section-6.1
        //# An endpoint MUST NOT set the "Per-Message Compressed" bit of control
        //# frames and non-first fragments of a data message.  An endpoint
        //# receiving such a frame MUST _Fail the WebSocket Connection_.
        self.compression == Compression::PermessageDeflate
            && matches!(header.opcode, OpCode::Text | OpCode::Binary)
    }

    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
    //# Clients and servers MUST support receiving both fragmented and unfragmented messages.
    #[inline]
    fn end_data_frame(&mut self, fin: bool, progress: &mut Progress) -> Result<(), ProtocolError> {
        if fin {
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.6
            //# Note that a particular text frame might include a partial UTF-8 sequence; however,
            //# the whole message MUST contain valid UTF-8.
            if !self.message.utf8.is_complete() {
                return Err(ProtocolError::TextNotUtf8);
            }
            //= https://www.rfc-editor.org/rfc/rfc6455#section-6.2
            //# Subsequent data frames MUST be interpreted as belonging to a new WebSocket message.
            progress.texts += u32::from(self.message.kind == Some(MessageKind::Text));
            self.message = NO_MESSAGE;
            self.message_len = 0;
            progress.messages += 1;
        }
        Ok(())
    }

    /// Answers a control frame that has arrived whole in one chunk.
    #[cold]
    fn answer_control_frame(
        &mut self,
        chunk: &mut [u8],
        payload: Range<usize>,
        header: FrameHeader,
        key: [u8; 4],
        progress: &mut Progress,
    ) -> Result<Next, ProtocolError> {
        if header.opcode == OpCode::Pong {
            progress.controls.pongs += 1;
            return Ok(Next::Continue);
        }
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.3
        //# A Pong frame sent in response to a Ping frame must have identical
        //# "Application data" as found in the message body of the Ping frame being
        //# replied to.
        let reply = FrameHeader { opcode: reply_opcode(header.opcode), ..header };
        let payload = progress.append(chunk, reply, payload, key);
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
        //# If an endpoint receives a Close frame and did not previously send a Close frame,
        //# the endpoint MUST send a Close frame in response.
        let next = if header.opcode == OpCode::Close {
            let code = decode_close_payload(&chunk[payload.clone()])?;
            self.phase = Phase::Ended { close_code: code.unwrap_or(NO_CLOSE_CODE) };
            Next::Close
        } else {
            progress.controls.pings += 1;
            Next::Continue
        };
        progress.range.end = payload.end;
        Ok(next)
    }

    /// Keeps the part of a header with which a chunk ends.
    #[cold]
    fn keep_header(&mut self, part: &[u8]) {
        let mut bytes = [0; FRAME_HEADER_LEN_MAX - 1];
        bytes[..part.len()].copy_from_slice(part);
        self.phase = Phase::FrameHeader { bytes, len: part.len() as u8 };
    }

    /// Begins a frame whose header is in the chunk and whose payload is not all there yet.
    #[cold]
    fn begin_frame(
        &mut self,
        chunk: &mut [u8],
        payload_at: usize,
        header: FrameHeader,
        key: [u8; 4],
        rules: &Rules,
        progress: &mut Progress,
    ) -> Result<(), ProtocolError> {
        if is_held(&header, rules) {
            self.hold(header, key);
            self.resume_held(&chunk[payload_at..], progress)?;
            return Ok(());
        }
        let here = chunk.len() - payload_at;
        let payload = progress.append(chunk, header, payload_at..chunk.len(), key);
        self.message.check_text(&chunk[payload.clone()])?;
        progress.range.end = payload.end;
        let mut pending = PendingPayload::new(&header, key);
        pending.take(here);
        self.phase = Phase::CutThrough(pending);
        Ok(())
    }

    /// Goes on with the frame that an earlier chunk left unfinished, and returns how many bytes of
    /// this chunk belonged to it.
    #[cold]
    fn resume(
        &mut self,
        chunk: &mut [u8],
        rules: &Rules,
        progress: &mut Progress,
    ) -> Result<(usize, Next), ProtocolError> {
        match &self.phase {
            &Phase::FrameHeader { bytes, len } => {
                self.resume_header(bytes, len.into(), chunk, rules, progress)
            }
            Phase::Held(_) => self.resume_held(chunk, progress),
            &Phase::CutThrough(payload) => {
                let consumed = self.resume_cut_through(payload, chunk, 0, progress)?;
                Ok((consumed, Next::Continue))
            }
            //= https://www.rfc-editor.org/rfc/rfc6455#section-6.1
            //# The endpoint MUST ensure the WebSocket connection is in the OPEN state (cf. Sections
            //# 4.1 and 4.2.2.) If at any point the state of the WebSocket connection changes, the
            //# endpoint MUST abort the following steps.
            Phase::Ended { .. } => Ok((chunk.len(), Next::Continue)),
        }
    }

    /// Completes a split header. Its echo has no place in this chunk, so it becomes the prefix.
    fn resume_header(
        &mut self,
        kept: [u8; FRAME_HEADER_LEN_MAX - 1],
        kept_len: usize,
        chunk: &mut [u8],
        rules: &Rules,
        progress: &mut Progress,
    ) -> Result<(usize, Next), ProtocolError> {
        let mut bytes = [0; FRAME_HEADER_LEN_MAX];
        let added = chunk.len().min(FRAME_HEADER_LEN_MAX - kept_len);
        bytes[..kept_len].copy_from_slice(&kept[..kept_len]);
        bytes[kept_len..kept_len + added].copy_from_slice(&chunk[..added]);

        let Some((header, header_len)) = FrameHeader::decode(&bytes[..kept_len + added])? else {
            self.keep_header(&bytes[..kept_len + added]);
            return Ok((chunk.len(), Next::Continue));
        };
        let key = self.admit(&header, rules)?;
        let payload_at = header_len - kept_len;
        let (consumed, next) = if is_held(&header, rules) {
            self.hold(header, key);
            self.resume_held(&chunk[payload_at..], progress)?
        } else {
            let pending = PendingPayload::new(&header, key);
            let consumed = self.resume_cut_through(pending, chunk, payload_at, progress)?;
            append_reply_header(&header, &mut progress.prefix);
            (consumed, Next::Continue)
        };
        Ok((payload_at + consumed, next))
    }

    /// Begins to hold a frame: writes the header of its reply, whose payload is to come.
    fn hold(&mut self, header: FrameHeader, key: [u8; 4]) {
        let mut reply = Vec::with_capacity(header.encoded_len() + header.payload_len as usize);
        append_reply_header(&header, &mut reply);
        self.phase =
            Phase::Held(HeldFrame { payload: PendingPayload::new(&header, key), reply }.into());
    }

    /// Moves payload from `bytes` to the held reply, and answers when the frame is whole.
    fn resume_held(
        &mut self,
        bytes: &[u8],
        progress: &mut Progress,
    ) -> Result<(usize, Next), ProtocolError> {
        let Phase::Held(frame) = &mut self.phase else { unreachable!("no frame is held") };
        let HeldFrame { payload, reply } = &mut **frame;
        let taken = bytes.len().min(payload.remaining as usize);
        let piece_at = reply.len();
        reply.extend_from_slice(&bytes[..taken]);
        unmask(&mut reply[piece_at..], payload.key);
        payload.take(taken);
        let PendingPayload { remaining, opcode, fin, .. } = *payload;

        if !is_control(opcode) {
            self.message.check_text(&reply[piece_at..])?;
        }
        if remaining > 0 {
            return Ok((taken, Next::Continue));
        }
        let reply = std::mem::take(reply);
        self.phase = BETWEEN_FRAMES;
        match opcode {
            OpCode::Text | OpCode::Binary | OpCode::Continuation => {
                self.end_data_frame(fin, progress)?;
            }
            OpCode::Ping => progress.controls.pings += 1,
            OpCode::Pong => {
                progress.controls.pongs += 1;
                return Ok((taken, Next::Continue));
            }
            OpCode::Close => {
                let code = decode_close_payload(&reply[2..])?;
                self.phase = Phase::Ended { close_code: code.unwrap_or(NO_CLOSE_CODE) };
            }
        }
        progress.prefix = reply;
        Ok((taken, if opcode == OpCode::Close { Next::Close } else { Next::Continue }))
    }

    /// Unmasks the payload from `at` on in place, as the beginning of this chunk's reply.
    fn resume_cut_through(
        &mut self,
        mut payload: PendingPayload,
        chunk: &mut [u8],
        at: usize,
        progress: &mut Progress,
    ) -> Result<usize, ProtocolError> {
        let taken = payload.remaining.min((chunk.len() - at) as u64) as usize;
        let piece = at..at + taken;
        unmask(&mut chunk[piece.clone()], payload.key);
        self.message.check_text(&chunk[piece.clone()])?;
        payload.take(taken);
        if payload.remaining == 0 {
            self.end_data_frame(payload.fin, progress)?;
            self.phase = BETWEEN_FRAMES;
        } else {
            self.phase = Phase::CutThrough(payload);
        }
        progress.range = piece;
        Ok(taken)
    }

    /// Ends the stream because of `error`.
    #[cold]
    fn fail(&mut self, error: ProtocolError) -> Next {
        // A fault in a frame that begins in this chunk leaves the phase as it was before the frame.
        let half_sent = matches!(self.phase, Phase::CutThrough(_));
        //= https://www.rfc-editor.org/rfc/rfc6455#section-7.1.7
        //# An endpoint MUST NOT continue to attempt to process data (including a responding Close
        //# frame) from the remote endpoint after being instructed to _Fail the WebSocket
        //# Connection_.
        if half_sent {
            self.phase = Phase::Ended { close_code: NO_CLOSE_CODE };
            return Next::Abort(error);
        }
        self.phase = Phase::Ended { close_code: error.close_code() as u16 };
        Next::Fail(error)
    }
}

impl Progress {
    /// Writes the reply to a frame, or to the part of it that has arrived, behind the reply so far.
    /// Returns where the payload stands now.
    ///
    /// The reply counts only once the caller has moved `range.end` behind it.
    #[expect(clippy::inline_always, reason = "the call takes 34 instructions a frame")]
    #[inline(always)]
    fn append(
        &mut self,
        chunk: &mut [u8],
        header: FrameHeader,
        payload: Range<usize>,
        key: [u8; 4],
    ) -> Range<usize> {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.1
        //# A server MUST NOT mask any frames that it sends to the client.
        let header = FrameHeader { masking_key: None, ..header };
        let header_len = header.encoded_len();
        if self.range.is_empty() {
            // The first reply starts where its payload can stay.
            self.range = payload.start - header_len..payload.start - header_len;
        }
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
        //# Message fragments MUST be delivered to the recipient in the order sent by the sender.
        let to = self.range.end + header_len;
        //= https://www.rfc-editor.org/rfc/rfc6455#section-6.1
        //# An endpoint MUST encapsulate the /data/ in a WebSocket frame as defined in Section 5.2.
        //= https://www.rfc-editor.org/rfc/rfc6455#section-6.1
        //# The opcode (frame-opcode) of the first frame containing the data MUST be set to the
        //# appropriate value from Section 5.2 for data that is to be interpreted by the recipient
        //# as text or binary data.
        //= https://www.rfc-editor.org/rfc/rfc6455#section-6.1
        //# The FIN bit (frame-fin) of the last frame containing the data MUST be set to 1 as
        //# defined in Section 5.2.
        header.encode(&mut chunk[self.range.end..to]);
        //= https://www.rfc-editor.org/rfc/rfc6455#section-6.2
        //# A server MUST remove masking for data frames received from a client as described in
        //# Section 5.3.
        unmask_to(chunk, payload.start, to, payload.len(), key);
        to..to + payload.len()
    }

    /// Writes the reply to a plain message, whose frame begins at `at`, behind the reply so far.
    #[expect(clippy::inline_always, reason = "the call takes 30 instructions a frame")]
    #[inline(always)]
    fn append_plain<const HEADER_LEN: usize>(
        &mut self,
        chunk: &mut [u8],
        at: usize,
        message: PlainMessage<HEADER_LEN>,
    ) -> Result<(), ProtocolError> {
        let PlainMessage { header, payload_len, key } = message;
        if self.range.is_empty() {
            // The first reply starts where its payload can stay.
            self.range = at + MASKING_KEY_LEN..at + MASKING_KEY_LEN;
        }
        let to = self.range.end + HEADER_LEN;
        chunk[self.range.end..to].copy_from_slice(&header);
        unmask_to(chunk, at + HEADER_LEN + MASKING_KEY_LEN, to, payload_len, key);
        let payload = to..to + payload_len;
        if header[0] == PLAIN_TEXT {
            if !is_utf8(&chunk[payload.clone()]) {
                return Err(ProtocolError::TextNotUtf8);
            }
            self.texts += 1;
        }
        self.range.end = payload.end;
        self.messages += 1;
        Ok(())
    }
}

impl<const HEADER_LEN: usize> PlainMessage<HEADER_LEN> {
    /// The message at the start of `bytes`, whose first byte is that of one, if there is one.
    #[inline]
    fn at_start(bytes: &[u8]) -> Option<Self> {
        let mut header = *bytes.first_chunk::<HEADER_LEN>()?;
        let (key, rest) = bytes[HEADER_LEN..].split_first_chunk()?;
        // Without a mask it is a code that no frame has.
        header[1] ^= MASK;
        let payload_len = match header[..] {
            [_, length_code] if length_code < LENGTH_IN_16_BITS => length_code.into(),
            // A length that has a shorter form is a fault.
            [_, LENGTH_IN_16_BITS, high, low] if high > 0 || low >= LENGTH_IN_16_BITS => {
                u16::from_be_bytes([high, low]).into()
            }
            _ => return None,
        };
        (payload_len <= rest.len()).then_some(Self { header, payload_len, key: *key })
    }

    #[inline]
    fn frame_len(&self) -> usize {
        HEADER_LEN + MASKING_KEY_LEN + self.payload_len
    }
}

impl Message {
    /// Validates unmasked payload of the message, if it is a text.
    #[inline]
    fn check_text(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-8.1
        //# When an endpoint is to interpret a byte stream as UTF-8 but finds
        //# that the byte stream is not, in fact, a valid UTF-8 stream, that
        //# endpoint MUST _Fail the WebSocket Connection_.
        if self.kind == Some(MessageKind::Text) {
            self.utf8.push(payload).map_err(|_| ProtocolError::TextNotUtf8)?;
        }
        Ok(())
    }
}

impl PendingPayload {
    /// All of a frame's payload.
    fn new(header: &FrameHeader, key: [u8; 4]) -> Self {
        Self { remaining: header.payload_len, key, opcode: header.opcode, fin: header.fin }
    }

    /// So many bytes of it have arrived.
    fn take(&mut self, len: usize) {
        self.remaining -= len as u64;
        self.key = rotate(self.key, len);
    }
}

/// Appends the header of the reply to a frame.
fn append_reply_header(header: &FrameHeader, reply: &mut Vec<u8>) {
    let header = FrameHeader { opcode: reply_opcode(header.opcode), masking_key: None, ..*header };
    let mut bytes = [0; FRAME_HEADER_LEN_MAX];
    let header_len = header.encode(&mut bytes);
    reply.extend_from_slice(&bytes[..header_len]);
}

/// The opcode that a frame is answered with.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.2
//# Upon receipt of a Ping frame, an endpoint MUST send a Pong frame in response,
//# unless it already received a Close frame.
fn reply_opcode(opcode: OpCode) -> OpCode {
    if opcode == OpCode::Ping { OpCode::Pong } else { opcode }
}

/// Whether a frame that has not arrived whole is held rather than cut through.
fn is_held(header: &FrameHeader, rules: &Rules) -> bool {
    is_control(header.opcode) || header.payload_len <= rules.hold as u64
}
