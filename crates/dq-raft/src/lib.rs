//! dq-raft

#![forbid(unsafe_code)]

pub mod disk;
mod driver;
pub mod fs;
pub mod log;
mod membership;
mod message;
pub mod sim_disk;
mod translate;
mod types;

pub use crate::disk::DiskError;
pub use crate::fs::FsDisk;
pub use crate::log::cache::Trailing;
pub use crate::log::data_dir::{DataDir, OpenError};
pub use crate::log::recover::{RecoverError, RecoverOptions};
pub use crate::log::snapshot::{Compression, SnapshotError, SnapshotReader, SnapshotWriter};
pub use crate::log::writer::{LogWriter, Prepared};
pub use driver::{
    ChangeError, ChangeToken, Driver, DriverError, Effect, Epoch, Options, PAYLOAD_BYTES_MAX,
    PeerProgress, Proof, ProposeError, RaftRole, ReadMode, ReadOptions, ReadTicket, ReceiveError,
};
pub use message::{
    AppendEntries, AppendEntriesResult, Echo, Message, PeerId, RequestVote, RequestVoteResult,
    Stamp,
};
pub use types::{DiskOp, EntryKind, LogEntry, Payload, Persist, Recovered, SnapshotMeta};
