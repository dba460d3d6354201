//! The content of a snapshot: all databases.
//!
//! ```text
//! u64 1 (format), u64 number of databases
//! per database: text name, u64 size of the database, u64 size of its WAL, database, WAL
//! ```
//!
//! On the wire (InstallSnapshot) it is as above; on disk it is wrapped in an LZ4 frame as a rule.
//! Snapshots may be large, so the heads are encoded and decoded one at a time, from the beginning of
//! whatever part of the stream is at hand ([`DecodeError::Incomplete`] asks for more), and
//! [`decode_snapshot`] is for those in memory.
//!
//! The WAL is empty in everything written since 1.17. Older versions put there what they had not
//! yet checkpointed, as SQLite writes it: [`WalFrames`].

use crate::codec::{DecodeError, Reader, WORD, put_text, put_u64};
use crate::command::{PAGE_NUMBER_MAX, PAGE_SIZE};

const FORMAT: u64 = 1;

/// The longest name of a database that is looked for, in bytes. Databases with names longer than 504
/// cannot be opened; without a bound a stream without a NUL would be read for ever.
pub const NAME_SIZE_MAX: usize = 1024;

/// What precedes a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseHead<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Size of the database in bytes, a multiple of the page size.
    pub main_size: u64,
    /// Size of its WAL in bytes.
    pub wal_size: u64,
}

/// A database in a snapshot that is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseImage<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its pages.
    pub main: &'a [u8],
    /// Its WAL, to be laid over the pages.
    pub wal: &'a [u8],
}

/// Appends what precedes all databases.
pub fn encode_snapshot_head(out: &mut Vec<u8>, databases: u64) {
    put_u64(out, FORMAT);
    put_u64(out, databases);
}

/// Reads what precedes all databases: how many there are, and how many bytes that took.
///
/// # Errors
/// `Incomplete`, or `Malformed` for another format.
pub fn decode_snapshot_head(stream: &[u8]) -> Result<(u64, usize), DecodeError> {
    let mut r = Reader::new(stream);
    if r.u64()? != FORMAT {
        return Err(r.malformed("snapshot format", WORD));
    }
    Ok((r.u64()?, r.offset()))
}

/// Appends what precedes a database.
pub fn encode_database_head(out: &mut Vec<u8>, head: &DatabaseHead<'_>) {
    put_text(out, head.name);
    put_u64(out, head.main_size);
    put_u64(out, head.wal_size);
}

/// Reads what precedes a database, and how many bytes that took.
///
/// # Errors
/// `Incomplete`, or `Malformed` if the name is too long or the database is not made of pages.
pub fn decode_database_head(stream: &[u8]) -> Result<(DatabaseHead<'_>, usize), DecodeError> {
    let mut r = Reader::new(stream);
    let name = match r.text() {
        Ok(name) if name.len() <= NAME_SIZE_MAX => name,
        Err(error) if stream.len() <= NAME_SIZE_MAX => return Err(error),
        _ => {
            return Err(DecodeError::Malformed {
                field: "database name",
                offset: 0,
            });
        }
    };
    let main_size = r.u64()?;
    if !main_size.is_multiple_of(PAGE_SIZE as u64) {
        return Err(r.malformed("database size", WORD));
    }
    Ok((
        DatabaseHead {
            name,
            main_size,
            wal_size: r.u64()?,
        },
        r.offset(),
    ))
}

/// Reads a whole snapshot. What follows the last database is ignored.
///
/// # Errors
/// It is cut short or malformed.
pub fn decode_snapshot(snapshot: &[u8]) -> Result<Vec<DatabaseImage<'_>>, DecodeError> {
    let (count, mut offset) = decode_snapshot_head(snapshot)?;
    let mut databases = Vec::new();
    for _ in 0..count {
        let (head, size) =
            decode_database_head(&snapshot[offset..]).map_err(|error| error.shifted(offset))?;
        let mut r = Reader::at(snapshot, offset + size);
        let mut part = |size: u64| {
            let size = usize::try_from(size).map_err(|_| r.malformed("database size", 0))?;
            r.bytes(size)
        };
        let (main, wal) = (part(head.main_size)?, part(head.wal_size)?);
        databases.push(DatabaseImage {
            name: head.name,
            main,
            wal,
        });
        offset = r.offset();
    }
    Ok(databases)
}

const WAL_HEADER_SIZE: usize = 32;
const FRAME_HEADER_SIZE: usize = 24;
const FRAME_SIZE: usize = FRAME_HEADER_SIZE + PAGE_SIZE;

/// The frames of a WAL: a header of 32 bytes, then per frame a header of 24 bytes and a page. Checksums
/// and salts are not looked at: the whole WAL is committed, or it would not be in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalFrames<'a> {
    frames: &'a [u8],
    database_pages: Option<u32>,
}

impl<'a> WalFrames<'a> {
    /// Reads a WAL; empty, or of nothing but its header, it has no frames.
    ///
    /// # Errors
    /// `Malformed` if it is not made of frames, a page number is 0 or above [`PAGE_NUMBER_MAX`], or
    /// the last frame does not end a transaction.
    pub fn decode(wal: &'a [u8]) -> Result<WalFrames<'a>, DecodeError> {
        let frames = wal.get(WAL_HEADER_SIZE..).unwrap_or_default();
        if !frames.len().is_multiple_of(FRAME_SIZE) {
            return Err(DecodeError::Malformed {
                field: "WAL size",
                offset: wal.len(),
            });
        }
        let mut database_pages = None;
        for (i, frame) in frames.chunks_exact(FRAME_SIZE).enumerate() {
            if !(1..=PAGE_NUMBER_MAX).contains(&big_endian(frame, 0)) {
                let offset = WAL_HEADER_SIZE + i * FRAME_SIZE;
                return Err(DecodeError::Malformed {
                    field: "WAL page number",
                    offset,
                });
            }
            database_pages = Some(big_endian(frame, 4));
        }
        if database_pages == Some(0) {
            let offset = wal.len() - FRAME_SIZE + 4;
            return Err(DecodeError::Malformed {
                field: "WAL commit",
                offset,
            });
        }
        Ok(WalFrames {
            frames,
            database_pages,
        })
    }

    /// The pages with their numbers, in the order in which they were written: later ones count.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = (u32, &'a [u8])> + use<'a> {
        self.frames
            .chunks_exact(FRAME_SIZE)
            .map(|frame| (big_endian(frame, 0), &frame[FRAME_HEADER_SIZE..]))
    }

    /// Number of pages of the database after the last frame; `None` without frames.
    pub fn database_pages(&self) -> Option<u32> {
        self.database_pages
    }
}

/// SQLite's own formats are big-endian.
fn big_endian(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wal(frames: &[(u32, u32, u8)]) -> Vec<u8> {
        let mut out = vec![0x37; WAL_HEADER_SIZE];
        for &(number, database_pages, fill) in frames {
            out.extend_from_slice(&number.to_be_bytes());
            out.extend_from_slice(&database_pages.to_be_bytes());
            out.extend_from_slice(&[0; 16]);
            out.extend_from_slice(&[fill; PAGE_SIZE]);
        }
        out
    }

    fn snapshot(databases: &[(Vec<u8>, usize, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_snapshot_head(&mut out, databases.len() as u64);
        for (name, pages, wal) in databases {
            let main_size = (pages * PAGE_SIZE) as u64;
            let wal_size = wal.len() as u64;
            encode_database_head(
                &mut out,
                &DatabaseHead {
                    name,
                    main_size,
                    wal_size,
                },
            );
            out.resize(out.len() + pages * PAGE_SIZE, 7);
            out.extend_from_slice(wal);
        }
        out
    }

    #[test]
    fn the_frames_of_an_old_wal_are_found() {
        let wal = wal(&[(2, 0, 1), (3, 3, 2)]);
        let frames = WalFrames::decode(&wal).unwrap();
        assert_eq!(frames.database_pages(), Some(3));
        let pages: Vec<(u32, u8)> = frames.pages().map(|(n, page)| (n, page[9])).collect();
        assert_eq!(pages, [(2, 1), (3, 2)]);
    }

    #[test]
    fn a_wal_of_less_than_a_frame_has_none() {
        for size in [0, 32] {
            let bytes = vec![0; size];
            let frames = WalFrames::decode(&bytes).unwrap();
            assert_eq!(frames.pages().len(), 0);
            assert_eq!(frames.database_pages(), None);
        }
    }

    #[test]
    fn a_wal_that_cannot_be_laid_over_a_database_is_malformed() {
        let field = |wal: &[u8]| match WalFrames::decode(wal) {
            Err(DecodeError::Malformed { field, .. }) => field,
            other => panic!("decoded to {other:?}"),
        };
        assert_eq!(field(&wal(&[(0, 1, 0)])), "WAL page number");
        assert_eq!(field(&wal(&[(1 << 31, 1, 0)])), "WAL page number");
        assert_eq!(field(&wal(&[(1, 0, 0)])), "WAL commit");
        assert_eq!(field(&wal(&[(1, 1, 0)])[..100]), "WAL size");
    }

    #[test]
    fn a_name_without_end_is_not_read_for_ever() {
        assert!(matches!(
            decode_database_head(&[b'a'; NAME_SIZE_MAX]),
            Err(DecodeError::Incomplete { .. })
        ));
        assert_eq!(
            decode_database_head(&[b'a'; NAME_SIZE_MAX + 1]),
            Err(DecodeError::Malformed {
                field: "database name",
                offset: 0
            })
        );
    }

    #[test]
    fn a_database_that_is_not_made_of_pages_is_malformed() {
        let mut out = snapshot(&[(b"a".to_vec(), 1, vec![])]);
        out[24] = 8;
        assert_eq!(
            decode_snapshot(&out),
            Err(DecodeError::Malformed {
                field: "database size",
                offset: 24
            })
        );
    }

    #[test]
    fn sizes_that_cannot_be_there_are_incomplete() {
        let mut out = snapshot(&[(b"a".to_vec(), 1, vec![])]);
        out[8..16].fill(0xff);
        assert!(
            decode_snapshot(&out).is_err(),
            "more databases than there are"
        );
        let mut out = snapshot(&[(b"a".to_vec(), 1, vec![])]);
        out[32..40].fill(0xff);
        assert!(decode_snapshot(&out).is_err(), "a WAL of 2^64 - 1 bytes");
    }

    proptest! {
        #[test]
        fn a_snapshot_decodes_to_what_was_encoded_and_no_truncation_does(
            databases in proptest::collection::vec(
                (proptest::collection::vec(1u8.., 0..20), 0usize..3, any::<bool>()),
                0..3,
            ),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 50),
        ) {
            let databases: Vec<(Vec<u8>, usize, Vec<u8>)> = databases
                .into_iter()
                .map(|(name, pages, old)| (name, pages, if old { wal(&[(1, 1, 9)]) } else { vec![] }))
                .collect();
            let out = snapshot(&databases);
            let read = decode_snapshot(&out).unwrap();
            prop_assert_eq!(read.len(), databases.len());
            for (read, (name, pages, wal)) in read.iter().zip(&databases) {
                prop_assert_eq!(read.name, &name[..]);
                prop_assert_eq!(read.main.len(), pages * PAGE_SIZE);
                prop_assert_eq!(read.wal, &wal[..]);
            }
            for cut in cuts {
                let cut = decode_snapshot(&out[..cut.index(out.len())]);
                let incomplete = matches!(cut, Err(DecodeError::Incomplete { .. }));
                prop_assert!(incomplete);
            }
        }
    }
}
