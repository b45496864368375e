//! Certificates of a server: read at the start, read again when their files change or when it is told
//! to, and chosen by the name that a client asks for.
//!
//! A set of files that is wrong changes nothing: what was read before stays. Invariant: every chain
//! that is served has its own private key.

use std::{
    fmt::Display,
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    client::verify_server_name,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName,
        pem::{self, PemObject},
    },
    server::{
        ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets,
        ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
    },
    sign::CertifiedKey,
};
use thiserror::Error;
use tracing::{info, warn};

use super::OFFERS_HTTP2;
use crate::{
    config::{Ktls, Tls},
    tls::{default_provider, fingerprint, ktls, new_ticketer, note_server_name},
};

/// Bytes that a file with certificates or a key may have: thousands of certificates.
const FILE_LEN_MAX: u64 = 4 << 20;

/// Why certificates cannot be served.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{flag} {}: cannot be read: {cause}", path.display())]
    Unreadable {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// A file has something else in it than it should.
    #[error("{flag} {}: {cause}", path.display())]
    Wrong {
        /// The flag that names the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what is expected.
        cause: String,
    },
    /// A key belongs to another certificate.
    #[error(
        "--tls-key {} is not the key of --tls-cert {}: name them in the same order", key.display(),
        certificate.display()
    )]
    NotItsKey {
        /// The file with the key.
        key: PathBuf,
        /// The file with the certificate.
        certificate: PathBuf,
    },
    /// No certificate can be made.
    #[error("--tls-self-signed: {0}")]
    SelfSigned(rcgen::Error),
    /// The random numbers for the tickets' keys cannot be had, or the versions contradict the provider.
    #[error("TLS cannot be had: {0}")]
    Unavailable(#[from] rustls::Error),
}

/// The certificates of a server, with the configuration that serves them.
#[derive(Debug)]
pub struct Certificates {
    settings: Tls,
    /// What the files were when they were last read.
    stamps: Vec<Option<Stamp>>,
    /// Encrypts tickets. All workers share it, and it changes its keys by itself, every 6 hours.
    tickets: Arc<dyn ProducesTickets>,
    /// Keys go to the kernel.
    gives_keys: bool,
    /// Of a certificate that was made for this run.
    self_signed: Option<Arc<CertifiedKey>>,
    config: Arc<ServerConfig>,
}

/// By what a file is known to be the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    len: u64,
    changed: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(metadata: Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Certificates {
    /// Reads the certificates; `names` are those that one made for this run is for.
    pub fn load(settings: &Tls, names: &[String]) -> Result<Option<Self>, CertificateError> {
        if !settings.is_on() {
            return Ok(None);
        }
        let stamps = stamps(settings);
        let tickets = new_ticketer()?;
        let self_signed = settings.self_signed.then(|| self_sign(names)).transpose()?;
        let gives_keys = settings.ktls == Ktls::On && has_ktls();
        let mut config = build(settings, self_signed.as_ref(), tickets.clone())?;
        config.enable_secret_extraction = gives_keys;
        let (settings, config) = (settings.clone(), Arc::new(config));
        Ok(Some(Self { settings, stamps, tickets, gives_keys, self_signed, config }))
    }

    /// What new handshakes are answered with.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// The directories that the files are in, and those that they are really in if they are links.
    pub fn directories(settings: &Tls) -> Vec<PathBuf> {
        let real = settings.files().filter_map(|path| path.canonicalize().ok());
        let mut directories: Vec<_> =
            settings.files().cloned().chain(real).map(|path| directory(&path)).collect();
        directories.sort();
        directories.dedup();
        directories
    }

    /// Reads the files again if one is another than before. Returns whether there is something new.
    pub fn reload_if_changed(&mut self) -> bool {
        stamps(&self.settings) != self.stamps && self.reload()
    }

    /// Reads the files again. If something is wrong with them, a warning is logged, and what was read
    /// before stays. Returns whether there is something new.
    pub fn reload(&mut self) -> bool {
        if self.settings.certificates.is_empty() {
            return false;
        }
        self.stamps = stamps(&self.settings);
        match self.rebuild() {
            Ok(config) => {
                self.config = Arc::new(config);
                info!("certificates read again; new connections get them");
                true
            }
            Err(error) => {
                warn!("the certificates stay as they are: {error}");
                false
            }
        }
    }

    fn rebuild(&mut self) -> Result<ServerConfig, CertificateError> {
        // A ticket stands for a client's certificate, which the new authorities may not have issued.
        if self.settings.client_authorities.is_some() {
            self.tickets = new_ticketer()?;
        }
        let mut config = build(&self.settings, self.self_signed.as_ref(), self.tickets.clone())?;
        config.enable_secret_extraction = self.gives_keys;
        Ok(config)
    }
}

/// Whether the kernel can be given keys. If not, a warning says so.
fn has_ktls() -> bool {
    let probed = ktls::probe();
    if let Err(error) = &probed {
        let cause = match error.raw_os_error() {
            Some(libc::ENOENT) => "it has no module for it: try modprobe tls".to_owned(),
            _ => error.to_string(),
        };
        warn!("--ktls on: the kernel speaks no TLS ({cause}); this program does");
    }
    probed.is_ok()
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn stamps(settings: &Tls) -> Vec<Option<Stamp>> {
    settings.files().map(|path| fs::metadata(path).ok().map(Stamp::from)).collect()
}

/// What handshakes are answered with.
fn build(
    settings: &Tls,
    self_signed: Option<&Arc<CertifiedKey>>,
    tickets: Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, CertificateError> {
    let provider = Arc::new(default_provider());
    let pairs = settings.certificates.iter().zip(&settings.keys);
    let mut chains: Vec<Arc<CertifiedKey>> = self_signed.cloned().into_iter().collect();
    for (certificate, key) in pairs {
        chains.push(Arc::new(read_pair(certificate, key, &provider)?));
    }
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match &settings.client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(
                Arc::new(read_authorities(path)?),
                provider,
            );
            builder.with_client_cert_verifier(verifier.build().map_err(|error| match error {
                VerifierBuilderError::NoRootAnchors => wrong(CLIENT_CA, path, &NO_CERTIFICATE),
                other => wrong(CLIENT_CA, path, &other),
            })?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(chains)));
    config.ticketer = tickets;
    // Tickets hold everything, so that no worker and no restart needs what another has stored.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    let protocols: &[&[u8]] = if OFFERS_HTTP2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const CLIENT_CA: &str = "--tls-client-ca";
const NO_CERTIFICATE: &str = "there is no certificate in it; expected PEM";

fn wrong(flag: &'static str, path: &Path, cause: &dyn Display) -> CertificateError {
    CertificateError::Wrong { flag, path: path.to_owned(), cause: cause.to_string() }
}

fn read_file(flag: &'static str, path: &Path) -> Result<Vec<u8>, CertificateError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|cause| {
        let path = path.to_owned();
        CertificateError::Unreadable { flag, path, cause }
    })?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        let cause = format!("it is longer than {FILE_LEN_MAX} bytes");
        return Err(wrong(flag, path, &cause));
    }
    Ok(bytes)
}

fn read_certificates(
    flag: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let bytes = read_file(flag, path)?;
    let certificates: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates =
        certificates.map_err(|error| wrong(flag, path, &format!("it is no PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(wrong(flag, path, &NO_CERTIFICATE));
    }
    Ok(certificates)
}

fn read_authorities(path: &Path) -> Result<RootCertStore, CertificateError> {
    let mut store = RootCertStore::empty();
    for certificate in read_certificates(CLIENT_CA, path)? {
        store.add(certificate).map_err(|error| wrong(CLIENT_CA, path, &error))?;
    }
    Ok(store)
}

fn read_pair(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CertificateError> {
    let chain = read_certificates(CERT, certificate)?;
    if let Err(error) = ParsedCertificate::try_from(&chain[0]) {
        return Err(wrong(CERT, certificate, &error));
    }
    let private = PrivateKeyDer::from_pem_slice(&read_file(KEY, key)?).map_err(|error| {
        let expected = "expected PEM: PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY";
        wrong(KEY, key, &format!("there is no private key in it ({error}); {expected}"))
    })?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            CertificateError::NotItsKey { key: key.to_owned(), certificate: certificate.to_owned() }
        }
        other => wrong(KEY, key, &other),
    })
}

/// Makes a certificate for these names, and logs by what a client can know it.
fn self_sign(names: &[String]) -> Result<Arc<CertifiedKey>, CertificateError> {
    let made = rcgen::generate_simple_self_signed(names).map_err(CertificateError::SelfSigned)?;
    let certificate = made.cert.der().clone();
    info!(
        sha256 = fingerprint(&certificate),
        ?names,
        "serving TLS with a certificate that was made for this run: for trials only"
    );
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let key = CertifiedKey::from_der(vec![certificate], key.into(), &default_provider())?;
    Ok(Arc::new(key))
}

/// Chooses a chain by the name that a client asks for: the first that is valid for it, else the first
/// of all.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Self(chains) = self;
        let name = hello.server_name();
        note_server_name(name);
        let name = name.filter(|_| chains.len() > 1).and_then(|it| ServerName::try_from(it).ok());
        let valid = name.and_then(|name| chains.iter().find(|chain| is_valid_for(chain, &name)));
        valid.or(chains.first()).cloned()
    }
}

fn is_valid_for(chain: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let certificate = ParsedCertificate::try_from(&chain.cert[0]);
    certificate.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}
