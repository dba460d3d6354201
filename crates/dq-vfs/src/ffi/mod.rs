//! The VFS as SQLite sees it: tables of functions, each a thin step into safe code.
//!
//! | SQLite opens | with | gets |
//! |---|---|---|
//! | the database of a connection | its name, while [`opening`] runs | [`main_file`] |
//! | its WAL | the name SQLite derived from it | [`wal_file`] |
//! | a temporary file | no name | [`memory_file`] |
//! | anything else | | SQLITE_CANTOPEN |
//!
//! Each open file is a [`File`]: SQLite's part first, then one pointer. For main file and WAL it
//! points to the connection's [`Shared`], which outlives both; a memory file owns what it points
//! to. A panic in a callback ends the process, so no transaction is half applied.

pub(crate) mod main_file;
pub(crate) mod memory_file;
pub(crate) mod process;
pub(crate) mod vfs;
pub(crate) mod wal_file;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::ffi::{c_int, c_void};

use libsqlite3_sys as sqlite;

use crate::connection::Code;
use crate::shared::Shared;

/// What SQLite allocates for an open file, `szOsFile` bytes, aligned to 8.
#[repr(C)]
pub(crate) struct File {
    base: sqlite::sqlite3_file,
    state: *mut c_void,
}

const _: () = assert!(align_of::<File>() <= 8);

thread_local! {
    /// The connection whose database is being opened by this thread.
    static OPENING: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
}

/// Runs `open`, in which SQLite opens the database file of `shared`.
pub(crate) fn opening<T>(shared: &Shared, open: impl FnOnce() -> T) -> T {
    OPENING.set(shared);
    let result = open();
    OPENING.set(std::ptr::null());
    result
}

/// The connection of an open main file or WAL.
///
/// # Safety
/// `file` was opened by this VFS as a main file or a WAL and is not closed; the result is used only
/// in the callback that `file` was passed to.
unsafe fn shared<'a>(file: *mut sqlite::sqlite3_file) -> &'a Shared {
    // SAFETY: both kinds of files point to their connection's `Shared`, which lives until SQLite
    // has closed the connection.
    unsafe { &*(*file.cast::<File>()).state.cast::<Shared>() }
}

fn code(result: Result<(), Code>) -> c_int {
    match result {
        Ok(()) => sqlite::SQLITE_OK,
        Err(Code(code)) => code,
    }
}

/// # Safety
/// SQLite's, for any file.
unsafe extern "C" fn x_close_nothing(_file: *mut sqlite::sqlite3_file) -> c_int {
    sqlite::SQLITE_OK
}

/// # Safety
/// SQLite's, for any file.
unsafe extern "C" fn x_sync(_file: *mut sqlite::sqlite3_file, _flags: c_int) -> c_int {
    sqlite::SQLITE_OK
}

/// # Safety
/// SQLite's, for any file.
unsafe extern "C" fn x_file_control_none(
    _file: *mut sqlite::sqlite3_file,
    _op: c_int,
    _arg: *mut c_void,
) -> c_int {
    sqlite::SQLITE_NOTFOUND
}

/// # Safety
/// SQLite's, for any file.
unsafe extern "C" fn x_sector_size(_file: *mut sqlite::sqlite3_file) -> c_int {
    crate::PAGE_SIZE as c_int
}

/// # Safety
/// SQLite's, for any file.
unsafe extern "C" fn x_unlock(_file: *mut sqlite::sqlite3_file, _level: c_int) -> c_int {
    sqlite::SQLITE_OK
}

/// # Safety
/// SQLite's, for any file: `result` is valid for a write.
unsafe extern "C" fn x_check_reserved_lock(
    _file: *mut sqlite::sqlite3_file,
    result: *mut c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { result.write(0) };
    sqlite::SQLITE_OK
}

/// With these SQLite neither repeats the commit frame up to a sector's end nor syncs between
/// writes.
///
/// # Safety
/// SQLite's, for any file.
unsafe extern "C" fn x_device_characteristics(_file: *mut sqlite::sqlite3_file) -> c_int {
    sqlite::SQLITE_IOCAP_POWERSAFE_OVERWRITE | sqlite::SQLITE_IOCAP_SEQUENTIAL
}

/// Copies a piece of a file into the buffer of an xRead.
///
/// # Safety
/// `buffer` is valid for writes of `at + piece.len()` bytes and does not overlap `piece`.
unsafe fn deliver(buffer: *mut c_void, at: usize, piece: &[u8]) {
    // SAFETY: the caller's promise. The buffer may be uninitialised, so no slice is made of it.
    unsafe {
        buffer
            .cast::<u8>()
            .add(at)
            .copy_from_nonoverlapping(piece.as_ptr(), piece.len());
    }
}

/// Ends an xRead of which `have` bytes were delivered: zeros for the rest, and its result code.
///
/// # Safety
/// `buffer` is valid for writes of `amount` bytes.
unsafe fn delivered(buffer: *mut c_void, have: usize, amount: usize) -> c_int {
    if have >= amount {
        return sqlite::SQLITE_OK;
    }
    // SAFETY: the caller's promise.
    unsafe { buffer.cast::<u8>().add(have).write_bytes(0, amount - have) };
    sqlite::SQLITE_IOERR_SHORT_READ
}
