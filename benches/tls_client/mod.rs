//! A client over TLS, rustls' own, which believes every server.

use std::{net::TcpStream, sync::Arc};

use ringecho::tls::default_provider;
use rustls::{
    ALL_VERSIONS, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    StreamOwned, SupportedCipherSuite, SupportedProtocolVersion,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// A stream over TLS.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// The configuration of clients that speak with these cipher suites, and come back with their ticket or
/// not.
pub(crate) fn config(suites: &[SupportedCipherSuite], resumes: bool) -> Arc<ClientConfig> {
    let has = |version: &&SupportedProtocolVersion| {
        suites.iter().any(|suite| suite.version().version == version.version)
    };
    let versions: Vec<_> = ALL_VERSIONS.iter().copied().filter(has).collect();
    let cipher_suites = suites.to_vec();
    let provider = Arc::new(CryptoProvider { cipher_suites, ..default_provider() });
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .expect("the provider has cipher suites for them")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(BelievesAnyone(provider)))
        .with_no_client_auth();
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    config.into()
}

/// Speaks TLS on a connected socket. The handshake goes on with the first read or write.
pub(crate) fn client(config: Arc<ClientConfig>, stream: TcpStream) -> TlsStream {
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(config, name).expect("the configuration is whole");
    StreamOwned::new(connection, stream)
}

#[derive(Debug)]
struct BelievesAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for BelievesAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
