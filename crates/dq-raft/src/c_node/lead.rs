//! A leader: what it sends to whom, what it makes of the answers.

use bytes::Bytes;
use dq_wire::BARRIER_PAYLOAD;

use super::*;
use crate::message::{AppendEntries, Stamp};
use crate::types::Payload;

/// How a follower gets entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One message at a time.
    Probe,
    /// Without waiting.
    Pipeline,
    /// The snapshot that ends here comes first, since then.
    Snapshot { index: u64, since: u64 },
}

/// What it knows of a follower.
#[derive(Debug)]
pub(super) struct Progress {
    next: u64,
    matched: u64,
    way: Way,
    sent_at: Option<u64>,
    /// It has answered since the last look.
    recent: bool,
}

impl Progress {
    fn new(last: u64) -> Progress {
        Progress {
            next: last + 1,
            matched: 0,
            way: Way::Probe,
            sent_at: None,
            recent: false,
        }
    }

    fn probe(&mut self) {
        self.next = match self.way {
            Way::Snapshot { index, .. } => index.max(self.matched + 1),
            Way::Probe | Way::Pipeline => self.matched + 1,
        };
        self.way = Way::Probe;
    }
}

/// Leadership is being handed over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transfer {
    pub(super) to: u64,
    pub(super) start: u64,
    told: bool,
}

impl CNode {
    pub(super) fn lead(&mut self) {
        self.role = RaftRole::Leader;
        self.since = self.now;
        self.term_start = self.log.last() + 1;
        self.progress.clear();
        self.track();
        self.effects.push(Effect::EpochBegan(Epoch {
            term: self.term,
            first_index: self.term_start,
        }));
        self.append(EntryKind::Barrier, Bytes::from_static(&BARRIER_PAYLOAD));
    }

    /// Follows exactly the other servers of the configuration.
    fn track(&mut self) {
        let (us, last) = (self.options.id, self.log.last());
        let others = self.configuration.servers.iter().filter(|s| s.id != us);
        let ids: BTreeSet<u64> = others.map(|server| server.id).collect();
        self.progress.retain(|id, _| ids.contains(id));
        for id in ids {
            let new = || Progress::new(last);
            self.progress.entry(id).or_insert_with(new);
        }
    }

    /// The index of an entry that was made for a client, unless it does not lead.
    pub fn propose(&mut self, now: u64, payload: Bytes) -> Option<u64> {
        self.now = now;
        if self.role != RaftRole::Leader || self.transfer.is_some() {
            return None;
        }
        self.append(EntryKind::Command, payload);
        Some(self.log.last())
    }

    /// Has known since its election that all before it is committed.
    pub fn is_settled_leader(&self) -> bool {
        self.role == RaftRole::Leader && self.commit >= self.term_start
    }

    fn append(&mut self, kind: EntryKind, payload: Bytes) {
        let entry = LogEntry {
            index: self.log.last() + 1,
            term: self.term,
            kind,
            payload: Payload::from(payload),
        };
        let first = entry.index;
        self.log.append(entry.clone());
        let entries = vec![entry];
        self.write(first, vec![DiskOp::Append { entries }], None);
        self.send_to_all();
    }

    pub(super) fn tick_leader(&mut self) {
        if self.now >= self.since + self.options.election_ms {
            let mut contacts = usize::from(self.is_voter());
            for server in &self.configuration.servers {
                if let Some(progress) = self.progress.get_mut(&server.id) {
                    let recent = std::mem::take(&mut progress.recent);
                    contacts += usize::from(recent && server.role == Role::Voter);
                }
            }
            if 2 * contacts <= self.voters() {
                return self.follow();
            }
            self.since = self.now;
        }
        self.send_to_all();
    }

    fn send_to_all(&mut self) {
        let promotee = self.promotee.map(|(id, _)| id);
        let servers = self.configuration.servers.clone();
        for server in servers {
            if server.role != Role::Spare || Some(server.id) == promotee {
                self.replicate(server.id);
            }
        }
    }

    /// Sends what is due to a follower: entries, a heartbeat, a snapshot, or nothing.
    fn replicate(&mut self, id: u64) {
        let (now, heartbeat) = (self.now, self.options.heartbeat_ms);
        let last = self.log.last();
        let Some(progress) = self.progress.get_mut(&id) else {
            return;
        };
        let silent = progress.sent_at.is_none_or(|at| now >= at + heartbeat);
        let due = match progress.way {
            Way::Snapshot { since, .. } if now >= since + INSTALL_MS => {
                progress.way = Way::Probe;
                true
            }
            Way::Snapshot { .. } | Way::Probe => silent,
            Way::Pipeline => silent || progress.next <= last,
        };
        if !due {
            return;
        }
        let (way, recent) = (progress.way, progress.recent);
        let prev = progress.next - 1;
        let known = match prev {
            0 => (self.log.snapshot.0 == 0).then_some(0),
            _ => self.log.term_of(prev),
        };
        match (way, known) {
            (Way::Probe | Way::Pipeline, Some(term)) => self.send_append(id, prev, term),
            (Way::Probe | Way::Pipeline, None) if recent => self.send_snapshot(id),
            _ => self.send_append(id, last, self.log.last_term()),
        }
    }

    /// All that lies behind `prev`.
    fn send_append(&mut self, id: u64, prev: u64, prev_term: u64) {
        let message = Message::AppendEntries(AppendEntries {
            term: self.term,
            prev_index: prev,
            prev_term,
            leader_commit: self.commit,
            entries: self.log.tail(prev + 1),
            stamp: Stamp::default(),
        });
        let (now, last) = (self.now, self.log.last());
        if let Some(progress) = self.progress.get_mut(&id) {
            progress.sent_at = Some(now);
            if progress.way == Way::Pipeline {
                progress.next = last + 1;
            }
        }
        if let Some(to) = self.configuration.server(id).map(peer) {
            self.send(&to, message);
        }
    }

    fn send_snapshot(&mut self, id: u64) {
        let Some(meta) = self.snapshot.clone() else {
            return;
        };
        if let Some(progress) = self.progress.get_mut(&id) {
            let (index, since) = (meta.index, self.now);
            progress.way = Way::Snapshot { index, since };
        }
        let term = self.term;
        if let Some(to) = self.configuration.server(id).map(peer) {
            self.send(&to, Message::InstallSnapshot { term, meta });
        }
    }

    /// A message to a peer has certainly not left.
    pub fn send_failed(&mut self, to: u64, message: &Message) {
        let Some(progress) = self.progress.get_mut(&to) else {
            return;
        };
        match message {
            Message::AppendEntries(_) => progress.probe(),
            Message::InstallSnapshot { .. } => progress.way = Way::Probe,
            _ => {}
        }
    }

    pub(super) fn result_received(&mut self, from: u64, result: AppendEntriesResult) {
        if self.role != RaftRole::Leader {
            return;
        }
        if result.term > self.term {
            return self.bump(result.term);
        }
        let last = self.log.last();
        let Some(progress) = self.progress.get_mut(&from) else {
            return;
        };
        if result.term < self.term {
            return;
        }
        progress.recent = true;
        if result.rejected > 0 {
            if rejected(progress, &result) {
                self.replicate(from);
            }
            return;
        }
        let index = result.last_index.min(last);
        progress.next = progress.next.max(index + 1);
        if progress.matched >= index {
            return;
        }
        progress.matched = index;
        match progress.way {
            Way::Snapshot { index: end, .. } if index >= end => progress.probe(),
            Way::Snapshot { .. } | Way::Pipeline => {}
            Way::Probe => progress.way = Way::Pipeline,
        }
        if self
            .promotee
            .is_some_and(|(id, end)| id == from && index >= end)
        {
            self.promote_now(from);
        }
        self.count(index);
        self.apply();
        self.hand_over();
        let pipeline = |p: &Progress| p.way == Way::Pipeline;
        if self.progress.get(&from).is_some_and(pipeline) {
            self.replicate(from);
        }
    }

    /// Commits this entry if a majority has it and it is of this term.
    pub(super) fn count(&mut self, index: u64) {
        if index <= self.commit || self.log.term_of(index) != Some(self.term) {
            return;
        }
        let has = |server: &&Server| {
            server.role == Role::Voter
                && match self.progress.get(&server.id) {
                    Some(progress) => progress.matched >= index,
                    None => self.stored >= index,
                }
        };
        if 2 * self.configuration.servers.iter().filter(has).count() > self.voters() {
            self.commit = index;
        }
    }

    /// Hands leadership over; given up after the election timeout. False if that cannot be begun.
    pub fn transfer(&mut self, now: u64, to: u64) -> bool {
        self.now = now;
        let voter = self.configuration.server(to);
        if self.role != RaftRole::Leader
            || self.transfer.is_some()
            || to == self.options.id
            || voter.is_none_or(|server| server.role != Role::Voter)
        {
            return false;
        }
        self.transfer = Some(Transfer {
            to,
            start: now,
            told: false,
        });
        self.hand_over();
        true
    }

    /// Tells the target of a transfer to stand, once it has everything.
    fn hand_over(&mut self) {
        let (last_index, last_term) = (self.log.last(), self.log.last_term());
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let matched = self.progress.get(&transfer.to).map(|p| p.matched);
        if transfer.told || matched != Some(last_index) {
            return;
        }
        transfer.told = true;
        let to = transfer.to;
        let message = Message::TimeoutNow {
            term: self.term,
            last_index,
            last_term,
        };
        if let Some(to) = self.configuration.server(to).map(peer) {
            self.send(&to, message);
        }
    }

    /// Adds a spare, or gives a server a vote, as soon as it has what is in the log now. False if the
    /// membership cannot be changed at present.
    pub fn give_vote(&mut self, now: u64, server: &PeerId) -> bool {
        self.now = now;
        let changing = self.configuration != self.committed.0 || self.promotee.is_some();
        if !self.is_settled_leader() || changing || self.transfer.is_some() {
            return false;
        }
        match self.configuration.server(server.id).map(|s| s.role) {
            Some(Role::Voter) => return false,
            Some(_) => {
                let last = self.log.last();
                let progress = self.progress.get(&server.id);
                if progress.is_some_and(|progress| progress.matched == last) {
                    self.promote_now(server.id);
                } else {
                    self.promotee = Some((server.id, last));
                    self.replicate(server.id);
                }
            }
            None => {
                self.configuration.servers.push(Server {
                    id: server.id,
                    address: server.address.clone(),
                    role: Role::Spare,
                });
                self.change();
            }
        }
        true
    }

    fn promote_now(&mut self, id: u64) {
        self.promotee = None;
        let servers = &mut self.configuration.servers;
        if let Some(server) = servers.iter_mut().find(|server| server.id == id) {
            server.role = Role::Voter;
            self.change();
        }
    }

    /// Appends the configuration, which is in effect already.
    fn change(&mut self) {
        let mut bytes = Vec::new();
        self.configuration.encode(&mut bytes);
        self.track();
        self.append(EntryKind::Change, bytes.into());
    }
}

/// A follower has refused; true if it is to be tried again at once.
fn rejected(progress: &mut Progress, result: &AppendEntriesResult) -> bool {
    match progress.way {
        Way::Snapshot { index, .. } => {
            if result.rejected == index {
                progress.way = Way::Probe;
            }
            result.rejected == index
        }
        Way::Pipeline => {
            if result.rejected <= progress.matched {
                return false;
            }
            progress.probe();
            true
        }
        Way::Probe => {
            if result.rejected + 1 != progress.next {
                return false;
            }
            progress.next = result.rejected.min(result.last_index + 1).max(1);
            true
        }
    }
}
