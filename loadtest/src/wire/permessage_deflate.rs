//! What client and server agree on about permessage-deflate (RFC 7692): no context takeover on either
//! side. The offer, and what a response to it may be; messages are deflated elsewhere.

use ringecho::protocol::extensions::{Offer, parse_offers};
use thiserror::Error;

use crate::text::excerpt::excerpt;

/// What the client offers. It is silent about its own window, so the server cannot limit it.
pub(crate) const OFFER: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
