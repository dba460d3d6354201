//! Between the log's words and the bytes of its files, which [`dq_wire::disk`] knows.

use bytes::Bytes;
use dq_wire::DecodeError;
use dq_wire::EntryHeader;
use dq_wire::disk::metadata::Metadata;
use dq_wire::disk::names::{FileName, SnapshotName};
use dq_wire::disk::segment::{self, Batches};
use dq_wire::disk::snapshot_meta::{CONFIGURATION_SIZE_MAX, SnapshotMetaFile};

use crate::log::plan::Segment;
use crate::types::{LogEntry, SnapshotMeta};

/// The word in front of a segment's batches, in bytes.
pub(crate) const SEGMENT_HEADER_SIZE: u64 = segment::SEGMENT_HEAD.len() as u64;
/// What a batch has in front of its entries: two checksums and a count.
pub(crate) const BATCH_HEADER_SIZE: u64 = 16;
/// What a batch has for each entry besides its payload.
pub(crate) const ENTRY_HEADER_SIZE: u64 = EntryHeader::SIZE as u64;
/// Largest segment to read. A segment is larger than 8 MiB only if one entry is, and those cannot
/// be larger than this.
pub(crate) const SEGMENT_SIZE_MAX: u64 = 5 << 30;
/// Largest `.meta` file to read: four words and a configuration.
pub(crate) const SNAPSHOT_META_SIZE_MAX: u64 = 32 + CONFIGURATION_SIZE_MAX as u64;
/// Indexes, terms and versions from here on cannot be true, and would leave no room to count on. What
/// peers may say ends well before ([`NUMBER_MAX`](crate::message::NUMBER_MAX)), so that nobody can bring
/// a node to write what it does not read.
pub(crate) const COUNTED_END: u64 = 1 << 63;
/// The files of term and vote, by the version's parity: odd ones first.
pub(crate) const METADATA_NAMES: [&str; 2] = ["metadata1", "metadata2"];

/// Which of [`METADATA_NAMES`] this version goes to.
pub(crate) fn metadata_slot(metadata: &Metadata) -> usize {
    match metadata.file_name() {
        FileName::Metadata1 => 0,
        _ => 1,
    }
}

pub(crate) fn closed_segment(segment: Segment) -> FileName {
    FileName::ClosedSegment {
        first: segment.first,
        last: segment.last,
    }
}

pub(crate) fn open_segment_name(counter: u64) -> String {
    FileName::OpenSegment { counter }.to_string()
}

pub(crate) fn snapshot_files(snapshot: SnapshotName) -> SnapshotFiles {
    SnapshotFiles {
        meta: FileName::SnapshotMeta(snapshot),
        data: FileName::Snapshot(snapshot),
    }
}

/// The two files of a snapshot.
pub(crate) struct SnapshotFiles {
    pub(crate) meta: FileName,
    pub(crate) data: FileName,
}

pub(crate) fn snapshot_name(meta: &SnapshotMeta) -> SnapshotName {
    SnapshotName {
        term: meta.term,
        index: meta.index,
        timestamp: meta.timestamp,
    }
}

/// What goes in front of the payloads of a batch.
pub(crate) fn encode_batch_head(entries: &[&LogEntry]) -> Vec<u8> {
    let headers: Vec<EntryHeader> = entries
        .iter()
        .map(|entry| EntryHeader {
            term: entry.term,
            kind: entry.kind,
            size: u32::try_from(entry.payload.len()).expect("payloads are below 4 GiB"),
        })
        .collect();
    let chunks = entries.iter().flat_map(|entry| entry.payload.chunks());
    let mut head = Vec::with_capacity(16 + headers.len() * EntryHeader::SIZE);
    segment::encode_batch_head(&mut head, &headers, chunks.map(|chunk| &chunk[..]));
    head
}

/// The valid batches at the beginning of a segment, as entries numbered from `first_index`; their
/// payloads are parts of `content`.
pub(crate) struct Decoded {
    pub(crate) entries: Vec<LogEntry>,
    /// Where they end, in bytes.
    pub(crate) end: usize,
    /// Why they do not go on, unless the bytes end there.
    pub(crate) stopped_by: Option<DecodeError>,
}

/// Decodes as much of a segment as is valid.
///
/// # Errors
/// Its first word is missing or another format's.
pub(crate) fn decode_segment(content: &Bytes, first_index: u64) -> Result<Decoded, DecodeError> {
    let mut batches = Batches::new(content)?;
    let mut entries = Vec::new();
    let mut stopped_by = None;
    for batch in batches.by_ref() {
        match batch {
            Ok(batch) => entries.extend(batch.entries.into_iter().map(|entry| LogEntry {
                index: 0,
                term: entry.header.term,
                kind: entry.header.kind,
                payload: content.slice(entry.data).into(),
            })),
            Err(error) => stopped_by = Some(error),
        }
    }
    number(&mut entries, first_index);
    Ok(Decoded {
        entries,
        end: batches.offset(),
        stopped_by,
    })
}

/// Where the valid batches at the beginning of a segment end, in bytes.
///
/// # Errors
/// Its first word is missing or another format's.
pub(crate) fn valid_size(content: &[u8]) -> Result<usize, DecodeError> {
    let mut batches = Batches::new(content)?;
    while let Some(Ok(_)) = batches.next() {}
    Ok(batches.offset())
}

/// Gives the entries consecutive indexes.
pub(crate) fn number(entries: &mut [LogEntry], first_index: u64) {
    for (entry, index) in entries.iter_mut().zip(first_index..) {
        entry.index = index;
    }
}

/// Decodes a closed segment: batches to its last byte, with as many entries as its name says.
///
/// # Errors
/// What is wrong with it, as the end of a sentence.
pub(crate) fn decode_closed_segment(
    content: &Bytes,
    segment: Segment,
) -> Result<Vec<LogEntry>, String> {
    let decoded = decode_segment(content, segment.first).map_err(|e| e.to_string())?;
    if let Some(error) = decoded.stopped_by {
        return Err(error.to_string());
    }
    let wanted = segment.last - segment.first + 1;
    if decoded.entries.len() as u64 != wanted {
        return Err(format!(
            "{} entries instead of {wanted}",
            decoded.entries.len()
        ));
    }
    Ok(decoded.entries)
}

/// The content of a snapshot's `.meta` file.
pub(crate) fn encode_snapshot_meta(meta: &SnapshotMeta) -> Vec<u8> {
    let file = SnapshotMetaFile {
        configuration_index: meta.configuration_index,
        configuration: meta.configuration.clone(),
    };
    file.encode()
}

/// Reads a snapshot's `.meta` file.
pub(crate) fn decode_snapshot_meta(
    name: SnapshotName,
    content: &[u8],
) -> Result<SnapshotMeta, DecodeError> {
    let file = SnapshotMetaFile::decode(content)?;
    Ok(SnapshotMeta {
        index: name.index,
        term: name.term,
        timestamp: name.timestamp,
        configuration: file.configuration,
        configuration_index: file.configuration_index,
    })
}
