//! Clients: they write, learn, and ask whoever believes to lead.

use dq_raft::{Driver, Proof};

use super::events::Event;
use super::node::{barrier, write};
use super::world::World;

impl World {
    /// A client has learnt that the register is at least this.
    pub(super) fn learn(&mut self, register: u64) {
        if register > self.known {
            self.known = register;
            self.news = true;
        }
    }

    /// What is known has grown: others who believe to lead are asked at once, before they learn.
    pub(super) fn tempt(&mut self) {
        let leading = self.nodes.iter().filter_map(|node| node.epoch);
        let newest = leading.map(|epoch| epoch.term).max();
        for id in self.ids() {
            let epoch = self.node(id).epoch;
            if epoch.is_some_and(|epoch| Some(epoch.term) < newest) {
                self.send_read(id);
            }
        }
    }

    /// A client asks this node, if it takes it for the leader; the request waits for a paused one.
    pub(super) fn send_read(&mut self, id: u64) {
        let (at_least, now) = (self.known, self.now);
        let node = self.node(id);
        if node.epoch.is_none() {
            return;
        }
        if node.paused_until > now {
            let until = node.paused_until;
            self.schedule(until, Event::Ask { id, at_least });
        } else {
            self.ask(id, at_least);
        }
    }

    pub(super) fn ask(&mut self, id: u64, at_least: u64) {
        if self.is_silent(id) {
            return; // asks for no proof, and promises nothing
        }
        let term = self.node(id).epoch.map(|epoch| epoch.term);
        let later = self
            .nodes
            .iter()
            .any(|node| node.epoch.map(|epoch| epoch.term) > term);
        let now = self.clock(id);
        let node = self.node(id);
        if !node.ask(now, at_least) {
            return;
        }
        self.counts.tempted += u64::from(term.is_some() && later);
        self.finish_reads(id);
    }

    pub(super) fn finish_reads(&mut self, id: u64) {
        let node = &mut self.nodes[id as usize - 1];
        if node.reads.is_empty() {
            return;
        }
        let Some(driver) = &node.driver else { return };
        let (mut fresh, mut unasked, mut done) = (false, false, 0);
        let (register, failures) = (node.register, &mut self.failures);
        node.reads.retain(|read| match driver.proof(&read.ticket) {
            Proof::Proven => {
                if register < read.at_least {
                    failures.push(format!(
                        "stale: node {id} answers with {register}, but {} was there before",
                        read.at_least
                    ));
                }
                done += 1;
                false
            }
            Proof::Waiting => true,
            Proof::Unasked => {
                unasked = true;
                true
            }
            Proof::FreshEntry => {
                fresh = true;
                true
            }
            Proof::Lost => false,
        });
        if done > 0 {
            self.counts.reads += done;
            self.learn(register);
        }
        if unasked {
            // The end of the turn.
            self.with(id, Driver::confirm);
        }
        if fresh {
            let now = self.clock(id);
            let driver = self.node(id).driver.as_mut();
            if driver.is_some_and(|driver| driver.propose(now, barrier()).is_ok()) {
                self.carry_out(id);
            }
        }
    }

    /// A client writes at this node, if it takes it for the leader.
    pub(super) fn write(&mut self, id: u64) {
        let now = self.now;
        let node = self.node(id);
        if node.epoch.is_some() && node.paused_until <= now {
            self.with(id, |driver, now| driver.propose(now, write()).is_ok());
        }
    }

    /// The first write of a leadership, at once.
    pub(super) fn write_now(&mut self, id: u64) {
        let now = self.clock(id);
        if let Some(driver) = &mut self.node(id).driver {
            // Its effects are carried out with those of the election.
            let _ = driver.propose(now, write());
        }
    }
}
