//! TLS for `wss://`: whom to trust, and streams of the library's ([`ringecho::tls`]).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use monoio::{
    BufResult,
    io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf},
    net::TcpStream,
};
use ringecho::tls::{self, TlsSession, TlsStream};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use thiserror::Error;

use super::halves::{ReadHalf, WriteHalf};

/// The side of a TLS stream that is read.
pub(crate) type TlsReader = tls::TlsReader<OwnedReadHalf<TcpStream>>;

/// The side of a TLS stream that is written.
pub(crate) type TlsWriter = tls::TlsWriter<OwnedWriteHalf<TcpStream>>;

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
        let session = TlsSession::client(Arc::clone(&self.config), self.server_name.clone());
        let session = session.map_err(io::Error::other)?;
        let mut stream = TlsStream::new(session, read_half, write_half);
        stream.shake_hands(Vec::new()).await?;
        Ok(stream.into_split())
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

impl ReadHalf for TlsReader {
    fn read(&mut self, buffer: Vec<u8>) -> impl Future<Output = BufResult<usize, Vec<u8>>> {
        AsyncReadRent::read(self, buffer)
    }
}

impl WriteHalf for TlsWriter {
    fn write_all(&mut self, buffer: Vec<u8>) -> impl Future<Output = BufResult<usize, Vec<u8>>> {
        AsyncWriteRentExt::write_all(self, buffer)
    }
}
