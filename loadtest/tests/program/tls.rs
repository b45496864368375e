//! TLS as the flags ask for it: versions, ALPN, SNI, resumption, certificates of both sides; against
//! servers of rustls.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
    version,
};

use crate::{
    http2_server::{Conduct, Http2Server},
    invocation::{
        Files, Outcome, assert_matches, assert_matches_definition, in_long_enough, program, run,
    },
    servers::{Server, config, echo},
};

const SHORT: &str = "--warmup 50ms --duration 500ms --threads 2 --connections 4";

/// Authorities so far.
static AUTHORITIES: AtomicU64 = AtomicU64::new(0);

/// An authority, and what it has certified.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
pub(crate) struct Certified {
    certificate: CertificateDer<'static>,
    key: KeyPair,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Authorities of one name would be one authority with a wrong signature.
        let number = AUTHORITIES.fetch_add(1, Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("authority {number}"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Certifies `name`, until the end of a year.
    fn certify_until(&self, name: &str, year: i32) -> Certified {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(year, 12, 31);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certified { certificate: certificate.der().clone(), pem: certificate.pem(), key }
    }

    pub(crate) fn certify(&self, name: &str) -> Certified {
        self.certify_until(name, 2100)
    }

    /// The configuration of a server with a certificate for `localhost`.
    pub(crate) fn server_config(&self, alpn: &[&str]) -> ServerConfig {
        let mut tls = Self::server_config_of(rustls::ALL_VERSIONS, None, self.certify("localhost"));
        tls.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        tls
    }

    fn server_config_of(
        versions: &[&'static rustls::SupportedProtocolVersion],
        clients: Option<&Authority>,
        Certified { certificate, key, .. }: Certified,
    ) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.issuer.der().clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        builder.with_single_cert(vec![certificate], key).unwrap()
    }
}

/// What a server has seen of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    is_resumed: bool,
    server_name: Option<String>,
}

/// A server of WebSocket connections over TLS, and what it has seen.
fn serve(tls: ServerConfig) -> (Server, Arc<Mutex<Vec<Session>>>) {
    let seen = Arc::<Mutex<Vec<Session>>>::default();
    let (tls, noted) = (Arc::new(tls), Arc::clone(&seen));
    let server = Server::of_tcp(move |stream| {
        let session = ServerConnection::new(Arc::clone(&tls)).unwrap();
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            if stream.conn.complete_io(&mut stream.sock).is_err() {
                return;
            }
        }
        noted.lock().unwrap().push(Session {
            is_resumed: stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            server_name: stream.conn.server_name().map(str::to_owned),
        });
        if let Ok(websocket) = tungstenite::accept_with_config(stream, Some(config())) {
            echo(websocket);
        }
    });
    (server, seen)
}

/// A directory with the PEM files that flags name.
fn write(files: &Files, name: &str, text: &str) -> String {
    let path = files.path(name);
    fs::write(&path, text).unwrap();
    path
}

/// A churn on one thread.
fn churn(url: &str, arguments: &str) -> Outcome {
    let output =
        program(&format!("churn {url} -t 1 --warmup 0s --json - {arguments}")).output().unwrap();
    let outcome = Outcome::read_any(&output);
    assert_matches(&outcome.report, include_str!("../../churn.schema.json"));
    outcome
}

#[track_caller]
fn assert_code(outcome: &Outcome, code: &str) {
    let causes = outcome.report["causes"].as_array().unwrap();
    assert!(causes.iter().any(|cause| cause["code"] == code), "{code}: {causes:#?}");
}

#[test]
fn sessions_go_on_by_tickets_only_if_that_is_asked_for() {
    let files = Files::new("tls-resume");
    let authority = Authority::new();
    let ca = write(&files, "ca.pem", &authority.pem());
    for version in ["1.2", "1.3"] {
        for (flag, resumes) in [("", false), ("--tls-resume", true)] {
            let load = format!("-c 1 --ca {ca} --tls {version} {flag}");
            let (outcome, seen) = in_long_enough(
                |window| {
                    let (server, seen) = serve(authority.server_config(&[]));
                    let url = format!("wss://localhost:{}/", server.port());
                    (churn(&url, &format!("{load} --duration {window}")), seen)
                },
                |(outcome, _)| outcome.number("/cycles_total") > 1,
            );
            assert_eq!(outcome.number("/errors/total"), 0, "{:#}", outcome.report);
            let (full, resumed) = (outcome.number("/tls/full"), outcome.number("/tls/resumed"));
            let cycles = outcome.number("/cycles_total");
            // The last one may have ended after the others were counted.
            assert!((cycles..=cycles + 1).contains(&(full + resumed)), "{full} {resumed} {cycles}");
            let seen = seen.lock().unwrap();
            let seen_resumed = seen.iter().filter(|session| session.is_resumed).count() as u64;
            assert_eq!(seen_resumed, resumed, "{version} {flag}");
            if resumes {
                assert_eq!(full, 1, "{version}: {:#}", outcome.report);
                assert!(resumed > 0, "{version}: {:#}", outcome.report);
            } else {
                assert_eq!(resumed, 0);
            }
            assert_eq!(outcome.report["tls"]["agreed"][0]["version"], version);
        }
    }
}

#[test]
fn each_of_many_connections_pays_for_one_whole_handshake_if_sessions_go_on() {
    let files = Files::new("tls-resume-many");
    let authority = Authority::new();
    let ca = write(&files, "ca.pem", &authority.pem());
    let (server, _) = serve(authority.server_config(&[]));
    let url = format!("wss://localhost:{}/", server.port());
    let load = format!("-c 24 --ca {ca} --tls 1.3 --tls-resume");
    let outcome = in_long_enough(
        |window| churn(&url, &format!("{load} --duration {window}")),
        |outcome| outcome.number("/cycles_total") >= 2 * 24,
    );
    assert_eq!(outcome.number("/errors/total"), 0, "{:#}", outcome.report);
    assert_eq!(outcome.number("/tls/full"), 24, "{:#}", outcome.report);
    assert!(outcome.number("/tls/resumed") > 0, "{:#}", outcome.report);
}

#[test]
fn what_was_agreed_on_is_reported() {
    let files = Files::new("tls-agreed");
    let authority = Authority::new();
    let ca = write(&files, "ca.pem", &authority.pem());
    let (server, seen) = serve(authority.server_config(&["other", "http/1.1"]));
    let url = format!("wss://localhost:{}/", server.port());
    for (flags, version, suite_begins, alpn) in [
        ("", "1.3", "TLS_", "http/1.1"),
        ("--tls 1.3 --alpn other,http/1.1", "1.3", "TLS_", "other"),
        ("--tls 1.2", "1.2", "TLS_ECDHE_", "http/1.1"),
    ] {
        let outcome = run(&format!("{url} {SHORT} --ca {ca} {flags}"));
        outcome.assert_success();
        let tls = &outcome.report["tls"];
        assert_eq!(tls["server_name"], "localhost");
        assert_eq!((&tls["full"], &tls["resumed"]), (&4.into(), &0.into()));
        assert_eq!(tls["handshake_us"]["samples"], 4);
        assert_eq!(tls["agreed"].as_array().unwrap().len(), 1, "{tls:#}");
        let agreed = &tls["agreed"][0];
        assert_eq!(agreed["version"], version);
        assert_eq!(agreed["alpn"], alpn, "{flags}");
        assert!(agreed["cipher_suite"].as_str().unwrap().starts_with(suite_begins), "{agreed}");
        assert_eq!(agreed["sessions"], 4);
    }
    assert!(seen.lock().unwrap().iter().all(|it| it.server_name.as_deref() == Some("localhost")));
    let output = program(&format!("{url} {SHORT} --ca {ca}")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\n  TLS         4 full, 0 resumed; 1.3 TLS_"), "{text}");
    assert!(text.contains(", ALPN http/1.1; SNI localhost\n    handshake p50 "), "{text}");
}

#[test]
fn a_server_that_chooses_what_is_not_spoken_is_an_error() {
    let files = Files::new("tls-alpn");
    let authority = Authority::new();
    let ca = write(&files, "ca.pem", &authority.pem());
    let (server, _) = serve(authority.server_config(&["h2", "http/1.1"]));
    let url = format!("wss://localhost:{}/", server.port());
    let outcome = run(&format!("{url} {SHORT} --ca {ca} --alpn h2,http/1.1"));
    outcome.assert_errors(&[("connect", 4)]);
    outcome.assert_cause("speak it with --http2, or leave h2 out of --alpn");
    assert_code(&outcome, "http2_alpn_chosen");
    let outcome = run(&format!("{url} {SHORT} --ca {ca} --alpn mqtt"));
    outcome.assert_errors(&[("connect", 4)]);
    assert_code(&outcome, "tls_no_common_application_protocol");
}

#[test]
fn certificates_that_are_not_accepted_are_told_apart() {
    let files = Files::new("tls-certificates");
    let (authority, stranger) = (Authority::new(), Authority::new());
    let ca = write(&files, "ca.pem", &authority.pem());
    let other = write(&files, "other.pem", &stranger.pem());
    let (server, seen) = serve(authority.server_config(&[]));
    let port = server.port();
    for (host, flags, code, advice) in [
        ("localhost", format!("--ca {other}"), "tls_certificate_unknown_authority", "--ca FILE"),
        ("127.0.0.1", format!("--ca {ca}"), "tls_certificate_name_mismatch", "--sni NAME"),
        (
            "localhost",
            format!("--ca {ca} --sni other.example"),
            "tls_certificate_name_mismatch",
            "--sni NAME",
        ),
    ] {
        let outcome = run(&format!("wss://{host}:{port}/ {SHORT} {flags}"));
        outcome.assert_errors(&[("connect", 4)]);
        assert_code(&outcome, code);
        outcome.assert_cause(advice);
    }
    assert_eq!(*seen.lock().unwrap(), []);
    let outcome = run(&format!("wss://127.0.0.1:{port}/ {SHORT} --ca {ca} --sni localhost"));
    outcome.assert_success();
    assert_eq!(outcome.report["tls"]["server_name"], "localhost");
    assert_eq!(seen.lock().unwrap()[0].server_name.as_deref(), Some("localhost"));

    let expired = authority.certify_until("localhost", 2002);
    let (server, _) = serve(Authority::server_config_of(rustls::ALL_VERSIONS, None, expired));
    let outcome = run(&format!("wss://localhost:{}/ {SHORT} --ca {ca}", server.port()));
    outcome.assert_errors(&[("connect", 4)]);
    assert_code(&outcome, "tls_certificate_expired");
}

#[test]
fn a_client_shows_its_certificate_where_one_is_needed() {
    let files = Files::new("tls-clients");
    let (authority, clients, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let ca = write(&files, "ca.pem", &authority.pem());
    let flags = |name: &str, Certified { pem, key, .. }: Certified| {
        let certificate = write(&files, &format!("{name}.pem"), &pem);
        let key = write(&files, &format!("{name}.key"), &key.serialize_pem());
        format!("--client-cert {certificate} --client-key {key}")
    };
    let known = flags("known", clients.certify("client"));
    let unknown = flags("unknown", stranger.certify("client"));
    for (version, versions) in [("1.2", &[&version::TLS12][..]), ("1.3", &[&version::TLS13][..])] {
        let certified = authority.certify("localhost");
        let (server, _) = serve(Authority::server_config_of(versions, Some(&clients), certified));
        let url = format!("wss://localhost:{}/", server.port());
        run(&format!("{url} {SHORT} --ca {ca} {known}")).assert_success();
        for (flags, code) in
            [("", "tls_client_certificate_needed"), (&*unknown, "tls_client_certificate_refused")]
        {
            let outcome = run(&format!("{url} {SHORT} --ca {ca} {flags}"));
            outcome.assert_errors(&[("connect", 4)]);
            assert_code(&outcome, code);
        }
        let other = if version == "1.2" { "1.3" } else { "1.2" };
        let outcome = run(&format!("{url} {SHORT} --ca {ca} {known} --tls {other}"));
        outcome.assert_errors(&[("connect", 4)]);
        assert_code(&outcome, "tls_no_common_version");
    }
    // Over HTTP/2 it is the transport that is refused.
    let mut tls = Authority::server_config_of(
        &[&version::TLS13],
        Some(&clients),
        authority.certify("localhost"),
    );
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let server = Http2Server::start_with_tls(Conduct::default(), tls);
    let url = format!("wss://localhost:{}/", server.port());
    run(&format!("{url} {SHORT} --http2 --ca {ca} {known}")).assert_success();
    let outcome = run(&format!("{url} {SHORT} --http2 --ca {ca}"));
    outcome.assert_errors(&[("connect", 4)]);
    assert_code(&outcome, "tls_client_certificate_needed");
}

/// The layers of each run are in its JSON, and their latencies in the text.
#[test]
fn searches_and_comparisons_tell_what_the_handshakes_of_each_run_took() {
    let files = Files::new("tls-of-each");
    let authority = Authority::new();
    let ca = write(&files, "ca.pem", &authority.pem());
    let tls = authority.server_config(&["h2"]);
    let server = Http2Server::start_with_tls(Conduct::default(), tls);
    let url = format!("wss://localhost:{}/echo", server.port());
    let short = format!("-c 4 -t 1 --transports 2 --http2 --ca {ca} --warmup 0s --duration 200ms");
    let range = "--slo p99<9s --start-rate 20 --max-rate 20 --confirm 1";
    let search = format!("search {url} {short} {range}");
    let compare = format!("compare {url} {url} {short} --rounds 2");
    for (command, definition, runs) in [
        (&search, "search", ["/probes/0", "/probes/1"]),
        (&compare, "compare", ["/a/rounds/0", "/b/rounds/1"]),
    ] {
        let output = program(&format!("{command} --json -")).output().unwrap();
        let outcome = Outcome::read_any(&output);
        assert_eq!(outcome.code, Some(0), "{:#}\n{}", outcome.report, outcome.stderr);
        assert_matches_definition(&outcome.report, definition);
        for run in runs {
            assert_eq!(outcome.number(&format!("{run}/tls/full")), 2);
            assert_eq!(outcome.number(&format!("{run}/tls/handshake_us/samples")), 2);
            assert_eq!(outcome.number(&format!("{run}/http2/settings_us/samples")), 2);
            assert_eq!(outcome.number(&format!("{run}/http2/stream_us/samples")), 4);
        }
        let output = program(command).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for latency in ["TLS handshake", "HTTP/2 settings", "HTTP/2 stream"] {
            let lines: Vec<_> = text.lines().filter(|line| line.contains(latency)).collect();
            assert_eq!(lines.len(), 2, "{latency}: {text}");
            assert!(
                lines.iter().all(|line| line.contains("p50") || line.contains("p99")),
                "{text}"
            );
        }
    }
    let output = program(&search.replace("search", "search churn")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("HTTP/2 stream"), "{text}");
}

#[test]
fn handshakes_are_exported_and_merged() {
    let files = Files::new("tls-exports");
    let authority = Authority::new();
    let ca = write(&files, "ca.pem", &authority.pem());
    let (server, _) = serve(authority.server_config(&["http/1.1"]));
    let url = format!("wss://localhost:{}/", server.port());
    let [csv, html] = ["csv", "html"].map(|name| files.path(name));
    let logs = ["a.hlog", "b.hlog"].map(|name| files.path(name));
    for log in &logs {
        let outcome =
            run(&format!("{url} {SHORT} --ca {ca} --csv {csv} --html {html} --hlog {log}"));
        outcome.assert_success();
    }
    let csv = files.read("csv");
    let mut rows = csv.lines().map(|row| row.split(',').collect::<Vec<&str>>());
    let header = rows.next().unwrap();
    let at = header.iter().position(|name| *name == "tls_p50_us").unwrap();
    assert_eq!(header[at..], ["tls_p50_us", "tls_p99_us", "tls_max_us"], "{header:?}");
    let first = rows.next().unwrap();
    assert!(first[at].parse::<f64>().unwrap() > 0.0, "{csv}");
    assert!(files.read("html").contains("TLS handshake"));

    let output = program(&format!("merge {} {} --json -", logs[0], logs[1])).output().unwrap();
    let merged = Outcome::read_any(&output);
    assert_matches_definition(&merged.report, "merged");
    assert_eq!(merged.number("/tls/full"), 8);
    assert_eq!(merged.number("/tls/agreed/0/sessions"), 8);
    assert_eq!(merged.number("/tls/handshake_us/samples"), 8);
}
