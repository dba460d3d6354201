//! A simulated node: a disk that outlives it, and a process that runs the real state machine.
//!
//! The process is the real one's shell in small: the log writer with its queue, the outbound
//! streams with their few waiting messages, snapshots written and received. What takes time in the
//! real one (an fsync, a job on a worker) is an event of the world here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dq_raft::log::writer::WriterOptions;
use dq_raft::sim_disk::SimDisk;
use dq_raft::{
    Bounds, Compression, DataDir, DiskError, DiskOp, Driver, LogEntry, LogRange, LogReader,
    LogWriter, OpenError, Options, Persist, ReadOptions, RecoverError, RecoverOptions,
    SnapshotError, SnapshotMeta, SnapshotWriter,
};
use dq_server::config::Settings;
use dq_server::exec::Finished;
use dq_server::fsm::{self, Databases, Images};
use dq_server::node::{Machine, Output, Start};
use dq_server::promise;
use dq_vfs::{Version, Vfs};
use dq_wire::disk::names::SnapshotName;

use crate::net::LinkId;
use crate::plan::Plan;
use crate::said::OnDisk;

/// What a process is told, in the order in which it happens.
#[derive(Debug)]
pub(crate) enum Mail {
    /// A connection was accepted.
    Accepted(u64),
    /// Bytes on a connection.
    Bytes(u64, Bytes),
    /// The other side sends no more.
    Eof(u64),
    /// A connection broke.
    Closed(u64),
    /// All that was sent has left.
    Drained(u64),
    /// Disk work is done.
    Durable(u64),
    /// Disk work has failed.
    DiskFailed(String),
    /// Entries of the log were read back, or not.
    LogRead(LogRange, Option<Vec<LogEntry>>),
    /// A job is back.
    Finished(u64, Box<Finished>),
    /// A snapshot is on disk, or not.
    SnapshotWritten(Box<SnapshotMeta>, bool),
    /// Data of an arriving snapshot are stored.
    SnapshotStored(u64, usize),
    /// A snapshot has arrived.
    SnapshotReceived(u64, Box<Result<(SnapshotMeta, Databases), String>>),
    /// A stream to a peer is open.
    PeerConnected(u64),
    /// A stream to a peer broke.
    PeerLost(u64),
    /// A snapshot was sent, or not.
    SnapshotSent(u64, bool),
    /// The snapshot at this index cannot be read to be sent.
    SnapshotUnreadable(u64),
    /// This bound on promises is durable.
    PromiseStored(u64),
}

/// Work for the disk, in order.
#[derive(Debug)]
pub(crate) enum DiskWork {
    /// Log and term.
    Persist(Persist),
    /// Make a snapshot of temporary files.
    Publish(Box<SnapshotMeta>),
}

/// The state of the stream to a peer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PeerState {
    /// None; not tried again before this time.
    Idle(u64),
    /// One is being opened.
    Dialling(u64),
    /// There is one.
    Connected(LinkId),
}

/// Another node, as a sender sees it.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where it is.
    pub(crate) address: String,
    /// The stream.
    pub(crate) state: PeerState,
    /// Messages that wait for one.
    pub(crate) waiting: VecDeque<Bytes>,
}

/// A snapshot that arrives.
#[derive(Debug)]
pub(crate) struct Arriving {
    /// What it is of.
    pub(crate) meta: SnapshotMeta,
    /// How large it is.
    pub(crate) size: u64,
    /// What has come of it.
    pub(crate) data: BytesMut,
}

/// A running node.
pub(crate) struct Process {
    /// The real thing.
    pub(crate) machine: Machine,
    /// What it wants done.
    pub(crate) out: VecDeque<Output>,
    /// What it has not been told yet.
    pub(crate) mail: VecDeque<Mail>,
    /// Writes the log.
    pub(crate) writer: LogWriter<SimDisk>,
    /// Reads entries of the log back.
    pub(crate) reader: LogReader<SimDisk>,
    /// Keeps the directory locked.
    pub(crate) dir: DataDir<SimDisk>,
    /// Disk work that waits.
    pub(crate) disk_queue: VecDeque<DiskWork>,
    /// Disk work under way: what is still to be done when its time is over, or what came of it.
    pub(crate) disk_running: Option<Running>,
    /// Accepted connections.
    pub(crate) accepted: BTreeMap<u64, LinkId>,
    /// Streams to peers.
    pub(crate) peers: BTreeMap<u64, Peer>,
    /// Snapshots that arrive.
    pub(crate) arriving: BTreeMap<u64, Arriving>,
    /// Snapshots that are stored, which the node has not been told yet.
    pub(crate) in_transit: BTreeSet<SnapshotName>,
    /// The directory was changed since it was last looked at.
    pub(crate) files_changed: bool,
    /// The next connection's id.
    pub(crate) next_conn: u64,
    /// Numbers dials.
    pub(crate) attempts: u64,
    /// A bound on promises is being stored, or cannot be.
    pub(crate) storing_promise: bool,
    /// Term and vote on disk.
    hard_state: (u64, u64),
    /// The highest entry that was stored in each term, whether or not it is still there.
    stored: BTreeMap<u64, u64>,
}

/// Disk work under way.
#[derive(Debug)]
pub(crate) enum Running {
    /// It happens when its time is over.
    Ahead(Vec<DiskWork>),
    /// It has happened; this is to be reported.
    Done(Result<Vec<Mail>, DiskError>),
}

/// Why a process did not start.
#[derive(Debug)]
pub(crate) enum BootError {
    /// The disk failed; later it may work.
    Disk(String),
    /// What is on it cannot be started from.
    Corrupt(String),
}

/// Who a node is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Its id.
    pub(crate) id: u64,
    /// Its address.
    pub(crate) address: String,
}

const COMPRESSION: Compression = Compression::Lz4;

impl Process {
    /// Reads the disk and makes a process of what is there, as the real shell does.
    pub(crate) fn boot(
        us: &Identity,
        plan: &Plan,
        divisor: u64,
        seed: u64,
        disk: &SimDisk,
        vfs: &Arc<Vfs>,
    ) -> Result<Process, BootError> {
        let dir = DataDir::with_disk(disk.clone()).map_err(|error| match error {
            OpenError::Disk(error) => BootError::Disk(error.to_string()),
            other => BootError::Corrupt(other.to_string()),
        })?;
        let recover = RecoverOptions {
            writer: WriterOptions {
                segment_size: plan.segment_size,
                prepared_count: 2,
            },
            ..RecoverOptions::default()
        };
        // As in the real one, nothing is changed before it is clear that the databases can be read.
        let (mut recovered, mut writer, databases) = dir.recover_after(&recover, |found| {
            let snapshot = found.snapshot.as_ref();
            let images = snapshot.map(|meta| fsm::load_snapshot(disk, meta));
            images.unwrap_or(Ok(Images::new())).map_err(of_snapshot)
        })?;
        if recovered.term == 0 && us.id == 1 {
            drop(writer);
            dir.bootstrap(us.id, &us.address, &recover)
                .map_err(of_recovery)?;
            (recovered, writer) = dir.recover(&recover).map_err(of_recovery)?;
        }
        let options = Options {
            id: us.id,
            election_timeout_ms: plan.election_ms / divisor,
            heartbeat_ms: plan.heartbeat_ms / divisor,
            seed,
            log_bytes_max: plan.limits.log,
        };
        let promised = ReadOptions::promise_ms(&options);
        let found = promise::read(disk, promised).map_err(of_disk)?;
        let reads = ReadOptions {
            mode: plan.mode,
            promise_found_ms: found,
            promise_bound_ms: found,
        };
        let snapshot = recovered.snapshot.clone();
        let hard_state = (recovered.term, recovered.vote);
        let stored = BTreeMap::from([(recovered.term, writer.last_index())]);
        let driver = Driver::new(options, recovered)
            .map_err(|error| BootError::Corrupt(error.to_string()))?
            .with_reads(reads)
            .with_bounds(Bounds {
                unstored_bytes_max: plan.limits.unstored,
            });
        let mut settings = Settings::new(us.id, us.address.clone());
        settings.busy_timeout_ms = plan.busy_timeout_ms;
        settings.speculative_bytes_max = plan.limits.ahead;
        settings.client_memory_max = plan.limits.clients;
        settings.peer_memory_max = plan.limits.peers;
        settings.old_pages_max = plan.limits.old_pages;
        settings.snapshot_threshold = plan.snapshot_threshold;
        settings.snapshot_trailing = plan.snapshot_trailing;
        let machine = Machine::new(Start {
            settings,
            vfs: vfs.clone(),
            driver,
            databases,
            snapshot,
        });
        Ok(Process {
            machine,
            out: VecDeque::new(),
            mail: VecDeque::new(),
            writer,
            reader: LogReader::new(disk.clone()),
            dir,
            disk_queue: VecDeque::new(),
            disk_running: None,
            accepted: BTreeMap::new(),
            peers: BTreeMap::new(),
            arriving: BTreeMap::new(),
            in_transit: BTreeSet::new(),
            files_changed: true,
            next_conn: 2,
            attempts: 0,
            storing_promise: false,
            hard_state,
            stored,
        })
    }

    /// Does disk work, all of it in one go; what is to be reported when its time is over.
    pub(crate) fn write(&mut self, work: Vec<DiskWork>) -> Result<Vec<Mail>, DiskError> {
        let mut batch = Vec::new();
        let mut mail = Vec::new();
        for work in work {
            match work {
                DiskWork::Persist(persist) => batch.push(persist),
                DiskWork::Publish(meta) => {
                    self.writer.publish_snapshot(&meta)?;
                    mail.push(Mail::SnapshotWritten(meta, true));
                }
            }
        }
        if !batch.is_empty() {
            let mut last = self.writer.last_index();
            let id = self.writer.write(&batch)?;
            for op in batch.iter().flat_map(|persist| &persist.ops) {
                match op {
                    DiskOp::HardState { term, vote } => self.hard_state = (*term, *vote),
                    DiskOp::Append { entries } => {
                        last = entries.last().map_or(last, |entry| entry.index);
                    }
                    DiskOp::Truncate { from } => last = from.saturating_sub(1),
                    DiskOp::InstallSnapshot { meta } => last = meta.index,
                    DiskOp::Prune { .. } => {}
                }
                let stored = self.stored.entry(self.hard_state.0).or_default();
                *stored = (*stored).max(last);
            }
            mail.push(Mail::Durable(id));
        }
        Ok(mail)
    }

    /// What the disk holds, as far as it was reported durable or soon will be.
    pub(crate) fn on_disk(&self) -> OnDisk {
        let (term, vote) = self.hard_state;
        OnDisk {
            term,
            vote,
            certain: self.certain(),
        }
    }

    /// The highest entry that was stored while the node was in a term. It may have been replaced since.
    pub(crate) fn stored_in(&self, term: u64) -> u64 {
        self.stored.get(&term).copied().unwrap_or(0)
    }

    /// The last entry on disk that no work which is still to be done removes or replaces.
    fn certain(&self) -> u64 {
        let ahead = match &self.disk_running {
            Some(Running::Ahead(work)) => &work[..],
            _ => &[],
        };
        let ops = ahead
            .iter()
            .chain(&self.disk_queue)
            .filter_map(|work| match work {
                DiskWork::Persist(persist) => Some(&persist.ops),
                DiskWork::Publish(_) => None,
            });
        let touched = ops.flatten().filter_map(|op| match op {
            DiskOp::Truncate { from } => Some(*from),
            DiskOp::Append { entries } => entries.first().map(|entry| entry.index),
            _ => None,
        });
        let last = self.writer.last_index();
        touched.fold(last, |certain, first| certain.min(first.saturating_sub(1)))
    }

    /// Writes a snapshot under temporary names.
    pub(crate) fn write_snapshot(
        &self,
        meta: SnapshotMeta,
        databases: &[(Bytes, Version)],
    ) -> Result<SnapshotMeta, SnapshotError> {
        fsm::write_snapshot(self.dir.disk(), meta, databases, COMPRESSION)
    }

    /// Stores and checks a snapshot that has arrived whole.
    pub(crate) fn store_snapshot(
        &self,
        vfs: &Arc<Vfs>,
        arrived: Arriving,
    ) -> Result<(SnapshotMeta, Databases), String> {
        let Arriving { meta, size, data } = arrived;
        let disk = self.dir.disk().clone();
        let mut writer = SnapshotWriter::create(disk, meta, size, COMPRESSION)
            .map_err(|error| error.to_string())?;
        writer.write(&data).map_err(|error| error.to_string())?;
        let images = fsm::read_snapshot(&mut &data[..]).map_err(|error| error.to_string());
        match images.and_then(|images| fsm::check_images(images, vfs)) {
            Ok(databases) => {
                let meta = writer.finish().map_err(|error| error.to_string())?;
                Ok((meta, databases))
            }
            Err(why) => {
                writer.abort();
                Err(why)
            }
        }
    }
}

fn of_disk(error: DiskError) -> BootError {
    BootError::Disk(error.to_string())
}

impl From<RecoverError> for BootError {
    fn from(error: RecoverError) -> BootError {
        of_recovery(error)
    }
}

fn of_recovery(error: RecoverError) -> BootError {
    match error {
        RecoverError::Disk(error) => of_disk(error),
        other => BootError::Corrupt(other.to_string()),
    }
}

fn of_snapshot(error: SnapshotError) -> BootError {
    match error {
        SnapshotError::Disk(error) => of_disk(error),
        other => BootError::Corrupt(other.to_string()),
    }
}

/// A node's clock: it runs a little fast or slow, and may jump forward.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    base: u64,
    local: u64,
    /// Parts per million, around a million.
    rate: u64,
}

impl Clock {
    /// A clock that shows `local` at time 0 and runs at `rate` parts per million.
    pub(crate) fn new(local: u64, rate: u64) -> Clock {
        Clock {
            base: 0,
            local,
            rate,
        }
    }

    /// What it shows at `now`, in microseconds.
    fn micros(&self, now: u64) -> u64 {
        self.local + (now - self.base) * self.rate / 1_000_000
    }

    /// What it shows at `now`, in milliseconds.
    pub(crate) fn millis(&self, now: u64) -> u64 {
        self.micros(now) / 1000
    }

    /// When it will show `millis`.
    pub(crate) fn time_of(&self, millis: u64) -> u64 {
        let left = millis.saturating_mul(1000).saturating_sub(self.local);
        let world = u128::from(left) * 1_000_000 / u128::from(self.rate) + 1;
        self.base
            + u64::try_from(world)
                .unwrap_or(u64::MAX / 4)
                .min(u64::MAX / 4)
    }

    /// Jumps forward.
    pub(crate) fn jump(&mut self, now: u64, by: u64) {
        self.local = self.micros(now) + by;
        self.base = now;
    }
}
