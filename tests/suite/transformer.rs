//! The transformer gives the naive server's replies, wherever its input is cut.

use proptest::prelude::*;
use ringecho::protocol::{
    OpCode, ProtocolError,
    echo::{Compression, Echo, Rules},
    reply::Next,
};

use crate::{
    frames::{ClientFrame, binary, close, conversation, ping, pong, text},
    oracle::{Outcome, assert_agrees, judge, transform_with},
};

const RULES: Rules = Rules { hold: 4096, frame_size_max: u64::MAX, message_size_max: u64::MAX };

/// Runs the transformer over chunks; returns all replies and the last word.
fn transform<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, rules: &Rules) -> (Vec<u8>, Next) {
    transform_with(Echo::new(), chunks, rules)
}

/// What is received of `input` where it arrives in pieces and a buffer takes so much of one.
fn receive<'a>(
    input: &'a [u8],
    cuts: &[prop::sample::Index],
    buffer_len: usize,
) -> impl Iterator<Item = &'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
    cuts.extend([0, input.len()]);
    cuts.sort_unstable();
    let pieces: Vec<&[u8]> = cuts.windows(2).map(|piece| &input[piece[0]..piece[1]]).collect();
    pieces.into_iter().flat_map(move |piece| piece.chunks(buffer_len))
}

/// Buffers from the smallest, and the server's own.
fn buffer_len() -> impl Strategy<Value = usize> {
    prop_oneof![1 => 1..20_usize, 3 => prop::sample::select(vec![64, 4096, 1 << 18])]
}

/// What a handshake may have agreed on.
fn compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(vec![Compression::None, Compression::PermessageDeflate])
}

fn encode(frames: &[ClientFrame]) -> Vec<u8> {
    frames.iter().flat_map(ClientFrame::encode).collect()
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-5.1
//= type=test
//# A server MUST NOT mask any frames that it sends to the client.
//= https://www.rfc-editor.org/rfc/rfc6455#section-6.2
//= type=test
//# A server MUST remove masking for data frames received from a client as described in Section 5.3.
#[test]
fn example_of_the_rfc_is_echoed() {
    // §5.7: a single-frame masked text message, "Hello", and the same unmasked.
    let request = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let (replies, next) = transform([&request[..]], &RULES);
    assert_eq!(replies, b"\x81\x05Hello");
    assert_eq!(next, Next::Continue);
}

#[test]
fn first_reply_stays_where_its_payload_is_and_the_others_close_up() {
    let frames = [binary([1; 64]), ping("p"), pong("q"), binary([2; 300]), text("end")];
    let mut chunk = encode(&frames);
    let reply = Echo::new().transform(&mut chunk, &RULES);
    let expected: Vec<u8> = frames.iter().flat_map(ClientFrame::encode_echo).collect();
    assert_eq!(reply.range, 4..4 + expected.len());
    assert_eq!(chunk[reply.range], expected);
    assert_eq!(reply.prefix, b"");
    assert_eq!(reply.messages, 3);
}

#[test]
fn payload_lengths_at_the_borders_of_their_encodings_are_echoed() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536] {
        let frame = binary(vec![0xa5; len]);
        let (replies, _) = transform([&frame.encode()[..]], &RULES);
        assert_eq!(replies, frame.encode_echo(), "{len} bytes");
    }
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-6.2
//= type=test
//# If a control frame (Section 5.5) is received, the frame MUST be handled as defined by Section
//# 5.5.
#[test]
fn conversation_is_answered_the_same_at_every_split() {
    let frames = [
        ClientFrame::new(false, OpCode::Text, "héllo"),
        ping("in the middle"),
        ClientFrame::new(false, OpCode::Continuation, ""),
        ClientFrame::new(true, OpCode::Continuation, "wörld ✓"),
        binary(vec![7; 130]),
        pong(""),
        text(""),
        close(1000, "done"),
    ];
    let input = encode(&frames);
    for hold in [0, 5, 4096] {
        let rules = Rules { hold, ..RULES };
        let verdict = judge(&input, &RULES, Compression::None);
        assert_eq!(verdict.outcome, Outcome::Closed);
        for first in 0..=input.len() {
            for second in first..=input.len() {
                let chunks = [&input[..first], &input[first..second], &input[second..]];
                let (replies, next) = transform(chunks, &rules);
                assert_agrees(&replies, next, &verdict, &rules);
            }
        }
        let (replies, next) = transform(input.chunks(1), &rules);
        assert_agrees(&replies, next, &verdict, &rules);
    }
}

#[test]
fn long_frame_is_sent_on_as_it_arrives() {
    let frame = binary(vec![9; 100_000]);
    let input = frame.encode();
    let mut echo = Echo::new();
    let mut replies = Vec::new();
    for piece in input.chunks(1000) {
        assert!(echo.between_frames() == replies.is_empty());
        let mut piece = piece.to_vec();
        let reply = echo.transform(&mut piece, &RULES);
        assert!(reply.prefix.len() + reply.range.len() >= piece.len() - 14);
        replies.extend_from_slice(&reply.prefix);
        replies.extend_from_slice(&piece[reply.range]);
    }
    assert!(echo.between_frames());
    assert_eq!(replies, frame.encode_echo());
}

#[test]
fn fault_in_a_held_frame_is_failed_at_the_offending_byte() {
    let input = ClientFrame::new(true, OpCode::Text, &b"good \xff, and more"[..]).encode();
    let offending_at = 6 + b"good ".len();
    let mut echo = Echo::new();
    for byte in &input[..offending_at] {
        let reply = echo.transform(&mut [*byte], &RULES);
        assert_eq!((reply.range.len(), reply.next), (0, Next::Continue));
    }
    let reply = echo.transform(&mut [input[offending_at]], &RULES);
    assert_eq!(reply.next, Next::Fail(ProtocolError::TextNotUtf8));
    assert_eq!((reply.prefix.len(), reply.range.len()), (0, 0));
}

#[test]
fn fault_in_a_frame_that_is_half_sent_aborts() {
    let payload = [vec![b'a'; 5000], vec![0xff; 5000]].concat();
    let input = ClientFrame::new(true, OpCode::Text, payload).encode();
    let (replies, next) = transform(input.chunks(3000), &RULES);
    assert_eq!(next, Next::Abort(ProtocolError::TextNotUtf8));
    assert!(!replies.is_empty());
    // In one piece nothing of it has been sent, and the fault can be answered.
    let (replies, next) = transform([&input[..]], &RULES);
    assert_eq!(next, Next::Fail(ProtocolError::TextNotUtf8));
    assert!(replies.is_empty());
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-10.4
//= type=test
//# Implementations that have implementation- and/or platform-specific limitations regarding the
//# frame size or total message size after reassembly from multiple frames MUST protect themselves
//# against exceeding those limits.
#[test]
fn message_is_too_big_as_soon_as_a_header_says_so() {
    let rules = Rules { message_size_max: 10, ..RULES };
    let frames = [
        ClientFrame::new(false, OpCode::Binary, [1; 6]),
        ClientFrame::new(false, OpCode::Continuation, [2; 4]),
    ];
    let (replies, next) = transform([&encode(&frames)[..]], &rules);
    assert_eq!(replies.len(), 2 + 6 + 2 + 4);
    assert_eq!(next, Next::Continue);
    let header_of_one_more = ClientFrame::new(true, OpCode::Continuation, [3]).encode();
    let input = [encode(&frames), header_of_one_more[..6].to_vec()].concat();
    let (_, next) = transform([&input[..]], &rules);
    assert_eq!(next, Next::Fail(ProtocolError::MessageTooBig));
}

/// Whole in one chunk or announced by a header alone, short or long: the fault is the header's.
#[test]
fn frame_is_too_big_as_soon_as_its_header_says_so() {
    for frame_size_max in [10, 200, 70_000] {
        let rules = Rules { frame_size_max, ..RULES };
        let frame = |fin, opcode, len| ClientFrame::new(fin, opcode, vec![1; len as usize]);
        let longest = frame(true, OpCode::Binary, frame_size_max);
        let fragments = [
            frame(false, OpCode::Binary, frame_size_max),
            frame(true, OpCode::Continuation, frame_size_max),
        ];
        let frames = [&[longest][..], &fragments].concat();
        let (replies, next) = transform([&encode(&frames)[..]], &rules);
        let expected: Vec<u8> = frames.iter().flat_map(ClientFrame::encode_echo).collect();
        assert!((replies, next) == (expected, Next::Continue), "a message may be longer");
        // A control frame has a bound of its own.
        let ping = ping(&"?".repeat(125));
        assert_eq!(transform([&ping.encode()[..]], &rules).0.len(), 127);

        let one_more = frame(true, OpCode::Binary, frame_size_max + 1);
        let request = one_more.encode();
        let header_len = request.len() - one_more.payload.len();
        for arrived in [&request[..], &request[..header_len]] {
            let (replies, next) = transform([arrived], &rules);
            assert_eq!((replies.len(), next), (0, Next::Fail(ProtocolError::FrameTooBig)));
        }
    }
}

//= https://www.rfc-editor.org/rfc/rfc7692#section-6.1
//= type=test
//# An endpoint MUST NOT set the "Per-Message Compressed" bit of control
//# frames and non-first fragments of a data message.  An endpoint
//# receiving such a frame MUST _Fail the WebSocket Connection_.
#[test]
fn rsv1_is_for_first_frames_where_compression_is_agreed_on() {
    let marked =
        |fin, opcode, payload| ClientFrame { rsv1: true, ..ClientFrame::new(fin, opcode, payload) };
    let not_text = [0xff, 0xfe];
    for (frames, is_valid) in [
        (vec![marked(true, OpCode::Text, not_text)], true),
        (vec![marked(true, OpCode::Binary, not_text)], true),
        (
            vec![
                marked(false, OpCode::Text, not_text),
                ping("in between"),
                ClientFrame::new(true, OpCode::Continuation, not_text),
                text("not compressed"),
            ],
            true,
        ),
        (
            vec![
                marked(false, OpCode::Text, not_text),
                marked(true, OpCode::Continuation, not_text),
            ],
            false,
        ),
        (vec![marked(true, OpCode::Ping, not_text)], false),
        (vec![marked(true, OpCode::Pong, not_text)], false),
        (vec![marked(true, OpCode::Close, [3, 232])], false),
    ] {
        let input = encode(&frames);
        let echo = Echo::with_compression(Compression::PermessageDeflate);
        let (replies, next) = transform_with(echo, [&input[..]], &RULES);
        if is_valid {
            assert_eq!(next, Next::Continue, "{frames:?}");
            assert_eq!(
                replies,
                frames.iter().flat_map(ClientFrame::encode_echo).collect::<Vec<_>>()
            );
        } else {
            assert_eq!(next, Next::Fail(ProtocolError::ReservedBitSet), "{frames:?}");
        }
        let (replies, next) = transform([&input[..]], &RULES);
        assert_eq!(next, Next::Fail(ProtocolError::ReservedBitSet), "{frames:?}");
        assert!(replies.is_empty());
    }
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-6.2
//= type=test
//# Upon receiving a data frame (Section 5.6), the endpoint MUST note the /type/ of the data as
//# defined by the opcode (frame-opcode) from Section 5.2.
//= https://www.rfc-editor.org/rfc/rfc6455#section-6.2
//= type=test
//# Subsequent data frames MUST be interpreted as belonging to a new WebSocket message.
#[test]
fn text_behind_a_compressed_message_is_validated() {
    let compressed =
        ClientFrame { rsv1: true, ..ClientFrame::new(true, OpCode::Text, [0xe2, 0x82]) };
    let input = encode(&[compressed.clone(), ClientFrame::new(true, OpCode::Text, [0xff])]);
    let echo = Echo::with_compression(Compression::PermessageDeflate);
    let (replies, next) = transform_with(echo, input.chunks(1), &RULES);
    assert_eq!(next, Next::Fail(ProtocolError::TextNotUtf8));
    assert_eq!(replies, compressed.encode_echo());
}

#[test]
fn close_is_echoed_at_every_point_between_frames() {
    let frames = [
        ClientFrame::new(false, OpCode::Text, "half of "),
        ping("in between"),
        ClientFrame::new(false, OpCode::Continuation, "a mess"),
        ClientFrame::new(true, OpCode::Continuation, "age"),
        binary(vec![1; 5000]),
    ];
    for before in 0..=frames.len() {
        let closing = [&frames[..before], &[close(1000, "enough"), text("too late")]].concat();
        let expected: Vec<u8> =
            closing[..=before].iter().flat_map(ClientFrame::encode_echo).collect();
        let input = encode(&closing);
        for chunk_len in [1, 7, input.len()] {
            let (replies, next) = transform(input.chunks(chunk_len), &RULES);
            assert_eq!(next, Next::Close);
            assert_eq!(replies, expected);
        }
    }
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-6.1
//= type=test
//# The endpoint MUST ensure the WebSocket connection is in the OPEN state (cf. Sections 4.1 and
//# 4.2.2.) If at any point the state of the WebSocket connection changes, the endpoint MUST abort
//# the following steps.
//= https://www.rfc-editor.org/rfc/rfc6455#section-7.1.7
//= type=test
//# An endpoint MUST NOT continue to attempt to process data (including a responding Close frame)
//# from the remote endpoint after being instructed to _Fail the WebSocket Connection_.
#[test]
fn nothing_is_answered_after_a_close_or_a_fault() {
    for ending in [close(1000, "").encode(), vec![0x83, 0x80, 0, 0, 0, 0]] {
        let mut echo = Echo::new();
        let mut chunk = [ending, text("too late").encode()].concat();
        let reply = echo.transform(&mut chunk, &RULES);
        assert_ne!(reply.next, Next::Continue);
        assert!(reply.range.len() <= 4);
        let mut chunk = text("much too late").encode();
        let reply = echo.transform(&mut chunk, &RULES);
        assert_eq!((reply.prefix.len(), reply.range.len(), reply.next), (0, 0, Next::Continue));
    }
}

#[test]
fn state_of_a_connection_is_small() {
    assert!(size_of::<Echo>() <= 80, "{} bytes", size_of::<Echo>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    //= https://www.rfc-editor.org/rfc/rfc6455#section-5.4
    //= type=test
    //# Message fragments MUST be delivered to the recipient in the order sent by the sender.
    //= https://www.rfc-editor.org/rfc/rfc6455#section-6.1
    //= type=test
    //# An endpoint MUST encapsulate the /data/ in a WebSocket frame as defined in Section 5.2.
    #[test]
    fn valid_conversations_are_echoed_whatever_the_cuts_and_the_buffer(
        (compression, frames) in compression().prop_flat_map(|it| (Just(it), conversation(it))),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        buffer_len in buffer_len(),
        hold in prop::sample::select(vec![0, 1, 125, 4096, 1 << 20]),
    ) {
        let input = encode(&frames);
        let rules = Rules { hold, ..RULES };
        let expected: Vec<u8> = frames.iter().flat_map(ClientFrame::encode_echo).collect();
        let echo = Echo::with_compression(compression);
        let (replies, next) = transform_with(echo, receive(&input, &cuts, buffer_len), &rules);
        prop_assert_eq!(next, Next::Continue);
        prop_assert!(replies == expected, "the replies differ");
    }

    //= https://www.rfc-editor.org/rfc/rfc6455#section-10.7
    //= type=test
    //# Incoming data MUST always be validated by both clients and servers.
    #[test]
    fn damaged_conversations_end_as_the_oracle_says(
        frames in conversation(Compression::PermessageDeflate),
        compression in compression(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        truncated_at: prop::sample::Index,
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        buffer_len in buffer_len(),
        hold in prop::sample::select(vec![0, 1, 125, 4096, 1 << 20]),
        frame_size_max in prop::sample::select(vec![u64::MAX, 1000, 50]),
        message_size_max in prop::sample::select(vec![u64::MAX, 5000, 100]),
    ) {
        let mut input = encode(&frames);
        input.push(0x88);
        for (at, byte) in damage {
            let at = at.index(input.len());
            input[at] = byte;
        }
        input.truncate(input.len() - truncated_at.index(input.len()) / 4);
        let rules = Rules { hold, frame_size_max, message_size_max };
        let verdict = judge(&input, &rules, compression);
        let echo = Echo::with_compression(compression);
        let (replies, next) = transform_with(echo, receive(&input, &cuts, buffer_len), &rules);
        assert_agrees(&replies, next, &verdict, &rules);
    }

    //= https://www.rfc-editor.org/rfc/rfc6455#section-6.2
    //= type=test
    //# Incoming data MUST be parsed as WebSocket frames as defined in Section 5.2.
    #[test]
    fn any_bytes_are_judged_as_the_oracle_does(
        input in proptest::collection::vec(
            prop_oneof![
                any::<u8>(),
                prop::sample::select(vec![0x81, 0x82, 0xc1, 0xc2, 0x80, 0x88, 0x89, 0]),
            ],
            0..200,
        ),
        compression in compression(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        buffer_len in buffer_len(),
    ) {
        let verdict = judge(&input, &RULES, compression);
        let echo = Echo::with_compression(compression);
        let (replies, next) = transform_with(echo, receive(&input, &cuts, buffer_len), &RULES);
        assert_agrees(&replies, next, &verdict, &RULES);
    }
}
