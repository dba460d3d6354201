//! Stock SQLite on files: what our VFS is compared with.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, reason = "a module of tests")]

use std::ffi::{CStr, CString, c_int};
use std::path::{Path, PathBuf};

use dq_vfs::Error;
use libsqlite3_sys as sqlite;

use crate::common::{Rows, Value};

/// A connection to a file in WAL mode, through SQLite's own VFS.
pub struct Stock(*mut sqlite::sqlite3);

/// A statement of a [`Stock`]; to be dropped before it.
pub struct StockStmt(*mut sqlite::sqlite3, *mut sqlite::sqlite3_stmt);

/// A folder that is removed with everything in it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("dq-vfs-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Stock {
    pub fn open(path: &Path) -> Stock {
        let name = CString::new(path.to_str().unwrap()).unwrap();
        let mut db = std::ptr::null_mut();
        let flags = sqlite::SQLITE_OPEN_READWRITE
            | sqlite::SQLITE_OPEN_CREATE
            | sqlite::SQLITE_OPEN_EXRESCODE;
        // SAFETY: valid pointers; null stands for the default VFS.
        let rc =
            unsafe { sqlite::sqlite3_open_v2(name.as_ptr(), &mut db, flags, c"unix".as_ptr()) };
        assert_eq!(rc, sqlite::SQLITE_OK);
        let stock = Stock(db);
        stock
            .execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA foreign_keys=ON")
            .unwrap();
        stock
    }

    pub fn execute(&self, sql: &str) -> Result<Rows, Error> {
        let mut rest = sql.as_bytes();
        let mut rows = Vec::new();
        while !rest.is_empty() {
            let (stmt, tail) = self.prepare(rest)?;
            rest = &rest[tail..];
            let Some(mut stmt) = stmt else { continue };
            rows.clear();
            while let Some(row) = stmt.step()? {
                rows.push(row);
            }
        }
        Ok(rows)
    }

    pub fn prepare(&self, sql: &[u8]) -> Result<(Option<StockStmt>, usize), Error> {
        let mut stmt = std::ptr::null_mut();
        let mut tail = std::ptr::null();
        // SAFETY: `sql` is valid for its length; the connection is open.
        unsafe {
            let start = sql.as_ptr().cast();
            let rc =
                sqlite::sqlite3_prepare_v2(self.0, start, sql.len() as c_int, &mut stmt, &mut tail);
            if rc != sqlite::SQLITE_OK {
                return Err(last_error(self.0, rc));
            }
            let stmt = (!stmt.is_null()).then_some(StockStmt(self.0, stmt));
            Ok((stmt, tail.offset_from(start) as usize))
        }
    }

    pub fn autocommit(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { sqlite::sqlite3_get_autocommit(self.0) != 0 }
    }

    pub fn changes(&self) -> i32 {
        // SAFETY: the connection is open.
        unsafe { sqlite::sqlite3_changes(self.0) }
    }

    pub fn last_insert_rowid(&self) -> i64 {
        // SAFETY: the connection is open.
        unsafe { sqlite::sqlite3_last_insert_rowid(self.0) }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        // SAFETY: the connection is open; its statements are gone.
        assert_eq!(unsafe { sqlite::sqlite3_close(self.0) }, sqlite::SQLITE_OK);
    }
}

impl StockStmt {
    pub fn step(&mut self) -> Result<Option<Vec<Value>>, Error> {
        // SAFETY: the statement is open.
        unsafe {
            match sqlite::sqlite3_step(self.1) {
                sqlite::SQLITE_ROW => {
                    let columns = sqlite::sqlite3_column_count(self.1);
                    Ok(Some((0..columns).map(|i| self.column(i)).collect()))
                }
                sqlite::SQLITE_DONE => Ok(None),
                rc => Err(last_error(self.0, rc)),
            }
        }
    }

    /// # Safety
    /// There is a row.
    unsafe fn column(&self, i: c_int) -> Value {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = |start: *const u8, length: c_int| match length {
                0 => Vec::new(),
                n => std::slice::from_raw_parts(start, n as usize).to_vec(),
            };
            match sqlite::sqlite3_column_type(self.1, i) {
                sqlite::SQLITE_INTEGER => Value::Integer(sqlite::sqlite3_column_int64(self.1, i)),
                sqlite::SQLITE_FLOAT => Value::Float(sqlite::sqlite3_column_double(self.1, i)),
                sqlite::SQLITE_TEXT => {
                    let start = sqlite::sqlite3_column_text(self.1, i);
                    let text = bytes(start, sqlite::sqlite3_column_bytes(self.1, i));
                    Value::Text(String::from_utf8_lossy(&text).into_owned())
                }
                sqlite::SQLITE_BLOB => {
                    let start = sqlite::sqlite3_column_blob(self.1, i).cast();
                    Value::Blob(bytes(start, sqlite::sqlite3_column_bytes(self.1, i)))
                }
                _ => Value::Null,
            }
        }
    }
}

impl Drop for StockStmt {
    fn drop(&mut self) {
        // SAFETY: the statement is open.
        unsafe { sqlite::sqlite3_finalize(self.1) };
    }
}

/// # Safety
/// The connection is open and returned `code` last.
unsafe fn last_error(db: *mut sqlite::sqlite3, code: c_int) -> Error {
    // SAFETY: the caller's promise.
    let message = unsafe { CStr::from_ptr(sqlite::sqlite3_errmsg(db)) };
    Error {
        code,
        message: message.to_bytes().to_vec(),
    }
}
