//! What raft-rs wants done, put in order.
//!
//! A `Ready` becomes, in this order: the messages that may go at once, one piece of disk work, the
//! entries to apply. Messages that depend on disk work wait in the queue of outstanding work, each
//! with the newest piece that it depends on.

use dq_wire::EntryKind;
use raft::Ready;
use raft::eraftpb::{self, MessageType};

use super::bounds::cost;
use super::{Driver, Effect, Pending, decode_change};
use crate::membership::{Membership, TrackerTarget};
use crate::message::{AppendEntries, Message};
use crate::mutants::{Mutant, is_broken};
use crate::translate::{self, INSTALL_TIMEOUT_MS, SnapshotSend};
use crate::types::{DiskOp, LogEntry, Persist};

impl Pending {
    /// Nothing of what a leader says may be heard before it is durable.
    fn is_secret(&self) -> bool {
        self.hard_state || self.change
    }
}

impl Driver {
    /// Everything up to this piece of disk work is durable.
    pub fn durable(&mut self, persist_id: u64) {
        if self.failed {
            return;
        }
        while self
            .pending
            .front()
            .is_some_and(|pending| pending.persist <= persist_id)
        {
            let done = self.pending.pop_front().expect("just looked at");
            // raft-rs forgets that an entry is to be replaced once it has been sent again. As long
            // as a later piece of work removes what this one wrote, it is not told of this one: the
            // later piece's number covers it.
            let overtaken = self
                .pending
                .iter()
                .any(|p| p.truncates.is_some_and(|from| from <= done.last))
                && !is_broken(Mutant::PersistedThoughReplaced);
            if !overtaken {
                self.call(|raw| raw.on_persist_ready(done.ready));
            }
            if let Some(meta) = done.restore {
                // An older snapshot that a newer one has overtaken is covered by that one.
                let newer = self.pending.iter().any(|p| p.restore.is_some());
                if !newer && !overtaken && meta.index > self.applied_index() {
                    let index = meta.index;
                    self.call(|raw| raw.advance_apply_to(index));
                    self.effects.push(Effect::Restore(meta));
                }
            }
            for (to, message) in done.held {
                self.send(to, message);
            }
        }
        self.drain();
    }

    /// Runs raft-rs until it has nothing more to say.
    pub(super) fn drain(&mut self) {
        if self.failed {
            return;
        }
        loop {
            self.step_transfer();
            self.sync_tracker();
            if self.raw.has_ready() {
                self.handle_ready();
            } else if !self.step_change() {
                break;
            }
        }
        self.raw.mut_store().unstage();
        if self.raw.store().take_snapshot_wanted() {
            self.effects.push(Effect::SnapshotWanted);
        }
        self.read_for_followers();
        self.evict();
        self.limit_held();
        self.drop_echo();
    }

    fn handle_ready(&mut self) {
        let mut ready = self.raw.ready();
        let number = ready.number();
        let mut pending = Pending {
            persist: 0,
            ready: number,
            touches: None,
            truncates: None,
            last: 0,
            received_bytes: 0,
            hard_state: false,
            change: false,
            restore: None,
            held: Vec::new(),
        };
        let ops = self.take_disk_ops(&mut ready, &mut pending);

        // A term that is not durable must not be heard of, whatever raft-rs thinks. Nor must a change of
        // the membership: whoever loses its vote by one that we then lose would neither vote for us, with
        // the longer log, nor stand itself.
        let at_once = self.translate(ready.take_messages());
        let after_disk = self.translate(ready.take_persisted_messages());
        let has_work = !ops.is_empty();
        let after_disk = if is_broken(Mutant::SayBeforeDurable) {
            for (to, message) in after_disk {
                self.send(to, message);
            }
            Vec::new()
        } else {
            after_disk
        };
        if is_broken(Mutant::SendBeforeTerm) {
            for (to, message) in at_once {
                self.send(to, message);
            }
        } else if pending.is_secret() {
            pending.held.extend(at_once);
        } else if let Some(secret) = self.pending.iter_mut().rev().find(|p| p.is_secret()) {
            secret.held.extend(at_once);
        } else {
            for (to, message) in at_once {
                self.send(to, message);
            }
        }
        if has_work {
            pending.held.extend(after_disk);
            pending.persist = self.next_persist;
            self.next_persist += 1;
            self.effects.push(Effect::Persist(Persist {
                id: pending.persist,
                ops,
            }));
            self.pending.push_back(pending);
        } else if let Some(last) = self.pending.back_mut() {
            last.ready = number;
            last.held.extend(after_disk);
        } else {
            for (to, message) in after_disk {
                self.send(to, message);
            }
        }

        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);
        self.apply(&committed);
        if self.pending.is_empty() {
            self.call(|raw| raw.on_persist_ready(number));
        }
    }

    /// Takes what goes to disk into cache and configuration, and says what the disk has to do.
    fn take_disk_ops(&mut self, ready: &mut Ready, pending: &mut Pending) -> Vec<DiskOp> {
        let mut ops = Vec::new();
        if let Some(hs) = ready
            .hs()
            .filter(|hs| (hs.term, hs.vote) != self.hard_state)
        {
            self.hard_state = (hs.term, hs.vote);
            pending.hard_state = true;
            ops.push(DiskOp::HardState {
                term: hs.term,
                vote: hs.vote,
            });
        }
        if ready.snapshot().get_metadata().index > 0 {
            let meta = self
                .incoming_snapshot
                .take()
                .expect("raft-rs restores only the snapshot that was just received");
            self.membership = Membership::new(meta.configuration.clone(), meta.configuration_index);
            self.tracked = None;
            self.raw.mut_store().restore(meta.clone());
            pending.touches = Some(0);
            pending.truncates = Some(0);
            pending.last = meta.index;
            pending.restore = Some(meta.clone());
            ops.push(DiskOp::InstallSnapshot { meta });
        }
        let store = self.raw.mut_store();
        let entries: Vec<LogEntry> = ready
            .take_entries()
            .iter()
            .map(|entry| {
                store
                    .unstaged(entry)
                    .expect("every entry was staged on its way in")
            })
            .collect();
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return ops;
        };
        if let Some(from) = store.append(&entries) {
            ops.push(DiskOp::Truncate { from });
            pending.truncates = Some(from.min(pending.truncates.unwrap_or(from)));
            if !is_broken(Mutant::KeepCutConfiguration) {
                self.membership.rollback(from);
            }
        }
        for entry in entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Change)
        {
            let configuration =
                decode_change(&entry.payload).expect("checked when it was received or made");
            self.membership.append(entry.index, configuration);
            pending.change = true;
            self.forget_strangers();
        }
        if self.epoch.is_none() {
            let costs = entries.iter().map(|entry| cost(entry.payload.len()));
            pending.received_bytes = costs.sum();
        }
        pending.touches = Some(pending.touches.unwrap_or(first));
        pending.last = first + entries.len() as u64 - 1;
        ops.push(DiskOp::Append { entries });
        ops
    }

    /// Hands committed entries out.
    fn apply(&mut self, committed: &[eraftpb::Entry]) {
        let Some(last) = committed.last().map(|entry| entry.index) else {
            return;
        };
        for entry in committed {
            let entry = self
                .raw
                .store()
                .get(entry.index)
                .expect("nothing above applied is evicted");
            let (index, kind) = (entry.index, entry.kind);
            self.effects.push(Effect::Apply(entry));
            if kind == EntryKind::Change {
                self.membership.commit(index);
                self.change_committed(index);
            }
        }
        self.call(|raw| raw.advance_apply_to(last));
        self.step_down_if_not_voter();
    }

    /// Makes raft-rs's tracker hold what the configuration in effect says.
    fn sync_tracker(&mut self) {
        let wanted = (self.membership.version(), self.promoting());
        if self.tracked == Some(wanted) {
            return;
        }
        let mut target = TrackerTarget::new(
            self.membership.effective().0,
            self.options.id,
            self.promoting(),
        );
        if is_broken(Mutant::ForgetSelf) && self.configuration().server(self.options.id).is_none() {
            target.learners.retain(|id| *id != self.options.id);
        }
        let state = self.raw.raft.prs().conf().to_conf_state();
        let mut now = TrackerTarget {
            voters: state.voters,
            learners: state.learners,
        };
        now.voters.sort_unstable();
        now.learners.sort_unstable();
        self.tracked = Some(wanted);
        for change in now.changes_to(&target) {
            let id = change.node_id;
            if let Err(error) = self.call(|raw| raw.apply_conf_change(&change)) {
                ::log::error!("node {}: raft refused {change:?}: {error}", self.options.id);
            }
            if self.raw.raft.prs().get(id).is_none() {
                self.peers.remove(&id);
            }
        }
    }

    /// raft-rs's messages in dqlite's words; what cannot be said is left out.
    fn translate(&mut self, messages: Vec<eraftpb::Message>) -> Vec<(u64, Message)> {
        let mut translated = Vec::with_capacity(messages.len());
        for message in messages {
            let to = message.to;
            let mut peer = self.peers.remove(&to).unwrap_or_default();
            let out = match message.get_msg_type() {
                MessageType::MsgAppend => translate::append_out(&self.view(), &mut peer, &message)
                    .map(|append| self.stamped(to, append)),
                MessageType::MsgHeartbeat => {
                    translate::owe_heartbeat(&mut peer);
                    self.raw
                        .raft
                        .prs()
                        .get(to)
                        .and_then(|pr| translate::heartbeat_out(&self.view(), &mut peer, pr.into()))
                        .map(|append| self.stamped(to, append))
                }
                MessageType::MsgSnapshot => {
                    let index = message.get_snapshot().get_metadata().index;
                    let newest = self.raw.store().newest_snapshot();
                    newest.filter(|meta| meta.index == index).map(|meta| {
                        let deadline = self.clock.now() + INSTALL_TIMEOUT_MS;
                        peer.snapshot = Some(SnapshotSend {
                            refused: false,
                            sent: false,
                            deadline,
                        });
                        Message::InstallSnapshot {
                            term: message.term,
                            meta: meta.clone(),
                        }
                    })
                }
                MessageType::MsgAppendResponse => {
                    let echo = self.take_echo(to);
                    Some(Message::AppendEntriesResult(translate::result_out(
                        &message, echo,
                    )))
                }
                _ => translate::plain_out(&self.view(), &message),
            };
            if self.epoch.is_some() && self.raw.raft.prs().get(to).is_some() {
                self.peers.insert(to, peer);
            }
            translated.extend(out.map(|message| (to, message)));
        }
        translated
    }

    fn stamped(&mut self, to: u64, mut append: AppendEntries) -> Message {
        append.stamp = self.stamp(to);
        Message::AppendEntries(append)
    }

    /// Sends a message, or holds it as long as our term is not durable.
    pub(super) fn send_when_durable(&mut self, to: u64, message: Message) {
        match self
            .pending
            .iter_mut()
            .rev()
            .find(|pending| pending.hard_state)
        {
            Some(pending) => pending.held.push((to, message)),
            None => self.send(to, message),
        }
    }

    /// Requests go to the address of the configuration, answers to that of the connection that the
    /// request came on.
    pub(super) fn send(&mut self, to: u64, message: Message) {
        let answer = matches!(
            message,
            Message::AppendEntriesResult(_) | Message::RequestVoteResult(_)
        );
        let connected = self.addresses.get(&to);
        let configured = self
            .configuration()
            .server(to)
            .map(|server| &server.address);
        let address = if answer {
            connected.or(configured)
        } else {
            configured.or(connected)
        }
        .cloned();
        if let Some(address) = address {
            self.effects.push(Effect::Send {
                to,
                address,
                message,
            });
        }
    }
}
