//! A TLS echo on epoll, over rustls' interface without buffers: what the bytes cost when they are
//! decrypted and encrypted again, and nobody looks at them. Its loop is
//! [`ringecho_peers::on_epoll`], and the opening handshake is answered as raw TCP echoes do.
//!
//! What one read brings is decrypted into one buffer that all connections share, encrypted from
//! there over what was received, and written at once. A connection keeps its session, and the
//! beginning of a record that is cut.
//!
//! Its certificate is its own, so a client has to believe every server. It has a ticket for each
//! session, as servers for the world have.

use std::{
    cell::RefCell,
    io,
    ops::Range,
    sync::{Arc, LazyLock},
};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use ringecho_peers::{
    on_epoll::{self, Answer, Echo},
    raw_tcp,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::PrivateKeyDer,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, UnbufferedStatus},
};

const RECORD_HEADER_LEN: usize = 5;

static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
            .expect("ring makes keys");
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for them")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("the key is the certificate's");
    config.ticketer = ring::Ticketer::new().expect("ring makes keys");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
});

thread_local! {
    /// What one read was decrypted to.
    static PLAINTEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One connection.
struct Tls {
    session: UnbufferedServerConnection,
    /// The beginning of a record that is cut.
    cut: Vec<u8>,
    /// The request head as far as it has come; none once it is answered.
    request_head: Option<Vec<u8>>,
}

impl Default for Tls {
    fn default() -> Self {
        let session = UnbufferedServerConnection::new(CONFIG.clone()).expect("the configuration");
        Self { session, cut: Vec::new(), request_head: Some(Vec::new()) }
    }
}

impl Echo for Tls {
    const SCHEME: &'static str = "wss";

    const ANSWERS_REQUEST_HEAD: bool = true;

    fn answer(&mut self, buffer: &mut [u8], received: Range<usize>) -> io::Result<Answer> {
        PLAINTEXT.with_borrow_mut(|plaintext| {
            plaintext.clear();
            self.answer_with(plaintext, buffer, received)
        })
    }
}

impl Tls {
    fn answer_with(
        &mut self,
        plaintext: &mut Vec<u8>,
        buffer: &mut [u8],
        received: Range<usize>,
    ) -> io::Result<Answer> {
        let Range { mut start, end } = received;
        let mut handshake = Vec::new();
        let mut is_last = false;
        if !self.cut.is_empty() {
            let mut cut = std::mem::take(&mut self.cut);
            // Its header first, and then as much as that says.
            for _ in 0..2 {
                let missing = record_len(&cut).unwrap_or(RECORD_HEADER_LEN).max(cut.len());
                let missing = (missing - cut.len()).min(end - start);
                cut.extend_from_slice(&buffer[start..start + missing]);
                start += missing;
            }
            let (consumed, is_over) = self.open(&mut cut, plaintext, &mut handshake)?;
            is_last |= is_over;
            cut.drain(..consumed);
            self.cut = cut;
        }
        if start < end {
            let (consumed, is_over) =
                self.open(&mut buffer[start..end], plaintext, &mut handshake)?;
            is_last |= is_over;
            self.cut.extend_from_slice(&buffer[start + consumed..end]);
        }
        if self.request_head.is_some() && !plaintext.is_empty() {
            self.answer_request(plaintext)?;
        }
        let handshake_len = handshake.len();
        buffer[..handshake_len].copy_from_slice(&handshake);
        let mut len = handshake_len;
        if !plaintext.is_empty() || is_last {
            let UnbufferedStatus { state, .. } = self.session.process_tls_records(&mut []);
            if let ConnectionState::WriteTraffic(mut traffic) = state.map_err(io::Error::other)? {
                len += traffic.encrypt(plaintext, &mut buffer[len..]).map_err(io::Error::other)?;
                if is_last {
                    len +=
                        traffic.queue_close_notify(&mut buffer[len..]).map_err(io::Error::other)?;
                }
            }
        }
        Ok(Answer { reply: 0..len, is_last })
    }

    /// Decrypts every whole record, behind the plaintext that is there; what has to be said first is
    /// put behind `handshake`. Returns how many bytes it took, and whether the peer has ended its side.
    fn open(
        &mut self,
        records: &mut [u8],
        plaintext: &mut Vec<u8>,
        handshake: &mut Vec<u8>,
    ) -> io::Result<(usize, bool)> {
        let mut taken = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.session.process_tls_records(&mut records[taken..]);
            match state.map_err(io::Error::other)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(io::Error::other)?;
                        plaintext.extend_from_slice(record.payload);
                        discard += record.discard;
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    let at = handshake.len();
                    handshake.resize(at + (16 << 10), 0);
                    let len = data.encode(&mut handshake[at..]).map_err(io::Error::other)?;
                    handshake.truncate(at + len);
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    return Ok((records.len(), true));
                }
                _ => return Ok((taken + discard, false)),
            }
            taken += discard;
        }
    }

    /// Puts the response in the place of the request head.
    #[cold]
    fn answer_request(&mut self, plaintext: &mut Vec<u8>) -> io::Result<()> {
        let Some(mut request_head) = self.request_head.take() else { return Ok(()) };
        request_head.append(plaintext);
        match raw_tcp::opening_reply(&request_head)? {
            Some(reply) => *plaintext = reply,
            None => self.request_head = Some(request_head),
        }
        Ok(())
    }
}

/// The length of the record that these bytes begin with, once its header is there.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let [_, _, _, high, low] = *bytes.first_chunk()?;
    Some(RECORD_HEADER_LEN + usize::from(u16::from_be_bytes([high, low])))
}

fn main() -> anyhow::Result<()> {
    on_epoll::serve::<Tls>()
}
