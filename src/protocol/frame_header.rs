//! The frame header (RFC 6455 §5.2): two bytes, an extended payload length, a masking key.
//!
//! This module judges what a single header shows, masking by role included. Rules that depend on
//! the connection (continuation, negotiated extensions) are left to [`super::echo`].

use super::ProtocolError;

/// The longest header: two bytes, a 64-bit payload length and a masking key.
pub const FRAME_HEADER_LEN_MAX: usize = 14;

/// The longest payload of a control frame (§5.5).
pub const CONTROL_PAYLOAD_LEN_MAX: u64 = 125;

pub(super) const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_RSV3: u8 = 0x30;
pub(super) const MASK: u8 = 0x80;

/// The length code of a length that follows in two bytes.
pub(super) const LENGTH_IN_16_BITS: u8 = 126;
/// The length code of a length that follows in eight bytes.
const LENGTH_IN_64_BITS: u8 = 127;

/// What the payload of a frame is (§5.2, §11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpCode {
    /// The next fragment of a message.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The closing handshake.
    Close = 0x8,
    /// A question whether the peer is there.
    Ping = 0x9,
    /// The answer to a Ping, or a sign of life that nobody asked for.
    Pong = 0xa,
}

/// A decoded frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether this is the last frame of its message; always set on control frames.
    pub fin: bool,
    /// "Per-message compressed" where permessage-deflate is negotiated (RFC 7692 §6).
    pub rsv1: bool,
    /// What the payload is.
    pub opcode: OpCode,
    /// The key that the payload is masked with; present on every client's frame.
    pub masking_key: Option<[u8; 4]>,
    /// Bytes of payload, below 2^63.
    pub payload_len: u64,
}

impl OpCode {
    /// The opcode in the lower four bits of a frame's first byte; `None` if it is reserved.
    #[inline]
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xa => Some(Self::Pong),
            _ => None,
        }
    }
}

impl FrameHeader {
    /// Decodes the header at the start of `bytes`, and returns it with its length in bytes.
    ///
    /// `None` means that the header is not all there yet. A fault is reported as soon as the
    /// field that shows it is there whole.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        let &[first, second, ..] = bytes else {
            return Ok(None);
        };
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.2
        //# MUST be 0 unless an extension is negotiated that defines meanings for non-zero values.
        //# If a nonzero value is received and none of the negotiated extensions defines the meaning
        //# of such a nonzero value, the receiving endpoint MUST _Fail the WebSocket Connection_.
        if first & RSV2_RSV3 != 0 {
            return Err(ProtocolError::ReservedBitSet);
        }
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.2
        //# If an unknown opcode is received, the receiving endpoint MUST _Fail the WebSocket
        //# Connection_.
        let opcode = OpCode::from_bits(first & 0x0f).ok_or(ProtocolError::OpcodeReserved)?;
        let fin = first & FIN != 0;
        let length_code = second & !MASK;
        if is_control(opcode) {
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5
            //# All control frames MUST have a payload length of 125 bytes or less
            //# and MUST NOT be fragmented.
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
            //# Control frames themselves MUST NOT be fragmented.
            if !fin {
                return Err(ProtocolError::ControlFrameFragmented);
            }
            if u64::from(length_code) > CONTROL_PAYLOAD_LEN_MAX {
                return Err(ProtocolError::ControlFrameTooLong);
            }
        }
        let Some((payload_len, key_at)) = decode_payload_len(bytes, length_code)? else {
            return Ok(None);
        };
        let (masking_key, len) = if second & MASK == 0 {
            (None, key_at)
        } else {
            match bytes[key_at..].first_chunk::<4>() {
                Some(&key) => (Some(key), key_at + 4),
                None => return Ok(None),
            }
        };
        let rsv1 = first & RSV1 != 0;
        let header = Self { fin, rsv1, opcode, masking_key, payload_len };
        Ok(Some((header, len)))
    }

    /// The masking key of a client's frame, which has to have one (§5.1).
    #[inline]
    pub fn client_masking_key(&self) -> Result<[u8; 4], ProtocolError> {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.1
        //# The server MUST close the connection upon receiving a
        //# frame that is not masked.
        self.masking_key.ok_or(ProtocolError::MaskMissing)
    }

    /// Checks that a server's frame is not masked (§5.1).
    #[inline]
    pub fn check_server_masking(&self) -> Result<(), ProtocolError> {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-5.1
        //# A client MUST close a connection if it detects a masked
        //# frame.
        match self.masking_key {
            None => Ok(()),
            Some(_) => Err(ProtocolError::MaskUnexpected),
        }
    }

    /// Bytes that [`encode`](Self::encode) writes: 2 to 14.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        let length_len = match self.payload_len {
            0..=125 => 0,
            126..=0xffff => 2,
            _ => 8,
        };
        2 + length_len + if self.masking_key.is_some() { 4 } else { 0 }
    }

    /// Writes the header to the start of `out` and returns how many bytes it took.
    ///
    /// # Panics
    ///
    /// When `out` is shorter than [`encoded_len`](Self::encoded_len).
    #[inline]
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let fin = if self.fin { FIN } else { 0 };
        let rsv1 = if self.rsv1 { RSV1 } else { 0 };
        let mask = if self.masking_key.is_some() { MASK } else { 0 };
        out[0] = fin | rsv1 | self.opcode as u8;
        let mut len = 2;
        match self.payload_len {
            short @ 0..=125 => out[1] = mask | short as u8,
            medium @ 126..=0xffff => {
                out[1] = mask | LENGTH_IN_16_BITS;
                out[2..4].copy_from_slice(&(medium as u16).to_be_bytes());
                len = 4;
            }
            long => {
                out[1] = mask | LENGTH_IN_64_BITS;
                out[2..10].copy_from_slice(&long.to_be_bytes());
                len = 10;
            }
        }
        if let Some(key) = self.masking_key {
            out[len..len + 4].copy_from_slice(&key);
            len += 4;
        }
        len
    }
}

/// Whether frames with this opcode are control frames (§5.5).
#[inline]
pub fn is_control(opcode: OpCode) -> bool {
    opcode as u8 & 0x08 != 0
}

/// Decodes the payload length, and returns it with the offset behind it; `None` if it is not all
/// there yet.
#[inline]
fn decode_payload_len(
    bytes: &[u8],
    length_code: u8,
) -> Result<Option<(u64, usize)>, ProtocolError> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.2
    //# Note that in all cases, the minimal number of bytes MUST be used to encode
    //# the length, for example, the length of a 124-byte-long string
    //# can't be encoded as the sequence 126, 0, 124.
    match length_code {
        0..=125 => Ok(Some((u64::from(length_code), 2))),
        LENGTH_IN_16_BITS => {
            let Some(&length) = bytes[2..].first_chunk::<2>() else {
                return Ok(None);
            };
            let length = u16::from_be_bytes(length);
            if length < 126 {
                return Err(ProtocolError::PayloadLengthNotMinimal);
            }
            Ok(Some((u64::from(length), 4)))
        }
        _ => {
            let Some(&length) = bytes[2..].first_chunk::<8>() else {
                return Ok(None);
            };
            let length = u64::from_be_bytes(length);
            if length <= 0xffff {
                return Err(ProtocolError::PayloadLengthNotMinimal);
            }
            //= https://www.rfc-editor.org/rfc/rfc6455#section-5.2
            //# If 127, the following 8 bytes interpreted as a
            //# 64-bit unsigned integer (the most significant bit MUST be 0) are the
            //# payload length.
            if length > i64::MAX as u64 {
                return Err(ProtocolError::PayloadLengthTooLarge);
            }
            Ok(Some((length, 10)))
        }
    }
}
