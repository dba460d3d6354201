//! One accepted connection: bytes to frames, and what its request is waiting for.
//!
//! ```text
//!   handshake word ─▶ client ─▶ one request at a time ─▶ …
//!                        └─ CONNECT as the first request ─▶ peer
//! ```
//!
//! A client's next request is looked at only when the answer to the last one has left, as in C
//! dqlite; what arrives early stays in the buffer, which stops being filled when it holds enough.

use bytes::{Bytes, BytesMut};
use dq_raft::{ChangeToken, ReadTicket};
use dq_vfs::{InterruptHandle, Version};
use dq_wire::header::{Header, PROTOCOL_LEGACY, PROTOCOL_V1};

use crate::exec::{Handle, Work};

/// Bytes of an arriving snapshot that may wait to be stored before reading pauses.
pub const SNAPSHOT_PENDING_BYTES: usize = 4 << 20;

/// Snapshots that may arrive at the same time: each takes a thread and a file.
pub const SNAPSHOTS_ARRIVING_MAX: usize = 4;

/// Names a connection; never used again in the life of a node.
pub type ConnId = u64;

/// Bytes read ahead while a request is at work.
pub const READ_AHEAD_BYTES: usize = 64 * 1024;

/// Bytes of answers of which the node does not ask whether they have left.
pub const UNASKED_BYTES: usize = 16 * 1024;

/// Bytes of answers given to the socket, and not known to have left it, above which no further
/// request is looked at: a client that asks and never reads must not fill the memory.
pub const UNSENT_BYTES: usize = 256 * 1024;

/// A connection and the state of its protocol.
#[derive(Debug)]
pub struct Conn {
    /// Bytes received and not yet understood.
    pub buffer: BytesMut,
    /// Which protocol is spoken.
    pub stage: Stage,
    /// The client sends no more.
    pub eof: bool,
    /// The socket is gone; the request at work is finished for its effect only.
    pub gone: bool,
    /// The shell was told not to read.
    pub paused: bool,
    /// Bytes given to the socket since it was last known to be empty.
    pub unsent: usize,
    /// Bytes of answers made for this connection alone that are not known to have left its socket.
    pub owed: usize,
    /// Bytes still to come of a request that was refused.
    pub skip: u64,
    /// What of it is counted in the node's sums.
    pub counted: Held,
    /// A request was answered on this connection.
    pub used: bool,
    /// When it is looked at because its client sends no more, or it has to give its version back.
    pub leaves_at: Option<u64>,
    /// Type of the last request, and when it was whole, in the microseconds that durations are
    /// measured with.
    pub asked: (u8, u64),
    /// The database that is being dumped, as it was then, while the client has not read all of it.
    pub dumped: Option<(Bytes, Version)>,
    /// The open database.
    pub session: Option<Session>,
    /// The request at work.
    pub request: Option<Request>,
}

/// Bytes that a connection keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Of requests: arrived, and at work.
    pub requests: usize,
    /// Of answers: held, and under way.
    pub answers: usize,
    /// Of messages that arrive from another node.
    pub peers: usize,
    /// Of prepared statements, about.
    pub statements: usize,
}

/// Which protocol a connection speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The first word has not arrived.
    Handshake,
    /// A client; `legacy` changes the answer to LEADER only.
    Client {
        /// Pre-1.0 protocol word.
        legacy: bool,
    },
    /// Another node that sends us raft messages.
    Peer {
        /// Its id, as it says.
        id: u64,
        /// Its address, as it says.
        address: String,
        /// A snapshot that is arriving.
        receiving: Option<Receiving>,
    },
}

/// A snapshot that is arriving from a leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiving {
    /// The leader's term.
    pub term: u64,
    /// The last index in it.
    pub index: u64,
    /// Bytes that are still to come.
    pub left: u64,
    /// Bytes handed on and not yet stored.
    pub pending: usize,
}

/// A client's open database.
#[derive(Debug)]
pub struct Session {
    /// Tells it from an earlier one on the same connection, whose job may still be running.
    pub serial: u64,
    /// Name of the database.
    pub database: Bytes,
    /// The SQLite connection; `None` while a job has it.
    pub handle: Option<Box<Handle>>,
    /// Stops what runs.
    pub interrupt: InterruptHandle,
    /// What its prepared statements take, about, bytes.
    pub statements: usize,
    /// Highest version that it has pinned or published.
    pub seen: u64,
    /// Leadership was proven since the open transaction pinned its version: what it reads is fixed,
    /// so no further proof is needed before it ends.
    pub proven: bool,
    /// Its transaction or statement was ended, as it kept too much that was replaced, and the client has
    /// not been told.
    pub outdated: bool,
}

/// A request at work.
#[derive(Debug)]
pub struct Request {
    /// Bytes of it that stay in memory until it is answered.
    pub size: usize,
    /// What remains to do; `None` while a job has it.
    pub task: Task,
    /// What it waits for.
    pub phase: Phase,
    /// Lowest version that it published; 0 for none. Once that one is proposed, the request may have
    /// been executed in part, however much of it has not been proposed.
    pub published: u64,
    /// Its arrival, while leadership at that time is not proven.
    pub ticket: Option<ReadTicket>,
    /// How often it went on after one of its statements.
    pub yields: u32,
    /// Rows have been sent.
    pub sent_rows: bool,
    /// The statement at work only reads, so that nothing is lost by interrupting it.
    pub only_reads: bool,
}

/// What a request is to do.
#[derive(Debug)]
pub enum Task {
    /// OPEN of this name.
    Open(Bytes),
    /// A statement; `None` while a job has it.
    Sql(Option<Work>),
    /// LEADER, asked while leadership is being given away.
    Leader {
        /// In the layout of the first version of the protocol.
        legacy: bool,
    },
    /// A membership change or transfer, as it came, for a leader that cannot change members yet.
    Change(Header, Bytes),
    /// A membership change that raft works on, or a transfer of leadership, which has no token.
    Membership(Option<ChangeToken>),
}

/// What a request waits for.
#[derive(Debug)]
pub enum Phase {
    /// Nothing yet.
    New,
    /// This node's leadership to begin.
    Gate,
    /// The write slot, or room for more writes.
    Slot,
    /// A job.
    Running,
    /// A version to be committed, and a proof of leadership, before the answer may leave.
    Held {
        /// That version.
        version: u64,
        /// The answer.
        answer: Vec<Bytes>,
        /// The request is done when it has left.
        last: bool,
    },
    /// The socket to take the rows sent so far.
    Drain,
    /// Raft.
    Raft,
}

/// What the buffer holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Not enough for anything.
    Incomplete,
    /// A whole message.
    Message(Header, Bytes),
    /// Something that ends the connection.
    Bad,
}

impl Default for Conn {
    /// A connection that has just been accepted.
    fn default() -> Conn {
        Conn {
            buffer: BytesMut::new(),
            stage: Stage::Handshake,
            eof: false,
            gone: false,
            paused: false,
            unsent: 0,
            owed: 0,
            skip: 0,
            counted: Held::default(),
            used: false,
            leaves_at: None,
            asked: (0, 0),
            dumped: None,
            session: None,
            request: None,
        }
    }
}

impl Conn {
    /// Takes the protocol word off the buffer, once it is there. False for one that is not ours.
    pub fn handshake(&mut self) -> bool {
        let Some(word) = self.buffer.first_chunk::<8>() else {
            return true;
        };
        let legacy = match u64::from_le_bytes(*word) {
            PROTOCOL_V1 => false,
            PROTOCOL_LEGACY => true,
            _ => return false,
        };
        let _ = self.buffer.split_to(8);
        self.stage = Stage::Client { legacy };
        true
    }

    /// Takes the next message off the buffer. Bodies above `limit` bytes, and of no words, are bad.
    pub fn next_frame(&mut self, limit: u64) -> Frame {
        let Ok(header) = Header::decode(&self.buffer) else {
            return Frame::Incomplete;
        };
        let size = header.body_size();
        if size == 0 || size > limit {
            return Frame::Bad;
        }
        let Ok(size) = usize::try_from(size) else {
            return Frame::Bad;
        };
        if self.buffer.len() - Header::SIZE < size {
            return Frame::Incomplete;
        }
        let mut frame = self.buffer.split_to(Header::SIZE + size);
        let body = frame.split_off(Header::SIZE).freeze();
        if size > READ_AHEAD_BYTES {
            // The rest shares the memory of the large message, and would keep it for as long as the
            // connection lives.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        Frame::Message(header, body)
    }

    /// Whether the client takes its answers too slowly for more of them.
    pub fn is_backed_up(&self) -> bool {
        self.unsent > UNSENT_BYTES
    }

    /// What it keeps in memory.
    pub fn held(&self) -> Held {
        let at_work = self.request.as_ref();
        let answer = match at_work.map(|request| &request.phase) {
            Some(Phase::Held { answer, .. }) => answer.iter().map(Bytes::len).sum(),
            _ => 0,
        };
        let owed = match self.owed {
            0..=UNASKED_BYTES => 0,
            owed => owed,
        };
        let (arriving, peers) = match self.stage {
            Stage::Peer { .. } => (0, self.buffer.len()),
            Stage::Handshake | Stage::Client { .. } => (self.buffer.len(), 0),
        };
        Held {
            requests: arriving + at_work.map_or(0, |request| request.size),
            answers: owed + answer,
            peers,
            statements: self
                .session
                .as_ref()
                .map_or(0, |session| session.statements),
        }
    }

    /// Kind of the message at the front of the buffer, if it is whole.
    pub fn peek_kind(&self) -> Option<u8> {
        let header = Header::decode(&self.buffer).ok()?;
        let size = usize::try_from(header.body_size()).ok()?;
        (size > 0 && self.buffer.len() - Header::SIZE >= size).then_some(header.kind)
    }
}

impl Request {
    /// A request of `size` bytes that has not begun.
    pub fn new(task: Task, size: usize) -> Request {
        Request {
            size,
            task,
            phase: Phase::New,
            published: 0,
            ticket: None,
            yields: 0,
            sent_rows: false,
            only_reads: false,
        }
    }
}
