//! TLS for `wss://`: rustls, fed from one half of a socket and emptied into the other.
//!
//! A session is shared by both directions, which go on concurrently in one task. Neither holds it
//! while it waits for its socket.

use std::{
    cell::RefCell,
    io::{self, BufRead, ErrorKind, Write},
    mem,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use monoio::{
    BufResult,
    io::{OwnedReadHalf, OwnedWriteHalf},
    net::TcpStream,
};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use thiserror::Error;

use super::halves::{ReadHalf, WriteHalf};

/// Bytes that are read from a socket at once, at most: as long as a record may be.
const READ_LEN: usize = 16 * 1024;

/// Whom a client believes that it is the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Who has a certificate of an authority that the system trusts.
    System,
    /// Who has a certificate of an authority in this file, in PEM.
    Authority(PathBuf),
    /// Everybody.
    Anyone,
}

/// Why TLS cannot be spoken.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file with the authorities.
    #[error("invalid value '{path}' for '--ca <FILE>': {cause}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The host of the URL.
    #[error("{0:?} cannot be the name of a server that speaks TLS")]
    ServerName(String),
    /// The system has no list of authorities.
    #[error("the system trusts no authorities: {0}; name one with --ca FILE, or use --insecure")]
    System(String),
}

/// How connections to one server speak TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

impl Tls {
    /// TLS with `host`.
    pub(crate) fn new(host: &str, trust: &Trust) -> Result<Self, TlsError> {
        let server_name = ServerName::try_from(host.to_owned())
            .map_err(|_| TlsError::ServerName(host.to_owned()))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites for them");
        let builder = match trust {
            Trust::System => builder.with_root_certificates(system_authorities()?),
            Trust::Authority(path) => builder.with_root_certificates(authorities(path)?),
            Trust::Anyone => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(TrustsAnyone(provider))),
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Clients of different people would not share sessions either.
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), server_name })
    }

    /// Speaks TLS on a connected socket, once the handshake is done.
    pub(crate) async fn connect(
        &self,
        read_half: OwnedReadHalf<TcpStream>,
        write_half: OwnedWriteHalf<TcpStream>,
    ) -> io::Result<(TlsReader, TlsWriter)> {
        let session = ClientConnection::new(Arc::clone(&self.config), self.server_name.clone());
        let session = Rc::new(RefCell::new(session.map_err(io::Error::other)?));
        let mut writer =
            TlsWriter { half: write_half, session: Rc::clone(&session), records: Vec::new() };
        let mut reader = TlsReader { half: read_half, session, records: Vec::new(), consumed: 0 };
        loop {
            writer.flush().await?;
            if !reader.session.borrow().is_handshaking() {
                return Ok((reader, writer));
            }
            match reader.receive().await {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) => {
                    // The alert that says why; the server may be gone already.
                    let _ = writer.flush().await;
                    return Err(error);
                }
            }
        }
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let refuse = |cause: String| TlsError::Authority { path: path.to_owned(), cause };
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| refuse(error.to_string()))?;
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        store.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(refuse("there is no certificate in it; expected PEM".to_owned()));
    }
    Ok(store)
}

fn system_authorities() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let cause =
            found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
        return Err(TlsError::System(cause));
    }
    Ok(store)
}

/// Accepts every certificate, but only from who has its key.
#[derive(Debug)]
struct TrustsAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAnyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The side of a TLS stream that is read.
pub(crate) struct TlsReader {
    half: OwnedReadHalf<TcpStream>,
    session: Rc<RefCell<ClientConnection>>,
    /// What was read from the socket, and how much of it the session has taken. It takes no more
    /// than it has room for the plaintext of.
    records: Vec<u8>,
    consumed: usize,
}

impl ReadHalf for TlsReader {
    async fn read(&mut self, mut buffer: Vec<u8>) -> BufResult<usize, Vec<u8>> {
        buffer.clear();
        loop {
            match self.take_plaintext(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // WebSocket has an ending of its own: it needs none of TLS.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return (Ok(0), buffer),
                taken => return (taken, buffer),
            }
            if let Err(error) = self.receive().await {
                return (Err(error), buffer);
            }
        }
    }
}

impl TlsReader {
    /// Takes what is decrypted, as far as `buffer` has capacity for it.
    fn take_plaintext(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let mut session = self.session.borrow_mut();
        let mut reader = session.reader();
        while buffer.len() < buffer.capacity() {
            let chunk = match reader.fill_buf() {
                Ok([]) => break,
                Ok(chunk) => chunk,
                Err(_) if !buffer.is_empty() => break,
                Err(error) => return Err(error),
            };
            let len = chunk.len().min(buffer.capacity() - buffer.len());
            buffer.extend_from_slice(&chunk[..len]);
            reader.consume(len);
        }
        Ok(buffer.len())
    }

    /// Gives the session bytes of the socket, and says how many; 0 at the end of the stream.
    async fn receive(&mut self) -> io::Result<usize> {
        if self.consumed == self.records.len() {
            let mut records = mem::take(&mut self.records);
            records.reserve_exact(READ_LEN.saturating_sub(records.len()));
            let read;
            (read, self.records) = self.half.read(records).await;
            self.consumed = 0;
            self.records.truncate(read?);
        }
        let mut session = self.session.borrow_mut();
        let taken = session.read_tls(&mut &self.records[self.consumed..])?;
        self.consumed += taken;
        session
            .process_new_packets()
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(taken)
    }
}

/// The side of a TLS stream that is written.
pub(crate) struct TlsWriter {
    half: OwnedWriteHalf<TcpStream>,
    session: Rc<RefCell<ClientConnection>>,
    /// The records that are written to the socket at once.
    records: Vec<u8>,
}

impl WriteHalf for TlsWriter {
    async fn write_all(&mut self, buffer: Vec<u8>) -> BufResult<usize, Vec<u8>> {
        let mut encrypted = 0;
        while encrypted < buffer.len() {
            // The session takes a bounded number of bytes at once.
            let taken = self.session.borrow_mut().writer().write(&buffer[encrypted..]);
            let flushed = match taken {
                Ok(taken) => {
                    encrypted += taken;
                    self.flush().await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = flushed {
                return (Err(error), buffer);
            }
        }
        (Ok(encrypted), buffer)
    }
}

impl TlsWriter {
    /// Writes what the session has to say.
    async fn flush(&mut self) -> io::Result<()> {
        loop {
            self.records.clear();
            {
                let mut session = self.session.borrow_mut();
                while session.wants_write() {
                    session.write_tls(&mut self.records)?;
                }
            }
            if self.records.is_empty() {
                return Ok(());
            }
            let written;
            (written, self.records) = self.half.write_all(mem::take(&mut self.records)).await;
            written?;
        }
    }
}
