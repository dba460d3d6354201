//! Programs: what several connections ask one after another.

use super::rng::Rng;
use super::schema::{Kind, Schema};
use super::statement::{Dialect, Statement, Statements};
use crate::conformance::{Params, Request, Text, Value};

/// Number of connections of a program.
pub(super) const CONNECTIONS: usize = 3;

/// A request on one of the connections.
#[derive(Debug, Clone)]
pub struct Op {
    /// Which connection, from 0.
    pub connection: usize,
    /// What it asks.
    pub ask: Ask,
}

/// What a connection asks. Prepared statements are named by the position of their PREPARE among all
/// of the program: their ids are what the server makes them.
#[derive(Debug, Clone)]
pub enum Ask {
    /// A request as it stands.
    Request(Request),
    /// PREPARE of a statement that is called this.
    Prepare(usize, Text),
    /// EXEC of it.
    Exec(usize, Params),
    /// QUERY of it.
    Query(usize, Params),
    /// FINALIZE of it.
    Finalize(usize),
}

/// What the generator believes about a connection.
#[derive(Debug, Default)]
struct Session {
    in_transaction: bool,
    savepoints: usize,
    /// Prepared statements: name, whether they yield rows, how many parameters they have.
    prepared: Vec<(usize, bool, usize)>,
}

/// Draws a program of `length` requests.
///
/// It stays clear of what ends C dqlite 1.11.1's process or leaves it waiting: RETURNING, statements
/// that change something sent as queries, VACUUM, finalized statements used again.
pub(super) fn generate(seed: u64, length: usize) -> Vec<Op> {
    let mut rng = Rng::new(seed);
    let mut statements = Statements {
        rng: &mut rng,
        schema: Schema::default(),
        dialect: Dialect {
            params_percent: 60,
            returning: false,
            vacuum: false,
            typed_columns: true,
        },
    };
    let mut sessions: [Session; CONNECTIONS] = Default::default();
    let mut ops = Vec::with_capacity(length);
    let mut prepared = 0;
    let mut connection = 0;
    let mut burst = 0;
    while ops.len() < length {
        // Transactions that stay open while others speak are the interesting ones, but most requests
        // should not fail for them.
        let ends = sessions[connection].in_transaction && statements.rng.percent(75);
        if burst == 0 && ends {
            let ask = end_of_transaction(&mut statements, &mut sessions[connection]);
            ops.push(Op {
                connection,
                ask: Ask::Request(ask),
            });
        }
        if burst == 0 {
            connection = statements.rng.below(CONNECTIONS);
            burst = 1 + statements.rng.below(20);
        }
        burst -= 1;
        let session = &mut sessions[connection];
        let ask = match statements.rng.below(100) {
            0..=4 => prepare(&mut statements, session, &mut prepared),
            5..=16 => run_prepared(&mut statements, session),
            17 => finalize(&mut statements, session),
            _ => Ask::Request(draw(&mut statements, session)),
        };
        ops.push(Op { connection, ask });
    }
    ops
}

fn draw(statements: &mut Statements<'_>, session: &mut Session) -> Request {
    if session.in_transaction && statements.rng.percent(15) {
        return end_of_transaction(statements, session);
    }
    match statements.rng.below(82) {
        0..=5 if !session.in_transaction => {
            session.in_transaction = true;
            let begin = *statements
                .rng
                .pick(&["begin", "begin immediate", "begin exclusive"]);
            exec_sql(begin)
        }
        6 => {
            let misplaced = *statements.rng.pick(&["begin", "commit", "rollback", "end"]);
            exec_sql(misplaced)
        }
        7..=9 => savepoint(statements, session),
        10..=13 if !session.in_transaction => exec(statements.definition()),
        14..=45 => exec(statements.change()),
        46..=75 => query(statements.read()),
        76 => exec(statements.set_pragma()),
        77 => query(statements.get_pragma()),
        78 if statements.rng.percent(30) => exec(statements.read()),
        78 => exec(statements.mistake(false)),
        79 => query(statements.mistake(true)),
        80 => Request::Interrupt,
        _ => {
            let mut texts = Vec::new();
            for _ in 0..2 + statements.rng.below(2) {
                let percent = std::mem::take(&mut statements.dialect.params_percent);
                texts.push(statements.change().sql);
                statements.dialect.params_percent = percent;
            }
            exec_sql(&texts.join("; "))
        }
    }
}

fn end_of_transaction(statements: &mut Statements<'_>, session: &mut Session) -> Request {
    session.in_transaction = false;
    session.savepoints = 0;
    exec_sql(match statements.rng.below(4) {
        0 => "rollback",
        _ => "commit",
    })
}

fn savepoint(statements: &mut Statements<'_>, session: &mut Session) -> Request {
    let name = session.savepoints;
    match statements.rng.below(4) {
        0 if name > 0 => {
            session.savepoints -= 1;
            exec_sql(&format!("release s{}", name - 1))
        }
        1 if name > 0 => exec_sql(&format!("rollback to s{}", name - 1)),
        2 if name == 0 => exec_sql("release nothing"),
        _ if session.in_transaction => {
            session.savepoints += 1;
            exec_sql(&format!("savepoint s{name}"))
        }
        _ => {
            session.in_transaction = true;
            session.savepoints = 1;
            exec_sql("savepoint s0")
        }
    }
}

fn prepare(statements: &mut Statements<'_>, session: &mut Session, next: &mut usize) -> Ask {
    let reads = statements.rng.percent(50);
    let statement = match reads {
        true => statements.read(),
        false => statements.change(),
    };
    let name = *next;
    *next += 1;
    session.prepared.push((name, reads, statement.params.len()));
    Ask::Prepare(name, Text::literal(statement.sql))
}

fn run_prepared(statements: &mut Statements<'_>, session: &mut Session) -> Ask {
    if session.prepared.is_empty() {
        return Ask::Request(query(statements.read()));
    }
    let (name, reads, count) = *statements.rng.pick(&session.prepared);
    // Whatever the column, an integer or NULL will do. But not the largest: as a real it would have
    // more digits than versions agree on, and after the largest row id SQLite draws them by chance.
    let values = (0..count).map(|_| match statements.any_value(Kind::Integer) {
        Value::Integer(n) if n.unsigned_abs() < 1 << 40 => Value::Integer(n),
        _ => Value::Null,
    });
    let params = Params::Values(values.collect());
    match reads {
        true => Ask::Query(name, params),
        false => Ask::Exec(name, params),
    }
}

fn finalize(statements: &mut Statements<'_>, session: &mut Session) -> Ask {
    if session.prepared.is_empty() {
        return Ask::Request(Request::Finalize(3));
    }
    let at = statements.rng.below(session.prepared.len());
    Ask::Finalize(session.prepared.swap_remove(at).0)
}

fn exec_sql(sql: &str) -> Request {
    exec(Statement {
        sql: sql.to_owned(),
        params: Vec::new(),
    })
}

fn exec(statement: Statement) -> Request {
    let params = Params::Values(statement.params);
    Request::ExecSql(Text::literal(statement.sql), params)
}

fn query(statement: Statement) -> Request {
    let params = Params::Values(statement.params);
    Request::QuerySql(Text::literal(statement.sql), params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_program_every_time() {
        let printed = |seed| format!("{:?}", generate(seed, 300));
        assert_eq!(printed(5), printed(5));
        assert_ne!(printed(5), printed(6));
    }

    #[test]
    fn a_program_has_requests_of_every_kind_on_every_connection() {
        let ops = generate(1, 2000);
        for connection in 0..CONNECTIONS {
            let of = |is: fn(&Ask) -> bool| {
                ops.iter()
                    .any(|op| op.connection == connection && is(&op.ask))
            };
            assert!(of(|ask| matches!(ask, Ask::Request(Request::ExecSql(..)))));
            assert!(of(|ask| matches!(ask, Ask::Request(Request::QuerySql(..)))));
            assert!(of(|ask| matches!(ask, Ask::Prepare(..))));
            assert!(of(|ask| matches!(ask, Ask::Exec(..))));
            assert!(of(|ask| matches!(ask, Ask::Query(..))));
            assert!(of(|ask| matches!(ask, Ask::Finalize(..))));
        }
    }
}
