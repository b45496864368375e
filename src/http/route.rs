//! Where a request goes: to the page, to the health check, to the opening handshake, or nowhere.

use fastwebsockets::upgrade::is_upgrade_request;
use http::{
    Method, Request, Version,
    header::{HOST, SEC_WEBSOCKET_KEY},
    uri::Authority,
};

use super::{echo_paths::EchoPaths, refusal::RequestRefusal};

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the browser page.
    Page,
    /// To the answer of a health check.
    Health,
    /// To the opening handshake.
    Echo,
}

/// The path of health checks, whatever paths upgrade.
pub const HEALTH_PATH: &str = "/healthz";

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
    } else if path == HEALTH_PATH {
        Route::Health
    } else if echo_paths.lists(path) {
        Route::Echo
    } else {
        return Err(RequestRefusal::PathUnknown(echo_paths.clone()));
    };
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return Err(RequestRefusal::MethodNotAllowed);
    }
    Ok(route)
}

/// Whether a request asks for the echo. A key is enough, since proxies that were not told to pass
/// `Upgrade` on drop it. The key is looked for first, since that is the cheaper question.
fn asks_for_echo(request: &Request<()>) -> bool {
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
    use futures_executor::block_on;

    use super::*;
    use crate::http::read_request_head;

    fn read(head: &str) -> Request<()> {
        block_on(read_request_head(&mut head.as_bytes(), bytes::BytesMut::new())).unwrap().0
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
            ("BREW /ws HTTP/1.1", "Host: a\r\n", not_allowed()),
            ("GET / HTTP/1.1", "", host_invalid()),
            ("GET / HTTP/1.1", "Host: a\r\nHost: a\r\n", host_invalid()),
            ("GET / HTTP/1.0", "Host: a\r\nHost: a\r\n", host_invalid()),
            ("GET / HTTP/1.1", "Host: a b\r\n", host_invalid()),
            ("GET / HTTP/1.1", "Host: user@a\r\n", host_invalid()),
            ("GET / HTTP/1.1", "Host:\r\n", host_invalid()),
        ] {
            let head = format!("{request_line}\r\n{fields}\r\n");
            assert_eq!(route(&read(&head), &own), expected, "{head:?}");
        }
    }

    #[test]
    fn every_path_can_upgrade_and_plain_requests_keep_their_routes() {
        let all = EchoPaths::new(&["*".to_owned()]);
        for path in ["/", "/ws", "/a/b", "/healthz"] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n");
            let upgrade = format!("{head}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
            assert_eq!(route(&read(&upgrade), &all), Ok(Route::Echo), "{path}");
            let expected = match path {
                "/" => Ok(Route::Page),
                "/healthz" => Ok(Route::Health),
                _ => Err(RequestRefusal::PathUnknown(all.clone())),
            };
            let plain = read(&format!("{head}\r\n"));
            assert_eq!(route(&plain, &all), expected, "{path}");
        }
    }
}
