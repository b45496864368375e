//! Frame headers (RFC 6455 §5.2): a client's decoded and a server's encoded, the latter beside
//! `fastwebsockets::Frame::fmt_head`. (fastwebsockets does not offer its decoder by itself.)
//!
//! The size is the payload's that the header announces; the throughput counts the header alone.

mod measure;
mod sizes;

use std::hint::black_box;

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastwebsockets::{Frame, Payload};
use measure::measure;
use ringecho::protocol::{
    OpCode,
    frame_header::{FRAME_HEADER_LEN_MAX, FrameHeader},
};
use sizes::SIZES;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

criterion_group!(benches, bench_frame_header);
criterion_main!(benches);

fn bench_frame_header(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame_header");
    for size in SIZES {
        let payload = vec![0; size];
        let received = encode_by_fastwebsockets(Some(KEY), &payload);
        group.throughput(Throughput::Bytes(received.len() as u64));
        group.bench_with_input(BenchmarkId::new("decode", size), &received[..], measure_decode);

        let reply = encode_by_fastwebsockets(None, &payload);
        group.throughput(Throughput::Bytes(reply.len() as u64));
        group.bench_with_input(BenchmarkId::new("encode", size), &payload[..], measure_encode);
        let id = BenchmarkId::new("encode-by-fastwebsockets", size);
        group.bench_with_input(id, &payload[..], measure_encode_by_fastwebsockets);
    }
    group.finish();
}

fn measure_decode(bencher: &mut Bencher, received: &[u8]) {
    let (header, header_len) = FrameHeader::decode(received).expect("valid").expect("complete");
    let mut encoded = [0; FRAME_HEADER_LEN_MAX];
    header.encode(&mut encoded);
    assert_eq!(encoded[..header_len], received[..]);

    measure(bencher, || {
        let decoded = FrameHeader::decode(black_box(received));
        let (header, header_len) = decoded.expect("valid").expect("complete");
        assert_eq!(header_len, received.len());
        header
    });
}

fn measure_encode(bencher: &mut Bencher, payload: &[u8]) {
    let expected = encode_by_fastwebsockets(None, payload);
    let header = FrameHeader {
        fin: true,
        rsv1: false,
        opcode: OpCode::Binary,
        masking_key: None,
        payload_len: payload.len() as u64,
    };
    let mut encoded = [0; FRAME_HEADER_LEN_MAX];
    let len = header.encode(&mut encoded);
    assert_eq!(encoded[..len], expected);

    measure(bencher, || {
        let len = black_box(&header).encode(&mut encoded);
        assert_eq!(len, expected.len());
        encoded
    });
}

fn measure_encode_by_fastwebsockets(bencher: &mut Bencher, payload: &[u8]) {
    let expected = encode_by_fastwebsockets(None, payload);
    let mut frame = Frame::binary(Payload::Borrowed(payload));
    let mut encoded = [0; FRAME_HEADER_LEN_MAX];
    measure(bencher, || {
        let len = black_box(&mut frame).fmt_head(&mut encoded);
        assert_eq!(len, expected.len());
        encoded
    });
}

fn encode_by_fastwebsockets(key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut encoded = vec![0; FRAME_HEADER_LEN_MAX];
    let payload = Payload::Borrowed(payload);
    let len = Frame::new(true, fastwebsockets::OpCode::Binary, key, payload).fmt_head(&mut encoded);
    encoded.truncate(len);
    encoded
}
