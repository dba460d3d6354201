//! Reads the segments of a data directory: which of them make up the log, and which entries those
//! hold. The decisions are described in [`recover`](crate::log::recover).

use bytes::Bytes;
use dq_wire::disk::names::FileName;

use crate::disk::Disk;
use crate::log::format;
use crate::log::plan::{self, FileOp, Segment};
use crate::log::recover::{Analysis, RecoverError, RecoverOptions, Suspect, corrupt, set_aside};
use crate::log::survey::Survey;
use crate::log::torn;
use crate::mutants::{Mutant, is_broken};
use crate::types::LogEntry;

/// The log as its segments have it.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Closed ones, once the repairs are done.
    pub(crate) segments: Vec<Segment>,
    pub(crate) entries: Vec<LogEntry>,
    pub(crate) repairs: Vec<FileOp>,
    pub(crate) notes: Vec<String>,
    pub(crate) read: Vec<String>,
}

impl Log {
    pub(crate) fn read<D: Disk>(
        disk: &D,
        survey: &Survey,
        analysis: &Analysis,
        options: &RecoverOptions,
    ) -> Result<Log, RecoverError> {
        let snapshot_index = analysis.recovered.snapshot.as_ref().map_or(0, |s| s.index);
        let mut log = Log::default();
        let open = OpenSegments::read(disk, &survey.open)?;
        let closed = log.settle_pairs(disk, &survey.closed, &open)?;
        log.keep_run(&closed, snapshot_index, &open, survey)?;
        log.read_closed(disk, snapshot_index, options.trailing_bytes_max)?;
        log.take_open(open, snapshot_index, options.now_nanos);
        Ok(log)
    }

    /// Two segments with the same first index: the shorter one stays, all after it go.
    fn settle_pairs<D: Disk>(
        &mut self,
        disk: &D,
        closed: &[Segment],
        open: &OpenSegments,
    ) -> Result<Vec<Segment>, RecoverError> {
        let pair = closed
            .windows(2)
            .position(|pair| pair[0].first == pair[1].first);
        let Some(pair) = pair else {
            return Ok(closed.to_vec());
        };
        let (short, long) = (closed[pair], closed[pair + 1]);
        if let Some(file) = open.first_with_entries() {
            let detail = format!(
                "segments {} and {} both exist, and {file} has entries",
                short.file_name(),
                long.file_name()
            );
            return Err(corrupt(&long.file_name(), detail));
        }
        let kept = read_closed_segment(disk, short, Suspect::None)?;
        let all = read_closed_segment(disk, long, Suspect::None)?;
        if !all.starts_with(&kept) {
            let detail = format!(
                "segments {} and {} have different entries",
                short.file_name(),
                long.file_name()
            );
            return Err(corrupt(&long.file_name(), detail));
        }
        self.notes.push(format!(
            "a truncation after entry {} was cut short: finished",
            short.last
        ));
        self.repairs
            .extend(plan::remove_from_the_end(&closed[pair + 1..]));
        Ok(closed[..=pair].to_vec())
    }

    /// Keeps the longest contiguous run that ends with the newest segment.
    fn keep_run(
        &mut self,
        closed: &[Segment],
        snapshot_index: u64,
        open: &OpenSegments,
        survey: &Survey,
    ) -> Result<(), RecoverError> {
        let Some(newest) = closed.last() else {
            return Ok(());
        };
        let mut begin = closed.len() - 1;
        while begin > 0 && closed[begin - 1].last + 1 == closed[begin].first {
            begin -= 1;
        }
        let first = closed[begin].first;
        let begins_right = match snapshot_index {
            0 => begin == 0 && first == 1,
            snapshot => first <= snapshot + 1,
        };
        if !begins_right || begin > 0 && closed[begin - 1].last >= first {
            let (expected, missing) = match begin {
                0 => (snapshot_index + 1, survey.what_is_missing()),
                _ => (closed[begin - 1].last + 1, String::new()),
            };
            let name = closed[begin].file_name();
            let detail = format!(
                "unexpected closed segment {name}: first index should have been \
                 {expected}{missing}"
            );
            return Err(corrupt(&name, detail));
        }
        if newest.last < snapshot_index {
            if let Some(file) = open.first_with_entries() {
                let detail = format!(
                    "{file} has entries of unknown index: closed segments end at {}, before the \
                     snapshot at {snapshot_index}",
                    newest.last
                );
                return Err(corrupt(&file, detail));
            }
            begin = closed.len();
        }
        if begin > 0 {
            self.notes.push(format!(
                "{begin} closed segments from before the snapshot are left over: removed"
            ));
        }
        if !is_broken(Mutant::KeepForgottenSegments) {
            self.repairs
                .extend(plan::remove_from_the_end(&closed[..begin]));
        }
        self.segments = closed[begin..].to_vec();
        Ok(())
    }

    /// Reads the run from its end, and stops where only more than enough old entries would follow.
    fn read_closed<D: Disk>(
        &mut self,
        disk: &D,
        snapshot_index: u64,
        trailing_bytes_max: u64,
    ) -> Result<(), RecoverError> {
        let mut parts = Vec::new();
        let mut trailing_bytes = 0;
        for (position, segment) in self.segments.iter().enumerate().rev() {
            self.read.push(segment.file_name());
            if segment.last < snapshot_index && trailing_bytes >= trailing_bytes_max {
                continue;
            }
            let suspect = match position + 1 == self.segments.len() {
                true => Suspect::LastClosed(*segment),
                false => Suspect::None,
            };
            let entries = read_closed_segment(disk, *segment, suspect)?;
            if segment.last < snapshot_index {
                trailing_bytes += entries.iter().map(|e| e.payload.len() as u64).sum::<u64>();
            }
            parts.push(entries);
        }
        self.entries = parts.into_iter().rev().flatten().collect();
        Ok(())
    }

    /// Numbers the entries of open segments and makes those closed ones.
    fn take_open(&mut self, open: OpenSegments, snapshot_index: u64, now_nanos: u64) {
        for (counter, content) in open.segments {
            let name = format::open_segment_name(counter);
            match content {
                OpenContent::Nothing => self.repairs.push(FileOp::Remove { file: name }),
                OpenContent::Torn => {
                    self.notes
                        .push(format!("the first write to {name} was torn: set aside"));
                    let file = FileName::OpenSegment { counter };
                    self.repairs.push(set_aside(&file, now_nanos));
                }
                OpenContent::Entries {
                    mut entries,
                    end,
                    discarded,
                } => {
                    let last = self.segments.last();
                    let first = last.map_or(snapshot_index + 1, |segment| segment.last + 1);
                    format::number(&mut entries, first);
                    let segment = Segment {
                        first,
                        last: first + entries.len() as u64 - 1,
                    };
                    if discarded > 0 {
                        self.notes.push(format!(
                            "{name}: {discarded} bytes after entry {} are no whole batch: cut off",
                            segment.last
                        ));
                    }
                    self.repairs.extend(plan::close(&name, end, segment));
                    self.segments.push(segment);
                    self.entries.append(&mut entries);
                }
            }
        }
    }
}

/// The open segments' content, in the order of their counters.
#[derive(Debug)]
struct OpenSegments {
    segments: Vec<(u64, OpenContent)>,
}

#[derive(Debug)]
enum OpenContent {
    /// Zeros, or not even those.
    Nothing,
    /// Other bytes, but no valid batch.
    Torn,
    /// Valid batches up to `end`; their indexes are not known yet.
    Entries {
        entries: Vec<LogEntry>,
        end: u64,
        /// Bytes after `end` up to the last one that is not zero.
        discarded: u64,
    },
}

impl OpenSegments {
    fn read<D: Disk>(disk: &D, counters: &[u64]) -> Result<OpenSegments, RecoverError> {
        let mut segments: Vec<(u64, OpenContent)> = Vec::new();
        for counter in counters {
            let content = read_open_segment(disk, *counter)?;
            if let OpenContent::Entries { .. } = content {
                // A segment is durable before the next one gets data, so earlier ones are whole.
                let damaged = segments.iter().find(|(_, earlier)| match earlier {
                    OpenContent::Nothing => false,
                    OpenContent::Torn => true,
                    OpenContent::Entries { discarded, .. } => *discarded > 0,
                });
                if let Some((damaged, _)) = damaged {
                    let name = format::open_segment_name(*damaged);
                    let detail = format!(
                        "{name} is damaged: {} after it has valid entries",
                        format::open_segment_name(*counter)
                    );
                    return Err(RecoverError::Corrupt {
                        file: name,
                        detail,
                        suspect: Suspect::OpenFrom(*damaged),
                    });
                }
            }
            segments.push((*counter, content));
        }
        Ok(OpenSegments { segments })
    }

    fn first_with_entries(&self) -> Option<String> {
        self.segments
            .iter()
            .find(|(_, content)| matches!(content, OpenContent::Entries { .. }))
            .map(|(counter, _)| format::open_segment_name(*counter))
    }
}

fn read_open_segment<D: Disk>(disk: &D, counter: u64) -> Result<OpenContent, RecoverError> {
    let name = format::open_segment_name(counter);
    let damaged = |detail: String| RecoverError::Corrupt {
        file: name.clone(),
        detail,
        suspect: Suspect::OpenFrom(counter),
    };
    let mut content = read_segment_file(disk, &name)?;
    let Some(last_byte) = last_nonzero(&content) else {
        return Ok(OpenContent::Nothing);
    };
    let Ok(end) = format::valid_size(&content) else {
        return match content.first_chunk().map(|word| u64::from_le_bytes(*word)) {
            // A torn first write can lack its first sector, and the first batch's header with it.
            Some(0) if torn::lacks_only_its_head(&content, last_byte + 1) => {
                Err(damaged(format!("{name}: the format version is missing")))
            }
            Some(0) | None => Ok(OpenContent::Torn),
            Some(other) => Err(damaged(format!(
                "{name}: unexpected format version {other}"
            ))),
        };
    };
    if let Some(why) = torn::damage(&content, end, last_byte + 1) {
        return Err(damaged(format!(
            "{name}: the batch at byte {end} is damaged{why}"
        )));
    }
    // Entries are parts of the buffer: they must not hold on to megabytes of zeros.
    content.truncate(end);
    content.shrink_to_fit();
    match format::decode_segment(&Bytes::from(content), 0) {
        Ok(decoded) if !decoded.entries.is_empty() => Ok(OpenContent::Entries {
            entries: decoded.entries,
            end: end as u64,
            discarded: (last_byte + 1).saturating_sub(end) as u64,
        }),
        _ => Ok(OpenContent::Torn),
    }
}

/// Position of the last byte that is not zero; fast, since most of an open segment is.
pub(crate) fn last_nonzero(content: &[u8]) -> Option<usize> {
    const ZEROS: [u8; 4096] = [0; 4096];

    let mut end = content.len();
    for chunk in content.rchunks(ZEROS.len()) {
        if chunk != &ZEROS[..chunk.len()] {
            let begin = end - chunk.len();
            return chunk
                .iter()
                .rposition(|byte| *byte != 0)
                .map(|at| begin + at);
        }
        end -= chunk.len();
    }
    None
}

/// Reads a closed segment, which must be whole.
pub(crate) fn read_closed_segment<D: Disk>(
    disk: &D,
    segment: Segment,
    suspect: Suspect,
) -> Result<Vec<LogEntry>, RecoverError> {
    let name = segment.file_name();
    let content = Bytes::from(read_segment_file(disk, &name)?);
    format::decode_closed_segment(&content, segment).map_err(|e| RecoverError::Corrupt {
        detail: format!("closed segment {name}: {e}"),
        file: name,
        suspect,
    })
}

fn read_segment_file<D: Disk>(disk: &D, name: &str) -> Result<Vec<u8>, RecoverError> {
    match disk.read(name, format::SEGMENT_SIZE_MAX) {
        Err(e) if matches!(e.cause, crate::disk::Cause::TooLarge { .. }) => {
            Err(corrupt(name, format!("segment {name}: {}", e.cause)))
        }
        content => Ok(content?),
    }
}
