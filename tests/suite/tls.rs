//! TLS over real connections, with rustls' own client as the peer: certificates, tickets, what is
//! refused, and the program that reads its certificates again.

use std::{
    env,
    fs::{self, Permissions},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, ChildStderr, Command},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use ringecho::{
    config::{Bounds, Config, ConfigError, Http, Network, Observation, Time, Tls, Within},
    metrics::Totals,
    server::{Server, StartError},
    tls::fingerprint,
};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind,
    RootCertStore, SignatureScheme, StreamOwned, SupportedProtocolVersion,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    version::{TLS12, TLS13},
};
use tungstenite::{
    Message, WebSocket,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::{
    peer::{PATIENCE, Peer, TestServer, UPGRADE, config_with_workers, planes, with_server},
    program::{ringecho, signal, start},
};

/// Whoever certifies servers and clients of a test, and the files that it has written.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let number = COUNT.fetch_add(1, Relaxed);
        let directory =
            env::temp_dir().join(format!("ringecho-tls-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self { issuer, directory }
    }

    /// Certifies these names, and returns the certificate and its key in PEM.
    fn certify(&self, common_name: &str, names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes the files of a server that is known by these names.
    fn write_server(&self, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.certify(file, names);
        (self.write(&format!("{file}.pem"), &certificate), self.write(&format!("{file}.key"), &key))
    }

    /// A server's flags with a certificate for each of these names.
    fn tls(&self, names: &[&str]) -> Tls {
        let (certificates, keys) =
            names.iter().map(|name| self.write_server(name, &[*name])).unzip();
        Tls { certificates, keys, ..Tls::default() }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Arc::new(roots)
    }

    /// A client that believes this authority, and shows what it has certified.
    fn client(
        &self,
        version: &'static SupportedProtocolVersion,
        shows: Option<(String, String)>,
    ) -> ClientConfig {
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(self.roots(), provider.clone()).build();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_webpki_verifier(verifier.unwrap());
        match shows {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(certificates(&certificate), private_key(&key))
                .unwrap(),
        }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

fn private_key(pem: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A server's configuration: TLS on a free port.
fn config(tls: Tls) -> Config {
    let config = config_with_workers(1);
    let listen = vec!["tls+127.0.0.1:0".parse().unwrap()];
    Config { network: Network { listen, ..config.network }, tls, ..config }
}

type Client = WebSocket<StreamOwned<ClientConnection, TcpStream>>;

/// A TLS connection whose handshake is done, or why it is not.
fn secure(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let session = ClientConnection::new(config.clone(), name).unwrap();
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(session, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

fn upgrade(stream: StreamOwned<ClientConnection, TcpStream>) -> Client {
    tungstenite::client("wss://localhost/ws", stream).expect("an upgrade").0
}

fn open(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Client {
    upgrade(secure(address, config, name).expect("a handshake"))
}

fn expect_echo(client: &mut Client, message: &Message) {
    client.send(message.clone()).unwrap();
    assert_eq!(client.read().unwrap(), *message);
}

/// Closes, and reads to the end: the Close frame's echo, `close_notify`, the end of TCP.
fn close(client: &mut Client) {
    let close = CloseFrame { code: CloseCode::Library(4000), reason: "enough".into() };
    client.close(Some(close.clone())).unwrap();
    assert_eq!(client.read().unwrap(), Message::Close(Some(close)));
    let end = client.read().unwrap_err();
    assert!(matches!(end, tungstenite::Error::ConnectionClosed), "{end}");
    assert_eq!(
        client.get_mut().read_to_end(&mut Vec::new()).unwrap(),
        0,
        "close_notify comes before the end"
    );
}

/// The server's totals after a test on each plane.
fn totals_of(config: &Config, test: impl Fn(&TestServer)) -> [Totals; 4] {
    planes(config).map(|config| {
        let server = TestServer::start(&config);
        test(&server);
        let totals = server.stop();
        assert_eq!(totals.accepted, totals.ended_count(), "{totals:?}");
        totals
    })
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-10.6
//= type=test
//# WebSocket implementations MUST support TLS
#[test]
fn messages_come_back_over_tls_of_either_version() {
    let authority = Authority::new();
    with_server(&config(authority.tls(&["localhost"])), |server| {
        for version in [&TLS12, &TLS13] {
            let client_config = Arc::new(authority.client(version, None));
            let mut client = open(server.address, &client_config, "localhost");
            for len in [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_536, 1 << 20] {
                let payload: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
                expect_echo(&mut client, &Message::binary(payload));
            }
            expect_echo(&mut client, &Message::text("héllo wörld ✓".repeat(3000)));
            client.send(Message::Ping(b"beat"[..].into())).unwrap();
            assert_eq!(client.read().unwrap(), Message::Pong(b"beat"[..].into()));
            close(&mut client);
        }
    });
}

/// Both directions at once, and more than any buffer holds: nobody waits for the other for ever.
#[test]
fn a_client_that_reads_late_gets_everything() {
    let authority = Authority::new();
    with_server(&config(authority.tls(&["localhost"])), |server| {
        let client_config = Arc::new(authority.client(&TLS13, None));
        let mut client = open(server.address, &client_config, "localhost");
        let payload: Vec<u8> = (0..=u8::MAX).cycle().take(700_000).collect();
        for _ in 0..3 {
            client.send(Message::binary(payload.clone())).unwrap();
        }
        for _ in 0..3 {
            assert!(client.read().unwrap() == Message::binary(payload.clone()));
        }
        close(&mut client);
    });
}

#[test]
fn page_is_served_over_tls() {
    let authority = Authority::new();
    with_server(&config(authority.tls(&["localhost"])), |server| {
        let client_config = Arc::new(authority.client(&TLS13, None));
        let mut stream = secure(server.address, &client_config, "localhost").unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("close_notify at the end");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.trim_end().ends_with("</html>"));
    });
}

#[test]
fn requests_go_on_over_tls_and_are_sent_back_with_what_was_agreed_on() {
    let authority = Authority::new();
    let http = Http { http_echo: Some("/http".parse().unwrap()), ..Http::default() };
    let config = Config { http, ..config(authority.tls(&["localhost"])) };
    with_server(&config, |server| {
        for (versions, expected) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
            let client_config = Arc::new(authority.client(versions, None));
            let mut stream = secure(server.address, &client_config, "localhost").unwrap();
            let read_body = |stream: &mut StreamOwned<ClientConnection, TcpStream>| {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                let mut body = vec![0; length.expect(&head).parse().unwrap()];
                stream.read_exact(&mut body).unwrap();
                String::from_utf8(body).unwrap()
            };
            for _ in 0..3 {
                stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                assert_eq!(read_body(&mut stream), "ok\n");
            }
            // More than a record has, so that it comes in several.
            let body = "x".repeat(40_000);
            let head = "POST /http HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n";
            stream.write_all([head, &body].concat().as_bytes()).unwrap();
            let echoed: serde_json::Value = serde_json::from_str(&read_body(&mut stream)).unwrap();
            assert!(echoed["body"] == *body);
            assert_eq!(echoed["tls"]["version"], expected);
            assert_eq!(echoed["tls"]["sni"], "localhost");
            assert!(echoed["tls"]["cipher"].as_str().is_some_and(|it| it.starts_with("TLS")));
            assert!(echoed["tls"]["client_name"].is_null());
            stream.write_all(UPGRADE.as_bytes()).unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 101");
        }
    });
}

#[test]
fn client_gets_the_certificate_of_the_name_that_it_asks_for() {
    let authority = Authority::new();
    let mut tls = authority.tls(&["a.example", "b.example"]);
    let (certificate, key) = authority.write_server("wild", &["*.c.example", "127.0.0.1"]);
    tls.certificates.push(certificate);
    tls.keys.push(key);
    with_server(&config(tls), |server| {
        let client_config = Arc::new(authority.client(&TLS13, None));
        for name in ["a.example", "b.example", "any.c.example"] {
            // The client believes the certificate, so it is the one of the name.
            close(&mut open(server.address, &client_config, name));
        }
        // The first one is for those who ask for another name, or for none.
        for name in ["d.example", "127.0.0.1"] {
            let refused = secure(server.address, &client_config, name).unwrap_err().to_string();
            assert!(refused.contains("not valid for name"), "{refused}");
            assert!(refused.contains("a.example"), "{refused}");
        }
    });
}

#[test]
fn session_is_resumed_with_a_ticket_on_any_worker() {
    let authority = Authority::new();
    let of_one = config(authority.tls(&["localhost"]));
    let cores = config_with_workers(3).cores;
    let totals = totals_of(&Config { cores, ..of_one }, |server| {
        for version in [&TLS12, &TLS13] {
            let client_config = Arc::new(authority.client(version, None));
            for round in 0..6 {
                let mut client = open(server.address, &client_config, "localhost");
                // Tickets come with the first response.
                expect_echo(&mut client, &Message::text("hello"));
                let kind = client.get_ref().conn.handshake_kind();
                let resumed = [HandshakeKind::Full, HandshakeKind::Resumed][usize::from(round > 0)];
                assert_eq!(kind, Some(resumed), "{version:?} {round}");
                close(&mut client);
            }
        }
    });
    for totals in totals {
        assert_eq!(totals.tls_handshakes, 12);
    }
}

#[test]
fn clients_show_a_certificate_if_authorities_are_named() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let tls = authority.tls(&["localhost"]);
    let client_authorities = authority.write("clients.pem", &authority.issuer.pem());
    let tls = Tls { client_authorities: Some(client_authorities), ..tls };
    let admin = Some("127.0.0.1:0".parse().unwrap());
    let config = config(tls);
    let observation = Observation { admin_listen: admin, ..config.observation.clone() };
    let totals = totals_of(&Config { observation, ..config }, |server| {
        for version in [&TLS12, &TLS13] {
            let shown = authority.certify("Anna", &["anna.example"]);
            let known = Arc::new(authority.client(version, Some(shown)));
            for is_resumed in [false, true] {
                let mut client = open(server.address, &known, "localhost");
                expect_echo(&mut client, &Message::text("hello"));
                let kind = client.get_ref().conn.handshake_kind();
                assert_eq!(kind == Some(HandshakeKind::Resumed), is_resumed);
                let connections = connections(server);
                assert!(connections.contains(r#""client":"Anna""#), "{connections}");
                close(&mut client);
            }
            let unknown = [None, Some(stranger.certify("Eve", &["eve.example"]))];
            for shown in unknown {
                let client_config = Arc::new(authority.client(version, shown));
                // In TLS 1.3 the client is done before the server has seen its certificate.
                let refused = secure(server.address, &client_config, "localhost")
                    .and_then(|mut stream| stream.read(&mut [0]));
                let refused = refused.unwrap_err().to_string();
                assert!(refused.contains("alert"), "{refused}");
            }
        }
    });
    for totals in totals {
        let refused = [("tls_certificate_missing", 2), ("tls_certificate_refused", 2)];
        assert_eq!(totals.refused, refused);
        assert_eq!(totals.tls_handshakes, 4);
    }
}

/// What the admin listener says of the connections.
fn connections(server: &TestServer) -> String {
    let admin = server.admin.as_ref().expect("it is served").to_string();
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.write_all(b"GET /connections HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn plain_request_on_a_tls_port_is_told_what_to_change() {
    let authority = Authority::new();
    let totals = totals_of(&config(authority.tls(&["localhost"])), |server| {
        for request in [UPGRADE, "GET / HTTP/1.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let mut peer = server.connect();
            peer.send(request);
            let response = peer.read_to_end();
            assert!(response.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{response}");
            assert!(
                response.ends_with("this port speaks TLS: use https:// or wss://\n"),
                "{response}"
            );
        }
    });
    for totals in totals {
        assert_eq!(totals.refused, [("plain_http_on_tls", 3)]);
    }
}

#[test]
fn proxy_header_that_no_tls_port_expects_is_named_and_the_flag_that_reads_it() {
    let authority = Authority::new();
    let totals = totals_of(&config(authority.tls(&["localhost"])), |server| {
        let version_2 =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x01\x01\x01\x02\x02\x02\x02\0\x01\0\x02";
        for header in [&b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n"[..], version_2] {
            let mut peer = server.connect();
            peer.send(header);
            let response = peer.read_to_end();
            assert!(response.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{response}");
            assert!(response.contains("a PROXY protocol header came"), "{response}");
            assert!(response.contains("--proxy-protocol"), "{response}");
        }
    });
    for totals in totals {
        assert_eq!(totals.refused, [("foreign_protocol", 2)]);
    }
}

#[test]
fn tls_on_a_plain_port_is_told_what_to_change() {
    with_server(&config_with_workers(1), |server| {
        let authority = Authority::new();
        let client_config = Arc::new(authority.client(&TLS13, None));
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = ClientConnection::new(client_config.clone(), name).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        let mut peer = server.connect();
        peer.send(&hello[..]);
        let response = peer.read_to_end();
        assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
        assert!(response.contains("this port speaks plain HTTP"), "{response}");
        // The client does not wait for more.
        let error = secure(server.address, &client_config, "localhost").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    });
}

//= https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2
//= type=test
//# If this fails (e.g., the client
//# indicated a host name in the extended client hello "server_name"
//# extension that the server does not host), then close the connection;
#[test]
fn what_is_no_handshake_is_refused_with_an_alert_and_counted() {
    let authority = Authority::new();
    let mut unknown_protocol = authority.client(&TLS13, None);
    unknown_protocol.alpn_protocols = vec![b"ftp".to_vec()];
    let totals = totals_of(&config(authority.tls(&["localhost"])), |server| {
        let fatal = |description| [21, 3, 3, 0, 2, 2, description].map(char::from);
        for (bytes, alert) in [
            (&b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"[..], 50),
            (b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00", 50),
            (b"\x16\x03\x01\xff\xff", 50),
        ] {
            let mut peer = server.connect();
            peer.send(bytes);
            let answer = peer.read_to_end();
            assert_eq!(answer, fatal(alert).iter().collect::<String>());
        }
        let unknown_protocol = Arc::new(unknown_protocol.clone());
        let refused = secure(server.address, &unknown_protocol, "localhost").unwrap_err();
        assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
        // Whoever does not believe the certificate says so.
        let stranger = Arc::new(Authority::new().client(&TLS13, None));
        let refused = secure(server.address, &stranger, "localhost").unwrap_err();
        assert!(refused.to_string().contains("invalid peer certificate"), "{refused}");
    });
    for totals in totals {
        let expected =
            [("tls_malformed", 3), ("tls_incompatible", 1), ("tls_refused_by_client", 1)];
        assert_eq!(totals.refused, expected);
    }
}

#[test]
fn handshake_that_takes_too_long_is_ended() {
    let authority = Authority::new();
    let mut config = config(authority.tls(&["localhost"]));
    config.time = Time { handshake_timeout: second(), ..config.time };
    let totals = totals_of(&config, |server| {
        let mut silent = server.connect();
        let mut slow = server.connect();
        slow.send(&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..]);
        // The time of the opening is that of both handshakes together.
        let client_config = Arc::new(authority.client(&TLS13, None));
        let mut quiet = secure(server.address, &client_config, "localhost").unwrap();
        expect_over(&mut silent);
        expect_over(&mut slow);
        let mut response = String::new();
        quiet.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
    });
    for totals in totals {
        assert_eq!(totals.refused, [("head_timed_out", 1), ("tls_timed_out", 2)]);
    }
}

/// Waits for the end of a connection, whatever kind of end.
fn expect_over(peer: &mut Peer) {
    let mut rest = Vec::new();
    match peer.stream.read_to_end(&mut rest) {
        Ok(_) => assert_eq!(rest, b""),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

fn second<const MIN: u64, const MAX: u64>() -> Within<Duration, MIN, MAX> {
    Within::new(Duration::from_secs(1)).unwrap()
}

#[test]
fn handshakes_count_until_the_opening_is_over() {
    let authority = Authority::new();
    let config = config(authority.tls(&["localhost"]));
    let bounds = Bounds { handshakes_max: Within::new(1).unwrap(), ..config.bounds.clone() };
    with_server(&Config { bounds, ..config }, |server| {
        let client_config = Arc::new(authority.client(&TLS13, None));
        let first = secure(server.address, &client_config, "localhost").unwrap();
        let refused = secure(server.address, &client_config, "localhost").unwrap_err();
        assert!(!refused.to_string().is_empty());
        let mut first = upgrade(first);
        expect_echo(&mut first, &Message::text("hello"));
        let mut second = open(server.address, &client_config, "localhost");
        close(&mut second);
        close(&mut first);
    });
}

#[test]
fn server_that_stops_closes_over_tls() {
    let authority = Authority::new();
    with_server(&config(authority.tls(&["localhost"])), |server| {
        let client_config = Arc::new(authority.client(&TLS13, None));
        let mut client = open(server.address, &client_config, "localhost");
        expect_echo(&mut client, &Message::text("hello"));
        server.begin_to_stop();
        let Message::Close(Some(close)) = client.read().unwrap() else { panic!("no Close frame") };
        assert_eq!(close.code, CloseCode::Away);
        let end = client.read().unwrap_err();
        assert!(matches!(end, tungstenite::Error::ConnectionClosed), "{end}");
        assert_eq!(client.get_mut().read_to_end(&mut Vec::new()).unwrap(), 0, "close_notify");
    });
}

#[test]
fn peer_that_vanishes_without_close_notify_has_vanished() {
    let authority = Authority::new();
    let totals = totals_of(&config(authority.tls(&["localhost"])), |server| {
        let client_config = Arc::new(authority.client(&TLS13, None));
        let mut client = open(server.address, &client_config, "localhost");
        expect_echo(&mut client, &Message::text("hello"));
    });
    for totals in totals {
        assert_eq!(totals.ended, [("peer_vanished", 1)]);
    }
}

#[test]
fn long_chain_of_certificates_is_served() {
    let authority = Authority::new();
    let names: Vec<_> = (0..200).map(|at| format!("host-{at}.with.a.long.name.example")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).chain(["localhost"]).collect();
    let (certificate, key) = authority.certify("long", &names);
    // Certificates that lead nowhere may stand in a chain.
    let others: String = (0..4).map(|_| authority.certify("other", &names).0).collect();
    let chain = format!("{certificate}{others}");
    assert!(chain.len() > 40_000, "longer than two records");
    let certificates = vec![authority.write("long.pem", &chain)];
    let keys = vec![authority.write("long.key", &key)];
    with_server(&config(Tls { certificates, keys, ..Tls::default() }), |server| {
        for version in [&TLS12, &TLS13] {
            let client_config = Arc::new(authority.client(version, None));
            let mut client = open(server.address, &client_config, "localhost");
            expect_echo(&mut client, &Message::text("hello"));
            close(&mut client);
        }
    });
}

#[test]
fn flags_that_contradict_each_other_are_refused_with_what_to_add() {
    let with = |listen: &str, tls: Tls| {
        let listen = vec![listen.parse().unwrap()];
        let config = config_with_workers(1);
        let network = Network { listen, ..config.network };
        Server::start(&Config { network, tls, ..config }).err().expect("it is refused")
    };
    let (plain, secure) = ("127.0.0.1:0", "tls+127.0.0.1:0");
    let self_signed = || Tls { self_signed: true, ..Tls::default() };
    let named = |certificates: &[&str], keys: &[&str]| Tls {
        certificates: certificates.iter().map(PathBuf::from).collect(),
        keys: keys.iter().map(PathBuf::from).collect(),
        ..Tls::default()
    };
    for (listen, tls, expected) in [
        (secure, Tls::default(), ConfigError::TlsCertificateMissing),
        (plain, self_signed(), ConfigError::TlsListenerMissing),
        (plain, named(&["a"], &["b"]), ConfigError::TlsListenerMissing),
        (
            secure,
            named(&["a", "b"], &["c"]),
            ConfigError::TlsKeyMissing { certificates: 2, keys: 1 },
        ),
        (
            secure,
            Tls { self_signed: true, ..named(&["a"], &["b"]) },
            ConfigError::TlsCertifiedTwice,
        ),
    ] {
        match with(listen, tls) {
            StartError::Config(error) => assert_eq!(error, expected),
            other => panic!("{other}"),
        }
    }
    let authority = Authority::new();
    let (certificate, key) = authority.write_server("a", &["a.example"]);
    let (_, other_key) = authority.write_server("b", &["b.example"]);
    let empty = authority.write("empty", "");
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let (certificate, key, other_key, empty) =
        (text(&certificate), text(&key), text(&other_key), text(&empty));
    let client_authorities = Some(PathBuf::from(&empty));
    for (tls, expected) in [
        (named(&["/no/such"], &[&key]), "--tls-cert /no/such: cannot be read: "),
        (named(&[&empty], &[&key]), ": there is no certificate in it; expected PEM"),
        (named(&[&key], &[&key]), ": there is no certificate in it; expected PEM"),
        (named(&[&certificate], &[&empty]), ": there is no private key in it"),
        (named(&[&certificate], &[&certificate]), ": there is no private key in it"),
        (named(&[&certificate], &[&other_key]), " is not the key of --tls-cert "),
        (
            Tls { client_authorities, ..named(&[&certificate], &[&key]) },
            "there is no certificate in it; expected PEM",
        ),
    ] {
        let refusal = with(secure, tls).to_string();
        assert!(refusal.contains(expected), "{refusal}");
        assert!(refusal.starts_with("--tls-"), "{refusal}");
    }
}

/// A running program that speaks TLS.
struct Program {
    child: Child,
    address: SocketAddr,
    log: Receiver<String>,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let mut command: Command = ringecho();
        command.args(["--listen=tls+127.0.0.1:0", "--workers=1"]).args(arguments);
        let (mut child, line) = start(&mut command);
        let url = line.strip_prefix("listening on wss://").expect(&line);
        let address = url.split('/').next().unwrap().parse().unwrap();
        let log = lines(child.stderr.take().unwrap());
        Self { child, address, log }
    }

    /// Waits for a line of the log with this text.
    fn expect_line(&self, text: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn stop(mut self) -> Vec<String> {
        signal(&self.child, Signal::SIGTERM);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        self.log.iter().collect()
    }
}

fn lines(stderr: ChildStderr) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Whether a new connection gets the certificate that is certified for this name.
fn serves(program: &Program, authority: &Authority, name: &str) -> bool {
    let client_config = Arc::new(authority.client(&TLS13, None));
    secure(program.address, &client_config, name).is_ok()
}

#[test]
fn certificates_are_read_again_and_nobody_is_dropped() {
    let authority = Authority::new();
    let (certificate, key) = authority.write_server("server", &["old.example"]);
    let flags =
        [format!("--tls-cert={}", certificate.display()), format!("--tls-key={}", key.display())];
    let program = Program::start(&[&flags[0], &flags[1]]);
    let client_config = Arc::new(authority.client(&TLS13, None));
    let mut client = open(program.address, &client_config, "old.example");
    expect_echo(&mut client, &Message::text("before"));

    // By a signal.
    authority.write_server("server", &["signal.example"]);
    signal(&program.child, Signal::SIGHUP);
    program.expect_line("certificates read again");
    // Until each worker has them, one may still answer as before.
    while !serves(&program, &authority, "signal.example") {}
    while serves(&program, &authority, "old.example") {}
    expect_echo(&mut client, &Message::text("after a signal"));

    // By themselves, as one that renews them puts another file in the place.
    let (new_certificate, new_key) = authority.write_server("new", &["changed.example"]);
    fs::rename(new_key, &key).unwrap();
    fs::rename(new_certificate, &certificate).unwrap();
    program.expect_line("certificates read again");
    while !serves(&program, &authority, "changed.example") {}
    while serves(&program, &authority, "signal.example") {}
    expect_echo(&mut client, &Message::text("after a change"));

    // What is wrong changes nothing, and is said once.
    fs::write(&certificate, "nothing").unwrap();
    let warning = program.expect_line("the certificates stay as they are");
    assert!(warning.contains("there is no certificate in it"), "{warning}");
    assert!(serves(&program, &authority, "changed.example"));
    expect_echo(&mut client, &Message::text("after a mistake"));
    close(&mut client);
    let rest = program.stop();
    assert!(!rest.iter().any(|line| line.contains("stay as they are")), "{rest:?}");
}

/// Root reads the files, and becomes another user, who cannot.
#[test]
fn certificates_that_only_root_can_read_are_served_by_another_user() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: this needs root");
    }
    let authority = Authority::new();
    let (certificate, key) = authority.write_server("server", &["old.example"]);
    let hide = || {
        for file in [&certificate, &key] {
            fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
        }
    };
    hide();
    for sandbox in ["--sandbox=auto", "--sandbox=off"] {
        let flags = [
            format!("--tls-cert={}", certificate.display()),
            format!("--tls-key={}", key.display()),
        ];
        let program =
            Program::start(&["--user=65533:65532", sandbox, flags[0].as_str(), &flags[1]]);
        let client_config = Arc::new(authority.client(&TLS13, None));
        let mut client = open(program.address, &client_config, "old.example");
        expect_echo(&mut client, &Message::text("before"));
        signal(&program.child, Signal::SIGHUP);
        let warning = program.expect_line("the certificates stay as they are");
        assert!(warning.contains("Permission denied"), "{warning}");
        assert!(serves(&program, &authority, "old.example"));
        expect_echo(&mut client, &Message::text("after"));
        close(&mut client);
        program.stop();
    }
    // Whoever starts anew reads them anew.
    authority.write_server("server", &["new.example"]);
    hide();
    let flags =
        [format!("--tls-cert={}", certificate.display()), format!("--tls-key={}", key.display())];
    let program = Program::start(&["--user=65533:65532", &flags[0], &flags[1]]);
    assert!(serves(&program, &authority, "new.example"));
    program.stop();
}

/// Believes the server whose certificate has this fingerprint.
#[derive(Debug)]
struct Pinned(String);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if fingerprint(certificate) == self.0 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn certificate_for_a_trial_is_known_by_its_fingerprint() {
    let program = Program::start(&["--tls-self-signed"]);
    let line = program.expect_line("made for this run");
    let fingerprint = line.split("sha256=").nth(1).expect(&line);
    let fingerprint = fingerprint.trim_matches('"').split([' ', '"']).next().unwrap();
    assert_eq!(fingerprint.split(':').count(), 32, "{line}");
    let provider = Arc::new(ring::default_provider());
    let client_config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(fingerprint.to_owned())))
        .with_no_client_auth();
    let mut client = open(program.address, &Arc::new(client_config), "localhost");
    expect_echo(&mut client, &Message::text("hello"));
    close(&mut client);
    let mut peer = Peer::connect(program.address);
    peer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(peer.read_to_end().contains("this port speaks TLS"));
    program.stop();
}
