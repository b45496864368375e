//! WebSocket connections over HTTP/2 (RFC 8441): many of them are streams of one TCP or TLS connection,
//! which is called a *transport* here.
//!
//! The frames of HTTP/2 are those of the `h2` crate, which polls; [`poll_io`] carries it on this
//! thread's runtime. Each transport has one task, its driver, which reads and writes for all of
//! its streams. A stream is the two halves of a connection ([`stream`]), so whatever drives
//! connections drives streams. Which transport a stream is opened on is [`pool`]'s; what is asked for,
//! and whether the answer agrees to it, is [`request`]'s.
//!
//! Windows are as large as it takes for the generator never to be what a server waits for.

pub(crate) mod error;
mod outgoing;
pub(crate) mod poll_io;
pub(crate) mod pool;
pub(crate) mod request;
pub(crate) mod stream;
pub(crate) mod transport;
