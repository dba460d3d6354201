//! Stopping a statement from another thread.

use std::sync::{Arc, Mutex, PoisonError};

use libsqlite3_sys as sqlite;

/// Interrupts whatever a connection is executing. Can be kept and used from any thread, also after
/// the connection is closed.
#[derive(Clone)]
pub struct InterruptHandle(Arc<Mutex<Target>>);

/// The connection, until it is closed.
struct Target(Option<*mut sqlite::sqlite3>);

// SAFETY: sqlite3_interrupt may be called from any thread while the connection is open, and the
// pointer is used for nothing else.
unsafe impl Send for Target {}

impl InterruptHandle {
    pub(crate) fn new(db: *mut sqlite::sqlite3) -> InterruptHandle {
        InterruptHandle(Arc::new(Mutex::new(Target(Some(db)))))
    }

    /// Makes the statement that is running, if any, fail with SQLITE_INTERRUPT (9). A statement
    /// that starts later is not affected.
    pub fn interrupt(&self) {
        let target = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(db) = target.0 {
            // SAFETY: the connection stays open while the lock is held.
            unsafe { sqlite::sqlite3_interrupt(db) };
        }
    }

    /// The connection is about to be closed.
    pub(crate) fn retire(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = None;
    }
}

impl std::fmt::Debug for InterruptHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InterruptHandle(..)")
    }
}
