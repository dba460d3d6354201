//! The raft log: what of it is in memory, and its files.

pub(crate) mod cache;
