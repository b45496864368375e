//! Frames for the benchmarks that talk to servers.

use ringecho::protocol::{OpCode, frame_header::FrameHeader};

/// An unfragmented frame with this payload, which is masked already if there is a key.
pub(crate) fn frame(masking_key: Option<[u8; 4]>, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let payload_len = payload.len() as u64;
    let header = FrameHeader { fin: true, rsv1: false, opcode, masking_key, payload_len };
    let mut bytes = vec![0; header.encoded_len()];
    header.encode(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}
