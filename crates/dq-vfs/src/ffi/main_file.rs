//! The database file of a connection: reads come from the pinned version, writes never happen.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use libsqlite3_sys as sqlite;
use sqlite::{sqlite3_file, sqlite3_io_methods};

use super::{
    code, deliver, delivered, shared, x_check_reserved_lock, x_close_nothing,
    x_device_characteristics, x_sector_size, x_sync, x_unlock,
};
use crate::region::REGION_SIZE;
use crate::{PAGE_SIZE, PageNo};

pub(crate) static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(x_close_nothing),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: Some(x_shm_map),
    xShmLock: Some(x_shm_lock),
    xShmBarrier: Some(x_shm_barrier),
    xShmUnmap: Some(x_shm_unmap),
    xFetch: Some(x_fetch),
    xUnfetch: Some(x_unfetch),
};

/// # Safety
/// SQLite calls this with an open main file, one call at a time, and a `buffer` that is valid for
/// writes of `amount` bytes, perhaps uninitialised.
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
    let Some(version) = connection.main() else {
        return sqlite::SQLITE_IOERR_READ;
    };
    let mut have = 0;
    while have < amount {
        let at = offset.saturating_add(have as u64);
        let within = (at % PAGE_SIZE as u64) as usize;
        let page_no = u32::try_from(at / PAGE_SIZE as u64)
            .ok()
            .and_then(|n| n.checked_add(1));
        let Some(page) = page_no.and_then(|page_no| version.page(PageNo(page_no))) else {
            break;
        };
        let piece = &page.bytes()[within..];
        let n = piece.len().min(amount - have);
        // SAFETY: `have + n <= amount`, and pages do not overlap SQLite's buffers.
        unsafe { deliver(buffer, have, &piece[..n]) };
        have += n;
    }
    // SAFETY: the caller's promise.
    unsafe { delivered(buffer, have, amount) }
}

/// Without checkpoints nothing writes to the main file.
///
/// # Safety
/// SQLite's.
unsafe extern "C" fn x_write(
    _file: *mut sqlite3_file,
    _buffer: *const c_void,
    _amount: c_int,
    _offset: i64,
) -> c_int {
    sqlite::SQLITE_IOERR_WRITE
}

/// # Safety
/// SQLite's.
unsafe extern "C" fn x_truncate(_file: *mut sqlite3_file, _size: i64) -> c_int {
    sqlite::SQLITE_IOERR_TRUNCATE
}

/// # Safety
/// SQLite's: `size` is valid for a write.
unsafe extern "C" fn x_file_size(file: *mut sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: the caller's promise.
    let connection = unsafe { shared(file) }.connection.borrow();
    let Some(version) = connection.main() else {
        return sqlite::SQLITE_IOERR_FSTAT;
    };
    // SAFETY: the caller's promise.
    unsafe { size.write(i64::from(version.page_count()) * PAGE_SIZE as i64) };
    sqlite::SQLITE_OK
}

/// In WAL mode SQLite asks for more than a shared lock to leave that mode, for exclusive access,
/// and for a checkpoint when it closes. None of these may happen.
///
/// # Safety
/// SQLite's.
unsafe extern "C" fn x_lock(_file: *mut sqlite3_file, level: c_int) -> c_int {
    if level > sqlite::SQLITE_LOCK_SHARED {
        sqlite::SQLITE_BUSY
    } else {
        sqlite::SQLITE_OK
    }
}

/// # Safety
/// SQLite's: `arg` is what the operation asks for.
unsafe extern "C" fn x_file_control(file: *mut sqlite3_file, op: c_int, arg: *mut c_void) -> c_int {
    match op {
        // SAFETY: this operation's argument is an array of four pointers to strings.
        sqlite::SQLITE_FCNTL_PRAGMA => unsafe { pragma(file, arg.cast()) },
        sqlite::SQLITE_FCNTL_MMAP_SIZE => {
            let arg = arg.cast::<i64>();
            // SAFETY: this operation's argument is a limit, and its result goes to the same place.
            unsafe {
                let before = shared(file)
                    .connection
                    .borrow_mut()
                    .set_mmap_size(arg.read());
                arg.write(before);
            }
            sqlite::SQLITE_OK
        }
        _ => sqlite::SQLITE_NOTFOUND,
    }
}

/// # Safety
/// `args` points to the result, the name and the argument (or null) of a PRAGMA statement; `file`
/// is an open main file.
unsafe fn pragma(file: *mut sqlite3_file, args: *mut *mut c_char) -> c_int {
    // SAFETY: the caller's promise.
    let (name, argument) = unsafe { (CStr::from_ptr(*args.add(1)), *args.add(2)) };
    let refusal = if name.to_bytes().eq_ignore_ascii_case(b"delete_database") {
        if !argument.is_null() {
            return sqlite::SQLITE_NOTFOUND;
        }
        // SAFETY: the caller's promise.
        match unsafe { shared(file) }
            .connection
            .borrow_mut()
            .ask_delete_database()
        {
            Ok(()) => return sqlite::SQLITE_OK,
            Err(refusal) => refusal,
        }
    } else if name.to_bytes().eq_ignore_ascii_case(b"locking_mode") {
        // With exclusive locking SQLite would not take the locks that everything hangs on.
        "PRAGMA locking_mode is not supported"
    } else {
        return sqlite::SQLITE_NOTFOUND;
    };
    // SAFETY: the format takes a length and a string that is at least that long; SQLite frees the
    // result.
    unsafe {
        *args = sqlite::sqlite3_mprintf(
            c"%.*s".as_ptr(),
            refusal.len() as c_int,
            refusal.as_ptr().cast::<c_char>(),
        );
    }
    sqlite::SQLITE_ERROR
}

/// # Safety
/// SQLite's: `result` is valid for a write; the memory handed out is used until xShmUnmap.
unsafe extern "C" fn x_shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    result: *mut *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    let mut connection = unsafe { shared(file) }.connection.borrow_mut();
    let mapped = match usize::try_from(region) {
        Ok(region) if size == REGION_SIZE as c_int => connection.map_region(region, extend != 0),
        _ => return sqlite::SQLITE_IOERR_SHMMAP,
    };
    let (rc, address) = match mapped {
        Ok(address) => (
            sqlite::SQLITE_OK,
            address.map_or(std::ptr::null_mut(), NonNull::as_ptr),
        ),
        Err(error) => (code(Err(error)), std::ptr::null_mut()),
    };
    // SAFETY: the caller's promise.
    unsafe { result.write(address.cast()) };
    rc
}

/// # Safety
/// SQLite's.
unsafe extern "C" fn x_shm_lock(
    file: *mut sqlite3_file,
    first: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    let (Ok(first), Ok(count)) = (usize::try_from(first), usize::try_from(count)) else {
        return sqlite::SQLITE_IOERR_SHMLOCK;
    };
    // SAFETY: the caller's promise.
    let mut connection = unsafe { shared(file) }.connection.borrow_mut();
    let exclusive = flags & sqlite::SQLITE_SHM_EXCLUSIVE != 0;
    let lock = flags & sqlite::SQLITE_SHM_LOCK != 0;
    code(match (lock, exclusive) {
        (true, true) => connection.lock_exclusive(first, count),
        (true, false) => connection.lock_shared(first),
        (false, true) => {
            connection.unlock_exclusive(first);
            Ok(())
        }
        (false, false) => {
            connection.unlock_shared(first);
            Ok(())
        }
    })
}

/// # Safety
/// SQLite's.
unsafe extern "C" fn x_shm_barrier(_file: *mut sqlite3_file) {
    fence(Ordering::SeqCst);
}

/// # Safety
/// SQLite's: it does not use the regions any more.
unsafe extern "C" fn x_shm_unmap(file: *mut sqlite3_file, _delete: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { shared(file) }
        .connection
        .borrow_mut()
        .unmap_regions();
    sqlite::SQLITE_OK
}

/// # Safety
/// SQLite's: `result` is valid for a write; the page is used until the matching xUnfetch, which
/// comes before the read lock is released.
unsafe extern "C" fn x_fetch(
    file: *mut sqlite3_file,
    offset: i64,
    amount: c_int,
    result: *mut *mut c_void,
) -> c_int {
    let page = match (u64::try_from(offset), usize::try_from(amount)) {
        (Ok(offset), Ok(amount)) => {
            // SAFETY: the caller's promise.
            unsafe { shared(file) }
                .connection
                .borrow_mut()
                .fetch(offset, amount)
        }
        _ => None,
    };
    // SAFETY: the caller's promise. Without a page SQLite reads by xRead. SQLite never writes
    // through the pointer.
    unsafe { result.write(page.map_or(std::ptr::null_mut(), |page| page.as_ptr().cast())) };
    sqlite::SQLITE_OK
}

/// # Safety
/// SQLite's: `page` came from xFetch, or is null as a hint to unmap.
unsafe extern "C" fn x_unfetch(file: *mut sqlite3_file, _offset: i64, page: *mut c_void) -> c_int {
    if !page.is_null() {
        // SAFETY: the caller's promise.
        unsafe { shared(file) }.connection.borrow_mut().unfetch();
    }
    sqlite::SQLITE_OK
}
