//! What was wanted against what came.

use std::fs;
use std::process::Command;

use dq_wire::header::response_type;
use dq_wire::response::{ServerAddress, ServerEntry};
use dq_wire::{Header, Response, RowsEncoder, RowsEnd};

use super::frame::{Frame, mask_blob_padding, show_frame};
use super::message::Value;
use super::script::Reply;
use super::text::{Names, Text};

/// Why a message is not the one that was wanted, for people.
#[derive(Debug, Clone)]
pub struct Mismatch {
    /// What was wanted.
    pub expected: String,
    /// What came.
    pub got: String,
}

/// Compares one message byte by byte, but for the padding of blobs and the content of files.
///
/// # Errors
/// They differ.
pub fn compare_reply(
    reply: &Reply,
    names: &Names,
    got: &Frame,
    legacy: bool,
) -> Result<(), Mismatch> {
    if let Reply::Files(files) = reply {
        return compare_files(files, names, got);
    }
    let expected = encode_reply(reply, names);
    let mut masked = got.clone();
    if got.header.kind == response_type::ROWS {
        // What cannot be read as rows is compared as it is.
        let _ = mask_blob_padding(&mut masked.body);
    }
    if masked.to_bytes() == expected.to_bytes() {
        return Ok(());
    }
    Err(Mismatch {
        expected: show_frame(&expected, matches!(reply, Reply::ServerLegacy(_))),
        got: show_frame(got, legacy),
    })
}

fn compare_files(files: &[(Text, usize)], names: &Names, got: &Frame) -> Result<(), Mismatch> {
    if let Ok(Response::Files { list }) = Response::decode(&got.header, &got.body)
        && list.len() == files.len()
        && list.iter().zip(files).all(|(file, (name, size))| {
            file.name == name.resolve(names) && file.data.len() == *size
        })
    {
        return Ok(());
    }
    Err(Mismatch {
        expected: files.iter().fold("FILES".to_owned(), |text, (name, size)| {
            format!("{text} {name} {size}")
        }),
        got: show_frame(got, false),
    })
}

/// Runs `sql` with the `sqlite3` shell on the files of a DUMP and compares what it prints.
///
/// # Errors
/// The message is none of files, the shell does not run, or its output differs.
pub(super) fn compare_dump(sql: &[u8], output: &[u8], got: &Frame) -> Result<(), Mismatch> {
    let mismatch = |got: String| Mismatch {
        expected: String::from_utf8_lossy(output).into_owned(),
        got,
    };
    let Ok(Response::Files { list }) = Response::decode(&got.header, &got.body) else {
        return Err(mismatch(show_frame(got, false)));
    };
    let run = || -> std::io::Result<String> {
        let dir = tempfile::tempdir()?;
        for (file, name) in list.iter().zip(["db", "db-wal"]) {
            fs::write(dir.path().join(name), file.data)?;
        }
        let ran = Command::new("sqlite3")
            .arg("-batch")
            .arg(dir.path().join("db"))
            .arg(String::from_utf8_lossy(sql).as_ref())
            .output()?;
        Ok(String::from_utf8_lossy(&ran.stdout).into_owned()
            + &String::from_utf8_lossy(&ran.stderr))
    };
    match run() {
        Ok(printed) if printed.as_bytes() == output => Ok(()),
        Ok(printed) => Err(mismatch(printed)),
        Err(error) => Err(mismatch(format!("sqlite3 does not run: {error}"))),
    }
}

fn encode_reply(reply: &Reply, names: &Names) -> Frame {
    let mut bytes = Vec::new();
    let mut put = |response: Response<'_>| response.encode(&mut bytes);
    match reply {
        Reply::Failure(code, message) => put(Response::Failure {
            code: *code,
            message: &message.resolve(names),
        }),
        Reply::Server(id, address) => put(Response::Server {
            id: *id,
            address: &address.resolve(names),
        }),
        Reply::ServerLegacy(address) => put(Response::ServerLegacy {
            address: &address.resolve(names),
        }),
        Reply::Welcome(ms) => put(Response::Welcome { heartbeat_ms: *ms }),
        Reply::Servers(list) => {
            let addresses: Vec<_> = list.iter().map(|(_, a, _)| a.resolve(names)).collect();
            let list = list
                .iter()
                .zip(&addresses)
                .map(|((id, _, role), address)| ServerEntry {
                    id: *id,
                    address,
                    role: *role,
                });
            put(Response::Servers {
                list: list.collect(),
            });
        }
        Reply::ServersV0(list) => {
            let addresses: Vec<_> = list.iter().map(|(_, a)| a.resolve(names)).collect();
            let list = list
                .iter()
                .zip(&addresses)
                .map(|((id, _), address)| ServerAddress { id: *id, address });
            put(Response::ServersV0 {
                list: list.collect(),
            });
        }
        Reply::Db(id) => put(Response::Db { id: *id }),
        Reply::Stmt(db, id, params, tail) => put(Response::Stmt {
            db: *db,
            id: *id,
            params: *params,
            tail: *tail,
        }),
        Reply::Result(last_insert_id, rows_affected) => put(Response::Result {
            last_insert_id: *last_insert_id,
            rows_affected: *rows_affected,
        }),
        Reply::Rows(columns, rows, end) => bytes = encode_rows(columns, rows, *end, names),
        Reply::Empty => put(Response::Empty),
        // Compared by names and sizes, see `compare_files`.
        Reply::Files(_) => put(Response::Files { list: Vec::new() }),
        Reply::Metadata(failure_domain, weight) => put(Response::Metadata {
            failure_domain: *failure_domain,
            weight: *weight,
        }),
    }
    let header = Header::decode(&bytes).expect("an encoded message has a header");
    Frame {
        header,
        body: bytes.split_off(Header::SIZE),
    }
}

fn encode_rows(columns: &[Text], rows: &[Vec<Value>], end: RowsEnd, names: &Names) -> Vec<u8> {
    let columns: Vec<_> = columns.iter().map(|column| column.resolve(names)).collect();
    let column_names: Vec<&[u8]> = columns.iter().map(Vec::as_slice).collect();
    let mut encoder = RowsEncoder::begin(Vec::new(), column_names);
    for row in rows {
        let row: Vec<_> = row.iter().map(|value| value.to_wire(names)).collect();
        let row: Vec<_> = row.iter().map(dq_wire::Value::as_value_ref).collect();
        encoder.push_row(&row);
    }
    encoder.finish(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(response: &Response<'_>) -> Frame {
        let mut bytes = Vec::new();
        response.encode(&mut bytes);
        let header = Header::decode(&bytes).expect("a header");
        Frame {
            header,
            body: bytes.split_off(Header::SIZE),
        }
    }

    #[test]
    fn another_number_is_a_mismatch_that_shows_both() {
        let got = frame(&Response::Result {
            last_insert_id: 1,
            rows_affected: 2,
        });
        let names = Names::default();
        assert!(compare_reply(&Reply::Result(1, 2), &names, &got, false).is_ok());
        let mismatch = compare_reply(&Reply::Result(1, 1), &names, &got, false)
            .expect_err("the counts differ");
        assert!(mismatch.expected.starts_with("RESULT 1 1\n"));
        assert!(mismatch.got.starts_with("RESULT 1 2\n"));
    }

    #[test]
    fn the_padding_of_a_blob_is_not_compared_but_the_blob_is() {
        let blob = Value::Blob(Text::literal(*b"\x01\x02\x03"));
        let wanted = Reply::Rows(vec![Text::literal("b")], vec![vec![blob]], RowsEnd::Done);
        let names = Names::default();
        let mut got = encode_reply(&wanted, &names);
        let end = got.body.len() - 8;
        got.body[end - 1] = 0x77;
        assert!(compare_reply(&wanted, &names, &got, false).is_ok());
        got.body[end - 6] = 0x77;
        assert!(compare_reply(&wanted, &names, &got, false).is_err());
    }

    #[test]
    fn the_header_is_compared_as_well() {
        let mut got = frame(&Response::Empty);
        got.header.extra = 1;
        assert!(compare_reply(&Reply::Empty, &Names::default(), &got, false).is_err());
    }
}
