//! Prepared statements, and the few that a session keeps for the next use.
//!
//! A statement's id is the server's; it must be given back with FINALIZE. Nobody waits for that:
//! the request is queued and travels with the next one.

use dq_wire::{Request, Response};

use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::params::Params;
use crate::rows::Rows;
use crate::session::{Call, Done, Session};
use crate::value::without_nul;

/// Number of statements that a session keeps.
const CACHED_MAX: usize = 16;

/// A prepared statement.
#[derive(Debug)]
pub struct Statement<'s> {
    session: &'s mut Session,
    inner: Prepared,
    /// To be kept for the next use, rather than finalized.
    keep: bool,
}

/// What the server told about a statement.
#[derive(Debug, Clone, Default)]
struct Prepared {
    sql: String,
    id: u32,
    params: u64,
}

/// Statements not in use, the most recently used one last.
#[derive(Debug, Default)]
pub(crate) struct CachedStatements {
    list: Vec<Prepared>,
}

impl<'s> Statement<'s> {
    pub(crate) fn prepare(
        session: &'s mut Session,
        sql: &str,
        keep: bool,
    ) -> Result<Statement<'s>> {
        let text = without_nul(sql)?;
        if keep {
            let list = &mut session.cached.list;
            if let Some(index) = list.iter().position(|statement| statement.sql == sql) {
                let inner = list.remove(index);
                return Ok(Statement {
                    session,
                    inner,
                    keep,
                });
            }
        }
        let response = session.conn().call(&Request::Prepare {
            schema: 0,
            db: 0,
            sql: text,
        })?;
        let Response::Stmt { id, params, .. } = response.response else {
            session.conn().mark_broken();
            return Err(Error::new(ErrorKind::Protocol, "no STMT"));
        };
        let inner = Prepared {
            sql: sql.to_owned(),
            id,
            params,
        };
        Ok(Statement {
            session,
            inner,
            keep,
        })
    }

    /// Number of parameters: the highest index of one.
    pub fn param_count(&self) -> u64 {
        self.inner.params
    }

    /// Runs the statement, which must yield no rows.
    ///
    /// # Errors
    /// The statement fails, or the number of parameters is not the statement's.
    pub fn execute(&mut self, params: impl Params) -> Result<Done> {
        self.start(Call::Exec(self.inner.id), &params)?;
        self.session.receive_done()
    }

    /// Runs the statement for its rows, which stream in as they are taken.
    ///
    /// # Errors
    /// As [`Session::query`](crate::Session::query), or the number of parameters is not the
    /// statement's.
    pub fn query(&mut self, params: impl Params) -> Result<Rows<'_>> {
        self.start(Call::Query(self.inner.id), &params)?;
        Rows::begin(self.session)
    }

    fn start(&mut self, call: Call<'_>, params: &impl Params) -> Result<()> {
        let values = params.values()?;
        let given = values.len() as u64;
        if given != self.inner.params {
            let message = format!(
                "the statement has {} parameters, {given} given",
                self.inner.params
            );
            return Err(Error::new(ErrorKind::Type, message).with_outcome(Outcome::NotDone));
        }
        self.session.note_transactions(&self.inner.sql);
        self.session.send(call, &values)
    }
}

impl Drop for Statement<'_> {
    fn drop(&mut self) {
        let inner = std::mem::take(&mut self.inner);
        if !self.keep {
            finalize(self.session, inner.id);
            return;
        }
        let list = &mut self.session.cached.list;
        list.push(inner);
        if list.len() > CACHED_MAX {
            let oldest = list.remove(0);
            finalize(self.session, oldest.id);
        }
    }
}

/// Gives a statement back, with the next request. That it may have gone with the database handle
/// already is no matter.
fn finalize(session: &mut Session, id: u32) {
    session
        .conn()
        .queue_ignored(&Request::Finalize { db: 0, stmt: id });
}
