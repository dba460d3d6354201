//! The raft log in memory: every entry once, keyed by its position.
//!
//! raft-rs copies entries per follower, per `Ready` and per apply. So what it holds of an entry is
//! a *handle*, index and term and one byte for the kind, and the bytes live here, shared:
//!
//! ```text
//!   base            entries                                   last
//!    |  +------------------------------------------------------+
//!    v  v                                                      v
//!   [4] 5 6 7 8 9 10 11 12                 13 14               14
//!    ^          ^                           ^
//!    |          snapshot.index (on disk)    staged: given to raft-rs, not yet through a Ready
//!    its term is known, its bytes are gone
//! ```
//!
//! Invariants:
//! - `entries` is contiguous from `base.index + 1`; `term(base.index)` is always known. raft-rs
//!   panics when the term of the entry before the first one is not.
//! - `base.index` never passes the newest snapshot, nor what has been applied: raft-rs asks for
//!   everything from the applied index on, synchronously.
//! - What a leader sends reaches at least the first entry of its term (`send_floor`). A follower
//!   that accepts such a message holds nothing of another leader after it, so whatever last index
//!   it reports is a real match.
//!
//! Left out: the files. Whoever writes them gets its entries from the driver's effects.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{ConfState, Entry, Snapshot};
use raft::storage::{GetEntriesContext, RaftState, Storage};
use raft::{Error, StorageError};

use crate::types::{LogEntry, Payload, SnapshotMeta};
use dq_wire::EntryKind;

/// Aim for the bytes of one AppendEntries to a follower that lags.
const CHUNK_BYTES: u64 = 1 << 20;

/// Most bytes that one AppendEntries is stretched to for reaching the first entry of the term;
/// beyond them the follower gets a snapshot. dqlite closes connections over 500 MiB.
const STRETCH_BYTES: u64 = 64 << 20;

/// Most entries that fit in one AppendEntries: its header is at most 4 MiB, 16 bytes each.
const MESSAGE_ENTRIES: u64 = 262_141;

/// What an entry costs besides its bytes.
const ENTRY_OVERHEAD: u64 = 64;

/// A position in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct EntryId {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// How much of the log to keep before a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailing {
    /// Entries to keep, on disk and in memory.
    pub entries: u64,
    /// Bytes of them to keep in memory, at most.
    pub bytes: u64,
}

/// See the [module documentation](self).
pub(crate) struct LogCache {
    base: EntryId,
    entries: VecDeque<LogEntry>,
    bytes: u64,
    staged: BTreeMap<EntryId, (EntryKind, Payload)>,
    snapshot: Option<SnapshotMeta>,
    initial: RaftState,
    send_floor: u64,
    snapshot_wanted: Cell<bool>,
}

impl LogCache {
    /// The log as it was on disk; `entries` are contiguous, not behind `snapshot`, and begin
    /// somewhere up to the entry after it.
    ///
    /// With trailing entries from `a` on, the term of `a - 1` is unknown: then entry `a` is kept
    /// for its term only.
    pub(crate) fn new(snapshot: Option<SnapshotMeta>, entries: Vec<LogEntry>) -> LogCache {
        let at_snapshot = snapshot
            .as_ref()
            .map_or(EntryId::default(), SnapshotMeta::id);
        let mut entries = VecDeque::from(entries);
        let base = match entries.front() {
            Some(first) if first.index <= at_snapshot.index && first.index > 1 => {
                let first = entries.pop_front().expect("just looked at");
                EntryId {
                    index: first.index,
                    term: first.term,
                }
            }
            Some(first) if first.index == 1 => EntryId::default(),
            _ => at_snapshot,
        };
        let bytes = entries.iter().map(cost).sum();
        LogCache {
            base,
            entries,
            bytes,
            staged: BTreeMap::new(),
            snapshot,
            initial: RaftState::default(),
            send_floor: 0,
            snapshot_wanted: Cell::new(false),
        }
    }

    /// What raft-rs reads once, when it is made.
    pub(crate) fn set_initial(&mut self, initial: RaftState) {
        self.initial = initial;
    }

    /// The first entry of our term while we lead, else 0: what is sent reaches it.
    pub(crate) fn set_send_floor(&mut self, index: u64) {
        self.send_floor = index;
    }

    /// True once after a follower needed a snapshot that does not exist yet.
    pub(crate) fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take()
    }

    /// The newest snapshot on disk.
    pub(crate) fn newest_snapshot(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref()
    }

    /// The last index, that of the base if there are no entries.
    pub(crate) fn last(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    /// Bytes held, payloads and bookkeeping.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The term at `index`, if it is known.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            Some(self.base.term)
        } else {
            self.get(index).map(|e| e.term)
        }
    }

    /// The entry at `index`.
    pub(crate) fn get(&self, index: u64) -> Option<&LogEntry> {
        let offset = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// All entries, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &LogEntry> {
        self.entries.iter()
    }

    /// Keeps the bytes of an entry that raft-rs is about to be given.
    pub(crate) fn stage(&mut self, at: EntryId, kind: EntryKind, payload: Payload) {
        self.staged.insert(at, (kind, payload));
    }

    /// Forgets what was staged and not taken: raft-rs had it already, or refused it.
    pub(crate) fn unstage(&mut self) {
        self.staged.clear();
    }

    /// An entry that raft-rs hands out for storing, with its bytes. `None` for a position that
    /// nobody staged, which the driver's way of working excludes.
    pub(crate) fn unstaged(&mut self, entry: &Entry) -> Option<LogEntry> {
        let at = EntryId {
            index: entry.index,
            term: entry.term,
        };
        let (kind, payload) = match self.staged.remove(&at) {
            Some(staged) => staged,
            // raft-rs makes one entry by itself, the first of a term.
            None if entry.context.is_empty() => (EntryKind::Barrier, barrier_payload()),
            None => {
                let have = self.get(at.index).filter(|have| have.term == at.term)?;
                (have.kind, have.payload.clone())
            }
        };
        Some(LogEntry {
            index: at.index,
            term: at.term,
            kind,
            payload,
        })
    }

    /// Appends entries, contiguous among themselves, cutting what they replace. Returns the first
    /// index that was removed for it.
    pub(crate) fn append(&mut self, new: &[LogEntry]) -> Option<u64> {
        let first = new.first()?.index;
        assert!(
            first > self.base.index,
            "an entry is never replaced below the base"
        );
        assert!(
            first <= self.last() + 1,
            "entries are appended without a gap"
        );
        let truncated = (first <= self.last()).then_some(first);
        while self.last() >= first {
            let old = self.entries.pop_back().expect("last() counts it");
            self.bytes -= cost(&old);
        }
        for entry in new {
            debug_assert_eq!(entry.index, self.last() + 1);
            self.bytes += cost(entry);
            self.entries.push_back(entry.clone());
        }
        truncated
    }

    /// Goes on after an installed snapshot, without any entry.
    pub(crate) fn restore(&mut self, meta: SnapshotMeta) {
        self.base = meta.id();
        self.entries.clear();
        self.bytes = 0;
        self.snapshot = Some(meta);
    }

    /// A snapshot of our own is on disk. Entries up to it are dropped, but for `trailing`, but for
    /// those after `needed` (what a live follower still lacks) while the whole fits in
    /// `bytes_max`.
    pub(crate) fn compact(
        &mut self,
        meta: SnapshotMeta,
        trailing: Trailing,
        needed: Option<u64>,
        bytes_max: u64,
    ) {
        if self.term_at(meta.index) != Some(meta.term) {
            return; // superseded by an installed snapshot
        }
        if self
            .snapshot
            .as_ref()
            .is_some_and(|newest| newest.index > meta.index)
        {
            return;
        }
        let mut keep_after = meta.index.saturating_sub(trailing.entries);
        let mut kept: u64 = self
            .iter()
            .filter(|e| e.index <= meta.index)
            .map(cost)
            .sum();
        for entry in self.iter().take_while(|e| e.index <= meta.index) {
            if entry.index > keep_after && kept <= trailing.bytes {
                break;
            }
            kept -= cost(entry);
            keep_after = keep_after.max(entry.index);
        }
        let keep_after = needed.map_or(keep_after, |needed| needed.min(keep_after));
        while self.base.index < keep_after {
            self.drop_first();
        }
        self.snapshot = Some(meta);
        self.trim(bytes_max);
    }

    /// Drops entries that the snapshot covers until the log fits in `bytes_max`, if it can.
    pub(crate) fn trim(&mut self, bytes_max: u64) {
        let covered = self.snapshot.as_ref().map_or(0, |meta| meta.index);
        while self.bytes > bytes_max && self.base.index < covered {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        let first = self
            .entries
            .pop_front()
            .expect("the base is below a snapshot of this log");
        self.bytes -= cost(&first);
        self.base = EntryId {
            index: first.index,
            term: first.term,
        };
    }

    /// Bytes of the entries `low..=high` on the wire.
    fn bytes_between(&self, low: u64, high: u64) -> u64 {
        (low..=high)
            .filter_map(|i| self.get(i))
            .map(|e| 16 + e.payload.len() as u64)
            .sum()
    }

    /// True if a follower can go from a snapshot at `index` to the present.
    fn reaches_floor_from(&self, index: u64) -> bool {
        let floor = self.send_floor.min(self.last());
        index >= self.base.index
            && floor.saturating_sub(index) <= MESSAGE_ENTRIES
            && self.bytes_between(index + 1, floor) <= STRETCH_BYTES
    }
}

impl Storage for LogCache {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let sending = context.can_async();
        let floor = self.send_floor.min(high - 1);
        if sending && low <= floor && !self.reaches_floor_from(low - 1) {
            return Err(Error::Store(StorageError::Compacted));
        }
        let limit = if sending {
            Some(CHUNK_BYTES)
        } else {
            max_size.into()
        };
        let mut size = 0;
        let mut found = Vec::new();
        for index in low..high {
            let Some(entry) = self.get(index) else { break };
            size += if sending {
                16 + entry.payload.len() as u64
            } else {
                16
            };
            let over = limit.is_some_and(|limit| size > limit)
                || (sending && found.len() as u64 >= MESSAGE_ENTRIES);
            if over && !found.is_empty() && !(sending && index <= floor) {
                break;
            }
            found.push(handle(entry));
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.term_at(index) {
            Some(term) => Ok(term),
            None if index < self.base.index => Err(Error::Store(StorageError::Compacted)),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let usable = self.snapshot.as_ref().filter(|meta| {
            meta.index >= request_index.max(1) && self.reaches_floor_from(meta.index)
        });
        let Some(meta) = usable else {
            self.snapshot_wanted.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        };
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = meta.index;
        metadata.term = meta.term;
        // Never looked at: the translator sends the configuration of `meta`, and a receiver makes
        // its own ConfState from that. raft-rs only wants it to be there.
        metadata.set_conf_state(ConfState::default());
        Ok(snapshot)
    }
}

impl SnapshotMeta {
    fn id(&self) -> EntryId {
        EntryId {
            index: self.index,
            term: self.term,
        }
    }
}

/// What raft-rs holds of an entry.
pub(crate) fn handle(entry: &LogEntry) -> Entry {
    Entry {
        index: entry.index,
        term: entry.term,
        context: vec![entry.kind as u8],
        ..Entry::default()
    }
}

/// The bytes of a barrier: one zero word, as C dqlite writes it.
pub(crate) fn barrier_payload() -> Payload {
    Payload::from(bytes::Bytes::from_static(&[0; 8]))
}

fn cost(entry: &LogEntry) -> u64 {
    entry.payload.len() as u64 + ENTRY_OVERHEAD
}
