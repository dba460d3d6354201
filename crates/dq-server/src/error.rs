//! Refusals that clients tell apart by their code.

/// A failure that says nothing about data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The code, as on the wire.
    pub code: u64,
    /// The text.
    pub message: &'static str,
}

/// Certainly not executed: a client may retry elsewhere. SQLITE_IOERR | 40 << 8.
pub const NOT_LEADER: Refusal = Refusal {
    code: 10250,
    message: "not leader",
};

/// The same as a result code of SQLite, with which a commit is refused.
pub const NOT_LEADER_SQLITE: i32 = 10250;

/// Perhaps executed. SQLITE_IOERR | 41 << 8.
pub const LEADERSHIP_LOST: Refusal = Refusal {
    code: 10506,
    message: "leadership lost",
};

/// Another connection's transaction holds the write slot.
pub const BUSY: Refusal = Refusal {
    code: 5,
    message: "database is locked",
};

/// There is no space for the log: reads go on, writes are taken again when there is. SQLITE_FULL.
pub const FULL: Refusal = Refusal {
    code: 13,
    message: "database or disk is full",
};

/// The same as a result code of SQLite, with which a commit is refused.
pub const FULL_SQLITE: i32 = 13;

/// Requests that wait or are half sent fill the memory that is set aside for them. SQLITE_NOMEM.
pub const CROWDED: Refusal = Refusal {
    code: 7,
    message: "too many large requests at the same time",
};

/// What a read goes by is too old: too much has been replaced since. SQLITE_IOERR.
pub const OUTDATED: Refusal = Refusal {
    code: 10,
    message: "the read has lasted too long: what it began with was replaced, and is kept no longer",
};

/// The node cannot tell what happened.
pub const EXEC_FAILED: Refusal = Refusal {
    code: 10,
    message: "leader exec failed",
};
