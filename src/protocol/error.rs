//! What a peer can do against the protocol, and the close code that answers it.

use thiserror::Error;

use super::close_code::CloseCode;

/// A violation of RFC 6455 by the peer, named for what the peer did.
///
/// The text of each variant is the reason sent in the Close frame, so it stays below the 123 bytes
/// that a reason may have (§5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[cfg_attr(feature = "server", derive(strum::VariantNames), strum(serialize_all = "snake_case"))]
pub enum ProtocolError {
    /// RSV1, RSV2 or RSV3 is set without an extension that gives it a meaning (§5.2).
    #[error("a reserved bit is set")]
    ReservedBitSet,
    /// The opcode is one of 3-7 or 0xB-0xF (§5.2).
    #[error("the opcode is reserved")]
    OpcodeReserved,
    /// A control frame without FIN (§5.5).
    #[error("a control frame is fragmented")]
    ControlFrameFragmented,
    /// A control frame with more than 125 bytes of payload (§5.5).
    #[error("a control frame has more than 125 bytes")]
    ControlFrameTooLong,
    /// The payload length is encoded in more bytes than it needs (§5.2).
    #[error("the payload length is not encoded minimally")]
    PayloadLengthNotMinimal,
    /// The most significant bit of a 64-bit payload length is set (§5.2).
    #[error("the payload length has its most significant bit set")]
    PayloadLengthTooLarge,
    /// A client's frame without a masking key (§5.1).
    #[error("a frame from a client is not masked")]
    MaskMissing,
    /// A server's frame with a masking key (§5.1); no server meets it.
    #[error("a frame from the server is masked")]
    MaskUnexpected,
    /// A continuation frame while no message is being fragmented (§5.4).
    #[error("a continuation frame continues nothing")]
    ContinuationUnexpected,
    /// A new data frame while a fragmented message is unfinished (§5.4).
    #[error("a new message begins inside a fragmented one")]
    ContinuationMissing,
    /// A data frame is longer than this server was told to accept.
    #[error("a frame is longer than this server accepts")]
    FrameTooBig,
    /// The message is longer than this server was told to accept.
    #[error("the message is longer than this server accepts")]
    MessageTooBig,
    /// A text message is not UTF-8 (§8.1).
    #[error("a text message is not UTF-8")]
    TextNotUtf8,
    /// A Close frame with a payload of one byte (§5.5.1).
    #[error("a Close frame has half a close code")]
    CloseCodeTruncated,
    /// A Close frame with a code that may not be sent (§7.4).
    #[error("the close code may not be sent")]
    CloseCodeInvalid,
    /// A Close frame with a reason that is not UTF-8 (§5.5.1).
    #[error("the reason in a Close frame is not UTF-8")]
    CloseReasonNotUtf8,
}

impl ProtocolError {
    /// The code with which the connection is failed (§7.4.1).
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::ReservedBitSet
            | Self::OpcodeReserved
            | Self::ControlFrameFragmented
            | Self::ControlFrameTooLong
            | Self::PayloadLengthNotMinimal
            | Self::PayloadLengthTooLarge
            | Self::MaskMissing
            | Self::MaskUnexpected
            | Self::ContinuationUnexpected
            | Self::ContinuationMissing
            | Self::CloseCodeTruncated
            | Self::CloseCodeInvalid => CloseCode::ProtocolError,
            Self::TextNotUtf8 | Self::CloseReasonNotUtf8 => CloseCode::InvalidFramePayloadData,
            Self::FrameTooBig | Self::MessageTooBig => CloseCode::MessageTooBig,
        }
    }
}
