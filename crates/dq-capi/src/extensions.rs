//! The functions of `dqlite.h` that the original does not have. Their names begin with `dqx_`, so that
//! no later function of the original collides with one.

use std::ffi::{c_int, c_ulonglong, c_void};
use std::panic::catch_unwind;

use dq_vfs::{Extension, ExtensionInit};

use crate::code::{ERROR, MISUSE, OK};
use crate::exports::{DqliteNode, call};
use crate::node::NodeObject;
use crate::trace::{self, LogFn};

/// What DESCRIBE reports until a client sets another; before the start.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqx_node_set_weight(node: *mut DqliteNode, weight: c_ulonglong) -> c_int {
    // SAFETY: a node.
    unsafe { call(node, |object| object.set_weight(weight)) }
}

/// The entry point of an SQLite extension for the node's connections, or NULL; before the start.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqx_node_set_extension_init(
    node: *mut DqliteNode,
    init: Option<ExtensionInit>,
) -> c_int {
    // SAFETY: the header asks for an entry point that any thread may call.
    let extension = init.map(|init| unsafe { Extension::new(init) });
    let set = |object: &mut NodeObject| object.set_extension(extension);
    // SAFETY: a node.
    unsafe { call(node, set) }
}

/// Sends what the library logs, down to a level, to a function, or to none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dqx_set_log_func(
    function: Option<LogFn>,
    arg: *mut c_void,
    level: c_int,
) -> c_int {
    match catch_unwind(|| trace::set_function(function, arg, level)) {
        Ok(true) => OK,
        Ok(false) => MISUSE,
        Err(_) => ERROR,
    }
}
