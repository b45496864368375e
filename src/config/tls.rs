//! TLS: by which certificates a server is known on its listeners with TLS, and whom it wants to know.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ConfigError;
use crate::config::values::{group_defaults, parse_switch};

/// By which certificates a server is known, and whom it wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "TLS")]
pub struct Tls {
    /// File with a certificate chain in PEM, the server's own first; repeatable, with --tls-key
    /// [default: none]
    ///
    /// A client gets the first certificate that is valid for the name that it asks for, else the very
    /// first.
    #[arg(long = "tls-cert", value_name = "FILE", value_delimiter = ',')]
    pub certificates: Vec<PathBuf>,

    /// File with the private key of the certificate at the same place, in PEM; repeatable
    /// [default: none]
    #[arg(long = "tls-key", value_name = "FILE", value_delimiter = ',')]
    pub keys: Vec<PathBuf>,

    /// File with authorities in PEM, one of which has to have certified a client [default: none]
    #[arg(long = "tls-client-ca", value_name = "FILE")]
    pub client_authorities: Option<PathBuf>,

    /// Make a certificate for this run, and log its fingerprint: for trials
    #[arg(long = "tls-self-signed", value_parser = parse_switch)]
    pub self_signed: bool,

    /// Who opens and seals records after the handshake: this program, or the kernel where it can
    ///
    /// With `on`, keys go to the kernel (kTLS, tls.ko) on the engine's data plane. Nobody counts the
    /// records of a connection then, so its keys last as long as it does: see --lifetime-max.
    #[arg(long, value_name = "WHEN", default_value = "off")]
    pub ktls: Ktls,
}

/// Whether the kernel opens and seals records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ktls {
    /// It does not.
    Off,
    /// It does, where it has the module.
    On,
}

impl Default for Tls {
    fn default() -> Self {
        group_defaults()
    }
}

impl Tls {
    /// Whether there is a certificate.
    pub fn is_on(&self) -> bool {
        self.self_signed || !self.certificates.is_empty()
    }

    /// The files that are read, in the order of the flags.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.certificates.iter().chain(&self.keys).chain(&self.client_authorities)
    }

    /// Refuses flags that contradict each other; `listens` says whether a listener speaks TLS.
    pub(super) fn check(&self, listens: bool) -> Result<(), ConfigError> {
        let (certificates, keys) = (self.certificates.len(), self.keys.len());
        if certificates != keys {
            return Err(ConfigError::TlsKeyMissing { certificates, keys });
        }
        match (listens, self.is_on()) {
            (true, false) => Err(ConfigError::TlsCertificateMissing),
            (false, true) => Err(ConfigError::TlsListenerMissing),
            _ if self.self_signed && certificates > 0 => Err(ConfigError::TlsCertifiedTwice),
            _ if self.client_authorities.is_some() && !listens => {
                Err(ConfigError::TlsListenerMissing)
            }
            _ => Ok(()),
        }
    }
}
