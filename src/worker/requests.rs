//! The requests of one connection over HTTP/1.1, answered in their order (RFC 9112 §9.3).
//!
//! A connection goes on until its client wants no more, its bounds are reached, or it is not certain
//! where a request ends. An upgrade may come behind other requests; what has arrived behind it are the
//! first frames. Between two requests a connection holds no buffer, and is closed without a word when
//! its time is over or the server stops.
//!
//! A connection has one end, that of its last answer: `page_served` or the reason of a refusal. What is
//! read and written is left to `http`, and the session to whoever [`Carry`] it.

use std::{
    mem,
    pin::{Pin, pin},
    rc::Rc,
};

use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, select};
use http::{
    HeaderMap, HeaderName, Method, Request,
    header::{ORIGIN, USER_AGENT},
};
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use tracing::debug;

use super::{
    Worker, client,
    conversation::Carry,
    interruption::{Interruption, unless_interrupted},
};
use crate::{
    connection::{
        ConnectionEnd, Control, Demand, Quota, let_others_go_on, linger, noting_waits,
        peer::Peer,
        record::{RequestRecord, printable},
        write_all,
    },
    entry::{
        admission::{AdmissionRefusal, Entered},
        proxy_header::ProxyHeaderRefusal,
    },
    handshake::{HandshakeRefusal, http1},
    http::{
        Beginning, BodyError, Client, DISCARDED_BODY_LEN_MAX, Framing, HeadError, Persistence,
        REQUEST_HEAD_LEN_MAX, REQUESTS_MAX, Refusal, RequestBody, RequestRefusal, Response, Route,
        Tls, asks_for_echo, encode_request, expects_continue, read_beginning, read_more,
        read_request, route,
    },
    metrics::RefusalReason,
    plane::{Plane, Upgraded},
    pulse::Activity,
    stream::{Duplex, WaitReadable},
};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Who is at the other end of a connection, for whoever asks.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    /// The client, as far as it is known.
    pub(super) client: client::Client,
    /// Who is at the other end of the socket: the client, or a proxy.
    pub(super) peer: Peer,
    /// What was agreed on in TLS, if the connection has it.
    pub(super) tls: Option<&'a Tls>,
}

impl Caller<'_> {
    pub(super) fn client(&self) -> Client {
        let via = (self.client.peer != self.peer).then(|| self.peer.to_string());
        Client { peer: Some(self.client.peer.to_string()), via, tls: self.tls.cloned() }
    }
}

/// What a request asks for, once it has been judged.
pub(super) enum Verdict {
    /// An echo, which it gets.
    Upgrade(http1::Acceptance),
    /// The page.
    Page,
    /// The request itself, with a body of at most so many bytes.
    Echo(u64),
    /// Another response.
    Respond(Response, ConnectionEnd),
    /// What it does not get.
    Refuse(Refused),
}

/// A refusal, whichever layer refuses.
pub(super) struct Refused {
    refusal: Refusal,
    reason: RefusalReason,
    /// Another request may follow.
    keeps_framing: bool,
}

impl From<RequestRefusal> for Refused {
    fn from(refusal: RequestRefusal) -> Self {
        let (reason, keeps_framing) = (RefusalReason::from(&refusal), refusal.keeps_framing());
        Self { refusal: refusal.into(), reason, keeps_framing }
    }
}

impl From<HandshakeRefusal> for Refused {
    fn from(refusal: HandshakeRefusal) -> Self {
        let reason = RefusalReason::from(&refusal);
        Self { refusal: refusal.into(), reason, keeps_framing: false }
    }
}

impl From<ProxyHeaderRefusal> for Refused {
    fn from(refusal: ProxyHeaderRefusal) -> Self {
        let reason = RefusalReason::from(&refusal);
        Self { refusal: refusal.into(), reason, keeps_framing: false }
    }
}

impl From<AdmissionRefusal> for Refused {
    fn from(refusal: AdmissionRefusal) -> Self {
        Self { refusal: refusal.into(), reason: refusal.into(), keeps_framing: false }
    }
}

impl Refused {
    pub(super) fn end(&self) -> ConnectionEnd {
        ConnectionEnd::Refused(self.reason)
    }

    /// The response, and the end of a stream that it is for.
    pub(super) fn into_response(self) -> (Response, ConnectionEnd) {
        let end = self.end();
        (self.refusal.into(), end)
    }
}

/// What is done for a request.
enum Answer {
    /// The connection is upgraded.
    Upgrade(http1::Acceptance),
    /// The peer speaks HTTP/2, and nothing that has arrived was taken.
    Http2,
    /// A response is sent, after which the connection ends or goes on; if it ends then, in this way.
    Respond(Bytes, Persistence, ConnectionEnd),
}

/// Which of a connection's requests it is.
#[derive(Clone, Copy)]
struct PlaceInRow {
    is_first: bool,
    is_last: bool,
}

/// Why there is nothing to answer with but a refusal, or not even that.
pub(super) enum Fault {
    Refused(RequestRefusal),
    End(ConnectionEnd),
}

impl From<RequestRefusal> for Fault {
    fn from(refusal: RequestRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ConnectionEnd> for Fault {
    fn from(end: ConnectionEnd) -> Self {
        Self::End(end)
    }
}

impl<P: Plane> Worker<P> {
    /// Converses in HTTP, from a request head on. `received` are its first bytes, as far as they have
    /// arrived.
    pub(super) async fn converse_http<S: Duplex>(
        self: &Rc<Self>,
        mut stream: S,
        mut received: BytesMut,
        carrier: impl Carry<S>,
        caller: Caller<'_>,
        control: &Rc<Control>,
        entered: &Entered,
    ) -> Option<ConnectionEnd> {
        let mut requests_left = REQUESTS_MAX;
        loop {
            requests_left -= 1;
            let place = PlaceInRow {
                is_first: requests_left == REQUESTS_MAX - 1,
                is_last: requests_left == 0,
            };
            let answer = self
                .answer_request(&mut stream, &mut received, caller, control, entered, place)
                .await;
            let (response, end) = match answer {
                Ok(Answer::Upgrade(acceptance)) => {
                    return self
                        .upgrade(stream, received, acceptance, carrier, control, entered)
                        .await;
                }
                Ok(Answer::Http2) => {
                    let received = received.into();
                    let served = self.converse_http2(stream, received, caller, control, entered);
                    // Boxed, so that the tasks of other connections have no room for it.
                    return Some(Box::pin(served).await);
                }
                Ok(Answer::Respond(response, Persistence::Close, end)) => {
                    let (reader, writer) = stream.split();
                    return Some(conclude(reader, writer, response, end, control, entered).await);
                }
                Ok(Answer::Respond(response, Persistence::KeepAlive, end)) => (response, end),
                Err(end) => return Some(end),
            };
            control.begin_answer();
            let response_len = response.len();
            if let Err(end) = write_all(&mut stream, response, 0..response_len, control).await {
                return Some(end);
            }
            entered.handshake_over();
            match self.await_request(&mut stream, received, control).await {
                Ok(arrived) => received = arrived,
                Err(other_end) => return Some(other_end.unwrap_or(end)),
            }
            // The bytes that have arrived are not looked at if there is no room for a head.
            if let Err(refusal) = entered.handshake_begins() {
                let told = self.tell_refusal(stream, refusal.into(), control, entered);
                return Some(Box::pin(told).await);
            }
        }
    }

    async fn upgrade<S: Duplex>(
        &self,
        mut stream: S,
        received: BytesMut,
        acceptance: http1::Acceptance,
        carrier: impl Carry<S>,
        control: &Control,
        entered: &Entered,
    ) -> Option<ConnectionEnd> {
        let head = acceptance.response_head;
        let head_len = head.len();
        if let Err(end) = write_all(&mut stream, head, 0..head_len, control).await {
            return Some(end);
        }
        entered.handshake_over();
        self.counters.upgraded.add(1);
        self.counters.handshake_times.count(control.request_age());
        let negotiated = acceptance.negotiated;
        let compression = negotiated.compression();
        debug!(subprotocol = negotiated.subprotocol, ?compression, "connection upgraded");
        let record = control.record().cloned();
        if let Some(record) = &record {
            record.opened(negotiated.subprotocol.as_deref());
        }
        let early = if received.is_empty() {
            self.keep_head_memory(received);
            Vec::new()
        } else {
            received.into()
        };
        let upgraded = Upgraded { stream, early, compression, record };
        carrier.carry(upgraded, &self.bounds, &self.counters, control).await
    }

    /// Keeps the memory of a request head for the next one, if nothing else uses it.
    fn keep_head_memory(&self, mut memory: BytesMut) {
        if memory.try_reclaim(REQUEST_HEAD_LEN_MAX) {
            self.head_memory.set(memory);
        }
    }

    /// Waits for another request, and returns its first bytes. The error is how the connection ends,
    /// or `None` if it ends as its last answer says.
    async fn await_request(
        &self,
        stream: &mut (impl WaitReadable + AsyncWriteRent),
        received: BytesMut,
        control: &Control,
    ) -> Result<BytesMut, Option<ConnectionEnd>> {
        // Requests that have come together take turns with other connections.
        let_others_go_on().await;
        let received = if received.is_empty() {
            drop(received);
            control.hold(0);
            control.await_request();
            self.await_bytes(stream, control).await?
        } else {
            received
        };
        control.hold(REQUEST_HEAD_LEN_MAX);
        control.begin_request();
        Ok(received)
    }

    async fn await_bytes(
        &self,
        stream: &mut (impl WaitReadable + AsyncWriteRent),
        control: &Control,
    ) -> Result<BytesMut, Option<ConnectionEnd>> {
        {
            let mut arriving = pin!(async {
                // An error is found by the read again.
                let _ = stream.readable().await;
                read_more(stream, BytesMut::new()).await
            });
            loop {
                match select(arriving.as_mut(), pin!(control.demanded())).await {
                    Either::Left((arrived, _)) => return arrived.map_err(|_| None),
                    Either::Right((Demand::End(end), _)) => return Err(Some(end)),
                    Either::Right((Demand::Ping, _)) => {}
                    Either::Right((
                        Demand::TimeOut | Demand::Goodbye(_) | Demand::DrainIdle,
                        _,
                    )) => break,
                }
            }
        }
        // A layer over the socket may have a goodbye of its own.
        control.closing();
        let _ = select(pin!(stream.shutdown()), pin!(control.ended())).await;
        Err(None)
    }

    /// Reads a request and finds its answer. What has arrived behind it is left in `received`.
    async fn answer_request(
        &self,
        stream: &mut (impl AsyncReadRent + AsyncWriteRent),
        received: &mut BytesMut,
        mut caller: Caller<'_>,
        control: &Control,
        entered: &Entered,
        PlaceInRow { is_first, is_last }: PlaceInRow,
    ) -> Result<Answer, ConnectionEnd> {
        let keeps_text = self.service().http_echo.is_some();
        let may_be_http2 = is_first && self.service().http2.is_spoken;
        let arrived =
            if received.is_empty() { self.head_memory.take() } else { mem::take(received) };
        let read = {
            let read = pin!(async {
                if may_be_http2 {
                    return read_beginning(stream, arrived, keeps_text).await;
                }
                let (request, behind) = read_request(stream, arrived, keeps_text).await?;
                Ok(Beginning::Http1(request, behind))
            });
            in_time(read, control, RequestRefusal::TimedOut).await
        };
        let mut request = match read {
            Ok(Ok(Beginning::Http1(request, behind))) => {
                *received = behind;
                request
            }
            Ok(Ok(Beginning::Http2(arrived))) => {
                *received = arrived;
                return Ok(Answer::Http2);
            }
            Ok(Err(HeadError::PeerLeft)) => return Err(ConnectionEnd::PeerLeft),
            Ok(Err(HeadError::Refused { refusal, is_head })) => {
                return Ok(self.refuse(refusal.into(), Persistence::Close, is_head));
            }
            Err(Fault::Refused(refusal)) => {
                return Ok(self.refuse(refusal.into(), Persistence::Close, false));
            }
            Err(Fault::End(end)) => return Err(end),
        };
        self.counters.pulse.begin(Activity::Answering);
        if let Some(record) = control.record() {
            record.asked_for(request_record(&request));
        }
        let verdict = match self.find_client(&request, caller.client, control, entered) {
            Ok(client) => {
                caller.client = client;
                self.judge(&mut request)
            }
            Err(refusal) => Verdict::Refuse(refusal.into()),
        };
        self.counters.pulse.begin(Activity::Tasks);
        match verdict {
            Verdict::Upgrade(acceptance) => Ok(Answer::Upgrade(acceptance)),
            // Boxed, so that the task of a connection that is upgraded at once has no room for it.
            other => {
                let response =
                    self.respond(other, &request, stream, received, caller, control, is_last);
                Box::pin(response).await
            }
        }
    }

    /// Judges a request by its head.
    pub(super) fn judge(&self, request: &mut Request<()>) -> Verdict {
        let service = self.service();
        if request.headers().len() > service.header_fields_max {
            let refusal = RequestRefusal::HeaderFieldsTooMany(service.header_fields_max);
            return Verdict::Refuse(refusal.into());
        }
        let respond = |response| Verdict::Respond(response, ConnectionEnd::PageServed);
        match route(request, &service.echo_paths, service.http_echo.as_ref()) {
            Ok(Route::Echo) => match http1::answer(request, &service.policy) {
                Ok(acceptance) => Verdict::Upgrade(acceptance),
                Err(refusal) => Verdict::Refuse(refusal.into()),
            },
            Ok(Route::Page) => Verdict::Page,
            Ok(Route::Health) if service.server.readiness.is_ready() => {
                respond(Response::healthy())
            }
            Ok(Route::Health) => Verdict::Refuse(RequestRefusal::Stopping.into()),
            Ok(Route::HttpEcho) => {
                Verdict::Echo(service.http_echo.as_ref().map_or(0, |it| it.body_len_max))
            }
            Ok(Route::Options(methods)) => respond(Response::options(methods)),
            Err(refusal) => {
                let mut refused = Refused::from(refusal);
                // The client may take what follows for a WebSocket connection (RFC 6455 §7.2.2).
                refused.keeps_framing &= !asks_for_echo(request);
                Verdict::Refuse(refused)
            }
        }
    }

    /// The response to a request that is not upgraded, after its body has been read, if it is read.
    #[expect(clippy::too_many_arguments, reason = "a request, its connection and its verdict")]
    async fn respond(
        &self,
        verdict: Verdict,
        request: &Request<()>,
        stream: &mut (impl AsyncReadRent + AsyncWriteRent),
        received: &mut BytesMut,
        caller: Caller<'_>,
        control: &Control,
        is_last: bool,
    ) -> Result<Answer, ConnectionEnd> {
        let is_head = request.method() == Method::HEAD;
        let keeps_framing =
            !matches!(verdict, Verdict::Refuse(Refused { keeps_framing: false, .. }));
        let is_kept = !is_last && keeps_framing && self.keeps_alive(request, control);
        let persistence = if is_kept { Persistence::KeepAlive } else { Persistence::Close };
        let body = match &verdict {
            Verdict::Echo(len_max) => {
                self.read_body(request, *len_max, stream, received, control).await
            }
            _ => self.discard_body(request, persistence, stream, received, control).await,
        };
        let (data, persistence) = match body {
            Ok((data, true)) => (data, persistence),
            Ok((data, false)) => (data, Persistence::Close),
            Err(Fault::End(end)) => return Err(end),
            // A head that is refused for another reason keeps that reason.
            Err(Fault::Refused(refusal)) => match verdict {
                Verdict::Refuse(refused) if !refused.keeps_framing => {
                    return Ok(self.refuse(refused, Persistence::Close, is_head));
                }
                _ => return Ok(self.refuse(refusal.into(), Persistence::Close, is_head)),
            },
        };
        let (response, end) = match verdict {
            Verdict::Page => {
                let service = self.service();
                self.counters.count_response(service.page.response().status);
                let response = service.page.encode(persistence, is_head);
                return Ok(Answer::Respond(response, persistence, ConnectionEnd::PageServed));
            }
            Verdict::Echo(_) => {
                let json = encode_request(request, &data, &caller.client());
                control.hold(REQUEST_HEAD_LEN_MAX + json.len());
                (Response::echo(json), ConnectionEnd::PageServed)
            }
            Verdict::Respond(response, end) => (response, end),
            Verdict::Refuse(refused) => return Ok(self.refuse(refused, persistence, is_head)),
            Verdict::Upgrade(_) => unreachable!("an upgrade has no response here"),
        };
        self.counters.count_response(response.status);
        Ok(Answer::Respond(response.encode(persistence, is_head).into(), persistence, end))
    }

    fn refuse(&self, refused: Refused, persistence: Persistence, is_head: bool) -> Answer {
        let end = refused.end();
        Answer::Respond(self.encode_refusal(refused, persistence, is_head), persistence, end)
    }

    fn encode_refusal(&self, refused: Refused, persistence: Persistence, is_head: bool) -> Bytes {
        let response = Response::from(refused.refusal);
        self.counters.count_response(response.status);
        response.encode(persistence, is_head).into()
    }

    /// Ends a connection that is refused before its request is read.
    pub(super) async fn tell_refusal<S: Duplex>(
        &self,
        stream: S,
        refused: Refused,
        control: &Control,
        entered: &Entered,
    ) -> ConnectionEnd {
        let end = refused.end();
        let response = self.encode_refusal(refused, Persistence::Close, false);
        let (reader, writer) = stream.split();
        conclude(reader, writer, response, end, control, entered).await
    }

    /// Whether client and server both want another request on the connection.
    fn keeps_alive(&self, request: &Request<()>, control: &Control) -> bool {
        let service = self.service();
        !service.time.http_keep_alive.get().is_zero()
            && service.server.readiness.is_ready()
            && !control.is_drained()
            && Persistence::asked_for(request) == Persistence::KeepAlive
    }

    /// Reads a body that is wanted.
    async fn read_body(
        &self,
        request: &Request<()>,
        len_max: u64,
        stream: &mut (impl AsyncReadRent + AsyncWriteRent),
        received: &mut BytesMut,
        control: &Control,
    ) -> Result<(Vec<u8>, bool), Fault> {
        let is_awaited = expects_continue(request)?;
        let mut body = RequestBody::new(Framing::of(request)?, len_max, true)?;
        //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
        //# A server MAY omit sending a 100 (Continue) response if it has
        //# already received some or all of the content for the corresponding
        //# request, or if the framing indicates that there is no content.
        if is_awaited && received.is_empty() && !body.is_whole() {
            write_all(stream, CONTINUE, 0..CONTINUE.len(), control).await?;
        }
        finish_body(&mut body, stream, received, control).await?;
        Ok((body.into_data(), true))
    }

    /// Reads a body that nobody wants, so that the next request can be found. Returns whether it was
    /// read: it is not if that takes longer than a new connection.
    async fn discard_body(
        &self,
        request: &Request<()>,
        persistence: Persistence,
        stream: &mut impl AsyncReadRent,
        received: &mut BytesMut,
        control: &Control,
    ) -> Result<(Vec<u8>, bool), Fault> {
        let framing = Framing::of(request)?;
        // A client that waits for a 100 may or may not send its body once it has another response.
        let is_awaited = expects_continue(request)?;
        let is_read = persistence == Persistence::KeepAlive;
        if framing == Framing::None || is_awaited || !is_read {
            return Ok((Vec::new(), framing == Framing::None && is_read));
        }
        let body = RequestBody::new(framing, DISCARDED_BODY_LEN_MAX, false);
        let outcome = match body {
            Ok(mut body) => finish_body(&mut body, stream, received, control).await,
            Err(refusal) => Err(refusal.into()),
        };
        match outcome {
            Ok(()) => Ok((Vec::new(), true)),
            Err(Fault::Refused(RequestRefusal::BodyTooLong(_))) => Ok((Vec::new(), false)),
            Err(fault) => Err(fault),
        }
    }
}

/// Reads the rest of a body, which has as long as a head.
async fn finish_body(
    body: &mut RequestBody,
    stream: &mut impl AsyncReadRent,
    received: &mut BytesMut,
    control: &Control,
) -> Result<(), Fault> {
    body.take_from(received)?;
    if body.is_whole() {
        return Ok(());
    }
    control.begin_body();
    let mut quota = Quota::default();
    while !body.is_whole() {
        let (read, has_waited) = {
            let reading = pin!(body.read_on(stream, received));
            noting_waits(in_time(reading, control, RequestRefusal::BodyTimedOut)).await
        };
        match read? {
            Ok(()) => {}
            Err(BodyError::PeerLeft) => return Err(ConnectionEnd::PeerLeft.into()),
            Err(BodyError::Refused(refusal)) => return Err(refusal.into()),
        }
        control.hold(REQUEST_HEAD_LEN_MAX + body.held_len());
        quota.spend(REQUEST_HEAD_LEN_MAX, has_waited).await;
    }
    Ok(())
}

/// What arrives of a request, unless its time is over first or the server stops.
pub(super) async fn in_time<T>(
    arriving: Pin<&mut impl Future<Output = T>>,
    control: &Control,
    too_late: RequestRefusal,
) -> Result<T, Fault> {
    unless_interrupted(arriving, control).await.map_err(|interruption| match interruption {
        Interruption::TimeOut => too_late.into(),
        Interruption::Stopping => RequestRefusal::Stopping.into(),
        Interruption::End(end) => end.into(),
    })
}

/// Sends the last response of a connection, and waits for the peer's end.
pub(super) async fn conclude(
    mut reader: impl AsyncReadRent,
    mut writer: impl AsyncWriteRent,
    response: Bytes,
    end: ConnectionEnd,
    control: &Control,
    entered: &Entered,
) -> ConnectionEnd {
    // The close timeout is also for a client that does not take its response.
    control.closing();
    let response_len = response.len();
    if let Err(end) = write_all(&mut writer, response, 0..response_len, control).await {
        return end;
    }
    entered.handshake_over();
    linger(&mut reader, &mut writer, control).await;
    end
}

/// What a request asks for, as far as an operator may ask.
pub(super) fn request_record(request: &Request<()>) -> RequestRecord {
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
