//! Who is believed.
//!
//! The rules are those of rustls, with two additions that clusters of go-dqlite's `app` count on:
//!
//! - A certificate that is itself in the file of authorities is believed although it is an authority's: that
//!   is what `openssl req -x509` makes, and what such clusters share.
//! - A server's certificate is good if it is for the host that was dialled, or for the first name in our own
//!   certificate: nodes that share one certificate are reached under addresses that it need not name.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

/// Judges the certificates of both clients and servers.
#[derive(Debug)]
pub(crate) struct Trust {
    servers: Arc<WebPkiServerVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    /// The authorities' certificates, any of which may be shown as one's own.
    trusted: Vec<CertificateDer<'static>>,
    own_name: Option<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// For whoever shows `chain` and believes the authorities `trusted`, of which `roots` is made.
    pub(crate) fn new(
        roots: RootCertStore,
        trusted: Vec<CertificateDer<'static>>,
        chain: &[CertificateDer<'static>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Trust, String> {
        let roots = Arc::new(roots);
        let own = chain.first().ok_or("holds no certificate")?;
        let own = webpki::EndEntityCert::try_from(own).map_err(|error| error.to_string())?;
        let own_name = own
            .valid_dns_names()
            .find_map(|name| ServerName::try_from(name.to_owned()).ok());
        let servers =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
                .build()
                .map_err(|error| error.to_string())?;
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
                .build()
                .map_err(|error| error.to_string())?;
        Ok(Trust {
            servers,
            clients,
            roots,
            trusted,
            own_name,
            provider: Arc::clone(provider),
        })
    }

    /// The first name in our own certificate.
    pub(crate) fn own_name(&self) -> Option<&ServerName<'static>> {
        self.own_name.as_ref()
    }

    /// Whether others who believe the same authorities would believe this certificate, of a server and of a
    /// client, whatever the name.
    pub(crate) fn vouches_for(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some((own, between)) = chain.split_first() else {
            return Err(Error::NoCertificatesPresented);
        };
        self.verify_client_cert(own, between, now)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(own)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, between, now, algorithms)
            .or_else(|error| self.unless_trusted(own, error))
    }

    /// Lets an error pass that says no more than that an authority's certificate is used by a client or
    /// server, if it is one that we were told to believe. It comes after the dates have been looked at.
    fn unless_trusted(&self, cert: &CertificateDer<'_>, error: Error) -> Result<(), Error> {
        let is_authority = match &error {
            Error::InvalidCertificate(CertificateError::Other(other)) => matches!(
                other.0.downcast_ref::<webpki::Error>(),
                Some(webpki::Error::CaUsedAsEndEntity)
            ),
            _ => false,
        };
        match is_authority && self.trusted.iter().any(|trusted| trusted == cert) {
            true => Ok(()),
            false => Err(error),
        }
    }

    fn verify_for(
        &self,
        cert: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        match self
            .servers
            .verify_server_cert(cert, between, name, &[], now)
        {
            Ok(_) => Ok(()),
            Err(error) => {
                self.unless_trusted(cert, error)?;
                verify_server_name(&ParsedCertificate::try_from(cert)?, name)
            }
        }
    }
}

fn is_other_name(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match (self.verify_for(cert, between, name, now), &self.own_name) {
            (Ok(()), _) => {}
            (Err(error), Some(own)) if is_other_name(&error) => {
                // If that fails too, what was dialled is what the error should speak of.
                self.verify_for(cert, between, own, now)
                    .map_err(|_| error)?;
            }
            (Err(error), _) => return Err(error),
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.servers.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.servers.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.servers.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Trust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        cert: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.clients.verify_client_cert(cert, between, now) {
            Ok(verified) => Ok(verified),
            Err(error) => {
                self.unless_trusted(cert, error)?;
                Ok(ClientCertVerified::assertion())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}
