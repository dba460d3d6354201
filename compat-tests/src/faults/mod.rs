//! Real processes under faults: clusters of `dq-server`, of C dqlite and of both, each node with a network
//! stack of its own, under load, while nodes are killed and frozen, the network between them is cut, slowed
//! and made lossy, a disk runs full, and nodes are replaced by ones of the other kind.
//!
//! ```text
//!   clients of ours, the stock shell          (one namespace)
//!        │  every request and answer ──> history (JSON lines) ──> linearize, in Go
//!        │
//!       wire   a thread that carries packets between the namespaces, or not
//!      ╱  │  ╲
//!   node node node                            (a namespace each; one on a small file system)
//!        ▲
//!   plan (seed) ── kill -9, SIGSTOP, cuts in both directions or one, delay, loss, disk full
//! ```
//!
//! What is checked: the history of each register and of each element of the set is linearizable; what
//! was acknowledged is there in the end, and what was refused is not; the sum of the bank's accounts
//! is the same in every read, and each transfer is counted once; when all is well again the cluster takes
//! writes, all nodes have the same pages, and SQLite finds these sound; no process of ours has ended on its
//! own. Answers of C dqlite may be of an earlier moment, see [`load`].
//!
//! A seed gives the same faults and the same requests at the same times, not the same run: processes
//! and kernels do as they like. The simulator repeats runs; this is for what it leaves out.

mod bed;
pub mod checked;
pub mod content;
pub mod history;
mod load;
pub mod namespace;
pub mod plan;
mod run;
mod seen;
mod shell;
pub mod wire;

pub use bed::{Bed, connect, impatient};
pub use run::{Report, Settings, build_checker, possible, run};
