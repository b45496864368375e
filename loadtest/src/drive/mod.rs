//! Threads, their runtimes and their clients: who sends, when, and from which core.

pub(crate) mod busy_poll;
pub(crate) mod client;
pub(crate) mod fine_timer;
pub(crate) mod pacer;
pub(crate) mod redirects;
pub(crate) mod reserve;
pub(crate) mod runtime;
pub(crate) mod sender;
pub(crate) mod thread;
pub mod threads;
pub(crate) mod worker;
