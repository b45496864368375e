//! Why a proxy gave no connection to the server: an error for each thing that it may do.

use std::io;

use thiserror::Error;

use crate::wire::stream::explain_connect;

/// What the proxy did.
#[derive(Debug, Error)]
pub(crate) enum ProxyError {
    #[error("it cannot be reached: {}", explain_connect(.0))]
    Connect(io::Error),
    #[error("it closed the connection while it was asked for one to the server")]
    CutOff,
    #[error("the connection to it broke: {0}")]
    Broken(io::Error),
    #[error("it sent bytes behind its answer, before the server was sent anything")]
    BytesUnasked,
    #[error("it does not speak HTTP: {0}")]
    NotHttp(httparse::Error),
    #[error("its answer to CONNECT is longer than {0} bytes")]
    HeadTooLong(usize),
    /// The status, and as excerpts its reason phrase and the first line of the body.
    #[error("it refused CONNECT with status {}", .0.join(": "))]
    Refused(Vec<String>),
    #[error(
        "it wants a user and a password, as in http://USER:PASSWORD@HOST:PORT (status 407{})",
        offer(.challenge.as_ref())
    )]
    AuthenticationNeeded { challenge: Option<String> },
    #[error(
        "it refused user and password, which were sent as Basic (status 407{})",
        offer(.challenge.as_ref())
    )]
    AuthenticationRefused { challenge: Option<String> },
    #[error("it does not speak SOCKS 5: its answer begins with byte {0:#04x}")]
    NotSocks5(u8),
    #[error("it wants a user and a password, as in socks5://USER:PASSWORD@HOST:PORT")]
    SocksAuthenticationNeeded,
    #[error("it accepts neither user and password nor nobody (method 255)")]
    SocksMethodMissing,
    #[error("it chose method {0}, which was not offered")]
    SocksMethodUnasked(u8),
    #[error("it refused user and password (status {0})")]
    SocksAuthenticationRefused(u8),
    #[error("the server's name has {0} bytes, and SOCKS 5 knows 255 at most")]
    SocksNameTooLong(usize),
    #[error("it refused the connection: {} (reply {})", reply_in_words(*.0), .0)]
    SocksRefused(u8),
    #[error("its reply has an address of the unknown type {0}")]
    SocksAddressType(u8),
}

fn offer(challenge: Option<&String>) -> String {
    challenge.map_or_else(String::new, |challenge| format!(", it offers {challenge}"))
}

/// The names of replies (RFC 1928 §6).
fn reply_in_words(reply: u8) -> &'static str {
    match reply {
        1 => "general SOCKS server failure",
        2 => "connection not allowed by ruleset",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "for a reason without a name",
    }
}
