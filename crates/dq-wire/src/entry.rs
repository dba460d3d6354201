//! What a batch of log entries says of them before their bytes: the same on the wire
//! (AppendEntries) and on disk (segments).
//!
//! ```text
//! u64 count
//! per entry: u64 term, u8 kind, u8[3] unused, u32 size of its data in bytes
//! ```
//!
//! The data follow back to back, without padding, so every size is a multiple of 8. C dqlite rounds
//! each size up while it steps through the data: another size would make it read past the end.

use crate::codec::{DecodeError, Reader, WORD, put_u8, put_u32, put_u64, put_zeros};

/// What a log entry is; the numbers are those of the wire and the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A command for the databases ([`crate::Command`]).
    Command = 1,
    /// Eight zero bytes ([`crate::BARRIER_PAYLOAD`]); also the first entry of every term.
    Barrier = 2,
    /// The whole new configuration ([`crate::Configuration`]).
    Change = 3,
}

impl EntryKind {
    /// The kind that a code stands for.
    pub fn from_code(code: u8) -> Option<EntryKind> {
        match code {
            1 => Some(EntryKind::Command),
            2 => Some(EntryKind::Barrier),
            3 => Some(EntryKind::Change),
            _ => None,
        }
    }

    /// The code.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// One entry of a batch, without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// The term in which a leader created it, never 0.
    pub term: u64,
    /// What it is.
    pub kind: EntryKind,
    /// Size of its data in bytes, a multiple of 8.
    pub size: u32,
}

impl EntryHeader {
    /// Size of an encoded entry header in bytes.
    pub const SIZE: usize = 16;
}

/// Size in bytes of the encoded header of a batch.
pub fn batch_header_size(count: usize) -> usize {
    WORD + count * EntryHeader::SIZE
}

/// Appends the header of a batch.
///
/// # Panics
/// If a size is not a multiple of 8: such an entry makes C dqlite read past its buffer, so it must
/// not reach a disk or a peer.
pub fn encode_batch_header(out: &mut Vec<u8>, entries: &[EntryHeader]) {
    put_u64(out, entries.len() as u64);
    for entry in entries {
        assert!(
            entry.size.is_multiple_of(WORD as u32),
            "entries are whole words"
        );
        put_u64(out, entry.term);
        put_u8(out, entry.kind.code());
        put_zeros(out, 3);
        put_u32(out, entry.size);
    }
}

/// Reads the header of a batch of at most `max` entries.
///
/// # Errors
/// `Incomplete` if it is cut short. `Malformed` if there are too many entries, or one has term 0, a
/// kind without a meaning, or a size that is not a multiple of 8.
pub fn decode_batch_header(
    reader: &mut Reader<'_>,
    max: usize,
) -> Result<Vec<EntryHeader>, DecodeError> {
    let count = reader.u64()?;
    let count = usize::try_from(count)
        .ok()
        .filter(|&count| count <= max)
        .ok_or(reader.malformed("entry count", WORD))?;
    let room = reader.remaining() / EntryHeader::SIZE;
    if count > room {
        let begun = reader.remaining() % EntryHeader::SIZE;
        return Err(DecodeError::Incomplete {
            more: (count - room) * EntryHeader::SIZE - begun,
        });
    }
    (0..count)
        .map(|_| {
            let term = reader.u64()?;
            if term == 0 {
                return Err(reader.malformed("entry term", WORD));
            }
            let kind =
                EntryKind::from_code(reader.u8()?).ok_or(reader.malformed("entry kind", 1))?;
            reader.bytes(3)?;
            let size = reader.u32()?;
            if !size.is_multiple_of(WORD as u32) {
                return Err(reader.malformed("entry size", 4));
            }
            Ok(EntryHeader { term, kind, size })
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Batches that may be encoded.
    pub(crate) fn any_entries() -> impl Strategy<Value = Vec<EntryHeader>> {
        let kind = prop_oneof![
            Just(EntryKind::Command),
            Just(EntryKind::Barrier),
            Just(EntryKind::Change)
        ];
        let entry = (1u64.., kind, 0u32..64).prop_map(|(term, kind, words)| EntryHeader {
            term,
            kind,
            size: words * 8,
        });
        proptest::collection::vec(entry, 0..10)
    }

    fn batch(term: u64, kind: u8, size: u32) -> Vec<u8> {
        let mut out = Vec::new();
        put_u64(&mut out, 1);
        put_u64(&mut out, term);
        put_u8(&mut out, kind);
        out.extend_from_slice(&[9, 9, 9]);
        put_u32(&mut out, size);
        out
    }

    #[test]
    fn terms_kinds_and_sizes_that_cannot_be_are_malformed() {
        let decode = |bytes: &[u8]| decode_batch_header(&mut Reader::new(bytes), 10);
        let entry = EntryHeader {
            term: 1,
            kind: EntryKind::Command,
            size: 8,
        };
        assert_eq!(
            decode(&batch(1, 1, 8)),
            Ok(vec![entry]),
            "unused bytes are ignored"
        );
        for (bytes, field, offset) in [
            (batch(0, 1, 8), "entry term", 8),
            (batch(1, 0, 8), "entry kind", 16),
            (batch(1, 4, 8), "entry kind", 16),
            (batch(1, 1, 9), "entry size", 20),
        ] {
            assert_eq!(
                decode(&bytes),
                Err(DecodeError::Malformed { field, offset })
            );
        }
    }

    #[test]
    fn more_entries_than_allowed_are_malformed_before_room_is_made() {
        let bytes = u64::MAX.to_le_bytes();
        assert_eq!(
            decode_batch_header(&mut Reader::new(&bytes), 10),
            Err(DecodeError::Malformed {
                field: "entry count",
                offset: 0
            })
        );
        assert_eq!(
            decode_batch_header(&mut Reader::new(&10u64.to_le_bytes()), 10),
            Err(DecodeError::Incomplete { more: 160 })
        );
    }

    #[test]
    #[should_panic(expected = "entries are whole words")]
    fn an_entry_that_would_hurt_a_peer_is_never_encoded() {
        let entry = EntryHeader {
            term: 1,
            kind: EntryKind::Command,
            size: 7,
        };
        encode_batch_header(&mut Vec::new(), &[entry]);
    }

    proptest! {
        #[test]
        fn a_batch_header_decodes_to_what_was_encoded(entries in any_entries()) {
            let mut out = Vec::new();
            encode_batch_header(&mut out, &entries);
            prop_assert_eq!(out.len(), batch_header_size(entries.len()));
            let mut reader = Reader::new(&out);
            prop_assert_eq!(decode_batch_header(&mut reader, entries.len()), Ok(entries));
            prop_assert!(reader.is_empty());
            for len in 0..out.len() {
                let mut reader = Reader::new(&out[..len]);
                let cut = decode_batch_header(&mut reader, 100);
                let incomplete = matches!(cut, Err(DecodeError::Incomplete { .. }));
                prop_assert!(incomplete);
            }
        }
    }
}
