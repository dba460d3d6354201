//! dq-raft

mod types;

pub use types::{DiskOp, EntryKind, LogEntry, Payload, Persist, Recovered, SnapshotMeta};
