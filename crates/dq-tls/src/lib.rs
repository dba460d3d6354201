//! TLS between the nodes of a cluster and for their clients.
//!
//! It is mutual: both sides show a certificate, and each has to come from an authority that the other
//! knows. One certificate and one set of authorities serve both directions, as with go-dqlite's `app`,
//! with whose nodes and clients this gets along. Versions 1.2 and 1.3, by rustls; no session is resumed, so
//! that each new connection is judged by the files as they are.
//!
//! ```text
//!   TlsConfig ── files (config.rs), read again when they change
//!      ├── server()   for who accepts
//!      ├── client()   for who connects
//!      └── connect()  the handshake of a blocking socket: Session (session.rs)
//!   who is believed: trust.rs          what went wrong, in words: explain.rs
//! ```
//!
//! What it leaves out: revocation lists. Whoever shall not get in any more gets no new certificate, or the
//! authority is replaced.

#![forbid(unsafe_code)]

mod config;
mod explain;
mod session;
mod trust;

pub use config::{TlsConfig, TlsError};
pub use explain::{explain, is_tls};
pub use rustls::{ClientConnection, Connection, ServerConnection};
pub use session::Session;
