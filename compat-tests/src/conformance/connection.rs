//! A client that does what it is told, right or wrong.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use dq_wire::{Header, PROTOCOL_LEGACY};

use super::frame::Frame;

/// Largest body that is accepted from a server under test.
const BODY_SIZE_MAX: u64 = 256 << 20;

/// What reading from a connection gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A message.
    Frame(Frame),
    /// The connection ended, in order or broken, between two messages.
    Closed,
    /// It ended inside a message; the bytes that came.
    Cut(Vec<u8>),
    /// Nothing whole came in time; the bytes that did.
    Timeout(Vec<u8>),
}

/// A plain TCP connection to a node.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    legacy: bool,
    corked: Option<Vec<u8>>,
    bytewise: bool,
    last_sent: Instant,
    last_bytes: Vec<u8>,
    /// Where the socket is read to.
    chunk: Vec<u8>,
    /// What was read and is not taken yet.
    read_buffer: Vec<u8>,
}

impl Connection {
    /// Connects and sends the protocol word, if there is one.
    ///
    /// # Errors
    /// The node cannot be reached.
    pub fn open(address: &str, word: Option<u64>) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut connection = Connection {
            stream,
            legacy: word == Some(PROTOCOL_LEGACY),
            corked: None,
            bytewise: false,
            last_sent: Instant::now(),
            last_bytes: Vec::new(),
            chunk: vec![0; 64 << 10],
            read_buffer: Vec::new(),
        };
        if let Some(word) = word {
            connection.send(&word.to_le_bytes())?;
        }
        Ok(connection)
    }

    /// True if it began with the legacy protocol word.
    pub fn is_legacy(&self) -> bool {
        self.legacy
    }

    /// Time since the last bytes were sent.
    pub fn since_sent(&self) -> Duration {
        self.last_sent.elapsed()
    }

    /// Sends bytes, or keeps them while corked.
    ///
    /// # Errors
    /// The connection is gone. A server may close one at any time, so what happened is better seen
    /// by reading.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(corked) = &mut self.corked {
            corked.extend_from_slice(bytes);
            return Ok(());
        }
        self.last_sent = Instant::now();
        bytes.clone_into(&mut self.last_bytes);
        if self.bytewise {
            return bytes
                .chunks(1)
                .try_for_each(|byte| self.stream.write_all(byte));
        }
        self.stream.write_all(bytes)
    }

    /// Sends again what was sent last.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub fn send_again(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.last_bytes);
        self.send(&bytes)
    }

    /// Keeps what is sent from now on.
    pub fn cork(&mut self) {
        self.corked.get_or_insert_default();
    }

    /// Sends what was kept.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub fn flush(&mut self) -> io::Result<()> {
        match self.corked.take() {
            Some(bytes) => self.send(&bytes),
            None => Ok(()),
        }
    }

    /// Sends each byte on its own from now on.
    pub fn set_bytewise(&mut self) {
        self.bytewise = true;
    }

    /// Ends the sending direction.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn shutdown(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// A second handle on the same socket, to be read or written from another thread.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn try_clone_stream(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Reads the next message, for at most `limit`.
    ///
    /// # Errors
    /// The system refuses, or a header announces a body that no answer has.
    pub fn receive(&mut self, limit: Duration) -> io::Result<Received> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Received::Frame(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Received::Timeout(std::mem::take(&mut self.read_buffer)));
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut self.chunk) {
                Ok(0) => return Ok(self.ended()),
                Ok(size) => self.read_buffer.extend_from_slice(&self.chunk[..size]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                        return Ok(self.ended());
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    fn ended(&mut self) -> Received {
        match std::mem::take(&mut self.read_buffer) {
            bytes if bytes.is_empty() => Received::Closed,
            bytes => Received::Cut(bytes),
        }
    }

    fn take_frame(&mut self) -> io::Result<Option<Frame>> {
        let Ok(header) = Header::decode(&self.read_buffer) else {
            return Ok(None);
        };
        if header.body_size() > BODY_SIZE_MAX {
            return Err(io::Error::other(format!("absurd header {header:?}")));
        }
        // At most `BODY_SIZE_MAX` by now.
        let size = Header::SIZE + header.body_size() as usize;
        if self.read_buffer.len() < size {
            return Ok(None);
        }
        let rest = self.read_buffer.split_off(size);
        let body = self.read_buffer.split_off(Header::SIZE);
        self.read_buffer = rest;
        Ok(Some(Frame { header, body }))
    }
}
