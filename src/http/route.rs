//! Where a request goes: to the page, to the health check, to the opening handshake, to the echo of
//! plain requests, or nowhere; and which methods are possible there.

use fastwebsockets::upgrade::is_upgrade_request;
use http::{
    Method, Request, Version,
    header::{HOST, SEC_WEBSOCKET_KEY},
    uri::Authority,
};

use super::{echo_paths::EchoPaths, echo_request::HttpEcho, refusal::RequestRefusal};

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the browser page.
    Page,
    /// To the answer of a health check.
    Health,
    /// To the opening handshake.
    Echo,
    /// To the echo of plain requests.
    HttpEcho,
    /// To the list of the methods that are possible at its path.
    Options(Methods),
}

/// The methods that are possible somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Methods {
    /// Those that read.
    Get,
    /// Those that read, and the question which they are.
    Page,
    /// Those of requests that are sent back as they come.
    HttpEcho,
}

impl Methods {
    /// `Allow`, as the header fields of a response.
    pub fn fields(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Get => &[("Allow", "GET, HEAD")],
            Self::Page => &[("Allow", "GET, HEAD, OPTIONS")],
            Self::HttpEcho => &[("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")],
        }
    }

    /// The same list in a sentence.
    pub(super) fn for_people(self) -> &'static str {
        match self {
            Self::Get => "GET and HEAD",
            Self::Page => "GET, HEAD and OPTIONS",
            Self::HttpEcho => "GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS",
        }
    }

    /// Whether a method is one of them, apart from OPTIONS.
    fn contain(self, method: &Method) -> bool {
        match *method {
            Method::GET | Method::HEAD => true,
            Method::POST | Method::PUT | Method::PATCH | Method::DELETE => self == Self::HttpEcho,
            _ => false,
        }
    }
}

/// The path of health checks, whatever paths upgrade.
pub const HEALTH_PATH: &str = "/healthz";

/// Decides where a request goes. The echo of plain requests may have the path of an echo, which then
/// takes the upgrades, or any other but those of the page and of health checks.
pub fn route(
    request: &Request<()>,
    echo_paths: &EchoPaths,
    http_echo: Option<&HttpEcho>,
) -> Result<Route, RequestRefusal> {
    check_host(request)?;
    check_method_is_known(request.method())?;
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
    } else if path == HEALTH_PATH {
        Route::Health
    } else if http_echo.is_some_and(|it| it.is_at(path)) {
        Route::HttpEcho
    } else if path == "*" && request.method() == Method::OPTIONS {
        // The server as a whole (RFC 9110 §9.3.7).
        return Ok(Route::Options(http_echo.map_or(Methods::Page, |_| Methods::HttpEcho)));
    } else if echo_paths.lists(path) {
        Route::Echo
    } else {
        return Err(RequestRefusal::PathUnknown(echo_paths.clone()));
    };
    let methods = if route == Route::HttpEcho { Methods::HttpEcho } else { Methods::Page };
    match request.method() {
        method if methods.contain(method) => Ok(route),
        &Method::OPTIONS => Ok(Route::Options(methods)),
        _ => Err(RequestRefusal::MethodNotAllowed(methods)),
    }
}

//= https://www.rfc-editor.org/rfc/rfc9110#section-9.1
//# An origin server that receives a request method that is unrecognized or not
//# implemented SHOULD respond with the 501 (Not Implemented) status code.
fn check_method_is_known(method: &Method) -> Result<(), RequestRefusal> {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS
        | Method::TRACE
        | Method::CONNECT => Ok(()),
        _ => Err(RequestRefusal::MethodUnknown),
    }
}

/// Whether a request asks for the echo. A key is enough, since proxies that were not told to pass
/// `Upgrade` on drop it. The key is looked for first, since that is the cheaper question.
pub fn asks_for_echo(request: &Request<()>) -> bool {
    request.headers().contains_key(SEC_WEBSOCKET_KEY) || is_upgrade_request(request)
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

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use futures_executor::block_on;

    use super::*;
    use crate::http::read_request_head;

    fn read(head: &str) -> Request<()> {
        block_on(read_request_head(&mut head.as_bytes(), BytesMut::new())).unwrap().0
    }

    #[test]
    fn requests_find_their_route_or_refusal() {
        const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
        let own = EchoPaths::new(&["/ws".to_owned(), "/echo".to_owned()]);
        let unknown = || Err(RequestRefusal::PathUnknown(own.clone()));
        let no_echo = || Err(RequestRefusal::NoEcho(own.clone()));
        let not_allowed = || Err(RequestRefusal::MethodNotAllowed(Methods::Page));
        let options = |methods| Ok(Route::Options(methods));
        let http_echo = HttpEcho::new("/http", 10);
        let host_invalid = || Err(RequestRefusal::HostInvalid);
        for (request_line, fields, expected) in [
            ("GET / HTTP/1.1", "Host: a\r\n", Ok(Route::Page)),
            ("GET /?query HTTP/1.1", "Host: a\r\n", Ok(Route::Page)),
            ("HEAD / HTTP/1.1", "Host: a\r\n", Ok(Route::Page)),
            ("GET / HTTP/1.0", "", Ok(Route::Page)),
            ("HEAD / HTTP/1.0", "Host: a\r\n", Ok(Route::Page)),
            ("GET /healthz HTTP/1.1", "Host: a\r\n", Ok(Route::Health)),
            ("GET /healthz?verbose HTTP/1.0", "", Ok(Route::Health)),
            ("HEAD /healthz HTTP/1.1", "Host: a\r\n", Ok(Route::Health)),
            ("GET /healthz HTTP/1.1", &format!("Host: a\r\n{UPGRADE}"), no_echo()),
            ("POST /healthz HTTP/1.1", "Host: a\r\n", not_allowed()),
            ("GET /healthz/ HTTP/1.1", "Host: a\r\n", unknown()),
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
            ("BREW /ws HTTP/1.1", "Host: a\r\n", Err(RequestRefusal::MethodUnknown)),
            ("get / HTTP/1.1", "Host: a\r\n", Err(RequestRefusal::MethodUnknown)),
            ("TRACE / HTTP/1.1", "Host: a\r\n", not_allowed()),
            ("CONNECT a:80 HTTP/1.1", "Host: a\r\n", unknown()),
            ("OPTIONS * HTTP/1.1", "Host: a\r\n", options(Methods::HttpEcho)),
            ("OPTIONS / HTTP/1.1", "Host: a\r\n", options(Methods::Page)),
            ("OPTIONS /ws HTTP/1.0", "", options(Methods::Page)),
            ("OPTIONS /http HTTP/1.1", "Host: a\r\n", options(Methods::HttpEcho)),
            ("OPTIONS /other HTTP/1.1", "Host: a\r\n", unknown()),
            ("GET /http HTTP/1.1", "Host: a\r\n", Ok(Route::HttpEcho)),
            ("GET /%68ttp?x HTTP/1.0", "", Ok(Route::HttpEcho)),
            ("POST /http HTTP/1.1", "Host: a\r\n", Ok(Route::HttpEcho)),
            ("DELETE /http HTTP/1.1", "Host: a\r\n", Ok(Route::HttpEcho)),
            (
                "TRACE /http HTTP/1.1",
                "Host: a\r\n",
                Err(RequestRefusal::MethodNotAllowed(Methods::HttpEcho)),
            ),
            ("GET /http HTTP/1.1", &format!("Host: a\r\n{UPGRADE}"), no_echo()),
            ("GET / HTTP/1.1", "", host_invalid()),
            ("GET / HTTP/1.1", "Host: a\r\nHost: a\r\n", host_invalid()),
            ("GET / HTTP/1.0", "Host: a\r\nHost: a\r\n", host_invalid()),
            ("GET / HTTP/1.1", "Host: a b\r\n", host_invalid()),
            ("GET / HTTP/1.1", "Host: user@a\r\n", host_invalid()),
            ("GET / HTTP/1.1", "Host:\r\n", host_invalid()),
        ] {
            let head = format!("{request_line}\r\n{fields}\r\n");
            assert_eq!(route(&read(&head), &own, Some(&http_echo)), expected, "{head:?}");
        }
    }

    #[test]
    fn every_path_can_upgrade_and_plain_requests_keep_their_routes() {
        let all = EchoPaths::new(&["*".to_owned()]);
        for path in ["/", "/ws", "/a/b", "/healthz"] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n");
            let upgrade = format!("{head}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
            assert_eq!(route(&read(&upgrade), &all, None), Ok(Route::Echo), "{path}");
            let expected = match path {
                "/" => Ok(Route::Page),
                "/healthz" => Ok(Route::Health),
                _ => Err(RequestRefusal::PathUnknown(all.clone())),
            };
            let plain = read(&format!("{head}\r\n"));
            assert_eq!(route(&plain, &all, None), expected, "{path}");
        }
    }
}
