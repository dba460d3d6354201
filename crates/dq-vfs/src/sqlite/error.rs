//! What SQLite says when it refuses.

use std::ffi::CStr;
use std::fmt;

use libsqlite3_sys as sqlite;

/// An error of SQLite.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    /// The extended result code, see <https://sqlite.org/rescode.html>; its low byte is the
    /// primary one.
    pub code: i32,
    /// SQLite's message in English, usually UTF-8.
    pub message: Vec<u8>,
}

impl Error {
    /// An error with SQLite's standard message for the code.
    pub(crate) fn from_code(code: i32) -> Error {
        // SAFETY: SQLite returns a static string for every number.
        let message = unsafe { CStr::from_ptr(sqlite::sqlite3_errstr(code)) };
        Error {
            code,
            message: message.to_bytes().to_vec(),
        }
    }

    /// The error that a call on `db` has just returned as `code`.
    ///
    /// # Safety
    /// `db` is an open connection, or one that failed to open and is not closed yet.
    pub(crate) unsafe fn last(db: *mut sqlite::sqlite3, code: i32) -> Error {
        // SAFETY: the caller's promise; the message is copied before anything else is called.
        unsafe {
            // A call that was refused outright leaves an older error behind in the connection.
            if db.is_null() || sqlite::sqlite3_extended_errcode(db) & 0xff != code & 0xff {
                return Error::from_code(code);
            }
            let message = CStr::from_ptr(sqlite::sqlite3_errmsg(db));
            Error {
                code,
                message: message.to_bytes().to_vec(),
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({})",
            String::from_utf8_lossy(&self.message),
            self.code
        )
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Error({}, {:?})",
            self.code,
            String::from_utf8_lossy(&self.message)
        )
    }
}

impl std::error::Error for Error {}
