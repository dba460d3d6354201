//! Carries out what [`plan`](crate::log::plan) has decided.

use std::io::IoSlice;

use bytes::Bytes;
use dq_wire::disk::names::{self, FileName};
use dq_wire::disk::segment::{BATCH_ENTRIES_MAX, SEGMENT_HEAD};

use crate::disk::{Cause, Disk, DiskError, Operation};
use crate::log::format;
use crate::log::plan::FileOp;
use crate::mutants::{Mutant, is_broken};
use crate::types::LogEntry;

/// Carries the operations out in order, and stops at the first that fails.
pub(crate) fn execute<D: Disk>(disk: &D, ops: &[FileOp]) -> Result<(), DiskError> {
    for op in ops {
        match op {
            FileOp::Remove { file } => disk.remove(file)?,
            FileOp::Rename { from, to } => disk.rename(from, to)?,
            FileOp::Cut { file, size } => {
                let open = disk.open(file)?;
                disk.truncate(&open, *size)?;
                if !is_broken(Mutant::CloseUnsynced) {
                    disk.sync_data(&open)?;
                }
            }
            FileOp::CopyPrefix { segment, last, to } => {
                let name = segment.file_name();
                let content = Bytes::from(disk.read(&name, format::SEGMENT_SIZE_MAX)?);
                // It was valid when it was written or read: by now the disk has failed.
                let mut entries = format::decode_closed_segment(&content, *segment)
                    .map_err(|_| DiskError::new(Operation::Read, &name, Cause::Incomplete))?;
                entries.truncate(usize::try_from(last + 1 - segment.first).unwrap_or(usize::MAX));
                write_new(disk, to, &encode_segment(&entries))?;
            }
            FileOp::SyncDirectory => disk.sync_directory()?,
        }
    }
    Ok(())
}

/// Creates a file with this content and makes the content, not yet the name, durable.
pub(crate) fn write_new<D: Disk>(disk: &D, name: &str, pieces: &[Bytes]) -> Result<(), DiskError> {
    let file = disk.create(name)?;
    let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    disk.write_at(&file, 0, &slices)?;
    disk.sync_data(&file)
}

/// Puts a small file in place, whole or not at all, and durable.
pub(crate) fn put_file<D: Disk>(
    disk: &D,
    name: FileName,
    pieces: &[Bytes],
) -> Result<(), DiskError> {
    let temporary = names::temporary(&name);
    write_new(disk, &temporary, pieces)?;
    disk.rename(&temporary, &name.to_string())?;
    disk.sync_directory()
}

/// The content of a closed segment with these entries, in as few batches as readers accept.
pub(crate) fn encode_segment(entries: &[LogEntry]) -> Vec<Bytes> {
    let mut pieces = vec![Bytes::from_static(&SEGMENT_HEAD)];
    for batch in entries.chunks(BATCH_ENTRIES_MAX) {
        let batch: Vec<&LogEntry> = batch.iter().collect();
        pieces.push(format::encode_batch_head(&batch).into());
        for entry in batch {
            pieces.extend_from_slice(entry.payload.chunks());
        }
    }
    pieces
}
