//! Directories that C dqlite 1.11.1 has written, as it left them when it was stopped and when it was
//! killed.

use std::io::Read;

use dq_raft::EntryKind;
use dq_raft::log::check::check;
use dq_raft::log::data_dir::DataDir;
use dq_raft::log::recover::RecoverOptions;
use dq_raft::log::snapshot::SnapshotReader;
use dq_raft::{LogEntry, Recovered};
use dq_wire::disk::fsm_snapshot::decode_snapshot;
use dq_wire::{Command, Configuration};

use crate::directories::{disk_with, golden};

fn commands(entries: &[LogEntry]) -> usize {
    entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::Command)
        .map(|entry| match Command::decode(&entry.payload.to_bytes()) {
            Ok(Command::Frames(frames)) => assert!(frames.pages().len() > 0),
            Ok(_) => {}
            Err(error) => panic!("entry {}: {error}", entry.index),
        })
        .count()
}

fn recover(name: &str) -> (dq_raft::sim_disk::SimDisk, Recovered) {
    let disk = disk_with(&golden(name));
    let options = RecoverOptions::default();
    let report = check(&disk, &options).unwrap();
    assert!(report.is_sound(), "{report}");
    let dir = DataDir::with_disk(disk.clone()).unwrap();
    let (recovered, writer) = dir.recover(&options).unwrap();
    assert_eq!(
        recovered.entries.last().map(|entry| entry.index),
        Some(writer.last_index())
    );
    writer.close().unwrap();
    (disk, recovered)
}

#[test]
fn a_directory_of_a_stopped_node_is_read_and_left_as_it_is() {
    let (disk, recovered) = recover("stopped");
    assert_eq!((recovered.term, recovered.vote), (1, 0));
    assert_eq!(recovered.snapshot, None);
    let indexes: Vec<u64> = recovered.entries.iter().map(|e| e.index).collect();
    assert_eq!(indexes, [1, 2, 3, 4, 5, 6]);
    let first = recovered.entries[0].payload.to_bytes();
    let configuration = Configuration::decode(&first).unwrap();
    assert_eq!(configuration.servers[0].address, "127.0.0.1:9131");
    assert!(commands(&recovered.entries) >= 4);
    let mut files = disk.files();
    files.remove("dqlite-lock");
    assert_eq!(files, golden("stopped"));
}

#[test]
fn the_open_segment_of_a_killed_node_is_closed_as_the_original_would() {
    let (disk, recovered) = recover("killed");
    let indexes: Vec<u64> = recovered.entries.iter().map(|e| e.index).collect();
    assert_eq!(indexes, [1, 2, 3, 4, 5, 6, 7]);
    let files = disk.files();
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "0000000000000001-0000000000000001",
            "0000000000000002-0000000000000007",
            "cluster.yaml",
            "dqlite-lock",
            "info.yaml",
            "metadata1",
        ]
    );
    let open = &golden("killed")["open-1"];
    let used = open.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let closed = &files["0000000000000002-0000000000000007"];
    assert_eq!(closed[..used], open[..used]);
    assert!(closed.len() - used < 8, "whole words only");
}

#[test]
fn snapshots_of_the_original_are_read_with_the_entries_around_them() {
    for name in ["snapshots-stopped", "snapshots-killed"] {
        let (disk, recovered) = recover(name);
        let meta = recovered.snapshot.unwrap();
        assert_eq!(
            (meta.term, meta.index, meta.configuration_index),
            (1, 12, 1)
        );
        assert_eq!(meta.configuration.servers[0].address, "127.0.0.1:9132");
        let indexes: Vec<u64> = recovered.entries.iter().map(|e| e.index).collect();
        assert_eq!(indexes, (7..=17).collect::<Vec<u64>>(), "{name}");
        assert!(commands(&recovered.entries) >= 10);

        let mut reader = SnapshotReader::open(&disk, &meta).unwrap();
        let mut data = Vec::new();
        reader.read_to_end(&mut data).unwrap();
        assert!(reader.is_verified());
        assert_eq!(data.len() as u64, reader.size());
        let databases = decode_snapshot(&data).unwrap();
        assert_eq!(databases[0].name, b"db");
        assert!(databases[0].main.starts_with(b"SQLite format 3\0"));
        assert!(disk.files().keys().all(|file| !file.starts_with("open-")));
    }
}

#[test]
fn a_report_says_what_is_there() {
    let disk = disk_with(&golden("snapshots-killed"));
    let report = check(&disk, &RecoverOptions::default()).unwrap();
    let text = report.to_string();
    for line in [
        "metadata1: version 1, term 1, vote 0\n",
        "0000000000000007-0000000000000012: 6 entries of terms 1 to 1, 25064 bytes\n",
        "open-3: 5 entries of terms 1 to 1, 8388608 bytes\n",
        "starts: term 1, vote 0, snapshot at 12, entries 7 to 17\n",
        "  rename open-3 to 0000000000000013-0000000000000017\n",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
