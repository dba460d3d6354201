//! What can be asked of a driver.

use dq_wire::{Configuration, Role};
use raft::StateRole;

use super::{Driver, Epoch};

/// What this node does at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaftRole {
    /// Leads.
    Leader,
    /// Follows, or waits for a leader.
    Follower,
    /// Stands for election.
    Candidate,
    /// Asks whether it would be elected.
    PreCandidate,
}

/// What a leader knows of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerProgress {
    /// The peer.
    pub id: u64,
    /// Its log is known to equal ours up to here.
    pub match_index: u64,
    /// What it is sent next.
    pub next_index: u64,
    /// When something was last heard of it, ms; `None` if never.
    pub last_contact_ms: Option<u64>,
}

impl Driver {
    /// This node's id.
    pub fn id(&self) -> u64 {
        self.options.id
    }

    /// What this node does at present.
    pub fn role(&self) -> RaftRole {
        match self.raw.raft.state {
            _ if self.failed => RaftRole::Follower,
            StateRole::Leader => RaftRole::Leader,
            StateRole::Follower => RaftRole::Follower,
            StateRole::Candidate => RaftRole::Candidate,
            StateRole::PreCandidate => RaftRole::PreCandidate,
        }
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// The leader, if one is known, and its address.
    pub fn leader(&self) -> Option<(u64, String)> {
        let id = self.raw.raft.leader_id;
        if id == 0 || self.failed {
            return None;
        }
        let connected = self.addresses.get(&id).filter(|_| id != self.options.id);
        let configured = || Some(&self.configuration().server(id)?.address);
        Some((id, connected.or_else(configured)?.clone()))
    }

    /// The leader's id; 0 if none is known.
    pub fn leader_id(&self) -> u64 {
        match self.failed {
            true => 0,
            false => self.raw.raft.leader_id,
        }
    }

    /// The last index in memory.
    pub fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    /// The index behind which the log begins: entries up to it are in a snapshot only.
    pub fn log_begins_after(&self) -> u64 {
        self.raw.store().base()
    }

    /// The highest index known to be committed.
    pub fn commit_index(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// The highest index that was handed out by [`Effect::Apply`](super::Effect::Apply) or
    /// [`Effect::Restore`](super::Effect::Restore).
    pub fn applied_index(&self) -> u64 {
        self.raw.raft.raft_log.applied
    }

    /// The term of the entry at `index`, while that is known: that of [`Driver::applied_index`] is
    /// unless a leader's snapshot is being installed, when no snapshot should be taken either.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.raw.store().term_at(index)
    }

    /// The leadership of this node, while it lasts.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// How often an epoch began or ended. Equal numbers mean that nothing happened in between.
    pub fn epoch_changes(&self) -> u64 {
        self.epoch_changes
    }

    /// The first index of our term, while we lead.
    pub fn term_start(&self) -> Option<u64> {
        self.epoch.map(|epoch| epoch.first_index)
    }

    /// The configuration in effect: the last one in the log.
    pub fn configuration(&self) -> &Configuration {
        self.membership.effective().0
    }

    /// The last configuration that is committed and applied, and the index of its entry: what
    /// belongs into a snapshot at [`Driver::applied_index`].
    pub fn committed_configuration(&self) -> (&Configuration, u64) {
        self.membership.committed()
    }

    /// True if this node is the only voter of the configuration in effect.
    pub fn is_sole_voter(&self) -> bool {
        let mut voters = self
            .configuration()
            .servers
            .iter()
            .filter(|s| s.role == Role::Voter);
        voters
            .next()
            .is_some_and(|voter| voter.id == self.options.id)
            && voters.next().is_none()
    }

    /// True while leadership is being handed over: nothing can be proposed.
    pub fn transferring(&self) -> bool {
        self.transfer.is_some()
    }

    /// What is known of the peers, while we lead; ascending by id.
    pub fn progress(&self) -> Vec<PeerProgress> {
        let mut peers: Vec<PeerProgress> = Vec::new();
        if self.epoch.is_some() {
            for (&id, progress) in self.raw.raft.prs().iter() {
                if id != self.options.id {
                    peers.push(PeerProgress {
                        id,
                        match_index: progress.matched,
                        next_index: progress.next_idx,
                        last_contact_ms: self.contacts.get(&id).copied(),
                    });
                }
            }
            peers.sort_by_key(|peer| peer.id);
        }
        peers
    }

    /// Bytes of the log in memory.
    pub fn log_bytes(&self) -> u64 {
        self.raw.store().bytes()
    }

    /// The entry at `index`, if it is in memory.
    pub fn entry(&self, index: u64) -> Option<crate::types::LogEntry> {
        self.raw.store().get(index)
    }

    /// Bytes that the entries `first..=last` take in a message, as far as the log has them.
    pub fn entries_bytes(&self, first: u64, last: u64) -> u64 {
        self.raw.store().bytes_between(first, last)
    }
}
