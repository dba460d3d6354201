//! Where clients and peers come in: TCP, or an abstract unix socket.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use nix::sys::socket::{UnixAddr, getsockname, getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};

/// Connections that may wait to be accepted, as with C dqlite.
const BACKLOG: i32 = 128;

/// How long data to a peer may be unacknowledged.
const PEER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest name of an abstract unix socket, bytes.
pub const ABSTRACT_NAME_MAX: usize = 107;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindAddr {
    /// TCP, IPv4 or IPv6; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A unix socket in the abstract namespace: no file, gone with the process. With an empty name
    /// the kernel chooses one.
    Abstract(Vec<u8>),
}

impl BindAddr {
    /// Understands `HOST:PORT` (names are resolved, which may block), `[IPV6]:PORT`, a bare
    /// address (port 8080), `@NAME` and, for a name that the kernel chooses, `@`.
    pub fn parse(text: &str) -> io::Result<BindAddr> {
        if let Some(name) = text.strip_prefix('@') {
            if name.len() > ABSTRACT_NAME_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "bad abstract socket name",
                ));
            }
            return Ok(BindAddr::Abstract(name.as_bytes().to_vec()));
        }
        resolve(text).map(BindAddr::Tcp)
    }
}

impl fmt::Display for BindAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindAddr::Tcp(addr) => write!(f, "{addr}"),
            BindAddr::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
        }
    }
}

/// Resolves `HOST:PORT`, or a bare numeric address with dqlite's default port.
pub fn resolve(text: &str) -> io::Result<SocketAddr> {
    if let Ok(ip) = text.parse() {
        return Ok(SocketAddr::new(ip, 8080));
    }
    text.to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{text}: no such host")))
}

/// Who may use an abstract socket: there is no other protection on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnixPeers {
    /// Processes of the same user.
    SameUser,
    /// This process only, as C dqlite has it.
    SameProcess,
}

/// A socket that is bound and does not listen yet: the address is taken, and whoever connects is
/// refused.
#[derive(Debug)]
pub struct BoundSocket {
    socket: Socket,
    addr: BindAddr,
}

impl BoundSocket {
    /// Binds.
    ///
    /// # Errors
    /// The address is in use, or none of this machine's.
    pub fn bind(addr: &BindAddr) -> io::Result<BoundSocket> {
        match addr {
            BindAddr::Tcp(addr) => {
                let socket = Socket::new(Domain::for_address(*addr), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.bind(&SockAddr::from(*addr))?;
                let bound = socket.local_addr()?.as_socket();
                let addr = BindAddr::Tcp(bound.unwrap_or(*addr));
                Ok(BoundSocket { socket, addr })
            }
            BindAddr::Abstract(name) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                let wanted = if name.is_empty() {
                    UnixAddr::new_unnamed()
                } else {
                    UnixAddr::new_abstract(name)?
                };
                nix::sys::socket::bind(socket.as_fd().as_raw_fd(), &wanted)?;
                let bound: UnixAddr = getsockname(socket.as_fd().as_raw_fd())?;
                let name = bound.as_abstract().unwrap_or(name).to_vec();
                let addr = BindAddr::Abstract(name);
                Ok(BoundSocket { socket, addr })
            }
        }
    }

    /// The address that is really bound: port 0 and an empty name resolved.
    pub fn local_addr(&self) -> &BindAddr {
        &self.addr
    }

    /// Begins to listen; `peers` matters for abstract sockets only.
    ///
    /// # Errors
    /// Another socket, bound to the same address before, listens already.
    pub fn listen(self, peers: UnixPeers) -> io::Result<Listener> {
        self.socket.set_nonblocking(true)?;
        self.socket.listen(BACKLOG)?;
        Ok(match self.addr {
            BindAddr::Tcp(_) => Listener::Tcp(TcpListener::from_std(self.socket.into())),
            BindAddr::Abstract(_) => {
                Listener::Unix(UnixListener::from_std(self.socket.into()), peers)
            }
        })
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Abstract unix socket.
    Unix(UnixListener, UnixPeers),
}

/// An accepted socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Listener {
    /// Takes the next connection; `Ok(None)` for one that was turned away.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                // An option that this kind of socket lacks costs latency, not correctness.
                let _ = stream.set_nodelay(true);
                watch(&stream);
                Ok(Some(Stream::Tcp(stream)))
            }
            Listener::Unix(listener, peers) => {
                let (stream, _) = listener.accept()?;
                let known =
                    getsockopt(&stream.as_fd(), PeerCredentials).is_ok_and(|cred| match peers {
                        UnixPeers::SameUser => cred.uid() == nix::unistd::getuid().as_raw(),
                        UnixPeers::SameProcess => cred.pid() == nix::unistd::getpid().as_raw(),
                    });
                Ok(known.then_some(Stream::Unix(stream)))
            }
        }
    }

    /// For registration with mio.
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            Listener::Tcp(listener) => listener,
            Listener::Unix(listener, _) => listener,
        }
    }
}

/// Finds clients that are gone in seconds rather than the kernel's two hours.
///
/// There is no limit on unacknowledged data: the kernel counts what a living client leaves unread as
/// such, and would cut one that has merely stopped to think.
///
/// Thousands that have fallen silent in the same moment are not asked in the same moment: a loopback
/// interface takes a thousand packets at once, and those who are asked last would be lost each time.
fn watch(stream: &impl AsFd) {
    // Descriptors that are used one after another are numbered so.
    let spread = stream.as_fd().as_raw_fd() as u64 % 8;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(8 + spread))
        .with_interval(Duration::from_secs(3))
        .with_retries(5);
    // An option that this kind of socket lacks costs time, not correctness.
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// Finds peers that are gone, also while data are under way to them: a node always reads, so one that
/// takes nothing for this long is as good as gone, and a new stream is tried.
pub fn watch_peer(stream: &impl AsFd) {
    watch(stream);
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(PEER_TIMEOUT));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_reads_late_is_not_cut_and_one_that_is_gone_is_noticed() {
        let any = BindAddr::parse("127.0.0.1:0").expect("an address");
        let bound = BoundSocket::bind(&any).expect("free");
        let BindAddr::Tcp(addr) = *bound.local_addr() else {
            panic!("bound to something else");
        };
        let listener = bound.listen(UnixPeers::SameUser).expect("listens");
        let dialled = std::net::TcpStream::connect(addr).expect("connects");
        let accepted = loop {
            match listener.accept() {
                Ok(Some(Stream::Tcp(stream))) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => panic!("{other:?}"),
            }
        };
        let client = socket2::SockRef::from(&accepted);
        assert!(client.keepalive().expect("can be asked"));
        let (retries, interval) = (
            client.tcp_keepalive_retries().expect("can be asked"),
            client.tcp_keepalive_interval().expect("can be asked"),
        );
        let time = client.tcp_keepalive_time().expect("can be asked");
        assert!(time + interval * retries <= Duration::from_secs(30));
        assert_eq!(client.tcp_user_timeout().expect("can be asked"), None);
        watch_peer(&dialled);
        let peer = socket2::SockRef::from(&dialled);
        assert!(peer.keepalive().expect("can be asked"));
        let timeout = peer.tcp_user_timeout().expect("can be asked");
        assert_eq!(timeout, Some(PEER_TIMEOUT));
    }

    #[test]
    fn clients_that_fall_silent_together_are_not_asked_together() {
        let sockets: Vec<_> = (0..16)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("free"))
            .collect();
        let times: std::collections::BTreeSet<Duration> = sockets
            .iter()
            .map(|socket| {
                watch(socket);
                let socket = socket2::SockRef::from(socket);
                socket.tcp_keepalive_time().expect("can be asked")
            })
            .collect();
        assert!(times.len() > 4, "{times:?}");
    }
}
