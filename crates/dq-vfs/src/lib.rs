//! SQLite databases in memory, as a sequence of immutable versions, and owned handles to them.
//!
//! dqlite replicates the pages that transactions change. This crate runs SQLite such that these
//! pages can be had, and such that nothing happens to a database but what its owner, the node,
//! decides.
//!
//! ```text
//!             Grant { pin, write }                       Capture { base, pages, .. }
//!  node ────────────────────────────▶  Db ──── SQL ────▶ ─────────────────────────────▶ node
//!                                       │                                                │
//!   committed, head: Version            │ main file: the pinned version                  │
//!   who may write                       │ WAL, WAL-index: private to the connection      │
//!       ▲                               ▼                                                │
//!       └───────────────── Version::successor(number, pages, page_count) ◀───────────────┘
//! ```
//!
//! A [`Version`] maps page numbers to shared [`Page`]s. A [`Db`] is one SQLite connection in WAL
//! mode. It reads from the version that it was granted, and what it commits stays in its private
//! WAL and is handed out as a [`Capture`]. Whether a version is made of it, with which number, and
//! who sees it when, is for the node to decide; so is whose turn it is to write. There are no
//! checkpoints, no shared memory and no locks between connections.
//!
//! The order of calls for a job on a connection:
//!
//! 1. [`Db::grant`]: what to read, whether to write.
//! 2. Statements: [`Db::prepare`], [`Stmt::bind`], [`Stmt::step`], ...
//! 3. [`Db::take_captures`]; for each one the node makes a version, or refuses all that are left.
//! 4. [`Db::published`] with the last version made. Without it, the next grant voids the commits.
//! 5. [`Db::release`], when no other job follows at once.
//!
//! Rules for the owner: version numbers are never used twice in a process, also not after the head
//! was set back, and are below 2^63. One [`Write::Slot`] per database at a time.
//!
//! ```
//! use dq_vfs::{ColumnRef, Db, Grant, Step, Version, Vfs, Write};
//!
//! let vfs = Vfs::register()?;
//! let mut head = Version::empty(1);
//! let mut db = Db::open(&vfs, b"test", head.clone())?;
//!
//! db.grant(Grant { pin: head.clone(), write: Write::Slot { head: 1 } });
//! let mut stmt = db.prepare(b"CREATE TABLE t (x)")?.stmt.expect("a statement");
//! assert_eq!(stmt.step()?, Step::Done);
//! drop(stmt);
//! for capture in db.take_captures() {
//!     assert_eq!(capture.base, head.number());
//!     head = head.successor(head.number() + 1, &capture.pages, capture.page_count);
//! }
//! db.published(&head);
//! db.release();
//!
//! let mut other = Db::open(&vfs, b"test", head.clone())?;
//! other.grant(Grant { pin: head.clone(), write: Write::None });
//! let mut stmt = other.prepare(b"SELECT count(*) FROM t")?.stmt.expect("a statement");
//! assert_eq!(stmt.step()?, Step::Row);
//! assert_eq!(stmt.column(0), ColumnRef::Integer(0));
//! # Ok::<(), dq_vfs::Error>(())
//! ```
//!
//! What it deliberately does not do: choose versions, queue writers, know about raft or disks.

mod connection;
mod ffi;
mod page;
mod radix;
mod region;
mod shared;
mod slab;
mod sqlite;
mod version;
mod wal;
mod wal_index;

pub use connection::{Capture, Grant, Write};
pub use ffi::process::{Extension, ExtensionInit, check_sqlite};
pub use ffi::vfs::{SystemWorld, Vfs, World, seed_randomness};
pub use page::{PAGE_SIZE, PENDING_BYTE_PAGE, Page, PageNo};
pub use slab::{live_pages, map_large_buffers, resident_bytes, trim_heap};
pub use sqlite::db::{Db, Prepared, TxnState};
pub use sqlite::error::Error;
pub use sqlite::interrupt::InterruptHandle;
pub use sqlite::stmt::{BindRef, ColumnRef, Step, Stmt};
pub use version::{ApplyError, Version};
