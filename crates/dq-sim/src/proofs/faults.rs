//! Faults, several at a time and close together: it is coincidences that matter.

use dq_raft::{ChangeError, Driver};
use dq_wire::Role;

use super::events::Event;
use super::node::address;
use super::plan::Fault;
use super::world::World;

impl World {
    /// Does one fault. Returns the time to the next: often little.
    pub(super) fn faults(&mut self) -> u64 {
        let fault = self.rng.pick(&self.plan.faults);
        let at = self.target(fault);
        self.counts.faults += 1;
        self.say(&format!("{fault:?} at {at}"));
        self.strike(fault, at);
        let longest = if self.rng.chance(700) {
            self.plan.burst
        } else {
            4 * self.plan.fault_interval
        };
        1 + self.rng.below(longest)
    }

    fn strike(&mut self, fault: Fault, at: u64) {
        let length = self.while_();
        let other = self.other(at);
        match fault {
            Fault::Isolate => self.cut_off(at, true, true, length),
            Fault::Deaf => self.cut_off(at, true, false, length),
            Fault::Mute => self.cut_off(at, false, true, length),
            Fault::Cut => {
                let lost = self.rng.chance(500);
                self.cut(at, other, lost, length);
                if self.rng.chance(700) {
                    self.cut(other, at, lost, length);
                }
            }
            Fault::Hold => {
                let until = self.now + length;
                let (from, to) = if self.rng.chance(500) {
                    (at, other)
                } else {
                    (other, at)
                };
                self.link(from, to).held_until = until;
            }
            Fault::HoldAll => {
                let until = self.now + length;
                let ways = self.rng.below(3);
                for peer in self.ids().filter(|peer| *peer != at) {
                    if ways != 0 {
                        self.link(at, peer).held_until = until;
                    }
                    if ways != 1 {
                        self.link(peer, at).held_until = until;
                    }
                }
            }
            Fault::Reset => {
                let lost = self.rng.chance(500);
                self.reset(at, other, lost);
                if self.rng.chance(500) {
                    self.reset(other, at, lost);
                }
            }
            Fault::Crash => {
                let longest = if self.rng.chance(700) { 2000 } else { length };
                let after = self.rng.below(longest + 1);
                self.crash(at, after);
            }
            Fault::Transfer => {
                let to = if self.rng.chance(200) { 0 } else { other };
                if let Some(leader) = self.leader() {
                    let to = if to == leader { 0 } else { to };
                    self.with(leader, |driver, now| driver.transfer(now, to).is_ok());
                }
            }
            Fault::Change => self.change(at),
            Fault::Leave => {
                if let Some(leader) = self.leader() {
                    let role = self.rng.pick(&[Role::Standby, Role::Spare]);
                    let removes = self.rng.chance(300);
                    self.with(leader, |driver, now| {
                        if removes {
                            driver.remove(now, leader).is_ok()
                        } else {
                            driver.assign(now, leader, role).is_ok()
                        }
                    });
                }
            }
            Fault::Wipe => self.remove_or_bring_back(at),
            Fault::SlowDisk => {
                let until = self.now + length;
                self.node(at).disk.slow_until = until;
            }
            Fault::Pause => self.pause(at, length, false),
            Fault::Freeze => self.pause(at, length, true),
        }
    }

    /// A duration: heartbeats, or election timeouts.
    fn while_(&mut self) -> u64 {
        let (election, heartbeat) = self.plan.timeouts[0];
        let longest = self
            .rng
            .pick(&[heartbeat, election, election, 3 * election]);
        1 + self.rng.below(1000 * longest)
    }

    /// The node that leads in the highest term.
    fn leader(&self) -> Option<u64> {
        let leading = self.nodes.iter().filter(|node| node.epoch.is_some());
        leading
            .max_by_key(|node| node.epoch.map(|epoch| epoch.term))
            .map(|node| node.id)
    }

    /// Where it hurts, or anywhere. Processes that die are followers then: what matters is what they
    /// forget.
    fn target(&mut self, fault: Fault) -> u64 {
        let any = 1 + self.rng.below(self.nodes.len() as u64);
        let aimed = self.rng.chance(self.plan.at_leader);
        match self.leader().filter(|_| aimed) {
            Some(leader) if fault == Fault::Crash => self.other(leader),
            Some(leader) => leader,
            None => any,
        }
    }

    /// Another node; itself if there is none.
    fn other(&mut self, id: u64) -> u64 {
        let count = self.nodes.len() as u64;
        1 + (id + self.rng.below((count - 1).max(1))) % count
    }

    fn cut_off(&mut self, id: u64, hears_not: bool, unheard: bool, length: u64) {
        let lost = self.rng.chance(500);
        for peer in self.ids().filter(|peer| *peer != id) {
            if hears_not {
                self.cut(peer, id, lost, length);
            }
            if unheard {
                self.cut(id, peer, lost, length);
            }
        }
    }

    fn cut(&mut self, from: u64, to: u64, lost: bool, length: u64) {
        let until = self.now + length;
        let link = self.link(from, to);
        link.cut_until = until;
        link.life += u64::from(lost);
        self.schedule(until, Event::Reconnect { from, to });
    }

    fn crash(&mut self, id: u64, after: u64) {
        if self.node(id).driver.is_none() {
            return;
        }
        self.node(id).crash();
        let lost = self.rng.chance(500);
        for peer in self.ids().filter(|peer| *peer != id) {
            self.reset(peer, id, true);
            self.reset(id, peer, lost);
        }
        let at = self.now + after;
        self.schedule(at, Event::Start { id });
    }

    /// The removal is committed: whoever has that id from here on remembers nothing.
    pub(super) fn wipe(&mut self, id: u64) {
        self.to_wipe = None;
        let after = self.rng.below(1000);
        self.crash(id, after);
        let disk = &mut self.node(id).disk;
        disk.durable = dq_raft::Recovered::default();
        disk.bound_ms = 0;
        self.say(&format!("{id} is wiped"));
    }

    fn change(&mut self, at: u64) {
        let Some(leader) = self.leader() else { return };
        let role = self
            .rng
            .pick(&[Role::Voter, Role::Voter, Role::Standby, Role::Spare]);
        let removes = self.rng.chance(200);
        let wiped = self.to_wipe;
        self.with(leader, |driver: &mut Driver, now| {
            if driver.configuration().server(at).is_none() {
                driver.add(now, at, &address(at))
            } else if removes && wiped.is_none() {
                driver.remove(now, at)
            } else {
                driver.assign(now, at, role)
            }
            .map_err(|error: ChangeError| error.message())
            .is_ok()
        });
    }

    /// Removes a server, to be wiped then; if one is missing, or has no vote yet, brings that back.
    fn remove_or_bring_back(&mut self, id: u64) {
        let Some(leader) = self.leader() else { return };
        let ids = self.ids();
        let removed = self.with(leader, |driver, now| {
            let configuration = driver.configuration();
            let missing = ids.clone().find(|id| configuration.server(*id).is_none());
            let votes = |id| configuration.server(id).map(|server| server.role);
            let waiting = ids.clone().find(|id| votes(*id) != Some(Role::Voter));
            if let Some(missing) = missing {
                let _ = driver.add(now, missing, &address(missing));
                false
            } else if let Some(waiting) = waiting {
                let _ = driver.assign(now, waiting, Role::Voter);
                false
            } else {
                id != leader && driver.remove(now, id).is_ok()
            }
        });
        if removed == Some(true) {
            self.to_wipe = Some(id);
        }
    }

    fn pause(&mut self, id: u64, length: u64, frozen: bool) {
        let between = self.rng.chance(500);
        let inputs = self.rng.between(1, 20);
        let now = self.now;
        let node = self.node(id);
        if node.paused_until > now {
            return;
        }
        node.paused_until = now + length;
        if between {
            node.sampled = Some((node.clock.millis(now), inputs));
        }
        if frozen {
            node.clock.stopped += length * node.clock.rate / 1000;
        }
    }
}
