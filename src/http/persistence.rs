//! Whether a connection outlives a response (RFC 9112 §9.3).
//!
//! What a client asks for is decided here, by its request alone. Whether the server agrees, which
//! depends on its bounds and on whether it stops, is left to whoever answers.

use http::{Request, Version, header::CONNECTION};

/// Whether a connection outlives a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// The next request may come.
    KeepAlive,
    /// The response is the last one.
    Close,
}

/// The most requests that are answered on one connection.
///
/// A client that never closes would stay on its worker, and on this server behind a load balancer, for
/// ever. The number is nginx's.
pub const REQUESTS_MAX: u32 = 1000;

impl Persistence {
    /// What the client of this request asks for.
    pub fn asked_for(request: &Request<()>) -> Self {
        //= https://www.rfc-editor.org/rfc/rfc9112#section-9.3
        //# If the "close" connection option is present (Section 9.6), the
        //# connection will not persist after the current response; else,
        let options = || {
            let values = request.headers().get_all(CONNECTION).iter();
            values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        };
        let has = |option: &str| {
            options().any(|it| it.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
        };
        let is_kept = if request.version() == Version::HTTP_10 {
            has("keep-alive") && !has("close")
        } else {
            !has("close")
        };
        if is_kept { Self::KeepAlive } else { Self::Close }
    }

    /// As the value of `Connection`.
    pub(super) fn connection_option(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::Close => "close",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_persist_as_their_clients_ask() {
        use Persistence::{Close, KeepAlive};
        for (version, values, expected) in [
            (Version::HTTP_11, &[][..], KeepAlive),
            (Version::HTTP_11, &["keep-alive"], KeepAlive),
            (Version::HTTP_11, &["close"], Close),
            (Version::HTTP_11, &["Close"], Close),
            (Version::HTTP_11, &["TE, close"], Close),
            (Version::HTTP_11, &["te", " close ,"], Close),
            (Version::HTTP_11, &["keep-alive, close"], Close),
            (Version::HTTP_11, &["closed"], KeepAlive),
            (Version::HTTP_10, &[], Close),
            (Version::HTTP_10, &["Keep-Alive"], KeepAlive),
            (Version::HTTP_10, &["keep-alive", "close"], Close),
            (Version::HTTP_10, &["te"], Close),
        ] {
            let mut request = Request::builder().version(version);
            for value in values {
                request = request.header(CONNECTION, *value);
            }
            let request = request.body(()).unwrap();
            assert_eq!(Persistence::asked_for(&request), expected, "{version:?} {values:?}");
        }
    }
}
