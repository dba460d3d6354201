//! A database opened on one connection, and what runs on it.
//!
//! A [`Session`] is bound to the server that led when it was opened. When leadership moves, the
//! server drops the session's transaction, statements and database handle; the call that notices
//! fails (with an outcome that says whether it was carried out), and the session is of no more use.
//! [`Pool`](crate::Pool) hands out another.
//!
//! ```text
//!   Session ── begin() ──> Transaction ── commit() / rollback() / drop: ROLLBACK
//!      │  (the transaction derefs to the session: it runs the same statements)
//!      ├── prepare() ──> Statement ── drop: FINALIZE, sent along with the next request
//!      └── query() ──> Rows ── drop: INTERRUPT, the rest is skipped
//! ```
//!
//! Each of these borrows the session, so at most one thing happens at a time, as the protocol has it.
//!
//! What must not happen is that a statement meant for a transaction runs outside of it. Some errors
//! make SQLite roll back on its own (disk full, out of memory, I/O, interrupt); after one of them
//! within a transaction the connection is given up, so that nothing more can run on it.

use std::sync::Arc;

use dq_wire::{Params as WireParams, Request, Response, ValueRef, encode_params, params_schema};

use crate::conn::{Conn, Interrupt};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::params::Params;
use crate::rows::{Row, Rows};
use crate::sql;
use crate::statement::{CachedStatements, Statement};
use crate::transaction::{Transaction, TxMode};
use crate::value::without_nul;

/// What a statement that yields no rows has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Row id of the last INSERT on this session; not reset by statements of other kinds.
    pub last_insert_id: i64,
    /// Rows changed by the last INSERT, UPDATE or DELETE on this session; not reset either.
    pub rows_affected: u64,
}

/// A database opened on one connection. See the module.
#[derive(Debug)]
pub struct Session {
    conn: Conn,
    in_transaction: bool,
    /// A text that was executed may have opened a transaction behind our back.
    loose_transaction: bool,
    pub(crate) cached: CachedStatements,
    /// Where parameters are encoded, kept for its memory.
    scratch: Vec<u8>,
}

/// Interrupts the running statement of a session from another thread.
#[derive(Debug, Clone)]
pub struct InterruptHandle {
    interrupt: Arc<Interrupt>,
}

impl InterruptHandle {
    /// Asks the server to stop what it is doing for the session; does nothing when it is idle.
    ///
    /// Rows that stream stop coming, with an error. A statement that yields none runs to its end,
    /// and so does everything on C servers, which look at the request only afterwards.
    ///
    /// # Errors
    /// The request cannot be sent.
    pub fn interrupt(&self) -> Result<()> {
        self.interrupt
            .interrupt()
            .map_err(|error| Error::io("interrupt", error))
    }
}

impl Session {
    /// Opens a database on a connection to the leader.
    pub(crate) fn open(mut conn: Conn, database: &str) -> Result<Session> {
        // What go-dqlite sends; servers ignore flags and VFS name.
        let request = Request::Open {
            name: without_nul(database)?,
            flags: 0,
            vfs: b"volatile",
        };
        conn.call(&request)?;
        Ok(Session {
            conn,
            in_transaction: false,
            loose_transaction: false,
            cached: CachedStatements::default(),
            scratch: Vec::new(),
        })
    }

    /// Address of the server.
    pub fn address(&self) -> &str {
        self.conn.address()
    }

    /// Whether nothing more can be done with this session: its connection broke, or the server has
    /// closed the database behind it.
    pub fn is_closed(&self) -> bool {
        self.conn.is_broken()
    }

    /// Runs a text of one or more statements, none of which may yield rows.
    ///
    /// Each statement takes as many parameters as it has, from left to right. Several statements
    /// are several transactions unless the text says otherwise: when one fails, those before it
    /// stay done.
    ///
    /// # Errors
    /// The first failure. If the text may hold several statements its outcome is unknown at best.
    pub fn execute(&mut self, sql: &str, params: impl Params) -> Result<Done> {
        let text = without_nul(sql)?;
        let values = params.values()?;
        self.note_transactions(sql);
        let sent = self.send(Call::ExecSql(text), &values);
        sent.and_then(|()| self.receive_done())
            .map_err(|error| match error.outcome() {
                Outcome::NotDone if sql::may_be_several(sql) => {
                    error.with_outcome(Outcome::Unknown)
                }
                _ => error,
            })
    }

    /// Runs a text of several statements without parameters.
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub fn execute_batch(&mut self, sql: &str) -> Result<()> {
        self.execute(sql, ()).map(|_| ())
    }

    /// Runs one statement for its rows, which stream in as they are taken.
    ///
    /// # Errors
    /// The statement fails before its first row; see [`Rows::next`] for later failures.
    pub fn query(&mut self, sql: &str, params: impl Params) -> Result<Rows<'_>> {
        let text = without_nul(sql)?;
        let values = params.values()?;
        self.note_transactions(sql);
        self.send(Call::QuerySql(text), &values)?;
        Rows::begin(self)
    }

    /// Runs one statement for its first row; what comes after it is not looked at.
    ///
    /// # Errors
    /// The statement or `f` fails. No row is not an error but `None`.
    pub fn query_row<T>(
        &mut self,
        sql: &str,
        params: impl Params,
        f: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut rows = self.query(sql, params)?;
        rows.next()?.map(|row| f(&row)).transpose()
    }

    /// Prepares a statement.
    ///
    /// # Errors
    /// The text has no statement, more than one, or a wrong one.
    pub fn prepare(&mut self, sql: &str) -> Result<Statement<'_>> {
        Statement::prepare(self, sql, false)
    }

    /// Prepares a statement, or takes it from this session's most recently used ones.
    ///
    /// # Errors
    /// As [`Session::prepare`].
    pub fn prepare_cached(&mut self, sql: &str) -> Result<Statement<'_>> {
        Statement::prepare(self, sql, true)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// One is open already, or the server refuses.
    pub fn begin(&mut self, mode: TxMode) -> Result<Transaction<'_>> {
        if self.in_transaction {
            return Err(Error::new(ErrorKind::Sql, "transactions cannot be nested"));
        }
        self.run(mode.sql())?;
        self.in_transaction = true;
        Ok(Transaction::new(self))
    }

    /// What interrupts this session's statements from other threads.
    pub fn interrupt_handle(&self) -> InterruptHandle {
        InterruptHandle {
            interrupt: self.conn.interrupt(),
        }
    }

    pub(crate) fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// Whether the session can serve somebody else: it works, and no transaction is open.
    pub(crate) fn is_reusable(&self) -> bool {
        !self.conn.is_broken() && !self.in_transaction && !self.loose_transaction
    }

    /// Whether the server has closed the connection while it was idle.
    pub(crate) fn is_stale(&self) -> bool {
        self.conn.is_stale()
    }

    /// Notes what a text may do to the transaction state.
    pub(crate) fn note_transactions(&mut self, sql: &str) {
        if !self.in_transaction {
            self.loose_transaction = match sql::transaction_effect(sql) {
                sql::TransactionEffect::None => self.loose_transaction,
                sql::TransactionEffect::MayBegin => true,
                sql::TransactionEffect::Ends => false,
            };
        }
    }

    /// Sends a statement with its parameters.
    pub(crate) fn send(&mut self, call: Call<'_>, values: &[ValueRef<'_>]) -> Result<()> {
        let schema = params_schema(values.len());
        self.scratch.clear();
        encode_params(&mut self.scratch, values, schema);
        let params = WireParams::decode(&self.scratch, schema)?;
        self.conn.queue(&match call {
            Call::ExecSql(sql) => Request::ExecSql { db: 0, sql, params },
            Call::QuerySql(sql) => Request::QuerySql { db: 0, sql, params },
            Call::Exec(stmt) => Request::Exec {
                db: 0,
                stmt,
                params,
            },
            Call::Query(stmt) => Request::Query {
                db: 0,
                stmt,
                params,
            },
        });
        self.conn.flush()
    }

    /// Waits for the answer to an EXEC or EXEC_SQL.
    pub(crate) fn receive_done(&mut self) -> Result<Done> {
        let response = self.conn.receive().map(|reply| match reply.response {
            Response::Result {
                last_insert_id,
                rows_affected,
            } => Some(Done {
                // The server sends SQLite's signed numbers bit for bit.
                last_insert_id: last_insert_id as i64,
                rows_affected,
            }),
            _ => None,
        });
        match response {
            Ok(Some(done)) => Ok(done),
            Ok(None) => {
                self.conn.mark_broken();
                Err(Error::new(ErrorKind::Protocol, "no RESULT").with_outcome(Outcome::Unknown))
            }
            Err(error) => {
                self.note_failure(&error);
                Err(error)
            }
        }
    }

    /// Looks at a statement's failure for what it does to an open transaction.
    pub(crate) fn note_failure(&mut self, error: &Error) {
        const NOMEM: i32 = 7;
        const INTERRUPT: i32 = 9;
        const IOERR: i32 = 10;
        const FULL: i32 = 13;
        let rolls_back = matches!(
            error.sqlite_code().map(|code| code & 0xff),
            Some(NOMEM | INTERRUPT | IOERR | FULL)
        );
        if rolls_back && (self.in_transaction || self.loose_transaction) {
            self.conn.mark_broken();
        }
    }

    /// Ends the transaction that [`Session::begin`] has begun.
    pub(crate) fn commit(&mut self) -> Result<()> {
        let result = self.run("COMMIT");
        match &result {
            Ok(()) => self.in_transaction = false,
            // It may be open still (BUSY) or not: make sure that it is not.
            Err(_) => self.roll_back(),
        }
        result
    }

    /// Rolls back what is open, by closing the connection if the server cannot be told.
    pub(crate) fn roll_back(&mut self) {
        const SQLITE_ERROR: i32 = 1;
        match self.run("ROLLBACK") {
            Ok(()) => {}
            // "cannot rollback - no transaction is active": SQLite has done so on its own.
            Err(error) if error.sqlite_code() == Some(SQLITE_ERROR) => {}
            Err(_) => self.conn.mark_broken(),
        }
        self.in_transaction = false;
    }

    /// Executes a text of ours.
    fn run(&mut self, sql: &str) -> Result<()> {
        self.send(Call::ExecSql(sql.as_bytes()), &[])?;
        self.receive_done().map(|_| ())
    }
}

/// How a statement is named in a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call<'a> {
    ExecSql(&'a [u8]),
    QuerySql(&'a [u8]),
    Exec(u32),
    Query(u32),
}
