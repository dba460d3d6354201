//! From head to committed: proposing batches, applying entries, ending epochs, snapshots.

use std::collections::VecDeque;

use bytes::Bytes;
use dq_raft::mutants::{Mutant, is_broken};
use dq_raft::{ChangeError, ChangeToken, Effect, EntryKind, LogEntry, SnapshotMeta, Trailing};
use dq_wire::Role;
use dq_wire::response::Response;

use super::{Epoch, InFlight, Machine, Output};
use crate::conn::{ConnId, Task};
use crate::fsm;
use crate::registry::Database;

/// How long a node that has lost its vote says who leads, ms.
const VOTER_MS: u64 = 3_000;

/// How long a transfer of leadership waits to hear from the new leader, ms.
const SUCCESSOR_MS: u64 = 3_000;

impl Machine {
    /// Proposes every batch that has room in its database's pipeline, in one go.
    pub(super) fn propose_batches(&mut self, out: &mut VecDeque<Output>) {
        if !self.open || self.dirty.is_empty() || self.driver.transferring() {
            return;
        }
        let mut entries = Vec::new();
        let mut flights = Vec::new();
        let dirty = std::mem::take(&mut self.dirty);
        for name in dirty {
            let Some(database) = self.databases.get_mut(&name) else {
                continue;
            };
            let proposals = database.take_proposals(&name);
            if proposals.is_empty() && database.has_batches() {
                self.dirty.insert(name);
                continue;
            }
            for proposal in proposals {
                database.in_flight += 1;
                database.proposed = proposal.version.number();
                entries.push((EntryKind::Command, proposal.payload));
                flights.push(InFlight {
                    term: self.driver.term(),
                    database: name.clone(),
                    version: proposal.version,
                    bytes: proposal.published_bytes,
                    transactions: proposal.transactions,
                });
            }
        }
        if entries.is_empty() {
            return;
        }
        let before = self.driver.last_index();
        let count = entries.len() as u64;
        match self.driver.propose(self.now, entries) {
            Ok(last) if last == before + count => {
                self.in_flight.extend((before + 1..).zip(flights));
            }
            outcome => {
                // What clients have executed is not in the log: void it, with this leadership.
                log::warn!(
                    "node {}: raft refused a proposal: {outcome:?}",
                    self.settings.id
                );
                // Raft may still lead (a change that takes this node's vote away is under way,
                // say): without its own end of the epoch no new one would ever begin here.
                self.driver.step_down(self.now);
                self.drive(out);
            }
        }
    }

    /// Carries out what raft wants, and notices what became of leadership.
    pub(super) fn drive(&mut self, out: &mut VecDeque<Output>) {
        let mut effects = std::mem::take(&mut self.effects);
        self.driver.ready(&mut effects);
        for effect in effects.drain(..) {
            self.effect(effect, out);
        }
        self.effects = effects;
        self.open_gate(out);
        self.settle_proofs(out);
        self.settle_transfer(out);
        self.settle_askers(out);
        self.snapshot_if_due(out);
        self.note_vote();
        self.count_leader();
    }

    /// Keeps in mind until when this node counts as a voter for those who ask it for the leader.
    fn note_vote(&mut self) {
        let own = self.driver.configuration().server(self.settings.id);
        match own.map(|server| server.role) {
            Some(Role::Voter) => self.votes_until = u64::MAX,
            Some(Role::Standby) => self.votes_until = 0,
            Some(Role::Spare) | None if self.votes_until == u64::MAX => {
                self.votes_until = self.now + VOTER_MS;
            }
            Some(Role::Spare) | None => {}
        }
    }

    fn effect(&mut self, effect: Effect, out: &mut VecDeque<Output>) {
        match effect {
            Effect::Persist(persist) => out.push_back(Output::Persist(persist)),
            Effect::ReadLog(range) => out.push_back(Output::ReadLog(range)),
            Effect::Apply(entry) => self.apply(&entry, out),
            Effect::Send {
                to,
                address,
                message,
            } => {
                out.push_back(Output::SendPeer {
                    to,
                    address,
                    message,
                });
            }
            Effect::Restore(meta) => self.restore(meta, out),
            Effect::Discard(meta) => {
                self.arrived.retain(|(arrived, _)| *arrived != meta);
                if !is_broken(Mutant::ForgetDiscarded) {
                    out.push_back(Output::Discard(Box::new(meta)));
                }
            }
            Effect::SnapshotWanted => self.snapshot_wanted = true,
            Effect::EpochBegan(epoch) => {
                log::info!("node {}: leads term {}", self.settings.id, epoch.term);
                self.counters.leaderships += 1;
                self.epoch = Some(Epoch {
                    first_index: epoch.first_index,
                });
            }
            Effect::EpochEnded(_) => self.end_epoch(out),
            Effect::ChangeDone { token, result } => self.change_done(Some(token), result, out),
            // Whoever asked wants to know who leads now, and so is told no earlier.
            Effect::TransferDone { result: Ok(()) } => {
                self.successor_by = Some(self.now + SUCCESSOR_MS);
            }
            Effect::TransferDone { result } => self.transfer_done(result, out),
        }
    }

    /// Ends a transfer once its new leader has said so, or has taken too long.
    fn settle_transfer(&mut self, out: &mut VecDeque<Output>) {
        let Some(by) = self.successor_by else { return };
        if self.driver.leader().is_some() || by <= self.now {
            self.successor_by = None;
            self.transfer_done(Ok(()), out);
        }
    }

    fn transfer_done(&mut self, result: Result<(), ChangeError>, out: &mut VecDeque<Output>) {
        if std::mem::take(&mut self.handing_over) {
            out.push_back(Output::HandedOver(result.is_ok()));
        }
        self.change_done(None, result, out);
    }

    /// The membership change or transfer that was under way has ended.
    fn change_done(
        &mut self,
        token: Option<ChangeToken>,
        result: Result<(), ChangeError>,
        out: &mut VecDeque<Output>,
    ) {
        let waiting: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| match &conn.request {
                Some(request) => matches!(&request.task, Task::Membership(t) if *t == token),
                None => false,
            })
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            match result {
                Ok(()) => self.answer(id, &Response::Empty, out),
                Err(error) => self.refuse(id, error.code(), error.message(), out),
            }
            self.finish_request(id, out);
        }
    }

    /// Once everything up to our term's first entry is applied, head is what is committed, and
    /// clients are served.
    fn open_gate(&mut self, out: &mut VecDeque<Output>) {
        let Some(epoch) = self.epoch else { return };
        let applied = self.driver.applied_index() >= epoch.first_index
            || is_broken(Mutant::GateOpensAtElection);
        if self.open || !applied {
            return;
        }
        self.open = true;
        for database in self.databases.values_mut() {
            if !is_broken(Mutant::HeadSurvives) {
                database.head = database.committed.clone();
            }
        }
        for id in std::mem::take(&mut self.gated) {
            self.dispatch(id, true, out);
        }
    }

    /// Ends the epoch: one act, in one step.
    pub(super) fn end_epoch(&mut self, out: &mut VecDeque<Output>) {
        if self.epoch.take().is_none() {
            return;
        }
        log::info!("node {}: leadership ended", self.settings.id);
        self.open = false;
        self.gated.clear();
        self.proving.clear();
        self.crowded.clear();
        self.dirty.clear();
        if !is_broken(Mutant::KeepInFlight) {
            self.in_flight.clear();
        }
        self.speculative_bytes = 0;
        let mut answers = Vec::new();
        for (&id, conn) in &mut self.conns {
            let proposed = conn
                .session
                .as_ref()
                .and_then(|session| self.databases.get(&session.database))
                .map_or(0, |database| database.proposed);
            let session = conn.session.take_if(|_| !is_broken(Mutant::KeepSessions));
            if let Some(session) = session {
                session.interrupt.end();
                self.readers.let_go(id);
                if let Some(database) = self.databases.get_mut(&session.database) {
                    database.opens = database.opens.saturating_sub(1);
                }
            }
            if let Some(request) = &conn.request
                && !matches!(request.task, Task::Membership(_) | Task::Leader { .. })
            {
                answers.push((id, Machine::verdict(request, proposed)));
            }
        }
        self.databases.retain(|_, database| {
            database.reset();
            !database.is_unused()
        });
        for (id, why) in answers {
            self.finish_refused(id, why, out);
        }
    }

    fn apply(&mut self, entry: &LogEntry, out: &mut VecDeque<Output>) {
        self.log_bytes_since_snapshot += entry.payload.len() as u64 + ENTRY_BYTES;
        match entry.kind {
            EntryKind::Command => {}
            EntryKind::Barrier => return,
            EntryKind::Change => {
                let bytes = entry.payload.to_bytes();
                match dq_wire::Configuration::decode(&bytes) {
                    Ok(configuration) => {
                        self.snapshot_configuration = (configuration, entry.index);
                    }
                    Err(error) => {
                        let why = format!("entry {}: bad configuration: {error}", entry.index);
                        self.fail(why, out);
                    }
                }
                return;
            }
        }
        let ours = self
            .in_flight
            .remove(&entry.index)
            .filter(|flight| flight.term == entry.term || is_broken(Mutant::InFlightByIndex));
        let name = match ours {
            Some(InFlight {
                database: name,
                version,
                bytes,
                transactions,
                ..
            }) => {
                self.counters.transactions += transactions;
                if let Some(database) = self.databases.get_mut(&name) {
                    database.in_flight = database.in_flight.saturating_sub(1);
                    self.readers.moved(&database.committed, &version);
                    database.committed = version;
                }
                self.speculative_bytes = self.speculative_bytes.saturating_sub(bytes);
                name
            }
            None => match self.apply_bytes(entry) {
                Ok(Some(name)) => name,
                Ok(None) => return,
                Err(why) => return self.fail(format!("entry {}: {why}", entry.index), out),
            },
        };
        self.release(&name, out);
        if !is_broken(Mutant::ForgetCrowded) {
            self.wake_crowded(out);
        }
        self.drop_if_unused(&name);
    }

    /// There may be room for more writes: those who waited for it go on.
    pub(super) fn wake_crowded(&mut self, out: &mut VecDeque<Output>) {
        for name in std::mem::take(&mut self.crowded) {
            self.next_writer(&name, out);
        }
    }

    /// Applies an entry that this node has not executed itself.
    fn apply_bytes(&mut self, entry: &LogEntry) -> Result<Option<Bytes>, String> {
        let Some(frames) = fsm::frames(&entry.payload)? else {
            return Ok(None);
        };
        let number = self.next_version();
        let name = frames.database.clone();
        let base = match self.databases.get(&name) {
            Some(database) => database.committed.clone(),
            None => dq_vfs::Version::empty(self.next_version()),
        };
        let version = frames.apply_to(&base, number)?;
        let database = self
            .databases
            .entry(name.clone())
            .or_insert_with(|| Database::new(base));
        self.readers.moved(&database.committed, &version);
        database.committed = version;
        if !self.open {
            database.head = database.committed.clone();
        }
        Ok(Some(name))
    }

    /// Lets go of a database that holds nothing and that nobody has open: else whoever opens names without
    /// end would fill the memory.
    pub(super) fn drop_if_unused(&mut self, name: &Bytes) {
        if self.databases.get(name).is_some_and(Database::is_unused) {
            self.databases.remove(name);
        }
    }

    /// Takes a snapshot when enough has been applied since the last one. Cloning versions is all
    /// that it costs here; it is written in the background.
    fn snapshot_if_due(&mut self, out: &mut VecDeque<Output>) {
        let applied = self.driver.applied_index();
        let since = applied.saturating_sub(self.snapshot_index);
        if self.snapshot_running || self.failed || since == 0 {
            return;
        }
        if self.snapshot_wanted {
            self.snapshot_wanted = false;
            return self.take_snapshot(applied, out);
        }
        if since < self.settings.snapshot_threshold {
            return;
        }
        let size: u64 = self
            .databases
            .values()
            .map(|db| u64::from(db.committed.page_count()))
            .sum();
        // Rewriting a large database for a few small entries wears the disk out and gains nothing:
        // wait until the log has grown in proportion, within the bounds that restarts ask for.
        let worthwhile = (size * dq_vfs::PAGE_SIZE as u64 / 2).min(SNAPSHOT_LOG_BYTES);
        if self.log_bytes_since_snapshot < worthwhile {
            return;
        }
        self.take_snapshot(applied, out);
    }

    fn take_snapshot(&mut self, applied: u64, out: &mut VecDeque<Output>) {
        let Some(term) = self.driver.term_at(applied) else {
            return;
        };
        let (configuration, configuration_index) = self.snapshot_configuration.clone();
        let meta = SnapshotMeta {
            index: applied,
            term,
            timestamp: 0,
            configuration,
            configuration_index,
        };
        let databases: Vec<_> = self
            .databases
            .iter()
            .map(|(name, database)| match is_broken(Mutant::SnapshotOfHead) {
                true => (name.clone(), database.head.clone()),
                false => (name.clone(), database.committed.clone()),
            })
            .filter(|(_, version)| !version.holds_nothing())
            .collect();
        let pages: u64 = databases
            .iter()
            .map(|(_, version)| u64::from(version.page_count()))
            .sum();
        self.snapshot_bytes = pages * dq_vfs::PAGE_SIZE as u64;
        self.snapshot_running = true;
        self.log_bytes_since_snapshot = 0;
        out.push_back(Output::Snapshot(Box::new(meta), databases));
    }

    /// The newest snapshot has decayed, or its disk does not give it back. Another one takes its place at once:
    /// else a follower that needs one would have to wait until enough is written, or for an operator.
    pub(super) fn snapshot_unreadable(&mut self, index: u64, out: &mut VecDeque<Output>) {
        if index != self.snapshot_index || self.snapshot_running {
            return;
        }
        log::error!(
            "node {}: the snapshot at {index} cannot be read back: a new one is taken. The disk should be looked at",
            self.settings.id
        );
        // It is as good as none.
        self.snapshot_index = index.saturating_sub(1);
        self.snapshot_wanted = true;
        self.drive(out);
    }

    pub(super) fn snapshot_written(
        &mut self,
        meta: SnapshotMeta,
        written: bool,
        out: &mut VecDeque<Output>,
    ) {
        self.snapshot_running = false;
        if !written {
            self.counters.snapshots_failed += 1;
            return;
        }
        self.counters.snapshots_written += 1;
        self.snapshot_index = self.snapshot_index.max(meta.index);
        let entries = self.settings.snapshot_trailing;
        // Whoever lacks more than the databases take is better off with the snapshot.
        let bytes = match self.settings.snapshot_trailing_dynamic {
            true => self.dynamic_trailing_bytes(),
            false => self.snapshot_bytes.max(TRAILING_BYTES_MIN),
        };
        self.driver
            .snapshot_taken(meta, Trailing { entries, bytes });
        self.drive(out);
    }
}

impl Machine {
    /// What the newest entries may take: as much as the snapshot, and room for as many entries as lie
    /// between two snapshots.
    fn dynamic_trailing_bytes(&self) -> u64 {
        let last = self.driver.last_index();
        let first = last.saturating_sub(self.settings.snapshot_threshold) + 1;
        self.driver
            .entries_bytes(first, last)
            .max(self.snapshot_bytes)
    }
}

/// Bytes of the log that are kept for followers behind a snapshot, however small that is.
const TRAILING_BYTES_MIN: u64 = 64 << 20;

/// What an entry takes whatever is in it: its position stays in memory when its bytes do not, until a snapshot
/// lies behind it. Barriers, one for each turn of reads in clusters with C dqlite, are little else.
const ENTRY_BYTES: u64 = 64;

/// Log bytes since the last snapshot at which a new one is taken, however large the databases are.
const SNAPSHOT_LOG_BYTES: u64 = 64 << 20;
