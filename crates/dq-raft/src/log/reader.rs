//! Reads entries back that are in memory no more.
//!
//! The log's writer goes on meanwhile, on a thread of its own, and tells nobody: so a reader finds its
//! way by the names in the directory, as a recovery does, and looks again when a file that it was
//! about to open has got another name. It is asked only for what was durable before, so what it
//! looks for is there, in a closed segment or in the one that is open, unless it has been pruned.
//!
//! ```text
//!   names ──▶ segment ──▶ batch, batch, batch
//!                           │      └─ the one that has the first entry: data checked and taken
//!                           └─ skipped by its header
//! ```
//!
//! Where it stopped, it goes on the next time: a follower that is served from a long log costs one
//! pass over it. One batch may be read more than once, when it is larger than what is asked for.

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;

use bytes::Bytes;
use dq_wire::disk::checksum::{Checksum, checksum};
use dq_wire::disk::segment::{BATCH_ENTRIES_MAX, SEGMENT_HEAD};
use dq_wire::entry::decode_batch_header;
use dq_wire::{EntryHeader, Reader};

use crate::disk::{Disk, DiskError};
use crate::log::format;
use crate::log::plan::Segment;
use crate::log::survey::Survey;
use crate::mutants::{Mutant, is_broken};
use crate::types::{LogEntry, LogRange};

/// Why entries cannot be read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// The disk failed.
    Disk(DiskError),
    /// A segment is not what was written.
    Corrupt {
        /// Its name.
        file: String,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// No segment has this entry: it has been pruned.
    Gone(u64),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Disk(error) => error.fmt(f),
            ReadError::Corrupt { file, detail } => write!(f, "segment {file}: {detail}"),
            ReadError::Gone(index) => write!(f, "no segment has entry {index}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<DiskError> for ReadError {
    fn from(error: DiskError) -> ReadError {
        ReadError::Disk(error)
    }
}

/// Places that are remembered: one for each follower that is served at the same time.
const PLACES: usize = 8;

/// Looks at the directory before giving up: the writer may rename a file between a look and an open.
const LOOKS: usize = 5;

/// Data that is only checked is read in pieces of this size.
const PIECE: usize = 64 << 10;

/// Reads entries of one data directory. See the [module documentation](self).
#[derive(Debug)]
pub struct LogReader<D: Disk> {
    disk: D,
    term: u64,
    places: VecDeque<Place<D::File>>,
}

/// A batch in a segment.
#[derive(Debug)]
struct Place<F> {
    file: F,
    name: String,
    /// Where the batch begins.
    offset: u64,
    /// Index of its first entry.
    index: u64,
}

/// The headers of a batch.
struct Head {
    entries: Vec<EntryHeader>,
    data_checksum: u32,
    data_offset: u64,
    end: u64,
}

impl<D: Disk> LogReader<D> {
    /// A reader of the log on this disk.
    pub fn new(disk: D) -> LogReader<D> {
        LogReader {
            disk,
            term: 0,
            places: VecDeque::new(),
        }
    }

    /// Reads these entries. They must have been durable before; as much memory is used as they take.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(&mut self, range: LogRange) -> Result<Vec<LogEntry>, ReadError> {
        if self.term != range.term {
            // The log may have been cut back and written anew between two leaderships.
            self.places.clear();
            self.term = range.term;
        }
        let known = self.places.iter().position(|at| at.index == range.first);
        let mut place = known.and_then(|at| self.places.remove(at));
        let mut entries = Vec::new();
        let mut next = range.first;
        let mut looked_for = None;
        while next <= range.last {
            let mut at = match place.take() {
                Some(at) => at,
                None if looked_for == Some(next) => return Err(ReadError::Gone(next)),
                None => {
                    looked_for = Some(next);
                    self.find(next)?
                }
            };
            // At the end of a segment the log goes on in another.
            let Some(head) = self.head(&at)? else {
                continue;
            };
            let end = at.index + head.entries.len() as u64;
            if end > next {
                self.take(&at, &head, next..=range.last, &mut entries)?;
                next = end.min(range.last + 1);
            }
            if end <= next {
                at.offset = head.end;
                at.index = end;
            }
            place = Some(at);
        }
        if let Some(at) = place {
            self.places.push_front(at);
            self.places.truncate(PLACES);
        }
        Ok(entries)
    }

    /// The segment that has this entry, from its first batch on.
    fn find(&self, index: u64) -> Result<Place<D::File>, ReadError> {
        for _ in 0..LOOKS {
            let survey = Survey::of(&self.disk.list()?);
            let holds = |s: &&Segment| s.first <= index && index <= s.last;
            let place = match survey.closed.iter().find(holds) {
                Some(segment) => self.open(&segment.file_name(), segment.first),
                None => self.find_open(&survey),
            };
            match place {
                Err(ReadError::Disk(error)) if error.is_not_found() => {}
                Ok(None) => {}
                Ok(Some(place)) if place.index > index => return Err(ReadError::Gone(index)),
                Ok(Some(place)) => return Ok(place),
                Err(error) => return Err(error),
            }
        }
        Err(ReadError::Gone(index))
    }

    /// The segment that is being written to, if there is one: all before it are closed, and those
    /// after it are empty.
    fn find_open(&self, survey: &Survey) -> Result<Option<Place<D::File>>, ReadError> {
        let closed = survey.closed.last().map(|segment| segment.last);
        let before = closed.or(survey.snapshots.last().map(|snapshot| snapshot.index));
        let first = before.unwrap_or(0) + 1;
        for counter in &survey.open {
            let place = self.open(&format::open_segment_name(*counter), first)?;
            if place.is_some() {
                return Ok(place);
            }
        }
        Ok(None)
    }

    /// `None` if nothing was written to it yet.
    fn open(&self, name: &str, index: u64) -> Result<Option<Place<D::File>>, ReadError> {
        let file = self.disk.open(name)?;
        let mut word = [0; SEGMENT_HEAD.len()];
        self.disk.read_at(&file, 0, &mut word)?;
        match word {
            SEGMENT_HEAD => Ok(Some(Place {
                file,
                name: name.to_owned(),
                offset: format::SEGMENT_HEADER_SIZE,
                index,
            })),
            word if word == [0; SEGMENT_HEAD.len()] => Ok(None),
            _ => Err(corrupt(name, "its format is another")),
        }
    }

    /// The headers of the batch at a place; `None` if the segment ends there.
    fn head(&self, at: &Place<D::File>) -> Result<Option<Head>, ReadError> {
        const FIXED: usize = format::BATCH_HEADER_SIZE as usize;
        const CHECKSUMS: usize = 8;

        let size = self.disk.size(&at.file)?;
        let mut fixed = [0; FIXED];
        let got = self.disk.read_at(&at.file, at.offset, &mut fixed)?;
        let [h0, h1, h2, h3, d0, d1, d2, d3, count @ ..] = fixed;
        let count = u64::from_le_bytes(count);
        if got < FIXED || count == 0 {
            return Ok(None);
        }
        let room = size.saturating_sub(at.offset + format::BATCH_HEADER_SIZE);
        let fits = |count: &usize| (*count * EntryHeader::SIZE) as u64 <= room;
        let count = usize::try_from(count).ok();
        let Some(count) = count
            .filter(|count| *count <= BATCH_ENTRIES_MAX)
            .filter(fits)
        else {
            return Err(corrupt(&at.name, "a batch has too many entries"));
        };
        let mut header = vec![0; FIXED - CHECKSUMS + count * EntryHeader::SIZE];
        let header_offset = at.offset + CHECKSUMS as u64;
        let got = self.disk.read_at(&at.file, header_offset, &mut header)?;
        let header_checksum = u32::from_le_bytes([h0, h1, h2, h3]);
        if got < header.len() || checksum(&header) != header_checksum {
            return Err(corrupt(&at.name, "a batch's header has another checksum"));
        }
        let entries = decode_batch_header(&mut Reader::new(&header), BATCH_ENTRIES_MAX)
            .map_err(|_| corrupt(&at.name, "a batch's header makes no sense"))?;
        let data_offset = header_offset + header.len() as u64;
        let data_size: u64 = entries.iter().map(|entry| u64::from(entry.size)).sum();
        if data_offset + data_size > size {
            return Err(corrupt(&at.name, "a batch is cut short"));
        }
        Ok(Some(Head {
            entries,
            data_checksum: u32::from_le_bytes([d0, d1, d2, d3]),
            data_offset,
            end: data_offset + data_size,
        }))
    }

    /// Checks the data of a batch, and takes the wanted entries of it.
    fn take(
        &self,
        at: &Place<D::File>,
        head: &Head,
        wanted: RangeInclusive<u64>,
        entries: &mut Vec<LogEntry>,
    ) -> Result<(), ReadError> {
        let before = entries.len();
        let mut sum = Checksum::new();
        let mut offset = head.data_offset;
        let mut piece = vec![0; PIECE];
        let mut read = |offset: u64, buffer: &mut [u8]| -> Result<(), ReadError> {
            let got = self.disk.read_at(&at.file, offset, buffer)?;
            if got < buffer.len() {
                return Err(corrupt(&at.name, "a batch is cut short"));
            }
            sum.update(buffer);
            Ok(())
        };
        for (header, index) in head.entries.iter().zip(at.index..) {
            let end = offset + u64::from(header.size);
            if wanted.contains(&index) {
                let mut payload = vec![0; header.size as usize];
                read(offset, &mut payload)?;
                entries.push(LogEntry {
                    index,
                    term: header.term,
                    kind: header.kind,
                    payload: Bytes::from(payload).into(),
                });
                offset = end;
            }
            while offset < end {
                let size = piece.len().min((end - offset) as usize);
                read(offset, &mut piece[..size])?;
                offset += size as u64;
            }
        }
        if sum.value() != head.data_checksum && !is_broken(Mutant::ReadBackUnchecked) {
            entries.truncate(before);
            return Err(corrupt(&at.name, "a batch's data have another checksum"));
        }
        Ok(())
    }
}

fn corrupt(file: &str, detail: &'static str) -> ReadError {
    ReadError::Corrupt {
        file: file.to_owned(),
        detail,
    }
}
