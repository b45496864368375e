//! The opening handshake (RFC 6455 §4.2): a decoded request head answered with a 101, or refused.
//! The size is the number of its header fields: the fewest that a client can send, and a browser's.

mod measure;

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::Request;
use measure::measure;
use ringecho::handshake::{HandshakeRefusal, Policy, http1::answer};

const MINIMAL: [(&str, &str); 5] = [
    ("host", "localhost:9001"),
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// What a browser adds.
const OF_A_BROWSER: [(&str, &str); 7] = [
    ("origin", "http://localhost:9001"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-US,en;q=0.9"),
    ("cache-control", "no-cache"),
    ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
    ("sec-websocket-protocol", "chat, superchat"),
];

criterion_group!(benches, bench_handshake);
criterion_main!(benches);

fn bench_handshake(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    group.throughput(Throughput::Elements(1));
    for fields in [MINIMAL.to_vec(), [&MINIMAL[..], &OF_A_BROWSER].concat()] {
        let mut bench = |operation: &str, measure: fn(&mut Bencher, Request<()>)| {
            group.bench_function(BenchmarkId::new(operation, fields.len()), |bencher| {
                measure(bencher, request(&fields));
            });
        };
        bench("accept", measure_accept);
        bench("refuse", measure_refuse);
    }
    group.finish();
}

fn measure_accept(bencher: &mut Bencher, mut request: Request<()>) {
    let policy = Policy { subprotocols: vec!["superchat".to_owned()], ..Policy::default() };
    let expected = answer(&mut request, &policy).expect("a valid request").response_head;
    // The accept key of the example in RFC 6455 §1.3.
    assert!(expected.windows(28).any(|part| part == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    measure(bencher, || {
        let acceptance = answer(&mut request, &policy).expect("a valid request");
        assert_eq!(acceptance.response_head, expected);
    });
}

fn measure_refuse(bencher: &mut Bencher, mut request: Request<()>) {
    let policy = Policy::default();
    request.headers_mut().remove("sec-websocket-key");
    measure(bencher, || {
        let refusal = answer(&mut request, &policy).expect_err("there is no key");
        assert_eq!(refusal, HandshakeRefusal::KeyInvalid);
    });
}

fn request(fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get("/ws");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a valid request")
}
