//! What stock raft-rs does with a field-by-field mapping of dqlite's messages, and on input that it
//! does not expect. Each test here shows a harm that a rule of the translator or the driver
//! excludes; if a later raft-rs behaves differently, the rule can be looked at again.

use std::panic::{AssertUnwindSafe, catch_unwind};

use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, Message,
    MessageType, Snapshot,
};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};

type Node = RawNode<MemStorage>;

/// Node 1 of `voters` with a log of one entry per term in `terms`, all of it stable.
fn node(voters: &[u64], terms: &[u64]) -> Node {
    let storage = MemStorage::new_with_conf_state((voters.to_vec(), vec![]));
    let entries: Vec<Entry> = terms
        .iter()
        .zip(1..)
        .map(|(&term, index)| entry(index, term))
        .collect();
    let mut core = storage.wl();
    core.append(&entries).expect("contiguous");
    let term = terms.last().copied().unwrap_or(0);
    core.mut_hard_state().term = term;
    drop(core);
    let config = Config {
        id: 1,
        election_tick: 10,
        heartbeat_tick: 2,
        check_quorum: true,
        pre_vote: true,
        max_size_per_msg: u64::MAX,
        max_uncommitted_size: u64::MAX,
        ..Config::default()
    };
    RawNode::new(&config, storage, &crate::driver::log::logger()).expect("valid")
}

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index,
        term,
        context: vec![1],
        ..Entry::default()
    }
}

fn message(kind: MessageType, from: u64, term: u64) -> Message {
    crate::translate::base(kind, from, 1, term)
}

/// Handles all that is ready, the disk being instant; returns the messages.
fn settle(node: &mut Node) -> Vec<Message> {
    let mut messages = Vec::new();
    while node.has_ready() {
        let mut ready = node.ready();
        messages.extend(ready.take_messages());
        messages.extend(ready.take_persisted_messages());
        store(node, &ready);
        let number = ready.number();
        let applied = ready
            .take_committed_entries()
            .last()
            .map(|entry| entry.index);
        node.advance_append_async(ready);
        node.on_persist_ready(number);
        if let Some(applied) = applied {
            node.advance_apply_to(applied);
        }
    }
    messages
}

fn store(node: &mut Node, ready: &raft::Ready) {
    let mut core = node.mut_store().wl();
    if !ready.snapshot().is_empty() {
        core.apply_snapshot(ready.snapshot().clone())
            .expect("newer");
    }
    core.append(ready.entries()).expect("contiguous");
}

/// Makes the node leader of the next term with the votes of 2 and 3.
fn elect(node: &mut Node) {
    node.campaign().expect("may");
    settle(node);
    let next = node.raft.term + 1;
    node.step(message(MessageType::MsgRequestPreVoteResponse, 2, next))
        .expect("taken");
    settle(node);
    node.step(message(MessageType::MsgRequestVoteResponse, 2, next))
        .expect("taken");
    settle(node);
    assert_eq!(node.raft.state, StateRole::Leader);
}

fn panics(f: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

#[test]
fn stock_counts_an_acknowledgement_that_nothing_verified() {
    let mut leader = node(&[1, 2, 3], &[1, 1]);
    elect(&mut leader);
    leader.propose(vec![1], vec![]).expect("leads");
    leader.propose(vec![1], vec![]).expect("leads");
    settle(&mut leader);
    // A C follower with 3..5 of another leader says "ok, last 5" to an empty message at 2.
    let mut ack = message(MessageType::MsgAppendResponse, 2, 2);
    ack.index = 5;
    leader.step(ack).expect("taken");
    assert_eq!(leader.raft.raft_log.committed, 5);
}

#[test]
fn stock_keeps_an_acknowledgement_beyond_its_log_and_commits_with_it_later() {
    let mut leader = node(&[1, 2, 3], &[1, 1]);
    elect(&mut leader);
    let mut ack = message(MessageType::MsgAppendResponse, 2, 2);
    ack.index = 4;
    leader.step(ack).expect("taken");
    settle(&mut leader);
    assert_eq!(leader.raft.prs().get(2).expect("member").matched, 4);
    leader.propose(vec![1], vec![]).expect("leads");
    settle(&mut leader);
    assert_eq!(
        leader.raft.raft_log.committed, 4,
        "nobody has ever been sent entry 4"
    );
}

#[test]
fn stock_lets_the_next_index_fall_below_the_matched_one() {
    let mut leader = node(&[1, 2, 3], &[1, 1]);
    elect(&mut leader);
    let mut ack = message(MessageType::MsgAppendResponse, 2, 2);
    ack.index = 3;
    leader.step(ack).expect("taken");
    leader.report_unreachable(2);
    settle(&mut leader);
    // A C follower that is busy reports 0 as its last index.
    let mut reject = message(MessageType::MsgAppendResponse, 2, 2);
    reject.reject = true;
    reject.index = 3;
    reject.reject_hint = 0;
    leader.step(reject).expect("taken");
    let progress = leader.raft.prs().get(2).expect("member");
    assert!(progress.next_idx <= progress.matched, "{progress:?}");
}

#[test]
fn stock_sends_an_append_for_every_heartbeat_response_of_a_peer_that_lags() {
    let mut leader = node(&[1, 2, 3], &[1, 1]);
    elect(&mut leader);
    for _ in 0..3 {
        leader
            .step(message(MessageType::MsgHeartbeatResponse, 2, 2))
            .expect("taken");
        let sent = settle(&mut leader);
        let appends = sent
            .iter()
            .filter(|m| m.get_msg_type() == MessageType::MsgAppend);
        assert_eq!(appends.count(), 1);
    }
}

#[test]
fn stock_panics_on_a_heartbeat_that_commits_beyond_its_log() {
    let mut follower = node(&[1, 2, 3], &[1, 1]);
    let mut beat = message(MessageType::MsgHeartbeat, 2, 1);
    beat.commit = 5;
    assert!(panics(|| drop(follower.step(beat))));
}

#[test]
fn stock_takes_a_position_of_term_zero_beyond_its_log_for_a_match_and_panics() {
    let mut follower = node(&[1, 2, 3], &[1, 1]);
    let mut append = message(MessageType::MsgAppend, 2, 1);
    append.index = 9;
    append.commit = 9;
    assert!(panics(|| drop(follower.step(append))));
}

#[test]
fn stock_starts_an_election_on_a_timeout_now_of_term_zero() {
    let mut follower = node(&[1, 2, 3], &[1, 1]);
    follower
        .step(message(MessageType::MsgTimeoutNow, 2, 0))
        .expect("taken");
    assert_eq!(follower.raft.state, StateRole::Candidate);
}

#[test]
fn stock_ignores_a_snapshot_whose_configuration_does_not_name_it() {
    for (learners, restored) in [(vec![], false), (vec![1], true)] {
        let mut follower = node(&[], &[]);
        let mut snap = Snapshot::default();
        snap.mut_metadata().index = 9;
        snap.mut_metadata().term = 1;
        let state = ConfState {
            voters: vec![2, 3],
            learners,
            ..ConfState::default()
        };
        snap.mut_metadata().set_conf_state(state);
        let mut install = message(MessageType::MsgSnapshot, 2, 1);
        install.set_snapshot(snap);
        follower.step(install).expect("taken");
        assert_eq!(follower.raft.snap().is_some(), restored);
    }
}

#[test]
fn stock_adopts_the_term_that_a_refused_pre_vote_echoes() {
    let mut candidate = node(&[1, 2, 3], &[1, 1]);
    candidate.campaign().expect("may");
    settle(&mut candidate);
    assert_eq!(
        (candidate.raft.state, candidate.raft.term),
        (StateRole::PreCandidate, 1)
    );
    let mut refusal = message(MessageType::MsgRequestPreVoteResponse, 2, 2);
    refusal.reject = true;
    candidate.step(refusal).expect("taken");
    assert_eq!(candidate.raft.term, 2, "although nobody is in term 2");
}

#[test]
fn stock_panics_if_a_sole_voter_stands_with_entries_that_are_not_persisted() {
    let mut alone = node(&[1], &[1, 1]);
    let mut append = message(MessageType::MsgAppend, 2, 1);
    append.index = 2;
    append.log_term = 1;
    append.entries = vec![entry(3, 1)];
    alone.step(append).expect("taken");
    let mut ready = alone.ready();
    ready.take_entries();
    alone
        .mut_store()
        .wl()
        .append(&[entry(3, 1)])
        .expect("contiguous");
    alone.advance_append_async(ready);
    assert!(panics(|| drop(alone.campaign())));
}

#[test]
fn stock_releases_a_sole_voters_messages_before_its_term_is_durable() {
    let mut alone = node(&[1], &[1, 1]);
    let mut learner = ConfChange {
        node_id: 2,
        ..ConfChange::default()
    };
    learner.set_change_type(ConfChangeType::AddLearnerNode);
    alone.apply_conf_change(&learner).expect("one step");
    alone.campaign().expect("may");
    let ready = alone.ready();
    assert_eq!(ready.hs().expect("the term changed").term, 2);
    assert!(!ready.messages().is_empty(), "to go at once");
}

#[test]
fn stock_enters_joint_consensus_for_several_changes_in_one() {
    let mut leader = node(&[1, 2, 3], &[1]);
    let single = |id| {
        let mut change = ConfChangeSingle {
            node_id: id,
            ..ConfChangeSingle::default()
        };
        change.set_change_type(ConfChangeType::AddNode);
        change
    };
    let both = ConfChangeV2 {
        changes: vec![single(4), single(5)],
        ..Default::default()
    };
    let state = leader.apply_conf_change(&both).expect("taken");
    assert!(!state.voters_outgoing.is_empty());
}

#[test]
fn stock_refuses_a_learner_where_there_is_no_voter() {
    let mut blank = node(&[], &[]);
    let mut learner = ConfChange {
        node_id: 1,
        ..ConfChange::default()
    };
    learner.set_change_type(ConfChangeType::AddLearnerNode);
    assert!(blank.apply_conf_change(&learner).is_err());
}

#[test]
fn stock_panics_if_a_leader_removes_itself_and_not_if_it_becomes_a_learner() {
    for (kind, harm) in [
        (ConfChangeType::RemoveNode, true),
        (ConfChangeType::AddLearnerNode, false),
    ] {
        let mut leader = node(&[1, 2, 3], &[1, 1]);
        elect(&mut leader);
        leader.propose(vec![1], vec![]).expect("leads");
        settle(&mut leader);
        let mut change = ConfChange {
            node_id: 1,
            ..ConfChange::default()
        };
        change.set_change_type(kind);
        leader.apply_conf_change(&change).expect("one step");
        let acknowledge = |leader: &mut Node, from| {
            let mut ack = message(MessageType::MsgAppendResponse, from, 2);
            ack.index = 4;
            leader.step(ack).expect("taken");
        };
        let died = panics(|| {
            acknowledge(&mut leader, 2);
            acknowledge(&mut leader, 3);
            settle(&mut leader);
        });
        assert_eq!(died, harm, "{kind:?}");
    }
}

#[test]
fn stock_counts_an_entry_as_persisted_that_queued_work_removes_first() {
    let mut follower = node(&[1, 2, 3], &[1, 1]);
    let append = |follower: &mut Node, from, term, entry_term| {
        let mut append = message(MessageType::MsgAppend, from, term);
        append.index = 2;
        append.log_term = 1;
        append.entries = vec![entry(3, entry_term)];
        follower.step(append).expect("taken");
        let ready = follower.ready();
        store(follower, &ready);
        let number = ready.number();
        follower.advance_append_async(ready);
        number
    };
    let first = append(&mut follower, 2, 2, 2);
    append(&mut follower, 3, 3, 3);
    append(&mut follower, 2, 4, 2);
    follower.on_persist_ready(first);
    assert_eq!(
        follower.raft.raft_log.persisted, 3,
        "two disk operations are still to come"
    );
}

#[test]
fn stock_reports_nothing_of_a_leadership_lost_and_won_again() {
    let mut leader = node(&[1], &[1]);
    leader.campaign().expect("may");
    settle(&mut leader);
    leader.raft.become_follower(7, 0);
    leader.campaign().expect("may");
    assert_eq!(leader.raft.term, 8);
    assert!(leader.ready().ss().is_none());
}
