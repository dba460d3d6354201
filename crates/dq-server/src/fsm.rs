//! Log entries and snapshots, from and to database versions.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use dq_raft::disk::Disk;
use dq_raft::{Compression, Payload, SnapshotError, SnapshotMeta, SnapshotReader, SnapshotWriter};
use dq_vfs::{PAGE_SIZE, Page, PageNo, Version, Vfs};
use dq_wire::DecodeError;
use dq_wire::command::Command;
use dq_wire::disk::fsm_snapshot::{
    DatabaseHead, NAME_SIZE_MAX, WalFrames, decode_database_head, decode_snapshot_head,
    encode_database_head, encode_snapshot_head,
};
use dq_wire::disk::names::SnapshotName;

use crate::registry::FINGERPRINT_TAG;
use dq_raft::mutants::{Mutant, is_broken};

/// The pages of a FRAMES command, copied out of the log.
#[derive(Debug)]
pub struct Frames {
    /// Name of the database.
    pub database: Bytes,
    tx_id: u64,
    pages: Vec<(PageNo, Page)>,
}

/// Reads a command. `None` for those that change nothing: leaders of long ago wrote them.
pub fn frames(payload: &Payload) -> Result<Option<Frames>, String> {
    let bytes = payload.to_bytes();
    let command = Command::decode(&bytes).map_err(|error| format!("bad command: {error}"))?;
    let Command::Frames(frames) = command else {
        return Ok(None);
    };
    // A snapshot with it could be written, and not be read again.
    if frames.name.len() > NAME_SIZE_MAX {
        return Err("bad command: a name that no database can have".to_owned());
    }
    let mut pages = Vec::with_capacity(frames.len());
    for (number, page) in frames.pages() {
        pages.push((PageNo(number), Page::copy_from(page)));
    }
    Ok(Some(Frames {
        database: bytes.slice_ref(frames.name),
        tx_id: frames.tx_id,
        pages,
    }))
}

impl Frames {
    /// The version that follows `base`. A leader of our kind says what its base looked like: a
    /// different one here means that the two have diverged, and then nothing here can be trusted.
    pub fn apply_to(self, base: &Version, number: u64) -> Result<Version, String> {
        let stated = self.tx_id;
        if stated & FINGERPRINT_TAG != 0 && stated != FINGERPRINT_TAG | base.fingerprint() {
            return Err("the database differs from the leader's".to_owned());
        }
        if is_broken(Mutant::SizeFromHighestPage) {
            let highest = self.pages.iter().map(|(no, _)| no.0).max().unwrap_or(0);
            let size = base.page_count().max(highest);
            return Ok(base.successor(number, &self.pages, size));
        }
        base.apply(number, &self.pages)
            .map_err(|error| format!("cannot be applied: {error:?}"))
    }
}

/// The databases of a snapshot, each with its pages from 1 on.
pub type Images = Vec<(Bytes, Vec<Page>)>;

/// The databases of a snapshot, each as a version.
pub type Databases = Vec<(Bytes, Version)>;

/// Makes versions of images and lets SQLite look at each. Takes time in proportion to their size, so
/// it is nothing for the event loop.
///
/// # Errors
/// Which database is damaged, and how.
pub fn check_images(images: Images, vfs: &Arc<Vfs>) -> Result<Databases, String> {
    let check = |(name, pages): (Bytes, Vec<Page>)| {
        // Nobody sees this number: the node gives the version its own.
        let version = Version::from_pages(1, pages);
        match version.quick_check(vfs) {
            Ok(()) => Ok((name, version)),
            Err(error) => Err(format!(
                "database {}: {error}",
                String::from_utf8_lossy(&name)
            )),
        }
    };
    images.into_iter().map(check).collect()
}

/// Writes databases as a snapshot, under temporary names. Holds a few pages at a time.
///
/// # Errors
/// The disk's.
pub fn write_snapshot<D: Disk>(
    disk: &D,
    meta: SnapshotMeta,
    databases: &[(Bytes, Version)],
    compression: Compression,
) -> Result<SnapshotMeta, SnapshotError> {
    let head_of = |name: &Bytes, version: &Version| {
        let mut head = Vec::new();
        let main_size = u64::from(version.page_count()) * PAGE_SIZE as u64;
        // The WAL part stays empty: some releases of C dqlite insist on it.
        encode_database_head(
            &mut head,
            &DatabaseHead {
                name,
                main_size,
                wal_size: 0,
            },
        );
        (head, main_size)
    };
    let mut head = Vec::new();
    encode_snapshot_head(&mut head, databases.len() as u64);
    let mut size = head.len() as u64;
    for (name, version) in databases {
        let (head, main_size) = head_of(name, version);
        size += head.len() as u64 + main_size;
    }
    let mut writer = SnapshotWriter::create(disk.clone(), meta, size, compression)?;
    writer.write(&head)?;
    for (name, version) in databases {
        writer.write(&head_of(name, version).0)?;
        for page in version.pages() {
            writer.write(page.as_ref())?;
        }
    }
    writer.finish()
}

/// Reads the databases of a snapshot from its decompressed bytes.
///
/// # Errors
/// The stream's, or `InvalidData` that says what is wrong.
pub fn read_snapshot(stream: &mut impl Read) -> io::Result<Images> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let (count, _) = decode_snapshot_head(&head).map_err(invalid)?;
    let mut images = Images::new();
    for _ in 0..count {
        images.push(read_database(stream)?);
    }
    // The end is where the reader verifies the checksum, so it has to be reached.
    let mut rest = [0; 4096];
    while stream.read(&mut rest)? > 0 {}
    Ok(images)
}

/// Reads the databases of a snapshot from its file.
///
/// # Errors
/// The disk's, or what is wrong with the file, by its name.
pub fn load_snapshot<D: Disk>(disk: &D, meta: &SnapshotMeta) -> Result<Images, SnapshotError> {
    let mut reader = SnapshotReader::open(disk, meta)?;
    read_snapshot(&mut reader).map_err(|error| reader.damage(&error))
}

/// Opens a snapshot that is to go to a peer. Data that are not compressed bear no checksum, and a file whose
/// first bytes have decayed passes for such: it is looked through before anything leaves, since C dqlite
/// takes what it gets.
///
/// # Errors
/// The disk's, or what is wrong with the file, by its name.
pub fn open_to_send<D: Disk>(
    disk: &D,
    meta: &SnapshotMeta,
) -> Result<SnapshotReader<D>, SnapshotError> {
    let reader = SnapshotReader::open(disk, meta)?;
    if !reader.is_compressed() {
        let mut looked_through = SnapshotReader::open(disk, meta)?;
        examine(&mut looked_through).map_err(|error| looked_through.damage(&error))?;
    }
    Ok(reader)
}

/// Hands the data of a snapshot on in pieces of at most this size, to a peer that takes nothing that is
/// not whole. The last piece goes only when all were read and found right: checksums stand at the end.
///
/// # Errors
/// The reader's, and those of `hand_on`.
pub fn hand_on_snapshot(
    reader: &mut impl Read,
    piece_size: usize,
    mut hand_on: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let (mut piece, mut held_back) = (vec![0; piece_size], Vec::new());
    loop {
        let count = match reader.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if !held_back.is_empty() {
            hand_on(&held_back)?;
        }
        if count == 0 {
            return Ok(());
        }
        held_back.clear();
        held_back.extend_from_slice(&piece[..count]);
    }
}

/// Looks whether the data of a snapshot can be read, and keeps nothing of them.
///
/// # Errors
/// What a start would say.
pub fn examine_snapshot<D: Disk>(disk: &D, name: SnapshotName) -> Result<(), SnapshotError> {
    let mut reader = SnapshotReader::open_named(disk, name)?;
    examine(&mut reader).map_err(|error| reader.damage(&error))
}

fn examine(stream: &mut impl Read) -> io::Result<()> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let (count, _) = decode_snapshot_head(&head).map_err(invalid)?;
    for _ in 0..count {
        let (_, main_size, wal_size) = read_head(stream)?;
        let pages = main_size / PAGE_SIZE as u64 * PAGE_SIZE as u64;
        if io::copy(&mut stream.take(pages), &mut io::sink())? != pages {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut wal = Vec::new();
        if stream.take(wal_size).read_to_end(&mut wal)? as u64 != wal_size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        WalFrames::decode(&wal).map_err(invalid)?;
    }
    io::copy(stream, &mut io::sink())?;
    Ok(())
}

/// Name of a database, and the sizes of what follows.
fn read_head(stream: &mut impl Read) -> io::Result<(Bytes, u64, u64)> {
    // The name has no length in front of it: read on until the head is whole.
    let mut head = Vec::new();
    loop {
        match decode_database_head(&head) {
            Ok((found, _)) => {
                let name = Bytes::copy_from_slice(found.name);
                return Ok((name, found.main_size, found.wal_size));
            }
            Err(DecodeError::Incomplete { .. }) if head.len() <= NAME_SIZE_MAX + 24 => {
                let mut word = [0; 8];
                stream.read_exact(&mut word)?;
                head.extend_from_slice(&word);
            }
            Err(error) => return Err(invalid(error)),
        }
    }
}

/// The pages of a database from the two files that DUMP gives: itself and its WAL.
///
/// # Errors
/// `InvalidData` that says what is wrong.
pub fn image(main: &[u8], wal: &[u8]) -> io::Result<Vec<Page>> {
    let (pages, rest) = main.as_chunks::<PAGE_SIZE>();
    if !rest.is_empty() {
        return Err(invalid("a database that is not whole pages"));
    }
    let mut pages = pages.iter().map(|page| Page::copy_from(page)).collect();
    overlay(&mut pages, wal)?;
    Ok(pages)
}

fn read_database(stream: &mut impl Read) -> io::Result<(Bytes, Vec<Page>)> {
    let (name, main_size, wal_size) = read_head(stream)?;
    let mut pages = Vec::new();
    let mut buffer = [0; PAGE_SIZE];
    for _ in 0..main_size / PAGE_SIZE as u64 {
        stream.read_exact(&mut buffer)?;
        pages.push(Page::copy_from(&buffer));
    }
    let mut wal = Vec::new();
    if stream.take(wal_size).read_to_end(&mut wal)? as u64 != wal_size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    overlay(&mut pages, &wal)?;
    Ok((name, pages))
}

/// Old releases put what was not yet checkpointed behind the database, as a WAL.
fn overlay(pages: &mut Vec<Page>, wal: &[u8]) -> io::Result<()> {
    let frames = WalFrames::decode(wal).map_err(invalid)?;
    let Some(count) = frames.database_pages() else {
        return Ok(());
    };
    let count = count as usize;
    // A database grows by what is written, so a larger size cannot be true.
    if count > pages.len() + frames.pages().len() {
        return Err(invalid("a WAL that is too short for the database's size"));
    }
    pages.resize_with(count.max(pages.len()), || Page::copy_from(&[0; PAGE_SIZE]));
    for (number, bytes) in frames.pages() {
        if let Some(page) = pages.get_mut(number as usize - 1) {
            *page = Page::copy_from(bytes);
        }
    }
    pages.truncate(count);
    Ok(())
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    use dq_raft::sim_disk::SimDisk;
    use dq_wire::{Configuration, Role, Server};

    use super::*;

    #[test]
    fn no_bit_of_a_snapshot_file_decays_and_a_peer_gets_it_whole() {
        let name = Bytes::from_static(b"main");
        let pages = (0..3).map(|n| Page::copy_from(&[n * 3; PAGE_SIZE]));
        let version = Version::from_pages(1, pages);
        let servers = vec![Server {
            id: 1,
            address: "a".to_owned(),
            role: Role::Voter,
        }];
        let meta = SnapshotMeta {
            index: 9,
            term: 2,
            timestamp: 1,
            configuration: Configuration { servers },
            configuration_index: 1,
        };
        let written = SimDisk::new();
        write_snapshot(&written, meta.clone(), &[(name, version)], Compression::Lz4)
            .expect("it is written");
        let whole = &written.files()["tmp-snapshot-2-9-1"];
        let send = |content: Vec<u8>, piece_size| -> io::Result<Vec<u8>> {
            let disk = SimDisk::with_files([("snapshot-2-9-1", content)]);
            let mut reader = open_to_send(&disk, &meta).map_err(io::Error::other)?;
            let (size, mut sent) = (reader.size() as usize, Vec::new());
            let handed = hand_on_snapshot(&mut reader, piece_size, |piece| {
                sent.extend_from_slice(piece);
                Ok(())
            });
            assert_eq!(handed.is_ok(), sent.len() == size, "of {size}");
            handed?;
            read_snapshot(&mut &sent[..]).expect("what is sent can be read");
            Ok(sent)
        };
        let sent = send(whole.clone(), 4096).expect("it is whole");
        for piece_size in [1, 5000, 1 << 20] {
            assert!(send(whole.clone(), piece_size).is_ok_and(|again| again == sent));
        }
        let mut harmless = 0;
        for bit in 0..whole.len() * 8 {
            let mut content = whole.clone();
            content[bit / 8] ^= 1 << (bit % 8);
            match send(content, 4096) {
                // A copy of other bytes that are the same ones.
                Ok(same) => {
                    assert!(same == sent, "bit {bit} changes what is sent");
                    harmless += 1;
                }
                Err(damage) => {
                    let named = damage.to_string().contains("snapshot-2-9-1");
                    assert!(named, "bit {bit}: {damage}");
                }
            }
        }
        assert!(
            harmless * 10 < whole.len() * 8,
            "{harmless} are not noticed"
        );
    }

    fn snapshot_of(databases: &[(&[u8], &[u8], &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_snapshot_head(&mut bytes, databases.len() as u64);
        for (name, main, wal) in databases {
            let (main_size, wal_size) = (main.len() as u64, wal.len() as u64);
            encode_database_head(
                &mut bytes,
                &DatabaseHead {
                    name,
                    main_size,
                    wal_size,
                },
            );
            bytes.extend_from_slice(main);
            bytes.extend_from_slice(wal);
        }
        bytes
    }

    #[test]
    fn a_transaction_on_a_name_that_no_snapshot_can_hold_is_refused() {
        for (size, taken) in [
            (504, true),
            (NAME_SIZE_MAX, true),
            (NAME_SIZE_MAX + 1, false),
        ] {
            let name = vec![b'x'; size];
            let mut bytes = dq_wire::encode_frames_header(&name, 0, [1]);
            bytes.extend_from_slice(&[0; PAGE_SIZE]);
            let read = frames(&Payload::from(Bytes::from(bytes)));
            assert_eq!(read.is_ok(), taken, "{size} bytes");
            let snapshot = snapshot_of(&[(&name, &[0; PAGE_SIZE], b"")]);
            assert_eq!(read_snapshot(&mut &snapshot[..]).is_ok(), taken);
        }
    }

    #[test]
    fn a_snapshot_is_read_page_by_page_and_a_cut_one_is_refused() {
        let main = [[1u8; PAGE_SIZE], [2; PAGE_SIZE]].concat();
        let bytes = snapshot_of(&[(b"one", &main, b""), (b"a longer name", &main[..4096], b"")]);
        let images = read_snapshot(&mut &bytes[..]).expect("it is whole");
        assert_eq!(images.len(), 2);
        assert_eq!(images[0].0, "one");
        assert_eq!(images[0].1[1].as_ref(), &[2; PAGE_SIZE]);
        assert_eq!(images[1].1.len(), 1);
        for cut in (0..bytes.len()).step_by(8) {
            assert!(read_snapshot(&mut &bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn the_wal_part_of_old_snapshots_is_laid_over_the_pages() {
        let main = [[1u8; PAGE_SIZE], [2; PAGE_SIZE]].concat();
        let mut wal = vec![0; 32];
        for (number, size, fill) in [(3u32, 0u32, 7u8), (1, 3, 9)] {
            wal.extend_from_slice(&number.to_be_bytes());
            wal.extend_from_slice(&size.to_be_bytes());
            wal.extend_from_slice(&[0; 16]);
            wal.extend_from_slice(&[fill; PAGE_SIZE]);
        }
        let bytes = snapshot_of(&[(b"db", &main, &wal)]);
        let images = read_snapshot(&mut &bytes[..]).expect("it is whole");
        let fills: Vec<u8> = images[0].1.iter().map(|page| page.as_ref()[0]).collect();
        assert_eq!(fills, [9, 2, 7]);
    }
}
