//! HTTP: what plain requests get beside the page and health checks.

use std::str::FromStr;

use clap::Args;
use thiserror::Error;

use crate::{
    config::{
        handshake::{EchoPath, EchoPathError},
        values::{MIB, Size, Within, group_defaults},
    },
    http::{HEALTH_PATH, HttpEcho},
};

/// What plain requests get beside the page and health checks.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "HTTP")]
pub struct Http {
    /// Path where plain requests are sent back as JSON, to see what proxies change [default: off]
    ///
    /// It is off by default, since the JSON has header fields that a proxy adds and that its clients
    /// may not be meant to see.
    #[arg(long, value_name = "PATH")]
    pub http_echo: Option<HttpEchoPath>,

    /// Longest body that is sent back there; a longer one gets 413
    ///
    /// A body is kept until it is whole, so this is memory that a connection may take.
    #[arg(long, value_name = "SIZE", default_value = "64KiB")]
    pub http_echo_body_max: Within<Size, 0, MIB>,
}

/// A path as clients request it, but for those of the page and of health checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpEchoPath(EchoPath);

/// Why a text is no path where requests are sent back.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HttpEchoPathError {
    /// No client can request it, or not in this form.
    #[error(transparent)]
    NotAPath(#[from] EchoPathError),
    /// It stands for all paths.
    #[error("must be one path, such as /http, not * for all")]
    Any,
    /// Something else is at the path.
    #[error("must be another path than / of the page and {HEALTH_PATH} of health checks")]
    Taken,
}

impl Default for Http {
    fn default() -> Self {
        group_defaults()
    }
}

impl Http {
    /// The echo of plain requests, if there is one.
    pub fn echo(&self) -> Option<HttpEcho> {
        let path = self.http_echo.as_ref()?.0.as_ref();
        Some(HttpEcho::new(path, self.http_echo_body_max.get().0))
    }
}

impl FromStr for HttpEchoPath {
    type Err = HttpEchoPathError;

    fn from_str(text: &str) -> Result<Self, HttpEchoPathError> {
        let path: EchoPath = text.parse()?;
        if path.is_any() {
            return Err(HttpEchoPathError::Any);
        }
        let echo = HttpEcho::new(text, 0);
        if ["/", HEALTH_PATH].iter().any(|taken| echo.is_at(taken)) {
            return Err(HttpEchoPathError::Taken);
        }
        Ok(Self(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_where_something_else_is_are_refused() {
        for path in ["/http", "/ws", "/healthz/"] {
            assert!(path.parse::<HttpEchoPath>().is_ok(), "{path}");
        }
        for (path, refusal) in [
            ("*", HttpEchoPathError::Any),
            ("/", HttpEchoPathError::Taken),
            ("/healthz", HttpEchoPathError::Taken),
            ("/%68ealthz", HttpEchoPathError::Taken),
            ("http", HttpEchoPathError::NotAPath(EchoPathError::NotAPath)),
        ] {
            assert_eq!(path.parse::<HttpEchoPath>(), Err(refusal), "{path}");
        }
    }
}
