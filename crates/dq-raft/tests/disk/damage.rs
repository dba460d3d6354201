//! Directories that are not as a clean stop leaves them: which ones start, with what, and which ones
//! are refused without being touched.

use std::collections::BTreeMap;

use dq_raft::log::check::{StartReport, check};
use dq_raft::log::recover::{RecoverError, recover};
use dq_raft::log::snapshot::{Compression, SnapshotWriter};
use dq_raft::log::writer::LogWriter;
use dq_raft::sim_disk::SimDisk;
use dq_raft::{LogEntry, Recovered};

use crate::directories::{
    append, configuration, disk_with, entry, hard_state, open, options, persist, snapshot_meta,
};

type Files = BTreeMap<String, Vec<u8>>;

/// A log of `terms.len()` entries, closed after each index in `closed_after`; the rest is in
/// `open-1`.
fn log(terms: &[u64], closed_after: &[u64]) -> Files {
    let mut files = Files::new();
    let mut begin = 1;
    for last in closed_after {
        let all = segments_of(terms, begin, *last);
        files.insert(format!("{begin:016}-{last:016}"), all);
        begin = last + 1;
    }
    let last = terms.len() as u64;
    if begin <= last {
        let mut open = segments_of(terms, begin, last);
        open.resize(4096, 0);
        files.insert("open-1".into(), open);
    }
    files.insert("metadata1".into(), metadata(1, 9, 2));
    files
}

fn metadata(version: u64, term: u64, vote: u64) -> Vec<u8> {
    [1, version, term, vote].map(u64::to_le_bytes).concat()
}

/// The bytes of a segment with these entries, one batch each.
fn segments_of(terms: &[u64], first: u64, last: u64) -> Vec<u8> {
    let entries: Vec<LogEntry> = (first..=last)
        .map(|index| entry(index, terms[index as usize - 1], 2))
        .collect();
    segment(&entries)
}

fn segment(entries: &[LogEntry]) -> Vec<u8> {
    use dq_wire::EntryHeader;
    use dq_wire::disk::segment::{SEGMENT_HEAD, encode_batch_head};

    let mut bytes = SEGMENT_HEAD.to_vec();
    for entry in entries {
        let data = entry.payload.to_bytes();
        let header = EntryHeader {
            term: entry.term,
            kind: entry.kind,
            size: data.len() as u32,
        };
        encode_batch_head(&mut bytes, &[header], [&data[..]]);
        bytes.extend_from_slice(&data);
    }
    bytes
}

fn add_snapshot(files: &mut Files, index: u64, term: u64) {
    let disk = SimDisk::new();
    let meta = snapshot_meta(index, term);
    let mut writer = SnapshotWriter::create(disk.clone(), meta, 2, Compression::Lz4).unwrap();
    writer.write(b"db").unwrap();
    writer.finish().unwrap();
    for (name, content) in disk.files() {
        files.insert(name.strip_prefix("tmp-").unwrap().to_owned(), content);
    }
}

/// Opens it, and once more: the second time there is nothing to repair and the result is the same.
fn start(files: &Files) -> Result<(Recovered, SimDisk, LogWriter<SimDisk>), RecoverError> {
    let disk = disk_with(files);
    let opened = open(&disk);
    let Ok((recovered, _)) = opened else {
        assert_eq!(&disk.files(), files, "a refused directory is left as it is");
        return Err(opened.err().unwrap());
    };
    let report = check(&disk, &options()).unwrap();
    match report.start {
        StartReport::Starts { repairs, .. } => assert_eq!(repairs, []),
        // Opening the log does not read the databases; a start does.
        _ if report.snapshots.last().is_some_and(|s| s.data.is_err()) => {}
        refuses => panic!("{refuses}"),
    }
    let (again, writer) = open(&disk).unwrap();
    assert_eq!(again, recovered);
    Ok((recovered, disk, writer))
}

fn refusal(files: &Files) -> (String, String) {
    match start(files) {
        Err(RecoverError::Corrupt { file, detail, .. }) => (file, detail),
        Err(other) => panic!("{other}"),
        Ok((recovered, ..)) => panic!("started: {recovered:?}"),
    }
}

fn indexes(recovered: &Recovered) -> Vec<u64> {
    recovered.entries.iter().map(|entry| entry.index).collect()
}

fn span(first: u64, last: u64) -> Vec<u64> {
    (first..=last).collect()
}

/// A log of two entries in a closed segment, and one of 3 KiB after another of two words in `open-1`;
/// where the large one's batch begins there, and where it ends.
fn with_large_batch() -> (Files, usize, usize) {
    let mut files = log(&[1; 2], &[2]);
    let begin = segment(&[entry(3, 1, 2)]).len();
    let mut open = segment(&[entry(3, 1, 2), entry(4, 1, 384)]);
    let end = open.len();
    open.resize(8192, 0);
    files.insert("open-1".into(), open);
    (files, begin, end)
}

#[test]
fn a_torn_batch_is_cut_off_whichever_sectors_it_lacks() {
    let (files, begin, end) = with_large_batch();
    assert_eq!(indexes(&start(&files).unwrap().0), span(1, 4));
    let first = begin / 512;
    for lost in 1u32..1 << (end.div_ceil(512) - first) {
        let mut files = files.clone();
        let open = files.get_mut("open-1").unwrap();
        for sector in (0..32).filter(|sector| lost >> sector & 1 == 1) {
            let at = (first + sector) * 512;
            open[at.max(begin)..at + 512].fill(0);
        }
        let (recovered, disk, _) = start(&files).unwrap();
        assert_eq!(indexes(&recovered), span(1, 3), "{lost:b}");
        let closed = &disk.files()["0000000000000003-0000000000000003"];
        assert_eq!(closed.len(), begin);
    }
}

#[test]
fn a_write_that_a_kill_cut_short_is_cut_off_wherever_that_was() {
    let (files, begin, end) = with_large_batch();
    for cut in (begin..end).step_by(8) {
        let mut files = files.clone();
        files.get_mut("open-1").unwrap()[cut..].fill(0);
        assert_eq!(indexes(&start(&files).unwrap().0), span(1, 3), "{cut}");
    }
}

#[test]
fn a_last_batch_that_was_written_whole_and_has_decayed_is_refused() {
    // C dqlite starts without the entry.
    let (files, begin, end) = with_large_batch();
    for at in (begin..end).step_by(5) {
        let mut files = files.clone();
        files.get_mut("open-1").unwrap()[at] ^= 0x10;
        let (file, detail) = refusal(&files);
        assert_eq!(file, "open-1");
        let why = "although all of it was written";
        assert_eq!(
            detail,
            format!("open-1: the batch at byte {begin} is damaged {why}")
        );
    }
    // Nor is anything written behind it that is no batch.
    let mut garbage = files;
    garbage.get_mut("open-1").unwrap()[end..end + 80].fill(0xaa);
    assert_eq!(refusal(&garbage).0, "open-1");
}

#[test]
fn a_batch_that_was_never_written_where_it_belongs_is_missed_by_those_behind_it() {
    // C dqlite starts without any of them.
    let mut files = log(&[1; 2], &[2]);
    let mut open = segment(&[entry(3, 1, 2), entry(4, 1, 384), entry(5, 1, 2)]);
    open.resize(8192, 0);
    let begin = segment(&[entry(3, 1, 2)]).len();
    let end = segment(&[entry(3, 1, 2), entry(4, 1, 384)]).len();
    let mut lost = open.clone();
    lost[begin..end].fill(0);
    files.insert("open-1".into(), lost);
    let (file, detail) = refusal(&files);
    assert_eq!(file, "open-1");
    assert!(detail.ends_with("is damaged, and a valid one follows"));
    // The segment's first write, too.
    open[..begin].fill(0);
    files.insert("open-1".into(), open);
    assert_eq!(refusal(&files).1, "open-1: the format version is missing");
}

#[test]
fn pages_that_look_like_many_batches_keep_no_start_waiting() {
    // Each word of this may begin a batch of 200,000 entries; none has the right checksum.
    let (mut files, begin, _) = with_large_batch();
    let mut open = files["open-1"].clone();
    let pattern = [200_000u64, 1].map(u64::to_le_bytes).concat();
    open.resize(begin, 0);
    open.extend([0; 512]);
    open.extend(pattern.repeat(250_000));
    files.insert("open-1".into(), open);
    assert_eq!(indexes(&start(&files).unwrap().0), span(1, 3));
}

#[test]
fn open_segments_that_were_never_written_to_are_removed() {
    let mut files = log(&[1; 4], &[2]);
    files.insert("open-2".into(), Vec::new());
    files.insert("open-3".into(), vec![0; 4096]);
    files.insert("open-10".into(), vec![0; 4096]);
    let (recovered, disk, _) = start(&files).unwrap();
    assert_eq!(indexes(&recovered), span(1, 4));
    assert!(disk.files().keys().all(|name| !name.starts_with("open-")));
}

#[test]
fn open_segments_are_numbered_in_the_order_of_their_counters() {
    let mut files = log(&[1; 3], &[1]);
    let mut zeros = vec![0; 4096];
    let later = segment(&[entry(4, 1, 2)]);
    zeros[..later.len()].copy_from_slice(&later);
    files.insert("open-10".into(), zeros);
    files.insert("open-2".into(), vec![0; 4096]);
    let (recovered, ..) = start(&files).unwrap();
    assert_eq!(recovered.entries[3], entry(4, 1, 2));
}

#[test]
fn an_open_segment_whose_only_write_was_torn_is_set_aside() {
    let mut files = log(&[1; 2], &[2]);
    let mut whole = segment(&[entry(3, 1, 200)]);
    whole.resize(4096, 0);
    for lost in [0..512, 512..1024, 0..1024, 1024..4096, 40..4096] {
        files.insert("open-1".into(), whole.clone());
        files.get_mut("open-1").unwrap()[lost].fill(0);
        let (recovered, disk, _) = start(&files).unwrap();
        assert_eq!(indexes(&recovered), span(1, 2));
        assert!(disk.files().contains_key("corrupt-77-open-1"));
    }
    // The sector with the format word may be what is missing, but never a part of it.
    for lost in [0..8, 0..40] {
        files.insert("open-1".into(), whole.clone());
        files.get_mut("open-1").unwrap()[lost].fill(0);
        assert_eq!(refusal(&files).1, "open-1: the format version is missing");
    }
    files.insert("open-1".into(), whole);
    files.get_mut("open-1").unwrap()[8..12].fill(0);
    assert_eq!(refusal(&files).0, "open-1");
}

#[test]
fn damage_before_later_entries_is_refused() {
    // C dqlite deletes open-1 and gives the entries of open-2 its indexes.
    let mut files = log(&[1; 4], &[2]);
    let mut open = segment(&[entry(5, 1, 2)]);
    open.resize(4096, 0);
    files.insert("open-2".into(), open);
    assert_eq!(indexes(&start(&files).unwrap().0), span(1, 5));
    let mut broken = files.clone();
    broken.get_mut("open-1").unwrap()[9] ^= 1;
    assert_eq!(refusal(&broken).0, "open-1");
    let mut torn = files.clone();
    torn.get_mut("open-1").unwrap()[2000] = 1;
    assert_eq!(refusal(&torn).0, "open-1");
    // A bad batch in front of a good one, too: only the last one can be torn.
    let mut inside = log(&[1; 4], &[2]);
    inside.get_mut("open-1").unwrap()[8 + 32 + 3] ^= 1;
    let (file, detail) = refusal(&inside);
    assert_eq!(file, "open-1");
    assert_eq!(
        detail,
        "open-1: the batch at byte 8 is damaged, and a valid one follows"
    );
}

#[test]
fn a_truncation_cut_short_is_finished() {
    // C dqlite refuses to start.
    let mut files = log(&[1; 6], &[1, 3, 6]);
    files.insert(
        "0000000000000002-0000000000000002".into(),
        segment(&[entry(2, 1, 2)]),
    );
    let (recovered, disk, _) = start(&files).unwrap();
    assert_eq!(indexes(&recovered), span(1, 2));
    assert!(
        !disk
            .files()
            .contains_key("0000000000000002-0000000000000003")
    );
    assert!(
        !disk
            .files()
            .contains_key("0000000000000004-0000000000000006")
    );
    // Other entries in the shorter one: not from a truncation.
    files.insert(
        "0000000000000002-0000000000000002".into(),
        segment(&[entry(2, 2, 2)]),
    );
    assert_eq!(refusal(&files).0, "0000000000000002-0000000000000003");
}

#[test]
fn a_closed_segment_with_other_entries_than_its_name_says_is_refused() {
    // C dqlite moves it away and starts without its entries.
    let mut files = log(&[1; 4], &[2]);
    files.insert(
        "0000000000000003-0000000000000003".into(),
        segments_of(&[1; 4], 3, 4),
    );
    files.remove("open-1");
    let (file, detail) = refusal(&files);
    assert_eq!(file, "0000000000000003-0000000000000003");
    assert_eq!(
        detail,
        "closed segment 0000000000000003-0000000000000003: 2 entries instead of 1"
    );
}

#[test]
fn eight_free_bytes_at_the_end_are_no_problem() {
    // C dqlite 1.11.1 crashes.
    let mut files = log(&[1; 4], &[2]);
    let open = files.get_mut("open-1").unwrap();
    open.truncate(8 + 2 * 48 + 8);
    assert_eq!(indexes(&start(&files).unwrap().0), span(1, 4));
}

#[test]
fn entries_whose_indexes_nothing_tells_are_refused() {
    // C dqlite renumbers them.
    let mut files = log(&[1; 4], &[4]);
    add_snapshot(&mut files, 6, 1);
    assert_eq!(
        indexes(&start(&files).unwrap().0),
        span(1, 0),
        "an installation cut short"
    );
    let mut open = segment(&[entry(7, 1, 2), entry(8, 1, 2)]);
    open.resize(4096, 0);
    files.insert("open-1".into(), open);
    assert_eq!(refusal(&files).0, "open-1");
}

#[test]
fn an_installation_cut_short_is_finished() {
    let mut files = log(&[1; 8], &[4, 6, 8]);
    add_snapshot(&mut files, 5, 2);
    let (recovered, disk, mut writer) = start(&files).unwrap();
    assert_eq!(recovered.entries, []);
    assert_eq!(writer.last_index(), 5);
    assert!(disk.files().keys().all(|name| !name.starts_with('0')));
    writer
        .write(&[persist(1, [append([entry(6, 2, 1)])])])
        .unwrap();
    assert_eq!(indexes(&open(&disk).unwrap().0), [6]);
    // The same term at its index: an ordinary snapshot, whose entries stay.
    let mut files = log(&[1; 8], &[4, 6, 8]);
    add_snapshot(&mut files, 5, 1);
    assert_eq!(indexes(&start(&files).unwrap().0), span(1, 8));
}

#[test]
fn what_is_not_contiguous_before_a_snapshot_is_forgotten_and_removed() {
    let mut files = log(&[1; 8], &[2, 4, 6, 8]);
    files.remove("0000000000000003-0000000000000004");
    assert_eq!(
        refusal(&files).1,
        "unexpected closed segment 0000000000000005-0000000000000006: first index should have been 3"
    );
    add_snapshot(&mut files, 4, 1);
    let (recovered, disk, _) = start(&files).unwrap();
    assert_eq!(indexes(&recovered), span(5, 8));
    assert!(
        !disk
            .files()
            .contains_key("0000000000000001-0000000000000002")
    );
    files.remove("0000000000000005-0000000000000006");
    assert_eq!(refusal(&files).0, "0000000000000007-0000000000000008");
}

#[test]
fn overlapping_segments_are_refused() {
    let mut files = log(&[1; 6], &[4]);
    files.remove("open-1");
    files.insert(
        "0000000000000003-0000000000000006".into(),
        segments_of(&[1; 6], 3, 6),
    );
    assert_eq!(refusal(&files).0, "0000000000000003-0000000000000006");
    add_snapshot(&mut files, 4, 1);
    assert_eq!(refusal(&files).0, "0000000000000003-0000000000000006");
}

#[test]
fn a_log_without_a_snapshot_begins_with_a_configuration() {
    let mut files = log(&[1; 3], &[2, 3]);
    files.remove("0000000000000001-0000000000000002");
    assert!(
        refusal(&files)
            .1
            .ends_with("first index should have been 1; is a snapshot missing?")
    );
    let mut command = entry(2, 1, 2);
    command.index = 1;
    files = log(&[1; 3], &[1, 3]);
    files.insert(
        "0000000000000001-0000000000000001".into(),
        segment(&[command]),
    );
    assert_eq!(refusal(&files).0, "0000000000000001-0000000000000001");
}

#[test]
fn terms_that_go_down_are_no_damage_but_terms_above_the_stored_one_are() {
    // A forced configuration of C dqlite has term 1, whatever came before.
    let files = log(&[1, 5, 5, 1], &[3]);
    assert_eq!(indexes(&start(&files).unwrap().0), span(1, 4));
    let files = log(&[1, 5, 10, 10], &[3]);
    assert_eq!(refusal(&files).0, "metadata1");
    let mut files = log(&[1; 2], &[]);
    add_snapshot(&mut files, 1, 10);
    assert_eq!(refusal(&files).0, "metadata1");
}

#[test]
fn halves_of_snapshots_and_unfinished_files_are_removed_and_the_rest_left_alone() {
    let mut files = log(&[1; 8], &[4, 8]);
    add_snapshot(&mut files, 4, 1);
    add_snapshot(&mut files, 5, 1);
    add_snapshot(&mut files, 6, 1);
    files.remove("snapshot-1-5-1");
    files.remove("snapshot-1-6-1.meta");
    for name in [
        "tmp-snapshot-1-7-1",
        "tmp-x",
        "cluster.yaml",
        "1-2",
        "open-x",
        "open-01",
    ] {
        files.insert(name.into(), b"x".to_vec());
    }
    files.insert(format!("{:016}-{}", 9, u64::MAX), b"x".to_vec());
    let (recovered, disk, _) = start(&files).unwrap();
    assert_eq!(recovered.snapshot.unwrap().index, 4);
    let left = disk.files();
    let gone: Vec<&String> = files
        .keys()
        .filter(|name| !left.contains_key(*name))
        .collect();
    assert_eq!(
        gone,
        [
            "snapshot-1-5-1.meta",
            "snapshot-1-6-1",
            "tmp-snapshot-1-7-1",
            "tmp-x"
        ]
    );
}

#[test]
fn a_snapshot_that_the_log_needs_and_that_has_lost_a_file_is_named() {
    let mut files = log(&[1; 8], &[4, 8]);
    files.remove("0000000000000001-0000000000000004");
    add_snapshot(&mut files, 4, 1);
    assert_eq!(indexes(&start(&files).unwrap().0), span(5, 8));
    for (lost, alone) in [
        ("snapshot-1-4-1", "snapshot-1-4-1.meta"),
        ("snapshot-1-4-1.meta", "snapshot-1-4-1"),
    ] {
        let mut files = files.clone();
        files.remove(lost);
        let (_, detail) = refusal(&files);
        assert!(
            detail.ends_with(&format!("lost a file: {alone} is alone")),
            "{detail}"
        );
    }
    // Data without members, and no log: nothing but somebody's hand does that, so they stay.
    let mut files = Files::new();
    add_snapshot(&mut files, 4, 1);
    files.insert("metadata1".into(), metadata(1, 1, 0));
    assert_eq!(start(&files).unwrap().0.snapshot.unwrap().index, 4);
    files.remove("snapshot-1-4-1.meta");
    assert_eq!(refusal(&files).0, "snapshot-1-4-1.meta");
    // Members without data: an installation was cut short.
    files.remove("snapshot-1-4-1");
    let mut whole = Files::new();
    add_snapshot(&mut whole, 4, 1);
    files.insert(
        "snapshot-1-4-1.meta".into(),
        whole["snapshot-1-4-1.meta"].clone(),
    );
    assert_eq!(start(&files).unwrap().0.snapshot, None);
}

#[test]
fn only_the_newest_snapshot_counts_and_must_be_whole() {
    let mut files = log(&[1; 8], &[4, 8]);
    add_snapshot(&mut files, 4, 1);
    add_snapshot(&mut files, 6, 1);
    assert_eq!(start(&files).unwrap().0.snapshot.unwrap().index, 6);
    files.get_mut("snapshot-1-4-1.meta").unwrap()[20] ^= 1;
    assert_eq!(start(&files).unwrap().0.snapshot.unwrap().index, 6);
    files.get_mut("snapshot-1-6-1.meta").unwrap()[20] ^= 1;
    assert_eq!(refusal(&files).0, "snapshot-1-6-1.meta");
}

#[test]
fn every_state_of_the_metadata_files_is_known() {
    let good = log(&[1; 2], &[]);
    let with = |one: Option<Vec<u8>>, two: Option<Vec<u8>>| {
        let mut files = good.clone();
        files.remove("metadata1");
        for (name, content) in [("metadata1", one), ("metadata2", two)] {
            if let Some(content) = content {
                files.insert(name.into(), content);
            }
        }
        files
    };
    let terms = |files: &Files| {
        let recovered = start(files).unwrap().0;
        (recovered.term, recovered.vote)
    };
    let (old, new) = (metadata(3, 7, 1), metadata(4, 8, 2));
    assert_eq!(terms(&with(Some(old.clone()), Some(new.clone()))), (8, 2));
    assert_eq!(
        terms(&with(Some(metadata(5, 9, 0)), Some(new.clone()))),
        (9, 0)
    );
    assert_eq!(terms(&with(None, Some(new.clone()))), (8, 2));
    for size in 0..32 {
        let torn = new[..size].to_vec();
        assert_eq!(terms(&with(Some(old.clone()), Some(torn))), (7, 1));
    }
    assert_eq!(terms(&with(Some(old.clone()), Some(vec![0; 32]))), (7, 1));
    let longer = [&new[..], &[0]].concat();
    let (file, detail) = refusal(&with(Some(old.clone()), Some(longer)));
    assert_eq!(file, "metadata2");
    assert_eq!(detail, "metadata2 has size 33 instead of 32");
    // Two that were not written one after the other: one of them has decayed.
    for (one, two, file) in [
        ((3, 7, 1), (3, 8, 2), "metadata2"),
        ((4, 7, 1), (3, 8, 2), "metadata1"),
        ((1, 7, 1), (4, 8, 2), "metadata1"),
        ((7, 7, 1), (4, 8, 2), "metadata1"),
        ((3, 9, 1), (4, 8, 2), "metadata1"),
        ((5, 7, 1), (4, 8, 2), "metadata1"),
        ((3, 7, 1), (4, 7, 2), "metadata1"),
        ((3, 7, 1), (4, 7, 0), "metadata1"),
    ] {
        let [one, two] = [one, two].map(|(version, term, vote)| metadata(version, term, vote));
        assert_eq!(refusal(&with(Some(one), Some(two))).0, file);
    }
    let voted = with(Some(metadata(3, 7, 0)), Some(metadata(4, 7, 2)));
    assert_eq!(terms(&voted), (7, 2));
    let mut other = new.clone();
    other[0] = 2;
    assert_eq!(
        refusal(&with(Some(old.clone()), Some(other))).1,
        "decode content of metadata2: bad format version 2"
    );
    refusal(&with(Some(old), Some(metadata(0, 1, 1))));
    // Losing both would forget votes: entries prove that there were some.
    assert_eq!(refusal(&with(None, None)).0, "metadata1");
}

#[test]
fn a_snapshot_as_far_as_a_false_leader_can_bring_a_node_is_found_again() {
    // Peers may say numbers below 1 << 62, and entries may follow.
    let index = (1 << 62) + 1;
    let mut files = log(&[1; 2], &[]);
    files.remove("open-1");
    add_snapshot(&mut files, index, 1);
    let (recovered, ..) = start(&files).unwrap();
    assert_eq!(recovered.snapshot.unwrap().index, index);
}

#[test]
fn metadata_that_leave_no_room_to_count_on_are_refused() {
    for (version, term) in [(u64::MAX, 9), (1 << 63, 9), (3, u64::MAX), (3, 1 << 63)] {
        let mut files = log(&[1; 2], &[]);
        files.insert("metadata1".into(), metadata(version, term, 0));
        let (file, detail) = refusal(&files);
        assert_eq!(file, "metadata1", "{detail}");
    }
    let mut files = log(&[1; 2], &[]);
    files.remove("metadata1");
    files.insert("metadata2".into(), metadata(1 << 62, 9, 0));
    let (_, disk, mut writer) = start(&files).unwrap();
    writer.write(&[persist(1, [hard_state(11, 0)])]).unwrap();
    assert_eq!(disk.files()["metadata1"], metadata((1 << 62) + 1, 11, 0));
}

#[test]
fn writing_goes_on_in_the_older_metadata_file() {
    let mut files = log(&[1; 2], &[]);
    files.insert("metadata2".into(), metadata(2, 10, 3));
    let (_, disk, mut writer) = start(&files).unwrap();
    writer.write(&[persist(1, [hard_state(11, 0)])]).unwrap();
    assert_eq!(disk.files()["metadata1"], metadata(3, 11, 0));
    assert_eq!(disk.files()["metadata2"], metadata(2, 10, 3));
}

#[test]
fn automatic_recovery_sets_aside_what_the_original_would() {
    let mut automatic = options();
    automatic.auto_recovery = true;
    let start = |files: &Files| {
        let disk = disk_with(files);
        let opened = recover(disk.clone(), &automatic).map(|(recovered, _)| indexes(&recovered));
        (opened, disk.files())
    };
    let mut files = log(&[1; 6], &[2, 4]);
    files.get_mut("0000000000000003-0000000000000004").unwrap()[50] ^= 1;
    let (opened, left) = start(&files);
    assert_eq!(opened, Ok(span(1, 2)));
    assert!(left.contains_key("corrupt-77-0000000000000003-0000000000000004"));
    assert!(left.contains_key("corrupt-77-open-1"));

    let mut files = log(&[1; 6], &[2, 4]);
    files.get_mut("open-1").unwrap()[0] = 2;
    let (opened, left) = start(&files);
    assert_eq!(opened, Ok(span(1, 4)));
    assert!(left.contains_key("corrupt-77-open-1"));

    let mut files = log(&[1; 6], &[2, 4]);
    files.get_mut("0000000000000001-0000000000000002").unwrap()[50] ^= 1;
    let (opened, left) = start(&files);
    assert!(opened.is_err());
    assert_eq!(left, files, "an earlier closed segment is never moved");
}

#[test]
fn every_flipped_bit_and_every_truncation_is_classified() {
    let mut files = log(&[1, 1, 2, 2, 3], &[2, 3]);
    add_snapshot(&mut files, 2, 1);
    let open = files.get_mut("open-1").unwrap();
    open.truncate(8 + 2 * 48 + 40);
    let whole = start(&files).unwrap().0;
    for (name, content) in &files {
        let (mut started, mut refused, mut lost) = (0, 0, 0);
        let size = content.len();
        let mut try_with = |content: Vec<u8>| {
            let mut files = files.clone();
            files.insert(name.clone(), content.clone());
            match start(&files) {
                Ok((recovered, disk, mut writer)) => {
                    started += 1;
                    let next = writer.last_index() + 1;
                    let entries = &recovered.entries;
                    let kept = entries.len().min(whole.entries.len());
                    assert_eq!(entries[..kept], whole.entries[..kept], "{name}");
                    if content.len() == size && kept < whole.entries.len() {
                        assert_eq!(kept + 1, whole.entries.len());
                        lost += 1;
                    }
                    // Terms are never taken back.
                    let term = recovered.term.max(98) + 1;
                    let last = entry(next, term, 1);
                    let more = persist(1, [hard_state(term, 1), append([last.clone()])]);
                    writer.write(&[more]).unwrap();
                    let (again, _) = open_again(&disk);
                    assert_eq!(again.entries.last(), Some(&last));
                }
                Err(RecoverError::Corrupt { file, detail, .. }) => {
                    refused += 1;
                    assert!(detail.contains(&file), "{file}: {detail}");
                }
                Err(other) => panic!("{other}"),
            }
            check(&disk_with(&files), &options()).unwrap();
        };
        for size in 0..content.len() {
            try_with(content[..size].to_vec());
        }
        for bit in 0..content.len() * 8 {
            let mut content = content.clone();
            content[bit / 8] ^= 1 << (bit % 8);
            try_with(content);
        }
        // Of the last batch: its count, if that says more than was written, as when it was cut short.
        assert!(lost <= 1, "{name}: {lost} bits lose an entry");
        match name.as_str() {
            "open-1" => assert!(started > 250 && refused > 8 * 100, "{started} {refused}"),
            "metadata1" => assert!(started > 0 && refused > 0),
            // Recovery does not read the data of a snapshot: whoever restores it does.
            "snapshot-1-2-1" => assert_eq!(refused, 0),
            _ => assert_eq!(started, 0, "{name}"),
        }
    }
}

fn open_again(disk: &SimDisk) -> (Recovered, LogWriter<SimDisk>) {
    open(disk).unwrap()
}

#[test]
fn a_configuration_is_what_a_snapshot_says() {
    let mut files = log(&[1; 4], &[4]);
    add_snapshot(&mut files, 3, 1);
    let recovered = start(&files).unwrap().0;
    assert_eq!(recovered.snapshot.unwrap().configuration, configuration());
}
