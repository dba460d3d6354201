//! `GET /metrics` over HTTP, for Prometheus and whatever speaks its protocol.
//!
//! One thread, apart from the node, and everything bounded: connections, the bytes of a request, the time
//! that a connection may last. Where there are too many, the oldest goes, so that nobody is kept out by
//! those who only sit there. However often it is asked, the event loop is so only now and then.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use super::meter::Meter;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const FIRST_CONNECTION: usize = 2;

/// Connections at the same time.
const CONNECTIONS_MAX: usize = 16;

/// Connections accepted before those that are there get their turn.
const ACCEPTS: usize = 16;

/// Bytes of a request.
const REQUEST_MAX: usize = 8192;

/// How long a connection may last.
const LIFE: Duration = Duration::from_secs(5);

/// The same text is given out for so long.
const FRESH: Duration = Duration::from_millis(10);

/// How long to leave the listener alone when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The thread that answers. Dropping it ends it.
#[derive(Debug)]
pub struct Scrape {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Scrape {
    /// Answers whoever connects to `listener`.
    pub fn start(listener: std::net::TcpListener, meter: Meter) -> io::Result<Scrape> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut server = Server {
            poll,
            listener,
            meter,
            connections: VecDeque::new(),
            next_token: FIRST_CONNECTION,
            accept_again: None,
            text: None,
        };
        let thread = std::thread::Builder::new()
            .name("dq-metrics".to_owned())
            .spawn(move || {
                if let Err(error) = server.run(&stopped) {
                    log::error!("metrics are served no more: {error}");
                }
            })?;
        Ok(Scrape {
            address,
            stop,
            waker,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Scrape {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.waker.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            // It logs what it fails of.
            let _ = thread.join();
        }
    }
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    meter: Meter,
    /// The oldest first.
    connections: VecDeque<Connection>,
    next_token: usize,
    accept_again: Option<Instant>,
    /// What was told last, and when.
    text: Option<(Instant, Arc<[u8]>)>,
}

struct Connection {
    token: Token,
    stream: TcpStream,
    until: Instant,
    request: Vec<u8>,
    /// The answer, and how much of it was sent.
    answer: Option<(Arc<[u8]>, usize)>,
}

impl Server {
    fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let oldest = self.connections.front().map(|connection| connection.until);
            let next = oldest.into_iter().chain(self.accept_again).min();
            let timeout = next.map(|at| at.saturating_duration_since(now));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_again = Some(Instant::now()),
                    WAKER => {}
                    token => self.event(token),
                }
            }
            let now = Instant::now();
            if self.accept_again.is_some_and(|at| at <= now) {
                self.accept();
            }
            self.connections.retain(|connection| connection.until > now);
        }
        Ok(())
    }

    fn accept(&mut self) {
        self.accept_again = None;
        for _ in 0..ACCEPTS {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    let token = Token(self.next_token);
                    self.next_token += 1;
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    if let Err(error) = self.poll.registry().register(&mut stream, token, interest)
                    {
                        log::debug!("metrics: {error}");
                        continue;
                    }
                    if self.connections.len() >= CONNECTIONS_MAX {
                        self.connections.pop_front();
                    }
                    self.connections.push_back(Connection {
                        token,
                        stream,
                        until: Instant::now() + LIFE,
                        request: Vec::new(),
                        answer: None,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    log::debug!("metrics: {error}");
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
        // There may be more, and the poll tells of a waiting connection only once.
        self.accept_again = Some(Instant::now());
    }

    fn event(&mut self, token: Token) {
        let at = (self.connections.iter()).position(|connection| connection.token == token);
        let Some(at) = at else { return };
        let Some(mut connection) = self.connections.remove(at) else {
            return;
        };
        // One that has said or done all it may is dropped, which closes it.
        if connection.answer.is_none() {
            match connection.read() {
                Progress::Wait => {}
                Progress::End => return,
                Progress::Done => connection.answer = Some((self.answer(&connection.request), 0)),
            }
        }
        if connection.answer.is_none() || connection.write() {
            self.connections.insert(at, connection);
        }
    }

    fn answer(&mut self, request: &[u8]) -> Arc<[u8]> {
        let line = request
            .split(|byte| *byte == b'\r' || *byte == b'\n')
            .next();
        let line = String::from_utf8_lossy(line.unwrap_or_default());
        let mut words = line.split_ascii_whitespace();
        let (method, target) = (words.next(), words.next().unwrap_or_default());
        let path = target.split('?').next().unwrap_or_default();
        match (method, path) {
            _ if request.len() > REQUEST_MAX => response("431 Request Header Fields Too Large", ""),
            (Some("GET"), "/metrics") => self.metrics(),
            (Some("GET"), _) => response("404 Not Found", "the metrics are at /metrics\n"),
            _ => response("405 Method Not Allowed", ""),
        }
    }

    fn metrics(&mut self) -> Arc<[u8]> {
        if let Some((at, text)) = &self.text
            && at.elapsed() < FRESH
        {
            return text.clone();
        }
        let text = match self.meter.read() {
            Some(metrics) => response("200 OK", &metrics.to_string()),
            None => return response("503 Service Unavailable", "the node does not answer\n"),
        };
        self.text = Some((Instant::now(), text.clone()));
        text
    }
}

/// How far a connection's request is.
enum Progress {
    /// There is more to come.
    Wait,
    /// It is whole, or as long as it may be.
    Done,
    /// Nobody is there any more.
    End,
}

impl Connection {
    fn read(&mut self) -> Progress {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Progress::End,
                Ok(count) => {
                    self.request.extend_from_slice(&buffer[..count]);
                    let ends = |end: &[u8]| self.request.windows(end.len()).any(|w| w == end);
                    if self.request.len() > REQUEST_MAX || ends(b"\r\n\r\n") || ends(b"\n\n") {
                        return Progress::Done;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Wait,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Progress::End,
            }
        }
    }

    /// Sends on; false when nothing more is to be done. What the peer still sends is not read: it may then
    /// lose the end of an answer, but only if it has not sent what was asked of it.
    fn write(&mut self) -> bool {
        let Some((answer, sent)) = &mut self.answer else {
            return true;
        };
        while *sent < answer.len() {
            match self.stream.write(&answer[*sent..]) {
                Ok(0) => return false,
                Ok(count) => *sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        // Closed as soon as it is sent; the answer says so.
        let _ = self.stream.shutdown(Shutdown::Write);
        false
    }
}

fn response(status: &str, body: &str) -> Arc<[u8]> {
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    text.into_bytes().into()
}
