//! Changes of the membership, and transfers.

use dq_wire::{EntryKind, Role};

use super::bench::*;
use super::network::*;
use crate::driver::{ChangeError, Driver, Effect, Epoch, ProposeError, RaftRole};
use crate::message::*;
use crate::types::DiskOp;

#[test]
fn a_change_takes_effect_when_appended_and_ends_when_cut_off() {
    // R14
    let four = voters(4);
    let mut bench = Bench::of_three(&[1]);
    let entries = vec![entry(3, 2, EntryKind::Change, change(&four))];
    bench.receive(
        2,
        Message::AppendEntries(AppendEntries {
            term: 2,
            prev_index: 2,
            prev_term: 1,
            leader_commit: 2,
            entries,
            stamp: Stamp::default(),
        }),
    );
    assert_eq!(bench.driver.configuration(), &four);
    assert_eq!(bench.driver.committed_configuration(), (&voters(3), 1));
    assert_eq!(
        bench
            .driver
            .raw
            .raft
            .prs()
            .conf()
            .to_conf_state()
            .voters
            .len(),
        4
    );
    bench.receive(3, append(3, (2, 1), 2, &[3]));
    assert_eq!(bench.driver.configuration(), &voters(3));
    assert_eq!(
        bench
            .driver
            .raw
            .raft
            .prs()
            .conf()
            .to_conf_state()
            .voters
            .len(),
        3
    );
    let last = bench.persists.last().expect("asked for");
    assert!(last.ops.contains(&DiskOp::Truncate { from: 3 }));
}

#[test]
fn after_a_restart_the_last_change_of_the_log_is_in_effect() {
    // R14
    let mut recovered = log(&voters(3), &[1, 1]);
    recovered
        .entries
        .push(entry(4, 1, EntryKind::Change, change(&voters(4))));
    recovered
        .entries
        .push(entry(5, 1, EntryKind::Change, change(&voters(5))));
    let bench = Bench::new(recovered);
    assert_eq!(bench.driver.configuration(), &voters(5));
    assert_eq!(bench.driver.committed_configuration(), (&voters(3), 1));
}

#[test]
fn nothing_is_changed_before_an_entry_of_the_term_is_committed() {
    // R15
    let mut bench = Bench::leader_of_three(&[1, 1]);
    let add = |bench: &mut Bench| bench.driver.add(bench.now, 4, "d");
    assert_eq!(add(&mut bench), Err(ChangeError::Busy));
    bench.acknowledge(2, 4);
    let token = add(&mut bench).expect("may now");
    bench.take();
    assert_eq!(bench.driver.remove(bench.now, 3), Err(ChangeError::Busy));
    bench.durable();
    bench.acknowledge(2, 5);
    assert_eq!(
        bench.others.last(),
        Some(&Effect::ChangeDone {
            token,
            result: Ok(())
        })
    );
    assert_eq!(bench.driver.committed_configuration().1, 5);
    let added = bench.driver.configuration().server(4).expect("added");
    assert_eq!((added.role, added.address.as_str()), (Role::Spare, "d"));
}

#[test]
fn who_may_be_the_only_one_to_know_that_it_has_no_vote_wakes_up_to_stand() {
    let demoted = configuration(&[(1, Role::Standby), (2, Role::Voter)]);
    let mut bench = Bench::new(log(&voters(2), &[1]));
    let entries = vec![entry(3, 2, EntryKind::Change, change(&demoted))];
    bench.receive(
        2,
        Message::AppendEntries(AppendEntries {
            term: 2,
            prev_index: 2,
            prev_term: 1,
            leader_commit: 2,
            entries,
            stamp: Stamp::default(),
        }),
    );
    bench.durable();
    let deadline = bench.driver.deadline();
    assert_ne!(deadline, u64::MAX, "it does not wait for somebody to speak");
    bench.pass(deadline - bench.now);
    assert_ne!(bench.driver.role(), RaftRole::Follower);
}

#[test]
fn a_change_is_heard_of_when_it_is_durable_here() {
    let mut bench = Bench::new(log(&voters(2), &[1]));
    bench.elect();
    bench.durable();
    bench.acknowledge(2, 3);
    bench.sent();
    bench.driver.remove(bench.now, 2).expect("may now");
    bench.take();
    bench.pass(60);
    assert_eq!(bench.appends_to(2), [], "it would not vote for us any more");
    bench.durable();
    let appends = bench.appends_to(2);
    let kinds = appends.iter().flat_map(|append| &append.entries);
    let kinds: Vec<EntryKind> = kinds.map(|entry| entry.kind).collect();
    assert_eq!(kinds, [EntryKind::Change], "but is told of it");
}

#[test]
fn a_leader_that_removes_itself_leads_until_that_is_committed() {
    // R17
    let mut bench = Bench::leader_of_three(&[]);
    bench.acknowledge(2, 2);
    bench.durable();
    let token = bench.driver.remove(bench.now, 1).expect("others remain");
    bench.take();
    bench.durable();
    let refused = bench
        .driver
        .propose(bench.now, vec![(EntryKind::Command, command(1))]);
    assert_eq!(refused, Err(ProposeError::Leaving));
    bench.acknowledge(2, 3);
    assert_eq!(bench.driver.role(), RaftRole::Leader, "one of two voters");
    bench.acknowledge(3, 3);
    assert_eq!(bench.driver.role(), RaftRole::Follower);
    let epoch = Epoch {
        term: 2,
        first_index: 2,
    };
    assert_eq!(
        bench.others[bench.others.len() - 2..],
        [
            Effect::ChangeDone {
                token,
                result: Ok(())
            },
            Effect::EpochEnded(epoch)
        ]
    );
    bench.pass(2000);
    assert_eq!(
        bench.driver.role(),
        RaftRole::Follower,
        "it is no voter any more"
    );
}

#[test]
fn a_spare_becomes_voter_after_it_has_caught_up() {
    // R18
    let servers = configuration(&[(1, Role::Voter), (2, Role::Voter), (3, Role::Spare)]);
    let mut bench = Bench::new(log(&servers, &[1, 1]));
    bench.elect();
    bench.acknowledge(2, 4);
    bench.sent();
    let token = bench.driver.assign(bench.now, 3, Role::Voter).expect("may");
    bench.take();
    assert!(!bench.appends_to(3).is_empty(), "it gets entries now");
    assert_eq!(
        bench.driver.configuration().server(3).expect("member").role,
        Role::Spare
    );
    // The first round takes too long to be the last.
    bench.propose(1);
    bench.durable();
    bench.acknowledge(2, 5);
    for _ in 0..8 {
        bench.pass(50);
        bench.acknowledge(2, 5);
    }
    bench.acknowledge(3, 4);
    assert_eq!(bench.driver.last_index(), 5);
    bench.acknowledge(3, 5);
    assert_eq!(bench.driver.last_index(), 6, "the CHANGE");
    assert_eq!(
        bench.driver.configuration().server(3).expect("member").role,
        Role::Voter
    );
    bench.durable();
    bench.acknowledge(2, 6);
    assert_eq!(
        bench.others.last(),
        Some(&Effect::ChangeDone {
            token,
            result: Ok(())
        })
    );
}

#[test]
fn a_server_that_cannot_be_reached_does_not_become_voter() {
    // R18
    let servers = configuration(&[(1, Role::Voter), (3, Role::Spare)]);
    let mut bench = Bench::new(log(&servers, &[1, 1]));
    bench.durable();
    let token = bench.driver.assign(bench.now, 3, Role::Voter).expect("may");
    bench.pass(49_000);
    assert_eq!(bench.driver.promoting(), Some(3));
    bench.pass(2_000);
    let result = Err(ChangeError::NoConnection);
    assert_eq!(
        bench.others.last(),
        Some(&Effect::ChangeDone { token, result })
    );
    assert!(
        bench.driver.progress().is_empty(),
        "and gets nothing any more"
    );
}

#[test]
fn changes_are_refused_in_the_words_of_the_original() {
    let servers = configuration(&[(1, Role::Voter), (2, Role::Standby), (3, Role::Spare)]);
    let mut bench = Bench::new(log(&servers, &[1]));
    bench.durable();
    let driver = &mut bench.driver;
    let refusal = |result: Result<crate::driver::ChangeToken, ChangeError>| {
        let error = result.expect_err("is refused");
        (error.code(), error.message())
    };
    assert_eq!(
        refusal(driver.add(1000, 0, "x")),
        (1, "server ID is not valid")
    );
    assert_eq!(
        refusal(driver.add(1000, 2, "x")),
        (1, "server ID already in use")
    );
    let taken = address(3);
    assert_eq!(
        refusal(driver.add(1000, 4, &taken)),
        (1, "server address already in use")
    );
    assert_eq!(
        refusal(driver.assign(1000, 9, Role::Voter)),
        (1, "Resource not found")
    );
    assert_eq!(
        refusal(driver.assign(1000, 2, Role::Standby)),
        (1, "server role is not valid")
    );
    assert_eq!(
        refusal(driver.assign(1000, 1, Role::Spare)),
        (1, "server role is not valid")
    );
    assert_eq!(
        refusal(driver.remove(1000, 9)),
        (1, "server ID is not valid")
    );
    assert_eq!(
        refusal(driver.remove(1000, 1)),
        (1, "server ID is not valid")
    );
    let transfer = |driver: &mut Driver, id| driver.transfer(1000, id);
    assert_eq!(transfer(driver, 0), Err(ChangeError::NotFound));
    for id in [1, 2, 9] {
        assert_eq!(transfer(driver, id), Err(ChangeError::BadId));
    }
    driver.raw.raft.become_follower(2, 0);
    driver.raw.raft.become_follower(3, 2);
    driver.unreachable(2);
    let refused = driver.add(1000, 4, "d");
    assert_eq!(refusal(refused), (10250, "server is not the leader"));
    assert_eq!(ChangeError::LeadershipLost.code(), 10506);
    assert_eq!(ChangeError::Busy.code(), 5);
}

#[test]
fn a_transfer_that_is_not_taken_up_ends_after_an_election_timeout() {
    let mut bench = Bench::leader_of_three(&[]);
    bench.acknowledge(2, 2);
    bench.acknowledge(3, 2);
    bench.durable();
    bench.sent();
    bench.driver.transfer(bench.now, 0).expect("leads");
    bench.take();
    let asked = Message::TimeoutNow {
        term: 2,
        last_index: 2,
        last_term: 2,
    };
    assert!(bench.sent().iter().any(|(_, message)| *message == asked));
    let refused = bench
        .driver
        .propose(bench.now, vec![(EntryKind::Barrier, command(0))]);
    assert_eq!(refused, Err(ProposeError::Transferring));
    assert_eq!(
        bench.driver.add(bench.now, 4, "d"),
        Err(ChangeError::NotLeader)
    );
    for _ in 0..8 {
        bench.pass(50);
        bench.acknowledge(2, 2);
    }
    let result = Err(ChangeError::TransferFailed);
    assert_eq!(bench.others.last(), Some(&Effect::TransferDone { result }));
    bench.propose(1);
}
