//! `dq-server import`: a file of SQLite's into a new database of a running cluster.
//!
//! Clients can send nothing but SQL, so the file is read table by table and sent as INSERTs; all of it in
//! one transaction, which is there as a whole or not at all. Tables come first, with their rows, then
//! what would slow those down or fire on them: indices, views, triggers.
//!
//! Virtual tables (full text, R-trees) keep their data in tables of their own. Creating one makes these
//! anew, and they then get the file's rows.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dq_client::{MemStore, Outcome, Session, TxMode, Value};
use dq_vfs::{ColumnRef, Db, Step, Stmt, Vfs};

use crate::tls::Tls;

/// Parameters of a statement: C dqlite before 1.14 takes no more than 255.
const PARAMS_MAX: usize = 250;

/// Bytes of rows that are sent at once, unless one row alone has more.
const BATCH_BYTES: usize = 1 << 20;

/// Bytes of one row; a node takes requests of 64 MiB.
const ROW_BYTES_MAX: usize = 63 << 20;

/// How long the cluster may give no sign of life; the COMMIT of much data takes a while.
const PATIENCE: Duration = Duration::from_secs(600);

/// SQLITE_FULL.
const FULL: i32 = 13;

/// C dqlite (1.11.1 at least) fails with code 522 once a transaction has more pages than SQLite's cache.
const CACHE: &str = "PRAGMA cache_size=-65536";

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Members of the cluster, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    server: Vec<String>,
    /// Name of the database; it must have no tables yet.
    #[arg(long)]
    database: String,
    /// The file to load. Nobody may write to it meanwhile.
    file: PathBuf,
    #[command(flatten)]
    tls: Tls,
}

/// A table of the file.
struct Table {
    name: String,
    sql: String,
    kind: Kind,
    without_rowid: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Virtual,
    /// Where a virtual table has its data.
    Shadow,
}

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

impl Import {
    pub(crate) fn run(&self) -> Result<()> {
        let vfs = Vfs::register()?;
        let path = self.file.display();
        let mut source =
            Source(Db::open_file(&vfs, &self.file).map_err(|error| format!("{path}: {error}"))?);
        let in_file = |error: Box<dyn Error>| format!("{path}: {error}");
        // What is read is of one moment, should somebody write all the same.
        source.run("BEGIN").map_err(in_file)?;
        let tables = source.tables().map_err(in_file)?;

        let pool = self
            .tls
            .client()?
            .request_timeout(Some(PATIENCE))
            .connect(MemStore::new(self.server.iter().cloned()), &self.database)?;
        let mut session = pool.get()?;
        // As SQLite's own dumps do: rows come before those that they refer to.
        session.execute("PRAGMA foreign_keys=OFF", ())?;
        session.execute(CACHE, ())?;
        let mut transaction = session.begin(TxMode::Immediate)?;
        let count = "SELECT count(*) FROM sqlite_schema";
        if transaction.query_row(count, (), |row| row.get::<i64>(0))? != Some(0) {
            return Err(format!("database {:?} is not empty", self.database).into());
        }
        let rows = load(&mut source, &tables, &mut transaction)
            .map_err(|error| format!("{error}; nothing was loaded"))?;
        transaction
            .commit()
            .map_err(|error| match error.outcome() {
                Outcome::NotDone => format!("{error}{}; nothing was loaded", hint(&error)),
                _ => format!("{error}; look whether the database has tables: if so, it has all"),
            })?;
        let made = tables.iter().filter(|table| table.kind != Kind::Shadow);
        let made = made.count();
        writeln!(
            io::stdout(),
            "{}: {made} tables, {rows} rows",
            self.database
        )?;
        Ok(())
    }
}

impl Table {
    /// What went wrong, and with which table.
    fn said(&self, error: &(dyn Error + 'static)) -> String {
        format!("table {}: {error}{}", self.name, hint(error))
    }
}

/// What to think of where the error does not say so itself.
fn hint(error: &(dyn Error + 'static)) -> &'static str {
    match error.downcast_ref().and_then(dq_client::Error::sqlite_code) {
        Some(FULL) => " (a transaction may change 256 MiB of pages; or a node's disk is full)",
        _ => "",
    }
}

/// Carries everything over; the number of rows.
fn load(source: &mut Source, tables: &[Table], target: &mut Session) -> Result<u64> {
    let mut rows = 0;
    for table in tables {
        if table.kind != Kind::Shadow {
            let made = target.execute(&table.sql, ());
            made.map_err(|error| table.said(&error))?;
        }
    }
    for table in tables {
        if table.kind == Kind::Shadow {
            target.execute(&format!("DELETE FROM {}", quoted(&table.name)), ())?;
        }
        if table.kind != Kind::Virtual {
            rows += load_rows(source, table, target).map_err(|error| table.said(&*error))?;
        }
    }
    // The highest row ids that were ever used, and what ANALYZE has found.
    for (name, prepare) in [
        ("sqlite_sequence", "DELETE FROM sqlite_sequence"),
        ("sqlite_stat1", "ANALYZE sqlite_schema"),
    ] {
        let exists = format!("SELECT 1 FROM sqlite_schema WHERE name = '{name}'");
        if !source.texts(&exists)?.is_empty() {
            target.execute(prepare, ())?;
            let table = Table {
                name: name.to_owned(),
                sql: String::new(),
                kind: Kind::Plain,
                without_rowid: false,
            };
            load_rows(source, &table, target)?;
        }
    }
    let others = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND type <> 'table' \
                  ORDER BY rowid";
    for row in source.texts(others)? {
        let sql = &row[0];
        let made = target.execute(sql, ());
        made.map_err(|error| format!("{error}: {sql}"))?;
    }
    for pragma in ["user_version", "application_id"] {
        if let Some(row) = source.texts(&format!("PRAGMA {pragma}"))?.first() {
            target.execute(&format!("PRAGMA {pragma}={}", row[0]), ())?;
        }
    }
    Ok(rows)
}

/// Carries a table's rows over; their number.
fn load_rows(source: &mut Source, table: &Table, target: &mut Session) -> Result<u64> {
    let columns = source.columns(table)?;
    let list = columns.join(",");
    let name = quoted(&table.name);
    let mut rows = source.prepare(&format!("SELECT {list} FROM {name}"))?;
    let mut batch = Batch {
        head: format!("INSERT INTO {name}({list}) VALUES "),
        ..Batch::default()
    };
    let mut count = 0;
    while rows.step()? == Step::Row {
        count += 1;
        let size = (0..columns.len()).map(|index| rows.column_size(index));
        let size: usize = size.sum();
        if size > ROW_BYTES_MAX {
            return Err(format!("row {count} has {size} bytes, more than a request may").into());
        }
        if !batch.has_room(columns.len(), size) {
            batch.send(target)?;
        }
        batch.add(&rows, columns.len(), size);
    }
    batch.send(target)?;
    Ok(count)
}

/// Rows that are sent with one statement.
#[derive(Default)]
struct Batch {
    head: String,
    places: String,
    values: Vec<Value>,
    bytes: usize,
}

impl Batch {
    fn has_room(&self, columns: usize, size: usize) -> bool {
        self.values.is_empty()
            || self.values.len() + columns <= PARAMS_MAX && self.bytes + size <= BATCH_BYTES
    }

    fn add(&mut self, row: &Stmt, columns: usize, size: usize) {
        self.places
            .push_str(if self.places.is_empty() { "(" } else { ",(" });
        for index in 0..columns {
            let (place, value) = match row.column(index) {
                ColumnRef::Null => ("?", Value::Null),
                ColumnRef::Integer(number) => ("?", Value::Integer(number)),
                ColumnRef::Float(number) => ("?", Value::Real(number)),
                ColumnRef::Blob(bytes) => ("?", Value::Blob(bytes.to_vec())),
                ColumnRef::Text(text) => match std::str::from_utf8(text) {
                    Ok(text) if !text.contains('\0') => ("?", Value::Text(text.to_owned())),
                    // The protocol's texts end at the first zero; SQLite's need not.
                    _ => ("CAST(? AS TEXT)", Value::Blob(text.to_vec())),
                },
            };
            self.places.push_str(if index > 0 { "," } else { "" });
            self.places.push_str(place);
            self.values.push(value);
        }
        self.places.push(')');
        self.bytes += size;
    }

    fn send(&mut self, target: &mut Session) -> Result<()> {
        if !self.values.is_empty() {
            let sql = format!("{}{}", self.head, self.places);
            target.execute(&sql, &self.values)?;
        }
        self.places.clear();
        self.values.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// The file.
struct Source(Db);

impl Source {
    fn prepare(&mut self, sql: &str) -> Result<Stmt> {
        let prepared = self.0.prepare(sql.as_bytes())?;
        Ok(prepared.stmt.ok_or("an empty statement")?)
    }

    fn run(&mut self, sql: &str) -> Result<()> {
        let mut stmt = self.prepare(sql)?;
        while stmt.step()? == Step::Row {}
        Ok(())
    }

    /// The rows of a query as texts; NULL is an empty one.
    fn texts(&mut self, sql: &str) -> Result<Vec<Vec<String>>> {
        let mut stmt = self.prepare(sql)?;
        let mut rows = Vec::new();
        while stmt.step()? == Step::Row {
            let column = |index| match stmt.column(index) {
                ColumnRef::Text(text) | ColumnRef::Blob(text) => {
                    Ok(String::from_utf8(text.to_vec())?)
                }
                ColumnRef::Integer(number) => Ok(number.to_string()),
                ColumnRef::Float(number) => Ok(number.to_string()),
                ColumnRef::Null => Ok(String::new()),
            };
            let row: Result<Vec<String>> = (0..stmt.column_count()).map(column).collect();
            rows.push(row?);
        }
        Ok(rows)
    }

    fn tables(&mut self) -> Result<Vec<Table>> {
        let sql = "SELECT s.name, s.sql, l.type, l.wr FROM sqlite_schema s \
                   JOIN pragma_table_list l ON l.schema = 'main' AND l.name = s.name \
                   WHERE s.type = 'table' AND s.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                   ORDER BY s.rowid";
        let mut tables = Vec::new();
        for row in self.texts(sql)? {
            let [name, sql, kind, without_rowid] = <[String; 4]>::try_from(row)
                .map_err(|_| "SQLite answers with other columns than it was asked for")?;
            tables.push(Table {
                name,
                sql,
                kind: match kind.as_str() {
                    "virtual" => Kind::Virtual,
                    "shadow" => Kind::Shadow,
                    _ => Kind::Plain,
                },
                without_rowid: without_rowid == "1",
            });
        }
        Ok(tables)
    }

    /// The columns of a table that are stored, quoted; with the row id, if that is none of them.
    fn columns(&mut self, table: &Table) -> Result<Vec<String>> {
        let name = table.name.replace('\'', "''");
        let sql = format!("SELECT name, type, pk, hidden FROM pragma_table_xinfo('{name}')");
        let rows = self.texts(&sql)?;
        let keys = rows.iter().filter(|row| row[2] != "0").count();
        let is_row_id = |row: &Vec<String>| {
            keys == 1 && row[2] != "0" && row[1].eq_ignore_ascii_case("INTEGER")
        };
        let mut columns = Vec::new();
        if !table.without_rowid && !rows.iter().any(is_row_id) {
            let free = ["rowid", "_rowid_", "oid"]
                .into_iter()
                .find(|name| !rows.iter().any(|row| row[0].eq_ignore_ascii_case(name)));
            columns.extend(free.map(str::to_owned));
        }
        let stored = rows.iter().filter(|row| row[3] == "0");
        columns.extend(stored.map(|row| quoted(&row[0])));
        Ok(columns)
    }
}

/// A name as SQL has it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
