//! A leader's entries and snapshots, and how they reach the disk.

use super::*;
use crate::message::AppendEntries;

impl CNode {
    /// A leader of this term or a newer one has spoken.
    fn recognize(&mut self, from: &PeerId, term: u64) {
        if term > self.term {
            self.bump(term);
        }
        if self.role == RaftRole::Leader {
            return self.shut_down(format!("node {} leads in its own term {term}", from.id));
        }
        if self.role != RaftRole::Follower {
            self.follow();
        }
        if self.transfer.is_some_and(|transfer| transfer.to == from.id) {
            self.transfer = None;
        }
        self.leader = Some(from.clone());
        self.since = self.now;
    }

    pub(super) fn append_received(&mut self, from: &PeerId, append: AppendEntries) {
        let prev = append.prev_index;
        if append.term < self.term {
            return self.answer(from, prev, self.log.last());
        }
        self.recognize(from, append.term);
        if self.unavailable.is_some() || (self.is_busy_installing() && !append.entries.is_empty()) {
            return;
        }
        let found = self.log.term_of(prev);
        if prev > 0 && found != Some(append.prev_term) {
            if found.is_some() && prev <= self.commit {
                return self.shut_down(format!(
                    "its committed entry {prev} is not of term {}",
                    append.prev_term
                ));
            }
            return self.answer(from, prev, self.stored);
        }
        let new = append
            .entries
            .iter()
            .position(|entry| match self.log.term_of(entry.index) {
                Some(term) => term != entry.term,
                // What a snapshot has taken is there as well.
                None => entry.index > self.log.snapshot.0,
            });
        let Some(new) = new else {
            if !self.is_busy_installing() {
                self.commit_up_to(append.leader_commit);
            }
            return self.answer(from, 0, self.stored);
        };
        let mut entries = append.entries;
        entries.drain(..new);
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return;
        };
        let mut ops = Vec::new();
        if self.log.term_of(first).is_some() {
            if first <= self.commit {
                return self.shut_down(format!("its committed entry {first} is to be replaced"));
            }
            self.cut(first);
            ops.push(DiskOp::Truncate { from: first });
        }
        for entry in &entries {
            self.log.append(entry.clone());
        }
        ops.push(DiskOp::Append { entries });
        self.write(first, ops, Some((prev, append.leader_commit)));
    }

    /// Removes entries that are not the leader's.
    fn cut(&mut self, from: u64) {
        self.log.truncate(from);
        self.stored = self.stored.min(from - 1);
        for write in &mut self.writes {
            write.kept = write.kept.min(from - 1);
        }
        self.configuration = self.last_change(self.stored);
    }

    pub(super) fn write(&mut self, first: u64, ops: Vec<DiskOp>, asked: Option<(u64, u64)>) {
        let persist = self.persist(ops);
        self.writes.push_back(Write {
            persist,
            first,
            kept: self.log.last(),
            term: self.term,
            asked,
        });
    }

    fn commit_up_to(&mut self, leader_commit: u64) {
        if leader_commit > self.commit && self.stored >= self.commit {
            self.commit = leader_commit.min(self.stored);
            self.apply();
        }
    }

    /// Disk work is done, and all before it.
    pub fn durable(&mut self, now: u64, persist: u64) {
        self.now = now;
        while self
            .writes
            .front()
            .is_some_and(|write| write.persist <= persist)
        {
            if let Some(write) = self.writes.pop_front() {
                self.stored_entries(&write);
            }
        }
        if self
            .installing
            .as_ref()
            .is_some_and(|installing| installing.persist <= persist)
            && let Some(installing) = self.installing.take()
        {
            self.installed(installing);
        }
    }

    fn stored_entries(&mut self, write: &Write) {
        // Nothing of it is left, or a snapshot is to replace it.
        if write.kept < write.first || self.is_busy_installing() {
            return;
        }
        self.stored = self.stored.max(write.kept);
        let Some((_, commit)) = write.asked else {
            if self.role == RaftRole::Leader {
                self.count(self.stored);
            }
            return self.apply();
        };
        self.configuration = self.last_change(self.stored);
        self.commit_up_to(commit);
        self.apply();
        if write.term == self.term && self.role == RaftRole::Follower {
            self.answer_leader(0);
        }
    }

    fn answer_leader(&mut self, rejected: u64) {
        if let Some(leader) = self.leader.clone() {
            self.answer(&leader, rejected, self.stored);
        }
    }

    /// Disk work has failed, and all entries are lost that were behind it. If it was to install a snapshot,
    /// this node's life has to end.
    pub fn write_failed(&mut self, now: u64, persist: u64) {
        self.now = now;
        while let Some(position) = self.writes.iter().position(|w| w.persist >= persist) {
            let Some(write) = self.writes.remove(position) else {
                return;
            };
            match write.asked {
                Some((prev, _)) => self.answer_leader(prev + 1),
                None if self.role == RaftRole::Leader => self.follow(),
                None => {}
            }
            if write.first <= self.log.last() {
                self.log.truncate(write.first);
                self.configuration = self.last_change(self.log.last());
            }
        }
        if self
            .installing
            .as_ref()
            .is_some_and(|i| i.persist >= persist)
            && let Some(installing) = self.installing.take()
            && installing.term == self.term
        {
            self.answer_leader(installing.meta.index);
        }
    }

    pub(super) fn snapshot_received(&mut self, from: &PeerId, term: u64, meta: SnapshotMeta) {
        if term < self.term {
            return self.answer(from, meta.index, self.log.last());
        }
        self.recognize(from, term);
        // While it writes one itself it does not answer.
        if self.unavailable.is_some() || self.snapshotting || self.installing.is_some() {
            return;
        }
        let found = self.log.term_of(meta.index);
        if self.log.snapshot.0 >= meta.index || found.is_some_and(|found| found >= meta.term) {
            if self.stored >= meta.index {
                self.answer(from, 0, meta.index);
            }
            return;
        }
        self.log.restore(meta.index, meta.term);
        self.stored = 0;
        let persist = self.persist(vec![DiskOp::InstallSnapshot { meta: meta.clone() }]);
        self.installing = Some(Installing {
            persist,
            meta,
            term,
        });
    }

    fn installed(&mut self, installing: Installing) {
        let Installing { meta, term, .. } = installing;
        self.stored = meta.index;
        self.commit = meta.index;
        self.applied = meta.index;
        self.configuration = meta.configuration.clone();
        self.committed = (meta.configuration.clone(), meta.configuration_index);
        self.snapshot = Some(meta.clone());
        self.effects.push(Effect::Restore(meta));
        if term == self.term {
            self.answer_leader(0);
        }
    }
}
