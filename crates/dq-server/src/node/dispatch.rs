//! Runs statements: the gate, the write slot and its queue, jobs out and back, answers held until
//! what they depend on is committed.
//!
//! ```text
//!  New ─▶ Gate ─▶ Slot ─▶ Running ─▶ Held ─▶ answered
//!                  ▲         │        │
//!                  └ NeedSlot┘        └▶ Drain ─▶ Running   (rows that go on)
//! ```
//!
//! The slot belongs to one connection: for a request, from when it may write until it ends, and
//! while its transaction is open. It is free again before the answer leaves: the next writer runs
//! on top of what is still being replicated.

use std::collections::VecDeque;

use bytes::Bytes;
use dq_raft::mutants::{Mutant, is_broken};
use dq_raft::{EntryKind, Payload, Proof};
use dq_vfs::{Capture, Db, TxnState};
use dq_wire::BARRIER_PAYLOAD;
use dq_wire::response::Response;

use super::{Machine, Output};
use crate::conn::{ConnId, Phase, Request, Session, Task};
use crate::error::{
    BUSY, EXEC_FAILED, FULL, FULL_SQLITE, LEADERSHIP_LOST, NOT_LEADER, NOT_LEADER_SQLITE, Refusal,
};
use crate::exec::{Finished, Handle, Job, Outcome, TypedNull};
use crate::registry::{Database, Waiter};

/// Codes that may leave at once: they say nothing about data that is not committed.
const DATA_FREE_CODES: [u64; 4] = [5, 517, 10250, 10506];

/// Statements of one text that run on the event loop; the rest take turns through a worker.
const INLINE_YIELDS: u32 = 256;

impl Machine {
    /// Moves the connection's request on as far as it goes. `inline` is a wish: what turns out to be
    /// long comes back and is dispatched to a worker.
    pub(super) fn dispatch(&mut self, id: ConnId, inline: bool, out: &mut VecDeque<Output>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let Some(request) = &mut conn.request else {
            return;
        };
        if self.epoch.is_none() {
            return self.finish_refused(id, &NOT_LEADER, out);
        }
        if !self.open {
            request.phase = Phase::Gate;
            self.gated.insert(id);
            return;
        }
        let large = matches!(&request.task, Task::Sql(Some(work)) if work.is_large());
        match &mut request.task {
            Task::Open(name) => {
                let name = name.clone();
                self.open_database(id, name, out);
            }
            Task::Sql(_) => {
                // Inline, nothing runs beside a job, so holding a free slot for it costs nobody
                // anything and saves a statement that writes a second round.
                if inline && !large {
                    self.take_free_slot(id);
                }
                self.execute(id, inline, out);
            }
            Task::Change(header, body) => {
                let (header, body) = (*header, body.clone());
                conn.request = None;
                self.handle(id, header, &body, out);
                self.pump(id, out);
            }
            Task::Membership(_) | Task::Leader { .. } => {}
        }
    }

    fn open_database(&mut self, id: ConnId, name: Bytes, out: &mut VecDeque<Output>) {
        if !self.databases.contains_key(&name) {
            let number = self.next_version();
            let empty = Database::new(dq_vfs::Version::empty(number));
            self.databases.insert(name.clone(), empty);
        }
        let database = self
            .databases
            .get_mut(&name)
            .expect("it was just found or made");
        let opened = Db::open(&self.vfs, &name, database.committed.clone());
        let mut db = match opened {
            Ok(db) => db,
            Err(error) => {
                log::warn!("node {}: open failed: {error}", self.settings.id);
                self.drop_if_unused(&name);
                return self.hang_up(id, out);
            }
        };
        db.set_page_limit(self.settings.transaction_bytes_max);
        database.opens += 1;
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        self.sessions += 1;
        conn.session = Some(Session {
            serial: self.sessions,
            database: name,
            interrupt: db.interrupt_handle(),
            handle: Some(Box::new(Handle::new(db))),
            statements: 0,
            seen: 0,
            proven: false,
            outdated: false,
        });
        self.answer(id, &Response::Db { id: 0 }, out);
        self.finish_request(id, out);
    }

    fn take_free_slot(&mut self, id: ConnId) {
        let room = self.has_room();
        if let Some(database) = self.database_of(id)
            && database.slot.is_none()
            && database.waiters.is_empty()
            && room
        {
            database.slot = Some(id);
        }
    }

    fn has_room(&self) -> bool {
        !self.is_far_ahead() && !self.disk_full
    }

    /// So much is executed and not applied that nothing more should be.
    fn is_far_ahead(&self) -> bool {
        self.speculative_bytes > self.settings.speculative_bytes_max && !is_broken(Mutant::RunAhead)
    }

    fn holds_slot(&self, id: ConnId, name: &Bytes) -> bool {
        let database = self.databases.get(name);
        database.is_some_and(|database| database.slot == Some(id))
    }

    fn database_of(&mut self, id: ConnId) -> Option<&mut Database> {
        let session = self.conns.get(&id)?.session.as_ref()?;
        self.databases.get_mut(&session.database)
    }

    /// Sends the request's work out as a job, with what it holds.
    fn execute(&mut self, id: ConnId, inline: bool, out: &mut VecDeque<Output>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let (Some(session), Some(request)) = (&mut conn.session, &mut conn.request) else {
            return;
        };
        let Some(database) = self.databases.get_mut(&session.database) else {
            return;
        };
        let Task::Sql(work) = &mut request.task else {
            return;
        };
        let (Some(work), Some(handle)) = (work.take(), session.handle.take()) else {
            return;
        };
        let inline = inline && !work.is_large();
        let slot = database.slot == Some(id);
        if slot {
            database.settle_waits(self.now);
        }
        // What the client has seen, it must go on seeing, also while it is being replicated.
        let committed_suffices =
            session.seen <= database.committed.number() || is_broken(Mutant::ForgetOwnWrites);
        let read_pin = if committed_suffices {
            &database.committed
        } else {
            &database.head
        };
        let refuse = match (self.driver.transferring(), self.disk_full) {
            (true, _) => Some(NOT_LEADER_SQLITE),
            (false, true) => Some(FULL_SQLITE),
            (false, false) => None,
        };
        request.phase = Phase::Running;
        // On the event loop it is over before anything moves on.
        if !inline && !self.readers.has(id) {
            self.readers.hold(id, &session.database, read_pin.clone());
        }
        let job = Job {
            session: session.serial,
            handle,
            work,
            read_pin: read_pin.clone(),
            head: database.head.clone(),
            slot,
            refuse,
            inline,
            typed_null: TypedNull::from_setting(self.settings.null_in_typed_columns),
        };
        out.push_back(Output::Execute(id, Box::new(job)));
    }

    /// A job is back.
    pub(super) fn finished(&mut self, id: ConnId, finished: Finished, out: &mut VecDeque<Output>) {
        let Finished {
            session: serial,
            mut handle,
            work,
            outcome,
            captures,
            pinned,
        } = finished;
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        // The epoch of an earlier session ended while its job ran; the client has had its answer.
        let Some(session) = conn
            .session
            .as_mut()
            .filter(|session| session.serial == serial)
        else {
            let name = conn.session.as_ref().map(|other| other.database.clone());
            if let Some(name) = name.filter(|_| is_broken(Mutant::PublishUnchecked)) {
                self.publish_unchecked(&name, &captures);
            }
            return;
        };
        if !is_broken(Mutant::ForgetPinned) {
            session.seen = session.seen.max(pinned);
        }
        session.proven &= !handle.autocommit();
        let name = session.database.clone();
        if let Err(why) = self.publish(id, &name, &mut handle, &captures) {
            log::error!("node {}: a commit was refused: {why}", self.settings.id);
            return self.break_session(id, out);
        }
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let (Some(session), Some(request)) = (&mut conn.session, &mut conn.request) else {
            return;
        };
        let in_transaction = !handle.autocommit();
        let writing = handle.txn_state() == TxnState::Write;
        let stale = handle.txn_state() == TxnState::Read
            && handle.db().pinned().is_some_and(|pin| {
                self.databases
                    .get(&name)
                    .is_some_and(|db| db.head.number() != pin)
            });
        session.statements = handle.statement_bytes();
        session.handle = Some(handle);
        if let Task::Sql(slot) = &mut request.task {
            *slot = Some(work);
        }
        let outdated = std::mem::take(&mut session.outdated) && captures.is_empty();
        // What it pins, if anything, is its transaction's business from here on.
        self.track(id);
        if outdated {
            self.free_slot(id, &name, false, out);
            return self.end_outdated(id, out);
        }
        let waits = self.is_far_ahead()
            && !self.disk_full
            && self.holds_slot(id, &name)
            && !is_broken(Mutant::TextRunsAhead);
        let Some(request) = self.conns.get_mut(&id).and_then(|c| c.request.as_mut()) else {
            return;
        };
        match outcome {
            Outcome::Yield if waits => {
                // It goes on with the slot that it has when there is room for more.
                request.phase = Phase::Slot;
                self.crowded.insert(name);
            }
            Outcome::Yield => {
                // A text of very many statements takes turns with everybody else.
                request.yields = request.yields.saturating_add(1);
                let inline = request.yields < INLINE_YIELDS;
                self.dispatch(id, inline, out);
            }
            Outcome::NeedSlot => self.want_slot(id, true, stale, out),
            Outcome::Elsewhere { writes: true } => self.want_slot(id, false, stale, out),
            Outcome::Elsewhere { writes: false } => {
                request.only_reads = true;
                if !writing {
                    self.free_slot(id, &name, in_transaction, out);
                }
                self.execute(id, false, out);
            }
            outcome => self.conclude(id, &name, outcome, in_transaction, writing, out),
        }
    }

    /// The job answered the request, or made some of its rows.
    fn conclude(
        &mut self,
        id: ConnId,
        name: &Bytes,
        outcome: Outcome,
        in_transaction: bool,
        writing: bool,
        out: &mut VecDeque<Output>,
    ) {
        let mut last = true;
        let mut data_free = false;
        let mut bytes = Vec::new();
        match outcome {
            Outcome::Executed {
                last_insert_id,
                rows_affected,
            } => {
                Response::Result {
                    last_insert_id,
                    rows_affected,
                }
                .encode(&mut bytes);
            }
            Outcome::Prepared {
                id: stmt,
                params,
                tail,
            } => {
                Response::Stmt {
                    db: 0,
                    id: stmt,
                    params,
                    tail,
                }
                .encode(&mut bytes);
            }
            Outcome::Rows { messages, done } => {
                bytes = messages;
                last = done;
            }
            Outcome::Failed {
                messages,
                mut code,
                mut message,
            } => {
                let request = self.conns.get(&id).and_then(|conn| conn.request.as_ref());
                let begun = request.is_some_and(|request| request.published > 0);
                if code == NOT_LEADER.code && begun && !is_broken(Mutant::PartlyDoneRefused) {
                    // What came before in the text is done, so the whole must not be sent again.
                    code = LEADERSHIP_LOST.code;
                    message = LEADERSHIP_LOST.message.as_bytes().to_vec();
                }
                data_free = messages.is_empty() && DATA_FREE_CODES.contains(&code)
                    || is_broken(Mutant::ErrorsAtOnce);
                bytes = messages;
                self.counters.failure(code);
                Response::Failure {
                    code,
                    message: &message,
                }
                .encode(&mut bytes);
            }
            Outcome::Yield | Outcome::NeedSlot | Outcome::Elsewhere { .. } => return,
        }
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let (Some(session), Some(request)) = (&conn.session, &mut conn.request) else {
            return;
        };
        request.sent_rows |= !last;
        // Rows that stream from a statement which holds no write transaction only read.
        request.only_reads = !last && !writing;
        // An entry of its own, proposed after it arrived and applied, proves leadership too.
        let unproven = is_broken(Mutant::NoProofForWrites) && !request.only_reads && last;
        let at_once = is_broken(Mutant::StreamAtOnce) && !last;
        if unproven
            || at_once
            || data_free
            || request.published > 0
            || (in_transaction && session.proven)
        {
            request.ticket = None;
        }
        let version = match data_free || at_once {
            true => 0,
            false => session.seen,
        };
        request.phase = Phase::Held {
            version,
            answer: vec![bytes.into()],
            last,
        };
        if last || !writing {
            self.free_slot(id, name, writing && in_transaction, out);
        }
        self.recount(id);
        self.settle(id, out);
    }

    /// Lets a held answer leave if nothing stands in its way; else notes what it waits for.
    pub(super) fn settle(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let (Some(session), Some(request)) = (&mut conn.session, &mut conn.request) else {
            return;
        };
        let Phase::Held { version, .. } = request.phase else {
            return;
        };
        if let Some(database) = self.databases.get_mut(&session.database)
            && version > database.committed.number()
            && !is_broken(Mutant::AnswerBeforeCommit)
        {
            database.awaiting.insert((version, id));
            return;
        }
        if let Some(ticket) = &request.ticket {
            if self.driver.proof(ticket) != Proof::Proven {
                self.proving.insert(id);
                return;
            }
            request.ticket = None;
            // Only what is pinned by now is covered by this proof.
            session.proven = session
                .handle
                .as_ref()
                .is_some_and(|handle| handle.txn_state() != TxnState::None && !handle.autocommit());
        }
        if let Phase::Held { answer, last, .. } =
            std::mem::replace(&mut request.phase, Phase::Running)
        {
            self.deliver(id, answer, last, out);
        }
    }

    /// Answers that wait for a proof of leadership: lets those leave that have it.
    pub(super) fn settle_proofs(&mut self, out: &mut VecDeque<Output>) {
        for id in std::mem::take(&mut self.proving) {
            self.settle(id, out);
        }
    }

    /// At a turn's end: asks for the proofs that are still missing, once for all that have come
    /// since the last question. With nodes in the majority that do not answer such questions, a fresh
    /// entry takes their place.
    pub(super) fn seek_proofs(&mut self) {
        if self.proving.is_empty() || self.driver.transferring() {
            return;
        }
        let (mut unasked, mut fresh) = (false, false);
        for id in &self.proving {
            let request = self.conns.get(id).and_then(|conn| conn.request.as_ref());
            if let Some(ticket) = request.and_then(|request| request.ticket.as_ref()) {
                let proof = self.driver.proof(ticket);
                unasked |= proof == Proof::Unasked;
                fresh |= proof == Proof::FreshEntry;
            }
        }
        if fresh {
            let barrier = Payload::from(Bytes::from_static(&BARRIER_PAYLOAD));
            let barrier = vec![(EntryKind::Barrier, barrier)];
            if let Err(error) = self.driver.propose(self.now, barrier) {
                log::debug!("node {}: no barrier: {error}", self.settings.id);
            }
        }
        if unasked {
            self.driver.confirm(self.now);
        }
    }

    /// Sends an answer whose conditions are met.
    fn deliver(&mut self, id: ConnId, pieces: Vec<Bytes>, last: bool, out: &mut VecDeque<Output>) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        if conn.gone {
            if !last {
                return self.forget(id, out);
            }
        } else {
            self.send(id, pieces, !last, out);
        }
        if last {
            self.finish_request(id, out);
        } else if let Some(request) =
            (self.conns.get_mut(&id)).and_then(|conn| conn.request.as_mut())
        {
            request.phase = Phase::Drain;
        }
    }

    /// The socket has taken all it was given: make more rows, or look at the next request.
    pub(super) fn drained(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.unsent = 0;
        conn.owed = 0;
        if conn.dumped.take().is_some() {
            self.track(id);
        }
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        match &conn.request {
            Some(request) if matches!(request.phase, Phase::Drain) => {
                self.execute(id, false, out);
            }
            Some(_) => {}
            None => self.pump(id, out),
        }
        self.recount(id);
    }

    /// Ends rows in mid-stream: what was sent stays sent, the statement is reset.
    pub(super) fn cut_rows(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        self.cancel_request(id);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if conn.request.take().is_none() {
            return;
        }
        self.counters.answered(conn.asked, self.micros);
        self.pump(id, out);
        self.recount(id);
    }

    /// The request needs the write slot before it can go on.
    fn want_slot(&mut self, id: ConnId, inline: bool, stale: bool, out: &mut VecDeque<Output>) {
        let room = self.has_room();
        let now = self.now;
        let busy_timeout_ms = self.settings.busy_timeout_ms;
        let Some(database) = self.database_of(id) else {
            return;
        };
        if database.slot == Some(id) {
            return self.execute(id, inline, out);
        }
        if self.disk_full {
            return self.finish_refused(id, &FULL, out);
        }
        let Some(database) = self.database_of(id) else {
            return;
        };
        if stale {
            // Its snapshot is not the newest: SQLite refuses the write whoever holds the slot.
            return self.execute_refused(id, out);
        }
        if database.slot.is_none() && database.waiters.is_empty() && room {
            database.slot = Some(id);
            return self.execute(id, inline, out);
        }
        if database.held_since.is_some() && busy_timeout_ms == 0 {
            return self.finish_refused(id, &BUSY, out);
        }
        let crowded = database.slot.is_none();
        database.waiters.push_back(Waiter {
            conn: id,
            waited_ms: 0,
            since: now,
        });
        if let Some(conn) = self.conns.get_mut(&id) {
            if let Some(request) = &mut conn.request {
                request.phase = Phase::Slot;
            }
            if let (true, Some(session)) = (crowded, &conn.session) {
                self.crowded.insert(session.database.clone());
            }
        }
    }

    /// SQLITE_BUSY_SNAPSHOT: the transaction stays open, the client has to roll back.
    fn execute_refused(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        self.finish_refused(
            id,
            &Refusal {
                code: 517,
                message: BUSY.message,
            },
            out,
        );
    }

    /// The request has ended, or given up its claim to write: keep the slot only for an open
    /// transaction, else hand it to the next in the queue.
    pub(super) fn free_slot(
        &mut self,
        id: ConnId,
        name: &Bytes,
        keep: bool,
        out: &mut VecDeque<Output>,
    ) {
        let now = self.now;
        let busy_timeout_ms = self.settings.busy_timeout_ms;
        let Some(database) = self.databases.get_mut(name) else {
            return;
        };
        if database.slot != Some(id) {
            return;
        }
        if keep {
            database.held_since.get_or_insert(now);
            if busy_timeout_ms == 0 {
                self.expire_waiters(out);
            }
            return;
        }
        database.settle_waits(now);
        database.slot = None;
        self.next_writer(name, out);
    }

    /// Gives the free slot to the first in the queue.
    pub(super) fn next_writer(&mut self, name: &Bytes, out: &mut VecDeque<Output>) {
        let room = self.has_room();
        let Some(database) = self.databases.get_mut(name) else {
            return;
        };
        let holder = database.slot.filter(|id| {
            let request = self.conns.get(id).and_then(|conn| conn.request.as_ref());
            request.is_some_and(|request| matches!(request.phase, Phase::Slot))
        });
        if holder.is_none() && (database.slot.is_some() || database.waiters.is_empty()) {
            return;
        }
        if let (Some(id), true) = (holder, room) {
            return self.execute(id, false, out);
        }
        if !room {
            self.crowded.insert(name.clone());
            return;
        }
        let Some(waiter) = database.waiters.pop_front() else {
            return;
        };
        database.slot = Some(waiter.conn);
        let slow = self.conns.get(&waiter.conn).is_some_and(|conn| {
            matches!(&conn.request, Some(Request { task: Task::Sql(Some(work)), .. })
                if conn.session.as_ref().and_then(|s| s.handle.as_deref())
                    .is_some_and(|handle| work.next_is_slow(handle)))
        });
        self.execute(waiter.conn, !slow, out);
    }

    /// Fails the waiters whose time is up.
    pub(super) fn expire_waiters(&mut self, out: &mut VecDeque<Output>) {
        let timeout_ms = self.settings.busy_timeout_ms;
        let now = self.now;
        let mut expired = Vec::new();
        for database in self.databases.values_mut() {
            while database
                .busy_deadline(timeout_ms)
                .is_some_and(|at| at <= now)
            {
                expired.extend(database.waiters.pop_front().map(|waiter| waiter.conn));
            }
        }
        for id in expired {
            self.finish_refused(id, &BUSY, out);
        }
    }

    /// Answers a request that did not run, or whose end is not known.
    pub(super) fn finish_refused(&mut self, id: ConnId, why: &Refusal, out: &mut VecDeque<Output>) {
        self.cancel_request(id);
        if self.conns.get(&id).is_some_and(|conn| !conn.gone) {
            self.refuse_with(id, why, out);
        }
        self.finish_request(id, out);
    }

    /// Ends the statement of the request at work, unless a job has it.
    pub(super) fn cancel_request(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let handle = conn
            .session
            .as_mut()
            .and_then(|session| session.handle.as_mut());
        if let (
            Some(Request {
                task: Task::Sql(work),
                ..
            }),
            Some(handle),
        ) = (&mut conn.request, handle)
            && let Some(work) = work.take()
        {
            work.cancel(handle);
            self.track(id);
        }
    }

    /// The request is answered: on to the next.
    pub(super) fn finish_request(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.request = None;
            self.counters.answered(conn.asked, self.micros);
            self.pump(id, out);
            self.recount(id);
        }
    }

    /// A connection has let go of its database.
    pub(super) fn left(&mut self, id: ConnId, name: &Bytes, out: &mut VecDeque<Output>) {
        let now = self.now;
        let Some(database) = self.databases.get_mut(name) else {
            return;
        };
        self.readers.let_go(id);
        database.opens = database.opens.saturating_sub(1);
        database.waiters.retain(|waiter| waiter.conn != id);
        database.awaiting.retain(|(_, conn)| *conn != id);
        if database.slot == Some(id) && !is_broken(Mutant::KeepSlot) {
            database.settle_waits(now);
            database.slot = None;
            self.next_writer(name, out);
        }
        self.drop_if_unused(name);
    }

    /// Answers whose version is now committed leave.
    pub(super) fn release(&mut self, name: &Bytes, out: &mut VecDeque<Output>) {
        let Some(database) = self.databases.get_mut(name) else {
            return;
        };
        let committed = database.committed.number();
        let later = database.awaiting.split_off(&(committed + 1, 0));
        let ready = std::mem::replace(&mut database.awaiting, later);
        for (_, id) in ready {
            self.settle(id, out);
        }
    }

    /// Makes versions of what a job committed.
    fn publish(
        &mut self,
        id: ConnId,
        name: &Bytes,
        handle: &mut Handle,
        captures: &[Capture],
    ) -> Result<(), String> {
        // All captures of a job name the same base: each goes on top of the ones before it.
        let Some(first) = captures.first() else {
            return Ok(());
        };
        let base = self
            .databases
            .get(name)
            .map(|database| database.head.number());
        if base != Some(first.base) || captures.iter().any(|capture| capture.base != first.base) {
            return Err(format!("made on version {}, head is {base:?}", first.base));
        }
        let sizes = captures.iter().map(|capture| capture.pages.len());
        let size = sizes.sum::<usize>() * dq_vfs::PAGE_SIZE;
        if let Some(database) = self.databases.get_mut(name) {
            database.largest = database.largest.max(size);
        }
        for capture in captures {
            let number = self.next_version();
            let Some(database) = self.databases.get_mut(name) else {
                break;
            };
            if database.slot != Some(id) {
                return Err("made without the write slot".to_owned());
            }
            let version = database
                .publish(capture, number)
                .map_err(|error| error.to_string())?;
            handle.db().published(&version);
            self.speculative_bytes += capture.pages.len() * dq_vfs::PAGE_SIZE;
            self.dirty.insert(name.clone());
            if let Some(conn) = self.conns.get_mut(&id) {
                if let Some(session) = &mut conn.session {
                    session.seen = session.seen.max(number);
                }
                if let Some(request) = &mut conn.request
                    && (request.published == 0 || is_broken(Mutant::LastWriteDecides))
                {
                    request.published = number;
                }
            }
        }
        Ok(())
    }

    /// What a worker would do that makes versions by itself, as soon as its job has committed.
    fn publish_unchecked(&mut self, name: &Bytes, captures: &[Capture]) {
        for capture in captures {
            let number = self.next_version();
            let database = self.databases.get_mut(name);
            if database.is_some_and(|database| database.publish(capture, number).is_ok()) {
                self.dirty.insert(name.clone());
            }
        }
    }

    /// Something is wrong with this session's commits: it ends, head is what it was.
    fn break_session(&mut self, id: ConnId, out: &mut VecDeque<Output>) {
        let session = self.conns.get_mut(&id).and_then(|conn| conn.session.take());
        if let Some(session) = session {
            let name = session.database.clone();
            drop(session);
            self.left(id, &name, out);
        }
        self.finish_refused(id, &EXEC_FAILED, out);
    }

    /// What a request that an epoch's end cut short is told.
    pub(super) fn verdict(request: &Request, proposed: u64) -> &'static Refusal {
        let perhaps = request.published > 0 && request.published <= proposed;
        if (perhaps || request.sent_rows) && !is_broken(Mutant::CertainlyNotDone) {
            &LEADERSHIP_LOST
        } else {
            &NOT_LEADER
        }
    }
}
