//! A node's directory holds what the node needs, and nothing else.
//!
//! Looked at when a node has started, and whenever its disk is idle and it has heard of what was done:
//! closed segments follow each other and are all behind the oldest entry that can still be asked for;
//! of open ones there are as many as the writer keeps ready; the last two snapshots are there, and of
//! temporary files those of snapshots that are on their way in or out.

use std::collections::BTreeSet;

use dq_raft::disk::Operation;
use dq_raft::sim_disk::SimDisk;
use dq_raft::{Driver, SnapshotMeta};
use dq_wire::disk::names::{FileName, SnapshotName, is_temporary};

/// Snapshots that are kept.
const SNAPSHOTS: usize = 2;

/// Open segments: the one in use and those that are ready. One that was opened and not used goes back.
const OPEN_SEGMENTS: usize = 3;

/// Compares a directory with what a node needs: entries of its log, and the temporary files of
/// these snapshots. In the log there may be a segment of which only the last entry's term is needed.
pub(crate) fn check(
    disk: &SimDisk,
    driver: &Driver,
    temporary: &BTreeSet<SnapshotName>,
) -> Result<(), String> {
    let mut expected = None;
    let mut open = 0;
    let mut snapshots = BTreeSet::new();
    let mut halves = 0;
    let oldest = driver.log_begins_after();
    for name in disk.names() {
        match FileName::parse(&name) {
            Some(FileName::ClosedSegment { first, last }) => {
                if expected.is_some_and(|expected| expected != first) {
                    return Err(format!("{name} does not follow the segment before it"));
                }
                if last < oldest {
                    return Err(format!("{name} is kept, the log begins after {oldest}"));
                }
                expected = Some(last + 1);
            }
            Some(FileName::OpenSegment { .. }) => open += 1,
            Some(FileName::Snapshot(snapshot) | FileName::SnapshotMeta(snapshot)) => {
                halves += 1;
                snapshots.insert(snapshot);
            }
            Some(FileName::Metadata1 | FileName::Metadata2) => {}
            None if is_temporary(&name) => {
                let wanted = match FileName::parse(name.trim_start_matches("tmp-")) {
                    Some(FileName::Snapshot(snapshot) | FileName::SnapshotMeta(snapshot)) => {
                        temporary.contains(&snapshot)
                    }
                    _ => false,
                };
                // What could not be removed goes at the next start.
                if !wanted && !disk.was_hit(Operation::Remove, &name) {
                    return Err(format!("{name} is of no use any more"));
                }
            }
            None => {}
        }
    }
    if open > OPEN_SEGMENTS {
        return Err(format!("{open} open segments are kept"));
    }
    if snapshots.len() > SNAPSHOTS || halves != 2 * snapshots.len() {
        return Err(format!(
            "{halves} files of snapshots are kept: {snapshots:?}"
        ));
    }
    Ok(())
}

/// What the files of a snapshot are called.
pub(crate) fn name_of(meta: &SnapshotMeta) -> SnapshotName {
    SnapshotName {
        term: meta.term,
        index: meta.index,
        timestamp: meta.timestamp,
    }
}
