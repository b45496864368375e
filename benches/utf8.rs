//! UTF-8 validation (RFC 6455 §8.1) of a text that arrives whole, and of one that arrives in two
//! pieces, cut inside of a character where there is one; beside the validators of std and
//! simdutf8, which want the whole text at once.

mod measure;
mod sizes;

use std::hint::black_box;

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use measure::measure;
use ringecho::protocol::utf8::Utf8Validator;
use sizes::SIZES;

criterion_group!(benches, bench_utf8);
criterion_main!(benches);

fn bench_utf8(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("utf8");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        for (kind, text) in [("ascii", ascii_text(size)), ("multi-byte", multi_byte_text(size))] {
            let mut bench = |operation: &str, measure: fn(&mut Bencher, &[u8])| {
                let id = BenchmarkId::new(format!("{kind}-{operation}"), size);
                group.bench_with_input(id, text.as_bytes(), measure);
            };
            bench("whole", measure_whole);
            bench("cut", measure_cut);
            bench("whole-by-std", measure_std);
            bench("whole-by-simdutf8", measure_simdutf8);
        }
    }
    group.finish();
}

fn measure_whole(bencher: &mut Bencher, text: &[u8]) {
    measure(bencher, || {
        let mut validator = Utf8Validator::START;
        assert!(validator.push(black_box(text)).is_ok());
        assert!(validator.is_complete());
    });
}

fn measure_cut(bencher: &mut Bencher, text: &[u8]) {
    let middle = text.len() / 2;
    let is_continuation = |byte: &u8| byte & 0xc0 == 0x80;
    let cut = middle + text[middle..].iter().position(is_continuation).unwrap_or(0);
    let (head, tail) = text.split_at(cut);
    assert_eq!(std::str::from_utf8(head).is_ok(), text.is_ascii());

    measure(bencher, || {
        let mut validator = Utf8Validator::START;
        assert!(validator.push(black_box(head)).is_ok());
        assert!(validator.push(black_box(tail)).is_ok());
        assert!(validator.is_complete());
    });
}

fn measure_std(bencher: &mut Bencher, text: &[u8]) {
    measure(bencher, || assert!(std::str::from_utf8(black_box(text)).is_ok()));
}

fn measure_simdutf8(bencher: &mut Bencher, text: &[u8]) {
    measure(bencher, || assert!(simdutf8::basic::from_utf8(black_box(text)).is_ok()));
}

/// As a program would send it: one byte a character.
fn ascii_text(len: usize) -> String {
    r#"{"temperature":21.5,"humidity":40}"#.chars().cycle().take(len).collect()
}

/// As people write it: characters of one to four bytes; ASCII where no whole one fits at the end.
fn multi_byte_text(len: usize) -> String {
    let mut text = String::with_capacity(len);
    for character in "Žluťoučký kůň 馬は走る 🐎 ".chars().cycle() {
        if text.len() + character.len_utf8() > len {
            break;
        }
        text.push(character);
    }
    text.extend(std::iter::repeat_n('.', len - text.len()));
    text
}
