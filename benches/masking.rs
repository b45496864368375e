//! Unmasking (RFC 6455 §5.3): where the payload stands, and four bytes further to the front, as
//! the echo needs it; beside `fastwebsockets::unmask` and the definition, byte by byte.

mod measure;
mod sizes;

use std::hint::black_box;

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use measure::measure;
use ringecho::protocol::masking::{unmask, unmask_to};
use sizes::SIZES;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

criterion_group!(benches, bench_masking);
criterion_main!(benches);

fn bench_masking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("masking");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let mut bench_in_place = |operation: &str, unmask: fn(&mut [u8], [u8; 4])| {
            group.bench_function(BenchmarkId::new(operation, size), |bencher| {
                measure_in_place(bencher, size, unmask);
            });
        };
        bench_in_place("unmask", unmask);
        bench_in_place("unmask-by-fastwebsockets", fastwebsockets::unmask);
        bench_in_place("unmask-by-definition", unmask_by_definition);
        group.bench_function(BenchmarkId::new("unmask-to", size), |bencher| {
            measure_moved(bencher, size);
        });
    }
    group.finish();
}

fn unmask_by_definition(payload: &mut [u8], key: [u8; 4]) {
    for (i, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[i % 4];
    }
}

fn measure_in_place(bencher: &mut Bencher, size: usize, unmask: fn(&mut [u8], [u8; 4])) {
    let original = bytes(size);
    let mut payload = original.clone();
    unmask(&mut payload, KEY);
    let mut expected = original;
    unmask_by_definition(&mut expected, KEY);
    assert_eq!(payload, expected);

    // Each turn undoes the one before, so the last byte changes by the same bits every time.
    let last_key_byte = KEY[(size - 1) % 4];
    measure(bencher, || {
        let before = payload[size - 1];
        unmask(black_box(&mut payload), black_box(KEY));
        assert_eq!(payload[size - 1], before ^ last_key_byte);
    });
}

fn measure_moved(bencher: &mut Bencher, size: usize) {
    const DISTANCE: usize = 4;
    let mut buffer = bytes(DISTANCE + size);
    let mut expected = buffer[DISTANCE..].to_vec();
    unmask_by_definition(&mut expected, KEY);
    unmask_to(&mut buffer, DISTANCE, 0, size, KEY);
    assert_eq!(buffer[..size], expected);

    // No turn writes the last four bytes, so the last one of the result stays the same.
    let last = expected[size - 1];
    measure(bencher, || {
        unmask_to(black_box(&mut buffer), DISTANCE, 0, size, black_box(KEY));
        assert_eq!(buffer[size - 1], last);
    });
}

/// Bytes without a short period.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 167 + (i >> 8) * 13) as u8).collect()
}
