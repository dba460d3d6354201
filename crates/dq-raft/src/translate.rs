//! Between raft-rs's messages and dqlite's.
//!
//! A field-by-field mapping loses committed data, because the two sides mean different things by
//! the same words. What a C dqlite follower does, and what follows for us:
//!
//! - It acknowledges with its *own last stored index*, entries included that the leader never
//!   verified, and takes `min(leader_commit, its last index)` as committed. Both are harmless only
//!   if every AppendEntries reaches the first entry of the leader's term (`B` below): a follower
//!   that accepts one then holds nothing of another leader behind it. So each one that leaves here
//!   ends at or after B, and its commit index never passes its end.
//! - It has no heartbeat of its own: an empty AppendEntries serves. Its position is chosen so that
//!   it is verified too, and its refusal must not be taken for a mismatch where the position was
//!   chosen only to show life.
//! - Its refusal of a pre-vote echoes the candidate's next term. raft-rs would take it for a real
//!   term and adopt it: every refused pre-vote would raise the term.
//! - It answers heartbeats like appends; raft-rs wants a heartbeat response to resume a paused
//!   peer. One is made up per heartbeat sent, not per result: each makes raft-rs send an append to a
//!   peer that lags, whose result would make another, doubling every round trip.
//!
//! Everything here is a function of its arguments; per-peer memory is in [`PeerState`] and lives
//! for one leadership.

use std::collections::VecDeque;

use raft::eraftpb::{self, MessageType};
use raft::{Progress, ProgressState, StateRole};

use crate::log::cache::{EntryId, LogCache, handle};
use crate::message::{
    AppendEntries, AppendEntriesResult, Echo, Message, RequestVote, RequestVoteResult, Stamp,
};
use crate::mutants::{Mutant, is_broken};

/// The context by which raft-rs marks votes of a leadership transfer.
const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

/// How many heartbeat positions are remembered per peer.
const POSITIONS: usize = 16;

/// How long a peer may go without any progress with a snapshot. C dqlite gives it no longer for the
/// whole of it.
pub(crate) const INSTALL_TIMEOUT_MS: u64 = 30_000;

/// What a leader remembers of a peer beyond raft-rs's progress.
#[derive(Debug, Default)]
pub(crate) struct PeerState {
    /// A heartbeat went out and no result has come since.
    heartbeat_owed: bool,
    /// Positions of heartbeats that were to show life only.
    positions: VecDeque<u64>,
    /// An AppendEntries has gone out in this leadership.
    sent_append: bool,
    /// A snapshot is on its way.
    pub(crate) snapshot: Option<SnapshotSend>,
}

/// A snapshot on its way to a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SnapshotSend {
    /// The peer has read all of it.
    pub(crate) sent: bool,
    /// It has said that it does not take it, which may overtake the end of the stream.
    pub(crate) refused: bool,
    /// When to give up, ms.
    pub(crate) deadline: u64,
}

/// What raft-rs holds of a peer, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Follower {
    state: ProgressState,
    matched: u64,
    next_index: u64,
    pending_snapshot: u64,
}

impl From<&Progress> for Follower {
    fn from(progress: &Progress) -> Follower {
        Follower {
            state: progress.state,
            matched: progress.matched,
            next_index: progress.next_idx,
            pending_snapshot: progress.pending_snapshot,
        }
    }
}

/// What the translator looks at.
pub(crate) struct View<'a> {
    pub(crate) id: u64,
    pub(crate) term: u64,
    pub(crate) role: StateRole,
    pub(crate) committed: u64,
    /// `B`: index of the first entry of our term, while we lead.
    pub(crate) first_of_term: Option<u64>,
    /// The last entry in memory.
    pub(crate) last: EntryId,
    pub(crate) cache: &'a LogCache,
}

/// What a result means to raft-rs.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Step this message.
    Message(Box<eraftpb::Message>),
    /// The peer lives; nothing else.
    Alive,
    /// The snapshot on its way has failed.
    SnapshotFailed,
    /// Its log ends here, before what it had acknowledged.
    Lost(u64),
}

/// An outgoing AppendEntries with entries, or a probe without. `None` if it cannot be expressed:
/// then it is as if the network had lost it.
pub(crate) fn append_out(
    view: &View<'_>,
    peer: &mut PeerState,
    message: &eraftpb::Message,
) -> Option<AppendEntries> {
    if message.term != view.term {
        return None; // of a leadership that ended before the message left
    }
    let mut entries = Vec::with_capacity(message.entries.len());
    for entry in &message.entries {
        let have = view
            .cache
            .get(entry.index)
            .filter(|have| have.term == entry.term)?;
        entries.push(have);
    }
    let append = AppendEntries {
        term: message.term,
        prev_index: message.index,
        prev_term: message.log_term,
        leader_commit: message.commit,
        entries,
        stamp: Stamp::default(),
    };
    guarded(view, peer, append)
}

/// An outgoing heartbeat, as an empty AppendEntries at a position that says something true.
pub(crate) fn heartbeat_out(
    view: &View<'_>,
    peer: &mut PeerState,
    follower: Follower,
) -> Option<AppendEntries> {
    let first_of_term = view.first_of_term?;
    let replicated = follower.next_index.saturating_sub(1);
    let anywhere = is_broken(Mutant::HeartbeatAnywhere) && replicated > 0;
    let there = match follower.state == ProgressState::Replicate && replicated >= first_of_term {
        true => view.cache.term_at(replicated),
        false if anywhere => view.cache.term_at(replicated),
        false => None,
    };
    let prev = match there {
        Some(term) => EntryId {
            index: replicated,
            term,
        },
        // Also where the log there is gone by now: without a heartbeat the peer could not answer,
        // and nothing else would ever make raft-rs look at it again.
        None => {
            if !peer.positions.contains(&view.last.index) {
                if peer.positions.len() == POSITIONS {
                    peer.positions.pop_front();
                }
                peer.positions.push_back(view.last.index);
            }
            view.last
        }
    };
    let append = AppendEntries {
        term: view.term,
        prev_index: prev.index,
        prev_term: prev.term,
        leader_commit: view.committed,
        entries: Vec::new(),
        stamp: Stamp::default(),
    };
    guarded(view, peer, append)
}

/// Notes that a heartbeat of raft-rs's went out: the next result is its answer too.
pub(crate) fn owe_heartbeat(peer: &mut PeerState) {
    peer.heartbeat_owed = true;
}

/// The two locks that every AppendEntries passes: it reaches B, and commits no further than it
/// reaches.
fn guarded(
    view: &View<'_>,
    peer: &mut PeerState,
    mut append: AppendEntries,
) -> Option<AppendEntries> {
    let first_of_term = view.first_of_term?;
    let broken = is_broken(Mutant::AppendStopsShort) || is_broken(Mutant::HeartbeatAnywhere);
    if append.end() < first_of_term && !broken {
        debug_assert!(
            false,
            "an append that ends at {} before {first_of_term}",
            append.end()
        );
        log::error!(
            "withheld an AppendEntries that ends at {} before {first_of_term}",
            append.end()
        );
        return None;
    }
    if !is_broken(Mutant::CommitBeyondEnd) {
        append.leader_commit = append.leader_commit.min(append.end());
    }
    peer.sent_append = true;
    Some(append)
}

/// An outgoing answer to a leader of our term.
pub(crate) fn result_out(message: &eraftpb::Message, echo: Echo) -> AppendEntriesResult {
    AppendEntriesResult {
        term: message.term,
        rejected: if message.reject { message.index } else { 0 },
        last_index: if message.reject {
            message.reject_hint
        } else {
            message.index
        },
        echo: Some(echo),
    }
}

/// Outgoing messages that need no memory: votes, TimeoutNow.
pub(crate) fn plain_out(view: &View<'_>, message: &eraftpb::Message) -> Option<Message> {
    Some(match message.get_msg_type() {
        kind @ (MessageType::MsgRequestVote | MessageType::MsgRequestPreVote) => {
            Message::RequestVote(RequestVote {
                term: message.term,
                candidate: view.id,
                last_index: message.index,
                last_term: message.log_term,
                disrupt_leader: message.context == CAMPAIGN_TRANSFER,
                pre_vote: kind == MessageType::MsgRequestPreVote,
            })
        }
        kind @ (MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse) => {
            Message::RequestVoteResult(RequestVoteResult {
                term: message.term,
                granted: !message.reject,
                pre_vote: Some(kind == MessageType::MsgRequestPreVoteResponse),
                own_term: message.reject,
            })
        }
        MessageType::MsgTimeoutNow => Message::TimeoutNow {
            term: message.term,
            last_index: view.last.index,
            last_term: view.last.term,
        },
        // Forwarded proposals, reads and the like have no words in this protocol, and the driver
        // never asks for them.
        other => {
            debug_assert!(false, "raft-rs made a {other:?}");
            log::error!("dropped a message that cannot be expressed: {other:?}");
            return None;
        }
    })
}

/// An incoming AppendEntries, always as MsgAppend: raft-rs's heartbeat carries no log position and
/// panics on a commit index beyond the log. The entries' bytes are staged by the caller.
pub(crate) fn append_in(from: u64, to: u64, append: &AppendEntries) -> eraftpb::Message {
    let kind = match is_broken(Mutant::HeartbeatsAsSuch) && append.entries.is_empty() {
        true => MessageType::MsgHeartbeat,
        false => MessageType::MsgAppend,
    };
    let mut message = base(kind, from, to, append.term);
    message.index = append.prev_index;
    message.log_term = append.prev_term;
    message.commit = append.leader_commit;
    let entries = append.entries.iter();
    message.entries = entries
        .map(|entry| handle(entry.index, entry.term, entry.kind))
        .collect();
    message
}

/// An incoming result while we lead and it is of our term.
pub(crate) fn result_in(
    view: &View<'_>,
    peer: &mut PeerState,
    follower: Follower,
    from: u64,
    result: &AppendEntriesResult,
) -> Vec<Step> {
    let first_of_term = view.first_of_term.unwrap_or(u64::MAX);
    let mut steps = Vec::new();
    let mut response = base(MessageType::MsgAppendResponse, from, view.id, view.term);
    if result.rejected == 0 {
        // An index beyond our log would stay in `matched` and commit falsely once the log grows.
        response.index = result.last_index.min(view.last.index);
        let unverified = follower.matched < first_of_term && response.index >= first_of_term;
        if unverified && !peer.sent_append {
            steps.push(Step::Alive);
        } else {
            steps.push(Step::Message(Box::new(response)));
        }
    } else if follower.state == ProgressState::Snapshot {
        let pending = follower.pending_snapshot;
        let refused = result.rejected == pending && pending != view.last.index;
        let failed = peer.snapshot.as_mut().is_some_and(|snapshot| {
            snapshot.refused |= refused;
            snapshot.sent && refused
        });
        steps.push(if failed {
            Step::SnapshotFailed
        } else {
            Step::Alive
        });
    } else if result.rejected == follower.matched && lacks(result, follower.matched) {
        steps.push(Step::Lost(result.last_index));
    } else if result.rejected <= follower.matched
        || (peer.positions.contains(&result.rejected)
            && result.rejected != follower.next_index.saturating_sub(1))
    {
        // Overtaken, or about a position that was to show life only. raft-rs 0.7.0 would let
        // `next_idx` fall to `matched` and below while it probes.
        steps.push(Step::Alive);
    } else {
        response.reject = true;
        response.index = result.rejected;
        // A busy C follower reports 0.
        response.reject_hint = result.last_index.min(view.last.index).max(follower.matched);
        steps.push(Step::Message(Box::new(response)));
    }
    if std::mem::take(&mut peer.heartbeat_owed) || is_broken(Mutant::HeartbeatPerResult) {
        let response = base(MessageType::MsgHeartbeatResponse, from, view.id, view.term);
        steps.push(Step::Message(Box::new(response)));
    }
    steps
}

/// Whether a peer that refuses an append says that it does not hold the entry that it stands behind. A
/// busy node of C dqlite says so of everything.
fn lacks(result: &AppendEntriesResult, index: u64) -> bool {
    result.last_index < index && (result.last_index > 0 || result.echo.is_some())
}

/// An incoming request for a vote.
pub(crate) fn vote_in(from: u64, to: u64, request: &RequestVote) -> eraftpb::Message {
    let kind = if request.pre_vote {
        MessageType::MsgRequestPreVote
    } else {
        MessageType::MsgRequestVote
    };
    let mut message = base(kind, from, to, request.term);
    message.index = request.last_index;
    message.log_term = request.last_term;
    if request.disrupt_leader {
        message.context = CAMPAIGN_TRANSFER.to_vec();
    }
    message
}

/// An incoming vote, if it answers what we are asking.
pub(crate) fn vote_result_in(
    view: &View<'_>,
    from: u64,
    result: &RequestVoteResult,
) -> Option<eraftpb::Message> {
    match view.role {
        StateRole::PreCandidate if result.pre_vote != Some(false) => {
            let mut message = base(
                MessageType::MsgRequestPreVoteResponse,
                from,
                view.id,
                result.term,
            );
            message.reject = !result.granted;
            let next = view.term + 1;
            match (result.granted, result.term) {
                (true, term) if term == next => Some(message),
                (true, _) => None,
                (false, term) if term == next && !result.own_term => {
                    if !is_broken(Mutant::AdoptEchoedTerm) {
                        message.term = view.term;
                    }
                    Some(message)
                }
                (false, term) if term >= view.term => Some(message),
                (false, _) => None,
            }
        }
        StateRole::Candidate if result.pre_vote != Some(true) => {
            let mut message = base(
                MessageType::MsgRequestVoteResponse,
                from,
                view.id,
                result.term,
            );
            message.reject = !result.granted;
            Some(message)
        }
        _ => None,
    }
}

/// A message with the fields that all have.
pub(crate) fn base(kind: MessageType, from: u64, to: u64, term: u64) -> eraftpb::Message {
    let mut message = eraftpb::Message {
        from,
        to,
        term,
        ..eraftpb::Message::default()
    };
    message.set_msg_type(kind);
    message
}
