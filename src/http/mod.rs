//! HTTP/1.1 as far as an echo server needs it: reads a request head and writes one small response.
//!
//! monoio-http decodes the head; this module bounds its length, and decides where the request goes.
//! Every response but a 101 ends its connection, so there is never a second head, and no body is
//! ever read. Upgrades are left to `handshake`, which is above this module.

pub mod echo_paths;
mod foreign;
mod head;
pub mod page;
mod refusal;
mod response;
mod route;

pub use self::{
    foreign::ForeignProtocol,
    head::{HEADER_FIELDS_MAX, HeadError, REQUEST_HEAD_LEN_MAX, read_request_head},
    refusal::{Refusal, RequestRefusal},
    response::{encode_healthy, encode_page, encode_refusal, encode_response, without_body},
    route::{HEALTH_PATH, Route, route},
};
