//! Entries that are read back while the log goes on.

use dq_raft::disk::Disk;
use dq_raft::log::writer::LogWriter;
use dq_raft::sim_disk::SimDisk;
use dq_raft::{DiskOp, FsDisk, LogEntry, LogRange, LogReader, ReadError};

use crate::directories::{append, entry, hard_state, open, persist};

fn range(first: u64, last: u64) -> LogRange {
    LogRange {
        term: 1,
        first,
        last,
    }
}

fn entries(first: u64, last: u64) -> Vec<LogEntry> {
    // Sizes that leave several batches in a segment, and some segments with one.
    let words = |index| (index * 37 % 300) as usize;
    (first..=last).map(|i| entry(i, 1, words(i))).collect()
}

/// A log of so many entries, written in batches of three.
fn written<D: Disk>(disk: &D, last: u64) -> LogWriter<D> {
    let (_, mut writer) = open(disk).unwrap();
    writer.write(&[persist(1, [hard_state(1, 1)])]).unwrap();
    write_on(&mut writer, 1, last);
    writer
}

fn write_on<D: Disk>(writer: &mut LogWriter<D>, first: u64, last: u64) {
    for begin in (first..=last).step_by(3) {
        let batch = entries(begin, last.min(begin + 2));
        writer
            .write(&[persist(begin + 1, [append(batch)])])
            .unwrap();
    }
}

/// Everything is read back, wherever reading begins and however much is asked for at a time.
fn check<D: Disk>(disk: &D) {
    let mut writer = written(disk, 100);
    for step in [1, 2, 5, 40, 100] {
        let mut reader = LogReader::new(disk.clone());
        for first in (1..=100).step_by(step) {
            let last = 100.min(first + step as u64 - 1);
            let read = reader.read(range(first, last));
            assert_eq!(
                read.as_ref(),
                Ok(&entries(first, last)),
                "{first} to {last}"
            );
        }
    }
    // Two that are read for in turn do not disturb each other, nor does the writer, which closes the
    // segment that one of them has open.
    let mut reader = LogReader::new(disk.clone());
    for first in 90..=100 {
        assert_eq!(reader.read(range(first, first)), Ok(entries(first, first)));
        let other = first - 60;
        assert_eq!(reader.read(range(other, other)), Ok(entries(other, other)));
    }
    write_on(&mut writer, 101, 160);
    assert_eq!(reader.read(range(101, 160)), Ok(entries(101, 160)));
    writer.close().unwrap();
    assert_eq!(reader.read(range(1, 160)), Ok(entries(1, 160)));
}

#[test]
fn entries_are_read_back_from_closed_and_open_segments() {
    check(&SimDisk::new());
}

#[test]
fn entries_are_read_back_from_a_real_directory() {
    let dir = tempfile::tempdir().unwrap();
    check(&FsDisk::new(dir.path()).unwrap());
}

#[test]
fn what_has_been_pruned_is_gone_and_what_has_not_is_not() {
    let disk = SimDisk::new();
    let mut writer = written(&disk, 60);
    let mut reader = LogReader::new(disk.clone());
    let meta = crate::writer::write_snapshot(&disk, 50, 1);
    writer.publish_snapshot(&meta).unwrap();
    let prune = DiskOp::Prune {
        snapshot_index: 50,
        trailing: 10,
    };
    writer.write(&[persist(100, [prune])]).unwrap();
    assert_eq!(reader.read(range(1, 3)), Err(ReadError::Gone(1)));
    assert_eq!(reader.read(range(41, 60)), Ok(entries(41, 60)));
    assert_eq!(reader.read(range(61, 61)), Err(ReadError::Gone(61)));
    // What follows a snapshot without any closed segment is counted from it.
    let disk = SimDisk::new();
    let (_, mut writer) = open(&disk).unwrap();
    let meta = crate::writer::write_snapshot(&disk, 70, 1);
    let install = DiskOp::InstallSnapshot { meta };
    writer
        .write(&[persist(1, [hard_state(1, 0), install])])
        .unwrap();
    writer
        .write(&[persist(2, [append(entries(71, 72))])])
        .unwrap();
    let mut reader = LogReader::new(disk);
    assert_eq!(reader.read(range(72, 72)), Ok(entries(72, 72)));
    assert_eq!(reader.read(range(70, 72)), Err(ReadError::Gone(70)));
}

#[test]
fn what_another_leadership_has_replaced_is_not_read_from_the_old_file() {
    let disk = SimDisk::new();
    let mut writer = written(&disk, 30);
    let mut reader = LogReader::new(disk.clone());
    assert_eq!(reader.read(range(1, 20)), Ok(entries(1, 20)));
    let new: Vec<_> = (21..=30).map(|index| entry(index, 2, 9)).collect();
    let ops = [DiskOp::Truncate { from: 21 }, append(new.clone())];
    writer.write(&[persist(90, ops)]).unwrap();
    let again = LogRange {
        term: 2,
        first: 21,
        last: 30,
    };
    assert_eq!(reader.read(again), Ok(new));
}

#[test]
fn every_flipped_bit_is_noticed_or_outside_of_what_is_read() {
    let disk = SimDisk::new();
    written(&disk, 12).close().unwrap();
    let files = disk.files();
    let mut noticed = 0;
    for (name, content) in &files {
        if !name.starts_with("0000") {
            continue;
        }
        for at in (0..content.len()).step_by(7) {
            let mut damaged = files.clone();
            damaged.get_mut(name).unwrap()[at] ^= 1 << (at % 8);
            let disk = crate::directories::disk_with(&damaged);
            match LogReader::new(disk).read(range(1, 12)) {
                Ok(read) => assert_eq!(read, entries(1, 12), "byte {at} of {name}"),
                Err(error) => {
                    noticed += 1;
                    assert!(!error.to_string().is_empty());
                }
            }
        }
    }
    assert!(noticed > 100);
}
