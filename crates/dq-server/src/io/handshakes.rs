//! TLS handshakes of those who connect: on a thread of their own, since they take the processor for longer
//! than anything that the event loop does.
//!
//! ```text
//!   accept ──▶ handshake ── done ──▶ event loop
//!                 │ fails                ▲
//!                 ▼                      │ "over", in any case
//!              refused: told why, and what it still sends is skipped until it has seen that
//! ```
//!
//! Each has a time limit in all, and their number is limited too: when too many have begun, the oldest goes.
//! Whoever means well is done in a few round trips.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use dq_tls::{Connection, ServerConnection, TlsConfig, explain, is_tls};
use dq_wire::Response;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

use super::mailbox::{Mail, Mailbox};

/// Time from accepting a connection to the end of its handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// Handshakes that may be under way, in a node that takes many connections.
const UNDER_WAY_MAX: usize = 1024;

/// Bytes that a refused client may still send before it is cut off.
const SKIPPED_MAX: usize = 64 * 1024;

/// How often the log tells of refused connections, at most.
const TELL: Duration = Duration::from_secs(10);

const WAKER: usize = 0;

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Secured {
    /// The socket.
    pub stream: TcpStream,
    /// TLS on it.
    pub connection: Connection,
}

/// The thread, from the event loop's side.
#[derive(Debug)]
pub struct Handshakes {
    begin: Option<Sender<TcpStream>>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    under_way: usize,
}

impl Handshakes {
    /// Starts the thread, which has `max` handshakes under way at most. For each connection that it gets
    /// there will be one [`Mail::Secured`].
    pub fn start(tls: TlsConfig, max: usize, mailbox: Mailbox) -> io::Result<Handshakes> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(WAKER))?);
        let (begin, begun) = unbounded();
        let room = Room {
            poll,
            begun,
            max: max.clamp(1, UNDER_WAY_MAX),
            tls,
            mailbox,
            guests: BTreeMap::new(),
            next: WAKER + 1,
            told: None,
            untold: 0,
        };
        let thread = std::thread::Builder::new()
            .name("dq-tls".to_owned())
            .spawn(move || room.run())?;
        Ok(Handshakes {
            begin: Some(begin),
            waker,
            thread: Some(thread),
            under_way: 0,
        })
    }

    /// Begins one. False if the thread has ended.
    #[must_use]
    pub fn begin(&mut self, stream: TcpStream) -> bool {
        let begun = match &self.begin {
            Some(begin) => begin.send(stream).is_ok() && self.waker.wake().is_ok(),
            None => false,
        };
        self.under_way += usize::from(begun);
        begun
    }

    /// One is over.
    pub fn ended(&mut self) {
        self.under_way -= 1;
    }

    /// Connections that have begun and are not over.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Ends them all, and the thread.
    pub fn stop(&mut self) {
        self.begin = None;
        // If it cannot be woken it ends with its next time limit.
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Room {
    poll: Poll,
    begun: Receiver<TcpStream>,
    max: usize,
    tls: TlsConfig,
    mailbox: Mailbox,
    /// In the order in which they came, which is that of their time limits.
    guests: BTreeMap<usize, Guest>,
    next: usize,
    /// When the log last told of a refused one, and how many there have been since.
    told: Option<Instant>,
    untold: u64,
}

struct Guest {
    stream: TcpStream,
    state: State,
    until: Instant,
}

enum State {
    /// Nothing has arrived yet.
    Silent,
    Shaking(Box<ServerConnection>),
    /// Knows that it is not let in; so many bytes of it have been skipped.
    Refused(usize),
}

/// What becomes of a connection.
enum Turn {
    Waits,
    Done,
    Gone,
}

impl Room {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            let first = self.guests.values().next();
            let timeout = first.map(|guest| guest.until.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("no more TLS: {error}");
                    return;
                }
            }
            for event in &events {
                let Token(token) = event.token();
                self.turn(token);
            }
            loop {
                match self.begun.try_recv() {
                    Ok(stream) => self.admit(stream),
                    Err(crossbeam_channel::TryRecvError::Empty) => break,
                    Err(crossbeam_channel::TryRecvError::Disconnected) => return,
                }
            }
            self.send_away_the_late();
        }
    }

    fn admit(&mut self, mut stream: TcpStream) {
        if self.guests.len() >= self.max
            && let Some((_, oldest)) = self.guests.pop_first()
        {
            self.tell(&oldest.stream, "too many handshakes at the same time");
            self.mailbox.send(Mail::Secured(None));
        }
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = self.next;
        self.next += 1;
        if let Err(error) = self
            .poll
            .registry()
            .register(&mut stream, Token(token), interest)
        {
            log::warn!("cannot watch a connection: {error}");
            return self.mailbox.send(Mail::Secured(None));
        }
        let guest = Guest {
            stream,
            state: State::Silent,
            until: Instant::now() + PATIENCE,
        };
        self.guests.insert(token, guest);
    }

    fn send_away_the_late(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.guests.first_entry()
            && first.get().until <= now
        {
            let guest = first.remove();
            if !matches!(guest.state, State::Refused(_)) {
                self.tell(&guest.stream, "no TLS handshake in time");
            }
            self.mailbox.send(Mail::Secured(None));
        }
    }

    fn turn(&mut self, token: usize) {
        let Some(mut guest) = self.guests.remove(&token) else {
            return;
        };
        let turn = match guest.advance(&self.tls) {
            Ok(turn) => turn,
            Err(why) => {
                self.tell(&guest.stream, &why);
                // It is to see what it was told before the connection ends: what it sends meanwhile must
                // not meet a closed socket.
                guest.state = State::Refused(0);
                match guest.stream.shutdown(Shutdown::Write) {
                    Ok(()) => guest.skip(0),
                    Err(_) => Turn::Gone,
                }
            }
        };
        match (turn, guest) {
            (Turn::Waits, guest) => {
                self.guests.insert(token, guest);
            }
            (Turn::Done, guest) => self.let_in(guest),
            (Turn::Gone, _) => self.mailbox.send(Mail::Secured(None)),
        }
    }

    fn let_in(&self, guest: Guest) {
        let Guest {
            mut stream, state, ..
        } = guest;
        let secured = match (self.poll.registry().deregister(&mut stream), state) {
            (Ok(()), State::Shaking(connection)) => Some(Box::new(Secured {
                stream,
                connection: Connection::Server(*connection),
            })),
            _ => None,
        };
        self.mailbox.send(Mail::Secured(secured));
    }

    /// Tells the log of one that is not let in; of many, how many.
    fn tell(&mut self, stream: &TcpStream, why: &str) {
        if self.told.is_some_and(|told| told.elapsed() < TELL) {
            self.untold += 1;
            log::debug!("a connection is refused: {why}");
            return;
        }
        let others = match std::mem::take(&mut self.untold) {
            0 => String::new(),
            count => format!(" ({count} others since the last such line)"),
        };
        let from = stream
            .peer_addr()
            .map_or("somebody".to_owned(), |address| address.to_string());
        log::warn!("{from} is refused: {why}{others}");
        self.told = Some(Instant::now());
    }
}

impl Guest {
    /// Goes on as far as it can; the error says why it is refused.
    fn advance(&mut self, tls: &TlsConfig) -> Result<Turn, String> {
        match self.state {
            State::Silent => {
                let mut first = [0; 2];
                match self.stream.peek(&mut first) {
                    Ok(2) => {}
                    // One byte says nothing yet. The next one makes an event.
                    Ok(1) => return Ok(Turn::Waits),
                    Err(error) if is_temporary(&error) => return Ok(Turn::Waits),
                    Ok(_) | Err(_) => return Ok(Turn::Gone),
                }
                if !is_tls(&first) {
                    // As an answer to whatever was asked: clients show it.
                    let failure = Response::Failure {
                        code: 1,
                        message: b"this node takes connections with TLS only",
                    };
                    let mut answer = Vec::new();
                    failure.encode(&mut answer);
                    let _ = self.stream.write(&answer);
                    return Err("a connection without TLS".to_owned());
                }
                let connection =
                    ServerConnection::new(tls.server()).map_err(|error| explain(&error))?;
                self.state = State::Shaking(Box::new(connection));
                self.shake()
            }
            State::Shaking(_) => self.shake(),
            State::Refused(skipped) => Ok(self.skip(skipped)),
        }
    }

    fn shake(&mut self) -> Result<Turn, String> {
        let State::Shaking(connection) = &mut self.state else {
            return Ok(Turn::Gone);
        };
        loop {
            while connection.wants_write() {
                match connection.write_tls(&mut self.stream) {
                    Ok(0) => return Ok(Turn::Gone),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
            if !connection.is_handshaking() {
                return Ok(Turn::Done);
            }
            match connection.read_tls(&mut self.stream) {
                Ok(0) => return Err("it went away in the middle of the handshake".to_owned()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Waits),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.to_string()),
            }
            if let Err(error) = connection.process_new_packets() {
                // The alert, which tells the other side.
                let _ = connection.write_tls(&mut self.stream);
                return Err(explain(&error));
            }
        }
    }

    /// Skips what a refused client sends.
    fn skip(&mut self, mut skipped: usize) -> Turn {
        let mut bytes = [0; 4096];
        while skipped < SKIPPED_MAX {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Turn::Gone,
                Ok(count) => skipped += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.state = State::Refused(skipped);
                    return Turn::Waits;
                }
                Err(_) => return Turn::Gone,
            }
        }
        Turn::Gone
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
