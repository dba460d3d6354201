//! A simulated client: the wire protocol on one link, and code that waits.
//!
//! Workloads are `async` functions, polled by the world whenever something happens to their client.
//! Nothing but the world wakes them, so there is no executor and no waker that does anything.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use dq_wire::{Header, PROTOCOL_V1, ParamsBuf, Request, Response, Role, RowsEnd, Value, ValueRef};

use crate::history::History;
use crate::plan::MS;
use crate::rng::Rng;

/// What a client wants of the world.
#[derive(Debug)]
pub(crate) enum Command {
    /// Open a link to a node, by its address.
    Connect(String),
    /// Send bytes on the link.
    Send(Bytes),
    /// Close the link.
    Close,
    /// Poll again at this time.
    WakeAt(u64),
}

/// What happens to a client's link.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// It is open.
    Connected,
    /// Bytes have come.
    Bytes(Bytes),
    /// It broke, or could not be opened.
    Broken,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The cluster is being formed.
    Setup,
    /// Faults happen.
    Chaos,
    /// No more faults; the cluster has to work again.
    Healing,
    /// Clients come to an end.
    Stopping,
    /// What the databases hold is read and checked.
    Verify,
    /// All is read.
    Done,
}

/// What all clients of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Where the run is.
    pub(crate) phase: Phase,
    /// The nodes' addresses, node 1 first.
    pub(crate) addresses: Vec<String>,
    /// The nodes' ids, in the same order. A node that was replaced has another one than before.
    pub(crate) ids: Vec<u64>,
    /// Those of them that wait to be added before they start.
    pub(crate) outside: BTreeSet<u64>,
    /// A member is to be removed and another one added.
    pub(crate) disordered: bool,
    /// What clients did and saw.
    pub(crate) history: History,
    /// The cluster is formed.
    pub(crate) formed: bool,
    /// All nodes are voters again.
    pub(crate) restored: bool,
    /// Everything has been read for the last checks.
    pub(crate) verified: bool,
    /// Operations answered since the faults ended, by client.
    pub(crate) answered: Vec<u64>,
    /// Clients that have come to their end.
    pub(crate) ended: usize,
    /// Databases that clients know to be deleted.
    pub(crate) deleted: u64,
    /// See [`Plan::bursts`](crate::Plan::bursts).
    pub(crate) bursts: (u64, u64),
    /// Requests and answers are printed.
    pub(crate) verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Connecting,
    Up,
}

/// One client's side of its link.
#[derive(Debug)]
pub(crate) struct Port {
    /// Microseconds.
    pub(crate) now: u64,
    /// What is to be done for it.
    pub(crate) commands: Vec<Command>,
    /// Until when it waits: an earlier wake is of a wait that is over.
    pub(crate) until: u64,
    rng: Rng,
    state: State,
    buffer: BytesMut,
    /// A database is open on the link.
    open: bool,
    hint: Option<String>,
}

impl Port {
    /// A client without a link.
    pub(crate) fn new(rng: Rng) -> Port {
        Port {
            now: 0,
            commands: Vec::new(),
            until: 0,
            rng,
            state: State::Closed,
            buffer: BytesMut::new(),
            open: false,
            hint: None,
        }
    }

    /// Something has happened to the link.
    pub(crate) fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Connected => self.state = State::Up,
            Incoming::Bytes(bytes) => self.buffer.extend_from_slice(&bytes),
            Incoming::Broken => {
                self.state = State::Closed;
                self.open = false;
            }
        }
    }
}

/// How a request ended otherwise than well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The node said so, with this code and text.
    Refused(u64, String),
    /// Nobody knows.
    Unknown,
}

impl Failure {
    /// The request was certainly not executed, and may be sent again. 12 is what a client is told
    /// whose database was closed, with an epoch, while it did not ask for anything; 7 and 10 that its
    /// request, or what it reads, takes too much memory.
    pub(crate) fn is_harmless(&self) -> bool {
        matches!(self, Failure::Refused(5 | 7 | 10 | 12 | 517 | 10250, _))
    }

    /// The request may have been executed.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Failure::Refused(10506, _) | Failure::Unknown)
    }
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    /// Rows affected, and the last row's id.
    Done(u64, u64),
    /// Rows.
    Rows(Vec<Vec<Value>>),
    /// The leader's address, or nothing.
    Leader(String),
    /// A prepared statement.
    Statement(u32),
    /// The members.
    Members(Vec<(u64, Role)>),
    /// Something that says no more.
    Fine,
}

/// What came of a request that an INTERRUPT followed.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    /// The rows that came.
    pub(crate) rows: Vec<Vec<Value>>,
    /// How the request ended, unless its rows were cut short.
    pub(crate) end: Option<Result<Answer, Failure>>,
}

/// A client, as its workload sees it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// Its number.
    pub(crate) index: usize,
    /// Database that it opens.
    pub(crate) database: &'static str,
    /// Its link.
    pub(crate) port: Rc<RefCell<Port>>,
    /// What it shares with the others.
    pub(crate) shared: Rc<RefCell<Shared>>,
    /// How long it waits for an answer.
    pub(crate) patience: u64,
    /// It keeps its link when its database is closed by the node.
    pub(crate) loyal: bool,
}

impl Client {
    /// Where the run is.
    pub(crate) fn phase(&self) -> Phase {
        self.shared.borrow().phase
    }

    /// Whether the workload may go on.
    pub(crate) fn goes_on(&self) -> bool {
        self.phase() < Phase::Stopping
    }

    /// A random number below `end`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.port.borrow_mut().rng.below(end)
    }

    /// Does something with the history.
    pub(crate) fn history<T>(&self, act: impl FnOnce(&mut History) -> T) -> T {
        act(&mut self.shared.borrow_mut().history)
    }

    /// An operation was answered.
    pub(crate) fn progress(&self) {
        self.shared.borrow_mut().answered[self.index] += 1;
    }

    /// Waits.
    pub(crate) async fn sleep(&self, micros: u64) {
        let until = self.port.borrow().now + micros;
        self.wait(until, |_| None::<()>).await;
    }

    /// Waits a while around `mean`, and for the next burst if this one is over by then.
    pub(crate) async fn think(&self, mean: u64) {
        let micros = self.below(2 * mean) + 1;
        self.sleep(micros).await;
        let (period, busy) = self.shared.borrow().bursts;
        let past = self.port.borrow().now % period;
        if past >= busy {
            let micros = period - past + self.below(busy);
            self.sleep(micros).await;
        }
    }

    /// Waits after others were in the way. In a burst of transactions most are, so once the faults are over
    /// it tries again beyond the burst.
    pub(crate) async fn wait_for_turn(&self, mean: u64) {
        if self.phase() <= Phase::Chaos {
            return self.think(mean).await;
        }
        let micros = self.below(2 * mean.max(30 * MS)) + MS;
        self.sleep(micros).await;
    }

    /// Waits until `look` finds something, or the time has come.
    async fn wait<T>(&self, until: u64, mut look: impl FnMut(&mut Port) -> Option<T>) -> Option<T> {
        {
            let port = &mut *self.port.borrow_mut();
            port.until = until;
            port.commands.push(Command::WakeAt(until));
        }
        poll_fn(|_| {
            let port = &mut *self.port.borrow_mut();
            match look(port) {
                Some(found) => Poll::Ready(Some(found)),
                None if port.now >= until => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Gives the link up.
    pub(crate) fn close(&self) {
        let port = &mut *self.port.borrow_mut();
        port.commands.push(Command::Close);
        port.state = State::Closed;
        port.open = false;
        port.buffer.clear();
    }

    async fn connect(&self, address: &str) -> bool {
        self.close();
        let until = {
            let port = &mut *self.port.borrow_mut();
            port.state = State::Connecting;
            port.commands.push(Command::Connect(address.to_owned()));
            port.now + self.patience
        };
        let up = self
            .wait(until, |port| match port.state {
                State::Connecting => None,
                State::Up => Some(true),
                State::Closed => Some(false),
            })
            .await;
        if up != Some(true) {
            self.close();
            return false;
        }
        let word = Bytes::copy_from_slice(&PROTOCOL_V1.to_le_bytes());
        self.port.borrow_mut().commands.push(Command::Send(word));
        true
    }

    /// Sends a request and waits for its answer. Anything but an answer closes the link.
    pub(crate) async fn call(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        self.trace(|| {
            let text = match request {
                Request::ExecSql { sql, .. } | Request::QuerySql { sql, .. } => {
                    String::from_utf8_lossy(sql).into_owned()
                }
                other => format!("{other:?}"),
            };
            format!("asks {}", text.chars().take(150).collect::<String>())
        });
        let answer = self.ask(request).await;
        self.trace(|| {
            format!(
                "is told {}",
                format!("{answer:?}").chars().take(150).collect::<String>()
            )
        });
        answer
    }

    /// Writes a line of the trace, if somebody wants it.
    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        if self.shared.borrow().verbose {
            let now = self.port.borrow().now as f64 / 1e6;
            println!("{now:>12.6} c{} {}", self.index, line());
        }
    }

    async fn ask(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        let until = {
            let port = &mut *self.port.borrow_mut();
            if port.state != State::Up {
                return Err(Failure::Unknown);
            }
            port.commands.push(Command::Send(bytes.into()));
            port.now + self.patience
        };
        let mut rows = Vec::new();
        let mut answers: VecDeque<Result<Answer, Failure>> = VecDeque::new();
        let answer = self
            .wait(until, |port| {
                while let Some(answer) = take_message(&mut port.buffer, &mut rows) {
                    answers.push_back(answer);
                }
                match (answers.pop_front(), port.state) {
                    (Some(answer), _) => Some(Some(answer)),
                    (None, State::Up) => None,
                    (None, _) => Some(None),
                }
            })
            .await;
        match answer {
            Some(Some(answer)) => {
                match &answer {
                    Err(Failure::Refused(12 | 10250 | 10506, _)) if self.loyal => {}
                    Err(Failure::Refused(12 | 10250 | 10506, _) | Failure::Unknown) => self.close(),
                    _ => {}
                }
                answer
            }
            _ => {
                self.close();
                Err(Failure::Unknown)
            }
        }
    }

    /// Sends a request, and an INTERRUPT at once or when so many messages of rows have come, and waits for
    /// the EMPTY that ends the exchange.
    pub(crate) async fn interrupted(
        &self,
        request: &Request<'_>,
        after: usize,
    ) -> Result<Exchange, Failure> {
        self.trace(|| format!("asks {request:?} and interrupts after {after}"));
        let encoded = |request: &Request<'_>| {
            let mut bytes = Vec::new();
            request.encode(&mut bytes);
            Command::Send(bytes.into())
        };
        let until = {
            let port = &mut *self.port.borrow_mut();
            if port.state != State::Up {
                return Err(Failure::Unknown);
            }
            port.commands.push(encoded(request));
            port.now + self.patience
        };
        let (mut exchange, mut messages, mut interrupted) = (Exchange::default(), 0, false);
        let ended = loop {
            if !interrupted && (messages >= after || exchange.end.is_some()) {
                interrupted = true;
                let interrupt = encoded(&Request::Interrupt { db: 0 });
                self.port.borrow_mut().commands.push(interrupt);
            }
            let piece = self.wait(until, |port| match take_piece(&mut port.buffer) {
                None if port.state == State::Up => None,
                piece => Some(piece),
            });
            match piece.await.flatten() {
                Some(Piece::Rows(mut rows, done)) if exchange.end.is_none() => {
                    exchange.rows.append(&mut rows);
                    exchange.end = done.then(|| Ok(Answer::Rows(Vec::new())));
                    messages += 1;
                }
                Some(Piece::Answer(Ok(Answer::Fine))) if interrupted => break true,
                Some(Piece::Answer(answer)) if exchange.end.is_none() => {
                    exchange.end = Some(answer);
                }
                Some(piece) => {
                    let text = format!("{piece:?} after the end of a request");
                    self.history(|h| h.wrong(text));
                    break false;
                }
                None => break false,
            }
        };
        self.trace(|| {
            let Exchange { rows, end } = &exchange;
            format!("is told {} rows and {end:?}, all of it {ended}", rows.len())
        });
        let refused = matches!(
            exchange.end,
            Some(Err(Failure::Refused(12 | 10250 | 10506, _)))
        );
        if refused || !ended {
            self.close();
        }
        match ended || exchange.end.is_some() {
            true => Ok(exchange),
            false => Err(Failure::Unknown),
        }
    }

    /// Opens a link to this node; one try.
    pub(crate) async fn ask_node(&self, address: &str) -> bool {
        self.connect(address).await
    }

    /// Goes to the leader; one try.
    pub(crate) async fn find_leader(&self) -> bool {
        let address = {
            let hint = self.port.borrow_mut().hint.take();
            let shared = self.shared.borrow();
            let count = shared.addresses.len() as u64;
            hint.unwrap_or_else(|| shared.addresses[self.below(count) as usize].clone())
        };
        if !self.connect(&address).await {
            return false;
        }
        match self.call(&Request::Leader).await {
            Ok(Answer::Leader(leader)) if leader == address => true,
            Ok(Answer::Leader(leader)) => {
                if !leader.is_empty() {
                    self.port.borrow_mut().hint = Some(leader);
                }
                self.close();
                false
            }
            _ => false,
        }
    }

    /// Makes sure that a database is open on a leader, for as long as the workload may go on.
    pub(crate) async fn ready(&self) -> bool {
        loop {
            if self.is_open() {
                return true;
            }
            if self.phase() == Phase::Stopping || self.phase() == Phase::Done {
                return false;
            }
            if self.find_leader().await && self.open().await.is_ok() {
                return true;
            }
            let pause = self.below(30 * MS) + MS;
            self.sleep(pause).await;
        }
    }

    /// Opens its database on its link.
    pub(crate) async fn open(&self) -> Result<(), Failure> {
        let open = Request::Open {
            name: self.database.as_bytes(),
            flags: 0,
            vfs: b"",
        };
        self.call(&open).await?;
        self.port.borrow_mut().open = true;
        Ok(())
    }

    /// Whether there is a link on which a database was opened.
    pub(crate) fn is_open(&self) -> bool {
        let port = self.port.borrow();
        port.state == State::Up && port.open
    }

    /// Runs statements that yield no rows; the last row's id.
    pub(crate) async fn insert(&self, sql: &str, values: &[i64]) -> Result<i64, Failure> {
        let params = params(values);
        let request = Request::ExecSql {
            db: 0,
            sql: sql.as_bytes(),
            params: params.as_params(),
        };
        match self.call(&request).await? {
            Answer::Done(_, id) => Ok(id.cast_signed()),
            _ => Err(Failure::Unknown),
        }
    }

    /// Runs statements that yield no rows; the rows that they changed.
    pub(crate) async fn exec(&self, sql: &str, values: &[i64]) -> Result<u64, Failure> {
        let params = params(values);
        // Now and then the longer way.
        if !sql.contains(';') && self.below(4) == 0 {
            let statement = self.prepare(sql).await?;
            let done = self
                .call(&Request::Exec {
                    db: 0,
                    stmt: statement,
                    params: params.as_params(),
                })
                .await?;
            return rows_changed(done);
        }
        let done = self
            .call(&Request::ExecSql {
                db: 0,
                sql: sql.as_bytes(),
                params: params.as_params(),
            })
            .await?;
        rows_changed(done)
    }

    /// Runs a statement for its rows.
    pub(crate) async fn query(
        &self,
        sql: &str,
        values: &[i64],
    ) -> Result<Vec<Vec<Value>>, Failure> {
        let params = params(values);
        let answer = if self.below(4) == 0 {
            let statement = self.prepare(sql).await?;
            self.call(&Request::Query {
                db: 0,
                stmt: statement,
                params: params.as_params(),
            })
            .await?
        } else {
            self.call(&Request::QuerySql {
                db: 0,
                sql: sql.as_bytes(),
                params: params.as_params(),
            })
            .await?
        };
        match answer {
            Answer::Rows(rows) => Ok(rows),
            _ => Err(Failure::Unknown),
        }
    }

    /// A statement that was not prepared has not been executed, whatever became of the request.
    async fn prepare(&self, sql: &str) -> Result<u32, Failure> {
        let request = Request::Prepare {
            schema: 0,
            db: 0,
            sql: sql.as_bytes(),
        };
        match self.call(&request).await {
            Ok(Answer::Statement(id)) => Ok(id),
            Err(failure) if failure.is_unknown() => {
                Err(Failure::Refused(10250, "not prepared".to_owned()))
            }
            Err(failure) => Err(failure),
            Ok(_) => Err(Failure::Unknown),
        }
    }
}

fn params(values: &[i64]) -> ParamsBuf {
    let values: Vec<ValueRef<'_>> = values.iter().map(|v| ValueRef::Integer(*v)).collect();
    ParamsBuf::from_values(&values)
}

fn rows_changed(answer: Answer) -> Result<u64, Failure> {
    match answer {
        Answer::Done(rows, _) => Ok(rows),
        _ => Err(Failure::Unknown),
    }
}

/// A message.
#[derive(Debug)]
enum Piece {
    /// Rows, and whether they are the last.
    Rows(Vec<Vec<Value>>, bool),
    /// An answer that is one message.
    Answer(Result<Answer, Failure>),
}

/// Takes an answer off the buffer; rows are collected until their last batch.
fn take_message(
    buffer: &mut BytesMut,
    rows: &mut Vec<Vec<Value>>,
) -> Option<Result<Answer, Failure>> {
    loop {
        match take_piece(buffer)? {
            Piece::Rows(mut more, done) => {
                rows.append(&mut more);
                if done {
                    return Some(Ok(Answer::Rows(std::mem::take(rows))));
                }
            }
            Piece::Answer(answer) => return Some(answer),
        }
    }
}

/// Takes a message off the buffer.
fn take_piece(buffer: &mut BytesMut) -> Option<Piece> {
    let header = Header::decode(buffer).ok()?;
    let size = Header::SIZE + usize::try_from(header.body_size()).ok()?;
    if buffer.len() < size {
        return None;
    }
    let message = buffer.split_to(size).freeze();
    let body = message.get(Header::SIZE..).unwrap_or_default();
    let Ok(response) = Response::decode(&header, body) else {
        return Some(Piece::Answer(Err(Failure::Unknown)));
    };
    Some(Piece::Answer(match response {
        Response::Failure { code, message } => {
            let text = String::from_utf8_lossy(message).into_owned();
            Err(Failure::Refused(code, text))
        }
        Response::Server { address, .. } => Ok(Answer::Leader(
            String::from_utf8_lossy(address).into_owned(),
        )),
        Response::Result {
            rows_affected,
            last_insert_id,
        } => Ok(Answer::Done(rows_affected, last_insert_id)),
        Response::Stmt { id, .. } => Ok(Answer::Statement(id)),
        Response::Servers { list } => Ok(Answer::Members(
            list.iter().map(|server| (server.id, server.role)).collect(),
        )),
        Response::Rows(mut batch) => {
            let (mut row, mut rows) = (Vec::new(), Vec::new());
            while let Ok(true) = batch.next_row(&mut row) {
                rows.push(row.iter().map(ValueRef::to_value).collect());
            }
            match batch.end() {
                Some(end) => return Some(Piece::Rows(rows, end == RowsEnd::Done)),
                None => Err(Failure::Unknown),
            }
        }
        _ => Ok(Answer::Fine),
    }))
}
