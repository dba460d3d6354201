//! A connection to a database, set up as dqlite's are.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::sync::Arc;

use libsqlite3_sys as sqlite;

use super::authorizer::authorize;
use super::handle::{Handle, on_commit, on_progress};
use super::stmt::{ColumnRef, Step, Stmt};
use crate::connection::{Capture, Grant, Write};
use crate::ffi;
use crate::ffi::process;
use crate::ffi::vfs::PATHNAME_MAX;
use crate::shared::Shared;
use crate::{Error, InterruptHandle, PAGE_SIZE, PageNo, Version, Vfs};

/// A connection to a database.
///
/// It reads and writes what its [`Grant`] says: see the crate's text for the order of calls.
/// Dropping it rolls back an open transaction. Statements made with it may outlive it, but only to
/// be dropped.
pub struct Db {
    handle: Arc<Handle>,
}

/// What [`Db::prepare`] returns.
#[derive(Debug)]
pub struct Prepared {
    /// The first statement of the text; `None` if there is nothing but white space and comments
    /// before `tail`.
    pub stmt: Option<Stmt>,
    /// Where in the text the rest begins.
    pub tail: usize,
}

/// Whether a transaction is open on the database (temporary databases do not count).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnState {
    /// None: the next read pins anew.
    None,
    /// It reads a pinned version.
    Read,
    /// It holds the write lock.
    Write,
}

impl Db {
    /// Opens a connection to a database whose state is `initial`.
    ///
    /// `name` is the database's key, 1 to 504 bytes; it is shown by `PRAGMA database_list` and has
    /// no other meaning. Names that SQLite treats in a special way (`:memory:`, or ending in
    /// `-wal` or `-journal`) and names with a zero byte fail with SQLITE_CANTOPEN (14).
    ///
    /// As in dqlite: foreign keys are on, syncs off, extended result codes on, there is neither
    /// busy handler nor checkpoint, and the statements listed in `src/vfs.c`, `vfsAuthorizer`, are
    /// refused with SQLITE_AUTH (23). Afterwards the connection holds no grant.
    pub fn open(vfs: &Arc<Vfs>, name: &[u8], initial: Version) -> Result<Db, Error> {
        let cannot_open = || Error::from_code(sqlite::SQLITE_CANTOPEN);
        let special = name == b":memory:" || name.ends_with(b"-wal") || name.ends_with(b"-journal");
        let uri = !vfs.names_are_plain && name.starts_with(b"file:");
        if name.is_empty() || name.len() > PATHNAME_MAX as usize - 8 || special || uri {
            return Err(cannot_open());
        }
        let name = CString::new(name).map_err(|_| cannot_open())?;
        if initial.page_count() == 0 {
            return Err(Error::from_code(sqlite::SQLITE_NOTADB));
        }

        let shared = Box::new(Shared::new(vfs.names_are_plain));
        shared.connection.borrow_mut().grant(Grant {
            pin: initial,
            write: Write::None,
        });
        let mut db = std::ptr::null_mut();
        // One thread at a time uses a connection, so it needs no mutex.
        let flags = sqlite::SQLITE_OPEN_READWRITE
            | sqlite::SQLITE_OPEN_NOMUTEX
            | sqlite::SQLITE_OPEN_PRIVATECACHE
            | sqlite::SQLITE_OPEN_EXRESCODE;
        let serial = process::serial();
        let open = || {
            // SAFETY: all pointers are valid; the name is copied; `shared` lives until the
            // connection is closed.
            unsafe { sqlite::sqlite3_open_v2(name.as_ptr(), &mut db, flags, vfs.name().as_ptr()) }
        };
        let rc = ffi::opening(&shared, || process::extended(vfs.extension, open));
        if rc != sqlite::SQLITE_OK {
            // SAFETY: SQLite may return a connection together with an error, to be closed.
            unsafe {
                let error = Error::last(db, rc);
                sqlite::sqlite3_close(db);
                return Err(error);
            }
        }
        drop(serial);
        let mut db = Db::of(Handle::new(db, shared));
        db.set_up()?;
        db.set_budget(None);
        db.handle.enter().shared().connection.borrow_mut().release();
        Ok(db)
    }

    /// A connection with this handle.
    pub(super) fn of(handle: Handle) -> Db {
        Db {
            handle: Arc::new(handle),
        }
    }

    /// Executes a statement of our own that returns nothing.
    pub(super) fn execute(&self, sql: &CStr) -> Result<(), Error> {
        let entered = self.handle.enter();
        match entered.execute(sql) {
            sqlite::SQLITE_OK => Ok(()),
            // SAFETY: the connection is open, and we are inside.
            rc => Err(unsafe { Error::last(entered.db(), rc) }),
        }
    }

    fn set_up(&self) -> Result<(), Error> {
        let entered = self.handle.enter();
        let db = entered.db();
        let shared = std::ptr::from_ref(entered.shared())
            .cast_mut()
            .cast::<c_void>();
        let none = std::ptr::null_mut::<c_int>();
        let check = |rc| match rc {
            sqlite::SQLITE_OK => Ok(()),
            // SAFETY: the connection is open, and we are inside.
            rc => Err(unsafe { Error::last(db, rc) }),
        };
        check(entered.execute(c"PRAGMA synchronous=OFF"))?;
        if !process::OWN {
            // What the whole process is set to where SQLite is ours: pages are read in place, and
            // connections keep no memory in store.
            check(entered.execute(c"PRAGMA mmap_size=9223372036854775807"))?;
            // SAFETY: the connection is open, we are inside, and these are the option's arguments.
            check(unsafe {
                sqlite::sqlite3_db_config(
                    db,
                    sqlite::SQLITE_DBCONFIG_LOOKASIDE,
                    std::ptr::null_mut::<c_void>(),
                    0 as c_int,
                    0 as c_int,
                )
            })?;
        }
        // SAFETY: the connection is open, and we are inside; each option is followed by arguments
        // of the types that it asks for; `shared` outlives the connection.
        unsafe {
            check(sqlite::sqlite3_db_config(
                db,
                sqlite::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
                1 as c_int,
                none,
            ))?;
            check(sqlite::sqlite3_db_config(
                db,
                sqlite::SQLITE_DBCONFIG_ENABLE_FKEY,
                1 as c_int,
                none,
            ))?;
            check(sqlite::sqlite3_set_authorizer(db, Some(authorize), shared))?;
            sqlite::sqlite3_commit_hook(db, Some(on_commit), shared);
        }
        Ok(())
    }

    /// Says what the next statements read and whether they may write.
    ///
    /// Commits of this connection whose captures were taken, and of which no version was
    /// [published](Db::published) since, are void from here on. Within an open transaction the pin
    /// does not move; `grant.write` counts at once.
    pub fn grant(&mut self, grant: Grant) {
        self.handle
            .enter()
            .shared()
            .connection
            .borrow_mut()
            .grant(grant);
    }

    /// Takes the grant back: outside a transaction the connection holds no version any more.
    /// Until the next grant, statements that need to pin fail with SQLITE_IOERR_SHMLOCK.
    ///
    /// To be called when a job is over, so that idle connections keep no old pages alive.
    pub fn release(&mut self) {
        self.handle
            .enter()
            .shared()
            .connection
            .borrow_mut()
            .release();
    }

    /// Gives back memory that only speed needs: SQLite's cache, the private WAL and most of its
    /// index. For connections that have been idle for a while. Does nothing within a transaction.
    pub fn shrink(&mut self) {
        let entered = self.handle.enter();
        let may = entered.shared().connection.borrow_mut().shrink();
        if may {
            // SAFETY: the connection is open, and we are inside.
            unsafe { sqlite::sqlite3_db_release_memory(entered.db()) };
        }
    }

    /// Prepares the first statement of `sql`, which ends at the first zero byte if it has one.
    ///
    /// If the last byte is zero, SQLite parses the text where it is; else it copies all of it
    /// first, which makes a text of many statements cost the square of its length.
    pub fn prepare(&mut self, sql: &[u8]) -> Result<Prepared, Error> {
        let Ok(length) = c_int::try_from(sql.len()) else {
            return Err(Error::from_code(sqlite::SQLITE_TOOBIG));
        };
        let entered = self.handle.enter();
        let mut stmt = std::ptr::null_mut();
        let mut tail: *const c_char = std::ptr::null();
        let start = sql.as_ptr().cast::<c_char>();
        // SAFETY: the connection is open, and we are inside; `start` is valid for `length` bytes.
        let rc = unsafe {
            sqlite::sqlite3_prepare_v3(entered.db(), start, length, 0, &mut stmt, &mut tail)
        };
        if rc != sqlite::SQLITE_OK {
            // SAFETY: as above.
            return Err(unsafe { Error::last(entered.db(), rc) });
        }
        drop(entered);
        let tail = if tail.is_null() {
            sql.len()
        } else {
            tail.addr() - start.addr()
        };
        let stmt = (!stmt.is_null()).then(|| Stmt::new(Arc::clone(&self.handle), stmt));
        Ok(Prepared { stmt, tail })
    }

    /// Whether a transaction is open on the database.
    pub fn txn_state(&self) -> TxnState {
        let entered = self.handle.enter();
        // SAFETY: the connection is open, and we are inside.
        match unsafe { sqlite::sqlite3_txn_state(entered.db(), c"main".as_ptr()) } {
            sqlite::SQLITE_TXN_WRITE => TxnState::Write,
            sqlite::SQLITE_TXN_READ => TxnState::Read,
            _ => TxnState::None,
        }
    }

    /// True outside of an explicit transaction.
    pub fn autocommit(&self) -> bool {
        let entered = self.handle.enter();
        // SAFETY: the connection is open, and we are inside.
        unsafe { sqlite::sqlite3_get_autocommit(entered.db()) != 0 }
    }

    /// What was committed since the last call, in order.
    pub fn take_captures(&mut self) -> Vec<Capture> {
        self.handle
            .enter()
            .shared()
            .connection
            .borrow_mut()
            .take_captures()
    }

    /// Tells the connection that all captures taken so far have become versions, the last of them
    /// `version`: it goes on from there. If there is a grant, it moves to this version too.
    ///
    /// To be called before the next grant.
    pub fn published(&mut self, version: &Version) {
        self.handle
            .enter()
            .shared()
            .connection
            .borrow_mut()
            .published(version);
    }

    /// True if, since the last call, a statement wanted to write and the grant was
    /// [`Write::None`].
    pub fn wanted_write(&mut self) -> bool {
        self.handle
            .enter()
            .shared()
            .connection
            .borrow_mut()
            .take_wanted_write()
    }

    /// The rowid of the last insert of this connection.
    pub fn last_insert_rowid(&self) -> i64 {
        let entered = self.handle.enter();
        // SAFETY: the connection is open, and we are inside.
        unsafe { sqlite::sqlite3_last_insert_rowid(entered.db()) }
    }

    /// Rows that the last INSERT, UPDATE or DELETE changed.
    pub fn changes(&self) -> i32 {
        let entered = self.handle.enter();
        // SAFETY: the connection is open, and we are inside.
        unsafe { sqlite::sqlite3_changes(entered.db()) }
    }

    /// A handle to interrupt this connection from other threads.
    pub fn interrupt_handle(&self) -> InterruptHandle {
        self.handle.interrupt().clone()
    }

    /// Limits the virtual machine steps of the statements that follow, all together; `None` lifts
    /// the limit. Who goes over it fails with SQLITE_INTERRUPT (9). Exact within an eighth.
    pub fn set_budget(&mut self, steps: Option<u64>) {
        let entered = self.handle.enter();
        let shared = entered.shared();
        let period = shared.budget.set(steps);
        let context = std::ptr::from_ref(shared).cast_mut().cast::<c_void>();
        // SAFETY: the connection is open, and we are inside; `shared` outlives it.
        unsafe {
            sqlite::sqlite3_progress_handler(entered.db(), period, Some(on_progress), context);
        }
    }

    /// True if a statement went over the budget since it was set.
    pub fn over_budget(&self) -> bool {
        self.handle.enter().shared().budget.is_over()
    }

    /// Limits a transaction to this many bytes of distinct pages, at least one page. A transaction
    /// that changes more fails with SQLITE_FULL (13) and is rolled back.
    pub fn set_page_limit(&mut self, bytes: usize) {
        let pages = (bytes / PAGE_SIZE).max(1);
        self.handle
            .enter()
            .shared()
            .connection
            .borrow_mut()
            .set_page_limit(pages);
    }

    /// Rolls back the explicit transaction that is open, if any.
    pub fn rollback(&mut self) {
        let entered = self.handle.enter();
        // SAFETY: the connection is open, and we are inside. ROLLBACK fails only if there is no
        // transaction.
        unsafe {
            if sqlite::sqlite3_get_autocommit(entered.db()) == 0 {
                entered.execute(c"ROLLBACK");
            }
        }
    }

    /// Number of the version that is pinned, by a transaction or a statement that is running.
    pub fn pinned(&self) -> Option<u64> {
        self.handle.enter().shared().connection.borrow().pinned()
    }

    /// That version: a clone keeps it alive as the connection does.
    pub fn pinned_version(&self) -> Option<Version> {
        let entered = self.handle.enter();
        let connection = entered.shared().connection.borrow();
        connection.pinned_version().cloned()
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        self.handle.close();
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Db(..)")
    }
}

impl Version {
    /// Checks that this is a sound database of the kind that dqlite replicates: 4096-byte pages,
    /// WAL mode, and nothing for SQLite's `PRAGMA quick_check` to complain of.
    ///
    /// Reads the whole database. The error is SQLite's, or SQLITE_CORRUPT (11) with the first
    /// complaint.
    pub fn quick_check(&self, vfs: &Arc<Vfs>) -> Result<(), Error> {
        let header = self.page(PageNo(1)).map(|page| &page.bytes()[16..20]);
        if header != Some(&[0x10, 0x00, 2, 2]) {
            return Err(Error::from_code(sqlite::SQLITE_NOTADB));
        }
        let mut db = Db::open(vfs, b"quick_check", self.clone())?;
        db.grant(Grant {
            pin: self.clone(),
            write: Write::None,
        });
        let prepared = db.prepare(b"PRAGMA quick_check(1)")?;
        let mut stmt = prepared.stmt.expect("the text holds a statement");
        match stmt.step()? {
            Step::Row => match stmt.column(0) {
                ColumnRef::Text(b"ok") => Ok(()),
                ColumnRef::Text(complaint) => Err(Error {
                    code: sqlite::SQLITE_CORRUPT,
                    message: complaint.to_vec(),
                }),
                _ => Err(Error::from_code(sqlite::SQLITE_CORRUPT)),
            },
            Step::Done => Err(Error::from_code(sqlite::SQLITE_CORRUPT)),
        }
    }
}
