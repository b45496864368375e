//! HTTP/1.1 as far as an echo server needs it: a request head in, one small response out.
//!
//! monoio-http decodes the head; this module bounds it, and decides where it goes. Every response
//! but a 101 ends its connection, so there is never a second head, and no body is ever read.

pub mod echo_paths;
mod foreign;
pub mod page;

use bytes::{Bytes, BytesMut};
use fastwebsockets::upgrade::is_upgrade_request;
use http::{
    Method, Request, StatusCode, Version,
    header::{HOST, SEC_WEBSOCKET_KEY},
    uri::Authority,
};
use memchr::{memchr2, memmem};
use monoio::io::AsyncReadRent;
use monoio_codec::{Decoded, Decoder};
use monoio_http::h1::codec::decoder::{DecodeError, RequestHeadDecoder};
use thiserror::Error;

pub use self::foreign::Foreign;
use crate::{config::is_token_byte, http::echo_paths::EchoPaths};

/// The longest request head, in bytes, from the first of its request line to its empty line.
pub const REQUEST_HEAD_LEN_MAX: usize = 8 << 10;

/// The longest method, in bytes: longer than any that is registered.
const METHOD_LEN_MAX: usize = 32;

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
    /// It is another protocol.
    #[error(transparent)]
    Foreign(Foreign),
    /// There are empty lines where the request line should be.
    #[error(
        "a request begins with its request line, and empty lines came; a PROXY protocol header \
         (version 2) begins so too: have the proxy before this port send none"
    )]
    LinesEmpty,
    /// A line ends with CR or LF alone.
    #[error("a line of a request head ends with CR and LF, and one came without the other")]
    LineEndBare,
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
            Self::Malformed
            | Self::Foreign(_)
            | Self::LinesEmpty
            | Self::LineEndBare
            | Self::HostInvalid => StatusCode::BAD_REQUEST,
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
    let mut scanner = Scanner::default();
    loop {
        received = read_more(reader, received).await?;
        let head = match scanner.reaches_end(&received) {
            Ok(true) => decode_request_head(&mut received).map(Some),
            Ok(false) if received.len() >= REQUEST_HEAD_LEN_MAX => Err(RequestRefusal::HeadTooLong),
            Ok(false) => Ok(None),
            Err(refusal) => Err(refusal),
        };
        match head {
            Ok(Some(head)) => return Ok((Request::from_parts(head, ()), received)),
            Ok(None) => {}
            Err(refusal) => {
                return Err(HeadError::Refused { refusal, is_head: scanner.is_head });
            }
        }
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

/// Looks at the lines of a head as they arrive, each byte once, and refuses what is no HTTP at the
/// first byte that shows it, however the bytes are cut: peers of other protocols wait for an answer
/// before they send anything that would end a head.
#[derive(Default)]
struct Scanner {
    /// Where the line begins that is not whole yet.
    line_at: usize,
    /// Up to where it is known to have no end.
    searched: usize,
    /// Whether the request line is behind.
    in_fields: bool,
    /// Whether the method is HEAD.
    is_head: bool,
}

impl Scanner {
    /// Whether the head's end is in what was `received`, which is everything from its first byte.
    fn reaches_end(&mut self, received: &[u8]) -> Result<bool, RequestRefusal> {
        loop {
            if !self.in_fields {
                check_beginning(&received[self.line_at..])?;
            }
            let Some(found) = memchr2(b'\r', b'\n', &received[self.searched..]) else {
                self.searched = received.len();
                return Ok(false);
            };
            let line_end = self.searched + found;
            //= https://www.rfc-editor.org/rfc/rfc9112#section-2.2
            //# A recipient of such a bare CR MUST consider that element to be
            //# invalid or replace each bare CR with SP before processing the
            //# element or forwarding the message.
            match &received[line_end..] {
                [b'\r', b'\n', ..] => {}
                [b'\r'] => {
                    self.searched = line_end;
                    return Ok(false);
                }
                _ => return Err(RequestRefusal::LineEndBare),
            }
            let line = &received[self.line_at..line_end];
            let is_first = self.line_at == 0;
            self.line_at = line_end + 2;
            self.searched = self.line_at;
            match line {
                [] if self.in_fields => return Ok(true),
                //= https://www.rfc-editor.org/rfc/rfc9112#section-2.2
                //# a server that is expecting to receive and parse a request-line SHOULD ignore
                //# at least one empty line (CRLF) received prior to the request-line.
                [] if is_first => {}
                [] => return Err(RequestRefusal::LinesEmpty),
                _ if self.in_fields => {}
                request_line => {
                    self.is_head = request_line.starts_with(b"HEAD ");
                    check_request_line(request_line)?;
                    self.in_fields = true;
                }
            }
        }
    }
}

/// Refuses what cannot become a request line: as far as it has come, it is a method, or has one
/// before its first space.
fn check_beginning(beginning: &[u8]) -> Result<(), RequestRefusal> {
    if let Some(foreign) = Foreign::recognize(beginning) {
        return Err(RequestRefusal::Foreign(foreign));
    }
    let method_len =
        beginning.iter().take(METHOD_LEN_MAX + 1).take_while(|byte| is_token_byte(**byte)).count();
    match beginning.get(method_len) {
        _ if method_len > METHOD_LEN_MAX => Err(RequestRefusal::Malformed),
        None | Some(b'\r' | b'\n') => Ok(()),
        Some(b' ') if method_len > 0 => Ok(()),
        Some(_) => Err(RequestRefusal::Malformed),
    }
}

/// Refuses a request line that is not a method, a target and a version of HTTP/1.
fn check_request_line(line: &[u8]) -> Result<(), RequestRefusal> {
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let (Some(version), None) = (words.next(), words.next()) else {
        return Err(RequestRefusal::Malformed);
    };
    match version.strip_prefix(b"HTTP/") {
        Some(b"1.1" | b"1.0") => Ok(()),
        Some([b'0'..=b'9', ..]) => Err(RequestRefusal::VersionUnsupported),
        _ => Err(RequestRefusal::Malformed),
    }
}

/// Takes a whole head from the front of `received`.
fn decode_request_head(received: &mut BytesMut) -> Result<http::request::Parts, RequestRefusal> {
    match RequestHeadDecoder.decode(received) {
        Ok(Decoded::Some(head)) => Ok(head),
        Err(DecodeError::Parse(httparse::Error::TooManyHeaders)) => {
            Err(RequestRefusal::HeadTooLong)
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

    //= https://www.rfc-editor.org/rfc/rfc9112#section-2.2
    //= type=test
    //# A recipient of such a bare CR MUST consider that element to be invalid or replace each bare
    //# CR with SP before processing the element or forwarding the message.
    #[test]
    fn what_is_no_request_is_refused_at_the_byte_that_shows_it() {
        use RequestRefusal::{LineEndBare, LinesEmpty, Malformed, VersionUnsupported};
        let foreign = RequestRefusal::Foreign;
        let too_long = [&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; 8 << 10]].concat();
        let too_many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(97));
        // Each is shown by its last byte, and not before.
        for (head, expected) in [
            (&b"\x16"[..], foreign(Foreign::Tls)),
            (b"\x05", foreign(Foreign::Socks)),
            (b"\x04", foreign(Foreign::Socks)),
            (b"\x81", foreign(Foreign::WebSocketFrame)),
            (b"\x02", foreign(Foreign::WebSocketFrame)),
            (b"SSH-", foreign(Foreign::Ssh)),
            (b"PROXY ", foreign(Foreign::ProxyHeader)),
            (b"\r\n\r\n", LinesEmpty),
            (b"\r\n\x16", foreign(Foreign::Tls)),
            (b"\0", Malformed),
            (b"\xff", Malformed),
            (b" ", Malformed),
            (b"{", Malformed),
            (b"GE\0", Malformed),
            (b"HTTP/", Malformed),
            (&[b'A'; METHOD_LEN_MAX + 1], Malformed),
            (b"QUIT\r\n", Malformed),
            (b"GET /\r\n", Malformed),
            (b"GET / \r\n", Malformed),
            (b"GET  / HTTP/1.1\r\n", Malformed),
            (b"GET / a HTTP/1.1\r\n", Malformed),
            (b"GET / http/1.1\r\n", Malformed),
            (b"GET / HTTP/1.1 \r\n", Malformed),
            (b"GET / HTTP/0.9\r\n", VersionUnsupported),
            (b"GET / HTTP/2.0\r\n", VersionUnsupported),
            (b"GET / HTTP/3\r\n", VersionUnsupported),
            (b"PRI * HTTP/2.0\r\n", VersionUnsupported),
            (b"\n", LineEndBare),
            (b"\r\n\n", LineEndBare),
            (b"\r\r", LineEndBare),
            (b"GET / HTTP/1.1\n", LineEndBare),
            (b"GET / HTTP/1.1\rH", LineEndBare),
            (b"GET / HTTP/1.1\r\nHost: a\n", LineEndBare),
            (b"GET / HTTP/1.1\r\nHost: a\rb", LineEndBare),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\n", LineEndBare),
            (b"GET / HTTP/1.1\r\nHost: a\r\r", LineEndBare),
            (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", Malformed),
            (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", Malformed),
            (b"GET / HTTP/1.1\r\nHo st: a\r\n\r\n", Malformed),
            (b"GET /\x7f HTTP/1.1\r\n\r\n", Malformed),
            (&too_long[..REQUEST_HEAD_LEN_MAX], RequestRefusal::HeadTooLong),
            (too_many.as_bytes(), RequestRefusal::HeadTooLong),
        ] {
            let shown = head.escape_ascii();
            assert_eq!(read(head).unwrap_err(), expected, "{shown}");
            // What comes behind it changes nothing.
            let longer = [head, b" / HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            assert_eq!(read(&longer).unwrap_err(), expected, "{shown} and more");
            let mut scanner = Scanner::default();
            for received_len in 1..head.len() {
                assert_eq!(scanner.reaches_end(&head[..received_len]), Ok(false), "{shown}");
            }
            match scanner.reaches_end(head) {
                Ok(true) => {}
                Ok(false) => assert_eq!(head.len(), REQUEST_HEAD_LEN_MAX),
                Err(refusal) => assert_eq!(refusal, expected, "{shown}"),
            }
        }
    }

    #[test]
    fn one_empty_line_may_come_before_a_request() {
        let request = read(b"\r\nGET /ws HTTP/1.1\r\nHost: a\r\n\r\n\n\r").unwrap();
        assert_eq!(request.uri().path(), "/ws");
    }

    #[test]
    fn refusals_of_heads_know_whether_they_answer_a_head() {
        for (input, is_head) in [
            ("HEAD / HTTP/2.0\r\n", true),
            ("HEAD / HTTP/1.1\r\nno colon\r\n\r\n", true),
            ("\r\nHEAD / HTTP/1.1\r\nHost: a\n", true),
            ("GET /HEAD HTTP/2.0\r\n", false),
            ("HEADER / HTTP/2.0\r\n", false),
        ] {
            match block_on(read_request_head(&mut input.as_bytes())) {
                Err(HeadError::Refused { is_head: known, .. }) => assert_eq!(known, is_head),
                other => panic!("{other:?}"),
            }
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
