//! What calls a task away from bytes that it waits for before its connection has a session.

use std::{
    future::Future,
    pin::{Pin, pin},
};

use futures_util::future::{Either, select};

use crate::connection::{ConnectionEnd, Control, Demand};

/// Why what was awaited did not arrive.
pub(super) enum Interruption {
    /// Its time is over.
    TimeOut,
    /// The server stops.
    Stopping,
    /// The connection is to end in this way.
    End(ConnectionEnd),
}

/// What arrives, unless the worker demands something else first. The future is pinned where it is,
/// since a task has room for a future anew wherever it is moved.
pub(super) async fn unless_interrupted<T>(
    mut arriving: Pin<&mut impl Future<Output = T>>,
    control: &Control,
) -> Result<T, Interruption> {
    loop {
        match select(arriving.as_mut(), pin!(control.demanded())).await {
            Either::Left((arrived, _)) => return Ok(arrived),
            Either::Right((Demand::TimeOut, _)) => return Err(Interruption::TimeOut),
            Either::Right((Demand::Goodbye(_), _)) => return Err(Interruption::Stopping),
            // There is nothing to ping yet, and what has begun is answered here even if another server
            // has taken over.
            Either::Right((Demand::Ping | Demand::DrainIdle, _)) => {}
            Either::Right((Demand::End(end), _)) => return Err(Interruption::End(end)),
        }
    }
}
