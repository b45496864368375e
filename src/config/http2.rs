//! HTTP/2: whether it is spoken, and what one of its connections may take.

use clap::{ArgAction, Args};

use crate::config::values::{KIB, MIB, Size, Within, group_defaults, parse_switch};

/// Whether HTTP/2 is spoken, and what one of its connections may take.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "HTTP/2")]
pub struct Http2 {
    /// Whether HTTP/2 is spoken too: on, off
    ///
    /// A plain port speaks it with clients that begin with its preface, a TLS port with those that
    /// choose it by ALPN. A WebSocket is opened by extended CONNECT (RFC 8441).
    #[arg(
        long = "http2", value_name = "CHOICE", action = ArgAction::Set, default_value = "on",
        value_parser = parse_switch
    )]
    pub is_spoken: bool,

    /// Most streams of an HTTP/2 connection at a time; more are refused
    ///
    /// The default is the least that RFC 9113 recommends (§6.5.2). Each stream that is a WebSocket
    /// takes what a connection on the portable path takes.
    #[arg(long = "http2-streams-max", value_name = "COUNT", default_value = "100")]
    pub streams_max: Within<u32, 1, 10_000>,

    /// Longest header list of a request over HTTP/2, with 32 bytes for each field; more get 431
    ///
    /// A header block that takes many times that ends its connection.
    #[arg(long = "http2-header-list-max", value_name = "SIZE", default_value = "16KiB")]
    pub header_list_len_max: Within<Size, { 4 * KIB }, MIB>,

    /// Bytes that a client may send on a stream before the server has consumed any of them
    ///
    /// A stream takes at most this many bytes in a round trip. They take memory only while the
    /// stream's client does not read.
    #[arg(long = "http2-window", value_name = "SIZE", default_value = "256KiB")]
    pub window_len: Within<Size, { 64 * KIB }, { 16 * MIB }>,
}

impl Default for Http2 {
    fn default() -> Self {
        group_defaults()
    }
}
