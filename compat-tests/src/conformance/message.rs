//! Requests of the case language, and their bytes.

use dq_wire::codec::{put_text, put_u32, put_u64};
use dq_wire::header::request_type;
use dq_wire::{Header, ValueRef, encode_params, params_schema};

use super::text::{Names, Text};

/// A request with the fields that a case may set at will.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// In place of the schema that the request would have.
    pub schema: Option<u8>,
    /// The header's last field, which servers ignore.
    pub extra: u16,
    /// Id of the database in requests that have one.
    pub db: u64,
    /// The request.
    pub request: Request,
}

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// LEADER.
    Leader,
    /// CLIENT with its id.
    Client(u64),
    /// OPEN: name, flags, vfs.
    Open(Text, u64, Text),
    /// PREPARE: schema and text.
    Prepare(u8, Text),
    /// EXEC: statement and parameters.
    Exec(u32, Params),
    /// QUERY: statement and parameters.
    Query(u32, Params),
    /// FINALIZE.
    Finalize(u32),
    /// EXEC_SQL: text and parameters.
    ExecSql(Text, Params),
    /// QUERY_SQL: text and parameters.
    QuerySql(Text, Params),
    /// INTERRUPT.
    Interrupt,
    /// A request of an id and an address: CONNECT or ADD.
    IdAddress(u8, u64, Text),
    /// ASSIGN: id and role.
    Assign(u64, u64),
    /// A request of one word: its type and the word.
    Word(u8, u64),
    /// DUMP.
    Dump(Text),
    /// Any type, schema and body.
    Raw(u8, u8, Vec<RawBytes>),
}

/// Part of a body that is written out.
#[derive(Debug, Clone, PartialEq)]
pub enum RawBytes {
    /// As they are.
    Bytes(Vec<u8>),
    /// A text with NUL and padding.
    Text(Text),
}

/// Parameters of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Params {
    /// Encoded as a client would; none at all if empty.
    Values(Vec<Value>),
    /// The tuple as it stands, however wrong.
    Raw(Vec<u8>),
}

/// A value, as parameter or in a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// INTEGER.
    Integer(i64),
    /// FLOAT.
    Float(f64),
    /// TEXT.
    Text(Text),
    /// BLOB.
    Blob(Text),
    /// NULL.
    Null,
    /// UNIXTIME.
    UnixTime(i64),
    /// ISO8601.
    Iso8601(Text),
    /// BOOLEAN, any word.
    Boolean(u64),
}

impl Value {
    /// Calls `use_it` with the value as the wire has it.
    pub(super) fn with_ref<R>(&self, names: &Names, use_it: impl FnOnce(ValueRef<'_>) -> R) -> R {
        match self {
            Value::Integer(n) => use_it(ValueRef::Integer(*n)),
            Value::Float(x) => use_it(ValueRef::Float(*x)),
            Value::Text(text) => use_it(ValueRef::Text(&text.resolve(names))),
            Value::Blob(blob) => use_it(ValueRef::Blob(&blob.resolve(names))),
            Value::Null => use_it(ValueRef::Null),
            Value::UnixTime(n) => use_it(ValueRef::UnixTime(*n)),
            Value::Iso8601(text) => use_it(ValueRef::Iso8601(&text.resolve(names))),
            Value::Boolean(word) => use_it(ValueRef::Boolean(*word)),
        }
    }

    /// An owned value as the wire has it.
    pub(super) fn to_wire(&self, names: &Names) -> dq_wire::Value {
        self.with_ref(names, |value| value.to_value())
    }
}

impl Params {
    fn schema(&self) -> u8 {
        match self {
            Params::Values(values) => params_schema(values.len()),
            Params::Raw(_) => 0,
        }
    }

    fn encode(&self, out: &mut Vec<u8>, schema: u8, names: &Names) {
        match self {
            Params::Values(values) => {
                let owned: Vec<_> = values.iter().map(|v| v.to_wire(names)).collect();
                let refs: Vec<_> = owned.iter().map(dq_wire::Value::as_value_ref).collect();
                encode_params(out, &refs, schema.min(1));
            }
            Params::Raw(bytes) => out.extend_from_slice(bytes),
        }
    }
}

impl From<Request> for Message {
    fn from(request: Request) -> Message {
        Message {
            schema: None,
            extra: 0,
            db: 0,
            request,
        }
    }
}

impl Message {
    /// The request's type on the wire.
    pub fn kind(&self) -> u8 {
        match &self.request {
            Request::Leader => request_type::LEADER,
            Request::Client(_) => request_type::CLIENT,
            Request::Open(..) => request_type::OPEN,
            Request::Prepare(..) => request_type::PREPARE,
            Request::Exec(..) => request_type::EXEC,
            Request::Query(..) => request_type::QUERY,
            Request::Finalize(_) => request_type::FINALIZE,
            Request::ExecSql(..) => request_type::EXEC_SQL,
            Request::QuerySql(..) => request_type::QUERY_SQL,
            Request::Interrupt => request_type::INTERRUPT,
            Request::IdAddress(kind, ..) | Request::Word(kind, _) | Request::Raw(kind, ..) => *kind,
            Request::Assign(..) => request_type::ASSIGN,
            Request::Dump(_) => request_type::DUMP,
        }
    }

    fn schema(&self) -> u8 {
        self.schema.unwrap_or(match &self.request {
            Request::Prepare(schema, _) | Request::Raw(_, schema, _) => *schema,
            Request::Exec(_, params)
            | Request::Query(_, params)
            | Request::ExecSql(_, params)
            | Request::QuerySql(_, params) => params.schema(),
            _ => 0,
        })
    }

    /// Appends the request, header included. The body is padded to a whole word if a raw tuple is
    /// not, as there is no way to send it otherwise.
    pub fn encode(&self, out: &mut Vec<u8>, names: &Names) {
        let schema = self.schema();
        // Ids of databases are 64 bits wide in some requests and 32 in the others.
        let db32 = self.db as u32;
        let mut body = Vec::new();
        match &self.request {
            Request::Leader => put_u64(&mut body, 0),
            Request::Client(word) | Request::Word(_, word) => put_u64(&mut body, *word),
            Request::Open(name, flags, vfs) => {
                put_text(&mut body, &name.resolve(names));
                put_u64(&mut body, *flags);
                put_text(&mut body, &vfs.resolve(names));
            }
            Request::Prepare(_, sql) => {
                put_u64(&mut body, self.db);
                put_text(&mut body, &sql.resolve(names));
            }
            Request::Exec(stmt, params) | Request::Query(stmt, params) => {
                put_u32(&mut body, db32);
                put_u32(&mut body, *stmt);
                params.encode(&mut body, schema, names);
            }
            Request::Finalize(stmt) => {
                put_u32(&mut body, db32);
                put_u32(&mut body, *stmt);
            }
            Request::ExecSql(sql, params) | Request::QuerySql(sql, params) => {
                put_u64(&mut body, self.db);
                put_text(&mut body, &sql.resolve(names));
                params.encode(&mut body, schema, names);
            }
            Request::Interrupt => put_u64(&mut body, self.db),
            Request::IdAddress(_, id, address) => {
                put_u64(&mut body, *id);
                put_text(&mut body, &address.resolve(names));
            }
            Request::Assign(id, role) => {
                put_u64(&mut body, *id);
                put_u64(&mut body, *role);
            }
            Request::Dump(name) => put_text(&mut body, &name.resolve(names)),
            Request::Raw(_, _, parts) => put_raw(&mut body, parts, names),
        }
        body.resize(body.len().next_multiple_of(8), 0);
        let header = Header {
            words: u32::try_from(body.len() / 8).expect("cases send bodies far below 32 GiB"),
            kind: self.kind(),
            schema,
            extra: self.extra,
        };
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(&body);
    }
}

/// Appends bytes that are written out.
pub(super) fn put_raw(out: &mut Vec<u8>, parts: &[RawBytes], names: &Names) {
    for part in parts {
        match part {
            RawBytes::Bytes(bytes) => out.extend_from_slice(bytes),
            RawBytes::Text(text) => put_text(out, &text.resolve(names)),
        }
    }
}
