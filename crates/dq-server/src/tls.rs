//! The options for TLS, of every command that connects or is connected to.

use std::path::PathBuf;

use clap::Args;
use dq_client::Config;
use dq_server::{TlsConfig, TlsError};

/// All or none of them.
#[derive(Debug, Args)]
pub(crate) struct Tls {
    /// Our certificate, PEM, followed by those between it and the authority, if there are any. With TLS, each
    /// side of a TCP connection has to show a certificate that the other's authorities vouch for. Changed
    /// files are read again.
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM, without a passphrase.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Certificates of the authorities that others have to be vouched for by, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
}

impl Tls {
    /// What the files say, if there are any.
    pub(crate) fn config(&self) -> Result<Option<TlsConfig>, TlsError> {
        match (&self.tls_cert, &self.tls_key, &self.tls_ca) {
            (Some(cert), Some(key), Some(ca)) => TlsConfig::from_pem(cert, key, ca).map(Some),
            _ => Ok(None),
        }
    }

    /// Settings of a client that goes by them.
    pub(crate) fn client(&self) -> Result<Config, TlsError> {
        Ok(match self.config()? {
            Some(tls) => Config::new().tls(tls),
            None => Config::new(),
        })
    }
}
