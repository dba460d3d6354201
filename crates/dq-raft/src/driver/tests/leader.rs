//! What a leader says, and what it makes of the answers.

use dq_wire::{EntryKind, Role};

use super::bench::*;
use super::network::*;
use crate::c_node::{self, CNode};
use crate::driver::{Driver, Effect, Epoch, Options, ProposeError, RaftRole};
use crate::log::cache::Trailing;
use crate::message::*;
use crate::types::DiskOp;

#[test]
fn every_append_of_a_leader_reaches_the_first_entry_of_its_term() {
    // R1: also the probes of a follower that is far behind, and with entries larger than a message
    // aims to be.
    let mut recovered = log(&voters(3), &[1; 6]);
    for entry in &mut recovered.entries[1..] {
        entry.payload = bytes::Bytes::from(vec![7; 600_000]).into();
    }
    let mut bench = Bench::new(recovered);
    bench.elect();
    let first = bench.driver.term_start().expect("leads");
    assert_eq!(first, 8);
    for back in (0..8).rev() {
        for append in bench.appends_to(2) {
            assert!(append.end() >= first, "{} is before {first}", append.end());
            assert!(append.leader_commit <= append.end(), "R2");
        }
        let next = bench.driver.progress()[0].next_index;
        bench.receive(2, rejected(2, next - 1, back));
    }
    // From there on the messages may be smaller: two entries of 600 kB fit in none.
    for _ in 0..3 {
        bench.propose(1);
    }
    bench.acknowledge(2, 8);
    assert_eq!(bench.matched(2), 8);
}

#[test]
fn beyond_the_first_entry_of_the_term_messages_keep_to_their_size() {
    let mut bench = Bench::leader_of_three(&[]);
    bench.sent();
    let large = || bytes::Bytes::from(vec![7; 600_000]).into();
    bench.receive(2, rejected(2, 1, 0));
    for _ in 0..4 {
        bench
            .driver
            .propose(bench.now, vec![(EntryKind::Command, large())])
            .expect("leads");
    }
    bench.take();
    bench.sent();
    bench.acknowledge(2, 2);
    let sizes: Vec<usize> = bench
        .appends_to(2)
        .iter()
        .map(|a| a.entries.len())
        .collect();
    assert_eq!(sizes, [1, 1, 1, 1]);
}

#[test]
fn a_follower_too_far_behind_for_one_message_gets_a_snapshot() {
    // R1's cap: what reaches the first entry of the term would be too large.
    let mut recovered = log(&voters(3), &[1; 70]);
    for entry in &mut recovered.entries[1..] {
        entry.payload = bytes::Bytes::from(vec![7; 1 << 20]).into();
    }
    let options = Options {
        log_bytes_max: 1 << 30,
        ..options(1)
    };
    let mut driver = Driver::new(options, recovered).expect("valid");
    driver.start(1000);
    let mut bench = Bench {
        driver,
        now: 1000,
        sent: Vec::new(),
        persists: Vec::new(),
        applied: Vec::new(),
        others: Vec::new(),
    };
    bench.elect();
    bench.acknowledge(3, 72);
    bench.durable();
    bench.receive(2, rejected(2, 71, 1));
    assert!(bench.others.contains(&Effect::SnapshotWanted));
    let meta = snapshot(70, 1, &voters(3));
    bench.driver.snapshot_taken(
        meta.clone(),
        Trailing {
            entries: 1000,
            bytes: 1 << 30,
        },
    );
    bench.take();
    bench.pass(100);
    bench.sent();
    bench.receive(2, rejected(2, 72, 1));
    let install = Message::InstallSnapshot { term: 2, meta };
    assert!(bench.sent().contains(&(2, install.clone())));
    // It says that it has no room for it before we hear that it has read all.
    bench.receive(2, rejected(2, 70, 1));
    bench.driver.snapshot_sent(2, true);
    bench.pass(100);
    bench.receive(2, rejected(2, 72, 1));
    bench.pass(100);
    bench.receive(2, rejected(2, 72, 1));
    assert!(
        bench.sent().contains(&(2, install)),
        "it is sent again at once"
    );
}

#[test]
fn a_follower_that_has_lost_what_it_acknowledged_is_sent_it_again() {
    // As after a power cut, if its disk reports a sync too early.
    let mut bench = Bench::leader_of_three(&[1, 1]);
    bench.propose(1);
    bench.propose(2);
    bench.durable();
    bench.acknowledge(2, 6);
    bench.acknowledge(3, 6);
    assert_eq!(bench.driver.commit_index(), 6);
    bench.sent();
    // A busy node of C dqlite says this of everything.
    bench.receive(2, rejected(2, 6, 0));
    assert_eq!(bench.matched(2), 6);
    bench.receive(2, rejected(2, 6, 3));
    assert_eq!(bench.matched(2), 0, "it counts for no majority any more");
    bench.pass(60);
    bench.receive(2, rejected(2, 6, 3));
    let lacking: Vec<AppendEntries> = bench
        .appends_to(2)
        .into_iter()
        .filter(|append| !append.entries.is_empty())
        .collect();
    assert!(!lacking.is_empty(), "nothing is sent to it");
    assert!(lacking.iter().all(|a| a.prev_index == 3 && a.end() == 6));
    // What it does not hold again is on one disk of three.
    bench.propose(1);
    bench.durable();
    assert_eq!(bench.driver.commit_index(), 6);
    bench.acknowledge(2, 6);
    assert_eq!(bench.matched(2), 6);
    bench.acknowledge(2, 7);
    assert_eq!(bench.driver.commit_index(), 7);
}

#[test]
fn a_follower_that_is_silent_is_spoken_to_for_as_long_as_there_is_a_leader() {
    // It may have no vote, and then it says nothing unless it is spoken to.
    let mut bench = Bench::leader_of_three(&[1, 1]);
    bench.durable();
    bench.acknowledge(2, 4);
    bench.acknowledge(3, 4);
    bench.sent();
    for _ in 0..40 {
        bench.pass(100);
        let asked = bench.sent();
        assert!(asked.iter().any(|(to, _)| *to == 2), "{asked:?}");
        bench.acknowledge(3, 4);
    }
    assert_eq!(bench.driver.role(), RaftRole::Leader);
}

#[test]
fn a_heartbeat_stands_where_the_log_is_known_or_at_its_end_and_commits_no_further() {
    // R3, R2: a peer in Probe hears of the end of the log, one in Replicate of its own position.
    let mut bench = Bench::leader_of_three(&[1, 1]);
    bench.acknowledge(3, 4);
    bench.durable();
    bench.propose(1);
    bench.sent();
    bench.pass(60);
    let beats = bench.sent();
    let beat = |id| {
        beats.iter().find_map(|(to, message)| match message {
            Message::AppendEntries(append) if *to == id => Some(append.clone()),
            _ => None,
        })
    };
    for id in [2, 3] {
        let beat = beat(id).expect("a heartbeat to each");
        assert_eq!((beat.prev_index, beat.prev_term), (5, 2), "node {id}");
        assert!(beat.entries.is_empty());
        assert_eq!(beat.leader_commit, 4);
    }
}

#[test]
fn a_success_is_taken_up_to_the_end_of_the_log_and_only_in_the_term() {
    // R4
    let mut bench = Bench::leader_of_three(&[1, 1]);
    bench.receive(2, ok(1, 4));
    assert_eq!(bench.matched(2), 0, "of an older term");
    bench.acknowledge(2, 900);
    assert_eq!(bench.matched(2), 4);
    bench.propose(1);
    bench.durable();
    assert_eq!(bench.driver.commit_index(), 4, "entry 5 is on one disk");
    bench.receive(2, rejected(9, 1, 0));
    assert_eq!(
        (bench.driver.role(), bench.driver.term()),
        (RaftRole::Follower, 9)
    );
}

#[test]
fn a_success_before_anything_was_sent_proves_nothing() {
    // R4, the third lock: the peer was added to the tracker and not sent anything yet.
    let view_peer = crate::translate::PeerState::default();
    let mut bench = Bench::leader_of_three(&[1, 1]);
    bench.driver.peers.insert(2, view_peer);
    bench.acknowledge(2, 4);
    assert_eq!(bench.matched(2), 0);
    bench.pass(60);
    bench.acknowledge(2, 4);
    assert_eq!(bench.matched(2), 4);
}

#[test]
fn a_rejection_does_not_take_back_what_is_matched() {
    // R5: a C follower that is busy reports 0.
    let mut bench = Bench::leader_of_three(&[1, 1]);
    bench.acknowledge(2, 4);
    bench.driver.unreachable(2);
    bench.take();
    bench.receive(2, rejected(2, 4, 0));
    let next = bench.driver.progress()[0].next_index;
    assert!(next > bench.matched(2), "{next}");
}

#[test]
fn a_rejected_sign_of_life_is_no_mismatch() {
    // R5: while a peer is probed, heartbeats at the end of the log tell nothing about it.
    let mut bench = Bench::leader_of_three(&[1, 1, 1]);
    bench.receive(2, rejected(2, 4, 2));
    let next = bench.driver.progress()[0].next_index;
    bench.propose(1);
    bench.pass(60);
    bench.sent();
    bench.receive(2, rejected(2, 6, 2));
    assert_eq!(bench.driver.progress()[0].next_index, next);
}

#[test]
fn a_heartbeat_is_answered_once_however_many_results_come() {
    // R6
    let mut bench = Bench::leader_of_three(&[1, 1]);
    bench.receive(2, rejected(2, 3, 1));
    bench.sent();
    bench.pass(60);
    bench.sent();
    let mut appends = 0;
    for _ in 0..5 {
        bench.receive(2, rejected(2, 900, 1));
        appends += bench.appends_to(2).len();
    }
    assert_eq!(appends, 1);
}

#[test]
fn a_sole_voters_new_term_is_durable_before_anybody_hears_of_it() {
    // R13
    let servers = configuration(&[(1, Role::Voter), (2, Role::Standby)]);
    let mut bench = Bench::new(log(&servers, &[1]));
    assert_eq!(bench.driver.role(), RaftRole::Leader);
    bench.propose(1);
    assert_eq!(bench.sent(), [], "not in the next piece of work either");
    assert_eq!(bench.persists.len(), 2);
    bench.driver.durable(1);
    bench.take();
    assert!(!bench.appends_to(2).is_empty());
}

#[test]
fn an_epoch_that_is_lost_and_won_again_is_another_one() {
    // S1: no Ready in between would show it.
    let servers = configuration(&[(1, Role::Voter), (2, Role::Standby)]);
    let mut bench = Bench::new(log(&servers, &[1]));
    bench.durable();
    let (epoch, changes) = (bench.driver.epoch(), bench.driver.epoch_changes());
    let result = bench.driver.receive(bench.now, &peer(2), rejected(6, 1, 0));
    assert_eq!(result, Ok(()));
    bench.take();
    bench.durable();
    bench.pass(20);
    assert_eq!(bench.driver.role(), RaftRole::Leader);
    assert_eq!(bench.driver.term(), 7);
    assert_ne!(bench.driver.epoch(), epoch);
    assert_eq!(bench.driver.epoch_changes(), changes + 2);
    let kinds: Vec<bool> = bench
        .others
        .iter()
        .map(|effect| matches!(effect, Effect::EpochBegan(_)))
        .collect();
    assert_eq!(kinds, [true, false, true]);
}

#[test]
fn a_proposal_that_raft_drops_ends_the_epoch() {
    // S5
    let mut bench = Bench::new(log(&voters(1), &[1]));
    bench.durable();
    bench.driver.raw.raft.lead_transferee = Some(9);
    let result = bench
        .driver
        .propose(bench.now, vec![(EntryKind::Command, command(1))]);
    assert_eq!(result, Err(ProposeError::NotLeader));
    assert_eq!(bench.driver.role(), RaftRole::Follower);
    assert_eq!(bench.driver.epoch(), None);
}

#[test]
fn a_failed_disk_ends_everything_at_once() {
    // S24
    let mut bench = Bench::leader_of_three(&[]);
    bench.acknowledge(2, 2);
    bench
        .driver
        .propose(bench.now, vec![(EntryKind::Command, command(1))])
        .expect("leads");
    bench.driver.disk_failed();
    bench.take();
    assert_eq!(
        bench.others.last(),
        Some(&Effect::EpochEnded(Epoch {
            term: 2,
            first_index: 2
        }))
    );
    bench.sent.clear();
    bench.driver.durable(99);
    bench.receive(2, append(7, (1, 1), 1, &[]));
    bench.pass(5000);
    assert_eq!(bench.sent(), []);
    assert_eq!(bench.driver.role(), RaftRole::Follower);
    assert_eq!(bench.driver.deadline(), u64::MAX);
    let result = bench
        .driver
        .propose(bench.now, vec![(EntryKind::Barrier, command(0))]);
    assert_eq!(result, Err(ProposeError::NotLeader));
}

#[test]
fn the_cache_keeps_what_a_live_follower_needs_until_there_is_no_room() {
    // S43, S44
    let taken = |bytes| {
        let mut driver = Driver::new(options(1), log(&voters(3), &[1; 20])).expect("valid");
        driver.start(1000);
        let mut bench = Bench::of_three(&[]);
        bench.driver = driver;
        bench.elect();
        bench.acknowledge(3, 22);
        bench.durable();
        bench.acknowledge(2, 10);
        let meta = snapshot(20, 1, &voters(3));
        let trailing = Trailing { entries: 3, bytes };
        bench.driver.snapshot_taken(meta, trailing);
        let first = bench.driver.raw.raft.raft_log.first_index();
        bench.take();
        let prune = &bench.persists.last().expect("it is asked for").ops[0];
        let trailing = 20 - (first - 1);
        let snapshot_index = 20;
        let want = DiskOp::Prune {
            snapshot_index,
            trailing,
        };
        assert_eq!(*prune, want, "the disk keeps what can be asked for");
        first
    };
    assert_eq!(taken(1 << 20), 11);
    assert_eq!(taken(100), 17, "four of 24 bytes");
    assert_eq!(taken(0), 21, "never above the snapshot");
}

#[test]
fn the_tail_of_a_c_follower_that_another_leader_left_behind_vanishes_and_counts_for_nothing() {
    // The C node holds 3..5 of term 2, which were never committed; we hold 3 of term 1 and lead.
    let mut durable = log(&voters(3), &[1, 2, 2, 2]);
    durable.entries.truncate(5);
    let options = c_node::Options {
        id: 2,
        election_ms: 300,
        heartbeat_ms: 50,
        seed: 1,
        snapshot_threshold: 1000,
        snapshot_trailing: 1000,
    };
    let mut c = CNode::new(options, &durable, 1000);
    let mut bench = Bench::of_three(&[1, 1]);
    bench.receive(3, append(2, (3, 1), 1, &[]));
    bench.durable();
    bench.elect();
    let first = bench.driver.term_start().expect("leads");
    assert_eq!((bench.driver.term(), first), (3, 4));
    bench.propose(1);
    bench.propose(2);
    bench.durable();
    for round in 0..20 {
        bench.pass(60);
        for append in bench.appends_to(2) {
            c.receive(bench.now, &peer(1), Message::AppendEntries(append));
        }
        let mut effects = Vec::new();
        c.ready(&mut effects);
        for effect in effects {
            match effect {
                Effect::Persist(persist) => c.durable(bench.now, persist.id),
                Effect::Send { message, .. } => bench.receive(2, message),
                _ => {}
            }
        }
        let committed = bench.driver.commit_index();
        let same = (1..=committed).all(|i| c.entry(i) == bench.driver.entry(i).as_ref());
        assert!(
            same,
            "what counts as committed is on the C node, in round {round}"
        );
    }
    assert_eq!(bench.driver.commit_index(), 6);
    assert_eq!(bench.matched(2), 6);
    assert_eq!(c.last(), 6);
}

#[test]
fn a_leader_that_steps_down_ends_its_epoch_and_may_lead_again() {
    let mut bench = Bench::new(log(&voters(1), &[1]));
    bench.durable();
    let epoch = bench.driver.epoch().expect("leads");
    bench.driver.step_down(bench.now);
    bench.take();
    assert_eq!(bench.others.last(), Some(&Effect::EpochEnded(epoch)));
    bench.pass(20);
    assert_eq!(bench.driver.term(), epoch.term + 1);
    assert_eq!(bench.driver.role(), RaftRole::Leader);
}
