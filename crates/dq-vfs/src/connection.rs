//! What one connection shows to SQLite: locks, the pinned version, the private WAL.
//!
//! Each SQLite connection believes that it shares a database file, a WAL and a WAL-index with
//! others. In truth all three are its own: the main file reads from the version that is pinned,
//! WAL and WAL-index are private. Two locks carry all the meaning.
//!
//! *The read lock* (a shared lock on a read slot). When it is taken, the granted version is
//! pinned. If header and frames do not show this version already, the WAL starts over and the
//! header is rewritten to "no frames, N pages"; SQLite sees the change, drops its cache and tries
//! once more, as when another process had committed. When the lock is released, so is the pin.
//!
//! *The write lock.* The grant says whether it may be taken. When it is released, the header tells
//! what SQLite committed, and the pages are kept as a [`Capture`] for the node, which makes a
//! version of them or not.
//!
//! ```text
//!            grant                 read lock              commit
//!   idle  ──────────▶  granted  ─────────────▶  pinned  ─────────▶  chain  (shown: Chain)
//!    ▲                    ▲                        │                   │ published(version)
//!    │ release            └── read lock released ──┘                   ▼
//!    └──────────────────────────────────────────────────  shown: Version(number), frames kept
//! ```
//!
//! Frames of own commits stay as long as nobody else has written in between: then header, frames
//! and cache still show the head, and starting over would only cost time.
//!
//! Invariants:
//! - The pin does not move while a read slot or the write lock is held.
//! - The header is written by us only when the first region is mapped and when the read lock is
//!   taken with no other lock held: never within a transaction.
//! - Frames are only read on top of the version they were written on, or of a version that equals
//!   it with the frames applied.
//! - With no lock held, nothing unpublished and no grant, no version is held.
//!
//! Not in here: which version is the head, and who may write when. The node grants both.

use log::error;

use crate::region::Region;
use crate::version::deleted_page_one;
use crate::wal::{Part, WAL_HEADER_SIZE, Wal, commit_size, frame_page_no};
use crate::wal_index::{self, HEADER_SIZE};
use crate::{PAGE_SIZE, Page, PageNo, Version};

use libsqlite3_sys as sqlite;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// More frames than this are not kept over a new pin: each holds a page.
const KEPT_FRAMES: usize = 32;

/// Locks of a WAL-index, by their number.
const WRITE_SLOT: usize = 0;
const CHECKPOINT_SLOT: usize = 1;
const FIRST_READ_SLOT: usize = 3;
const SLOTS: usize = 8;

/// What the node allows a connection to do next.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The version that the next read lock outside a transaction pins.
    pub pin: Version,
    /// Whether the connection may write.
    pub write: Write,
}

/// Whether a connection may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// It may not: taking the write lock fails with SQLITE_BUSY (5), and
    /// [`Db::wanted_write`](crate::Db::wanted_write) tells of it. So does a commit.
    None,
    /// It has the database's only turn to write. Taking the write lock works if what the
    /// connection has pinned, or its own last commit, is the head; else SQLITE_BUSY_SNAPSHOT (517).
    Slot {
        /// Number of the version that is the head.
        head: u64,
    },
    /// It may write, but the commit fails with this extended result code and rolls back.
    Refuse {
        /// An SQLite extended result code other than SQLITE_BUSY, such as 10250.
        code: i32,
    },
}

/// What a transaction changed.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Number of the version that the transaction was made on. Several captures of one job have
    /// the same base: each goes on top of the ones before it.
    pub base: u64,
    /// The changed pages in their last state, ascending, each once, none beyond `page_count`.
    pub pages: Vec<(PageNo, Page)>,
    /// Size of the database afterwards.
    pub page_count: u32,
    /// True if this is a `PRAGMA delete_database`: the one page is page 1 with size field 0, as
    /// dqlite replicates it. Nothing of the base remains.
    pub delete_database: bool,
}

/// What header, frames and SQLite's cache show together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// Nothing that could be used again: the next pin starts over.
    Nothing,
    /// The version with this number.
    Version(u64),
    /// Own commits that the node has not made a version of, on top of the chain's base.
    Chain,
}

/// Own commits of which the node has made no version yet.
struct Chain {
    /// Number of the version below the first of them.
    base: u64,
    /// After `delete_database`: what the next read lock pins.
    deleted: Option<Version>,
}

/// A result code of SQLite other than SQLITE_OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) i32);

pub(crate) struct Connection {
    grant: Option<Grant>,
    pin: Option<Version>,
    shown: Shown,
    /// True if the frames are own commits, so that a publication names what is shown.
    own_frames: bool,
    chain: Option<Chain>,
    wal: Wal,
    regions: Vec<Region>,
    /// Read slots that are held, one bit each.
    read_slots: u8,
    /// While the write lock is held: the version below the transaction.
    writing: Option<u64>,
    /// Pointers into pages of the pin that SQLite has not returned.
    fetched: usize,
    /// Pins that ended while SQLite still had pointers into them; see `unpin`.
    overdue: Vec<Version>,
    captures: Vec<Capture>,
    wanted_write: bool,
    page_limit: usize,
    /// `PRAGMA delete_database` was run in the transaction that is open.
    delete_asked: bool,
    /// SQLite has begun to commit the transaction that is open.
    committing: bool,
    mmap_size: i64,
}

impl Connection {
    pub(crate) fn new() -> Connection {
        Connection {
            grant: None,
            pin: None,
            shown: Shown::Nothing,
            own_frames: false,
            chain: None,
            wal: Wal::default(),
            regions: Vec::new(),
            read_slots: 0,
            writing: None,
            fetched: 0,
            overdue: Vec::new(),
            captures: Vec::new(),
            wanted_write: false,
            page_limit: usize::MAX,
            delete_asked: false,
            committing: false,
            mmap_size: i64::MAX,
        }
    }

    // What the node says and asks.

    pub(crate) fn grant(&mut self, grant: Grant) {
        if self.captures.is_empty() && self.chain.take().is_some() {
            // Taken, but no version was made of them: these commits never happened.
            self.shown = Shown::Nothing;
            // A transaction on top of them, still open, is on top of nothing the node knows.
            self.writing = self.writing.map(|_| unnamed_number());
            self.unpin_if_idle();
        }
        self.grant = Some(grant);
    }

    /// The job is over. True if its last transactions were so large that SQLite should drop its
    /// cache too.
    pub(crate) fn release(&mut self) -> bool {
        self.grant = None;
        self.unpin_if_idle();
        let large = self.is_settled() && self.wal.frame_count() > KEPT_FRAMES;
        if large {
            self.wal.restart();
            self.shown = Shown::Nothing;
        }
        large
    }

    /// Gives back what only speed needs; true if SQLite may drop its cache too.
    pub(crate) fn shrink(&mut self) -> bool {
        if !self.is_settled() {
            return false;
        }
        self.wal.restart();
        self.shown = Shown::Nothing;
        for (i, region) in self.regions.iter_mut().enumerate() {
            // Only the first has a header. The number names no version: the next pin rewrites it.
            let header = if i == 0 {
                wal_index::empty(unnamed_number(), 0)
            } else {
                [0; HEADER_SIZE]
            };
            region.discard(&header);
        }
        true
    }

    pub(crate) fn published(&mut self, version: &Version) {
        if self.chain.is_none() && (!self.own_frames || self.shown == Shown::Nothing) {
            return;
        }
        let chain = self.chain.take();
        if let (Some(writing), Some(chain)) = (&mut self.writing, &chain)
            && *writing == chain.base
        {
            // The next transaction has begun on top of the chain already.
            *writing = version.number();
        }
        let deleted = chain.is_some_and(|chain| chain.deleted.is_some());
        self.shown = match self.shown {
            Shown::Chain | Shown::Version(_) if self.own_frames && !deleted => {
                Shown::Version(version.number())
            }
            _ => Shown::Nothing,
        };
        if let Some(grant) = &mut self.grant {
            grant.pin = version.clone();
            if let Write::Slot { head } = &mut grant.write {
                *head = version.number();
            }
        }
        self.unpin_if_idle();
    }

    pub(crate) fn take_captures(&mut self) -> Vec<Capture> {
        std::mem::take(&mut self.captures)
    }

    pub(crate) fn take_wanted_write(&mut self) -> bool {
        std::mem::take(&mut self.wanted_write)
    }

    pub(crate) fn set_page_limit(&mut self, pages: usize) {
        self.page_limit = pages;
    }

    pub(crate) fn pinned(&self) -> Option<u64> {
        self.pin.as_ref().map(Version::number)
    }

    pub(crate) fn pinned_version(&self) -> Option<&Version> {
        self.pin.as_ref()
    }

    // The WAL-index.

    pub(crate) fn map_region(
        &mut self,
        index: usize,
        extend: bool,
    ) -> Result<Option<NonNull<u8>>, Code> {
        while self.regions.len() <= index {
            // Region 0 comes with its header even for a reader, or SQLite would run a recovery.
            if !extend && index != 0 {
                return Ok(None);
            }
            let mut region = Region::map().ok_or(Code(sqlite::SQLITE_NOMEM))?;
            if self.regions.is_empty() {
                let main = self
                    .main()
                    .map(|version| (version.number(), version.page_count()));
                let (number, page_count) = main.unwrap_or((unnamed_number(), 0));
                region.set_header(&wal_index::empty(number, page_count));
                self.shown = Shown::Version(number);
            }
            self.regions.push(region);
        }
        Ok(NonNull::new(self.regions[index].as_ptr()))
    }

    pub(crate) fn unmap_regions(&mut self) {
        self.regions.clear();
        self.shown = Shown::Nothing;
    }

    pub(crate) fn lock_shared(&mut self, slot: usize) -> Result<(), Code> {
        if (FIRST_READ_SLOT..SLOTS).contains(&slot) {
            if self.is_idle() {
                self.pin_granted()?;
            }
            self.read_slots |= 1 << slot;
        }
        Ok(())
    }

    pub(crate) fn unlock_shared(&mut self, slot: usize) {
        if (FIRST_READ_SLOT..SLOTS).contains(&slot) {
            self.read_slots &= !(1 << slot);
            self.unpin_if_idle();
        }
    }

    pub(crate) fn lock_exclusive(&mut self, first: usize, count: usize) -> Result<(), Code> {
        let slots = first..first.saturating_add(count);
        if slots.contains(&CHECKPOINT_SLOT) {
            // No checkpoint ever: there is no file to write back to.
            return Err(Code(sqlite::SQLITE_BUSY));
        }
        if !slots.contains(&WRITE_SLOT) {
            // Read marks are ours alone.
            return Ok(());
        }
        let shown = match (self.shown, &self.chain) {
            (Shown::Version(number), _) => Some(number),
            (Shown::Chain, Some(chain)) => Some(chain.base),
            _ => None,
        };
        let base = match self.grant.as_ref().map_or(Write::None, |grant| grant.write) {
            Write::None => {
                self.wanted_write = true;
                return Err(Code(sqlite::SQLITE_BUSY));
            }
            Write::Slot { head } if shown != Some(head) => {
                return Err(Code(sqlite::SQLITE_BUSY_SNAPSHOT));
            }
            // A commit now will fail. A later one, under another grant, will not if what is below
            // it is still the head.
            Write::Slot { .. } | Write::Refuse { .. } => shown.unwrap_or_else(unnamed_number),
        };
        self.writing = Some(base);
        self.delete_asked = false;
        self.committing = false;
        Ok(())
    }

    pub(crate) fn unlock_exclusive(&mut self, first: usize) {
        if first != WRITE_SLOT {
            return;
        }
        let Some(base) = self.writing.take() else {
            return;
        };
        let summary = self
            .regions
            .first()
            .map(|region| wal_index::summary(&region.header()));
        let (mx_frame, page_count) = summary.map_or((0, 0), |summary| {
            (summary.mx_frame as usize, summary.page_count)
        });
        if let Some(pages) = self.wal.end_write(mx_frame, page_count) {
            self.captures.push(Capture {
                base,
                pages,
                page_count,
                delete_database: false,
            });
            self.chain.get_or_insert(Chain {
                base,
                deleted: None,
            });
            self.shown = Shown::Chain;
            self.own_frames = true;
        } else if self.delete_asked && self.committing {
            self.delete_database(base);
        }
        self.delete_asked = false;
        self.committing = false;
        self.unpin_if_idle();
    }

    /// Pins what the next transaction reads, and makes the header show it.
    fn pin_granted(&mut self) -> Result<(), Code> {
        if let Some(chain) = &mut self.chain {
            // What was committed in this job is there for the rest of the job.
            if let Some(version) = chain.deleted.take() {
                self.restart(&version);
                self.pin = Some(version);
                self.shown = Shown::Chain;
            }
            return Ok(());
        }
        let Some(grant) = &self.grant else {
            error!("a statement ran without a grant");
            return Err(Code(sqlite::SQLITE_IOERR_SHMLOCK));
        };
        let version = grant.pin.clone();
        if self.shown != Shown::Version(version.number()) || self.wal.frame_count() > KEPT_FRAMES {
            self.restart(&version);
        }
        self.pin = Some(version);
        Ok(())
    }

    /// Starts the WAL over on top of `version`.
    fn restart(&mut self, version: &Version) {
        self.wal.restart();
        self.own_frames = false;
        if let Some(region) = self.regions.first_mut() {
            region.set_header(&wal_index::empty(version.number(), version.page_count()));
        }
        self.shown = Shown::Version(version.number());
    }

    /// True if no lock is held that keeps the pin where it is.
    fn is_idle(&self) -> bool {
        self.read_slots == 0 && self.writing.is_none()
    }

    /// True if nobody needs the frames: nothing is read, and nothing waits to be published.
    fn is_settled(&self) -> bool {
        self.is_idle() && self.chain.is_none()
    }

    fn unpin_if_idle(&mut self) {
        // Unpublished frames lie on top of the pin, unless a deletion made it void.
        let needed = self
            .chain
            .as_ref()
            .is_some_and(|chain| chain.deleted.is_none());
        if !self.is_idle() || needed {
            return;
        }
        let Some(version) = self.pin.take() else {
            return;
        };
        if self.fetched > 0 {
            // SQLite returns every pointer before it releases its lock. Should it ever not, the
            // pages must stay where they are.
            error!(
                "{} pages were not returned with the read lock",
                self.fetched
            );
            self.overdue.push(version);
        }
    }

    /// Makes a capture of the deletion of everything.
    fn delete_database(&mut self, base: u64) {
        let old = self
            .wal
            .page_one()
            .or_else(|| self.pin.as_ref()?.page(PageNo(1)));
        let Some(old) = old else { return };
        let page = deleted_page_one(old);
        let version = Version::from_pages(unnamed_number(), [page.clone()]);
        self.captures.push(Capture {
            base,
            pages: vec![(PageNo(1), page)],
            page_count: 1,
            delete_database: true,
        });
        // A statement that is still reading goes on with what it has; it can write no more.
        self.chain = Some(Chain {
            base,
            deleted: Some(version),
        });
        self.shown = Shown::Nothing;
    }

    /// Notes that the open transaction is to delete the database, or says why it cannot.
    pub(crate) fn ask_delete_database(&mut self) -> Result<(), &'static str> {
        if self.writing.is_none() {
            return Err(
                "PRAGMA delete_database must be run in a write transaction. \
                        Use BEGIN IMMEDIATE to start one.",
            );
        }
        if self.wal.has_uncommitted() {
            return Err(
                "PRAGMA delete_database must be the only statement run in the transaction.",
            );
        }
        self.delete_asked = true;
        Ok(())
    }

    /// Notes that SQLite commits now: dropping the write lock is not a rollback. False if the
    /// commit must fail here, because no commit frame will come at which it could.
    pub(crate) fn commit_begins(&mut self) -> bool {
        self.committing = !self.delete_asked || self.may_commit().is_ok();
        self.committing
    }

    fn may_commit(&mut self) -> Result<(), Code> {
        match self.grant.as_ref().map_or(Write::None, |grant| grant.write) {
            Write::Slot { .. } => Ok(()),
            Write::Refuse { code } => Err(Code(code)),
            Write::None => {
                self.wanted_write = true;
                Err(Code(sqlite::SQLITE_BUSY))
            }
        }
    }

    // The main file.

    /// What the main file holds.
    pub(crate) fn main(&self) -> Option<&Version> {
        self.pin
            .as_ref()
            .or_else(|| self.grant.as_ref().map(|grant| &grant.pin))
    }

    /// A pointer to the page at `offset`, to be returned by `unfetch` while the pin lasts.
    pub(crate) fn fetch(&mut self, offset: u64, amount: usize) -> Option<NonNull<u8>> {
        if amount > PAGE_SIZE || !offset.is_multiple_of(PAGE_SIZE as u64) {
            return None;
        }
        let page_no = u32::try_from(offset / PAGE_SIZE as u64)
            .ok()?
            .checked_add(1)?;
        let page = self.pin.as_ref()?.page(PageNo(page_no))?;
        self.fetched += 1;
        Some(NonNull::from(page.bytes()).cast())
    }

    pub(crate) fn unfetch(&mut self) {
        self.fetched = self.fetched.saturating_sub(1);
        if self.fetched == 0 {
            self.overdue.clear();
        }
    }

    /// `PRAGMA mmap_size`: sets the limit if it is not negative, and returns the one before.
    pub(crate) fn set_mmap_size(&mut self, bytes: i64) -> i64 {
        let before = self.mmap_size;
        if bytes >= 0 {
            self.mmap_size = bytes;
        }
        before
    }

    // The WAL file.

    pub(crate) fn wal(&self) -> &Wal {
        &self.wal
    }

    /// Writes the WAL's header or the header of a frame.
    pub(crate) fn write_wal_header(&mut self, part: Part, bytes: &[u8]) -> Result<(), Code> {
        let failed = Code(sqlite::SQLITE_IOERR_WRITE);
        match part {
            Part::WalHeader => {
                let header: [u8; WAL_HEADER_SIZE] = bytes.try_into().map_err(|_| failed)?;
                self.wal.set_header(header);
            }
            Part::FrameHeader(index) => {
                let header = bytes.try_into().map_err(|_| failed)?;
                // Here, and only here, a transaction can be refused and rolls back cleanly.
                if commit_size(&header) != 0 {
                    self.may_commit()?;
                }
                if !self
                    .wal
                    .stays_within(index, frame_page_no(&header), self.page_limit)
                {
                    return Err(Code(sqlite::SQLITE_FULL));
                }
                if self.writing.is_none() || !self.wal.set_frame_header(index, header) {
                    return Err(failed);
                }
            }
            Part::FramePage(_) => return Err(failed),
        }
        Ok(())
    }

    /// Writes the page of a frame.
    pub(crate) fn write_wal_page(&mut self, index: usize, page: Page) -> Result<(), Code> {
        if self.writing.is_some() && self.wal.set_frame_page(index, page) {
            Ok(())
        } else {
            Err(Code(sqlite::SQLITE_IOERR_WRITE))
        }
    }
}

/// A number that names no version of the node's: those are below 2^63.
fn unnamed_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 63);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
