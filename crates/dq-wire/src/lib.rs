//! The dqlite formats, bit for bit: what travels on sockets, in log entries and on disk.
//!
//! Everything that another program can see of a dqlite node is bytes in one of these forms, and
//! everything that a node takes from outside passes through one of these decoders:
//!
//! ```text
//!  clients                       peers                        disk
//!  header                        raft_rpc                     disk::names
//!    request, response             entry ───────────────────── disk::segment
//!      tuple   rows                  command, configuration ── disk::snapshot_meta
//!        value                                                 disk::metadata, disk::fsm_snapshot
//!                          codec: words, texts, blobs
//! ```
//!
//! The formats are described in `proto-spec/`, in a file per column, with examples that the tests
//! decode and encode.
//!
//! # What holds everywhere
//!
//! - **Decoders are total.** For any bytes they return a value or a [`DecodeError`]. They do not
//!   panic, and make room for nothing larger than a small multiple of their input.
//! - **Decoded values borrow.** Texts, blobs and pages are slices of the input. What is kept longer
//!   has an owned form ([`ParamsBuf`], [`Value`]), or is cut out of a shared buffer by its caller.
//! - **Encoders append** to the caller's buffer and cannot fail for what a decoder accepts. Where the
//!   content is large (pages, files, snapshots) they write what goes in front of it and leave the
//!   rest to whoever has it. They panic only on what must never be written, and say so.
//! - **What C dqlite accepts is accepted**, where that is not a way to crash it: unused fields are not
//!   looked at, and bytes after the last field are ignored. What is written is what it writes, with
//!   zeros where it leaves garbage.
//!
//! # What is not here
//!
//! No sockets and no files, no state of a connection, no judgement. That a database is open, that a
//! statement exists or that an index follows another is for the caller to know.
//!
//! # Example
//!
//! A client asks for the leader:
//!
//! ```
//! use dq_wire::{Header, PROTOCOL_V1, Request, Response};
//!
//! let mut sent = PROTOCOL_V1.to_le_bytes().to_vec();
//! Request::Leader.encode(&mut sent);
//!
//! // The server takes the first word, a header, and as many bytes as it says.
//! let (header, body) = sent[8..].split_at(Header::SIZE);
//! let header = Header::decode(header)?;
//! assert_eq!(header.checked_body_size(1 << 20)?, body.len());
//! assert_eq!(Request::decode(&header, body), Ok(Request::Leader));
//!
//! let mut answer = Vec::new();
//! Response::Server { id: 1, address: b"10.0.0.1:9000" }.encode(&mut answer);
//! # let (header, body) = answer.split_at(Header::SIZE);
//! # let header = Header::decode(header)?;
//! # assert_eq!(
//! #     Response::decode(&header, body)?,
//! #     Response::Server { id: 1, address: b"10.0.0.1:9000" }
//! # );
//! # Ok::<(), dq_wire::DecodeError>(())
//! ```

#![forbid(unsafe_code)]

pub mod codec;
pub mod command;
pub mod configuration;
pub mod disk;
pub mod entry;
pub mod header;
pub mod raft_rpc;
pub mod request;
pub mod response;
pub mod rows;
pub mod tuple;
pub mod value;

pub use codec::{DecodeError, Reader, WORD};
pub use command::{BARRIER_PAYLOAD, Command, Frames, PAGE_SIZE, encode_frames_header};
pub use configuration::{Configuration, Role, Server};
pub use entry::{EntryHeader, EntryKind};
pub use header::{Header, PROTOCOL_LEGACY, PROTOCOL_V1};
pub use request::{Request, RequestError};
pub use response::Response;
pub use rows::{Rows, RowsEncoder, RowsEnd};
pub use tuple::{Params, ParamsBuf, encode_params, params_schema};
pub use value::{Value, ValueRef, ValueType};
