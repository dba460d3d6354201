//! The log in memory: what lies behind the newest snapshot, and some entries before that.

use std::collections::VecDeque;

use crate::types::LogEntry;

#[derive(Debug)]
pub(super) struct Log {
    /// Index of the entry before the first one here.
    offset: u64,
    entries: VecDeque<LogEntry>,
    /// Index and term of the newest snapshot's last entry; zeros without one.
    pub(super) snapshot: (u64, u64),
}

impl Log {
    pub(super) fn new(snapshot: (u64, u64), entries: &[LogEntry]) -> Log {
        Log {
            offset: entries.first().map_or(snapshot.0, |first| first.index - 1),
            entries: entries.iter().cloned().collect(),
            snapshot,
        }
    }

    pub(super) fn last(&self) -> u64 {
        self.offset + self.entries.len() as u64
    }

    pub(super) fn last_term(&self) -> u64 {
        self.term_of(self.last()).unwrap_or(0)
    }

    pub(super) fn entry(&self, index: u64) -> Option<&LogEntry> {
        let position = index.checked_sub(self.offset + 1)?;
        self.entries.get(usize::try_from(position).ok()?)
    }

    /// `None` for what is not here, which 0 is not either.
    pub(super) fn term_of(&self, index: u64) -> Option<u64> {
        if index > 0 && index == self.snapshot.0 {
            return Some(self.snapshot.1);
        }
        self.entry(index).map(|entry| entry.term)
    }

    pub(super) fn append(&mut self, entry: LogEntry) {
        self.entries.push_back(entry);
    }

    pub(super) fn truncate(&mut self, from: u64) {
        let kept = from.saturating_sub(self.offset + 1);
        self.entries
            .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
    }

    /// All entries from this index on.
    pub(super) fn tail(&self, from: u64) -> Vec<LogEntry> {
        (from..=self.last())
            .filter_map(|index| self.entry(index))
            .cloned()
            .collect()
    }

    /// A snapshot was taken: the entries before the trailing ones go.
    pub(super) fn snapshot_taken(&mut self, index: u64, term: u64, trailing: u64) {
        self.snapshot = (index, term);
        while self.offset + trailing < index && self.entries.pop_front().is_some() {
            self.offset += 1;
        }
    }

    /// A snapshot takes the place of everything.
    pub(super) fn restore(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.offset = index;
        self.snapshot = (index, term);
    }
}
