//! Which file operations an append, a truncation, a snapshot or a clean-up needs, and in which
//! order.
//!
//! Nothing here touches a file: a state goes in, a list of [`FileOp`] and the state that they lead
//! to come out. The order is the point. A power cut between any two operations must leave a
//! directory that [`recover`](crate::log::recover) can open, with everything in it that was
//! reported durable; a directory entry counts as changed only after [`FileOp::SyncDirectory`].
//!
//! The index of an entry is written nowhere: it follows from the name of a closed segment, or from
//! counting. Hence the rules:
//!
//! - **A segment is closed before the next one is written to**, and before a snapshot appears. So
//!   the entries of open segments always follow those of closed ones, and, where there are none,
//!   the snapshot.
//! - **Suffixes go from the end**, one durable removal at a time: what remains is always a prefix.
//! - **A truncation inside a segment writes the short one, then removes the long one.** The one
//!   doubtful state is two files with the same first index, and there the shorter is right, since
//!   nothing that replaces the suffix is acknowledged before the truncation is durable.
//! - **Exactly eight bytes never remain free in an open segment**: C dqlite reads a batch's two
//!   checksums there, finds no header behind them, and will not start.

use std::fmt;

use dq_wire::disk::names::{self, SnapshotName};
use dq_wire::disk::segment::BATCH_ENTRIES_MAX;

use crate::log::format;
use crate::mutants::{Mutant, is_broken};

/// A closed segment: the file that its two indexes name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Index of its first entry.
    pub first: u64,
    /// Index of its last entry.
    pub last: u64,
}

impl Segment {
    /// Its file name.
    pub fn file_name(self) -> String {
        format::closed_segment(self).to_string()
    }
}

/// One operation on the files of the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileOp {
    /// Remove a file.
    Remove {
        /// Its name.
        file: String,
    },
    /// Give a file another name.
    Rename {
        /// The name it has.
        from: String,
        /// The name it gets.
        to: String,
    },
    /// Cut a file to this size, and make it durable.
    Cut {
        /// Its name.
        file: String,
        /// The size in bytes.
        size: u64,
    },
    /// Write the entries of `segment` up to `last` into a new file, and make it durable.
    CopyPrefix {
        /// The segment to read.
        segment: Segment,
        /// Index of the last entry to copy.
        last: u64,
        /// The file to create.
        to: String,
    },
    /// Make what happened to names durable.
    SyncDirectory,
}

impl fmt::Display for FileOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileOp::Remove { file } => write!(f, "remove {file}"),
            FileOp::Rename { from, to } => write!(f, "rename {from} to {to}"),
            FileOp::Cut { file, size } => write!(f, "cut {file} to {size} bytes"),
            FileOp::CopyPrefix { segment, last, to } => {
                write!(f, "copy {} up to entry {last} to {to}", segment.file_name())
            }
            FileOp::SyncDirectory => f.write_str("make names durable"),
        }
    }
}

/// What to do, and the closed segments that there are afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The operations, in order.
    pub ops: Vec<FileOp>,
    /// The closed segments afterwards, ascending.
    pub segments: Vec<Segment>,
}

/// Where the next entries go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The first `count` (at least one) form a batch in the open segment.
    Here {
        /// How many.
        count: usize,
    },
    /// The open segment is full: close it, and ask again for the next.
    Next,
    /// The open segment is empty and still does not suit the first entry: give it this capacity
    /// first, then ask again.
    Grow {
        /// Capacity to give it, in bytes.
        capacity: u64,
    },
}

/// Where entries with these payload lengths go, given an open segment with `used` of `capacity`
/// bytes written (0: not even the format word).
pub fn place(used: u64, capacity: u64, lengths: impl IntoIterator<Item = u64>) -> Placement {
    let start = used.max(format::SEGMENT_HEADER_SIZE);
    let mut end = start + format::BATCH_HEADER_SIZE;
    let mut count = 0;
    let mut first_end = end;
    for (number, length) in lengths.into_iter().take(BATCH_ENTRIES_MAX).enumerate() {
        end += format::ENTRY_HEADER_SIZE + length;
        if number == 0 {
            first_end = end;
        }
        if end > capacity {
            break;
        }
        if capacity - end != WORD {
            count = number + 1;
        }
    }
    if count > 0 {
        Placement::Here { count }
    } else if used > 0 {
        Placement::Next
    } else if first_end > capacity {
        Placement::Grow {
            capacity: first_end,
        }
    } else {
        Placement::Grow {
            capacity: first_end + 2 * WORD,
        }
    }
}

/// Turns a durable open segment into a closed one.
pub fn close(open_file: &str, size: u64, segment: Segment) -> Vec<FileOp> {
    vec![
        FileOp::Cut {
            file: open_file.to_owned(),
            size,
        },
        FileOp::Rename {
            from: open_file.to_owned(),
            to: segment.file_name(),
        },
        FileOp::SyncDirectory,
    ]
}

/// Removes all entries from index `from` on. Open segments are closed already.
pub fn truncate(segments: &[Segment], from: u64) -> Plan {
    let kept = segments.partition_point(|segment| segment.last < from);
    let mut plan = Plan {
        ops: Vec::new(),
        segments: segments[..kept].to_vec(),
    };
    let Some((containing, later)) = segments[kept..].split_first() else {
        return plan;
    };
    plan.ops.extend(remove_from_the_end(later));
    if containing.first < from {
        let short = Segment {
            first: containing.first,
            last: from - 1,
        };
        let temporary = names::temporary(&format::closed_segment(short));
        plan.ops.extend([
            FileOp::CopyPrefix {
                segment: *containing,
                last: short.last,
                to: temporary.clone(),
            },
            FileOp::Rename {
                from: temporary,
                to: short.file_name(),
            },
            FileOp::SyncDirectory,
        ]);
        plan.segments.push(short);
    }
    plan.ops.extend(remove_from_the_end(&[*containing]));
    plan
}

/// Gives the finished files of a snapshot their names. The open segment is closed already.
///
/// The `.meta` file comes first, as in C dqlite: one without the other is no snapshot.
///
/// A start goes by the greatest name, in which the term comes first, and terms need not ascend: a
/// recovery writes an entry of term 1. So whatever of `snapshots` (ascending) would stand before this
/// one, which contains more, is removed.
pub fn publish_snapshot(snapshots: &[SnapshotName], snapshot: SnapshotName) -> Vec<FileOp> {
    let mut ops = Vec::new();
    let files = format::snapshot_files(snapshot);
    for file in [files.meta, files.data] {
        ops.push(FileOp::Rename {
            from: names::temporary(&file),
            to: file.to_string(),
        });
        ops.push(FileOp::SyncDirectory);
    }
    let hiding = snapshots.partition_point(|other| *other <= snapshot);
    ops.extend(remove_snapshots(&snapshots[hiding..]));
    ops
}

fn remove_snapshots(snapshots: &[SnapshotName]) -> Vec<FileOp> {
    let mut ops = Vec::new();
    for snapshot in snapshots {
        let files = format::snapshot_files(*snapshot);
        for file in [files.data, files.meta] {
            ops.push(FileOp::Remove {
                file: file.to_string(),
            });
        }
    }
    if !ops.is_empty() {
        ops.push(FileOp::SyncDirectory);
    }
    ops
}

/// Publishes a snapshot that replaces the whole log.
pub fn install_snapshot(
    segments: &[Segment],
    snapshots: &[SnapshotName],
    snapshot: SnapshotName,
) -> Plan {
    let mut ops = publish_snapshot(snapshots, snapshot);
    ops.extend(remove_from_the_end(segments));
    if is_broken(Mutant::LogBeforeSnapshot) {
        let named = ops.len() - 2 * segments.len();
        ops.rotate_left(named);
    }
    Plan {
        ops,
        segments: Vec::new(),
    }
}

/// Deletes the closed segments that a snapshot at `snapshot_index` makes unnecessary, but for
/// `trailing` entries before it (and the rest of the segment that those begin in), and all
/// `snapshots` (ascending) but the last two.
pub fn prune(
    segments: &[Segment],
    snapshots: &[SnapshotName],
    snapshot_index: u64,
    trailing: u64,
) -> Plan {
    let unneeded =
        segments.partition_point(|segment| segment.last.saturating_add(trailing) <= snapshot_index);
    let unneeded = if is_broken(Mutant::KeepOldSegments) {
        0
    } else {
        unneeded
    };
    let mut ops: Vec<FileOp> = Vec::new();
    // From the beginning: if only some of these removals survive, what is left over is not
    // contiguous with the rest and is forgotten at the next start.
    for segment in &segments[..unneeded] {
        ops.push(FileOp::Remove {
            file: segment.file_name(),
        });
    }
    let old = snapshots.len().saturating_sub(SNAPSHOTS_KEPT);
    let of_snapshots = remove_snapshots(&snapshots[..old]);
    if !ops.is_empty() && of_snapshots.is_empty() {
        ops.push(FileOp::SyncDirectory);
    }
    ops.extend(of_snapshots);
    Plan {
        ops,
        segments: segments[unneeded..].to_vec(),
    }
}

/// Removes the segments one durable removal at a time, the last one first.
pub fn remove_from_the_end(segments: &[Segment]) -> Vec<FileOp> {
    let mut ops = Vec::new();
    for segment in segments.iter().rev() {
        ops.push(FileOp::Remove {
            file: segment.file_name(),
        });
        ops.push(FileOp::SyncDirectory);
    }
    if is_broken(Mutant::TruncateFromTheFront) {
        ops.reverse();
    }
    ops
}

/// Snapshots that stay when a newer one appears: the newest and the one before it, as in C dqlite.
pub const SNAPSHOTS_KEPT: usize = 2;

const WORD: u64 = 8;

#[cfg(test)]
mod tests {
    use dq_wire::disk::names::FileName;
    use proptest::prelude::*;

    use super::*;

    fn segments(bounds: &[(u64, u64)]) -> Vec<Segment> {
        bounds
            .iter()
            .map(|(first, last)| Segment {
                first: *first,
                last: *last,
            })
            .collect()
    }

    fn removed(ops: &[FileOp]) -> Vec<&str> {
        ops.iter()
            .filter_map(|op| match op {
                FileOp::Remove { file } => Some(file.as_str()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_batch_goes_where_it_fits() {
        assert_eq!(place(0, 100, [8]), Placement::Here { count: 1 });
        assert_eq!(place(0, 48, [8]), Placement::Here { count: 1 }, "exactly");
        assert_eq!(place(48, 80, [8]), Placement::Next);
        assert_eq!(place(48, 88, [8]), Placement::Here { count: 1 });
        assert_eq!(place(48, 88 + 24, [8, 8, 8]), Placement::Here { count: 2 });
    }

    #[test]
    fn eight_free_bytes_are_never_left() {
        assert_eq!(place(48, 96, [8]), Placement::Next);
        assert_eq!(place(48, 120, [8, 8]), Placement::Here { count: 1 });
        assert_eq!(place(0, 56, [8]), Placement::Grow { capacity: 64 });
    }

    #[test]
    fn an_entry_larger_than_a_segment_makes_one_grow() {
        assert_eq!(place(0, 100, [1000]), Placement::Grow { capacity: 1040 });
        assert_eq!(place(0, 1040, [1000, 8]), Placement::Here { count: 1 });
        assert_eq!(place(1040, 1040, [8]), Placement::Next);
        assert_eq!(place(48, 100, [1000]), Placement::Next);
    }

    #[test]
    fn a_batch_has_no_more_entries_than_readers_accept() {
        let many = vec![0; BATCH_ENTRIES_MAX + 1];
        let count = BATCH_ENTRIES_MAX;
        assert_eq!(place(0, 1 << 30, many), Placement::Here { count });
    }

    #[test]
    fn truncation_removes_later_segments_first_and_the_long_one_last() {
        let plan = truncate(&segments(&[(1, 4), (5, 8), (9, 12), (13, 13)]), 7);
        assert_eq!(plan.segments, segments(&[(1, 4), (5, 6)]));
        assert_eq!(
            removed(&plan.ops),
            [
                "0000000000000013-0000000000000013",
                "0000000000000009-0000000000000012",
                "0000000000000005-0000000000000008",
            ]
        );
        let copy = plan
            .ops
            .iter()
            .position(|op| matches!(op, FileOp::CopyPrefix { last: 6, .. }))
            .unwrap();
        assert!(matches!(plan.ops[copy + 1], FileOp::Rename { .. }));
        assert_eq!(plan.ops[copy + 2], FileOp::SyncDirectory);
    }

    #[test]
    fn truncation_at_a_boundary_copies_nothing() {
        let plan = truncate(&segments(&[(1, 4), (5, 8)]), 5);
        assert_eq!(plan.segments, segments(&[(1, 4)]));
        assert_eq!(plan.ops.len(), 2);
        assert_eq!(truncate(&segments(&[(1, 4)]), 5).ops, []);
    }

    #[test]
    fn pruning_keeps_the_trailing_entries_and_two_snapshots() {
        let snapshots: Vec<SnapshotName> = [4, 8, 12]
            .into_iter()
            .map(|index| SnapshotName {
                term: 1,
                index,
                timestamp: 5,
            })
            .collect();
        let log = segments(&[(1, 4), (5, 8), (9, 12), (13, 20)]);
        let plan = prune(&log, &snapshots, 12, 4);
        assert_eq!(plan.segments, segments(&[(9, 12), (13, 20)]));
        assert_eq!(
            removed(&plan.ops),
            [
                "0000000000000001-0000000000000004",
                "0000000000000005-0000000000000008",
                "snapshot-1-4-5",
                "snapshot-1-4-5.meta",
            ]
        );
        assert_eq!(prune(&log, &snapshots[..2], 12, 5).segments, log[1..]);
        assert_eq!(prune(&log, &[], 12, 100).ops, []);
        assert_eq!(prune(&log, &[], 12, 0).segments, log[3..]);
    }

    #[test]
    fn installing_names_the_snapshot_before_it_drops_the_log() {
        let snapshot = SnapshotName {
            term: 2,
            index: 9,
            timestamp: 1,
        };
        let plan = install_snapshot(&segments(&[(1, 4), (5, 6)]), &[], snapshot);
        assert_eq!(plan.segments, []);
        let first_removal = plan
            .ops
            .iter()
            .position(|op| matches!(op, FileOp::Remove { .. }))
            .unwrap();
        assert_eq!(plan.ops[first_removal - 1], FileOp::SyncDirectory);
        assert_eq!(removed(&plan.ops).len(), 2);
    }

    /// The names that are left if only the first `count` operations happen.
    fn run(segments: &[Segment], ops: &[FileOp], count: usize) -> Vec<String> {
        let mut names: Vec<String> = segments.iter().map(|s| s.file_name()).collect();
        for op in &ops[..count] {
            match op {
                FileOp::Remove { file } => names.retain(|name| name != file),
                FileOp::Rename { to, .. } => names.push(to.clone()),
                _ => {}
            }
        }
        names.sort();
        names
    }

    proptest! {
        #[test]
        fn a_truncation_cut_short_leaves_a_prefix_or_a_pair(
            sizes in prop::collection::vec(1u64..5, 1..8),
            first in 1u64..100,
            at in 0u64..40,
        ) {
            let mut log = Vec::new();
            let mut next = first;
            for size in sizes {
                log.push(Segment { first: next, last: next + size - 1 });
                next += size;
            }
            let plan = truncate(&log, first + at);
            for count in 0..=plan.ops.len() {
                let names = run(&log, &plan.ops, count);
                let mut expected = first;
                let mut seen = None;
                for name in names {
                    let Some(FileName::ClosedSegment { first, last }) = FileName::parse(&name)
                        else { panic!("{name}") };
                    if seen == Some(first) {
                        prop_assert_eq!(plan.segments.last().map(|s| s.first), seen);
                    } else {
                        prop_assert_eq!(first, expected);
                        seen = Some(first);
                    }
                    expected = last + 1;
                }
            }
            let mut expected: Vec<String> = plan.segments.iter().map(|s| s.file_name()).collect();
            expected.sort();
            prop_assert_eq!(run(&log, &plan.ops, plan.ops.len()), expected);
        }

        #[test]
        fn whatever_is_placed_fits_and_leaves_no_single_word(
            used in (0u64..100).prop_map(|w| w * 8),
            free in (0u64..200).prop_map(|w| w * 8),
            words in prop::collection::vec(0u64..40, 1..20),
        ) {
            let lengths: Vec<u64> = words.iter().map(|w| w * 8).collect();
            let mut capacity = used + free;
            let placement = place(used, capacity, lengths.iter().copied());
            if let Placement::Grow { capacity: grown } = placement {
                prop_assert_eq!(used, 0);
                prop_assert!(grown > capacity || capacity < grown + 8);
                capacity = grown.max(capacity);
            }
            match place(used, capacity, lengths.iter().copied()) {
                Placement::Here { count } => {
                    let size: u64 = 16 + lengths[..count].iter().map(|l| 16 + l).sum::<u64>();
                    let end = used.max(8) + size;
                    prop_assert!(end <= capacity);
                    prop_assert_ne!(capacity - end, 8);
                }
                Placement::Next => prop_assert!(used > 0),
                Placement::Grow { .. } => prop_assert!(false, "growing once is enough"),
            }
        }
    }
}
