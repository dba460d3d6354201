//! Rows: the result of a query, as it streams in.
//!
//! The server sends rows in batches of about a page. [`Rows`] holds one batch, decoded into cells
//! that point into the batch's bytes, and fetches the next when it has been used up; memory stays
//! that of one batch whatever the size of the result. The server steps its query only as fast as
//! batches are taken.
//!
//! **A query that changes something** (`INSERT … RETURNING`) is committed only at the end: rows seen
//! before [`Rows::next`] has returned `None` may still be undone.
//!
//! Dropped early, [`Rows`] sends INTERRUPT and skips what is left, so that the connection can be
//! used again. C servers do not stop an interrupted query; when more than a few megabytes come
//! after it, the connection is closed instead.

use std::sync::Arc;

use dq_wire::{Response, RowsEnd, ValueRef};

use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::session::Session;
use crate::value::FromValue;

/// How much of an abandoned result is skipped before the connection is closed.
const SKIP_MAX: usize = 4 << 20;

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    name: String,
}

impl Column {
    /// Its name as SQLite gives it: may be empty, and need not be unique. What is not UTF-8 in it
    /// is replaced.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The rows of a query. See the module.
#[derive(Debug)]
pub struct Rows<'s> {
    session: &'s mut Session,
    batch: Batch,
    /// Number of rows of the batch that have been returned.
    taken: usize,
    /// The server has more to say.
    streaming: bool,
}

impl<'s> Rows<'s> {
    /// The rows of a query that has been sent.
    pub(crate) fn begin(session: &'s mut Session) -> Result<Rows<'s>> {
        let mut batch = Batch::default();
        let streaming = receive(session, &mut batch)?;
        Ok(Rows {
            session,
            batch,
            taken: 0,
            streaming,
        })
    }

    /// The next row, or `None` after the last one.
    ///
    /// # Errors
    /// The query failed; no more rows come.
    #[allow(
        clippy::should_implement_trait,
        reason = "a row borrows from the batch"
    )]
    pub fn next(&mut self) -> Result<Option<Row<'_>>> {
        while self.taken == self.batch.rows {
            if !self.streaming {
                return Ok(None);
            }
            // After a failure there are no rows, and no more to come.
            (self.taken, self.batch.rows, self.streaming) = (0, 0, false);
            self.streaming = receive(self.session, &mut self.batch)?;
        }
        self.taken += 1;
        Ok(Some(Row {
            batch: &self.batch,
            index: self.taken - 1,
        }))
    }

    /// The columns of the result. Statements that yield no rows have none.
    pub fn columns(&self) -> &[Column] {
        &self.batch.columns
    }
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        if self.streaming {
            self.session.conn().cut_short(SKIP_MAX);
        }
    }
}

/// Waits for the next batch; false if it is the last.
fn receive(session: &mut Session, batch: &mut Batch) -> Result<bool> {
    const SQLITE_INTERRUPT: u64 = 9;
    let received = session.conn().receive().map(|reply| match reply.response {
        Response::Rows(rows) => batch.decode(rows),
        // Rows are expected, so this can only be the answer to an INTERRUPT.
        _ => Err(Error::failure(SQLITE_INTERRUPT, b"interrupted").with_outcome(Outcome::Unknown)),
    });
    match received {
        Ok(Ok(RowsEnd::Part)) => Ok(true),
        Ok(Ok(RowsEnd::Done)) => Ok(false),
        Ok(Err(error)) => {
            batch.rows = 0;
            if error.kind() == ErrorKind::Protocol {
                session.conn().mark_broken();
            }
            session.note_failure(&error);
            Err(error)
        }
        Err(error) => {
            session.note_failure(&error);
            Err(error)
        }
    }
}

/// One batch of rows: the body of a message and where the values are in it.
#[derive(Debug, Default)]
struct Batch {
    body: Vec<u8>,
    columns: Arc<[Column]>,
    cells: Vec<Cell>,
    rows: usize,
}

/// A value whose bytes, if it has any, are in the batch's body.
#[derive(Debug, Clone, Copy)]
enum Cell {
    Plain(ValueRef<'static>),
    Text(Span),
    Blob(Span),
    Iso8601(Span),
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    len: usize,
}

impl Span {
    /// Where `part` lies in `whole`, of which it is a part.
    fn of(part: &[u8], whole: &[u8]) -> Span {
        Span {
            start: part.as_ptr().addr() - whole.as_ptr().addr(),
            len: part.len(),
        }
    }

    fn get(self, whole: &[u8]) -> &[u8] {
        &whole[self.start..self.start + self.len]
    }
}

impl Batch {
    /// Replaces the batch by the one that a message carries.
    fn decode(&mut self, mut rows: dq_wire::Rows<'_>) -> Result<RowsEnd> {
        let body = rows.as_bytes();
        let names = rows.columns();
        let same = names.len() == self.columns.len()
            && names
                .iter()
                .zip(&*self.columns)
                .all(|(name, column)| *name == column.name.as_bytes());
        if !same {
            self.columns = names
                .iter()
                .map(|name| Column {
                    name: String::from_utf8_lossy(name).into_owned(),
                })
                .collect();
        }
        self.cells.clear();
        self.rows = 0;
        let mut row = Vec::with_capacity(self.columns.len());
        while rows.next_row(&mut row)? {
            self.rows += 1;
            self.cells.extend(row.iter().map(|&value| match value {
                ValueRef::Text(text) => Cell::Text(Span::of(text, body)),
                ValueRef::Blob(blob) => Cell::Blob(Span::of(blob, body)),
                ValueRef::Iso8601(text) => Cell::Iso8601(Span::of(text, body)),
                ValueRef::Integer(n) => Cell::Plain(ValueRef::Integer(n)),
                ValueRef::Float(x) => Cell::Plain(ValueRef::Float(x)),
                ValueRef::Null => Cell::Plain(ValueRef::Null),
                ValueRef::UnixTime(n) => Cell::Plain(ValueRef::UnixTime(n)),
                ValueRef::Boolean(word) => Cell::Plain(ValueRef::Boolean(word)),
            }));
        }
        self.body.clear();
        self.body.extend_from_slice(body);
        rows.end()
            .ok_or_else(|| Error::new(ErrorKind::Protocol, "rows without an end"))
    }

    fn value(&self, row: usize, column: usize) -> ValueRef<'_> {
        match self.cells[row * self.columns.len() + column] {
            Cell::Plain(value) => value,
            Cell::Text(span) => ValueRef::Text(span.get(&self.body)),
            Cell::Blob(span) => ValueRef::Blob(span.get(&self.body)),
            Cell::Iso8601(span) => ValueRef::Iso8601(span.get(&self.body)),
        }
    }
}

/// One row, valid until the next is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Row<'r> {
    batch: &'r Batch,
    index: usize,
}

impl<'r> Row<'r> {
    /// The columns of the result.
    pub fn columns(&self) -> &'r [Column] {
        &self.batch.columns
    }

    /// The value of a column, by index from 0 or by name (the first of that name).
    ///
    /// # Errors
    /// [`ErrorKind::Type`]: there is no such column, or its value does not fit `T`.
    pub fn get<T: FromValue>(&self, column: impl ColumnIndex) -> Result<T> {
        let index = column.index(self.columns())?;
        T::from_value(self.batch.value(self.index, index)).map_err(|error| {
            let name = self.columns()[index].name();
            // The statement itself has been carried out.
            Error::new(ErrorKind::Type, format!("column {index} ({name}): {error}"))
                .with_outcome(Outcome::Done)
        })
    }

    /// The value of a column as the server sent it.
    ///
    /// # Errors
    /// [`ErrorKind::Type`]: there is no such column.
    pub fn get_ref(&self, column: impl ColumnIndex) -> Result<ValueRef<'r>> {
        let index = column.index(self.columns())?;
        Ok(self.batch.value(self.index, index))
    }
}

/// What names a column: its index from 0, or its name.
pub trait ColumnIndex {
    /// The index of the column.
    ///
    /// # Errors
    /// [`ErrorKind::Type`]: there is none.
    fn index(&self, columns: &[Column]) -> Result<usize>;
}

impl ColumnIndex for usize {
    fn index(&self, columns: &[Column]) -> Result<usize> {
        if *self < columns.len() {
            return Ok(*self);
        }
        let message = format!("no column {self}: the result has {}", columns.len());
        Err(Error::new(ErrorKind::Type, message).with_outcome(Outcome::Done))
    }
}

impl ColumnIndex for &str {
    fn index(&self, columns: &[Column]) -> Result<usize> {
        columns
            .iter()
            .position(|column| column.name == *self)
            .ok_or_else(|| {
                Error::new(ErrorKind::Type, format!("no column {self:?}"))
                    .with_outcome(Outcome::Done)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;
    use dq_wire::RowsEncoder;

    fn batch(rows: &[[ValueRef<'_>; 3]], end: RowsEnd) -> (Batch, RowsEnd) {
        let names = [&b"a"[..], b"b", b"a"];
        let mut encoder = RowsEncoder::begin(Vec::new(), names);
        for row in rows {
            encoder.push_row(row);
        }
        let message = encoder.finish(end);
        let mut batch = Batch::default();
        let end = batch
            .decode(dq_wire::Rows::decode(&message[8..]).expect("columns"))
            .expect("rows and an end");
        (batch, end)
    }

    #[test]
    fn values_are_found_by_index_and_by_name() {
        let (batch, end) = batch(
            &[
                [ValueRef::Integer(1), ValueRef::Text(b"one"), ValueRef::Null],
                [
                    ValueRef::Boolean(1),
                    ValueRef::Blob(b"\x00"),
                    ValueRef::Iso8601(b"2020"),
                ],
            ],
            RowsEnd::Done,
        );
        assert_eq!(end, RowsEnd::Done);
        assert_eq!(batch.rows, 2);
        let first = Row {
            batch: &batch,
            index: 0,
        };
        assert_eq!(first.get::<i64>(0).unwrap(), 1);
        assert_eq!(
            first.get::<i64>("a").unwrap(),
            1,
            "the first of two columns with that name"
        );
        assert_eq!(first.get::<String>("b").unwrap(), "one");
        assert_eq!(first.get_ref(2).unwrap(), ValueRef::Null);
        let second = Row {
            batch: &batch,
            index: 1,
        };
        assert!(second.get::<bool>(0).unwrap());
        assert_eq!(second.get::<Vec<u8>>(1).unwrap(), [0]);
        assert_eq!(
            second.get::<Value>(2).unwrap(),
            Value::Iso8601("2020".to_owned())
        );
    }

    #[test]
    fn a_missing_column_and_a_wrong_type_are_type_errors() {
        let (batch, _) = batch(
            &[[ValueRef::Null, ValueRef::Null, ValueRef::Null]],
            RowsEnd::Part,
        );
        let row = Row {
            batch: &batch,
            index: 0,
        };
        for error in [
            row.get::<i64>("c").unwrap_err(),
            row.get::<i64>(3).unwrap_err(),
            row.get::<i64>(0).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Type);
            assert_eq!(error.outcome(), Outcome::Done);
        }
    }
}
