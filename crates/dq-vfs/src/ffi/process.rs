//! SQLite as the process has it: a copy of our own, or one that is shared with whoever else uses it.
//!
//! | | own copy (feature `bundled-sqlite`) | the system's |
//! |---|---|---|
//! | settings of the process | ours | the program's; nothing of them is changed |
//! | mutexes | there | the program may have switched them off |
//! | version | known | checked, see [`check_sqlite`] |
//! | what `sqlite3_auto_extension` adds | | added to our connections as well |
//!
//! SQLite without mutexes may be used by one thread at a time, whatever the connection. [`serial`]
//! sees to that as far as this crate goes; what the program does with SQLite beside it is the
//! program's affair.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libsqlite3_sys as sqlite;

use crate::Error;

/// Oldest SQLite that can be used: SQLITE_OPEN_EXRESCODE is of 3.37.
const OLDEST: c_int = 3_037_000;

/// Whether SQLite is a copy that nobody else in the process uses.
pub(crate) const OWN: bool = cfg!(feature = "bundled-sqlite");

/// Whether the SQLite of this process can be used at all. It is not initialised by the question.
///
/// # Errors
/// If it is too old; the message says so.
pub fn check_sqlite() -> Result<(), Error> {
    // SAFETY: it can be called at any time.
    check_version(unsafe { sqlite::sqlite3_libversion_number() })
}

fn check_version(version: c_int) -> Result<(), Error> {
    if version >= OLDEST {
        return Ok(());
    }
    let text = |version: c_int| format!("{}.{}", version / 1_000_000, version / 1000 % 1000);
    let (found, oldest) = (text(version), text(OLDEST));
    Err(Error {
        code: sqlite::SQLITE_ERROR,
        message: format!("SQLite {found} is too old: {oldest} or later is needed").into_bytes(),
    })
}

/// Set when SQLite turns out to have no mutexes.
static WITHOUT_MUTEXES: AtomicBool = AtomicBool::new(false);

/// Held by the thread that is inside SQLite, if SQLite has no mutexes. Taken before any lock of a
/// connection, and never twice by a thread.
pub(crate) fn serial() -> Option<MutexGuard<'static, ()>> {
    static SERIAL: Mutex<()> = Mutex::new(());
    if OWN || !WITHOUT_MUTEXES.load(Ordering::Acquire) {
        return None;
    }
    // It guards SQLite's own state, which a panic of ours leaves as it is.
    Some(SERIAL.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Makes the process's SQLite ready, once. The result says whether URI names are off.
pub(crate) fn configure() -> Result<bool, Error> {
    static CONFIGURED: OnceLock<(bool, c_int)> = OnceLock::new();
    let (plain, code) =
        *CONFIGURED.get_or_init(|| if OWN { set_up_own() } else { look_at_shared() });
    if code == sqlite::SQLITE_OK {
        Ok(plain)
    } else {
        Err(Error::from_code(code))
    }
}

/// Chooses the settings of a copy that is ours alone.
fn set_up_own() -> (bool, c_int) {
    // SAFETY: each option is followed by arguments of the types that it asks for. If SQLite was
    // initialised by somebody else before, the calls fail and change nothing.
    unsafe {
        let null = std::ptr::null_mut::<c_void>();
        let zero: c_int = 0;
        let rc = [
            sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_MULTITHREAD),
            sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_PAGECACHE, null, zero, zero),
            sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_LOOKASIDE, zero, zero),
            // Statistics cost a global lock at each allocation. Without them clients cannot
            // limit the process's memory by PRAGMA either.
            sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_MEMSTATUS, zero),
            sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_MMAP_SIZE, i64::MAX, i64::MAX),
        ];
        let uri = sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_URI, zero);
        if rc.iter().chain([&uri]).any(|rc| *rc != sqlite::SQLITE_OK) {
            log::warn!("SQLite was configured by another part of the process: {rc:?}, {uri}");
        }
        (uri == sqlite::SQLITE_OK, sqlite::sqlite3_initialize())
    }
}

/// Takes a copy that others use as it is.
fn look_at_shared() -> (bool, c_int) {
    // SAFETY: it can be called at any time, and does nothing if somebody has done it before.
    let code = unsafe { sqlite::sqlite3_initialize() };
    if code == sqlite::SQLITE_OK && !has_mutexes() {
        log::info!("SQLite is in single-thread mode: one statement at a time");
        WITHOUT_MUTEXES.store(true, Ordering::Release);
    }
    (false, code)
}

/// Whether SQLite protects what its connections have in common. `sqlite3_threadsafe` tells how it
/// was compiled; what a program has configured since shows in the mutexes that SQLite gives out,
/// which are small numbers instead of pointers where there are none.
fn has_mutexes() -> bool {
    // SAFETY: SQLite is initialised; the mutex is freed by who has allocated it, if it is one.
    unsafe {
        if sqlite::sqlite3_threadsafe() == 0 {
            return false;
        }
        let mutex = sqlite::sqlite3_mutex_alloc(sqlite::SQLITE_MUTEX_FAST);
        let is_one = mutex.addr() > 0xff;
        if is_one {
            sqlite::sqlite3_mutex_free(mutex);
        }
        is_one
    }
}

/// The entry point of an SQLite extension: gets a connection, a place for an error message that
/// `sqlite3_mprintf` has made, and SQLite's table of functions (`sqlite3_api_routines`).
pub type ExtensionInit =
    unsafe extern "C" fn(db: *mut c_void, error: *mut *mut c_char, api: *const c_void) -> c_int;

/// An SQLite extension, for every connection of a [`Vfs`](crate::Vfs): functions, collations,
/// virtual tables. It calls SQLite through the table that it gets, as loadable extensions do.
#[derive(Clone, Copy, Debug)]
pub struct Extension(ExtensionInit);

impl Extension {
    /// An extension with this entry point.
    ///
    /// # Safety
    /// It is what <https://sqlite.org/loadext.html> says of entry points, and can be called by any
    /// thread, by several at once, as long as the process lives.
    pub unsafe fn new(init: ExtensionInit) -> Extension {
        Extension(init)
    }
}

thread_local! {
    /// The extension of the connection that this thread is opening.
    static EXTENDING: Cell<Option<Extension>> = const { Cell::new(None) };
}

/// Runs `open`, in which SQLite opens a connection and has the extension set it up.
pub(crate) fn extended<T>(extension: Option<Extension>, open: impl FnOnce() -> T) -> T {
    if extension.is_some() {
        // SAFETY: the function lives as long as the process. SQLite has it once, however often it
        // is registered; a program that shares SQLite may have removed it.
        let rc = unsafe { sqlite::sqlite3_auto_extension(Some(extend)) };
        if rc != sqlite::SQLITE_OK {
            log::warn!("SQLite does not take an extension: {rc}");
        }
    }
    EXTENDING.set(extension);
    let result = open();
    EXTENDING.set(None);
    result
}

/// # Safety
/// SQLite calls this for each connection that is opened in the process, with what an extension gets.
unsafe extern "C" fn extend(
    db: *mut sqlite::sqlite3,
    error: *mut *mut c_char,
    api: *const sqlite::sqlite3_api_routines,
) -> c_int {
    match EXTENDING.get() {
        // SAFETY: the arguments are SQLite's own, and the rest was promised for the extension.
        Some(Extension(init)) => unsafe { init(db.cast(), error, api.cast()) },
        None => sqlite::SQLITE_OK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_sqlite_is_refused_by_its_number() {
        assert!(check_version(3_037_000).is_ok());
        let error = check_version(3_034_001).unwrap_err();
        assert_eq!(
            String::from_utf8_lossy(&error.message),
            "SQLite 3.34 is too old: 3.37 or later is needed"
        );
        assert!(check_sqlite().is_ok());
    }

    #[test]
    fn mutexes_are_there_unless_a_program_has_switched_them_off() {
        assert!(configure().is_ok());
        assert!(has_mutexes());
        assert!(serial().is_none());
    }
}
