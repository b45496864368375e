//! A connection by HTTP CONNECT (RFC 9110 §9.3.6), which RFC 6455 §4.1 has for proxies, whether TLS
//! is spoken behind it or not.

use std::time::Instant;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::header::PROXY_AUTHENTICATE;

use super::{Credentials, Destination, ProxyError};
use crate::{
    text::excerpt::excerpt,
    wire::{
        fields::values,
        halves::{ReadHalf, WriteHalf},
        handshake::{RESPONSE_FIELDS_MAX, RESPONSE_HEAD_LEN_MAX, parser},
        refusal::{BODY_WAIT, Refusal},
        secrets::Secrets,
    },
};

/// Bytes that are read at once.
const READ_LEN: usize = 1024;

/// Asks for a connection to `destination`.
pub(super) async fn ask(
    destination: &Destination,
    credentials: Option<&Credentials>,
    secrets: &Secrets,
    reader: &mut impl ReadHalf,
    writer: &mut impl WriteHalf,
) -> Result<(), ProxyError> {
    let (sent, _) = writer.write_all(request(destination, credentials)).await;
    sent.map_err(ProxyError::Broken)?;
    let mut response = Vec::new();
    loop {
        let (read, chunk) = reader.read(Vec::with_capacity(READ_LEN)).await;
        match read {
            Ok(0) => return Err(ProxyError::CutOff),
            Ok(_) => response.extend_from_slice(&chunk),
            Err(error) => return Err(ProxyError::Broken(error)),
        }
        match check(&response)? {
            None => {}
            Some(Answer::Connected { head_len }) if response.len() > head_len => {
                return Err(ProxyError::BytesUnasked);
            }
            Some(Answer::Connected { .. }) => return Ok(()),
            Some(Answer::Refused(refused)) => {
                let Refused { refusal, phrase, challenge } = refused;
                let mut body = response.split_off(refusal.head_len);
                refusal.hear(&mut body, reader, Instant::now() + BODY_WAIT).await;
                let reason = refusal.explain(&body, secrets);
                let challenge = challenge.map(|it| excerpt(&secrets.masked_in(&it)));
                return Err(match (reason.status, credentials) {
                    (407, None) => ProxyError::AuthenticationNeeded { challenge },
                    (407, Some(_)) => ProxyError::AuthenticationRefused { challenge },
                    (status, _) => {
                        let phrase = phrase.map(|phrase| excerpt(&secrets.masked_in(&phrase)));
                        let said = [Some(status.to_string()), phrase, reason.line];
                        ProxyError::Refused(said.into_iter().flatten().collect())
                    }
                });
            }
        }
    }
}

/// What a response comes to.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Connected { head_len: usize },
    Refused(Refused),
}

#[derive(Debug, PartialEq, Eq)]
struct Refused {
    refusal: Refusal,
    /// What stands behind its status.
    phrase: Option<String>,
    /// How the proxy wants to know who asks.
    challenge: Option<String>,
}

fn request(destination: &Destination, credentials: Option<&Credentials>) -> Vec<u8> {
    let authorization = credentials.map_or_else(String::new, |Credentials { user, password }| {
        let both = BASE64_STANDARD.encode([user, &b":"[..], password].concat());
        format!("Proxy-Authorization: Basic {both}\r\n")
    });
    format!("CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n{authorization}\r\n")
        .into_bytes()
}

/// What the proxy answers; `None` while that is not whole. Interim responses may stand before it.
fn check(response: &[u8]) -> Result<Option<Answer>, ProxyError> {
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
            Ok(_) => return Err(ProxyError::HeadTooLong(RESPONSE_HEAD_LEN_MAX)),
            Err(error) => return Err(ProxyError::NotHttp(error)),
        }
        match head.code.unwrap_or(0) {
            100..200 => {}
            //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
            //# Any 2xx (Successful) response indicates that the sender (and all
            //# inbound proxies) will switch to tunnel mode immediately after the
            //# response header section
            200..300 => return Ok(Some(Answer::Connected { head_len })),
            status => {
                let challenge = values(head.headers, &PROXY_AUTHENTICATE).next();
                let phrase = head.reason.map(str::trim).filter(|phrase| !phrase.is_empty());
                return Ok(Some(Answer::Refused(Refused {
                    refusal: Refusal::new(head_len, status, head.headers),
                    phrase: phrase.map(str::to_owned),
                    challenge: challenge.map(|it| String::from_utf8_lossy(it).into_owned()),
                })));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_names_the_destination_twice_and_who_asks() {
        let name = Destination::Name("example.com".to_owned(), 80);
        let address = Destination::Address("[2001:db8::1]:443".parse().unwrap());
        let aladdin = Credentials { user: b"Aladdin".to_vec(), password: b"open sesame".to_vec() };
        for (destination, credentials, head) in [
            (name, None, "CONNECT example.com:80 HTTP/1.1\r\nHost: example.com:80\r\n\r\n"),
            // The credentials are those of RFC 7617 §2.
            (
                address,
                Some(&aladdin),
                "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\
                 Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n",
            ),
        ] {
            assert_eq!(String::from_utf8(request(&destination, credentials)).unwrap(), head);
        }
    }

    #[test]
    fn a_response_counts_once_it_is_whole() {
        for response in [
            "HTTP/1.1 200 Connection established\r\n\r\n",
            "HTTP/1.0 200 \r\nVia: 1.0 p\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        ] {
            for len in 0..response.len() {
                assert!(matches!(check(&response.as_bytes()[..len]), Ok(None)), "{len} bytes");
            }
            let connected = Some(Answer::Connected { head_len: response.len() });
            assert_eq!(check(response.as_bytes()).unwrap(), connected);
        }
    }

    #[test]
    fn other_answers_are_named() {
        let endless = format!("HTTP/1.1 200 {}", "x".repeat(RESPONSE_HEAD_LEN_MAX));
        for (response, error) in [
            ("\x05\x00", "it does not speak HTTP: "),
            ("SSH-2.0-OpenSSH\r\n", "it does not speak HTTP: "),
            (&endless, "its answer to CONNECT is longer than 16384 bytes"),
        ] {
            let refused = check(response.as_bytes()).unwrap_err().to_string();
            assert!(refused.starts_with(error), "{refused}");
        }
    }
}
