//! The tables of functions, called as SQLite calls them: one clause of its contract per test.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Arc;

use libsqlite3_sys as sqlite;
use sqlite::{sqlite3_file, sqlite3_io_methods, sqlite3_vfs};

use super::{File, main_file, opening, wal_file};
use crate::region::REGION_SIZE;
use crate::shared::Shared;
use crate::wal_index::{HEADER_SIZE, summary};
use crate::{Grant, PAGE_SIZE, Page, PageNo, Version, Vfs, World, Write};

/// A file as SQLite holds one, on an allocation of its own size.
struct Open {
    file: Box<File>,
    /// After the file, which points to it.
    shared: Option<Box<Shared>>,
}

impl Open {
    fn main(version: Version, write: Write) -> Open {
        let vfs = Vfs::register().unwrap();
        let shared = Box::new(Shared::new(true));
        shared.connection.borrow_mut().grant(Grant {
            pin: version,
            write,
        });
        let mut open = Open::blank();
        let rc = opening(&shared, || {
            open.x_open(&vfs, Some(c"name"), sqlite::SQLITE_OPEN_MAIN_DB)
        });
        assert_eq!(rc, sqlite::SQLITE_OK);
        open.shared = Some(shared);
        open
    }

    /// The WAL of the same connection.
    fn wal(&self) -> Open {
        let mut open = Open::blank();
        open.file.base.pMethods = &wal_file::METHODS;
        open.file.state = self.file.state;
        open
    }

    fn temporary() -> Open {
        let vfs = Vfs::register().unwrap();
        let mut open = Open::blank();
        let flags = sqlite::SQLITE_OPEN_TEMP_DB | sqlite::SQLITE_OPEN_DELETEONCLOSE;
        assert_eq!(open.x_open(&vfs, None, flags), sqlite::SQLITE_OK);
        open
    }

    fn blank() -> Open {
        let base = sqlite3_file {
            pMethods: std::ptr::dangling(),
        };
        Open {
            file: Box::new(File {
                base,
                state: std::ptr::null_mut(),
            }),
            shared: None,
        }
    }

    fn x_open(&mut self, vfs: &Arc<Vfs>, name: Option<&CStr>, flags: c_int) -> c_int {
        let vfs = table(vfs);
        let name = name.map_or(std::ptr::null(), CStr::as_ptr);
        let mut out = 0;
        // SAFETY: all pointers are valid, and the file is as large as the VFS asks for.
        unsafe { (*vfs).xOpen.unwrap()(vfs, name, self.as_ptr(), flags, &mut out) }
    }

    fn as_ptr(&mut self) -> *mut sqlite3_file {
        std::ptr::from_mut(&mut *self.file).cast()
    }

    fn methods(&self) -> &'static sqlite3_io_methods {
        // SAFETY: set by xOpen to a static table.
        unsafe { &*self.file.base.pMethods }
    }

    fn connection(&self) -> std::cell::RefMut<'_, crate::connection::Connection> {
        self.shared.as_ref().unwrap().connection.borrow_mut()
    }

    fn read(&mut self, amount: usize, offset: i64) -> (c_int, Vec<u8>) {
        let mut buffer = vec![0xee; amount];
        // SAFETY: the buffer is valid for `amount` bytes.
        let rc = unsafe {
            let into = buffer.as_mut_ptr().cast();
            self.methods().xRead.unwrap()(self.as_ptr(), into, amount as c_int, offset)
        };
        (rc, buffer)
    }

    fn write(&mut self, bytes: &[u8], offset: i64) -> c_int {
        // SAFETY: the bytes are valid.
        unsafe {
            let from = bytes.as_ptr().cast();
            self.methods().xWrite.unwrap()(self.as_ptr(), from, bytes.len() as c_int, offset)
        }
    }

    fn size(&mut self) -> i64 {
        let mut size = -1;
        // SAFETY: the size is valid for a write.
        let rc = unsafe { self.methods().xFileSize.unwrap()(self.as_ptr(), &mut size) };
        assert_eq!(rc, sqlite::SQLITE_OK);
        size
    }

    fn shm_map(&mut self, region: c_int, extend: bool) -> (c_int, *mut u8) {
        let mut address = std::ptr::dangling_mut::<c_void>();
        // SAFETY: the address is valid for a write.
        let rc = unsafe {
            self.methods().xShmMap.unwrap()(
                self.as_ptr(),
                region,
                REGION_SIZE as c_int,
                c_int::from(extend),
                &mut address,
            )
        };
        (rc, address.cast())
    }

    fn shm_lock(&mut self, slot: c_int, flags: c_int) -> c_int {
        // SAFETY: the file is open.
        unsafe { self.methods().xShmLock.unwrap()(self.as_ptr(), slot, 1, flags) }
    }

    fn fetch(&mut self, page_no: u32) -> *mut u8 {
        let mut address = std::ptr::dangling_mut::<c_void>();
        let offset = i64::from(page_no - 1) * PAGE_SIZE as i64;
        // SAFETY: the address is valid for a write.
        let rc = unsafe {
            let amount = PAGE_SIZE as c_int;
            self.methods().xFetch.unwrap()(self.as_ptr(), offset, amount, &mut address)
        };
        assert_eq!(rc, sqlite::SQLITE_OK);
        address.cast()
    }

    fn pragma(&mut self, name: &CStr, argument: Option<&CStr>) -> (c_int, Option<CString>) {
        let argument = argument.map_or(std::ptr::null(), CStr::as_ptr).cast_mut();
        let mut args: [*mut c_char; 4] = [
            std::ptr::null_mut(),
            name.as_ptr().cast_mut(),
            argument,
            std::ptr::null_mut(),
        ];
        // SAFETY: the arguments are those of the operation; the result is SQLite's to free.
        unsafe {
            let op = sqlite::SQLITE_FCNTL_PRAGMA;
            let rc =
                self.methods().xFileControl.unwrap()(self.as_ptr(), op, args.as_mut_ptr().cast());
            let message = (!args[0].is_null()).then(|| CStr::from_ptr(args[0]).to_owned());
            sqlite::sqlite3_free(args[0].cast());
            (rc, message)
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.file.base.pMethods.is_null() {
            // SAFETY: the file is open, and this is the last call.
            unsafe { self.methods().xClose.unwrap()(self.as_ptr()) };
        }
    }
}

fn table(vfs: &Vfs) -> *mut sqlite3_vfs {
    // SAFETY: the name is a string.
    let table = unsafe { sqlite::sqlite3_vfs_find(vfs.name().as_ptr()) };
    assert!(!table.is_null());
    table
}

/// A database of `count` pages, each filled with its number.
fn version(number: u64, count: u8) -> Version {
    Version::from_pages(
        number,
        (1..=count).map(|i| Page::copy_from(&[i; PAGE_SIZE])),
    )
}

const SHARED_LOCK: c_int = sqlite::SQLITE_SHM_LOCK | sqlite::SQLITE_SHM_SHARED;
const SHARED_UNLOCK: c_int = sqlite::SQLITE_SHM_UNLOCK | sqlite::SQLITE_SHM_SHARED;
const EXCLUSIVE_LOCK: c_int = sqlite::SQLITE_SHM_LOCK | sqlite::SQLITE_SHM_EXCLUSIVE;
const EXCLUSIVE_UNLOCK: c_int = sqlite::SQLITE_SHM_UNLOCK | sqlite::SQLITE_SHM_EXCLUSIVE;
/// Slots of a WAL-index.
const WRITE: c_int = 0;
const CHECKPOINT: c_int = 1;
const READ_0: c_int = 3;

#[test]
fn a_file_that_fails_to_open_has_no_methods() {
    let vfs = Vfs::register().unwrap();
    for flags in [
        sqlite::SQLITE_OPEN_MAIN_DB,
        sqlite::SQLITE_OPEN_MAIN_JOURNAL,
        sqlite::SQLITE_OPEN_SUPER_JOURNAL,
    ] {
        let mut open = Open::blank();
        assert_eq!(
            open.x_open(&vfs, Some(c"other"), flags),
            sqlite::SQLITE_CANTOPEN
        );
        assert!(
            open.file.base.pMethods.is_null(),
            "SQLite closes what has methods"
        );
    }
}

#[test]
fn a_read_is_the_pinned_page_and_ends_with_zeros() {
    let mut open = Open::main(version(1, 3), Write::None);
    assert_eq!(open.size(), 3 * PAGE_SIZE as i64);
    assert_eq!(
        open.read(PAGE_SIZE, PAGE_SIZE as i64),
        (0, vec![2; PAGE_SIZE])
    );
    assert_eq!(open.read(16, 24), (0, vec![1; 16]));
    let (rc, bytes) = open.read(10, 3 * PAGE_SIZE as i64 - 4);
    assert_eq!(rc, sqlite::SQLITE_IOERR_SHORT_READ);
    assert_eq!(bytes, [3, 3, 3, 3, 0, 0, 0, 0, 0, 0]);
    let (rc, bytes) = open.read(8, 1 << 40);
    assert_eq!((rc, bytes), (sqlite::SQLITE_IOERR_SHORT_READ, vec![0; 8]));
}

#[test]
fn offsets_and_amounts_out_of_range_are_errors() {
    let mut open = Open::main(version(1, 1), Write::None);
    assert_eq!(open.read(1, -1).0, sqlite::SQLITE_IOERR_READ);
    assert_eq!(open.read(1, i64::MAX).0, sqlite::SQLITE_IOERR_SHORT_READ);
    assert_eq!(open.write(&[0], 0), sqlite::SQLITE_IOERR_WRITE);
    let mut wal = open.wal();
    assert_eq!(wal.read(1, -1).0, sqlite::SQLITE_IOERR_READ);
    assert_eq!(wal.write(&[0; 24], -1), sqlite::SQLITE_IOERR_WRITE);
    assert_eq!(wal.write(&[0; 24], i64::MAX), sqlite::SQLITE_IOERR_WRITE);
    assert_eq!(wal.write(&[0; 5], 32), sqlite::SQLITE_IOERR_WRITE);
    let mut temporary = Open::temporary();
    assert_eq!(temporary.read(1, -1).0, sqlite::SQLITE_IOERR_READ);
    assert_eq!(temporary.write(&[0], -1), sqlite::SQLITE_IOERR_WRITE);
    assert_eq!(temporary.write(&[0], i64::MAX), sqlite::SQLITE_FULL);
}

#[test]
fn no_lock_above_shared_is_given() {
    let mut open = Open::main(version(1, 1), Write::None);
    let x_lock = open.methods().xLock.unwrap();
    for (level, rc) in [
        (sqlite::SQLITE_LOCK_SHARED, sqlite::SQLITE_OK),
        (sqlite::SQLITE_LOCK_RESERVED, sqlite::SQLITE_BUSY),
        (sqlite::SQLITE_LOCK_EXCLUSIVE, sqlite::SQLITE_BUSY),
    ] {
        // SAFETY: the file is open.
        assert_eq!(unsafe { x_lock(open.as_ptr(), level) }, rc, "level {level}");
    }
}

#[test]
fn the_first_region_comes_with_its_header_even_for_a_reader() {
    let mut open = Open::main(version(7, 5), Write::None);
    let (rc, region) = open.shm_map(0, false);
    assert_eq!(rc, sqlite::SQLITE_OK);
    assert_eq!(region as usize % 8, 0);
    let mut header = [0; HEADER_SIZE];
    // SAFETY: the region is longer.
    unsafe {
        header
            .as_mut_ptr()
            .copy_from_nonoverlapping(region, HEADER_SIZE)
    };
    assert_eq!(
        (summary(&header).mx_frame, summary(&header).page_count),
        (0, 5)
    );
    assert_eq!(
        open.shm_map(1, false),
        (sqlite::SQLITE_OK, std::ptr::null_mut())
    );
    let (_, second) = open.shm_map(1, true);
    assert!(!second.is_null());
    assert_eq!(
        open.shm_map(0, true).1,
        region,
        "regions stay where they are"
    );
    assert_eq!(open.shm_map(1, false).1, second);
}

#[test]
fn the_pin_moves_only_with_the_first_read_lock() {
    let mut open = Open::main(version(1, 1), Write::None);
    open.shm_map(0, false);
    assert_eq!(open.shm_lock(READ_0, SHARED_LOCK), sqlite::SQLITE_OK);
    assert_eq!(open.connection().pinned(), Some(1));
    open.connection().grant(Grant {
        pin: version(2, 2),
        write: Write::None,
    });
    assert_eq!(
        open.size(),
        PAGE_SIZE as i64,
        "the transaction keeps what it reads"
    );
    assert_eq!(open.shm_lock(READ_0 + 1, SHARED_LOCK), sqlite::SQLITE_OK);
    assert_eq!(open.shm_lock(READ_0, SHARED_UNLOCK), sqlite::SQLITE_OK);
    assert_eq!(open.connection().pinned(), Some(1), "one read lock is left");
    open.shm_lock(READ_0 + 1, SHARED_UNLOCK);
    assert_eq!(open.connection().pinned(), None);
    open.shm_lock(READ_0, SHARED_LOCK);
    assert_eq!(open.size(), 2 * PAGE_SIZE as i64);
    open.shm_lock(READ_0, SHARED_UNLOCK);
    open.connection().release();
    assert_eq!(
        open.shm_lock(READ_0, SHARED_LOCK),
        sqlite::SQLITE_IOERR_SHMLOCK,
        "no grant"
    );
}

#[test]
fn the_write_lock_follows_the_grant() {
    let one = version(1, 1);
    let mut open = Open::main(one.clone(), Write::None);
    open.shm_map(0, false);
    open.shm_lock(READ_0, SHARED_LOCK);
    for (write, rc) in [
        (Write::None, sqlite::SQLITE_BUSY),
        (Write::Slot { head: 9 }, sqlite::SQLITE_BUSY_SNAPSHOT),
        (Write::Slot { head: 1 }, sqlite::SQLITE_OK),
        (Write::Refuse { code: 10250 }, sqlite::SQLITE_OK),
    ] {
        open.connection().grant(Grant {
            pin: one.clone(),
            write,
        });
        assert_eq!(open.shm_lock(WRITE, EXCLUSIVE_LOCK), rc, "{write:?}");
        if rc == sqlite::SQLITE_OK {
            open.shm_lock(WRITE, EXCLUSIVE_UNLOCK);
        }
        assert_eq!(open.connection().take_wanted_write(), write == Write::None);
    }
    assert!(open.connection().take_captures().is_empty());
}

#[test]
fn checkpoints_never_get_their_lock() {
    let mut open = Open::main(version(1, 1), Write::Slot { head: 1 });
    assert_eq!(
        open.shm_lock(CHECKPOINT, EXCLUSIVE_LOCK),
        sqlite::SQLITE_BUSY
    );
    let x_shm_lock = open.methods().xShmLock.unwrap();
    // SAFETY: the file is open.
    let rc = unsafe { x_shm_lock(open.as_ptr(), WRITE, 2, EXCLUSIVE_LOCK) };
    assert_eq!(rc, sqlite::SQLITE_BUSY, "also together with others");
}

#[test]
fn fetched_pages_stay_while_the_read_lock_is_held() {
    let mut open = Open::main(version(1, 3), Write::None);
    assert!(open.fetch(2).is_null(), "nothing is pinned");
    open.shm_map(0, false);
    open.shm_lock(READ_0, SHARED_LOCK);
    let page = open.fetch(2);
    // SAFETY: the page was handed out and not returned; more than 256 bytes after it are mapped.
    unsafe {
        assert_eq!(std::slice::from_raw_parts(page, PAGE_SIZE), [2; PAGE_SIZE]);
        page.add(PAGE_SIZE + 255).read_volatile();
    }
    assert!(open.fetch(4).is_null(), "beyond the end");
    let x_unfetch = open.methods().xUnfetch.unwrap();
    // SAFETY: the page was fetched; null is a hint.
    unsafe {
        assert_eq!(
            x_unfetch(open.as_ptr(), PAGE_SIZE as i64, page.cast()),
            sqlite::SQLITE_OK
        );
        assert_eq!(
            x_unfetch(open.as_ptr(), 0, std::ptr::null_mut()),
            sqlite::SQLITE_OK
        );
    }
    open.shm_lock(READ_0, SHARED_UNLOCK);
    assert!(open.fetch(2).is_null(), "the pin is gone");
}

#[test]
fn a_page_that_was_not_returned_outlives_the_pin() {
    let mut open = Open::main(version(1, 2), Write::None);
    open.shm_map(0, false);
    open.shm_lock(READ_0, SHARED_LOCK);
    let page = open.fetch(2);
    open.shm_lock(READ_0, SHARED_UNLOCK);
    open.connection().release();
    // SAFETY: still not returned.
    assert_eq!(unsafe { page.read() }, 2);
}

#[test]
fn frames_are_read_back_and_cut_at_the_end() {
    let mut open = Open::main(version(1, 3), Write::Slot { head: 1 });
    open.shm_map(0, false);
    open.shm_lock(READ_0, SHARED_LOCK);
    let mut wal = open.wal();
    assert_eq!(wal.size(), 0);
    let frame = |page_no: u8, size: u8| [[0, 0, 0, page_no], [0, 0, 0, size]].concat();
    let header = |page_no, size| [frame(page_no, size), vec![9; 16]].concat();
    let at = |index: i64| 32 + index * (24 + PAGE_SIZE as i64);
    assert_ne!(wal.write(&header(1, 0), at(0)), 0, "without the write lock");
    open.shm_lock(WRITE, EXCLUSIVE_LOCK);
    assert_eq!(wal.write(&[7; 32], 0), 0);
    assert_ne!(wal.write(&header(1, 0), at(1)), 0, "no gap");
    assert_ne!(
        wal.write(&[5; PAGE_SIZE], at(0) + 24),
        0,
        "no page without a header"
    );
    assert_eq!(wal.write(&header(2, 0), at(0)), 0);
    assert_eq!(wal.write(&[5; PAGE_SIZE], at(0) + 24), 0);
    assert_eq!(wal.size(), at(1));
    assert_eq!(wal.read(32, 0), (0, vec![7; 32]));
    assert_eq!(wal.read(8, at(0) + 16), (0, vec![9; 8]));
    let (rc, bytes) = wal.read(24 + PAGE_SIZE, at(0));
    assert_eq!(
        (rc, &bytes[..24], &bytes[24..]),
        (0, &header(2, 0)[..], &[5; PAGE_SIZE][..])
    );
    let (rc, bytes) = wal.read(4, at(1) - 2);
    assert_eq!(
        (rc, bytes),
        (sqlite::SQLITE_IOERR_SHORT_READ, vec![5, 5, 0, 0])
    );
    open.shm_lock(WRITE, EXCLUSIVE_UNLOCK);
    assert_eq!(wal.size(), 0, "the header never said that it was committed");
    assert!(open.connection().take_captures().is_empty());
}

#[test]
fn a_commit_is_what_the_header_says_when_the_write_lock_goes() {
    let mut open = Open::main(version(1, 3), Write::Slot { head: 1 });
    let (_, region) = open.shm_map(0, false);
    open.shm_lock(READ_0, SHARED_LOCK);
    open.shm_lock(WRITE, EXCLUSIVE_LOCK);
    let mut wal = open.wal();
    // Page 2 twice, page 5 beyond the size of the commit, page 1 with the commit mark.
    for (index, (page_no, size, fill)) in [(2, 0, 5), (5, 0, 6), (2, 0, 7), (1, 3, 8)]
        .into_iter()
        .enumerate()
    {
        let at = 32 + index as i64 * (24 + PAGE_SIZE as i64);
        let header = [[0, 0, 0, page_no], [0, 0, 0, size]].concat();
        assert_eq!(wal.write(&[header, vec![0; 16]].concat(), at), 0);
        assert_eq!(wal.write(&[fill; PAGE_SIZE], at + 24), 0);
    }
    // SAFETY: the region is longer; the fields are mx_frame and the page count.
    unsafe {
        region.add(16).cast::<u32>().write(4);
        region.add(20).cast::<u32>().write(3);
    }
    open.shm_lock(WRITE, EXCLUSIVE_UNLOCK);
    let captures = open.connection().take_captures();
    assert_eq!(captures.len(), 1);
    let capture = &captures[0];
    assert_eq!(
        (capture.base, capture.page_count, capture.delete_database),
        (1, 3, false)
    );
    let pages: Vec<_> = capture
        .pages
        .iter()
        .map(|(n, page)| (*n, page.bytes()[0]))
        .collect();
    assert_eq!(pages, [(PageNo(1), 8), (PageNo(2), 7)]);
    assert_eq!(
        wal.size(),
        32 + 4 * (24 + PAGE_SIZE as i64),
        "still there for the reader"
    );
}

#[test]
fn a_transaction_beyond_its_limit_is_refused_as_full() {
    let mut open = Open::main(version(1, 3), Write::Slot { head: 1 });
    open.shm_map(0, false);
    open.connection().set_page_limit(2);
    open.shm_lock(READ_0, SHARED_LOCK);
    open.shm_lock(WRITE, EXCLUSIVE_LOCK);
    let mut wal = open.wal();
    let mut write = |index: i64, page_no: u8| {
        let header = [vec![0, 0, 0, page_no], vec![0; 20]].concat();
        wal.write(&header, 32 + index * (24 + PAGE_SIZE as i64))
    };
    assert_eq!(write(0, 2), 0);
    assert_eq!(write(1, 3), 0);
    assert_eq!(write(2, 3), 0, "the same page again does not count");
    assert_eq!(write(3, 2), 0);
    assert_eq!(write(4, 4), sqlite::SQLITE_FULL);
    assert_eq!(
        write(2, 5),
        sqlite::SQLITE_FULL,
        "a frame that is used again"
    );
    assert_eq!(write(1, 5), 0, "replaces the second page");
}

#[test]
fn mmap_size_is_remembered_and_answered() {
    let mut open = Open::main(version(1, 1), Write::None);
    let mut ask = |mut value: i64| {
        let x_file_control = open.methods().xFileControl.unwrap();
        let op = sqlite::SQLITE_FCNTL_MMAP_SIZE;
        // SAFETY: the argument is a number.
        let rc =
            unsafe { x_file_control(open.as_ptr(), op, std::ptr::from_mut(&mut value).cast()) };
        (rc, value)
    };
    assert!(ask(-1).1 > 0);
    ask(4096);
    assert_eq!(ask(-1), (sqlite::SQLITE_OK, 4096));
}

#[test]
fn pragmas_that_are_not_ours_are_left_to_sqlite() {
    let mut open = Open::main(version(1, 1), Write::None);
    assert_eq!(
        open.pragma(c"user_version", None),
        (sqlite::SQLITE_NOTFOUND, None)
    );
    assert_eq!(
        open.pragma(c"delete_database", Some(c"1")),
        (sqlite::SQLITE_NOTFOUND, None)
    );
    let (rc, message) = open.pragma(c"Locking_Mode", Some(c"exclusive"));
    assert_eq!(rc, sqlite::SQLITE_ERROR);
    assert!(message.is_some());
    let (rc, message) = open.pragma(c"delete_database", None);
    assert_eq!(rc, sqlite::SQLITE_ERROR);
    assert!(
        message
            .unwrap()
            .to_str()
            .unwrap()
            .contains("BEGIN IMMEDIATE")
    );
}

#[test]
fn temporary_files_hold_what_is_written_and_zeros_between() {
    let mut file = Open::temporary();
    assert_eq!(file.write(b"end", 200_000), 0);
    assert_eq!(file.write(b"start", 0), 0);
    assert_eq!(file.size(), 200_003);
    assert_eq!(file.read(5, 0), (0, b"start".to_vec()));
    assert_eq!(file.read(5, 199_998), (0, b"\0\0end".to_vec()));
    assert_eq!(file.read(4, 100_000), (0, vec![0; 4]));
    let (rc, bytes) = file.read(6, 200_001);
    assert_eq!(
        (rc, bytes),
        (sqlite::SQLITE_IOERR_SHORT_READ, b"nd\0\0\0\0".to_vec())
    );
    let across: Vec<u8> = (0..=255).collect();
    assert_eq!(file.write(&across, 65_536 - 100), 0);
    assert_eq!(file.read(256, 65_536 - 100), (0, across));
}

#[test]
fn a_temporary_file_that_was_cut_reads_as_zeros_when_it_grows_again() {
    let mut file = Open::temporary();
    assert_eq!(file.write(&[1; 100], 0), 0);
    let x_truncate = file.methods().xTruncate.unwrap();
    // SAFETY: the file is open.
    unsafe {
        assert_eq!(x_truncate(file.as_ptr(), 40), sqlite::SQLITE_OK);
        assert_eq!(x_truncate(file.as_ptr(), 80), sqlite::SQLITE_OK);
    }
    let (rc, bytes) = file.read(80, 0);
    assert_eq!(
        (rc, &bytes[..40], &bytes[40..]),
        (0, &[1; 40][..], &[0; 40][..])
    );
}

#[test]
fn a_write_ahead_log_exists_and_a_journal_does_not() {
    let vfs = Vfs::register().unwrap();
    let table = table(&vfs);
    for (name, exists) in [(c"name-wal", 1), (c"name-journal", 0), (c"name", 0)] {
        let mut result = -1;
        // SAFETY: all pointers are valid.
        let rc = unsafe {
            (*table).xAccess.unwrap()(
                table,
                name.as_ptr(),
                sqlite::SQLITE_ACCESS_EXISTS,
                &mut result,
            )
        };
        assert_eq!((rc, result), (sqlite::SQLITE_OK, exists), "{name:?}");
    }
}

#[test]
fn names_stay_as_they_are_and_too_long_ones_do_not_fit() {
    let vfs = Vfs::register().unwrap();
    let table = table(&vfs);
    let mut out = [1 as c_char; 8];
    let name = c"../a b";
    // SAFETY: all pointers are valid.
    unsafe {
        let x_full_pathname = (*table).xFullPathname.unwrap();
        assert_eq!(
            x_full_pathname(table, name.as_ptr(), 6, out.as_mut_ptr()),
            sqlite::SQLITE_CANTOPEN
        );
        assert_eq!(
            x_full_pathname(table, name.as_ptr(), 7, out.as_mut_ptr()),
            sqlite::SQLITE_OK
        );
        assert_eq!(CStr::from_ptr(out.as_ptr()), name);
    }
    assert_eq!(out[7], 1);
}

#[test]
fn sleeping_takes_no_time_and_libraries_cannot_be_loaded() {
    let vfs = Vfs::register().unwrap();
    let table = table(&vfs);
    let start = std::time::Instant::now();
    // SAFETY: the strings are valid.
    unsafe {
        assert_eq!((*table).xSleep.unwrap()(table, 10_000_000), 10_000_000);
        assert!((*table).xDlOpen.unwrap()(table, c"libc.so.6".as_ptr()).is_null());
        assert_eq!(
            (*table).xDelete.unwrap()(table, c"x".as_ptr(), 0),
            sqlite::SQLITE_IOERR_DELETE_NOENT
        );
    }
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn time_and_randomness_come_from_the_world() {
    struct Fixed;
    impl World for Fixed {
        fn unix_millis(&self) -> i64 {
            1_000
        }
        fn randomness(&self, bytes: &mut [u8]) {
            bytes.fill(4);
        }
    }
    let vfs = Vfs::register_with(Box::new(Fixed)).unwrap();
    let table = table(&vfs);
    let mut random = [0 as c_char; 5];
    let (mut millis, mut days) = (0, 0.0);
    // SAFETY: all pointers are valid.
    unsafe {
        assert_eq!(
            (*table).xRandomness.unwrap()(table, 4, random.as_mut_ptr()),
            4
        );
        (*table).xCurrentTimeInt64.unwrap()(table, &mut millis);
        (*table).xCurrentTime.unwrap()(table, &mut days);
    }
    assert_eq!(random, [4, 4, 4, 4, 0]);
    assert_eq!(millis, 210_866_760_000_000 + 1_000);
    assert!((days - 2_440_587.5).abs() < 0.001, "1970 in days");
}

#[test]
fn the_main_file_promises_what_spares_padding_and_syncs() {
    let flags = sqlite::SQLITE_IOCAP_POWERSAFE_OVERWRITE | sqlite::SQLITE_IOCAP_SEQUENTIAL;
    for methods in [&main_file::METHODS, &wal_file::METHODS] {
        // SAFETY: the function does not look at the file.
        let got = unsafe { methods.xDeviceCharacteristics.unwrap()(std::ptr::null_mut()) };
        assert_eq!(got, flags);
    }
}
