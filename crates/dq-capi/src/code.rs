//! The codes that functions return, and failures that carry one.

use std::ffi::c_int;

/// `DQLITE_OK`
pub(crate) const OK: c_int = 0;
/// `DQLITE_ERROR`
pub(crate) const ERROR: c_int = 1;
/// `DQLITE_MISUSE`
pub(crate) const MISUSE: c_int = 2;

/// A code other than OK, and what `dqlite_node_errmsg` says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: c_int,
    pub(crate) message: String,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Something went wrong.
pub(crate) fn error(message: impl Into<String>) -> Failure {
    Failure {
        code: ERROR,
        message: message.into(),
    }
}

/// The caller did what it must not.
pub(crate) fn misuse(message: impl Into<String>) -> Failure {
    Failure {
        code: MISUSE,
        message: message.into(),
    }
}
