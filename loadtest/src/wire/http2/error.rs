//! What can go wrong with HTTP/2: on a transport before it has streams, and on a stream.

use std::io;

use h2::Reason;
use thiserror::Error;

use crate::text::excerpt::excerpt;

/// Why a stream could not be opened.
#[derive(Debug, Error)]
pub(crate) enum Http2Error {
    #[error("HTTP/2: the server does not speak it: {0}")]
    NotSpoken(StreamError),
    #[error(
        "HTTP/2: the server did not agree to it by ALPN (it chose {}); leave --http2 out, or name a \
         server that offers h2",
        .0.as_deref().unwrap_or("nothing")
    )]
    AlpnDeclined(Option<String>),
    #[error(
        "HTTP/2: the server chose it by ALPN; speak it with --http2, or leave h2 out of --alpn"
    )]
    AlpnChosen,
    #[error(
        "HTTP/2: the server opens no WebSockets: its SETTINGS have no \
         SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441)"
    )]
    ConnectProtocolMissing,
    #[error(
        "HTTP/2: the server allows {} on one connection (SETTINGS_MAX_CONCURRENT_STREAMS); spread the \
         connections over more with --transports{}",
        streams_in_words(*limit),
        transports.map_or_else(String::new, |least| format!(" {least} or more"))
    )]
    StreamsExhausted {
        /// What the server allows.
        limit: usize,
        /// How many transports would do; `None` if no number does.
        transports: Option<usize>,
    },
    #[error("HTTP/2: {0}")]
    Stream(#[from] StreamError),
}

impl Http2Error {
    /// A name for scripts.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NotSpoken(_) => "http2_not_spoken",
            Self::AlpnDeclined(_) => "http2_alpn_declined",
            Self::AlpnChosen => "http2_alpn_chosen",
            Self::ConnectProtocolMissing => "http2_connect_protocol_missing",
            Self::StreamsExhausted { .. } => "http2_streams_exhausted",
            Self::Stream(error) => error.code(),
        }
    }

    /// Whether it happened before a stream was asked for.
    pub(crate) fn is_of_transport(&self) -> bool {
        match self {
            Self::NotSpoken(_)
            | Self::AlpnDeclined(_)
            | Self::AlpnChosen
            | Self::ConnectProtocolMissing => true,
            Self::StreamsExhausted { .. } | Self::Stream(_) => false,
        }
    }
}

fn streams_in_words(limit: usize) -> String {
    match limit {
        0 => "no stream".to_owned(),
        1 => "1 stream at once".to_owned(),
        _ => format!("{limit} streams at once"),
    }
}

/// How a stream ended before its time.
#[derive(Debug, Error)]
pub(crate) enum StreamError {
    #[error("the server reset the stream: {}", name_of(*.0))]
    Reset(Reason),
    #[error(
        "the server ended the HTTP/2 connection: GOAWAY with {}{}",
        name_of(*reason),
        said.as_ref().map_or_else(String::new, |said| format!(": {said}"))
    )]
    GoAway {
        /// Its error code.
        reason: Reason,
        /// An excerpt of what it says beside that.
        said: Option<String>,
    },
    #[error("the server violated HTTP/2: {}", name_of(*.0))]
    Violation(Reason),
    #[error("the HTTP/2 connection broke: {0}")]
    Broken(io::Error),
    #[error("the server ended the HTTP/2 connection without GOAWAY")]
    CutOff,
    /// What the crate says of a call that was not its turn.
    #[error("{0}")]
    Other(String),
}

impl StreamError {
    /// A name for scripts.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Reset(Reason::REFUSED_STREAM) => "http2_stream_refused",
            Self::Reset(_) => "http2_stream_reset",
            Self::GoAway { .. } => "http2_goaway",
            Self::Violation(_) => "http2_violation",
            Self::Broken(_) | Self::CutOff => "http2_cut_off",
            Self::Other(_) => "http2_failed",
        }
    }

    /// The same GOAWAY; `None` of all else.
    pub(super) fn same_go_away(&self) -> Option<Self> {
        match self {
            Self::GoAway { reason, said } => {
                Some(Self::GoAway { reason: *reason, said: said.clone() })
            }
            _ => None,
        }
    }

    /// Whether the transport takes no further streams.
    pub(crate) fn ends_transport(&self) -> bool {
        !matches!(self, Self::Reset(_) | Self::Other(_))
    }
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_library() => Self::Violation(reason),
            Some(reason) if error.is_go_away() => Self::GoAway { reason, said: said(&error) },
            Some(reason) => Self::Reset(reason),
            None if error.is_io() => {
                let error = error.into_io().expect("it is one of I/O");
                // h2 says of streams that the end of the connection has broken their pipe.
                match error.kind() {
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => Self::CutOff,
                    _ => Self::Broken(error),
                }
            }
            None => Self::Other(error.to_string()),
        }
    }
}

/// What a GOAWAY says beside its error code. The crate shows it as `… (b"text")` behind all else.
fn said(error: &h2::Error) -> Option<String> {
    let text = error.to_string();
    let said = text.rsplit_once("(b\"")?.1.strip_suffix("\")")?;
    (!said.is_empty()).then(|| excerpt(said))
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        Self::other(error)
    }
}

/// The name of an error code (RFC 9113 §7), as the standard writes it.
fn name_of(reason: Reason) -> String {
    let name = match reason {
        Reason::NO_ERROR => "NO_ERROR",
        Reason::PROTOCOL_ERROR => "PROTOCOL_ERROR",
        Reason::INTERNAL_ERROR => "INTERNAL_ERROR",
        Reason::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
        Reason::SETTINGS_TIMEOUT => "SETTINGS_TIMEOUT",
        Reason::STREAM_CLOSED => "STREAM_CLOSED",
        Reason::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
        Reason::REFUSED_STREAM => "REFUSED_STREAM",
        Reason::CANCEL => "CANCEL",
        Reason::COMPRESSION_ERROR => "COMPRESSION_ERROR",
        Reason::CONNECT_ERROR => "CONNECT_ERROR",
        Reason::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
        Reason::INADEQUATE_SECURITY => "INADEQUATE_SECURITY",
        Reason::HTTP_1_1_REQUIRED => "HTTP_1_1_REQUIRED",
        other => return format!("error code {}", u32::from(other)),
    };
    name.to_owned()
}
