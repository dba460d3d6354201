//! The functions of `dqlite.h`. Each one turns pointers into references and results into codes; what
//! it does is in the other modules.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::ptr;

use crate::buffer::MessageBuffer;
use crate::code::{ERROR, MISUSE, OK, Result, error, misuse};
use crate::dial::{ConnectFn, Dialer};
use crate::exclusive::Exclusive;
use crate::ident;
use crate::members::{self, NodeInfo};
use crate::node::{NodeObject, wall_nanos};

/// A node, behind `struct dqlite_node`.
#[derive(Debug)]
pub struct DqliteNode {
    object: Exclusive<NodeObject>,
    message: MessageBuffer,
}

/// A C string that lives as long as the library.
#[repr(transparent)]
#[derive(Debug)]
pub struct StaticText(*const c_char);

// SAFETY: it points to a constant.
unsafe impl Sync for StaticText {}

/// The version of dqlite whose interface this is, and of this library.
#[unsafe(no_mangle)]
pub static dqlite_version_string: StaticText = StaticText(
    concat!("1.18.6@dq-", env!("CARGO_PKG_VERSION"), "\0")
        .as_ptr()
        .cast(),
);

/// 1.18.6
#[unsafe(no_mangle)]
pub extern "C" fn dqlite_version_number() -> c_int {
    11806
}

/// An id made from an address and the time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_generate_node_id(address: *const c_char) -> c_ulonglong {
    let address = if address.is_null() {
        &[]
    } else {
        // SAFETY: a C string.
        unsafe { CStr::from_ptr(address) }.to_bytes()
    };
    catch_unwind(|| ident::node_id(address, wall_nanos())).unwrap_or(0)
}

/// Makes a node that has not started. There is one to destroy even if this fails.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_create(
    id: c_ulonglong,
    address: *const c_char,
    dir: *const c_char,
    out: *mut *mut DqliteNode,
) -> c_int {
    if out.is_null() {
        return MISUSE;
    }
    // SAFETY: C strings.
    let (address, dir) = unsafe { (text(address), path(dir)) };
    let made = catch_unwind(|| {
        let object = NodeObject::new(
            id,
            address.clone().unwrap_or_default(),
            dir.clone().unwrap_or_default(),
        );
        Box::new(DqliteNode {
            object: Exclusive::new(object),
            message: MessageBuffer::new(),
        })
    });
    let Ok(node) = made else {
        // SAFETY: not NULL, so a place for a pointer.
        unsafe { out.write(ptr::null_mut()) };
        return ERROR;
    };
    let node = Box::into_raw(node);
    // SAFETY: not NULL, so a place for a pointer.
    unsafe { out.write(node) };
    // SAFETY: made right here.
    unsafe {
        call(node, |object| {
            address?;
            dir?;
            object.probe()
        })
    }
}

/// Destroys a node, which is stopped if it runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_destroy(node: *mut DqliteNode) {
    if node.is_null() {
        return;
    }
    // SAFETY: from dqlite_node_create, and nobody uses it from here on.
    let node = unsafe { Box::from_raw(node) };
    let _ = catch_unwind(AssertUnwindSafe(|| {
        node.object.into_inner().end();
    }));
}

/// Binds an address at once; the node listens on it from its start on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_bind_address(
    node: *mut DqliteNode,
    address: *const c_char,
) -> c_int {
    // SAFETY: a node and a C string.
    unsafe { call(node, |object| object.bind(&text(address)?)) }
}

/// What is bound, or NULL. Valid until the next bind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_get_bind_address(node: *mut DqliteNode) -> *const c_char {
    // SAFETY: NULL or a node.
    let Some(node) = (unsafe { node.as_ref() }) else {
        return ptr::null();
    };
    let bound = node.object.with(|object| {
        let text = object.bind_address();
        text.map_or(ptr::null(), |text| text.as_ptr())
    });
    bound.unwrap_or(ptr::null())
}

/// How to reach other nodes; NULL for plain sockets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_connect_func(
    node: *mut DqliteNode,
    function: Option<ConnectFn>,
    arg: *mut c_void,
) -> c_int {
    let dialer = function.map(|function| Dialer::new(function, arg));
    // SAFETY: a node.
    unsafe { call(node, |object| object.set_dialer(dialer)) }
}

/// One-way network latency, ns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_network_latency(
    node: *mut DqliteNode,
    ns: c_ulonglong,
) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, |object| object.set_latency_ns(ns)) }
}

/// One-way network latency, ms.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_network_latency_ms(
    node: *mut DqliteNode,
    ms: c_uint,
) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, |object| object.set_latency_ms(ms.into())) }
}

/// What DESCRIBE reports; also while the node runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_failure_domain(
    node: *mut DqliteNode,
    code: c_ulonglong,
) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, |object| object.set_failure_domain(code)) }
}

/// When snapshots are taken, and how many log entries stay behind them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_snapshot_params(
    node: *mut DqliteNode,
    threshold: c_uint,
    trailing: c_uint,
) -> c_int {
    // SAFETY: a node.
    unsafe {
        call(node, |object| {
            object.set_snapshots(threshold, trailing, false)
        })
    }
}

/// The same, with a strategy: a dynamic one keeps as many of the `trailing` entries as fit in the
/// size of the snapshot, at least the threshold.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_snapshot_params_v2(
    node: *mut DqliteNode,
    threshold: c_uint,
    trailing: c_uint,
    strategy: c_int,
) -> c_int {
    // SAFETY: a node.
    unsafe {
        call(node, |object| match strategy {
            0 | 1 => object.set_snapshots(threshold, trailing, strategy == 1),
            other => Err(misuse(format!("{other} is no trailing strategy"))),
        })
    }
}

/// The unit in which the log is written, bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_block_size(node: *mut DqliteNode, size: usize) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, |object| object.set_block_size(size)) }
}

/// Accepted, and without effect.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_enable_disk_mode(node: *mut DqliteNode) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, NodeObject::enable_disk_mode) }
}

/// How many voters role management aims at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_target_voters(
    node: *mut DqliteNode,
    voters: c_int,
) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, |object| object.set_target_voters(voters)) }
}

/// How many standbys role management aims at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_target_standbys(
    node: *mut DqliteNode,
    standbys: c_int,
) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, |object| object.set_target_standbys(standbys)) }
}

/// Threads for long statements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_pool_thread_count(
    node: *mut DqliteNode,
    count: c_uint,
) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, |object| object.set_threads(count)) }
}

/// Whether damage at the log's end is set aside at start.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_auto_recovery(node: *mut DqliteNode, on: bool) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, |object| object.set_auto_recovery(on)) }
}

/// Whether snapshots are compressed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_snapshot_compression(
    node: *mut DqliteNode,
    on: bool,
) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, |object| object.set_compression(on)) }
}

/// Lets the leader keep the numbers of voters and standbys.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_enable_role_management(node: *mut DqliteNode) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, NodeObject::enable_role_management) }
}

/// How long a writer waits for another one's transaction, ms; also while the node runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_set_busy_timeout(node: *mut DqliteNode, ms: c_uint) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, |object| object.set_busy_timeout(ms)) }
}

/// Starts a node.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_start(node: *mut DqliteNode) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, NodeObject::start) }
}

/// Hands over leadership and vote.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_handover(node: *mut DqliteNode) -> c_int {
    let mut handover = None;
    let prepare = |object: &mut NodeObject| {
        handover = Some(object.handover()?);
        Ok(())
    };
    // SAFETY: a node.
    let code = unsafe { call(node, prepare) };
    // SAFETY: as above.
    match (handover, unsafe { node.as_ref() }) {
        // It calls the program's connect function, which may ask this node something.
        (Some(handover), Some(node)) => answer(node, || handover.run()),
        _ => code,
    }
}

/// Stops a node.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_stop(node: *mut DqliteNode) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, NodeObject::stop) }
}

/// Forces a configuration onto the node's directory; all members become voters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_recover(
    node: *mut DqliteNode,
    infos: *const NodeInfo,
    count: c_int,
) -> c_int {
    // SAFETY: a node, and as many members as are said to be there.
    unsafe {
        call(node, |object| {
            object.recover(&members::read_plain(infos, count)?)
        })
    }
}

/// Forces a configuration onto the node's directory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_recover_ext(
    node: *mut DqliteNode,
    infos: *const u64,
    count: c_int,
) -> c_int {
    // SAFETY: a node, and as many members as are said to be there.
    unsafe {
        call(node, |object| {
            object.recover(&members::read_extended(infos, count)?)
        })
    }
}

/// Index and term of the last entry in the node's directory; zeros if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_describe_last_entry(
    node: *mut DqliteNode,
    index: *mut u64,
    term: *mut u64,
) -> c_int {
    let describe = |object: &mut NodeObject| {
        if index.is_null() || term.is_null() {
            return Err(misuse("there is no place for index and term"));
        }
        let (last_index, last_term) = object.last_entry()?;
        // SAFETY: not NULL, so places for numbers.
        unsafe {
            index.write(last_index);
            term.write(last_term);
        }
        Ok(())
    };
    // SAFETY: a node.
    unsafe { call(node, describe) }
}

/// What went wrong last. Valid until the node is destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_node_errmsg(node: *mut DqliteNode) -> *const c_char {
    // SAFETY: NULL or a node.
    match unsafe { node.as_ref() } {
        Some(node) => node.message.as_ptr(),
        None => c"node is NULL".as_ptr(),
    }
}

/// Runs a method of a node under its lock: its failure becomes a code and a message, and so does a
/// panic.
///
/// # Safety
/// NULL or a node that is not destroyed.
pub(crate) unsafe fn call(
    node: *mut DqliteNode,
    method: impl FnOnce(&mut NodeObject) -> Result<()>,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(node) = (unsafe { node.as_ref() }) else {
        return MISUSE;
    };
    answer(node, || {
        // Each method leaves the object as it was or as it is to be; one that panicked is answered
        // for by the node's own state.
        let done = node.object.with(method);
        done.unwrap_or_else(|| Err(misuse("the node is in a call on this thread already")))
    })
}

/// Runs something for a node: its failure becomes a code and a message, and so does a panic.
fn answer(node: &DqliteNode, run: impl FnOnce() -> Result<()>) -> c_int {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => OK,
        Ok(Err(failure)) => {
            node.message.set(&failure.message);
            failure.code
        }
        Err(_) => {
            node.message.set("internal error");
            ERROR
        }
    }
}

/// # Safety
/// NULL or a C string.
pub(crate) unsafe fn text(text: *const c_char) -> Result<String> {
    if text.is_null() {
        return Err(misuse("a text is NULL"));
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    match text.to_str() {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(error("a text is not UTF-8")),
    }
}

/// # Safety
/// NULL or a C string.
pub(crate) unsafe fn path(path: *const c_char) -> Result<PathBuf> {
    if path.is_null() {
        return Err(misuse("a path is NULL"));
    }
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(path) };
    Ok(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
}
