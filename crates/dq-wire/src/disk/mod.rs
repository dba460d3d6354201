//! What a data directory holds.
//!
//! ```text
//! metadata1, metadata2       term and vote                           metadata
//! open-N                     the segment being written               segment
//! FIRST-LAST                 a closed segment                        segment
//! snapshot-T-I-S             a snapshot: databases, compressed       fsm_snapshot
//! snapshot-T-I-S.meta        its configuration                       snapshot_meta
//! tmp-*                      unfinished, to be deleted
//! ```
//!
//! Names are in [`names`], the checksum that all of it shares in [`checksum`]. The layouts are those of
//! C dqlite, so that either implementation can open the other's directory. Which file is read,
//! written, renamed or deleted when is not decided here: this module only knows bytes and names.

pub mod checksum;
pub mod fsm_snapshot;
pub mod metadata;
pub mod names;
pub mod segment;
pub mod snapshot_meta;
