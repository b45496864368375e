//! Responses of HTTP/1.1 out, other than a 101: each is written whole, and ends its connection.

use bytes::Bytes;
use http::StatusCode;
use memchr::memmem;

const HEAD_END: &[u8] = b"\r\n\r\n";

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
    use super::*;

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
