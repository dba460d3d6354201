//! What happens to a directory.

use std::io::{Read, Write};

use arbitrary::{Result, Unstructured};
use dq_wire::disk::metadata::Metadata;
use dq_wire::disk::segment::{Batches, SEGMENT_HEAD, encode_batch_head};
use dq_wire::disk::snapshot_meta::SnapshotMetaFile;
use dq_wire::{EntryHeader, EntryKind};
use lz4_flex::frame::{FrameDecoder, FrameEncoder, FrameInfo};

use super::begun::Files;
use crate::peer::data;
use crate::session::damage;

/// Largest content that a snapshot is unpacked to.
const CONTENT_MAX: u64 = 4 << 20;

/// Changes something.
pub(super) fn change(u: &mut Unstructured<'_>, files: &mut Files) -> Result<()> {
    let names: Vec<String> = files.keys().cloned().collect();
    let name = u.choose(&names)?.clone();
    let mut content = files.get(&name).cloned().unwrap_or_default();
    match u.int_in_range(0..=11)? {
        0 => damage(u, &mut content)?,
        1 => {
            let at = u.int_in_range(0..=content.len() / 8)? * 8;
            let word = number(u)?.to_le_bytes();
            if let Some(place) = content.get_mut(at..at + 8) {
                place.copy_from_slice(&word);
            }
        }
        2 => {
            let size = u.int_in_range(0..=content.len() + 64)?;
            content.resize(size, 0);
        }
        3 => {
            files.remove(&name);
            return Ok(());
        }
        4 => {
            files.remove(&name);
            files.insert(new_name(u)?, content);
            return Ok(());
        }
        5 => {
            files.insert(new_name(u)?, content);
            return Ok(());
        }
        6 => {
            let other = u.choose(&names)?.clone();
            let others = files.insert(other, content);
            content = others.unwrap_or_default();
        }
        7..=9 => within(u, &name, &mut content)?,
        10 => {
            let metadata = Metadata {
                version: number(u)?,
                term: number(u)?,
                voted_for: number(u)?,
            };
            let name = *u.choose(&["metadata1", "metadata2"])?;
            files.insert(name.to_owned(), metadata.encode().to_vec());
            return Ok(());
        }
        _ => {
            let size = u.int_in_range(0..=40)?.min(u.len());
            content = u.bytes(size)?.to_vec();
        }
    }
    files.insert(name, content);
    Ok(())
}

/// Small, at an edge, or anything.
fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=7)? {
        0 => u64::MAX - u.int_in_range(0..=1)?,
        1 => (1 << 62) + u.int_in_range(0..=2)? - 1,
        2 => u.arbitrary()?,
        3 => 1 << u.int_in_range(0..=63)?,
        _ => u.int_in_range(0..=20)?,
    })
}

fn new_name(u: &mut Unstructured<'_>) -> Result<String> {
    let (a, b, c) = (number(u)?, number(u)?, number(u)?);
    Ok(match u.int_in_range(0..=8)? {
        0 | 1 => format!("{a:016}-{b:016}"),
        2 => format!("open-{a}"),
        3 => format!("snapshot-{a}-{b}-{c}"),
        4 => format!("snapshot-{a}-{b}-{c}.meta"),
        5 => "metadata2".to_owned(),
        6 => format!("tmp-snapshot-{a}-{b}-{c}"),
        7 => "dq-promise".to_owned(),
        _ => "something".to_owned(),
    })
}

/// Changes what a file says, with checksums as they should be.
fn within(u: &mut Unstructured<'_>, name: &str, content: &mut Vec<u8>) -> Result<()> {
    if name.ends_with(".meta") {
        if let Ok(mut file) = SnapshotMetaFile::decode(content) {
            match u.int_in_range(0..=4)? {
                4 => file.configuration = data::some_servers(u)?,
                0 => file.configuration_index = number(u)?,
                1 => file.configuration.servers.clear(),
                2 => {
                    let twice = file.configuration.servers.clone();
                    file.configuration.servers.extend(twice);
                }
                _ => {
                    for server in &mut file.configuration.servers {
                        server.id = number(u)?;
                    }
                }
            }
            *content = file.encode();
        }
        return Ok(());
    }
    if name.starts_with("snapshot-") {
        let mut plain = Vec::new();
        let mut unpacked = FrameDecoder::new(&content[..]).take(CONTENT_MAX);
        if unpacked.read_to_end(&mut plain).is_err() {
            plain = content.clone();
        }
        match u.int_in_range(0..=4)? {
            0 => damage(u, &mut plain)?,
            1 if plain.len() > 8 => {
                let at = u.int_in_range(0..=plain.len() / 8 - 1)? * 8;
                plain[at..at + 8].copy_from_slice(&number(u)?.to_le_bytes());
            }
            2 => plain.extend(data::wal(u)?),
            _ => plain = data::snapshot(u)?,
        }
        *content = pack(u, plain)?;
        return Ok(());
    }
    if let Ok(batches) = Batches::new(content) {
        let batches: Vec<_> = batches.map_while(std::result::Result::ok).collect();
        let mut segment = SEGMENT_HEAD.to_vec();
        for batch in &batches {
            for _ in 0..if u.ratio(7, 8)? {
                1
            } else {
                u.int_in_range(0..=2)?
            } {
                let mut entries = Vec::new();
                let mut data = Vec::new();
                for entry in &batch.entries {
                    let mut bytes = content[entry.data.clone()].to_vec();
                    let EntryHeader {
                        mut term, mut kind, ..
                    } = entry.header;
                    match u.int_in_range(0..=17)? {
                        16 => {
                            bytes = data::some_command(u, |_| None)?;
                            kind = EntryKind::Command;
                        }
                        17 => {
                            let servers = data::some_servers(u)?;
                            bytes = data::configuration(&servers).to_bytes().to_vec();
                            kind = EntryKind::Change;
                        }
                        0 => term = number(u)?,
                        1 => {
                            let kinds = [EntryKind::Command, EntryKind::Barrier, EntryKind::Change];
                            kind = *u.choose(&kinds)?;
                        }
                        2 => damage(u, &mut bytes)?,
                        3 => bytes.truncate(u.int_in_range(0..=bytes.len())?),
                        _ => {}
                    }
                    bytes.resize(bytes.len().next_multiple_of(8), 0);
                    let size = u32::try_from(bytes.len()).expect("entries are small");
                    entries.push(EntryHeader { term, kind, size });
                    data.push(bytes);
                }
                let pieces = data.iter().map(Vec::as_slice);
                encode_batch_head(&mut segment, &entries, pieces);
                segment.extend(data.concat());
            }
        }
        if name.starts_with("open-") {
            segment.resize(segment.len().next_multiple_of(1 << 16), 0);
        }
        *content = segment;
    }
    Ok(())
}

/// A snapshot's file with this content: as C dqlite and as we write it, and in other ways that are
/// allowed.
fn pack(u: &mut Unstructured<'_>, plain: Vec<u8>) -> Result<Vec<u8>> {
    let mut info = FrameInfo::new();
    match u.int_in_range(0..=3)? {
        0 => return Ok(plain),
        1 => info = info.content_size(Some(plain.len() as u64)),
        _ => {
            info = info
                .content_size(Some(plain.len() as u64))
                .content_checksum(true);
        }
    }
    let mut packed = FrameEncoder::with_frame_info(info, Vec::new());
    packed.write_all(&plain).expect("memory takes it");
    Ok(packed.finish().expect("memory takes it"))
}
