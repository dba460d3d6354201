//! The `.meta` file of a snapshot: the configuration as of the snapshot.
//!
//! ```text
//! u64 1 (format)
//! u64 checksum of the rest, in the low 32 bits
//! u64 index of the entry that brought the configuration
//! u64 size of the configuration
//! configuration
//! ```
//!
//! Term and index of the snapshot are in the file's name ([`crate::disk::names`]). The checksum does
//! not cover the snapshot's data.

use crate::codec::{DecodeError, Reader, WORD, put_u64};
use crate::configuration::Configuration;
use crate::disk::checksum::checksum;

/// The largest configuration in bytes that readers accept.
pub const CONFIGURATION_SIZE_MAX: usize = 1 << 20;

const FORMAT: u64 = 1;
/// Where the part under the checksum begins.
const COVERED: usize = 2 * WORD;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMetaFile {
    /// Index of the entry that brought the configuration.
    pub configuration_index: u64,
    /// The configuration.
    pub configuration: Configuration,
}

impl SnapshotMetaFile {
    /// Reads a whole file.
    ///
    /// # Errors
    /// It is cut short, has another format or a wrong checksum, or the configuration is empty,
    /// larger than [`CONFIGURATION_SIZE_MAX`] or malformed.
    pub fn decode(file: &[u8]) -> Result<SnapshotMetaFile, DecodeError> {
        let mut r = Reader::new(file);
        if r.u64()? != FORMAT {
            return Err(r.malformed("snapshot format", WORD));
        }
        let expected = r.u64()?;
        let configuration_index = r.u64()?;
        let size = r.u64()?;
        let size = usize::try_from(size)
            .ok()
            .filter(|size| (1..=CONFIGURATION_SIZE_MAX).contains(size))
            .ok_or(r.malformed("configuration size", WORD))?;
        let start = r.offset();
        let configuration = r.bytes(size)?;
        if u64::from(checksum(&file[COVERED..r.offset()])) != expected {
            return Err(DecodeError::Malformed {
                field: "snapshot checksum",
                offset: WORD,
            });
        }
        let configuration = Configuration::decode(configuration)
            .map_err(|error| error.inside("configuration", start))?;
        Ok(SnapshotMetaFile {
            configuration_index,
            configuration,
        })
    }

    /// The content of the file.
    ///
    /// # Panics
    /// If the configuration is larger than [`CONFIGURATION_SIZE_MAX`]: tens of thousands of servers.
    pub fn encode(&self) -> Vec<u8> {
        let mut configuration = Vec::new();
        self.configuration.encode(&mut configuration);
        assert!(
            configuration.len() <= CONFIGURATION_SIZE_MAX,
            "the configuration can be read back"
        );
        let mut file = Vec::with_capacity(4 * WORD + configuration.len());
        put_u64(&mut file, FORMAT);
        put_u64(&mut file, 0);
        put_u64(&mut file, self.configuration_index);
        put_u64(&mut file, configuration.len() as u64);
        file.extend_from_slice(&configuration);
        let checksum = u64::from(checksum(&file[COVERED..]));
        file[WORD..COVERED].copy_from_slice(&checksum.to_le_bytes());
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::tests::any_configuration;
    use crate::configuration::{Role, Server};
    use proptest::prelude::*;

    fn example() -> SnapshotMetaFile {
        let server = Server {
            id: 1,
            address: "1".to_owned(),
            role: Role::Voter,
        };
        SnapshotMetaFile {
            configuration_index: 1,
            configuration: Configuration {
                servers: vec![server],
            },
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = example().encode();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut file = good.clone();
                file[at] ^= 1 << bit;
                assert!(
                    SnapshotMetaFile::decode(&file).is_err(),
                    "bit {bit} of byte {at}"
                );
            }
        }
    }

    #[test]
    fn empty_and_huge_configurations_are_malformed() {
        for size in [0, CONFIGURATION_SIZE_MAX as u64 + 1, u64::MAX] {
            let mut file = example().encode();
            file[24..32].copy_from_slice(&size.to_le_bytes());
            assert_eq!(
                SnapshotMetaFile::decode(&file),
                Err(DecodeError::Malformed {
                    field: "configuration size",
                    offset: 24
                })
            );
        }
    }

    proptest! {
        #[test]
        fn a_meta_file_decodes_to_what_was_encoded_and_no_truncation_does(
            configuration_index: u64,
            configuration in any_configuration(),
        ) {
            let meta = SnapshotMetaFile { configuration_index, configuration };
            let file = meta.encode();
            prop_assert_eq!(SnapshotMetaFile::decode(&file), Ok(meta));
            for len in 0..file.len() {
                let cut = SnapshotMetaFile::decode(&file[..len]);
                let incomplete = matches!(cut, Err(DecodeError::Incomplete { .. }));
                prop_assert!(incomplete);
            }
        }
    }
}
