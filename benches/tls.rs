//! TLS sessions without I/O: a handshake, full and resumed, of both sides together; and a record of
//! either size, encrypted by one side and decrypted by the other. With the feature `aws-lc-rs` beside
//! the other cryptography that rustls has.

mod measure;

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use measure::measure;
use ringecho::tls::TlsSession;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{PrivateKeyDer, ServerName},
    server::ProducesTickets,
};

/// Payloads, in bytes: a short message, and the longest that a record holds.
const SIZES: [usize; 2] = [64, 16 << 10];

criterion_group!(benches, bench_tls);
criterion_main!(benches);

/// What both sides of the sessions have in common.
struct Sides {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Sides {
    fn new(provider: CryptoProvider, tickets: Arc<dyn ProducesTickets>, resumes: bool) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(provider);
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        server.ticketer = tickets;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        if !resumes {
            client.resumption = Resumption::disabled();
        }
        Self { server: Arc::new(server), client: Arc::new(client) }
    }

    /// Both sides after their handshake.
    fn open(&self) -> (TlsSession, TlsSession) {
        let name = ServerName::try_from("localhost").unwrap();
        let mut server = TlsSession::server(self.server.clone()).unwrap();
        let mut client = TlsSession::client(self.client.clone(), name).unwrap();
        while client.has_output() || server.has_output() {
            pass(&mut client, &mut server);
            pass(&mut server, &mut client);
        }
        assert!(!server.is_handshaking() && !client.is_handshaking());
        (server, client)
    }
}

fn pass(from: &mut TlsSession, to: &mut TlsSession) {
    let (mut ciphertext, mut plaintext) = (Vec::new(), Vec::new());
    from.take_output(&mut ciphertext);
    to.open(&mut ciphertext, &mut plaintext).unwrap();
    assert!(plaintext.is_empty());
}

fn bench_tls(criterion: &mut Criterion) {
    bench(criterion, "ring", ring::default_provider, ring::Ticketer::new);
    #[cfg(feature = "aws-lc-rs")]
    {
        use rustls::crypto::aws_lc_rs;
        bench(criterion, "aws-lc-rs", aws_lc_rs::default_provider, aws_lc_rs::Ticketer::new);
    }
}

fn bench(
    criterion: &mut Criterion,
    name: &str,
    provider: fn() -> CryptoProvider,
    ticketer: fn() -> Result<Arc<dyn ProducesTickets>, rustls::Error>,
) {
    let mut group = criterion.benchmark_group("tls");
    for (kind, resumes) in [("full", false), ("resumed", true)] {
        let sides = Sides::new(provider(), ticketer().unwrap(), resumes);
        group.bench_function(format!("handshake-{kind}/{name}"), |bencher| {
            // The first has no ticket yet.
            sides.open();
            measure(bencher, || {
                let (server, _) = sides.open();
                assert_eq!(server.is_resumed(), resumes);
            });
        });
    }
    let sides = Sides::new(provider(), ticketer().unwrap(), false);
    for size in SIZES {
        let (mut server, mut client) = sides.open();
        let payload = vec![0x5a; size];
        let mut place = vec![0; client.sealed_len(size)];
        let mut plaintext = Vec::with_capacity(size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new(format!("record-{name}"), size), |bencher| {
            measure(bencher, || {
                let sealed = client.seal_into(&payload, &mut place).unwrap();
                plaintext.clear();
                server.open(&mut place[..sealed.len], &mut plaintext).unwrap();
                assert_eq!(plaintext.len(), size);
            });
        });
    }
    group.finish();
}
