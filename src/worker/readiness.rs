//! Readiness: whether the server wants new connections, as load balancers ask for it.
//!
//! It is true from the start and becomes false once, when the server is about to stop or another
//! server has taken over. Connections are still served for as long as they are accepted.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether the server wants new connections.
pub struct Readiness(AtomicBool);

impl Readiness {
    /// Whether new connections are still wanted.
    pub fn is_ready(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Ends it for good.
    pub fn end(&self) {
        self.0.store(false, Relaxed);
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self(AtomicBool::new(true))
    }
}
