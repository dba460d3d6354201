//! Whole nodes for fuzzers.
//!
//! Each harness is a function of bytes. It reads them as a list of things that happen, so that every
//! input means something and a small change of it is a small change of what happens:
//!
//! ```text
//!  bytes ─▶ choices (arbitrary) ─┬─▶ session: what clients send       ─▶ one node, leading
//!                                ├─▶ peer: what other nodes send      ─▶ one voter of three
//!                                └─▶ data_dir: what has become of files ─▶ a start, a client
//! ```
//!
//! The first two run the state machine of the server on a disk in memory, with the real log writer and
//! real SQLite; [`shell`] is what the event loop is to it. The third starts a node as programs do.
//!
//! A harness panics if the node does, or if what it promises does not hold: it is not stopped by what
//! clients send, its answers can be decoded, its memory is bounded, and afterwards it serves others.
//!
//! `tests/harness.rs` runs the corpus and some random inputs with a stable compiler; the targets in
//! `fuzz/` are for libFuzzer and the address sanitizer.
//!
//! Left out: time inside a statement, failing disks and lost messages, which the simulator has.

pub mod corpus;
pub mod data_dir;
pub mod decoders;
pub mod peer;
pub mod random;
pub mod reached;
pub mod session;
pub mod shell;
mod sql;
