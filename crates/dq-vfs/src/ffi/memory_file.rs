//! Temporary files: what SQLite sorts, the copy that VACUUM makes, temporary tables. In memory, so
//! that a node never writes to a disk that it was not told to use.

use std::ffi::{c_int, c_void};

use libsqlite3_sys as sqlite;
use sqlite::{sqlite3_file, sqlite3_io_methods};

use super::{
    File, deliver, delivered, x_check_reserved_lock, x_device_characteristics, x_file_control_none,
    x_sector_size, x_sync, x_unlock,
};

pub(crate) static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(x_close),
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

/// Bytes of a piece of a file. Pieces do not move when the file grows.
const PIECE: usize = 64 * 1024;

#[derive(Default)]
pub(crate) struct Memory {
    pieces: Vec<Option<Box<[u8; PIECE]>>>,
    size: u64,
}

impl Memory {
    /// The content from `offset` to the end of its piece; zeros where nothing was written.
    fn piece(&self, offset: u64) -> &[u8] {
        let (index, within) = (
            (offset / PIECE as u64) as usize,
            (offset % PIECE as u64) as usize,
        );
        match self.pieces.get(index) {
            Some(Some(piece)) => &piece[within..],
            _ => &[0; PIECE][within..],
        }
    }

    fn piece_mut(&mut self, offset: u64) -> &mut [u8] {
        let (index, within) = (
            (offset / PIECE as u64) as usize,
            (offset % PIECE as u64) as usize,
        );
        if self.pieces.len() <= index {
            self.pieces.resize_with(index + 1, || None);
        }
        &mut self.pieces[index].get_or_insert_with(|| Box::new([0; PIECE]))[within..]
    }

    fn truncate(&mut self, size: u64) {
        if size < self.size {
            self.pieces.truncate(size.div_ceil(PIECE as u64) as usize);
            if !size.is_multiple_of(PIECE as u64)
                && let Some(Some(last)) = self.pieces.get_mut((size / PIECE as u64) as usize)
            {
                last[(size % PIECE as u64) as usize..].fill(0);
            }
        }
        self.size = size;
    }
}

/// The most that a temporary file may hold: a bound for the arithmetic, far above any memory.
const SIZE_MAX: u64 = 1 << 46;

/// # Safety
/// `file` was opened as a memory file, and the result is used only in the callback that `file`
/// was passed to.
unsafe fn memory<'a>(file: *mut sqlite3_file) -> &'a mut Memory {
    // SAFETY: xOpen boxed it, xClose frees it, and SQLite makes one call at a time per file.
    unsafe { &mut *(*file.cast::<File>()).state.cast::<Memory>() }
}

/// # Safety
/// SQLite's: the last call with this file.
unsafe extern "C" fn x_close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: xOpen put the box there.
    drop(unsafe { Box::from_raw((*file.cast::<File>()).state.cast::<Memory>()) });
    sqlite::SQLITE_OK
}

/// # Safety
/// SQLite's: `buffer` is valid for writes of `amount` bytes, perhaps uninitialised.
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
    let memory = unsafe { memory(file) };
    let end = memory.size.min(offset.saturating_add(amount as u64));
    let mut have = 0;
    while offset + (have as u64) < end {
        let at = offset + have as u64;
        let piece = memory.piece(at);
        let n = piece.len().min((end - at) as usize);
        // SAFETY: `have + n <= amount`, and our heap does not overlap SQLite's buffer.
        unsafe { deliver(buffer, have, &piece[..n]) };
        have += n;
    }
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
    if offset > SIZE_MAX {
        return sqlite::SQLITE_FULL;
    }
    // SAFETY: the caller's promise.
    let memory = unsafe { memory(file) };
    let mut done = 0;
    while done < amount {
        let piece = memory.piece_mut(offset + done as u64);
        let n = piece.len().min(amount - done);
        // SAFETY: `done + n <= amount`, and our heap does not overlap SQLite's buffer.
        unsafe {
            let from = buffer.cast::<u8>().add(done);
            piece.as_mut_ptr().copy_from_nonoverlapping(from, n);
        }
        done += n;
    }
    memory.size = memory.size.max(offset + amount as u64);
    sqlite::SQLITE_OK
}

/// # Safety
/// SQLite's.
unsafe extern "C" fn x_truncate(file: *mut sqlite3_file, size: i64) -> c_int {
    match u64::try_from(size) {
        Ok(size) if size <= SIZE_MAX => {
            // SAFETY: the caller's promise.
            unsafe { memory(file) }.truncate(size);
            sqlite::SQLITE_OK
        }
        _ => sqlite::SQLITE_IOERR_TRUNCATE,
    }
}

/// # Safety
/// SQLite's: `size` is valid for a write.
unsafe extern "C" fn x_file_size(file: *mut sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: the caller's promise; sizes are bounded far below 2^63.
    unsafe { size.write(memory(file).size as i64) };
    sqlite::SQLITE_OK
}
