//! The node as a function: inputs in, outputs out, nothing else.
//!
//! ```text
//!  bytes, closed, drained ─┐                       ┌─▶ send, close, pause, resume
//!  a job has run ──────────┤                       ├─▶ execute a job
//!  disk work is durable ───┼──▶  Machine::step  ──────┼─▶ persist
//!  a deadline, turn's end ─┤     (no clock, no     ├─▶ write a snapshot
//!  a command ──────────────┘      socket, no file) └─▶ send to a peer, an event
//! ```
//!
//! Life of a write: the client's statement runs against *head* while the client holds the write
//! slot; what it commits becomes the next head version and joins the open batch; at the turn's end
//! the batch is proposed as one log entry; when that is durable on a quorum and applied here,
//! *committed* moves on and every answer that waited for it leaves.
//!
//! Invariants:
//!
//! - Nothing leaves for a client before the versions that it depends on are committed and applied
//!   here. Exempt are refusals that say nothing about data: busy, not leader, leadership lost.
//! - A leader has no head, and prepares, runs and answers nothing, until it has applied the first
//!   entry of its own term: what it had proposed in an earlier term may still commit before that.
//! - An epoch (one leadership, from its first entry on) ends in a single step: what was published
//!   and not committed is void, and so are the database handles that may have seen it.
//! - Outputs are carried out in the order in which they are pushed.
//!
//! Submodules: [`gateway`] understands requests, [`dispatch`] runs statements and queues writers,
//! [`memory`] bounds what clients
//! hold, [`readers`] what is kept for them, [`replicate`] proposes, applies, takes snapshots and ends epochs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use dq_raft::{Driver, Effect, LogEntry, LogRange, Persist, SnapshotMeta};
use dq_vfs::{Version, Vfs};

use crate::config::Settings;
use crate::conn::{Conn, ConnId, Held};
use crate::exec::{Finished, Job};
use crate::fsm::{Databases, Images};
use crate::metrics::Counters;
use crate::registry::Database;
pub use roles::Polled;
use roles::RoleManager;

mod dispatch;
mod gateway;
mod measure;
mod memory;
mod peer;
mod readers;
mod replicate;
mod roles;
mod usage;

/// Something that happened outside the node.
#[derive(Debug)]
pub enum Input<'a> {
    /// A connection was accepted; ids are never used twice.
    Accepted(ConnId),
    /// A connection's bytes arrived.
    Bytes(ConnId, &'a [u8]),
    /// The other side of a connection sends no more.
    Eof(ConnId),
    /// A connection is gone.
    Closed(ConnId),
    /// All bytes sent with `notify` on a connection have left.
    Drained(ConnId),
    /// The time named by [`Machine::deadline`] has come.
    Deadline,
    /// Everything that was to be persisted, up to this id, is durable.
    Durable(u64),
    /// The disk has no space for more of the log, or has it again.
    DiskFull(bool),
    /// A job has run.
    Finished(ConnId, Box<Finished>),
    /// What [`Output::ReadLog`] asked for, or `None` if it cannot be read.
    LogRead(LogRange, Option<Vec<LogEntry>>),
    /// A snapshot is on disk, or could not be written.
    SnapshotWritten(Box<SnapshotMeta>, bool),
    /// This much of a snapshot that arrives is stored.
    SnapshotStored(ConnId, usize),
    /// A snapshot is stored and read, or of no use.
    SnapshotReceived(ConnId, Box<Result<(SnapshotMeta, Databases), String>>),
    /// What members answered to [`Output::Poll`].
    Polled(Vec<Polled>),
    /// Stop taking part as more than a spare, so that this node can go: a reply comes as
    /// [`Output::HandedOver`].
    HandOver,
    /// A new stream to this peer is open.
    PeerConnected(u64),
    /// The stream to this peer broke, or was cut.
    PeerLost(u64),
    /// Sending a snapshot to this peer makes progress.
    SnapshotProgress(u64),
    /// A snapshot was sent to this peer, or not.
    SnapshotSent(u64, bool),
    /// The snapshot at this index could not be read back from the disk, whole and right, to be sent.
    SnapshotUnreadable(u64),
    /// The inputs of one turn of the loop have all been given: propose what they made.
    TurnEnd,
}

/// Something for the world to do.
#[derive(Debug)]
pub enum Output {
    /// Send these pieces. With `notify`, tell when they and all before them have left.
    Send {
        /// To whom.
        conn: ConnId,
        /// What, in order.
        pieces: Vec<Bytes>,
        /// Answer with [`Input::Drained`].
        notify: bool,
    },
    /// Send what is queued, then close.
    Close(ConnId),
    /// Close at once; what is queued is lost.
    Cut(ConnId),
    /// Read no more from it for now.
    Pause(ConnId),
    /// Read on.
    Resume(ConnId),
    /// Run a job: inline or on a worker, as it says.
    Execute(ConnId, Box<Job>),
    /// Make this durable.
    Persist(Persist),
    /// Read these entries of the log back, and answer with [`Input::LogRead`].
    ReadLog(LogRange),
    /// Write a snapshot of these databases.
    Snapshot(Box<SnapshotMeta>, Vec<(Bytes, Version)>),
    /// Send a raft message to another node.
    SendPeer {
        /// Its id.
        to: u64,
        /// Where it is.
        address: String,
        /// The message.
        message: dq_raft::Message,
    },
    /// A snapshot of this many bytes arrives on a connection: store and read it.
    ReceiveSnapshot(ConnId, Box<SnapshotMeta>, u64),
    /// Data of that snapshot.
    SnapshotData(ConnId, Bytes),
    /// A snapshot that arrived from a leader is not wanted: its temporary files can go.
    Discard(Box<SnapshotMeta>),
    /// Nobody waits any more for the snapshot that is sent to this peer.
    CancelSnapshot(u64),
    /// Let go of these versions: they may be large, and freeing them take long.
    Release(Vec<Version>),
    /// Ask these members how they are (DESCRIBE), and answer with [`Input::Polled`].
    Poll(Vec<(u64, String)>),
    /// This node leads no more, or could not give leadership away.
    HandedOver(bool),
    /// Take part no longer: a file or the log cannot be trusted. The text says why.
    Fatal(String),
}

/// What a node looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// This node leads and answers.
    pub leading: bool,
    /// Current term.
    pub term: u64,
    /// Who leads, as far as known: id and address.
    pub leader: Option<(u64, String)>,
    /// Last index of the log.
    pub last_index: u64,
    /// Last index known to be committed.
    pub commit_index: u64,
    /// Last index applied here.
    pub applied_index: u64,
    /// Connections.
    pub connections: usize,
    /// Bytes that clients' requests and answers take.
    pub client_memory: usize,
    /// Bytes of pages that are kept for readers only, at most.
    pub old_pages: u64,
    /// Bytes that messages of other nodes take which have not arrived whole.
    pub peer_memory: usize,
    /// Bytes of the log's entries that are in memory.
    pub log_memory: u64,
    /// Bytes of entries from a leader that are not durable here.
    pub unstored: u64,
    /// Bytes that have executed here as leader and are not applied.
    pub executed_ahead: usize,
}

/// One leadership of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Epoch {
    /// Index of the first entry of our term; the gate opens when it is applied.
    first_index: u64,
}

/// A proposed entry whose version is known here.
#[derive(Debug)]
struct InFlight {
    term: u64,
    database: Bytes,
    version: Version,
    bytes: usize,
    transactions: u64,
}

/// A node. See the module's documentation.
pub struct Machine {
    settings: Settings,
    vfs: Arc<Vfs>,
    driver: Driver,
    conns: BTreeMap<ConnId, Box<Conn>>,
    /// Those on which a snapshot arrives.
    receivers: BTreeSet<ConnId>,
    /// What all connections together hold.
    held: Held,
    databases: BTreeMap<Bytes, Database>,
    /// Who holds on to versions that may be old.
    readers: readers::Readers,
    epoch: Option<Epoch>,
    /// The current epoch's first entry is applied.
    open: bool,
    /// Databases opened so far.
    sessions: u64,
    versions: u64,
    in_flight: BTreeMap<u64, InFlight>,
    /// Connections that wait for leadership to begin.
    gated: BTreeSet<ConnId>,
    /// Connections whose answer waits for a proof of leadership.
    proving: BTreeSet<ConnId>,
    /// Clients that send no more and wait for an answer, by when to interrupt what they wait for.
    leaving: BTreeSet<(u64, ConnId)>,
    /// Databases with batches to propose.
    dirty: BTreeSet<Bytes>,
    /// Databases whose first waiter may go on once there is room for more writes.
    crowded: BTreeSet<Bytes>,
    /// Bytes published and not yet applied.
    speculative_bytes: usize,
    snapshot_index: u64,
    snapshot_configuration: (dq_wire::Configuration, u64),
    log_bytes_since_snapshot: u64,
    /// Size of the databases in the snapshot that was taken last.
    snapshot_bytes: u64,
    snapshot_running: bool,
    /// Snapshots from leaders, checked, that raft has neither installed nor refused. The same one
    /// may come again while the first is being installed.
    arrived: Vec<(SnapshotMeta, Databases)>,
    /// A follower needs a newer snapshot than there is.
    snapshot_wanted: bool,
    weight: u64,
    roles: RoleManager,
    /// Somebody waits for this node to lead no more.
    handing_over: bool,
    /// No write begins; what has been taken still fits.
    disk_full: bool,
    /// Leadership was handed over, and by then, at the latest, whoever asked for it is told.
    successor_by: Option<u64>,
    /// Connections that asked for the leader meanwhile, and when they are answered at the latest.
    asking: BTreeSet<ConnId>,
    asking_until: Option<u64>,
    /// Until when this node says who leads: without end while it is a voter.
    votes_until: u64,
    failed: bool,
    effects: Vec<Effect>,
    now: u64,
    counters: Counters,
    /// What durations are measured with.
    micros: u64,
    /// The leader that was counted last.
    leader_counted: u64,
}

/// What a node starts from.
pub struct Start {
    /// How it behaves.
    pub settings: Settings,
    /// The SQLite VFS of its databases.
    pub vfs: Arc<Vfs>,
    /// Raft, loaded with what the directory held.
    pub driver: Driver,
    /// The databases of the newest snapshot.
    pub databases: Images,
    /// That snapshot.
    pub snapshot: Option<SnapshotMeta>,
}

impl Machine {
    /// A node that has not been started.
    pub fn new(start: Start) -> Machine {
        let Start {
            settings,
            vfs,
            driver,
            databases,
            snapshot,
        } = start;
        let weight = settings.weight;
        let roles = RoleManager::new(settings.roles);
        let mut node = Machine {
            settings,
            vfs,
            driver,
            conns: BTreeMap::new(),
            receivers: BTreeSet::new(),
            held: Held::default(),
            databases: BTreeMap::new(),
            readers: readers::Readers::default(),
            epoch: None,
            open: false,
            sessions: 0,
            versions: 0,
            in_flight: BTreeMap::new(),
            gated: BTreeSet::new(),
            proving: BTreeSet::new(),
            leaving: BTreeSet::new(),
            dirty: BTreeSet::new(),
            crowded: BTreeSet::new(),
            speculative_bytes: 0,
            snapshot_index: 0,
            snapshot_configuration: Default::default(),
            log_bytes_since_snapshot: 0,
            snapshot_bytes: 0,
            snapshot_running: false,
            arrived: Vec::new(),
            snapshot_wanted: false,
            weight,
            roles,
            handing_over: false,
            disk_full: false,
            successor_by: None,
            asking: BTreeSet::new(),
            asking_until: None,
            votes_until: 0,
            failed: false,
            effects: Vec::new(),
            now: 0,
            counters: Counters::default(),
            micros: 0,
            leader_counted: 0,
        };
        if let Some(meta) = snapshot {
            node.snapshot_index = meta.index;
            node.snapshot_configuration = (meta.configuration, meta.configuration_index);
        }
        node.install(databases);
        node
    }

    /// Lets raft begin. A sole voter elects itself here.
    pub fn start(&mut self, now: u64, out: &mut VecDeque<Output>) {
        self.now = now;
        self.driver.start(now);
        self.drive(out);
    }

    /// Advances the node by one input at time `now` (milliseconds, never going back).
    pub fn step(&mut self, now: u64, input: Input<'_>, out: &mut VecDeque<Output>) {
        self.now = now;
        if self.failed {
            return;
        }
        match input {
            Input::Accepted(conn) => {
                self.conns.insert(conn, Box::default());
            }
            Input::Bytes(conn, bytes) => self.received(conn, bytes, out),
            Input::Eof(conn) => self.half_closed(conn, out),
            Input::Closed(conn) => self.closed(conn, out),
            Input::Drained(conn) => self.drained(conn, out),
            Input::Deadline => {
                let successor_due = self.successor_by.is_some_and(|by| by <= now);
                if self.driver.deadline() <= now || successor_due {
                    self.driver.tick(now);
                    self.drive(out);
                }
                self.settle_askers(out);
                self.expire_waiters(out);
                self.interrupt_leavers();
                self.poll_if_due(out);
            }
            Input::Durable(id) => {
                self.driver.durable(id);
                self.drive(out);
            }
            Input::DiskFull(full) => {
                self.disk_full = full;
                self.driver.set_disk_full(full);
                if !full {
                    self.wake_crowded(out);
                }
            }
            Input::Finished(conn, finished) => self.finished(conn, *finished, out),
            Input::LogRead(range, entries) => {
                self.driver.log_read(now, range, entries);
                self.drive(out);
            }
            Input::SnapshotWritten(meta, written) => self.snapshot_written(*meta, written, out),
            Input::SnapshotStored(conn, size) => self.snapshot_stored(conn, size, out),
            Input::SnapshotReceived(conn, received) => {
                self.snapshot_received(conn, *received, out);
            }
            Input::Polled(answers) => {
                self.roles.polled(now, &answers);
                self.adjust_roles(out);
            }
            Input::HandOver => self.hand_over(out),
            Input::PeerConnected(id) => self.driver.connected(id),
            Input::PeerLost(id) => {
                self.driver.unreachable(id);
                self.drive(out);
            }
            Input::SnapshotProgress(id) => {
                if !self.driver.snapshot_progress(now, id) {
                    out.push_back(Output::CancelSnapshot(id));
                }
                self.drive(out);
            }
            Input::SnapshotUnreadable(index) => self.snapshot_unreadable(index, out),
            Input::SnapshotSent(id, sent) => {
                self.counters.snapshots_sent += u64::from(sent);
                self.driver.snapshot_sent(id, sent);
                self.drive(out);
            }
            Input::TurnEnd => {
                self.propose_batches(out);
                self.seek_proofs();
                self.drive(out);
            }
        }
        self.bound_readers(out);
        self.make_room(out);
    }

    /// When to give [`Input::Deadline`].
    pub fn deadline(&self) -> u64 {
        let busy = self
            .databases
            .values()
            .filter_map(|db| db.busy_deadline(self.settings.busy_timeout_ms))
            .min();
        let poll = self.epoch.and_then(|_| self.roles.deadline());
        let leaver = self.leaving.first().map(|(at, _)| *at);
        let others = busy.into_iter().chain(poll).chain(leaver);
        let others = others.chain(self.successor_by).chain(self.asking_until);
        let others = others.min();
        others.map_or(self.driver.deadline(), |at| at.min(self.driver.deadline()))
    }

    /// From now on DESCRIBE reports this failure domain.
    pub fn set_failure_domain(&mut self, code: u64) {
        self.settings.failure_domain = code;
    }

    /// From now on writers wait so long for another connection's open transaction.
    pub fn set_busy_timeout(&mut self, ms: u64) {
        self.settings.busy_timeout_ms = ms;
    }

    /// Ends whatever runs or is about to, so that threads come to an end.
    pub fn interrupt_all(&self) {
        for session in self.conns.values().filter_map(|conn| conn.session.as_ref()) {
            session.interrupt.end();
        }
    }

    /// Until when this node has promised not to vote; the directory stays locked until then.
    pub fn promised_until(&self) -> u64 {
        self.driver.promised_until()
    }

    /// A bound on promises to be made durable: see [`Driver::promise_bound_wanted`]. One that is lower
    /// holds already.
    pub fn promise_bound_to_store(&mut self) -> Option<u64> {
        let bound_ms = self.driver.promise_bound_wanted()?;
        if bound_ms < self.driver.promise_bound() {
            self.driver.set_promise_bound(bound_ms);
        }
        Some(bound_ms)
    }

    /// It is durable.
    pub fn promise_bound_stored(&mut self, bound_ms: u64) {
        self.driver.set_promise_bound(bound_ms);
    }

    /// Whether this node leads and answers.
    pub fn is_serving(&self) -> bool {
        self.open
    }

    /// What the node looks like now.
    pub fn status(&self) -> Status {
        Status {
            leading: self.open,
            term: self.driver.term(),
            leader: self.driver.leader(),
            last_index: self.driver.last_index(),
            commit_index: self.driver.commit_index(),
            applied_index: self.driver.applied_index(),
            connections: self.conns.len(),
            client_memory: self.held.requests + self.held.answers,
            old_pages: self.readers.at_most() * dq_vfs::PAGE_SIZE as u64,
            peer_memory: self.held.peers,
            log_memory: self.driver.log_bytes(),
            unstored: self.driver.unstored_bytes(),
            executed_ahead: self.speculative_bytes,
        }
    }

    /// Raft, to look at: what a simulator's checks compare between nodes.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Snapshots that have arrived, and are neither installed nor refused.
    pub fn arrived(&self) -> impl Iterator<Item = &SnapshotMeta> {
        self.arrived.iter().map(|(meta, _)| meta)
    }

    /// The databases by name, each in its committed version.
    pub fn databases(&self) -> impl Iterator<Item = (&Bytes, &Version)> {
        let databases = self.databases.iter();
        databases.map(|(name, database)| (name, &database.committed))
    }

    fn next_version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }

    /// Ends this node's participation.
    fn fail(&mut self, why: String, out: &mut VecDeque<Output>) {
        self.failed = true;
        self.end_epoch(out);
        out.push_back(Output::Fatal(why));
    }
}
