//! The naive echo server: it has the whole input before it, takes it frame by frame, collects
//! messages, and knows nothing of chunks, holding or cutting through. And the transformer held
//! against it.

use ringecho::protocol::{
    OpCode, ProtocolError,
    close_code::may_be_sent,
    echo::{Compression, Echo, Rules},
    reply::Next,
};

/// What the naive server makes of an input.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The replies to all whole and faultless frames, one after the other.
    pub replies: Vec<u8>,
    /// How the input ends.
    pub outcome: Outcome,
    /// The payload length of the frame in which the input ends or fails, if its header is whole.
    pub last_payload_len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Open,
    Closed,
    Failed(ProtocolError),
}

pub fn judge(input: &[u8], rules: &Rules, compression: Compression) -> Verdict {
    let mut verdict = Verdict { replies: Vec::new(), outcome: Outcome::Open, last_payload_len: 0 };
    let mut message = None;
    let mut rest = input;
    while verdict.outcome == Outcome::Open && rest.len() >= 2 {
        match frame(&mut rest, &mut message, rules, compression, &mut verdict) {
            Ok(Step::Next) => {}
            Ok(Step::NeedMore) => break,
            Ok(Step::Closed) => verdict.outcome = Outcome::Closed,
            Err(error) => verdict.outcome = Outcome::Failed(error),
        }
    }
    verdict
}

struct Message {
    is_text: bool,
    payload: Vec<u8>,
    len: u64,
}

impl Message {
    fn add_frame(&mut self, payload_len: u64, rules: &Rules) -> Result<(), ProtocolError> {
        self.len = self.len.saturating_add(payload_len);
        if payload_len > rules.frame_size_max {
            return Err(ProtocolError::FrameTooBig);
        }
        if self.len > rules.message_size_max {
            return Err(ProtocolError::MessageTooBig);
        }
        Ok(())
    }
}

enum Step {
    Next,
    NeedMore,
    Closed,
}

/// Takes one frame from the front of `rest`, as RFC 6455 §5.2 draws it.
fn frame(
    rest: &mut &[u8],
    message: &mut Option<Message>,
    rules: &Rules,
    compression: Compression,
    verdict: &mut Verdict,
) -> Result<Step, ProtocolError> {
    verdict.last_payload_len = 0;
    let bytes = *rest;
    let (first, second) = (bytes[0], bytes[1]);
    let fin = first >= 128;
    if first & 0b0011_0000 != 0 {
        return Err(ProtocolError::ReservedBitSet);
    }
    let opcode = opcode(first & 15)?;
    let is_control = first & 15 >= 8;
    if is_control && !fin {
        return Err(ProtocolError::ControlFrameFragmented);
    }
    if is_control && second % 128 > 125 {
        return Err(ProtocolError::ControlFrameTooLong);
    }
    let extended_len = match second % 128 {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if bytes.len() < 2 + extended_len {
        return Ok(Step::NeedMore);
    }
    let length_bytes = &bytes[2..2 + extended_len];
    let length = length_bytes.iter().fold(0, |length: u64, byte| length << 8 | u64::from(*byte));
    let payload_len = if extended_len == 0 { u64::from(second % 128) } else { length };
    if extended_len == 2 && length < 126 || extended_len == 8 && length < 65_536 {
        return Err(ProtocolError::PayloadLengthNotMinimal);
    }
    if payload_len >= 1 << 63 {
        return Err(ProtocolError::PayloadLengthTooLarge);
    }
    let is_masked = second >= 128;
    let key_at = 2 + extended_len;
    let payload_at = if is_masked { key_at + 4 } else { key_at };
    if bytes.len() < payload_at {
        return Ok(Step::NeedMore);
    }
    let is_compressed = first & 0b0100_0000 != 0;
    let may_be_compressed = compression == Compression::PermessageDeflate && first & 15 < 8;
    if is_compressed && (!may_be_compressed || opcode == OpCode::Continuation) {
        return Err(ProtocolError::ReservedBitSet);
    }
    if !is_masked {
        return Err(ProtocolError::MaskMissing);
    }
    if !is_control {
        match (opcode, &message) {
            (OpCode::Continuation, None) => return Err(ProtocolError::ContinuationUnexpected),
            (OpCode::Text | OpCode::Binary, Some(_)) => {
                return Err(ProtocolError::ContinuationMissing);
            }
            (OpCode::Text | OpCode::Binary, None) => {
                let is_text = opcode == OpCode::Text && !is_compressed;
                *message = Some(Message { is_text, payload: Vec::new(), len: 0 });
            }
            _ => {}
        }
        message.as_mut().unwrap().add_frame(payload_len, rules)?;
    }
    verdict.last_payload_len = payload_len;
    let is_whole = (bytes.len() - payload_at) as u64 >= payload_len;
    let payload_end = if is_whole { payload_at + payload_len as usize } else { bytes.len() };
    let key = &bytes[key_at..payload_at];
    let payload: Vec<u8> = bytes[payload_at..payload_end]
        .iter()
        .enumerate()
        .map(|(i, byte)| byte ^ key[i % 4])
        .collect();

    if let (false, Some(Message { is_text: true, payload: text, .. })) = (is_control, &mut *message)
    {
        text.extend_from_slice(&payload);
        match std::str::from_utf8(text) {
            Err(error) if error.error_len().is_some() || is_whole && fin => {
                return Err(ProtocolError::TextNotUtf8);
            }
            _ => {}
        }
    }
    if !is_whole {
        return Ok(Step::NeedMore);
    }
    *rest = &bytes[payload_end..];
    if !is_control && fin {
        *message = None;
    }
    if opcode == OpCode::Close {
        check_close(&payload)?;
    }
    if opcode != OpCode::Pong {
        let first = if opcode == OpCode::Ping { 0x8a } else { first };
        verdict.replies.extend_from_slice(&[first, second - 128]);
        verdict.replies.extend_from_slice(length_bytes);
        verdict.replies.extend_from_slice(&payload);
    }
    Ok(if opcode == OpCode::Close { Step::Closed } else { Step::Next })
}

fn opcode(number: u8) -> Result<OpCode, ProtocolError> {
    Ok(match number {
        0 => OpCode::Continuation,
        1 => OpCode::Text,
        2 => OpCode::Binary,
        8 => OpCode::Close,
        9 => OpCode::Ping,
        10 => OpCode::Pong,
        _ => return Err(ProtocolError::OpcodeReserved),
    })
}

fn check_close(payload: &[u8]) -> Result<(), ProtocolError> {
    match payload.len() {
        0 => Ok(()),
        1 => Err(ProtocolError::CloseCodeTruncated),
        _ if !may_be_sent(u16::from(payload[0]) << 8 | u16::from(payload[1])) => {
            Err(ProtocolError::CloseCodeInvalid)
        }
        _ => std::str::from_utf8(&payload[2..])
            .map(drop)
            .map_err(|_| ProtocolError::CloseReasonNotUtf8),
    }
}

/// Runs the transformer over chunks; returns all replies and the last word.
pub fn transform_with<'a>(
    mut echo: Echo,
    chunks: impl IntoIterator<Item = &'a [u8]>,
    rules: &Rules,
) -> (Vec<u8>, Next) {
    let mut replies = Vec::new();
    for chunk in chunks {
        let mut chunk = chunk.to_vec();
        let reply = echo.transform(&mut chunk, rules);
        replies.extend_from_slice(&reply.prefix);
        replies.extend_from_slice(&chunk[reply.range]);
        if reply.next != Next::Continue {
            return (replies, reply.next);
        }
    }
    (replies, Next::Continue)
}

/// Holds the transformer's replies against the verdict of the oracle.
pub fn assert_agrees(replies: &[u8], next: Next, verdict: &Verdict, rules: &Rules) {
    match (next, verdict.outcome) {
        (Next::Close, Outcome::Closed) => assert_eq!(replies, verdict.replies),
        (Next::Fail(error), Outcome::Failed(expected)) => {
            assert_eq!(error, expected);
            assert_eq!(replies, verdict.replies);
        }
        // Only in a frame that is too long to be held may a reply have begun.
        (Next::Abort(error), Outcome::Failed(expected)) => {
            assert_eq!((error, expected), (ProtocolError::TextNotUtf8, ProtocolError::TextNotUtf8));
            assert!(verdict.last_payload_len > rules.hold as u64);
            assert!(replies.starts_with(&verdict.replies));
        }
        (Next::Continue, Outcome::Open) => {
            assert!(replies.starts_with(&verdict.replies));
            if verdict.last_payload_len <= rules.hold as u64 {
                assert_eq!(replies, verdict.replies);
            }
        }
        (next, outcome) => panic!("{next:?}, but the oracle says {outcome:?}"),
    }
}
