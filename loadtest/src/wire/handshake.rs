//! The client's side of the opening handshake (RFC 6455 §4.1), without I/O: the key, and what the
//! response has to be.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use sha1::{Digest, Sha1};
use thiserror::Error;

use super::{
    fields::{has_token, values},
    permessage_deflate,
    permessage_deflate::Disagreement,
    refusal::{Refusal, RefusalReason},
    request::Request,
};
use crate::text::excerpt::excerpt;

/// The longest response head that is accepted, in bytes, those of interim responses included.
pub(crate) const RESPONSE_HEAD_LEN_MAX: usize = 16 * 1024;

/// The most header fields that a response head may have.
pub(super) const RESPONSE_FIELDS_MAX: usize = 100;

const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a response does not open the connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum HandshakeError {
    #[error("{0}")]
    Refused(RefusalReason),
    #[error("{}", .0.of_stream())]
    StreamRefused(RefusalReason),
    #[error("the answer is not HTTP/1.1: {0}")]
    NotHttp(httparse::Error),
    #[error("the answer is not HTTP/1.1: status {0} of HTTP/1.0, which has none below 200")]
    InterimInHttp10(u16),
    #[error("the response head is longer than {RESPONSE_HEAD_LEN_MAX} bytes")]
    HeadTooLong,
    #[error("the response head has more than {RESPONSE_FIELDS_MAX} header fields")]
    TooManyFields,
    #[error("the response has no header field \"upgrade: websocket\"")]
    UpgradeMissing,
    #[error("the response has no header field \"connection: upgrade\"")]
    ConnectionMissing,
    #[error("the response's sec-websocket-accept does not belong to the request's key")]
    AcceptWrong,
    #[error("the response has more than one header field {0}")]
    FieldRepeated(HeaderName),
    #[error("the response grants the subprotocol {0}, which was not asked for")]
    SubprotocolUnasked(String),
    #[error("{0}")]
    Extensions(#[from] Disagreement),
}

/// One opening handshake.
#[derive(Debug)]
pub(crate) struct Handshake<'r> {
    request: &'r Request,
    key: String,
}

/// What a response comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted(Accepted),
    Refused(Refusal),
}

/// What a response agrees to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Bytes of the response head.
    pub(crate) head_len: usize,
    /// Whether messages may be compressed.
    pub(crate) compression: bool,
}

impl<'r> Handshake<'r> {
    /// A handshake with `nonce` as its key.
    pub(crate) fn new(request: &'r Request, nonce: [u8; 16]) -> Self {
        Self { request, key: BASE64_STANDARD.encode(nonce) }
    }

    /// The request.
    pub(crate) fn request(&self) -> Vec<u8> {
        self.request.with_key(&self.key)
    }

    /// Checks the response; `None` while its head is not whole. Interim responses may stand before
    /// it (RFC 9110 §15.2).
    pub(crate) fn check(&self, response: &[u8]) -> Result<Option<Answer>, HandshakeError> {
        let mut head_len = 0;
        loop {
            let mut fields = [httparse::EMPTY_HEADER; RESPONSE_FIELDS_MAX];
            let mut head = httparse::Response::new(&mut fields);
            match parser().parse_response(&mut head, &response[head_len..]) {
                Ok(httparse::Status::Complete(len)) if head_len + len <= RESPONSE_HEAD_LEN_MAX => {
                    head_len += len;
                }
                Ok(httparse::Status::Partial) if response.len() < RESPONSE_HEAD_LEN_MAX => {
                    return Ok(None);
                }
                Ok(_) => return Err(HandshakeError::HeadTooLong),
                Err(httparse::Error::TooManyHeaders) => return Err(HandshakeError::TooManyFields),
                Err(error) => return Err(HandshakeError::NotHttp(error)),
            }
            match head.code.unwrap_or(0) {
                // HTTP/1.0 has no status 1xx (RFC 9110 §15.2), so it cannot switch protocols.
                status @ 100..200 if head.version != Some(1) => {
                    return Err(HandshakeError::InterimInHttp10(status));
                }
                101 => {
                    let compression = self.check_fields(head.headers)?;
                    return Ok(Some(Answer::Accepted(Accepted { head_len, compression })));
                }
                100..200 => {}
                status => {
                    return Ok(Some(Answer::Refused(Refusal::new(head_len, status, head.headers))));
                }
            }
        }
    }

    /// What to say of a refusal with a body that begins with `body`.
    pub(crate) fn explain(&self, refusal: Refusal, body: &[u8]) -> HandshakeError {
        HandshakeError::Refused(refusal.explain(body, self.request.secrets()))
    }

    /// Whether messages may be compressed, if the fields are as they should be.
    fn check_fields(&self, fields: &[httparse::Header<'_>]) -> Result<bool, HandshakeError> {
        if !has_token(fields, &UPGRADE, b"websocket") {
            return Err(HandshakeError::UpgradeMissing);
        }
        if !has_token(fields, &CONNECTION, b"upgrade") {
            return Err(HandshakeError::ConnectionMissing);
        }
        if values(fields, &SEC_WEBSOCKET_ACCEPT).nth(1).is_some() {
            return Err(HandshakeError::FieldRepeated(SEC_WEBSOCKET_ACCEPT));
        }
        if values(fields, &SEC_WEBSOCKET_ACCEPT).next() != Some(self.accept().as_bytes()) {
            return Err(HandshakeError::AcceptWrong);
        }
        agreement(fields, self.request)
    }

    /// The `sec-websocket-accept` that belongs to the request's key.
    fn accept(&self) -> String {
        accept_of(&self.key)
    }
}

/// Whether messages may be compressed, if the fields of a response agree to nothing but what `request`
/// offers.
pub(crate) fn agreement(
    fields: &[httparse::Header<'_>],
    request: &Request,
) -> Result<bool, HandshakeError> {
    if values(fields, &SEC_WEBSOCKET_PROTOCOL).nth(1).is_some() {
        return Err(HandshakeError::FieldRepeated(SEC_WEBSOCKET_PROTOCOL));
    }
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.1
    //# If the response includes a |Sec-WebSocket-Protocol| header field
    //# and this header field indicates the use of a subprotocol that was
    //# not present in the client's handshake (the server has indicated a
    //# subprotocol not requested by the client), the client MUST _Fail
    //# the WebSocket Connection_.
    let subprotocol = values(fields, &SEC_WEBSOCKET_PROTOCOL)
        .find(|value| !value.is_empty() && !request.offers(value));
    if let Some(subprotocol) = subprotocol {
        let subprotocol = excerpt(&String::from_utf8_lossy(subprotocol));
        return Err(HandshakeError::SubprotocolUnasked(subprotocol));
    }
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.1
    //# If the response includes a |Sec-WebSocket-Extensions| header
    //# field and this header field indicates the use of an extension
    //# that was not present in the client's handshake (the server has
    //# indicated an extension not requested by the client), the client
    //# MUST _Fail the WebSocket Connection_.
    let extensions: Vec<&[u8]> = values(fields, &SEC_WEBSOCKET_EXTENSIONS).collect();
    let extensions = extensions.join(&b","[..]);
    // Where a line was folded there is white space (RFC 9112 §5.2).
    let extensions = String::from_utf8_lossy(&extensions).replace(['\r', '\n'], " ");
    Ok(permessage_deflate::agreement(&extensions, request.offers_compression())?)
}

/// The `sec-websocket-accept` that belongs to a key (§4.2.2).
pub(crate) fn accept_of(key: &str) -> String {
    let digest = Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize();
    BASE64_STANDARD.encode(digest)
}

/// Reads responses as a user agent has to: their lines may be folded (RFC 9112 §5.2), and white space
/// before a colon is not part of the name (§5.1).
pub(super) fn parser() -> httparse::ParserConfig {
    let mut parser = httparse::ParserConfig::default();
    parser
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true);
    parser
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let subprotocols = ["chat", "superchat"].map(|name| name.parse().unwrap());
        Request::new(&"ws://localhost/".parse().unwrap(), &[], &subprotocols, None)
    }

    /// RFC 6455 §1.3: the key is "dGhlIHNhbXBsZSBub25jZQ==".
    fn check(response: &[u8]) -> Result<Option<Answer>, HandshakeError> {
        Handshake::new(&request(), *b"the sample nonce").check(response)
    }

    const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\n\
        upgrade: WebSocket\r\n\
        connection: keep-alive, Upgrade\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    #[test]
    fn response_is_accepted_once_it_is_whole() {
        for len in 0..ACCEPTED.len() {
            assert_eq!(check(&ACCEPTED.as_bytes()[..len]), Ok(None), "{len} bytes");
        }
        let with_frame = [ACCEPTED.as_bytes(), b"\x81\x00"].concat();
        assert_eq!(check(&with_frame), Ok(Some(accepted(ACCEPTED))));
    }

    /// The answer that consists of the whole `response`.
    fn accepted(response: &str) -> Answer {
        Answer::Accepted(Accepted { head_len: response.len(), compression: false })
    }

    #[test]
    fn a_response_may_be_written_as_http_allows_it() {
        let with = |from: &str, to: &str| {
            assert!(ACCEPTED.contains(from));
            ACCEPTED.replace(from, to)
        };
        for response in [
            ["HTTP/1.1 100 Continue\r\n\r\n", ACCEPTED].concat(),
            ["HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=b\r\n\r\n", ACCEPTED].concat(),
            ["HTTP/1.1 102\r\n\r\nHTTP/1.1 102 \r\n\r\n", ACCEPTED].concat(),
            ["\r\n", ACCEPTED].concat(),
            with("Switching Protocols", ""),
            with("upgrade:", "UPGRADE:"),
            with("upgrade: WebSocket", "upgrade:\t websocket \t"),
            with("upgrade: WebSocket", "upgrade:\r\n websocket"),
            with("upgrade: WebSocket", "upgrade: h2c, websocket"),
            with("upgrade: WebSocket", "upgrade: h2c\r\nUpgrade: websocket"),
            with("upgrade: WebSocket", "upgrade : websocket"),
            with("keep-alive, Upgrade", "keep-alive\r\nConnection: ,, UPGRADE ,"),
            with("keep-alive, Upgrade", "keep-alive,\r\n\tUpgrade"),
            with("\r\n\r\n", "\r\nsec-websocket-extensions: ,\r\n ,\r\n\r\n"),
            with("\r\n\r\n", "\r\nserver: \u{e4}\r\n\r\n"),
            ACCEPTED.replace("\r\n", "\n"),
        ] {
            assert_eq!(check(response.as_bytes()), Ok(Some(accepted(&response))), "{response}");
        }
    }

    #[test]
    fn a_subprotocol_is_accepted_if_it_was_offered() {
        for (granted, is_accepted) in
            [("superchat", true), ("super", false), ("chat, superchat", false)]
        {
            let field = format!("\r\nsec-websocket-protocol: {granted}\r\n\r\n");
            let response = ACCEPTED.replace("\r\n\r\n", &field);
            let expected = if is_accepted {
                Ok(Some(accepted(&response)))
            } else {
                Err(HandshakeError::SubprotocolUnasked(format!("{granted:?}")))
            };
            assert_eq!(check(response.as_bytes()), expected, "{granted}");
        }
    }

    #[test]
    fn compression_is_offered_and_may_be_granted_or_not() {
        let request = request().offering_compression(true);
        let handshake = Handshake::new(&request, *b"the sample nonce");
        let request = String::from_utf8(handshake.request()).unwrap();
        let field = format!("\r\nSec-WebSocket-Extensions: {}\r\n\r\n", permessage_deflate::OFFER);
        assert!(request.ends_with(&field), "{request}");
        let granted = ACCEPTED.replace("\r\n\r\n", &field);
        for (response, compression) in [(&granted[..], true), (ACCEPTED, false)] {
            let head_len = response.len();
            let accepted = Answer::Accepted(Accepted { head_len, compression });
            assert_eq!(handshake.check(response.as_bytes()), Ok(Some(accepted)));
        }
    }

    #[test]
    fn refusals_are_named() {
        let with = |field: &str| ACCEPTED.replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"));
        let many = with(&"x: y\r\n".repeat(RESPONSE_FIELDS_MAX));
        let folded = with("Sec-WebSocket-Extensions: permessage-deflate;\r\n x=y");
        let unasked = Disagreement::Unasked("\"permessage-deflate\"".to_owned());
        let not_text =
            [ACCEPTED.trim_end().as_bytes(), b"\r\nSec-WebSocket-Extensions: \xff\r\n\r\n"];
        let malformed = Disagreement::Malformed("\"\u{fffd}\"".to_owned());
        assert_eq!(check(&not_text.concat()), Err(malformed.into()));
        for (response, error) in [
            ("SSH-2.0-OpenSSH\r\n", HandshakeError::NotHttp(httparse::Error::Version)),
            (&ACCEPTED.replace("HTTP/1.1", "HTTP/1.0"), HandshakeError::InterimInHttp10(101)),
            (
                &["HTTP/1.0 100 Continue\r\n\r\n", ACCEPTED].concat(),
                HandshakeError::InterimInHttp10(100),
            ),
            (&ACCEPTED.replace("WebSocket", "h2c"), HandshakeError::UpgradeMissing),
            (&ACCEPTED.replace(", Upgrade", ""), HandshakeError::ConnectionMissing),
            (&ACCEPTED.replace("s3p", "s3q"), HandshakeError::AcceptWrong),
            (&folded, unasked.into()),
            (&many, HandshakeError::TooManyFields),
            (
                &with("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
                HandshakeError::FieldRepeated(SEC_WEBSOCKET_ACCEPT),
            ),
            (
                &with("Sec-WebSocket-Protocol: chat\r\nsec-websocket-protocol: superchat"),
                HandshakeError::FieldRepeated(SEC_WEBSOCKET_PROTOCOL),
            ),
            ("HTTP/1.1 100 Continue\r\n\r\nSSH", HandshakeError::NotHttp(httparse::Error::Version)),
            (&"HTTP/1.1 100 \r\n\r\n".repeat(1200), HandshakeError::HeadTooLong),
            (&format!("HTTP/1.1 101 {}", "x".repeat(20_000)), HandshakeError::HeadTooLong),
        ] {
            assert_eq!(check(response.as_bytes()), Err(error), "{response}");
        }
    }
}
