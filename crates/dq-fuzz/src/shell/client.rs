//! What clients send.

use dq_wire::ParamsBuf;
use dq_wire::header::PROTOCOL_V1;
use dq_wire::request::Request;

/// The greeting of a client, and OPEN of a database.
pub fn opening(name: &[u8]) -> Vec<u8> {
    let mut bytes = PROTOCOL_V1.to_le_bytes().to_vec();
    Request::Open {
        name,
        flags: 0,
        vfs: b"",
    }
    .encode(&mut bytes);
    bytes
}

/// Appends EXEC_SQL without parameters.
pub fn exec(bytes: &mut Vec<u8>, sql: &[u8]) {
    let params = ParamsBuf::default();
    let params = params.as_params();
    Request::ExecSql { db: 0, sql, params }.encode(bytes);
}

/// Appends QUERY_SQL without parameters.
pub fn query(bytes: &mut Vec<u8>, sql: &[u8]) {
    let params = ParamsBuf::default();
    let params = params.as_params();
    Request::QuerySql { db: 0, sql, params }.encode(bytes);
}
