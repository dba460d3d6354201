//! What the names in a data directory say, before any file is read.

use dq_wire::disk::names::{self, FileName, SnapshotName};

use crate::disk::Listed;
use crate::log::format::COUNTED_END;
use crate::log::identity;
use crate::log::plan::Segment;

/// What the names in a directory say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Survey {
    pub(crate) metadata_sizes: [Option<u64>; 2],
    /// Ascending by first, then last index.
    pub(crate) closed: Vec<Segment>,
    /// Ascending.
    pub(crate) open: Vec<u64>,
    /// Those with both files, ascending.
    pub(crate) snapshots: Vec<SnapshotName>,
    /// Snapshot files without their other half.
    pub(crate) halves: Vec<String>,
    /// Those of them that are data, ascending.
    pub(crate) data_halves: Vec<SnapshotName>,
    pub(crate) temporaries: Vec<String>,
    pub(crate) set_aside: Vec<String>,
    pub(crate) others: Vec<String>,
}

impl Survey {
    pub(crate) fn of(files: &[Listed]) -> Survey {
        let mut survey = Survey::default();
        let mut data = Vec::new();
        let mut metas = Vec::new();
        for Listed { name, size } in files {
            match FileName::parse(name) {
                Some(FileName::Metadata1) => survey.metadata_sizes[0] = Some(*size),
                Some(FileName::Metadata2) => survey.metadata_sizes[1] = Some(*size),
                Some(FileName::ClosedSegment { first, last }) if last < COUNTED_END => {
                    survey.closed.push(Segment { first, last });
                }
                Some(FileName::OpenSegment { counter }) => survey.open.push(counter),
                Some(FileName::Snapshot(name)) if name.index < COUNTED_END => data.push(name),
                Some(FileName::SnapshotMeta(name)) if name.index < COUNTED_END => metas.push(name),
                _ if names::is_temporary(name) => survey.temporaries.push(name.clone()),
                _ if name.starts_with("corrupt-") => survey.set_aside.push(name.clone()),
                _ if name == names::LOCK_FILE || name == identity::IDENTITY_FILE => {}
                _ => survey.others.push(name.clone()),
            }
        }
        for snapshot in &data {
            if metas.contains(snapshot) {
                survey.snapshots.push(*snapshot);
            } else {
                survey.data_halves.push(*snapshot);
                survey
                    .halves
                    .push(FileName::Snapshot(*snapshot).to_string());
            }
        }
        for snapshot in metas.iter().filter(|snapshot| !data.contains(snapshot)) {
            survey
                .halves
                .push(FileName::SnapshotMeta(*snapshot).to_string());
        }
        survey.closed.sort_unstable();
        survey.open.sort_unstable();
        survey.snapshots.sort_unstable();
        survey.halves.sort_unstable();
        survey.data_halves.sort_unstable();
        survey.temporaries.sort_unstable();
        survey.set_aside.sort_unstable();
        survey.others.sort_unstable();
        survey
    }

    /// What to add to a complaint that the log begins too late.
    pub(crate) fn what_is_missing(&self) -> String {
        match self.halves.last() {
            Some(half) => format!("; a snapshot has lost a file: {half} is alone"),
            None => "; is a snapshot missing?".to_owned(),
        }
    }
}
