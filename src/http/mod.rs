//! HTTP/1.1 as far as an echo server needs it: reads requests and writes small responses.
//!
//! monoio-http decodes a head; this module bounds its length, decides where the request goes, and
//! finds where its body ends. What a response is does not depend on the HTTP that carries it
//! ([`Response`], [`Refusal`]); [`Response::encode`] writes it for HTTP/1.1. Upgrades are left to
//! `handshake`, which is above this module, and the order of requests on a connection to `worker`.

pub mod echo_paths;
mod echo_request;
mod foreign;
mod forwarded;
mod head;
pub mod page;
mod persistence;
mod refusal;
mod request_body;
mod response;
mod route;

pub use self::{
    echo_request::{Client, HttpEcho, Tls, encode_request},
    foreign::ForeignProtocol,
    forwarded::{ForwardedClient, forwarded_client},
    head::{
        Beginning, HEADER_FIELDS_MAX, HTTP2_PREFACE, HeadError, HeadText, REQUEST_HEAD_LEN_MAX,
        read_beginning, read_more, read_request, read_request_head,
    },
    persistence::{Persistence, REQUESTS_MAX},
    refusal::{Refusal, RequestRefusal},
    request_body::{BodyError, DISCARDED_BODY_LEN_MAX, Framing, RequestBody, expects_continue},
    response::{
        Response, SharedResponse, encode_healthy, encode_refusal, encode_response, without_body,
    },
    route::{HEALTH_PATH, Methods, Route, asks_for_echo, route},
};
