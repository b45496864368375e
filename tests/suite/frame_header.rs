//! Tables over all that a frame header can be.

use ringecho::protocol::{
    OpCode, ProtocolError,
    echo::{Compression, Rules},
    frame_header::{FRAME_HEADER_LEN_MAX, FrameHeader},
};

use crate::oracle::{Outcome, judge};

const RULES: Rules = Rules { hold: 0, frame_size_max: u64::MAX, message_size_max: u64::MAX };

//= https://www.rfc-editor.org/rfc/rfc6455#section-5.2
//= type=test
//# MUST be 0 unless an extension is negotiated that defines meanings for non-zero values. If a
//# nonzero value is received and none of the negotiated extensions defines the meaning of such a
//# nonzero value, the receiving endpoint MUST _Fail the WebSocket Connection_.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.2
//= type=test
//# If an unknown opcode is received, the receiving endpoint MUST _Fail the WebSocket Connection_.
/// All 65,536 first two bytes, each with a payload length that fits them.
#[test]
fn every_first_two_bytes_are_judged_as_by_the_oracle() {
    let mut decoded = 0;
    for first in 0..=u8::MAX {
        for second in 0..=u8::MAX {
            let mut bytes = vec![first, second];
            match second & 0x7f {
                126 => bytes.extend_from_slice(&[1, 0]),
                127 => bytes.extend_from_slice(&[0, 0, 0, 0, 0, 1, 0, 0]),
                _ => {}
            }
            bytes.extend_from_slice(&[1, 2, 3, 4]);
            match FrameHeader::decode(&bytes) {
                Err(error) => {
                    let verdict = judge(&bytes, &RULES, Compression::None);
                    assert_eq!(verdict.outcome, Outcome::Failed(error));
                }
                Ok(header) => {
                    let (header, len) = header.expect("the header is whole");
                    let mut encoded = [0; FRAME_HEADER_LEN_MAX];
                    assert_eq!(header.encode(&mut encoded), len);
                    assert_eq!(header.encoded_len(), len);
                    assert_eq!(encoded[..len], bytes[..len], "{header:?}");
                    decoded += 1;
                }
            }
        }
    }
    // FIN and RSV1 free, 3 data opcodes, any length and mask; FIN and 3 control opcodes with a
    // length up to 125.
    assert_eq!(decoded, 4 * 3 * 256 + 2 * 3 * 126 * 2);
}

#[test]
fn header_that_is_not_whole_asks_for_more() {
    for payload_len in [0, 125, 126, 65_535, 65_536, i64::MAX as u64] {
        let header = FrameHeader {
            fin: true,
            rsv1: false,
            opcode: OpCode::Binary,
            masking_key: Some([1, 2, 3, 4]),
            payload_len,
        };
        let mut bytes = [0; FRAME_HEADER_LEN_MAX];
        let len = header.encode(&mut bytes);
        for part in 0..len {
            assert_eq!(FrameHeader::decode(&bytes[..part]), Ok(None));
        }
        assert_eq!(FrameHeader::decode(&bytes), Ok(Some((header, len))));
    }
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-5.2
//= type=test
//# If 127, the following 8 bytes interpreted as a 64-bit unsigned integer (the most significant bit
//# MUST be 0) are the payload length.
//= https://www.rfc-editor.org/rfc/rfc6455#section-5.2
//= type=test
//# Note that in all cases, the minimal number of bytes MUST be used to encode the length, for
//# example, the length of a 124-byte-long string can't be encoded as the sequence 126, 0, 124.
#[test]
fn payload_lengths_are_minimal_and_below_2_to_the_63() {
    use ProtocolError::{PayloadLengthNotMinimal, PayloadLengthTooLarge};
    for (bytes, error) in [
        (&[0x82, 0xfe, 0, 0][..], PayloadLengthNotMinimal),
        (&[0x82, 0xfe, 0, 125], PayloadLengthNotMinimal),
        (&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], PayloadLengthNotMinimal),
        (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], PayloadLengthTooLarge),
    ] {
        assert_eq!(FrameHeader::decode(bytes), Err(error), "{bytes:02x?}");
    }
}
