//! Peers of the simulation that speak TLS: rustls' own client, whose records are made before the run,
//! and read after it.

use std::{
    io::{Read, Write},
    sync::{Arc, LazyLock},
};

use rand::{RngExt, rngs::SmallRng};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName},
    version::{TLS12, TLS13},
};

use super::simulation::{Ending, Peer};
use crate::tls::TlsSession;

/// The client's side of a connection, and what its records have in them.
pub(super) struct TlsPeer {
    client: ClientConnection,
    plaintext: Vec<u8>,
    /// Where each record or two end in the peer's input, and in the plaintext.
    ends: Vec<(usize, usize)>,
}

/// What a peer that speaks TLS has found at its end.
#[derive(Debug, Default)]
pub(super) struct Revealed {
    /// The server has said `close_notify`.
    pub(super) is_closed: bool,
    /// What the server has said instead.
    pub(super) error: Option<Error>,
}

/// A server, and a client of each version that trusts it.
struct Configs {
    server: Arc<ServerConfig>,
    clients: [Arc<ClientConfig>; 2],
}

const RECORD_HEADER_LEN: usize = 5;

static CONFIGS: LazyLock<Configs> = LazyLock::new(|| {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = |version: &'static SupportedProtocolVersion| {
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap();
        Arc::new(builder.with_root_certificates(roots.clone()).with_no_client_auth())
    };
    Configs { server: server.into(), clients: [client(&TLS12), client(&TLS13)] }
});

/// Puts what a peer sends into records, one of which may be broken, and returns the server's session
/// with what the bytes that are taken already have been opened to.
pub(super) fn secure(rng: &mut SmallRng, peer: &mut Peer) -> (Box<TlsSession>, Vec<u8>) {
    let (mut server, mut client) = shake_hands(rng);
    let mut plaintext = std::mem::take(&mut peer.input);
    let (mut input, mut ends, mut at) = (Vec::new(), Vec::new(), 0);
    while at < plaintext.len() {
        let len_max = if rng.random_ratio(1, 4) { 5000 } else { 300 };
        let len = rng.random_range(1..=len_max.min(plaintext.len() - at));
        if rng.random_ratio(1, 20) {
            // Not under TLS 1.2, which has none.
            let _ = client.refresh_traffic_keys();
        }
        client.writer().write_all(&plaintext[at..at + len]).unwrap();
        flush(&mut client, &mut input);
        at += len;
        ends.push((input.len(), at));
    }
    if peer.ending == Ending::Fin && rng.random() {
        client.send_close_notify();
        flush(&mut client, &mut input);
    }
    let mut taken_max = input.len();
    if rng.random_ratio(1, 8) && !input.is_empty() {
        let records = records(&input);
        let (start, end) = records[rng.random_range(0..records.len())];
        input.truncate(end);
        input[rng.random_range(start + RECORD_HEADER_LEN..end)] ^= 1 << rng.random_range(0..8);
        ends.retain(|(input_end, _)| *input_end <= start);
        plaintext.truncate(ends.last().map_or(0, |(_, end)| *end));
        peer.ending = Ending::BadRecord;
        taken_max = start;
    }
    peer.taken = if peer.taken == 0 { 0 } else { rng.random_range(0..=taken_max) };
    let mut early = Vec::new();
    server.open(&mut input[..peer.taken].to_vec(), &mut early).unwrap();
    peer.input = input;
    peer.tls = Some(TlsPeer { client, plaintext, ends }.into());
    (server.into(), early)
}

/// Puts plaintext in the place of the records that a peer has sent and got.
pub(super) fn reveal(peer: &mut Peer) -> Revealed {
    let mut revealed = Revealed::default();
    let Some(tls) = peer.tls.take() else { return revealed };
    let TlsPeer { mut client, plaintext, ends } = *tls;
    let is_emptied = peer.taken == peer.input.len();
    let taken = ends.iter().take_while(|(end, _)| *end <= peer.taken).last();
    peer.taken = taken.map_or(0, |(_, end)| *end);
    peer.input = plaintext;
    if is_emptied {
        assert_eq!(peer.taken, peer.input.len());
    } else if peer.taken == peer.input.len() {
        // What was not taken is no plaintext.
        peer.input.push(0);
    }
    let records = std::mem::take(&mut peer.output);
    let mut unread = &records[..];
    while !unread.is_empty() {
        client.read_tls(&mut unread).unwrap();
        match client.process_new_packets() {
            Ok(state) => revealed.is_closed |= state.peer_has_closed(),
            Err(error) => {
                revealed.error = Some(error);
                break;
            }
        }
        let _ = client.reader().read_to_end(&mut peer.output);
    }
    assert!(!revealed.is_closed || unread.is_empty(), "nothing comes behind close_notify");
    revealed
}

/// Both sides of a session after the handshake. What the server has yet to say is left to it at times,
/// and the client may lack it.
fn shake_hands(rng: &mut SmallRng) -> (TlsSession, ClientConnection) {
    let mut server = TlsSession::server(CONFIGS.server.clone()).unwrap();
    let config = &CONFIGS.clients[usize::from(rng.random::<bool>())];
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(config.clone(), name).unwrap();
    while server.is_handshaking() || client.is_handshaking() {
        let mut flight = Vec::new();
        flush(&mut client, &mut flight);
        server.open(&mut flight, &mut Vec::new()).unwrap();
        if server.is_handshaking() || client.is_handshaking() || rng.random() {
            let mut output = Vec::new();
            server.take_output(&mut output);
            client.read_tls(&mut &output[..]).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    (server, client)
}

fn flush(client: &mut ClientConnection, bytes: &mut Vec<u8>) {
    while client.wants_write() {
        client.write_tls(bytes).unwrap();
    }
}

/// Where each record begins and ends.
fn records(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut records, mut at) = (Vec::new(), 0);
    while let Some([_, _, _, high, low]) = bytes[at..].first_chunk() {
        let end = at + RECORD_HEADER_LEN + usize::from(u16::from_be_bytes([*high, *low]));
        records.push((at, end));
        at = end;
    }
    records
}
