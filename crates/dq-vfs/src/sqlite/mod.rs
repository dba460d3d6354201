//! Owned SQLite handles: [`Db`], [`Stmt`] and what they return.
//!
//! A statement and its connection share a [`handle::Handle`], which closes the connection when the
//! last of them is gone, statements first: SQLite neither leaks a connection with statements left
//! nor keeps one as a zombie. All calls on one connection go through the handle's lock, so that
//! `Db` and its statements may be moved to other threads, also apart from each other.

pub(crate) mod authorizer;
pub(crate) mod db;
pub(crate) mod error;
mod file;
pub(crate) mod handle;
pub(crate) mod interrupt;
pub(crate) mod stmt;
