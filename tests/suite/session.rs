//! The session against a naive model, under any interleaving of chunks, Pings and a draining
//! server, and the story of the closing handshake told as a dialogue.

use proptest::prelude::*;
use ringecho::protocol::{
    ProtocolError,
    echo::{Compression, Rules},
    reply::End,
    session::{Goodbye, PING, Session},
};

use crate::{
    frames::{ClientFrame, binary, close, conversation, ping, server_close, text},
    oracle::{Outcome, judge},
};

const RULES: Rules = Rules { hold: 4096, frame_size_max: u64::MAX, message_size_max: u64::MAX };

/// What happens to a session.
#[derive(Clone, Debug)]
enum Step {
    /// So many bytes arrive.
    Receive(usize),
    /// The peer has been silent.
    Ping,
    /// The server is to close.
    Goodbye(Goodbye),
}

/// A session as its carrier sees it.
struct Run {
    session: Session,
    rules: Rules,
    sent: Vec<u8>,
    messages: u32,
    end: Option<End>,
}

impl Run {
    fn new(rules: Rules) -> Self {
        let session = Session::new(Compression::None);
        Self { session, rules, sent: Vec::new(), messages: 0, end: None }
    }

    fn receive(&mut self, bytes: &[u8]) {
        let mut chunk = bytes.to_vec();
        let reply = self.session.receive(&mut chunk, &self.rules);
        self.sent.extend(reply.prefix);
        self.sent.extend(&chunk[reply.range]);
        if let Some(closing) = reply.closing {
            self.sent.extend(closing.frame.unwrap_or_default());
            self.end = self.end.or(closing.end);
        }
        self.messages += reply.messages;
    }

    /// Whether a Ping could be sent.
    fn ping(&mut self) -> bool {
        let frame = self.session.ping();
        self.sent.extend(frame.unwrap_or_default());
        frame.is_some()
    }

    fn say(&mut self, goodbye: Goodbye) {
        self.sent.extend(self.session.say_goodbye(goodbye).unwrap_or_default());
    }

    fn drain(&mut self) {
        self.say(Goodbye::Stopping);
    }
}

const GOODBYES: [Goodbye; 3] = [Goodbye::Idle, Goodbye::LifetimeOver, Goodbye::Stopping];

fn close_frame(goodbye: Goodbye) -> Vec<u8> {
    let reason = match goodbye {
        Goodbye::Idle => "no message has come for too long",
        Goodbye::LifetimeOver => "the connection is as old as it may become",
        Goodbye::Stopping => "the server is stopping",
    };
    server_close(1001, reason)
}

fn goodbye() -> Vec<u8> {
    close_frame(Goodbye::Stopping)
}

fn failure(error: ProtocolError) -> Vec<u8> {
    server_close(error.close_code() as u16, &error.to_string())
}

/// The server's frames, one by one; the last one may be cut.
fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let len = match ringecho::protocol::frame_header::FrameHeader::decode(bytes).unwrap() {
            Some((header, header_len)) => header_len + header.payload_len as usize,
            None => bytes.len(),
        };
        let (frame, rest) = bytes.split_at(len.min(bytes.len()));
        frames.push(frame);
        bytes = rest;
    }
    frames
}

/// How many messages are whole in the frames that a client has sent in these bytes.
fn whole_messages(frames: &[ClientFrame], received: usize) -> u32 {
    let mut at = 0;
    let mut messages = 0;
    for frame in frames {
        at += frame.encode().len();
        let is_data = (frame.opcode as u8) < 8;
        messages += u32::from(at <= received && is_data && frame.fin);
    }
    messages
}

/// Where in the input frames end and no message is under way, from the start on.
fn boundaries(frames: &[ClientFrame]) -> Vec<usize> {
    let mut boundaries = vec![0];
    let mut at = 0;
    let mut is_between = true;
    for frame in frames {
        at += frame.encode().len();
        if (frame.opcode as u8) < 8 {
            is_between = frame.fin;
        }
        boundaries.extend(is_between.then_some(at));
    }
    boundaries
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..300_usize).prop_map(Step::Receive),
        2 => (0..100_000_usize).prop_map(Step::Receive),
        2 => Just(Step::Ping),
        1 => prop::sample::select(&GOODBYES[..]).prop_map(Step::Goodbye),
    ];
    proptest::collection::vec(step, 0..40)
}

/// What a conversation ends with: nothing, a Close frame or a fault.
fn ending() -> impl Strategy<Value = Option<ClientFrame>> {
    let fragmented_ping = ClientFrame { fin: false, ..ping("") };
    prop::sample::select(vec![None, Some(close(1000, "done")), Some(fragmented_ping)])
}

proptest! {
    #[test]
    fn session_is_the_naive_model_whatever_happens_in_whatever_order(
        mut frames in conversation(Compression::None),
        ending in ending(),
        steps in steps(),
        hold in prop::sample::select(vec![0, 100, 4096]),
        frame_size_max in prop::sample::select(vec![u64::MAX, 1000]),
    ) {
        // What comes behind a frame that is too long is not looked at.
        let is_too_long = |frame: &ClientFrame| frame.payload.len() as u64 > frame_size_max;
        let faultless_len = frames.iter().position(is_too_long).unwrap_or(frames.len());
        let boundaries = boundaries(&frames[..faultless_len]);
        frames.extend(ending);
        let input: Vec<u8> = frames.iter().flat_map(ClientFrame::encode).collect();
        let rules = Rules { hold, frame_size_max, ..RULES };
        let mut run = Run::new(rules);
        let mut received = 0;
        // Where the input stood when the server was first to close, and why, and where the model says
        // goodbye: at the first end of a frame from there on where no message is under way.
        let mut first: Option<(usize, Goodbye)> = None;
        let mut goodbye_at = None;
        for step in steps.into_iter().chain([Step::Receive(input.len())]) {
            match step {
                Step::Receive(len) => {
                    let to = (received + len).min(input.len());
                    run.receive(&input[received..to]);
                    received = to;
                }
                Step::Ping => {
                    let may_ping = run.ping();
                    let is_closed = goodbye_at.is_some() || run.end.is_some();
                    prop_assert!(!may_ping || !is_closed);
                    // A frame that is held, or whole, leaves room for a Ping before or behind it.
                    let is_held = judge(&input[..received], &rules, Compression::None)
                        .last_payload_len <= hold as u64;
                    prop_assert!(may_ping || !is_held || is_closed);
                }
                Step::Goodbye(goodbye) => {
                    if run.end.is_none() {
                        first = first.or(Some((received, goodbye)));
                    }
                    run.say(goodbye);
                }
            }
            prop_assert_eq!(run.session.goodbye(), first.map(|(_, goodbye)| goodbye));
            if let Some((asked_at, _)) = first {
                let may_close = |at: &&usize| (asked_at..=received).contains(*at);
                goodbye_at = goodbye_at.or(boundaries.iter().find(may_close).copied());
            }
            let said = |goodbye| run.sent.ends_with(&close_frame(goodbye));
            prop_assert_eq!(
                first.is_some_and(|(_, goodbye)| said(goodbye)),
                goodbye_at.is_some(),
                "it is said as soon as it may be, once, and the last that is"
            );
        }

        let answered = goodbye_at.unwrap_or(received);
        let verdict = judge(&input[..answered], &rules, Compression::None);
        let outcome = judge(&input[..received], &rules, Compression::None).outcome;
        let expected_end = match outcome {
            Outcome::Open => None,
            Outcome::Closed if goodbye_at.is_some() => Some(End::ClosedByServer),
            Outcome::Closed => Some(End::ClosedByPeer),
            Outcome::Failed(error) => Some(End::Failed(error)),
        };
        prop_assert_eq!(run.end, expected_end);
        let mut expected = verdict.replies;
        match (goodbye_at, outcome) {
            (Some(_), _) => expected.extend(close_frame(first.expect("a reason").1)),
            (None, Outcome::Failed(error)) => expected.extend(failure(error)),
            (None, _) => {}
        }
        let got: Vec<&[u8]> = split(&run.sent).into_iter().filter(|frame| *frame != PING).collect();
        prop_assert_eq!(got.concat(), expected);
        prop_assert_eq!(run.messages, whole_messages(&frames[..faultless_len], answered));
    }
}

#[test]
fn peer_that_closes_gets_its_close_frame_back_and_nothing_behind_it() {
    let mut run = Run::new(RULES);
    run.receive(&[text("a").encode(), close(4000, "bye").encode(), text("b").encode()].concat());
    assert_eq!(run.end, Some(End::ClosedByPeer));
    assert_eq!(run.sent, [text("a").encode_echo(), server_close(4000, "bye")].concat());
    let sent_len = run.sent.len();
    run.receive(&text("c").encode());
    run.drain();
    assert!(!run.ping());
    assert_eq!(run.sent.len(), sent_len);
}

#[test]
fn stopping_server_says_goodbye_behind_the_message_that_is_under_way() {
    let mut run = Run::new(RULES);
    let [first, second] = [
        ClientFrame { fin: false, ..text("a") },
        ClientFrame::new(true, ringecho::protocol::OpCode::Continuation, "b"),
    ];
    run.receive(&first.encode());
    run.drain();
    assert_eq!(run.sent, first.encode_echo());
    assert!(run.ping());
    run.receive(&second.encode());
    let expected = [first.encode_echo(), PING.to_vec(), second.encode_echo(), goodbye()].concat();
    assert_eq!(run.sent, expected);
    assert!(!run.ping());

    run.receive(&[binary([1; 9]).encode(), ping("?").encode()].concat());
    assert_eq!((run.messages, run.end), (1, None));
    run.receive(&close(1001, "").encode());
    assert_eq!(run.end, Some(End::ClosedByServer));
    assert_eq!(run.sent, expected);
}

/// It is never between two messages when it has sent what it has to send.
#[test]
fn peer_that_pipelines_is_sent_the_close_between_its_messages() {
    let mut run = Run::new(RULES);
    let [first, second] = [binary([1; 500]), binary([2; 500])];
    let input = [first.encode(), second.encode()].concat();
    run.receive(&input[..300]);
    run.drain();
    assert!(run.sent.is_empty());
    run.receive(&input[300..700]);
    assert_eq!(run.sent, [first.encode_echo(), goodbye()].concat());
    run.receive(&[&input[700..], &close(1001, "").encode()].concat());
    assert_eq!(run.end, Some(End::ClosedByServer));
    assert_eq!((run.messages, run.sent.len()), (1, first.encode_echo().len() + goodbye().len()));
}

#[test]
fn fault_behind_the_servers_own_close_frame_is_answered_with_nothing() {
    let mut run = Run::new(RULES);
    run.drain();
    run.drain();
    run.receive(&ClientFrame { fin: false, ..ping("") }.encode());
    assert_eq!(run.end, Some(End::Failed(ProtocolError::ControlFrameFragmented)));
    assert_eq!(run.sent, goodbye());
}

#[test]
fn no_ping_and_no_close_frame_stands_inside_of_a_frame_that_is_half_sent() {
    let mut run = Run::new(RULES);
    let long = ClientFrame::new(true, ringecho::protocol::OpCode::Text, vec![b'a'; 10_000]);
    let mut input = long.encode();
    // Not UTF-8, behind what has been sent.
    let last = input.len() - 1;
    input[last] ^= 0x80;
    run.receive(&input[..9_000]);
    assert!(run.sent.len() > 8_000);
    assert!(!run.ping());
    run.drain();
    let sent_len = run.sent.len();
    run.receive(&input[9_000..]);
    assert_eq!(run.end, Some(End::Failed(ProtocolError::TextNotUtf8)));
    assert_eq!(run.sent.len(), sent_len);
}
