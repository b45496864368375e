//! What is found in a received chunk: echoes, what is wrong with them, and why a stream of frames
//! ended.

use ringecho::protocol::ProtocolError;
use thiserror::Error;

/// What the consumed part of a chunk contained.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes of the chunk that were consumed: all of them, unless there is an `irregularity` or an
    /// `end`. A Close frame is consumed, what violates the protocol is not.
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

/// Why the stream of frames ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The server sent a Close frame, with this code if any.
    Close(Option<u16>),
    /// The server violated the protocol.
    Violation(Violation),
}

/// A violation of RFC 6455 by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Violation {
    #[error("a frame is not masked, so it is not what was sent")]
    NotMasked,
    /// A Close frame with a code that may not be sent (RFC 6455 §7.4).
    #[error("the server sent a Close frame with code {0}, which may not be sent")]
    CloseCodeInvalid(u16),
    /// A Close frame whose payload is no code and reason (RFC 6455 §5.5.1).
    #[error("the server sent a Close frame that is malformed: {0}")]
    CloseMalformed(ProtocolError),
    /// Anything behind a Close frame (RFC 6455 §5.5.1).
    #[error("the server sent something after its Close frame")]
    AfterClose,
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
}

impl<V: Into<Violation>> From<V> for StreamEnd {
    fn from(violation: V) -> Self {
        Self::Violation(violation.into())
    }
}

/// A message that is not the next echo, or not as it should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Irregularity {
    /// Messages in flight that were sent before the one that is echoed here: their own echoes are
    /// late, or will not come.
    pub(crate) passed_over: usize,
    /// Whether this answers the oldest message in flight that was not passed over.
    pub(crate) answers: bool,
    /// What is wrong with the message; `None` if only the messages passed over are irregular.
    pub(crate) wrong: Option<WrongEcho>,
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
