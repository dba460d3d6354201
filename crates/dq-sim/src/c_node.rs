//! A C dqlite node of the simulation: the model of `dq-raft`, a disk of its own, databases, and its
//! end of the links.
//!
//! The disk is a list of entries and work in order: what was not done when a life ends is done up to
//! some point of it, or not at all. Term and vote are on it at once, since C dqlite waits for them.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use dq_raft::c_node::{CNode, Options};
use dq_raft::{DiskOp, LogEntry, Message, PeerId, Persist, Recovered, SnapshotMeta};
use dq_server::fsm;
use dq_vfs::{PAGE_SIZE, Page, PageNo, Version};
use dq_wire::command::Command;
use dq_wire::disk::fsm_snapshot::{DatabaseHead, encode_database_head, encode_snapshot_head};

use crate::net::LinkId;
use crate::plan::Plan;
use crate::rng::Rng;

/// Databases by name.
pub(crate) type Databases = BTreeMap<Bytes, Version>;

/// Most messages that are kept when a peer could not be reached.
pub(crate) const KEPT: usize = 3;

/// What outlives a node's lives.
#[derive(Debug, Default)]
pub(crate) struct CDisk {
    /// Term, vote, snapshot and entries.
    pub(crate) durable: Recovered,
    /// What the snapshot holds.
    pub(crate) databases: Databases,
    /// Work that is to be done, in order.
    pub(crate) queue: VecDeque<Persist>,
    /// What a snapshot holds that is to be installed.
    pub(crate) arrived: Databases,
    /// There is no room for entries.
    pub(crate) full: bool,
    /// The next write of entries fails.
    pub(crate) fails: bool,
    /// Power is lost after so many more pieces of work.
    pub(crate) cut_in: Option<u64>,
    /// A write has failed, and the node has not heard of it yet: nothing is written until it has.
    pub(crate) failed: bool,
}

impl CDisk {
    /// Index of the last entry.
    pub(crate) fn last(&self) -> u64 {
        let snapshot = self.durable.snapshot.as_ref();
        let last = self.durable.entries.last().map(|entry| entry.index);
        last.or(snapshot.map(|meta| meta.index)).unwrap_or(0)
    }

    /// Whether there is work that needs room.
    pub(crate) fn writes(&self) -> bool {
        let needs = |op: &DiskOp| !matches!(op, DiskOp::Truncate { .. } | DiskOp::Prune { .. });
        self.queue.front().is_some_and(|p| p.ops.iter().any(needs))
    }

    fn perform(&mut self, op: DiskOp) {
        let entries = &mut self.durable.entries;
        match op {
            DiskOp::HardState { .. } => {}
            DiskOp::Truncate { from } => {
                let kept = entries.partition_point(|entry| entry.index < from);
                entries.truncate(kept);
            }
            DiskOp::Append { entries: new } => entries.extend(new),
            DiskOp::InstallSnapshot { meta } => {
                entries.clear();
                self.durable.snapshot = Some(meta);
                self.databases = std::mem::take(&mut self.arrived);
            }
            DiskOp::Prune {
                snapshot_index,
                trailing,
            } => {
                let gone = entries.partition_point(|e| e.index + trailing <= snapshot_index);
                entries.drain(..gone);
            }
        }
    }

    /// Does the first piece of work; its number.
    pub(crate) fn complete(&mut self) -> Option<u64> {
        let persist = self.queue.pop_front()?;
        for op in persist.ops {
            self.perform(op);
        }
        Some(persist.id)
    }

    /// The first piece of work fails, and every write behind it; its number, and whether it or one of
    /// those was to install a snapshot.
    pub(crate) fn fail(&mut self) -> Option<(u64, bool)> {
        let first = self.queue.front()?.id;
        let mut installs = false;
        for persist in std::mem::take(&mut self.queue) {
            for op in persist.ops {
                match op {
                    DiskOp::InstallSnapshot { .. } => installs = true,
                    DiskOp::Append { .. } => {}
                    other => self.perform(other),
                }
            }
        }
        self.failed = true;
        Some((first, installs))
    }

    /// A life ends: some of the work is done, the last of it in part.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        let mut ops: VecDeque<DiskOp> = self.queue.drain(..).flat_map(|p| p.ops).collect();
        if self.failed {
            ops.retain(|op| matches!(op, DiskOp::Truncate { .. } | DiskOp::Prune { .. }));
        }
        for _ in 0..rng.below(ops.len() as u64 + 1) {
            match ops.pop_front() {
                Some(DiskOp::Append { mut entries }) if rng.chance(300) => {
                    let kept = rng.below(entries.len() as u64) as usize;
                    entries.truncate(kept);
                    self.perform(DiskOp::Append { entries });
                    break;
                }
                Some(op) => self.perform(op),
                None => break,
            }
        }
        self.failed = false;
        self.fails = false;
        self.cut_in = None;
    }
}

/// What a process is told, in the order in which it happens.
#[derive(Debug)]
pub(crate) enum CMail {
    /// Bytes on a connection.
    Bytes(u64, Bytes),
    /// A connection is at its end.
    Closed(u64),
    /// Disk work is done.
    Durable(u64),
    /// Disk work has failed; true if it was to install a snapshot.
    Failed(u64, bool),
    /// A snapshot is written, or not.
    SnapshotWritten(Box<SnapshotMeta>, bool),
}

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) struct Conn {
    /// Its link.
    pub(crate) link: LinkId,
    /// Bytes that are not yet a message.
    pub(crate) buffer: BytesMut,
    /// The first word has come.
    pub(crate) greeted: bool,
    /// Which node is at the other end, if it is one.
    pub(crate) peer: Option<PeerId>,
    /// A snapshot of that many bytes is coming, of a leader of that term.
    pub(crate) arriving: Option<(u64, SnapshotMeta, u64)>,
}

/// The state of a stream to a peer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Not begun.
    Idle,
    /// It is being opened.
    Dialling(u64),
    /// It could not be opened; the next attempt is then.
    Waiting(u64),
    /// There is one.
    Connected(LinkId),
    /// It broke, which is noticed when something is sent.
    Broken,
}

/// Another node, as a sender sees it.
#[derive(Debug)]
pub(crate) struct CPeer {
    /// Where it is.
    pub(crate) address: String,
    /// The stream.
    pub(crate) stream: Stream,
    /// Messages that wait for one, each with its bytes.
    pub(crate) waiting: VecDeque<(Message, Vec<Bytes>)>,
}

/// A running node.
#[derive(Debug)]
pub(crate) struct CProcess {
    /// The model.
    pub(crate) node: CNode,
    /// What it has applied.
    pub(crate) databases: Databases,
    /// What it has not been told yet.
    pub(crate) mail: VecDeque<CMail>,
    /// Accepted connections.
    pub(crate) conns: BTreeMap<u64, Conn>,
    /// The next one's number.
    pub(crate) next_conn: u64,
    /// Streams to peers.
    pub(crate) peers: BTreeMap<u64, CPeer>,
    /// Numbers dials.
    pub(crate) attempts: u64,
    /// The disk works.
    pub(crate) disk_busy: bool,
    /// It leads, and will want to do so no more when its clock shows this.
    pub(crate) leads_until: Option<u64>,
    /// What the snapshot holds that it is being told of.
    pub(crate) arriving: Option<Databases>,
}

impl CProcess {
    /// Starts from what the disk holds.
    pub(crate) fn boot(id: u64, plan: &Plan, seed: u64, disk: &CDisk, local: u64) -> CProcess {
        let options = Options {
            id,
            election_ms: plan.election_ms,
            heartbeat_ms: plan.heartbeat_ms,
            seed,
            snapshot_threshold: plan.snapshot_threshold,
            snapshot_trailing: plan.snapshot_trailing,
        };
        CProcess {
            node: CNode::new(options, &disk.durable, local),
            databases: disk.databases.clone(),
            mail: VecDeque::new(),
            conns: BTreeMap::new(),
            next_conn: 1,
            peers: BTreeMap::new(),
            attempts: 0,
            disk_busy: false,
            leads_until: None,
            arriving: None,
        }
    }

    /// Lays an entry's pages over the database, whose size is then what its first page says.
    pub(crate) fn apply(&mut self, entry: &LogEntry) -> Result<(), String> {
        let bytes = entry.payload.to_bytes();
        let command = Command::decode(&bytes).map_err(|error| error.to_string())?;
        let Command::Frames(frames) = command else {
            return Ok(());
        };
        let pages: Vec<(PageNo, Page)> = frames
            .pages()
            .map(|(number, page)| (PageNo(number), Page::copy_from(page)))
            .collect();
        let name = Bytes::copy_from_slice(frames.name);
        let base = self.databases.get(&name).cloned();
        let base = base.unwrap_or_else(|| Version::empty(0));
        let first = pages.iter().rfind(|(number, _)| number.0 == 1);
        let size = first.and_then(|(_, page)| page.bytes()[28..32].try_into().ok());
        let size = size.map_or(base.page_count(), |size| u32::from_be_bytes(size).max(1));
        self.databases.insert(name, base.successor(0, &pages, size));
        Ok(())
    }
}

/// The bytes of a snapshot, with some pages in a WAL part, as releases before 1.17 write them. What the
/// pages before it hold in their place nobody may look at.
pub(crate) fn encode_snapshot(databases: &Databases, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_snapshot_head(&mut bytes, databases.len() as u64);
    for (name, version) in databases {
        let count = version.page_count();
        let in_wal = |number: u32, first: u32| number >= first;
        let first = count + 1 - rng.below(4).min(u64::from(count)) as u32;
        let mut wal = Vec::new();
        if first <= count {
            wal.resize(32, 0);
            for (number, page) in (1..)
                .zip(version.pages())
                .filter(|(n, _)| in_wal(*n, first))
            {
                let commit = if number == count { count } else { 0 };
                wal.extend_from_slice(&number.to_be_bytes());
                wal.extend_from_slice(&commit.to_be_bytes());
                wal.extend_from_slice(&[0; 16]);
                wal.extend_from_slice(page.bytes());
            }
        }
        encode_database_head(
            &mut bytes,
            &DatabaseHead {
                name,
                main_size: u64::from(count) * PAGE_SIZE as u64,
                wal_size: wal.len() as u64,
            },
        );
        for (number, page) in (1..).zip(version.pages()) {
            match in_wal(number, first) {
                true => bytes.extend_from_slice(&[0xee; PAGE_SIZE]),
                false => bytes.extend_from_slice(page.bytes()),
            }
        }
        bytes.extend_from_slice(&wal);
    }
    bytes
}

/// The databases of a snapshot.
pub(crate) fn decode_snapshot(bytes: &[u8]) -> Result<Databases, String> {
    let images = fsm::read_snapshot(&mut &bytes[..]).map_err(|error| error.to_string())?;
    let versions = images.into_iter();
    Ok(versions
        .map(|(name, pages)| (name, Version::from_pages(0, pages)))
        .collect())
}
