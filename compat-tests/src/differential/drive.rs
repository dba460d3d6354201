//! Plays a program to one server and keeps what it answers.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use dq_wire::header::request_type;
use dq_wire::{PROTOCOL_V1, Response};

use super::program::{Ask, CONNECTIONS, Op};
use crate::conformance::{
    Connection, Frame, Message, Names, Received, Request, Text, print_message,
};

/// Longest wait for one answer. Nothing here takes long; a server that hangs is a finding.
const DEADLINE: Duration = Duration::from_secs(20);

/// Id of no statement.
const NO_STATEMENT: u32 = 999_999;

/// A request as it was sent, and what came back.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    pub(super) connection: usize,
    pub(super) message: Message,
    pub(super) answer: Vec<Frame>,
}

/// Plays a program on a fresh database, with up to `pipeline` requests sent before their answers are
/// read.
///
/// # Errors
/// The server closes a connection, or does not answer; with the exchanges up to then.
pub(super) fn play(
    address: &str,
    database: &str,
    ops: &[Op],
    pipeline: usize,
) -> Result<Vec<Exchange>, (io::Error, Vec<Exchange>)> {
    let mut player = Player {
        connections: Vec::new(),
        statements: BTreeMap::new(),
        pipeline,
        pending: Vec::new(),
        done: Vec::with_capacity(ops.len()),
        names: Names {
            database: database.to_owned(),
            ..Names::default()
        },
    };
    match player.run(address, ops) {
        Ok(()) => Ok(player.done),
        Err(error) => Err((error, player.done)),
    }
}

struct Player {
    connections: Vec<Connection>,
    /// Ids by name.
    statements: BTreeMap<usize, u32>,
    pipeline: usize,
    /// Sent and not answered yet, all on the same connection; the name of a PREPARE.
    pending: Vec<(usize, Message, Option<usize>)>,
    done: Vec<Exchange>,
    names: Names,
}

impl Player {
    fn run(&mut self, address: &str, ops: &[Op]) -> io::Result<()> {
        for connection in 0..CONNECTIONS {
            self.connections
                .push(Connection::open(address, Some(PROTOCOL_V1))?);
            let open = Request::Open(Text::database(), 0, Text::default());
            self.send(connection, open, None)?;
            self.settle()?;
        }
        for op in ops {
            let changes = self.pending.first().is_some_and(|p| p.0 != op.connection);
            let named = !matches!(op.ask, Ask::Request(_) | Ask::Prepare(..));
            let unknown = named && self.pending.iter().any(|p| p.2.is_some());
            if changes || unknown || self.pending.len() >= self.pipeline {
                self.settle()?;
            }
            let id = |name| *self.statements.get(name).unwrap_or(&NO_STATEMENT);
            let (request, name) = match &op.ask {
                Ask::Request(request) => (request.clone(), None),
                Ask::Prepare(name, sql) => (Request::Prepare(0, sql.clone()), Some(*name)),
                Ask::Exec(name, params) => (Request::Exec(id(name), params.clone()), None),
                Ask::Query(name, params) => (Request::Query(id(name), params.clone()), None),
                Ask::Finalize(name) => {
                    let id = self.statements.remove(name).unwrap_or(NO_STATEMENT);
                    (Request::Finalize(id), None)
                }
            };
            self.send(op.connection, request, name)?;
        }
        self.settle()
    }

    fn send(&mut self, connection: usize, request: Request, name: Option<usize>) -> io::Result<()> {
        let message = Message::from(request);
        let mut bytes = Vec::new();
        message.encode(&mut bytes, &self.names);
        self.connections[connection].cork();
        self.connections[connection].send(&bytes)?;
        self.pending.push((connection, message, name));
        Ok(())
    }

    /// Reads the answers to all that was sent.
    fn settle(&mut self) -> io::Result<()> {
        for (connection, message, name) in std::mem::take(&mut self.pending) {
            self.connections[connection].flush()?;
            let is_query = matches!(
                message.kind(),
                request_type::QUERY | request_type::QUERY_SQL
            );
            let mut answer = Vec::new();
            loop {
                match self.connections[connection].receive(DEADLINE)? {
                    Received::Frame(frame) => {
                        let more = is_query && frame.is_part();
                        answer.push(frame);
                        if !more {
                            break;
                        }
                    }
                    other => {
                        let request = print_message(&message);
                        let parts = answer.len();
                        let kind = match other {
                            Received::Timeout(_) => io::ErrorKind::TimedOut,
                            _ => io::ErrorKind::UnexpectedEof,
                        };
                        let what = format!("{request} is not answered, after {parts} parts");
                        return Err(io::Error::new(kind, format!("{what}: {other:?}")));
                    }
                }
            }
            if let (Some(name), [frame]) = (name, answer.as_slice())
                && let Ok(Response::Stmt { id, .. }) = Response::decode(&frame.header, &frame.body)
            {
                self.statements.insert(name, id);
            }
            self.done.push(Exchange {
                connection,
                message,
                answer,
            });
        }
        Ok(())
    }
}
