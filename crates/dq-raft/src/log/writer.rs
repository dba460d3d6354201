//! The log's writer: one per data directory, on the disk thread, the only one that changes the log.
//!
//! It is given [`Persist`]s and reports up to which of them everything is durable. What has queued
//! up while the last ones were written is done together: the entries of all of them become one batch
//! in the open segment, one vectored write and one `fdatasync`.
//!
//! ```text
//!   closed                     open                        prepared
//!  ┌────────┐┌────────┐┌──────────────────────────┐┌───────────────┐┌───────────────┐
//!  │ 1 - 41 ││ 42 - 80││ batch │ batch │ 0 0 0 0 0 ││ 0 0 0 0 0 0 0 ││ 0 0 0 0 0 0 0 │
//!  └────────┘└────────┘└──────────────────────────┘└───────────────┘└───────────────┘
//!                               used ──▲  capacity ──▲     made by `prepare`, when idle
//! ```
//!
//! Order inside one call, and why:
//!
//! 1. Term and vote first: an entry of a term newer than the stored one must not survive alone. Only
//!    the last of several is written, since nothing was promised under the others.
//! 2. Entries in order; a truncation, a snapshot or an installation closes the open segment, is done
//!    whole, and only then the next entries follow.
//! 3. Where a segment is full it is made durable and closed before the next one is written to: what
//!    a segment's entries are counted from must not be able to vanish behind them.
//!
//! **Any error is final.** What reached the disk is unknown then, also after a failed sync, so the
//! writer refuses everything from there on with that error. The one exception is
//! [`LogWriter::prepare`], which finds out that the disk is full before anything depends on it.
//!
//! What it does not do: decide when (that is its caller's loop), read the log, compress.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;
use dq_wire::disk::metadata::Metadata;
use dq_wire::disk::names::{self, SnapshotName};
use dq_wire::disk::segment::SEGMENT_HEAD;

use crate::disk::{Disk, DiskError};
use crate::log::execute::{execute, put_file};
use crate::log::format;
use crate::log::plan::{self, Placement, Segment};
use crate::types::{DiskOp, LogEntry, Persist, SnapshotMeta};

/// How the log lays out its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterOptions {
    /// Size that open segments are prepared with, in bytes; 8 MiB as in C dqlite. At least 64, and
    /// a multiple of 8.
    pub segment_size: u64,
    /// Open segments to have ready besides the one in use; 2 as in C dqlite.
    pub prepared_count: usize,
}

impl Default for WriterOptions {
    fn default() -> WriterOptions {
        WriterOptions {
            segment_size: 8 << 20,
            prepared_count: 2,
        }
    }
}

/// What [`LogWriter::prepare`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// All segments that should be ready are.
    Ready,
    /// A part was done: call again when there is still nothing to write.
    Unfinished,
    /// There is no space for them. What is ready can still be written to; ask again later.
    NoSpace,
}

/// Bytes of zeros that one step of preparing writes and syncs.
const FILL_STEP: u64 = 1 << 20;

/// What became of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is the newest now.
    Newest,
    /// A newer one has been installed meanwhile, and this one deleted.
    Superseded,
}

/// The files of a log as its recovery left them: where writing goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LogFiles {
    /// Closed segments, ascending and contiguous. No open ones.
    pub(crate) segments: Vec<Segment>,
    /// Complete snapshots, ascending.
    pub(crate) snapshots: Vec<SnapshotName>,
    /// What the newest metadata file says.
    pub(crate) metadata: Option<Metadata>,
    /// Whether `metadata1` and `metadata2` exist.
    pub(crate) metadata_exists: [bool; 2],
    /// Index that the next entry gets.
    pub(crate) next_index: u64,
}

/// Executes disk work, in order.
#[derive(Debug)]
pub struct LogWriter<D: Disk> {
    disk: D,
    options: WriterOptions,
    files: LogFiles,
    open: Option<OpenSegment<D::File>>,
    prepared: VecDeque<OpenSegment<D::File>>,
    /// Being filled with zeros, so far up to here. Its space is reserved already.
    filling: Option<(OpenSegment<D::File>, u64)>,
    next_counter: u64,
    durable_id: u64,
    failed: Option<DiskError>,
}

/// A segment that is written to, or waits for it.
#[derive(Debug)]
struct OpenSegment<F> {
    file: F,
    name: String,
    /// Bytes written; 0 until the format word and the first batch are there.
    used: u64,
    capacity: u64,
    first_index: u64,
    /// Written to since the last sync.
    is_dirty: bool,
}

impl<D: Disk> LogWriter<D> {
    pub(crate) fn new(disk: D, options: WriterOptions, files: LogFiles) -> LogWriter<D> {
        LogWriter {
            disk,
            options,
            files,
            open: None,
            prepared: VecDeque::new(),
            filling: None,
            next_counter: 1,
            durable_id: 0,
            failed: None,
        }
    }

    /// Does all this work, and returns the id up to which everything is durable: that of the last
    /// of `batches`.
    ///
    /// # Errors
    /// The first error of the disk, now and at every later call.
    ///
    /// # Panics
    /// If entries do not follow the ones before them, a payload is not a whole number of words, or
    /// a truncation reaches into a snapshot: mistakes of the caller that would damage the log.
    pub fn write(&mut self, batches: &[Persist]) -> Result<u64, DiskError> {
        self.guarded(|writer| writer.write_all(batches))?;
        if let Some(last) = batches.last() {
            self.durable_id = last.id;
        }
        Ok(self.durable_id)
    }

    /// Gives a snapshot of our own, whose finished files have their temporary names still, its
    /// place. The log stays as it is, until [`DiskOp::Prune`].
    ///
    /// # Errors
    /// As [`LogWriter::write`].
    ///
    /// # Panics
    /// If the log ends before the snapshot: it was not taken from what this log says.
    pub fn publish_snapshot(&mut self, meta: &SnapshotMeta) -> Result<Published, DiskError> {
        let name = format::snapshot_name(meta);
        if self
            .files
            .snapshots
            .last()
            .is_some_and(|newest| newest.index > name.index)
        {
            let files = format::snapshot_files(name);
            self.guarded(|writer| {
                writer.disk.remove(&names::temporary(&files.data))?;
                writer.disk.remove(&names::temporary(&files.meta))
            })?;
            return Ok(Published::Superseded);
        }
        assert!(name.index < self.files.next_index, "its entries are here");
        self.guarded(|writer| {
            // Where no closed segment is left, the entries of open ones are counted from the
            // snapshot: so none that it contains may be in one.
            writer.close_segment()?;
            let plan = plan::publish_snapshot(&writer.files.snapshots, name);
            execute(&writer.disk, &plan)?;
            writer.add_snapshot(name);
            Ok(())
        })?;
        Ok(Published::Newest)
    }

    /// Sets segments aside, so that appending needs none: one small step of it, so that work that
    /// comes meanwhile need not wait. To be called when there is nothing to write.
    ///
    /// # Errors
    /// As [`LogWriter::write`]; a full disk is no error here.
    pub fn prepare(&mut self) -> Result<Prepared, DiskError> {
        let mut prepared = Prepared::Unfinished;
        self.guarded(|writer| {
            if let Some((segment, filled)) = writer.filling.take() {
                return writer.fill(segment, filled);
            }
            if writer.prepared.len() >= writer.options.prepared_count {
                prepared = Prepared::Ready;
                return Ok(());
            }
            match writer.create_segment() {
                Ok(segment) => writer.filling = Some((segment, 0)),
                Err((name, error)) if error.is_no_space() => {
                    prepared = Prepared::NoSpace;
                    match writer.disk.remove(&name) {
                        Err(error) if !error.is_not_found() => return Err(error),
                        _ => {}
                    }
                }
                Err((_, error)) => return Err(error),
            }
            Ok(())
        })?;
        Ok(prepared)
    }

    /// Bytes that can be appended without asking the file system for space: payloads, plus 16 per
    /// entry and 16 per batch. An entry never straddles two segments, so up to one entry's length
    /// may be lost at the end of each; keep a margin.
    pub fn reserved_bytes(&self) -> u64 {
        let of_open = self.open.iter().map(|open| open.capacity - open.used);
        let filling = self.filling.iter().map(|(segment, _)| segment);
        let of_prepared = self
            .prepared
            .iter()
            .chain(filling)
            .map(|segment| segment.capacity - format::SEGMENT_HEADER_SIZE);
        of_open.chain(of_prepared).sum()
    }

    /// Index of the last entry that was written.
    pub fn last_index(&self) -> u64 {
        self.files.next_index - 1
    }

    /// Closes the log as a clean stop does: no open segment remains.
    ///
    /// # Errors
    /// As [`LogWriter::write`]. The directory opens all the same.
    pub fn close(mut self) -> Result<(), DiskError> {
        self.guarded(|writer| {
            writer.close_segment()?;
            while let Some(unused) = writer.take_unused() {
                writer.disk.remove(&unused.name)?;
            }
            writer.disk.sync_directory()
        })
    }

    fn guarded(
        &mut self,
        act: impl FnOnce(&mut LogWriter<D>) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        act(self).inspect_err(|error| {
            self.failed = Some(error.clone());
        })
    }

    fn write_all(&mut self, batches: &[Persist]) -> Result<(), DiskError> {
        let ops = || batches.iter().flat_map(|batch| &batch.ops);
        let hard_state = ops().fold(None, |last, op| match op {
            DiskOp::HardState { term, vote } => Some((*term, *vote)),
            _ => last,
        });
        if let Some((term, vote)) = hard_state {
            self.write_metadata(term, vote)?;
        }
        let mut entries: Vec<&LogEntry> = Vec::new();
        for op in ops() {
            match op {
                DiskOp::HardState { .. } => continue,
                DiskOp::Append { entries: more } => {
                    entries.extend(more);
                    continue;
                }
                _ => self.append(&std::mem::take(&mut entries))?,
            }
            match op {
                DiskOp::Truncate { from } => self.truncate(*from)?,
                DiskOp::InstallSnapshot { meta } => self.install_snapshot(meta)?,
                DiskOp::Prune {
                    snapshot_index,
                    trailing,
                } => self.prune(*snapshot_index, *trailing)?,
                DiskOp::HardState { .. } | DiskOp::Append { .. } => {}
            }
        }
        self.append(&entries)?;
        self.sync()
    }

    fn write_metadata(&mut self, term: u64, vote: u64) -> Result<(), DiskError> {
        let old = self.files.metadata;
        if old.is_some_and(|old| (old.term, old.voted_for) == (term, vote)) {
            return Ok(());
        }
        let new = Metadata {
            version: old.map_or(0, |old| old.version) + 1,
            term,
            voted_for: vote,
        };
        let content = new.encode();
        let slot = format::metadata_slot(&new);
        if self.files.metadata_exists[slot] {
            // In place, as in C dqlite: 32 bytes of one sector, and the other file has the state
            // before this one.
            let file = self.disk.open(format::METADATA_NAMES[slot])?;
            self.disk.write_at(&file, 0, &[IoSlice::new(&content)])?;
            self.disk.sync_data(&file)?;
        } else {
            put_file(
                &self.disk,
                new.file_name(),
                &[Bytes::copy_from_slice(&content)],
            )?;
            self.files.metadata_exists[slot] = true;
        }
        self.files.metadata = Some(new);
        Ok(())
    }

    fn append(&mut self, entries: &[&LogEntry]) -> Result<(), DiskError> {
        for (entry, index) in entries.iter().zip(self.files.next_index..) {
            assert_eq!(entry.index, index, "entries follow the log's last one");
            let size = entry.payload.len();
            assert!(size.is_multiple_of(8), "payloads are words");
            assert!(u32::try_from(size).is_ok(), "payloads are below 4 GiB");
        }
        let mut rest = entries;
        while !rest.is_empty() {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.next_segment()?,
            };
            let lengths = rest.iter().map(|entry| entry.payload.len() as u64);
            match plan::place(open.used, open.capacity, lengths) {
                Placement::Here { count } => {
                    let (batch, later) = rest.split_at(count);
                    if open.is_dirty {
                        // One batch at a time is in doubt, so that a reader can tell damage from
                        // a torn end.
                        self.disk.sync_data(&open.file)?;
                    }
                    self.write_batch(&mut open, batch)?;
                    self.files.next_index += count as u64;
                    self.open = Some(open);
                    rest = later;
                }
                Placement::Next => {
                    self.open = Some(open);
                    self.close_segment()?;
                }
                Placement::Grow { capacity } => {
                    self.grow(&mut open, capacity)?;
                    self.open = Some(open);
                }
            }
        }
        Ok(())
    }

    fn write_batch(
        &mut self,
        open: &mut OpenSegment<D::File>,
        batch: &[&LogEntry],
    ) -> Result<(), DiskError> {
        let head = format::encode_batch_head(batch);
        let mut pieces = Vec::with_capacity(2 + batch.len());
        if open.used == 0 {
            open.first_index = batch[0].index;
            pieces.push(IoSlice::new(&SEGMENT_HEAD));
        }
        pieces.push(IoSlice::new(&head));
        for entry in batch {
            let chunks = entry.payload.chunks().iter();
            pieces.extend(chunks.map(|chunk| IoSlice::new(chunk)));
        }
        self.disk.write_at(&open.file, open.used, &pieces)?;
        open.used += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        open.is_dirty = true;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        if let Some(open) = self.open.as_mut().filter(|open| open.is_dirty) {
            self.disk.sync_data(&open.file)?;
            open.is_dirty = false;
        }
        Ok(())
    }

    /// Makes the open segment a closed one; an empty one goes back to the prepared ones.
    fn close_segment(&mut self) -> Result<(), DiskError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        if open.used == 0 {
            self.prepared.push_front(open);
            return Ok(());
        }
        let segment = Segment {
            first: open.first_index,
            last: self.files.next_index - 1,
        };
        execute(&self.disk, &plan::close(&open.name, open.used, segment))?;
        self.files.segments.push(segment);
        Ok(())
    }

    fn truncate(&mut self, from: u64) -> Result<(), DiskError> {
        if from >= self.files.next_index {
            return Ok(());
        }
        let snapshot_index = self.files.snapshots.last().map_or(0, |s| s.index);
        assert!(from > snapshot_index, "snapshots are never truncated");
        self.close_segment()?;
        let plan = plan::truncate(&self.files.segments, from);
        execute(&self.disk, &plan.ops)?;
        self.files.segments = plan.segments;
        self.files.next_index = from;
        Ok(())
    }

    fn install_snapshot(&mut self, meta: &SnapshotMeta) -> Result<(), DiskError> {
        let name = format::snapshot_name(meta);
        self.close_segment()?;
        let plan = plan::install_snapshot(&self.files.segments, &self.files.snapshots, name);
        execute(&self.disk, &plan.ops)?;
        self.files.segments = plan.segments;
        self.files.next_index = name.index + 1;
        self.add_snapshot(name);
        self.prune(name.index, 0)
    }

    /// It is the newest now: what would stand before it has been removed.
    fn add_snapshot(&mut self, name: SnapshotName) {
        self.files.snapshots.retain(|other| *other < name);
        self.files.snapshots.push(name);
    }

    fn prune(&mut self, snapshot_index: u64, trailing: u64) -> Result<(), DiskError> {
        let newest = self.files.snapshots.last().map_or(0, |s| s.index);
        assert!(snapshot_index <= newest, "only a snapshot replaces entries");
        let files = &self.files;
        let plan = plan::prune(&files.segments, &files.snapshots, snapshot_index, trailing);
        execute(&self.disk, &plan.ops)?;
        self.files.segments = plan.segments;
        let old = self
            .files
            .snapshots
            .len()
            .saturating_sub(plan::SNAPSHOTS_KEPT);
        self.files.snapshots.drain(..old);
        Ok(())
    }

    fn next_segment(&mut self) -> Result<OpenSegment<D::File>, DiskError> {
        let filling = || self.filling.take().map(|(segment, _)| segment);
        match self.prepared.pop_front().or_else(filling) {
            Some(segment) => Ok(segment),
            None => self.create_segment().map_err(|(_, error)| error),
        }
    }

    /// The prepared segment that would be used last.
    fn take_unused(&mut self) -> Option<OpenSegment<D::File>> {
        let filling = self.filling.take().map(|(segment, _)| segment);
        filling.or_else(|| self.prepared.pop_back())
    }

    /// A new open segment with its space set aside and its name durable. On failure its name comes
    /// along, since a part of it may exist.
    fn create_segment(&mut self) -> Result<OpenSegment<D::File>, (String, DiskError)> {
        let name = format::open_segment_name(self.next_counter);
        self.next_counter += 1;
        let capacity = self.options.segment_size;
        let create = || {
            let file = self.disk.create(&name)?;
            self.disk.allocate(&file, capacity)?;
            self.disk.sync_data(&file)?;
            self.disk.sync_directory()?;
            Ok(file)
        };
        match create() {
            Ok(file) => Ok(OpenSegment {
                file,
                name,
                used: 0,
                capacity,
                first_index: 0,
                is_dirty: false,
            }),
            Err(error) => Err((name, error)),
        }
    }

    /// Writes zeros over more of an empty segment: a sync that need not record that blocks are in
    /// use now is a third faster on ext4.
    fn fill(&mut self, segment: OpenSegment<D::File>, filled: u64) -> Result<(), DiskError> {
        let step = (segment.capacity - filled).min(FILL_STEP);
        let zeros = vec![0; step as usize];
        let piece = IoSlice::new(&zeros);
        self.disk.write_at(&segment.file, filled, &[piece])?;
        self.disk.sync_data(&segment.file)?;
        match filled + step < segment.capacity {
            true => self.filling = Some((segment, filled + step)),
            false => self.prepared.push_back(segment),
        }
        Ok(())
    }

    /// Makes an empty segment larger, for an entry that no segment has room for. Space that other
    /// prepared segments hold is given up for it if need be: it was admitted as reserved.
    fn grow(&mut self, open: &mut OpenSegment<D::File>, capacity: u64) -> Result<(), DiskError> {
        loop {
            match self.disk.allocate(&open.file, capacity) {
                Err(error) if error.is_no_space() => match self.take_unused() {
                    Some(unused) => self.disk.remove(&unused.name)?,
                    None => return Err(error),
                },
                Err(error) => return Err(error),
                Ok(()) => {
                    open.capacity = capacity;
                    return Ok(());
                }
            }
        }
    }
}
