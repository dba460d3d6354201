//! The checksum of everything on disk.
//!
//! It is a CRC-32 with the usual polynomial, `0x04C11DB7`, but with the most significant bit
//! first, 0 to begin with and nothing done to the result: neither zlib's nor any other with a
//! common name. It is that of POSIX `cksum` before the final complement.
//!
//! The checksum of zeros is 0, so it says nothing about a region that was never written.

use crc_fast::{CrcAlgorithm, Digest};

/// A checksum over bytes that come in pieces.
///
/// ```
/// let mut checksum = dq_wire::disk::checksum::Checksum::new();
/// checksum.update(b"1234");
/// checksum.update(b"56789");
/// assert_eq!(checksum.value(), 0x89A1_897F);
/// ```
#[derive(Debug, Clone)]
pub struct Checksum {
    digest: Digest,
}

impl Checksum {
    /// The checksum of nothing, which is 0.
    pub fn new() -> Checksum {
        Checksum {
            digest: Digest::new(CrcAlgorithm::Crc32Cksum),
        }
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// The checksum of all bytes so far.
    pub fn value(&self) -> u32 {
        // A 32-bit algorithm keeps its result in the low half.
        !(self.digest.finalize() as u32)
    }
}

impl Default for Checksum {
    fn default() -> Checksum {
        Checksum::new()
    }
}

/// The checksum of one piece.
pub fn checksum(bytes: &[u8]) -> u32 {
    let mut checksum = Checksum::new();
    checksum.update(bytes);
    checksum.value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, bit by bit.
    fn by_definition(bytes: &[u8]) -> u32 {
        bytes.iter().fold(0, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte) << 24, |crc, _| {
                crc << 1 ^ if crc >> 31 == 1 { 0x04C1_1DB7 } else { 0 }
            })
        })
    }

    #[test]
    fn the_check_value_is_right() {
        assert_eq!(checksum(b"123456789"), 0x89A1_897F);
        assert_eq!(by_definition(b"123456789"), 0x89A1_897F);
    }

    #[test]
    fn nothing_and_zeros_have_checksum_zero() {
        assert_eq!(checksum(&[]), 0);
        assert_eq!(checksum(&[0; 4096]), 0);
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_definition_gives(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 0..6),
        ) {
            let mut checksum = Checksum::new();
            for piece in &pieces {
                checksum.update(piece);
            }
            prop_assert_eq!(checksum.value(), by_definition(&pieces.concat()));
        }
    }
}
