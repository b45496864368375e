//! The client's side of the opening handshake (RFC 6455 §4.1), without I/O: the key, and what the
//! response has to be.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use sha1::{Digest, Sha1};
use thiserror::Error;

use crate::{deflate, request::Request};

/// The longest response head that is accepted, in bytes.
pub(crate) const RESPONSE_HEAD_LEN_MAX: usize = 16 * 1024;

/// The most header fields that a response head may have.
const RESPONSE_FIELDS_MAX: usize = 100;

const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a response does not open the connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum HandshakeError {
    #[error("the server answered with status {0} instead of 101")]
    Status(u16),
    #[error("the answer is not HTTP/1.1: {0}")]
    NotHttp(httparse::Error),
    #[error("the response head is longer than {RESPONSE_HEAD_LEN_MAX} bytes")]
    HeadTooLong,
    #[error("the response has no header field \"upgrade: websocket\"")]
    UpgradeMissing,
    #[error("the response has no header field \"connection: upgrade\"")]
    ConnectionMissing,
    #[error("the response's sec-websocket-accept does not belong to the request's key")]
    AcceptWrong,
    #[error("the response grants an extension or a subprotocol that was not asked for")]
    Unasked,
}

/// One opening handshake.
#[derive(Debug)]
pub(crate) struct Handshake<'r> {
    request: &'r Request,
    key: String,
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

    /// Checks the response; `None` while it is not whole.
    pub(crate) fn check(&self, response: &[u8]) -> Result<Option<Accepted>, HandshakeError> {
        let mut fields = [httparse::EMPTY_HEADER; RESPONSE_FIELDS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        let len = match head.parse(response) {
            Ok(httparse::Status::Complete(len)) if len <= RESPONSE_HEAD_LEN_MAX => len,
            Ok(httparse::Status::Partial) if response.len() < RESPONSE_HEAD_LEN_MAX => {
                return Ok(None);
            }
            Ok(_) => return Err(HandshakeError::HeadTooLong),
            Err(error) => return Err(HandshakeError::NotHttp(error)),
        };
        match head.code {
            Some(101) => {
                let compression = self.check_fields(head.headers)?;
                Ok(Some(Accepted { head_len: len, compression }))
            }
            code => Err(HandshakeError::Status(code.unwrap_or(0))),
        }
    }

    /// Whether messages may be compressed, if the fields are as they should be.
    fn check_fields(&self, fields: &[httparse::Header<'_>]) -> Result<bool, HandshakeError> {
        if !has_token(fields, &UPGRADE, b"websocket") {
            return Err(HandshakeError::UpgradeMissing);
        }
        if !has_token(fields, &CONNECTION, b"upgrade") {
            return Err(HandshakeError::ConnectionMissing);
        }
        if values(fields, &SEC_WEBSOCKET_ACCEPT).next() != Some(self.accept().as_bytes()) {
            return Err(HandshakeError::AcceptWrong);
        }
        //= https://www.rfc-editor.org/rfc/rfc6455#section-4.1
        //# If the response includes a |Sec-WebSocket-Protocol| header field
        //# and this header field indicates the use of a subprotocol that was
        //# not present in the client's handshake (the server has indicated a
        //# subprotocol not requested by the client), the client MUST _Fail
        //# the WebSocket Connection_.
        let subprotocol = values(fields, &SEC_WEBSOCKET_PROTOCOL)
            .find(|value| !value.is_empty() && !self.request.offers(value));
        if subprotocol.is_some() {
            return Err(HandshakeError::Unasked);
        }
        //= https://www.rfc-editor.org/rfc/rfc6455#section-4.1
        //# If the response includes a |Sec-WebSocket-Extensions| header
        //# field and this header field indicates the use of an extension
        //# that was not present in the client's handshake (the server has
        //# indicated an extension not requested by the client), the client
        //# MUST _Fail the WebSocket Connection_.
        let extensions: Vec<&[u8]> = values(fields, &SEC_WEBSOCKET_EXTENSIONS).collect();
        let extensions = String::from_utf8(extensions.join(&b","[..])).unwrap_or_default();
        match deflate::agrees(&extensions) {
            Some(compression) if self.request.offers_compression() || !compression => {
                Ok(compression)
            }
            _ => Err(HandshakeError::Unasked),
        }
    }

    /// The `sec-websocket-accept` that belongs to the key (§4.2.2).
    fn accept(&self) -> String {
        let digest = Sha1::new().chain_update(&self.key).chain_update(ACCEPT_GUID).finalize();
        BASE64_STANDARD.encode(digest)
    }
}

fn values<'a>(
    fields: &'a [httparse::Header<'a>],
    name: &'a HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name.as_str()))
        .map(|field| field.value.trim_ascii())
}

/// Whether a header field lists `token`, in whatever case.
fn has_token(fields: &[httparse::Header<'_>], name: &HeaderName, token: &[u8]) -> bool {
    values(fields, name)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let subprotocols = ["chat", "superchat"].map(|name| name.parse().unwrap());
        Request::new(&"ws://localhost/".parse().unwrap(), &[], &subprotocols, None)
    }

    /// RFC 6455 §1.3: the key is "dGhlIHNhbXBsZSBub25jZQ==".
    fn check(response: &[u8]) -> Result<Option<Accepted>, HandshakeError> {
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
        let accepted = Accepted { head_len: ACCEPTED.len(), compression: false };
        assert_eq!(check(&with_frame), Ok(Some(accepted)));
    }

    #[test]
    fn a_subprotocol_is_accepted_if_it_was_offered() {
        for (granted, accepted) in
            [("superchat", true), ("super", false), ("chat, superchat", false)]
        {
            let field = format!("\r\nsec-websocket-protocol: {granted}\r\n\r\n");
            let response = ACCEPTED.replace("\r\n\r\n", &field);
            let head_len = response.len();
            let expected = if accepted {
                Ok(Some(Accepted { head_len, compression: false }))
            } else {
                Err(HandshakeError::Unasked)
            };
            assert_eq!(check(response.as_bytes()), expected, "{granted}");
        }
    }

    #[test]
    fn compression_is_offered_and_may_be_granted_or_not() {
        let request = request().offering_compression(true);
        let handshake = Handshake::new(&request, *b"the sample nonce");
        let request = String::from_utf8(handshake.request()).unwrap();
        let field = format!("\r\nSec-WebSocket-Extensions: {}\r\n\r\n", deflate::OFFER);
        assert!(request.ends_with(&field), "{request}");
        let granted = ACCEPTED.replace("\r\n\r\n", &field);
        for (response, compression) in [(&granted[..], true), (ACCEPTED, false)] {
            let accepted = handshake.check(response.as_bytes()).unwrap().unwrap();
            assert_eq!(accepted.compression, compression);
        }
    }

    #[test]
    fn refusals_are_named() {
        let grants_extension = ACCEPTED
            .replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n");
        for (response, error) in [
            ("HTTP/1.1 404 Not Found\r\n\r\n", HandshakeError::Status(404)),
            ("SSH-2.0-OpenSSH\r\n", HandshakeError::NotHttp(httparse::Error::Version)),
            (&ACCEPTED.replace("WebSocket", "h2c"), HandshakeError::UpgradeMissing),
            (&ACCEPTED.replace(", Upgrade", ""), HandshakeError::ConnectionMissing),
            (&ACCEPTED.replace("s3p", "s3q"), HandshakeError::AcceptWrong),
            (&grants_extension, HandshakeError::Unasked),
            (&format!("HTTP/1.1 101 {}", "x".repeat(20_000)), HandshakeError::HeadTooLong),
        ] {
            assert_eq!(check(response.as_bytes()), Err(error), "{response}");
        }
    }
}
