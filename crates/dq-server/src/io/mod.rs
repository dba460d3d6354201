//! The world around the state machine: sockets, threads, the clock. No decisions are made here.
//!
//! ```text
//!   event loop (mio) ──▶ Machine::step ──▶ outputs
//!      ▲   ▲   ▲                             │
//!      │   │   └── workers: long statements ◀┤
//!      │   └────── log writer: group commit ◀┤
//!      └────────── background: snapshots    ◀┘
//! ```
//!
//! Threads report back through one channel and a waker. The loop itself never waits for a disk, a
//! name server, a long statement or a TLS handshake.

pub mod background;
pub mod clock;
pub mod dial;
pub mod event_loop;
pub mod handshakes;
pub mod listener;
pub mod log_writer;
pub mod mailbox;
pub mod meter;
pub mod peers;
pub mod poll;
pub mod receiver;
pub mod scrape;
pub mod socket;
pub mod tls;
pub mod workers;
