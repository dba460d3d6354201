//! The event loop: one mio poll, one state machine.
//!
//! A turn takes every event and all mail that are there, gives them to the machine one by one, and
//! then tells it that the turn has ended: that is when what many clients wrote becomes one log
//! entry. Jobs that are meant for the loop run as soon as the machine asks for them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::time::Duration;

use dq_raft::{DataDir, DiskOp, Message, Persist};
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};

use super::background::Background;
use super::clock::{now_micros, now_ms};
use super::handshakes::Handshakes;
use super::listener::{Listener, Stream};
use super::log_writer::LogWriterThread;
use super::mailbox::Mail;
use super::peers::{Noticed, Peers};
use super::receiver::Receiver;
use super::socket::Socket;
use super::workers::Workers;
use crate::conn::ConnId;
use crate::exec;
use crate::metrics::{Metrics, ShellMetrics};
use crate::node::{Input, Machine, Output};
use crate::peers;

const WAKER: Token = Token(0);
const LISTENER: Token = Token(1);
/// Connection ids double as tokens, above the two fixed ones.
const FIRST_CONN: ConnId = 2;

/// Bytes read from one connection before the others get their turn.
const READ_BYTES: usize = 64 * 1024;

/// Connections accepted in one go.
const ACCEPTS: usize = 64;

/// Connections whose memory is worth looking for.
const CROWD: usize = 256;

/// How long to leave the listener alone after the process ran out of file descriptors.
const ACCEPT_PAUSE_MS: u64 = 100;

/// Events of a turn up to which each one's answers leave at once. Beyond, there is work for all processors
/// anyway, and answers that leave together disturb it less.
const FEW_EVENTS: usize = 8;

/// Longest wait for a promise to run out at the end.
const PROMISE_MS_MAX: u64 = 10_000;

/// The token of the loop's waker.
pub const WAKER_TOKEN: Token = WAKER;

/// Everything that the loop's thread owns.
pub struct EventLoop {
    poll: Poll,
    mail: crossbeam_channel::Receiver<Mail>,
    listener: Listener,
    machine: Machine,
    sockets: HashMap<ConnId, Socket>,
    next_conn: ConnId,
    outputs: VecDeque<Output>,
    /// Sockets with something new to send.
    to_flush: BTreeSet<ConnId>,
    /// Sockets with more to read than one turn takes.
    to_read: BTreeSet<ConnId>,
    accept_again_at: Option<u64>,
    connections_max: usize,
    /// The most connections there were since memory was last given back.
    connections_peak: usize,
    /// Where connections over TCP become secure, if they do.
    handshakes: Option<Handshakes>,
    /// Connections are being refused, and the log says so.
    refusing: bool,
    log_writer: LogWriterThread,
    workers: Workers,
    background: Background,
    peers: Peers,
    receiver: Receiver,
    /// Who waits for leadership to be handed over.
    handing_over: Vec<crossbeam_channel::Sender<bool>>,
    /// A bound on promises is being stored, or cannot be.
    storing_promise: bool,
    /// Keeps the directory locked.
    _dir: DataDir,
    scratch: Vec<u8>,
    stopped: Option<Result<(), String>>,
    id: u64,
    address: String,
    counted: ShellMetrics,
}

/// The parts that a loop is made of.
pub struct Parts {
    /// The poll, with the mailbox's waker registered as [`WAKER_TOKEN`].
    pub poll: Poll,
    /// Reports of the other threads.
    pub mail: crossbeam_channel::Receiver<Mail>,
    /// Where connections come in.
    pub listener: Listener,
    /// The node.
    pub machine: Machine,
    /// Makes the log durable.
    pub log_writer: LogWriterThread,
    /// Runs long statements.
    pub workers: Workers,
    /// Writes snapshots.
    pub background: Background,
    /// Streams to other nodes.
    pub peers: Peers,
    /// Stores snapshots that arrive.
    pub receiver: Receiver,
    /// TLS handshakes, if connections over TCP begin with one.
    pub handshakes: Option<Handshakes>,
    /// The data directory, which stays locked while the loop exists.
    pub dir: DataDir,
    /// Connections accepted at the same time.
    pub connections_max: usize,
    /// Id and address, for who asks for metrics.
    pub name: (u64, String),
}

impl EventLoop {
    /// A loop that has not begun.
    pub fn new(parts: Parts) -> io::Result<EventLoop> {
        let Parts {
            poll,
            mail,
            mut listener,
            machine,
            log_writer,
            workers,
            background,
            peers,
            receiver,
            handshakes,
            dir,
            connections_max,
            name: (id, address),
        } = parts;
        poll.registry()
            .register(listener.source(), LISTENER, Interest::READABLE)?;
        Ok(EventLoop {
            poll,
            mail,
            listener,
            machine,
            sockets: HashMap::new(),
            next_conn: FIRST_CONN,
            outputs: VecDeque::new(),
            to_flush: BTreeSet::new(),
            to_read: BTreeSet::new(),
            accept_again_at: None,
            connections_max,
            connections_peak: 0,
            handshakes,
            refusing: false,
            log_writer,
            workers,
            background,
            peers,
            receiver,
            handing_over: Vec::new(),
            storing_promise: false,
            _dir: dir,
            scratch: vec![0; READ_BYTES],
            stopped: None,
            id,
            address,
            counted: ShellMetrics::default(),
        })
    }

    /// Lets raft begin and makes what it wants durable, until nothing more comes of it: a sole voter
    /// leads when this returns.
    pub fn start(&mut self) -> Result<(), String> {
        self.machine.start(now_ms(), &mut self.outputs);
        self.carry_out();
        while self.log_writer.is_busy() && self.stopped.is_none() {
            match self.mail.recv() {
                Ok(mail) => self.take_mail(mail),
                Err(_) => break,
            }
            self.give(Input::TurnEnd);
        }
        // The log was read as a whole, and only its newest entries are still held.
        dq_vfs::trim_heap();
        match self.stopped.take() {
            Some(Err(why)) => Err(why),
            _ => Ok(()),
        }
    }

    /// Runs until the node is stopped or fails; the error says why.
    pub fn run(mut self) -> Result<(), String> {
        let mut events = Events::with_capacity(1024);
        let result = loop {
            if let Some(result) = self.stopped.take() {
                break result;
            }
            let timeout = self.timeout();
            match self.poll.poll(&mut events, Some(timeout)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(format!("poll: {error}")),
            }
            let began = now_micros();
            self.turn(&events);
            let took = now_micros().saturating_sub(began);
            self.counted.turn.record(took);
        };
        self.close(result)
    }

    fn timeout(&self) -> Duration {
        if !self.to_read.is_empty() {
            return Duration::ZERO;
        }
        let now = now_ms();
        let mut at = self.machine.deadline();
        for other in [self.accept_again_at, self.peers.deadline()]
            .into_iter()
            .flatten()
        {
            at = at.min(other);
        }
        Duration::from_millis(at.saturating_sub(now).min(60_000))
    }

    fn turn(&mut self, events: &Events) {
        let few = events.iter().count() <= FEW_EVENTS;
        for event in events {
            match event.token() {
                WAKER => {}
                LISTENER => self.accept(),
                Token(token) => {
                    let id = token as ConnId;
                    match self.peers.event(now_ms(), id, event) {
                        Noticed::Other => {
                            self.socket_event(id, event);
                            if few {
                                // This client is at work again while the next one is served.
                                self.flush();
                            }
                        }
                        Noticed::Nothing => {}
                        Noticed::Lost(peer) => self.give(Input::PeerLost(peer)),
                    }
                }
            }
        }
        for id in std::mem::take(&mut self.to_read) {
            self.read(id);
        }
        while let Ok(mail) = self.mail.try_recv() {
            self.take_mail(mail);
        }
        let now = now_ms();
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept();
        }
        if self.machine.deadline() <= now {
            self.give(Input::Deadline);
        }
        self.give(Input::TurnEnd);
        self.flush();
        self.peers.tick(now);
        for id in self.peers.flush(now) {
            self.give(Input::PeerLost(id));
        }
        self.give_back_memory();
        if !self.storing_promise
            && let Some(bound_ms) = self.machine.promise_bound_to_store()
        {
            self.storing_promise = true;
            self.background.store_promise(bound_ms);
        }
    }

    /// When half of very many connections have gone, so does what the allocator keeps of them: it lies
    /// between what others still use, and would stay for ever.
    fn give_back_memory(&mut self) {
        let now = self.sockets.len();
        if now > self.connections_peak {
            self.connections_peak = now;
        } else if self.connections_peak >= CROWD && now <= self.connections_peak / 2 {
            self.connections_peak = now;
            dq_vfs::trim_heap();
        }
    }

    /// Gives the machine one input and carries out all that comes of it.
    fn give(&mut self, input: Input<'_>) {
        self.step(input);
        self.carry_out();
    }

    fn step(&mut self, input: Input<'_>) {
        let micros = now_micros();
        self.machine.measure(micros);
        self.machine.step(micros / 1000, input, &mut self.outputs);
    }

    fn take_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Durable(id, took) => {
                self.counted.log_write.record(took);
                self.log_writer.completed(id);
                self.give(Input::Durable(id));
            }
            Mail::DiskFull(full) => self.give(Input::DiskFull(full)),
            Mail::DiskFailed(why) => self.stopped = Some(Err(why)),
            Mail::Finished(conn, finished) => self.give(Input::Finished(conn, finished)),
            Mail::LogRead(range, entries) => self.give(Input::LogRead(range, entries)),
            Mail::SnapshotWritten(meta, written) => {
                self.give(Input::SnapshotWritten(meta, written));
            }
            Mail::Secured(secured) => {
                if let Some(handshakes) = &mut self.handshakes {
                    handshakes.ended();
                }
                if let Some(secured) = secured {
                    let stream = Stream::Tcp(secured.stream);
                    self.adopt(Socket::new(stream, Some(secured.connection)));
                }
            }
            Mail::Dialled(id, attempt, stream) => {
                let token = self.next_conn;
                self.next_conn += 1;
                let registry = self.poll.registry();
                if self
                    .peers
                    .dialled(now_ms(), id, attempt, stream, token, registry)
                {
                    self.give(Input::PeerConnected(id));
                }
            }
            Mail::PromiseStored(bound_ms) => {
                self.storing_promise = false;
                self.machine.promise_bound_stored(bound_ms);
            }
            Mail::SnapshotStored(conn, size) => self.give(Input::SnapshotStored(conn, size)),
            Mail::SnapshotReceived(conn, received) => {
                self.receiver.ended(conn);
                self.give(Input::SnapshotReceived(conn, received));
            }
            Mail::SnapshotProgress(id) => self.give(Input::SnapshotProgress(id)),
            Mail::SnapshotUnreadable(index) => self.give(Input::SnapshotUnreadable(index)),
            Mail::SnapshotSent(id, sent) => self.give(Input::SnapshotSent(id, sent)),
            Mail::Polled(answers) => self.give(Input::Polled(answers)),
            Mail::HandOver(reply) => {
                self.handing_over.push(reply);
                self.give(Input::HandOver);
            }
            Mail::Status(reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.machine.status());
            }
            Mail::Metrics(reply) => {
                let _ = reply.send(Box::new(self.metrics()));
            }
            Mail::FailureDomain(code) => self.machine.set_failure_domain(code),
            Mail::BusyTimeout(ms) => self.machine.set_busy_timeout(ms),
            Mail::Stop => self.stopped = Some(Ok(())),
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.outputs.pop_front() {
            match output {
                Output::Send {
                    conn,
                    pieces,
                    notify,
                } => {
                    if let Some(socket) = self.sockets.get_mut(&conn) {
                        for piece in pieces {
                            socket.push(piece);
                        }
                        socket.notify |= notify;
                        self.to_flush.insert(conn);
                    }
                }
                Output::Close(conn) => {
                    if let Some(socket) = self.sockets.get_mut(&conn) {
                        socket.closing = true;
                        self.to_flush.insert(conn);
                    }
                }
                Output::Cut(conn) => self.remove(conn),
                Output::Pause(conn) => {
                    if let Some(socket) = self.sockets.get_mut(&conn) {
                        socket.paused = true;
                    }
                }
                Output::Resume(conn) => {
                    if let Some(socket) = self.sockets.get_mut(&conn) {
                        socket.paused = false;
                        if !socket.drained {
                            self.to_read.insert(conn);
                        }
                    }
                }
                Output::Execute(conn, job) if job.inline => {
                    let finished = Box::new(exec::run(*job));
                    self.step(Input::Finished(conn, finished));
                }
                Output::Execute(conn, job) => self.workers.run(conn, job),
                Output::Persist(persist) => {
                    self.counted.log_bytes += entry_bytes(&persist);
                    self.log_writer.persist(persist);
                }
                Output::ReadLog(range) => self.background.read_log(range),
                Output::Snapshot(meta, databases) => self.background.snapshot(meta, databases),
                Output::SendPeer {
                    to,
                    address,
                    message,
                } => self.send_peer(to, &address, message),
                Output::ReceiveSnapshot(conn, meta, size) => {
                    self.receiver.begin(conn, *meta, size);
                }
                Output::SnapshotData(conn, bytes) => self.receiver.data(conn, bytes),
                Output::CancelSnapshot(to) => self.background.cancel_snapshot(to),
                Output::Release(versions) => self.background.release(versions),
                Output::Poll(members) => self.peers.poll(members),
                Output::HandedOver(done) => {
                    for reply in self.handing_over.drain(..) {
                        // Whoever asked may have given up.
                        let _ = reply.send(done);
                    }
                }
                Output::Discard(meta) => self.receiver.discard(&meta),
                Output::Fatal(why) => self.stopped = Some(Err(why)),
            }
        }
    }

    fn send_peer(&mut self, to: u64, address: &str, message: Message) {
        if let Message::InstallSnapshot { term, meta } = message {
            return self
                .background
                .send_snapshot(&self.peers, to, address, term, meta);
        }
        let Some(pieces) = peers::encode(&message, 0) else {
            log::error!("a message to peer {to} is larger than peers accept");
            return;
        };
        let numbered = message.is_numbered();
        if !self.peers.send(now_ms(), to, address, pieces, numbered) {
            self.give(Input::PeerLost(to));
        }
    }

    fn metrics(&self) -> Metrics {
        Metrics {
            id: self.id,
            address: self.address.clone(),
            status: self.machine.status(),
            counters: self.machine.counters().clone(),
            levels: self.machine.levels(),
            shell: ShellMetrics {
                log_queue: self.log_writer.queued(),
                sql_queue: self.workers.queued(),
                ..self.counted.clone()
            },
            disk: None,
            page_memory: dq_vfs::resident_bytes(),
        }
    }

    fn accept(&mut self) {
        self.accept_again_at = None;
        for _ in 0..ACCEPTS {
            match self.listener.accept() {
                Ok(Some(stream)) => {
                    let handshakes = self.handshakes.as_ref().map_or(0, Handshakes::under_way);
                    let open = self.sockets.len() + handshakes;
                    let full = open >= self.connections_max;
                    if full && !self.refusing {
                        log::warn!("connections refused: {open} are open");
                    }
                    self.refusing = full;
                    if full {
                        self.counted.refused += 1;
                        continue;
                    }
                    self.counted.accepted += 1;
                    match (&mut self.handshakes, stream) {
                        (Some(handshakes), Stream::Tcp(stream)) => {
                            if !handshakes.begin(stream) {
                                let why = "the thread for TLS handshakes has ended";
                                self.stopped = Some(Err(why.to_owned()));
                                return;
                            }
                        }
                        (_, stream) => self.adopt(Socket::new(stream, None)),
                    }
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of descriptors or memory, most likely: the connection stays in the
                    // backlog, and asking at once again would only burn the processor.
                    log::warn!("accept: {error}");
                    self.accept_again_at = Some(now_ms() + ACCEPT_PAUSE_MS);
                    return;
                }
            }
        }
        // There may be more, and the poll tells of a waiting connection only once.
        self.accept_again_at = Some(now_ms());
    }

    fn adopt(&mut self, mut socket: Socket) {
        let id = self.next_conn;
        let Ok(token) = usize::try_from(id) else {
            return;
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self
            .poll
            .registry()
            .register(socket.source(), Token(token), interest)
        {
            log::warn!("cannot watch a connection: {error}");
            return;
        }
        self.next_conn += 1;
        if socket.is_secured() {
            // What came with the end of the handshake has been read already: no event tells of it. And the
            // end of our part of it may not have left.
            socket.drained = false;
            self.to_read.insert(id);
            self.to_flush.insert(id);
        }
        self.sockets.insert(id, socket);
        self.give(Input::Accepted(id));
    }

    fn socket_event(&mut self, id: ConnId, event: &Event) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        if event.is_writable() && !socket.is_flushed() {
            self.to_flush.insert(id);
        }
        if event.is_error() || (event.is_read_closed() && event.is_write_closed()) {
            // Both directions are gone, so nobody is there for an answer; what was sent before may
            // still be worth reading, unless the machine has had enough of it.
            if socket.paused {
                self.drop_socket(id);
                return;
            }
        }
        if event.is_readable() || event.is_read_closed() {
            socket.drained = false;
            socket.ending |= event.is_read_closed();
            if !socket.paused {
                self.read(id);
            }
        }
    }

    fn read(&mut self, id: ConnId) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        if socket.closing || socket.paused {
            return;
        }
        loop {
            match socket.read(&mut self.scratch) {
                Ok(0) => {
                    socket.drained = true;
                    self.give(Input::Eof(id));
                    return;
                }
                Ok(count) => {
                    // A read that does not fill the buffer has taken all there was, unless the end
                    // of the stream came with it: the poll tells of that only once.
                    let more = socket.has_more(count == self.scratch.len()) || socket.ending;
                    socket.drained = !more;
                    let micros = now_micros();
                    self.machine.measure(micros);
                    let input = Input::Bytes(id, &self.scratch[..count]);
                    self.machine.step(micros / 1000, input, &mut self.outputs);
                    self.carry_out();
                    let Some(socket) = self.sockets.get(&id) else {
                        return;
                    };
                    if more && !socket.paused && !socket.closing {
                        self.to_read.insert(id);
                    }
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.drained = !socket.has_more(false);
                    if !socket.drained {
                        self.to_read.insert(id);
                    }
                    if !socket.is_flushed() {
                        // What TLS has to answer to.
                        self.to_flush.insert(id);
                    }
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if socket.is_secured() {
                        log::debug!("a connection with TLS ends: {error}");
                        // The other side is told, if that can be done at once.
                        let _ = socket.flush();
                    }
                    self.drop_socket(id);
                    return;
                }
            }
        }
    }

    /// Sends what is queued, and what the machine has to say when it has left.
    fn flush(&mut self) {
        while let Some(id) = self.to_flush.pop_first() {
            let Some(socket) = self.sockets.get_mut(&id) else {
                continue;
            };
            if socket.flush().is_err() {
                self.drop_socket(id);
                continue;
            }
            if !socket.is_flushed() {
                continue;
            }
            if socket.closing {
                self.remove(id);
            } else if std::mem::take(&mut socket.notify) {
                self.give(Input::Drained(id));
            }
        }
    }

    fn drop_socket(&mut self, id: ConnId) {
        self.remove(id);
        self.give(Input::Closed(id));
    }

    fn remove(&mut self, id: ConnId) {
        if let Some(mut socket) = self.sockets.remove(&id) {
            // It is about to be closed, which removes it from the poll too.
            let _ = self.poll.registry().deregister(socket.source());
        }
        self.receiver.ended(id);
    }

    /// Ends the threads. The log is closed only after a clean stop: a failed disk is left as it is.
    fn close(mut self, result: Result<(), String>) -> Result<(), String> {
        self.sockets.clear();
        if let Some(handshakes) = &mut self.handshakes {
            handshakes.stop();
        }
        self.machine.interrupt_all();
        // Another program on this directory would not know of the promise not to vote.
        let promised = self.machine.promised_until().saturating_sub(now_ms());
        if promised > 0 && result.is_ok() {
            log::info!(
                "stopped; the directory stays locked for {promised} ms, for which not to vote was promised"
            );
        }
        std::thread::sleep(Duration::from_millis(promised.min(PROMISE_MS_MAX)));
        self.workers.stop();
        self.background.stop();
        let closed = self.log_writer.stop(result.is_ok());
        result.and(closed)
    }
}

/// Bytes of the entries that are to be made durable.
fn entry_bytes(persist: &Persist) -> u64 {
    let bytes = |op: &DiskOp| match op {
        DiskOp::Append { entries } => entries.iter().map(|entry| entry.payload.len() as u64).sum(),
        _ => 0,
    };
    persist.ops.iter().map(bytes).sum()
}
