//! Several voters, in fair weather and foul.

use dq_wire::Role;

use super::network::*;
use crate::driver::{ChangeError, Effect, Epoch, ReadMode};

/// Heals everything and requires that all nodes apply a new entry, and with it all before it.
fn must_recover(network: &mut Network) {
    network.heal();
    for _ in 0..20 {
        network.run(1000);
        let Some(last) = network.propose(u64::MAX) else {
            continue;
        };
        let leader = network.leader().expect("just proposed");
        let servers = &network.driver(leader).configuration().servers;
        let members: Vec<u64> = servers
            .iter()
            .filter(|s| s.role != Role::Spare)
            .map(|s| s.id)
            .collect();
        if network.run_until(1000, |n| members.iter().all(|id| n.applied(*id) >= last)) {
            return;
        }
    }
    panic!("a healed cluster makes progress");
}

/// Random faults, proposals, transfers and changes; the network checks safety at every step.
fn foul_weather(servers: &[(u64, Role)], seed: u64, reads: ReadMode) -> Counts {
    let voters = servers.len() as u64;
    // Every third disk is slower than the network: then a crash finds much that is not durable.
    let (delay_ms, disk_ms) = if seed.is_multiple_of(3) {
        (4, 120)
    } else {
        (20, 15)
    };
    let world = World {
        loss_percent: 2,
        delay_ms,
        disk_ms,
        snapshot_every: 10,
        reads,
        skew: 45,
    };
    let mut network = Network::of(&configuration(servers), &[], seed, world);
    let mut acknowledged = 0;
    for number in 0..120 {
        let at = 1 + network.random.below(voters);
        match network.random.below(14) {
            0 if network.is_up(at) => network.crash(at),
            1 | 2 if !network.is_up(at) => network.start(at),
            3 => {
                network.cut.insert(at);
            }
            4 | 5 => network.cut.clear(),
            6 if network.is_up(at) => network.break_connections(at),
            7 => {
                if let Some(leader) = network.leader() {
                    let to = network.random.below(voters + 1);
                    let _ = network.with(leader, |driver, now| driver.transfer(now, to));
                }
            }
            8 => {
                if let Some(leader) = network.leader() {
                    let roles = [Role::Voter, Role::Standby, Role::Spare];
                    let role = roles[network.random.below(3) as usize];
                    let _ = network.with(leader, |driver, now| driver.assign(now, at, role));
                }
            }
            _ => {}
        }
        for _ in 0..network.random.below(4) {
            network.propose(number);
        }
        for _ in 0..network.random.below(5) {
            let pause = network.random.below(50);
            network.run(pause);
            network.read();
        }
        acknowledged = acknowledged.max(network.committed.keys().last().copied().unwrap_or(0));
    }
    must_recover(&mut network);
    let leader = network.leader().expect("has recovered");
    assert!(
        network.applied(leader) >= acknowledged,
        "nothing acknowledged is lost"
    );
    network.counts
}

#[test]
fn three_voters_elect_a_leader_and_all_apply_what_it_proposes() {
    let mut network = Network::of_voters(3, 1, World::KIND);
    assert!(network.run_until(2000, |n| n.leader().is_some()));
    for number in 0..20 {
        network.propose(number).expect("leads");
        network.run(3);
    }
    network.run(200);
    for id in 1..=3 {
        assert_eq!(network.applied(id), 22, "node {id}");
    }
}

#[test]
fn three_voters_keep_what_they_acknowledged_through_foul_weather() {
    let mut counts = Counts::default();
    for seed in 0..40 {
        let reads = [ReadMode::Quorum, ReadMode::Lease][seed as usize % 2];
        counts += foul_weather(
            &[(1, Role::Voter), (2, Role::Voter), (3, Role::Voter)],
            seed,
            reads,
        );
    }
    assert!(counts.all_seen(), "the weather was foul enough: {counts:?}");
}

#[test]
fn five_voters_keep_what_they_acknowledged_through_foul_weather() {
    let mut counts = Counts::default();
    let five: Vec<(u64, Role)> = (1..=5).map(|id| (id, Role::Voter)).collect();
    for seed in 100..120 {
        let reads = [ReadMode::Quorum, ReadMode::Lease][seed as usize % 2];
        counts += foul_weather(&five, seed, reads);
    }
    assert!(counts.all_seen(), "the weather was foul enough: {counts:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let world = World {
            loss_percent: 3,
            delay_ms: 20,
            disk_ms: 15,
            snapshot_every: 10,
            ..World::KIND
        };
        let mut network = Network::of_voters(3, seed, world);
        for number in 0..30 {
            network.propose(number);
            let pause = network.random.below(200);
            network.run(pause);
        }
        let epochs: Vec<Option<Epoch>> = (1..=3).map(|id| network.driver(id).epoch()).collect();
        (
            network.now,
            network.messages,
            network.committed.len(),
            epochs,
        )
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn a_transfer_makes_the_target_leader_and_reports_success() {
    let mut network = Network::of_voters(3, 3, World::KIND);
    assert!(network.run_until(2000, |n| n.leader().is_some()));
    network.run(50);
    let leader = network.leader().expect("elected");
    let to = leader % 3 + 1;
    assert_eq!(
        network.with(leader, |driver, now| driver.transfer(now, to)),
        Ok(())
    );
    let again = network.with(leader, |driver, now| driver.transfer(now, to));
    assert_eq!(again, Err(ChangeError::NotLeader));
    assert!(network.run_until(100, |n| n.leader() == Some(to)));
    assert_eq!(network.done, [Effect::TransferDone { result: Ok(()) }]);
}

#[test]
fn a_sole_voter_with_standbys_and_whoever_it_promotes_keep_what_they_acknowledged() {
    let servers = [(1, Role::Voter), (2, Role::Standby), (3, Role::Spare)];
    let mut counts = Counts::default();
    for seed in (200..230).chain([270]) {
        let reads = [ReadMode::Quorum, ReadMode::Lease][seed as usize % 2];
        counts += foul_weather(&servers, seed, reads);
    }
    let seen = counts.elections > 0 && counts.restores > 0 && counts.truncations > 0;
    assert!(
        seen && counts.changes > 0,
        "the weather was foul enough: {counts:?}"
    );
}

/// Drivers and C nodes together, with every fault. Drivers alone change roles.
fn mixed_foul_weather(voters: u64, c_nodes: &[u64], seed: u64) -> Counts {
    let world = World {
        loss_percent: 2,
        delay_ms: 20,
        disk_ms: 15,
        snapshot_every: 10,
        skew: 20,
        ..World::KIND
    };
    let mut network = Network::mixed(voters, c_nodes, seed, world);
    for number in 0..120 {
        let at = 1 + network.random.below(voters);
        match network.random.below(13) {
            0 if network.is_up(at) => network.crash(at),
            1 | 2 if !network.is_up(at) => network.start(at),
            3 => {
                network.cut.insert(at);
            }
            4 | 5 => network.cut.clear(),
            6 if network.is_up(at) => network.break_connections(at),
            7 => {
                if let Some(leader) = network.leader() {
                    let to = network.random.below(voters + 1);
                    let _ = network.with(leader, |driver, now| driver.transfer(now, to));
                }
            }
            8 => {
                if let Some(leader) = network.leader() {
                    let roles = [Role::Voter, Role::Standby, Role::Spare];
                    let role = roles[network.random.below(3) as usize];
                    let _ = network.with(leader, |driver, now| driver.assign(now, at, role));
                }
            }
            _ => {}
        }
        for _ in 0..network.random.below(4) {
            network.propose(number);
        }
        for _ in 0..network.random.below(5) {
            let pause = network.random.below(50);
            network.run(pause);
            network.read();
        }
    }
    network.heal();
    for _ in 0..30 {
        network.run(1000);
        let Some(last) = network.propose(u64::MAX) else {
            continue;
        };
        let members = network.members();
        if network.run_until(1500, |n| members.iter().all(|id| n.applied(*id) >= last)) {
            return network.counts;
        }
    }
    panic!("a healed cluster makes progress");
}

#[test]
fn drivers_and_c_nodes_keep_together_what_was_acknowledged() {
    let mut counts = Counts::default();
    for seed in 0..30 {
        counts += mixed_foul_weather(3, &[2], seed);
        counts += mixed_foul_weather(3, &[1, 3], seed);
        counts += mixed_foul_weather(5, &[2, 4], seed);
    }
    let seen = counts.elections > 0 && counts.truncations > 0 && counts.reads > 0;
    let more = counts.restores > 0 && counts.changes > 0;
    assert!(
        seen && more && counts.fresh_entries > 0,
        "the weather was foul enough: {counts:?}"
    );
}
