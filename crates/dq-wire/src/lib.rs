//! The dqlite formats: what travels on sockets, in log entries and on disk.

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
