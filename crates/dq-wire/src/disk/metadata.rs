//! The two files that hold term and vote.
//!
//! ```text
//! u64 1 (format), u64 version, u64 term, u64 voted for (0: nobody)
//! ```
//!
//! Each write has the next version. Odd versions go to `metadata1`, even ones to `metadata2`, so the
//! file that is overwritten is always the older one, and a torn write leaves the other intact. There
//! is no checksum: the format relies on 32 bytes being written as a whole or not at all.

use std::fmt;

use crate::codec::{DecodeError, Reader, WORD};
use crate::disk::names::FileName;

/// What one of the files holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Number of the write, from 1.
    pub version: u64,
    /// Current term.
    pub term: u64,
    /// Node voted for in it, or 0.
    pub voted_for: u64,
}

/// Both files have the same version, which no sequence of writes can bring about: it cannot be told
/// which one counts, and guessing could vote twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SameVersion;

impl fmt::Display for SameVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metadata1 and metadata2 have the same version")
    }
}

impl std::error::Error for SameVersion {}

impl Metadata {
    /// Size of a file in bytes.
    pub const SIZE: usize = 32;
    const FORMAT: u64 = 1;

    /// Reads a whole file.
    ///
    /// # Errors
    /// `Incomplete` if it is shorter than [`Metadata::SIZE`]: the write that made it was torn, and
    /// the file counts as absent. `Malformed` if it is longer, or has another format or version 0:
    /// the directory must not be used.
    pub fn decode(file: &[u8]) -> Result<Metadata, DecodeError> {
        if file.len() < Metadata::SIZE {
            return Err(DecodeError::Incomplete {
                more: Metadata::SIZE - file.len(),
            });
        }
        if file.len() > Metadata::SIZE {
            return Err(DecodeError::Malformed {
                field: "metadata size",
                offset: Metadata::SIZE,
            });
        }
        let mut r = Reader::new(file);
        if r.u64()? != Metadata::FORMAT {
            return Err(r.malformed("metadata format", WORD));
        }
        let version = r.u64()?;
        if version == 0 {
            return Err(r.malformed("metadata version", WORD));
        }
        Ok(Metadata {
            version,
            term: r.u64()?,
            voted_for: r.u64()?,
        })
    }

    /// The content of the file.
    pub fn encode(&self) -> [u8; Metadata::SIZE] {
        let mut file = [0; Metadata::SIZE];
        let words = [Metadata::FORMAT, self.version, self.term, self.voted_for];
        for (place, word) in file.chunks_exact_mut(WORD).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        file
    }

    /// The name of the file that this version is written to.
    pub fn file_name(&self) -> FileName {
        if self.version % 2 == 1 {
            FileName::Metadata1
        } else {
            FileName::Metadata2
        }
    }

    /// Which of the two files counts, if any: that with the higher version.
    ///
    /// # Errors
    /// [`SameVersion`].
    pub fn newer(
        one: Option<Metadata>,
        other: Option<Metadata>,
    ) -> Result<Option<Metadata>, SameVersion> {
        match (one, other) {
            (Some(one), Some(other)) if one.version == other.version => Err(SameVersion),
            (Some(one), Some(other)) if one.version > other.version => Ok(Some(one)),
            (one, other) => Ok(other.or(one)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(version: u64) -> Metadata {
        Metadata {
            version,
            term: 7,
            voted_for: 2,
        }
    }

    #[test]
    fn a_torn_file_is_incomplete_and_a_longer_one_malformed() {
        let file = version(1).encode();
        assert_eq!(
            Metadata::decode(&file[..20]),
            Err(DecodeError::Incomplete { more: 12 })
        );
        let longer = [&file[..], &[0]].concat();
        assert_eq!(
            Metadata::decode(&longer),
            Err(DecodeError::Malformed {
                field: "metadata size",
                offset: 32
            })
        );
    }

    #[test]
    fn other_formats_and_version_zero_are_malformed() {
        let mut file = version(0).encode();
        assert_eq!(
            Metadata::decode(&file),
            Err(DecodeError::Malformed {
                field: "metadata version",
                offset: 8
            })
        );
        file[0] = 2;
        assert_eq!(
            Metadata::decode(&file),
            Err(DecodeError::Malformed {
                field: "metadata format",
                offset: 0
            })
        );
    }

    #[test]
    fn odd_versions_go_to_the_first_file() {
        assert_eq!(version(1).file_name(), FileName::Metadata1);
        assert_eq!(version(2).file_name(), FileName::Metadata2);
    }

    #[test]
    fn the_higher_version_counts() {
        let (one, two) = (Some(version(1)), Some(version(2)));
        assert_eq!(Metadata::newer(one, two), Ok(two));
        assert_eq!(Metadata::newer(two, one), Ok(two));
        assert_eq!(Metadata::newer(one, None), Ok(one));
        assert_eq!(Metadata::newer(None, one), Ok(one));
        assert_eq!(Metadata::newer(None, None), Ok(None));
        assert_eq!(Metadata::newer(one, one), Err(SameVersion));
    }

    proptest! {
        #[test]
        fn metadata_decode_to_what_was_encoded(version in 1u64.., term: u64, voted_for: u64) {
            let metadata = Metadata { version, term, voted_for };
            let file = metadata.encode();
            prop_assert_eq!(Metadata::decode(&file), Ok(metadata));
            for len in 0..file.len() {
                let more = Metadata::SIZE - len;
                prop_assert_eq!(
                    Metadata::decode(&file[..len]),
                    Err(DecodeError::Incomplete { more })
                );
            }
        }
    }
}
