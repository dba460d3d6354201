//! What a client asks for.
//!
//! [`Request::decode`] follows the order in which the original checks a request, since that order
//! decides what the client is told: the type, the schema, the fixed fields, the head of the
//! parameters. The first two have an answer ([`RequestError::failure`]), the others close the
//! connection. Bytes after the fields that a request needs are ignored.

use std::fmt;

use crate::codec::{DecodeError, Reader, put_text, put_u32, put_u64};
use crate::header::{Header, begin_message, finish_message, request_type};
use crate::tuple::Params;

/// A request, borrowed from its body.
#[derive(Debug, Clone, PartialEq)]
pub enum Request<'a> {
    /// Who leads?
    Leader,
    /// The client introduces itself.
    Client {
        /// Chosen by the client, without consequences.
        id: u64,
    },
    /// Open a database for this connection.
    Open {
        /// Name of the database: a key, not a path.
        name: &'a [u8],
        /// Ignored by servers.
        flags: u64,
        /// Ignored by servers.
        vfs: &'a [u8],
    },
    /// Prepare a statement.
    Prepare {
        /// 0, or 1 to get the statement's tail reported instead of refused.
        schema: u8,
        /// Id of the database: 0.
        db: u64,
        /// The text.
        sql: &'a [u8],
    },
    /// Run a prepared statement that yields no rows.
    Exec {
        /// Id of the database: 0.
        db: u32,
        /// Id of the statement.
        stmt: u32,
        /// Its parameters; their schema is the request's.
        params: Params<'a>,
    },
    /// Run a prepared statement for its rows.
    Query {
        /// Id of the database: 0.
        db: u32,
        /// Id of the statement.
        stmt: u32,
        /// Its parameters; their schema is the request's.
        params: Params<'a>,
    },
    /// Forget a prepared statement.
    Finalize {
        /// Id of the database: 0.
        db: u32,
        /// Id of the statement.
        stmt: u32,
    },
    /// Run all statements of a text.
    ExecSql {
        /// Id of the database: 0.
        db: u64,
        /// The text.
        sql: &'a [u8],
        /// Parameters for all statements, from left to right; their schema is the request's.
        params: Params<'a>,
    },
    /// Run one statement for its rows.
    QuerySql {
        /// Id of the database: 0.
        db: u64,
        /// The text.
        sql: &'a [u8],
        /// Its parameters; their schema is the request's.
        params: Params<'a>,
    },
    /// Stop sending rows.
    Interrupt {
        /// Id of the database: 0.
        db: u64,
    },
    /// From now on this connection carries raft messages (see [`crate::raft_rpc`]).
    Connect {
        /// Node id of the sender.
        id: u64,
        /// The sender's address, as configured.
        address: &'a [u8],
    },
    /// Add a server to the cluster, as a spare.
    Add {
        /// Its node id.
        id: u64,
        /// Its address; any text.
        address: &'a [u8],
    },
    /// Change a server's role.
    Assign {
        /// Its node id.
        id: u64,
        /// The role's code in the client protocol. Codes without a meaning have a consequence all
        /// the same, so the number is kept as it came (see [`crate::Role::from_wire`]).
        role: u64,
    },
    /// Make a server a voter: the older form of [`Request::Assign`], with the same type.
    Promote {
        /// Its node id.
        id: u64,
    },
    /// Remove a server from the cluster.
    Remove {
        /// Its node id.
        id: u64,
    },
    /// Fetch the files of a database.
    Dump {
        /// Name of the database.
        name: &'a [u8],
    },
    /// List the members of the cluster.
    Cluster {
        /// 0 without roles, 1 with them.
        format: u64,
    },
    /// Hand over leadership.
    Transfer {
        /// Node id of the new leader, or 0 for any.
        id: u64,
    },
    /// Ask for failure domain and weight.
    Describe {
        /// 0.
        format: u64,
    },
    /// Set the node's weight.
    Weight {
        /// The weight.
        weight: u64,
    },
}

/// Why a request was not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// No request has this type.
    UnknownType,
    /// The request has no such schema.
    UnknownSchema {
        /// True for the five requests that prepare or run statements, which answer with a code of
        /// their own.
        statement: bool,
    },
    /// The body is wrong: the connection is closed without an answer.
    Malformed(DecodeError),
}

impl RequestError {
    /// Code and message of the FAILURE to send, or `None` if the connection has to be closed.
    pub fn failure(&self) -> Option<(u64, &'static str)> {
        match self {
            RequestError::UnknownType => Some((1005, "unrecognized request type")),
            RequestError::UnknownSchema { statement: true } => {
                Some((1, "unrecognized schema version"))
            }
            RequestError::UnknownSchema { statement: false } => {
                Some((1005, "unrecognized schema version"))
            }
            RequestError::Malformed(_) => None,
        }
    }
}

impl From<DecodeError> for RequestError {
    fn from(error: DecodeError) -> RequestError {
        RequestError::Malformed(error)
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::UnknownType => f.write_str("unrecognized request type"),
            RequestError::UnknownSchema { .. } => f.write_str("unrecognized schema version"),
            RequestError::Malformed(error) => write!(f, "request: {error}"),
        }
    }
}

impl std::error::Error for RequestError {}

impl<'a> Request<'a> {
    /// Reads a request from its header and its whole body.
    ///
    /// # Errors
    /// See [`RequestError`]; type and schema are checked before the body is looked at.
    pub fn decode(header: &Header, body: &'a [u8]) -> Result<Request<'a>, RequestError> {
        check_schema(header)?;
        let schema = header.schema;
        let mut r = Reader::new(body);
        Ok(match header.kind {
            request_type::LEADER => {
                r.u64()?;
                Request::Leader
            }
            request_type::CLIENT => Request::Client { id: r.u64()? },
            request_type::OPEN => Request::Open {
                name: r.text()?,
                flags: r.u64()?,
                vfs: r.text()?,
            },
            request_type::PREPARE => Request::Prepare {
                schema,
                db: r.u64()?,
                sql: r.text()?,
            },
            request_type::EXEC => Request::Exec {
                db: r.u32()?,
                stmt: r.u32()?,
                params: Params::decode(r.rest(), schema)?,
            },
            request_type::QUERY => Request::Query {
                db: r.u32()?,
                stmt: r.u32()?,
                params: Params::decode(r.rest(), schema)?,
            },
            request_type::FINALIZE => Request::Finalize {
                db: r.u32()?,
                stmt: r.u32()?,
            },
            request_type::EXEC_SQL => Request::ExecSql {
                db: r.u64()?,
                sql: r.text()?,
                params: Params::decode(r.rest(), schema)?,
            },
            request_type::QUERY_SQL => Request::QuerySql {
                db: r.u64()?,
                sql: r.text()?,
                params: Params::decode(r.rest(), schema)?,
            },
            request_type::INTERRUPT => Request::Interrupt { db: r.u64()? },
            request_type::CONNECT => Request::Connect {
                id: r.u64()?,
                address: r.text()?,
            },
            request_type::ADD => Request::Add {
                id: r.u64()?,
                address: r.text()?,
            },
            request_type::ASSIGN => {
                let id = r.u64()?;
                // One word: from before there were roles other than voter.
                if r.is_empty() {
                    Request::Promote { id }
                } else {
                    Request::Assign { id, role: r.u64()? }
                }
            }
            request_type::REMOVE => Request::Remove { id: r.u64()? },
            request_type::DUMP => Request::Dump { name: r.text()? },
            request_type::CLUSTER => Request::Cluster { format: r.u64()? },
            request_type::TRANSFER => Request::Transfer { id: r.u64()? },
            request_type::DESCRIBE => Request::Describe { format: r.u64()? },
            request_type::WEIGHT => Request::Weight { weight: r.u64()? },
            _ => return Err(RequestError::UnknownType),
        })
    }

    /// The request's type, one of [`request_type`].
    pub fn kind(&self) -> u8 {
        match self {
            Request::Leader => request_type::LEADER,
            Request::Client { .. } => request_type::CLIENT,
            Request::Open { .. } => request_type::OPEN,
            Request::Prepare { .. } => request_type::PREPARE,
            Request::Exec { .. } => request_type::EXEC,
            Request::Query { .. } => request_type::QUERY,
            Request::Finalize { .. } => request_type::FINALIZE,
            Request::ExecSql { .. } => request_type::EXEC_SQL,
            Request::QuerySql { .. } => request_type::QUERY_SQL,
            Request::Interrupt { .. } => request_type::INTERRUPT,
            Request::Connect { .. } => request_type::CONNECT,
            Request::Add { .. } => request_type::ADD,
            Request::Assign { .. } | Request::Promote { .. } => request_type::ASSIGN,
            Request::Remove { .. } => request_type::REMOVE,
            Request::Dump { .. } => request_type::DUMP,
            Request::Cluster { .. } => request_type::CLUSTER,
            Request::Transfer { .. } => request_type::TRANSFER,
            Request::Describe { .. } => request_type::DESCRIBE,
            Request::Weight { .. } => request_type::WEIGHT,
        }
    }

    /// Appends the message, header included.
    ///
    /// # Panics
    /// If the body is larger than 32 GiB, or parameters were decoded from something other than whole
    /// words.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin_message(out);
        let mut schema = 0;
        match self {
            Request::Leader => put_u64(out, 0),
            Request::Client { id }
            | Request::Promote { id }
            | Request::Remove { id }
            | Request::Transfer { id } => put_u64(out, *id),
            Request::Open { name, flags, vfs } => {
                put_text(out, name);
                put_u64(out, *flags);
                put_text(out, vfs);
            }
            Request::Prepare {
                schema: version,
                db,
                sql,
            } => {
                schema = *version;
                put_u64(out, *db);
                put_text(out, sql);
            }
            Request::Exec { db, stmt, params } | Request::Query { db, stmt, params } => {
                schema = params.schema();
                put_u32(out, *db);
                put_u32(out, *stmt);
                out.extend_from_slice(params.as_bytes());
            }
            Request::Finalize { db, stmt } => {
                put_u32(out, *db);
                put_u32(out, *stmt);
            }
            Request::ExecSql { db, sql, params } | Request::QuerySql { db, sql, params } => {
                schema = params.schema();
                put_u64(out, *db);
                put_text(out, sql);
                out.extend_from_slice(params.as_bytes());
            }
            Request::Interrupt { db } => put_u64(out, *db),
            Request::Connect { id, address } | Request::Add { id, address } => {
                put_u64(out, *id);
                put_text(out, address);
            }
            Request::Assign { id, role } => {
                put_u64(out, *id);
                put_u64(out, *role);
            }
            Request::Dump { name } => put_text(out, name),
            Request::Cluster { format } | Request::Describe { format } => put_u64(out, *format),
            Request::Weight { weight } => put_u64(out, *weight),
        }
        finish_message(out, start, self.kind(), schema);
    }
}

/// Which schemas a type has. CONNECT leaves the client protocol, and its schema is not looked at.
fn check_schema(header: &Header) -> Result<(), RequestError> {
    let (known, statement) = match header.kind {
        request_type::PREPARE
        | request_type::EXEC
        | request_type::QUERY
        | request_type::EXEC_SQL
        | request_type::QUERY_SQL => (header.schema <= 1, true),
        request_type::CONNECT => (true, false),
        request_type::LEADER
        | request_type::CLIENT
        | request_type::OPEN
        | request_type::FINALIZE
        | request_type::INTERRUPT
        | request_type::ADD..=request_type::WEIGHT => (header.schema == 0, false),
        _ => return Err(RequestError::UnknownType),
    };
    if known {
        Ok(())
    } else {
        Err(RequestError::UnknownSchema { statement })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuple::ParamsBuf;
    use crate::value::tests::{any_value, text};
    use crate::value::{Value, ValueRef};
    use proptest::prelude::*;

    fn decode(kind: u8, schema: u8, body: &[u8]) -> Result<Request<'_>, RequestError> {
        let words = (body.len() / 8) as u32;
        Request::decode(
            &Header {
                words,
                kind,
                schema,
                extra: 0xbeef,
            },
            body,
        )
    }

    const ALL: [u8; 19] = [
        0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
    ];
    const STATEMENT: [u8; 5] = [4, 5, 6, 8, 9];

    #[test]
    fn types_without_a_meaning_are_told_so_whatever_their_schema() {
        for kind in (0..=255).filter(|kind| !ALL.contains(kind)) {
            for schema in [0, 1, 2] {
                let error = decode(kind, schema, &[0; 8]).unwrap_err();
                assert_eq!(error, RequestError::UnknownType);
                assert_eq!(error.failure(), Some((1005, "unrecognized request type")));
            }
        }
    }

    #[test]
    fn schemas_are_checked_before_the_body_and_answered_with_two_codes() {
        for kind in ALL {
            for schema in [1, 2, 255] {
                let statement = STATEMENT.contains(&kind);
                let legal = kind == request_type::CONNECT || statement && schema == 1;
                // The body is wrong for every type, and must not be what is complained about.
                let error = decode(kind, schema, &[]).unwrap_err();
                if legal {
                    assert_eq!(error.failure(), None);
                } else {
                    let code = if statement { 1 } else { 1005 };
                    assert_eq!(error, RequestError::UnknownSchema { statement });
                    assert_eq!(error.failure(), Some((code, "unrecognized schema version")));
                }
            }
        }
    }

    #[test]
    fn bodies_cut_short_close_the_connection() {
        let name_only = b"a\0\0\0\0\0\0\0";
        let name_and_word = b"a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        for (kind, body) in [
            (request_type::OPEN, &b"abcdefgh"[..]),
            (request_type::OPEN, name_only),
            (request_type::OPEN, name_and_word),
            (request_type::PREPARE, &[0; 8]),
            (request_type::EXEC_SQL, &[0; 8]),
            (request_type::QUERY_SQL, &[0; 8]),
            (request_type::ADD, &[0; 8]),
            (request_type::CONNECT, &[0; 8]),
            (
                request_type::EXEC,
                &[0, 0, 0, 0, 0, 0, 0, 0, 200, 1, 1, 1, 1, 1, 1, 1],
            ),
        ] {
            let error = decode(kind, 0, body).unwrap_err();
            assert!(
                matches!(error, RequestError::Malformed(_)),
                "{kind} {body:?}"
            );
            assert_eq!(error.failure(), None);
        }
    }

    #[test]
    fn exec_of_a_single_word_has_no_parameters() {
        let body = [0, 0, 0, 0, 7, 0, 0, 0];
        assert_eq!(
            decode(request_type::EXEC, 0, &body),
            Ok(Request::Exec {
                db: 0,
                stmt: 7,
                params: Params::default()
            })
        );
    }

    #[test]
    fn what_follows_the_fields_is_ignored() {
        assert_eq!(
            decode(request_type::LEADER, 0, &[0; 24]),
            Ok(Request::Leader)
        );
        let mut body = vec![0; 8];
        body.extend_from_slice(b"select 1\0\0\0\0\0\0\0\0");
        body.extend_from_slice(&[0; 16]);
        let Ok(Request::QuerySql {
            mut params, sql, ..
        }) = decode(request_type::QUERY_SQL, 0, &body)
        else {
            panic!("refused");
        };
        assert_eq!(sql, b"select 1");
        assert_eq!(params.next_value(), None);
    }

    proptest! {
        #[test]
        fn a_request_decodes_to_what_was_encoded(
            (kind, a, b) in any::<(prop::sample::Index, u64, u64)>(),
            (c, d) in any::<(u32, u32)>(),
            one in text(),
            two in text(),
            values in proptest::collection::vec(any_value(), 0..5),
            schema in 0u8..2,
        ) {
            let refs: Vec<ValueRef<'_>> = values.iter().map(Value::as_value_ref).collect();
            let params = ParamsBuf::from_values(&refs);
            let params = params.as_params();
            let requests = [
                Request::Leader,
                Request::Client { id: a },
                Request::Open { name: &one, flags: a, vfs: &two },
                Request::Prepare { schema, db: a, sql: &one },
                Request::Exec { db: c, stmt: d, params: params.clone() },
                Request::Query { db: c, stmt: d, params: params.clone() },
                Request::Finalize { db: c, stmt: d },
                Request::ExecSql { db: a, sql: &one, params: params.clone() },
                Request::QuerySql { db: a, sql: &one, params },
                Request::Interrupt { db: a },
                Request::Connect { id: a, address: &two },
                Request::Add { id: a, address: &two },
                Request::Assign { id: a, role: b },
                Request::Promote { id: a },
                Request::Remove { id: a },
                Request::Dump { name: &one },
                Request::Cluster { format: a },
                Request::Transfer { id: a },
                Request::Describe { format: a },
                Request::Weight { weight: a },
            ];
            let request = kind.get(&requests);
            let mut out = b"before".to_vec();
            request.encode(&mut out);
            let message = &out[6..];
            let header = Header::decode(message).unwrap();
            prop_assert_eq!(header.body_size(), (message.len() - Header::SIZE) as u64);
            prop_assert_eq!(header.kind, request.kind());
            let back = Request::decode(&header, &message[Header::SIZE..]);
            prop_assert_eq!(back.as_ref(), Ok(request));
        }
    }
}
