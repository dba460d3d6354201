//! The `dqlite_server_*` functions: 0 if it worked, else the failure's code. There are no messages
//! in this part of the interface, so failures are logged.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::code::{ERROR, MISUSE, OK, Result, misuse};
use crate::dial::ConnectFn;
use crate::exclusive::Exclusive;
use crate::exports::{path, text};
use crate::server::ServerObject;

/// A server, behind `struct dqlite_server`.
#[derive(Debug)]
pub struct DqliteServer {
    object: Exclusive<ServerObject>,
    id: Arc<AtomicU64>,
}

/// Makes a server that has not started.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_create(
    dir: *const c_char,
    out: *mut *mut DqliteServer,
) -> c_int {
    if out.is_null() {
        return MISUSE;
    }
    // SAFETY: a C string.
    let dir = unsafe { path(dir) };
    let (server, code) = match dir {
        Ok(dir) => {
            let object = ServerObject::new(dir);
            let server = Box::new(DqliteServer {
                id: object.id(),
                object: Exclusive::new(object),
            });
            (Box::into_raw(server), OK)
        }
        Err(failure) => (ptr::null_mut(), failure.code),
    };
    // SAFETY: not NULL, so a place for a pointer.
    unsafe { out.write(server) };
    code
}

/// Destroys a server, which is stopped if it runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_destroy(server: *mut DqliteServer) {
    if server.is_null() {
        return;
    }
    // SAFETY: from dqlite_server_create, and nobody uses it from here on.
    let server = unsafe { Box::from_raw(server) };
    let _ = catch_unwind(AssertUnwindSafe(|| {
        server.object.into_inner().end();
    }));
}

/// The address that others are told.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_address(
    server: *mut DqliteServer,
    address: *const c_char,
) -> c_int {
    // SAFETY: a server and a C string.
    unsafe { call(server, |object| object.set_address(text(address)?)) }
}

/// Whether this server begins the cluster.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_auto_bootstrap(
    server: *mut DqliteServer,
    on: bool,
) -> c_int {
    // SAFETY: a server.
    unsafe { call(server, |object| object.set_bootstrap(on)) }
}

/// Adds servers to join through.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_auto_join(
    server: *mut DqliteServer,
    addresses: *const *const c_char,
    count: c_uint,
) -> c_int {
    let read = || {
        if count == 0 {
            return Ok(Vec::new());
        }
        if addresses.is_null() {
            return Err(misuse("the addresses are NULL"));
        }
        let count = usize::try_from(count).map_err(|_| misuse("too many addresses"))?;
        // SAFETY: as many C strings as are said to be there.
        let addresses = unsafe { std::slice::from_raw_parts(addresses, count) };
        // SAFETY: as above.
        addresses
            .iter()
            .map(|address| unsafe { text(*address) })
            .collect()
    };
    // SAFETY: a server.
    unsafe { call(server, |object| object.add_to_join(read()?)) }
}

/// Where to listen.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_bind_address(
    server: *mut DqliteServer,
    address: *const c_char,
) -> c_int {
    // SAFETY: a server and a C string.
    unsafe { call(server, |object| object.set_bind(text(address)?)) }
}

/// How to reach servers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_set_connect_func(
    server: *mut DqliteServer,
    function: Option<ConnectFn>,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: a server.
    unsafe {
        call(server, |object| match function {
            Some(function) => object.set_connect(function, arg),
            None => Err(misuse("the connect function is NULL")),
        })
    }
}

/// Starts a server.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_start(server: *mut DqliteServer) -> c_int {
    // SAFETY: a server.
    unsafe { call(server, ServerObject::start) }
}

/// Its id, or 0 before the first start.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_get_id(server: *mut DqliteServer) -> c_ulonglong {
    // SAFETY: NULL or a server.
    match unsafe { server.as_ref() } {
        Some(server) => server.id.load(Ordering::Relaxed),
        None => 0,
    }
}

/// Hands over leadership and vote.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_handover(server: *mut DqliteServer) -> c_int {
    let mut handover = None;
    let prepare = |object: &mut ServerObject| {
        handover = Some(object.handover()?);
        Ok(())
    };
    // SAFETY: a server.
    let code = unsafe { call(server, prepare) };
    match handover {
        // It calls the program's connect function, which may ask this server something.
        Some(handover) => answer(|| handover.run()),
        None => code,
    }
}

/// Stops a server.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqlite_server_stop(server: *mut DqliteServer) -> c_int {
    // SAFETY: a server.
    unsafe { call(server, ServerObject::stop) }
}

/// Runs a method of a server under its lock: its failure becomes a code, and so does a panic.
///
/// # Safety
/// NULL or a server that is not destroyed.
unsafe fn call(
    server: *mut DqliteServer,
    method: impl FnOnce(&mut ServerObject) -> Result<()>,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(server) = (unsafe { server.as_ref() }) else {
        return MISUSE;
    };
    answer(|| {
        let done = server.object.with(method);
        done.unwrap_or_else(|| Err(misuse("it is in a call on this thread already")))
    })
}

/// Runs something for a server: its failure becomes a code, and so does a panic.
fn answer(run: impl FnOnce() -> Result<()>) -> c_int {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => OK,
        Ok(Err(failure)) => {
            log::warn!("server: {}", failure.message);
            failure.code
        }
        Err(_) => ERROR,
    }
}
