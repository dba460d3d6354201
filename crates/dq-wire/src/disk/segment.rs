//! Segments: the files that hold the log.
//!
//! ```text
//! u64 1 (format)
//! batch*    u32 checksum of the header   u32 checksum of the data
//!           header                       as in AppendEntries: crate::entry
//!           data                         of the entries, back to back
//! ```
//!
//! A closed segment is batches to its last byte. An open one is allocated ahead: behind its last
//! batch come zeros, or what a torn write left. No entry has its index with it: the first index is
//! in the name of a closed segment, and what an open one begins with follows from the files before
//! it. So it is for the caller to count.
//!
//! [`Batches`] reads either kind; the bytes are the caller's, and entries are ranges in them, so that
//! pages can be shared with the file's buffer instead of copied.

use std::ops::Range;

use crate::codec::{DecodeError, Reader, WORD, put_u32};
use crate::disk::checksum::{Checksum, checksum};
use crate::entry::{EntryHeader, batch_header_size, decode_batch_header, encode_batch_header};

/// The first word of a segment.
pub const SEGMENT_HEAD: [u8; WORD] = [1, 0, 0, 0, 0, 0, 0, 0];

/// The size that open segments are allocated with, in bytes. A batch that needs more gets a segment
/// of its own.
pub const SEGMENT_SIZE: usize = 8 << 20;

/// The most entries that a batch may have: readers refuse more.
pub const BATCH_ENTRIES_MAX: usize = 262_144;

/// Size of the two checksums.
const CHECKSUMS_SIZE: usize = 8;

/// Size in bytes of an encoded batch with its data.
pub fn batch_size(entries: &[EntryHeader]) -> u64 {
    let data: u64 = entries.iter().map(|entry| u64::from(entry.size)).sum();
    (CHECKSUMS_SIZE + batch_header_size(entries.len())) as u64 + data
}

/// Appends what goes in front of the data of a batch. The data are given in any number of pieces, to
/// be written behind it in the same order.
///
/// # Panics
/// If there are no entries, or more than [`BATCH_ENTRIES_MAX`]; if the size of one is not a multiple
/// of 8; or if the data have another size than the entries. Each would make a file that cannot be
/// read back.
pub fn encode_batch_head<'d>(
    out: &mut Vec<u8>,
    entries: &[EntryHeader],
    data: impl IntoIterator<Item = &'d [u8]>,
) {
    assert!(
        !entries.is_empty(),
        "a batch without entries reads as the end of the segment"
    );
    assert!(
        entries.len() <= BATCH_ENTRIES_MAX,
        "a batch has at most 262144 entries"
    );
    let mut size = 0u64;
    let mut data_checksum = Checksum::new();
    for piece in data {
        size += piece.len() as u64;
        data_checksum.update(piece);
    }
    let start = out.len();
    out.extend_from_slice(&[0; CHECKSUMS_SIZE]);
    encode_batch_header(out, entries);
    let header = start + CHECKSUMS_SIZE;
    assert_eq!(
        batch_size(entries),
        (out.len() - start) as u64 + size,
        "the data have the size that the entries say"
    );
    let mut checksums = Vec::with_capacity(CHECKSUMS_SIZE);
    put_u32(&mut checksums, checksum(&out[header..]));
    put_u32(&mut checksums, data_checksum.value());
    out[start..header].copy_from_slice(&checksums);
}

/// One entry of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentEntry {
    /// What the batch says of it.
    pub header: EntryHeader,
    /// Where its data are, in the bytes of the segment.
    pub data: Range<usize>,
}

/// One batch of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Where it is, in the bytes of the segment.
    pub range: Range<usize>,
    /// Its entries, at least one.
    pub entries: Vec<SegmentEntry>,
}

/// The batches of a segment, in order. Ends at the end of the bytes, or after the first error: what
/// follows a batch that cannot be read has no known place in the log.
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    segment: &'a [u8],
    /// The end of the last batch that was read.
    offset: usize,
    failed: bool,
}

impl<'a> Batches<'a> {
    /// Begins to read a segment.
    ///
    /// # Errors
    /// `Incomplete` if there is not even a first word, `Malformed` if it names another format.
    pub fn new(segment: &'a [u8]) -> Result<Batches<'a>, DecodeError> {
        let mut reader = Reader::new(segment);
        if reader.bytes(WORD)? != SEGMENT_HEAD {
            return Err(reader.malformed("segment format", WORD));
        }
        Ok(Batches {
            segment,
            offset: WORD,
            failed: false,
        })
    }

    /// Begins to read where a batch may begin, whatever stands before it.
    pub fn at(segment: &'a [u8], offset: usize) -> Batches<'a> {
        Batches {
            segment,
            offset: offset.min(segment.len()),
            failed: false,
        }
    }

    /// The end of the batches read so far; after an error, that of the valid part of the segment.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// True if nothing but zeros follows the batches read so far: the rest was never written.
    pub fn rest_is_zero(&self) -> bool {
        self.segment[self.offset..].iter().all(|&byte| byte == 0)
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<Batch, DecodeError>;

    /// The next batch.
    ///
    /// Fails with `Incomplete` if it is cut short, and with `Malformed` if it has no entries (as
    /// where nothing was written), too many, a wrong one, or a wrong checksum.
    fn next(&mut self) -> Option<Result<Batch, DecodeError>> {
        if self.failed || self.offset == self.segment.len() {
            return None;
        }
        let batch = decode_batch(self.segment, self.offset);
        match &batch {
            Ok(batch) => self.offset = batch.range.end,
            Err(_) => self.failed = true,
        }
        Some(batch)
    }
}

fn decode_batch(segment: &[u8], start: usize) -> Result<Batch, DecodeError> {
    let mut reader = Reader::at(segment, start);
    let header_checksum = reader.u32()?;
    let data_checksum = reader.u32()?;
    let header_start = reader.offset();
    let headers = decode_batch_header(&mut reader, BATCH_ENTRIES_MAX)?;
    if headers.is_empty() {
        return Err(DecodeError::Malformed {
            field: "entry count",
            offset: header_start,
        });
    }
    let data_start = reader.offset();
    if checksum(&segment[header_start..data_start]) != header_checksum {
        return Err(DecodeError::Malformed {
            field: "header checksum",
            offset: start,
        });
    }
    let mut entries = Vec::with_capacity(headers.len());
    for header in headers {
        let begin = reader.offset();
        reader.bytes(header.size as usize)?;
        entries.push(SegmentEntry {
            header,
            data: begin..reader.offset(),
        });
    }
    let end = reader.offset();
    if checksum(&segment[data_start..end]) != data_checksum {
        return Err(DecodeError::Malformed {
            field: "data checksum",
            offset: start + 4,
        });
    }
    Ok(Batch {
        range: start..end,
        entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryKind;
    use crate::entry::tests::any_entries;
    use proptest::prelude::*;

    /// Appends a batch whose data are made of the number of the entry, from `first` on.
    fn put_batch(out: &mut Vec<u8>, entries: &[EntryHeader], first: u8) {
        let data: Vec<Vec<u8>> = entries
            .iter()
            .zip(first..)
            .map(|(entry, number)| vec![number; entry.size as usize])
            .collect();
        encode_batch_head(out, entries, data.iter().map(Vec::as_slice));
        out.extend(data.concat());
    }

    fn entry(size: u32) -> EntryHeader {
        EntryHeader {
            term: 3,
            kind: EntryKind::Command,
            size,
        }
    }

    fn two_batches() -> Vec<u8> {
        let mut segment = SEGMENT_HEAD.to_vec();
        put_batch(&mut segment, &[entry(8), entry(16)], 1);
        put_batch(&mut segment, &[entry(24)], 3);
        segment
    }

    #[test]
    fn a_closed_segment_ends_with_its_last_batch() {
        let segment = two_batches();
        let mut batches = Batches::new(&segment).unwrap();
        let first = batches.next().unwrap().unwrap();
        assert_eq!(first.range, 8..8 + 8 + 40 + 24);
        assert_eq!(segment[first.entries[1].data.clone()], [2; 16]);
        let second = batches.next().unwrap().unwrap();
        assert_eq!(segment[second.entries[0].data.clone()], [3; 24]);
        assert_eq!(batches.next(), None);
        assert_eq!(batches.offset(), segment.len());
        assert!(batches.rest_is_zero());
    }

    #[test]
    fn zeros_after_the_last_batch_end_an_open_segment() {
        let mut segment = two_batches();
        let used = segment.len();
        segment.resize(used + 4096, 0);
        let mut batches = Batches::new(&segment).unwrap();
        assert_eq!(batches.by_ref().take(2).filter(Result::is_ok).count(), 2);
        let error = DecodeError::Malformed {
            field: "entry count",
            offset: used + 8,
        };
        assert_eq!(batches.next(), Some(Err(error)));
        assert_eq!(batches.next(), None, "nothing can follow an error");
        assert_eq!(batches.offset(), used);
        assert!(batches.rest_is_zero());
    }

    #[test]
    fn garbage_after_the_last_batch_is_not_zero() {
        let mut segment = two_batches();
        let used = segment.len();
        segment.extend_from_slice(&[0x55; 64]);
        let mut batches = Batches::new(&segment).unwrap();
        assert_eq!(batches.by_ref().filter(Result::is_ok).count(), 2);
        assert_eq!(batches.offset(), used);
        assert!(!batches.rest_is_zero());
    }

    #[test]
    fn every_flipped_bit_costs_its_batch_and_those_after_it_but_no_other() {
        let good = two_batches();
        let whole: Vec<Batch> = Batches::new(&good).unwrap().map(Result::unwrap).collect();
        for at in WORD..good.len() {
            for bit in 0..8 {
                let mut segment = good.clone();
                segment[at] ^= 1 << bit;
                let read: Vec<Batch> = Batches::new(&segment)
                    .unwrap()
                    .map_while(Result::ok)
                    .collect();
                let kept = usize::from(at >= whole[0].range.end);
                assert_eq!(read, whole[..kept], "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_segment_without_its_first_word_is_incomplete_and_other_formats_malformed() {
        assert!(matches!(
            Batches::new(&[1, 0]),
            Err(DecodeError::Incomplete { more: 6 })
        ));
        for format in [0, 2] {
            let mut segment = two_batches();
            segment[0] = format;
            let error = DecodeError::Malformed {
                field: "segment format",
                offset: 0,
            };
            assert_eq!(Batches::new(&segment).err(), Some(error));
        }
    }

    #[test]
    #[should_panic(expected = "the data have the size that the entries say")]
    fn a_batch_with_other_data_than_announced_is_not_written() {
        encode_batch_head(&mut Vec::new(), &[entry(8)], [&[0u8; 16][..]]);
    }

    proptest! {
        #[test]
        fn a_segment_decodes_to_what_was_encoded_and_truncations_to_whole_batches(
            batches in proptest::collection::vec(any_entries(), 0..4),
        ) {
            let mut segment = SEGMENT_HEAD.to_vec();
            let mut ends = vec![segment.len()];
            let batches: Vec<_> = batches.into_iter().filter(|b| !b.is_empty()).collect();
            for batch in &batches {
                put_batch(&mut segment, batch, 1);
                ends.push(segment.len());
                let size = (ends[ends.len() - 1] - ends[ends.len() - 2]) as u64;
                prop_assert_eq!(size, batch_size(batch));
            }
            let read: Vec<Vec<EntryHeader>> = Batches::new(&segment)
                .unwrap()
                .map(|batch| batch.unwrap().entries.iter().map(|e| e.header).collect())
                .collect();
            prop_assert_eq!(&read, &batches);
            for len in WORD..segment.len() {
                let mut cut = Batches::new(&segment[..len]).unwrap();
                let whole = cut.by_ref().map_while(Result::ok).count();
                prop_assert_eq!(whole, ends.iter().filter(|&&end| end <= len).count() - 1);
                prop_assert_eq!(cut.offset(), ends[whole]);
            }
        }
    }
}
