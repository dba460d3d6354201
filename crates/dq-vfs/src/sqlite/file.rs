//! Ordinary database files, to be read.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use libsqlite3_sys as sqlite;

use super::db::Db;
use super::handle::Handle;
use crate::ffi::process;
use crate::shared::Shared;
use crate::{Error, Vfs};

impl Db {
    /// Opens a file of SQLite's, read-only, as any program does: with the system's locks, its WAL or
    /// journal beside it, whatever its page size. It needs no grant, and makes no captures.
    ///
    /// The `Vfs` is the proof that SQLite is set up, and has no other part in it.
    ///
    /// # Errors
    /// SQLite's. A file that is no database is noticed by the first statement.
    pub fn open_file(_set_up: &Arc<Vfs>, path: &Path) -> Result<Db, Error> {
        let cannot_open = || Error::from_code(sqlite::SQLITE_CANTOPEN);
        // An absolute path is never taken for a URI or a special name.
        let path = path.canonicalize().map_err(|_| cannot_open())?;
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| cannot_open())?;
        let shared = Box::new(Shared::new(false));
        let mut db = std::ptr::null_mut();
        let flags = sqlite::SQLITE_OPEN_READONLY
            | sqlite::SQLITE_OPEN_NOMUTEX
            | sqlite::SQLITE_OPEN_PRIVATECACHE
            | sqlite::SQLITE_OPEN_EXRESCODE;
        let serial = process::serial();
        // SAFETY: all pointers are valid, and the name is copied. A null VFS is the process's default.
        let rc =
            unsafe { sqlite::sqlite3_open_v2(name.as_ptr(), &mut db, flags, std::ptr::null()) };
        if rc != sqlite::SQLITE_OK {
            // SAFETY: SQLite may return a connection together with an error, to be closed.
            unsafe {
                let error = Error::last(db, rc);
                sqlite::sqlite3_close(db);
                return Err(error);
            }
        }
        drop(serial);
        let db = Db::of(Handle::new(db, shared));
        // A file that somebody cuts short must not end the process; and what is in its schema is not
        // to be trusted.
        for pragma in [c"PRAGMA mmap_size=0", c"PRAGMA trusted_schema=OFF"] {
            db.execute(pragma)?;
        }
        Ok(db)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnRef, Step, Version};

    /// A database of one table, as bytes of a file.
    fn file(dir: &Path) -> std::path::PathBuf {
        use crate::{Grant, Write};

        let vfs = Vfs::register().unwrap();
        let head = Version::empty(1);
        let mut db = Db::open(&vfs, b"made", head.clone()).unwrap();
        db.grant(Grant {
            pin: head.clone(),
            write: Write::Slot { head: 1 },
        });
        let prepared = db.prepare(b"CREATE TABLE t AS SELECT 'x' AS a").unwrap();
        prepared.stmt.unwrap().step().unwrap();
        let captures = db.take_captures();
        let made = head.successor(2, &captures[0].pages, captures[0].page_count);
        let bytes: Vec<u8> = made.pages().flat_map(|page| *page.bytes()).collect();
        let path = dir.join("file: a?name");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_file_is_read_and_cannot_be_written() {
        let dir = std::env::temp_dir().join(format!("dq-vfs-file-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = file(&dir);
        let vfs = Vfs::register().unwrap();
        let mut db = Db::open_file(&vfs, &path).unwrap();
        let mut stmt = db.prepare(b"SELECT a FROM t").unwrap().stmt.unwrap();
        assert_eq!(stmt.step(), Ok(Step::Row));
        assert_eq!(stmt.column(0), ColumnRef::Text(b"x"));
        let mut stmt = db.prepare(b"DELETE FROM t").unwrap().stmt.unwrap();
        assert_eq!(stmt.step().unwrap_err().code, sqlite::SQLITE_READONLY);
        drop((stmt, db));
        let missing = Db::open_file(&vfs, &dir.join("missing"));
        assert_eq!(missing.unwrap_err().code, sqlite::SQLITE_CANTOPEN);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
