//! The WAL of a connection, in memory and seen by nobody else.

use std::ffi::{c_int, c_void};

use libsqlite3_sys as sqlite;
use sqlite::{sqlite3_file, sqlite3_io_methods};

use super::{
    code, deliver, delivered, shared, x_check_reserved_lock, x_close_nothing,
    x_device_characteristics, x_file_control_none, x_sector_size, x_sync, x_unlock,
};
use crate::Page;
use crate::wal::{FRAME_HEADER_SIZE, Part, WAL_HEADER_SIZE, Wal};

pub(crate) static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(x_close_nothing),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_unlock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control_none),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// # Safety
/// SQLite calls this with an open WAL, one call at a time, and a `buffer` that is valid for writes
/// of `amount` bytes, perhaps uninitialised.
unsafe extern "C" fn x_read(
    file: *mut sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    let (Ok(amount), Ok(offset)) = (usize::try_from(amount), u64::try_from(offset)) else {
        return sqlite::SQLITE_IOERR_READ;
    };
    // SAFETY: the caller's promise.
    let connection = unsafe { shared(file) }.connection.borrow();
    let have = connection.wal().read(offset, amount, |at, piece| {
        // SAFETY: the pieces end before `amount`, and frames do not overlap SQLite's buffers.
        unsafe { deliver(buffer, at, piece) };
    });
    // SAFETY: the caller's promise.
    unsafe { delivered(buffer, have, amount) }
}

/// # Safety
/// SQLite's: `buffer` is valid for reads of `amount` bytes.
unsafe extern "C" fn x_write(
    file: *mut sqlite3_file,
    buffer: *const c_void,
    amount: c_int,
    offset: i64,
) -> c_int {
    let (Ok(amount), Ok(offset)) = (usize::try_from(amount), u64::try_from(offset)) else {
        return sqlite::SQLITE_IOERR_WRITE;
    };
    let Some(part) = Wal::part(offset, amount) else {
        return sqlite::SQLITE_IOERR_WRITE;
    };
    // SAFETY: the caller's promise.
    let mut connection = unsafe { shared(file) }.connection.borrow_mut();
    code(match part {
        Part::FramePage(index) => {
            // SAFETY: `amount` is a page's size for this part.
            connection.write_wal_page(index, unsafe { Page::copy_from_raw(buffer.cast()) })
        }
        Part::WalHeader | Part::FrameHeader(_) => {
            let mut bytes = [0; WAL_HEADER_SIZE];
            const { assert!(FRAME_HEADER_SIZE <= WAL_HEADER_SIZE) };
            // SAFETY: `amount` is the size of one of the headers, so it fits; the caller's promise.
            unsafe {
                bytes
                    .as_mut_ptr()
                    .copy_from_nonoverlapping(buffer.cast(), amount)
            };
            connection.write_wal_header(part, &bytes[..amount])
        }
    })
}

/// SQLite cuts the WAL for `PRAGMA journal_size_limit`, to no less than the frames in use. What is
/// behind them is gone already.
///
/// # Safety
/// SQLite's.
unsafe extern "C" fn x_truncate(_file: *mut sqlite3_file, _size: i64) -> c_int {
    sqlite::SQLITE_OK
}

/// # Safety
/// SQLite's: `size` is valid for a write.
unsafe extern "C" fn x_file_size(file: *mut sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: the caller's promise.
    let bytes = unsafe { shared(file) }.connection.borrow().wal().size();
    // SAFETY: the caller's promise.
    unsafe { size.write(i64::try_from(bytes).unwrap_or(i64::MAX)) };
    sqlite::SQLITE_OK
}
