//! Directories and entries to test with.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use dq_raft::disk::Disk;
use dq_raft::log::recover::{RecoverError, RecoverOptions, recover};
use dq_raft::log::writer::{LogWriter, WriterOptions};
use dq_raft::sim_disk::SimDisk;
use dq_raft::{DiskOp, EntryKind, LogEntry, Persist, Recovered, SnapshotMeta};
use dq_wire::{Configuration, Role, Server};

/// The files of a directory under `tests/golden`. Open segments are stored without the zeros at
/// their end.
pub(crate) fn golden(name: &str) -> BTreeMap<String, Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let mut content = std::fs::read(entry.path()).unwrap();
        if name.starts_with("open-") {
            content.resize(8 << 20, 0);
        }
        files.insert(name, content);
    }
    files
}

pub(crate) fn disk_with(files: &BTreeMap<String, Vec<u8>>) -> SimDisk {
    SimDisk::with_files(
        files
            .iter()
            .map(|(name, content)| (name.as_str(), content.clone())),
    )
}

/// Small segments, so that a test sees many of them.
pub(crate) fn options() -> RecoverOptions {
    RecoverOptions {
        now_nanos: 77,
        writer: WriterOptions {
            segment_size: 4096,
            prepared_count: 2,
        },
        ..RecoverOptions::default()
    }
}

pub(crate) fn open<D: Disk>(disk: &D) -> Result<(Recovered, LogWriter<D>), RecoverError> {
    recover(disk.clone(), &options())
}

pub(crate) fn configuration() -> Configuration {
    let server = |id: u64| Server {
        id,
        address: format!("10.0.0.{id}:9000"),
        role: Role::Voter,
    };
    Configuration {
        servers: (1..=3).map(server).collect(),
    }
}

/// An entry whose payload is `words` words long and tells index and term; the first one of a log is
/// a configuration.
pub(crate) fn entry(index: u64, term: u64, words: usize) -> LogEntry {
    let mut payload = Vec::new();
    let kind = match index {
        1 => {
            configuration().encode(&mut payload);
            EntryKind::Change
        }
        _ => {
            for word in 0..words as u64 {
                let word = index.wrapping_mul(0x1_0000_0001) ^ term << 48 ^ word << 20 ^ 0x5555;
                payload.extend_from_slice(&word.to_le_bytes());
            }
            EntryKind::Command
        }
    };
    LogEntry {
        index,
        term,
        kind,
        payload: Bytes::from(payload).into(),
    }
}

pub(crate) fn snapshot_meta(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta {
        index,
        term,
        timestamp: 1,
        configuration: configuration(),
        configuration_index: 1,
    }
}

pub(crate) fn persist(id: u64, ops: impl Into<Vec<DiskOp>>) -> Persist {
    Persist {
        id,
        ops: ops.into(),
    }
}

pub(crate) fn append(entries: impl Into<Vec<LogEntry>>) -> DiskOp {
    DiskOp::Append {
        entries: entries.into(),
    }
}

pub(crate) fn hard_state(term: u64, vote: u64) -> DiskOp {
    DiskOp::HardState { term, vote }
}
