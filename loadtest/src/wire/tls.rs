//! TLS for `wss://`: whom to trust, and streams of the library's ([`ringecho::tls`]).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use monoio::{
    BufResult,
    io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf},
    net::TcpStream,
};
use ringecho::tls::{self, TlsSession, TlsStream};
use rustls::{
    ClientConfig, DigitallySignedStruct, ProtocolVersion, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    version,
};
use thiserror::Error;

use super::{
    halves::{ReadHalf, WriteHalf},
    openings::{TlsAgreement, TlsOpening},
    tickets::Tickets,
};

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
    /// The file with the client's certificate.
    #[error("invalid value '{path}' for '--client-cert <FILE>': {cause}")]
    ClientCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The file with its key.
    #[error("invalid value '{path}' for '--client-key <FILE>': {cause}")]
    ClientKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The host of the URL, or another name.
    #[error("{0:?} cannot be the name of a server that speaks TLS")]
    ServerName(String),
    /// The system has no list of authorities.
    #[error("the system trusts no authorities: {0}; name one with --ca FILE, or use --insecure")]
    System(String),
}

/// Versions of TLS that are offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersions {
    /// 1.2 and 1.3.
    #[default]
    All,
    /// 1.2 alone.
    Tls12,
    /// 1.3 alone.
    Tls13,
}

impl TlsVersions {
    fn list(self) -> &'static [&'static SupportedProtocolVersion] {
        const TLS_12: &[&SupportedProtocolVersion] = &[&version::TLS12];
        const TLS_13: &[&SupportedProtocolVersion] = &[&version::TLS13];
        match self {
            Self::All => rustls::ALL_VERSIONS,
            Self::Tls12 => TLS_12,
            Self::Tls13 => TLS_13,
        }
    }
}

/// A certificate that a client shows, and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and behind it those that lead to an authority.
    pub certificate: PathBuf,
    /// The key of the first.
    pub key: PathBuf,
}

/// How TLS is to be spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Whom the client believes.
    pub trust: Trust,
    /// The name that the server has to have, and that it is asked for by, if it is not the host's.
    pub server_name: Option<String>,
    /// Application protocols, the best first.
    pub alpn: Vec<String>,
    /// What is offered.
    pub versions: TlsVersions,
    /// Whom the client says that it is.
    pub identity: Option<Identity>,
    /// Whether sessions go on by tickets.
    pub resume: bool,
}

/// How connections to one server speak TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
    resume: bool,
}

impl Tls {
    /// TLS with `host`.
    pub(crate) fn new(host: &str, settings: &TlsSettings) -> Result<Self, TlsError> {
        let name = settings.server_name.as_deref().unwrap_or(host);
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| TlsError::ServerName(name.to_owned()))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(settings.versions.list())
            .expect("the provider has cipher suites for them");
        let builder = match &settings.trust {
            Trust::System => builder.with_root_certificates(system_authorities()?),
            Trust::Authority(path) => builder.with_root_certificates(authorities(path)?),
            Trust::Anyone => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(TrustsAnyone(provider))),
        };
        let mut config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.read()?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| identity.refuse_key(error.to_string()))?
            }
        };
        config.alpn_protocols =
            settings.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        // Clients of different people would not share sessions either.
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), server_name, resume: settings.resume })
    }

    /// The same for a thread with at most `connections` of TLS at a time: if sessions go on by tickets,
    /// by tickets of this thread's own.
    pub(crate) fn on_thread(&self, connections: usize) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        if self.resume {
            config.resumption = Resumption::store(Arc::new(Tickets::new(connections)));
        }
        Self { config: Arc::new(config), ..self.clone() }
    }

    /// The name that the server is asked for by (SNI); `None` where that is an address, which is not
    /// sent.
    pub(crate) fn server_name(&self) -> Option<String> {
        match &self.server_name {
            ServerName::DnsName(name) => Some(name.as_ref().to_owned()),
            _ => None,
        }
    }

    /// Speaks TLS on a connected socket, once the handshake is done.
    pub(crate) async fn connect(
        &self,
        read_half: OwnedReadHalf<TcpStream>,
        write_half: OwnedWriteHalf<TcpStream>,
    ) -> io::Result<((TlsReader, TlsWriter), TlsOpening)> {
        let begun = Instant::now();
        let session = TlsSession::client(Arc::clone(&self.config), self.server_name.clone());
        let session = session.map_err(io::Error::other)?;
        let mut stream = TlsStream::new(session, read_half, write_half);
        stream.shake_hands(Vec::new()).await?;
        let took = begun.elapsed();
        let opening = stream.with_session(|session| TlsOpening {
            agreed: agreement(session),
            is_resumed: session.is_resumed(),
            took,
        });
        Ok((stream.into_split(), opening))
    }
}

/// What both sides of a session agreed on.
fn agreement(session: &TlsSession) -> TlsAgreement {
    let cipher_suite = session.cipher_suite().and_then(|it| it.suite().as_str());
    TlsAgreement {
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "1.3",
        },
        // rustls has names of its own for those of TLS 1.3.
        cipher_suite: cipher_suite.unwrap_or("unknown").replace("TLS13_", "TLS_"),
        alpn: session.alpn().map(|name| String::from_utf8_lossy(name).into_owned()),
    }
}

impl Identity {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let refuse =
            |cause: String| TlsError::ClientCertificate { path: self.certificate.clone(), cause };
        let chain = certificates(&self.certificate).map_err(refuse)?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| self.refuse_key(explain_pem(&error, "private key")))?;
        Ok((chain, key))
    }

    fn refuse_key(&self, cause: String) -> TlsError {
        TlsError::ClientKey { path: self.key.clone(), cause }
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let refuse = |cause: String| TlsError::Authority { path: path.to_owned(), cause };
    let mut store = RootCertStore::empty();
    for certificate in certificates(path).map_err(refuse)? {
        store.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    Ok(store)
}

/// The certificates in a file, at least one; an error says what is wrong with it.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| explain_pem(&error, "certificate"))?;
    if certificates.is_empty() {
        return Err("there is no certificate in it; expected PEM".to_owned());
    }
    Ok(certificates)
}

fn explain_pem(error: &pem::Error, what: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("there is no {what} in it; expected PEM"),
        error => error.to_string(),
    }
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
