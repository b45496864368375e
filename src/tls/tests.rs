use std::{
    cell::RefCell,
    collections::VecDeque,
    future::pending,
    io::{self, Write},
    rc::Rc,
    sync::{Arc, LazyLock},
};

use futures_executor::block_on;
use monoio::{
    BufResult,
    buf::{IoBuf, IoBufMut, IoVecBuf, IoVecBufMut},
    io::{AsyncReadRent, AsyncWriteRent},
};
use proptest::{collection::vec, prelude::*};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName},
    version::{TLS12, TLS13},
};

use super::{stream::fill, *};
use crate::stream::{TryRead, WaitReadable};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A certificate for `localhost`, and its key.
static CERTIFIED: LazyLock<CertifiedKey<rcgen::KeyPair>> =
    LazyLock::new(|| generate_simple_self_signed(["localhost".to_owned()]).unwrap());

fn server_config(version: &'static SupportedProtocolVersion) -> ServerConfig {
    let key = PrivateKeyDer::try_from(CERTIFIED.signing_key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CERTIFIED.cert.der().clone()], key)
        .unwrap();
    config.ticketer = ring::Ticketer::new().unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn client_config(version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut authorities = RootCertStore::empty();
    authorities.add(CERTIFIED.cert.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(authorities)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn name() -> ServerName<'static> {
    "localhost".try_into().unwrap()
}

/// Both sides of a session.
struct Pair {
    server: TlsSession,
    client: TlsSession,
}

impl Pair {
    /// Both sides before their handshake.
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        Self::of(Arc::new(server_config(version)), Arc::new(client_config(version)))
    }

    fn of(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Self {
        Self {
            server: TlsSession::server(server).unwrap(),
            client: TlsSession::client(client, name()).unwrap(),
        }
    }

    /// Both sides after their handshake.
    fn open(version: &'static SupportedProtocolVersion) -> Self {
        let mut pair = Self::new(version);
        pair.shake_hands(&mut |_| usize::MAX);
        pair
    }

    /// Goes through the handshake, in pieces of these lengths.
    fn shake_hands(&mut self, piece_len: &mut impl FnMut(usize) -> usize) {
        while self.client.has_output() || self.server.has_output() {
            pass(&mut self.client, &mut self.server, piece_len);
            pass(&mut self.server, &mut self.client, piece_len);
        }
        assert!(!self.client.is_handshaking() && !self.server.is_handshaking());
    }
}

/// Sends what `from` has to say.
fn pass(
    from: &mut TlsSession,
    to: &mut TlsSession,
    piece_len: &mut impl FnMut(usize) -> usize,
) -> Vec<u8> {
    let mut ciphertext = Vec::new();
    from.take_output(&mut ciphertext);
    receive(to, &mut ciphertext, piece_len)
}

/// Has `session` open `ciphertext` in pieces, and returns the plaintext.
fn receive(
    session: &mut TlsSession,
    ciphertext: &mut [u8],
    piece_len: &mut impl FnMut(usize) -> usize,
) -> Vec<u8> {
    let mut plaintext = Vec::new();
    let mut rest = ciphertext;
    while !rest.is_empty() {
        let len = piece_len(rest.len()).clamp(1, rest.len());
        let (piece, behind) = rest.split_at_mut(len);
        session.open(piece, &mut plaintext).unwrap();
        rest = behind;
    }
    plaintext
}

fn whole(_: usize) -> usize {
    usize::MAX
}

/// Bytes that tell their place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + (at >> 8)) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_split_of_the_ciphertext_gives_the_same_plaintext_on_both_sides(
        version in 0..2_usize,
        message_lens in vec(prop_oneof![0..100_usize, 16_000..40_000_usize], 1..6),
        piece_lens in vec(prop_oneof![1..40_usize, 1000..20_000_usize], 1..30),
    ) {
        let mut lens = piece_lens.iter().cycle();
        let mut piece_len = |_| *lens.next().unwrap();
        let mut pair = Pair::new(VERSIONS[version]);
        pair.shake_hands(&mut piece_len);
        let Pair { server, client } = &mut pair;
        for _ in 0..2 {
            for is_clients in [true, false] {
                let (from, to) =
                    if is_clients { (&mut *client, &mut *server) } else { (&mut *server, &mut *client) };
                let (mut sent, mut ciphertext) = (Vec::new(), Vec::new());
                for len in &message_lens {
                    let message = pattern(*len);
                    from.seal(&message, &mut ciphertext).unwrap();
                    sent.extend(message);
                }
                let plaintext = receive(to, &mut ciphertext, &mut piece_len);
                prop_assert!(plaintext == sent);
                prop_assert_eq!(to.held_len(), 0, "nothing is kept of whole records");
            }
        }
    }

    #[test]
    fn arbitrary_bytes_end_a_session_and_nothing_else(
        bytes in vec(any::<u8>(), 1..600),
        is_record in any::<bool>(),
        is_open in any::<bool>(),
        version in 0..2_usize,
    ) {
        let mut bytes = bytes;
        if is_record && bytes.len() > 5 {
            let len = (bytes.len() - 5) as u16;
            let start = [20 + bytes[0] % 5, 3, 3];
            bytes[..3].copy_from_slice(&start);
            bytes[3..5].copy_from_slice(&len.to_be_bytes());
        }
        let Pair { mut server, mut client } =
            if is_open { Pair::open(VERSIONS[version]) } else { Pair::new(VERSIONS[version]) };
        for session in [&mut server, &mut client] {
            let mut plaintext = Vec::new();
            let first = session.open(&mut bytes.clone(), &mut plaintext).map_err(|it| it.fault());
            prop_assert!(plaintext.is_empty());
            if let Err(fault) = first {
                let again = session.open(&mut bytes.clone(), &mut plaintext);
                prop_assert_eq!(again.map_err(|it| it.fault()), Err(fault));
                prop_assert!(session.seal(b"more", &mut Vec::new()).is_err());
                session.close(&mut Vec::new());
            }
        }
    }

    #[test]
    fn a_handshake_with_a_wrong_byte_fails_or_goes_on(
        version in 0..2_usize,
        flight in 0..4_usize,
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let Pair { mut server, mut client } = Pair::new(VERSIONS[version]);
        for round in 0..4 {
            let (from, to) =
                if round % 2 == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
            let mut ciphertext = Vec::new();
            from.take_output(&mut ciphertext);
            if round == flight && !ciphertext.is_empty() {
                let at = at.index(ciphertext.len());
                ciphertext[at] ^= 1 << bit;
            }
            let opened = to.open(&mut ciphertext, &mut Vec::new());
            prop_assert!(opened.is_ok() || opened.unwrap_err().fault() != TlsFault::Internal);
        }
    }
}

#[test]
fn a_client_that_cannot_verify_the_servers_key_has_nothing_in_common_with_it() {
    for version in VERSIONS {
        let Pair { mut server, mut client } = Pair::new(version);
        let mut hello = Vec::new();
        client.take_output(&mut hello);
        // Schemes for keys of P-384 and, which is that of the server's key, of P-256.
        let schemes = hello.windows(4).position(|bytes| bytes == [5, 3, 4, 3]).unwrap();
        hello[schemes + 2] = 6;
        let refused = server.open(&mut hello, &mut Vec::new()).unwrap_err();
        assert_eq!(refused.fault(), TlsFault::NothingInCommon, "{version:?}: {refused}");
    }
}

#[test]
fn records_are_as_long_as_they_may_be() {
    let max = RECORD_PAYLOAD_MAX;
    for (version, overhead) in [(&TLS12, 29), (&TLS13, 22)] {
        let Pair { mut server, mut client } = Pair::open(version);
        for len in [0, 1, max - 1, max, max + 1, 2 * max, 4 * max, 4 * max + 1] {
            let (message, mut ciphertext) = (pattern(len), vec![7; 3]);
            let sealed_len = client.sealed_len(len);
            client.seal(&message, &mut ciphertext).unwrap();
            let mut ciphertext = ciphertext.split_off(3);
            assert_eq!(sealed_len, len + len.div_ceil(max) * overhead, "{len}");
            assert_eq!(ciphertext.len(), sealed_len, "{len}");
            assert_eq!(receive(&mut server, &mut ciphertext, &mut whole), message, "{len}");
        }
    }
}

#[test]
fn what_does_not_fit_into_a_place_is_left() {
    let max = RECORD_PAYLOAD_MAX;
    for (version, overhead) in [(&TLS12, 29), (&TLS13, 22)] {
        let Pair { mut server, mut client } = Pair::open(version);
        let message = pattern(3 * max);
        for (place_len, taken) in [
            (0, 0),
            (overhead, 0),
            (overhead + 1, 1),
            (max + overhead - 1, max - 1),
            (max + overhead, max),
            (max + 2 * overhead, max),
            (max + 2 * overhead + 1, max + 1),
            (3 * (max + overhead) - 1, 3 * max - 1),
            (4 * (max + overhead), 3 * max),
        ] {
            let mut place = vec![0; place_len];
            let sealed = server.seal_into(&message, &mut place).unwrap();
            assert_eq!(sealed.taken, taken, "{place_len}");
            let plaintext = receive(&mut client, &mut place[..sealed.len], &mut whole);
            assert_eq!(plaintext, message[..taken], "{place_len}");
        }
    }
}

#[test]
fn output_of_the_session_goes_out_before_what_is_sealed() {
    let Pair { mut server, mut client } = Pair::new(&TLS13);
    pass(&mut client, &mut server, &mut whole);
    pass(&mut server, &mut client, &mut whole);
    // The client's last flight and its first message come together; so do the server's tickets and
    // its answer, of which a short place takes a part.
    let mut ciphertext = Vec::new();
    client.seal(b"request", &mut ciphertext).unwrap();
    assert_eq!(receive(&mut server, &mut ciphertext, &mut whole), b"request");
    assert!(server.has_output() && !server.is_handshaking());
    let mut place = [0; 40];
    let mut plaintext = Vec::new();
    loop {
        let sealed = server.seal_into(b"answer", &mut place).unwrap();
        plaintext.extend(receive(&mut client, &mut place[..sealed.len], &mut whole));
        if sealed.taken > 0 {
            break;
        }
        assert_eq!(sealed.len, place.len().min(sealed.len));
    }
    assert_eq!(plaintext, b"answer");
    assert!(!server.has_output());
}

#[test]
fn both_sides_say_what_they_agreed_on() {
    for version in VERSIONS {
        let Pair { server, client } = Pair::open(version);
        for session in [&server, &client] {
            assert_eq!(session.alpn(), Some(&b"http/1.1"[..]));
            assert_eq!(session.protocol_version(), Some(version.version));
            assert!(session.cipher_suite().is_some());
            assert!(!session.is_resumed());
        }
        assert_eq!(client.peer_certificate(), Some(CERTIFIED.cert.der()));
        assert_eq!(server.peer_certificate(), None);
    }
}

#[test]
fn a_session_is_resumed_with_a_ticket() {
    for version in VERSIONS {
        let (server, client) = (Arc::new(server_config(version)), Arc::new(client_config(version)));
        for is_resumed in [false, true] {
            let mut pair = Pair::of(server.clone(), client.clone());
            pair.shake_hands(&mut whole);
            assert_eq!(pair.server.is_resumed(), is_resumed);
            assert_eq!(pair.client.is_resumed(), is_resumed);
        }
    }
}

#[test]
fn close_notify_ends_one_direction() {
    for version in VERSIONS {
        let Pair { mut server, mut client } = Pair::open(version);
        let mut ciphertext = Vec::new();
        client.seal(b"the last", &mut ciphertext).unwrap();
        client.close(&mut ciphertext);
        ciphertext.extend(b"anything");
        let mut plaintext = Vec::new();
        let opened = server.open(&mut ciphertext, &mut plaintext).unwrap();
        assert_eq!((opened.is_closed, &plaintext[..]), (true, &b"the last"[..]));
        assert!(server.open(&mut [1, 2, 3], &mut plaintext).unwrap().is_closed);
        assert_eq!(server.held_len(), 0);

        let mut ciphertext = Vec::new();
        server.seal(b"an answer", &mut ciphertext).unwrap();
        server.close(&mut ciphertext);
        assert_eq!(receive(&mut client, &mut ciphertext, &mut whole), b"an answer");
        assert!(client.is_closed_by_peer());
        let mut nothing = Vec::new();
        server.close(&mut nothing);
        assert!(nothing.is_empty(), "close_notify is said once");
        assert_eq!(server.seal(b"more", &mut nothing).unwrap_err().fault(), TlsFault::Closed);
    }
}

#[test]
fn garbage_is_answered_with_an_alert_and_named() {
    let alert = |description: u8| vec![21, 3, 3, 0, 2, 2, description];
    let hello = |body: &[u8]| [&[22, 3, 1, 0, body.len() as u8], body].concat();
    for (garbage, fault, answer) in [
        (b"GET /ws HTTP/1.1\r\n\r\n".to_vec(), TlsFault::Malformed, alert(50)),
        (vec![22, 3, 1, 0xff, 0xff], TlsFault::RecordTooLong, alert(50)),
        (vec![22, 3, 1, 0, 0], TlsFault::Malformed, alert(50)),
        (vec![23, 3, 3, 0, 1, 0], TlsFault::Misbehaved, alert(10)),
        (hello(&[1, 0, 0, 1, 0]), TlsFault::Malformed, alert(50)),
        (hello(&[2, 0, 0, 0]), TlsFault::Malformed, alert(50)),
        (alert(40), TlsFault::RefusedByPeer(AlertDescription::HandshakeFailure), vec![]),
    ] {
        for piece_len in [1, usize::MAX] {
            let mut server = TlsSession::server(Arc::new(server_config(&TLS13))).unwrap();
            let faults: Vec<_> = garbage
                .clone()
                .chunks_mut(piece_len.min(garbage.len()))
                .filter_map(|piece| server.open(piece, &mut Vec::new()).err())
                .map(|error| error.fault())
                .collect();
            assert_eq!(faults.first(), Some(&fault), "{garbage:?}");
            let mut output = Vec::new();
            server.close(&mut output);
            assert_eq!(output, answer, "{garbage:?}");
        }
    }
}

#[test]
fn versions_and_protocols_must_have_something_in_common() {
    let mut h2_only = client_config(&TLS13);
    h2_only.alpn_protocols = vec![b"ftp".to_vec()];
    for (client, fault) in [
        (client_config(&TLS12), TlsFault::NothingInCommon),
        (h2_only, TlsFault::NoProtocolInCommon),
    ] {
        let Pair { mut server, mut client } =
            Pair::of(Arc::new(server_config(&TLS13)), Arc::new(client));
        let mut hello = Vec::new();
        client.take_output(&mut hello);
        let error = server.open(&mut hello, &mut Vec::new()).unwrap_err();
        assert_eq!(error.fault(), fault);
        let mut alert = Vec::new();
        server.take_output(&mut alert);
        let error = client.open(&mut alert, &mut Vec::new()).unwrap_err();
        assert!(matches!(error.fault(), TlsFault::RefusedByPeer(_)), "{error}");
    }
}

#[test]
fn a_changed_record_is_not_decrypted_and_the_peer_is_told() {
    for version in VERSIONS {
        let Pair { mut server, mut client } = Pair::open(version);
        let mut ciphertext = Vec::new();
        client.seal(b"secret", &mut ciphertext).unwrap();
        *ciphertext.last_mut().unwrap() ^= 1;
        let mut plaintext = Vec::new();
        let error = server.open(&mut ciphertext, &mut plaintext).unwrap_err();
        assert_eq!((error.fault(), plaintext.len()), (TlsFault::NotDecrypted, 0));
        let mut alert = Vec::new();
        server.close(&mut alert);
        let error = client.open(&mut alert, &mut plaintext).unwrap_err();
        let expected = TlsFault::RefusedByPeer(AlertDescription::BadRecordMac);
        assert_eq!(error.fault(), expected);
    }
}

#[test]
fn a_handshake_that_does_not_end_is_refused() {
    let mut server = TlsSession::server(Arc::new(server_config(&TLS13))).unwrap();
    // A ClientHello of 65,000 bytes, one byte to a record.
    let mut sent_len = 0;
    let mut record = |server: &mut TlsSession, byte| {
        let mut record = [22, 3, 1, 0, 1, byte];
        sent_len += record.len();
        (sent_len, server.open(&mut record, &mut Vec::new()).err())
    };
    for byte in [1, 0, 0xfd, 0xe8] {
        assert_eq!(record(&mut server, byte).1, None);
    }
    let (sent_len, error) = loop {
        if let (sent_len, Some(error)) = record(&mut server, 0) {
            break (sent_len, error);
        }
    };
    assert_eq!(error.fault(), TlsFault::HandshakeTooLong, "{error}");
    assert!(sent_len <= HANDSHAKE_LEN_MAX + 6, "{sent_len}");
    assert_eq!(server.held_len(), 0);
}

#[test]
fn keys_are_changed_when_the_peer_asks_for_it() {
    let mut server = TlsSession::server(Arc::new(server_config(&TLS13))).unwrap();
    let mut client = ClientConnection::new(Arc::new(client_config(&TLS13)), name()).unwrap();
    let exchange = |client: &mut ClientConnection, server: &mut TlsSession| {
        let mut plaintext = Vec::new();
        while client.wants_write() || server.has_output() {
            let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
            client.write_tls(&mut to_server).unwrap();
            server.open(&mut to_server, &mut plaintext).unwrap();
            server.take_output(&mut to_client);
            client.read_tls(&mut &to_client[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        plaintext
    };
    exchange(&mut client, &mut server);
    for round in 0..5_u8 {
        client.refresh_traffic_keys().unwrap();
        client.writer().write_all(&[round; 100]).unwrap();
        assert_eq!(exchange(&mut client, &mut server), [round; 100]);
        let mut ciphertext = Vec::new();
        server.seal(&[round; 50], &mut ciphertext).unwrap();
        assert!(ciphertext.len() > 50 + 22, "the answer to the change comes first");
        client.read_tls(&mut &ciphertext[..]).unwrap();
        client.process_new_packets().unwrap();
        let mut plaintext = [0; 50];
        io::Read::read_exact(&mut client.reader(), &mut plaintext).unwrap();
        assert_eq!(plaintext, [round; 50]);
    }
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

/// What arrives at one end of a stream, and what is written there.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<Pieces>>);

/// What has arrived and has not been read, and what has been written.
#[derive(Default)]
struct Pieces {
    arrived: VecDeque<Vec<u8>>,
    written: Vec<Vec<u8>>,
}

impl Wire {
    fn arrive(&self, bytes: &[u8], piece_len: usize) {
        let mut wire = self.0.borrow_mut();
        wire.arrived.extend(bytes.chunks(piece_len.max(1)).map(<[u8]>::to_vec));
    }

    fn take_written(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.0.borrow_mut().written)
    }

    /// Takes of the first piece as much as is wanted.
    fn take(&self, len_max: usize) -> Option<Vec<u8>> {
        let mut wire = self.0.borrow_mut();
        let mut piece = wire.arrived.pop_front()?;
        if piece.len() > len_max {
            let rest = piece.split_off(len_max);
            wire.arrived.push_front(rest);
        }
        Some(piece)
    }
}

impl AsyncReadRent for Wire {
    async fn read<T: IoBufMut>(&mut self, mut buffer: T) -> BufResult<usize, T> {
        let Some(piece) = self.take(buffer.bytes_total()) else { return pending().await };
        (Ok(fill(&mut buffer, &piece)), buffer)
    }

    async fn readv<T: IoVecBufMut>(&mut self, buffers: T) -> BufResult<usize, T> {
        (Err(io::ErrorKind::Unsupported.into()), buffers)
    }
}

impl WaitReadable for Wire {
    async fn readable(&mut self) -> io::Result<()> {
        if self.0.borrow().arrived.is_empty() { pending().await } else { Ok(()) }
    }
}

impl TryRead for Wire {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.take(buffer.len()).ok_or(io::ErrorKind::WouldBlock)?;
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

impl AsyncWriteRent for Wire {
    async fn write<T: IoBuf>(&mut self, buffer: T) -> BufResult<usize, T> {
        let mut bytes = vec![0; buffer.bytes_init()];
        bytes.copy_from_slice(stream::written(&buffer));
        let len = bytes.len();
        self.0.borrow_mut().written.push(bytes);
        (Ok(len), buffer)
    }

    async fn writev<T: IoVecBuf>(&mut self, buffers: T) -> BufResult<usize, T> {
        (Err(io::ErrorKind::Unsupported.into()), buffers)
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Polls a future once, and drops it.
fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn a_wait_that_is_dropped_loses_nothing() {
    let Pair { server, mut client } = Pair::open(&TLS13);
    let wire = Wire::default();
    let (mut reader, _) = TlsStream::new(server, wire.clone(), wire.clone()).into_split();
    let message = pattern(40_000);
    let mut ciphertext = Vec::new();
    client.seal(&message, &mut ciphertext).unwrap();
    let mut plaintext = Vec::new();
    for piece in ciphertext.chunks(700) {
        wire.arrive(piece, 700);
        if poll_once(reader.readable()).is_some() {
            let (read, bytes) = poll_once(reader.read(Vec::with_capacity(100))).expect("at once");
            assert_eq!(read.unwrap(), bytes.len());
            plaintext.extend(bytes);
        }
    }
    while poll_once(reader.readable()).is_some() {
        plaintext.extend(poll_once(reader.read(Vec::with_capacity(4096))).expect("at once").1);
    }
    assert!(plaintext == message);
}

#[test]
fn a_batch_is_one_write_whatever_came_before() {
    let Pair { mut server, mut client } = Pair::new(&TLS13);
    pass(&mut client, &mut server, &mut whole);
    pass(&mut server, &mut client, &mut whole);
    let mut flight = Vec::new();
    client.seal(b"request", &mut flight).unwrap();
    let wire = Wire::default();
    let mut stream = TlsStream::new(server, wire.clone(), wire.clone());
    block_on(stream.shake_hands(flight)).unwrap();
    assert_eq!(wire.take_written().len(), 0, "tickets wait for the first write");
    let (_, request) = block_on(stream.read(Vec::with_capacity(100)));
    assert_eq!(request, b"request");
    for len in [1, 16_384, 65_536, 200_000] {
        let message = pattern(len);
        let mut sent_len = 0;
        while sent_len < len {
            let (sent, _) = block_on(stream.write(message[sent_len..].to_vec()));
            sent_len += sent.unwrap();
        }
        let writes = wire.take_written();
        assert_eq!(writes.len(), len.div_ceil(65_536), "{len}");
        let plaintext = receive(&mut client, &mut writes.concat(), &mut whole);
        assert!(plaintext == message);
    }
    block_on(stream.shutdown()).unwrap();
    receive(&mut client, &mut wire.take_written().concat(), &mut whole);
    assert!(client.is_closed_by_peer());
}

/// Never takes anything.
struct Full;
impl AsyncWriteRent for Full {
    async fn write<T: IoBuf>(&mut self, _: T) -> BufResult<usize, T> {
        pending().await
    }

    async fn writev<T: IoVecBuf>(&mut self, _: T) -> BufResult<usize, T> {
        pending().await
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_write_that_is_dropped_breaks_the_stream() {
    let Pair { server, .. } = Pair::open(&TLS13);
    let (_, mut writer) = TlsStream::new(server, Wire::default(), Full).into_split();
    assert!(poll_once(writer.write(vec![1; 10])).is_none());
    let (written, _) = poll_once(writer.write(vec![2; 10])).expect("at once");
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    poll_once(writer.shutdown()).expect("at once").unwrap();
}
