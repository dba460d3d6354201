//! Executes statements: one [`Job`] in, one [`Outcome`] out.
//!
//! A job owns everything that it touches (the client's SQLite connection and statements travel in
//! it), so it runs on whatever thread is cheapest and needs no lock:
//!
//! ```text
//!            dispatch                  run                    finished
//!   node ───────────────▶ Job ───────────────────▶ Outcome ─────────────▶ node
//!          pin, slot           inline, on the loop           captured pages,
//!                              or on a SQL worker            rows, an error
//! ```
//!
//! Invariants:
//!
//! - The node chooses the versions to pin before the job runs; execution is a function of those,
//!   the handle, the SQL and the parameters.
//! - A job never publishes. What it committed comes back as captured pages; the node decides.
//! - A statement that may write steps only with the write slot. Without it the job returns
//!   [`Outcome::NeedSlot`] with nothing done, and is dispatched again when the slot is free.
//! - Inline, a step budget bounds the time that the loop lends: over it the statement is undone
//!   and the job returns [`Outcome::Elsewhere`], to be run afresh by a worker. That is possible only
//!   while nothing can be lost: in autocommit, or for a statement that only reads.
//! - At most one statement per job commits: after it the job returns [`Outcome::Yield`], so that the
//!   node can make a version of it before the next one runs on top.
//!
//! Not here: queueing, timeouts, replication, and when an answer may leave.

use dq_vfs::{BindRef, Capture, ColumnRef, Db, Grant, Step, Stmt, TxnState, Version, Write};
use dq_wire::{ParamsBuf, RowsEncoder, RowsEnd, ValueRef};

use crate::sql::{self, SqlText};

/// Rows are sent in messages that end once they have reached this many bytes, as C dqlite does
/// (the operating system's page size there).
const ROWS_MESSAGE_BYTES: usize = 4096;

/// Rows messages that one job makes before it hands them over, so that a slow reader holds little.
const ROWS_JOB_BYTES: usize = 64 * 1024;

/// Rows of a statement that also writes are kept back up to this size, so that nothing is sent
/// before the change is committed.
const RETURNING_BYTES: usize = 1024 * 1024;

/// Statements of a text that one job runs, at most: each has a budget of its own.
const STATEMENTS_PER_JOB: u32 = 16;

/// Longest row that is sent, in bytes of its values. Single values are bounded by SQLite, but a row
/// may have thousands of them.
const ROW_BYTES_MAX: usize = 1 << 31;

/// SQL texts above this size are parsed by a worker: parsing has no step budget.
const INLINE_TEXT_BYTES: usize = 64 * 1024;

/// SQLite virtual machine steps that a statement may take on the event loop: well under a
/// millisecond.
pub const INLINE_STEPS: u64 = 20_000;

/// What a prepared statement takes beside its text, at the least, bytes.
const STATEMENT_BYTES: usize = 2048;

/// A client's open database: the SQLite connection and its prepared statements.
#[derive(Debug)]
pub struct Handle {
    db: Db,
    statements: Vec<Option<Prepared>>,
    /// What they take, about, bytes.
    bytes: usize,
}

#[derive(Debug)]
struct Prepared {
    stmt: Stmt,
    /// Went over the budget once, or is of a kind that does: goes to a worker directly.
    slow: bool,
    /// Wanted to write, whatever `sqlite3_stmt_readonly` says of it: PRAGMA optimize does.
    wrote: bool,
}

impl Prepared {
    fn new(stmt: Stmt) -> Prepared {
        let slow = sql::is_heavy(stmt.sql());
        Prepared {
            stmt,
            slow,
            wrote: false,
        }
    }

    /// What it takes in memory, about: SQLite's program grows with the text.
    fn bytes(&self) -> usize {
        STATEMENT_BYTES + self.stmt.sql().len()
    }

    /// Whether it may write.
    fn writes(&self) -> bool {
        self.wrote || !self.stmt.readonly()
    }
}

impl Handle {
    /// A handle with no statements.
    pub fn new(db: Db) -> Handle {
        Handle {
            db,
            statements: Vec::new(),
            bytes: 0,
        }
    }

    /// The SQLite connection.
    pub fn db(&mut self) -> &mut Db {
        &mut self.db
    }

    /// Transaction state of the main database.
    pub fn txn_state(&self) -> TxnState {
        self.db.txn_state()
    }

    /// True when no explicit transaction is open.
    pub fn autocommit(&self) -> bool {
        self.db.autocommit()
    }

    /// Whether a prepared statement has this id.
    pub fn has_statement(&self, id: u32) -> bool {
        self.statement(id).is_some()
    }

    /// Drops a prepared statement; false if there is none with this id.
    pub fn finalize(&mut self, id: u32) -> bool {
        usize::try_from(id)
            .ok()
            .and_then(|i| self.statements.get_mut(i))
            .and_then(Option::take)
            .inspect(|prepared| self.bytes -= prepared.bytes())
            .is_some()
    }

    /// What the prepared statements take, about, bytes.
    pub fn statement_bytes(&self) -> usize {
        self.bytes
    }

    fn statement(&self, id: u32) -> Option<&Prepared> {
        self.statements.get(usize::try_from(id).ok()?)?.as_ref()
    }

    /// Gives the statement the lowest free id.
    fn insert(&mut self, prepared: Prepared) -> u32 {
        self.bytes += prepared.bytes();
        let free = self.statements.iter().position(Option::is_none);
        let id = free.unwrap_or_else(|| {
            self.statements.push(None);
            self.statements.len() - 1
        });
        self.statements[id] = Some(prepared);
        u32::try_from(id).expect("fewer than 2^32 statements fit in memory")
    }
}

/// What a job is to do. It carries the progress made so far, so that the same value is dispatched
/// again until the request is done.
#[derive(Debug)]
pub enum Work {
    /// PREPARE: `tail` is true for schema 1, where text after the statement is allowed.
    Prepare {
        /// The text.
        sql: SqlText,
        /// Report the tail's offset rather than refuse a tail.
        tail: bool,
    },
    /// EXEC_SQL: statements are run one after the other.
    ExecText(Text),
    /// EXEC of a prepared statement.
    Exec(Call),
    /// QUERY_SQL: a single statement.
    QueryText(Text),
    /// QUERY of a prepared statement.
    Query(Call),
}

impl Work {
    /// Whether the statement that is next is known to be too long for the event loop.
    pub fn next_is_slow(&self, handle: &Handle) -> bool {
        match self {
            Work::Prepare { .. } => false,
            Work::ExecText(text) | Work::QueryText(text) => {
                text.current.as_ref().is_some_and(|prepared| prepared.slow)
            }
            Work::Exec(call) | Work::Query(call) => handle
                .statement(call.id)
                .is_some_and(|prepared| prepared.slow),
        }
    }

    /// Whether so much text is left to parse that it would hold up the event loop.
    pub fn is_large(&self) -> bool {
        let left = match self {
            Work::Prepare { sql, .. } => sql.left(0),
            Work::ExecText(text) | Work::QueryText(text) if text.current.is_none() => {
                text.sql.left(text.offset)
            }
            _ => 0,
        };
        left > INLINE_TEXT_BYTES
    }

    /// Gives the work up: a statement in mid-stream is reset.
    pub fn cancel(self, handle: &mut Handle) {
        if let Work::Exec(call) | Work::Query(call) = self
            && let Some(prepared) = lookup(&mut handle.statements, call.id)
        {
            prepared.stmt.reset();
            prepared.stmt.clear_bindings();
        }
    }
}

/// Progress through the text of an EXEC_SQL or QUERY_SQL.
#[derive(Debug)]
pub struct Text {
    sql: SqlText,
    offset: usize,
    params: ParamsBuf,
    current: Option<Prepared>,
    rows: Rows,
}

impl Text {
    /// A text of which nothing has run.
    pub fn new(sql: SqlText, params: ParamsBuf) -> Text {
        Text {
            sql,
            offset: 0,
            params,
            current: None,
            rows: Rows::default(),
        }
    }
}

/// Progress of an EXEC or QUERY of a prepared statement.
#[derive(Debug)]
pub struct Call {
    id: u32,
    params: ParamsBuf,
    bound: bool,
    rows: Rows,
}

impl Call {
    /// A call that has not begun.
    pub fn new(id: u32, params: ParamsBuf) -> Call {
        Call {
            id,
            params,
            bound: false,
            rows: Rows::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Rows {
    /// The statement is in mid-stream: a job goes on with it rather than begin it.
    streaming: bool,
    classes: Vec<ColumnClass>,
}

/// A job: the work, the connection that it runs on and what the node grants it.
#[derive(Debug)]
pub struct Job {
    /// Serial number of the client's session.
    pub session: u64,
    /// The connection and its statements.
    pub handle: Box<Handle>,
    /// What to do, with the progress made.
    pub work: Work,
    /// What a read outside an explicit transaction pins.
    pub read_pin: Version,
    /// What a write, and the first read of an explicit transaction, pins.
    pub head: Version,
    /// The client holds the write slot, at least until the job is back.
    pub slot: bool,
    /// Code with which a commit is refused, while leadership is being handed over.
    pub refuse: Option<i32>,
    /// On the event loop, within the step budget; else on a worker, without.
    pub inline: bool,
    /// How NULL is sent from a column whose declared type gives its values types of their own.
    pub typed_null: TypedNull,
}

/// How NULL is sent from a column declared BOOLEAN, DATE, DATETIME or TIMESTAMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypedNull {
    /// As false or as an empty date: what C dqlite 1.18.6 does.
    Default,
    /// As NULL.
    Null,
}

impl TypedNull {
    /// What the node's setting asks for.
    pub fn from_setting(null_in_typed_columns: bool) -> TypedNull {
        match null_in_typed_columns {
            true => TypedNull::Null,
            false => TypedNull::Default,
        }
    }
}

/// What became of a job.
#[derive(Debug)]
pub enum Outcome {
    /// The next statement may write: dispatch again with the slot.
    NeedSlot,
    /// Too long for the event loop, nothing done: dispatch again to a worker. `writes` tells
    /// whether the statement needs the slot.
    Elsewhere {
        /// The statement may write.
        writes: bool,
    },
    /// A statement of the text is done and more follow.
    Yield,
    /// EXEC or EXEC_SQL is done; the counters of the connection.
    Executed {
        /// `sqlite3_last_insert_rowid`.
        last_insert_id: u64,
        /// `sqlite3_changes`.
        rows_affected: u64,
    },
    /// PREPARE is done.
    Prepared {
        /// The statement's id.
        id: u32,
        /// Highest parameter index.
        params: u64,
        /// Offset of the text's rest, if it was asked for.
        tail: Option<u64>,
    },
    /// Complete ROWS messages; `done` when the last of them says so.
    Rows {
        /// The messages.
        messages: Vec<u8>,
        /// No rows follow.
        done: bool,
    },
    /// The request failed.
    Failed {
        /// Complete ROWS messages that come before the failure.
        messages: Vec<u8>,
        /// Result code, extended.
        code: u64,
        /// Text for the client.
        message: Vec<u8>,
    },
}

impl Outcome {
    fn failed(code: u64, message: &str) -> Outcome {
        Outcome::Failed {
            messages: Vec::new(),
            code,
            message: message.as_bytes().to_vec(),
        }
    }

    fn sqlite(error: dq_vfs::Error) -> Outcome {
        Outcome::Failed {
            messages: Vec::new(),
            code: u64::from(error.code.unsigned_abs()),
            message: error.message,
        }
    }
}

/// A job that has run.
#[derive(Debug)]
pub struct Finished {
    /// Serial number of the client's session.
    pub session: u64,
    /// The connection and its statements, back.
    pub handle: Box<Handle>,
    /// The work with its progress.
    pub work: Work,
    /// What became of it.
    pub outcome: Outcome,
    /// What it committed locally, in order.
    pub captures: Vec<Capture>,
    /// Highest version number that it pinned; 0 when it pinned none.
    pub pinned: u64,
}

/// Runs a job on the calling thread.
pub fn run(job: Job) -> Finished {
    let Job {
        session,
        mut handle,
        mut work,
        read_pin,
        head,
        slot,
        refuse,
        inline,
        typed_null,
    } = job;
    let mut run = Run {
        read_pin,
        head,
        slot,
        refuse,
        inline,
        typed_null,
        pinned: 0,
        captures: Vec::new(),
    };
    let outcome = match &mut work {
        Work::Prepare { sql, tail } => run.prepare(&mut handle, sql, *tail),
        Work::ExecText(text) => run.exec_text(&mut handle, text),
        Work::Exec(call) => run.exec(&mut handle, call),
        Work::QueryText(text) => run.query_text(&mut handle, text),
        Work::Query(call) => run.query(&mut handle, call),
    };
    handle.db.set_budget(None);
    let mut captures = run.captures;
    captures.append(&mut handle.db.take_captures());
    let pinned = handle.db.pinned().unwrap_or(0).max(run.pinned);
    Finished {
        session,
        handle,
        work,
        outcome,
        captures,
        pinned,
    }
}

/// What the node granted, while a job runs.
struct Run {
    read_pin: Version,
    head: Version,
    slot: bool,
    refuse: Option<i32>,
    inline: bool,
    typed_null: TypedNull,
    pinned: u64,
    captures: Vec<Capture>,
}

/// How a statement came out of [`Run::step`].
enum Stepped {
    Row,
    Done,
    Stop(Outcome),
}

impl Run {
    /// Tells SQLite what to pin and whether it may write. In a transaction the pin stays; outside
    /// it moves to head for what may write and for the first read of an explicit transaction.
    fn grant(&mut self, db: &mut Db, writes: bool) {
        let on_head = writes || !db.autocommit();
        let pin = if on_head {
            self.head.clone()
        } else {
            self.read_pin.clone()
        };
        self.pinned = self.pinned.max(pin.number());
        let write = match (self.slot && on_head, self.refuse) {
            (true, Some(code)) => Write::Refuse { code },
            (true, None) => Write::Slot {
                head: self.head.number(),
            },
            (false, _) => Write::None,
        };
        db.grant(Grant { pin, write });
    }

    fn prepare(&mut self, handle: &mut Handle, sql: &SqlText, want_tail: bool) -> Outcome {
        self.grant(&mut handle.db, false);
        let prepared = match handle.db.prepare(sql.rest(0)) {
            Ok(prepared) => prepared,
            Err(error) => return Outcome::sqlite(error),
        };
        let Some(stmt) = prepared.stmt else {
            return Outcome::failed(0, "empty statement");
        };
        if !want_tail && !is_blank(&mut handle.db, sql.rest(prepared.tail)) {
            return Outcome::failed(1, "nonempty statement tail");
        }
        let params = stmt.param_count() as u64;
        let id = handle.insert(Prepared::new(stmt));
        Outcome::Prepared {
            id,
            params,
            tail: want_tail.then_some(prepared.tail as u64),
        }
    }

    fn exec_text(&mut self, handle: &mut Handle, text: &mut Text) -> Outcome {
        let mut statements = 0;
        loop {
            if text.current.is_none() {
                let rest = text.sql.rest(text.offset);
                if sql::is_trivially_blank(rest) {
                    return executed(&handle.db);
                }
                self.grant(&mut handle.db, false);
                let prepared = match handle.db.prepare(rest) {
                    Ok(prepared) => prepared,
                    Err(error) => return Outcome::sqlite(error),
                };
                text.offset += prepared.tail;
                let Some(mut stmt) = prepared.stmt else {
                    return executed(&handle.db);
                };
                if bind(&mut stmt, &mut text.params).is_err() {
                    return Outcome::failed(1, "bind parameters");
                }
                text.current = Some(Prepared::new(stmt));
            }
            let Some(current) = &mut text.current else {
                return executed(&handle.db);
            };
            match self.run_to_end(&mut handle.db, current) {
                Stepped::Stop(outcome @ (Outcome::NeedSlot | Outcome::Elsewhere { .. })) => {
                    return outcome;
                }
                Stepped::Stop(outcome) => {
                    text.current = None;
                    return outcome;
                }
                Stepped::Row | Stepped::Done => text.current = None,
            }
            if sql::is_trivially_blank(text.sql.rest(text.offset)) {
                return executed(&handle.db);
            }
            self.captures.append(&mut handle.db.take_captures());
            statements += 1;
            if !self.captures.is_empty() || !self.inline || statements >= STATEMENTS_PER_JOB {
                return Outcome::Yield;
            }
        }
    }

    fn exec(&mut self, handle: &mut Handle, call: &mut Call) -> Outcome {
        let Handle { db, statements, .. } = handle;
        let Some(prepared) = lookup(statements, call.id) else {
            return Outcome::failed(12, "no statement with the given id");
        };
        if !call.bound {
            if bind(&mut prepared.stmt, &mut call.params).is_err() {
                prepared.stmt.clear_bindings();
                return Outcome::failed(1, "bind parameters");
            }
            call.bound = true;
        }
        match self.run_to_end(db, prepared) {
            Stepped::Stop(outcome) => {
                if !matches!(outcome, Outcome::NeedSlot | Outcome::Elsewhere { .. }) {
                    prepared.stmt.clear_bindings();
                }
                outcome
            }
            Stepped::Row | Stepped::Done => {
                prepared.stmt.clear_bindings();
                executed(db)
            }
        }
    }

    fn query_text(&mut self, handle: &mut Handle, text: &mut Text) -> Outcome {
        if text.current.is_none() {
            self.grant(&mut handle.db, false);
            let prepared = match handle.db.prepare(text.sql.rest(0)) {
                Ok(prepared) => prepared,
                Err(error) => return Outcome::sqlite(error),
            };
            let Some(mut stmt) = prepared.stmt else {
                return Outcome::failed(0, "empty statement");
            };
            if !is_blank(&mut handle.db, text.sql.rest(prepared.tail)) {
                return Outcome::failed(1, "nonempty statement tail");
            }
            if bind_query(&mut stmt, &mut text.params).is_err() {
                return Outcome::failed(10, "leader exec failed");
            }
            text.current = Some(Prepared::new(stmt));
        }
        let Some(current) = &mut text.current else {
            return Outcome::failed(0, "empty statement");
        };
        let outcome = self.fetch(&mut handle.db, current, &mut text.rows);
        if ends_query(&outcome) {
            text.current = None;
        }
        outcome
    }

    fn query(&mut self, handle: &mut Handle, call: &mut Call) -> Outcome {
        let Handle { db, statements, .. } = handle;
        let Some(prepared) = lookup(statements, call.id) else {
            return Outcome::failed(12, "no statement with the given id");
        };
        if !call.bound {
            if bind_query(&mut prepared.stmt, &mut call.params).is_err() {
                prepared.stmt.clear_bindings();
                return Outcome::failed(10, "leader exec failed");
            }
            call.bound = true;
        }
        let outcome = self.fetch(db, prepared, &mut call.rows);
        if ends_query(&outcome) {
            prepared.stmt.clear_bindings();
        }
        outcome
    }

    /// Decides whether the statement may begin here and now, and grants it what it needs.
    fn admit(&mut self, db: &mut Db, prepared: &Prepared) -> Result<(), Outcome> {
        let writes = prepared.writes();
        if writes && !self.slot {
            return Err(Outcome::NeedSlot);
        }
        // Interrupting a write inside an explicit transaction would roll all of it back, so such a
        // statement gets no budget: only what is certain to be short stays on the loop.
        let interruptible = db.autocommit() || !writes;
        if self.inline
            && (prepared.slow || (!interruptible && !sql::is_short_write(prepared.stmt.sql())))
        {
            return Err(Outcome::Elsewhere { writes });
        }
        db.set_budget((self.inline && interruptible).then_some(INLINE_STEPS));
        self.grant(db, writes);
        Ok(())
    }

    /// One step; undoes the statement when it went over budget or wants the slot.
    fn step(&mut self, db: &mut Db, prepared: &mut Prepared) -> Stepped {
        match prepared.stmt.step() {
            Ok(Step::Row) => Stepped::Row,
            Ok(Step::Done) => Stepped::Done,
            Err(error) => {
                let over_budget = db.over_budget();
                let wanted_write = db.wanted_write();
                prepared.stmt.reset();
                if over_budget {
                    prepared.slow = true;
                    let writes = prepared.writes();
                    Stepped::Stop(Outcome::Elsewhere { writes })
                } else if wanted_write && !prepared.wrote {
                    // What is granted to it follows from this, slot or not, so it is begun afresh.
                    prepared.wrote = true;
                    Stepped::Stop(Outcome::NeedSlot)
                } else {
                    Stepped::Stop(Outcome::sqlite(error))
                }
            }
        }
    }

    /// Runs a statement that is to yield no rows. One that does is undone as a whole.
    fn run_to_end(&mut self, db: &mut Db, prepared: &mut Prepared) -> Stepped {
        if let Err(outcome) = self.admit(db, prepared) {
            return Stepped::Stop(outcome);
        }
        // A RETURNING clause makes all changes in the first step, and finalizing the statement then
        // commits them: only a savepoint around it can take them back.
        let guarded = !prepared.stmt.readonly() && prepared.stmt.column_count() > 0;
        if guarded && let Err(error) = run_plain(db, b"SAVEPOINT \"dq guard\"") {
            return Stepped::Stop(Outcome::sqlite(error));
        }
        let mut stepped = self.step(db, prepared);
        if matches!(stepped, Stepped::Row) {
            prepared.stmt.reset();
            stepped = Stepped::Stop(Outcome::failed(
                1,
                "rows yielded when none expected for EXEC request",
            ));
        } else if matches!(stepped, Stepped::Done) {
            prepared.stmt.reset();
        }
        if guarded {
            // Some errors roll back the whole transaction; then there is no savepoint left to end.
            let undone = matches!(stepped, Stepped::Stop(_));
            if undone {
                let _ = run_plain(db, b"ROLLBACK TO \"dq guard\"");
            }
            let released = run_plain(db, b"RELEASE \"dq guard\"");
            if let (Err(error), false) = (released, undone) {
                return Stepped::Stop(Outcome::sqlite(error));
            }
        }
        stepped
    }

    /// Rows, as complete messages, until the statement ends or a job's worth is there.
    fn fetch(&mut self, db: &mut Db, prepared: &mut Prepared, rows: &mut Rows) -> Outcome {
        let writes = prepared.writes();
        let mut messages = Vec::new();
        let mut stepped = if rows.streaming {
            // What has been sent cannot be taken back, so the rest runs to its end without budget.
            self.grant(db, writes);
            self.step(db, prepared)
        } else {
            if let Err(outcome) = self.admit(db, prepared) {
                return outcome;
            }
            let first = self.step(db, prepared);
            if !matches!(first, Stepped::Stop(_)) {
                // Only now are the columns those that the rows have: the first step prepares the
                // statement again if the schema has changed.
                rows.classes = column_classes(&prepared.stmt);
            }
            first
        };
        let enough = if writes && !rows.streaming {
            RETURNING_BYTES
        } else {
            ROWS_JOB_BYTES
        };
        loop {
            let stmt = &prepared.stmt;
            let names: Vec<&[u8]> = (0..stmt.column_count())
                .map(|i| stmt.column_name(i))
                .collect();
            let mut batch = RowsEncoder::begin(messages, names);
            loop {
                match stepped {
                    Stepped::Row if row_size(&prepared.stmt) > ROW_BYTES_MAX => {
                        undo(db, &mut prepared.stmt);
                        let outcome = Outcome::failed(18, "string or blob too big");
                        return stopped(outcome, batch.discard(), rows.streaming);
                    }
                    Stepped::Row => {
                        push_row(&mut batch, &prepared.stmt, &rows.classes, self.typed_null);
                    }
                    Stepped::Done => {
                        prepared.stmt.reset();
                        return Outcome::Rows {
                            messages: batch.finish(RowsEnd::Done),
                            done: true,
                        };
                    }
                    Stepped::Stop(outcome) => {
                        return stopped(outcome, batch.discard(), rows.streaming);
                    }
                }
                if batch.len() >= ROWS_MESSAGE_BYTES {
                    break;
                }
                stepped = self.step(db, prepared);
            }
            messages = batch.finish(RowsEnd::Part);
            if messages.len() >= enough {
                rows.streaming = true;
                return Outcome::Rows {
                    messages,
                    done: false,
                };
            }
            stepped = self.step(db, prepared);
        }
    }
}

/// The outcome of rows that ended early: what was begun afresh drops its rows, a failure keeps them.
fn stopped(outcome: Outcome, messages: Vec<u8>, streaming: bool) -> Outcome {
    match outcome {
        Outcome::Failed { code, message, .. } => Outcome::Failed {
            messages,
            code,
            message,
        },
        Outcome::NeedSlot | Outcome::Elsewhere { .. } if streaming => Outcome::Failed {
            messages,
            code: 9,
            message: b"interrupted".to_vec(),
        },
        other => other,
    }
}

/// Ends a statement in mid-stream so that nothing of it remains. A reset alone would commit what one
/// with RETURNING has changed.
fn undo(db: &Db, stmt: &mut Stmt) {
    if !stmt.readonly() {
        db.interrupt_handle().interrupt();
        // It fails, since it is interrupted; that is the point.
        let _ = stmt.step();
    }
    stmt.reset();
}

/// Runs a statement of ours that yields no rows.
fn run_plain(db: &mut Db, sql: &[u8]) -> Result<(), dq_vfs::Error> {
    if let Some(mut stmt) = db.prepare(sql)?.stmt {
        while matches!(stmt.step()?, Step::Row) {}
    }
    Ok(())
}

fn ends_query(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Rows { done: true, .. } | Outcome::Failed { .. }
    )
}

fn lookup(statements: &mut [Option<Prepared>], id: u32) -> Option<&mut Prepared> {
    statements.get_mut(usize::try_from(id).ok()?)?.as_mut()
}

fn executed(db: &Db) -> Outcome {
    Outcome::Executed {
        last_insert_id: db.last_insert_rowid().cast_unsigned(),
        rows_affected: i64::from(db.changes()).cast_unsigned(),
    }
}

/// Whether nothing but blanks, comments and semicolons follows; what fails to parse is something.
fn is_blank(db: &mut Db, rest: &[u8]) -> bool {
    sql::is_trivially_blank(rest)
        || matches!(db.prepare(rest), Ok(prepared) if prepared.stmt.is_none())
}

struct BindFailed;

/// Binds as many values as the statement has parameter slots; missing ones stay NULL.
fn bind(stmt: &mut Stmt, params: &mut ParamsBuf) -> Result<(), BindFailed> {
    for index in 1..=stmt.param_count() {
        let Some(value) = params.next_value() else {
            break;
        };
        let value = match value.map_err(|_| BindFailed)? {
            ValueRef::Integer(i) => BindRef::Integer(i),
            ValueRef::Float(f) => BindRef::Float(f),
            ValueRef::Text(t) | ValueRef::Iso8601(t) => BindRef::Text(t),
            ValueRef::Blob(b) => BindRef::Blob(b),
            ValueRef::Null => BindRef::Null,
            ValueRef::Boolean(b) => BindRef::Integer(i64::from(b != 0)),
            ValueRef::UnixTime(_) => return Err(BindFailed),
        };
        stmt.bind(index, value).map_err(|_| BindFailed)?;
    }
    Ok(())
}

/// As [`bind`], but values that no parameter takes are an error.
fn bind_query(stmt: &mut Stmt, params: &mut ParamsBuf) -> Result<(), BindFailed> {
    bind(stmt, params)?;
    match params.next_value() {
        None => Ok(()),
        Some(_) => Err(BindFailed),
    }
}

/// How a column's values are sent, by its declared type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ColumnClass {
    Plain,
    Date,
    Boolean,
}

fn column_classes(stmt: &Stmt) -> Vec<ColumnClass> {
    (0..stmt.column_count())
        .map(|i| match stmt.column_decltype(i) {
            Some(t) if is_any(t, &["DATETIME", "DATE", "TIMESTAMP"]) => ColumnClass::Date,
            Some(t) if is_any(t, &["BOOLEAN"]) => ColumnClass::Boolean,
            _ => ColumnClass::Plain,
        })
        .collect()
}

fn is_any(decltype: &[u8], names: &[&str]) -> bool {
    names
        .iter()
        .any(|name| decltype.eq_ignore_ascii_case(name.as_bytes()))
}

/// Bytes of the current row's values.
fn row_size(stmt: &Stmt) -> usize {
    (0..stmt.column_count())
        .map(|i| stmt.column_size(i))
        .fold(0, usize::saturating_add)
}

/// Encodes the statement's current row: the types first, then the values.
fn push_row(batch: &mut RowsEncoder, stmt: &Stmt, classes: &[ColumnClass], typed_null: TypedNull) {
    let values = || {
        classes
            .iter()
            .enumerate()
            .map(|(i, class)| value(stmt, i, *class, typed_null))
    };
    batch.begin_row(values().map(|value| value.value_type()));
    for value in values() {
        batch.put_value(value);
    }
}

fn value(stmt: &Stmt, column: usize, class: ColumnClass, typed_null: TypedNull) -> ValueRef<'_> {
    match (stmt.column(column), class) {
        (ColumnRef::Integer(v), ColumnClass::Date) => ValueRef::UnixTime(v),
        (ColumnRef::Integer(v), ColumnClass::Boolean) => ValueRef::Boolean(v.cast_unsigned()),
        (ColumnRef::Integer(v), ColumnClass::Plain) => ValueRef::Integer(v),
        (ColumnRef::Text(t), ColumnClass::Date) => ValueRef::Iso8601(sql::until_nul(t)),
        (ColumnRef::Text(t), _) => ValueRef::Text(sql::until_nul(t)),
        (ColumnRef::Null, _) if typed_null == TypedNull::Null => ValueRef::Null,
        (ColumnRef::Null, ColumnClass::Date) => ValueRef::Iso8601(b""),
        (ColumnRef::Null, ColumnClass::Boolean) => ValueRef::Boolean(0),
        (ColumnRef::Null, ColumnClass::Plain) => ValueRef::Null,
        (ColumnRef::Float(f), _) => ValueRef::Float(f),
        (ColumnRef::Blob(b), _) => ValueRef::Blob(b),
    }
}
