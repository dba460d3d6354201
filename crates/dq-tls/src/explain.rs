//! What went wrong, in words for whoever has to mend it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InconsistentKeys};

/// What an error of a handshake or a connection means. "The other side" is whoever we talk to.
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidMessage(_) => {
            format!(
                "what came is no TLS, or damaged: the other side may talk without TLS ({error})"
            )
        }
        Error::NoCertificatesPresented => "the other side shows no certificate".to_owned(),
        Error::InvalidCertificate(why) => certificate(why, error),
        Error::AlertReceived(alert) => received(*alert, error),
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the key is not that of the certificate".to_owned()
        }
        _ => error.to_string(),
    }
}

fn certificate(why: &CertificateError, error: &Error) -> String {
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("its certificate is from none of the known authorities ({error})")
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            format!("its certificate is not valid now ({error})")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is for another name ({error})")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("its certificate is not for this purpose ({error})")
        }
        _ => error.to_string(),
    }
}

fn received(alert: AlertDescription, error: &Error) -> String {
    match alert {
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::DecryptError => {
            format!("the other side does not believe our certificate ({error})")
        }
        AlertDescription::CertificateExpired => {
            format!("the other side finds our certificate expired ({error})")
        }
        AlertDescription::CertificateRequired => {
            format!("the other side wants a certificate ({error})")
        }
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
            format!("no version or cipher in common with the other side ({error})")
        }
        _ => error.to_string(),
    }
}

/// The error as one of input and output, which says what it means.
pub(crate) fn io_error(error: &Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, explain(error))
}

/// Whether these are the first bytes of a TLS connection, or of the answer to one that was none. The dqlite
/// protocol never begins so.
pub fn is_tls(first: &[u8]) -> bool {
    const HANDSHAKE: u8 = 22;
    const ALERT: u8 = 21;
    matches!(first, [HANDSHAKE | ALERT, 3, ..])
}
