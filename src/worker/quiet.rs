//! The drain of a server that another one has taken over: each connection is closed once its peer has
//! been quiet for a while, so that no message crosses a Close frame.
//!
//! Whether a peer is quiet is asked of TCP, once for each open connection at each step, so that no
//! message costs anything and bytes that have arrived and are not read yet count. Opening handshakes
//! that are under way are answered, and their connections closed like all others. Closing handshakes
//! that clients begin go through.

use std::{convert::Infallible, pin::pin, time::Duration};

use futures_util::future::{Either, select};

use super::{Worker, orders::Drain};
use crate::{
    connection::{Control, Demand, clock::TICK},
    plane::Plane,
};

/// The time between two steps: half of the silence that is waited for, in these bounds. The upper one
/// is less than a tick, so that the engine does not take a step for the sweep.
const STEP_MIN: Duration = Duration::from_millis(5);
const STEP_MAX: Duration = Duration::from_millis(500);

impl<P: Plane> Worker<P> {
    /// Closes connections that have been quiet for as long as the order says, until none is left or
    /// the order's timeout is over. Returns how those that are left are drained; any other order comes
    /// back as it is.
    pub(super) async fn close_the_quiet(&self, order: Drain) -> Drain {
        let Drain { quiet: Some(quiet), timeout, .. } = order else { return order };
        let over = async {
            select(pin!(self.drained()), pin!(self.plane.sleep(timeout))).await;
        };
        let closing = pin!(self.close_for_ever(quiet));
        if let Either::Right((never, _)) = select(pin!(over), closing).await {
            match never {}
        }
        // The sweep ends who does not answer in time, and is up to two ticks late.
        let timeout = self.service().time.close_timeout.get() + 2 * TICK;
        Drain { spread: Duration::ZERO, timeout, ..order }
    }

    async fn close_for_ever(&self, quiet: Duration) -> Infallible {
        // They are to bring no more streams, but those that they have are drained like connections.
        self.demand_of(Control::carries_streams, usize::MAX, Demand::DrainIdle);
        let step = (quiet / 2).clamp(STEP_MIN, STEP_MAX);
        loop {
            for (_, control) in self.connections.borrow().iter() {
                control.drain_if_quiet(quiet);
            }
            self.plane.drain_quiet(quiet);
            self.plane.sleep(step).await;
        }
    }
}
