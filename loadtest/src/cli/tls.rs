//! Flags about TLS: whom to trust, what is offered, and who the client is.

use std::{path::PathBuf, str::FromStr};

use clap::ValueEnum;

use super::PlanError;
use crate::wire::{
    target::Target,
    tls::{Identity, Tls, TlsSettings, TlsVersions, Trust},
};

/// The most bytes that the name of an application protocol may have (RFC 7301 §3.1).
const PROTOCOL_LEN_MAX: usize = 255;

/// What HTTP/1.1 and HTTP/2 are called in ALPN.
const HTTP_1_1: &str = "http/1.1";
const HTTP_2: &str = "h2";

/// Flags about TLS.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = super::CONNECTIONS)]
pub struct TlsArgs {
    /// For wss://, trust the authorities in FILE (PEM) instead of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub ca: Option<PathBuf>,

    /// For wss://, believe every server
    #[arg(long)]
    pub insecure: bool,

    /// For wss://, offer this version alone [default: 1.2 and 1.3]
    #[arg(long, value_name = "VERSION")]
    pub tls: Option<TlsVersion>,

    /// For wss://, go on with earlier sessions by the server's tickets, each thread by those of its own
    /// connections; otherwise each connection pays for a whole handshake
    #[arg(long)]
    pub tls_resume: bool,

    /// For wss://, offer these application protocols (ALPN), the best first [default: http/1.1, with
    /// --http2 h2]
    #[arg(long, value_name = "LIST")]
    pub alpn: Option<ProtocolList>,

    /// For wss://, ask for the server of this name (SNI), and hold its certificate against it, instead
    /// of the URL's host
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,

    /// For wss://, show the certificate in FILE (PEM), with those that lead to an authority behind it
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,

    /// The key of --client-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsVersion {
    /// RFC 5246.
    #[value(name = "1.2")]
    Tls12,
    /// RFC 8446.
    #[value(name = "1.3")]
    Tls13,
}

/// Names of application protocols, at least one, each of 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolList(Vec<String>);

impl FromStr for ProtocolList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        match names.iter().find(|name| !(1..=PROTOCOL_LEN_MAX).contains(&name.len())) {
            None => Ok(Self(names)),
            Some(name) => Err(format!(
                "{name:?} is no name of a protocol: expected 1 to {PROTOCOL_LEN_MAX} bytes each, such \
                 as h2,http/1.1"
            )),
        }
    }
}

impl TlsArgs {
    /// How TLS is spoken with `target`, if it is, and HTTP/2 on it. A redirect that is followed may lead
    /// to wss://.
    pub(super) fn tls(
        &self,
        target: &Target,
        http2: bool,
        follows: bool,
    ) -> Result<Option<Tls>, PlanError> {
        if !target.tls() {
            let flag = self.flag().filter(|_| !follows);
            return flag.map_or(Ok(None), |flag| Err(PlanError::WithoutTls(flag)));
        }
        let protocol = if http2 { HTTP_2 } else { HTTP_1_1 };
        let alpn = match &self.alpn {
            None => vec![protocol.to_owned()],
            Some(ProtocolList(names)) if http2 && !names.iter().any(|name| name == HTTP_2) => {
                return Err(PlanError::AlpnWithoutHttp2 { list: names.join(",") });
            }
            Some(ProtocolList(names)) => names.clone(),
        };
        let settings = TlsSettings {
            trust: match &self.ca {
                Some(path) => Trust::Authority(path.clone()),
                None if self.insecure => Trust::Anyone,
                None => Trust::System,
            },
            server_name: self.sni.clone(),
            alpn,
            versions: match self.tls {
                None => TlsVersions::All,
                Some(TlsVersion::Tls12) => TlsVersions::Tls12,
                Some(TlsVersion::Tls13) => TlsVersions::Tls13,
            },
            identity: self
                .client_cert
                .clone()
                .zip(self.client_key.clone())
                .map(|(certificate, key)| Identity { certificate, key }),
            resume: self.tls_resume,
        };
        Ok(Some(Tls::new(target.host(), &settings)?))
    }

    /// A flag that means nothing without TLS.
    fn flag(&self) -> Option<&'static str> {
        let Self { ca, insecure, tls, tls_resume, alpn, sni, client_cert, client_key } = self;
        let given = [
            (ca.is_some(), "--ca"),
            (*insecure, "--insecure"),
            (tls.is_some(), "--tls"),
            (*tls_resume, "--tls-resume"),
            (alpn.is_some(), "--alpn"),
            (sni.is_some(), "--sni"),
            (client_cert.is_some(), "--client-cert"),
            (client_key.is_some(), "--client-key"),
        ];
        given.into_iter().find(|(is_given, _)| *is_given).map(|(_, flag)| flag)
    }
}
