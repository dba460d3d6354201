//! Random SQL on our server and in the `sqlite3` shell, which must agree on every row and message.
//!
//! C dqlite 1.11.1 cannot be asked about RETURNING, VACUUM or statements without rows that are sent
//! as queries; SQLite itself can. One connection sends a history as QUERY_SQL requests; the shell
//! reads the same statements from a script, one a line, with a line that prints a mark after each. Its
//! errors name the line.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use dq_wire::{PROTOCOL_V1, Response, ValueRef};

use super::expression::{Builder, literal};
use super::rng::Rng;
use super::schema::Schema;
use super::shrink::shrink;
use super::statement::{Dialect, Statements};
use crate::conformance::{Connection, Frame, Message, Names, Params, Received, Request, Text};

/// Longest wait for one answer.
const DEADLINE: Duration = Duration::from_secs(20);

/// Requests that are sent before their answers are read.
const PIPELINE: usize = 16;

/// What comes before the statements in the shell's script: what our connections have set. The
/// statements' lines are counted from there.
const PRELUDE: [&str; 4] = [
    ".mode quote",
    "pragma journal_mode=wal;",
    "pragma synchronous=off;",
    "pragma foreign_keys=on;",
];

/// What a statement did.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    /// It yielded these rows, maybe none.
    Rows(Vec<Vec<Cell>>),
    /// It failed with this message.
    Failed(String),
}

/// A value, as the shell shows it.
#[derive(Debug, Clone, PartialEq)]
enum Cell {
    /// As it is in SQL.
    Literal(String),
    /// A number with a fraction, which has more than one notation.
    Real(f64),
}

impl Outcome {
    fn agrees(&self, shell: &Outcome) -> bool {
        match (self, shell) {
            (Outcome::Rows(ours), Outcome::Rows(shell)) => {
                ours.len() == shell.len()
                    && ours.iter().zip(shell).all(|(ours, shell)| {
                        ours.len() == shell.len()
                            && ours
                                .iter()
                                .zip(shell)
                                .all(|(ours, shell)| ours.agrees(shell))
                    })
            }
            _ => self == shell,
        }
    }
}

impl Cell {
    /// The shell shows a real without a fraction as an integer at times.
    fn agrees(&self, shell: &Cell) -> bool {
        match (self, shell) {
            (Cell::Real(x), Cell::Literal(text)) => text.parse() == Ok(*x),
            _ => self == shell,
        }
    }
}

/// Draws a history of `length` statements from `seed`, runs it on the server at `address` and in the
/// shell, and compares. Returns how many statements both refused.
///
/// # Errors
/// The first difference, with what is left of the history after shrinking; or the server does not
/// answer, or the shell does not run.
pub fn compare(address: &str, seed: u64, length: usize) -> Result<usize, String> {
    let mut runs = 0;
    let mut run = |statements: &[String]| -> Result<Result<usize, String>, String> {
        runs += 1;
        let database = format!("shell-{seed}-{runs}");
        compare_once(address, &database, statements).map_err(|error| error.to_string())
    };
    let statements = generate(seed, length);
    match run(&statements)? {
        Ok(refused) => Ok(refused),
        Err(how) => {
            let (left, how) = shrink(statements, how, |fewer| Ok::<_, String>(run(fewer)?.err()))?;
            Err(format!("seed {seed}:\n{}\n{how}", left.join("\n")))
        }
    }
}

fn generate(seed: u64, length: usize) -> Vec<String> {
    let mut rng = Rng::new(seed);
    let mut statements = Statements {
        rng: &mut rng,
        schema: Schema::default(),
        dialect: Dialect {
            params_percent: 0,
            returning: true,
            vacuum: true,
            typed_columns: false,
        },
    };
    let mut in_transaction = false;
    let mut list = Vec::with_capacity(length);
    while list.len() < length {
        let sql = match statements.rng.below(100) {
            0..=6 => {
                in_transaction = !in_transaction;
                let (begin, end) = (
                    ["begin", "begin immediate"],
                    ["commit", "commit", "rollback"],
                );
                match in_transaction {
                    true => (*statements.rng.pick(&begin)).to_owned(),
                    false => (*statements.rng.pick(&end)).to_owned(),
                }
            }
            7 => (*statements
                .rng
                .pick(&["savepoint s", "release s", "rollback to s"]))
            .to_owned(),
            8..=13 => statements.definition().sql,
            14..=49 => statements.change().sql,
            50..=89 => statements.read().sql,
            90..=92 => "select changes(), last_insert_rowid(), total_changes()".to_owned(),
            93 => statements.set_pragma().sql,
            94 => statements.get_pragma().sql,
            95 => statements.mistake(false).sql,
            96 => statements.mistake(true).sql,
            _ => constant(&mut statements),
        };
        // A statement is a line of the script, and must end there.
        if sql.matches('\'').count() % 2 == 0 {
            list.push(sql.replace('\n', " "));
        }
    }
    list
}

/// A query of constant expressions.
fn constant(statements: &mut Statements<'_>) -> String {
    let mut builder = Builder {
        rng: statements.rng,
        params: Vec::new(),
        params_percent: 0,
    };
    let list: Vec<_> = (0..3).map(|_| builder.expression(&[], 3)).collect();
    format!("select {}", list.join(", "))
}

/// How many statements both refused, or the first on which they do not agree.
fn compare_once(
    address: &str,
    database: &str,
    statements: &[String],
) -> io::Result<Result<usize, String>> {
    let ours = on_server(address, database, statements)?;
    let shell = in_shell(statements)?;
    let first = ours
        .iter()
        .zip(&shell)
        .position(|(ours, shell)| !ours.agrees(shell));
    if let Some(at) = first {
        return Ok(Err(format!(
            "statement {}: {}\n  ours:  {:?}\n  shell: {:?}",
            at + 1,
            statements[at],
            ours[at],
            shell[at]
        )));
    }
    let refused = ours.iter().filter(|o| matches!(o, Outcome::Failed(_)));
    Ok(Ok(refused.count()))
}

fn on_server(address: &str, database: &str, statements: &[String]) -> io::Result<Vec<Outcome>> {
    let names = Names::default();
    let mut connection = Connection::open(address, Some(PROTOCOL_V1))?;
    let send = |connection: &mut Connection, request: Request| -> io::Result<()> {
        let mut bytes = Vec::new();
        Message::from(request).encode(&mut bytes, &names);
        connection.send(&bytes)
    };
    let open = Request::Open(Text::literal(database), 0, Text::default());
    send(&mut connection, open)?;
    receive(&mut connection)?;
    let mut outcomes = Vec::with_capacity(statements.len());
    for batch in statements.chunks(PIPELINE) {
        connection.cork();
        for sql in batch {
            let sql = Text::literal(sql.as_str());
            let query = Request::QuerySql(sql, Params::Values(Vec::new()));
            send(&mut connection, query)?;
        }
        connection.flush()?;
        for _ in batch {
            let mut rows = Vec::new();
            outcomes.push(loop {
                let frame = receive(&mut connection)?;
                if let Some(message) = take_rows(&frame, &mut rows)? {
                    break Outcome::Failed(message);
                }
                if !frame.is_part() {
                    break Outcome::Rows(rows);
                }
            });
        }
    }
    Ok(outcomes)
}

fn receive(connection: &mut Connection) -> io::Result<Frame> {
    match connection.receive(DEADLINE)? {
        Received::Frame(frame) => Ok(frame),
        other => Err(io::Error::other(format!("our server: {other:?}"))),
    }
}

/// Appends the rows of a message; the text of a FAILURE instead.
fn take_rows(frame: &Frame, rows: &mut Vec<Vec<Cell>>) -> io::Result<Option<String>> {
    match Response::decode(&frame.header, &frame.body).map_err(io::Error::other)? {
        Response::Rows(mut batch) => {
            let mut row = Vec::new();
            while batch.next_row(&mut row).map_err(io::Error::other)? {
                rows.push(row.iter().map(cell).collect());
            }
            Ok(None)
        }
        Response::Failure { message, .. } => {
            Ok(Some(String::from_utf8_lossy(message).into_owned()))
        }
        other => Err(io::Error::other(format!(
            "not an answer to a query: {other:?}"
        ))),
    }
}

fn cell(value: &ValueRef<'_>) -> Cell {
    use crate::conformance::Value;
    Cell::Literal(match value {
        ValueRef::Float(x) => return Cell::Real(*x),
        ValueRef::Integer(n) | ValueRef::UnixTime(n) => n.to_string(),
        ValueRef::Boolean(word) => (*word as i64).to_string(),
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Text(text) | ValueRef::Iso8601(text) => {
            literal(&Value::Text(Text::literal(*text)))
        }
        ValueRef::Blob(blob) => literal(&Value::Blob(Text::literal(*blob))).replacen('x', "X", 1),
    })
}

fn in_shell(statements: &[String]) -> io::Result<Vec<Outcome>> {
    let mut script = PRELUDE.join("\n");
    for at in 0..=statements.len() {
        script.push_str(&format!("\nselect 'mark', {at};\n"));
        if let Some(sql) = statements.get(at) {
            script.push_str(&format!("{sql};"));
        }
    }
    let dir = match crate::conformance::memory_dir() {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    let mut shell = Command::new("sqlite3")
        .arg("-batch")
        .arg(dir.path().join("db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = shell.stdin.take().expect("the shell's input is a pipe");
    // From a thread of its own, as the shell prints while it reads.
    let writer = thread::spawn(move || stdin.write_all(script.as_bytes()));
    let output = shell.wait_with_output()?;
    writer.join().expect("writing does not panic")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = errors(&String::from_utf8_lossy(&output.stderr));
    outcomes(&printed, &errors, statements.len())
        .ok_or_else(|| io::Error::other(format!("the shell does not print every mark:\n{printed}")))
}

/// Messages by line.
fn errors(printed: &str) -> BTreeMap<usize, String> {
    let mut errors = BTreeMap::new();
    for line in printed.lines() {
        // "Parse error near line 7: message" or "Runtime error near line 7: message (19)".
        let Some((kind, rest)) = line.split_once(" error near line ") else {
            continue;
        };
        let Some((number, message)) = rest.split_once(": ") else {
            continue;
        };
        let Ok(number) = number.parse() else {
            continue;
        };
        let message = match (kind, message.rsplit_once(" (")) {
            ("Runtime", Some((message, code))) if code.ends_with(')') => message,
            _ => message,
        };
        errors.insert(number, message.to_owned());
    }
    errors
}

/// What each of `count` statements did, from the lines between the marks. `None` if a mark is
/// missing.
fn outcomes(printed: &str, errors: &BTreeMap<usize, String>, count: usize) -> Option<Vec<Outcome>> {
    let mut lines = printed.lines();
    let mut outcomes = Vec::with_capacity(count);
    lines.find(|line| *line == "'mark',0")?;
    for at in 0..count {
        let mark = format!("'mark',{}", at + 1);
        let mut rows = Vec::new();
        loop {
            let line = lines.next()?;
            if line == mark {
                break;
            }
            rows.push(split_row(line));
        }
        // The mark before it is the first line after the prelude.
        let line = PRELUDE.len() + 2 * at + 2;
        outcomes.push(match errors.get(&line) {
            Some(message) => Outcome::Failed(message.clone()),
            None => Outcome::Rows(rows),
        });
    }
    Some(outcomes)
}

/// A line of the shell's quote mode.
fn split_row(line: &str) -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut start = 0;
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            ',' if !quoted => {
                cells.push(shown(&line[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    cells.push(shown(&line[start..]));
    cells
}

fn shown(text: &str) -> Cell {
    let is_real = text.starts_with(|c: char| c.is_ascii_digit() || c == '-')
        && text.contains(['.', 'e', 'E']);
    match text.parse() {
        Ok(real) if is_real => Cell::Real(real),
        _ => Cell::Literal(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_shell_is_split_outside_of_quotes() {
        let literal = |text: &str| Cell::Literal(text.to_owned());
        assert_eq!(
            split_row("1,'a,''b',NULL,-0.5,X'00',9.0e+20"),
            [
                literal("1"),
                literal("'a,''b'"),
                literal("NULL"),
                Cell::Real(-0.5),
                literal("X'00'"),
                Cell::Real(9e20)
            ]
        );
    }

    #[test]
    fn errors_belong_to_lines() {
        let errors = errors(
            "Parse error near line 6: near \"selct\": syntax error\n  selct 1\n  ^--- error here\n\
             Runtime error near line 8: UNIQUE constraint failed: t.id (19)\n",
        );
        assert_eq!(errors[&6], "near \"selct\": syntax error");
        assert_eq!(errors[&8], "UNIQUE constraint failed: t.id");
        let printed = "wal\n'mark',0\n'mark',1\n1\n2\n'mark',2\n";
        assert_eq!(
            outcomes(printed, &errors, 2),
            Some(vec![
                Outcome::Failed("near \"selct\": syntax error".to_owned()),
                Outcome::Failed("UNIQUE constraint failed: t.id".to_owned()),
            ])
        );
        assert_eq!(outcomes(printed, &errors, 3), None);
    }
}
