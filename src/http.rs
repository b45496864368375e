//! HTTP/1.1 as far as an echo server needs it: a request head in, one small response out.
//!
//! monoio-http decodes the head; this module bounds it, and decides where it goes. Every response
//! but a 101 ends its connection, so there is never a second head, and no body is ever read.

use bytes::{Bytes, BytesMut};
use fastwebsockets::upgrade::is_upgrade_request;
use http::{
    Method, Request, StatusCode, Version,
    header::{HOST, SEC_WEBSOCKET_KEY},
    uri::Authority,
};
use memchr::memmem;
use monoio::io::AsyncReadRent;
use monoio_codec::{Decoded, Decoder};
use monoio_http::h1::codec::decoder::{DecodeError, RequestHeadDecoder};
use thiserror::Error;

use crate::echo_paths::EchoPaths;

/// The longest request head, in bytes, from the first of its request line to its empty line.
pub const REQUEST_HEAD_LEN_MAX: usize = 8 << 10;

const HEAD_END: &[u8] = b"\r\n\r\n";

/// Why no request head could be had.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The peer ended the connection, or it broke, before a head was whole.
    PeerLeft,
    /// The request can be answered.
    Refused {
        /// Why it is refused.
        refusal: RequestRefusal,
        /// Whether it is a HEAD, whose response has no body.
        is_head: bool,
    },
}

/// Why a request is refused, whatever path it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestRefusal {
    /// The head is longer than [`REQUEST_HEAD_LEN_MAX`], or has too many headers.
    #[error("the request head is longer than 8 KiB, or has more than 96 headers")]
    HeadTooLong,
    /// The head is not HTTP/1.
    #[error("this is not an HTTP/1.1 request")]
    Malformed,
    /// The head did not arrive in time.
    #[error("the request head took too long")]
    TimedOut,
    /// The request's version is neither HTTP/1.1 nor HTTP/1.0.
    #[error("only HTTP/1.1 is spoken here, and HTTP/1.0 for the page")]
    VersionUnsupported,
    /// `Host` is missing, repeated, or not a host.
    #[error("Host must be there once, with a host and an optional port")]
    HostInvalid,
    /// There is nothing at this path; upgrades are at these.
    #[error("there is nothing here: the page is at /, and upgrades are at {0}")]
    PathUnknown(EchoPaths),
    /// No echo is at this path, and the request is for one; upgrades are at these.
    #[error("there is no echo here: upgrades are at {0}")]
    NoEcho(EchoPaths),
    /// Another method than the path has.
    #[error("only GET and HEAD are possible here")]
    MethodNotAllowed,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the browser page.
    Page,
    /// To the opening handshake.
    Echo,
}

impl RequestRefusal {
    /// The status that answers the request.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::HeadTooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Malformed | Self::HostInvalid => StatusCode::BAD_REQUEST,
            Self::TimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::VersionUnsupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::PathUnknown(_) | Self::NoEcho(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Reads a request head. What arrived behind it, the first frames, is returned with it.
pub async fn read_request_head(
    reader: &mut impl AsyncReadRent,
) -> Result<(Request<()>, BytesMut), HeadError> {
    let mut received = BytesMut::with_capacity(REQUEST_HEAD_LEN_MAX);
    loop {
        let searched_len = received.len();
        received = read_more(reader, received).await?;
        // The decoder searches from the start each time, so it is asked only when an end is there.
        let search_at = searched_len.saturating_sub(HEAD_END.len() - 1);
        let head = if memmem::find(&received[search_at..], HEAD_END).is_some() {
            let is_head = received.starts_with(b"HEAD ");
            decode_request_head(&mut received).map_err(|refusal| (refusal, is_head))
        } else if received.len() >= REQUEST_HEAD_LEN_MAX {
            Err((RequestRefusal::HeadTooLong, received.starts_with(b"HEAD ")))
        } else {
            continue;
        };
        return match head {
            Ok(head) => Ok((Request::from_parts(head, ()), received)),
            Err((refusal, is_head)) => Err(HeadError::Refused { refusal, is_head }),
        };
    }
}

/// Reads what has arrived, up to the bound, behind what was `received` before.
async fn read_more(
    reader: &mut impl AsyncReadRent,
    mut received: BytesMut,
) -> Result<BytesMut, HeadError> {
    let unfilled = received.split_off(received.len());
    let (result, filled) = reader.read(unfilled).await;
    match result {
        Ok(0) | Err(_) => Err(HeadError::PeerLeft),
        Ok(_) => {
            received.unsplit(filled);
            Ok(received)
        }
    }
}

/// Takes a whole head from the front of `received`.
fn decode_request_head(received: &mut BytesMut) -> Result<http::request::Parts, RequestRefusal> {
    match RequestHeadDecoder.decode(received) {
        Ok(Decoded::Some(head)) => Ok(head),
        Err(DecodeError::Parse(httparse::Error::TooManyHeaders)) => {
            Err(RequestRefusal::HeadTooLong)
        }
        // The head's end is there, so a head that is still insufficient is an empty one.
        Err(DecodeError::Parse(httparse::Error::Version)) => {
            Err(RequestRefusal::VersionUnsupported)
        }
        Ok(_) | Err(_) => Err(RequestRefusal::Malformed),
    }
}

/// Decides where a request goes.
pub fn route(request: &Request<()>, echo_paths: &EchoPaths) -> Result<Route, RequestRefusal> {
    check_host(request)?;
    let path = request.uri().path();
    let route = if asks_for_echo(request) {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
        //# If the requested service is not available, the server MUST send an appropriate HTTP
        //# error code (such as 404 Not Found) and abort the WebSocket handshake.
        if !echo_paths.contains(path) {
            return Err(RequestRefusal::NoEcho(echo_paths.clone()));
        }
        Route::Echo
    } else if path == "/" {
        Route::Page
    } else if echo_paths.names(path) {
        Route::Echo
    } else {
        return Err(RequestRefusal::PathUnknown(echo_paths.clone()));
    };
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return Err(RequestRefusal::MethodNotAllowed);
    }
    Ok(route)
}

/// Whether a request is for the echo, if only by a key: proxies that were not told to pass Upgrade
/// on keep it back.
fn asks_for_echo(request: &Request<()>) -> bool {
    is_upgrade_request(request) || request.headers().contains_key(SEC_WEBSOCKET_KEY)
}

//= https://www.rfc-editor.org/rfc/rfc9112#section-3.2
//# A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1
//# request message that lacks a Host header field and to any request message
//# that contains more than one Host header field line or a Host header field
//# with an invalid field value.
fn check_host(request: &Request<()>) -> Result<(), RequestRefusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        let is_optional = request.version() == Version::HTTP_10;
        return if is_optional { Ok(()) } else { Err(RequestRefusal::HostInvalid) };
    };
    let is_host = Authority::try_from(host.as_bytes())
        .is_ok_and(|authority| !authority.as_str().contains('@'));
    if !is_host || hosts.next().is_some() {
        return Err(RequestRefusal::HostInvalid);
    }
    Ok(())
}

/// A response that refuses a request and ends its connection, with the reason as its body.
pub fn encode_refusal(status: StatusCode, reason: &str) -> Vec<u8> {
    let extra = match status {
        //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
        //# If this version does not match a version understood by the server, the server MUST abort
        //# the WebSocket handshake described in this section and instead send an appropriate HTTP
        //# error code (such as 426 Upgrade Required) and a |Sec-WebSocket-Version| header field
        //# indicating the version(s) the server is capable of understanding.
        StatusCode::UPGRADE_REQUIRED => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        StatusCode::METHOD_NOT_ALLOWED => "Allow: GET, HEAD\r\n",
        _ => "",
    };
    //= https://www.rfc-editor.org/rfc/rfc6455#section-7.2.2
    //# Certain algorithms require or recommend that the server _Abort the WebSocket Connection_
    //# during the opening handshake. To do so, the server MUST simply _Close the WebSocket
    //# Connection_ (Section 7.1.1).
    let body = format!("{reason}\n");
    encode_response(status, "text/plain; charset=utf-8", extra, body.as_bytes())
}

/// The response that carries the page and ends its connection.
pub fn encode_page(page: &str) -> Vec<u8> {
    // An isolated page gets a finer clock from browsers, and so finer round-trip times.
    let extra = "Cache-Control: no-cache\r\n\
        Cross-Origin-Opener-Policy: same-origin\r\n\
        Cross-Origin-Embedder-Policy: require-corp\r\n\
        X-Content-Type-Options: nosniff\r\n\
        Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; \
        style-src 'unsafe-inline'; img-src data:; connect-src ws: wss:; base-uri 'none'; \
        form-action 'none'; frame-ancestors 'none'\r\n";
    encode_response(StatusCode::OK, "text/html; charset=utf-8", extra, page.as_bytes())
}

/// A response as it answers a HEAD: its head alone, with the length that its body has for a GET.
pub fn without_body(mut response: Bytes) -> Bytes {
    let head_end = memmem::find(&response, HEAD_END).map_or(response.len(), |at| at + 4);
    response.truncate(head_end);
    response
}

fn encode_response(status: StatusCode, content_type: &str, extra: &str, body: &[u8]) -> Vec<u8> {
    let mut response = format!(
        "HTTP/1.1 {status}\r\n\
         Content-Type: {content_type}\r\n\
         Content-Length: {}\r\n\
         Connection: close\r\n\
         {extra}\r\n",
        body.len()
    )
    .into_bytes();
    response.extend_from_slice(body);
    response
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;

    fn read(mut input: &[u8]) -> Result<Request<()>, RequestRefusal> {
        match block_on(read_request_head(&mut input)) {
            Ok((request, _)) => Ok(request),
            Err(HeadError::Refused { refusal, .. }) => Err(refusal),
            Err(HeadError::PeerLeft) => panic!("nothing was clear"),
        }
    }

    #[test]
    fn requests_find_their_route_or_refusal() {
        const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
        let own = EchoPaths::new(&["/ws".to_owned(), "/echo".to_owned()]);
        let unknown = || Err(RequestRefusal::PathUnknown(own.clone()));
        let no_echo = || Err(RequestRefusal::NoEcho(own.clone()));
        let not_allowed = || Err(RequestRefusal::MethodNotAllowed);
        let host_invalid = || Err(RequestRefusal::HostInvalid);
        for (request_line, fields, expected) in [
            ("GET / HTTP/1.1", "Host: a\r\n", Ok(Route::Page)),
            ("GET /?query HTTP/1.1", "Host: a\r\n", Ok(Route::Page)),
            ("HEAD / HTTP/1.1", "Host: a\r\n", Ok(Route::Page)),
            ("GET / HTTP/1.0", "", Ok(Route::Page)),
            ("HEAD / HTTP/1.0", "Host: a\r\n", Ok(Route::Page)),
            (
                "GET / HTTP/1.1",
                "Host: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n",
                Ok(Route::Page),
            ),
            ("GET /ws HTTP/1.1", "Host: a:9001\r\n", Ok(Route::Echo)),
            ("GET /ws HTTP/1.1", &format!("Host: a\r\n{UPGRADE}"), Ok(Route::Echo)),
            ("GET /ws HTTP/1.0", UPGRADE, Ok(Route::Echo)),
            ("HEAD /ws HTTP/1.1", "Host: a\r\n", Ok(Route::Echo)),
            ("GET /echo HTTP/1.1", "Host: a\r\n", Ok(Route::Echo)),
            ("GET /%77s?token=1 HTTP/1.1", "Host: [::1]:80\r\n", Ok(Route::Echo)),
            ("GET http://a/ws HTTP/1.1", "Host: a\r\n", Ok(Route::Echo)),
            ("GET /ws/ HTTP/1.1", "Host: a\r\n", unknown()),
            ("HEAD /other HTTP/1.1", "Host: a\r\n", unknown()),
            ("GET * HTTP/1.1", "Host: a\r\n", unknown()),
            ("GET / HTTP/1.1", &format!("Host: a\r\n{UPGRADE}"), no_echo()),
            ("GET / HTTP/1.0", "Sec-WebSocket-Key: a\r\n", no_echo()),
            ("GET /ws/ HTTP/1.1", &format!("Host: a\r\n{UPGRADE}"), no_echo()),
            ("POST / HTTP/1.1", "Host: a\r\n", not_allowed()),
            ("BREW /ws HTTP/1.1", "Host: a\r\n", not_allowed()),
            ("GET / HTTP/1.1", "", host_invalid()),
            ("GET / HTTP/1.1", "Host: a\r\nHost: a\r\n", host_invalid()),
            ("GET / HTTP/1.0", "Host: a\r\nHost: a\r\n", host_invalid()),
            ("GET / HTTP/1.1", "Host: a b\r\n", host_invalid()),
            ("GET / HTTP/1.1", "Host: user@a\r\n", host_invalid()),
            ("GET / HTTP/1.1", "Host:\r\n", host_invalid()),
        ] {
            let head = format!("{request_line}\r\n{fields}\r\n");
            assert_eq!(route(&read(head.as_bytes()).unwrap(), &own), expected, "{head:?}");
        }
    }

    #[test]
    fn every_path_can_upgrade_and_plain_requests_keep_their_routes() {
        let all = EchoPaths::new(&["*".to_owned()]);
        for path in ["/", "/ws", "/a/b"] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n");
            let upgrade = format!("{head}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
            assert_eq!(route(&read(upgrade.as_bytes()).unwrap(), &all), Ok(Route::Echo), "{path}");
            let expected = match path {
                "/" => Ok(Route::Page),
                _ => Err(RequestRefusal::PathUnknown(all.clone())),
            };
            let plain = read(format!("{head}\r\n").as_bytes()).unwrap();
            assert_eq!(route(&plain, &all), expected, "{path}");
        }
    }

    #[test]
    fn malformed_heads_are_refused() {
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(97));
        for (head, expected) in [
            ("\r\n\r\n", RequestRefusal::Malformed),
            ("GET\r\n\r\n", RequestRefusal::Malformed),
            ("GET / HTTP/2.0\r\n\r\n", RequestRefusal::VersionUnsupported),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", RequestRefusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", RequestRefusal::Malformed),
            ("GET / HTTP/1.1\r\nHo st: a\r\n\r\n", RequestRefusal::Malformed),
            ("GET /\u{7f} HTTP/1.1\r\n\r\n", RequestRefusal::Malformed),
            (&many, RequestRefusal::HeadTooLong),
        ] {
            assert_eq!(read(head.as_bytes()).unwrap_err(), expected, "{head:?}");
        }
    }

    #[test]
    fn response_to_a_head_is_that_to_a_get_without_its_body() {
        for response in [encode_page("<page>"), encode_refusal(StatusCode::NOT_FOUND, "nothing")] {
            let whole = String::from_utf8(response.clone()).unwrap();
            let (head, body) = whole.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())));
            assert_eq!(without_body(response.into()), format!("{head}\r\n\r\n"));
        }
    }
}
