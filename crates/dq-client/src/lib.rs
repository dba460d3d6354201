//! A client for dqlite clusters, the original's and ours.
//!
//! dqlite is SQLite made highly available: several nodes replicate every transaction, one of them,
//! the leader, runs the statements. This crate finds the leader, keeps connections to it in a pool,
//! finds it again when it changes, and says of everything that fails whether it was carried out.
//!
//! ```no_run
//! use dq_client::{MemStore, Pool, RetryPolicy, params};
//!
//! # fn main() -> dq_client::Result<()> {
//! let store = MemStore::new(["10.0.0.1:9000", "10.0.0.2:9000", "10.0.0.3:9000"]);
//! let pool = Pool::connect(store, "app.db")?;
//!
//! pool.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, name TEXT)", ())?;
//! let done = pool.execute("INSERT INTO t (name) VALUES (?)", ("first",))?;
//! assert_eq!(done.rows_affected, 1);
//!
//! let names: Vec<String> = pool.query("SELECT name FROM t", (), |row| row.get("name"))?;
//!
//! pool.transaction(RetryPolicy::default(), |tx| {
//!     let count = tx.query_row("SELECT count(*) FROM t", (), |row| row.get::<i64>(0))?;
//!     tx.execute("INSERT INTO t VALUES (?, ?)", params![count, "next"])?;
//!     Ok(())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! ```text
//!   Pool, Cluster      retry; pool.rs, cluster.rs
//!   Session            one database on one connection: Transaction, Statement, Rows
//!   leader search      leader.rs, over a NodeStore
//!   connection         blocking stream, time limits; conn.rs, address.rs
//!   protocol           bytes in, responses out, no I/O; protocol.rs, on dq-wire
//! ```
//!
//! # What holds
//!
//! - A statement whose fate is unknown is never run again behind the caller's back
//!   ([`Error::outcome`]). go-dqlite does, through `database/sql`, and may so apply a write twice.
//! - A transaction ends with its guard, and a connection with an open transaction never goes back to
//!   the pool.
//! - Every wait has a limit, by default.
//! - Nothing that a server sends makes this crate panic, or take memory beyond what has arrived.
//!
//! # What is left out
//!
//! Asynchronous connections, and reading from followers.

#![forbid(unsafe_code)]

mod address;
mod cluster;
mod config;
mod conn;
mod error;
mod leader;
mod params;
mod pool;
pub mod protocol;
mod rows;
mod session;
mod sql;
mod statement;
mod store;
mod transaction;
mod value;

pub use cluster::{Cluster, DatabaseFile, Metadata};
pub use config::{Config, RetryPolicy};
pub use dq_tls::{TlsConfig, TlsError};
pub use dq_wire::Role;
pub use error::{Error, ErrorKind, Outcome, Result};
pub use leader::Leader;
pub use params::Params;
pub use pool::{Connection, Pool};
pub use rows::{Column, ColumnIndex, Row, Rows};
pub use session::{Done, InterruptHandle, Session};
pub use statement::Statement;
pub use store::{FileStore, MemStore, Member, NodeStore, YamlStore};
pub use transaction::{Transaction, TxMode};
pub use value::{FromValue, FromValueError, ToValue, Value, ValueRef};
