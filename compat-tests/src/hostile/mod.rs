//! Clients that no library would be: raw bytes, and a look at what they leave behind in the server.
//!
//! [`Wire`] speaks the protocol as far as asked and not an inch further: half frames, answers that
//! are never read, requests without end. [`Vitals`] is what a server process holds; after an attack
//! it has to come back to what it was. Nothing here judges speed.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use dq_wire::ParamsBuf;
use dq_wire::header::Header;
use dq_wire::request::Request;
use socket2::{Domain, Socket, Type};

use crate::servers::Server;

/// How long an answer, or a return to normal, may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks at a condition that only polling can see.
const POLL: Duration = Duration::from_millis(20);

/// The word that begins a connection.
pub const HANDSHAKE: [u8; 8] = 1u64.to_le_bytes();

/// Name of the database that [`Wire::open`] opens.
pub const DATABASE: &[u8] = b"hostile.db";

/// An answer: its type and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The response's type.
    pub kind: u8,
    /// Everything after the header.
    pub body: Vec<u8>,
}

impl Answer {
    /// Code and text of a FAILURE.
    pub fn failure(&self) -> Option<(u64, String)> {
        if self.kind != 0 {
            return None;
        }
        let (code, text) = self.body.split_first_chunk::<8>()?;
        let text: Vec<u8> = text.iter().copied().take_while(|&byte| byte != 0).collect();
        Some((
            u64::from_le_bytes(*code),
            String::from_utf8_lossy(&text).into_owned(),
        ))
    }
}

/// A connection of raw bytes.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// Connects and sends nothing.
    ///
    /// # Errors
    /// The server does not accept.
    pub fn connect(server: &Server) -> io::Result<Wire> {
        Wire::over(TcpStream::connect(server.address())?)
    }

    /// Connects from an address of this machine, such as 127.0.0.7, and sends nothing: each address has
    /// ports of its own, which do not suffice for any number of connections.
    ///
    /// # Errors
    /// The server does not accept.
    pub fn connect_from(server: &Server, source: Ipv4Addr) -> io::Result<Wire> {
        let target: SocketAddr = server.address().parse().map_err(io::Error::other)?;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&target.into())?;
        Wire::over(socket.into())
    }

    fn over(stream: TcpStream) -> io::Result<Wire> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Wire { stream })
    }

    /// Connects, shakes hands and opens [`DATABASE`].
    ///
    /// # Errors
    /// The server does not answer with DB.
    pub fn open(server: &Server) -> io::Result<Wire> {
        let mut wire = Wire::connect(server)?;
        wire.shake_hands()?;
        Ok(wire)
    }

    /// Shakes hands and opens [`DATABASE`].
    ///
    /// # Errors
    /// The server does not answer with DB.
    pub fn shake_hands(&mut self) -> io::Result<()> {
        self.send(&HANDSHAKE)?;
        self.send(&open())?;
        match self.answer()? {
            Answer { kind: 4, .. } => Ok(()),
            other => Err(io::Error::other(format!("OPEN: {other:?}"))),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The server has closed, or does not read in time.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends as much as the server takes before it stops reading for `quiet`, or has closed; says
    /// how much that was.
    ///
    /// # Errors
    /// The socket cannot be set up.
    pub fn send_until_stuck(&mut self, bytes: &[u8], quiet: Duration) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(quiet))?;
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(0) | Err(_) => break,
                Ok(count) => sent += count,
            }
        }
        self.stream.set_write_timeout(Some(PATIENCE))?;
        Ok(sent)
    }

    /// From now on reading waits this long; [`PATIENCE`] at first.
    ///
    /// # Errors
    /// It is zero.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    /// Whether something has come that can be read.
    pub fn is_readable(&self) -> bool {
        self.stream.peek(&mut [0]).is_ok()
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// The server has closed, or does not answer in time.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let mut head = [0; Header::SIZE];
        self.stream.read_exact(&mut head)?;
        let header = Header::decode(&head).map_err(|error| io::Error::other(error.to_string()))?;
        let mut body = Vec::new();
        let size = header.body_size();
        (&self.stream).take(size).read_to_end(&mut body)?;
        if body.len() as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Answer {
            kind: header.kind,
            body,
        })
    }

    /// One request, one answer.
    ///
    /// # Errors
    /// As [`Wire::answer`].
    pub fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.send(request)?;
        self.answer()
    }

    /// Reads on until the server closes; true if it does so in time.
    pub fn is_hung_up(&mut self) -> bool {
        let mut scratch = [0; 4096];
        loop {
            match self.stream.read(&mut scratch) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => {
                    return !matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    );
                }
            }
        }
    }

    /// Says that no more will be sent, and goes on listening.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn end_sending(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }
}

/// A request as bytes.
pub fn encoded(request: &Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    bytes
}

/// OPEN of [`DATABASE`].
fn open() -> Vec<u8> {
    encoded(&Request::Open {
        name: DATABASE,
        flags: 0,
        vfs: b"",
    })
}

/// EXEC_SQL without parameters. The text ends at its first zero byte.
pub fn exec(sql: &[u8]) -> Vec<u8> {
    encoded(&Request::ExecSql {
        db: 0,
        sql,
        params: ParamsBuf::default().as_params(),
    })
}

/// QUERY_SQL without parameters.
pub fn query(sql: &[u8]) -> Vec<u8> {
    encoded(&Request::QuerySql {
        db: 0,
        sql,
        params: ParamsBuf::default().as_params(),
    })
}

/// What a server process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vitals {
    /// Memory in use, in bytes.
    pub rss: u64,
    /// Open files.
    pub files: usize,
    /// Threads.
    pub threads: usize,
}

impl Vitals {
    /// What the server holds now.
    ///
    /// # Errors
    /// It does not run.
    pub fn of(server: &Server) -> io::Result<Vitals> {
        let pid = server
            .pid()
            .ok_or_else(|| io::Error::other("the server does not run"))?;
        let count = |dir: &str| Ok::<_, io::Error>(fs::read_dir(dir)?.count());
        Ok(Vitals {
            rss: crate::load::process::Usage::of(&[pid]).rss,
            files: count(&format!("/proc/{pid}/fd"))?,
            threads: count(&format!("/proc/{pid}/task"))?,
        })
    }

    /// Waits until the server holds as little as it did, but for `slack` bytes, and serves others.
    ///
    /// # Errors
    /// It does not come to that within [`PATIENCE`], or does not serve.
    pub fn returns(self, server: &Server, slack: u64) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        // A server that is full has to notice first that a crowd has left.
        while let Err(error) = serves(server) {
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(POLL);
        }
        // Segments of the log are opened ahead and closed as it goes.
        const FILES_SLACK: usize = 4;
        loop {
            let now = Vitals::of(server)?;
            if now.rss <= self.rss + slack
                && now.files <= self.files + FILES_SLACK
                && now.threads <= self.threads
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "it had {self:?} and now has {now:?}; its log:\n{}",
                    server.log()
                )));
            }
            std::thread::sleep(POLL);
        }
    }
}

/// A new connection can write and read.
///
/// # Errors
/// It cannot.
pub fn serves(server: &Server) -> io::Result<()> {
    let mut wire = Wire::open(server)?;
    for request in [
        exec(b"CREATE TABLE IF NOT EXISTS alive (n)"),
        exec(b"INSERT INTO alive VALUES (1)"),
        query(b"SELECT count(*) FROM alive"),
        exec(b"DELETE FROM alive"),
    ] {
        let answer = wire.ask(&request)?;
        if !matches!(answer.kind, 6 | 7) {
            return Err(io::Error::other(format!("{answer:?}")));
        }
    }
    Ok(())
}
