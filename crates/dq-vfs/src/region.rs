//! A region of the WAL-index: 32 KiB that SQLite keeps a pointer to while the file is open.

use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wal_index::HEADER_SIZE;

/// Bytes of a region, as SQLite asks for them.
pub(crate) const REGION_SIZE: usize = 32 * 1024;

/// How many regions that nobody uses any more are kept for the next ones: connections come and go, and
/// mapping a region takes several times as long as making it zero.
const SPARE_MAX: usize = 16;

/// One region, mapped so that it is zero at first and its address never changes.
pub(crate) struct Region(NonNull<u8>);

// SAFETY: the memory belongs to the region alone; SQLite uses it only in calls on the connection
// that the region belongs to, and these are made by one thread at a time.
unsafe impl Send for Region {}

impl Region {
    /// Maps a region; `None` if there is no memory.
    pub(crate) fn map() -> Option<Region> {
        let spare = spare().pop();
        if let Some(region) = spare {
            // SAFETY: the range is exactly the mapping, which nobody else knows.
            unsafe { region.0.as_ptr().write_bytes(0, REGION_SIZE) };
            return Some(region);
        }
        // SAFETY: an anonymous mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                REGION_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return None;
        }
        NonNull::new(address.cast()).map(Region)
    }

    /// The address that SQLite is given.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// Copies the WAL-index header out.
    pub(crate) fn header(&self) -> [u8; HEADER_SIZE] {
        let mut header = [0; HEADER_SIZE];
        // SAFETY: the region is longer than the header, and nobody writes to it meanwhile: we are
        // inside a call of SQLite's, or outside all of them.
        unsafe {
            header
                .as_mut_ptr()
                .copy_from_nonoverlapping(self.0.as_ptr(), HEADER_SIZE)
        };
        header
    }

    /// Writes the WAL-index header.
    pub(crate) fn set_header(&mut self, header: &[u8; HEADER_SIZE]) {
        // SAFETY: as above.
        unsafe {
            self.0
                .as_ptr()
                .copy_from_nonoverlapping(header.as_ptr(), HEADER_SIZE)
        };
    }

    /// Gives the memory back; the region is zero afterwards, but for the header.
    pub(crate) fn discard(&mut self, header: &[u8; HEADER_SIZE]) {
        // SAFETY: the range is exactly our mapping.
        unsafe { libc::madvise(self.0.as_ptr().cast(), REGION_SIZE, libc::MADV_DONTNEED) };
        self.set_header(header);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let mut spare = spare();
        if spare.len() < SPARE_MAX {
            return spare.push(Region(self.0));
        }
        drop(spare);
        // SAFETY: the range is exactly our mapping, and SQLite has let go of it: regions live as
        // long as the connection's main file is open.
        unsafe { libc::munmap(self.0.as_ptr().cast(), REGION_SIZE) };
    }
}

/// Regions to be used again.
fn spare() -> MutexGuard<'static, Vec<Region>> {
    static SPARE: Mutex<Vec<Region>> = Mutex::new(Vec::new());
    // A panic elsewhere leaves a list of regions.
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_was_used_before_is_zero() {
        let header = [7; HEADER_SIZE];
        for _ in 0..3 {
            let regions: Vec<Region> = (0..SPARE_MAX + 3).filter_map(|_| Region::map()).collect();
            assert_eq!(regions.len(), SPARE_MAX + 3);
            for mut region in regions {
                // SAFETY: the region is as long, and only this test knows it.
                let bytes = unsafe { std::slice::from_raw_parts_mut(region.as_ptr(), REGION_SIZE) };
                assert!(bytes.iter().all(|byte| *byte == 0));
                bytes.fill(9);
                region.set_header(&header);
            }
            assert!(spare().len() <= SPARE_MAX);
        }
    }
}
