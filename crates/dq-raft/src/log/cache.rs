//! The raft log in memory: every position of it, and the bytes of the newest entries.
//!
//! raft-rs copies entries per follower, per `Ready` and per apply. So what it holds of an entry is
//! a *handle*, index and term and one byte for the kind, and the bytes live here, shared. Those of
//! entries that are applied, and durable, are let go of when they take too much room; what is left
//! of such an entry is its term, its kind and its size:
//!
//! ```text
//!   base       bytes on disk only    bytes in memory                 last
//!    |  +-----------------------+--------------------------------------+
//!    v  v                       |                                      v
//!   [4] 5 6 7 8 9 10 11 12 ...  | 40 41 42 43 44         45 46         46
//!    ^          ^               ^            ^           ^
//!    |          snapshot.index  resident     applied     staged: given to raft-rs, not yet
//!    its term is known, its bytes are gone                       through a Ready
//! ```
//!
//! A follower that lags behind `resident` is served from the disk. raft-rs asks for entries and is
//! told that they are not there yet; [`take_wanted`](LogCache::take_wanted) says which, somebody
//! reads them, [`lend`](LogCache::lend) puts their bytes in place, raft-rs asks again and the message
//! is made, and [`reclaim`](LogCache::reclaim) lets go of them again. So of a whole log no more than a
//! message for each such follower is in memory at a time.
//!
//! Invariants:
//! - `entries` is contiguous from `base.index + 1`; `term(base.index)` is always known. raft-rs
//!   panics when the term of the entry before the first one is not.
//! - `base.index` never passes the newest snapshot. `resident - 1` never passes what has been
//!   applied, nor what is durable: raft-rs hands out everything from the applied index on,
//!   synchronously.
//! - What a leader sends reaches at least the first entry of its term (`send_floor`). A follower
//!   that accepts such a message holds nothing of another leader after it, so whatever last index
//!   it reports is a real match.
//!
//! Left out: the files. Whoever writes them gets its entries from the driver's effects, and whoever
//! reads them gets a range of positions.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use raft::eraftpb::{ConfState, Entry, Snapshot};
use raft::storage::{GetEntriesContext, RaftState, Storage};
use raft::{Error, StorageError};

use crate::mutants::{Mutant, is_broken};
use crate::types::{LogEntry, Payload, SnapshotMeta};
use dq_wire::EntryKind;

/// Aim for the bytes of one AppendEntries to a follower that lags.
const CHUNK_BYTES: u64 = 1 << 20;

/// Most bytes that one AppendEntries is stretched to for reaching the first entry of the term;
/// beyond them the follower gets a snapshot. dqlite closes connections over 500 MiB.
const STRETCH_BYTES: u64 = 64 << 20;

/// Most entries that fit in one AppendEntries: its header is at most 4 MiB, 16 bytes each.
const MESSAGE_ENTRIES: u64 = 262_141;

/// A position in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct EntryId {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// How much of the log to keep before a snapshot, for followers that lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailing {
    /// Entries to keep; more if a follower that is alive lacks them.
    pub entries: u64,
    /// Bytes of them to keep at most, whoever lacks them: beyond this a snapshot is less work.
    pub bytes: u64,
}

/// One entry of the log.
#[derive(Debug)]
struct Slot {
    term: u64,
    kind: EntryKind,
    /// Length of the payload in bytes.
    size: u64,
    /// Bytes on the wire of all entries up to this one, from an arbitrary beginning.
    end: u64,
    /// `None` if it is on disk only.
    payload: Option<Payload>,
}

/// See the [module documentation](self).
pub(crate) struct LogCache {
    base: EntryId,
    entries: VecDeque<Slot>,
    /// The `end` of the base.
    base_end: u64,
    /// All entries from this index on have their bytes here.
    resident: u64,
    /// Bytes of payloads held, but for those that are lent.
    payload_bytes: u64,
    staged: BTreeMap<EntryId, (EntryKind, Payload)>,
    snapshot: Option<SnapshotMeta>,
    initial: RaftState,
    send_floor: u64,
    snapshot_wanted: Cell<bool>,
    /// Where reading from disk is to begin, for followers that lag.
    wanted: RefCell<BTreeSet<u64>>,
    /// Entries up to here could not be read back: they are as good as compacted.
    unreadable: u64,
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
            Some(first) if is_broken(Mutant::FirstTermUnknown) && first.index > 1 => EntryId {
                index: first.index - 1,
                term: first.term,
            },
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
        let mut cache = LogCache {
            base,
            entries: VecDeque::with_capacity(entries.len()),
            base_end: 0,
            resident: base.index + 1,
            payload_bytes: 0,
            staged: BTreeMap::new(),
            snapshot,
            initial: RaftState::default(),
            send_floor: 0,
            snapshot_wanted: Cell::new(false),
            wanted: RefCell::default(),
            unreadable: 0,
        };
        for entry in &entries {
            cache.push(entry);
        }
        cache
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

    /// Where followers are to whom nothing could be sent because it is on disk only.
    pub(crate) fn take_wanted(&self) -> BTreeSet<u64> {
        self.wanted.take()
    }

    /// The newest snapshot on disk.
    pub(crate) fn newest_snapshot(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref()
    }

    /// The index behind which the entries begin.
    pub(crate) fn base(&self) -> u64 {
        self.base.index
    }

    /// The last index, that of the base if there are no entries.
    pub(crate) fn last(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    /// Bytes held, payloads and bookkeeping.
    pub(crate) fn bytes(&self) -> u64 {
        self.payload_bytes + (self.entries.len() * size_of::<Slot>()) as u64
    }

    /// Bytes of payloads held.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Entries given to raft-rs that have not come through a `Ready`.
    pub(crate) fn staged(&self) -> usize {
        self.staged.len()
    }

    /// The term at `index`, if it is known.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            Some(self.base.term)
        } else {
            self.slot(index).map(|slot| slot.term)
        }
    }

    /// The entry at `index`, if its bytes are in memory.
    pub(crate) fn get(&self, index: u64) -> Option<LogEntry> {
        let slot = self.slot(index)?;
        Some(LogEntry {
            index,
            term: slot.term,
            kind: slot.kind,
            payload: slot.payload.clone()?,
        })
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.entries.get(self.position(index)?)
    }

    fn position(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.base.index + 1)?).ok()
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
                (have.kind, have.payload)
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
            first >= self.resident,
            "what is applied, and all that is on disk only, is never replaced"
        );
        assert!(
            first <= self.last() + 1,
            "entries are appended without a gap"
        );
        let truncated = (first <= self.last()).then_some(first);
        while self.last() >= first {
            let old = self.entries.pop_back().expect("last() counts it");
            self.payload_bytes -= old.size;
        }
        for entry in new {
            debug_assert_eq!(entry.index, self.last() + 1);
            self.push(entry);
        }
        truncated
    }

    fn push(&mut self, entry: &LogEntry) {
        let size = entry.payload.len() as u64;
        let before = self.entries.back().map_or(self.base_end, |slot| slot.end);
        self.payload_bytes += size;
        self.entries.push_back(Slot {
            term: entry.term,
            kind: entry.kind,
            size,
            end: before + ENTRY_HEADER + size,
            payload: Some(entry.payload.clone()),
        });
    }

    /// Goes on after an installed snapshot, without any entry.
    pub(crate) fn restore(&mut self, meta: SnapshotMeta) {
        self.base = meta.id();
        self.entries.clear();
        self.base_end = 0;
        self.resident = self.base.index + 1;
        self.payload_bytes = 0;
        self.snapshot = Some(meta);
    }

    /// A snapshot of our own is on disk. Entries up to it are dropped, but for `trailing` and those
    /// after `needed`, which a live follower still lacks. Returns the index behind which entries are
    /// kept; `None` if an installed snapshot is newer.
    pub(crate) fn compact(
        &mut self,
        meta: SnapshotMeta,
        trailing: Trailing,
        needed: Option<u64>,
    ) -> Option<u64> {
        let newer = |newest: &SnapshotMeta| newest.index > meta.index;
        if self.term_at(meta.index) != Some(meta.term) || self.snapshot.as_ref().is_some_and(newer)
        {
            return None;
        }
        let by_count = meta.index.saturating_sub(trailing.entries);
        let keep_after = needed.map_or(by_count, |needed| needed.min(by_count));
        while self.base.index < keep_after
            || self.base.index < meta.index
                && self.bytes_between(self.base.index + 1, meta.index) > trailing.bytes
        {
            self.drop_first();
        }
        self.snapshot = Some(meta);
        Some(self.base.index)
    }

    fn drop_first(&mut self) {
        let first = self
            .entries
            .pop_front()
            .expect("the base is below a snapshot of this log");
        self.base = EntryId {
            index: self.base.index + 1,
            term: first.term,
        };
        self.base_end = first.end;
        if self.resident <= self.base.index {
            self.payload_bytes -= first.size;
            self.resident = self.base.index + 1;
        }
    }

    /// Lets go of the bytes of the oldest entries, which are durable and applied up to `limit`, until
    /// those of the others take no more than `bytes_max`.
    pub(crate) fn evict(&mut self, limit: u64, bytes_max: u64) {
        let keeps = is_broken(Mutant::KeepAllEntries);
        while self.payload_bytes > bytes_max && self.resident <= limit && !keeps {
            let Some(position) = self.position(self.resident) else {
                return;
            };
            let Some(slot) = self.entries.get_mut(position) else {
                return;
            };
            slot.payload = None;
            self.payload_bytes -= slot.size;
            self.resident += 1;
        }
    }

    /// The last entry that belongs into one message that begins with the one at `first`, as far as
    /// it has to be read for that; `None` if nothing has to.
    pub(crate) fn last_to_read(&self, first: u64) -> Option<u64> {
        if first <= self.base.index || first >= self.resident {
            return None;
        }
        let floor = self.send_floor.min(self.last());
        let mut last = first;
        while last + 1 < self.resident
            && last + 1 - first < MESSAGE_ENTRIES
            && (last < floor || self.bytes_between(first, last + 1) <= CHUNK_BYTES)
        {
            last += 1;
        }
        Some(last)
    }

    /// Puts the bytes of entries in place that were read from disk. False if they are not those of
    /// this log.
    pub(crate) fn lend(&mut self, entries: Vec<LogEntry>) -> bool {
        let ours = entries.iter().all(|entry| {
            self.slot(entry.index).is_some_and(|slot| {
                let same = (slot.term, slot.kind) == (entry.term, entry.kind);
                same && slot.size == entry.payload.len() as u64
            })
        });
        if ours {
            for entry in entries {
                let slot = self.position(entry.index);
                if let Some(slot) = slot.and_then(|at| self.entries.get_mut(at)) {
                    slot.payload.get_or_insert(entry.payload);
                }
            }
        }
        ours
    }

    /// Lets go of lent bytes.
    pub(crate) fn reclaim(&mut self, first: u64, last: u64) {
        for index in first.max(self.base.index + 1)..=last.min(self.resident - 1) {
            let slot = self.position(index);
            if let Some(slot) = slot.and_then(|at| self.entries.get_mut(at)) {
                slot.payload = None;
            }
        }
    }

    /// Entries up to `last` cannot be read back: whoever lacks them gets a snapshot.
    pub(crate) fn set_unreadable(&mut self, last: u64) {
        self.unreadable = self.unreadable.max(last);
    }

    /// Bytes of the entries `low..=high` on the wire.
    pub(crate) fn bytes_between(&self, low: u64, high: u64) -> u64 {
        let end = |index: u64| match self.slot(index.min(self.last())) {
            Some(slot) => slot.end,
            None => self.base_end,
        };
        end(high).saturating_sub(end(low.saturating_sub(1)))
    }

    /// True if a follower can go from a snapshot at `index` to the present.
    fn reaches_floor_from(&self, index: u64) -> bool {
        let floor = self.send_floor.min(self.last());
        index >= self.base.index
            && index >= self.unreadable
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
        let short = is_broken(Mutant::AppendStopsShort);
        if sending && low <= floor.max(self.unreadable) && !self.reaches_floor_from(low - 1) {
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
            let Some(slot) = self.slot(index) else { break };
            if sending && slot.payload.is_none() {
                if found.is_empty() || index <= floor {
                    self.wanted.borrow_mut().insert(low);
                    return Err(Error::Store(StorageError::LogTemporarilyUnavailable));
                }
                break;
            }
            size += ENTRY_HEADER + if sending { slot.size } else { 0 };
            let over = limit.is_some_and(|limit| size > limit)
                || (sending && found.len() as u64 >= MESSAGE_ENTRIES)
                || short;
            if over && !found.is_empty() && !(sending && index <= floor && !short) {
                break;
            }
            found.push(handle(index, slot.term, slot.kind));
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
pub(crate) fn handle(index: u64, term: u64, kind: EntryKind) -> Entry {
    Entry {
        index,
        term,
        context: vec![kind as u8],
        ..Entry::default()
    }
}

/// The bytes of a barrier: one zero word, as C dqlite writes it.
pub(crate) fn barrier_payload() -> Payload {
    Payload::from(bytes::Bytes::from_static(&[0; 8]))
}

/// Bytes of an entry on the wire besides its payload.
const ENTRY_HEADER: u64 = 16;
