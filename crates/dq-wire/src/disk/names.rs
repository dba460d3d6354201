//! The names of the files in a data directory.
//!
//! Only names in exactly the form that is written are recognised: what a name says must be enough
//! to find the file again. Everything else belongs to somebody else and is left alone.

use std::fmt;

/// The file that is locked (`flock`) by the node that uses the directory.
pub const LOCK_FILE: &str = "dqlite-lock";

/// Names of this length in bytes or more are ignored.
const SIZE_END: usize = 128;

const TEMPORARY_PREFIX: &str = "tmp-";
const OPEN_PREFIX: &str = "open-";
const SNAPSHOT_PREFIX: &str = "snapshot-";
const META_SUFFIX: &str = ".meta";

/// Which snapshot a file belongs to. The order is that in which they count: the last one is the
/// newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotName {
    /// Term of the last entry that it contains.
    pub term: u64,
    /// Index of that entry.
    pub index: u64,
    /// Tells snapshots of the same entry apart: milliseconds of a clock that starts anywhere.
    pub timestamp: u64,
}

/// A name that means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileName {
    /// Term and vote, odd versions.
    Metadata1,
    /// Term and vote, even versions.
    Metadata2,
    /// The segment that is being written, or one prepared for it.
    OpenSegment {
        /// Counts from 1 in each process.
        counter: u64,
    },
    /// A segment that is complete.
    ClosedSegment {
        /// Index of its first entry, from 1.
        first: u64,
        /// Index of its last entry.
        last: u64,
    },
    /// The databases of a snapshot.
    Snapshot(SnapshotName),
    /// The configuration of a snapshot.
    SnapshotMeta(SnapshotName),
}

impl FileName {
    /// What a name means, or `None` for files to be left alone, and for temporary ones
    /// ([`is_temporary`]).
    pub fn parse(name: &str) -> Option<FileName> {
        if name.len() >= SIZE_END {
            return None;
        }
        // Numbers can be written in many ways, of which only ours is recognised.
        Some(match name {
            "metadata1" => FileName::Metadata1,
            "metadata2" => FileName::Metadata2,
            _ => {
                if let Some(counter) = name.strip_prefix(OPEN_PREFIX) {
                    FileName::OpenSegment {
                        counter: number(counter, 1)?,
                    }
                } else if let Some(rest) = name.strip_prefix(SNAPSHOT_PREFIX) {
                    match rest.strip_suffix(META_SUFFIX) {
                        Some(rest) => FileName::SnapshotMeta(parse_snapshot(rest)?),
                        None => FileName::Snapshot(parse_snapshot(rest)?),
                    }
                } else {
                    let (first, last) = name.split_once('-')?;
                    let (first, last) = (number(first, 16)?, number(last, 16)?);
                    if first == 0 || first > last {
                        return None;
                    }
                    FileName::ClosedSegment { first, last }
                }
            }
        })
    }
}

/// A number of at least so many digits, without more zeros in front than that takes.
fn number(text: &str, width: usize) -> Option<u64> {
    let is_ours = text.bytes().all(|digit| digit.is_ascii_digit())
        && (text.len() == width || text.len() > width && !text.starts_with('0'));
    is_ours.then(|| text.parse().ok()).flatten()
}

fn parse_snapshot(numbers: &str) -> Option<SnapshotName> {
    let mut numbers = numbers.splitn(3, '-').map(|text| number(text, 1));
    Some(SnapshotName {
        term: numbers.next()??,
        index: numbers.next()??,
        timestamp: numbers.next()??,
    })
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileName::Metadata1 => f.write_str("metadata1"),
            FileName::Metadata2 => f.write_str("metadata2"),
            FileName::OpenSegment { counter } => write!(f, "{OPEN_PREFIX}{counter}"),
            FileName::ClosedSegment { first, last } => write!(f, "{first:016}-{last:016}"),
            FileName::Snapshot(SnapshotName {
                term,
                index,
                timestamp,
            }) => {
                write!(f, "{SNAPSHOT_PREFIX}{term}-{index}-{timestamp}")
            }
            FileName::SnapshotMeta(SnapshotName {
                term,
                index,
                timestamp,
            }) => {
                write!(
                    f,
                    "{SNAPSHOT_PREFIX}{term}-{index}-{timestamp}{META_SUFFIX}"
                )
            }
        }
    }
}

/// True for the name of a file that was not finished, to be deleted at start.
pub fn is_temporary(name: &str) -> bool {
    name.len() < SIZE_END && name.starts_with(TEMPORARY_PREFIX)
}

/// The name of a file while it is being written.
pub fn temporary(name: &impl fmt::Display) -> String {
    format!("{TEMPORARY_PREFIX}{name}")
}

/// The name of a file that was set aside at the given time (nanoseconds, any clock) because it
/// cannot be read.
pub fn set_aside(name: &FileName, nanoseconds: u64) -> String {
    format!("corrupt-{nanoseconds}-{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_names_of_each_kind() {
        let snapshot = SnapshotName {
            term: 2,
            index: 1024,
            timestamp: 90,
        };
        for (name, meaning) in [
            ("metadata1", FileName::Metadata1),
            ("metadata2", FileName::Metadata2),
            ("open-1", FileName::OpenSegment { counter: 1 }),
            (
                "0000000000000001-0000000000000042",
                FileName::ClosedSegment { first: 1, last: 42 },
            ),
            ("snapshot-2-1024-90", FileName::Snapshot(snapshot)),
            ("snapshot-2-1024-90.meta", FileName::SnapshotMeta(snapshot)),
        ] {
            assert_eq!(FileName::parse(name), Some(meaning));
            assert_eq!(meaning.to_string(), name);
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        for name in [
            "",
            "-",
            "metadata3",
            "open-",
            "open-01",
            "open-+1",
            "open-99999999999999999999",
            "1-2",
            "0000000000000001",
            "0000000000000000-0000000000000001",
            "0000000000000002-0000000000000001",
            "0000000000000001-0000000000000001.old",
            "snapshot-1-2",
            "snapshot-1-2-3-4",
            "snapshot-1-2-3.meta.meta",
            "snapshot-1-2-03",
            "corrupt-17-open-1",
            "tmp-open-1",
            "dqlite-lock",
            "cluster.yaml",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn temporary_files_and_those_set_aside_have_prefixes() {
        let segment = FileName::OpenSegment { counter: 1 };
        assert_eq!(temporary(&segment), "tmp-open-1");
        assert!(is_temporary("tmp-open-1"));
        assert!(!is_temporary("open-1"));
        assert!(!is_temporary(&format!("tmp-{:0>124}", 1)));
        assert_eq!(set_aside(&segment, 17), "corrupt-17-open-1");
    }

    #[test]
    fn snapshots_are_ordered_by_term_then_index_then_time() {
        let name = |term, index, timestamp| SnapshotName {
            term,
            index,
            timestamp,
        };
        let ordered = [name(1, 9, 9), name(2, 1, 9), name(2, 2, 1), name(2, 2, 2)];
        assert!(ordered.is_sorted());
    }

    proptest! {
        #[test]
        fn any_number_survives_in_a_name(a in 1u64.., b: u64, c: u64) {
            let snapshot = SnapshotName { term: a, index: b, timestamp: c };
            for name in [
                FileName::OpenSegment { counter: a },
                FileName::ClosedSegment { first: a, last: a.max(b) },
                FileName::Snapshot(snapshot),
                FileName::SnapshotMeta(snapshot),
            ] {
                prop_assert_eq!(FileName::parse(&name.to_string()), Some(name));
            }
        }

        #[test]
        fn no_name_is_recognised_that_would_be_written_differently(name in "\\PC{0,40}|[0-9-]{1,40}") {
            if let Some(meaning) = FileName::parse(&name) {
                prop_assert_eq!(meaning.to_string(), name);
            }
        }
    }
}
