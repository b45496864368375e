//! Close codes on the wire, and the Close frames that carry them (RFC 6455 §5.5.1, §7.4).

use super::ProtocolError;

/// The close codes that go over the wire, by their names in the IANA registry (RFC 6455 §7.4.1,
/// §11.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseCode {
    /// The purpose of the connection is fulfilled.
    NormalClosure = 1000,
    /// The endpoint goes away, such as a server that stops.
    GoingAway = 1001,
    /// The peer violated the protocol.
    ProtocolError = 1002,
    /// The endpoint cannot take data of this kind.
    UnsupportedData = 1003,
    /// A message does not have the form that its kind demands, such as a text message that is not
    /// UTF-8.
    InvalidFramePayloadData = 1007,
    /// A message violates the endpoint's policy.
    PolicyViolation = 1008,
    /// A message is too long to be processed.
    MessageTooBig = 1009,
    /// The server did not agree on an extension that the client needs.
    MandatoryExtension = 1010,
    /// The server met something unexpected.
    InternalError = 1011,
    /// The server is restarting.
    ServiceRestart = 1012,
    /// The server has no room for now.
    TryAgainLater = 1013,
    /// A server behind this one answered wrongly.
    BadGateway = 1014,
}

/// Whether an endpoint may send `code` in a Close frame.
///
/// These are the codes that RFC 6455 §7.4.1 and the IANA registry define for the wire (1000-1003
/// and 1007-1014), and the ranges for libraries, frameworks and applications (3000-4999, §7.4.2).
pub fn may_be_sent(code: u16) -> bool {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
    //# 1005 is a reserved value and MUST NOT be set as a status code in a Close control frame by an
    //# endpoint.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
    //# 1006 is a reserved value and MUST NOT be set as a status code in a Close control frame by an
    //# endpoint.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
    //# 1015 is a reserved value and MUST NOT be set as a status code in a Close control frame by an
    //# endpoint.
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Decodes the unmasked payload of a Close frame, and returns its code, if it has one (RFC 6455
/// §5.5.1).
#[cold]
pub fn decode_close_payload(payload: &[u8]) -> Result<Option<u16>, ProtocolError> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.5.1
    //# If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer (in
    //# network byte order) representing a status code with value /code/ defined in Section 7.4.
    match payload {
        [] => Ok(None),
        [_] => Err(ProtocolError::CloseCodeTruncated),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !may_be_sent(code) {
                return Err(ProtocolError::CloseCodeInvalid);
            }
            simdutf8::basic::from_utf8(reason).map_err(|_| ProtocolError::CloseReasonNotUtf8)?;
            Ok(Some(code))
        }
    }
}

/// An unmasked Close frame with `code` and `reason`.
///
/// # Panics
///
/// When `reason` is longer than the 123 bytes that fit into a control frame: reasons are the
/// program's own sentences, never a peer's.
pub fn encode_close_frame(code: CloseCode, reason: &str) -> Vec<u8> {
    //= https://www.rfc-editor.org/rfc/rfc6455#section-7.1.2
    //# To _Start the WebSocket Closing Handshake_ with a status code (Section 7.4) /code/ and an
    //# optional close reason (Section 7.1.6) /reason/, an endpoint MUST send a Close control frame,
    //# as described in Section 5.5.1, whose status code is set to /code/ and whose close reason is
    //# set to /reason/.
    let payload_len = 2 + reason.len();
    assert!(payload_len <= 125, "a Close frame's reason has at most 123 bytes");
    let mut frame = Vec::with_capacity(2 + payload_len);
    frame.extend_from_slice(&[0x88, payload_len as u8]);
    frame.extend_from_slice(&(code as u16).to_be_bytes());
    frame.extend_from_slice(reason.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    //= https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
    //= type=test
    //# 1005 is a reserved value and MUST NOT be set as a status code in a Close control frame by an
    //# endpoint.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
    //= type=test
    //# 1006 is a reserved value and MUST NOT be set as a status code in a Close control frame by an
    //# endpoint.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
    //= type=test
    //# 1015 is a reserved value and MUST NOT be set as a status code in a Close control frame by an
    //# endpoint.
    #[test]
    fn every_code_is_judged_as_the_registry_says() {
        // fastwebsockets judges all codes alike but 1014 (Bad Gateway), which was registered after
        // RFC 6455.
        for code in 0..=u16::MAX {
            let expected = fastwebsockets::CloseCode::from(code).is_allowed() || code == 1014;
            assert_eq!(may_be_sent(code), expected, "code {code}");
        }
    }

    //= https://www.rfc-editor.org/rfc/rfc6455#section-7.1.2
    //= type=test
    //# To _Start the WebSocket Closing Handshake_ with a status code (Section 7.4) /code/ and an
    //# optional close reason (Section 7.1.6) /reason/, an endpoint MUST send a Close control frame,
    //# as described in Section 5.5.1, whose status code is set to /code/ and whose close reason is
    //# set to /reason/.
    #[test]
    fn close_frame_carries_code_and_reason() {
        let frame = encode_close_frame(CloseCode::GoingAway, "bye");
        assert_eq!(frame, b"\x88\x05\x03\xe9bye");
    }

    #[test]
    fn payload_of_a_close_frame_is_empty_or_a_code_that_may_be_sent_and_utf8() {
        for (payload, expected) in [
            (&b""[..], Ok(None)),
            (b"\x03", Err(ProtocolError::CloseCodeTruncated)),
            (b"\x03\xe8", Ok(Some(1000))),
            (b"\x0b\xb8bye \xc3\xa4", Ok(Some(3000))),
            (b"\x03\xed", Err(ProtocolError::CloseCodeInvalid)),
            (b"\x00\x00bye", Err(ProtocolError::CloseCodeInvalid)),
            (b"\x03\xe8\xc3", Err(ProtocolError::CloseReasonNotUtf8)),
        ] {
            assert_eq!(decode_close_payload(payload), expected, "{payload:x?}");
        }
    }
}
