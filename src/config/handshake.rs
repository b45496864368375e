//! Handshake: which paths lead to the echo, who may connect, and what may be agreed on.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use thiserror::Error;

use crate::{
    config::values::group_defaults,
    handshake::{Policy, origin::Origin},
    http::echo_paths::{ANY_PATH, EchoPaths, requested_form},
    protocol::token::is_token,
};

/// Which paths lead to the echo, who may connect, and what may be agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Handshake")]
pub struct Handshake {
    /// Path that upgrades to the echo, the one to propose first, or * for all; repeatable
    #[arg(long = "path", value_name = "PATH", value_delimiter = ',', default_value = "/ws")]
    pub paths: Vec<EchoPath>,

    /// Origin that may connect, its scheme and host; repeatable [default: all]
    #[arg(long = "allowed-origin", value_name = "ORIGIN", value_delimiter = ',')]
    pub allowed_origins: Vec<Origin>,

    /// Subprotocol to agree on, best first; repeatable [default: none]
    #[arg(long = "subprotocol", value_name = "NAME", value_delimiter = ',')]
    pub subprotocols: Vec<Subprotocol>,

    /// permessage-deflate; pass-through agrees on it where messages can be echoed still compressed
    #[arg(long, value_name = "NAME", default_value = "off")]
    pub compression: Compression,
}

/// A path as clients request it, or `*` for all paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoPath(String);

/// A subprotocol that a server may agree on: a token (RFC 6455 §4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subprotocol(String);

/// What is done about compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// Messages are not compressed.
    Off,
    /// permessage-deflate is agreed on where compressed messages can be echoed as they are.
    PassThrough,
}

/// Why a text is no path of an echo.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EchoPathError {
    /// No client can request it.
    #[error(
        "must be a path such as /ws: a slash, then letters, digits or any of \
         -._~!$&'()+;=:@/ or a percent sign with two hex digits; or * for all paths"
    )]
    NotAPath,
    /// Clients request the path in another form, which is the value.
    #[error("clients ask for this path as {0:?}: write it like that")]
    NotInRequestedForm(String),
}

/// Why a text is no subprotocol.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("must be one or more letters, digits or any of !#$%&'*+-.^_`|~")]
pub struct SubprotocolError;

impl Default for Handshake {
    fn default() -> Self {
        group_defaults()
    }
}

impl Handshake {
    /// The paths that upgrade to the echo.
    pub fn echo_paths(&self) -> EchoPaths {
        EchoPaths::new(&self.paths)
    }

    /// The policy that the opening handshake follows.
    pub fn policy(&self) -> Policy {
        Policy {
            allowed_origins: self.allowed_origins.clone(),
            subprotocols: self.subprotocols.iter().map(|name| name.0.clone()).collect(),
            passes_compression: self.compression == Compression::PassThrough,
        }
    }
}

impl EchoPath {
    /// Whether this stands for all paths.
    pub fn is_any(&self) -> bool {
        self.0 == ANY_PATH
    }
}

impl FromStr for EchoPath {
    type Err = EchoPathError;

    fn from_str(text: &str) -> Result<Self, EchoPathError> {
        if text != ANY_PATH {
            let asked = requested_form(text).ok_or(EchoPathError::NotAPath)?;
            if asked != text {
                return Err(EchoPathError::NotInRequestedForm(asked));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl AsRef<str> for EchoPath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Subprotocol {
    type Err = SubprotocolError;

    fn from_str(text: &str) -> Result<Self, SubprotocolError> {
        if is_token(text) { Ok(Self(text.to_owned())) } else { Err(SubprotocolError) }
    }
}

impl AsRef<str> for Subprotocol {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subprotocols_are_checked() {
        for subprotocol in ["", "a b", "a,b", "é"] {
            assert_eq!(subprotocol.parse::<Subprotocol>(), Err(SubprotocolError));
        }
    }

    #[test]
    fn paths_are_refused_unless_they_are_as_clients_ask_for_them() {
        for path in ["/ws", "/", "/ws/", "/%7euser", "*"] {
            assert_eq!(path.parse(), Ok(EchoPath(path.to_owned())));
        }
        assert_eq!("ws".parse::<EchoPath>(), Err(EchoPathError::NotAPath));
        assert_eq!(
            "/a/../ws".parse::<EchoPath>().unwrap_err().to_string(),
            "clients ask for this path as \"/ws\": write it like that"
        );
    }
}
