//! The raft log: what of it is in memory, and its files.
//!
//! The files are those of C dqlite, byte for byte, so that either can open the other's directory.
//!
//! ```text
//!            opening                                    running
//!  data_dir  takes the lock                   cache     the log in memory: raft-rs Storage
//!     │                                       writer    Persist ──▶ files, one sync for many
//!  recover   decides, repairs, syncs             │
//!     ├─ identity whose directory it is
//!     ├─ survey   what the names say           plan     which operations, in which order
//!     └─ load     which segments count         execute  carries them out
//!          └─ torn  or damaged                 reader   entries that are not in memory any more
//!                                              snapshot databases ◀──▶ files, a chunk at a time
//!  check     the same decisions, as a report
//! ```
//!
//! All of it but `cache` works on a [`Disk`](crate::disk::Disk), the real one or a simulated one.

pub(crate) mod cache;
pub mod check;
pub mod data_dir;
mod execute;
mod format;
pub mod identity;
mod load;
pub mod plan;
pub mod reader;
pub mod recover;
pub mod snapshot;
mod survey;
mod torn;
pub mod writer;
