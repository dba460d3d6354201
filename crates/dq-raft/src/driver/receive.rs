//! Messages from peers.
//!
//! raft-rs trusts its peers: a term of 0 is a local message to it, an index beyond the log with
//! term 0 "matches", arithmetic may overflow, and what it does not expect makes it panic. So
//! everything is checked before it is stepped.

use std::fmt;

use dq_wire::EntryKind;
use raft::eraftpb::{self, MessageType};
use raft::{SnapshotStatus, StateRole};

use super::{Driver, Effect, decode_change};
use crate::log::cache::EntryId;
use crate::membership::TrackerTarget;
use crate::message::{
    AppendEntries, AppendEntriesResult, Echo, Message, NUMBER_MAX, PeerId, RequestVote,
    RequestVoteResult,
};
use crate::mutants::{Mutant, is_broken};
use crate::translate::{self, Follower, Step};
use crate::types::SnapshotMeta;

/// How many addresses of peers outside the configuration are remembered, for answers to them.
pub(super) const STRANGERS: usize = 64;

/// A message that no correct peer sends: its connection is to be closed. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveError {
    why: &'static str,
}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed raft message: {}", self.why)
    }
}

impl std::error::Error for ReceiveError {}

fn refuse_unless(fine: bool, why: &'static str) -> Result<(), ReceiveError> {
    if fine {
        Ok(())
    } else {
        Err(ReceiveError { why })
    }
}

impl Driver {
    /// A message from a peer. An InstallSnapshot comes when its data is on disk under a temporary
    /// name and has been checked; it is either installed ([`DiskOp::InstallSnapshot`], later
    /// [`Effect::Restore`]) or not wanted ([`Effect::Discard`]).
    ///
    /// [`DiskOp::InstallSnapshot`]: crate::DiskOp::InstallSnapshot
    ///
    /// # Errors
    /// The message is one that no correct peer sends.
    pub fn receive(
        &mut self,
        now_ms: u64,
        from: &PeerId,
        message: Message,
    ) -> Result<(), ReceiveError> {
        if self.failed {
            return Ok(());
        }
        refuse_unless(
            from.id != 0 && from.id != self.options.id,
            "from nobody, or from ourselves",
        )?;
        check(&message, from.id)?;
        self.advance_to(now_ms);
        self.note_contact(from);
        match message {
            Message::AppendEntries(append) => self.append_received(from.id, append)?,
            Message::AppendEntriesResult(result) => self.result_received(from.id, result),
            Message::RequestVote(request) => self.vote_requested(from.id, request),
            Message::RequestVoteResult(result) => self.vote_received(from.id, result),
            Message::InstallSnapshot { term, meta } => self.snapshot_received(from.id, term, meta),
            Message::TimeoutNow {
                term,
                last_index,
                last_term,
            } => {
                let last = EntryId {
                    index: last_index,
                    term: last_term,
                };
                self.timeout_now_received(from.id, term, last);
            }
        }
        self.drain();
        Ok(())
    }

    fn note_contact(&mut self, from: &PeerId) {
        let known = self.configuration().server(from.id).is_some();
        if !known && self.addresses.len() >= STRANGERS + self.configuration().servers.len() {
            let configuration = self.membership.effective().0;
            self.addresses
                .retain(|id, _| configuration.server(*id).is_some());
            self.contacts
                .retain(|id, _| configuration.server(*id).is_some());
        }
        self.contacts.insert(from.id, self.clock.now());
        if self.addresses.get(&from.id) != Some(&from.address) {
            self.addresses.insert(from.id, from.address.clone());
        }
    }

    fn append_received(&mut self, from: u64, append: AppendEntries) -> Result<(), ReceiveError> {
        for entry in append
            .entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Change)
        {
            refuse_unless(
                decode_change(&entry.payload).is_some(),
                "a CHANGE that is none",
            )?;
        }
        if append.term < self.raw.raft.term {
            self.refuse_old_leader(from, append.prev_index);
            return Ok(());
        }
        if self.disk_full && !append.entries.is_empty() || self.is_crowded_by(&append) {
            return Ok(());
        }
        let message = translate::append_in(from, self.options.id, &append);
        for entry in &append.entries {
            let at = EntryId {
                index: entry.index,
                term: entry.term,
            };
            self.raw
                .mut_store()
                .stage(at, entry.kind, entry.payload.clone());
        }
        let log = &self.raw.raft.raft_log;
        let matches = log.match_term(append.prev_index, append.prev_term);
        self.step(message);
        self.echo_append(from, &append, matches);
        Ok(())
    }

    /// Tells a leader of an older term which one it is: it reads nothing else of the answer.
    fn refuse_old_leader(&mut self, from: u64, position: u64) {
        let result = AppendEntriesResult {
            term: self.raw.raft.term,
            rejected: position.max(1),
            last_index: 0,
            echo: Some(Echo::default()),
        };
        self.send_when_durable(from, Message::AppendEntriesResult(result));
    }

    fn result_received(&mut self, from: u64, result: AppendEntriesResult) {
        let term = self.raw.raft.term;
        if result.term > term {
            let known = self.raw.raft.prs().get(from).is_some();
            if known {
                let kind = MessageType::MsgAppendResponse;
                self.step(translate::base(kind, from, self.options.id, result.term));
            }
            return;
        }
        if result.term < term || self.epoch.is_none() {
            if is_broken(Mutant::EchoOfAnyTerm) && self.epoch.is_some() {
                self.note_echo(from, &result);
            }
            return;
        }
        let Some(follower) = self.raw.raft.prs().get(from).map(Follower::from) else {
            return;
        };
        self.note_echo(from, &result);
        let mut peer = self.peers.remove(&from).unwrap_or_default();
        let steps = translate::result_in(&self.view(), &mut peer, follower, from, &result);
        self.peers.insert(from, peer);
        for step in steps {
            match step {
                Step::Message(message) => self.step(*message),
                Step::Alive => {
                    if let Some(progress) = self.raw.raft.mut_prs().get_mut(from) {
                        progress.recent_active = true;
                    }
                }
                Step::SnapshotFailed => {
                    self.call(|raw| raw.report_snapshot(from, SnapshotStatus::Failure));
                }
                Step::Lost(last) => self.send_again_from(from, last),
            }
        }
        self.forget_installed_snapshot(from);
    }

    /// A follower does not hold what it had acknowledged: its disk has lost it, as disks do that report a
    /// sync too early. raft-rs does not look for anything there, so nothing would reach this follower for as
    /// long as we lead. What it holds is to be found out as at the beginning of a term, and counts for
    /// no majority until then; nor does it matter if this was said before the acknowledgement, by a
    /// connection that has been overtaken.
    fn send_again_from(&mut self, from: u64, last: u64) {
        let node = self.options.id;
        let Some(progress) = self.raw.raft.mut_prs().get_mut(from) else {
            return;
        };
        ::log::warn!(
            "node {node}: node {from} had acknowledged entry {} and says now that its log ends at {last}: it is \
             sent what follows",
            progress.matched
        );
        progress.recent_active = true;
        progress.matched = 0;
        progress.become_probe();
        progress.next_idx = last + 1;
    }

    fn forget_installed_snapshot(&mut self, from: u64) {
        let installing = self
            .raw
            .raft
            .prs()
            .get(from)
            .is_some_and(|progress| progress.state == raft::ProgressState::Snapshot);
        if let Some(peer) = self.peers.get_mut(&from).filter(|_| !installing) {
            peer.snapshot = None;
        }
    }

    fn vote_requested(&mut self, from: u64, request: RequestVote) {
        let obeys = is_broken(Mutant::ObeyDisrupt) && request.disrupt_leader;
        if self.is_bound() && !obeys {
            return; // whatever its flags: raft-rs would obey one that disrupts
        }
        let raft = &self.raw.raft;
        // A node with the best log and the oldest term would never be elected if the others' real
        // terms never reached it: their refusals may be echoes.
        if request.pre_vote && raft.leader_id == 0 && request.term > raft.term + 1 {
            let term = request.term - 1;
            self.call(|raw| raw.raft.become_follower(term, 0));
        }
        // A node of C dqlite that is one term behind learns nothing from a refusal of the term that it asks
        // for, and would ask for ever if nobody else can be elected: its log may be the longest of those
        // that are left. It learns our term by standing in it, where a vote that is spent stays spent.
        let raft = &self.raw.raft;
        let spent = raft.vote != 0 && raft.vote != from;
        if request.pre_vote
            && (request.term, raft.leader_id, spent) == (raft.term, 0, true)
            && raft
                .raft_log
                .is_up_to_date(request.last_index, request.last_term)
        {
            let result = RequestVoteResult {
                term: request.term,
                granted: true,
                pre_vote: Some(true),
                own_term: false,
            };
            return self.send_when_durable(from, Message::RequestVoteResult(result));
        }
        self.step(translate::vote_in(from, self.options.id, &request));
    }

    fn vote_received(&mut self, from: u64, result: RequestVoteResult) {
        if let Some(message) = translate::vote_result_in(&self.view(), from, &result) {
            self.step(message);
        }
    }

    fn snapshot_received(&mut self, from: u64, term: u64, meta: SnapshotMeta) {
        if term < self.raw.raft.term {
            self.refuse_old_leader(from, meta.index);
            self.effects.push(Effect::Discard(meta));
            return;
        }
        // Terms never fall along a log. A snapshot that ends in an older term than what is committed
        // here, and behind it, is of no log that this one is a part of.
        let committed = self.term_at(self.commit_index()).unwrap_or(0);
        if meta.index > self.commit_index() && meta.term < committed {
            self.effects.push(Effect::Discard(meta));
            return;
        }
        let mut message = translate::base(MessageType::MsgSnapshot, from, self.options.id, term);
        let target = TrackerTarget::new(&meta.configuration, self.options.id, None);
        let snapshot = message.mut_snapshot().mut_metadata();
        snapshot.index = meta.index;
        snapshot.term = meta.term;
        snapshot.set_conf_state(target.conf_state());
        self.step(message);
        if self.raw.raft.snap().is_some() {
            self.incoming_snapshot = Some(meta);
        } else {
            self.effects.push(Effect::Discard(meta));
        }
    }

    /// A snapshot that came from a leader of this term could not be stored, or was not whole. The leader
    /// hears of it at once: else it would wait for us to install it, and changes of the membership for that.
    pub fn refuse_snapshot(&mut self, from: u64, term: u64, index: u64) {
        if self.failed || term != self.raw.raft.term || self.epoch.is_some() {
            return;
        }
        let result = AppendEntriesResult {
            term,
            rejected: index.max(1),
            last_index: self.last_index(),
            echo: Some(Echo::default()),
        };
        self.send_when_durable(from, Message::AppendEntriesResult(result));
        self.drain();
    }

    fn timeout_now_received(&mut self, from: u64, term: u64, last: EntryId) {
        let raft = &self.raw.raft;
        let ours = self.view().last;
        let valid = raft.leader_id == from
            && raft.state == StateRole::Follower
            && raft.term == term
            && ours == last;
        if valid && self.disk_is_idle() && self.dissolve_promise(term) {
            self.campaigns += 1;
            self.step(translate::base(
                MessageType::MsgTimeoutNow,
                from,
                self.options.id,
                term,
            ));
        }
    }

    fn step(&mut self, message: eraftpb::Message) {
        // What raft-rs refuses is of no use: a response of a peer that has been removed.
        let _ = self.call(|raw| raw.step(message));
    }
}

/// Bounds and relations that hold for every message of a correct peer.
fn check(message: &Message, from: u64) -> Result<(), ReceiveError> {
    let small = |numbers: &[u64]| {
        refuse_unless(
            numbers.iter().all(|number| *number < NUMBER_MAX),
            "a number is too large",
        )
    };
    let position = |index: u64, term: u64, now: u64| {
        refuse_unless(
            (index == 0) == (term == 0),
            "a position without term, or the reverse",
        )?;
        refuse_unless(term <= now, "a position in the future")
    };
    let term = match message {
        Message::AppendEntries(m) => {
            small(&[m.term, m.prev_index, m.leader_commit])?;
            position(m.prev_index, m.prev_term, m.term)?;
            for (entry, index) in m.entries.iter().zip(m.prev_index + 1..) {
                refuse_unless(entry.index == index, "entries with gaps")?;
                refuse_unless(
                    (1..=m.term).contains(&entry.term),
                    "an entry of another term",
                )?;
                let size = entry.payload.len();
                refuse_unless(size.is_multiple_of(8), "an entry that is not whole words")?;
            }
            m.term
        }
        // Its indexes are clamped where they are used.
        Message::AppendEntriesResult(m) => m.term,
        Message::RequestVote(m) => {
            small(&[m.last_index])?;
            position(m.last_index, m.last_term, m.term)?;
            refuse_unless(m.candidate == from, "a vote for somebody else")?;
            m.term
        }
        Message::RequestVoteResult(m) => m.term,
        Message::InstallSnapshot { term, meta } => {
            small(&[meta.index, meta.configuration_index])?;
            refuse_unless(meta.index > 0, "a snapshot of nothing")?;
            position(meta.index, meta.term, *term)?;
            let role = dq_wire::Role::Voter;
            let voters = meta.configuration.servers.iter().any(|s| s.role == role);
            refuse_unless(voters, "a snapshot without voters")?;
            refuse_unless(
                meta.configuration_index <= meta.index,
                "a configuration to come",
            )?;
            *term
        }
        Message::TimeoutNow {
            term,
            last_index,
            last_term,
        } => {
            small(&[*last_index])?;
            position(*last_index, *last_term, *term)?;
            *term
        }
    };
    refuse_unless((1..NUMBER_MAX).contains(&term), "the term")
}
