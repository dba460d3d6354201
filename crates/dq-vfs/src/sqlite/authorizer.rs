//! What a client may not do, found out while SQLite prepares a statement. Refused statements fail
//! with SQLITE_AUTH (23), as in dqlite 1.18.6 (`src/vfs.c`).

use std::ffi::{CStr, c_char, c_int, c_void};

use libsqlite3_sys as sqlite;

use crate::ffi::process;
use crate::shared::Shared;

/// PRAGMAs that are refused in any form.
const REFUSED: [&[u8]; 4] = [
    b"wal_checkpoint",
    b"busy_timeout",
    b"read_uncommitted",
    b"locking_mode",
];
/// PRAGMAs that are refused with an argument, whatever it is.
const REFUSED_WITH_ARGUMENT: [&[u8]; 4] = [
    b"journal_mode",
    b"page_size",
    b"wal_autocheckpoint",
    b"synchronous",
];

/// PRAGMAs that change the process; refused with an argument where others share SQLite.
const REFUSED_WHERE_SHARED: [&[u8]; 4] = [
    b"soft_heap_limit",
    b"hard_heap_limit",
    b"temp_store_directory",
    b"data_store_directory",
];

/// # Safety
/// SQLite calls this with the connection's `Shared` and strings or nulls.
pub(super) unsafe extern "C" fn authorize(
    shared: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    _database: *const c_char,
    _trigger: *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    let first = unsafe { name_of(first) };
    let allowed = match action {
        // SAFETY: `Shared` outlives the connection.
        sqlite::SQLITE_ATTACH => may_attach(unsafe { &*shared.cast::<Shared>() }, first),
        sqlite::SQLITE_PRAGMA => may_run_pragma(first.unwrap_or_default(), !second.is_null()),
        // SAFETY: as for `first`.
        sqlite::SQLITE_FUNCTION => may_call(unsafe { name_of(second) }),
        _ => true,
    };
    if allowed {
        sqlite::SQLITE_OK
    } else {
        sqlite::SQLITE_DENY
    }
}

/// # Safety
/// `name` is null or a string that outlives the use of what is returned.
unsafe fn name_of<'a>(name: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_bytes())
}

/// `fts3_tokenizer` takes the address of a table of functions, and calls them: with it, any client
/// could make the server jump to where it likes. C dqlite does not refuse it.
fn may_call(function: Option<&[u8]>) -> bool {
    !function.is_some_and(|name| name.eq_ignore_ascii_case(b"fts3_tokenizer"))
}

/// Only private temporary databases may be attached, which have no name. A name that is computed
/// is not known yet; opening any but an empty one fails later, as long as it cannot name another
/// VFS.
fn may_attach(shared: &Shared, name: Option<&[u8]>) -> bool {
    name.map_or(shared.allow_computed_attach, <[u8]>::is_empty)
}

fn may_run_pragma(name: &[u8], has_argument: bool) -> bool {
    let is_in = |list: &[&[u8]]| {
        list.iter()
            .any(|refused| name.eq_ignore_ascii_case(refused))
    };
    let where_shared = !process::OWN && is_in(&REFUSED_WHERE_SHARED);
    !(is_in(&REFUSED) || has_argument && (where_shared || is_in(&REFUSED_WITH_ARGUMENT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_that_takes_addresses_is_refused() {
        assert!(!may_call(Some(b"FTS3_tokenizer")));
        assert!(may_call(Some(b"abs")));
        assert!(may_call(None));
    }

    #[test]
    fn refused_pragmas_are_refused_in_any_case_and_form() {
        for name in [
            b"wal_checkpoint".as_slice(),
            b"LOCKING_MODE",
            b"Busy_Timeout",
        ] {
            assert!(!may_run_pragma(name, false));
            assert!(!may_run_pragma(name, true));
        }
    }

    #[test]
    fn settings_of_the_node_may_be_read_but_not_set() {
        for name in [b"journal_mode".as_slice(), b"PAGE_SIZE", b"synchronous"] {
            assert!(may_run_pragma(name, false));
            assert!(!may_run_pragma(name, true));
        }
    }

    #[test]
    fn other_pragmas_are_allowed() {
        for name in [
            b"user_version".as_slice(),
            b"integrity_check",
            b"",
            b"journal_mod",
        ] {
            assert!(may_run_pragma(name, true));
        }
    }
}
