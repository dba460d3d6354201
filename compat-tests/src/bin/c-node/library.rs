//! The part of the C API that `c-node` calls, found by name at run time.
//!
//! Function signatures are those of upstream's `include/dqlite.h`, the same from 1.11 to 1.18.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_uint, c_void};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

type CreateFn = unsafe extern "C" fn(u64, *const c_char, *const c_char, *mut *mut c_void) -> c_int;
type NodeFn = unsafe extern "C" fn(*mut c_void) -> c_int;
type SetTextFn = unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int;
type SetUintFn = unsafe extern "C" fn(*mut c_void, c_uint) -> c_int;
type SetTwoUintsFn = unsafe extern "C" fn(*mut c_void, c_uint, c_uint) -> c_int;
type DestroyFn = unsafe extern "C" fn(*mut c_void);
type ErrmsgFn = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type VersionFn = unsafe extern "C" fn() -> c_int;

/// An opened libdqlite. It stays mapped until the process ends: its threads may outlive us.
pub(crate) struct Library {
    create: CreateFn,
    destroy: DestroyFn,
    start: NodeFn,
    stop: NodeFn,
    set_bind_address: SetTextFn,
    set_network_latency_ms: SetUintFn,
    set_snapshot_params: SetTwoUintsFn,
    /// Absent before 1.18.2.
    set_busy_timeout: Option<SetUintFn>,
    errmsg: ErrmsgFn,
    version: VersionFn,
}

impl Library {
    /// Opens the library at `path`, or by name along the loader's search path.
    pub(crate) fn open(path: &OsStr) -> Result<Library, String> {
        let c_path = CString::new(path.as_bytes()).map_err(|_| "library path contains NUL")?;
        // SAFETY: `c_path` is a NUL-terminated string that lives across the call. Running the
        // library's initialisers is what the caller asks for.
        let handle = unsafe { libc::dlopen(c_path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(format!(
                "cannot open {}: {}",
                path.to_string_lossy(),
                dl_error()
            ));
        }
        // SAFETY: each type alias above is the signature that dqlite.h declares for the symbol.
        unsafe {
            Ok(Library {
                create: required(handle, c"dqlite_node_create")?,
                destroy: required(handle, c"dqlite_node_destroy")?,
                start: required(handle, c"dqlite_node_start")?,
                stop: required(handle, c"dqlite_node_stop")?,
                set_bind_address: required(handle, c"dqlite_node_set_bind_address")?,
                set_network_latency_ms: required(handle, c"dqlite_node_set_network_latency_ms")?,
                set_snapshot_params: required(handle, c"dqlite_node_set_snapshot_params")?,
                set_busy_timeout: symbol(handle, c"dqlite_node_set_busy_timeout"),
                errmsg: required(handle, c"dqlite_node_errmsg")?,
                version: required(handle, c"dqlite_version_number")?,
            })
        }
    }

    /// What the library calls itself: major * 10000 + minor * 100 + patch.
    pub(crate) fn version(&self) -> i32 {
        // SAFETY: takes nothing and only returns a constant.
        unsafe { (self.version)() }
    }

    /// Makes a node on the directory `dir`, which must exist.
    pub(crate) fn create_node(
        &self,
        id: u64,
        address: &str,
        dir: &Path,
    ) -> Result<Node<'_>, String> {
        let address = CString::new(address).map_err(|_| "address contains NUL")?;
        let dir = CString::new(dir.as_os_str().as_bytes()).map_err(|_| "path contains NUL")?;
        let mut raw = ptr::null_mut();
        // SAFETY: both texts are NUL-terminated and copied by the callee; `raw` is written once.
        let rc = unsafe { (self.create)(id, address.as_ptr(), dir.as_ptr(), &mut raw) };
        let node = Node {
            library: self,
            raw,
            running: false,
            _not_sync: PhantomData,
        };
        match rc {
            0 => Ok(node),
            rc => Err(format!("dqlite_node_create: {rc}: {}", node.errmsg())),
        }
    }
}

/// A node object of the library; stopped and freed on drop.
pub(crate) struct Node<'lib> {
    library: &'lib Library,
    /// Null only if `create` failed without making an object (libraries before 1.12).
    raw: *mut c_void,
    running: bool,
    /// The library locks nothing: one thread at a time.
    _not_sync: PhantomData<*mut ()>,
}

impl Node<'_> {
    /// Binds the listening socket; texts as in upstream's header, numeric addresses only.
    pub(crate) fn set_bind_address(&mut self, address: &str) -> Result<(), String> {
        let address = CString::new(address).map_err(|_| "address contains NUL")?;
        // SAFETY: `raw` is a live node (create succeeded); the text is copied by the callee.
        let rc = unsafe { (self.library.set_bind_address)(self.raw, address.as_ptr()) };
        self.check("dqlite_node_set_bind_address", rc)
    }

    /// Sets the assumed network latency.
    pub(crate) fn set_network_latency_ms(&mut self, latency_ms: u32) -> Result<(), String> {
        // SAFETY: `raw` is a live node that does not run yet.
        let rc = unsafe { (self.library.set_network_latency_ms)(self.raw, latency_ms) };
        self.check("dqlite_node_set_network_latency_ms", rc)
    }

    /// Sets when snapshots are taken, and how many entries before one are kept.
    pub(crate) fn set_snapshots(&mut self, threshold: u32, trailing: u32) -> Result<(), String> {
        // SAFETY: `raw` is a live node that does not run yet.
        let rc = unsafe { (self.library.set_snapshot_params)(self.raw, threshold, trailing) };
        self.check("dqlite_node_set_snapshot_params", rc)
    }

    /// Sets the busy timeout; an error with a library that has no such function.
    pub(crate) fn set_busy_timeout_ms(&mut self, timeout_ms: u32) -> Result<(), String> {
        let set = self
            .library
            .set_busy_timeout
            .ok_or("this library has no dqlite_node_set_busy_timeout (older than 1.18.2)")?;
        // SAFETY: `raw` is a live node.
        let rc = unsafe { set(self.raw, timeout_ms) };
        self.check("dqlite_node_set_busy_timeout", rc)
    }

    /// Starts the node; returns when it listens.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        // SAFETY: `raw` is a live node with a bind address, started once.
        let rc = unsafe { (self.library.start)(self.raw) };
        self.running = rc == 0;
        self.check("dqlite_node_start", rc)
    }

    /// Stops the node and frees it.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        let rc = if self.running {
            // SAFETY: `raw` is a live node that runs; `running` below keeps drop from stopping it
            // a second time.
            unsafe { (self.library.stop)(self.raw) }
        } else {
            0
        };
        self.running = false;
        self.check("dqlite_node_stop", rc)
    }

    fn check(&self, call: &str, rc: c_int) -> Result<(), String> {
        if rc == 0 {
            Ok(())
        } else {
            Err(format!("{call}: {rc}: {}", self.errmsg()))
        }
    }

    fn errmsg(&self) -> String {
        // SAFETY: accepts a live node or null (then it says "node is NULL") and returns a text
        // that lives as long as the node.
        let text = unsafe { (self.library.errmsg)(self.raw) };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: not null, NUL-terminated, copied before the node changes.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        if self.raw.is_null() {
            return;
        }
        // SAFETY: `raw` came from create and is used for the last time here; a running node must
        // be stopped before it may be destroyed.
        unsafe {
            if self.running {
                (self.library.stop)(self.raw);
            }
            (self.library.destroy)(self.raw);
        }
    }
}

/// # Safety
/// `F` must be the type of a function pointer with the symbol's signature.
unsafe fn required<F: Copy>(handle: *mut c_void, name: &CStr) -> Result<F, String> {
    // SAFETY: the caller's promise.
    unsafe { symbol(handle, name) }
        .ok_or_else(|| format!("the library has no symbol {}", name.to_string_lossy()))
}

/// # Safety
/// `F` must be the type of a function pointer with the symbol's signature.
unsafe fn symbol<F: Copy>(handle: *mut c_void, name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: `handle` came from dlopen and is never closed.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    if address.is_null() {
        return None;
    }
    // SAFETY: same size (asserted above); the caller promises that `F` fits the symbol.
    Some(unsafe { std::mem::transmute_copy(&address) })
}

fn dl_error() -> String {
    // SAFETY: called right after a failed dlopen on the same thread; the text is copied at once.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "unknown error".to_owned();
    }
    // SAFETY: not null, NUL-terminated by the C library.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}
