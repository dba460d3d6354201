//! What COMMAND entries of the log carry.
//!
//! ```text
//! u8 1 (version), u8 type, u8[6] zero
//! OPEN 1        text name                     no effect
//! FRAMES 2      text name                     the pages of one or more transactions
//!               u64 tx_id
//!               u32 truncate   u8 is_commit   u8[3] zero
//!               u32 number of pages   u16 page size   u16 zero
//!               u64 page number, per page
//!               page, per page
//! UNDO 3        u64 tx_id                     no effect
//! CHECKPOINT 4  text name                     no effect
//! ```
//!
//! Only FRAMES changes anything. The other types were written by old versions and are decoded so
//! that their logs can be read. A FRAMES that is not a commit, which only very old leaders wrote, is
//! refused, as it is by the original since 1.18.3.
//!
//! Pages are never copied here: the encoder writes what goes in front of them, the decoder points
//! into the entry (with [`bytes::Bytes::slice_ref`] a page becomes a shared buffer of its own).

use crate::codec::{
    DecodeError, Reader, WORD, put_text, put_u8, put_u16, put_u32, put_u64, put_zeros,
};

/// Size of a database page in bytes. No other size occurs: nothing sets one in the original.
pub const PAGE_SIZE: usize = 4096;

/// The highest page number that an entry may name.
pub const PAGE_NUMBER_MAX: u32 = (1 << 31) - 1;

/// The bytes of a BARRIER entry: a zero-length entry would take untried paths in C dqlite.
pub const BARRIER_PAYLOAD: [u8; 8] = [0; 8];

const VERSION: u8 = 1;
const OPEN: u8 = 1;
const FRAMES: u8 = 2;
const UNDO: u8 = 3;
const CHECKPOINT: u8 = 4;

/// The payload of a COMMAND entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// A database was opened; nothing to do.
    Open {
        /// Its name.
        name: &'a [u8],
    },
    /// Pages of a database have new contents.
    Frames(Frames<'a>),
    /// A transaction was given up; nothing to do.
    Undo {
        /// Its id.
        tx_id: u64,
    },
    /// A database was checkpointed; nothing to do.
    Checkpoint {
        /// Its name.
        name: &'a [u8],
    },
}

/// The pages that an entry changes. The number of pages of the database after the change is in the
/// header of page 1, which is among them whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames<'a> {
    /// Name of the database.
    pub name: &'a [u8],
    /// Zero from C dqlite, and ignored by it.
    pub tx_id: u64,
    /// Zero from C dqlite, and ignored by it.
    pub truncate: u32,
    /// Encoded page numbers, a word each.
    numbers: &'a [u8],
    /// As many pages.
    pages: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Number of pages.
    pub fn len(&self) -> usize {
        self.numbers.len() / WORD
    }

    /// True if there are no pages.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The pages with their numbers, which are between 1 and [`PAGE_NUMBER_MAX`], in the order of
    /// the entry. If a number occurs twice, the later page counts.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = (u32, &'a [u8])> + use<'a> {
        let numbers = self.numbers.chunks_exact(WORD).map(|word| {
            // The decoder has checked that the other half is zero.
            u32::from_le_bytes([word[0], word[1], word[2], word[3]])
        });
        numbers.zip(self.pages.chunks_exact(PAGE_SIZE))
    }

    /// All pages, one after the other.
    pub fn page_bytes(&self) -> &'a [u8] {
        self.pages
    }
}

impl<'a> Command<'a> {
    /// Reads a command. What follows it is ignored.
    ///
    /// # Errors
    /// It is cut short or has another version, an unknown type, a page size other than
    /// [`PAGE_SIZE`], a page number out of range, or is not a commit.
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>, DecodeError> {
        let mut r = Reader::new(bytes);
        if r.u8()? != VERSION {
            return Err(r.malformed("command version", 1));
        }
        let kind = r.u8()?;
        r.bytes(6)?;
        Ok(match kind {
            OPEN => Command::Open { name: r.text()? },
            FRAMES => Command::Frames(decode_frames(&mut r)?),
            UNDO => Command::Undo { tx_id: r.u64()? },
            CHECKPOINT => Command::Checkpoint { name: r.text()? },
            _ => {
                return Err(DecodeError::Malformed {
                    field: "command type",
                    offset: 1,
                });
            }
        })
    }
}

fn decode_frames<'a>(r: &mut Reader<'a>) -> Result<Frames<'a>, DecodeError> {
    let name = r.text()?;
    let tx_id = r.u64()?;
    let truncate = r.u32()?;
    if r.u8()? == 0 {
        return Err(r.malformed("is_commit", 1));
    }
    r.bytes(3)?;
    let count = r.u32()? as usize;
    let page_size = usize::from(r.u16()?);
    if page_size != PAGE_SIZE && count != 0 {
        return Err(r.malformed("page size", 2));
    }
    r.bytes(2)?;
    // Both products fit: a count has 32 bits, and a target with 32-bit sizes could not hold the
    // entry in the first place.
    let numbers_size = count
        .checked_mul(WORD)
        .ok_or(r.malformed("page count", WORD))?;
    let pages_size = count
        .checked_mul(PAGE_SIZE)
        .ok_or(r.malformed("page count", WORD))?;
    let start = r.offset();
    let numbers = r.bytes(numbers_size)?;
    for (i, word) in numbers.chunks_exact(WORD).enumerate() {
        let number = Reader::new(word).u64()?;
        if number == 0 || number > u64::from(PAGE_NUMBER_MAX) {
            return Err(DecodeError::Malformed {
                field: "page number",
                offset: start + i * WORD,
            });
        }
    }
    Ok(Frames {
        name,
        tx_id,
        truncate,
        numbers,
        pages: r.bytes(pages_size)?,
    })
}

/// What goes in front of the pages of a FRAMES command: the pages follow it in the order of their
/// numbers, [`PAGE_SIZE`] bytes each.
///
/// # Panics
/// If there are 2^32 pages or more.
pub fn encode_frames_header(
    name: &[u8],
    tx_id: u64,
    page_numbers: impl IntoIterator<Item = u32, IntoIter: ExactSizeIterator>,
) -> Vec<u8> {
    let page_numbers = page_numbers.into_iter();
    let count = u32::try_from(page_numbers.len()).expect("an entry has fewer than 2^32 pages");
    let mut out = Vec::with_capacity(48 + name.len() + page_numbers.len() * WORD);
    put_head(&mut out, FRAMES);
    put_text(&mut out, name);
    put_u64(&mut out, tx_id);
    put_u32(&mut out, 0); // truncate
    put_u8(&mut out, 1); // is_commit
    put_zeros(&mut out, 3);
    put_u32(&mut out, count);
    put_u16(&mut out, PAGE_SIZE as u16);
    put_u16(&mut out, 0);
    for number in page_numbers {
        put_u64(&mut out, u64::from(number));
    }
    out
}

fn put_head(out: &mut Vec<u8>, kind: u8) {
    put_u8(out, VERSION);
    put_u8(out, kind);
    put_zeros(out, 6);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(name: &[u8], tx_id: u64, pages: &[(u32, u8)]) -> Vec<u8> {
        let mut out = encode_frames_header(name, tx_id, pages.iter().map(|&(n, _)| n));
        for &(_, fill) in pages {
            out.extend_from_slice(&[fill; PAGE_SIZE]);
        }
        out
    }

    fn head(kind: u8) -> Vec<u8> {
        let mut out = Vec::new();
        put_head(&mut out, kind);
        out
    }

    #[test]
    fn the_header_of_frames_is_laid_out_as_documented() {
        let bytes = encode_frames_header(b"test.db", 0, [3]);
        let mut want = head(2);
        want.extend_from_slice(b"test.db\0");
        want.extend_from_slice(&[0; 8]);
        want.extend_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0]);
        want.extend_from_slice(&[1, 0, 0, 0, 0, 0x10, 0, 0]);
        want.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes, want);
    }

    #[test]
    fn commands_of_old_logs_are_decoded() {
        let with = |kind: u8, rest: &[u8]| [head(kind), rest.to_vec()].concat();
        assert_eq!(
            Command::decode(&with(1, b"a\0\0\0\0\0\0\0")),
            Ok(Command::Open { name: b"a" })
        );
        assert_eq!(
            Command::decode(&with(3, &[9, 0, 0, 0, 0, 0, 0, 0])),
            Ok(Command::Undo { tx_id: 9 })
        );
        assert_eq!(
            Command::decode(&with(4, b"a\0\0\0\0\0\0\0")),
            Ok(Command::Checkpoint { name: b"a" })
        );
    }

    #[test]
    fn what_cannot_be_applied_is_malformed() {
        let good = frames(b"db", 0, &[(1, 7)]);
        let malformed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            match Command::decode(&bytes) {
                Err(DecodeError::Malformed { field, .. }) => field,
                other => panic!("decoded to {other:?}"),
            }
        };
        assert_eq!(malformed(0, 2), "command version");
        assert_eq!(malformed(1, 0), "command type");
        assert_eq!(malformed(1, 5), "command type");
        assert_eq!(malformed(16 + 8 + 4, 0), "is_commit");
        assert_eq!(malformed(16 + 16 + 5, 0), "page size");
        assert_eq!(malformed(40, 0), "page number");
        assert_eq!(malformed(40 + 3, 0x80), "page number");
        assert_eq!(malformed(40 + 7, 1), "page number");
    }

    #[test]
    fn without_pages_any_page_size_will_do() {
        let mut bytes = frames(b"db", 0, &[]);
        bytes[16 + 16 + 5] = 0;
        let Ok(Command::Frames(frames)) = Command::decode(&bytes) else {
            panic!("refused");
        };
        assert!(frames.is_empty());
        assert_eq!(frames.pages().count(), 0);
    }

    proptest! {
        #[test]
        fn frames_decode_to_what_was_encoded_and_no_truncation_does(
            name in proptest::collection::vec(1u8.., 0..20),
            tx_id: u64,
            pages in proptest::collection::vec((1u32..=PAGE_NUMBER_MAX, any::<u8>()), 0..4),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 50),
        ) {
            let bytes = frames(&name, tx_id, &pages);
            let Ok(Command::Frames(frames)) = Command::decode(&bytes) else {
                panic!("refused");
            };
            prop_assert_eq!(frames.name, &name[..]);
            prop_assert_eq!(frames.tx_id, tx_id);
            prop_assert_eq!(frames.len(), pages.len());
            prop_assert_eq!(frames.page_bytes().len(), pages.len() * PAGE_SIZE);
            let back: Vec<(u32, u8)> = frames.pages().map(|(n, page)| (n, page[0])).collect();
            prop_assert_eq!(back, pages);
            for cut in cuts {
                prop_assert!(Command::decode(&bytes[..cut.index(bytes.len())]).is_err());
            }
        }
    }
}
