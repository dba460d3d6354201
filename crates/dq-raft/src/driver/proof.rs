//! Proof of leadership: whether what a leader would read now is what a reader may see.
//!
//! A leader that has been deposed without noticing would answer with old data. A request that
//! arrived at time `t` may be answered from the applied state if one of these holds:
//!
//! - *fresh entry*: an entry created at or after `t` is applied. Any kind of node in the majority.
//! - *read index*: a majority has echoed a sequence number that was first sent after `t`. Terms only
//!   grow, so a majority that was in our term after `t` is one that had elected nobody else before.
//!   No clock in it; one round trip; shared by all requests that wait. Only nodes of this kind echo.
//! - *lease*: a majority has promised not to vote until after `t`. No round trip, but clocks have to
//!   count: a machine that was stopped with its clock frozen may answer old data for the rest of
//!   the promise.
//!
//! ```text
//!  leader    t: read arrives, last number used is 7
//!            |-- append 8 ----> follower: in our term, so it echoes 8,
//!            |                            and promises not to vote until receipt + P
//!            |<-- result, echo 8, P --|
//!            majority echoed > 7: proven (read index)
//!            majority covered beyond t, i.e. sent(8) + 0.9 P > t: proven (lease)
//! ```
//!
//! Invariants:
//! - A number is never used twice in a term, and an echo counts only in the term it was sent in.
//! - The majority is that of the configuration in effect when the proof is used, and we count
//!   ourselves only if we are a voter of it. A stored "lease end" would be wrong after two changes.
//! - A promise runs from the receipt of the append, whenever the answer leaves, and nothing but the
//!   leader to whom it was given can dissolve it. While it runs the node neither votes nor stands,
//!   also after a restart: then for the longest promise it may have given.
//! - Giving up the promises before a transfer (*release*) is final for the term, so a late
//!   message cannot dissolve a promise that was made after an aborted transfer.
//! - Numbers go only to peers that have shown, on the present connection, to be of this kind: C dqlite's raft
//!   up to 0.15 may end with a number in that place. A peer's answers come on a connection of their own, so what
//!   arrives now may be the last words of the process before. It is of the one that we are connected to if
//!   it acknowledges an entry that did not exist when the connection before was lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dq_wire::{Configuration, Role};

use super::bounds::STAMPS_MAX;
use super::{Driver, Options};
use crate::message::{AppendEntries, AppendEntriesResult, Echo, Message, Stamp};
use crate::mutants::{Mutant, is_broken};
use crate::translate;

/// Largest sequence number: 31 bits. Then a leader stops stamping for the rest of its term.
const SEQ_MAX: u32 = (1 << 31) - 1;

/// How a node answers reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadMode {
    /// Leadership is confirmed by a majority after the request's arrival. Linearizable, without
    /// any assumption about clocks.
    #[default]
    Quorum,
    /// Followers promise not to vote for a while. Linearizable given clocks that count stops and
    /// differ in rate by less than a tenth.
    Lease,
    /// As C dqlite: answer as long as one believes to lead. May be stale.
    Leader,
}

/// What concerns reads and promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// How this node answers reads, and whether it promises.
    pub mode: ReadMode,
    /// The bound on promises, ms, that was durable when this process started; 0 without one. For
    /// so long after its start the node neither votes nor stands for election.
    pub promise_found_ms: u64,
    /// The bound that is durable now, ms: no promise is longer. [`Driver::promise_bound_wanted`] asks for
    /// another one.
    pub promise_bound_ms: u64,
}

impl ReadOptions {
    /// The promise that a node with these timeouts gives in mode [`ReadMode::Lease`], ms.
    pub fn promise_ms(options: &Options) -> u64 {
        let two_ticks = 2 * (options.heartbeat_ms / 5).max(1);
        let election = options.election_timeout_ms.saturating_sub(two_ticks);
        election.min(3 * options.heartbeat_ms)
    }
}

/// A request's arrival, as a leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadTicket {
    epoch_changes: u64,
    /// ms.
    arrival: u64,
    /// The last number used.
    seq: u32,
    /// The last index of the log.
    last_index: u64,
    /// What was applied.
    applied: u64,
}

/// Whether a request may be answered from the applied state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Yes.
    Proven,
    /// Not yet, and no question is under way that could prove it: [`Driver::confirm`] asks.
    Unasked,
    /// Not yet: a question, or an entry, is under way. Ask again after any input.
    Waiting,
    /// Not yet, and there are too few nodes that echo: propose an entry, a barrier if there is
    /// nothing else, and ask again when it is applied.
    FreshEntry,
    /// Never: the leadership in which the request arrived is over.
    Lost,
}

/// What a leader knows of its followers' voting.
#[derive(Debug, Default)]
pub(super) struct Lead {
    seq: u32,
    /// When each number was first used, ms; ascending in both.
    stamps: VecDeque<(u32, u64)>,
    echoed: BTreeMap<u64, u32>,
    cover: BTreeMap<u64, u64>,
    pub(super) released: bool,
    /// A request waits for an echo above this number.
    wanted: Option<u32>,
    /// The number of the last question.
    asked: u32,
    /// Who echoes, but could not be asked it: nothing may be sent yet to whoever has not caught up.
    missed: BTreeSet<u64>,
    /// What nobody may rely on: see [`Mutant::StoredLease`].
    lease_end: u64,
}

/// What a follower has promised.
#[derive(Debug, Default)]
pub(super) struct Promise {
    pub(super) until: u64,
    pub(super) term: u64,
    sticky: bool,
    /// Until when the process before may have promised.
    held_until: u64,
    /// A longer promise that was not given, as its length was not durable, ms.
    wanted: u64,
    /// The echo that the next result to this leader carries.
    echo: Option<(u64, Echo)>,
}

/// Everything of this module that a driver holds.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    options: ReadOptions,
    pub(super) lead: Lead,
    pub(super) promise: Promise,
    ours: BTreeSet<u64>,
    /// The last index of our log when the connection to a peer was lost, until it shows its kind again.
    lost_at: BTreeMap<u64, u64>,
}

impl Lead {
    /// The newest number is used for the first time.
    fn note(&mut self, now: u64) {
        if self.stamps.len() >= STAMPS_MAX {
            self.stamps.pop_front();
        }
        self.stamps.push_back((self.seq, now));
    }

    /// How many numbers are remembered.
    pub(super) fn stamps(&self) -> usize {
        self.stamps.len()
    }
}

impl Driver {
    /// Sets how reads are answered; before [`Driver::start`].
    pub fn with_reads(mut self, options: ReadOptions) -> Driver {
        self.proofs.options = options;
        self
    }

    /// Notes the arrival of a request at `now_ms`. `None` if this node does not lead.
    pub fn read_ticket(&self, now_ms: u64) -> Option<ReadTicket> {
        self.epoch?;
        Some(ReadTicket {
            epoch_changes: self.epoch_changes,
            arrival: now_ms,
            seq: self.proofs.lead.seq,
            last_index: self.last_index(),
            applied: self.applied_index(),
        })
    }

    /// Whether the request may be answered now, from the applied state. Once it was
    /// [`Proof::Proven`] no further question is needed: the applied state only grows.
    pub fn proof(&self, ticket: &ReadTicket) -> Proof {
        let Some(epoch) = self
            .epoch
            .filter(|_| ticket.epoch_changes == self.epoch_changes)
        else {
            return Proof::Lost;
        };
        let applied = self.applied_index();
        if applied < epoch.first_index && !is_broken(Mutant::ProofBeforeOwnEntry) {
            return Proof::Waiting;
        }
        let Lead {
            echoed,
            cover,
            released,
            lease_end,
            ..
        } = &self.proofs.lead;
        let echoes = |id: u64| echoed.get(&id).is_some_and(|seq| *seq > ticket.seq);
        let covers = |id: u64| cover.get(&id).is_some_and(|until| *until > ticket.arrival);
        let proven = self.proofs.options.mode == ReadMode::Leader
            || is_broken(Mutant::NoProof)
            || applied > ticket.last_index
            || (is_broken(Mutant::OldEntryProves) && applied > ticket.applied)
            || self.majority(echoes)
            || (self.proofs.options.mode == ReadMode::Lease
                && (!released || is_broken(Mutant::LeaseAfterRelease))
                && (self.majority(covers)
                    || (is_broken(Mutant::StoredLease) && *lease_end > ticket.arrival)));
        if proven {
            Proof::Proven
        } else if self.majority(|id| self.echoing(id)) {
            // An entry of its own may be under way too, but echoes need not wait for disks.
            match self.proofs.lead.asked > ticket.seq {
                true => Proof::Waiting,
                false => Proof::Unasked,
            }
        } else if self.last_index() > ticket.last_index {
            Proof::Waiting
        } else {
            Proof::FreshEntry
        }
    }

    /// Asks the peers for an echo, for requests that are [`Proof::Unasked`]; once per turn, after
    /// all that has arrived in it. Lost questions are repeated with the heartbeats.
    pub fn confirm(&mut self, now_ms: u64) {
        if self.failed || self.epoch.is_none() {
            return;
        }
        self.advance_to(now_ms);
        self.ask_for_echoes();
        self.drain();
    }

    /// A new connection to this peer is open: what kind it is has to be shown again.
    pub fn connected(&mut self, id: u64) {
        self.proofs.ours.remove(&id);
    }

    /// The connection to this peer is lost, and the next one may be to a process of another kind.
    pub(super) fn disconnected(&mut self, id: u64) {
        self.proofs.ours.remove(&id);
        self.proofs.lost_at.insert(id, self.last_index());
    }

    /// Until when this node has promised not to vote, ms. A clean stop keeps the directory locked
    /// until then, since another program on it would know nothing of the promise.
    pub fn promised_until(&self) -> u64 {
        self.proofs.promise.until
    }

    /// True if the voters for whom `holds`, with ourselves if we vote, are a majority of the
    /// configuration in effect.
    fn majority(&self, holds: impl Fn(u64) -> bool) -> bool {
        let voters = || voters(self.configuration());
        let mut count = voters()
            .filter(|id| *id == self.options.id || holds(*id))
            .count();
        if is_broken(Mutant::CountOneself) && voters().all(|id| id != self.options.id) {
            count += 1;
        }
        2 * count > voters().count()
    }

    /// True for a peer that answers a number.
    fn echoing(&self, id: u64) -> bool {
        self.proofs.ours.contains(&id) && self.proofs.lead.seq < SEQ_MAX
    }

    /// Sends an empty append with a new number to every voter that echoes.
    pub(super) fn ask_for_echoes(&mut self) {
        let peers: Vec<u64> = voters(self.configuration())
            .filter(|id| self.echoing(*id))
            .collect();
        if peers.is_empty() {
            return;
        }
        let lead = &mut self.proofs.lead;
        lead.wanted = Some(lead.seq);
        lead.seq += 1;
        lead.asked = lead.seq;
        lead.missed.clear();
        lead.note(self.clock.now());
        for id in peers {
            let mut peer = self.peers.remove(&id).unwrap_or_default();
            let progress = self.raw.raft.prs().get(id);
            let append = progress
                .and_then(|pr| translate::heartbeat_out(&self.view(), &mut peer, pr.into()));
            self.peers.insert(id, peer);
            if let Some(mut append) = append {
                append.stamp = self.stamp(id);
                self.send_when_durable(id, Message::AppendEntries(append));
            } else {
                self.proofs.lead.missed.insert(id);
            }
        }
    }

    /// The stamp for an append to this peer, made now.
    pub(super) fn stamp(&mut self, to: u64) -> Stamp {
        let now = self.clock.now();
        let keep = 2 * self.options.election_timeout_ms;
        let Proofs {
            options,
            lead,
            ours,
            ..
        } = &mut self.proofs;
        let useful = options.mode == ReadMode::Lease || lead.wanted.is_some() || lead.released;
        if !useful || !ours.contains(&to) {
            return Stamp::default();
        }
        if lead.stamps.back().is_none_or(|(_, at)| *at < now) {
            if lead.seq >= SEQ_MAX {
                return Stamp::default();
            }
            lead.seq += 1;
            lead.note(now);
        }
        while lead
            .stamps
            .front()
            .is_some_and(|(_, at)| at.saturating_add(keep) < now)
        {
            lead.stamps.pop_front();
        }
        Stamp {
            seq: lead.seq,
            release: lead.released,
        }
    }

    /// A result of our term, while we lead.
    pub(super) fn note_echo(&mut self, from: u64, result: &AppendEntriesResult) {
        let Some(echo) = result.echo else { return };
        let Proofs {
            lead,
            ours,
            lost_at,
            ..
        } = &mut self.proofs;
        let shown = match lost_at.get(&from) {
            Some(lost_at) => result.rejected == 0 && result.last_index > *lost_at,
            None => true,
        };
        if shown {
            lost_at.remove(&from);
        }
        if shown && ours.insert(from) || lead.missed.remove(&from) {
            // It has not been asked, and may be the one who is missing.
            lead.asked = 0;
        }
        let Ok(found) = lead.stamps.binary_search_by_key(&echo.seq, |(seq, _)| *seq) else {
            return;
        };
        let stamp = lead.stamps[found].1;
        let echoed = lead.echoed.entry(from).or_default();
        *echoed = (*echoed).max(echo.seq);
        if echo.promise_ms > 0 {
            // A tenth less, for clocks of different rates.
            let since = if is_broken(Mutant::CoverFromAnswer) {
                self.clock.now()
            } else {
                stamp
            };
            let margin = if is_broken(Mutant::NoMargin) { 10 } else { 9 };
            let until = since + u64::from(echo.promise_ms) * margin / 10;
            let cover = lead.cover.entry(from).or_default();
            *cover = (*cover).max(until);
        }
        if is_broken(Mutant::StoredLease)
            && let Some(&until) = self.proofs.lead.cover.get(&from)
            && until > self.proofs.lead.lease_end
            && self.majority(|id| self.proofs.lead.cover.get(&id).is_some_and(|c| *c >= until))
        {
            self.proofs.lead.lease_end = until;
        }
        if let Some(wanted) = self.proofs.lead.wanted
            && self.majority(|id| {
                self.proofs
                    .lead
                    .echoed
                    .get(&id)
                    .is_some_and(|e| *e > wanted)
            })
        {
            self.proofs.lead.wanted = None;
        }
    }

    /// True when a majority has heard what was said after this number.
    pub(super) fn is_released(&self, since_seq: u32) -> bool {
        self.majority(|id| {
            self.proofs
                .lead
                .echoed
                .get(&id)
                .is_some_and(|seq| *seq > since_seq)
        })
    }

    /// Gives up all promises for the rest of the term. Returns the last number sent before, if
    /// there is anybody to tell.
    pub(super) fn release(&mut self) -> Option<u32> {
        let now = self.clock.now();
        let lead = &mut self.proofs.lead;
        lead.released = true;
        let before = lead.seq;
        if !lead.cover.values().any(|until| *until > now) {
            return None;
        }
        self.ask_for_echoes();
        Some(before)
    }

    /// Leadership has begun: no number has been used in this term.
    pub(super) fn reset_lead(&mut self) {
        self.proofs.lead = Lead::default();
    }

    /// Forgets what members have said that are no longer who they were.
    pub(super) fn forget_strangers(&mut self) {
        if is_broken(Mutant::KeepStrangers) {
            return;
        }
        let configuration = self.membership.effective().0;
        let member = |id: &u64| configuration.server(*id).is_some();
        self.proofs.lead.echoed.retain(|id, _| member(id));
        self.proofs.lead.cover.retain(|id, _| member(id));
        self.proofs.lost_at.retain(|id, _| member(id));
    }

    /// An append has been stepped and not yet drained: promises, and says so at once unless the
    /// answer is about to leave anyway.
    pub(super) fn echo_append(&mut self, from: u64, append: &AppendEntries, prev_matches: bool) {
        let raft = &self.raw.raft;
        let accepted = raft.term == append.term && raft.leader_id == from;
        let stamped = append.stamp.seq != 0;
        let mut echo = Echo::default();
        if accepted && stamped {
            echo = Echo {
                seq: append.stamp.seq,
                promise_ms: self.promise(append),
            };
            self.proofs.promise.echo = Some((from, echo));
        }
        let raft = &self.raw.raft;
        let term_durable =
            raft.term == self.hard_state.0 && !self.pending.iter().any(|p| p.hard_state);
        let waits = !self.pending.is_empty() || !append.entries.is_empty();
        let early = stamped || append.entries.is_empty();
        if accepted && prev_matches && term_durable && waits && early {
            self.proofs.promise.echo = None;
            let result = AppendEntriesResult {
                term: append.term,
                rejected: 0,
                last_index: append.prev_index.min(self.stored_index()),
                echo: Some(echo),
            };
            self.send(from, Message::AppendEntriesResult(result));
        }
    }

    /// Renews the promise to the leader of the current term; returns what was promised, ms.
    fn promise(&mut self, append: &AppendEntries) -> u32 {
        let now = self.clock.now();
        let Proofs {
            options, promise, ..
        } = &mut self.proofs;
        if append.stamp.release {
            if promise.term == append.term && !promise.sticky {
                promise.until = now;
            }
            return 0;
        }
        let whole = match options.mode {
            ReadMode::Lease => ReadOptions::promise_ms(&self.options),
            ReadMode::Quorum | ReadMode::Leader => 0,
        };
        if whole > options.promise_bound_ms {
            promise.wanted = whole;
        }
        let length = if is_broken(Mutant::PromiseUnstored) {
            whole
        } else {
            whole.min(options.promise_bound_ms)
        };
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        if length > 0 {
            if promise.term != append.term {
                // What was promised to an earlier leader is not the new one's to give back.
                promise.sticky = now < promise.until;
                promise.term = append.term;
            }
            promise.until = promise.until.max(now + u64::from(length));
        }
        length
    }

    /// The mark on a result of ours, with the echo that is due to this leader.
    pub(super) fn take_echo(&mut self, to: u64) -> Echo {
        match self
            .proofs
            .promise
            .echo
            .take_if(|(leader, _)| *leader == to)
        {
            Some((_, echo)) => echo,
            None => Echo::default(),
        }
    }

    /// An echo that no result has taken is not for the next append's.
    pub(super) fn drop_echo(&mut self) {
        self.proofs.promise.echo = None;
    }

    /// After a restart the longest promise of the process before is held, to whomever it was.
    pub(super) fn hold_old_promise(&mut self) {
        let Proofs {
            options, promise, ..
        } = &mut self.proofs;
        if is_broken(Mutant::ForgetPromise) {
            return;
        }
        let longest = if is_broken(Mutant::WaitNewPromise) {
            ReadOptions::promise_ms(&self.options).min(options.promise_found_ms)
        } else {
            options.promise_found_ms
        };
        promise.until = self.clock.now() + longest;
        promise.held_until = promise.until;
        promise.sticky = true;
    }

    /// The bound on promises, ms, that the shell is to make durable, if it is not what is durable now: a
    /// longer one before a longer promise can be given; a shorter one when what the process before
    /// promised has run out; none for who leads alone, so that it waits for nothing at its next start.
    ///
    /// A shorter one is taken by [`Driver::set_promise_bound`] before it is written, a longer one after.
    pub fn promise_bound_wanted(&self) -> Option<u64> {
        let Proofs {
            options, promise, ..
        } = &self.proofs;
        let bound = options.promise_bound_ms;
        if self.epoch.is_some() && self.is_sole_voter() {
            return (bound > 0).then_some(0);
        }
        if promise.wanted > bound {
            return Some(promise.wanted);
        }
        let enough = match options.mode {
            ReadMode::Lease => ReadOptions::promise_ms(&self.options),
            ReadMode::Quorum | ReadMode::Leader => 0,
        };
        let over = self.clock.now() >= promise.held_until || is_broken(Mutant::LowerBoundAtOnce);
        (bound > enough && over).then_some(enough)
    }

    /// The bound on promises that is durable now, ms.
    pub fn promise_bound(&self) -> u64 {
        self.proofs.options.promise_bound_ms
    }

    /// From now on no promise is longer.
    pub fn set_promise_bound(&mut self, bound_ms: u64) {
        self.proofs.options.promise_bound_ms = bound_ms;
        self.proofs.promise.wanted = 0;
    }

    /// True while a promise forbids to vote and to stand.
    pub(super) fn is_bound(&self) -> bool {
        self.clock.now() < self.proofs.promise.until && !is_broken(Mutant::VoteDespitePromise)
    }

    /// Whether a valid TimeoutNow of the leader may be obeyed; if so, it ends the promise.
    pub(super) fn dissolve_promise(&mut self, term: u64) -> bool {
        let now = self.clock.now();
        let promise = &mut self.proofs.promise;
        if now < promise.until && (promise.sticky || promise.term != term) {
            return false;
        }
        promise.until = promise.until.min(now);
        true
    }

    /// The highest index below everything that outstanding disk work changes.
    fn stored_index(&self) -> u64 {
        if is_broken(Mutant::AcknowledgeUnstored) {
            return u64::MAX;
        }
        let touched = self
            .pending
            .iter()
            .filter_map(|pending| pending.touches)
            .min();
        touched.map_or(u64::MAX, |first| first.saturating_sub(1))
    }
}

fn voters(configuration: &Configuration) -> impl Iterator<Item = u64> {
    let voters = configuration
        .servers
        .iter()
        .filter(|server| server.role == Role::Voter);
    voters.map(|server| server.id)
}
