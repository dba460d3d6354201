//! How a node behaves: the settings of upstream's node API and ours.

use crate::roles::RoleTargets;

/// Settings of a node that its state machine reads.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node's id, never 0.
    pub id: u64,
    /// Its address, as other nodes and clients are told.
    pub address: String,
    /// How long a writer waits for another connection's open transaction, ms.
    pub busy_timeout_ms: u64,
    /// Entries applied since the last snapshot at which a new one is taken.
    pub snapshot_threshold: u64,
    /// Entries kept in the log behind a snapshot.
    pub snapshot_trailing: u64,
    /// Keep fewer of them in memory where they outweigh the snapshot itself.
    pub snapshot_trailing_dynamic: bool,
    /// Largest request body, bytes.
    pub request_bytes_max: u64,
    /// What the requests of all clients together may take in memory, and, apart from that, answers
    /// to them; bytes.
    pub client_memory_max: usize,
    /// What messages that arrive from other nodes together may take in memory, bytes; a single larger one
    /// is taken.
    pub peer_memory_max: usize,
    /// Bytes of pages that are kept for readers only, over all databases; above it the oldest reader
    /// is ended.
    pub old_pages_max: usize,
    /// Bytes that may have been executed and not yet applied, over all databases; above it no new
    /// write starts.
    pub speculative_bytes_max: usize,
    /// Largest transaction, in bytes of distinct pages.
    pub transaction_bytes_max: usize,
    /// What the leader keeps the members' roles at; `None` leaves that to clients.
    pub roles: Option<RoleTargets>,
    /// Send NULL in columns declared BOOLEAN, DATE, DATETIME or TIMESTAMP as NULL, not as false or an
    /// empty date.
    pub null_in_typed_columns: bool,
    /// Reported by DESCRIBE.
    pub failure_domain: u64,
    /// Reported by DESCRIBE until a client sets another.
    pub weight: u64,
}

impl Settings {
    /// The defaults, which are C dqlite's where it has the setting.
    pub fn new(id: u64, address: impl Into<String>) -> Settings {
        Settings {
            id,
            address: address.into(),
            busy_timeout_ms: 0,
            snapshot_threshold: 1024,
            snapshot_trailing: 8192,
            snapshot_trailing_dynamic: false,
            request_bytes_max: dq_wire::header::BODY_SIZE_DEFAULT_MAX,
            client_memory_max: 256 << 20,
            peer_memory_max: 64 << 20,
            old_pages_max: 256 << 20,
            speculative_bytes_max: 64 << 20,
            transaction_bytes_max: 256 << 20,
            roles: None,
            null_in_typed_columns: false,
            failure_domain: 0,
            weight: 0,
        }
    }
}
