//! Registration, and the functions that belong to no file.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use libsqlite3_sys as sqlite;
use log::warn;
use sqlite::{sqlite3_file, sqlite3_vfs};

use super::process::{self, Extension};
use super::{File, OPENING, main_file, memory_file, wal_file};
use crate::Error;

/// Longest file name, with what SQLite appends to it. dqlite has the same limit: names of
/// databases have at most 504 bytes.
pub(crate) const PATHNAME_MAX: c_int = 512;

/// Milliseconds from SQLite's epoch, noon of 24 November 4714 BC, to 1970.
const UNIX_EPOCH_MS: i64 = 210_866_760_000_000;

/// Where SQLite takes time and randomness from.
pub trait World: Send + Sync {
    /// Milliseconds since 1970, for `date('now')` and the like.
    fn unix_millis(&self) -> i64;
    /// Fills `bytes` with random bytes.
    fn randomness(&self, bytes: &mut [u8]);
}

/// The operating system's time and randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemWorld;

impl World for SystemWorld {
    fn unix_millis(&self) -> i64 {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `time` is valid for a write.
        unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut time) };
        time.tv_sec * 1000 + time.tv_nsec / 1_000_000
    }

    fn randomness(&self, bytes: &mut [u8]) {
        // The kernel fills up to 256 bytes at once.
        for piece in bytes.chunks_mut(256) {
            // SAFETY: `piece` is valid for writes of its length. Should it fail, zeros remain.
            let rc = unsafe { libc::getentropy(piece.as_mut_ptr().cast(), piece.len()) };
            if rc != 0 {
                warn!("no randomness from the operating system");
            }
        }
    }
}

/// The in-memory VFS, registered with SQLite for as long as the process lives.
///
/// Those that take time and randomness from the operating system are one for SQLite, so nothing is left
/// of one that is dropped.
#[derive(Debug)]
pub struct Vfs {
    name: &'static CStr,
    /// True if SQLite takes every name for a name, never for a URI.
    pub(crate) names_are_plain: bool,
    /// Sets up each connection.
    pub(crate) extension: Option<Extension>,
}

impl Vfs {
    /// Registers a VFS that takes time and randomness from the operating system.
    ///
    /// The first registration in a process also configures SQLite, if it is a copy of our own:
    /// connections without mutexes of their own, no preallocated page caches, no memory statistics,
    /// no URI names, memory mapping on. Everything about a registration stays until the process ends.
    pub fn register() -> Result<Arc<Vfs>, Error> {
        Vfs::register_extended(None)
    }

    /// The same, with an extension for all its connections.
    pub fn register_extended(extension: Option<Extension>) -> Result<Arc<Vfs>, Error> {
        static REGISTERED: Mutex<Option<&'static CStr>> = Mutex::new(None);
        process::check_sqlite()?;
        let names_are_plain = process::configure()?;
        // A plain value, consistent at any time.
        let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
        let name = match *registered {
            Some(name) => name,
            None => *registered.insert(add(Box::new(SystemWorld))?),
        };
        Ok(Arc::new(Vfs {
            name,
            names_are_plain,
            extension,
        }))
    }

    /// Registers a VFS with another source of time and randomness.
    ///
    /// SQLite's own generator, which `random()` draws from, is one per process and seeded
    /// elsewhere: see [`seed_randomness`].
    pub fn register_with(world: Box<dyn World>) -> Result<Arc<Vfs>, Error> {
        process::check_sqlite()?;
        let names_are_plain = process::configure()?;
        Ok(Arc::new(Vfs {
            name: add(world)?,
            names_are_plain,
            extension: None,
        }))
    }

    /// The name under which SQLite knows this VFS.
    pub(crate) fn name(&self) -> &'static CStr {
        self.name
    }
}

/// Registers a VFS with SQLite, until the process ends; its name.
fn add(world: Box<dyn World>) -> Result<&'static CStr, Error> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("dq-vfs-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let name = CString::new(name).expect("the name has no zero byte");
    // SQLite keeps these pointers until the process ends.
    let name: &'static CStr = Box::leak(name.into_boxed_c_str());
    let world: &'static mut Box<dyn World> = Box::leak(Box::new(world));
    let vfs = Box::leak(Box::new(sqlite3_vfs {
        iVersion: 2,
        szOsFile: size_of::<File>() as c_int,
        mxPathname: PATHNAME_MAX,
        pNext: std::ptr::null_mut(),
        zName: name.as_ptr(),
        pAppData: std::ptr::from_mut(world).cast(),
        xOpen: Some(x_open),
        xDelete: Some(x_delete),
        xAccess: Some(x_access),
        xFullPathname: Some(x_full_pathname),
        xDlOpen: Some(x_dl_open),
        xDlError: Some(x_dl_error),
        xDlSym: Some(x_dl_sym),
        xDlClose: Some(x_dl_close),
        xRandomness: Some(x_randomness),
        xSleep: Some(x_sleep),
        xCurrentTime: Some(x_current_time),
        xGetLastError: Some(x_get_last_error),
        xCurrentTimeInt64: Some(x_current_time_int64),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }));
    let _serial = process::serial();
    // SAFETY: the table and all it points to live until the process ends.
    match unsafe { sqlite::sqlite3_vfs_register(vfs, 0) } {
        sqlite::SQLITE_OK => Ok(name),
        code => Err(Error::from_code(code)),
    }
}

/// Makes SQLite's generator of random numbers, the one behind `random()`, start from `seed`.
///
/// There is one per process. For simulations, which must replay.
pub fn seed_randomness(seed: u32) {
    // SAFETY: the operation takes an int and a connection or null.
    unsafe {
        sqlite::sqlite3_test_control(
            sqlite::SQLITE_TESTCTRL_PRNG_SEED,
            seed as c_int,
            std::ptr::null_mut::<sqlite::sqlite3>(),
        );
    }
}

/// # Safety
/// SQLite's: `file` is valid for writes of `szOsFile` bytes; `name` is null or a name made by
/// SQLite; `out_flags` is null or valid for a write.
unsafe extern "C" fn x_open(
    _vfs: *mut sqlite3_vfs,
    name: sqlite::sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let file = file.cast::<File>();
    // SQLite closes what has methods, also after an error.
    // SAFETY: the caller's promise.
    unsafe { (*file).base.pMethods = std::ptr::null() };

    let (state, methods) = if name.is_null() {
        let memory = Box::into_raw(Box::new(memory_file::Memory::default()));
        (memory.cast(), &memory_file::METHODS)
    } else if flags & sqlite::SQLITE_OPEN_MAIN_DB != 0 {
        // The database of a connection is opened once, within `opening`.
        let shared = OPENING.replace(std::ptr::null());
        if shared.is_null() {
            return sqlite::SQLITE_CANTOPEN;
        }
        (shared.cast_mut().cast(), &main_file::METHODS)
    } else if flags & sqlite::SQLITE_OPEN_WAL != 0 {
        // SAFETY: SQLite made this name from a database's, so it knows that database's file; and
        // only databases of ours are in WAL mode with this VFS.
        let state = unsafe {
            let main = sqlite::sqlite3_database_file_object(name);
            if main.is_null() || (*main).pMethods != &raw const main_file::METHODS {
                return sqlite::SQLITE_CANTOPEN;
            }
            (*main.cast::<File>()).state
        };
        (state, &wal_file::METHODS)
    } else {
        return sqlite::SQLITE_CANTOPEN;
    };
    // SAFETY: the caller's promise.
    unsafe {
        (*file).state = state;
        (*file).base.pMethods = methods;
        if !out_flags.is_null() {
            out_flags.write(flags);
        }
    }
    sqlite::SQLITE_OK
}

/// There are no files that could be deleted by name.
///
/// # Safety
/// SQLite's.
unsafe extern "C" fn x_delete(_vfs: *mut sqlite3_vfs, _name: *const c_char, _sync: c_int) -> c_int {
    sqlite::SQLITE_IOERR_DELETE_NOENT
}

/// A WAL is always there, so that SQLite reads nothing before it has taken its read lock; a
/// rollback journal never is.
///
/// # Safety
/// SQLite's: `name` is a string, `result` valid for a write.
unsafe extern "C" fn x_access(
    _vfs: *mut sqlite3_vfs,
    name: *const c_char,
    _flags: c_int,
    result: *mut c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let exists = !name.is_null() && CStr::from_ptr(name).to_bytes().ends_with(b"-wal");
        result.write(c_int::from(exists));
    }
    sqlite::SQLITE_OK
}

/// Names are keys, not paths: they stay as they are.
///
/// # Safety
/// SQLite's: `name` is a string, `out` valid for writes of `size` bytes.
unsafe extern "C" fn x_full_pathname(
    _vfs: *mut sqlite3_vfs,
    name: *const c_char,
    size: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    if usize::try_from(size).is_ok_and(|size| name.len() <= size) {
        // SAFETY: it fits.
        unsafe { out.copy_from_nonoverlapping(name.as_ptr().cast(), name.len()) };
        sqlite::SQLITE_OK
    } else {
        sqlite::SQLITE_CANTOPEN
    }
}

/// # Safety
/// SQLite's.
unsafe extern "C" fn x_dl_open(_vfs: *mut sqlite3_vfs, _name: *const c_char) -> *mut c_void {
    std::ptr::null_mut()
}

/// # Safety
/// SQLite's: `out` is valid for writes of `size` bytes.
unsafe extern "C" fn x_dl_error(_vfs: *mut sqlite3_vfs, size: c_int, out: *mut c_char) {
    let text = c"Dynamic loading is not supported".to_bytes_with_nul();
    if usize::try_from(size).is_ok_and(|size| text.len() <= size) {
        // SAFETY: it fits.
        unsafe { out.copy_from_nonoverlapping(text.as_ptr().cast(), text.len()) };
    }
}

type Symbol = unsafe extern "C" fn(*mut sqlite3_vfs, *mut c_void, *const c_char);

/// # Safety
/// SQLite's.
unsafe extern "C" fn x_dl_sym(
    _vfs: *mut sqlite3_vfs,
    _library: *mut c_void,
    _name: *const c_char,
) -> Option<Symbol> {
    None
}

/// # Safety
/// SQLite's.
unsafe extern "C" fn x_dl_close(_vfs: *mut sqlite3_vfs, _library: *mut c_void) {}

/// # Safety
/// `vfs` is one that [`Vfs::register_with`] made.
unsafe fn world<'a>(vfs: *mut sqlite3_vfs) -> &'a dyn World {
    // SAFETY: `pAppData` points to a box that was leaked at registration.
    unsafe { (*(*vfs).pAppData.cast::<Box<dyn World>>()).as_ref() }
}

/// # Safety
/// SQLite's: `out` is valid for writes of `size` bytes.
unsafe extern "C" fn x_randomness(vfs: *mut sqlite3_vfs, size: c_int, out: *mut c_char) -> c_int {
    let Ok(size) = usize::try_from(size) else {
        return 0;
    };
    let mut bytes = vec![0; size];
    // SAFETY: the caller's promise.
    unsafe {
        world(vfs).randomness(&mut bytes);
        out.copy_from_nonoverlapping(bytes.as_ptr().cast(), size);
    }
    size as c_int
}

/// Does not sleep: waiting is the node's business, and this may be the thread of its event loop.
///
/// # Safety
/// SQLite's.
unsafe extern "C" fn x_sleep(_vfs: *mut sqlite3_vfs, microseconds: c_int) -> c_int {
    microseconds
}

/// # Safety
/// SQLite's: `out` is valid for a write.
unsafe extern "C" fn x_current_time_int64(vfs: *mut sqlite3_vfs, out: *mut i64) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { out.write(world(vfs).unix_millis().saturating_add(UNIX_EPOCH_MS)) };
    sqlite::SQLITE_OK
}

/// # Safety
/// SQLite's: `out` is valid for a write.
unsafe extern "C" fn x_current_time(vfs: *mut sqlite3_vfs, out: *mut f64) -> c_int {
    let mut millis = 0;
    // SAFETY: the caller's promise.
    unsafe {
        x_current_time_int64(vfs, &mut millis);
        out.write(millis as f64 / 86_400_000.0);
    }
    sqlite::SQLITE_OK
}

/// # Safety
/// SQLite's.
unsafe extern "C" fn x_get_last_error(
    _vfs: *mut sqlite3_vfs,
    _size: c_int,
    _out: *mut c_char,
) -> c_int {
    0
}
