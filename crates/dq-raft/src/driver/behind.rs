//! Followers that are so far behind that what they need is on disk only.
//!
//! The log in memory refuses raft-rs such entries and notes where they begin. Here that becomes a
//! request to read as many as fit in one message; when they come, raft-rs is asked to send again,
//! finds them, and they are let go of. Nothing waits meanwhile: heartbeats to the follower leave as
//! ever, and so does everything for the others.
//!
//! ```text
//!   raft-rs: entries(low)? ──▶ not here ──▶ Effect::ReadLog ──▶ somebody reads ──▶ Driver::log_read
//!        ▲                                                                           │
//!        └──────────── send_append(peer), for whoever still stands at low ◀──────────┘
//! ```
//!
//! How fast this goes is the follower's to say: no more than [`WINDOW_BYTES`] are under way to it, and
//! each of its answers makes raft-rs ask for what comes next.

use raft::ProgressState;

use super::{Driver, Effect};
use crate::mutants::{Mutant, is_broken};
use crate::types::{LogEntry, LogRange};

/// Bytes sent to a follower and not acknowledged above which no more is read for it.
const WINDOW_BYTES: u64 = 8 << 20;

impl Driver {
    /// Asks for what raft-rs wanted to send and did not find in memory.
    pub(super) fn read_for_followers(&mut self) {
        let wanted = self.raw.store().take_wanted();
        let Some(epoch) = self.epoch else { return };
        for first in wanted {
            let prs = self.raw.raft.prs();
            let many = self.reads.len() >= prs.iter().len();
            if many || self.reads.contains_key(&first) || self.waiting_at(first).is_empty() {
                continue;
            }
            if let Some(last) = self.raw.store().last_to_read(first) {
                self.reads.insert(first, last);
                let term = epoch.term;
                self.effects
                    .push(Effect::ReadLog(LogRange { term, first, last }));
            }
        }
    }

    /// The followers that are to be sent the entry at `first` next and have room for it, ascending.
    fn waiting_at(&self, first: u64) -> Vec<u64> {
        let store = self.raw.store();
        let mut ids: Vec<u64> = self
            .raw
            .raft
            .prs()
            .iter()
            .filter(|(_, progress)| progress.next_idx == first && !progress.is_paused())
            .filter(|(_, progress)| match progress.state {
                ProgressState::Probe => true,
                ProgressState::Snapshot => false,
                ProgressState::Replicate => {
                    let under_way = store.bytes_between(progress.matched + 1, first - 1);
                    under_way < WINDOW_BYTES
                }
            })
            .map(|(&id, _)| id)
            .collect();
        ids.sort_unstable();
        ids
    }

    /// The entries of an [`Effect::ReadLog`] have been read, or cannot be. In the latter case the
    /// followers that need them get a snapshot.
    pub fn log_read(&mut self, now_ms: u64, range: LogRange, entries: Option<Vec<LogEntry>>) {
        if self.failed {
            return;
        }
        self.advance_to(now_ms);
        let current = self.epoch.is_some_and(|epoch| epoch.term == range.term);
        if !current || self.reads.remove(&range.first) != Some(range.last) {
            self.drain();
            return;
        }
        let waiting = self.waiting_at(range.first);
        let whole = |entries: &Vec<LogEntry>| {
            let indexes = entries.iter().map(|entry| entry.index);
            indexes.eq(range.first..=range.last)
        };
        let entries = entries.filter(whole);
        let store = self.raw.mut_store();
        let lent = entries.is_some_and(|entries| store.lend(entries));
        // If they have been compacted meanwhile it is no wonder that they cannot be read.
        if !lent && store.term_at(range.first).is_some() {
            ::log::error!(
                "node {}: entries {} to {} cannot be read back",
                self.options.id,
                range.first,
                range.last
            );
            store.set_unreadable(range.last);
        }
        for id in waiting {
            self.send_on(id);
        }
        self.drain();
        self.raw.mut_store().reclaim(range.first, range.last);
    }

    /// Lets raft-rs send what it can to a follower.
    fn send_on(&mut self, id: u64) {
        let at = |driver: &Driver| {
            let progress = driver.raw.raft.prs().get(id)?;
            let streams = progress.state == ProgressState::Replicate && !progress.is_paused();
            Some((progress.next_idx, streams))
        };
        let last = self.raw.raft.raft_log.last_index();
        let mut before = at(self);
        while let Some((next, _)) = before {
            self.call(|raw| raw.raft.send_append(id));
            before = at(self).filter(|now| now.1 && now.0 > next && now.0 <= last);
        }
    }

    /// Lets go of the bytes of old entries that are applied and safe on disk.
    pub(super) fn evict(&mut self) {
        let limit = match is_broken(Mutant::EvictAboveApplied) {
            true => self.last_index(),
            false => self.evictable(),
        };
        let bytes_max = self.options.log_bytes_max;
        self.raw.mut_store().evict(limit, bytes_max);
    }

    /// The last entry that is applied and safe on disk.
    pub(super) fn evictable(&self) -> u64 {
        let touched = self.pending.iter().filter_map(|p| p.touches).min();
        let durable = touched.map_or(u64::MAX, |index| index.saturating_sub(1));
        self.applied_index().min(durable)
    }
}
