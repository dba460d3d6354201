//! The decoders of `dq-wire`, a check for each: whatever bytes come in there is no panic, and what decodes
//! is encoded to the same.
//!
//! Where a checksum stands in the way it is made right, since no fuzzer finds one by itself.

use std::collections::BTreeSet;
use std::io::Write;

use dq_raft::sim_disk::SimDisk;
use dq_raft::{SnapshotMeta, SnapshotReader};
use dq_server::fsm;
use dq_wire::disk::checksum::checksum;
use dq_wire::disk::fsm_snapshot::{
    DatabaseHead, WalFrames, decode_snapshot, encode_database_head, encode_snapshot_head,
};
use dq_wire::disk::metadata::Metadata;
use dq_wire::disk::names::FileName;
use dq_wire::disk::segment::{Batches, SEGMENT_HEAD, encode_batch_head};
use dq_wire::disk::snapshot_meta::SnapshotMetaFile;
use dq_wire::entry::batch_header_size;
use dq_wire::raft_rpc::{Message, Preamble};
use dq_wire::response::Dialect;
use dq_wire::{
    Command, Configuration, DecodeError, EntryHeader, Header, PAGE_SIZE, Params, ParamsBuf,
    Request, Response, Rows, RowsEncoder, ValueType, encode_frames_header,
};
use lz4_flex::frame::FrameEncoder;
use xxhash_rust::xxh32::xxh32;

/// A check of any bytes.
pub type Check = fn(&[u8]);

/// All of them, by the names of their targets.
pub const ALL: &[(&str, Check)] = &[
    ("request", request),
    ("response", response),
    ("params", params),
    ("rows", rows),
    ("command", command),
    ("raft_rpc", raft_rpc),
    ("segment", segment),
    ("metadata", metadata),
    ("snapshot_meta", snapshot_meta),
    ("configuration", configuration),
    ("fsm_snapshot", fsm_snapshot),
    ("snapshot_file", snapshot_file),
];

/// A request that decodes is encoded to something that decodes to the same.
pub fn request(input: &[u8]) {
    let Ok(header) = Header::decode(input) else {
        return;
    };
    // Servers read bodies of whole words only.
    let body = &input[Header::SIZE..];
    let body = &body[..body.len() / 8 * 8];
    if let Ok(request) = Request::decode(&header, body) {
        let mut out = Vec::new();
        request.encode(&mut out);
        let header = Header::decode(&out).expect("an encoded header");
        let back = Request::decode(&header, &out[Header::SIZE..]);
        assert_eq!(back, Ok(request));
    }
}

/// A response that decodes is encoded to something that decodes to the same.
pub fn response(input: &[u8]) {
    let Ok(header) = Header::decode(input) else {
        return;
    };
    let body = &input[Header::SIZE..];
    let body = &body[..body.len() / 8 * 8];
    // The field that nobody looks at chooses what the client asked for.
    let dialect = Dialect {
        legacy: header.extra & 1 != 0,
        cluster_format: u64::from(header.extra >> 1 & 1),
    };
    let Ok(response) = Response::decode_dialect(&header, body, dialect) else {
        return;
    };
    // A file whose size is not a multiple of 8 can be received, but not sent.
    if let Response::Files { list } = &response
        && list.iter().any(|file| file.data.len() % 8 != 0)
    {
        return;
    }
    let mut out = Vec::new();
    response.encode(&mut out);
    let header = Header::decode(&out).expect("an encoded header");
    let back = Response::decode_dialect(&header, &out[Header::SIZE..], dialect);
    assert_eq!(back, Ok(response));
}

/// Parameters are taken to the end or to the first error, borrowed and owned alike.
pub fn params(input: &[u8]) {
    let Some((schema, tuple)) = input.split_first() else {
        return;
    };
    let Ok(mut params) = Params::decode(tuple, *schema) else {
        return;
    };
    assert!(params.count() <= tuple.len());
    let mut kept = ParamsBuf::from(params.clone());
    let mut taken = 0;
    while let Some(value) = params.next_value() {
        let same = kept.next_value().expect("as many values in the copy");
        // By text, since NaN is not equal to itself.
        assert_eq!(format!("{value:?}"), format!("{same:?}"));
        let Ok(value) = value else {
            return;
        };
        assert_ne!(value.value_type(), ValueType::UnixTime);
        taken += 1;
    }
    assert_eq!(taken, params.count());
}

/// The batch as it would be sent, if it can be read to its end.
fn encode_rows_again(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut rows = Rows::decode(body)?;
    let mut encoder = RowsEncoder::begin(Vec::new(), rows.columns().iter().copied());
    let mut row = Vec::new();
    while rows.next_row(&mut row)? {
        encoder.push_row(&row);
    }
    Ok(encoder.finish(rows.end().expect("rows that are over have an end")))
}

/// Rows that decode to their end are encoded to rows that decode to the same.
pub fn rows(body: &[u8]) {
    if let Ok(once) = encode_rows_again(body) {
        let twice = encode_rows_again(&once[Header::SIZE..]).expect("encoded rows");
        assert_eq!(once, twice);
    }
}

/// A command that decodes has its pages inside the entry, and FRAMES are encoded to the same.
pub fn command(entry: &[u8]) {
    let Ok(Command::Frames(frames)) = Command::decode(entry) else {
        return;
    };
    assert_eq!(frames.pages().len(), frames.len());
    let numbers: Vec<u32> = frames.pages().map(|(number, _)| number).collect();
    let mut out = encode_frames_header(frames.name, frames.tx_id, numbers.iter().copied());
    for (number, page) in frames.pages() {
        assert!((1..1 << 31).contains(&number));
        assert_eq!(page.len(), PAGE_SIZE);
        out.extend_from_slice(page);
    }
    let Ok(Command::Frames(back)) = Command::decode(&out) else {
        panic!("encoded frames");
    };
    assert_eq!((back.name, back.tx_id), (frames.name, frames.tx_id));
    assert!(back.pages().eq(frames.pages()));
}

/// A message that decodes is encoded to something that decodes to the same.
pub fn raft_rpc(input: &[u8]) {
    let Ok(preamble) = Preamble::decode(input) else {
        return;
    };
    // The size that it says matters only to whoever reads from a socket.
    let header = &input[Preamble::SIZE..];
    if let Ok(message) = Message::decode(preamble.kind, header) {
        let mut out = Vec::new();
        // Padding may make it longer than what was received, and so too large.
        if message.encode(preamble.seq, &mut out).is_err() {
            return;
        }
        let again = Preamble::decode(&out).expect("an encoded preamble");
        assert_eq!((again.kind, again.seq), (preamble.kind, preamble.seq));
        assert_eq!(
            Message::decode(again.kind, &out[Preamble::SIZE..]),
            Ok(message)
        );
    }
}

/// Makes the checksums of the first batch right.
fn repair_segment(segment: &mut [u8]) -> Option<()> {
    segment.get_mut(..8)?.copy_from_slice(&SEGMENT_HEAD);
    let count = u64::from_le_bytes(segment.get(16..24)?.try_into().ok()?);
    let count = usize::try_from(count).ok().filter(|&n| n <= 1024)?;
    let data = 16 + batch_header_size(count);
    let mut size = 0;
    for header in segment.get(24..data)?.chunks_exact(EntryHeader::SIZE) {
        size += u32::from_le_bytes(header[12..].try_into().ok()?) as usize;
    }
    let header_checksum = checksum(&segment[16..data]);
    let data_checksum = checksum(segment.get(data..data + size)?);
    segment[8..12].copy_from_slice(&header_checksum.to_le_bytes());
    segment[12..16].copy_from_slice(&data_checksum.to_le_bytes());
    Some(())
}

fn check_segment(segment: &[u8]) {
    let Ok(mut batches) = Batches::new(segment) else {
        return;
    };
    let mut end = SEGMENT_HEAD.len();
    while let Some(Ok(batch)) = batches.next() {
        assert_eq!(batch.range.start, end);
        end = batch.range.end;
        assert_eq!(batches.offset(), end);
        let headers: Vec<EntryHeader> = batch.entries.iter().map(|entry| entry.header).collect();
        let data: Vec<&[u8]> = batch
            .entries
            .iter()
            .map(|entry| &segment[entry.data.clone()])
            .collect();
        let mut out = Vec::new();
        encode_batch_head(&mut out, &headers, data.iter().copied());
        out.extend(data.concat());
        // The bytes that are not used may hold anything, so only the size can be compared.
        assert_eq!(out.len(), batch.range.len());
    }
    batches.rest_is_zero();
}

/// Batches lie one behind the other, their entries inside them, and are encoded to the same bytes.
pub fn segment(input: &[u8]) {
    check_segment(input);
    let mut segment = input.to_vec();
    if repair_segment(&mut segment).is_some() {
        check_segment(&segment);
    }
}

/// Metadata that decode are encoded to the same bytes; names to the same name.
pub fn metadata(input: &[u8]) {
    if let Ok(metadata) = Metadata::decode(input) {
        assert_eq!(metadata.encode(), input);
    }
    if let Ok(name) = str::from_utf8(input)
        && let Some(meaning) = FileName::parse(name)
    {
        assert_eq!(meaning.to_string(), name);
    }
}

fn check_meta(file: &[u8]) {
    if let Ok(meta) = SnapshotMetaFile::decode(file) {
        assert_eq!(SnapshotMetaFile::decode(&meta.encode()), Ok(meta));
    }
}

/// The file of a snapshot that decodes is encoded to something that decodes to the same.
pub fn snapshot_meta(input: &[u8]) {
    check_meta(input);
    // No fuzzer finds a checksum by itself.
    let mut file = input.to_vec();
    if file.len() >= 32 {
        let checksum = u64::from(checksum(&file[16..]));
        file[8..16].copy_from_slice(&checksum.to_le_bytes());
        check_meta(&file);
    }
}

/// A configuration that decodes is encoded to something that decodes to the same.
pub fn configuration(input: &[u8]) {
    if let Ok(configuration) = Configuration::decode(input) {
        let ids: BTreeSet<u64> = configuration
            .servers
            .iter()
            .map(|server| server.id)
            .collect();
        assert_eq!(ids.len(), configuration.servers.len());
        assert!(!ids.contains(&0));
        let mut out = Vec::new();
        configuration.encode(&mut out);
        assert_eq!(Configuration::decode(&out), Ok(configuration));
    }
}

fn check_wal(wal: &[u8]) {
    if let Ok(frames) = WalFrames::decode(wal) {
        assert_eq!(frames.database_pages().is_some(), frames.pages().len() > 0);
        for (number, page) in frames.pages() {
            assert_ne!(number, 0);
            assert_eq!(page.len(), PAGE_SIZE);
        }
    }
}

/// A snapshot that decodes is encoded to the same databases; WALs to frames of whole pages.
pub fn fsm_snapshot(input: &[u8]) {
    check_wal(input);
    let Ok(databases) = decode_snapshot(input) else {
        return;
    };
    let mut out = Vec::new();
    encode_snapshot_head(&mut out, databases.len() as u64);
    for database in &databases {
        assert_eq!(database.main.len() % PAGE_SIZE, 0);
        check_wal(database.wal);
        let head = DatabaseHead {
            name: database.name,
            main_size: database.main.len() as u64,
            wal_size: database.wal.len() as u64,
        };
        encode_database_head(&mut out, &head);
        out.extend_from_slice(database.main);
        out.extend_from_slice(database.wal);
    }
    assert_eq!(decode_snapshot(&out), Ok(databases));
}

/// A snapshot's file is read to a sound end, or not at all: as it is, with the checksum of an LZ4
/// frame's head made right, and as what a sound frame holds.
pub fn snapshot_file(input: &[u8]) {
    read_file(input);
    let mut frame = input.to_vec();
    if repair_frame_head(&mut frame).is_some() {
        read_file(&frame);
    }
    let mut packed = FrameEncoder::new(Vec::new());
    packed.write_all(input).expect("memory takes it");
    let packed = packed.finish().expect("memory takes it");
    let images = read_file(&packed);
    if let Ok(databases) = decode_snapshot(input)
        && databases.iter().all(|database| database.wal.is_empty())
    {
        let images = images.expect("what decodes as a whole can be read in pieces");
        assert_eq!(images.len(), databases.len());
        for ((name, pages), database) in images.iter().zip(&databases) {
            assert_eq!(name, database.name);
            let pages = pages.iter().flat_map(|page| page.as_ref());
            assert!(pages.eq(database.main));
        }
    }
}

fn read_file(content: &[u8]) -> Option<fsm::Images> {
    let meta = SnapshotMeta {
        index: 1,
        term: 1,
        timestamp: 1,
        configuration: Configuration::default(),
        configuration_index: 1,
    };
    let disk = SimDisk::with_files([("snapshot-1-1-1", content.to_vec())]);
    let mut reader = SnapshotReader::open(&disk, &meta).ok()?;
    fsm::read_snapshot(&mut reader).ok()
}

/// Puts the checksum behind the descriptor of an LZ4 frame.
fn repair_frame_head(frame: &mut [u8]) -> Option<()> {
    const MAGIC: [u8; 4] = 0x184D_2204u32.to_le_bytes();
    const CONTENT_SIZE: u8 = 1 << 3;
    const DICTIONARY: u8 = 1;
    frame.get_mut(..4)?.copy_from_slice(&MAGIC);
    let flags = *frame.get(4)?;
    let mut end = 6;
    end += if flags & CONTENT_SIZE != 0 { 8 } else { 0 };
    end += if flags & DICTIONARY != 0 { 4 } else { 0 };
    let sum = xxh32(frame.get(4..end)?, 0);
    *frame.get_mut(end)? = sum.to_le_bytes()[1];
    Some(())
}
