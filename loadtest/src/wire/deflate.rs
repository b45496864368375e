//! permessage-deflate (RFC 7692) as a client that asks for no context takeover on either side.
//!
//! So each message stands for itself: one compressor serves all connections of a thread, an echo
//! that is dropped or damaged does not spoil the next one, and a connection holds the state of an
//! inflater only once a compressed message has come.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use ringecho::handshake::extensions::{Offer, parse_offers};
use thiserror::Error;

use super::refusal::excerpt;

/// What the client offers. It is silent about its own window, so the server cannot limit it.
pub(crate) const OFFER: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The end of each message, which is not sent (§7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Bytes that are inflated at once: what stays in the first-level cache.
const INFLATED_AT_ONCE: usize = 8 * 1024;

/// The extension, and its parameters that matter here.
const EXTENSION: &str = "permessage-deflate";
const SERVER_FORGETS: &str = "server_no_context_takeover";
const CLIENT_FORGETS: &str = "client_no_context_takeover";
const SERVER_WINDOW: &str = "server_max_window_bits";

/// Why a response's extensions fail the handshake. What comes from the server is an [`excerpt`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Disagreement {
    #[error("the response's sec-websocket-extensions is malformed: {0}")]
    Malformed(String),
    #[error("the response grants the extension {0}, which was not asked for")]
    Unasked(String),
    #[error("the response grants {EXTENSION} more than once")]
    Repeated,
    #[error("the response grants {EXTENSION} without {SERVER_FORGETS}, which the offer demands")]
    ParameterMissing,
    #[error("the response grants {EXTENSION} with the parameter {0}, which was not offered")]
    ParameterUnasked(String),
    #[error("the response grants {EXTENSION} with {0} more than once")]
    ParameterRepeated(String),
    #[error("the response grants {EXTENSION} with {name} {value}; expected {expected}")]
    ValueInvalid { name: String, value: String, expected: &'static str },
}

/// Whether a response's extensions agree to [`OFFER`], if that was made.
pub(crate) fn agreement(extensions: &str, is_offered: bool) -> Result<bool, Disagreement> {
    let granted =
        parse_offers(extensions).map_err(|_| Disagreement::Malformed(excerpt(extensions)))?;
    let is_asked_for = |extension: &&Offer<'_>| is_offered && extension.name == EXTENSION;
    if let Some(other) = granted.iter().find(|extension| !is_asked_for(extension)) {
        return Err(Disagreement::Unasked(excerpt(other.name)));
    }
    match &granted[..] {
        [] => Ok(false),
        [extension] => check_parameters(extension).map(|()| true),
        _ => Err(Disagreement::Repeated),
    }
}

/// Parameters of a response that do not fail the handshake (RFC 7692 §7.1): known ones, each once,
/// with values that they may have.
fn check_parameters(extension: &Offer<'_>) -> Result<(), Disagreement> {
    let parameters = &extension.parameters;
    for (at, parameter) in parameters.iter().enumerate() {
        let (name, value) = (parameter.name, parameter.value.as_deref());
        let (is_valid, expected) = match name {
            SERVER_FORGETS | CLIENT_FORGETS => (value.is_none(), "no value"),
            // The inflater has the largest window, so it does not matter to which the server limits
            // itself.
            SERVER_WINDOW => (value.is_some_and(is_window), "8 to 15"),
            _ => return Err(Disagreement::ParameterUnasked(excerpt(name))),
        };
        if !is_valid {
            let value = value.map_or_else(|| "without a value".to_owned(), excerpt);
            return Err(Disagreement::ValueInvalid { name: name.to_owned(), value, expected });
        }
        if parameters[..at].iter().any(|earlier| earlier.name == name) {
            return Err(Disagreement::ParameterRepeated(name.to_owned()));
        }
    }
    let server_forgets = parameters.iter().any(|parameter| parameter.name == SERVER_FORGETS);
    if server_forgets { Ok(()) } else { Err(Disagreement::ParameterMissing) }
}

/// Whether a value is the size of a window: without leading zeros (§7.1.2.1).
fn is_window(value: &str) -> bool {
    !value.starts_with('0') && value.parse().is_ok_and(|bits: u8| (8..=15).contains(&bits))
}

/// Compresses the messages of one thread.
#[derive(Debug)]
pub(crate) struct Deflater {
    state: Compress,
}

impl Default for Deflater {
    fn default() -> Self {
        Self { state: Compress::new(Compression::fast(), false) }
    }
}

impl Deflater {
    /// The payload of a compressed message.
    pub(crate) fn deflate(&mut self, payload: &[u8]) -> Vec<u8> {
        self.state.reset();
        let mut deflated = Vec::with_capacity(payload.len() / 2 + 64);
        loop {
            let consumed = self.state.total_in() as usize;
            self.state
                .compress_vec(&payload[consumed..], &mut deflated, FlushCompress::Sync)
                .expect("a compressor without a dictionary takes everything");
            // There is room left: so nothing is left to come.
            if deflated.len() < deflated.capacity() {
                break;
            }
            deflated.reserve(deflated.len());
        }
        deflated.truncate(deflated.len() - TAIL.len());
        deflated
    }
}

/// Inflates the messages of one connection, piece by piece.
#[derive(Debug)]
pub(crate) struct Inflater {
    state: Decompress,
    inflated: Box<[u8]>,
}

/// A message is not compressed as RFC 7692 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotDeflated;

impl Default for Inflater {
    fn default() -> Self {
        Self {
            state: Decompress::new(false),
            inflated: vec![0; INFLATED_AT_ONCE].into_boxed_slice(),
        }
    }
}

impl Inflater {
    /// Begins a message.
    pub(crate) fn begin(&mut self) {
        self.state.reset(false);
    }

    /// Inflates the next piece of a message, and calls `each` with what comes out.
    pub(crate) fn inflate(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), NotDeflated> {
        let mut rest = piece;
        loop {
            let (before_in, before_out) = (self.state.total_in(), self.state.total_out());
            let flush = FlushDecompress::Sync;
            let status = self.state.decompress(rest, &mut self.inflated, flush);
            let status = status.map_err(|_| NotDeflated)?;
            let consumed = (self.state.total_in() - before_in) as usize;
            let produced = (self.state.total_out() - before_out) as usize;
            each(&self.inflated[..produced]);
            rest = &rest[consumed..];
            if status == Status::StreamEnd {
                // A final block may be followed by others (§7.2.3.4).
                self.state.reset(false);
            } else if consumed == 0 && produced == 0 && !rest.is_empty() {
                return Err(NotDeflated);
            }
            // If the room was filled, there may be more to come.
            if rest.is_empty() && produced < self.inflated.len() {
                return Ok(());
            }
        }
    }

    /// Inflates what is left at the end of a message.
    pub(crate) fn end(&mut self, each: impl FnMut(&[u8])) -> Result<(), NotDeflated> {
        self.inflate(&TAIL, each)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inflate<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, NotDeflated> {
        let mut inflater = Inflater::default();
        let mut payload = Vec::new();
        inflater.begin();
        for piece in pieces {
            inflater.inflate(piece, |inflated| payload.extend_from_slice(inflated))?;
        }
        inflater.end(|inflated| payload.extend_from_slice(inflated))?;
        Ok(payload)
    }

    /// RFC 7692 §7.2.3: the examples of "Hello".
    #[test]
    fn the_examples_of_the_standard_are_inflated() {
        for example in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            // A block without compression.
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            // A final block.
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            // Two blocks.
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ] {
            assert_eq!(inflate([example].into_iter()).unwrap(), b"Hello", "{example:x?}");
            assert_eq!(inflate(example.chunks(1)).unwrap(), b"Hello", "{example:x?}");
        }
        assert_eq!(inflate([&b"\x07"[..]].into_iter()), Err(NotDeflated));
    }

    #[test]
    fn responses_are_judged() {
        for extensions in ["", " , ,"] {
            assert_eq!(agreement(extensions, true), Ok(false), "{extensions:?}");
            assert_eq!(agreement(extensions, false), Ok(false), "{extensions:?}");
        }
        let granted = "permessage-deflate; server_no_context_takeover";
        for parameters in [
            "",
            "; client_no_context_takeover",
            "; server_max_window_bits=8",
            "; server_max_window_bits=\"15\"",
        ] {
            let extensions = format!("{granted}{parameters}");
            assert_eq!(agreement(&extensions, true), Ok(true), "{extensions}");
            let unasked = Disagreement::Unasked("\"permessage-deflate\"".to_owned());
            assert_eq!(agreement(&extensions, false), Err(unasked), "{extensions}");
        }
    }

    #[test]
    fn what_a_response_must_not_have_is_named() {
        let granted = "permessage-deflate; server_no_context_takeover";
        for (extensions, said) in [
            // Without it the server would keep its context, which an offer with it rules out.
            ("permessage-deflate", "without server_no_context_takeover, which the offer demands"),
            (&format!("{granted}; client_max_window_bits=9"), "\"client_max_window_bits\""),
            (&format!("{granted}; x=y"), "the parameter \"x\", which was not offered"),
            (&format!("{granted}; server_max_window_bits=7"), "\"7\"; expected 8 to 15"),
            (&format!("{granted}; server_max_window_bits=16"), "\"16\"; expected 8 to 15"),
            (&format!("{granted}; server_max_window_bits=010"), "\"010\"; expected 8 to 15"),
            (&format!("{granted}; server_max_window_bits"), "without a value; expected 8 to 15"),
            (&format!("{granted}=1"), "server_no_context_takeover \"1\"; expected no value"),
            (&format!("{granted}; server_no_context_takeover"), "more than once"),
            (&format!("{granted}, {granted}"), "permessage-deflate more than once"),
            (&format!("{granted}, other"), "the extension \"other\", which was not asked for"),
            ("x-webkit-deflate-frame", "\"x-webkit-deflate-frame\", which was not asked for"),
            ("permessage-deflate; =", "malformed: \"permessage-deflate; =\""),
        ] {
            let error = agreement(extensions, true).unwrap_err().to_string();
            assert!(error.contains(said), "{extensions}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_deflated_is_inflated_again_wherever_it_is_cut(
            words in proptest::collection::vec("[a-c]{0,9}|[\\x00-\\x7f]{40}", 0..300),
            piece_len in 1_usize..5000,
        ) {
            let payload = words.concat().into_bytes();
            let mut deflater = Deflater::default();
            let mut deflate_another = || deflater.deflate(b"another message");
            prop_assert_eq!(deflate_another(), deflate_another());
            let deflated = deflater.deflate(&payload);
            prop_assert_eq!(inflate(deflated.chunks(piece_len)).unwrap(), payload);
        }
    }
}
