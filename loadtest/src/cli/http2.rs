//! Flags about HTTP/2: whether connections are its streams, and of how many connections.

use std::ops::RangeInclusive;

use http::HeaderValue;

use super::{PlanError, values::number};
use crate::wire::{
    connector::{Http2, Wishes},
    http2::request::{AuthorityError, ConnectRequest},
    target::Target,
};

const TRANSPORTS: RangeInclusive<usize> = 1..=1_000_000;

/// Flags about HTTP/2.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = super::CONNECTIONS)]
pub struct Http2Args {
    /// Open the connections as streams of HTTP/2 (RFC 8441): by prior knowledge with ws://, by ALPN
    /// with wss://
    #[arg(long)]
    pub http2: bool,

    /// With --http2, spread the connections over N of TCP or TLS, at most one for each
    #[arg(
        long, value_name = "N", default_value = "1", requires = "http2",
        value_parser = number(TRANSPORTS)
    )]
    pub transports: usize,
}

impl Http2Args {
    /// Connections of TCP for so many connections; `None` if each is its own.
    pub(super) fn transports(&self, connections: usize) -> Option<usize> {
        self.http2.then(|| self.transports.min(connections))
    }

    /// What is asked of `target`, for so many connections, if they are streams.
    pub(super) fn http2(
        &self,
        target: &Target,
        connections: usize,
        Wishes { fields, subprotocols, origin }: &Wishes,
    ) -> Result<Option<Http2>, PlanError> {
        let Some(transports) = self.transports(connections) else { return Ok(None) };
        let origin: Option<&HeaderValue> = origin.as_ref();
        let request = ConnectRequest::new(target, fields, subprotocols, origin)
            .map_err(|AuthorityError(host)| PlanError::HostOfHttp2 { host })?;
        Ok(Some(Http2 { request, transports, connections }))
    }
}
