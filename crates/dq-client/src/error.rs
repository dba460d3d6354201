//! One error type, sorted by what the caller does next.
//!
//! [`Error::kind`] says what went wrong, [`Error::outcome`] what became of the statement. The second
//! is what a retry depends on: running a statement again is safe only when it was certainly not
//! carried out. The server makes the difference with its codes (10250 "not leader": refused before
//! anything was done; 10506 "leadership lost": it may still take effect), the connection with what
//! it had sent when it broke.

use std::fmt;
use std::io;

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The server is not the leader (any more) and has done nothing: `SQLITE_IOERR | 40 << 8`.
pub(crate) const NOT_LEADER: u64 = 10250;
/// Leadership went away while the statement was being replicated: `SQLITE_IOERR | 41 << 8`.
pub(crate) const LEADERSHIP_LOST: u64 = 10506;
/// What servers before 1.0 sent for the two.
const LEGACY_NOT_LEADER: u64 = 8202;
const LEGACY_LEADERSHIP_LOST: u64 = 8458;
/// dqlite's own: the request was not understood.
const PARSE: u64 = 1005;

/// What kind of failure an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No member of the cluster named a leader in time.
    NoLeader,
    /// The server that was asked does not lead; nothing was done.
    NotLeader,
    /// The server lost its leadership in the middle of the statement.
    LeadershipLost,
    /// Another transaction is in the way (SQLITE_BUSY and its extended codes).
    Busy,
    /// A constraint is violated (SQLITE_CONSTRAINT and its extended codes).
    Constraint,
    /// Any other failure that the server reports.
    Sql,
    /// A value does not fit the type that was asked for, or a parameter cannot be sent.
    Type,
    /// The network or a file failed.
    Io,
    /// No answer, or no room in the pool, in time.
    Timeout,
    /// The server sent something that is not an answer to what was asked.
    Protocol,
    /// The connection or its database handle is gone: get another connection.
    Closed,
}

/// What is known about the statement that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was not carried out and never will be.
    NotDone,
    /// It may have been carried out, or still be.
    Unknown,
    /// It was carried out; only its result is missing.
    Done,
}

/// Why a call failed.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    code: Option<i32>,
    outcome: Outcome,
    message: String,
    source: Option<io::Error>,
}

impl Error {
    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The extended result code that the server sent, SQLite's or one of dqlite's own. `None` if
    /// the failure is not the server's.
    pub fn sqlite_code(&self) -> Option<i32> {
        self.code
    }

    /// What became of the statement.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The message without kind and code; the server's own words if it sent some.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// An error that the server did not send.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            code: None,
            outcome: Outcome::NotDone,
            message: message.into(),
            source: None,
        }
    }

    /// A failure of the network, or a timeout, which `std` reports as one.
    pub(crate) fn io(context: &str, error: io::Error) -> Error {
        // A socket's read timeout is WouldBlock on Unix and TimedOut elsewhere.
        let timeout = matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        );
        Error {
            kind: if timeout {
                ErrorKind::Timeout
            } else {
                ErrorKind::Io
            },
            code: None,
            outcome: Outcome::NotDone,
            message: if timeout {
                format!("{context}: timeout")
            } else {
                format!("{context}: {error}")
            },
            source: Some(error),
        }
    }

    /// A FAILURE response.
    pub(crate) fn failure(code: u64, message: &[u8]) -> Error {
        let message = String::from_utf8_lossy(message).into_owned();
        let (kind, outcome) = classify(code, &message);
        Error {
            kind,
            code: i32::try_from(code).ok(),
            outcome,
            message,
            source: None,
        }
    }

    pub(crate) fn with_outcome(mut self, outcome: Outcome) -> Error {
        self.outcome = outcome;
        self
    }

    /// Whether the connection on which this happened is of no more use: it broke, or the server
    /// has closed the database behind it.
    pub(crate) fn ends_connection(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::NotLeader
                | ErrorKind::LeadershipLost
                | ErrorKind::Io
                | ErrorKind::Timeout
                | ErrorKind::Protocol
                | ErrorKind::Closed
        )
    }

    /// Whether trying again, on another connection or later, can help.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::NoLeader
                | ErrorKind::NotLeader
                | ErrorKind::LeadershipLost
                | ErrorKind::Busy
                | ErrorKind::Io
                | ErrorKind::Timeout
                | ErrorKind::Closed
        )
    }
}

/// Sorts a FAILURE by its code.
fn classify(code: u64, message: &str) -> (ErrorKind, Outcome) {
    const BUSY: u64 = 5;
    const IOERR: u64 = 10;
    const NOT_FOUND: u64 = 12;
    const CONSTRAINT: u64 = 19;
    match code {
        NOT_LEADER | LEGACY_NOT_LEADER => (ErrorKind::NotLeader, Outcome::NotDone),
        LEADERSHIP_LOST | LEGACY_LEADERSHIP_LOST => (ErrorKind::LeadershipLost, Outcome::Unknown),
        // "no database opened", "no statement with the given id": leadership has come and gone
        // since, and the database handle with it.
        NOT_FOUND => (ErrorKind::Closed, Outcome::NotDone),
        PARSE => (ErrorKind::Protocol, Outcome::NotDone),
        // C servers garble failures of running queries: column count and first column name take
        // the places of code and message. Only this text is known to be meant.
        0 if message == "empty statement" => (ErrorKind::Sql, Outcome::NotDone),
        0 => (ErrorKind::Sql, Outcome::Unknown),
        _ => match code & 0xff {
            BUSY => (ErrorKind::Busy, Outcome::NotDone),
            CONSTRAINT => (ErrorKind::Constraint, Outcome::NotDone),
            // "leader exec failed" and its like: raft refused, for reasons that are not told.
            IOERR => (ErrorKind::Sql, Outcome::Unknown),
            _ => (ErrorKind::Sql, Outcome::NotDone),
        },
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} (code {code})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

impl From<dq_wire::DecodeError> for Error {
    fn from(error: dq_wire::DecodeError) -> Error {
        Error::new(ErrorKind::Protocol, format!("response: {error}")).with_outcome(Outcome::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: u64, message: &str, kind: ErrorKind, outcome: Outcome) {
        let error = Error::failure(code, message.as_bytes());
        assert_eq!(
            (error.kind(), error.outcome()),
            (kind, outcome),
            "{code} {message}"
        );
        assert_eq!(error.sqlite_code(), Some(code as i32));
        assert_eq!(error.message(), message);
    }

    #[test]
    fn codes_of_the_server_are_sorted_by_what_to_do_next() {
        check(10250, "not leader", ErrorKind::NotLeader, Outcome::NotDone);
        check(
            10506,
            "leadership lost",
            ErrorKind::LeadershipLost,
            Outcome::Unknown,
        );
        check(5, "database is locked", ErrorKind::Busy, Outcome::NotDone);
        check(517, "database is locked", ErrorKind::Busy, Outcome::NotDone);
        check(
            2067,
            "UNIQUE constraint failed: t.a",
            ErrorKind::Constraint,
            Outcome::NotDone,
        );
        check(
            12,
            "no database opened",
            ErrorKind::Closed,
            Outcome::NotDone,
        );
        check(
            1,
            "near \"selct\": syntax error",
            ErrorKind::Sql,
            Outcome::NotDone,
        );
        check(10, "leader exec failed", ErrorKind::Sql, Outcome::Unknown);
        check(0, "empty statement", ErrorKind::Sql, Outcome::NotDone);
        check(0, "\u{13}\u{6}", ErrorKind::Sql, Outcome::Unknown);
        check(
            1005,
            "unrecognized request type",
            ErrorKind::Protocol,
            Outcome::NotDone,
        );
    }

    #[test]
    fn a_read_timeout_is_a_timeout() {
        let error = Error::io("read", io::Error::from(io::ErrorKind::WouldBlock));
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let error = Error::io("read", io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(std::error::Error::source(&error).is_some());
    }

    #[test]
    fn a_message_that_is_not_utf8_is_kept_as_far_as_it_is() {
        assert_eq!(Error::failure(1, b"a\xffb").message(), "a\u{fffd}b");
    }
}
