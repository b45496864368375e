//! Clients' frames, byte by byte, valid or not.

use proptest::prelude::*;
use ringecho::protocol::{OpCode, echo::Compression, frame_header::FrameHeader, masking::unmask};

/// A frame as a client would send it.
#[derive(Clone, Debug)]
pub struct ClientFrame {
    pub fin: bool,
    /// "Per-message compressed" (RFC 7692 §6).
    pub rsv1: bool,
    pub opcode: OpCode,
    pub key: [u8; 4],
    pub payload: Vec<u8>,
}

impl ClientFrame {
    pub fn new(fin: bool, opcode: OpCode, payload: impl Into<Vec<u8>>) -> Self {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        Self { fin, rsv1: false, opcode, key, payload: payload.into() }
    }

    /// The frame on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = self.payload.clone();
        unmask(&mut payload, self.key);
        [self.encode_header(Some(self.key), self.opcode), payload].concat()
    }

    /// The frame as a server would send it back.
    pub fn encode_echo(&self) -> Vec<u8> {
        let opcode = match self.opcode {
            OpCode::Pong => return Vec::new(),
            OpCode::Ping => OpCode::Pong,
            other => other,
        };
        [self.encode_header(None, opcode), self.payload.clone()].concat()
    }

    fn encode_header(&self, masking_key: Option<[u8; 4]>, opcode: OpCode) -> Vec<u8> {
        let payload_len = self.payload.len() as u64;
        let Self { fin, rsv1, .. } = *self;
        let header = FrameHeader { fin, rsv1, opcode, masking_key, payload_len };
        let mut bytes = vec![0; header.encoded_len()];
        header.encode(&mut bytes);
        bytes
    }
}

pub fn text(payload: &str) -> ClientFrame {
    ClientFrame::new(true, OpCode::Text, payload)
}

pub fn binary(payload: impl Into<Vec<u8>>) -> ClientFrame {
    ClientFrame::new(true, OpCode::Binary, payload)
}

pub fn ping(payload: &str) -> ClientFrame {
    ClientFrame::new(true, OpCode::Ping, payload)
}

pub fn pong(payload: &str) -> ClientFrame {
    ClientFrame::new(true, OpCode::Pong, payload)
}

pub fn close(code: u16, reason: &str) -> ClientFrame {
    let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
    ClientFrame::new(true, OpCode::Close, payload)
}

/// A Close frame as the server sends it.
pub fn server_close(code: u16, reason: &str) -> Vec<u8> {
    close(code, reason).encode_echo()
}

/// Any sequence of valid messages, fragmented or not, with control frames in between. With
/// permessage-deflate some of them are marked as compressed; their bytes may be anything.
pub fn conversation(compression: Compression) -> impl Strategy<Value = Vec<ClientFrame>> {
    let is_compressed = match compression {
        Compression::None => Just(false).boxed(),
        Compression::PermessageDeflate => any::<bool>().boxed(),
    };
    let message = (message(), is_compressed, proptest::collection::vec(control(), 0..2));
    proptest::collection::vec(message, 0..6).prop_map(|messages| {
        messages
            .into_iter()
            .flat_map(|(mut frames, is_compressed, controls)| {
                if is_compressed {
                    frames[0].rsv1 = true;
                    for frame in &mut frames {
                        frame.payload.reverse();
                    }
                }
                // Control frames may stand between the fragments of a message (§5.4).
                let middle = frames.len() / 2;
                frames.splice(middle..middle, controls);
                frames
            })
            .collect()
    })
}

fn message() -> impl Strategy<Value = Vec<ClientFrame>> {
    let payload_len = prop_oneof![
        8 => 0..200_usize,
        2 => prop::sample::select(vec![125, 126, 127, 4095, 4096, 4097]),
        1 => prop::sample::select(vec![65_535, 65_536]),
    ];
    let payload = (payload_len, any::<bool>(), any::<char>(), any::<u8>()).prop_map(
        |(len, is_text, character, byte)| {
            if !is_text {
                return (OpCode::Binary, vec![byte; len]);
            }
            let text: String = std::iter::repeat_n(character, len / character.len_utf8()).collect();
            (OpCode::Text, text.into_bytes())
        },
    );
    (payload, proptest::collection::vec(any::<prop::sample::Index>(), 0..4), any::<[u8; 4]>())
        .prop_map(|((opcode, payload), cuts, key)| {
            let mut cuts: Vec<usize> =
                cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
            cuts.extend([0, payload.len()]);
            cuts.sort_unstable();
            let last = cuts.len() - 2;
            cuts.windows(2)
                .enumerate()
                .map(|(at, piece)| ClientFrame {
                    fin: at == last,
                    rsv1: false,
                    opcode: if at == 0 { opcode } else { OpCode::Continuation },
                    key,
                    payload: payload[piece[0]..piece[1]].to_vec(),
                })
                .collect()
        })
}

fn control() -> impl Strategy<Value = ClientFrame> {
    let opcode = prop::sample::select(vec![OpCode::Ping, OpCode::Pong]);
    (opcode, proptest::collection::vec(any::<u8>(), 0..126), any::<[u8; 4]>()).prop_map(
        |(opcode, payload, key)| ClientFrame { fin: true, rsv1: false, opcode, key, payload },
    )
}
