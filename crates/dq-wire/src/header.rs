//! What precedes every message of the client protocol, in both directions.
//!
//! A client begins with one word that names the protocol, [`PROTOCOL_V1`] or [`PROTOCOL_LEGACY`];
//! the server does not answer it. From then on both sides send messages, a [`Header`] of 8 bytes
//! and a body of whole words:
//!
//! ```text
//! 0        4      5        6       8
//! | words  | type | schema | extra | body: 8 × words bytes
//! ```
//!
//! Nobody looks at `extra` in a request, so a value in it is no error.

use crate::codec::{DecodeError, Reader, WORD, put_zeros};

/// First word of a client that speaks the current protocol.
pub const PROTOCOL_V1: u64 = 1;

/// First word of a client from before version 1. The only difference is the answer to LEADER:
/// an address without an id.
pub const PROTOCOL_LEGACY: u64 = 0x8610_4dd7_6043_3fe5;

/// The largest request body that a server may be configured to accept: C dqlite's buffers
/// overflow above it.
pub const BODY_SIZE_HARD_MAX: u64 = 1 << 31;

/// The largest request body that a server accepts unless configured otherwise.
pub const BODY_SIZE_DEFAULT_MAX: u64 = 64 << 20;

/// Request types. 2 was a heartbeat, which no server answers any more.
pub mod request_type {
    #[cfg(doc)]
    use crate::Request;

    /// [`Request::Leader`].
    pub const LEADER: u8 = 0;
    /// [`Request::Client`].
    pub const CLIENT: u8 = 1;
    /// [`Request::Open`].
    pub const OPEN: u8 = 3;
    /// [`Request::Prepare`].
    pub const PREPARE: u8 = 4;
    /// [`Request::Exec`].
    pub const EXEC: u8 = 5;
    /// [`Request::Query`].
    pub const QUERY: u8 = 6;
    /// [`Request::Finalize`].
    pub const FINALIZE: u8 = 7;
    /// [`Request::ExecSql`].
    pub const EXEC_SQL: u8 = 8;
    /// [`Request::QuerySql`].
    pub const QUERY_SQL: u8 = 9;
    /// [`Request::Interrupt`].
    pub const INTERRUPT: u8 = 10;
    /// [`Request::Connect`].
    pub const CONNECT: u8 = 11;
    /// [`Request::Add`].
    pub const ADD: u8 = 12;
    /// [`Request::Assign`] and, with a shorter body, [`Request::Promote`].
    pub const ASSIGN: u8 = 13;
    /// [`Request::Remove`].
    pub const REMOVE: u8 = 14;
    /// [`Request::Dump`].
    pub const DUMP: u8 = 15;
    /// [`Request::Cluster`].
    pub const CLUSTER: u8 = 16;
    /// [`Request::Transfer`].
    pub const TRANSFER: u8 = 17;
    /// [`Request::Describe`].
    pub const DESCRIBE: u8 = 18;
    /// [`Request::Weight`].
    pub const WEIGHT: u8 = 19;
}

/// Response types.
pub mod response_type {
    #[cfg(doc)]
    use crate::Response;

    /// [`Response::Failure`].
    pub const FAILURE: u8 = 0;
    /// [`Response::Server`].
    pub const SERVER: u8 = 1;
    /// [`Response::Welcome`].
    pub const WELCOME: u8 = 2;
    /// [`Response::Servers`].
    pub const SERVERS: u8 = 3;
    /// [`Response::Db`].
    pub const DB: u8 = 4;
    /// [`Response::Stmt`].
    pub const STMT: u8 = 5;
    /// [`Response::Result`].
    pub const RESULT: u8 = 6;
    /// [`Response::Rows`].
    pub const ROWS: u8 = 7;
    /// [`Response::Empty`].
    pub const EMPTY: u8 = 8;
    /// [`Response::Files`].
    pub const FILES: u8 = 9;
    /// [`Response::Metadata`].
    pub const METADATA: u8 = 10;
}

/// The first 8 bytes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Size of the body in words.
    pub words: u32,
    /// One of [`request_type`] or [`response_type`].
    pub kind: u8,
    /// Version of the body's layout.
    pub schema: u8,
    /// Ignored in requests, 0 in responses.
    pub extra: u16,
}

impl Header {
    /// Size of an encoded header in bytes.
    pub const SIZE: usize = 8;

    /// Reads a header from the first 8 bytes of `bytes`.
    ///
    /// # Errors
    /// `Incomplete` if there are fewer.
    pub fn decode(bytes: &[u8]) -> Result<Header, DecodeError> {
        let mut reader = Reader::new(bytes);
        if bytes.len() < Header::SIZE {
            return Err(DecodeError::Incomplete {
                more: Header::SIZE - bytes.len(),
            });
        }
        Ok(Header {
            words: reader.u32()?,
            kind: reader.u8()?,
            schema: reader.u8()?,
            extra: reader.u16()?,
        })
    }

    /// The header's 8 bytes.
    pub fn encode(&self) -> [u8; Header::SIZE] {
        let mut bytes = [0; Header::SIZE];
        bytes[..4].copy_from_slice(&self.words.to_le_bytes());
        bytes[4] = self.kind;
        bytes[5] = self.schema;
        bytes[6..].copy_from_slice(&self.extra.to_le_bytes());
        bytes
    }

    /// Size of the body in bytes, up to 32 GiB: check it before making room for a body.
    pub fn body_size(&self) -> u64 {
        u64::from(self.words) * WORD as u64
    }

    /// The size of the body in bytes, if it is one to accept: not empty, since every request and
    /// response has a body of at least a word and C dqlite hangs on an empty one, and at most
    /// `max` bytes.
    ///
    /// # Errors
    /// `Malformed`: the connection is of no use any more.
    pub fn checked_body_size(&self, max: u64) -> Result<usize, DecodeError> {
        let size = self.body_size();
        usize::try_from(size)
            .ok()
            .filter(|_| size > 0 && size <= max)
            .ok_or(DecodeError::Malformed {
                field: "body size",
                offset: 0,
            })
    }
}

/// Leaves room for a header at the end of `out`; to be filled in by [`finish_message`].
pub(crate) fn begin_message(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    put_zeros(out, Header::SIZE);
    start
}

/// Fills in the header of the message that began at `start` and ends at the end of `out`.
///
/// # Panics
/// If the body is not a whole number of words, or larger than 32 GiB. Bodies are built from
/// encoders of whole words, and who builds large ones checks their size first.
pub(crate) fn finish_message(out: &mut [u8], start: usize, kind: u8, schema: u8) {
    let size = out.len() - start - Header::SIZE;
    assert!(
        size.is_multiple_of(WORD),
        "a body is a whole number of words"
    );
    let words = u32::try_from(size / WORD).expect("a body is smaller than 32 GiB");
    let header = Header {
        words,
        kind,
        schema,
        extra: 0,
    };
    out[start..start + Header::SIZE].copy_from_slice(&header.encode());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_cut_short_asks_for_the_rest() {
        assert_eq!(
            Header::decode(&[1, 0, 0, 0, 0]),
            Err(DecodeError::Incomplete { more: 3 })
        );
    }

    #[test]
    fn the_largest_word_count_does_not_overflow() {
        let header = Header {
            words: u32::MAX,
            kind: 0,
            schema: 0,
            extra: 0,
        };
        assert_eq!(header.body_size(), 0x7_ffff_fff8);
        assert!(header.checked_body_size(BODY_SIZE_HARD_MAX).is_err());
    }

    #[test]
    fn an_empty_body_is_refused() {
        let header = Header {
            words: 0,
            kind: 0,
            schema: 0,
            extra: 0,
        };
        assert!(header.checked_body_size(BODY_SIZE_HARD_MAX).is_err());
    }

    #[test]
    fn a_body_of_exactly_the_limit_is_accepted() {
        let header = Header {
            words: 2,
            kind: 0,
            schema: 0,
            extra: 0,
        };
        assert_eq!(header.checked_body_size(16), Ok(16));
        assert!(header.checked_body_size(15).is_err());
    }

    proptest! {
        #[test]
        fn a_header_decodes_to_what_was_encoded(words: u32, kind: u8, schema: u8, extra: u16) {
            let header = Header { words, kind, schema, extra };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }
}
