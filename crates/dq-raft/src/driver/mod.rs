//! raft-rs as a pure machine that speaks dqlite's words.
//!
//! The driver decides nothing that raft-rs decides. It owns what lies around it: time in ticks, the
//! log in memory, the order of disk and network, the configuration, and the translation of
//! messages. It has no clock, no socket, no file, no randomness; every input says what time it is,
//! and what is to be done comes out as [`Effect`]s, to be carried out in order.
//!
//! ```text
//!   receive, propose, tick, durable ...          effects, in order
//!            |                                        ^
//!            v                                        |
//!   +-----------------+   one call at a time   +-------------+
//!   | validate,       | ---------------------> | raft-rs     |
//!   | translate,      |   after each: pin the  | RawNode     |
//!   | stage payloads  |   timeout, compare     |             |
//!   +-----------------+   (role, term)         +-------------+
//!            ^                                        | Ready
//!            |                                        v
//!       log cache  <--- append, truncate --- send / hold, persist, apply
//! ```
//!
//! Invariants:
//! - After each input raft-rs is drained: nothing is ready in it when a method returns.
//! - A message that depends on disk work is held until that work is durable. A leader's appends
//!   may run ahead of its disk, but for those of a term that is itself not durable yet: a single
//!   voter becomes leader within one call, and after a crash it would use the same term again
//!   with other entries.
//! - "Persisted" is asked of our own queue of outstanding disk work, never of raft-rs, which counts
//!   an entry that was written, replaced and sent again as persisted after the first write.
//! - No campaign starts while disk work is outstanding, whoever asks for it.
//! - An *epoch* is one leadership of this node: its term and the index of that term's first entry.
//!   It ends when role or term changes, compared after every single call into raft-rs, since
//!   raft-rs itself reports nothing about a leadership that was lost and won again in between.
//! - The election timeout that raft-rs draws from a thread's generator is overwritten after every
//!   call by a function of seed, node, term and the number of campaigns: runs can be repeated.
//!
//! Left out: connections, files, the databases, and when to take a snapshot.

mod behind;
mod bounds;
mod change;
mod log;
mod proof;
mod ready;
mod receive;
mod status;
mod time;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use dq_wire::{Configuration, EntryKind};
use raft::eraftpb::{Entry, HardState, MessageType};
use raft::{Config, RaftState, RawNode, StateRole};

use crate::log::cache::{EntryId, LogCache, Trailing};
use crate::membership::{Membership, TrackerTarget};
use crate::message::Message;
use crate::mutants::{Mutant, is_broken};
use crate::translate::{self, INSTALL_TIMEOUT_MS, PeerState, View};
use crate::types::{DiskOp, LogEntry, LogRange, Payload, Persist, Recovered, SnapshotMeta};

pub use bounds::{Bounds, Usage};
pub use change::{ChangeError, ChangeToken};
pub use proof::{Proof, ReadMode, ReadOptions, ReadTicket};
pub use receive::ReceiveError;
pub use status::{PeerProgress, RaftRole};

/// Largest payload of an entry in bytes: what a peer accepts, less room for headers.
pub const PAYLOAD_BYTES_MAX: usize = (500 << 20) - (4 << 20);

/// How a driver behaves. All nodes of a cluster need the same two times; nothing on the wire would
/// reveal a difference.
#[derive(Debug, Clone)]
pub struct Options {
    /// This node's id, not 0.
    pub id: u64,
    /// Time without a leader after which a node may stand for election, ms; drawn between once and
    /// twice this.
    pub election_timeout_ms: u64,
    /// Time between heartbeats, ms; less than the election timeout.
    pub heartbeat_ms: u64,
    /// Seed of the election timeouts.
    pub seed: u64,
    /// Bytes of the log in memory above which the oldest entries, once they are durable and
    /// applied, are kept on disk only. Followers that need those are served from there.
    pub log_bytes_max: u64,
}

/// Why a driver cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverError {
    /// The options contradict each other.
    Options(&'static str),
    /// The log or the snapshot is not what a log can be.
    Log(String),
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DriverError::Options(why) => write!(f, "raft options: {why}"),
            DriverError::Log(why) => write!(f, "raft log: {why}"),
        }
    }
}

impl std::error::Error for DriverError {}

/// Why entries were not proposed. Nothing was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposeError {
    /// This node does not lead, or does not any more.
    NotLeader,
    /// Leadership is being handed over.
    Transferring,
    /// A change that takes this node's vote away is under way.
    Leaving,
    /// A payload is empty, not a whole number of words, or larger than [`PAYLOAD_BYTES_MAX`]; or
    /// an entry is a CHANGE, which only the membership methods make.
    Malformed,
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProposeError::NotLeader => "not leader",
            ProposeError::Transferring => "leadership is being transferred",
            ProposeError::Leaving => "this node is leaving the voters",
            ProposeError::Malformed => "the entry is malformed",
        })
    }
}

impl std::error::Error for ProposeError {}

/// One leadership of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    /// Its term.
    pub term: u64,
    /// Index of the term's first entry; a leader serves once it has been applied.
    pub first_index: u64,
}

/// Something to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send a message to a peer; it may be lost.
    Send {
        /// The peer.
        to: u64,
        /// Where it is.
        address: String,
        /// The message.
        message: Message,
    },
    /// Do disk work and report it with [`Driver::durable`]. A failure ends the node's
    /// participation: [`Driver::disk_failed`].
    Persist(Persist),
    /// Read these entries back from disk, for a follower that lags, and report them with
    /// [`Driver::log_read`]. There are never more of these under way than followers.
    ReadLog(LogRange),
    /// This entry is committed, and durable here. All kinds, in index order.
    Apply(LogEntry),
    /// The databases are to become what this snapshot holds: it is installed and durable.
    Restore(SnapshotMeta),
    /// A snapshot that arrived is not wanted: its temporary files can go.
    Discard(SnapshotMeta),
    /// A follower needs a snapshot that is newer than the newest one: take one. Said again as long
    /// as there is none.
    SnapshotWanted,
    /// This node leads from here on.
    EpochBegan(Epoch),
    /// It does not any more. What was proposed and not applied may commit or not.
    EpochEnded(Epoch),
    /// A membership change has come to its end.
    ChangeDone {
        /// Which one.
        token: ChangeToken,
        /// Its result.
        result: Result<(), ChangeError>,
    },
    /// A transfer of leadership has come to its end; success is to lead no more.
    TransferDone {
        /// Its result.
        result: Result<(), ChangeError>,
    },
}

/// Disk work that has been asked for and not been reported durable.
struct Pending {
    persist: u64,
    /// The number of the raft-rs `Ready` that becomes persisted with it.
    ready: u64,
    /// Lowest log index that it changes.
    touches: Option<u64>,
    /// First index that it removes.
    truncates: Option<u64>,
    /// Last index that it appends.
    last: u64,
    /// Bytes of entries in it that came from a leader.
    received_bytes: u64,
    hard_state: bool,
    /// It appends a change of the membership.
    change: bool,
    restore: Option<SnapshotMeta>,
    held: Vec<(u64, Message)>,
}

/// The machine. Feed it inputs, take the [`Effect`]s after each, carry them out in order.
pub struct Driver {
    options: Options,
    bounds: Bounds,
    raw: RawNode<LogCache>,
    membership: Membership,
    /// What raft-rs's tracker was last made of: the version of the membership, and who is promoted.
    tracked: Option<(u64, Option<u64>)>,
    effects: Vec<Effect>,
    failed: bool,
    disk_full: bool,

    clock: time::Clock,
    campaigns: u64,

    epoch: Option<Epoch>,
    epoch_changes: u64,
    peers: BTreeMap<u64, PeerState>,
    change: Option<change::Change>,
    transfer: Option<change::Transfer>,
    proofs: proof::Proofs,
    next_token: u64,

    pending: VecDeque<Pending>,
    next_persist: u64,
    /// Term and vote as last given to the disk.
    hard_state: (u64, u64),
    incoming_snapshot: Option<SnapshotMeta>,

    contacts: BTreeMap<u64, u64>,
    addresses: BTreeMap<u64, String>,
    /// What is being read from disk for followers that lag, first to last index.
    reads: BTreeMap<u64, u64>,
}

impl Driver {
    /// A driver in the state that a data directory held. The last CHANGE of the log is in effect.
    ///
    /// # Errors
    /// The options make no sense, or log and snapshot do not fit together.
    pub fn new(options: Options, recovered: Recovered) -> Result<Driver, DriverError> {
        let ticks = time::Ticks::new(&options)?;
        let Recovered {
            term,
            vote,
            snapshot,
            mut entries,
        } = recovered;
        check_recovered(snapshot.as_ref(), &entries).map_err(DriverError::Log)?;
        let snapshot_index = snapshot.as_ref().map_or(0, |meta| meta.index);
        // Entries that end before the snapshot say nothing that it does not.
        if entries
            .last()
            .is_some_and(|last| last.index < snapshot_index)
        {
            entries.clear();
        }
        let membership = membership_of(snapshot.as_ref(), &entries).map_err(DriverError::Log)?;
        let mut cache = LogCache::new(snapshot, entries);
        cache.evict(snapshot_index, options.log_bytes_max);

        let commit = if snapshot_index > 0 {
            snapshot_index
        } else {
            u64::from(cache.last() > 0)
        };
        let target = TrackerTarget::new(membership.effective().0, options.id, None);
        cache.set_initial(RaftState::new(
            HardState { term, vote, commit },
            target.conf_state(),
        ));
        let config = Config {
            id: options.id,
            election_tick: ticks.election,
            heartbeat_tick: ticks.heartbeat,
            applied: snapshot_index,
            max_size_per_msg: u64::MAX,
            max_uncommitted_size: u64::MAX,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        let raw = RawNode::new(&config, cache, &log::logger())
            .map_err(|error| DriverError::Log(error.to_string()))?;
        let mut driver = Driver {
            options,
            bounds: Bounds::default(),
            raw,
            membership,
            tracked: None,
            effects: Vec::new(),
            failed: false,
            disk_full: false,
            clock: time::Clock::new(ticks),
            campaigns: 0,
            epoch: None,
            epoch_changes: 0,
            peers: BTreeMap::new(),
            change: None,
            transfer: None,
            proofs: proof::Proofs::default(),
            next_token: 1,
            pending: VecDeque::new(),
            next_persist: 1,
            hard_state: (term, vote),
            incoming_snapshot: None,
            contacts: BTreeMap::new(),
            addresses: BTreeMap::new(),
            reads: BTreeMap::new(),
        };
        driver.pin_timeout();
        Ok(driver)
    }

    /// Begins, once, at `now_ms`. A sole voter elects itself at once, or when a promise of the
    /// process before has run out.
    pub fn start(&mut self, now_ms: u64) {
        self.clock.start(now_ms);
        self.hold_old_promise();
        self.drain();
        self.campaign_if_alone();
        self.drain();
    }

    /// Proposes entries as one message. Returns the index of the last one; they are applied, if
    /// ever, under this term at the indexes up to it.
    ///
    /// # Errors
    /// See [`ProposeError`]. If raft-rs refuses what should have been possible, leadership is given
    /// up, because whatever the caller has executed ahead is void.
    pub fn propose(
        &mut self,
        now_ms: u64,
        entries: Vec<(EntryKind, Payload)>,
    ) -> Result<u64, ProposeError> {
        self.advance_to(now_ms);
        let malformed = |(kind, payload): &(EntryKind, Payload)| {
            *kind == EntryKind::Change
                || payload.is_empty()
                || !payload.len().is_multiple_of(8)
                || payload.len() > PAYLOAD_BYTES_MAX
        };
        if entries.is_empty() || entries.iter().any(malformed) {
            return Err(ProposeError::Malformed);
        }
        if self.is_leaving() {
            return Err(ProposeError::Leaving);
        }
        let result = self.append(entries);
        self.drain();
        result
    }

    /// Gives entries of any kind to raft-rs. Does not drain.
    fn append(&mut self, entries: Vec<(EntryKind, Payload)>) -> Result<u64, ProposeError> {
        let Some(epoch) = self.epoch else {
            return Err(ProposeError::NotLeader);
        };
        if self.transferring() {
            return Err(ProposeError::Transferring);
        }
        let first = self.raw.raft.raft_log.last_index() + 1;
        let count = entries.len() as u64;
        let mut message =
            translate::base(MessageType::MsgPropose, self.options.id, self.options.id, 0);
        for ((kind, payload), index) in entries.into_iter().zip(first..) {
            message.entries.push(Entry {
                context: vec![kind as u8],
                ..Entry::default()
            });
            let at = EntryId {
                index,
                term: epoch.term,
            };
            self.raw.mut_store().stage(at, kind, payload);
        }
        let result = self.call(|raw| raw.step(message));
        let last = self.raw.raft.raft_log.last_index();
        if result.is_err() || last != first + count - 1 || self.epoch != Some(epoch) {
            ::log::error!(
                "node {}: raft refused a proposal, stepping down",
                self.options.id
            );
            self.raw.mut_store().unstage();
            self.call(|raw| raw.raft.become_follower(epoch.term, 0));
            return Err(ProposeError::NotLeader);
        }
        Ok(last)
    }

    /// Gives up leadership, if there is any: for a leader that has executed what it cannot propose,
    /// because then the end of the epoch is the only thing that voids it.
    pub fn step_down(&mut self, now_ms: u64) {
        if self.failed {
            return;
        }
        self.advance_to(now_ms);
        if let Some(epoch) = self.epoch {
            self.call(|raw| raw.raft.become_follower(epoch.term, 0));
            self.drain();
        }
    }

    /// Takes the effects so far, appending them to `effects`.
    pub fn ready(&mut self, effects: &mut Vec<Effect>) {
        effects.append(&mut self.effects);
    }

    /// A write or an fsync has failed: this node takes part in nothing any more. Its leadership
    /// ends, held messages and effects that have not been taken are dropped, and all further
    /// inputs are ignored.
    pub fn disk_failed(&mut self) {
        self.failed = true;
        self.effects.clear();
        self.pending.clear();
        self.end_epoch();
    }

    /// Whether entries from a leader are refused because there is no room for them: they are
    /// dropped before raft-rs sees them, since it could not take them back. Empty ones and votes
    /// are answered as ever.
    pub fn set_disk_full(&mut self, full: bool) {
        self.disk_full = full;
    }

    /// A snapshot of our own is on disk, with all that is applied up to `meta.index`. Entries up to
    /// it are forgotten, here and on disk, but for `trailing`.
    pub fn snapshot_taken(&mut self, meta: SnapshotMeta, trailing: Trailing) {
        if self.failed {
            return;
        }
        let snapshot_index = meta.index;
        let needed = self.needed_by_followers();
        let kept = self.raw.mut_store().compact(meta, trailing, needed);
        let id = self.next_persist;
        self.next_persist += 1;
        // What can still be asked for stays on disk, and nothing else.
        let ops = vec![DiskOp::Prune {
            snapshot_index,
            trailing: kept.map_or(trailing.entries, |after| snapshot_index - after),
        }];
        self.effects.push(Effect::Persist(Persist { id, ops }));
    }

    /// More of a snapshot has been written to the peer's connection; or all of it has, and the peer
    /// still has the connection open, to check and install what it got. As long as such news come
    /// and the peer answers heartbeats, it is given time. False if nobody waits for this any more.
    pub fn snapshot_progress(&mut self, now_ms: u64, to: u64) -> bool {
        self.advance_to(now_ms);
        self.drain();
        let now = self.clock.now();
        let silent = 2 * self.options.election_timeout_ms;
        let heard = self.contacts.get(&to).is_some_and(|at| at + silent >= now);
        let peer = self.peers.get_mut(&to);
        let Some(send) = peer.and_then(|peer| peer.snapshot.as_mut()) else {
            return false;
        };
        if heard {
            send.deadline = now + INSTALL_TIMEOUT_MS;
        }
        true
    }

    /// The peer has read all of a snapshot and closed the connection, or it could not be sent.
    pub fn snapshot_sent(&mut self, to: u64, ok: bool) {
        let deadline = self.clock.now() + INSTALL_TIMEOUT_MS;
        let Some(send) = self
            .peers
            .get_mut(&to)
            .and_then(|peer| peer.snapshot.as_mut())
        else {
            return;
        };
        if ok && !send.refused {
            // The peer's own answer tells when it has installed it.
            send.sent = true;
            send.deadline = deadline;
        } else {
            self.snapshot_failed(to);
            self.drain();
        }
    }

    /// Messages to this peer have been lost; to be called once per connection that breaks.
    pub fn unreachable(&mut self, id: u64) {
        if self.failed {
            return;
        }
        self.disconnected(id);
        // A snapshot on the way is lost too, or its answer is; if it was installed after all, the
        // next probe finds that out.
        if self
            .peers
            .get(&id)
            .is_some_and(|peer| peer.snapshot.is_some())
        {
            self.snapshot_failed(id);
        }
        self.call(|raw| raw.report_unreachable(id));
        self.drain();
    }

    fn snapshot_failed(&mut self, to: u64) {
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.snapshot = None;
        }
        self.call(|raw| raw.report_snapshot(to, raft::SnapshotStatus::Failure));
    }

    /// The lowest index that a follower who was heard of within an election timeout has.
    fn needed_by_followers(&self) -> Option<u64> {
        self.epoch?;
        let since = self
            .clock
            .now()
            .saturating_sub(self.options.election_timeout_ms);
        let live = |id: u64| self.contacts.get(&id).is_some_and(|at| *at >= since);
        let prs = self.raw.raft.prs();
        prs.iter()
            .filter(|(id, _)| live(**id))
            .map(|(_, progress)| progress.matched)
            .min()
    }

    /// Runs one call into raft-rs, and what has to follow each.
    fn call<R>(&mut self, f: impl FnOnce(&mut RawNode<LogCache>) -> R) -> R {
        let result = f(&mut self.raw);
        self.pin_timeout();
        let raft = &self.raw.raft;
        let (leads, term) = (raft.state == StateRole::Leader, raft.term);
        let same = is_broken(Mutant::SameRoleSameEpoch);
        let looks = !is_broken(Mutant::LookSeldom) || leads || raft.leader_id != 0;
        if self
            .epoch
            .is_some_and(|epoch| looks && (!leads || epoch.term != term && !same))
        {
            self.end_epoch();
        }
        if leads && self.epoch.is_none() && !self.failed {
            let epoch = Epoch {
                term,
                first_index: self.raw.raft.raft_log.last_index(),
            };
            ::log::info!(
                "node {}: leader of term {term} from index {}",
                self.options.id,
                epoch.first_index
            );
            self.epoch = Some(epoch);
            self.epoch_changes += 1;
            self.reset_lead();
            self.raw.mut_store().set_send_floor(epoch.first_index);
            self.effects.push(Effect::EpochBegan(epoch));
        }
        result
    }

    /// Everything that belongs to a leadership ends with it.
    fn end_epoch(&mut self) {
        let Some(epoch) = self.epoch.take() else {
            return;
        };
        ::log::info!(
            "node {}: no longer leader of term {}",
            self.options.id,
            epoch.term
        );
        self.epoch_changes += 1;
        self.peers.clear();
        self.reads.clear();
        self.raw.mut_store().set_send_floor(0);
        self.effects.push(Effect::EpochEnded(epoch));
        self.fail_change(ChangeError::LeadershipLost);
        if self.transfer.take().is_some() {
            self.effects.push(Effect::TransferDone { result: Ok(()) });
        }
    }

    fn view(&self) -> View<'_> {
        let raft = &self.raw.raft;
        View {
            id: self.options.id,
            term: raft.term,
            role: raft.state,
            committed: raft.raft_log.committed,
            first_of_term: self.epoch.map(|epoch| epoch.first_index),
            last: EntryId {
                index: raft.raft_log.last_index(),
                term: raft.raft_log.last_term(),
            },
            cache: raft.store(),
        }
    }
}

/// Refuses what raft-rs would panic on.
fn check_recovered(snapshot: Option<&SnapshotMeta>, entries: &[LogEntry]) -> Result<(), String> {
    let snapshot_index = snapshot.map_or(0, |meta| meta.index);
    if snapshot.is_some_and(|meta| meta.index == 0 || meta.term == 0) {
        return Err("the snapshot has no position".to_owned());
    }
    let Some(first) = entries.first() else {
        return Ok(());
    };
    if first.index == 0 || first.index > snapshot_index + 1 {
        return Err(format!(
            "it begins at {}, but the snapshot ends at {snapshot_index}",
            first.index
        ));
    }
    for (entry, index) in entries.iter().zip(first.index..) {
        if entry.index != index || entry.term == 0 {
            return Err(format!("entry {index} is missing or has no term"));
        }
    }
    if let Some(meta) = snapshot {
        let at = entries.iter().find(|entry| entry.index == meta.index);
        if at.is_some_and(|entry| entry.term != meta.term) {
            return Err(format!("entry {} is not the snapshot's", meta.index));
        }
    }
    Ok(())
}

/// The configurations of a log: those after the snapshot's count as uncommitted until their entries
/// are committed again, but for one at index 1, which bootstraps the cluster.
fn membership_of(
    snapshot: Option<&SnapshotMeta>,
    entries: &[LogEntry],
) -> Result<Membership, String> {
    let snapshot_index = snapshot.map_or(0, |meta| meta.index);
    let mut membership = snapshot.map_or_else(Membership::default, |meta| {
        Membership::new(meta.configuration.clone(), meta.configuration_index)
    });
    let changes = entries.iter().filter(|e| e.kind == EntryKind::Change);
    for entry in changes.filter(|entry| entry.index > snapshot_index) {
        if is_broken(Mutant::StartFromCommitted) && entry.index > 1 {
            continue;
        }
        let configuration = decode_change(&entry.payload)
            .ok_or_else(|| format!("entry {} is not a configuration", entry.index))?;
        membership.append(entry.index, configuration);
        if entry.index == 1 {
            membership.commit(1);
        }
    }
    Ok(membership)
}

/// The configuration in a CHANGE; `None` if it is none, or has no voters, with which there could
/// never be a leader again.
fn decode_change(payload: &Payload) -> Option<Configuration> {
    let configuration = Configuration::decode(&payload.to_bytes()).ok()?;
    configuration
        .servers
        .iter()
        .any(|s| s.role == dq_wire::Role::Voter)
        .then_some(configuration)
}
