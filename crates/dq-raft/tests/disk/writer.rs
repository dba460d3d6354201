//! What the writer leaves on disk, and how many operations it takes.

use dq_raft::DiskOp;
use dq_raft::log::plan::Segment;
use dq_raft::log::recover::{analyze, recover};
use dq_raft::log::snapshot::{Compression, SnapshotWriter};
use dq_raft::log::writer::{LogWriter, Prepared, Published, WriterOptions};
use dq_raft::sim_disk::{Fault, SimDisk};

use crate::directories::{append, entry, hard_state, open, options, persist, snapshot_meta};

fn prepare(writer: &mut LogWriter<SimDisk>) -> Prepared {
    loop {
        match writer.prepare().unwrap() {
            Prepared::Unfinished => {}
            prepared => return prepared,
        }
    }
}

fn segments(disk: &SimDisk) -> Vec<(u64, u64)> {
    let analysis = analyze(disk, &options()).unwrap();
    let pair = |segment: &Segment| (segment.first, segment.last);
    analysis.segments().iter().map(pair).collect()
}

#[test]
fn an_append_to_a_prepared_segment_is_one_write_and_one_sync() {
    let disk = SimDisk::new();
    let mut large = options();
    large.writer = WriterOptions::default();
    let (_, mut writer) = recover(disk.clone(), &large).unwrap();
    assert_eq!(prepare(&mut writer), Prepared::Ready);
    for index in 1..100 {
        let before = disk.operations();
        let words = 12 * 1024 / 8;
        let id = writer.write(&[persist(index, [append([entry(index, 1, words)])])]);
        assert_eq!(id, Ok(index));
        assert_eq!(disk.operations() - before, 2, "entry {index}");
    }
}

#[test]
fn what_has_queued_up_is_done_with_one_sync() {
    let disk = SimDisk::new();
    let (_, mut writer) = open(&disk).unwrap();
    writer.write(&[persist(1, [hard_state(1, 1)])]).unwrap();
    writer.write(&[persist(2, [hard_state(2, 1)])]).unwrap();
    prepare(&mut writer);
    let before = disk.operations();
    let batches = [
        persist(3, [hard_state(3, 1), append([entry(1, 3, 0)])]),
        persist(4, [append([entry(2, 3, 4)])]),
        persist(5, []),
        persist(6, [hard_state(4, 2), append([entry(3, 4, 4)])]),
    ];
    assert_eq!(writer.write(&batches), Ok(6));
    assert_eq!(
        disk.operations() - before,
        4,
        "metadata and log, each written and synced"
    );
    let (recovered, _) = open(&disk).unwrap();
    assert_eq!((recovered.term, recovered.vote), (4, 2));
    assert_eq!(recovered.entries.len(), 3);
}

#[test]
fn the_same_term_and_vote_again_cost_nothing() {
    let disk = SimDisk::new();
    let (_, mut writer) = open(&disk).unwrap();
    writer.write(&[persist(1, [hard_state(5, 3)])]).unwrap();
    let before = disk.operations();
    assert_eq!(writer.write(&[persist(2, [hard_state(5, 3)])]), Ok(2));
    assert_eq!(disk.operations(), before);
}

#[test]
fn full_segments_are_closed_and_an_entry_never_straddles_two() {
    let disk = SimDisk::new();
    let (_, mut writer) = open(&disk).unwrap();
    let entries: Vec<_> = (1..=40).map(|index| entry(index, 1, 60)).collect();
    writer
        .write(&[persist(1, [hard_state(1, 0), append(entries.clone())])])
        .unwrap();
    for index in 41..=80 {
        writer
            .write(&[persist(index, [append([entry(index, 1, 60)])])])
            .unwrap();
    }
    writer.close().unwrap();
    assert!(disk.files().keys().all(|name| !name.starts_with("open-")));
    let bounds = segments(&disk);
    assert!(bounds.len() > 9, "{bounds:?}");
    let (recovered, _) = open(&disk).unwrap();
    assert_eq!(
        recovered.entries,
        (1..=80).map(|i| entry(i, 1, 60)).collect::<Vec<_>>()
    );
}

#[test]
fn an_entry_larger_than_a_segment_gets_one_of_its_own() {
    let disk = SimDisk::new();
    let (_, mut writer) = open(&disk).unwrap();
    prepare(&mut writer);
    let entries = [entry(1, 1, 0), entry(2, 1, 5000), entry(3, 1, 1)];
    writer
        .write(&[persist(1, [hard_state(1, 0), append(entries.clone())])])
        .unwrap();
    assert_eq!(segments(&disk), [(1, 1), (2, 2), (3, 3)]);
    let (recovered, _) = open(&disk).unwrap();
    assert_eq!(recovered.entries, entries);
}

#[test]
fn every_size_of_batch_leaves_a_segment_that_the_original_can_read() {
    for words in 0..600 {
        let disk = SimDisk::new();
        let (_, mut writer) = open(&disk).unwrap();
        writer
            .write(&[persist(1, [hard_state(1, 0), append([entry(1, 1, 0)])])])
            .unwrap();
        let entries = [entry(2, 1, words), entry(3, 1, 2)];
        writer.write(&[persist(2, [append(entries)])]).unwrap();
        for (name, content) in disk.files() {
            if name.starts_with("open-") {
                let used = content
                    .iter()
                    .rposition(|byte| *byte != 0)
                    .map_or(0, |last| last + 1);
                let free = content.len() - used.next_multiple_of(8);
                assert_ne!(free, 8, "{words} words, {name}");
            }
        }
        let (recovered, _) = open(&disk).unwrap();
        assert_eq!(recovered.entries.len(), 3);
    }
}

#[test]
fn a_truncation_removes_the_suffix_and_appending_goes_on_from_there() {
    for from in 1..=21 {
        let disk = SimDisk::new();
        let (_, mut writer) = open(&disk).unwrap();
        writer.write(&[persist(1, [hard_state(1, 0)])]).unwrap();
        for index in 1..=20 {
            writer
                .write(&[persist(index, [append([entry(index, 1, 100)])])])
                .unwrap();
        }
        let new: Vec<_> = (from..from + 3).map(|index| entry(index, 2, 5)).collect();
        let ops = [
            hard_state(2, 0),
            DiskOp::Truncate { from },
            append(new.clone()),
        ];
        writer.write(&[persist(21, ops)]).unwrap();
        let (recovered, _) = open(&disk).unwrap();
        let mut expected: Vec<_> = (1..from).map(|index| entry(index, 1, 100)).collect();
        expected.extend(new);
        assert_eq!(recovered.entries, expected, "truncated at {from}");
    }
}

pub(crate) fn write_snapshot(disk: &SimDisk, index: u64, term: u64) -> dq_raft::SnapshotMeta {
    let meta = snapshot_meta(index, term);
    let mut writer = SnapshotWriter::create(disk.clone(), meta, 5, Compression::Lz4).unwrap();
    writer.write(b"hello").unwrap();
    writer.finish().unwrap()
}

#[test]
fn a_published_snapshot_closes_the_log_and_pruning_keeps_the_trailing_entries() {
    let disk = SimDisk::new();
    let (_, mut writer) = open(&disk).unwrap();
    writer.write(&[persist(1, [hard_state(1, 0)])]).unwrap();
    let mut id = 1;
    for index in 1..=30 {
        id += 1;
        writer
            .write(&[persist(id, [append([entry(index, 1, 100)])])])
            .unwrap();
        if index % 10 == 0 {
            let meta = write_snapshot(&disk, index - 2, 1);
            assert_eq!(writer.publish_snapshot(&meta), Ok(Published::Newest));
            let snapshot_index = meta.index;
            id += 1;
            let prune = DiskOp::Prune {
                snapshot_index,
                trailing: 4,
            };
            writer.write(&[persist(id, [prune])]).unwrap();
        }
    }
    let analysis = analyze(&disk, &options()).unwrap();
    let snapshots: Vec<u64> = analysis.snapshots().iter().map(|s| s.index).collect();
    assert_eq!(snapshots, [18, 28]);
    let first = analysis.recovered.entries[0].index;
    assert!((21..=25).contains(&first), "{first}");
    assert_eq!(analysis.last_entry(), (30, 1));
    assert_eq!(analysis.recovered.snapshot.unwrap().index, 28);
}

#[test]
fn an_installed_snapshot_replaces_the_log_and_supersedes_an_older_one() {
    let disk = SimDisk::new();
    let (_, mut writer) = open(&disk).unwrap();
    let entries: Vec<_> = (1..=10).map(|index| entry(index, 1, 100)).collect();
    writer
        .write(&[persist(1, [hard_state(1, 0), append(entries)])])
        .unwrap();
    let own = write_snapshot(&disk, 8, 1);
    let meta = write_snapshot(&disk, 50, 2);
    let ops = [
        hard_state(2, 0),
        DiskOp::InstallSnapshot { meta: meta.clone() },
        append([entry(51, 2, 3)]),
    ];
    writer.write(&[persist(2, ops)]).unwrap();
    assert_eq!(writer.publish_snapshot(&own), Ok(Published::Superseded));
    let (recovered, _) = open(&disk).unwrap();
    assert_eq!(recovered.snapshot, Some(meta));
    assert_eq!(recovered.entries, [entry(51, 2, 3)]);
    assert!(disk.files().keys().all(|name| !name.starts_with("tmp-")));
}

/// A recovery's entry has term 1, whatever came before it.
#[test]
fn a_snapshot_that_ends_in_an_older_term_is_what_a_start_goes_by() {
    let disk = SimDisk::new();
    let (_, mut writer) = open(&disk).unwrap();
    let term = |index| if index <= 10 { 5 } else { 1 };
    let entries: Vec<_> = (1..=20)
        .map(|index| entry(index, term(index), 100))
        .collect();
    writer
        .write(&[persist(1, [hard_state(5, 0), append(entries)])])
        .unwrap();
    for (id, index) in [(2, 8), (3, 15)] {
        let meta = write_snapshot(&disk, index, term(index));
        assert_eq!(writer.publish_snapshot(&meta), Ok(Published::Newest));
        let prune = DiskOp::Prune {
            snapshot_index: index,
            trailing: 0,
        };
        writer.write(&[persist(id, [prune])]).unwrap();
    }
    let analysis = analyze(&disk, &options()).unwrap();
    let snapshots: Vec<u64> = analysis.snapshots().iter().map(|s| s.index).collect();
    assert_eq!(snapshots, [15]);
    assert_eq!(analysis.last_entry(), (20, 1));

    let meta = write_snapshot(&disk, 40, 1);
    let older = write_snapshot(&disk, 18, 7);
    assert_eq!(writer.publish_snapshot(&older), Ok(Published::Newest));
    let install = DiskOp::InstallSnapshot { meta: meta.clone() };
    writer.write(&[persist(4, [install])]).unwrap();
    let (recovered, _) = open(&disk).unwrap();
    assert_eq!(recovered.snapshot, Some(meta));
}

#[test]
fn old_entries_beyond_the_limit_stay_on_disk_unread() {
    let disk = SimDisk::new();
    let (_, mut writer) = open(&disk).unwrap();
    let entries: Vec<_> = (1..=60).map(|index| entry(index, 1, 60)).collect();
    writer
        .write(&[persist(1, [hard_state(1, 0), append(entries)])])
        .unwrap();
    let meta = write_snapshot(&disk, 50, 1);
    writer.publish_snapshot(&meta).unwrap();
    writer.close().unwrap();
    let mut options = options();
    let first = |options: &_| recover(disk.clone(), options).unwrap().0.entries[0].index;
    assert_eq!(first(&options), 1);
    options.trailing_bytes_max = 0;
    assert!((44..=50).contains(&first(&options)));
    options.trailing_bytes_max = 6000;
    assert!((25..=43).contains(&first(&options)));
}

#[test]
fn any_error_is_final() {
    let disk = SimDisk::new();
    let (_, mut writer) = open(&disk).unwrap();
    writer
        .write(&[persist(1, [hard_state(1, 0), append([entry(1, 1, 0)])])])
        .unwrap();
    disk.fail(disk.operations() + 1, Fault::Error(5));
    let error = writer
        .write(&[persist(2, [append([entry(2, 1, 1)])])])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "sync open-1: Input/output error (os error 5)"
    );
    assert_eq!(writer.write(&[]), Err(error.clone()));
    assert_eq!(writer.prepare(), Err(error.clone()));
    assert_eq!(
        writer.publish_snapshot(&snapshot_meta(1, 1)),
        Err(error.clone())
    );
    assert_eq!(writer.close(), Err(error));
}

#[test]
fn a_full_disk_is_noticed_before_anything_depends_on_it() {
    let disk = SimDisk::new();
    disk.set_space(Some(9000));
    let (_, mut writer) = open(&disk).unwrap();
    assert_eq!(prepare(&mut writer), Prepared::Ready);
    assert_eq!(writer.reserved_bytes(), 2 * 4088, "two segments fit");
    writer
        .write(&[persist(1, [hard_state(1, 0), append([entry(1, 1, 0)])])])
        .unwrap();
    let mut index = 1;
    while writer.reserved_bytes() >= 2 * (32 + 800) {
        index += 1;
        writer
            .write(&[persist(index, [append([entry(index, 1, 100)])])])
            .unwrap();
        assert_eq!(prepare(&mut writer), Prepared::NoSpace);
    }
    assert!(index > 7);
    disk.set_space(None);
    assert_eq!(prepare(&mut writer), Prepared::Ready);
    assert!(writer.reserved_bytes() > 8000);
    let (recovered, _) = open(&disk).unwrap();
    assert_eq!(recovered.entries.len() as u64, index);
}

#[test]
fn a_large_entry_takes_the_space_that_was_reserved_in_other_segments() {
    let disk = SimDisk::new();
    disk.set_space(Some(12_500));
    let (_, mut writer) = open(&disk).unwrap();
    prepare(&mut writer);
    writer.write(&[persist(1, [hard_state(1, 0)])]).unwrap();
    writer
        .write(&[persist(2, [append([entry(1, 1, 0)])])])
        .unwrap();
    prepare(&mut writer);
    assert_eq!(
        writer.write(&[persist(3, [append([entry(2, 1, 900)])])]),
        Ok(3)
    );
    assert_eq!(open(&disk).unwrap().0.entries.len(), 2);
}

#[test]
#[should_panic(expected = "entries follow the log's last one")]
fn a_gap_is_never_written() {
    let (_, mut writer) = open(&SimDisk::new()).unwrap();
    let _ = writer.write(&[persist(1, [append([entry(2, 1, 1)])])]);
}
