//! Connections to other nodes: how to open one.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dq_tls::{Connection, Session, TlsConfig};
use dq_wire::raft_rpc::encode_connect;

use super::listener::{BindAddr, watch_peer};

/// How long to try; a peer that is up answers long before.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens streams to other nodes. An application may tunnel them through what it likes; it is called
/// on threads of its own and may block.
pub trait Dial: Send + Sync + fmt::Debug + 'static {
    /// A connected stream socket to the node at `address`, as written in the configuration.
    ///
    /// # Errors
    /// Why there is none; another attempt follows later.
    fn dial(&self, address: &str, timeout: Duration) -> io::Result<OwnedFd>;
}

/// TCP, with names resolved at each attempt, and abstract unix sockets.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainDialer;

impl Dial for PlainDialer {
    fn dial(&self, address: &str, timeout: Duration) -> io::Result<OwnedFd> {
        match BindAddr::parse(address)? {
            BindAddr::Tcp(addr) => {
                let stream = TcpStream::connect_timeout(&addr, timeout)?;
                Ok(stream.into())
            }
            BindAddr::Abstract(name) => {
                let addr = SocketAddr::from_abstract_name(name)?;
                Ok(UnixStream::connect_addr(&addr)?.into())
            }
        }
    }
}

/// How other nodes are reached.
#[derive(Debug, Clone)]
pub struct Way {
    dialer: Arc<dyn Dial>,
    tls: Option<TlsConfig>,
}

impl Way {
    /// Through this dialer, with TLS if there are certificates.
    pub fn new(dialer: Arc<dyn Dial>, tls: Option<TlsConfig>) -> Way {
        Way { dialer, tls }
    }

    /// Dials. What follows blocks, each read and write for `timeout` at most, as this does altogether.
    pub fn open(&self, address: &str, timeout: Duration) -> io::Result<Link> {
        let deadline = Instant::now() + timeout;
        let fd = self.dialer.dial(address, timeout)?;
        // Whatever kind of stream socket it is, reading, writing and closing are the same; the options
        // that are TCP's only are allowed to fail.
        let stream = TcpStream::from(fd);
        let _ = stream.set_nodelay(true);
        stream.set_nonblocking(false)?;
        let mut link = Link { stream, tls: None };
        // An abstract socket does not leave the machine, and the node behind it talks plain.
        if let Some(tls) = self.tls.as_ref().filter(|_| !address.starts_with('@')) {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = |left| link.limit(left, left);
            link.tls = Some(Box::new(tls.connect(address, &link.stream, limit, left)?));
        }
        link.limit(timeout, timeout)?;
        Ok(link)
    }

    /// Dials and introduces ourselves: what follows on the stream are raft messages.
    pub fn introduce(&self, address: &str, us: &Introduction) -> io::Result<Link> {
        let mut link = self.open(address, DIAL_TIMEOUT)?;
        watch_peer(&link.stream);
        link.write_all(&us.0)?;
        Ok(link)
    }
}

/// A stream to another node, which blocks.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    tls: Option<Box<Session>>,
}

impl Link {
    /// How long a read and a write may block.
    pub fn limit(&self, read: Duration, write: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(read))?;
        self.stream.set_write_timeout(Some(write))
    }

    /// Says that nothing more follows. The other direction goes on.
    pub fn finish(&self) -> io::Result<()> {
        if let Some(tls) = &self.tls {
            tls.close(&self.stream)?;
        }
        self.stream.shutdown(Shutdown::Write)
    }

    /// The stream that does not block any more, and TLS on it.
    pub fn into_parts(self) -> io::Result<(TcpStream, Option<Connection>)> {
        self.stream.set_nonblocking(true)?;
        let tls = self.tls.map(|tls| Connection::Client(tls.into_inner()));
        Ok((self.stream, tls))
    }
}

impl Read for Link {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => self.stream.read(into),
            Some(tls) => tls.read(&self.stream, into),
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.tls {
            None => self.stream.write(bytes),
            Some(tls) => tls.write(&self.stream, bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a node says first on a stream that it has opened.
#[derive(Debug, Clone)]
pub struct Introduction(Vec<u8>);

impl Introduction {
    /// For the node with this id and address.
    pub fn new(id: u64, address: &str) -> Introduction {
        let mut bytes = Vec::new();
        encode_connect(&mut bytes, id, address.as_bytes());
        Introduction(bytes)
    }
}
