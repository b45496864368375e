//! How HTTP/2 writes a response: what it is does not depend on the HTTP that carries it.

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING, UPGRADE},
};

use crate::http::Response;

/// Status and header fields of a response, of which the body comes behind.
pub fn head(response: &Response) -> http::Response<()> {
    let mut head = http::Response::new(());
    *head.status_mut() = response.status;
    let headers = head.headers_mut();
    if let Some(content_type) = response.content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if response.status != StatusCode::NO_CONTENT {
        headers.insert(CONTENT_LENGTH, response.body.len().into());
    }
    for (name, value) in response.fields {
        put(headers, name, value);
    }
    head
}

//= https://www.rfc-editor.org/rfc/rfc9113#section-8.2.2
//# An endpoint MUST NOT generate an HTTP/2 message containing connection-specific header fields.
fn put(headers: &mut HeaderMap, name: &str, value: &'static str) {
    if let Ok(name) = HeaderName::from_bytes(name.as_bytes())
        && ![CONNECTION, TRANSFER_ENCODING, UPGRADE].contains(&name)
    {
        headers.append(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{handshake::HandshakeRefusal, http::Refusal};

    #[test]
    fn responses_say_the_same_as_over_http_1_1() {
        let page = head(&Response::page("<p>".to_owned()));
        assert_eq!(page.status(), StatusCode::OK);
        assert_eq!(page.headers()["content-length"], "3");
        assert_eq!(page.headers()["x-content-type-options"], "nosniff");
        assert!(!page.headers().contains_key(CONNECTION));

        let refusal = head(&Refusal::from(HandshakeRefusal::VersionUnsupported).into());
        assert_eq!(refusal.status(), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(refusal.headers()["sec-websocket-version"], "13");
        assert!(!refusal.headers().contains_key(UPGRADE));
    }
}
