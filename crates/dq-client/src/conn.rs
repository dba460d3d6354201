//! A blocking connection to one server: the protocol on a stream.
//!
//! [`Conn`] knows which requests there are but not what they are for: leader search, sessions and
//! cluster calls are built on it. What it adds to [`Protocol`] is blocking, time limits, and the
//! outcome of what fails: a request of which no byte was sent is certainly not done, one that was
//! sent and not answered is unknown.
//!
//! After an error of the stream or the protocol a connection is *broken*: every further call fails
//! at once, since the next bytes would be taken for the answer to another request.
//!
//! The time limit is one on progress: it starts anew whenever bytes move. A large answer over a
//! slow network may take as long as it needs; a server that has stopped may not.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dq_tls::TlsConfig;
use dq_wire::{Request, Response};

use crate::address::Stream;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::protocol::{Protocol, Reply};

/// A connection to one server.
#[derive(Debug)]
pub(crate) struct Conn {
    address: String,
    stream: Stream,
    protocol: Protocol,
    /// Requests not yet sent; they go out with the next one.
    out: Vec<u8>,
    broken: bool,
    interrupt: Arc<Interrupt>,
}

/// What a connection and its interrupt handles share: who writes to the socket, and whether an
/// INTERRUPT is on its way.
#[derive(Debug)]
pub(crate) struct Interrupt {
    state: Mutex<InterruptState>,
}

#[derive(Debug)]
struct InterruptState {
    stream: Stream,
    /// A request is being answered.
    busy: bool,
    /// It was interrupted: after its answer comes an EMPTY.
    sent: bool,
}

impl Interrupt {
    fn lock(&self) -> MutexGuard<'_, InterruptState> {
        // The state is consistent after each assignment; a panic elsewhere does not change that.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends INTERRUPT if a request is under way, once.
    pub(crate) fn interrupt(&self) -> io::Result<()> {
        let mut state = self.lock();
        if !state.busy || state.sent {
            return Ok(());
        }
        let mut out = Vec::new();
        Request::Interrupt { db: 0 }.encode(&mut out);
        state.stream.write_all(&out)?;
        state.sent = true;
        Ok(())
    }
}

impl Conn {
    /// Connects and says which protocol we speak; the server does not answer that.
    pub(crate) fn connect(
        address: &str,
        dial_timeout: Duration,
        timeout: Option<Duration>,
        tls: Option<&TlsConfig>,
    ) -> Result<Conn> {
        let stream = Stream::connect(address, dial_timeout, tls)
            .map_err(|error| Error::io(&format!("connect to {address}"), error))?;
        let context = |error| Error::io(address, error);
        stream.set_timeout(timeout).map_err(context)?;
        let clone = stream.try_clone().map_err(context)?;
        let mut out = Vec::new();
        let protocol = Protocol::new(&mut out);
        let state = InterruptState {
            stream: clone,
            busy: false,
            sent: false,
        };
        Ok(Conn {
            address: address.to_owned(),
            stream,
            protocol,
            out,
            broken: false,
            interrupt: Arc::new(Interrupt {
                state: Mutex::new(state),
            }),
        })
    }

    /// The address that was connected to.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Changes the limit on how long nothing may move.
    pub(crate) fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<()> {
        self.stream
            .set_timeout(timeout)
            .map_err(|error| Error::io(&self.address, error))
    }

    /// Whether the connection cannot be used any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Makes this connection unusable, for a reason that only the caller knows.
    pub(crate) fn mark_broken(&mut self) {
        self.broken = true;
    }

    /// Whether an idle connection has ended on the server's side, as far as can be seen without
    /// asking it.
    pub(crate) fn is_stale(&self) -> bool {
        self.broken || self.stream.is_stale()
    }

    /// What interrupts the requests of this connection from other threads.
    pub(crate) fn interrupt(&self) -> Arc<Interrupt> {
        Arc::clone(&self.interrupt)
    }

    /// Queues a request whose answer is of no interest, to be sent with the next one.
    pub(crate) fn queue_ignored(&mut self, request: &Request<'_>) {
        self.protocol.send_ignored(request, &mut self.out);
    }

    /// Queues a request; [`Conn::flush`] sends it, [`Conn::receive`] gets its answer.
    pub(crate) fn queue(&mut self, request: &Request<'_>) {
        self.protocol.send(request, &mut self.out);
    }

    /// Sends everything that is queued.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.broken {
            return Err(Error::new(ErrorKind::Closed, "the connection is broken"));
        }
        let mut state = self.interrupt.lock();
        let mut sent = 0;
        while sent < self.out.len() {
            let error = match self.stream.write(&self.out[sent..]) {
                Ok(0) => io::Error::from(io::ErrorKind::WriteZero),
                Ok(n) => {
                    sent += n;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.broken = true;
            // The server acts on whole requests only, but with several queued one may have left.
            let outcome = if sent == 0 {
                Outcome::NotDone
            } else {
                Outcome::Unknown
            };
            return Err(Error::io(&self.address, error).with_outcome(outcome));
        }
        self.out.clear();
        state.busy = true;
        state.sent = false;
        Ok(())
    }

    /// Waits for the next response to a sent request.
    ///
    /// # Errors
    /// The server's FAILURE, as [`Error::failure`] sorts it; or the connection is broken, with an
    /// unknown outcome: the request has been sent.
    pub(crate) fn receive(&mut self) -> Result<Reply<'_>> {
        if self.broken {
            return Err(Error::new(ErrorKind::Closed, "the connection is broken"));
        }
        let (address, protocol) = (&self.address, &mut self.protocol);
        let ready = fill(&mut self.stream, protocol)
            .map_err(|error| error.into_error(address).with_outcome(Outcome::Unknown));
        if let Err(error) = ready {
            self.broken = true;
            if dq_tls::is_tls(self.protocol.unread()) {
                let message = format!("{address}: the server talks TLS, and this client does not");
                return Err(Error::new(ErrorKind::Protocol, message));
            }
            return Err(error);
        }
        let mut state = self.interrupt.lock();
        if state.busy && state.sent {
            self.protocol.interrupted();
        }
        // Whether this is the last response must be known under the lock: an INTERRUPT sent after
        // it would belong to the next request.
        let reply = match self.protocol.reply() {
            Ok(Some(reply)) => reply,
            Ok(None) => {
                self.broken = true;
                return Err(Error::new(ErrorKind::Protocol, "the response vanished"));
            }
            Err(error) => {
                self.broken = true;
                return Err(error.into());
            }
        };
        if reply.is_last {
            state.busy = false;
        }
        drop(state);
        if let Response::Failure { code, message } = reply.response {
            let error = Error::failure(code, message);
            self.broken |= error.ends_connection();
            return Err(error);
        }
        Ok(reply)
    }

    /// Sends a request with all that is queued and waits for the first response.
    pub(crate) fn call(&mut self, request: &Request<'_>) -> Result<Reply<'_>> {
        self.queue(request);
        self.flush()?;
        self.receive()
    }

    /// Ends an answer of which only a part has been received: sends INTERRUPT and skips what is
    /// left, at most `limit` bytes of it. Beyond that the connection is given up: servers that do
    /// not stop an interrupted query would keep us busy until they have sent all of it.
    pub(crate) fn cut_short(&mut self, limit: usize) {
        if self.broken {
            return;
        }
        self.broken = true;
        if self.interrupt.interrupt().is_err() {
            return;
        }
        self.protocol.drain();
        let mut skipped = 0;
        while skipped <= limit {
            if self.protocol.is_ready().is_err() {
                return;
            }
            if self.protocol.is_idle() {
                self.interrupt.lock().busy = false;
                self.broken = false;
                return;
            }
            match fill_once(&mut self.stream, &mut self.protocol) {
                Ok(n) => skipped += n,
                Err(_) => return,
            }
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.stream.close();
    }
}

/// Why nothing more could be received.
enum FillError {
    Io(io::Error),
    Decode(dq_wire::DecodeError),
}

impl FillError {
    fn into_error(self, address: &str) -> Error {
        match self {
            FillError::Io(error) => Error::io(address, error),
            FillError::Decode(error) => error.into(),
        }
    }
}

/// Reads until a response is there.
fn fill(stream: &mut Stream, protocol: &mut Protocol) -> Result<(), FillError> {
    while !protocol.is_ready().map_err(FillError::Decode)? {
        fill_once(stream, protocol).map_err(FillError::Io)?;
    }
    Ok(())
}

/// Reads what has arrived, or waits for something to arrive.
fn fill_once(stream: &mut Stream, protocol: &mut Protocol) -> io::Result<usize> {
    loop {
        match stream.read(protocol.spare()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                protocol.filled(n);
                return Ok(n);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
