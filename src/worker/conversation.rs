//! One connection's life: its request head, the answer, and what follows from it.

use std::{future::Future, panic::AssertUnwindSafe, pin::pin, rc::Rc};

use bytes::{Bytes, BytesMut};
use futures_util::{
    FutureExt,
    future::{Either, select},
};
use http::{
    HeaderMap, HeaderName, Method, Request,
    header::{ORIGIN, USER_AGENT},
};
use monoio::io::AsyncReadRent;
use tracing::{debug, error};

use super::Worker;
use crate::{
    connection::{
        ConnectionEnd, Control, Demand, linger,
        record::{RequestRecord, printable},
        write_all,
    },
    entry::{admission::Entered, arrival::Arrival},
    handshake::http1,
    http::{
        HeadError, Refusal, RequestRefusal, Route, encode_healthy, encode_refusal,
        read_request_head, route, without_body,
    },
    metrics::{Counters, RefusalReason},
    plane::{Bounds, Plane, SecureStream, Upgraded},
    pulse::Activity,
    stream::Duplex,
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

/// How a request is answered.
enum Answer {
    /// With a 101, and then with echoes.
    Upgrade(http1::Acceptance),
    /// With a response, which ends the connection in this way.
    Respond(Bytes, ConnectionEnd),
}

impl Answer {
    /// The same answer, without the body of its response if the request is a HEAD.
    fn without_body_if(self, is_head: bool) -> Self {
        match self {
            Self::Respond(response, end) if is_head => Self::Respond(without_body(response), end),
            other => other,
        }
    }
}

impl<P: Plane> Worker<P> {
    /// Converses until the connection is over, or its plane has taken it over (`None`).
    pub(super) async fn converse(
        &self,
        stream: P::Stream,
        arrival: Arrival,
        control: &Control,
        entered: &Entered,
    ) -> Option<ConnectionEnd> {
        if arrival.speaks_tls {
            // In memory of its own, so that the tasks of plain connections are not as large.
            let secured = self.converse_securely(stream, BytesMut::new(), control, entered);
            return Box::pin(secured).await;
        }
        let carrier = ByPlane(&self.plane);
        self.converse_http(stream, BytesMut::new(), carrier, control, entered).await
    }

    /// Converses in HTTP, from a request head on. `received` are its first bytes, as far as they have
    /// arrived.
    pub(super) async fn converse_http<S: Duplex>(
        &self,
        mut stream: S,
        received: BytesMut,
        carrier: impl Carry<S>,
        control: &Control,
        entered: &Entered,
    ) -> Option<ConnectionEnd> {
        let (answer, early) = match self.answer_request(&mut stream, received, control).await {
            Ok(answer) => answer,
            Err(end) => return Some(end),
        };
        match answer {
            Answer::Upgrade(acceptance) => {
                let head = acceptance.response_head;
                let head_len = head.len();
                if let Err(end) = write_all(&mut stream, head, 0..head_len, control).await {
                    return Some(end);
                }
                entered.handshake_over();
                self.counters.upgraded.add(1);
                self.counters.handshake_times.count(control.age());
                let negotiated = acceptance.negotiated;
                let compression = negotiated.compression();
                debug!(subprotocol = negotiated.subprotocol, ?compression, "connection upgraded");
                let record = control.record().cloned();
                if let Some(record) = &record {
                    record.opened(negotiated.subprotocol.as_deref());
                }
                let upgraded = Upgraded { stream, early, compression, record };
                carrier.carry(upgraded, &self.bounds, &self.counters, control).await
            }
            Answer::Respond(response, end) => {
                // The close timeout is also for a client that does not take its response.
                control.closing();
                let response_len = response.len();
                if let Err(end) = write_all(&mut stream, response, 0..response_len, control).await {
                    return Some(end);
                }
                entered.handshake_over();
                let (mut reader, mut writer) = stream.split();
                linger(&mut reader, &mut writer, control).await;
                Some(end)
            }
        }
    }

    /// Starts a connection's task. Its end, even by a panic, takes the connection out of the table
    /// and is counted, unless the plane has taken the connection over (`None`).
    pub(super) fn spawn_connection(
        self: &Rc<Self>,
        control: Rc<Control>,
        connection: impl Future<Output = Option<ConnectionEnd>> + 'static,
    ) {
        let key = self.connections.borrow_mut().insert(control.clone());
        let worker = self.clone();
        self.plane.spawn(contain(connection).map(move |end| {
            worker.connections.borrow_mut().remove(key);
            if let Some(end) = end {
                worker.count_end(end, control.close_code(), control.record().map(|it| &**it));
            }
        }));
    }

    /// Reads the request head and finds its answer, with the bytes that came behind the head.
    async fn answer_request(
        &self,
        stream: &mut impl AsyncReadRent,
        received: BytesMut,
        control: &Control,
    ) -> Result<(Answer, Vec<u8>), ConnectionEnd> {
        let mut head = pin!(read_request_head(stream, received));
        let (refusal, is_head) = loop {
            match select(head.as_mut(), pin!(control.demanded())).await {
                Either::Left((Ok((request, early)), _)) => {
                    let is_head = request.method() == Method::HEAD;
                    self.counters.pulse.begin(Activity::Answering);
                    let answer = self.answer(request, control).without_body_if(is_head);
                    self.counters.pulse.begin(Activity::Tasks);
                    return Ok((answer, early.into()));
                }
                Either::Left((Err(HeadError::PeerLeft), _)) => return Err(ConnectionEnd::PeerLeft),
                Either::Left((Err(HeadError::Refused { refusal, is_head }), _)) => {
                    break (refusal, is_head);
                }
                Either::Right((Demand::TimeOut, _)) => break (RequestRefusal::TimedOut, false),
                Either::Right((Demand::Goodbye(_), _)) => break (RequestRefusal::Stopping, false),
                // There is nothing to ping yet, and an opening handshake is answered here even if
                // another server has taken over.
                Either::Right((Demand::Ping | Demand::DrainIdle, _)) => {}
                Either::Right((Demand::End(end), _)) => return Err(end),
            }
        };
        Ok((refuse(refusal).without_body_if(is_head), Vec::new()))
    }

    fn answer(&self, mut request: Request<()>, control: &Control) -> Answer {
        if let Some(record) = control.record() {
            record.asked_for(request_record(&request));
        }
        let service = self.service();
        if request.headers().len() > service.header_fields_max {
            return refuse(RequestRefusal::HeaderFieldsTooMany(service.header_fields_max));
        }
        match route(&request, &service.echo_paths) {
            Ok(Route::Page) => Answer::Respond(service.page.clone(), ConnectionEnd::PageServed),
            Ok(Route::Health) if service.server.readiness.is_ready() => {
                Answer::Respond(encode_healthy().into(), ConnectionEnd::PageServed)
            }
            Ok(Route::Health) => refuse(RequestRefusal::Stopping),
            Ok(Route::Echo) => match http1::answer(&mut request, &service.policy) {
                Ok(acceptance) => Answer::Upgrade(acceptance),
                Err(refusal) => refuse(refusal),
            },
            Err(refusal) => refuse(refusal),
        }
    }
}

/// What a request asks for, as far as an operator may ask.
fn request_record(request: &Request<()>) -> RequestRecord {
    let headers = request.headers();
    let field = |headers: &HeaderMap, name: HeaderName| {
        headers.get(name).map(|value| printable(value.as_bytes()))
    };
    RequestRecord {
        path: printable(request.uri().path().as_bytes()),
        origin: field(headers, ORIGIN),
        agent: field(headers, USER_AGENT),
    }
}

fn refuse<R>(reason: R) -> Answer
where
    R: Into<Refusal>,
    RefusalReason: for<'a> From<&'a R>,
{
    let end = ConnectionEnd::Refused(RefusalReason::from(&reason));
    Answer::Respond(encode_refusal(&reason.into()).into(), end)
}

/// Turns a panic in a connection's task into its end.
fn contain(
    connection: impl Future<Output = Option<ConnectionEnd>>,
) -> impl Future<Output = Option<ConnectionEnd>> {
    AssertUnwindSafe(connection).catch_unwind().map(|outcome| {
        outcome.unwrap_or_else(|_| {
            error!("a connection's task panicked; this is a defect, please report it");
            Some(ConnectionEnd::Panicked)
        })
    })
}
