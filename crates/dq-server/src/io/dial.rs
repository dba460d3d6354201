//! Connections to other nodes: how to open one.

use std::fmt;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

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

/// Dials and introduces ourselves: what follows on the stream are raft messages.
pub fn connect(dialer: &dyn Dial, address: &str, us: &Introduction) -> io::Result<TcpStream> {
    let fd = dialer.dial(address, DIAL_TIMEOUT)?;
    // Whatever kind of stream socket it is, reading, writing and closing are the same; the options
    // that are TCP's only are allowed to fail.
    let mut stream = TcpStream::from(fd);
    let _ = stream.set_nodelay(true);
    watch_peer(&stream);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(DIAL_TIMEOUT))?;
    stream.write_all(&us.0)?;
    Ok(stream)
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
