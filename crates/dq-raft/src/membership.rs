//! Which configuration is in effect, and how raft-rs learns of it.
//!
//! dqlite's rule, unlike the one of most users of raft-rs: a configuration takes effect when its
//! CHANGE entry is *appended*, and is rolled back if that entry is cut off. The commit index is not
//! stored, so a node that acted on commit would come back from a restart with the configuration of
//! its last snapshot, perhaps several changes behind, and two such nodes might form a majority
//! that does not intersect the present one.
//!
//! ```text
//!   committed (index 1)    uncommitted (index 7)      effective() = the last one
//!        |                      |
//!   log: 1 2 3 4 5 6            7 8 9
//!                    commit(7) promotes it; rollback(7) forgets it
//! ```
//!
//! A follower acts when it appends rather than when the entry is durable: it asks for its
//! configuration only to campaign, and it never campaigns while disk work is outstanding.
//!
//! raft-rs knows voters and learners. Standbys are learners; spares are not in its tracker at all
//! and get nothing. A node that is in no role in the tracker is a learner to itself: raft-rs
//! expects to find itself there.

use dq_wire::{Configuration, Role};
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState};

/// The configurations of a log: the committed one and those after it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Membership {
    committed: Configuration,
    committed_index: u64,
    /// Ascending by index. More than one only while catching up: a leader appends a CHANGE when the
    /// one before it is committed.
    uncommitted: Vec<(u64, Configuration)>,
}

impl Membership {
    /// Starts from a committed configuration.
    pub(crate) fn new(committed: Configuration, committed_index: u64) -> Membership {
        Membership {
            committed,
            committed_index,
            uncommitted: Vec::new(),
        }
    }

    /// The configuration in effect, and the index of the entry that brought it.
    pub(crate) fn effective(&self) -> (&Configuration, u64) {
        match self.uncommitted.last() {
            Some((index, configuration)) => (configuration, *index),
            None => (&self.committed, self.committed_index),
        }
    }

    /// The last committed configuration that has been applied, and its index.
    pub(crate) fn committed(&self) -> (&Configuration, u64) {
        (&self.committed, self.committed_index)
    }

    /// True while a CHANGE is in the log and not known to be committed.
    pub(crate) fn is_changing(&self) -> bool {
        !self.uncommitted.is_empty()
    }

    /// A CHANGE was appended.
    pub(crate) fn append(&mut self, index: u64, configuration: Configuration) {
        debug_assert!(self.effective().1 < index, "CHANGE entries come in order");
        self.uncommitted.push((index, configuration));
    }

    /// Entries from `from` on were cut off. True if that changed what is in effect.
    pub(crate) fn rollback(&mut self, from: u64) -> bool {
        let before = self.uncommitted.len();
        self.uncommitted.retain(|(index, _)| *index < from);
        self.uncommitted.len() != before
    }

    /// The CHANGE at `index` is committed.
    pub(crate) fn commit(&mut self, index: u64) {
        while self
            .uncommitted
            .first()
            .is_some_and(|(first, _)| *first <= index)
        {
            (self.committed_index, self.committed) = self.uncommitted.remove(0);
        }
    }
}

/// What raft-rs's tracker should hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TrackerTarget {
    /// Ascending ids of the voters.
    pub(crate) voters: Vec<u64>,
    /// Ascending ids of the learners.
    pub(crate) learners: Vec<u64>,
}

impl TrackerTarget {
    /// The tracker for `configuration` at node `id`, while `promoting` (a standby or spare that is
    /// catching up to become voter) gets entries. Without any voter the tracker stays empty:
    /// raft-rs refuses learners then.
    pub(crate) fn new(configuration: &Configuration, id: u64, promoting: Option<u64>) -> Self {
        let with = |role| {
            configuration
                .servers
                .iter()
                .filter(move |s| s.role == role)
                .map(|server| server.id)
        };
        let mut voters: Vec<u64> = with(Role::Voter).collect();
        if voters.is_empty() {
            return TrackerTarget::default();
        }
        let mut learners: Vec<u64> = with(Role::Standby).chain(promoting).chain([id]).collect();
        voters.sort_unstable();
        learners.retain(|id| !voters.contains(id));
        learners.sort_unstable();
        learners.dedup();
        TrackerTarget { voters, learners }
    }

    /// The same for raft-rs.
    pub(crate) fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            ..ConfState::default()
        }
    }

    /// The changes that lead from `self` to `target`, one at a time: several in one would make
    /// raft-rs enter joint consensus. Voters are added before any is taken away, so that there is
    /// always one.
    pub(crate) fn changes_to(&self, target: &TrackerTarget) -> Vec<ConfChange> {
        let mut changes = Vec::new();
        let mut push = |id: u64, kind: ConfChangeType| {
            let mut change = ConfChange {
                node_id: id,
                ..ConfChange::default()
            };
            change.set_change_type(kind);
            changes.push(change);
        };
        if target.voters.is_empty() {
            return changes;
        }
        for id in target.voters.iter().filter(|id| !self.voters.contains(id)) {
            push(*id, ConfChangeType::AddNode);
        }
        for id in target
            .learners
            .iter()
            .filter(|id| !self.learners.contains(id))
        {
            push(*id, ConfChangeType::AddLearnerNode);
        }
        for id in self.voters.iter().chain(&self.learners) {
            if !target.voters.contains(id) && !target.learners.contains(id) {
                push(*id, ConfChangeType::RemoveNode);
            }
        }
        changes
    }
}
