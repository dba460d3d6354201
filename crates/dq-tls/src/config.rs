//! Certificates, keys and authorities from PEM files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::explain::explain;
use crate::trust::Trust;

/// How often the files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

/// A certificate, its key, and the authorities whose certificates are believed.
///
/// They come from files, which are looked at when a connection begins (once a second at most): changed
/// files are read again, and are good for connections from then on. If the new ones are of no use, because
/// only one of them has been replaced yet or for any other reason, the old ones stay, and the log says why.
#[derive(Clone)]
pub struct TlsConfig(Arc<Shared>);

struct Shared {
    files: Files,
    state: Mutex<State>,
}

struct State {
    loaded: Arc<Loaded>,
    /// The files when they were read for `loaded`.
    stamp: Stamp,
    /// The files when they were found to be of no use.
    refused: Option<Stamp>,
    looked: Instant,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    authorities: PathBuf,
}

/// Size and time of change of each file; `None` for one that is not there.
type Stamp = [Option<(u64, SystemTime)>; 3];

/// What the files said.
struct Loaded {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    trust: Arc<Trust>,
    /// Why our own authorities do not vouch for our own certificate.
    unvouched: Option<String>,
}

/// Why certificates cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError(String);

impl TlsConfig {
    /// Reads the files: the certificate, followed by those between it and the authority if there are any;
    /// its key; and the certificates of the authorities. A certificate that has signed itself is its own
    /// authority: the same file may be given for both.
    ///
    /// # Errors
    /// A file cannot be read, or does not hold what it should; or the key is another certificate's.
    pub fn from_pem(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        authorities: impl Into<PathBuf>,
    ) -> Result<TlsConfig, TlsError> {
        let files = Files {
            certificate: certificate.into(),
            key: key.into(),
            authorities: authorities.into(),
        };
        // Before they are read: a change while they are is seen the next time.
        let stamp = files.stamp();
        let state = State {
            loaded: Arc::new(files.load()?),
            stamp,
            refused: None,
            looked: Instant::now(),
        };
        Ok(TlsConfig(Arc::new(Shared {
            files,
            state: Mutex::new(state),
        })))
    }

    /// Whether the others, who know the same authorities, would believe our certificate, as that of a node,
    /// which both accepts and connects. Once this holds, files for which it does not are not taken either.
    ///
    /// # Errors
    /// They would not: it is of another authority, expired, or not for this purpose.
    pub fn check_node(&self) -> Result<(), TlsError> {
        match &self.loaded().unvouched {
            None => Ok(()),
            Some(why) => Err(self.0.files.unvouched(why)),
        }
    }

    /// For whoever accepts connections.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.loaded().server)
    }

    /// For whoever connects.
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.loaded().client)
    }

    pub(crate) fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.loaded().trust)
    }

    /// What the files say now, or said when they were last of use.
    fn loaded(&self) -> Arc<Loaded> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK {
            state.look(&self.0.files);
            state.looked = Instant::now();
        }
        Arc::clone(&state.loaded)
    }
}

impl State {
    fn look(&mut self, files: &Files) {
        let stamp = files.stamp();
        if stamp == self.stamp || self.refused == Some(stamp) {
            return;
        }
        let usable = files.load().and_then(|new| match &new.unvouched {
            Some(why) if self.loaded.unvouched.is_none() => Err(files.unvouched(why)),
            _ => Ok(new),
        });
        match usable {
            Ok(loaded) => {
                log::info!("{}: read again", files.certificate.display());
                self.loaded = Arc::new(loaded);
                self.stamp = stamp;
                self.refused = None;
            }
            Err(error) => {
                log::warn!("certificates have changed, the old ones stay in use: {error}");
                self.refused = Some(stamp);
            }
        }
    }
}

impl Files {
    fn stamp(&self) -> Stamp {
        [&self.certificate, &self.key, &self.authorities].map(|path| {
            let file = path.metadata().ok()?;
            Some((file.len(), file.modified().ok()?))
        })
    }

    fn unvouched(&self, why: &str) -> TlsError {
        TlsError(format!(
            "{}: the authorities in {} do not vouch for it: {why}",
            self.certificate.display(),
            self.authorities.display()
        ))
    }

    fn load(&self) -> Result<Loaded, TlsError> {
        let chain = certificates(&self.certificate)?;
        let key = private_key(&self.key)?;
        let trusted = certificates(&self.authorities)?;
        let of_certificate = |error| at(&self.certificate, &explain(&error));
        let of_authorities = |error| at(&self.authorities, &explain(&error));

        let mut roots = RootCertStore::empty();
        for authority in &trusted {
            roots.add(authority.clone()).map_err(of_authorities)?;
        }
        let provider = Arc::new(ring::default_provider());
        if let Err(error) = provider.key_provider.load_private_key(key.clone_key()) {
            return Err(at(&self.key, &explain(&error)));
        }
        let trust = Trust::new(roots, trusted, &chain, &provider)
            .map_err(|error| at(&self.certificate, &error))?;
        let trust = Arc::new(trust);
        let unvouched = trust
            .vouches_for(&chain, UnixTime::now())
            .err()
            .map(|error| explain(&error));

        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(of_certificate)?
            .with_client_cert_verifier(Arc::clone(&trust) as _)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(of_certificate)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider as Arc<CryptoProvider>)
            .with_safe_default_protocol_versions()
            .map_err(of_certificate)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&trust) as _)
            .with_client_auth_cert(chain, key)
            .map_err(of_certificate)?;
        client.resumption = Resumption::disabled();
        Ok(Loaded {
            server: Arc::new(server),
            client: Arc::new(client),
            trust,
            unvouched,
        })
    }
}

fn at(path: &Path, what: &dyn fmt::Display) -> TlsError {
    TlsError(format!("{}: {what}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| at(path, &error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| at(path, &error))?;
    match certificates.is_empty() {
        true => Err(at(path, &"holds no certificate (in PEM)")),
        false => Ok(certificates),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            let encrypted = b"BEGIN ENCRYPTED PRIVATE KEY";
            match bytes.windows(encrypted.len()).any(|part| part == encrypted) {
                true => at(
                    path,
                    &"the key is encrypted: it has to be stored without a passphrase",
                ),
                false => at(path, &"holds no private key (in PEM)"),
            }
        }
        error => at(path, &error),
    })
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Files {
            certificate,
            key,
            authorities,
        } = &self.0.files;
        f.debug_struct("TlsConfig")
            .field("certificate", certificate)
            .field("key", key)
            .field("authorities", authorities)
            .finish()
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}
