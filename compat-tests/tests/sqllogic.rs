//! SQL through the server beside stock SQLite: the records of `slt/*.slt`, in sqllogictest's format.
//!
//! Each file is played twice: to stock SQLite on a file of its own, which shows that what the records
//! expect is SQLite's doing, and to our server through the wire. Values are written as literals (`1`,
//! `1.5`, `'text'`, `x'00'`, `NULL`), so a type that differs is a difference; errors are `code: text`,
//! and a statement's count is that of changed rows.
//!
//! `DQ_SLT_UPDATE=1` has stock SQLite write the results into the files anew.

#[path = "../../crates/dq-vfs/tests/common/mod.rs"]
mod common;
#[path = "../../crates/dq-vfs/tests/common/stock.rs"]
mod stock;

use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use common::Value;
use compat_tests::servers::{Kind, Options, Server};
use dq_client::{Config, Connection, MemStore, ValueRef};
use sqllogictest::{DB, DBOutput, DefaultColumnType, Runner};
use stock::Stock;

/// Files that may be there, at least: a folder that lost some would still pass.
const FILES_MIN: usize = 12;

/// Records of all files, at least.
const RECORDS_MIN: usize = 600;

fn files() -> Vec<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("slt");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("the files are there")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "slt"))
        .collect();
    files.sort();
    files
}

/// A failure of SQLite, as both sides tell it.
#[derive(Debug)]
struct SqlError {
    code: i32,
    message: String,
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for SqlError {}

type Output = Result<DBOutput<DefaultColumnType>, SqlError>;

fn output(columns: usize, rows: Vec<Vec<String>>) -> DBOutput<DefaultColumnType> {
    DBOutput::Rows {
        types: vec![DefaultColumnType::Any; columns],
        rows,
    }
}

/// Whether a statement is sent as a query: what begins with one of these, or returns what it changes.
fn yields_rows(sql: &str) -> bool {
    let upper = sql.trim_start().to_ascii_uppercase();
    let queries = ["SELECT", "WITH", "VALUES", "PRAGMA", "EXPLAIN"];
    let defines = upper.starts_with("CREATE");
    queries.iter().any(|word| upper.starts_with(word)) || (upper.contains("RETURNING") && !defines)
}

fn literal(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(i) | ValueRef::UnixTime(i) => i.to_string(),
        ValueRef::Boolean(b) => b.cast_signed().to_string(),
        ValueRef::Float(f) => format!("{f:?}"),
        ValueRef::Text(t) | ValueRef::Iso8601(t) => {
            format!("'{}'", String::from_utf8_lossy(t).escape_debug())
        }
        ValueRef::Blob(b) => {
            let hex: String = b.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("x'{hex}'")
        }
    }
}

/// A connection to our server.
struct Ours<'p>(Connection<'p>);

impl DB for Ours<'_> {
    type Error = SqlError;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Output {
        let told = |error: dq_client::Error| SqlError {
            code: error.sqlite_code().unwrap_or(-1),
            message: error.message().to_owned(),
        };
        if !yields_rows(sql) {
            let done = self.0.execute(sql, ()).map_err(told)?;
            return Ok(DBOutput::StatementComplete(done.rows_affected));
        }
        let mut rows = self.0.query(sql, ()).map_err(told)?;
        let columns = rows.columns().len();
        let mut lines = Vec::new();
        while let Some(row) = rows.next().map_err(told)? {
            let value = |i| literal(row.get_ref(i).expect("the column is there"));
            lines.push((0..columns).map(value).collect());
        }
        Ok(output(columns, lines))
    }
}

/// A connection to a file, through SQLite's own files and locks.
struct OnFile(Stock);

// SAFETY: SQLite is built with its mutexes, so a connection may move between threads; it is used by one
// at a time, as the type is not `Sync`.
unsafe impl Send for OnFile {}

impl DB for OnFile {
    type Error = SqlError;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Output {
        let rows = self.0.execute(sql).map_err(|error| SqlError {
            code: error.code,
            message: String::from_utf8_lossy(&error.message).into_owned(),
        })?;
        if !yields_rows(sql) {
            let changes = u64::try_from(self.0.changes()).expect("a count");
            return Ok(DBOutput::StatementComplete(changes));
        }
        let value = |value: &Value| {
            literal(match value {
                Value::Null => ValueRef::Null,
                Value::Integer(i) => ValueRef::Integer(*i),
                Value::Float(f) => ValueRef::Float(*f),
                Value::Text(t) => ValueRef::Text(t.as_bytes()),
                Value::Blob(b) => ValueRef::Blob(b),
            })
        };
        let lines: Vec<Vec<_>> = rows
            .iter()
            .map(|row| row.iter().map(value).collect())
            .collect();
        Ok(output(lines.first().map_or(0, Vec::len), lines))
    }
}

fn name_of(path: &std::path::Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

#[test]
fn stock_sqlite_does_what_the_records_say() {
    let files = files();
    assert!(files.len() >= FILES_MIN, "{} files", files.len());
    let update = std::env::var_os("DQ_SLT_UPDATE").is_some();
    let mut records = 0;
    for file in files {
        let dir = tempfile::tempdir().expect("a folder can be made");
        let path = dir.path().join("stock.db");
        let mut runner = Runner::new(|| {
            let path = path.clone();
            async move { Ok(OnFile(Stock::open(&path))) }
        });
        if update {
            let (normalize, validate, types) = (
                sqllogictest::default_normalizer,
                sqllogictest::default_validator,
                sqllogictest::default_column_validator,
            );
            let updated = pin!(runner.update_test_file(&file, " ", validate, normalize, types));
            // Nothing in it waits.
            match updated.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(done) => done.expect("the file is written"),
                Poll::Pending => panic!("a synchronous driver waits"),
            }
        } else if let Err(error) = runner.run_file(&file) {
            panic!("{error}");
        }
        let text = std::fs::read_to_string(&file).expect("it was read a moment ago");
        let is_record = |line: &&str| line.starts_with("statement ") || line.starts_with("query ");
        records += text.lines().filter(is_record).count();
    }
    println!("{records} records");
    assert!(records >= RECORDS_MIN, "{records} records");
}

#[test]
fn our_server_does_what_stock_sqlite_does() {
    if !Kind::Ours.available_or_skip() {
        return;
    }
    let server = Server::start(Kind::Ours, Options::default()).expect("a node starts");
    server.wait_leader(server.address()).expect("it leads");
    let mut failures = Vec::new();
    for file in files() {
        let pool = Config::new()
            .connect(MemStore::new([server.address()]), &name_of(&file))
            .expect("the server is there");
        let mut runner =
            Runner::new(|| async { Ok(Ours(pool.get().expect("the database opens"))) });
        if let Err(error) = runner.run_file(&file) {
            failures.push(error.to_string());
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
