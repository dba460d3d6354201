//! A prepared statement.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::sync::Arc;

use libsqlite3_sys as sqlite;

use super::handle::Handle;
use crate::Error;

/// A prepared statement of a [`Db`](crate::Db).
///
/// When the `Db` is dropped, everything but dropping the statement fails with SQLITE_MISUSE (21),
/// and columns read as NULL.
pub struct Stmt {
    handle: Arc<Handle>,
    stmt: *mut sqlite::sqlite3_stmt,
}

// SAFETY: the statement is only used with its connection's lock held, and SQLite statements are not
// bound to a thread.
unsafe impl Send for Stmt {}

/// What [`Stmt::step`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A row, whose columns can be read until the next call that changes the statement.
    Row,
    /// The end. The next step starts the statement again.
    Done,
}

/// A value for a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BindRef<'a> {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A float; NaN becomes NULL.
    Float(f64),
    /// Text, meant to be UTF-8, though SQLite takes any bytes.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

/// The value of a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ColumnRef<'a> {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A float.
    Float(f64),
    /// Text in UTF-8, or whatever bytes were stored as text.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

impl Stmt {
    /// Takes over a statement of the handle's connection.
    pub(super) fn new(handle: Arc<Handle>, stmt: *mut sqlite::sqlite3_stmt) -> Stmt {
        Stmt { handle, stmt }
    }

    /// Number of parameters: the highest number that can be bound.
    pub fn param_count(&self) -> usize {
        let _entered = self.handle.enter();
        // SAFETY: the statement is ours, and we are inside its connection.
        unsafe { sqlite::sqlite3_bind_parameter_count(self.stmt) as usize }
    }

    /// True if the statement, as far as SQLite knows, does not write to the database. A hint:
    /// `PRAGMA optimize` claims it and writes all the same.
    pub fn readonly(&self) -> bool {
        let _entered = self.handle.enter();
        // SAFETY: as above.
        unsafe { sqlite::sqlite3_stmt_readonly(self.stmt) != 0 }
    }

    /// Number of columns of a row; 0 if the statement returns none.
    pub fn column_count(&self) -> usize {
        let _entered = self.handle.enter();
        // SAFETY: as above.
        unsafe { sqlite::sqlite3_column_count(self.stmt) as usize }
    }

    /// Name of a column, counted from 0; empty if there is no such column.
    pub fn column_name(&self, index: usize) -> &[u8] {
        let _entered = self.handle.enter();
        let Ok(index) = c_int::try_from(index) else {
            return &[];
        };
        // SAFETY: as above; the string lives until the statement is stepped or finalized, which
        // takes a mutable borrow.
        unsafe { string(sqlite::sqlite3_column_name(self.stmt, index)) }.unwrap_or_default()
    }

    /// The type that the table's definition gives for a column; `None` for an expression.
    pub fn column_decltype(&self, index: usize) -> Option<&[u8]> {
        let _entered = self.handle.enter();
        let index = c_int::try_from(index).ok()?;
        // SAFETY: as for `column_name`.
        unsafe { string(sqlite::sqlite3_column_decltype(self.stmt, index)) }
    }

    /// The text that the statement was prepared from.
    pub fn sql(&self) -> &[u8] {
        let _entered = self.handle.enter();
        // SAFETY: as above; the string lives as long as the statement.
        unsafe { string(sqlite::sqlite3_sql(self.stmt)) }.unwrap_or_default()
    }

    /// Binds a value to a parameter, counted from 1. Text and bytes are copied.
    pub fn bind(&mut self, index: usize, value: BindRef<'_>) -> Result<(), Error> {
        let entered = self.enter()?;
        let Ok(index) = c_int::try_from(index) else {
            return Err(Error::from_code(sqlite::SQLITE_RANGE));
        };
        // SAFETY: the statement is ours, and we are inside its connection; SQLite copies the bytes.
        let rc = unsafe {
            match value {
                BindRef::Null => sqlite::sqlite3_bind_null(self.stmt, index),
                BindRef::Integer(value) => sqlite::sqlite3_bind_int64(self.stmt, index, value),
                BindRef::Float(value) => sqlite::sqlite3_bind_double(self.stmt, index, value),
                BindRef::Text(text) => sqlite::sqlite3_bind_text64(
                    self.stmt,
                    index,
                    text.as_ptr().cast(),
                    text.len() as u64,
                    sqlite::SQLITE_TRANSIENT(),
                    sqlite::SQLITE_UTF8 as u8,
                ),
                BindRef::Blob(bytes) => sqlite::sqlite3_bind_blob64(
                    self.stmt,
                    index,
                    bytes.as_ptr().cast(),
                    bytes.len() as u64,
                    sqlite::SQLITE_TRANSIENT(),
                ),
            }
        };
        match rc {
            sqlite::SQLITE_OK => Ok(()),
            // SAFETY: the connection is open, and we are inside.
            rc => Err(unsafe { Error::last(entered.db(), rc) }),
        }
    }

    /// Sets all parameters to NULL.
    pub fn clear_bindings(&mut self) {
        let _entered = self.handle.enter();
        // SAFETY: the statement is ours, and we are inside its connection.
        unsafe { sqlite::sqlite3_clear_bindings(self.stmt) };
    }

    /// Runs the statement to its next row or to its end.
    ///
    /// After an error, and after the end, the next step starts it again; [`Stmt::reset`] ends it
    /// in any case.
    pub fn step(&mut self) -> Result<Step, Error> {
        let entered = self.enter()?;
        if entered.shared().ended.is_set() {
            return Err(Error::from_code(sqlite::SQLITE_INTERRUPT));
        }
        // SAFETY: the statement is ours, and we are inside its connection.
        match unsafe { sqlite::sqlite3_step(self.stmt) } {
            sqlite::SQLITE_ROW => Ok(Step::Row),
            sqlite::SQLITE_DONE => Ok(Step::Done),
            // SAFETY: the connection is open, and we are inside.
            rc => Err(unsafe { Error::last(entered.db(), rc) }),
        }
    }

    /// The value of a column of the current row, counted from 0; NULL if there is no such column
    /// or no row.
    pub fn column(&self, index: usize) -> ColumnRef<'_> {
        let _entered = self.handle.enter();
        let Ok(index) = c_int::try_from(index) else {
            return ColumnRef::Null;
        };
        if self.handle.is_closed() {
            return ColumnRef::Null;
        }
        // SAFETY: the statement is ours, and we are inside its connection. What the pointers point
        // to lives until the statement is stepped, reset or finalized, which takes a mutable
        // borrow; reading a value again returns the same bytes.
        unsafe {
            match sqlite::sqlite3_column_type(self.stmt, index) {
                sqlite::SQLITE_INTEGER => {
                    ColumnRef::Integer(sqlite::sqlite3_column_int64(self.stmt, index))
                }
                sqlite::SQLITE_FLOAT => {
                    ColumnRef::Float(sqlite::sqlite3_column_double(self.stmt, index))
                }
                sqlite::SQLITE_TEXT => {
                    let text = sqlite::sqlite3_column_text(self.stmt, index);
                    let length = sqlite::sqlite3_column_bytes(self.stmt, index);
                    ColumnRef::Text(bytes(text.cast(), length))
                }
                sqlite::SQLITE_BLOB => {
                    let blob = sqlite::sqlite3_column_blob(self.stmt, index);
                    let length = sqlite::sqlite3_column_bytes(self.stmt, index);
                    ColumnRef::Blob(bytes(blob.cast(), length))
                }
                _ => ColumnRef::Null,
            }
        }
    }

    /// Bytes that a column of the current row has when it is read; 8 for a number. Unlike reading it,
    /// this does not make a `zeroblob` real, so it may be asked of a value that is too large.
    pub fn column_size(&self, index: usize) -> usize {
        let _entered = self.handle.enter();
        let Ok(index) = c_int::try_from(index) else {
            return 0;
        };
        if self.handle.is_closed() {
            return 0;
        }
        // SAFETY: the statement is ours, and we are inside its connection.
        let size = unsafe {
            match sqlite::sqlite3_column_type(self.stmt, index) {
                sqlite::SQLITE_INTEGER | sqlite::SQLITE_FLOAT => 8,
                sqlite::SQLITE_NULL => 0,
                _ => sqlite::sqlite3_column_bytes(self.stmt, index),
            }
        };
        usize::try_from(size).unwrap_or(0)
    }

    /// Ends the current run, so that the statement can be bound and stepped anew. In autocommit
    /// mode this ends the transaction too, if it was the last statement running.
    pub fn reset(&mut self) {
        let _entered = self.handle.enter();
        // SAFETY: the statement is ours, and we are inside its connection. The result repeats the
        // error of the last step.
        unsafe { sqlite::sqlite3_reset(self.stmt) };
    }

    fn enter(&self) -> Result<super::handle::Entered<'_>, Error> {
        if self.handle.is_closed() {
            return Err(Error::from_code(sqlite::SQLITE_MISUSE));
        }
        Ok(self.handle.enter())
    }
}

impl Drop for Stmt {
    fn drop(&mut self) {
        let _entered = self.handle.enter();
        // SAFETY: the statement is ours, and we are inside its connection. The result repeats the
        // error of the last step.
        unsafe { sqlite::sqlite3_finalize(self.stmt) };
    }
}

impl fmt::Debug for Stmt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stmt({})", String::from_utf8_lossy(self.sql()))
    }
}

/// # Safety
/// `string` is null or a string that lives as long as the result.
unsafe fn string<'a>(string: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise.
    (!string.is_null()).then(|| unsafe { CStr::from_ptr(string) }.to_bytes())
}

/// # Safety
/// `start` is null, or `length` bytes from it live as long as the result.
unsafe fn bytes<'a>(start: *const u8, length: c_int) -> &'a [u8] {
    match usize::try_from(length) {
        // SAFETY: the caller's promise.
        Ok(length) if !start.is_null() => unsafe { std::slice::from_raw_parts(start, length) },
        _ => &[],
    }
}
