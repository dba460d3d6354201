//! Stopping a statement from another thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use libsqlite3_sys as sqlite;

/// Interrupts whatever a connection is executing. Can be kept and used from any thread, also after
/// the connection is closed.
#[derive(Clone)]
pub struct InterruptHandle {
    target: Arc<Mutex<Target>>,
    ended: Ended,
}

/// The connection, until it is closed.
struct Target(Option<*mut sqlite::sqlite3>);

// SAFETY: sqlite3_interrupt may be called from any thread while the connection is open, and the
// pointer is used for nothing else.
unsafe impl Send for Target {}

impl InterruptHandle {
    pub(crate) fn new(db: *mut sqlite::sqlite3, ended: Ended) -> InterruptHandle {
        InterruptHandle {
            target: Arc::new(Mutex::new(Target(Some(db)))),
            ended,
        }
    }

    /// Makes the statement that is running, if any, fail with SQLITE_INTERRUPT (9). A statement
    /// that starts later is not affected.
    pub fn interrupt(&self) {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(db) = target.0 {
            // SAFETY: the connection stays open while the lock is held.
            unsafe { sqlite::sqlite3_interrupt(db) };
        }
    }

    /// Makes the statement that is running, if any, and every one that starts later fail with
    /// SQLITE_INTERRUPT (9), for good. An interrupt alone is lost on a statement that is about to
    /// start: SQLite forgets it when the first statement of a connection begins.
    pub fn end(&self) {
        self.ended.set();
        self.interrupt();
    }

    /// The connection is about to be closed.
    pub(crate) fn retire(&self) {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).0 = None;
    }
}

/// Whether a connection's statements are to run no more; shared with its callbacks.
#[derive(Clone, Default)]
pub(crate) struct Ended(Arc<AtomicBool>);

impl Ended {
    /// For good.
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for InterruptHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InterruptHandle(..)")
    }
}
