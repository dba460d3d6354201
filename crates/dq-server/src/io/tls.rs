//! TLS on a socket of the event loop: what is between its queue and the kernel.
//!
//! Encrypted bytes wait in the connection, as much as its limit lets in; everything else waits where plain
//! bytes do. So both directions are held up as without TLS.

use std::io::{self, IoSlice, Read, Write};

use dq_tls::{Connection, explain};

/// Bytes that may be encrypted and not yet sent.
const ENCRYPTED_MAX: usize = 64 * 1024;

/// Encrypted bytes read before the other connections get their turn.
const READ_BYTES_MAX: usize = 64 * 1024;

/// A connection that has begun.
#[derive(Debug)]
pub struct Layer {
    connection: Connection,
    /// There may be more to read than the last read gave.
    more: bool,
    /// We have said that nothing more comes.
    closed: bool,
}

impl Layer {
    /// A layer over a connection whose handshake is done.
    pub fn new(mut connection: Connection) -> Layer {
        connection.set_buffer_limit(Some(ENCRYPTED_MAX));
        Layer {
            connection,
            more: true,
            closed: false,
        }
    }

    /// Reads what is there: `WouldBlock` if that is nothing, or if for now enough was read that came to
    /// nothing; [`Layer::has_more`] tells which.
    pub fn read(&mut self, stream: &mut dyn Read, into: &mut [u8]) -> io::Result<usize> {
        let mut stream = Counted {
            stream,
            left: READ_BYTES_MAX,
            took_all: false,
        };
        self.more = true;
        loop {
            match self.connection.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It just ended. What goes over it says by itself where it is complete, so this is no worse
                // than an end that was announced.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Ok(count) => {
                    self.more = count == into.len() || !stream.took_all;
                    return Ok(count);
                }
                Err(error) => return Err(error),
            }
            if stream.left == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if let Err(error) = self.connection.read_tls(&mut stream) {
                self.more = error.kind() != io::ErrorKind::WouldBlock;
                return Err(error);
            }
            self.connection
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, explain(&error)))?;
        }
    }

    /// Whether there may be more to read than the last read gave.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// Takes as much of these bytes as there is room for, which may be nothing.
    pub fn encrypt(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.connection.writer().write_vectored(slices)
    }

    /// Whether something is encrypted and not yet sent.
    pub fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Sends what is encrypted, as much of it as the kernel takes.
    pub fn write(&mut self, stream: &mut dyn Write) -> io::Result<usize> {
        self.connection.write_tls(stream)
    }

    /// Announces the end, once.
    pub fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.connection.send_close_notify();
        }
    }
}

/// Counts what is read, and sees whether that was all there is.
struct Counted<'a> {
    stream: &'a mut dyn Read,
    left: usize,
    /// The last read took all that the kernel had.
    took_all: bool,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(into)?;
        self.left = self.left.saturating_sub(count);
        self.took_all = count < into.len();
        Ok(count)
    }
}
