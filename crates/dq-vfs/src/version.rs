//! One immutable state of a database: which page has which content, and how many there are.
//!
//! A database is a sequence of versions. Cloning one costs O(1); making one from another copies
//! only the paths of the page table that lead to changed pages, and everything else is shared. A
//! reader holds a version for as long as it reads; when the last holder lets go, the pages that no
//! other version has are freed.
//!
//! Invariants:
//! - No page at or behind the page count is held.
//! - `fingerprint` is a function of the content alone: the same pages give the same number
//!   whichever way the version came about.
//! - Numbers identify versions: who makes one takes a number that was never used before for any
//!   database of the process. SQLite believes its cache when the number looks the same.
//!
//! Not in here: which version is committed and which one is the head. The node knows that.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::page::PENDING_BYTE_PAGE;
use crate::radix::Tree;
use crate::{PAGE_SIZE, Page, PageNo};

/// Offset in page 1 of the size of the database in pages.
const SIZE_OFFSET: usize = 28;

/// One immutable state of a database. See the module's text.
#[derive(Clone)]
pub struct Version {
    number: u64,
    page_count: u32,
    /// Pages that its predecessors had and their successors not, over all of its history.
    replaced: u64,
    tree: Tree,
}

/// Why a set of pages cannot be applied to a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyError {
    /// A page has the number 0.
    PageZero,
    /// The database grows to `page_count` pages, but the page with that number is not there.
    LastPageMissing {
        /// Number of pages that the new page 1 states.
        page_count: u32,
    },
}

impl Version {
    /// The empty database: the one page that SQLite writes when a new file with 4096-byte pages
    /// is switched to WAL mode.
    ///
    /// The "written by" field is a constant, so that nodes with different builds of SQLite start
    /// from the same bytes.
    pub fn empty(number: u64) -> Version {
        Version::from_pages(number, [Page::copy_from(&empty_page_one())])
    }

    /// A version with these pages, numbered from 1 in order.
    pub fn from_pages(number: u64, pages: impl IntoIterator<Item = Page>) -> Version {
        let mut tree = Tree::default();
        let mut page_count = 0;
        for page in pages {
            page_count += 1;
            put(&mut tree, PageNo(page_count), &page);
        }
        Version {
            number,
            page_count,
            replaced: 0,
            tree,
        }
    }

    /// The version that follows from this one by writing `pages` and setting the size to
    /// `page_count`. Pages numbered 0 or beyond the new size are left out.
    pub fn successor(&self, number: u64, pages: &[(PageNo, Page)], page_count: u32) -> Version {
        let mut tree = self.tree.clone();
        let mut replaced = self.replaced;
        if page_count < self.page_count {
            tree.truncate(page_count);
            replaced += u64::from(self.page_count - page_count);
        }
        for (page_no, page) in pages {
            if page_no.0 >= 1 && page_no.0 <= page_count {
                replaced += u64::from(put(&mut tree, *page_no, page));
            }
        }
        Version {
            number,
            page_count,
            replaced,
            tree,
        }
    }

    /// The version that follows from applying a FRAMES log entry, whoever wrote the entry.
    ///
    /// As in dqlite since 1.18.2 the new size is what page 1 of the entry says, where 0 (written
    /// by `PRAGMA delete_database`) means 1; without page 1 the size stays.
    pub fn apply(&self, number: u64, pages: &[(PageNo, Page)]) -> Result<Version, ApplyError> {
        let page_count = self.size_after(pages)?;
        Ok(self.successor(number, pages, page_count))
    }

    /// The size that applying `pages` leads to.
    fn size_after(&self, pages: &[(PageNo, Page)]) -> Result<u32, ApplyError> {
        if pages.iter().any(|(page_no, _)| page_no.0 == 0) {
            return Err(ApplyError::PageZero);
        }
        let page_one = pages.iter().rfind(|(page_no, _)| page_no.0 == 1);
        let page_count = page_one.map_or(self.page_count, |(_, page)| size_field(page).max(1));
        if page_count > self.page_count && !pages.iter().any(|(page_no, _)| page_no.0 == page_count)
        {
            return Err(ApplyError::LastPageMissing { page_count });
        }
        Ok(page_count)
    }

    /// True if every node that applies `pages` to this version arrives at `page_count` pages.
    ///
    /// That is so if page 1, when it is among them, states this size (0 counts as 1); if the size
    /// stays the same when page 1 is not among them; and if a growing database brings its last
    /// page. SQLite always writes like this; a transaction that does not must not be replicated.
    pub fn check_size(&self, pages: &[(PageNo, Page)], page_count: u32) -> bool {
        // By the size alone: a version would cost a hash of every page.
        self.size_after(pages) == Ok(page_count)
    }

    /// The number that this version was given.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The same content under another number, which must never have been used before.
    pub fn with_number(mut self, number: u64) -> Version {
        self.number = number;
        self
    }

    /// Size of the database in pages.
    pub fn page_count(&self) -> u32 {
        self.page_count
    }

    /// The page with this number; `None` for 0 and beyond the end.
    ///
    /// The page at the pending byte, which SQLite never writes, is a page of zeros.
    pub fn page(&self, page_no: PageNo) -> Option<&Page> {
        if page_no.0 < 1 || page_no.0 > self.page_count {
            return None;
        }
        Some(self.tree.get(page_no.0 - 1).unwrap_or_else(|| zero_page()))
    }

    /// How many pages the versions between `older` and this one have replaced or cut off: at least as
    /// many as [`Version::pages_not_in`] says, and known at once.
    pub fn replaced_since(&self, older: &Version) -> u64 {
        match self.replaced.checked_sub(older.replaced) {
            Some(replaced) => replaced,
            // Not a successor of it at all.
            None => u64::from(older.page_count),
        }
    }

    /// How many pages of this version `newer` does not share: what is freed, if nobody else has it,
    /// when this version goes. Takes time in proportion to that.
    pub fn pages_not_in(&self, newer: &Version) -> u64 {
        self.tree.only_here(&newer.tree)
    }

    /// All pages in order, from page 1.
    pub fn pages(&self) -> impl Iterator<Item = &Page> {
        (1..=self.page_count).filter_map(|page_no| self.page(PageNo(page_no)))
    }

    /// A 56-bit fingerprint of the content: the sum modulo 2^56, over all pages, of the XXH3-64
    /// hash of the page with the page's number as seed; pages of zeros count 0.
    pub fn fingerprint(&self) -> u64 {
        self.tree.sum() & ((1 << 56) - 1)
    }

    /// True if this is what `PRAGMA delete_database` leaves: one page whose header states the
    /// size 0. SQLite never writes that itself; the next write to the database ends it.
    pub fn is_empty_database(&self) -> bool {
        self.page_count <= 1
            && self
                .page(PageNo(1))
                .is_none_or(|page| size_field(page) == 0)
    }

    /// True if there is nothing in it: it was deleted, or is as opening makes it.
    pub fn holds_nothing(&self) -> bool {
        let as_opened = |page: &Page| *page.bytes() == empty_page_one();
        self.is_empty_database()
            || self.page_count == 1 && self.page(PageNo(1)).is_some_and(as_opened)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Version")
            .field("number", &self.number)
            .field("page_count", &self.page_count)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::PageZero => f.write_str("a page has the number 0"),
            ApplyError::LastPageMissing { page_count } => {
                write!(f, "grows to {page_count} pages without page {page_count}")
            }
        }
    }
}

impl std::error::Error for ApplyError {}

/// Puts a page into the table, with its hash. True if another one was there.
fn put(tree: &mut Tree, page_no: PageNo, page: &Page) -> bool {
    let bytes = page.bytes();
    // The page at the pending byte counts as zeros whatever somebody wrote there: entries of
    // SQLite lack it, so versions must not differ by it.
    if page_no == PENDING_BYTE_PAGE {
        return false;
    }
    let hash = if *bytes == [0; PAGE_SIZE] {
        0
    } else {
        xxh3_64_with_seed(bytes, u64::from(page_no.0))
    };
    tree.set(page_no.0 - 1, page.clone(), hash)
}

fn size_field(page_one: &Page) -> u32 {
    page_one.be32(SIZE_OFFSET)
}

fn zero_page() -> &'static Page {
    static ZERO: std::sync::LazyLock<Page> = std::sync::LazyLock::new(|| Page::copy_from(&[]));
    &ZERO
}

/// See <https://sqlite.org/fileformat2.html#the_database_header>.
fn empty_page_one() -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    page[..16].copy_from_slice(b"SQLite format 3\0");
    page[16..18].copy_from_slice(&4096u16.to_be_bytes());
    page[18..20].copy_from_slice(&[2, 2]); // WAL, for writing and for reading
    page[21..24].copy_from_slice(&[64, 32, 32]);
    page[27] = 1; // change counter
    page[31] = 1; // size
    page[95] = 1; // the size is valid for this change counter
    page[96..100].copy_from_slice(&3_046_001u32.to_be_bytes());
    page[100] = 0x0d; // an empty leaf of a table
    page[105..107].copy_from_slice(&4096u16.to_be_bytes());
    page
}

/// Page 1 as `PRAGMA delete_database` leaves it, the only page of what is replicated.
///
/// As in dqlite since 1.18.3 (`src/vfs.c`): the first hundred bytes of the old page 1 with the
/// fields of a new database, its size field 0 as the mark of the deletion, and an empty schema
/// after it. The schema cookie goes up, so that statements are prepared anew, and the "valid for"
/// number is a constant, so that SQLite does not trust the size field.
pub(crate) fn deleted_page_one(old: &Page) -> Page {
    let mut bytes = empty_page_one();
    bytes[..100].copy_from_slice(&old.bytes()[..100]);
    let cookie = old.be32(40).wrapping_add(1);
    bytes[40..44].copy_from_slice(&cookie.to_be_bytes());
    // Size; first free page, number of free pages; default cache size, largest root page
    // (auto-vacuum); user version, incremental vacuum, application id.
    for field in [SIZE_OFFSET, 32, 36, 48, 52, 60, 64, 68] {
        bytes[field..field + 4].fill(0);
    }
    bytes[92..96].copy_from_slice(&[1, 0, 0, 0]);
    Page::copy_from(&bytes)
}
