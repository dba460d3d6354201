//! One page: 4096 bytes that never change, shared by all who need them.

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use crate::slab;

/// Bytes of a page. Fixed: dqlite has never supported another size.
pub const PAGE_SIZE: usize = 4096;

/// The page at byte 2^30 of a database file, which SQLite never uses: its locks live there.
/// See <https://sqlite.org/fileformat2.html#the_lock_byte_page>.
pub const PENDING_BYTE_PAGE: PageNo = PageNo(0x4000_0000 / PAGE_SIZE as u32 + 1);

/// Number of a page in a database, from 1.
///
/// The number 0 can be written down but names no page: versions hold none for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(pub u32);

impl fmt::Display for PageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A page: [`PAGE_SIZE`] bytes, immutable and reference-counted.
///
/// Cloning one costs an atomic addition. At least 256 bytes after a page are mapped memory, because
/// SQLite reads a little past the end of a page of a corrupt database.
pub struct Page(NonNull<u8>);

// SAFETY: the bytes never change once the page is made, and the count is atomic.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Copies `bytes` into a new page; what is missing to [`PAGE_SIZE`] becomes zeros, what is
    /// longer is cut.
    pub fn copy_from(bytes: &[u8]) -> Page {
        let page = slab::allocate();
        let n = bytes.len().min(PAGE_SIZE);
        // SAFETY: the page is ours alone until it is returned, PAGE_SIZE bytes long, and new, so
        // that `bytes` cannot overlap it.
        unsafe {
            page.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), n);
            page.as_ptr().add(n).write_bytes(0, PAGE_SIZE - n);
        }
        Page(page)
    }

    /// Copies [`PAGE_SIZE`] bytes that may be uninitialised as far as Rust is concerned.
    ///
    /// # Safety
    /// `bytes` is valid for reads of [`PAGE_SIZE`] bytes.
    pub(crate) unsafe fn copy_from_raw(bytes: *const u8) -> Page {
        let page = slab::allocate();
        // SAFETY: the caller's promise; the page is new and ours alone.
        unsafe { page.as_ptr().copy_from_nonoverlapping(bytes, PAGE_SIZE) };
        Page(page)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; PAGE_SIZE] {
        // SAFETY: the page is alive as long as `self`, written before it was shared, and never
        // again.
        unsafe { self.0.cast::<[u8; PAGE_SIZE]>().as_ref() }
    }

    /// True if both are the same page in memory, not only equal.
    pub fn is_same(&self, other: &Page) -> bool {
        self.0 == other.0
    }

    /// The four bytes at `offset`, as SQLite stores numbers: the highest byte first.
    pub(crate) fn be32(&self, offset: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.bytes()[offset..offset + 4]);
        u32::from_be_bytes(word)
    }
}

impl Clone for Page {
    fn clone(&self) -> Page {
        // SAFETY: `self` keeps the page alive.
        let before = unsafe { slab::count(self.0) }.fetch_add(1, Ordering::Relaxed);
        // Two thousand million references would be a leak; overflow would free a page in use.
        assert!(before < u32::MAX / 2);
        Page(self.0)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: `self` keeps the page alive until the count is lowered; who lowers it to zero
        // is the last, and frees it.
        unsafe {
            if slab::count(self.0).fetch_sub(1, Ordering::Release) == 1 {
                fence(Ordering::Acquire);
                slab::free(self.0);
            }
        }
    }
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl PartialEq for Page {
    fn eq(&self, other: &Page) -> bool {
        self.is_same(other) || self.bytes() == other.bytes()
    }
}

impl Eq for Page {}

impl fmt::Debug for Page {
    /// Shows no content: pages hold the users' data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page(..)")
    }
}
