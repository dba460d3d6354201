//! Behind the valid batches of an open segment: what a torn write leaves, or damage?
//!
//! One batch at a time is in doubt, since the writer makes it durable before it writes the next one.
//! Its place was zeros before. So after a power cut each 512-byte sector of it holds zeros or what was
//! written, and a write that the end of the process cut short is its beginning and then zeros. What
//! cannot have come about like that has decayed, or was never written where it belongs:
//!
//! - a batch that cannot be read, and a valid one further on;
//! - a header that makes no sense, although each of its sectors was written;
//! - data with another checksum, although each of the batch's sectors was written.
//!
//! What remains is taken for torn: nothing tells a last batch of which a sector holds only zeros, as
//! pages often do, from one whose other sectors have decayed.
//!
//! Where the header is lost, so is the batch's size, and the next valid batch is looked for. A torn
//! write that has lost its header and holds the bytes of a valid batch in its pages, at a whole word, is
//! taken for damage therefore: a start that is refused is the lesser evil.

use std::ops::Range;

use dq_wire::disk::checksum::checksum;
use dq_wire::disk::segment::{BATCH_ENTRIES_MAX, Batches, SEGMENT_HEAD};
use dq_wire::entry::decode_batch_header;
use dq_wire::{DecodeError, EntryHeader, EntryKind, Reader};

use crate::log::format;
use crate::mutants::{Mutant, is_broken};

const SECTOR: usize = 512;
const WORD: usize = 8;
/// The two checksums of a batch.
const CHECKSUMS_SIZE: usize = 8;
/// Bytes of which checksums are computed at most in search of a batch: pages may be made to look like
/// the beginnings of many.
const SEARCH_BYTES_MAX: usize = 256 << 20;

/// Why what begins at `end`, behind the valid batches of `content`, is no torn write, as the end of a
/// sentence; `None` if it may be one. What is not zeros ends at `used`.
pub(crate) fn damage(content: &[u8], end: usize, used: usize) -> Option<&'static str> {
    const FOLLOWED: Option<&str> = Some(", and a valid one follows");
    const WRITTEN: Option<&str> = Some(" although all of it was written");

    if used <= end || is_broken(Mutant::DamageIsTorn) {
        return None;
    }
    let header = end..header_end(content, end)?;
    let Some(data_size) = valid_header(content, header.clone()) else {
        if batch_follows(content, end + WORD, used) {
            return FOLLOWED;
        }
        return WRITTEN.filter(|_| was_written(content, header, used));
    };
    let next = usize::try_from(header.end as u64 + data_size).ok()?;
    if next > content.len() {
        return None;
    }
    if matches!(Batches::at(content, next).next(), Some(Ok(_))) {
        return FOLLOWED;
    }
    WRITTEN.filter(|_| was_written(content, end..next, used))
}

/// Whether a segment's first word is missing although the sector that it stands in was written, or
/// something behind it. What is not zeros ends at `used`.
pub(crate) fn lacks_only_its_head(content: &[u8], used: usize) -> bool {
    if is_broken(Mutant::DamageIsTorn) {
        return false;
    }
    let head = SEGMENT_HEAD.len();
    let first_sector = &content[head.min(used)..SECTOR.min(used)];
    first_sector.iter().any(|byte| *byte != 0) || batch_follows(content, head, used)
}

/// Where the header that begins at `start` ends according to its count of entries, or its count, if
/// that cannot be true. `None` if the segment ends before.
fn header_end(content: &[u8], start: usize) -> Option<usize> {
    let fixed = start + format::BATCH_HEADER_SIZE as usize;
    let count = u64::from_le_bytes(*content.get(..fixed)?.last_chunk()?);
    let room = ((content.len() - fixed) / EntryHeader::SIZE).min(BATCH_ENTRIES_MAX);
    let count = usize::try_from(count).ok().filter(|count| *count <= room);
    Some(fixed + count.unwrap_or(0) * EntryHeader::SIZE)
}

/// The size of the data that a batch's header announces, if it is what was written.
fn valid_header(content: &[u8], header: Range<usize>) -> Option<u64> {
    let bytes = &content[header];
    let (sum, rest) = bytes.split_first_chunk()?;
    let summed = &rest[CHECKSUMS_SIZE - sum.len()..];
    let entries = decode_batch_header(&mut Reader::new(summed), BATCH_ENTRIES_MAX).ok()?;
    let is_whole = !entries.is_empty() && checksum(summed) == u32::from_le_bytes(*sum);
    is_whole.then(|| entries.iter().map(|entry| u64::from(entry.size)).sum())
}

/// Whether each sector of this range, which was zeros once, holds what was written to it: all of it, as
/// a write that was cut short would leave zeros from some word on.
fn was_written(content: &[u8], range: Range<usize>, used: usize) -> bool {
    let mut at = range.start;
    while at < range.end {
        let sector_end = ((at / SECTOR + 1) * SECTOR).min(range.end);
        if content[at..sector_end].iter().all(|byte| *byte == 0) {
            return false;
        }
        at = sector_end;
    }
    used + WORD > range.end
}

/// Whether there is a valid batch at any word from `start` on.
fn batch_follows(content: &[u8], start: usize, used: usize) -> bool {
    let mut left = SEARCH_BYTES_MAX;
    for at in (start..used).step_by(WORD) {
        if !may_be_batch(&content[at..]) {
            continue;
        }
        match Batches::at(content, at).next() {
            Some(Ok(_)) => return true,
            Some(Err(DecodeError::Malformed { field, .. })) => {
                let summed = match field {
                    "data checksum" => content.len() - at,
                    _ => header_end(content, at).map_or(0, |end| end - at),
                };
                left = left.saturating_sub(summed);
                if left == 0 {
                    return false;
                }
            }
            _ => {}
        }
    }
    false
}

/// Whether these bytes may be a batch, at a first look: its count, and its first entry.
fn may_be_batch(bytes: &[u8]) -> bool {
    const FIRST_KIND: usize = format::BATCH_HEADER_SIZE as usize + WORD;

    let Some((count, kind)) = bytes
        .get(CHECKSUMS_SIZE..)
        .and_then(|rest| rest.first_chunk())
        .zip(bytes.get(FIRST_KIND))
    else {
        return false;
    };
    let count = u64::from_le_bytes(*count);
    (1..=BATCH_ENTRIES_MAX as u64).contains(&count) && EntryKind::from_code(*kind).is_some()
}
