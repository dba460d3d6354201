//! The dqlite formats: what travels on sockets, in log entries and on disk.

pub mod configuration;

pub use configuration::{Configuration, Role, Server};
