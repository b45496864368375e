//! One connection's life: the doors that it comes through, and its end.

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, rc::Rc};

use futures_util::FutureExt;
use tracing::error;

use super::{
    Worker,
    client::{Met, Unmet},
    requests::Caller,
};
use crate::{
    connection::{ConnectionEnd, Control},
    entry::{admission::Entered, arrival::Arrival},
    metrics::Counters,
    plane::{Bounds, Plane, SecureStream, Upgraded},
};

/// Who carries a session once its handshake is done.
pub(super) trait Carry<S> {
    /// Carries it to its end, or gives it to a plane that has taken it over (`None`).
    async fn carry(
        self,
        upgraded: Upgraded<S>,
        bounds: &Bounds,
        counters: &Counters,
        control: &Control,
    ) -> Option<ConnectionEnd>;
}

/// The worker's plane, which carries its own streams in its own way.
struct ByPlane<'a, P>(&'a P);

impl<P: Plane> Carry<P::Stream> for ByPlane<'_, P> {
    async fn carry(
        self,
        upgraded: Upgraded<P::Stream>,
        bounds: &Bounds,
        counters: &Counters,
        control: &Control,
    ) -> Option<ConnectionEnd> {
        self.0.carry(upgraded, bounds, counters, control).await
    }
}

/// The worker's plane, which carries its own streams over TLS.
pub(super) struct BySecurePlane<'a, P>(pub(super) &'a P);

impl<P: Plane> Carry<SecureStream<P::Stream>> for BySecurePlane<'_, P> {
    async fn carry(
        self,
        upgraded: Upgraded<SecureStream<P::Stream>>,
        bounds: &Bounds,
        counters: &Counters,
        control: &Control,
    ) -> Option<ConnectionEnd> {
        self.0.carry_secured(upgraded, bounds, counters, control).await
    }
}

impl<P: Plane> Worker<P> {
    /// Converses until the connection is over, or its plane has taken it over (`None`).
    pub(super) async fn converse(
        self: &Rc<Self>,
        mut stream: P::Stream,
        arrival: Arrival,
        control: &Rc<Control>,
        entered: &Entered,
    ) -> Option<ConnectionEnd> {
        let carrier = ByPlane(&self.plane);
        let Met { client, received } = match self
            .meet(&mut stream, arrival.peer, control, entered)
            .await
        {
            Ok(met) => met,
            Err(Unmet::Ended(end)) => return Some(end),
            // Before a TLS handshake there is nothing that its client would understand.
            Err(Unmet::Refused(refused)) if arrival.speaks_tls => return Some(refused.end()),
            Err(Unmet::Refused(refused)) => {
                return Some(Box::pin(self.tell_refusal(stream, refused, control, entered)).await);
            }
        };
        let caller = Caller { client, peer: arrival.peer, tls: None };
        if arrival.speaks_tls {
            // In memory of its own, so that the tasks of plain connections are not as large.
            let secured = self.converse_securely(stream, received, caller, control, entered);
            return Box::pin(secured).await;
        }
        self.converse_http(stream, received, carrier, caller, control, entered).await
    }

    /// Starts a connection's task. Its end, even by a panic, takes the connection out of the table
    /// and is counted, unless the plane has taken the connection over (`None`). The task is some KiB
    /// long, so it comes in a box.
    pub(super) fn start_connection(
        self: &Rc<Self>,
        control: Rc<Control>,
        connection: Pin<Box<impl Future<Output = Option<ConnectionEnd>> + 'static>>,
    ) {
        let key = self.connections.borrow_mut().insert(control.clone());
        let worker = self.clone();
        self.plane.start(contain(connection).map(move |end| {
            worker.connections.borrow_mut().remove(key);
            if let Some(end) = end {
                worker.count_end(end, control.close_code(), control.record().map(|it| &**it));
            }
        }));
    }
}

/// Turns a panic in a connection's task into its end.
pub(super) fn contain(
    connection: impl Future<Output = Option<ConnectionEnd>>,
) -> impl Future<Output = Option<ConnectionEnd>> {
    AssertUnwindSafe(connection).catch_unwind().map(|outcome| {
        outcome.unwrap_or_else(|_| {
            error!("a connection's task panicked; this is a defect, please report it");
            Some(ConnectionEnd::Panicked)
        })
    })
}
