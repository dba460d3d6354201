//! From the files of a data directory to the log: what [`analyze`] finds, and which repairs it needs.
//!
//! Every state that a crash of ours can leave, and nearly all that one of C dqlite can, is a normal
//! state here: it opens, and everything that was ever reported durable is in it. Anything else is
//! [`RecoverError::Corrupt`], which names the file and has changed nothing: a log that starts with
//! the wrong entries is worse than one that does not start.
//!
//! ```text
//! metadata1, metadata2   the higher version counts; a torn one is as if it were not there; two that
//!                        cannot have been written one after the other are refused
//! snapshots              complete pairs only; the newest counts
//! closed segments        the longest contiguous run up to the newest
//! open segments          after it (or after the snapshot), in the order of their counters
//! ```
//!
//! How the doubtful ones are decided:
//!
//! - *Two closed segments with the same first index*: a truncation was cut short. The shorter one is
//!   right, the longer one and all after it were to go.
//! - *Closed segments that end before the snapshot, nothing open*: an installation was cut short.
//!   They go, now and not later: once entries follow the snapshot, nobody could tell their indexes.
//! - *The entry at the snapshot's index has another term than the snapshot*: the same, earlier.
//! - *An open segment without a valid batch*: if it is the last one written to, its first write was
//!   torn, and it is set aside. If a later one holds entries it is damage, since a segment is durable
//!   before the next one is written to. The same goes for a bad batch with a good one behind it, and for
//!   others that no torn write leaves: see [`torn`](crate::log::torn).
//! - *Closed segments that end before the snapshot, and an open one with entries*: C dqlite can get
//!   there, and gives the entries wrong indexes. Nothing in the files says which are right: refused.
//!
//! Repairs are [`FileOp`]s in an order that leaves, cut short, a directory that leads here again.

use std::fmt;

use dq_wire::disk::metadata::Metadata;
use dq_wire::disk::names::{self, FileName, SnapshotName};

use crate::disk::{Disk, DiskError, Listed};
use crate::log::execute::execute;
use crate::log::format;
use crate::log::load::Log;
use crate::log::plan::{self, FileOp, Segment};
use crate::log::survey::Survey;
use crate::log::writer::{LogFiles, LogWriter, WriterOptions};
use crate::mutants::{Mutant, is_broken};
use crate::types::{EntryKind, LogEntry, Recovered, SnapshotMeta};

/// How to open a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverOptions {
    /// Set damaged segments at the end of the log aside (under names that begin with `corrupt-`)
    /// and start without them, as C dqlite does unless told otherwise. **It loses entries**, maybe
    /// acknowledged ones.
    pub auto_recovery: bool,
    /// Bytes of segments that end before the snapshot to load; those before stay on disk unread.
    pub trailing_bytes_max: u64,
    /// Nanoseconds since 1970, for the names of files that are set aside.
    pub now_nanos: u64,
    /// How to go on writing.
    pub writer: WriterOptions,
}

impl Default for RecoverOptions {
    fn default() -> RecoverOptions {
        RecoverOptions {
            auto_recovery: false,
            trailing_bytes_max: 64 << 20,
            now_nanos: 0,
            writer: WriterOptions::default(),
        }
    }
}

/// Why a directory does not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoverError {
    /// A file is damaged, or the files contradict each other. Nothing was changed.
    Corrupt {
        /// The file to look at.
        file: String,
        /// What is wrong with it, as a sentence that names it.
        detail: String,
        /// What automatic recovery may set aside.
        suspect: Suspect,
    },
    /// The directory is that of a node that has never been started.
    NeverStarted,
    /// The disk failed.
    Disk(DiskError),
}

/// Which files automatic recovery may set aside for a damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspect {
    /// This open segment, and all with a higher counter.
    OpenFrom(u64),
    /// The last closed segment, and all open ones.
    LastClosed(Segment),
    /// None: somebody has to look.
    None,
}

/// Everything that opening a directory has to know, before anything is changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    /// What the node starts with.
    pub recovered: Recovered,
    /// What has to be done to the files first, in order.
    pub repairs: Vec<FileOp>,
    /// Observations that no repair follows from.
    pub notes: Vec<String>,
    /// Files that were read and count, to be made durable before anybody relies on them.
    read: Vec<String>,
    files: LogFiles,
}

impl Analysis {
    /// The closed segments after the repairs.
    pub fn segments(&self) -> &[Segment] {
        &self.files.segments
    }

    /// The complete snapshots, ascending.
    pub fn snapshots(&self) -> &[SnapshotName] {
        &self.files.snapshots
    }

    /// Version of the newest metadata; 0 if there is none.
    pub fn metadata_version(&self) -> u64 {
        self.files.metadata.map_or(0, |metadata| metadata.version)
    }

    /// Index and term of the last entry, or those of the snapshot, or zeros.
    pub fn last_entry(&self) -> (u64, u64) {
        if let Some(last) = self.recovered.entries.last() {
            return (last.index, last.term);
        }
        let snapshot = self.recovered.snapshot.as_ref();
        snapshot.map_or((0, 0), |snapshot| (snapshot.index, snapshot.term))
    }
}

/// Opens the log: analyses, repairs, makes durable all that was read, and returns it together with
/// the writer that goes on from there.
///
/// # Errors
/// See [`RecoverError`].
pub fn recover<D: Disk>(
    disk: D,
    options: &RecoverOptions,
) -> Result<(Recovered, LogWriter<D>), RecoverError> {
    let (recovered, writer, ()) = recover_after(disk, options, |_| Ok::<_, RecoverError>(()))?;
    Ok((recovered, writer))
}

/// As [`recover`], but asks `look` about what was found before it changes anything (other than what
/// automatic recovery sets aside): an error of it is the answer, and what it returns comes back.
///
/// # Errors
/// See [`RecoverError`], and those of `look`.
pub fn recover_after<D: Disk, T, E: From<RecoverError>>(
    disk: D,
    options: &RecoverOptions,
    look: impl FnOnce(&Recovered) -> Result<T, E>,
) -> Result<(Recovered, LogWriter<D>, T), E> {
    let analysis = analyze_or_set_aside(&disk, options)?;
    let looked = look(&analysis.recovered)?;
    let (recovered, writer) = repair(disk, options, analysis)?;
    Ok((recovered, writer, looked))
}

fn analyze_or_set_aside<D: Disk>(
    disk: &D,
    options: &RecoverOptions,
) -> Result<Analysis, RecoverError> {
    match analyze(disk, options) {
        Err(RecoverError::Corrupt {
            detail, suspect, ..
        }) if options.auto_recovery && suspect != Suspect::None => {
            ::log::error!("setting damaged segments aside: {detail}");
            execute(disk, &answer(&disk.list()?, suspect, options.now_nanos))?;
            analyze(disk, options)
        }
        analysis => analysis,
    }
}

fn repair<D: Disk>(
    disk: D,
    options: &RecoverOptions,
    analysis: Analysis,
) -> Result<(Recovered, LogWriter<D>), RecoverError> {
    // The page cache may hold what the disk lacks, if only the process died. From here on entries
    // count as persisted and the vote as cast, so a power cut must not undo them.
    for name in &analysis.read {
        if !is_broken(Mutant::NoSyncAtStart) {
            disk.sync_data(&disk.open(name)?)?;
        }
    }
    execute(&disk, &analysis.repairs)?;
    disk.sync_directory()?;
    for note in &analysis.notes {
        ::log::warn!("{note}");
    }
    let writer = LogWriter::new(disk, options.writer.clone(), analysis.files);
    Ok((analysis.recovered, writer))
}

/// Reads the directory and decides, without changing anything.
///
/// # Errors
/// See [`RecoverError`].
pub fn analyze<D: Disk>(disk: &D, options: &RecoverOptions) -> Result<Analysis, RecoverError> {
    let survey = Survey::of(&disk.list()?);
    let mut analysis = Analysis {
        recovered: Recovered::default(),
        repairs: Vec::new(),
        notes: Vec::new(),
        read: Vec::new(),
        files: LogFiles {
            snapshots: survey.snapshots.clone(),
            ..LogFiles::default()
        },
    };
    for file in survey.temporaries.iter().chain(&survey.halves) {
        analysis.repairs.push(FileOp::Remove { file: file.clone() });
    }
    analysis.read_metadata(disk, &survey)?;
    analysis.read_snapshot(disk)?;
    analysis.forget_old_snapshots();
    let log = Log::read(disk, &survey, &analysis, options)?;
    analysis.take_log(log, &survey)?;
    analysis.check_halves(&survey)?;
    Ok(analysis)
}

impl Analysis {
    fn read_metadata<D: Disk>(&mut self, disk: &D, survey: &Survey) -> Result<(), RecoverError> {
        let mut found: [Option<Metadata>; 2] = [None; 2];
        for (slot, name) in format::METADATA_NAMES.into_iter().enumerate() {
            let Some(size) = survey.metadata_sizes[slot] else {
                continue;
            };
            let wanted = Metadata::SIZE as u64;
            if size > wanted {
                let detail = format!("{name} has size {size} instead of {wanted}");
                return Err(corrupt(name, detail));
            }
            let content = disk.read(name, wanted)?;
            if content.len() < Metadata::SIZE || content.iter().all(|byte| *byte == 0) {
                // A first write that was torn, or whose size alone got to the disk.
                self.repairs.push(FileOp::Remove { file: name.into() });
                continue;
            }
            let metadata = Metadata::decode(&content).map_err(|e| {
                let why = match content.first_chunk().map(|word| u64::from_le_bytes(*word)) {
                    Some(format) if format != 1 => format!("bad format version {format}"),
                    _ => e.to_string(),
                };
                corrupt(name, format!("decode content of {name}: {why}"))
            })?;
            for (what, number) in [("version", metadata.version), ("term", metadata.term)] {
                if number >= format::COUNTED_END {
                    let detail = format!("{name} holds {what} {number}, to which no node counts");
                    return Err(corrupt(name, detail));
                }
            }
            if format::metadata_slot(&metadata) != slot {
                let other = format::METADATA_NAMES[1 - slot];
                let detail = format!(
                    "{name} holds version {}, which belongs into {other}",
                    metadata.version
                );
                return Err(corrupt(name, detail));
            }
            found[slot] = Some(metadata);
            self.files.metadata_exists[slot] = true;
            self.read.push(name.to_owned());
        }
        let [one, two] = found;
        self.files.metadata =
            Metadata::newer(one, two).map_err(|e| corrupt("metadata1", e.to_string()))?;
        if let [Some(one), Some(two)] = found
            && let Some(detail) = contradiction(one, two)
        {
            return Err(corrupt("metadata1", detail));
        }
        if let Some(newest) = self.files.metadata {
            self.recovered.term = newest.term;
            self.recovered.vote = newest.voted_for;
        }
        Ok(())
    }

    fn read_snapshot<D: Disk>(&mut self, disk: &D) -> Result<(), RecoverError> {
        let Some(newest) = self.files.snapshots.last() else {
            return Ok(());
        };
        let meta = read_snapshot_meta(disk, *newest)?;
        if meta.term > self.recovered.term {
            let file = FileName::Snapshot(*newest).to_string();
            return Err(older_metadata(&file, meta.term, self));
        }
        let files = format::snapshot_files(*newest);
        self.read
            .extend([files.meta.to_string(), files.data.to_string()]);
        self.recovered.snapshot = Some(meta);
        Ok(())
    }

    /// Crashes between a snapshot and the removals that follow it would otherwise pile them up.
    fn forget_old_snapshots(&mut self) {
        let snapshots = &mut self.files.snapshots;
        let old = snapshots.len().saturating_sub(plan::SNAPSHOTS_KEPT);
        for snapshot in snapshots.drain(..old) {
            let files = format::snapshot_files(snapshot);
            for file in [files.data, files.meta] {
                let file = file.to_string();
                self.repairs.push(FileOp::Remove { file });
            }
        }
    }

    fn take_log(&mut self, log: Log, survey: &Survey) -> Result<(), RecoverError> {
        let snapshot = self
            .recovered
            .snapshot
            .as_ref()
            .map_or((0, 0), |snapshot| (snapshot.index, snapshot.term));
        self.notes.extend(log.notes);
        self.read.extend(log.read);
        self.repairs.extend(log.repairs);
        self.files.segments = log.segments;
        self.files.next_index = self
            .files
            .segments
            .last()
            .map_or(snapshot.0 + 1, |segment| segment.last + 1);
        self.recovered.entries = log.entries;

        let newest_term = self.recovered.entries.iter().map(|e| e.term).max();
        if newest_term > Some(self.recovered.term) {
            // Bootstrap writes the segment first: metadata without a log would look like a node
            // that waits to be added, and would wait for ever.
            if self.recovered.term == 0 && self.is_bootstrap_only() {
                self.drop_log(0);
                return Ok(());
            }
            let name = self
                .files
                .segments
                .last()
                .map(|segment| segment.file_name());
            let term = newest_term.unwrap_or_default();
            return Err(older_metadata(&name.unwrap_or_default(), term, self));
        }
        if snapshot.0 == 0 {
            return self.check_beginning(survey);
        }
        let at_snapshot = self
            .recovered
            .entries
            .iter()
            .find(|e| e.index == snapshot.0);
        let contradicts = at_snapshot.is_some_and(|entry| entry.term != snapshot.1);
        if contradicts && !is_broken(Mutant::KeepOldLog) {
            self.notes.push(format!(
                "the log has another entry {} than the snapshot: dropped, an installation was cut short",
                snapshot.0
            ));
            self.drop_log(snapshot.0);
        }
        Ok(())
    }

    /// Without a snapshot the log holds all there ever was, a configuration first.
    fn check_beginning(&self, survey: &Survey) -> Result<(), RecoverError> {
        match self.recovered.entries.first() {
            Some(first) if first.kind != EntryKind::Change => {
                let file = self
                    .files
                    .segments
                    .first()
                    .map(|segment| segment.file_name());
                let file = file.unwrap_or_default();
                let detail = format!(
                    "segment {file} does not begin with a configuration{}",
                    survey.what_is_missing()
                );
                Err(corrupt(&file, detail))
            }
            _ => Ok(()),
        }
    }

    /// Data of a snapshot without the members: its other file comes first, so no crash explains that,
    /// and if the log does not reach as far, it is all there is of what was acknowledged.
    fn check_halves(&self, survey: &Survey) -> Result<(), RecoverError> {
        let Some(half) = survey.data_halves.last() else {
            return Ok(());
        };
        let newest = survey.snapshots.last();
        if newest.is_some_and(|newest| newest > half) || self.last_entry().0 >= half.index {
            return Ok(());
        }
        let meta = FileName::SnapshotMeta(*half).to_string();
        let data = FileName::Snapshot(*half);
        let detail = format!("{meta} is missing: the log does not reach the snapshot {data}");
        Err(corrupt(&meta, detail))
    }

    fn is_bootstrap_only(&self) -> bool {
        let only_change = |entries: &[LogEntry]| matches!(entries, [entry] if entry.index == 1 && entry.kind == EntryKind::Change);
        self.recovered.snapshot.is_none() && only_change(&self.recovered.entries)
    }

    fn drop_log(&mut self, snapshot_index: u64) {
        let segments = std::mem::take(&mut self.files.segments);
        self.repairs.extend(plan::remove_from_the_end(&segments));
        self.recovered.entries.clear();
        self.files.next_index = snapshot_index + 1;
    }
}

/// Why `metadata1` and `metadata2` cannot both be what was written. They have no checksum, but each was
/// written next after the other, and neither terms nor votes are ever taken back.
fn contradiction(one: Metadata, two: Metadata) -> Option<String> {
    let (old, new) = match one.version < two.version {
        true => (one, two),
        false => (two, one),
    };
    let (was, is) = (
        format!("term {}, vote {}", old.term, old.voted_for),
        format!("term {}, vote {}", new.term, new.voted_for),
    );
    let keeps_vote = old.voted_for == 0 || new.voted_for == old.voted_for;
    if new.version - old.version != 1 {
        Some(format!(
            "metadata1 and metadata2 hold versions {} and {}: one is damaged",
            one.version, two.version
        ))
    } else if new.term < old.term || new.term == old.term && !keeps_vote {
        Some(format!(
            "metadata1 and metadata2 hold {was}, and after it {is}: one is damaged"
        ))
    } else {
        None
    }
}

/// Reads and checks a snapshot's `.meta` file.
///
/// # Errors
/// [`RecoverError::Corrupt`] if it is damaged.
pub fn read_snapshot_meta<D: Disk>(
    disk: &D,
    name: SnapshotName,
) -> Result<SnapshotMeta, RecoverError> {
    let file = FileName::SnapshotMeta(name).to_string();
    let content = match disk.read(&file, format::SNAPSHOT_META_SIZE_MAX) {
        Err(e) if matches!(e.cause, crate::disk::Cause::TooLarge { .. }) => {
            return Err(corrupt(&file, format!("load {file}: {}", e.cause)));
        }
        content => content?,
    };
    format::decode_snapshot_meta(name, &content)
        .map_err(|e| corrupt(&file, format!("load {file}: {e}")))
}

/// The renames with which automatic recovery answers a damage.
fn answer(files: &[Listed], suspect: Suspect, now_nanos: u64) -> Vec<FileOp> {
    let survey = Survey::of(files);
    let (closed, open_from) = match suspect {
        Suspect::OpenFrom(counter) => (None, counter),
        Suspect::LastClosed(segment) => (Some(format::closed_segment(segment)), 0),
        Suspect::None => return Vec::new(),
    };
    // From the end, so that a crash in between leaves no gap.
    let open = survey
        .open
        .into_iter()
        .rev()
        .filter(|counter| *counter >= open_from);
    let open = open.map(|counter| FileName::OpenSegment { counter });
    let mut ops = Vec::new();
    for file in open.chain(closed) {
        ops.push(set_aside(&file, now_nanos));
        ops.push(FileOp::SyncDirectory);
    }
    ops
}

pub(crate) fn set_aside(file: &FileName, now_nanos: u64) -> FileOp {
    FileOp::Rename {
        from: file.to_string(),
        to: names::set_aside(file, now_nanos),
    }
}

pub(crate) fn corrupt(file: &str, detail: String) -> RecoverError {
    RecoverError::Corrupt {
        file: file.to_owned(),
        detail,
        suspect: Suspect::None,
    }
}

fn older_metadata(file: &str, term: u64, analysis: &Analysis) -> RecoverError {
    let detail = format!(
        "term {} of metadata1 and metadata2 is older than term {term} of {file}",
        analysis.recovered.term
    );
    corrupt("metadata1", detail)
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::Corrupt { detail, .. } => f.write_str(detail),
            RecoverError::NeverStarted => {
                f.write_str("the directory has never been used by a node")
            }
            RecoverError::Disk(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RecoverError {}

impl From<DiskError> for RecoverError {
    fn from(error: DiskError) -> RecoverError {
        RecoverError::Disk(error)
    }
}
