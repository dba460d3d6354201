//! Steps back to text, for reproducers.

use dq_wire::RowsEnd;
use dq_wire::header::request_type;

use super::frame::{hex, show_value};
use super::message::{Message, Params, RawBytes, Request, Value};
use super::script::{Action, Expected, Reply, Step};
use super::text::Names;

/// A step as a line of the case language, for the actions that a generated run consists of:
/// connections, requests and expected messages. `None` for the others.
pub fn print_step(step: &Step) -> Option<String> {
    let text = match &step.action {
        Action::Connect { node: 'L', .. } => "connect".to_owned(),
        Action::Send(message) => print_message(message),
        Action::Close => "close".to_owned(),
        Action::Expect {
            what: Expected::Reply(reply),
            ..
        } => format!("expect {}", print_reply(reply)),
        _ => return None,
    };
    Some(format!("{}: {text}", step.connection))
}

/// A request in the words of the case language.
pub fn print_message(message: &Message) -> String {
    let mut out = String::new();
    if let Some(schema) = message.schema {
        out.push_str(&format!("schema={schema} "));
    }
    if message.extra != 0 {
        out.push_str(&format!("extra={} ", message.extra));
    }
    if message.db != 0 {
        out.push_str(&format!("db={} ", message.db));
    }
    out + &match &message.request {
        Request::Leader => "LEADER".to_owned(),
        Request::Client(id) => format!("CLIENT {id}"),
        Request::Open(name, flags, vfs) => format!("OPEN {name} {flags} {vfs}"),
        Request::Prepare(0, sql) => format!("P {sql}"),
        Request::Prepare(_, sql) => format!("P1 {sql}"),
        Request::Exec(stmt, params) => format!("x {stmt}{}", print_params(params)),
        Request::Query(stmt, params) => format!("q {stmt}{}", print_params(params)),
        Request::Finalize(stmt) => format!("fin {stmt}"),
        Request::ExecSql(sql, params) => format!("X {sql}{}", print_params(params)),
        Request::QuerySql(sql, params) => format!("Q {sql}{}", print_params(params)),
        Request::Interrupt => "INTERRUPT".to_owned(),
        Request::IdAddress(kind, id, address) => {
            let verb = match *kind {
                request_type::CONNECT => "CONNECT",
                _ => "ADD",
            };
            format!("{verb} {id} {address}")
        }
        Request::Assign(id, role) => format!("ASSIGN {id} {role}"),
        Request::Word(kind, word) => {
            let verb = match *kind {
                request_type::ASSIGN => "PROMOTE",
                request_type::REMOVE => "REMOVE",
                request_type::CLUSTER => "CLUSTER",
                request_type::TRANSFER => "TRANSFER",
                request_type::DESCRIBE => "DESCRIBE",
                _ => "WEIGHT",
            };
            format!("{verb} {word}")
        }
        Request::Dump(name) => format!("DUMP {name}"),
        Request::Raw(kind, schema, parts) => {
            let parts: Vec<_> = parts.iter().map(print_raw).collect();
            format!("MESSAGE {kind} {schema} {}", parts.join(" "))
        }
    }
}

fn print_raw(part: &RawBytes) -> String {
    match part {
        RawBytes::Bytes(bytes) => hex(bytes),
        RawBytes::Text(text) => format!("text{text}"),
    }
}

fn print_params(params: &Params) -> String {
    match params {
        Params::Values(values) => values.iter().map(print_value).collect(),
        Params::Raw(bytes) => format!(" raw {}", hex(bytes)),
    }
}

fn print_value(value: &Value) -> String {
    match value {
        Value::Text(text) => format!(" t{text}"),
        Value::Blob(blob) => format!(" b{blob}"),
        Value::Iso8601(text) => format!(" s{text}"),
        other => other.with_ref(&Names::default(), |value| {
            format!(" {}", show_value(&value))
        }),
    }
}

fn print_reply(reply: &Reply) -> String {
    match reply {
        Reply::Failure(code, text) => format!("FAILURE {code} {text}"),
        Reply::Server(id, address) => format!("SERVER {id} {address}"),
        Reply::ServerLegacy(address) => format!("SERVERLEGACY {address}"),
        Reply::Welcome(ms) => format!("WELCOME {ms}"),
        Reply::Servers(list) => list
            .iter()
            .fold("SERVERS".to_owned(), |out, (id, address, role)| {
                format!("{out} {id} {address} {}", role.to_wire())
            }),
        Reply::ServersV0(list) => list
            .iter()
            .fold("SERVERS0".to_owned(), |out, (id, address)| {
                format!("{out} {id} {address}")
            }),
        Reply::Db(id) => format!("DB {id}"),
        Reply::Stmt(db, id, params, tail) => {
            let tail = tail.map_or(String::new(), |tail| format!(" {tail}"));
            format!("STMT {db} {id} {params}{tail}")
        }
        Reply::Result(id, count) => format!("RESULT {} {count}", *id as i64),
        Reply::Rows(columns, rows, end) => {
            let mut out = "ROWS".to_owned();
            for column in columns {
                out.push_str(&format!(" {column}"));
            }
            for row in rows {
                out.push_str(" |");
                out.extend(row.iter().map(print_value));
            }
            if *end == RowsEnd::Part {
                out.push_str(" | part");
            }
            out
        }
        Reply::Empty => "EMPTY".to_owned(),
        Reply::Files(list) => list.iter().fold("FILES".to_owned(), |out, (name, size)| {
            format!("{out} {name} {size}")
        }),
        Reply::Metadata(domain, weight) => format!("METADATA {domain} {weight}"),
    }
}
