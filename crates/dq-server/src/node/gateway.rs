//! Requests: from bytes to an answer, or to a task that waits for one.
//!
//! The order in which a request is refused is the original's: schema, body, parameter header,
//! leadership, database, statement.

use std::collections::VecDeque;

use bytes::Bytes;
use dq_raft::mutants::{Mutant, is_broken};
use dq_raft::{ChangeError, ChangeToken};
use dq_wire::Role;
use dq_wire::header::{BODY_SIZE_HARD_MAX, Header, request_type};
use dq_wire::request::Request as WireRequest;
use dq_wire::response::{FileHead, Response, encode_files};
use dq_wire::{Params, ParamsBuf};

use super::{Machine, Output};
use crate::conn::{
    Conn, ConnId, Frame, Phase, READ_AHEAD_BYTES, Request, Stage, Task, UNASKED_BYTES,
};
use crate::error::{NOT_LEADER, OUTDATED, Refusal};
use crate::exec::{Call, Handle, Text, Work};
use crate::sql::SqlText;

/// What CLIENT is answered: a heartbeat timeout in ms that nobody enforces.
const HEARTBEAT_MS: u64 = 15_000;

/// How long a statement that only reads may go on for a client that sends no more, ms.
const LEAVE_MS: u64 = 2000;

/// How long until it is interrupted again if it still runs, ms.
const LEAVE_AGAIN_MS: u64 = 500;

/// How long who asks for the leader waits while leadership is given away, ms. That takes a few round
/// trips, and a client that is told of none comes back much later.
const ASKING_MS: u64 = 250;

/// Longest database name that opens, in bytes: SQLite wants name + 8 to fit in 512.
const NAME_BYTES_MAX: usize = 504;

/// Longest address of a node, bytes.
const ADDRESS_BYTES_MAX: usize = 4096;

/// What each page of a dump costs while it waits, bytes.
const DUMPED_PAGE_BYTES: usize = 128;

impl Machine {
    pub(super) fn received(&mut self, id: ConnId, bytes: &[u8], out: &mut VecDeque<Output>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let skipped = usize::try_from(conn.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
        conn.skip -= skipped as u64;
        conn.buffer
            .extend_from_slice(bytes.get(skipped..).unwrap_or_default());
        if conn.request.is_some() || conn.is_backed_up() {
            self.seen_while_busy(id, out);
        } else {
            self.pump(id, out);
        }
        self.recount(id);
    }

    /// A request is at work, or answers pile up: stop reading when enough is there, and let an INTERRUPT end rows.
    fn seen_while_busy(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.buffer.len() >= READ_AHEAD_BYTES && !conn.paused {
            conn.paused = true;
            out.push_back(Output::Pause(id));
        }
        if conn.peek_kind() != Some(request_type::INTERRUPT) {
            return;
        }
        if is_broken(Mutant::InterruptOvertakes) {
            let limit = self.settings.request_bytes_max;
            if matches!(conn.next_frame(limit), Frame::Message(..)) {
                self.answer(id, &Response::Empty, out);
            }
            return;
        }
        let Some(request) = &conn.request else { return };
        if !request.only_reads && !is_broken(Mutant::InterruptWrites) {
            return;
        }
        match request.phase {
            // The rows that were to come are not sent; EMPTY ends the exchange.
            Phase::Drain => self.cut_rows(id, out),
            Phase::Running if request.sent_rows => {
                if let Some(session) = &conn.session {
                    session.interrupt.interrupt();
                }
            }
            _ => {}
        }
    }

    /// Handles what the buffer holds, one request after the other, until one has to wait.
    pub(super) fn pump(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        loop {
            let limit = self.settings.request_bytes_max;
            let Some(conn) = self.conns.get_mut(&id) else {
                return;
            };
            if conn.request.is_some() {
                return;
            }
            if conn.gone {
                self.forget(id, out);
                return;
            }
            if conn.is_backed_up() {
                return;
            }
            let frame = match &conn.stage {
                Stage::Handshake => {
                    if !conn.handshake() {
                        self.hang_up(id, out);
                        return;
                    }
                    match conn.stage {
                        Stage::Handshake => Frame::Incomplete,
                        _ => continue,
                    }
                }
                Stage::Client { .. } => conn.next_frame(limit),
                Stage::Peer { .. } => {
                    self.peer_bytes(id, out);
                    return;
                }
            };
            let ends = frame == Frame::Bad || frame == Frame::Incomplete && conn.eof;
            if ends && conn.owed > UNASKED_BYTES {
                // Much of what it asked for before waits to be read, and would not be counted any more.
                return;
            }
            match frame {
                Frame::Message(header, body) => {
                    conn.asked = (header.kind, self.micros);
                    self.counters.request(header.kind);
                    self.handle(id, header, &body, out);
                }
                Frame::Bad => self.hang_up(id, out),
                Frame::Incomplete => {
                    if conn.eof {
                        self.hang_up(id, out);
                    } else if conn.paused {
                        conn.paused = false;
                        out.push_back(Output::Resume(id));
                    }
                    return;
                }
            }
        }
    }

    pub(super) fn half_closed(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.eof = true;
        self.pump(id, out);
        let busy = |conn: &Conn| conn.request.is_some();
        if self.conns.get(&id).is_some_and(|conn| busy(conn)) {
            self.look_again(id, self.now + LEAVE_MS);
        }
    }

    /// A connection is to be looked at by [`Machine::interrupt_leavers`] at this time, once.
    pub(super) fn look_again(&mut self, id: ConnId, at: u64) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.leaves_at.is_none_or(|before| before > at) {
            if let Some(before) = conn.leaves_at.replace(at) {
                self.leaving.remove(&(before, id));
            }
            self.leaving.insert((at, id));
        }
    }

    /// Interrupts what is read for clients that have been silent for too long after they said that
    /// they send no more, and what has to give its version back. Whether they still listen cannot be seen: a socket that is closed and one
    /// that is closed in one direction look the same until something is sent.
    pub(super) fn interrupt_leavers(&mut self) {
        while let Some(&(at, id)) = self.leaving.first()
            && at <= self.now
        {
            self.leaving.pop_first();
            let Some(conn) = self.conns.get_mut(&id) else {
                continue;
            };
            conn.leaves_at = None;
            let Some(request) = &conn.request else {
                continue;
            };
            let outdated = conn
                .session
                .as_ref()
                .is_some_and(|session| session.outdated);
            if let (Phase::Running, Some(session)) = (&request.phase, &conn.session)
                && (conn.eof && request.only_reads || outdated)
            {
                session.interrupt.interrupt();
            }
            // An interrupt does nothing to a statement that still waits for a worker.
            if conn.eof || outdated {
                self.look_again(id, self.now + LEAVE_AGAIN_MS);
            }
        }
    }

    pub(super) fn closed(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.gone = true;
        let Some(request) = &conn.request else {
            self.forget(id, out);
            return;
        };
        match request.phase {
            Phase::Drain => self.forget(id, out),
            Phase::Running if request.only_reads => {
                if let Some(session) = &conn.session {
                    session.interrupt.end();
                }
            }
            // The request goes on for its effect: a client that leaves does not take it back.
            _ => {}
        }
    }

    /// Closes a connection from our side.
    pub(super) fn hang_up(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        out.push_back(Output::Close(id));
        self.forget(id, out);
    }

    /// Drops a connection and all that it holds: its transaction is rolled back, its slot freed.
    pub(super) fn forget(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        self.gated.remove(&id);
        self.asking.remove(&id);
        let Some(conn) = self.conns.remove(&id) else {
            return;
        };
        self.receivers.remove(&id);
        self.uncount(conn.counted);
        if let Some(at) = conn.leaves_at {
            self.leaving.remove(&(at, id));
        }
        self.readers.let_go(id);
        if let Some(session) = conn.session {
            let name = session.database.clone();
            drop(session);
            self.left(id, &name, out);
        }
    }

    /// One request. Its answer is pushed, or it is left at work on the connection.
    pub(super) fn handle(
        &mut self,
        id: ConnId,
        header: Header,
        body: &Bytes,
        out: &mut VecDeque<Output>,
    ) {
        let request = match WireRequest::decode(&header, body) {
            Ok(request) => request,
            Err(error) => {
                return match error.failure() {
                    Some((code, message)) => self.refuse(id, code, message, out),
                    None => self.hang_up(id, out),
                };
            }
        };
        let leading = self.epoch.is_some();
        let is_membership = matches!(
            request,
            WireRequest::Add { .. }
                | WireRequest::Assign { .. }
                | WireRequest::Promote { .. }
                | WireRequest::Remove { .. }
                | WireRequest::Transfer { .. }
        );
        if is_membership && !leading {
            return self.refuse_with(id, &NOT_LEADER, out);
        }
        if is_membership && !self.open {
            // What the leader before began is not known to be done: busy, for a moment. An
            // application that has just handed leadership over goes on with its vote at once.
            let request = Request::new(Task::Change(header, body.clone()), body.len());
            return self.begin(id, request, out);
        }
        let handing_over = self.is_changing_hands();
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let first = !std::mem::replace(&mut conn.used, true);
        match request {
            WireRequest::Leader => {
                let legacy = conn.stage == Stage::Client { legacy: true };
                if handing_over && self.known_leader(legacy).is_none() {
                    return self.ask_later(id, legacy);
                }
                self.tell_leader(id, legacy, out);
            }
            WireRequest::Client { .. } => {
                self.answer(
                    id,
                    &Response::Welcome {
                        heartbeat_ms: HEARTBEAT_MS,
                    },
                    out,
                );
            }
            WireRequest::Open { name, .. } => {
                if !leading {
                    return self.refuse_with(id, &NOT_LEADER, out);
                }
                if conn.session.is_some() {
                    let text = "a database for this connection is already open";
                    return self.refuse(id, 5, text, out);
                }
                if name.len() > NAME_BYTES_MAX {
                    return self.hang_up(id, out);
                }
                // Names that SQLite would not take for a file of ours.
                let special = name.is_empty() || name == b":memory:";
                if special || name.ends_with(b"-wal") || name.ends_with(b"-journal") {
                    return self.refuse(id, 14, "unable to open database file", out);
                }
                // A share of the body would keep all of it for as long as the database exists.
                let name = Bytes::copy_from_slice(name);
                self.begin(id, Request::new(Task::Open(name), 0), out);
            }
            WireRequest::Prepare { schema, db, sql } => {
                let work = Work::Prepare {
                    sql: SqlText::within(body, sql),
                    tail: schema == 1,
                };
                self.statement(id, db, None, work, body.len(), out);
            }
            WireRequest::Exec { db, stmt, params } => {
                let work = Work::Exec(Call::new(stmt, params_of(body, params)));
                self.statement(id, db.into(), Some(stmt), work, body.len(), out);
            }
            WireRequest::Query { db, stmt, params } => {
                let work = Work::Query(Call::new(stmt, params_of(body, params)));
                self.statement(id, db.into(), Some(stmt), work, body.len(), out);
            }
            WireRequest::ExecSql { db, sql, params } => {
                let text = Text::new(SqlText::within(body, sql), params_of(body, params));
                let work = Work::ExecText(text);
                self.statement(id, db, None, work, body.len(), out);
            }
            WireRequest::QuerySql { db, sql, params } => {
                let text = Text::new(SqlText::within(body, sql), params_of(body, params));
                let work = Work::QueryText(text);
                self.statement(id, db, None, work, body.len(), out);
            }
            WireRequest::Finalize { db, stmt } => {
                let handle = match (&mut conn.session, db) {
                    (Some(session), 0) => session.handle.as_mut(),
                    _ => return self.refuse(id, 12, "no database opened", out),
                };
                let known = handle.is_some_and(|handle| handle.finalize(stmt));
                if let Some(session) = &mut conn.session {
                    let handle = session.handle.as_deref();
                    session.statements = handle.map_or(0, Handle::statement_bytes);
                }
                if known {
                    self.answer(id, &Response::Empty, out);
                } else {
                    self.refuse(id, 12, "no statement with the given id", out);
                }
            }
            WireRequest::Interrupt { .. } => self.answer(id, &Response::Empty, out),
            WireRequest::Connect { id: peer, address } => {
                let address = String::from_utf8_lossy(address).into_owned();
                if !first || peer == 0 || address.len() > ADDRESS_BYTES_MAX {
                    return self.hang_up(id, out);
                }
                log::debug!(
                    "node {}: peer {peer} at {address} connected",
                    self.settings.id
                );
                conn.stage = Stage::Peer {
                    id: peer,
                    address,
                    receiving: None,
                };
            }
            WireRequest::Add {
                id: server,
                address,
            } => {
                let address = String::from_utf8_lossy(address).into_owned();
                let started = self.driver.add(self.now, server, &address).map(Some);
                self.membership(id, started, out);
            }
            WireRequest::Assign { id: server, role } => {
                // A slip of the original that clients may have come to rely on: a role that does
                // not exist is taken for standby.
                let role = Role::from_wire(role).unwrap_or(Role::Standby);
                self.roles.silence(self.now);
                let started = self.driver.assign(self.now, server, role).map(Some);
                self.membership(id, started, out);
            }
            WireRequest::Promote { id: server } => {
                self.roles.silence(self.now);
                let started = self.driver.assign(self.now, server, Role::Voter).map(Some);
                self.membership(id, started, out);
            }
            WireRequest::Remove { id: server } => {
                let started = self.driver.remove(self.now, server).map(Some);
                self.membership(id, started, out);
            }
            WireRequest::Transfer { id: server } => {
                let started = self.driver.transfer(self.now, server).map(|()| None);
                self.membership(id, started, out);
            }
            WireRequest::Dump { name } => self.dump(id, name, out),
            WireRequest::Cluster { format } => {
                let configuration = self.driver.configuration().clone();
                match Response::servers(&configuration, format) {
                    Some(response) => self.answer(id, &response, out),
                    None => self.refuse(id, 1005, "unrecognized cluster format", out),
                }
            }
            WireRequest::Describe { format } => {
                if format != 0 {
                    return self.refuse(id, 15, "bad format version", out);
                }
                let failure_domain = self.settings.failure_domain;
                let weight = self.weight;
                self.answer(
                    id,
                    &Response::Metadata {
                        failure_domain,
                        weight,
                    },
                    out,
                );
            }
            WireRequest::Weight { weight } => {
                self.weight = weight;
                self.answer(id, &Response::Empty, out);
            }
        }
    }

    /// EXEC, QUERY, PREPARE in their forms: the checks before anything is run.
    fn statement(
        &mut self,
        id: ConnId,
        db: u64,
        stmt: Option<u32>,
        work: Work,
        size: usize,
        out: &mut VecDeque<Output>,
    ) {
        if self.epoch.is_none() {
            return self.refuse_with(id, &NOT_LEADER, out);
        }
        let session = match self.conns.get_mut(&id).map(|conn| &mut conn.session) {
            Some(Some(session)) if db == 0 => session,
            _ => return self.refuse(id, 12, "no database opened", out),
        };
        if let (Some(stmt), Some(handle)) = (stmt, &session.handle)
            && !handle.has_statement(stmt)
        {
            return self.refuse(id, 12, "no statement with the given id", out);
        }
        if std::mem::take(&mut session.outdated) {
            return self.refuse_with(id, &OUTDATED, out);
        }
        let mut request = Request::new(Task::Sql(Some(work)), size);
        request.ticket = self.driver.read_ticket(self.now);
        self.begin(id, request, out);
    }

    fn begin(&mut self, id: ConnId, request: Request, out: &mut VecDeque<Output>) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.request = Some(request);
            self.dispatch(id, true, out);
        }
    }

    /// Leaves the request waiting for raft, or answers what raft said at once.
    fn membership(
        &mut self,
        id: ConnId,
        started: Result<Option<ChangeToken>, ChangeError>,
        out: &mut VecDeque<Output>,
    ) {
        match started {
            Ok(token) => {
                if let Some(conn) = self.conns.get_mut(&id) {
                    let mut request = Request::new(Task::Membership(token), 0);
                    request.phase = Phase::Raft;
                    conn.request = Some(request);
                }
            }
            Err(error) => self.refuse(id, error.code(), error.message(), out),
        }
        self.drive(out);
    }

    /// Whether this node has just given leadership away, or is about to.
    fn is_changing_hands(&self) -> bool {
        self.driver.transferring() || self.successor_by.is_some()
    }

    fn ask_later(&mut self, id: ConnId, legacy: bool) {
        if let Some(conn) = self.conns.get_mut(&id) {
            let mut request = Request::new(Task::Leader { legacy }, 0);
            request.phase = Phase::Raft;
            conn.request = Some(request);
            self.asking.insert(id);
            self.asking_until = self.asking_until.or(Some(self.now + ASKING_MS));
        }
    }

    /// Answers who asked for the leader while leadership was given away, once there is one, or it
    /// has taken too long.
    pub(super) fn settle_askers(&mut self, out: &mut VecDeque<Output>) {
        let Some(until) = self.asking_until else {
            return;
        };
        if self.is_changing_hands() && self.known_leader(false).is_none() && self.now < until {
            return;
        }
        self.asking_until = None;
        for id in std::mem::take(&mut self.asking) {
            let Some(Request {
                task: Task::Leader { legacy },
                ..
            }) = self.conns.get(&id).and_then(|conn| conn.request.as_ref())
            else {
                continue;
            };
            self.tell_leader(id, *legacy, out);
            self.finish_request(id, out);
        }
    }

    fn tell_leader(&mut self, id: ConnId, legacy: bool, out: &mut VecDeque<Output>) {
        let (leader, address) = self.known_leader(legacy).unwrap_or_default();
        let address = address.as_bytes();
        let response = match legacy {
            true => Response::ServerLegacy { address },
            false => Response::Server {
                id: leader,
                address,
            },
        };
        self.answer(id, &response, out);
    }

    /// The leader as LEADER reports it: by voters only, and by nobody while it is being handed over.
    ///
    /// A voter that becomes a spare says who leads for a little longer. The original's does not learn
    /// that it is none any more, and so goes on until it misses the leader; clients that know of no
    /// other server, as a go-dqlite application that has just handed over may, depend on that.
    fn known_leader(&self, legacy: bool) -> Option<(u64, String)> {
        let voter = self.now < self.votes_until;
        if !(voter || legacy) || self.driver.transferring() {
            return None;
        }
        self.driver.leader()
    }

    /// DUMP: the committed version, its pages sent as they lie.
    fn dump(&mut self, id: ConnId, name: &[u8], out: &mut VecDeque<Output>) {
        let Some(database) = self.databases.get(name) else {
            return self.refuse(id, 1002, "database does not exists", out);
        };
        let version = database.committed.clone();
        let wal_name = [name, b"-wal"].concat();
        let size = u64::from(version.page_count()) * dq_vfs::PAGE_SIZE as u64;
        let files = [
            FileHead { name, size },
            FileHead {
                name: &wal_name,
                size: 0,
            },
        ];
        let Some(heads) = encode_files(&files, BODY_SIZE_HARD_MAX) else {
            return self.refuse(id, 3, "failed to dump main database file", out);
        };
        let mut heads = heads.into_iter().map(Bytes::from);
        let mut pieces: Vec<Bytes> = heads.next().into_iter().collect();
        pieces.extend(version.pages().map(|page| Bytes::from_owner(page.clone())));
        pieces.extend(heads);
        // The pages themselves are shared.
        let owed = pieces.len() * DUMPED_PAGE_BYTES;
        self.send_shared(id, pieces, owed, false, out);
        if let Some(conn) = self.conns.get_mut(&id)
            && conn.is_backed_up()
        {
            conn.dumped = Some((Bytes::copy_from_slice(name), version));
            self.track(id);
        }
    }

    /// Gives pieces to the socket, and asks to be told when they have left if they are many.
    pub(super) fn send(
        &mut self,
        id: ConnId,
        pieces: Vec<Bytes>,
        notify: bool,
        out: &mut VecDeque<Output>,
    ) {
        let owed = pieces.iter().map(Bytes::len).sum();
        self.send_shared(id, pieces, owed, notify, out);
    }

    /// As [`Machine::send`], for pieces of which only `owed` bytes are not shared with others.
    fn send_shared(
        &mut self,
        id: ConnId,
        pieces: Vec<Bytes>,
        owed: usize,
        notify: bool,
        out: &mut VecDeque<Output>,
    ) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.unsent += pieces.iter().map(Bytes::len).sum::<usize>();
        conn.owed += owed;
        let notify = notify || conn.is_backed_up() || conn.owed > UNASKED_BYTES;
        out.push_back(Output::Send {
            conn: id,
            pieces,
            notify,
        });
        self.recount(id);
    }

    pub(super) fn answer(
        &mut self,
        id: ConnId,
        response: &Response<'_>,
        out: &mut VecDeque<Output>,
    ) {
        let mut bytes = Vec::new();
        response.encode(&mut bytes);
        self.send(id, vec![bytes.into()], false, out);
    }

    pub(super) fn refuse(
        &mut self,
        id: ConnId,
        code: u64,
        message: &str,
        out: &mut VecDeque<Output>,
    ) {
        self.counters.failure(code);
        self.answer(
            id,
            &Response::Failure {
                code,
                message: message.as_bytes(),
            },
            out,
        );
    }

    pub(super) fn refuse_with(&mut self, id: ConnId, why: &Refusal, out: &mut VecDeque<Output>) {
        self.refuse(id, why.code, why.message, out);
    }
}

/// The parameters with their share of the request's bytes.
fn params_of(body: &Bytes, params: Params<'_>) -> ParamsBuf {
    let bytes = params.as_bytes();
    if bytes.is_empty() {
        return ParamsBuf::default();
    }
    // Their head was checked when the request was decoded.
    ParamsBuf::decode(body.slice_ref(bytes), params.schema()).unwrap_or_default()
}
