//! Addresses as clusters configure them, and connecting to one.
//!
//! An address is an opaque text to the cluster; for us it is one of
//!
//! ```text
//! 10.0.0.1:9000  [::1]:9000  db1.example:9000     TCP; names are resolved at every connect
//! 10.0.0.1  ::1  db1.example                      TCP, port 8080, as C dqlite reads it
//! @name                                           abstract Unix socket (Linux)
//! ```
//!
//! With TLS, what goes over TCP is encrypted; abstract sockets never leave the machine, and are plain.
//!
//! A peer that vanishes without closing its end would keep a blocking client waiting for many
//! minutes: TCP connections get keep-alive probes and a limit on unacknowledged data.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dq_tls::{Session, TlsConfig};
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

/// Port of an address that names none.
const DEFAULT_PORT: u16 = 8080;

/// Idle time before the first keep-alive probe, and between probes.
const KEEPALIVE: Duration = Duration::from_secs(3);
/// Unanswered probes that end a connection.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long sent data may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connected stream to a server.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    tls: Option<Arc<Session>>,
}

impl Stream {
    /// Connects to `address`, trying each of a name's addresses in turn.
    ///
    /// Resolving a name is left to the system and may take longer than `timeout`.
    pub(crate) fn connect(
        address: &str,
        timeout: Duration,
        tls: Option<&TlsConfig>,
    ) -> io::Result<Stream> {
        let deadline = Instant::now() + timeout;
        let mut stream = Stream::connect_plain(address, timeout)?;
        if let Some(tls) = tls.filter(|_| !address.starts_with('@')) {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = |left| stream.set_timeout(Some(left));
            let session = tls.connect(address, &stream.socket, limit, left)?;
            stream.tls = Some(Arc::new(session));
        }
        Ok(stream)
    }

    fn connect_plain(address: &str, timeout: Duration) -> io::Result<Stream> {
        let deadline = Instant::now() + timeout;
        if let Some(name) = address.strip_prefix('@') {
            return connect_abstract(name);
        }
        let mut last_error = None;
        for resolved in resolve(address)? {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                last_error = Some(io::Error::from(io::ErrorKind::TimedOut));
                break;
            }
            match connect_tcp(resolved, remaining) {
                Ok(stream) => return Ok(stream),
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error
            .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "name has no address")))
    }

    /// Limits how long each read and write may block; `None` for ever.
    pub(crate) fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        // The system takes zero for "no limit"; the shortest limit is one microsecond.
        let timeout = timeout.map(|timeout| timeout.max(Duration::from_micros(1)));
        self.socket.set_read_timeout(timeout)?;
        self.socket.set_write_timeout(timeout)
    }

    /// Whether an idle connection has ended, or the server sent something unasked. Does not block.
    pub(crate) fn is_stale(&self) -> bool {
        if self.tls.as_ref().is_some_and(|tls| tls.has_unread()) {
            return true;
        }
        let peeked = self.socket.set_nonblocking(true).and_then(|()| {
            let peeked = self.socket.peek(&mut [MaybeUninit::uninit()]);
            self.socket.set_nonblocking(false)?;
            peeked
        });
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// A second handle of the same connection.
    pub(crate) fn try_clone(&self) -> io::Result<Stream> {
        Ok(Stream {
            socket: self.socket.try_clone()?,
            tls: self.tls.clone(),
        })
    }

    /// Says goodbye, if that can be done at once.
    pub(crate) fn close(&self) {
        if let Some(tls) = &self.tls
            && self.socket.set_nonblocking(true).is_ok()
        {
            // Whoever does not hear it sees the connection end.
            let _ = tls.close(&self.socket);
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => self.socket.read(buf),
            Some(tls) => tls.read(&self.socket, buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &self.tls {
            None => self.socket.write(buf),
            Some(tls) => tls.write(&self.socket, buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    // By itself, for `::1` would be read as a host and a port.
    if let Ok(ip) = address.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, DEFAULT_PORT)]);
    }
    match address.to_socket_addrs() {
        Ok(resolved) => Ok(resolved.collect()),
        // A text without a port; if it is a bad one, the error of the second try says so.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Ok((address, DEFAULT_PORT).to_socket_addrs()?.collect())
        }
        Err(error) => Err(error),
    }
}

fn connect_tcp(address: SocketAddr, timeout: Duration) -> io::Result<Stream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.connect_timeout(&address.into(), timeout)?;
    // A request and its answer are small packets that wait for each other: no Nagle.
    socket.set_tcp_nodelay(true)?;
    // The rest improves matters where the system knows it, and is not worth failing for.
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE)
        .with_retries(KEEPALIVE_RETRIES);
    if let Err(error) = socket.set_tcp_keepalive(&keepalive) {
        log::debug!("{address}: no keep-alive probes: {error}");
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = socket.set_tcp_user_timeout(Some(USER_TIMEOUT)) {
        log::debug!("{address}: no limit on unacknowledged data: {error}");
    }
    Ok(Stream { socket, tls: None })
}

fn connect_abstract(name: &str) -> io::Result<Stream> {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "abstract sockets are Linux's",
        ));
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Without blocking, a full backlog is an error at once; connecting itself never takes time.
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(format!("\0{name}"))?)?;
    socket.set_nonblocking(false)?;
    Ok(Stream { socket, tls: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

    const TIMEOUT: Duration = Duration::from_secs(5);

    #[test]
    fn host_names_are_resolved_and_the_default_port_is_8080() {
        let resolved = resolve("localhost:9000").expect("resolves");
        assert!(
            resolved
                .iter()
                .all(|a| a.ip().is_loopback() && a.port() == 9000)
        );
        assert_eq!(
            resolve("127.0.0.1").expect("resolves"),
            ["127.0.0.1:8080".parse().expect("an address")]
        );
        assert_eq!(
            resolve("::1").expect("resolves"),
            ["[::1]:8080".parse().expect("an address")]
        );
        assert!(resolve("127.0.0.1:99999").is_err());
    }

    #[test]
    fn abstract_names_connect() {
        let name = format!("dq-client-test-{}", std::process::id());
        let address = UnixAddr::from_abstract_name(&name).expect("a name");
        let listener = UnixListener::bind_addr(&address).expect("bound");
        let mut stream = Stream::connect(&format!("@{name}"), TIMEOUT, None).expect("connects");
        let (mut accepted, _) = listener.accept().expect("accepted");
        stream.write_all(b"hello").expect("written");
        let mut bytes = [0; 5];
        accepted.read_exact(&mut bytes).expect("read");
        assert_eq!(&bytes, b"hello");
        assert!(Stream::connect("@dq-client-nobody-here", TIMEOUT, None).is_err());
    }

    #[test]
    fn a_stream_is_stale_when_the_peer_has_closed_or_spoken() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let mut stream = Stream::connect(&address, TIMEOUT, None).expect("connects");
        let (accepted, _) = listener.accept().expect("accepted");
        assert!(!stream.is_stale());
        drop(accepted);
        // A blocking read returns once the close has arrived.
        assert_eq!(stream.read(&mut [0]).expect("end of stream"), 0);
        assert!(stream.is_stale());

        let stream = Stream::connect(&address, TIMEOUT, None).expect("connects");
        let (mut accepted, _) = listener.accept().expect("accepted");
        accepted.write_all(b"unasked").expect("written");
        stream
            .socket
            .peek(&mut [MaybeUninit::uninit()])
            .expect("has arrived");
        assert!(stream.is_stale());
    }

    #[test]
    fn reads_time_out() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let mut stream = Stream::connect(&address, TIMEOUT, None).expect("connects");
        stream.set_timeout(Some(Duration::ZERO)).expect("set");
        let error = stream.read(&mut [0]).expect_err("nothing comes");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
