//! TLS on a blocking socket, from the connecting side.

use std::io::{self, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::config::TlsConfig;
use crate::explain::io_error;

/// Plaintext that one record takes.
const RECORD: usize = 16 * 1024;

/// Ciphertext read at a time.
const READ: usize = 16 * 1024;

/// A connection whose handshake is over. One thread may read while another writes.
#[derive(Debug)]
pub struct Session(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    connection: ClientConnection,
    /// What was read of the stream and is not yet decrypted: rustls takes no more while it has enough to give.
    cipher: Vec<u8>,
}

impl TlsConfig {
    /// Does the handshake on a connected, blocking socket. `address` is what was dialled: the certificate
    /// has to be for its host, or for the first name in our own certificate. `limit` sets how long a read or
    /// write of the socket may block.
    ///
    /// # Errors
    /// The handshake fails, or takes longer than `timeout`. In TLS 1.3 the other side may still refuse
    /// our certificate afterwards: then the first read fails.
    pub fn connect(
        &self,
        address: &str,
        mut stream: impl Read + Write,
        limit: impl Fn(Duration) -> io::Result<()>,
        timeout: Duration,
    ) -> io::Result<Session> {
        let deadline = Instant::now() + timeout;
        let named = ServerName::try_from(host(address).to_owned());
        let name = match (named, self.trust().own_name()) {
            (Ok(name), _) => name,
            (Err(_), Some(own)) => own.clone(),
            (Err(error), None) => return Err(io::Error::other(format!("{address}: {error}"))),
        };
        let mut connection =
            ClientConnection::new(self.client(), name).map_err(|error| io_error(&error))?;
        while connection.is_handshaking() || connection.wants_write() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            limit(left)?;
            if connection.wants_write() {
                write_out(&mut connection, &mut stream)?;
            } else {
                let count = connection.read_tls(&mut stream)?;
                digest(&mut connection, &mut stream)?;
                if count == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "closed in the middle of the TLS handshake; does the other side talk TLS?",
                    ));
                }
            }
        }
        Ok(Session(Mutex::new(Inner {
            connection,
            cipher: Vec::new(),
        })))
    }
}

/// Sends what is encrypted.
fn write_out(connection: &mut ClientConnection, stream: &mut dyn Write) -> io::Result<()> {
    while connection.wants_write() {
        match connection.write_tls(stream) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Decrypts what was read. What is wrong with it the other side should hear too.
fn digest(connection: &mut ClientConnection, stream: &mut dyn Write) -> io::Result<()> {
    match connection.process_new_packets() {
        Ok(_) => Ok(()),
        Err(error) => {
            let _ = write_out(connection, stream);
            Err(io_error(&error))
        }
    }
}

impl Session {
    /// The connection by itself, for whoever does not block. Nothing may have been read yet.
    pub fn into_inner(self) -> ClientConnection {
        let inner = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(inner.cipher.is_empty(), "a session that was read from");
        inner.connection
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What a panic in another thread left half done fails to decrypt, at worst.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what has arrived, or waits for something to arrive; 0 at the end. That is also a connection
    /// that just ends: what goes over it says by itself where it is complete.
    ///
    /// # Errors
    /// Those of the stream, and whatever TLS finds wrong.
    pub fn read(&self, mut stream: impl Read + Write, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut inner = self.lock();
            let Inner { connection, cipher } = &mut *inner;
            match connection.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if !cipher.is_empty() {
                let taken = connection.read_tls(&mut &cipher[..])?;
                cipher.drain(..taken);
                digest(connection, &mut stream)?;
                write_out(connection, &mut stream)?;
                continue;
            }
            // Not while the lock is held: others may want to write meanwhile.
            drop(inner);
            let mut bytes = [0; READ];
            let count = stream.read(&mut bytes)?;
            let mut inner = self.lock();
            if count == 0 {
                // Told so, it knows whether the end was announced.
                inner.connection.read_tls(&mut io::empty())?;
            }
            inner.cipher.extend_from_slice(&bytes[..count]);
        }
    }

    /// Encrypts and sends as much as one record takes. After an error no part of it will arrive.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn write(&self, mut stream: impl Write, bytes: &[u8]) -> io::Result<usize> {
        let connection = &mut self.lock().connection;
        write_out(connection, &mut stream)?;
        let count = connection
            .writer()
            .write(&bytes[..bytes.len().min(RECORD)])?;
        write_out(connection, &mut stream)?;
        Ok(count)
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn close(&self, mut stream: impl Write) -> io::Result<()> {
        let connection = &mut self.lock().connection;
        connection.send_close_notify();
        write_out(connection, &mut stream)
    }

    /// Whether something has arrived that was not read, be it the end.
    pub fn has_unread(&self) -> bool {
        let mut inner = self.lock();
        let nothing = inner.cipher.is_empty()
            && inner.connection.process_new_packets().is_ok_and(|state| {
                state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed()
            });
        !nothing
    }
}

/// The host of `HOST:PORT`, `[IPV6]:PORT` or an address without a port.
fn host(address: &str) -> &str {
    if let Some((host, _)) = address
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        return host;
    }
    match address.split_once(':') {
        Some((host, port)) if !port.contains(':') => host,
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn the_host_is_what_is_before_the_port() {
        for (address, expected) in [
            ("10.0.0.1:9000", "10.0.0.1"),
            ("[::1]:9000", "::1"),
            ("db1.example:9000", "db1.example"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
            ("db1.example", "db1.example"),
        ] {
            assert_eq!(host(address), expected);
        }
    }
}
