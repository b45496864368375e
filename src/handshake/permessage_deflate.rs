//! permessage-deflate without inflating (RFC 7692 §7): agreements under which compressed messages
//! can be echoed as they are. Pure.
//!
//! An echo is, message for message, what the client compressed. The client can inflate it under two
//! conditions: the window that the client inflates with is no smaller than the one that it may
//! compress with, and the client keeps its context between messages, unless it may not compress
//! with context either. An offer is declined if no response to it meets both.

use std::{fmt, mem};

use crate::protocol::extensions::Offer;

/// The parameters of an offer, each at most once.
#[derive(Debug, Default)]
struct OfferedParameters {
    server_no_context_takeover: bool,
    /// Only announces what the client will do anyway (§7.1.1.2), so it needs no answer.
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    client_max_window_bits: Option<u8>,
}

/// What client and server agree on; its text is the response to the offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    client_max_window_bits: Option<u8>,
}

const NAME: &str = "permessage-deflate";
const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

/// The largest window, in bits. An endpoint may use it unless another was agreed on.
const WINDOW_BITS_MAX: u8 = 15;

/// The smallest window, in bits, that a client is limited to: zlib compresses with no smaller one,
/// and if it is asked for 8, it uses 9 or fails.
const WINDOW_BITS_MIN: u8 = 9;

/// Accepts the first offer that can be accepted.
pub fn negotiate(offers: &[Offer<'_>]) -> Option<Agreement> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //# If the server supports multiple extensions, then the value MUST be derived from the client's
    //# handshake, specifically by selecting one or more of the values from the
    //# |Sec-WebSocket-Extensions| field.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-9
    //# A server MUST NOT respond with any extension not requested by the client.
    offers
        .iter()
        .filter(|offer| offer.name == NAME)
        .find_map(|offer| agree(&OfferedParameters::read(offer)?))
}

/// The agreement under which the client can inflate its echoes, if there is one.
fn agree(offered: &OfferedParameters) -> Option<Agreement> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-9
    //# If extension parameters are included in negotiations between the client and the server,
    //# those parameters MUST be chosen in accordance with the specification of the extension to
    //# which the parameters apply.
    let client_max_window_bits = match offered.server_max_window_bits {
        None | Some(WINDOW_BITS_MAX) => None,
        Some(bits) => {
            //= https://www.rfc-editor.org/rfc/rfc7692#section-7.1.2.2
            //# If a received extension negotiation offer doesn't have the
            //# "client_max_window_bits" extension parameter, the corresponding
            //# extension negotiation response to the offer MUST NOT include the
            //# "client_max_window_bits" extension parameter.
            Some(offered.client_max_window_bits?.min(bits))
        }
    };
    if client_max_window_bits.is_some_and(|bits| bits < WINDOW_BITS_MIN) {
        return None;
    }
    Some(Agreement {
        server_no_context_takeover: offered.server_no_context_takeover,
        client_no_context_takeover: offered.server_no_context_takeover,
        server_max_window_bits: offered.server_max_window_bits,
        client_max_window_bits,
    })
}

impl OfferedParameters {
    //= https://www.rfc-editor.org/rfc/rfc7692#section-7.1
    //# A server MUST decline an extension negotiation offer for this
    //# extension if any of the following conditions are met:
    //#
    //# o  The negotiation offer contains an extension parameter not defined
    //#    for use in an offer.
    //#
    //# o  The negotiation offer contains an extension parameter with an
    //#    invalid value.
    //#
    //# o  The negotiation offer contains multiple extension parameters with
    //#    the same name.
    fn read(offer: &Offer<'_>) -> Option<Self> {
        let mut offered = Self::default();
        for parameter in &offer.parameters {
            let is_repeated = match (parameter.name, parameter.value.as_deref()) {
                (SERVER_NO_CONTEXT_TAKEOVER, None) => {
                    mem::replace(&mut offered.server_no_context_takeover, true)
                }
                (CLIENT_NO_CONTEXT_TAKEOVER, None) => {
                    mem::replace(&mut offered.client_no_context_takeover, true)
                }
                (SERVER_MAX_WINDOW_BITS, Some(bits)) => {
                    offered.server_max_window_bits.replace(window_bits(bits)?).is_some()
                }
                // Without a value the client leaves the window to the server.
                (CLIENT_MAX_WINDOW_BITS, bits) => {
                    let bits = bits.map_or(Some(WINDOW_BITS_MAX), window_bits)?;
                    offered.client_max_window_bits.replace(bits).is_some()
                }
                _ => return None,
            };
            if is_repeated {
                return None;
            }
        }
        Some(offered)
    }
}

/// Reads a decimal number from 8 to 15, without leading zeros (§7.1.2).
fn window_bits(value: &str) -> Option<u8> {
    let is_in_range = matches!(value.as_bytes(), [b'8' | b'9'] | [b'1', b'0'..=b'5']);
    is_in_range.then(|| value.parse().ok()).flatten()
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)?;
        if self.server_no_context_takeover {
            write!(f, "; {SERVER_NO_CONTEXT_TAKEOVER}")?;
        }
        if self.client_no_context_takeover {
            write!(f, "; {CLIENT_NO_CONTEXT_TAKEOVER}")?;
        }
        if let Some(bits) = self.server_max_window_bits {
            write!(f, "; {SERVER_MAX_WINDOW_BITS}={bits}")?;
        }
        if let Some(bits) = self.client_max_window_bits {
            write!(f, "; {CLIENT_MAX_WINDOW_BITS}={bits}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::extensions::parse_offers;

    fn response(header: &str) -> Option<String> {
        negotiate(&parse_offers(header).unwrap()).map(|agreement| agreement.to_string())
    }

    /// A client that has read the response to its offer: what it may compress with, and what it
    /// inflates with.
    #[derive(Clone, Copy)]
    struct Client {
        compresses_with_bits: u8,
        compresses_with_context: bool,
        inflates_with_bits: u8,
        inflates_with_context: bool,
    }

    impl Client {
        fn after(response: Agreement) -> Self {
            Self {
                compresses_with_bits: response.client_max_window_bits.unwrap_or(15),
                compresses_with_context: !response.client_no_context_takeover,
                inflates_with_bits: response.server_max_window_bits.unwrap_or(15),
                inflates_with_context: !response.server_no_context_takeover,
            }
        }

        fn can_inflate_its_own(self) -> bool {
            self.inflates_with_bits >= self.compresses_with_bits
                && (self.inflates_with_context || !self.compresses_with_context)
        }
    }

    /// Whether RFC 7692 §7.1 allows this response to an offer of these parameters.
    fn is_allowed(response: Agreement, offered: &OfferedParameters) -> bool {
        let server_bits_fit =
            match (offered.server_max_window_bits, response.server_max_window_bits) {
                (Some(limit), Some(granted)) => granted <= limit,
                (Some(_), None) => false,
                (None, _) => true,
            };
        let client_bits_fit =
            match (offered.client_max_window_bits, response.client_max_window_bits) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(limit), Some(granted)) => granted <= limit,
            };
        (response.server_no_context_takeover || !offered.server_no_context_takeover)
            && server_bits_fit
            && client_bits_fit
    }

    /// Every possible response with windows that zlib can compress with.
    fn all_responses() -> impl Iterator<Item = Agreement> {
        let bits = || [None].into_iter().chain((9..=15).map(Some));
        (0..4).flat_map(move |takeover| {
            bits().flat_map(move |server_max_window_bits| {
                bits().map(move |client_max_window_bits| Agreement {
                    server_no_context_takeover: takeover & 1 != 0,
                    client_no_context_takeover: takeover & 2 != 0,
                    server_max_window_bits,
                    client_max_window_bits,
                })
            })
        })
    }

    /// Every combination of the four parameters, with every value.
    fn all_offers() -> Vec<String> {
        let absent_or = |parameter: &str| [String::new(), format!("; {parameter}")];
        let with_bits = |parameter: &str| {
            (8..=15).map(|bits| format!("; {parameter}={bits}")).collect::<Vec<_>>()
        };
        let mut offers = vec![NAME.to_owned()];
        for choices in [
            absent_or(SERVER_NO_CONTEXT_TAKEOVER).to_vec(),
            absent_or(CLIENT_NO_CONTEXT_TAKEOVER).to_vec(),
            [vec![String::new()], with_bits(SERVER_MAX_WINDOW_BITS)].concat(),
            [absent_or(CLIENT_MAX_WINDOW_BITS).to_vec(), with_bits(CLIENT_MAX_WINDOW_BITS)]
                .concat(),
        ] {
            offers = offers
                .iter()
                .flat_map(|offer| choices.iter().map(move |choice| format!("{offer}{choice}")))
                .collect();
        }
        offers
    }

    //= https://www.rfc-editor.org/rfc/rfc6455#section-9
    //= type=test
    //# If extension parameters are included in negotiations between the client and the server,
    //# those parameters MUST be chosen in accordance with the specification of the extension to
    //# which the parameters apply.
    #[test]
    fn every_offer_is_accepted_if_and_only_if_some_response_lets_the_client_inflate_its_own() {
        let offers = all_offers();
        assert_eq!(offers.len(), 2 * 2 * 9 * 10);
        let mut accepted = 0;
        for offer in offers {
            let parsed = parse_offers(&offer).unwrap();
            let offered = OfferedParameters::read(&parsed[0]).expect("every parameter is valid");
            let is_possible = |response: Agreement| {
                is_allowed(response, &offered) && Client::after(response).can_inflate_its_own()
            };
            match negotiate(&parsed) {
                Some(agreement) => {
                    assert!(is_possible(agreement), "{offer}: {agreement}");
                    accepted += 1;
                }
                None => assert!(!all_responses().any(is_possible), "{offer}"),
            }
        }
        // 4 choices of context takeover. Without server_max_window_bits or with 15, any of the 10
        // choices of client_max_window_bits; with 9 to 14, the 8 that let the server limit the
        // client to 9 or more.
        assert_eq!(accepted, 4 * (2 * 10 + 6 * 8));
    }

    #[test]
    fn responses_are_written_as_the_rfc_has_them() {
        for (offer, expected) in [
            ("permessage-deflate", "permessage-deflate"),
            ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
            ("permessage-deflate; client_max_window_bits=10", "permessage-deflate"),
            ("permessage-deflate; client_no_context_takeover", "permessage-deflate"),
            (
                "permessage-deflate; server_no_context_takeover",
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            ),
            (
                "permessage-deflate; server_max_window_bits=15",
                "permessage-deflate; server_max_window_bits=15",
            ),
            (
                "permessage-deflate; server_max_window_bits=\"12\"; client_max_window_bits",
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            ),
            (
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=10",
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=10",
            ),
        ] {
            assert_eq!(response(offer).as_deref(), Some(expected), "{offer}");
        }
    }

    #[test]
    fn unknown_repeated_and_invalid_parameters_decline_an_offer() {
        for parameters in [
            "x",
            "server_max_window_bit=10",
            "Server_no_context_takeover",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover; client_no_context_takeover",
            "client_max_window_bits; client_max_window_bits",
            "client_max_window_bits=10; client_max_window_bits",
            "client_max_window_bits; server_max_window_bits=10; server_max_window_bits=10",
            "server_no_context_takeover=1",
            "client_no_context_takeover=true",
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "client_max_window_bits=7",
            "client_max_window_bits=16",
            "client_max_window_bits=010",
            "client_max_window_bits=08",
            "client_max_window_bits=+9",
            "client_max_window_bits=9.",
            "client_max_window_bits=a",
        ] {
            assert_eq!(
                response(&format!("permessage-deflate; {parameters}")),
                None,
                "{parameters}"
            );
        }
    }

    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
    //= type=test
    //# If the server supports multiple extensions, then the value MUST be derived from the client's
    //# handshake, specifically by selecting one or more of the values from the
    //# |Sec-WebSocket-Extensions| field.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-9
    //= type=test
    //# A server MUST NOT respond with any extension not requested by the client.
    #[test]
    fn the_first_acceptable_offer_is_accepted() {
        for (header, expected) in [
            (
                "x-other, permessage-deflate; server_max_window_bits=10, permessage-deflate; \
                 server_no_context_takeover, permessage-deflate",
                Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
            ),
            ("permessage-deflate; x, permessage-deflate", Some("permessage-deflate")),
            ("x-webkit-deflate-frame", None),
            ("Permessage-Deflate", None),
        ] {
            assert_eq!(response(header).as_deref(), expected, "{header}");
        }
    }
}
