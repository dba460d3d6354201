//! Followers whose entries are on disk only.

use dq_wire::EntryKind;

use super::bench::*;
use super::network::*;
use crate::driver::{Driver, Effect, Options};
use crate::log::cache::Trailing;
use crate::message::*;
use crate::types::{DiskOp, LogEntry, LogRange};

/// Bytes of a command here.
const SIZE: usize = 300_000;

fn big(number: u8) -> crate::types::Payload {
    bytes::Bytes::from(vec![number; SIZE]).into()
}

/// A leader of three in term 2, B = 2, that has written and applied `count` commands behind it with
/// the help of node 3, and keeps the bytes of about two.
fn leader(count: u8) -> Bench {
    let options = Options {
        log_bytes_max: 2 * SIZE as u64,
        ..options(1)
    };
    let mut bench = Bench::of(Driver::new(options, log(&voters(3), &[])).expect("valid"));
    bench.elect();
    bench.acknowledge(2, 2);
    bench.durable();
    for number in 1..=count {
        let entries = vec![(EntryKind::Command, big(number))];
        let index = bench.driver.propose(bench.now, entries).expect("leads");
        bench.take();
        bench.durable();
        bench.acknowledge(3, index);
    }
    assert_eq!(bench.applied.len(), 2 + usize::from(count));
    bench.sent();
    bench
}

/// What was asked to be read, and not yet been taken.
fn asked(bench: &mut Bench) -> Vec<LogRange> {
    let others = std::mem::take(&mut bench.others);
    let range = |effect| match effect {
        Effect::ReadLog(range) => Some(range),
        _ => None,
    };
    others.into_iter().filter_map(range).collect()
}

/// Reads it from what was given to the disk.
fn read(bench: &mut Bench, range: LogRange) -> Vec<LogEntry> {
    let ops = bench.persists.iter().flat_map(|persist| &persist.ops);
    let appended = ops.filter_map(|op| match op {
        DiskOp::Append { entries } => Some(entries),
        _ => None,
    });
    let wanted = |entry: &&LogEntry| (range.first..=range.last).contains(&entry.index);
    appended.flatten().filter(wanted).cloned().collect()
}

fn give(bench: &mut Bench, range: LogRange, entries: Option<Vec<LogEntry>>) {
    bench.driver.log_read(bench.now, range, entries);
    bench.take();
}

#[test]
fn memory_is_bounded_by_what_is_applied_and_durable() {
    let bench = leader(20);
    assert!(bench.driver.log_bytes() < 3 * SIZE as u64);
    assert_eq!(bench.driver.term_at(5), Some(2));
    assert!(bench.driver.entry(5).is_none());
    assert!(bench.driver.entry(22).is_some());
}

#[test]
fn what_is_not_durable_or_not_applied_is_never_let_go() {
    let mut bench = leader(4);
    for number in 5..15 {
        let entries = vec![(EntryKind::Command, big(number))];
        bench.driver.propose(bench.now, entries).expect("leads");
    }
    bench.take();
    assert!((7..=16).all(|index| bench.driver.entry(index).is_some()));
    bench.durable();
    assert!(
        (7..=16).all(|index| bench.driver.entry(index).is_some()),
        "durable here and nowhere else"
    );
    bench.acknowledge(3, 16);
    assert!(bench.driver.entry(7).is_none());
    assert!(bench.driver.log_bytes() < 3 * SIZE as u64);
}

#[test]
fn a_follower_that_lags_gets_every_entry_from_disk_and_no_snapshot() {
    let mut bench = leader(20);
    // It was away since the term's first entry, and answers a heartbeat now.
    bench.driver.unreachable(2);
    bench.pass(60);
    bench.sent();
    bench.receive(2, rejected(2, 22, 2));
    let mut have = 2;
    let mut reads = 0;
    for _ in 0..100 {
        for range in asked(&mut bench) {
            reads += 1;
            let entries = read(&mut bench, range);
            let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
            assert!(bytes <= 1 << 20, "a message at a time");
            give(&mut bench, range, Some(entries));
            assert!(bench.driver.log_bytes() < 3 * SIZE as u64, "lent, not kept");
        }
        for append in bench.appends_to(2) {
            if append.prev_index != have {
                continue; // a heartbeat further on
            }
            for entry in &append.entries {
                let number = (entry.index - 2) as u8;
                assert_eq!(entry.payload, big(number));
            }
            have = append.end();
        }
        bench.acknowledge(2, have);
        if have == 22 {
            break;
        }
    }
    assert_eq!(have, 22);
    assert!(reads >= 6, "{reads} reads of at most a MiB");
    assert!(!bench.others.contains(&Effect::SnapshotWanted));
}

#[test]
fn heartbeats_and_other_followers_wait_for_no_read() {
    let mut bench = leader(20);
    bench.driver.unreachable(2);
    bench.pass(60);
    bench.receive(2, rejected(2, 22, 2));
    assert_eq!(asked(&mut bench).len(), 1);
    bench.sent();
    bench.pass(60);
    assert!(!bench.appends_to(2).is_empty(), "a heartbeat");
    // However often raft asks, the read is asked for once.
    bench.acknowledge(2, 2);
    bench.pass(200);
    assert_eq!(asked(&mut bench), []);
    bench.propose(99);
    bench.durable();
    bench.acknowledge(3, 23);
    assert_eq!(bench.driver.commit_index(), 23);
}

#[test]
fn no_more_is_read_than_a_follower_takes() {
    let mut bench = leader(60);
    bench.driver.unreachable(2);
    bench.pass(60);
    bench.receive(2, rejected(2, 62, 2));
    let mut sent = 0;
    let mut have = 2;
    for _ in 0..100 {
        for range in asked(&mut bench) {
            let entries = read(&mut bench, range);
            give(&mut bench, range, Some(entries));
        }
        for append in bench.appends_to(2) {
            let bytes: usize = append.entries.iter().map(|e| e.payload.len()).sum();
            sent += bytes;
            if have == 2 && append.prev_index == 2 {
                // The first answer makes raft stream; then it says nothing more.
                have = append.end();
                bench.acknowledge(2, have);
            }
        }
    }
    assert!(sent > 4 << 20, "{sent}");
    assert!(sent < 12 << 20, "{sent}");
}

#[test]
fn a_follower_of_what_cannot_be_read_gets_a_snapshot() {
    let mut bench = leader(20);
    let trailing = Trailing {
        entries: 100,
        bytes: u64::MAX,
    };
    let old = snapshot(3, 2, &voters(3));
    bench.driver.snapshot_taken(old, trailing);
    bench.driver.unreachable(2);
    bench.pass(60);
    bench.receive(2, rejected(2, 22, 2));
    let range = asked(&mut bench)[0];
    assert_eq!((range.first, range.last), (3, 5));
    give(&mut bench, range, None);
    assert!(
        bench.others.contains(&Effect::SnapshotWanted),
        "the old one ends where nothing can be read"
    );
    let meta = snapshot(22, 2, &voters(3));
    bench.driver.snapshot_taken(meta.clone(), trailing);
    bench.take();
    bench.pass(60);
    bench.sent();
    bench.receive(2, rejected(2, 22, 2));
    let install = Message::InstallSnapshot { term: 2, meta };
    assert!(bench.sent().contains(&(2, install)));
}

#[test]
fn a_follower_that_fell_silent_before_the_log_begins_still_gets_heartbeats() {
    let mut bench = Bench::leader_of_three(&[]);
    bench.acknowledge(2, 2);
    // More than may be under way to node 2, which takes it all and answers nothing.
    let last = (0..300)
        .map(|number| {
            let index = bench.propose(number);
            bench.durable();
            bench.acknowledge(3, index);
            index
        })
        .last();
    let last = last.expect("300 entries");
    bench.pass(400);
    bench.acknowledge(3, last);
    let none = Trailing {
        entries: 0,
        bytes: 0,
    };
    let meta = snapshot(last, 2, &voters(3));
    bench.driver.snapshot_taken(meta, none);
    bench.take();
    bench.sent();
    bench.pass(60);
    let heartbeats = bench.appends_to(2);
    assert!(!heartbeats.is_empty(), "or it would be forgotten for ever");
    for _ in 0..3 {
        bench.receive(2, rejected(2, last, 2));
        bench.pass(60);
    }
    assert!(installs(&mut bench) > 0, "it has missed too much");
}

/// A leader whose follower 2 is being sent a snapshot at 22.
fn sending() -> Bench {
    let mut bench = leader(20);
    let trailing = Trailing {
        entries: 0,
        bytes: 0,
    };
    let meta = snapshot(22, 2, &voters(3));
    bench.driver.snapshot_taken(meta, trailing);
    bench.driver.unreachable(2);
    bench.pass(60);
    bench.sent();
    bench.receive(2, rejected(2, 22, 2));
    assert_eq!(installs(&mut bench), 1);
    bench
}

fn installs(bench: &mut Bench) -> usize {
    let sent = bench.sent();
    let install = |(to, message): &&(u64, Message)| {
        *to == 2 && matches!(message, Message::InstallSnapshot { .. })
    };
    sent.iter().filter(install).count()
}

/// Seconds go by in which both followers answer heartbeats.
fn seconds(bench: &mut Bench, count: u64, mut each: impl FnMut(&mut Bench)) -> usize {
    let mut sent = 0;
    for _ in 0..count * 20 {
        bench.pass(50);
        bench.receive(2, rejected(2, 22, 2));
        bench.acknowledge(3, 22);
        if bench.now.is_multiple_of(1000) {
            each(bench);
        }
        sent += installs(bench);
    }
    sent
}

#[test]
fn a_snapshot_may_take_as_long_as_it_makes_progress() {
    let mut bench = sending();
    bench.now = bench.now.next_multiple_of(1000);
    let again = seconds(&mut bench, 300, |bench| {
        assert!(bench.driver.snapshot_progress(bench.now, 2));
    });
    assert_eq!(again, 0, "five minutes are no reason to begin anew");
    bench.driver.snapshot_sent(2, true);
    assert_eq!(seconds(&mut bench, 25, |_| {}), 0, "it installs");
    bench.acknowledge(2, 22);
    assert_eq!(bench.matched(2), 22);
    let now = bench.now;
    assert!(!bench.driver.snapshot_progress(now, 2), "nobody waits");
}

#[test]
fn a_snapshot_without_progress_is_sent_again() {
    let mut bench = sending();
    assert_eq!(seconds(&mut bench, 25, |_| {}), 0);
    assert!(seconds(&mut bench, 10, |_| {}) > 0);
}

#[test]
fn entries_that_are_not_those_of_the_log_are_not_sent() {
    let mut bench = leader(20);
    bench.driver.unreachable(2);
    bench.pass(60);
    bench.receive(2, rejected(2, 22, 2));
    let range = asked(&mut bench)[0];
    let mut entries = read(&mut bench, range);
    entries[0].term = 1;
    bench.sent();
    give(&mut bench, range, Some(entries));
    let appends = bench.appends_to(2);
    assert!(appends.iter().all(|append| append.entries.is_empty()));
    // Nor is anything sent that nobody asked for.
    let entries = read(&mut bench, range);
    give(&mut bench, range, Some(entries));
    assert_eq!(bench.sent(), []);
}

#[test]
fn what_was_read_for_a_leadership_that_has_ended_is_dropped() {
    let mut bench = leader(20);
    bench.driver.unreachable(2);
    bench.pass(60);
    bench.receive(2, rejected(2, 22, 2));
    let range = asked(&mut bench)[0];
    bench.driver.step_down(bench.now);
    bench.take();
    bench.sent();
    let entries = read(&mut bench, range);
    give(&mut bench, range, Some(entries));
    assert_eq!(bench.sent(), []);
    assert!(bench.driver.log_bytes() < 3 * SIZE as u64);
}

#[test]
fn lagging_followers_of_a_small_cache_are_served_from_disk_in_a_rough_world() {
    let mut read_back = 0;
    for seed in 0..20 {
        let world = World {
            loss_percent: 2,
            delay_ms: 5,
            ..World::KIND
        };
        let mut network = Network::of_voters(3, seed, world);
        network.run(1000);
        for round in 0..20 {
            network.cut = [round % 3 + 1].into();
            for number in 0..20 {
                network.propose(round * 100 + number);
                network.run(10);
            }
            network.cut.clear();
            network.run(100);
        }
        network.run(2000);
        read_back += network.counts.read_back;
    }
    assert!(read_back > 100, "{read_back} entries");
}
