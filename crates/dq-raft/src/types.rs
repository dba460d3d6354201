//! The words that the driver, the disk and the node share.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use dq_wire::Configuration;

pub use dq_wire::EntryKind;

/// The bytes of a log entry, in pieces that are never copied: a FRAMES command is a header piece
/// and one piece per page, each page shared with the database version that it belongs to.
#[derive(Clone, Default)]
pub struct Payload {
    chunks: Arc<[Bytes]>,
    len: usize,
}

impl Payload {
    /// A payload of the given pieces, in order.
    pub fn new(chunks: impl Into<Arc<[Bytes]>>) -> Payload {
        let chunks = chunks.into();
        let len = chunks.iter().map(Bytes::len).sum();
        Payload { chunks, len }
    }

    /// Total length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a payload of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, in order.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// One contiguous buffer: free when there is a single piece, else a copy.
    pub fn to_bytes(&self) -> Bytes {
        match &*self.chunks {
            [] => Bytes::new(),
            [one] => one.clone(),
            many => many.concat().into(),
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload::new([bytes])
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len)
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Payload) -> bool {
        self.len == other.len && self.to_bytes() == other.to_bytes()
    }
}

/// One entry of the raft log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    /// Position in the log, from 1.
    pub index: u64,
    /// Term in which a leader created it.
    pub term: u64,
    /// What it is.
    pub kind: EntryKind,
    /// Its bytes; the length is a multiple of 8.
    pub payload: Payload,
}

/// Consecutive entries that are on disk only, to be read for followers that lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogRange {
    /// The term of the leadership that asks. Within one, nothing on disk is ever replaced.
    pub term: u64,
    /// Index of the first entry.
    pub first: u64,
    /// Index of the last one, inclusive.
    pub last: u64,
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Index of the last entry that it contains.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Breaks ties between snapshots of the same index and term; milliseconds by convention.
    pub timestamp: u64,
    /// The committed configuration as of `index`.
    pub configuration: Configuration,
    /// Index of the entry that brought it.
    pub configuration_index: u64,
}

/// One thing for the disk to do.
#[derive(Debug, Clone, PartialEq)]
pub enum DiskOp {
    /// Make term and vote durable (`metadata1`, `metadata2`); 0 is no vote.
    HardState {
        /// Current term.
        term: u64,
        /// Node voted for in it.
        vote: u64,
    },
    /// Remove all entries from this index on.
    Truncate {
        /// First index to remove.
        from: u64,
    },
    /// Append entries, contiguous with what is there.
    Append {
        /// The entries, in order.
        entries: Vec<LogEntry>,
    },
    /// Drop the whole log and go on after this snapshot, whose files (data and `.meta`) lie in
    /// the directory under their temporary names.
    InstallSnapshot {
        /// The snapshot.
        meta: SnapshotMeta,
    },
    /// After a snapshot of our own: delete closed segments that end before
    /// `snapshot_index - trailing + 1`, and all but the last two snapshots.
    Prune {
        /// Index of the newest snapshot.
        snapshot_index: u64,
        /// Entries to keep before it.
        trailing: u64,
    },
}

/// Disk work, carried out in order of `id`; completed as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Persist {
    /// Ascending, gapless; reported back when everything up to it is durable.
    pub id: u64,
    /// The operations, in order.
    pub ops: Vec<DiskOp>,
}

/// What a data directory held when it was opened.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recovered {
    /// Current term; 0 for a new node.
    pub term: u64,
    /// Vote in it; 0 for none.
    pub vote: u64,
    /// The newest snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// The entries on disk, contiguous; may begin before the snapshot's index.
    pub entries: Vec<LogEntry>,
}
