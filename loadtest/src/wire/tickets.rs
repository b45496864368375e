//! What the TLS sessions of one thread go on with: as many tickets as the thread has connections at a
//! time.
//!
//! A ticket of TLS 1.3 is used once (RFC 8446 §C.4), and rustls' own store keeps 8: with more
//! connections at a time the others would pay for whole handshakes. What else is kept of the server,
//! a session of TLS 1.2 among it, stays in rustls' store.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustls::{
    NamedGroup,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    pki_types::ServerName,
};

/// Servers that rustls' store knows: all connections go to one.
const SERVERS_MAX: usize = 1;

/// The tickets of one thread, all of one server.
pub(super) struct Tickets {
    /// Those of TLS 1.3, the oldest first, at most `len_max`.
    kept: Mutex<VecDeque<Tls13ClientSessionValue>>,
    len_max: usize,
    rest: ClientSessionMemoryCache,
}

impl Tickets {
    /// Keeps at most so many, which is at least one.
    pub(super) fn new(len_max: usize) -> Self {
        let rest = ClientSessionMemoryCache::new(SERVERS_MAX);
        Self { kept: Mutex::default(), len_max: len_max.max(1), rest }
    }

    /// No other thread has these tickets, so nobody waits here.
    fn kept(&self) -> MutexGuard<'_, VecDeque<Tls13ClientSessionValue>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever has a ticket's secret can read what was said.
        f.debug_struct("Tickets").field("len_max", &self.len_max).finish_non_exhaustive()
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.rest.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.rest.kx_hint(server_name)
    }

    fn set_tls12_session(
        &self,
        server_name: ServerName<'static>,
        session: Tls12ClientSessionValue,
    ) {
        self.rest.set_tls12_session(server_name, session);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.rest.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.rest.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut kept = self.kept();
        if kept.len() == self.len_max {
            kept.pop_front();
        }
        kept.push_back(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept().pop_back()
    }
}
