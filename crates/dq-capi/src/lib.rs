//! `libdqlite.so.0`: the C interface of dqlite 1.18.6 on a node written in Rust.
//!
//! Programs that are built against the original (go-dqlite and what uses it) run on this library as
//! they are. The header is `include/dqlite.h`; what a caller has to promise is said there, once for
//! all functions: pointers come from this library and are not used after their `destroy`, strings
//! are C strings.
//!
//! ```text
//!   C ──▶ exports   pointers become references, failures become codes and messages, panics stop
//!            │
//!          node     one dqlite_node: settings, life, recovery      (safe)
//!            ├── dial       the program's connect function
//!            ├── address    texts that an address to bind can be
//!            └── handover   ── client ──▶ the cluster, over the wire
//!          extensions   what the original does not have
//!          server   dqlite_server: a node that remembers who it is and who the others are
//! ```
//!
//! What holds:
//!
//! - No panic reaches the caller. A function that panicked returns `DQLITE_ERROR`.
//! - Each object has a lock, which every function takes: they can be called from any thread. A thread
//!   that holds it is refused, not made to wait for itself; a handover does not hold it.
//! - What the original answers with an abort or undefined behaviour is answered with
//!   `DQLITE_MISUSE` and a message here. Every failure leaves a message.
//! - No signal's disposition is changed, and none is relied on: sockets are written to without
//!   raising SIGPIPE.
//! - SQLite is inside and hidden: the program's own copy, whatever its version and threading mode,
//!   is neither used nor disturbed. Extensions that a program registers with it are not seen here;
//!   `dqx_node_set_extension_init` is for those.
//! - Built without the feature `bundled-sqlite`, SQLite is the system's, which the program shares, as
//!   the original does: extensions that it registers are seen, its settings are left alone, and if it
//!   has switched mutexes off, one statement runs at a time.
//!
//! What it leaves out: the raw VFS functions, which the original has removed.

#![allow(
    clippy::missing_safety_doc,
    reason = "the module's documentation and the header say it once for all"
)]

mod address;
mod buffer;
mod client;
mod code;
mod dial;
mod exclusive;
pub mod exports;
pub mod extensions;
mod handover;
mod ident;
mod members;
mod node;
mod server;
pub mod server_exports;
mod trace;
