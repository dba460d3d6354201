//! Certificates for tests, and connections that show them.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dq_tls::{Session, TlsConfig};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

/// How long a handshake and an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An authority that gives out certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// The files of one who has a certificate.
#[derive(Debug, Clone)]
pub struct Files {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whom it believes.
    pub ca: PathBuf,
}

/// What is wrong with a certificate, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// It was good until 2001.
    Expired,
    /// It may be shown by servers only.
    ServersOnly,
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// When no certificate can be made.
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("it signs");
        Authority {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Writes a certificate for these names, host names and addresses, its key, and that of this authority into
    /// a directory.
    ///
    /// # Panics
    /// When that does not work.
    pub fn issue(&self, dir: &Path, names: &[&str], flaw: Flaw) -> Files {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        match flaw {
            Flaw::None => {}
            Flaw::Expired => params.not_after = date_time_ymd(2001, 1, 1),
            Flaw::ServersOnly => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }
        }
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("it signs");
        Files::write(dir, &certificate.pem(), &key.serialize_pem(), &self.pem)
    }
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}

impl Files {
    /// Writes a certificate that has signed itself and is its own authority, as `openssl req -x509` makes it.
    ///
    /// # Panics
    /// When that does not work.
    pub fn self_signed(dir: &Path, name: &str, flaw: Flaw) -> Files {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if flaw == Flaw::Expired {
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().expect("a key can be made");
        let pem = params.self_signed(&key).expect("it signs").pem();
        Files::write(dir, &pem, &key.serialize_pem(), &pem)
    }

    fn write(dir: &Path, cert: &str, key: &str, ca: &str) -> Files {
        fs::create_dir_all(dir).expect("a directory");
        let file = |name: &str, pem: &str| {
            let path = dir.join(name);
            fs::write(&path, pem).expect("written");
            path
        };
        Files {
            cert: file("cert.pem", cert),
            key: file("key.pem", key),
            ca: file("ca.pem", ca),
        }
    }

    /// The options of our programs.
    pub fn arguments(&self) -> Vec<String> {
        [
            ("--tls-cert", &self.cert),
            ("--tls-key", &self.key),
            ("--tls-ca", &self.ca),
        ]
        .into_iter()
        .flat_map(|(option, path)| [option.to_owned(), path.display().to_string()])
        .collect()
    }

    /// What our libraries take.
    ///
    /// # Panics
    /// When the files are of no use.
    pub fn config(&self) -> TlsConfig {
        TlsConfig::from_pem(&self.cert, &self.key, &self.ca).expect("the files are good")
    }

    /// A connection that shows this certificate.
    ///
    /// # Errors
    /// Nobody is there, or the handshake fails.
    pub fn connect(&self, address: &str) -> io::Result<Secured> {
        let stream = TcpStream::connect(address)?;
        let limit = |left| {
            stream.set_read_timeout(Some(left))?;
            stream.set_write_timeout(Some(left))
        };
        let session = self.config().connect(address, &stream, limit, PATIENCE)?;
        limit(PATIENCE)?;
        Ok(Secured { stream, session })
    }
}

/// A connection with TLS.
#[derive(Debug)]
pub struct Secured {
    /// The socket.
    pub stream: TcpStream,
    /// TLS on it.
    pub session: Session,
}

impl Read for Secured {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.session.read(&self.stream, into)
    }
}

impl Write for Secured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.session.write(&self.stream, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
