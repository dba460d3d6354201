//! Looks at a data directory without changing anything: what is there, what is damaged, and what a
//! start would do with it.

use std::fmt;
use std::io::Read;

use bytes::Bytes;
use dq_wire::Server;
use dq_wire::disk::names::{FileName, SnapshotName};

use crate::disk::{Disk, DiskError};
use crate::log::format;
use crate::log::identity;
use crate::log::load::{last_nonzero, read_closed_segment};
use crate::log::plan::{FileOp, Segment};
use crate::log::recover::{RecoverError, RecoverOptions, Suspect, analyze, read_snapshot_meta};
use crate::log::snapshot::{SnapshotError, SnapshotReader};
use crate::log::survey::Survey;
use crate::log::torn;
use crate::types::LogEntry;

/// What a data directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Id of the node that has run here last, if it was one of ours.
    pub node: Option<u64>,
    /// The members that the log ends with.
    pub members: Vec<Server>,
    /// Index and term of the last entry, or of the snapshot if there is none behind it. Of several
    /// directories of a cluster, the one with the highest term has most, and of those the one with the
    /// highest index.
    pub last: Option<(u64, u64)>,
    /// `metadata1` and `metadata2`, those that exist.
    pub metadata: Vec<FileReport>,
    /// The snapshots that have both files, ascending.
    pub snapshots: Vec<SnapshotReport>,
    /// The closed segments, ascending, then the open ones.
    pub segments: Vec<SegmentReport>,
    /// Files that a start deletes: unfinished ones, and halves of snapshots.
    pub leftovers: Vec<String>,
    /// Damaged files that a start has set aside.
    pub set_aside: Vec<String>,
    /// Files that are none of ours.
    pub others: Vec<String>,
    /// What a start would do.
    pub start: StartReport,
}

/// A file and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReport {
    /// Its name.
    pub file: String,
    /// What it says, or what is wrong.
    pub content: Result<String, String>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotReport {
    /// Term, index, timestamp.
    pub name: SnapshotName,
    /// Members of its configuration, or what is wrong with its `.meta` file.
    pub members: Result<usize, String>,
    /// Bytes of its data, decompressed, or what is wrong with them.
    pub data: Result<u64, String>,
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its name.
    pub file: String,
    /// Size of the file in bytes.
    pub size: u64,
    /// Valid entries.
    pub entries: u64,
    /// Lowest and highest term of those.
    pub terms: Option<(u64, u64)>,
    /// What is wrong with it. For an open one a torn end is not wrong.
    pub problem: Option<String>,
}

/// What a start would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartReport {
    /// It would start.
    Starts {
        /// With this term,
        term: u64,
        /// this vote (0: none),
        vote: u64,
        /// this snapshot,
        snapshot: Option<SnapshotName>,
        /// these entries (first and last index),
        entries: Option<(u64, u64)>,
        /// after this has been done to the files.
        repairs: Vec<FileOp>,
        /// What it would say of it.
        notes: Vec<String>,
    },
    /// It would not start.
    Refuses {
        /// The file to look at.
        file: String,
        /// Why.
        detail: String,
        /// Automatic recovery would set segments aside, and lose their entries.
        can_recover_automatically: bool,
    },
}

/// The node that a start would be one of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starter {
    /// Its id.
    pub id: u64,
    /// Its address.
    pub address: String,
}

/// Looks at a directory. Takes no lock: with a running node in it, the report may be of no moment.
///
/// # Errors
/// The disk's; damage is part of the report.
pub fn check<D: Disk>(disk: &D, options: &RecoverOptions) -> Result<Report, DiskError> {
    check_for(disk, options, None)
}

/// As [`check`]; what a start would do is said for this node.
///
/// # Errors
/// The disk's; damage is part of the report.
pub fn check_for<D: Disk>(
    disk: &D,
    options: &RecoverOptions,
    starter: Option<&Starter>,
) -> Result<Report, DiskError> {
    let files = disk.list()?;
    let node = identity::read(disk)?;
    let (start, members, last) = start_report(disk, options, node, starter)?;
    let survey = Survey::of(&files);
    let size_of = |name: &str| {
        let file = files.iter().find(|file| file.name == name);
        file.map_or(0, |file| file.size)
    };
    let mut report = Report {
        node,
        members,
        last,
        metadata: Vec::new(),
        snapshots: Vec::new(),
        segments: Vec::new(),
        leftovers: [survey.temporaries.clone(), survey.halves.clone()].concat(),
        set_aside: survey.set_aside.clone(),
        others: survey.others.clone(),
        start,
    };
    for (name, size) in format::METADATA_NAMES
        .into_iter()
        .zip(survey.metadata_sizes)
    {
        if size.is_some() {
            report.metadata.push(FileReport {
                file: name.to_owned(),
                content: check_metadata(disk, name),
            });
        }
    }
    for name in &survey.snapshots {
        report.snapshots.push(check_snapshot(disk, *name)?);
    }
    report.refuse_damaged_snapshot();
    for segment in &survey.closed {
        let name = segment.file_name();
        let size = size_of(&name);
        report.segments.push(check_closed(disk, *segment, size)?);
    }
    for counter in &survey.open {
        let name = format::open_segment_name(*counter);
        let size = size_of(&name);
        report.segments.push(check_open(disk, name, size)?);
    }
    Ok(report)
}

impl Report {
    /// Has `examine` look into the snapshots whose files are sound by themselves: what their bytes
    /// mean is not the log's to know.
    pub fn examine_snapshots(
        &mut self,
        mut examine: impl FnMut(SnapshotName) -> Result<(), SnapshotError>,
    ) {
        for snapshot in self.snapshots.iter_mut().filter(|s| s.data.is_ok()) {
            if let Err(error) = examine(snapshot.name) {
                snapshot.data = Err(error.to_string());
            }
        }
        self.refuse_damaged_snapshot();
    }

    /// A start reads the newest snapshot, and no other one in its place.
    fn refuse_damaged_snapshot(&mut self) {
        if let (StartReport::Starts { .. }, Some(newest)) = (&self.start, self.snapshots.last())
            && let Err(detail) = &newest.data
        {
            self.start = StartReport::Refuses {
                file: FileName::Snapshot(newest.name).to_string(),
                detail: detail.clone(),
                can_recover_automatically: false,
            };
        }
    }

    /// True if nothing is damaged and a node would start.
    pub fn is_sound(&self) -> bool {
        self.metadata
            .iter()
            .all(|metadata| metadata.content.is_ok())
            && self
                .snapshots
                .iter()
                .all(|snapshot| snapshot.members.is_ok() && snapshot.data.is_ok())
            && self
                .segments
                .iter()
                .all(|segment| segment.problem.is_none())
            && matches!(self.start, StartReport::Starts { .. })
    }
}

/// What a start would do, with which members, and the last entry.
type Outlook = (StartReport, Vec<Server>, Option<(u64, u64)>);

fn start_report<D: Disk>(
    disk: &D,
    options: &RecoverOptions,
    node: Option<u64>,
    starter: Option<&Starter>,
) -> Result<Outlook, DiskError> {
    let refuses = |file: String, detail: String, can_recover_automatically| {
        let start = StartReport::Refuses {
            file,
            detail,
            can_recover_automatically,
        };
        Ok((start, Vec::new(), None))
    };
    match analyze(disk, options) {
        Ok(analysis) => {
            let recovered = &analysis.recovered;
            let members = identity::configuration(recovered).map_or(Vec::new(), |c| c.servers);
            let last = Some(analysis.last_entry()).filter(|last| *last != (0, 0));
            let objection = starter
                .and_then(|s| identity::objection(node, s.id, &s.address, recovered))
                .map(|detail| StartReport::Refuses {
                    file: identity::IDENTITY_FILE.to_owned(),
                    detail,
                    can_recover_automatically: false,
                });
            let entries = &recovered.entries;
            let starts = || StartReport::Starts {
                term: recovered.term,
                vote: recovered.vote,
                snapshot: recovered.snapshot.as_ref().map(format::snapshot_name),
                entries: entries
                    .first()
                    .zip(entries.last())
                    .map(|(first, last)| (first.index, last.index)),
                repairs: analysis.repairs.clone(),
                notes: analysis.notes.clone(),
            };
            Ok((objection.unwrap_or_else(starts), members, last))
        }
        Err(RecoverError::Corrupt {
            file,
            detail,
            suspect,
        }) => refuses(file, detail, suspect != Suspect::None),
        Err(RecoverError::Disk(error)) => Err(error),
        Err(error @ RecoverError::NeverStarted) => refuses(String::new(), error.to_string(), false),
    }
}

fn check_metadata<D: Disk>(disk: &D, name: &str) -> Result<String, String> {
    use dq_wire::disk::metadata::Metadata;

    let content = disk
        .read(name, Metadata::SIZE as u64)
        .map_err(|e| e.to_string())?;
    let metadata = Metadata::decode(&content).map_err(|e| e.to_string())?;
    Ok(format!(
        "version {}, term {}, vote {}",
        metadata.version, metadata.term, metadata.voted_for
    ))
}

fn check_snapshot<D: Disk>(disk: &D, name: SnapshotName) -> Result<SnapshotReport, DiskError> {
    let meta = match read_snapshot_meta(disk, name) {
        Err(RecoverError::Disk(error)) => return Err(error),
        meta => meta.map_err(|e| e.to_string()),
    };
    let data = SnapshotReader::open_named(disk, name).map_err(|e| e.to_string());
    let data = data.and_then(|mut reader| {
        let mut buffer = vec![0; 64 << 10];
        let mut total = 0;
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(total),
                Ok(got) => total += got as u64,
                Err(error) => return Err(error.to_string()),
            }
        }
    });
    Ok(SnapshotReport {
        name,
        members: meta.map(|meta| meta.configuration.servers.len()),
        data,
    })
}

fn check_closed<D: Disk>(
    disk: &D,
    segment: Segment,
    size: u64,
) -> Result<SegmentReport, DiskError> {
    let mut report = SegmentReport {
        file: FileName::ClosedSegment {
            first: segment.first,
            last: segment.last,
        }
        .to_string(),
        size,
        entries: 0,
        terms: None,
        problem: None,
    };
    match read_closed_segment(disk, segment, Suspect::None) {
        Ok(entries) => report.describe(&entries),
        Err(RecoverError::Disk(error)) => return Err(error),
        Err(error) => report.problem = Some(error.to_string()),
    }
    Ok(report)
}

fn check_open<D: Disk>(disk: &D, file: String, size: u64) -> Result<SegmentReport, DiskError> {
    let content = Bytes::from(disk.read(&file, format::SEGMENT_SIZE_MAX)?);
    let mut report = SegmentReport {
        file,
        size,
        entries: 0,
        terms: None,
        problem: None,
    };
    match format::decode_segment(&content, 0) {
        Ok(decoded) => {
            report.describe(&decoded.entries);
            let used = last_nonzero(&content).map_or(0, |last| last + 1);
            if let Some(why) = torn::damage(&content, decoded.end, used) {
                report.problem = Some(format!("damaged batch at byte {}{why}", decoded.end));
            }
        }
        Err(_) if content.iter().all(|byte| *byte == 0) => {}
        Err(error) => report.problem = Some(error.to_string()),
    }
    Ok(report)
}

impl SegmentReport {
    fn describe(&mut self, entries: &[LogEntry]) {
        let terms = || entries.iter().map(|entry| entry.term);
        self.entries = entries.len() as u64;
        self.terms = terms().min().zip(terms().max());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(id) = self.node {
            writeln!(f, "{}: the directory of node {id}", identity::IDENTITY_FILE)?;
        }
        for Server { id, address, role } in &self.members {
            writeln!(f, "member: node {id} at {address}, {role}")?;
        }
        for metadata in &self.metadata {
            match &metadata.content {
                Ok(content) => writeln!(f, "{}: {content}", metadata.file)?,
                Err(problem) => writeln!(f, "{}: DAMAGED: {problem}", metadata.file)?,
            }
        }
        for snapshot in &self.snapshots {
            write!(f, "{}: ", FileName::Snapshot(snapshot.name))?;
            match (&snapshot.members, &snapshot.data) {
                (Ok(members), Ok(size)) => writeln!(f, "{size} bytes, {members} members")?,
                (Err(problem), _) | (_, Err(problem)) => writeln!(f, "DAMAGED: {problem}")?,
            }
        }
        for segment in &self.segments {
            write!(f, "{}: {} entries", segment.file, segment.entries)?;
            if let Some((lowest, highest)) = segment.terms {
                write!(f, " of terms {lowest} to {highest}")?;
            }
            match &segment.problem {
                Some(problem) => writeln!(f, ", DAMAGED: {problem}")?,
                None => writeln!(f, ", {} bytes", segment.size)?,
            }
        }
        for (files, what) in [
            (&self.leftovers, "left over, a start deletes it"),
            (&self.set_aside, "set aside by an earlier start"),
            (&self.others, "not part of the log"),
        ] {
            for file in files {
                writeln!(f, "{file}: {what}")?;
            }
        }
        if let Some((index, term)) = self.last {
            writeln!(f, "last entry: term {term}, index {index}")?;
        }
        self.start.fmt(f)
    }
}

impl fmt::Display for StartReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartReport::Starts {
                term,
                vote,
                snapshot,
                entries,
                repairs,
                notes,
            } => {
                write!(f, "starts: term {term}, vote {vote}")?;
                if let Some(snapshot) = snapshot {
                    write!(f, ", snapshot at {}", snapshot.index)?;
                }
                match entries {
                    Some((first, last)) => writeln!(f, ", entries {first} to {last}")?,
                    None => writeln!(f, ", no entries")?,
                }
                for note in notes {
                    writeln!(f, "  {note}")?;
                }
                for repair in repairs {
                    writeln!(f, "  {repair}")?;
                }
                Ok(())
            }
            StartReport::Refuses {
                detail,
                can_recover_automatically,
                ..
            } => {
                writeln!(f, "does not start: {detail}")?;
                match can_recover_automatically {
                    true => writeln!(f, "  automatic recovery would set segments aside"),
                    false => Ok(()),
                }
            }
        }
    }
}
