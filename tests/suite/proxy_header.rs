//! Real workers behind proxies: who is taken for the client, by whose word, and what becomes of those
//! whose word is not taken.

use std::{
    fs,
    io::BufReader,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use http::Request;
use nix::sys::signal::Signal;
use proxy_header::{Protocol, ProxiedAddress, ProxyHeader, Tlv};
use ringecho::config::{
    AccessLogTarget, Bounds, Config, Observation, Proxies, ProxyProtocol, Time, Within,
};
use serde_json::{Value, json};

use crate::{
    admission::{connect_from, expect_echo, here},
    config_file::{ConfigFile, log_line, output, stop},
    frames::{close, text},
    http2_peer::{Client, connect_request},
    listeners::at_path,
    peer::{Peer, TestServer, UPGRADE, config, planes, with_server},
    program::{address, ringecho, signal, start},
    seen,
    takeover::TestPath,
};

/// The proxy that is believed, and a peer that is not.
const PROXY: u8 = 9;
const STRANGER: u8 = 8;

/// The beginning of a header of version 2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A configuration that believes headers, and fields of requests, of these.
fn behind(
    proxy_protocol: ProxyProtocol,
    proxy_from: &[&str],
    forwarded_from: &[&str],
    config: Config,
) -> Config {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let (proxy_from, forwarded_from) = (parse(proxy_from), parse(forwarded_from));
    Config { proxies: Proxies { proxy_protocol, proxy_from, forwarded_from }, ..config }
}

/// The same, with an access log.
fn logging(config: Config, name: &str) -> (Config, PathBuf) {
    let name = format!("ringecho-{}-proxy-header-{name}.log", std::process::id());
    let path = std::env::temp_dir().join(name);
    let _ = fs::remove_file(&path);
    let access_log = Some(AccessLogTarget::File(path.clone()));
    let observation = Observation { access_log, ..config.observation };
    (Config { observation, ..config }, path)
}

/// A header for a client, in both versions, by an encoder of other people's.
fn headers(client: &str) -> [Vec<u8>; 2] {
    let source: SocketAddr = client.parse().unwrap();
    let destination = if source.is_ipv4() { "192.0.2.2:443" } else { "[2001:db8::2]:443" };
    let destination = destination.parse().unwrap();
    let address = ProxiedAddress { protocol: Protocol::Stream, source, destination };
    let mut header = ProxyHeader::with_address(address);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    header.encode_v1(&mut first).unwrap();
    header.append_tlv(Tlv::Authority("example.org".into()));
    header.append_tlv(Tlv::UniqueId(b"a\nb"[..].into()));
    header.encode_v2(&mut second).unwrap();
    [first, second]
}

/// A header of version 1 for a client.
fn line(client: &str) -> Vec<u8> {
    let [line, _] = headers(client);
    line
}

/// A connection from the proxy that begins with these bytes.
fn begin(server: &TestServer, from: u8, bytes: impl AsRef<[u8]>) -> Peer {
    let mut peer = connect_from(here(from), server.address);
    peer.send(bytes);
    peer
}

/// The same, and a request to upgrade in the same segment. The response has this status.
#[track_caller]
fn request(server: &TestServer, from: u8, header: &[u8], fields: &str, status: u16) -> Peer {
    let request = UPGRADE.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
    let mut peer = begin(server, from, [header, request.as_bytes()].concat());
    let head = peer.read_head();
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {head}");
    peer
}

/// Asks again and again, until there is room.
fn request_in_the_end(server: &TestServer, from: u8, header: &[u8], fields: &str) -> Peer {
    loop {
        let request = UPGRADE.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
        let mut peer = begin(server, from, [header, request.as_bytes()].concat());
        if peer.read_head().starts_with("HTTP/1.1 101 ") {
            return peer;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn local_address(peer: &Peer) -> String {
    peer.stream.local_addr().unwrap().to_string()
}

/// What is known of the only open connection.
fn only_connection(server: &TestServer) -> Value {
    loop {
        let mut listed = seen::get_json(server, "/connections");
        let connections = listed["connections"].as_array_mut().expect("a list");
        if let [connection] = &mut connections[..] {
            return connection.take();
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn client_that_a_proxy_announces_is_the_peer() {
    let config = behind(ProxyProtocol::Required, &["127.0.0.9"], &[], seen::config(1));
    with_server(&config, |server| {
        for client in ["203.0.113.7:4711", "[2001:db8::7]:4711"] {
            for (version, header) in headers(client).iter().enumerate() {
                let mut peer = request(server, PROXY, header, "", 101);
                expect_echo(&mut peer);
                let connection = only_connection(server);
                assert_eq!(connection["peer"], json!(client));
                assert_eq!(connection["via"], json!(local_address(&peer)));
                let (authority, unique_id) = match version {
                    0 => (Value::Null, Value::Null),
                    _ => (json!("example.org"), json!("a\\u{a}b")),
                };
                assert_eq!(connection["proxy"]["authority"], authority);
                assert_eq!(connection["proxy"]["unique_id"], unique_id);
                assert_eq!(connection["state"], json!("open"));
            }
        }
        // One that comes by IPv6 with an address of IPv4.
        let mapped = b"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:203.0.113.8 1 2\r\n";
        let _peer = request(server, PROXY, mapped, "", 101);
        assert_eq!(only_connection(server)["peer"], json!("203.0.113.7:1"));
    });
}

#[test]
fn proxy_that_connects_for_itself_is_the_peer() {
    let config = behind(ProxyProtocol::Required, &["127.0.0.0/8"], &[], seen::config(1));
    let mut local = Vec::new();
    ProxyHeader::with_local().encode_v2(&mut local).unwrap();
    with_server(&config, |server| {
        for header in [&local[..], b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN 1.2.3.4 x\r\n"] {
            let peer = request(server, PROXY, header, "", 101);
            let connection = only_connection(server);
            assert_eq!(connection["peer"], json!(local_address(&peer)));
            assert_eq!((&connection["via"], &connection["proxy"]), (&Value::Null, &Value::Null));
            drop(peer);
            let health = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            let mut check = begin(server, PROXY, [header, health].concat());
            assert!(check.read_to_end().ends_with("\r\n\r\nok\n"));
        }
    });
}

/// The header, the request and the first frames come in one segment, byte by byte, or each by itself.
#[test]
fn bytes_behind_a_header_are_what_they_would_be_without_it() {
    let config = behind(ProxyProtocol::Optional, &["127.0.0.9"], &[], config());
    let first = text("hello");
    let parts = [UPGRADE.as_bytes(), &first.encode(), &close(1000, "").encode()];
    with_server(&config, |server| {
        for header in headers("203.0.113.7:4711").into_iter().chain([Vec::new()]) {
            let all = [&[&header[..]], &parts[..]].concat();
            let whole = all.concat();
            let bytes: Vec<&[u8]> = whole.chunks(1).collect();
            for pieces in [&[&whole[..]][..], &all, &bytes] {
                let mut peer = connect_from(here(PROXY), server.address);
                peer.stream.set_nodelay(true).unwrap();
                for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                    peer.send(piece);
                }
                assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
                peer.expect([&first.encode_echo()[..], b"\x88\x02\x03\xe8"].concat());
                peer.expect_end();
            }
        }
    });
}

#[test]
fn header_that_is_missing_wrong_or_not_believed_is_refused_by_name() {
    let too_long = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    let block = [1, 1, 1, 1, 2, 2, 2, 2, 0, 1, 0, 2, 3, 0, 4, 0, 0, 0, 0];
    let changed = [SIGNATURE, &[0x21, 0x11, 0, 19], &block].concat();
    let twice = line("203.0.113.7:1").repeat(2);
    let then_http = [SIGNATURE, b"GET / HTTP/1.1\r\n\r\n"].concat();
    let cases = [
        (PROXY, UPGRADE.as_bytes(), 400, "proxy_header_missing", "has none"),
        (PROXY, b"\x16\x03\x01\0\xa5\x01", 400, "proxy_header_missing", "has none"),
        (PROXY, b"PROXY SCTP 1 2 3 4\r\n", 400, "proxy_header_malformed", "TCP4, TCP6 or UNKNOWN"),
        (PROXY, &then_http, 400, "proxy_header_malformed", "version 2"),
        (PROXY, &too_long, 400, "proxy_header_too_long", "4096 in version 2"),
        (
            PROXY,
            &[b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat(),
            400,
            "proxy_header_too_long",
            "107",
        ),
        (PROXY, &changed, 400, "proxy_header_checksum_wrong", "checksum"),
        (PROXY, &twice, 400, "foreign_protocol", "--proxy-from"),
        (STRANGER, &line("203.0.113.7:1"), 403, "proxy_header_untrusted", "not of yours"),
        (STRANGER, UPGRADE.as_bytes(), 403, "proxy_header_untrusted", "not of yours"),
        (STRANGER, b"", 403, "proxy_header_untrusted", "not of yours"),
    ];
    let config = behind(ProxyProtocol::Required, &["127.0.0.9"], &[], config());
    for (at, config) in planes(&config).into_iter().enumerate() {
        let (config, path) = logging(config, &format!("refused-{at}"));
        let server = TestServer::start(&config);
        for (from, bytes, status, _, said) in &cases {
            let response = begin(&server, *from, bytes).read_to_end();
            let shown = bytes.escape_ascii();
            assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {response}");
            assert!(response.contains(said), "{shown}: {response}");
        }
        drop(request(&server, PROXY, &line("203.0.113.7:4711"), "", 101));
        let totals = server.stop();
        for (.., name, _) in &cases {
            let expected = cases.iter().filter(|it| it.3 == *name).count() as u64;
            assert!(totals.refused.contains(&(name, expected)), "{name}: {:?}", totals.refused);
        }
        let lines = seen::lines(&path);
        assert_eq!(lines.len(), cases.len() + 1);
        // The next connection may be seen before the end of the one before it.
        let (refused, open): (Vec<_>, Vec<_>) =
            lines.iter().partition(|line| line["refusal"].is_string());
        let told = refused.iter().map(|line| {
            let peer: SocketAddr = line["peer"].as_str().unwrap().parse().unwrap();
            (line["refusal"].as_str().unwrap(), peer.ip())
        });
        let expected = cases.iter().map(|(from, .., name, _)| match *name {
            // That of the header that came twice is known.
            "foreign_protocol" => (*name, "203.0.113.7".parse().unwrap()),
            _ => (*name, here(*from)),
        });
        let (mut told, mut expected): (Vec<_>, Vec<_>) = (told.collect(), expected.collect());
        told.sort_unstable();
        expected.sort_unstable();
        assert_eq!(told, expected);
        assert_eq!(open[0]["peer"], json!("203.0.113.7:4711"));
        assert!(open[0]["via"].as_str().unwrap().starts_with("127.0.0.9:"));
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn optional_header_is_believed_of_a_proxy_and_refused_of_anybody_else() {
    let config = behind(ProxyProtocol::Optional, &["127.0.0.9"], &[], seen::config(1));
    with_server(&config, |server| {
        for from in [PROXY, STRANGER] {
            let peer = request(server, from, b"", "", 101);
            let connection = only_connection(server);
            assert_eq!(connection["peer"], json!(local_address(&peer)));
            assert_eq!(connection["via"], Value::Null);
        }
        let peer = request(server, PROXY, &line("203.0.113.7:4711"), "", 101);
        assert_eq!(only_connection(server)["peer"], json!("203.0.113.7:4711"));
        drop(peer);
        for header in headers("203.0.113.7:4711") {
            let response = begin(server, STRANGER, header).read_to_end();
            assert!(response.starts_with("HTTP/1.1 403 "), "{response}");
        }
    });
}

/// The peer falls silent when it has sent what there is to send.
#[test]
fn header_that_does_not_come_in_time_is_refused() {
    let handshake_timeout = Within::new(Duration::from_secs(1)).unwrap();
    let time = Time { handshake_timeout, ..Time::default() };
    for (mode, sent, said, reason) in [
        (ProxyProtocol::Required, "", "the PROXY protocol header took", "proxy_header_timed_out"),
        (ProxyProtocol::Required, "PROXY T", "the PROXY protocol header", "proxy_header_timed_out"),
        (ProxyProtocol::Optional, "PROXY T", "the PROXY protocol header", "proxy_header_timed_out"),
        (ProxyProtocol::Optional, "", "the request head took", "head_timed_out"),
        (ProxyProtocol::Optional, "PROXY UNKNOWN\r\n", "the request head took", "head_timed_out"),
    ] {
        let config = Config { time: time.clone(), ..config() };
        for config in planes(&behind(mode, &["127.0.0.9"], &[], config)) {
            let server = TestServer::start(&config);
            let response = begin(&server, PROXY, sent).read_to_end();
            assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
            assert!(response.contains(said), "{response}");
            assert_eq!(server.stop().refused, [(reason, 1)]);
        }
    }
}

/// Bounds of two connections for each address.
fn bounded(config: Config) -> Config {
    let connections_per_ip_max = Within::new(2).unwrap();
    Config { bounds: Bounds { connections_per_ip_max, ..Bounds::default() }, ..config }
}

/// Three clients of a proxy, told by `of`, and the proxy's own connections, told by `own`.
fn expect_bounds_of_clients(
    server: &TestServer,
    of: impl Fn(&str) -> (Vec<u8>, String),
    own: &(Vec<u8>, String),
) {
    let open = |of: &(Vec<u8>, String), status| request(server, PROXY, &of.0, &of.1, status);
    let clients = ["203.0.113.1:1", "203.0.113.2:1", "[2001:db8:0:1::1]:1"].map(&of);
    let mut inside: Vec<Peer> =
        clients.iter().flat_map(|client| [open(client, 101), open(client, 101)]).collect();
    // Another address of the same block of IPv6 is the same client.
    for client in clients.iter().chain([&of("[2001:db8:0:1::2]:1"), &of("203.0.113.1:2")]) {
        let mut refused = open(client, 429);
        assert!(refused.read_to_end().contains("your address has as many connections"));
    }
    inside.extend([open(own, 101), open(own, 101)]);
    assert!(open(own, 429).read_to_end().contains("your address has as many connections"));
    inside.iter_mut().for_each(expect_echo);
    // Each end makes room for its own address.
    drop(inside.remove(2));
    inside.push(request_in_the_end(server, PROXY, &clients[1].0, &clients[1].1));
    let _ = open(&clients[0], 429).read_to_end();
    inside.iter_mut().for_each(expect_echo);
}

#[test]
fn bounds_of_an_address_are_those_of_the_client_that_a_header_names() {
    let config = behind(ProxyProtocol::Optional, &["127.0.0.9"], &[], bounded(config()));
    with_server(&config, |server| {
        expect_bounds_of_clients(
            server,
            |client| (line(client), String::new()),
            &Default::default(),
        );
        let local = (b"PROXY UNKNOWN\r\n".to_vec(), String::new());
        expect_bounds_of_clients_anew(server, &local);
    });
}

/// The same bounds hold for clients that come without a proxy.
fn expect_bounds_of_clients_anew(server: &TestServer, own: &(Vec<u8>, String)) {
    let mut direct = Vec::new();
    for _ in 0..2 {
        direct.push(request_in_the_end(server, STRANGER, b"", ""));
        direct.push(request_in_the_end(server, PROXY, &own.0, &own.1));
    }
    let mut third = connect_from(here(STRANGER), server.address);
    assert!(third.read_to_end().starts_with("HTTP/1.1 429 "));
    let _ = request(server, PROXY, &own.0, &own.1, 429).read_to_end();
    direct.iter_mut().for_each(expect_echo);
}

/// Fields in which a proxy names a client.
fn for_client(client: &str) -> String {
    format!("X-Forwarded-For: 6.6.6.6, {}\r\n", client.parse::<SocketAddr>().unwrap().ip())
}

fn forwarded(client: &str) -> String {
    let node = match client.parse::<SocketAddr>().unwrap().ip() {
        IpAddr::V4(address) => format!("\"{address}:_port\""),
        IpAddr::V6(address) => format!("\"[{address}]:99\""),
    };
    format!("Forwarded: for=6.6.6.6\r\nForwarded: proto=https;for={node}, for=127.0.0.9\r\n")
}

#[test]
fn bounds_of_an_address_are_those_of_the_client_that_a_request_names() {
    let config = behind(ProxyProtocol::Off, &[], &["127.0.0.9"], bounded(config()));
    for fields in [for_client, forwarded] {
        with_server(&config, |server| {
            let own = (Vec::new(), String::new());
            expect_bounds_of_clients(server, |client| (Vec::new(), fields(client)), &own);
            expect_bounds_of_clients_anew(server, &own);
        });
    }
}

#[test]
fn connections_of_a_client_that_a_header_names_are_counted_by_their_rate() {
    let bounds = Bounds { connect_rate_per_ip: Within::new(1).unwrap(), ..Bounds::default() };
    let config = Config { bounds, ..config() };
    for config in planes(&behind(ProxyProtocol::Required, &["127.0.0.9"], &[], config)) {
        let server = TestServer::start(&config);
        // Of ten at once at most a few come in, however slow this machine is; of ten others, all.
        let busy = line("203.0.113.1:1");
        for _ in 0..10 {
            begin(&server, PROXY, [&busy, UPGRADE.as_bytes()].concat()).read_head();
        }
        for client in 0..10 {
            drop(request(&server, PROXY, &line(&format!("198.51.100.{client}:1")), "", 101));
        }
        let totals = server.stop();
        let [("connect_rate_per_ip", refused)] = totals.refused[..] else { panic!("{totals:?}") };
        assert!(refused > 0 && totals.upgraded == 20 - refused, "{totals:?}");
    }
}

#[test]
fn client_that_a_trusted_proxys_request_names_is_the_peer() {
    let trusted = &["127.0.0.9", "10.0.0.0/8"];
    let config = behind(ProxyProtocol::Off, &[], trusted, seen::config(1));
    with_server(&config, |server| {
        for (from, fields, expected) in [
            (PROXY, "X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.1.1.1\r\n", Some("203.0.113.7")),
            (
                PROXY,
                "Forwarded: for=\"[2001:db8::7]:4711\";proto=https\r\n",
                Some("[2001:db8::7]:4711"),
            ),
            (PROXY, "X-Forwarded-For: ::ffff:203.0.113.7\r\n", Some("203.0.113.7")),
            // Nobody is named, or not in a way that is believed: the proxy is all that is known.
            (PROXY, "", None),
            (PROXY, "X-Forwarded-For: 6.6.6.6, unknown\r\n", None),
            (PROXY, "Forwarded: for=_hidden\r\n", None),
            (PROXY, "Forwarded: for=\"6.6.6.6\r\n", None),
            (PROXY, "Forwarded: for=6.6.6.6\r\nX-Forwarded-For: 203.0.113.7\r\n", None),
            // A stranger's words are worth nothing.
            (STRANGER, "X-Forwarded-For: 203.0.113.7\r\nForwarded: for=203.0.113.7\r\n", None),
        ] {
            let mut peer = request(server, from, b"", fields, 101);
            expect_echo(&mut peer);
            let connection = only_connection(server);
            let own = local_address(&peer);
            assert_eq!(connection["peer"], json!(expected.unwrap_or(&own)), "{fields}");
            assert_eq!(connection["via"], json!(expected.map(|_| own)), "{fields}");
        }
    });
}

/// A proxy sends requests of several clients on one connection.
#[test]
fn each_request_of_a_trusted_proxy_has_a_client_of_its_own() {
    let config = behind(ProxyProtocol::Off, &[], &["127.0.0.9"], bounded(seen::config(1)));
    with_server(&config, |server| {
        let field = |client| format!("X-Forwarded-For: 203.0.113.{client}\r\n");
        let page = |client| format!("HEAD / HTTP/1.1\r\nHost: a\r\n{}\r\n", field(client));
        let mut shared = connect_from(here(PROXY), server.address);
        for client in [1, 2, 1, 3] {
            shared.send(page(client));
            assert!(shared.read_head().starts_with("HTTP/1.1 200 "));
            let expected = format!("203.0.113.{client}");
            assert_eq!(only_connection(server)["peer"], json!(expected));
        }
        // It counts for the last of them, and for no other.
        let second = request(server, PROXY, b"", &field(3), 101);
        let _ = request(server, PROXY, b"", &field(3), 429).read_to_end();
        let others = [1, 1, 2, 2].map(|client| request(server, PROXY, b"", &field(client), 101));
        drop((second, others));
    });
}

/// A request to upgrade on a stream, with these fields.
fn connect_with(fields: &[(&'static str, String)]) -> Request<()> {
    let mut request = connect_request();
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// The same, of a client with this number.
fn connect_for(client: u8) -> Request<()> {
    connect_with(&[("x-forwarded-for", format!("203.0.113.{client}"))])
}

/// A proxy opens streams of several clients on one connection.
#[test]
fn each_stream_of_a_trusted_proxy_counts_for_the_client_of_its_own_request() {
    let connections_per_ip_max = Within::new(1).unwrap();
    let bounds = Bounds { connections_per_ip_max, ..Bounds::default() };
    let config = Config { bounds, ..seen::config(1) };
    for (at, config) in
        planes(&behind(ProxyProtocol::Off, &[], &["127.0.0.9"], config)).into_iter().enumerate()
    {
        let (config, path) = logging(config, &format!("streams-{at}"));
        let server = TestServer::start(&config);
        let connection = connect_from(here(PROXY), server.address);
        let own = local_address(&connection);
        let mut proxy = Client::behind(connection.stream, b"");
        let open = |proxy: &mut Client, request, status: u16| {
            let (head, stream) = proxy.request(request).unwrap();
            assert_eq!(head.status.as_u16(), status);
            stream
        };
        let mut first = open(&mut proxy, connect_for(1), 200);
        let mut second = open(&mut proxy, connect_for(2), 200);
        for client in [1, 2] {
            let refused = open(&mut proxy, connect_for(client), 429).read_to_end();
            assert!(refused.starts_with(b"your address has as many connections"));
            // A connection of HTTP/1.1 is bounded together with the streams.
            let fields = format!("X-Forwarded-For: 203.0.113.{client}\r\n");
            let _ = request(&server, PROXY, b"", &fields, 429).read_to_end();
        }
        // The connection counts for nobody: a request of the proxy itself has a place, and one only.
        let third = open(&mut proxy, connect_request(), 200);
        let _ = open(&mut proxy, connect_request(), 429).read_to_end();

        let listed = seen::get_json(&server, "/connections");
        let mut peers: Vec<_> = listed["connections"].as_array().unwrap().iter().collect();
        peers.retain(|it| it["state"] == "open" || it["connection"].is_null());
        let shown: Vec<_> = peers.iter().map(|it| (&it["peer"], &it["via"])).collect();
        let (one, two, own, nobody) =
            (json!("203.0.113.1"), json!("203.0.113.2"), json!(own), Value::Null);
        let expected = [(&own, &nobody), (&one, &own), (&two, &own), (&own, &nobody)];
        assert_eq!(shown, expected, "{listed}");

        // The end of a stream makes room for its client, and for no other.
        first.send(close(1000, "").encode());
        first.expect(b"\x88\x02\x03\xe8");
        first.end();
        drop(first);
        let fourth = loop {
            let (head, stream) = proxy.request(connect_for(1)).unwrap();
            if head.status.as_u16() == 200 {
                break stream;
            }
        };
        let _ = open(&mut proxy, connect_for(2), 429).read_to_end();
        second.send(text("still here").encode());
        second.expect(text("still here").encode_echo());
        drop((second, third, fourth));
        drop(proxy.abandon());
        let totals = server.stop();
        let [("connections_per_ip_max", refused)] = totals.refused[..] else {
            panic!("{totals:?}")
        };
        assert!(refused >= 6, "{totals:?}");

        let lines = seen::lines(&path);
        let sessions = lines.iter().filter(|line| line["end"] != "refused");
        let mut peers: Vec<_> = sessions.map(|it| it["peer"].as_str().unwrap()).collect();
        peers.sort_unstable();
        let own = own.as_str().unwrap();
        assert_eq!(peers, [own, own, "203.0.113.1", "203.0.113.1", "203.0.113.2"]);
        let refused = lines.iter().filter(|it| it["end"] == "refused" && it["http"] == 2);
        for line in refused {
            assert_eq!(line["refusal"], "connections_per_ip_max", "{line}");
            let is_own = line["peer"] == own;
            assert!(is_own || line["peer"].as_str().unwrap().starts_with("203.0.113."), "{line}");
        }
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn streams_of_a_client_that_a_request_names_are_counted_by_their_rate() {
    let bounds = Bounds { connect_rate_per_ip: Within::new(1).unwrap(), ..Bounds::default() };
    let config = Config { bounds, ..config() };
    for config in planes(&behind(ProxyProtocol::Off, &[], &["127.0.0.9"], config)) {
        let server = TestServer::start(&config);
        let proxy = connect_from(here(PROXY), server.address);
        let mut proxy = Client::behind(proxy.stream, b"");
        // Of ten at once at most a few come in, however slow this machine is; of ten others, all.
        let mut statuses: Vec<u16> = Vec::new();
        for client in [[7; 10], [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]].concat() {
            statuses.push(proxy.request(connect_for(client)).unwrap().0.status.as_u16());
        }
        assert_eq!(statuses[10..], [200; 10]);
        drop(proxy.abandon());
        let totals = server.stop();
        let [("connect_rate_per_ip", refused)] = totals.refused[..] else { panic!("{totals:?}") };
        assert!(refused > 0 && totals.upgraded == 20 - refused, "{totals:?}");
    }
}

/// The header comes before the preface of HTTP/2, in one segment with it or not.
#[test]
fn client_that_a_proxy_announces_is_the_peer_of_each_stream() {
    let config = behind(ProxyProtocol::Required, &["127.0.0.9"], &[], seen::config(1));
    for (at, config) in planes(&config).into_iter().enumerate() {
        let (config, path) = logging(config, &format!("announced-{at}"));
        let server = TestServer::start(&config);
        let (v4, v6) = ("203.0.113.7:4711", "[2001:db8::7]:4711");
        for client in [v4, v6] {
            for header in headers(client) {
                let connection = connect_from(here(PROXY), server.address);
                let own = json!(local_address(&connection));
                let mut connection = Client::behind(connection.stream, &header);
                // What a request says of its client is not believed.
                let field = ("x-forwarded-for", "6.6.6.6".to_owned());
                let (head, mut stream) = connection.request(connect_with(&[field])).unwrap();
                assert_eq!(head.status.as_u16(), 200);
                stream.send(text("hello").encode());
                stream.expect(text("hello").encode_echo());
                let listed = seen::get_json(&server, "/connections");
                let listed = listed["connections"].as_array().unwrap();
                let listed: Vec<_> = listed.iter().filter(|it| it["via"] == own).collect();
                assert_eq!(listed.len(), 2, "the connection and its stream");
                assert!(listed.iter().all(|it| it["peer"] == client && it["http"] == 2));
                stream.send(close(1000, "").encode());
                stream.expect(b"\x88\x02\x03\xe8");
                stream.end();
                drop(stream);
                connection.leave();
            }
        }
        let totals = server.stop();
        assert_eq!(totals.ended, [("http2_closed", 4)], "{totals:?}");
        let lines = seen::lines(&path);
        let mut peers: Vec<_> = lines.iter().map(|line| line["peer"].as_str().unwrap()).collect();
        peers.sort_unstable();
        assert_eq!(peers, [v4, v4, v4, v4, v6, v6, v6, v6]);
        assert!(lines.iter().all(|it| it["via"].as_str().unwrap().starts_with("127.0.0.9:")));
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn header_that_no_port_expects_is_named_and_the_flag_that_reads_it() {
    with_server(&config(), |server| {
        let whole = headers("203.0.113.7:4711");
        for header in &whole {
            for is_cut in [false, true] {
                let mut peer = connect_from(here(PROXY), server.address);
                peer.stream.set_nodelay(true).unwrap();
                if is_cut {
                    // What shows the protocol, byte by byte.
                    header[..6.min(header.len())].iter().for_each(|byte| peer.send([*byte]));
                } else {
                    peer.send([header, UPGRADE.as_bytes()].concat());
                }
                let response = peer.read_to_end();
                assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
                assert!(response.contains("a PROXY protocol header came"), "{response}");
                assert!(response.contains("--proxy-protocol"), "{response}");
            }
        }
    });
}

#[test]
fn chain_of_a_proxy_with_a_header_and_one_with_a_field_is_followed() {
    let config =
        behind(ProxyProtocol::Required, &["127.0.0.9"], &["10.0.0.0/8", "unix"], seen::config(1));
    let unix = [SIGNATURE, &[0x21, 0x31, 0, 216], &[0; 216]].concat();
    with_server(&config, |server| {
        for (header, expected) in [
            (&line("10.0.0.1:1")[..], "203.0.113.7"),
            // The header's client is no proxy, so what it says of itself is not believed.
            (&line("203.0.113.9:1"), "203.0.113.9:1"),
            // Nor is a process on the proxy's machine one of this machine.
            (&unix, "unix"),
        ] {
            let peer = request(server, PROXY, header, "X-Forwarded-For: 203.0.113.7\r\n", 101);
            let connection = only_connection(server);
            assert_eq!(connection["peer"], json!(expected));
            assert_eq!(connection["via"], json!(local_address(&peer)));
        }
    });
}

/// A proxy on the same machine is known by its Unix socket, to which only it may connect.
#[test]
fn proxy_at_a_unix_socket_is_believed_if_unix_is_trusted() {
    let path = TestPath::new();
    let open = |bytes: &[u8]| {
        let mut peer = Peer::connect_unix(Path::new(path.as_str()));
        peer.send(bytes);
        peer
    };
    let header = [&line("203.0.113.7:4711"), UPGRADE.as_bytes()].concat();
    let field = UPGRADE.replace("\r\n\r\n", "\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n");
    let at_path = |config| at_path(&path, config);
    let trusted = behind(ProxyProtocol::Optional, &["unix"], &["unix"], seen::config(1));
    with_server(&at_path(trusted), |server| {
        for (bytes, expected) in
            [(&header[..], "203.0.113.7:4711"), (field.as_bytes(), "203.0.113.7")]
        {
            let mut peer = open(bytes);
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
            expect_echo(&mut peer);
            let connection = only_connection(server);
            assert_eq!(connection["peer"], json!(expected));
            assert_eq!(connection["via"], json!("unix"));
        }
        let mut bounded = open(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(bounded.read_to_end().starts_with("HTTP/1.1 200 "));
    });
    let all = &["0.0.0.0/0", "::/0"];
    let other = behind(ProxyProtocol::Optional, all, all, seen::config(1));
    with_server(&at_path(other), |server| {
        assert!(open(&header).read_to_end().starts_with("HTTP/1.1 403 "));
        let mut peer = open(field.as_bytes());
        assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
        assert_eq!(only_connection(server)["peer"], json!("unix"));
    });
}

#[test]
fn program_refuses_what_is_no_proxy_and_takes_others_over_while_it_runs() {
    for (arguments, expected) in [
        (&["--proxy-protocol=required"][..], "--proxy-protocol needs --proxy-from"),
        (&["--proxy-protocol=optional"], "0.0.0.0/0,::/0,unix believes everybody"),
        (&["--proxy-protocol=on"], "[possible values: off, required, optional]"),
        (
            &["--proxy-from=example.org"],
            "'example.org' for '--proxy-from <ADDRESS[/LEN]>': expected an IP",
        ),
        (&["--proxy-from=10.0.0.0/8,10.0.0.1/8"], "has bits behind its prefix: write 10.0.0.0/8"),
        (&["--forwarded-from=::/129"], "must be from 0 to 128, not 129"),
    ] {
        let (code, _, said) = output(ringecho().args(arguments));
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    let text = |proxy| format!("proxy-protocol = 'required'\nproxy-from = ['{proxy}', 'unix']\n");
    let file = ConfigFile::new(&text("127.0.0.8"));
    let arguments = ["--listen=127.0.0.1:0", "--workers=1", "--config", file.path()];
    let (mut child, ready) = start(ringecho().args(arguments));
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let to = address(&ready).parse().unwrap();
    let status = |from| {
        let mut peer = connect_from(here(from), to);
        peer.send([&line("203.0.113.7:1"), UPGRADE.as_bytes()].concat());
        peer.read_head()[9..12].to_owned()
    };
    assert_eq!((status(8), status(9)), ("101".to_owned(), "403".to_owned()));
    file.write(&text("127.0.0.9"));
    signal(&child, Signal::SIGHUP);
    log_line(&mut log, "proxy-from: [127.0.0.8, unix] -> [127.0.0.9, unix]");
    while status(9) != "101" {}
    assert_eq!(status(8), "403");
    // What contradicts itself changes nothing.
    file.write("proxy-protocol = 'required'\n");
    signal(&child, Signal::SIGHUP);
    log_line(&mut log, "--proxy-protocol needs --proxy-from");
    assert_eq!((status(8), status(9)), ("403".to_owned(), "101".to_owned()));
    stop(child, log);
}
