//! The connection that a `Db` and its statements share.
//!
//! Invariants:
//! - Every call into SQLite on this connection is made with the lock held.
//! - Statements hold a reference, so when the last reference goes no statement is left, and
//!   `sqlite3_close` cannot fail.

use std::ffi::{c_int, c_void};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

use libsqlite3_sys as sqlite;
use log::error;

use super::interrupt::InterruptHandle;
use crate::ffi::process;
use crate::shared::Shared;

pub(crate) struct Handle {
    db: *mut sqlite::sqlite3,
    /// What the callbacks use. A box, because SQLite keeps pointers to it.
    shared: Box<Shared>,
    interrupt: InterruptHandle,
    /// True while a thread is inside a call.
    locked: AtomicBool,
    /// Set when the `Db` is gone: statements that are left can only be dropped.
    closed: AtomicBool,
}

// SAFETY: connection and shared state are only touched with the lock held, and SQLite connections
// are not bound to a thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// Takes over an open connection, and what its callbacks point to.
    pub(super) fn new(db: *mut sqlite::sqlite3, shared: Box<Shared>) -> Handle {
        let interrupt = InterruptHandle::new(db, shared.ended.clone());
        Handle {
            db,
            shared,
            interrupt,
            locked: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Enters the connection. All uses are by one thread at a time as it is, so this waits only
    /// if somebody keeps a statement on another thread than its `Db`.
    pub(super) fn enter(&self) -> Entered<'_> {
        let serial = process::serial();
        while self.locked.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        Entered {
            handle: self,
            _serial: serial,
        }
    }

    pub(super) fn interrupt(&self) -> &InterruptHandle {
        &self.interrupt
    }

    /// The `Db` is gone: what its transaction did is undone.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let entered = self.enter();
        // SAFETY: the connection is open, and we are inside.
        unsafe {
            if sqlite::sqlite3_get_autocommit(entered.db()) == 0 {
                entered.execute(c"ROLLBACK");
            }
        }
        entered.shared().connection.borrow_mut().release();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.interrupt.retire();
        let _serial = process::serial();
        // SAFETY: nobody else refers to the connection, and all statements are finalized: each
        // held a reference to this handle.
        let rc = unsafe { sqlite::sqlite3_close(self.db) };
        if rc != sqlite::SQLITE_OK {
            // SQLite goes on using what its files point to. Leak it rather than free it.
            error!("SQLite refused to close a connection: {rc}");
            let unused = Box::new(Shared::new(false));
            Box::leak(std::mem::replace(&mut self.shared, unused));
        }
    }
}

/// Proof that the current thread is inside the connection.
pub(super) struct Entered<'a> {
    handle: &'a Handle,
    /// Left after the connection.
    _serial: Option<MutexGuard<'static, ()>>,
}

impl Entered<'_> {
    pub(super) fn db(&self) -> *mut sqlite::sqlite3 {
        self.handle.db
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Executes a statement of our own that returns no rows; the result code.
    pub(super) fn execute(&self, sql: &std::ffi::CStr) -> c_int {
        // SAFETY: the connection is open, and we are inside; no callback is given.
        unsafe {
            sqlite::sqlite3_exec(
                self.db(),
                sql.as_ptr(),
                None,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.handle.locked.store(false, Ordering::Release);
    }
}

/// # Safety
/// SQLite calls this with the connection's `Shared`, within a call that was made with the lock
/// held.
pub(super) unsafe extern "C" fn on_progress(shared: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    let shared = unsafe { &*shared.cast::<Shared>() };
    c_int::from(shared.budget.spend() || shared.ended.is_set())
}

/// # Safety
/// As for [`on_progress`].
pub(super) unsafe extern "C" fn on_commit(shared: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    let shared = unsafe { &*shared.cast::<Shared>() };
    c_int::from(!shared.connection.borrow_mut().commit_begins())
}
