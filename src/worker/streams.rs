//! A connection of HTTP/2, and the life of each of its streams: a request, its answer, and what follows
//! from it.
//!
//! A stream has a task, an entry in the worker's table and a record like a connection, so that the
//! sweep, the drain and the memory budget treat it like one. It is none to the balance and to the
//! counters of connections, and has counters of its own. To admission it is one only by its address,
//! and only on a connection of a trusted proxy.

use std::{pin::pin, rc::Rc};

use bytes::Bytes;
use futures_util::{FutureExt, future::Either};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderValue, Method, Request, header::HOST};
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use tracing::debug;

use super::{
    Worker,
    conversation::contain,
    requests::{Caller, Fault, Refused, Verdict, in_time, request_record},
};
use crate::{
    connection::{ConnectionEnd, Control, write_all},
    entry::admission::{Entered, EnteredStream},
    handshake::{HandshakeRefusal, http2 as handshake},
    http::{Client, Methods, REQUEST_HEAD_LEN_MAX, RequestRefusal, Response, encode_request},
    http2::{self, Incoming, Limits, Place, StreamReader, halves},
    plane::{Plane, portable},
    pulse::Activity,
    stream::Duplex,
};

/// Bytes that a stream takes before it has a buffer: its task, its entry, and what `h2` knows of it.
const STREAM_LEN: usize = 3 << 10;

/// How a request is answered: with a 200 and then with echoes, or as HTTP/1.1 would answer it.
type StreamVerdict = Either<handshake::Acceptance, Verdict>;

/// A request, as the task of its stream takes it over.
struct Beginning {
    request: Request<()>,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    place: Rc<Place>,
    /// It is refused before it is judged.
    refusal: Option<Refused>,
    /// Who is at the other end, for whoever asks.
    client: Client,
    /// What it counts for, if that is not what its connection counts for.
    entered: Option<EnteredStream>,
}

impl<P: Plane> Worker<P> {
    /// Converses in HTTP/2 until the connection and all of its streams are over. `received` are its
    /// first bytes, from the preface on.
    pub(super) async fn converse_http2<S: Duplex>(
        self: &Rc<Self>,
        stream: S,
        received: Vec<u8>,
        caller: Caller<'_>,
        control: &Rc<Control>,
        entered: &Entered,
    ) -> ConnectionEnd {
        self.counters.http2.connections.add(1);
        if let Some(record) = control.record() {
            record.speaks_http2();
        }
        let limits = Limits::new(&self.service().http2);
        let (mut reader, mut writer) = stream.split();
        let rest = async || self.plane.rest().await;
        let accept = |incoming| {
            entered.handshake_over();
            self.start_stream(incoming, caller, control, entered)
        };
        http2::serve(&mut reader, &mut writer, received, &limits, control, rest, accept).await
    }

    /// Starts a stream's task, and returns what the worker demands by.
    fn start_stream(
        self: &Rc<Self>,
        incoming: Incoming,
        mut caller: Caller<'_>,
        carrier: &Rc<Control>,
        entered: &Entered,
    ) -> Rc<Control> {
        self.counters.http2.streams.add(1);
        let record = carrier.record().and_then(|connection| {
            let connection = connection.number();
            self.records.enter_stream(self.latest_number(), caller.peer, connection)
        });
        let control = Control::of_stream(carrier, incoming.respond.stream_id().as_u32() / 2);
        let control = Rc::new(control.with_record(record).with_share(self.memory.clone()));
        control.hold(STREAM_LEN);
        let Incoming { request, respond, place, is_stopping } = incoming;
        let (request, body) = separate(request);
        if let Some(record) = control.record() {
            record.comes_from(caller.client.peer);
            record.asked_for(request_record(&request));
        }
        let found = self.find_client_of_stream(&request, caller.client, &control, entered);
        let (refusal, entered) = match found {
            Ok((client, entered)) => {
                caller.client = client;
                (is_stopping.then(|| RequestRefusal::Stopping.into()), entered)
            }
            Err(refusal) => (Some(refusal.into()), None),
        };
        let client = caller.client();
        let beginning = Beginning { request, body, respond, place, refusal, client, entered };
        let key = self.connections.borrow_mut().insert(control.clone());
        let (worker, of_task) = (self.clone(), control.clone());
        let stream = async move { Some(worker.converse_stream(beginning, &of_task).await) };
        let (worker, of_end) = (self.clone(), control.clone());
        self.plane.spawn(contain(stream).map(move |end| {
            worker.connections.borrow_mut().remove(key);
            if let Some(end) = end {
                worker.count_stream_end(end, &of_end);
            }
        }));
        control
    }

    /// Counts the end of a stream that has been removed from the table.
    fn count_stream_end(&self, end: ConnectionEnd, control: &Control) {
        debug!(?end, "stream ended");
        let close_code = control.close_code();
        self.counters.http2.count_end(end.kind(), close_code);
        self.note_cause(end);
        if let Some(record) = control.record() {
            self.records.leave(record);
            if let Some(access_log) = &self.access_log {
                access_log.write(&record.view(), end, close_code);
            }
        }
        self.wake_if_drained();
    }

    async fn converse_stream(&self, beginning: Beginning, control: &Control) -> ConnectionEnd {
        let Beginning { mut request, body, mut respond, place, refusal, client, entered: _entered } =
            beginning;
        self.counters.pulse.begin(Activity::Answering);
        let verdict = match refusal {
            Some(refusal) => Either::Right(Verdict::Refuse(refusal)),
            None => self.judge_stream(&mut request),
        };
        self.counters.pulse.begin(Activity::Tasks);
        let (response, end, body) = match verdict {
            Either::Left(acceptance) => {
                return self.carry_stream(acceptance, &mut respond, body, &place, control).await;
            }
            Either::Right(Verdict::Echo(len_max)) => {
                let mut reader = StreamReader::new(body, &place);
                match read_body(&mut reader, len_max, control).await {
                    Ok(data) => {
                        let json = encode_request(&request, &data, &client);
                        control.hold(STREAM_LEN + json.len());
                        (Response::echo(json), ConnectionEnd::PageServed, reader.into_inner())
                    }
                    Err(Fault::Refused(refusal)) => {
                        let (response, end) = Refused::from(refusal).into_response();
                        (response, end, reader.into_inner())
                    }
                    Err(Fault::End(end)) => return end,
                }
            }
            Either::Right(Verdict::Page) => {
                let page = self.service().page.response().clone();
                (page, ConnectionEnd::PageServed, body)
            }
            Either::Right(Verdict::Respond(response, end)) => (response, end, body),
            Either::Right(Verdict::Refuse(refused)) => {
                let (response, end) = refused.into_response();
                (response, end, body)
            }
            // What HTTP/1.1 upgrades by is refused by `h2`.
            Either::Right(Verdict::Upgrade(_)) => {
                let refused = Refused::from(HandshakeRefusal::ProtocolUnknown);
                let (response, end) = refused.into_response();
                (response, end, body)
            }
        };
        // The close timeout is also for a client that does not take its response.
        control.closing();
        self.counters.count_response(response.status);
        let is_head = request.method() == Method::HEAD;
        let sent = self.respond_on_stream(&response, is_head, &mut respond, body, &place, control);
        sent.await.unwrap_or(end)
    }

    /// Sends a 200, and carries the session to its end.
    async fn carry_stream(
        &self,
        acceptance: handshake::Acceptance,
        respond: &mut SendResponse<Bytes>,
        received: RecvStream,
        place: &Rc<Place>,
        control: &Control,
    ) -> ConnectionEnd {
        let handshake::Acceptance { response, negotiated } = acceptance;
        let Ok(sent) = respond.send_response(response, false) else {
            return ConnectionEnd::PeerLeft;
        };
        self.counters.upgraded.add(1);
        self.counters.handshake_times.count(control.request_age());
        let compression = negotiated.compression();
        debug!(subprotocol = negotiated.subprotocol, ?compression, "stream upgraded");
        if let Some(record) = control.record() {
            record.opened(negotiated.subprotocol.as_deref());
        }
        let (reader, writer) = halves(received, sent, place);
        let (bounds, counters) = (&self.bounds, &self.counters);
        portable::run(reader, writer, Vec::new(), compression, control, bounds, counters).await
    }

    /// Sends a response. Returns how the stream has ended, if not by that.
    async fn respond_on_stream(
        &self,
        response: &Response,
        is_head: bool,
        respond: &mut SendResponse<Bytes>,
        received: RecvStream,
        place: &Rc<Place>,
        control: &Control,
    ) -> Option<ConnectionEnd> {
        let body = if is_head { Bytes::new() } else { response.body.clone() };
        let Ok(sent) = respond.send_response(http2::head(response), body.is_empty()) else {
            return Some(ConnectionEnd::PeerLeft);
        };
        if body.is_empty() {
            return None;
        }
        let (_reader, mut writer) = halves(received, sent, place);
        let body_len = body.len();
        if let Err(end) = write_all(&mut writer, body, 0..body_len, control).await {
            return Some(end);
        }
        // It fails if the peer has reset the stream meanwhile, and then wants nothing more.
        let _ = writer.shutdown().await;
        None
    }

    fn judge_stream(&self, request: &mut Request<()>) -> StreamVerdict {
        let refuse = |refused: Refused| Either::Right(Verdict::Refuse(refused));
        //= https://www.rfc-editor.org/rfc/rfc9113#section-8.3.1
        //# An intermediary that converts a request to HTTP/1.1 MUST create a Host header field if
        //# one is not present in a request by copying the value of the ":authority" pseudo-header
        //# field.
        let authority = request.uri().authority().map(ToString::to_string);
        if let Some(authority) = authority
            && let Ok(host) = HeaderValue::from_str(&authority)
        {
            request.headers_mut().insert(HOST, host);
        }
        if !handshake::is_extended_connect(request) {
            if request.method() == Method::CONNECT {
                return refuse(RequestRefusal::MethodNotAllowed(Methods::Page).into());
            }
            return Either::Right(self.judge(request));
        }
        let service = self.service();
        if request.headers().len() > service.header_fields_max {
            return refuse(RequestRefusal::HeaderFieldsTooMany(service.header_fields_max).into());
        }
        if !request.headers().contains_key(HOST) {
            return refuse(RequestRefusal::HostInvalid.into());
        }
        if !service.echo_paths.contains(request.uri().path()) {
            return refuse(RequestRefusal::NoEcho(service.echo_paths.clone()).into());
        }
        match handshake::answer(request, &service.policy) {
            Ok(acceptance) => Either::Left(acceptance),
            Err(refusal) => refuse(refusal.into()),
        }
    }
}

/// A request without its body, and the body.
fn separate(request: Request<RecvStream>) -> (Request<()>, RecvStream) {
    let (head, body) = request.into_parts();
    (Request::from_parts(head, ()), body)
}

/// Reads the body of a request that is to be sent back.
async fn read_body(
    reader: &mut StreamReader,
    len_max: u64,
    control: &Control,
) -> Result<Vec<u8>, Fault> {
    let mut data = Vec::new();
    loop {
        let buffer = Vec::with_capacity(REQUEST_HEAD_LEN_MAX);
        let reading = pin!(reader.read(buffer));
        let (result, piece) = in_time(reading, control, RequestRefusal::BodyTimedOut).await?;
        match result {
            Ok(0) => return Ok(data),
            Ok(_) => data.extend_from_slice(&piece),
            Err(error) => return Err(ConnectionEnd::Broken(error.kind()).into()),
        }
        if data.len() as u64 > len_max {
            return Err(RequestRefusal::BodyTooLong(len_max).into());
        }
        control.hold(STREAM_LEN + data.len());
    }
}
