//! Snapshot files: what is written is read, and damage is noticed.

use std::io::Read;

use dq_raft::log::recover::analyze;
use dq_raft::log::snapshot::{Compression, SnapshotError, SnapshotReader, SnapshotWriter};
use dq_raft::log::writer::Published;
use dq_raft::sim_disk::{Fault, SimDisk};
use dq_raft::{Persist, SnapshotMeta};

use crate::directories::{append, entry, hard_state, open, options, persist, snapshot_meta};

fn data(size: usize) -> Vec<u8> {
    (0..size as u32)
        .map(|i| (i / 7).wrapping_mul(2_654_435_761).to_le_bytes()[(i % 3) as usize])
        .collect()
}

fn write(disk: &SimDisk, data: &[u8], compression: Compression) -> SnapshotMeta {
    let meta = snapshot_meta(3, 1);
    let mut writer =
        SnapshotWriter::create(disk.clone(), meta, data.len() as u64, compression).unwrap();
    for chunk in data.chunks(4097) {
        writer.write(chunk).unwrap();
    }
    writer.finish().unwrap()
}

/// A disk with a log of three entries and a published snapshot.
fn published(data: &[u8], compression: Compression) -> (SimDisk, SnapshotMeta) {
    let disk = SimDisk::new();
    let (_, mut writer) = open(&disk).unwrap();
    let entries: Vec<_> = (1..=3).map(|index| entry(index, 1, 2)).collect();
    let batch: Persist = persist(1, [hard_state(1, 0), append(entries)]);
    writer.write(&[batch]).unwrap();
    let meta = write(&disk, data, compression);
    assert_eq!(writer.publish_snapshot(&meta), Ok(Published::Newest));
    writer.close().unwrap();
    (disk, meta)
}

fn read(disk: &SimDisk, meta: &SnapshotMeta) -> Result<Vec<u8>, String> {
    let mut reader = SnapshotReader::open(disk, meta).map_err(|e| e.to_string())?;
    let mut data = Vec::new();
    reader.read_to_end(&mut data).map_err(|e| e.to_string())?;
    assert!(reader.is_verified());
    assert_eq!(reader.size(), data.len() as u64);
    Ok(data)
}

#[test]
fn what_was_written_is_read_whatever_its_size() {
    for size in [1, 100, 65_535, 65_536, 65_537, 300_000, 3_000_000] {
        for compression in [Compression::Lz4, Compression::Raw] {
            let data = data(size);
            let (disk, meta) = published(&data, compression);
            assert_eq!(read(&disk, &meta), Ok(data), "{size} {compression:?}");
        }
    }
}

#[test]
fn the_frame_announces_its_size_and_has_a_checksum() {
    let (disk, meta) = published(&data(1000), Compression::Lz4);
    let file = &disk.files()[&format!("snapshot-1-3-{}", meta.timestamp)];
    assert_eq!(file[..4], [0x04, 0x22, 0x4d, 0x18]);
    assert_eq!(
        file[4], 0x4c,
        "version 1, linked blocks, content size, content checksum"
    );
    assert_eq!(file[5], 0x40, "64 KiB blocks");
    assert_eq!(file[6..14], 1000u64.to_le_bytes());
}

#[test]
fn every_flipped_bit_and_every_truncation_of_a_frame_is_noticed() {
    let (disk, meta) = published(&data(300), Compression::Lz4);
    let name = format!("snapshot-1-3-{}", meta.timestamp);
    let file = disk.files()[&name].clone();
    let read_damaged = |file: Vec<u8>| {
        let disk = SimDisk::with_files([(name.as_str(), file)]);
        read(&disk, &meta)
    };
    for bit in 4 * 8..file.len() * 8 {
        let mut file = file.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        assert!(read_damaged(file).is_err(), "bit {bit}");
    }
    for size in 4..file.len() {
        assert!(read_damaged(file[..size].to_vec()).is_err(), "{size} bytes");
    }
    assert!(read_damaged([&file[..], b"x"].concat()).is_err());
}

#[test]
fn a_frame_without_a_size_can_be_read() {
    use std::io::Write;

    use lz4_flex::frame::{FrameEncoder, FrameInfo};

    let data = data(200_000);
    let info = FrameInfo::new().content_checksum(true);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(&data).unwrap();
    let meta = snapshot_meta(3, 1);
    let disk = SimDisk::with_files([("snapshot-1-3-1", encoder.finish().unwrap())]);
    assert_eq!(read(&disk, &meta), Ok(data));
}

#[test]
fn data_of_another_size_than_announced_are_refused_and_removed() {
    for compression in [Compression::Lz4, Compression::Raw] {
        let disk = SimDisk::new();
        let create =
            || SnapshotWriter::create(disk.clone(), snapshot_meta(3, 1), 10, compression).unwrap();
        let mut writer = create();
        let refused = writer.write(&[0; 11]).unwrap_err();
        assert_eq!(
            refused,
            SnapshotError::Size {
                announced: 10,
                actual: 11
            }
        );
        let mut writer = create();
        writer.write(&[0; 9]).unwrap();
        let refused = writer.finish().unwrap_err();
        assert_eq!(
            refused,
            SnapshotError::Size {
                announced: 10,
                actual: 9
            }
        );
        create().abort();
        assert!(disk.files().is_empty());
    }
}

#[test]
fn a_tie_gets_a_higher_timestamp() {
    let (disk, first) = published(&data(10), Compression::Lz4);
    let second = write(&disk, &data(10), Compression::Lz4);
    let third = write(&disk, &data(10), Compression::Lz4);
    assert_eq!(
        [first.timestamp, second.timestamp, third.timestamp],
        [1, 2, 3]
    );
}

#[test]
fn a_failure_gives_the_space_back_and_hurts_nothing() {
    let (disk, meta) = published(&data(10), Compression::Lz4);
    let before = disk.files();
    let begin = disk.operations();
    write(&disk.fork(), &data(3_000_000), Compression::Lz4);
    for at in 0..6 {
        disk.fail(disk.operations() + at, Fault::Error(28));
        let size = 3_000_000;
        let written =
            SnapshotWriter::create(disk.clone(), snapshot_meta(3, 1), size, Compression::Lz4)
                .and_then(|mut writer| {
                    writer.write(&data(3_000_000))?;
                    writer.finish()
                });
        match written {
            Err(SnapshotError::Disk(error)) => assert!(error.is_no_space()),
            other => panic!("{other:?}"),
        }
        assert_eq!(disk.files(), before, "operation {at}");
    }
    assert!(disk.operations() > begin);
    assert_eq!(read(&disk, &meta), Ok(data(10)));
    let analysis = analyze(&disk, &options()).unwrap();
    assert_eq!(analysis.recovered.snapshot, Some(meta));
}
