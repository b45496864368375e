//! Close frames (RFC 6455 §5.5.1): a client's checked and echoed, and the server's own encoded,
//! the latter beside `fastwebsockets::Frame::close`. The size is the payload's, at most 125 bytes.

mod measure;
mod sizes;

use std::hint::black_box;

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastwebsockets::{Frame, Payload};
use measure::measure;
use ringecho::protocol::{
    close_code::{CloseCode, encode_close_frame},
    echo::{Echo, Rules},
    frame_header::CONTROL_PAYLOAD_LEN_MAX,
    reply::Next,
};
use sizes::SIZES;

const RULES: Rules = Rules { hold: 4 << 10, frame_size_max: u64::MAX, message_size_max: 64 << 20 };

criterion_group!(benches, bench_close_frame);
criterion_main!(benches);

fn bench_close_frame(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("close_frame");
    for size in SIZES.into_iter().filter(|size| *size as u64 <= CONTROL_PAYLOAD_LEN_MAX) {
        let reason = "x".repeat(size - 2);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("echo", size), &reason[..], measure_echo);
        group.bench_with_input(BenchmarkId::new("encode", size), &reason[..], measure_encode);
        let id = BenchmarkId::new("encode-by-fastwebsockets", size);
        group.bench_with_input(id, &reason[..], measure_encode_by_fastwebsockets);
    }
    group.finish();
}

fn measure_echo(bencher: &mut Bencher, reason: &str) {
    let reply = encode_by_fastwebsockets(reason);
    let payload = Payload::Borrowed(&reply[2..]);
    let mut masked =
        Frame::new(true, fastwebsockets::OpCode::Close, Some([0x37, 0xfa, 0x21, 0x3d]), payload);
    masked.mask();
    let received = masked.write(&mut Vec::new()).to_vec();

    let mut chunk = received.clone();
    measure(bencher, || {
        chunk.copy_from_slice(&received);
        let answer = Echo::new().transform(&mut chunk, &RULES);
        assert_eq!(answer.next, Next::Close);
        assert_eq!(chunk[answer.range], reply);
    });
}

fn measure_encode(bencher: &mut Bencher, reason: &str) {
    let expected = encode_by_fastwebsockets(reason);
    measure(bencher, || {
        let frame = encode_close_frame(CloseCode::GoingAway, black_box(reason));
        assert_eq!(frame, expected);
    });
}

fn measure_encode_by_fastwebsockets(bencher: &mut Bencher, reason: &str) {
    let expected = encode_by_fastwebsockets(reason);
    measure(bencher, || {
        let frame = encode_by_fastwebsockets(black_box(reason));
        assert_eq!(frame, expected);
    });
}

fn encode_by_fastwebsockets(reason: &str) -> Vec<u8> {
    Frame::close(fastwebsockets::CloseCode::Away.into(), reason.as_bytes())
        .write(&mut Vec::new())
        .to_vec()
}
