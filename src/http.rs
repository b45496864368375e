//! HTTP/1.1 as far as an echo server needs it: a request head in, one small response out.
//!
//! monoio-http decodes the head; this module bounds it, and decides where it goes. Every response
//! but a 101 ends its connection, so there is never a second head, and no body is ever read.

use bytes::BytesMut;
use http::{Method, Request, StatusCode, Version, header::HOST, uri::Authority};
use memchr::memmem;
use monoio::io::AsyncReadRent;
use monoio_codec::{Decoded, Decoder};
use monoio_http::h1::codec::decoder::{DecodeError, RequestHeadDecoder};
use thiserror::Error;

/// The longest request head, in bytes, from the first of its request line to its empty line.
pub const REQUEST_HEAD_LEN_MAX: usize = 8 << 10;

const HEAD_END: &[u8] = b"\r\n\r\n";

/// Why no request head could be had.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The peer ended the connection, or it broke, before a head was whole.
    PeerLeft,
    /// The request can be answered, with this.
    Refused(RequestRefusal),
}

/// Why a request is refused, whatever path it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
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
    /// The request's version is not HTTP/1.1.
    #[error("only HTTP/1.1 is spoken here")]
    VersionUnsupported,
    /// `Host` is missing, repeated, or not a host.
    #[error("Host must be there once, with a host and an optional port")]
    HostInvalid,
    /// There is nothing at this path.
    #[error("there is nothing here: the page is at /")]
    PathUnknown,
    /// Another method than the path has.
    #[error("only GET is possible here")]
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
    pub fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Malformed | Self::HostInvalid => StatusCode::BAD_REQUEST,
            Self::TimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::VersionUnsupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::PathUnknown => StatusCode::NOT_FOUND,
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
        if memmem::find(&received[search_at..], HEAD_END).is_some() {
            let head = decode_request_head(&mut received).map_err(HeadError::Refused)?;
            return Ok((Request::from_parts(head, ()), received));
        }
        if received.len() >= REQUEST_HEAD_LEN_MAX {
            return Err(HeadError::Refused(RequestRefusal::HeadTooLong));
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

/// Takes a whole head from the front of `received`.
fn decode_request_head(received: &mut BytesMut) -> Result<http::request::Parts, RequestRefusal> {
    match RequestHeadDecoder.decode(received) {
        Ok(Decoded::Some(head)) => Ok(head),
        Err(DecodeError::Parse(httparse::Error::TooManyHeaders)) => {
            Err(RequestRefusal::HeadTooLong)
        }
        // The head's end is there, so a head that is still insufficient is an empty one.
        Ok(_) | Err(_) => Err(RequestRefusal::Malformed),
    }
}

/// Decides where a request goes.
pub fn route(request: &Request<()>, echo_path: &str) -> Result<Route, RequestRefusal> {
    if request.version() != Version::HTTP_11 {
        return Err(RequestRefusal::VersionUnsupported);
    }
    check_host(request)?;
    let route = match request.uri().path() {
        "/" => Route::Page,
        path if path == echo_path => Route::Echo,
        //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
        //# If the requested service is not available, the server MUST send an appropriate HTTP
        //# error code (such as 404 Not Found) and abort the WebSocket handshake.
        _ => return Err(RequestRefusal::PathUnknown),
    };
    //= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.1
    //# An HTTP/1.1 or higher GET request, including a "Request-URI"
    if request.method() != Method::GET {
        return Err(RequestRefusal::MethodNotAllowed);
    }
    Ok(route)
}

//= https://www.rfc-editor.org/rfc/rfc9112#section-3.2
//# A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1
//# request message that lacks a Host header field and to any request message
//# that contains more than one Host header field line or a Host header field
//# with an invalid field value.
fn check_host(request: &Request<()>) -> Result<(), RequestRefusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().ok_or(RequestRefusal::HostInvalid)?;
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
        StatusCode::METHOD_NOT_ALLOWED => "Allow: GET\r\n",
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
    use super::*;

    fn request(head: &str) -> Result<Request<()>, RequestRefusal> {
        let mut received = BytesMut::from(head);
        Ok(Request::from_parts(decode_request_head(&mut received)?, ()))
    }

    #[test]
    fn requests_find_their_route_or_refusal() {
        use RequestRefusal::{HostInvalid, MethodNotAllowed, PathUnknown, VersionUnsupported};
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Route::Page)),
            ("GET /?query HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Route::Page)),
            ("GET /ws HTTP/1.1\r\nHost: a:9001\r\n\r\n", Ok(Route::Echo)),
            ("GET /ws?token=1 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Ok(Route::Echo)),
            ("GET http://a/ws HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Route::Echo)),
            ("GET /ws/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(PathUnknown)),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Err(PathUnknown)),
            ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", Err(MethodNotAllowed)),
            ("BREW /ws HTTP/1.1\r\nHost: a\r\n\r\n", Err(MethodNotAllowed)),
            ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", Err(VersionUnsupported)),
            ("GET / HTTP/1.1\r\n\r\n", Err(HostInvalid)),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Err(HostInvalid)),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Err(HostInvalid)),
            ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", Err(HostInvalid)),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Err(HostInvalid)),
        ] {
            let request = request(head).unwrap();
            assert_eq!(route(&request, "/ws"), expected, "{head:?}");
        }
    }

    #[test]
    fn malformed_heads_are_refused() {
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(97));
        for (head, expected) in [
            ("\r\n\r\n", RequestRefusal::Malformed),
            ("GET\r\n\r\n", RequestRefusal::Malformed),
            ("GET / HTTP/2.0\r\n\r\n", RequestRefusal::Malformed),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", RequestRefusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", RequestRefusal::Malformed),
            ("GET / HTTP/1.1\r\nHo st: a\r\n\r\n", RequestRefusal::Malformed),
            ("GET /\u{7f} HTTP/1.1\r\n\r\n", RequestRefusal::Malformed),
            (&many, RequestRefusal::HeadTooLong),
        ] {
            assert_eq!(request(head).unwrap_err(), expected, "{head:?}");
        }
    }
}
