//! A dqlite node: SQLite databases, replicated with raft, served to clients over the dqlite wire
//! protocol.
//!
//! ```text
//!   clients, peers            ┌──────────── node (pure) ───────────┐
//!      │  bytes               │ gateway ─ dispatch ─ replicate     │
//!      ▼                      │    │         │          │          │
//!   io::event_loop ──inputs──▶│  conn     exec job    dq-raft      │
//!      ▲   ▲   ▲  ◀──outputs──│ registry: committed, head, batches │
//!      │   │   └ log writer   └────────────────────────────────────┘
//!      │   └ SQL workers                  dq-vfs: page versions
//!      └ snapshots
//! ```
//!
//! [`Node`] is a running node: a thread with an event loop, a log writer, a few SQL workers. It is
//! all that most programs need. [`node::Machine`] is the same node without a thread, a clock or a
//! file: what the event loop drives, and what a simulator can drive as well.
//!
//! What holds, always:
//!
//! - A client is told that a write is done when it is durable on a majority and applied here.
//! - A client sees nothing that could still be undone.
//! - Nothing that a socket or a file holds makes the process end by accident.
//! - Every queue has a bound, in bytes or by the number of connections.
//! - A disk that fails to make something durable ends the node; only a restart trusts it again.
//!
//! What it leaves out: the bytes themselves (`dq-wire`), the log and the votes (`dq-raft`), pages
//! and SQLite (`dq-vfs`).

#![forbid(unsafe_code)]

pub mod config;
pub mod conn;
pub mod error;
pub mod exec;
pub mod fsm;
mod handle;
pub mod io;
mod load;
pub mod metrics;
pub mod node;
pub mod offline;
pub mod peers;
pub mod promise;
pub mod registry;
pub mod roles;
pub mod sql;

pub use dq_raft::ReadMode;
pub use dq_tls::{TlsConfig, TlsError};
pub use handle::{BOOTSTRAP_ID, FILES_RESERVED, Node, NodeBuilder, StartError, StopError};
pub use io::dial::{Dial, PlainDialer};
pub use io::listener::{BindAddr, BoundSocket, UnixPeers};
pub use metrics::Metrics;
pub use node::Status;
pub use roles::RoleTargets;
