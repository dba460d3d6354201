//! What can be had of a data directory without running a node on it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use dq_raft::log::recover::analyze;
use dq_raft::{
    DataDir, EntryKind, OpenError, RecoverError, RecoverOptions, Recovered, SnapshotError,
    SnapshotReader,
};
use dq_vfs::{Version, Vfs};

use crate::fsm;

/// Why a directory's databases cannot be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// It is none, cannot be read, or a node uses it.
    Directory(OpenError),
    /// The log or its metadata are damaged.
    Recover(RecoverError),
    /// The newest snapshot is damaged.
    Snapshot(SnapshotError),
    /// An entry of the log does not fit what was before it, or a database is damaged.
    Corrupt(String),
}

/// The databases that a stopped node's directory holds, with all that is in its log. The last entries
/// need not have been acknowledged to anybody. Takes the directory's lock meanwhile, and changes nothing.
///
/// # Errors
/// See [`ReadError`].
pub fn databases(dir: &Path, vfs: &Arc<Vfs>) -> Result<Vec<(Bytes, Version)>, ReadError> {
    let dir = DataDir::open(dir).map_err(ReadError::Directory)?;
    let options = RecoverOptions {
        trailing_bytes_max: 0,
        ..RecoverOptions::default()
    };
    let recovered = analyze(dir.disk(), &options)
        .map_err(ReadError::Recover)?
        .recovered;
    let mut databases = match &recovered.snapshot {
        None => Vec::new(),
        Some(meta) => {
            let mut reader = SnapshotReader::open(dir.disk(), meta).map_err(ReadError::Snapshot)?;
            let images = fsm::read_snapshot(&mut reader);
            let images = images.map_err(|error| ReadError::Snapshot(reader.damage(&error)))?;
            fsm::check_images(images, vfs).map_err(ReadError::Corrupt)?
        }
    };
    apply(&recovered, &mut databases).map_err(ReadError::Corrupt)?;
    databases.retain(|(_, version)| !version.is_empty_database());
    Ok(databases)
}

/// Applies what the log has behind the snapshot.
fn apply(recovered: &Recovered, databases: &mut Vec<(Bytes, Version)>) -> Result<(), String> {
    let snapshot_index = recovered.snapshot.as_ref().map_or(0, |meta| meta.index);
    let entries = recovered.entries.iter();
    let commands =
        entries.filter(|entry| entry.kind == EntryKind::Command && entry.index > snapshot_index);
    for entry in commands {
        let at = |why| format!("entry {}: {why}", entry.index);
        let Some(frames) = fsm::frames(&entry.payload).map_err(at)? else {
            continue;
        };
        let name = frames.database.clone();
        let place = match databases.iter().position(|(known, _)| *known == name) {
            Some(place) => place,
            None => {
                databases.push((name, Version::empty(1)));
                databases.len() - 1
            }
        };
        // Nobody looks at these numbers; that they grow is all that a version asks.
        let (_, version) = &mut databases[place];
        *version = frames.apply_to(version, version.number() + 1).map_err(at)?;
    }
    Ok(())
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Directory(error) => error.fmt(f),
            ReadError::Recover(error) => error.fmt(f),
            ReadError::Snapshot(error) => error.fmt(f),
            ReadError::Corrupt(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ReadError {}
