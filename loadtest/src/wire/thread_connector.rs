//! Opens the connections of one thread: what these share, and other threads do not, is here. That is
//! the transports of HTTP/2 and the tickets of TLS sessions.

use std::sync::Arc;

use super::{
    connector::{Connector, OpenConnection},
    http2::pool::TransportPool,
    opening_error::OpeningError,
    openings::TransportOpening,
    tls::Tls,
};

/// Opens the connections of one thread.
#[derive(Debug)]
pub(crate) struct ThreadConnector {
    connector: Arc<Connector>,
    /// `None` without TLS, and over HTTP/2, whose transports have it.
    tls: Option<Tls>,
    /// `None` but over HTTP/2.
    transports: Option<TransportPool>,
}

impl ThreadConnector {
    /// For a thread with at most `connections` at a time, on so many `transports`, if there are any.
    pub(crate) fn new(connector: &Arc<Connector>, connections: usize, transports: usize) -> Self {
        let secured = if transports == 0 { connections } else { transports };
        let tls = connector.tls().map(|tls| tls.on_thread(secured));
        let connector = Arc::clone(connector);
        if transports == 0 {
            return Self { connector, tls, transports: None };
        }
        let limit = connector.connect_limit();
        let dialing = Arc::clone(&connector);
        let dial = move || -> std::pin::Pin<Box<dyn Future<Output = _>>> {
            let (connector, tls) = (Arc::clone(&dialing), tls.clone());
            Box::pin(async move { connector.dial(tls.as_ref()).await })
        };
        let pool = TransportPool::new(Box::new(dial), connections, transports, limit);
        Self { connector, tls: None, transports: Some(pool) }
    }

    /// Opens a connection with `nonce` as the key of its opening handshake, if that has one.
    pub(crate) async fn open(&self, nonce: [u8; 16]) -> Result<OpenConnection, OpeningError> {
        self.connector.open(self.tls.as_ref(), self.transports.as_ref(), nonce).await
    }

    /// Transports that were opened since this was asked last.
    pub(crate) fn take_transports(&self) -> Vec<TransportOpening> {
        self.transports.as_ref().map_or_else(Vec::new, TransportPool::take_opened)
    }
}
