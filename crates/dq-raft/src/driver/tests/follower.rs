//! What a node makes of requests and votes, and what it starts from.

use dq_wire::{EntryKind, Role};
use raft::StateRole;

use super::bench::*;
use super::network::*;
use crate::driver::{Bounds, Driver, Effect, Options, RaftRole};
use crate::message::*;
use crate::types::{DiskOp, Recovered};

#[test]
fn a_heartbeat_commits_no_further_than_it_verifies() {
    // R7: as raft-rs's own heartbeat this would panic.
    let mut bench = Bench::of_three(&[1, 1]);
    bench.receive(2, append(1, (2, 1), 9, &[]));
    assert_eq!(bench.driver.commit_index(), 2);
    assert_eq!(bench.results().len(), 1);
}

#[test]
fn results_wait_for_the_disk_but_an_empty_append_is_answered_with_what_is_stored() {
    // R8
    let mut bench = Bench::of_three(&[1, 1]);
    bench.receive(2, append(1, (3, 1), 1, &[1]));
    assert_eq!(bench.results(), []);
    bench.receive(2, append(1, (4, 1), 1, &[]));
    let early = bench.results();
    assert_eq!(early.len(), 1);
    assert_eq!(
        (early[0].rejected, early[0].last_index),
        (0, 3),
        "4 is not durable"
    );
    bench.durable();
    let late: Vec<u64> = bench
        .results()
        .iter()
        .map(|result| result.last_index)
        .collect();
    assert_eq!(late, [4, 4]);
}

#[test]
fn nothing_is_answered_in_a_term_that_is_not_durable() {
    // R8, R13
    let mut bench = Bench::of_three(&[1, 1]);
    bench.receive(2, append(5, (3, 1), 1, &[]));
    assert_eq!(bench.results(), []);
    bench.durable();
    assert_eq!(bench.results().len(), 1);
}

#[test]
fn a_leader_of_an_older_term_is_told_the_newer_one() {
    let mut bench = Bench::of_three(&[4, 4]);
    bench.receive(2, append(3, (3, 3), 1, &[]));
    let results = bench.results();
    assert_eq!((results[0].term, results[0].rejected), (4, 3));
    let meta = snapshot(9, 3, &voters(3));
    bench.receive(
        2,
        Message::InstallSnapshot {
            term: 3,
            meta: meta.clone(),
        },
    );
    assert_eq!(bench.results()[0].term, 4);
    assert_eq!(bench.others, [Effect::Discard(meta)]);
}

#[test]
fn a_snapshot_that_does_not_name_us_is_installed_and_its_configuration_kept() {
    // R9
    let others = configuration(&[(2, Role::Voter), (3, Role::Standby), (4, Role::Spare)]);
    let mut bench = Bench::new(Recovered::default());
    let meta = snapshot(9, 3, &others);
    bench.receive(
        2,
        Message::InstallSnapshot {
            term: 3,
            meta: meta.clone(),
        },
    );
    assert_eq!(bench.results(), []);
    let ops = &bench.persists[0].ops;
    assert_eq!(ops[0], DiskOp::HardState { term: 3, vote: 0 });
    assert_eq!(ops[1], DiskOp::InstallSnapshot { meta: meta.clone() });
    assert_eq!(bench.others, []);
    bench.durable();
    assert_eq!(bench.others, [Effect::Restore(meta.clone())]);
    assert_eq!(bench.results()[0].last_index, 9);
    assert_eq!(bench.driver.committed_configuration(), (&others, 1));
    assert_eq!(bench.driver.applied_index(), 9);

    bench.receive(
        2,
        Message::InstallSnapshot {
            term: 3,
            meta: meta.clone(),
        },
    );
    assert_eq!(bench.others[1], Effect::Discard(meta), "we have it already");
}

#[test]
fn a_snapshot_that_ends_in_an_older_term_than_what_is_committed_is_discarded() {
    let mut bench = Bench::of_three(&[1, 1]);
    bench.receive(2, append(3, (3, 1), 4, &[3]));
    bench.durable();
    assert_eq!(bench.driver.commit_index(), 4);
    let meta = snapshot(9, 2, &voters(3));
    let message = Message::InstallSnapshot {
        term: 3,
        meta: meta.clone(),
    };
    bench.receive(2, message);
    assert_eq!(bench.others.last(), Some(&Effect::Discard(meta)));
}

#[test]
fn timeout_now_is_obeyed_only_from_our_leader_about_our_log_with_an_idle_disk() {
    // R10
    let now = |term, index, last| Message::TimeoutNow {
        term,
        last_index: index,
        last_term: last,
    };
    let mut bench = Bench::of_three(&[1, 1]);
    bench.receive(2, now(1, 3, 1));
    assert_eq!(bench.driver.role(), RaftRole::Follower, "2 does not lead");
    bench.receive(2, append(1, (3, 1), 1, &[1]));
    bench.receive(2, now(1, 4, 1));
    assert_eq!(bench.driver.role(), RaftRole::Follower, "4 is not durable");
    bench.durable();
    bench.receive(2, now(1, 3, 1));
    bench.receive(2, now(1, 5, 1));
    bench.receive(3, now(1, 4, 1));
    assert_eq!(bench.driver.role(), RaftRole::Follower);
    bench.receive(2, now(1, 4, 1));
    assert_eq!(bench.driver.role(), RaftRole::Candidate);
    bench.durable();
    let asked = bench.sent();
    let disrupts = |message: &Message| matches!(message, Message::RequestVote(r) if r.disrupt_leader && !r.pre_vote);
    assert_eq!(
        asked
            .iter()
            .filter(|(_, message)| disrupts(message))
            .count(),
        2
    );
}

#[test]
fn a_refused_pre_vote_that_echoes_raises_no_term() {
    // R11
    let mut bench = Bench::of_three(&[1, 1]);
    bench.until_pre_candidate();
    bench.receive(2, vote(2, false, true));
    assert_eq!(bench.driver.term(), 1);
    bench.receive(3, vote(2, false, true));
    assert_eq!(
        (bench.driver.role(), bench.driver.term()),
        (RaftRole::Follower, 1)
    );

    // A voter of our kind says whose term it is.
    bench.until_pre_candidate();
    let own = RequestVoteResult {
        term: 2,
        granted: false,
        pre_vote: Some(true),
        own_term: true,
    };
    bench.receive(2, Message::RequestVoteResult(own));
    assert_eq!(bench.driver.term(), 2);
    bench.durable();

    // Higher than an echo can be.
    bench.until_pre_candidate();
    bench.receive(2, vote(9, false, true));
    assert_eq!(bench.driver.term(), 9);
}

#[test]
fn votes_count_only_for_what_is_being_asked() {
    // R11
    let mut bench = Bench::of_three(&[1, 1]);
    bench.receive(2, vote(2, true, true));
    bench.receive(2, vote(1, true, false));
    assert_eq!(bench.driver.role(), RaftRole::Follower);
    bench.until_pre_candidate();
    bench.receive(2, vote(2, true, false));
    bench.receive(2, vote(7, true, true));
    assert_eq!(bench.driver.role(), RaftRole::PreCandidate);
    let short = RequestVoteResult {
        term: 2,
        granted: true,
        pre_vote: None,
        own_term: false,
    };
    bench.receive(2, Message::RequestVoteResult(short));
    assert_eq!(
        bench.driver.role(),
        RaftRole::Candidate,
        "an old node's answer is the one asked for"
    );
    bench.durable();
    bench.receive(2, Message::RequestVoteResult(short));
    assert_eq!(bench.driver.role(), RaftRole::Leader);
}

#[test]
fn a_pre_vote_for_a_far_term_lifts_a_node_without_leader() {
    let mut bench = Bench::of_three(&[1, 1]);
    bench.receive(2, ask(6, (1, 1), true, false));
    assert_eq!(bench.driver.term(), 5);
    bench.receive(2, append(5, (3, 1), 1, &[]));
    bench.receive(2, ask(9, (1, 1), true, false));
    assert_eq!(
        bench.driver.term(),
        5,
        "with a leader it is none of our business"
    );
}

#[test]
fn a_voter_that_has_voted_lets_one_stand_that_is_a_term_behind() {
    let mut bench = Bench::of_three(&[1, 1]);
    bench.receive(2, ask(3, (3, 1), false, false));
    bench.durable();
    bench.sent();
    assert_eq!((bench.driver.term(), bench.driver.raw.raft.vote), (3, 2));
    let mut asked = |log, pre_vote| {
        let Message::RequestVote(mut request) = ask(3, log, pre_vote, false) else {
            unreachable!("it is one")
        };
        request.candidate = 3;
        bench.receive(3, Message::RequestVote(request));
        let answers = bench.sent().into_iter().filter_map(|sent| match sent {
            (3, Message::RequestVoteResult(result)) => Some((result.granted, result.term)),
            _ => None,
        });
        answers.collect::<Vec<_>>()
    };
    assert_eq!(asked((3, 1), true), [(true, 3)], "which promises nothing");
    assert_eq!(asked((2, 1), true), [(false, 3)], "its log is too short");
    assert_eq!(asked((3, 1), false), [(false, 3)], "the vote is spent");
}

#[test]
fn nobody_stands_for_election_while_its_disk_works() {
    // R12
    let mut bench = Bench::of_three(&[1, 1]);
    bench.receive(2, append(1, (3, 1), 1, &[1]));
    bench.pass(3000);
    assert_eq!(bench.driver.role(), RaftRole::Follower);
    bench.durable();
    bench.until_pre_candidate();
}

#[test]
fn a_log_that_begins_before_the_snapshot_keeps_its_first_term_only() {
    // R20: the term before entry 5 is not known.
    let recovered = Recovered {
        term: 3,
        vote: 0,
        snapshot: Some(snapshot(6, 2, &voters(3))),
        entries: (5..=9)
            .map(|i| entry(i, 2, EntryKind::Command, command(i)))
            .collect(),
    };
    let mut bench = Bench::new(recovered);
    assert_eq!(bench.driver.raw.raft.raft_log.first_index(), 6);
    assert_eq!(
        (bench.driver.applied_index(), bench.driver.last_index()),
        (6, 9)
    );
    // A leader whose log differs throughout: the search for a common entry must not panic.
    for prev in (6..10).rev() {
        bench.receive(2, append(9, (prev, 1), 6, &[]));
    }
    assert_eq!(bench.driver.commit_index(), 6);
    // A snapshot right before the log.
    let recovered = Recovered {
        snapshot: Some(snapshot(6, 2, &voters(3))),
        entries: vec![entry(7, 2, EntryKind::Command, command(7))],
        ..Recovered::default()
    };
    let driver = Driver::new(
        options(1),
        Recovered {
            term: 2,
            ..recovered
        },
    )
    .expect("valid");
    assert_eq!(driver.raw.raft.raft_log.first_index(), 7);
}

#[test]
fn a_directory_that_raft_would_panic_on_is_refused() {
    let fine = log(&voters(3), &[1, 1]);
    let broken = |f: fn(&mut Recovered)| {
        let mut recovered = fine.clone();
        f(&mut recovered);
        Driver::new(options(1), recovered).is_err()
    };
    assert!(!broken(|_| ()));
    assert!(broken(|r| drop(r.entries.remove(0))));
    assert!(broken(|r| drop(r.entries.remove(1))));
    assert!(broken(|r| r.entries[1].term = 0));
    assert!(broken(|r| r.entries[0].payload = command(3)));
    assert!(broken(|r| r.snapshot = Some(snapshot(2, 9, &voters(3)))));
    assert!(broken(|r| r.snapshot = Some(snapshot(0, 0, &voters(3)))));
    let options = Options {
        heartbeat_ms: 300,
        ..options(1)
    };
    assert!(Driver::new(options, fine.clone()).is_err());
}

#[test]
fn an_entry_is_not_acknowledged_or_applied_before_the_work_that_removes_it_first() {
    // S22
    let mut bench = Bench::of_three(&[1]);
    bench.receive(2, append(2, (2, 1), 2, &[2]));
    bench.receive(3, append(3, (2, 1), 2, &[3]));
    bench.receive(2, append(4, (2, 1), 2, &[2]));
    bench.receive(2, append(4, (3, 2), 3, &[]));
    assert_eq!(bench.persists.len(), 3);
    bench.applied.clear();
    for id in 1..=2 {
        bench.driver.durable(id);
        bench.take();
        assert_eq!(bench.applied, [], "after {id}");
        for result in bench.results() {
            assert!(
                result.term < 4,
                "nothing of the last leader's yet: {result:?}"
            );
        }
    }
    bench.driver.durable(3);
    bench.take();
    assert_eq!(bench.applied.last().expect("applied").index, 3);
    assert_eq!(
        bench
            .results()
            .iter()
            .map(|result| result.last_index)
            .collect::<Vec<_>>(),
        [3, 3]
    );
}

#[test]
fn a_follower_without_room_drops_entries_and_answers_the_rest() {
    // S25
    let mut bench = Bench::of_three(&[1]);
    bench.driver.set_disk_full(true);
    bench.receive(2, append(1, (2, 1), 1, &[1]));
    assert_eq!(bench.driver.last_index(), 2);
    assert_eq!(bench.results(), []);
    bench.receive(2, append(1, (2, 1), 1, &[]));
    assert_eq!(bench.results().len(), 1);
    bench.driver.set_disk_full(false);
    bench.receive(2, append(1, (2, 1), 1, &[1]));
    assert_eq!(bench.driver.last_index(), 3);
}

#[test]
fn entries_are_dropped_while_too_many_wait_for_a_disk_that_hangs() {
    let driver = Driver::new(options(1), log(&voters(3), &[1])).expect("valid");
    let mut bench = Bench::of(driver.with_bounds(Bounds {
        unstored_bytes_max: 200,
    }));
    // Each takes 8 bytes and what an entry costs.
    bench.receive(2, append(1, (2, 1), 1, &[1, 1]));
    bench.receive(2, append(1, (4, 1), 1, &[1]));
    assert_eq!(bench.driver.last_index(), 4, "the third is too much");
    bench.receive(2, append(1, (4, 1), 1, &[]));
    assert_eq!(bench.results().len(), 1, "it is still heard of");
    bench.durable();
    bench.receive(2, append(1, (4, 1), 1, &[1, 1, 1, 1]));
    assert_eq!(bench.driver.last_index(), 8, "alone, any number is taken");
    assert!(bench.driver.usage().iter().all(|u| u.held <= u.bound));
}

#[test]
fn a_disk_that_hangs_gathers_no_answer_per_heartbeat() {
    let mut bench = Bench::of_three(&[1]);
    bench.receive(2, append(1, (2, 1), 1, &[1]));
    for _ in 0..5000 {
        bench.receive(2, append(1, (3, 1), 1, &[]));
    }
    assert!(bench.driver.usage().iter().all(|u| u.held <= u.bound));
    bench.results();
    bench.durable();
    let late = bench.results();
    assert!(late.len() <= 1024, "{}", late.len());
    assert_eq!(late.last().map(|result| result.last_index), Some(3));
}

#[test]
fn hostile_messages_are_refused_and_change_nothing() {
    let mut bench = Bench::of_three(&[1, 1]);
    let with = |f: fn(&mut AppendEntries)| {
        let Message::AppendEntries(mut message) = append(1, (3, 1), 1, &[1]) else {
            unreachable!("made so")
        };
        f(&mut message);
        Message::AppendEntries(message)
    };
    let hostile = [
        with(|m| m.term = 0),
        with(|m| m.term = u64::MAX),
        with(|m| m.prev_index = u64::MAX),
        with(|m| (m.prev_index, m.prev_term) = (9, 0)),
        with(|m| m.prev_term = 2),
        with(|m| m.leader_commit = u64::MAX),
        with(|m| m.entries[0].index = 7),
        with(|m| m.entries[0].term = 0),
        with(|m| m.entries[0].term = 2),
        with(|m| m.entries[0].payload = bytes::Bytes::from_static(b"abc").into()),
        with(|m| m.entries[0].kind = EntryKind::Change),
        ask(0, (1, 1), false, false),
        ask(u64::MAX, (1, 1), false, false),
        ask(3, (1, 0), false, false),
        Message::TimeoutNow {
            term: 0,
            last_index: 3,
            last_term: 1,
        },
        Message::InstallSnapshot {
            term: 1,
            meta: snapshot(0, 0, &voters(3)),
        },
        Message::InstallSnapshot {
            term: 1,
            meta: snapshot(9, 1, &configuration(&[(2, Role::Spare)])),
        },
        ok(0, 1),
    ];
    for message in hostile {
        assert!(bench.refused(2, message.clone()), "{message:?}");
    }
    assert!(bench.refused(0, append(1, (3, 1), 1, &[])), "from nobody");
    assert!(
        bench.refused(1, append(1, (3, 1), 1, &[])),
        "from ourselves"
    );
    assert!(
        bench.refused(3, ask(2, (3, 1), false, false)),
        "a vote for somebody else"
    );
    assert_eq!((bench.driver.term(), bench.driver.last_index()), (1, 3));
    assert_eq!(bench.driver.raw.raft.state, StateRole::Follower);
    assert_eq!(bench.sent(), []);
}
