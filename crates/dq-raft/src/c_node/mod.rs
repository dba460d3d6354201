//! A model of a C dqlite node, for simulations of clusters of both kinds: what its peers see of it, and
//! its disk.
//!
//! It is a function of its inputs, as the [`Driver`](crate::Driver) is, and has the same effects. Its
//! rules were taken from what C dqlite does, not from what raft asks for:
//!
//! - An append that brings nothing new is answered at once, with the last *stored* index, wherever
//!   the append stands; one that does, when its entries are on disk. It is not answered if they were
//!   cut off meanwhile, if the term has moved on, or while a snapshot is being installed.
//! - The commit index becomes `min(leader_commit, last stored)`, not `min(leader_commit, end)`. A conflict
//!   with what it has committed makes it shut down: [`CNode::unavailable`], which nobody may cause.
//! - A refused pre-vote echoes the request's term; nothing is echoed of an append, and nothing promised.
//! - Whoever has a leader refuses to vote, until its own timer fires, without a limit in time.
//! - A candidate that is not elected stands again in the next term without asking first.
//! - A change of the membership is in effect when it is stored, and is taken back when it is cut off.
//! - A leader sends its whole tail always, its commit index with it, and an empty append at its end to a
//!   peer that it has not heard of or that gets a snapshot.
//! - A failed write is answered with the position behind the append's, and its entries are forgotten.
//!
//! Left out is what C dqlite does wrong to itself, for then no cluster with it in it is safe or live
//! whatever the others do:
//!
//! - A sole voter elects itself anew in its old term, and begins it without an entry.
//! - A server that has not stored yet that it was given a vote does not use it, and if those who know
//!   of it need that vote, nobody is ever elected. Here it votes for whoever has a longer log, once it
//!   has not heard its leader for an election timeout.
//! - A node that hands over votes twice in a term.
//! - A leader says that a vote is taken away before its own disk has it; this one takes none away.
//! - Who cuts off a change whose predecessor it does not know to be committed goes two changes back.
//! - A snapshot is acknowledged if entries in memory cover it; entries that were cut off and came back
//!   are counted twice.
//! - An append from the log's beginning that is overtaken by a snapshot is taken for new entries.
//! - A failed installation leaves the log in memory ahead of the disk; here it ends the node.
//!
//! And this model applies only what is on its own disk.
//!
//! As a leader it executes no SQL; it has a client's three wishes, for the simulation's sake: a transfer, a
//! server added, a server given a vote.

mod follow;
mod lead;
mod log;
mod vote;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dq_wire::{Configuration, EntryKind, Role, Server};

use crate::driver::{Effect, Epoch, RaftRole};
use crate::message::{AppendEntriesResult, Message, PeerId};
use crate::types::{DiskOp, LogEntry, Persist, Recovered, SnapshotMeta};
use lead::{Progress, Transfer};
use log::Log;

/// Who a node is, and its times.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Its id.
    pub id: u64,
    /// The shortest election timeout.
    pub election_ms: u64,
    /// The heartbeat interval, which its timer ticks at.
    pub heartbeat_ms: u64,
    /// Makes its election timeouts.
    pub seed: u64,
    /// A snapshot is due so many entries after the last one.
    pub snapshot_threshold: u64,
    /// Entries kept before a snapshot.
    pub snapshot_trailing: u64,
}

/// How long a leader waits for a follower to install a snapshot.
const INSTALL_MS: u64 = 30_000;

/// Entries on their way to the disk.
#[derive(Debug)]
struct Write {
    persist: u64,
    first: u64,
    /// Its last entry, or the last one that was not cut off meanwhile.
    kept: u64,
    term: u64,
    /// The position and the commit index of the append that brought them; nothing if this node made them.
    asked: Option<(u64, u64)>,
}

/// A snapshot on its way to the disk.
#[derive(Debug)]
struct Installing {
    persist: u64,
    meta: SnapshotMeta,
    term: u64,
}

/// The node. Feed it inputs, take the effects after each, carry them out in order.
///
/// Term and vote are to be durable before what a call has to say leaves: C dqlite waits for them.
#[derive(Debug)]
pub struct CNode {
    options: Options,
    /// The current term.
    pub term: u64,
    /// The vote in it; 0 for none.
    pub vote: u64,
    /// What it does at present.
    pub role: RaftRole,
    log: Log,
    /// The last entry that is on disk; 0 while a snapshot is being installed.
    stored: u64,
    commit: u64,
    applied: u64,
    configuration: Configuration,
    /// The last configuration that is known to be committed, and its entry's index.
    committed: (Configuration, u64),
    /// The newest snapshot.
    snapshot: Option<SnapshotMeta>,
    /// A snapshot of its own is being written.
    snapshotting: bool,
    installing: Option<Installing>,
    writes: VecDeque<Write>,
    next_persist: u64,

    /// Whom it follows.
    leader: Option<PeerId>,
    votes: BTreeSet<u64>,
    disrupt: bool,
    progress: BTreeMap<u64, Progress>,
    /// Index of the first entry of its leadership.
    term_start: u64,
    transfer: Option<Transfer>,
    /// Who is to get a vote, and up to where it has to have come.
    promotee: Option<(u64, u64)>,

    now: u64,
    tick_at: u64,
    /// When the timer of elections, or of the leader's contact with its followers, was started.
    since: u64,
    timeout_ms: u64,
    random: u64,
    unavailable: Option<String>,
    effects: Vec<Effect>,
}

impl CNode {
    /// A node that starts with what its disk holds.
    pub fn new(options: Options, durable: &Recovered, now: u64) -> CNode {
        let snapshot = durable.snapshot.clone();
        let (index, term) = snapshot.as_ref().map_or((0, 0), |m| (m.index, m.term));
        let committed = match &snapshot {
            Some(meta) => (meta.configuration.clone(), meta.configuration_index),
            None => (Configuration::default(), 0),
        };
        let log = Log::new((index, term), &durable.entries);
        let stored = log.last();
        let mut node = CNode {
            options,
            term: durable.term,
            vote: durable.vote,
            role: RaftRole::Follower,
            log,
            stored,
            // The first entry is the same everywhere.
            commit: index.max(stored.min(1)),
            applied: index,
            configuration: committed.0.clone(),
            committed,
            snapshot,
            snapshotting: false,
            installing: None,
            writes: VecDeque::new(),
            next_persist: 1,
            leader: None,
            votes: BTreeSet::new(),
            disrupt: false,
            progress: BTreeMap::new(),
            term_start: 0,
            transfer: None,
            promotee: None,
            now,
            tick_at: now + options.heartbeat_ms,
            since: now,
            timeout_ms: 0,
            random: options.seed ^ options.id,
            unavailable: None,
            effects: Vec::new(),
        };
        node.configuration = node.last_change(stored);
        node.reset_timer();
        node.apply();
        if node.is_voter() && node.voters() == 1 {
            node.stand(false);
        }
        node
    }

    /// Takes what is to be done.
    pub fn ready(&mut self, effects: &mut Vec<Effect>) {
        effects.append(&mut self.effects);
    }

    /// Why it has shut down, if it has.
    pub fn unavailable(&self) -> Option<&str> {
        self.unavailable.as_deref()
    }

    /// When it wants to be ticked.
    pub fn deadline(&self) -> u64 {
        self.tick_at
    }

    /// The last entry in memory.
    pub fn last(&self) -> u64 {
        self.log.last()
    }

    /// The last entry that it knows to be on disk.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// The last entry that it knows to be committed.
    pub fn commit(&self) -> u64 {
        self.commit
    }

    /// The last entry that it has applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// An entry that is still in memory.
    pub fn entry(&self, index: u64) -> Option<&LogEntry> {
        self.log.entry(index)
    }

    /// The configuration in effect.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Whom it follows, if it knows.
    pub fn leader(&self) -> Option<&PeerId> {
        self.leader.as_ref()
    }

    /// Time has come.
    pub fn tick(&mut self, now: u64) {
        self.now = now;
        if self.unavailable.is_some() || now < self.tick_at {
            return;
        }
        self.tick_at = now + self.options.heartbeat_ms;
        match self.role {
            RaftRole::Leader => self.tick_leader(),
            RaftRole::Follower => self.tick_follower(),
            RaftRole::Candidate | RaftRole::PreCandidate => {
                if self.is_expired() {
                    self.campaign();
                }
            }
        }
        let election = self.options.election_ms;
        if self
            .transfer
            .is_some_and(|transfer| now >= transfer.start + election)
        {
            self.transfer = None;
        }
    }

    /// A message has come.
    pub fn receive(&mut self, now: u64, from: &PeerId, message: Message) {
        self.now = now;
        if self.unavailable.is_some() {
            return;
        }
        match message {
            Message::AppendEntries(append) => self.append_received(from, append),
            Message::AppendEntriesResult(result) => self.result_received(from.id, result),
            Message::RequestVote(request) => self.vote_requested(from, request),
            Message::RequestVoteResult(result) => self.vote_received(from.id, result),
            Message::InstallSnapshot { term, meta } => self.snapshot_received(from, term, meta),
            Message::TimeoutNow {
                term,
                last_index,
                last_term,
            } => self.told_to_stand(from.id, term, (last_index, last_term)),
        }
    }

    /// A snapshot is due: what it is of. It counts as being written from here on, until
    /// [`CNode::snapshot_ended`].
    pub fn begin_snapshot(&mut self) -> Option<SnapshotMeta> {
        let due = self.applied >= self.log.snapshot.0 + self.options.snapshot_threshold;
        if !due || self.snapshotting || self.installing.is_some() || self.unavailable.is_some() {
            return None;
        }
        let term = self.log.term_of(self.applied)?;
        self.snapshotting = true;
        Some(SnapshotMeta {
            index: self.applied,
            term,
            timestamp: self.now,
            configuration: self.committed.0.clone(),
            configuration_index: self.committed.1,
        })
    }

    /// It is written, or not.
    pub fn snapshot_ended(&mut self, meta: SnapshotMeta, written: bool) {
        self.snapshotting = false;
        if !written {
            return;
        }
        let trailing = self.options.snapshot_trailing;
        self.log.snapshot_taken(meta.index, meta.term, trailing);
        let snapshot_index = meta.index;
        self.snapshot = Some(meta);
        self.persist(vec![DiskOp::Prune {
            snapshot_index,
            trailing,
        }]);
    }

    fn shut_down(&mut self, why: String) {
        self.unavailable = Some(why);
    }

    /// Applies what is committed and stored.
    fn apply(&mut self) {
        while self.applied < self.commit.min(self.stored) {
            let Some(entry) = self.log.entry(self.applied + 1).cloned() else {
                return;
            };
            self.applied = entry.index;
            if entry.kind == EntryKind::Change {
                self.committed = (decoded(&entry), entry.index);
                if self.role == RaftRole::Leader && !self.is_voter() {
                    self.follow();
                }
            }
            self.effects.push(Effect::Apply(entry));
        }
    }

    /// The configuration as of this entry.
    fn last_change(&self, index: u64) -> Configuration {
        let behind = self.committed.1 + 1..=index;
        let change = behind
            .rev()
            .filter_map(|index| self.log.entry(index))
            .find(|entry| entry.kind == EntryKind::Change);
        change.map_or_else(|| self.committed.0.clone(), decoded)
    }

    /// Adopts a newer term.
    fn bump(&mut self, term: u64) {
        self.term = term;
        self.vote = 0;
        if self.role != RaftRole::Follower {
            self.follow();
        }
    }

    /// Becomes a follower of nobody yet.
    fn follow(&mut self) {
        if self.role == RaftRole::Leader {
            self.effects.push(Effect::EpochEnded(Epoch {
                term: self.term,
                first_index: self.term_start,
            }));
        }
        self.role = RaftRole::Follower;
        self.leader = None;
        self.progress.clear();
        self.transfer = None;
        self.promotee = None;
        self.reset_timer();
    }

    fn persist(&mut self, ops: Vec<DiskOp>) -> u64 {
        let id = self.next_persist;
        self.next_persist += 1;
        self.effects.push(Effect::Persist(Persist { id, ops }));
        id
    }

    fn answer(&mut self, to: &PeerId, rejected: u64, last_index: u64) {
        let result = AppendEntriesResult {
            term: self.term,
            rejected,
            last_index,
            echo: None,
        };
        self.send(to, Message::AppendEntriesResult(result));
    }

    fn send(&mut self, to: &PeerId, message: Message) {
        self.effects.push(Effect::Send {
            to: to.id,
            address: to.address.clone(),
            message,
        });
    }

    fn is_voter(&self) -> bool {
        let us = self.configuration.server(self.options.id);
        us.is_some_and(|server| server.role == Role::Voter)
    }

    fn voters(&self) -> usize {
        let servers = &self.configuration.servers;
        servers.iter().filter(|s| s.role == Role::Voter).count()
    }

    fn is_busy_installing(&self) -> bool {
        self.installing.is_some() && self.stored == 0
    }

    fn reset_timer(&mut self) {
        self.since = self.now;
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let election = self.options.election_ms;
        self.timeout_ms = election + (word ^ (word >> 31)) % election.max(1);
    }

    fn is_expired(&self) -> bool {
        self.now >= self.since + self.timeout_ms
    }
}

fn peer(server: &Server) -> PeerId {
    PeerId {
        id: server.id,
        address: server.address.clone(),
    }
}

fn decoded(entry: &LogEntry) -> Configuration {
    Configuration::decode(&entry.payload.to_bytes()).unwrap_or_default()
}
