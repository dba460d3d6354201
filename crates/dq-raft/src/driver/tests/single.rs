//! One voter.

use dq_wire::EntryKind;

use super::network::*;
use crate::driver::{Driver, Effect, Epoch, ProposeError, RaftRole};
use crate::types::{DiskOp, Recovered};

fn effects(driver: &mut Driver) -> Vec<Effect> {
    let mut effects = Vec::new();
    driver.ready(&mut effects);
    effects
}

#[test]
fn a_sole_voter_leads_at_once_and_commits_when_its_disk_has() {
    let mut driver = Driver::new(options(1), bootstrapped(&voters(1))).expect("valid");
    driver.start(5000);
    let epoch = Epoch {
        term: 2,
        first_index: 2,
    };
    assert_eq!(driver.epoch(), Some(epoch));
    assert_eq!(driver.role(), RaftRole::Leader);
    let first = effects(&mut driver);
    assert!(matches!(&first[0], Effect::Apply(entry) if entry.index == 1));
    assert_eq!(first[1], Effect::EpochBegan(epoch));
    let Effect::Persist(persist) = &first[2] else {
        panic!("{first:?}")
    };
    assert_eq!(persist.id, 1);
    assert_eq!(persist.ops[0], DiskOp::HardState { term: 2, vote: 1 });
    let DiskOp::Append { entries } = &persist.ops[1] else {
        panic!("{persist:?}")
    };
    assert_eq!(
        (entries[0].index, entries[0].term, entries[0].kind),
        (2, 2, EntryKind::Barrier)
    );
    assert_eq!(entries[0].payload.len(), 8);
    assert_eq!(first.len(), 3);

    assert_eq!(
        driver.propose(5000, vec![(EntryKind::Command, command(1))]),
        Ok(3)
    );
    let second = effects(&mut driver);
    assert!(matches!(&second[..], [Effect::Persist(persist)] if persist.id == 2));
    assert_eq!(driver.applied_index(), 1);

    driver.durable(2);
    let third = effects(&mut driver);
    let applied: Vec<u64> = third
        .iter()
        .map(|effect| match effect {
            Effect::Apply(entry) => entry.index,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(applied, [2, 3]);
    assert_eq!(driver.applied_index(), 3);
}

#[test]
fn a_node_without_configuration_waits_for_a_leader_for_ever() {
    let mut driver = Driver::new(options(9), Recovered::default()).expect("valid");
    driver.start(0);
    assert_eq!(driver.deadline(), u64::MAX);
    driver.tick(1_000_000);
    assert_eq!(driver.role(), RaftRole::Follower);
    assert_eq!(
        driver.propose(1_000_000, vec![(EntryKind::Barrier, command(0))]),
        Err(ProposeError::NotLeader)
    );
    assert_eq!(effects(&mut driver), []);
}

#[test]
fn a_sole_voter_with_a_long_log_replays_it_and_goes_on() {
    let mut network = Network::of_voters(1, 1, World::KIND);
    network.run(10);
    for number in 0..50 {
        network.propose(number).expect("leads");
    }
    network.run(100);
    assert_eq!(network.applied(1), 52);
    network.crash(1);
    network.start(1);
    network.propose(99).expect("leads at once");
    network.run(100);
    assert_eq!(network.applied(1), 54);
    assert_eq!(network.driver(1).term(), 3);
}
