//! What is to be done with connections that are held.

use std::{sync::Arc, time::Duration};

use crate::{plan::threads::ThreadPlan, wire::connector::Connector};

/// Everything that has to be known about connections that are to be held.
#[derive(Debug)]
pub struct IdlePlan {
    /// Opens the connections.
    pub connector: Arc<Connector>,
    /// Connections over all threads, at least 1.
    pub connections: usize,
    /// Connections that begin to open in a second, at most, over all threads.
    pub connect_rate: Option<usize>,
    /// Bytes of payload of the message that each echoes once it is open, if it does.
    pub echo_len: Option<usize>,
    /// How long they are held.
    pub duration: Duration,
    /// How long echoes, and at the end Pongs, are waited for.
    pub answer_timeout: Duration,
    /// The threads that the connections are spread over.
    pub threads: ThreadPlan,
    /// The server's process, if its memory is to be measured.
    pub server_pid: Option<u32>,
}
