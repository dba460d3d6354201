//! The same random requests to C dqlite and to ours, and the answers compared.
//!
//! ```text
//!   seed ──> program ──┬─ drive ──> c-node     ──> answers ─┐
//!            (Ops)     └─ drive ──> dq-server  ──> answers ─┴─ compare ──> shrink ──> reproducer
//! ```
//!
//! A program is what three connections ask on one fresh database: definitions, changes and queries
//! with parameters of every type, transactions and savepoints that meet each other, prepared
//! statements that outlive schema changes, pragmas, and mistakes. Requests of one connection are
//! pipelined to ours; before another connection speaks all answers are in, so that each program has one
//! course of events.
//!
//! Every answer must be the same to the byte, but for the padding of blobs and for what the table in
//! `differences.rs` knows. A program that shows anything else is cut down to the requests that
//! matter and printed in the language of [`crate::conformance`], with both answers.
//!
//! [`shell`] compares with the `sqlite3` shell instead: C dqlite does not survive every statement.

mod differences;
mod drive;
mod expression;
mod program;
pub(crate) mod rng;
mod run;
mod schema;
pub mod shell;
mod shrink;
mod statement;

pub use program::{Ask, Op};
pub use rng::Rng;
pub use run::{Budget, Summary, run};
