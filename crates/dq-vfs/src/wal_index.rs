//! The header of a WAL-index, as bytes.
//!
//! SQLite finds out what the WAL holds from 136 bytes at the start of the WAL-index: two copies of
//! a 48-byte header, then what checkpoints and readers share. Nothing here is written by SQLite
//! but at a commit, and nothing else is needed to show it another state of the database: a header
//! that says "no frames, N pages" makes it read the main file, and a header that differs from the
//! one it remembers makes it drop its cache.
//!
//! ```text
//!   0 version  4 unused  8 change counter  12 initialised, byte order, page size
//!  16 mx_frame 20 page count  24 checksum of the last frame  32 salts  40 checksum of this header
//!  48 the same again
//!  96 backfilled frames  100 five read marks  120 lock bytes  128 attempted backfill  132 unused
//! ```
//!
//! All numbers are in the byte order of the machine. See the layout in SQLite's `wal.c`.

/// Bytes of the header with everything that belongs to it.
pub(crate) const HEADER_SIZE: usize = 136;
/// Version of the format, the only one there is.
const FORMAT: u32 = 3_007_000;
/// A read mark that nobody uses.
const UNUSED_MARK: u32 = u32::MAX;

/// What a header says of the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Number of the last frame of the last commit; 0 if there is none.
    pub(crate) mx_frame: u32,
    /// Pages of the database after it.
    pub(crate) page_count: u32,
}

/// A header of an empty WAL, on top of a main file of `page_count` pages, that SQLite takes for
/// different from every header with another version number.
#[expect(
    clippy::host_endian_bytes,
    reason = "the WAL-index is in the machine's byte order"
)]
pub(crate) fn empty(version_number: u64, page_count: u32) -> [u8; HEADER_SIZE] {
    let mut header = [0; 48];
    header[..4].copy_from_slice(&FORMAT.to_ne_bytes());
    header[8..12].copy_from_slice(&(version_number as u32).to_ne_bytes());
    header[12] = 1;
    header[13] = u8::from(cfg!(target_endian = "big"));
    header[14..16].copy_from_slice(&(crate::PAGE_SIZE as u16).to_ne_bytes());
    header[20..24].copy_from_slice(&page_count.to_ne_bytes());
    header[32..40].copy_from_slice(&version_number.to_ne_bytes());
    let [first, second] = checksum(&header[..40]);
    header[40..44].copy_from_slice(&first.to_ne_bytes());
    header[44..48].copy_from_slice(&second.to_ne_bytes());

    let mut all = [0; HEADER_SIZE];
    all[..48].copy_from_slice(&header);
    all[48..96].copy_from_slice(&header);
    for mark in 1..5 {
        let at = 100 + 4 * mark;
        all[at..at + 4].copy_from_slice(&UNUSED_MARK.to_ne_bytes());
    }
    all
}

/// What the first copy in a header says.
#[expect(
    clippy::host_endian_bytes,
    reason = "the WAL-index is in the machine's byte order"
)]
pub(crate) fn summary(header: &[u8; HEADER_SIZE]) -> Summary {
    let word = |at: usize| {
        u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    Summary {
        mx_frame: word(16),
        page_count: word(20),
    }
}

/// SQLite's checksum of a WAL, in the machine's byte order. See
/// <https://sqlite.org/fileformat2.html#checksum_algorithm>.
#[expect(
    clippy::host_endian_bytes,
    reason = "the WAL-index is in the machine's byte order"
)]
fn checksum(bytes: &[u8]) -> [u32; 2] {
    let mut sums = [0u32; 2];
    for pair in bytes.chunks_exact(8) {
        let first = u32::from_ne_bytes([pair[0], pair[1], pair[2], pair[3]]);
        let second = u32::from_ne_bytes([pair[4], pair[5], pair[6], pair[7]]);
        sums[0] = sums[0].wrapping_add(first).wrapping_add(sums[1]);
        sums[1] = sums[1].wrapping_add(second).wrapping_add(sums[0]);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_no_frames_and_the_number_of_pages() {
        let header = empty(7, 99);
        assert_eq!(
            summary(&header),
            Summary {
                mx_frame: 0,
                page_count: 99
            }
        );
        assert_eq!(header[..48], header[48..96], "both copies are the same");
    }

    #[test]
    fn headers_of_two_versions_differ_in_the_part_that_sqlite_compares() {
        let base = empty(1, 1);
        for number in [0, 2, 1 << 32 | 1, u64::MAX] {
            assert_ne!(empty(number, 1)[..48], base[..48], "version {number}");
        }
    }

    #[test]
    fn read_marks_are_unused_and_nothing_is_backfilled() {
        let header = empty(1, 1);
        assert_eq!(header[96..104], [0; 8]);
        assert_eq!(header[104..120], [255; 16]);
        assert_eq!(header[128..136], [0; 8]);
    }
}
