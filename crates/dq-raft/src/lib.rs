//! Raft for dqlite nodes: tikv's raft-rs decides, this crate makes it a dqlite node.
//!
//! A node of the original must be able to take this one for one of its own, in a cluster and in a
//! data directory. raft-rs knows neither dqlite's messages nor its files nor its rules of
//! membership; all of that is here.
//!
//! ```text
//!            messages of peers                                       messages to peers
//!                   │                                                       ▲
//!                   ▼                                                       │
//!   propose ──▶  Driver ── translate ──▶ raft-rs ── Ready ──▶ Effect::Send, Persist, Apply, …
//!                   │                       ▲                               │
//!                   │  payloads, once       │ handles: index, term, kind    │ in this order
//!                   ▼                       │                               ▼
//!               log in memory ──────────────┘                           LogWriter
//!                   ▲                                            one batch, one fdatasync
//!                   │ Driver::durable(id)                                   │
//!                   └───────────────────────────────────────────────────────┘
//! ```
//!
//! Two halves meet in the words of [`Persist`], [`DiskOp`] and [`Recovered`]:
//!
//! - [`Driver`] is a function of its inputs. It has no clock, no socket, no file and no randomness:
//!   who calls it says what time it is, and carries out the [`Effect`]s in the order in which they
//!   come.
//! - [`LogWriter`] and [`DataDir`] own the files, through the few operations of [`disk::Disk`]: a
//!   real directory ([`FsDisk`]), or one in memory that loses what was not made durable
//!   ([`sim_disk`]).
//!
//! # Write, make durable, send, apply
//!
//! One input of the driver may give all four, and their order is what makes raft safe:
//!
//! - *Write.* Term, vote, truncation and entries of one step become one [`Persist`]. Whoever carries it
//!   out stores the term and the vote first, since an entry of a term newer than the stored one must
//!   not survive alone, and then the rest in order.
//! - *Make durable*, and only then say so. A vote, an acknowledgement or anything said in a new term is
//!   held until the disk work that it speaks of is durable: the other side will count on it after a
//!   crash of ours. A leader's appends alone run ahead of its own disk, for they promise nothing; its
//!   own copy counts towards the majority when it is durable, like everybody's. Only a change of the
//!   membership waits: who loses its vote by one that a crash then takes back helps nobody to lead.
//! - *Send* before applying, since it is the followers' disks that a commit waits for.
//! - *Apply* what a majority holds durably and this node too: [`Effect::Apply`], once per entry, in the
//!   order of the log. What a client is told depends on this step alone.
//!
//! What has queued up while the disk was busy is written together, so many writers share one
//! `fdatasync`.
//!
//! # What holds
//!
//! - What a peer was told is durable here, and stays so: the first error of the disk ends the node's
//!   participation, because nobody can know what a failed write or sync has left.
//! - Every state that a crash of ours can leave opens again, with everything that was ever
//!   reported durable. A directory in any other state is refused, by the name of the file, and left
//!   as it is, unless [`RecoverOptions::auto_recovery`] asks for its damaged end to be set aside.
//! - A configuration is in effect from the moment its entry is appended, as in the original, and is
//!   rolled back with it. One server's role changes at a time.
//! - An append that leaves ends at or after the first entry of its leader's term. Followers of the
//!   original acknowledge with the last index that they hold, verified or not; behind such an append
//!   it is a real match.
//! - A leader that has lost its leadership and won it again in between is a new leader: an
//!   [`Epoch`] never spans two terms.
//! - Bytes of a peer or a file lead to a value or to an error, never to a panic.
//! - The bytes of an entry exist once, shared between the log in memory, the disk's queue, the
//!   messages and the database pages that they came from. raft-rs copies entries freely, and
//!   therefore gets only handles. Old ones are on disk only, and read back for followers that lag.
//!
//! # What it leaves out
//!
//! Connections and their bytes, threads, timers, the content of the databases, and the decision when
//! to take a snapshot: those are the server's. Joint consensus, which dqlite's protocol cannot
//! express. The formats themselves, which `dq-wire` knows.
//!
//! # Example
//!
//! A node of one voter, on a disk that is instant:
//!
//! ```
//! use bytes::Bytes;
//! use dq_raft::{Driver, Effect, EntryKind, LogEntry, Options, Payload, Recovered};
//! use dq_wire::{Configuration, Role, Server};
//!
//! let server = Server { id: 1, address: "10.0.0.1:9000".to_owned(), role: Role::Voter };
//! let mut configuration = Vec::new();
//! Configuration { servers: vec![server] }.encode(&mut configuration);
//! let bootstrap = LogEntry {
//!     index: 1,
//!     term: 1,
//!     kind: EntryKind::Change,
//!     payload: Payload::from(Bytes::from(configuration)),
//! };
//! let recovered = Recovered { term: 1, entries: vec![bootstrap], ..Recovered::default() };
//! let options = Options {
//!     id: 1,
//!     election_timeout_ms: 3000,
//!     heartbeat_ms: 500,
//!     seed: 1,
//!     log_bytes_max: 1 << 26,
//! };
//!
//! let mut driver = Driver::new(options, recovered)?;
//! driver.start(0);
//! let command = Payload::from(Bytes::from_static(b"8 bytes!"));
//! let index = driver.propose(0, vec![(EntryKind::Command, command)])?;
//! let (mut applied, mut effects) = (0, Vec::new());
//! driver.ready(&mut effects);
//! while !effects.is_empty() {
//!     match effects.remove(0) {
//!         Effect::Persist(persist) => driver.durable(persist.id),
//!         Effect::Apply(entry) => applied = entry.index,
//!         _ => {}
//!     }
//!     driver.ready(&mut effects);
//! }
//! assert_eq!(applied, index);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod c_node;
pub mod disk;
mod driver;
pub mod fs;
pub mod log;
mod membership;
mod message;
#[doc(hidden)]
pub mod mutants;
pub mod sim_disk;
mod translate;
mod types;

pub use crate::disk::DiskError;
pub use crate::fs::FsDisk;
pub use crate::log::cache::Trailing;
pub use crate::log::data_dir::{DataDir, OpenError};
pub use crate::log::reader::{LogReader, ReadError};
pub use crate::log::recover::{RecoverError, RecoverOptions};
pub use crate::log::snapshot::{
    Compression, SnapshotError, SnapshotReader, SnapshotWriter, discard_snapshot,
};
pub use crate::log::writer::{LogWriter, Prepared};
pub use driver::{
    Bounds, ChangeError, ChangeToken, Driver, DriverError, Effect, Epoch, Options,
    PAYLOAD_BYTES_MAX, PeerProgress, Proof, ProposeError, RaftRole, ReadMode, ReadOptions,
    ReadTicket, ReceiveError, Usage,
};
pub use message::{
    AppendEntries, AppendEntriesResult, Echo, Message, PeerId, RequestVote, RequestVoteResult,
    Stamp,
};
pub use types::{DiskOp, EntryKind, LogEntry, LogRange, Payload, Persist, Recovered, SnapshotMeta};
