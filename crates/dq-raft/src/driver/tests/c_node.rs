//! A model of a C dqlite node, as far as its peers can see it: what it answers when, and with which
//! numbers. Without snapshots and without changes of the membership.
//!
//! - An append that brings nothing new is answered at once, with the last *stored* index, whatever
//!   the append's position; one that does, when it is on disk.
//! - Its commit index becomes `min(leader_commit, last stored)`, not `min(leader_commit, end)`.
//! - A conflict with what it has committed makes it shut down: the test fails.
//! - A refused pre-vote echoes the request's term.
//! - Nothing is answered when the term has moved on, or the entries were cut off meanwhile.
//! - As a leader it always sends its whole tail.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dq_wire::{Configuration, EntryKind, Role};

use super::network::{Random, address, command};
use crate::driver::{Effect, Epoch, RaftRole};
use crate::message::*;
use crate::types::{DiskOp, LogEntry, Persist, Recovered};

const ELECTION_MS: u64 = 300;
const HEARTBEAT_MS: u64 = 50;

struct Write {
    persist: u64,
    last: u64,
    term: u64,
    overtaken: bool,
    /// Whom to answer, and its commit index.
    leader: Option<(u64, u64)>,
}

pub(crate) struct CNode {
    id: u64,
    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) role: RaftRole,
    log: Vec<LogEntry>,
    stored: u64,
    commit: u64,
    applied: u64,
    leader: Option<u64>,
    votes: BTreeSet<u64>,
    disrupt: bool,
    voters: Vec<u64>,
    next: BTreeMap<u64, u64>,
    matched: BTreeMap<u64, u64>,
    contact: BTreeMap<u64, u64>,
    now: u64,
    timeout_at: u64,
    heartbeat_at: u64,
    next_persist: u64,
    writes: VecDeque<Write>,
    effects: Vec<Effect>,
    random: Random,
}

impl CNode {
    pub(crate) fn new(id: u64, durable: &Recovered, now: u64, seed: u64) -> CNode {
        let last = durable
            .entries
            .iter()
            .rev()
            .find(|entry| entry.kind == EntryKind::Change);
        let bytes = last.expect("bootstrapped").payload.to_bytes();
        let configuration = Configuration::decode(&bytes).expect("made by a test");
        let voters = configuration
            .servers
            .iter()
            .filter(|s| s.role == Role::Voter);
        let mut node = CNode {
            id,
            term: durable.term,
            vote: durable.vote,
            role: RaftRole::Follower,
            log: durable.entries.clone(),
            stored: durable.entries.len() as u64,
            commit: 0,
            applied: 0,
            leader: None,
            votes: BTreeSet::new(),
            disrupt: false,
            voters: voters.map(|server| server.id).collect(),
            next: BTreeMap::new(),
            matched: BTreeMap::new(),
            contact: BTreeMap::new(),
            now,
            timeout_at: 0,
            heartbeat_at: u64::MAX,
            next_persist: 1,
            writes: VecDeque::new(),
            effects: Vec::new(),
            random: Random(seed),
        };
        node.reset_timer();
        node
    }

    pub(crate) fn ready(&mut self, effects: &mut Vec<Effect>) {
        while self.applied < self.commit.min(self.stored) {
            self.applied += 1;
            self.effects
                .push(Effect::Apply(self.entry(self.applied).clone()));
        }
        effects.append(&mut self.effects);
    }

    pub(crate) fn deadline(&self) -> u64 {
        if self.role == RaftRole::Leader {
            self.heartbeat_at
        } else {
            self.timeout_at
        }
    }

    pub(crate) fn tick(&mut self, now: u64) {
        self.now = now;
        if self.role == RaftRole::Leader {
            let active = self.voters.iter().filter(|id| {
                **id == self.id
                    || self
                        .contact
                        .get(id)
                        .is_some_and(|at| at + ELECTION_MS > now)
            });
            if 2 * active.count() <= self.voters.len() {
                self.step_down(self.term);
                return;
            }
            self.heartbeat_at = now + HEARTBEAT_MS;
            self.send_to_all();
        } else if now >= self.timeout_at {
            self.reset_timer();
            if self.stored == self.last() {
                self.stand(true, false);
            }
        }
    }

    pub(crate) fn propose(&mut self, number: u64) -> Option<u64> {
        if self.role != RaftRole::Leader {
            return None;
        }
        self.append(EntryKind::Command, number);
        Some(self.last())
    }

    pub(crate) fn durable(&mut self, persist: u64) {
        while self
            .writes
            .front()
            .is_some_and(|write| write.persist <= persist)
        {
            let write = self.writes.pop_front().expect("just looked at");
            if write.overtaken {
                continue;
            }
            self.stored = write.last;
            let Some((leader, commit)) = write.leader else {
                self.count();
                continue;
            };
            if write.term == self.term && self.role == RaftRole::Follower {
                self.commit = self.commit.max(commit.min(self.stored));
                self.answer(leader, 0, self.stored);
            }
        }
    }

    pub(crate) fn receive(&mut self, now: u64, from: u64, message: Message) {
        self.now = now;
        match message {
            Message::AppendEntries(append) => self.append_received(from, append),
            Message::AppendEntriesResult(result) => self.result_received(from, result),
            Message::RequestVote(request) => self.vote_requested(from, request),
            Message::RequestVoteResult(result) => self.vote_received(from, result),
            Message::TimeoutNow {
                term,
                last_index,
                last_term,
            } => {
                let ours = (self.last(), self.term_of(self.last()));
                let idle = self.stored == self.last() && self.role == RaftRole::Follower;
                if term == self.term
                    && self.leader == Some(from)
                    && (last_index, last_term) == ours
                    && idle
                {
                    self.stand(false, true);
                }
            }
            Message::InstallSnapshot { .. } => {}
        }
    }

    fn append_received(&mut self, from: u64, append: AppendEntries) {
        if append.term < self.term {
            self.answer(from, append.prev_index, self.last());
            return;
        }
        assert!(
            append.term > self.term || self.role != RaftRole::Leader,
            "two leaders in one term"
        );
        if append.term > self.term || self.role != RaftRole::Follower {
            self.step_down(append.term);
        }
        self.leader = Some(from);
        self.reset_timer();
        let prev = append.prev_index;
        if prev > self.last() || self.term_of(prev) != append.prev_term {
            let committed = prev <= self.commit && prev > 0;
            assert!(
                !committed,
                "a C node shuts down: its committed entry {prev} is another"
            );
            self.answer(from, prev, self.stored);
            return;
        }
        let new = append
            .entries
            .iter()
            .position(|entry| entry.index > self.last() || self.term_of(entry.index) != entry.term);
        let Some(new) = new else {
            self.commit = self.commit.max(append.leader_commit.min(self.stored));
            self.answer(from, 0, self.stored);
            return;
        };
        let entries = append.entries[new..].to_vec();
        let first = entries[0].index;
        let mut ops = Vec::new();
        if first <= self.last() {
            assert!(
                first > self.commit,
                "a C node shuts down: {first} is committed"
            );
            self.log.truncate(first as usize - 1);
            self.stored = self.stored.min(first - 1);
            for write in self.writes.iter_mut().filter(|write| write.last >= first) {
                write.overtaken = true;
            }
            ops.push(DiskOp::Truncate { from: first });
        }
        self.log.extend(entries.iter().cloned());
        ops.push(DiskOp::Append { entries });
        self.write(ops, Some((from, append.leader_commit)));
    }

    fn result_received(&mut self, from: u64, result: AppendEntriesResult) {
        if result.term > self.term {
            self.step_down(result.term);
        }
        if self.role != RaftRole::Leader || result.term < self.term {
            return;
        }
        self.contact.insert(from, self.now);
        let matched = self.matched.get(&from).copied().unwrap_or(0);
        if result.rejected > 0 {
            if result.rejected > matched {
                let next = result.rejected.min(result.last_index + 1).max(matched + 1);
                self.next.insert(from, next);
                self.send_append(from);
            }
            return;
        }
        let last = result.last_index.min(self.last());
        self.matched.insert(from, last.max(matched));
        let next = self.next.get(&from).copied().unwrap_or(1).max(last + 1);
        self.next.insert(from, next);
        self.count();
        if next <= self.last() {
            self.send_append(from);
        }
    }

    fn vote_requested(&mut self, from: u64, request: RequestVote) {
        let led =
            self.role == RaftRole::Leader || (self.leader.is_some() && self.now < self.timeout_at);
        let mut granted = false;
        if !led || request.disrupt_leader {
            if !request.pre_vote && request.term > self.term {
                self.step_down(request.term);
            }
            let last = (self.term_of(self.last()), self.last());
            let fresh = (request.last_term, request.last_index) >= last;
            let free = request.pre_vote || self.vote == 0 || self.vote == request.candidate;
            granted = fresh && free && request.term >= self.term;
            if granted && !request.pre_vote {
                self.vote = request.candidate;
                self.reset_timer();
            }
        }
        let term = if request.pre_vote {
            request.term
        } else {
            self.term
        };
        let pre_vote = Some(request.pre_vote);
        let result = RequestVoteResult {
            term,
            granted,
            pre_vote,
            own_term: false,
        };
        self.send(from, Message::RequestVoteResult(result));
    }

    fn vote_received(&mut self, from: u64, result: RequestVoteResult) {
        let pre_vote = self.role == RaftRole::PreCandidate;
        if result.pre_vote == Some(false) && result.term > self.term {
            self.step_down(result.term);
            return;
        }
        let asked = self.term + u64::from(pre_vote);
        let counts = (pre_vote || self.role == RaftRole::Candidate)
            && result.pre_vote.is_none_or(|kind| kind == pre_vote);
        if counts && result.granted && result.term == asked {
            self.votes.insert(from);
            self.tally();
        }
    }

    fn stand(&mut self, pre_vote: bool, disrupt: bool) {
        self.leader = None;
        self.disrupt = disrupt;
        self.votes = BTreeSet::from([self.id]);
        if pre_vote {
            self.role = RaftRole::PreCandidate;
        } else {
            self.role = RaftRole::Candidate;
            self.term += 1;
            self.vote = self.id;
            self.reset_timer();
        }
        let request = RequestVote {
            term: self.term + u64::from(pre_vote),
            candidate: self.id,
            last_index: self.stored,
            last_term: self.term_of(self.stored),
            disrupt_leader: disrupt,
            pre_vote,
        };
        for id in self.peers() {
            self.send(id, Message::RequestVote(request));
        }
        self.tally();
    }

    fn tally(&mut self) {
        let votes = self
            .voters
            .iter()
            .filter(|id| self.votes.contains(id))
            .count();
        if 2 * votes <= self.voters.len() {
            return;
        }
        if self.role == RaftRole::PreCandidate {
            self.stand(false, self.disrupt);
            return;
        }
        self.role = RaftRole::Leader;
        self.leader = Some(self.id);
        self.heartbeat_at = self.now + HEARTBEAT_MS;
        self.matched.clear();
        let next = self.last() + 1;
        self.next = self.peers().into_iter().map(|id| (id, next)).collect();
        self.contact = self.peers().into_iter().map(|id| (id, self.now)).collect();
        self.effects.push(Effect::EpochBegan(Epoch {
            term: self.term,
            first_index: next,
        }));
        self.append(EntryKind::Barrier, 0);
    }

    fn append(&mut self, kind: EntryKind, number: u64) {
        let (index, term) = (self.last() + 1, self.term);
        let entry = LogEntry {
            index,
            term,
            kind,
            payload: command(number),
        };
        self.log.push(entry.clone());
        self.write(
            vec![DiskOp::Append {
                entries: vec![entry],
            }],
            None,
        );
        self.send_to_all();
    }

    fn send_to_all(&mut self) {
        for id in self.peers() {
            self.send_append(id);
        }
    }

    fn send_append(&mut self, to: u64) {
        let next = self
            .next
            .get(&to)
            .copied()
            .unwrap_or(1)
            .min(self.last() + 1);
        let entries = self.log[next as usize - 1..].to_vec();
        let append = AppendEntries {
            term: self.term,
            prev_index: next - 1,
            prev_term: self.term_of(next - 1),
            leader_commit: self.commit,
            entries,
            stamp: Stamp::default(),
        };
        if self.matched.contains_key(&to) {
            self.next.insert(to, self.last() + 1);
        }
        self.send(to, Message::AppendEntries(append));
    }

    fn count(&mut self) {
        if self.role != RaftRole::Leader {
            return;
        }
        let mut matched: Vec<u64> = self
            .voters
            .iter()
            .map(|id| {
                if *id == self.id {
                    self.stored
                } else {
                    self.matched.get(id).copied().unwrap_or(0)
                }
            })
            .collect();
        matched.sort_unstable();
        let index = matched[(matched.len() - 1) / 2];
        if index > self.commit && self.term_of(index) == self.term {
            self.commit = index;
        }
    }

    fn step_down(&mut self, term: u64) {
        if self.role == RaftRole::Leader {
            let epoch = Epoch {
                term: self.term,
                first_index: 0,
            };
            self.effects.push(Effect::EpochEnded(epoch));
        }
        if term > self.term {
            self.term = term;
            self.vote = 0;
        }
        self.role = RaftRole::Follower;
        self.leader = None;
        self.reset_timer();
    }

    fn write(&mut self, ops: Vec<DiskOp>, leader: Option<(u64, u64)>) {
        let persist = self.next_persist;
        self.next_persist += 1;
        let (last, term) = (self.last(), self.term);
        self.writes.push_back(Write {
            persist,
            last,
            term,
            overtaken: false,
            leader,
        });
        self.effects
            .push(Effect::Persist(Persist { id: persist, ops }));
    }

    fn answer(&mut self, to: u64, rejected: u64, last_index: u64) {
        let result = AppendEntriesResult {
            term: self.term,
            rejected,
            last_index,
            echo: None,
        };
        self.send(to, Message::AppendEntriesResult(result));
    }

    fn send(&mut self, to: u64, message: Message) {
        self.effects.push(Effect::Send {
            to,
            address: address(to),
            message,
        });
    }

    fn peers(&self) -> Vec<u64> {
        self.voters
            .iter()
            .copied()
            .filter(|id| *id != self.id)
            .collect()
    }

    pub(crate) fn last(&self) -> u64 {
        self.log.len() as u64
    }

    pub(crate) fn entry(&self, index: u64) -> &LogEntry {
        &self.log[index as usize - 1]
    }

    fn term_of(&self, index: u64) -> u64 {
        if index == 0 {
            0
        } else {
            self.entry(index).term
        }
    }

    fn reset_timer(&mut self) {
        self.timeout_at = self.now + ELECTION_MS + self.random.below(ELECTION_MS);
    }
}
