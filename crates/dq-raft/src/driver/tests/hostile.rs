//! Peers that say anything: whatever is well formed enough to be decoded must not panic, and what
//! is committed must not change.

use std::collections::BTreeMap;

use dq_wire::{EntryKind, Role};

use super::bench::log;
use super::network::*;
use crate::driver::{Driver, Effect, ReadMode, ReadOptions};
use crate::log::cache::Trailing;
use crate::message::*;
use crate::types::{LogEntry, SnapshotMeta};

/// Mostly small, sometimes zero, sometimes absurd.
fn number(random: &mut Random) -> u64 {
    match random.below(40) {
        0 => 0,
        1 => u64::MAX - random.below(3),
        2 => (1 << 62) - random.below(3),
        _ => 1 + random.below(12),
    }
}

fn message(random: &mut Random, driver: &Driver) -> Message {
    let term = if random.chance(60) {
        driver.term() + random.below(2)
    } else {
        number(random)
    };
    let index = if random.chance(60) {
        driver.last_index().saturating_sub(random.below(4))
    } else {
        number(random)
    };
    let at = driver.term_at(index);
    let prev_term = if random.chance(70) {
        at.unwrap_or(0)
    } else {
        number(random)
    };
    match random.below(8) {
        0..=2 => {
            let entries = (0..random.below(4)).map(|i| {
                let kind = [EntryKind::Command, EntryKind::Barrier, EntryKind::Change]
                    [random.below(3) as usize];
                let payload = match kind {
                    EntryKind::Change => change(&voters(2 + random.below(3))),
                    _ => command(random.below(3)),
                };
                LogEntry {
                    index: index.wrapping_add(i + 1),
                    term,
                    kind,
                    payload,
                }
            });
            Message::AppendEntries(AppendEntries {
                term,
                prev_index: index,
                prev_term,
                entries: entries.collect(),
                leader_commit: if random.chance(50) { 0 } else { number(random) },
                stamp: Stamp {
                    seq: random.below(3) as u32,
                    release: random.chance(20),
                },
            })
        }
        3 | 4 => Message::AppendEntriesResult(AppendEntriesResult {
            term,
            rejected: if random.chance(50) { 0 } else { number(random) },
            last_index: number(random),
            echo: random.chance(50).then_some(Echo {
                seq: 1,
                promise_ms: u32::MAX,
            }),
        }),
        5 => Message::RequestVote(RequestVote {
            term,
            candidate: 2,
            last_index: index,
            last_term: prev_term,
            disrupt_leader: random.chance(30),
            pre_vote: random.chance(50),
        }),
        6 => Message::RequestVoteResult(RequestVoteResult {
            term,
            granted: random.chance(70),
            pre_vote: [None, Some(true), Some(false)][random.below(3) as usize],
            own_term: random.chance(50),
        }),
        _ if random.chance(50) => Message::TimeoutNow {
            term,
            last_index: index,
            last_term: prev_term,
        },
        _ => {
            let roles = [(2, Role::Voter), (3, Role::Standby), (1, Role::Spare)];
            let index = number(random);
            Message::InstallSnapshot {
                term,
                meta: SnapshotMeta {
                    index,
                    term: number(random),
                    timestamp: 0,
                    configuration: configuration(&roles[..random.below(4) as usize]),
                    configuration_index: number(random).min(index),
                },
            }
        }
    }
}

#[test]
fn no_sequence_of_messages_makes_a_driver_panic_or_take_back_what_it_applied() {
    let mut refused = 0;
    let mut led = 0;
    for seed in 0..400 {
        let mut random = Random(seed);
        let mode = [ReadMode::Quorum, ReadMode::Lease][random.below(2) as usize];
        let reads = ReadOptions {
            mode,
            promise_found_ms: 0,
            promise_bound_ms: 100,
        };
        let driver = Driver::new(options(1), log(&voters(1 + random.below(3)), &[1, 1]));
        let mut driver = driver.expect("valid").with_reads(reads);
        let (mut now, mut asked, mut durable) = (1000, 0, 0);
        let mut applied: BTreeMap<u64, LogEntry> = BTreeMap::new();
        driver.start(now);
        for _ in 0..200 {
            match random.below(10) {
                0 | 1 => {
                    now += random.below(200);
                    driver.tick(now);
                }
                2 | 3 if durable < asked => {
                    durable += 1 + random.below(asked - durable);
                    driver.durable(durable);
                }
                4 => {
                    let entries = vec![(EntryKind::Command, command(random.below(9)))];
                    let _ = driver.propose(now, entries);
                    driver.confirm(now);
                }
                5 => match random.below(4) {
                    0 => drop(driver.add(now, random.below(5), "x")),
                    1 => drop(driver.assign(now, random.below(5), Role::Voter)),
                    2 => drop(driver.remove(now, random.below(5))),
                    _ => drop(driver.transfer(now, random.below(5))),
                },
                _ => {
                    let message = message(&mut random, &driver);
                    let from = 2 + random.below(2);
                    refused += u64::from(driver.receive(now, &peer(from), message).is_err());
                }
            }
            let mut effects = Vec::new();
            driver.ready(&mut effects);
            for effect in effects {
                match effect {
                    Effect::Persist(persist) => asked = persist.id,
                    Effect::Apply(entry) => {
                        let before = applied.insert(entry.index, entry);
                        assert_eq!(before, None, "nothing is applied twice");
                    }
                    Effect::Restore(meta) => {
                        let last = applied.keys().last().copied().unwrap_or(0);
                        assert!(meta.index > last, "a snapshot goes forward");
                    }
                    Effect::Send {
                        to,
                        message: Message::InstallSnapshot { .. },
                        ..
                    } => {
                        driver.snapshot_sent(to, random.chance(50));
                    }
                    Effect::EpochBegan(_) => led += 1,
                    _ => {}
                }
            }
            let index = driver.applied_index();
            // While a snapshot is being installed there is nothing to take one of.
            let term = driver
                .term_at(index)
                .filter(|_| index > 0 && random.chance(3));
            if let Some(term) = term {
                let (configuration, configuration_index) = driver.committed_configuration();
                let meta = SnapshotMeta {
                    index,
                    term,
                    timestamp: 1,
                    configuration: configuration.clone(),
                    configuration_index,
                };
                driver.snapshot_taken(
                    meta,
                    Trailing {
                        entries: 2,
                        bytes: 100,
                    },
                );
            }
        }
    }
    assert!(
        refused > 1000 && led > 100,
        "{refused} refused, {led} times leader"
    );
}
