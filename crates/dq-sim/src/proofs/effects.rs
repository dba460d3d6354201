//! What becomes of a driver's effects: messages, disk work, applied entries.

use dq_raft::{Effect, EntryKind, Message};

use super::events::Event;
use super::world::World;

impl World {
    pub(super) fn carry_out(&mut self, id: u64) {
        let mut effects = std::mem::take(&mut self.effects);
        loop {
            if let Some(driver) = &mut self.node(id).driver {
                driver.ready(&mut effects);
            }
            if effects.is_empty() {
                break;
            }
            for effect in effects.drain(..) {
                self.carry_out_one(id, effect);
            }
        }
        self.effects = effects;
        self.finish_reads(id);
        let node = self.node(id);
        if let Some(driver) = &node.driver {
            node.deadline = node.clock.time_of(driver.deadline());
        }
        self.work_disk(id);
        self.store_bound(id);
    }

    fn carry_out_one(&mut self, id: u64, effect: Effect) {
        match effect {
            Effect::Send { to, message, .. } => self.send(id, to, message),
            Effect::Persist(persist) => self.node(id).disk.queue.push(persist),
            Effect::Apply(entry) => {
                let node = self.node(id);
                node.applied = entry.index;
                let writes = entry.kind == EntryKind::Command;
                if writes {
                    node.register = entry.index;
                }
                let certain = node.disk.certain();
                if entry.index > certain {
                    let why = format!(
                        "node {id} has applied {}, its disk is certain of {certain}",
                        entry.index
                    );
                    self.failures.push(why);
                }
                let node = self.node(id);
                let led = node.epoch.is_some_and(|epoch| epoch.term == entry.term);
                match self.committed.get(entry.index as usize) {
                    Some(term) if *term != entry.term => self.failures.push(format!(
                        "entry {} is of term {term} and of term {}",
                        entry.index, entry.term
                    )),
                    Some(_) => {}
                    None => self.committed.push(entry.term),
                }
                if writes && led {
                    self.counts.writes += 1;
                    self.learn(entry.index);
                }
            }
            Effect::EpochBegan(epoch) => {
                if self.verbose {
                    self.say(&format!("{id} leads in {epoch:?}"));
                }
                self.node(id).epoch = Some(epoch);
                self.counts.elections += 1;
                if let Some(other) = self.leaders.insert(epoch.term, id)
                    && other != id
                {
                    let why = format!("nodes {other} and {id} lead in term {}", epoch.term);
                    self.failures.push(why);
                }
                self.write_now(id);
            }
            Effect::EpochEnded(epoch) => {
                if self.verbose {
                    self.say(&format!("{id} leads no more in {epoch:?}"));
                }
                self.node(id).epoch = None;
            }
            Effect::ChangeDone { result, .. } => {
                let node = self.node(id);
                let servers = node.driver.as_ref().map(|d| d.configuration().clone());
                if self.verbose {
                    self.say(&format!("{id}: change {result:?}, now {servers:?}"));
                }
                self.counts.changes += u64::from(result.is_ok());
                if let Some(wiped) = self.to_wipe
                    && wiped != id
                    && result.is_ok()
                    && servers.is_some_and(|servers| servers.server(wiped).is_none())
                {
                    self.wipe(wiped);
                }
            }
            Effect::TransferDone { result } => {
                if self.verbose {
                    self.say(&format!("{id}: transfer {result:?}"));
                }
            }
            Effect::ReadLog(_)
            | Effect::Restore(_)
            | Effect::Discard(_)
            | Effect::SnapshotWanted => {
                self.failures.push(format!(
                    "node {id} wants a snapshot, of which there is none"
                ));
            }
        }
    }

    fn work_disk(&mut self, id: u64) {
        let (first, last) = self.plan.disk;
        let wait = self.rng.between(first, last);
        let now = self.now;
        let node = self.node(id);
        if node.disk.busy || node.disk.queue.is_empty() {
            return;
        }
        node.disk.busy = true;
        let at = (now + wait).max(node.disk.slow_until);
        let life = node.life;
        self.schedule(at, Event::Disk { id, life });
    }

    fn store_bound(&mut self, id: u64) {
        let (first, last) = self.plan.bound;
        let now = self.now;
        let node = &mut self.nodes[id as usize - 1];
        let Some(driver) = node.driver.as_mut().filter(|_| !node.disk.storing_bound) else {
            return;
        };
        let Some(bound_ms) = driver.promise_bound_wanted() else {
            return;
        };
        if bound_ms < driver.promise_bound() {
            driver.set_promise_bound(bound_ms);
        }
        node.disk.storing_bound = true;
        let life = node.life;
        let at = (now + self.rng.between(first, last)).max(node.disk.slow_until);
        self.schedule(at, Event::Bound { id, life, bound_ms });
    }

    fn send(&mut self, from: u64, to: u64, mut message: Message) {
        if to > self.nodes.len() as u64 {
            return;
        }
        match &mut message {
            Message::AppendEntriesResult(result) if self.is_silent(from) => result.echo = None,
            Message::RequestVote(request) if self.rng.chance(self.plan.disrupt) => {
                request.disrupt_leader = true;
            }
            _ => {}
        }
        let now = self.now;
        let (first, last) = self.plan.delay;
        let delay = self.rng.between(first, last);
        let link = self.link(from, to);
        if link.cut_until > now {
            return;
        }
        let at = (now + delay + link.late)
            .max(link.last_arrival)
            .max(link.held_until);
        link.last_arrival = at;
        let life = link.life;
        self.schedule(
            at,
            Event::Deliver {
                from,
                to,
                life,
                message,
            },
        );
    }
}
