//! The world: time, nodes, links.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use dq_raft::mutants::{Mutant, is_broken};
use dq_raft::{Driver, Effect, Message, PeerId, ReadMode};

use super::Counts;
use super::events::{Event, Scheduled};
use super::node::{Clock, Node, address, bootstrapped};
use super::plan::{MS, Plan};
use crate::rng::Rng;

/// One direction between two nodes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Link {
    /// Counts connections: what was on an earlier one is lost.
    pub(super) life: u64,
    /// Its way takes so much longer than others.
    pub(super) late: u64,
    /// When the last message arrives: none overtakes another on the same connection.
    pub(super) last_arrival: u64,
    /// Nothing arrives before.
    pub(super) held_until: u64,
    /// What is sent before is lost.
    pub(super) cut_until: u64,
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) now: u64,
    pub(super) counts: Counts,
    pub(super) failures: Vec<String>,
    pub(super) nodes: Vec<Node>,
    pub(super) links: Vec<Link>,
    /// The server that comes back with an empty disk once its removal is committed.
    pub(super) to_wipe: Option<u64>,
    peers: Vec<PeerId>,
    events: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    /// The last write that was acknowledged, or read.
    pub(super) known: u64,
    /// It has grown since the others were asked.
    pub(super) news: bool,
    pub(super) leaders: BTreeMap<u64, u64>,
    /// Terms of the committed entries, by index.
    pub(super) committed: Vec<u64>,
    pub(super) effects: Vec<Effect>,
    pub(super) verbose: bool,
}

impl World {
    pub(super) fn new(plan: Plan, mut rng: Rng, verbose: bool) -> World {
        let count = plan.voters + plan.spares;
        let mut nodes = Vec::new();
        for id in 1..=count {
            let off = if plan.extreme {
                rng.pick(&[0, 2 * plan.skew])
            } else {
                rng.below(2 * plan.skew + 1)
            };
            let clock = Clock {
                rate: 1000 - plan.skew + off,
                offset: rng.between(1_000_000, 2_000_000),
                stopped: 0,
            };
            nodes.push(Node::new(id, bootstrapped(plan.voters, plan.spares), clock));
        }
        let peer = |id| PeerId {
            id,
            address: address(id),
        };
        let mut links = vec![Link::default(); (count * count) as usize];
        for (from, to, late) in &plan.late {
            links[((from - 1) * count + to - 1) as usize].late = *late;
        }
        World {
            plan,
            rng,
            now: 0,
            counts: Counts::default(),
            failures: Vec::new(),
            nodes,
            links,
            to_wipe: None,
            peers: (1..=count).map(peer).collect(),
            events: BinaryHeap::new(),
            order: 0,
            known: 0,
            news: false,
            leaders: BTreeMap::new(),
            committed: vec![0],
            effects: Vec::new(),
            verbose,
        }
    }

    /// Runs to the end, or to the first failure.
    pub(super) fn run(&mut self) {
        for id in self.ids() {
            self.start(id, true);
        }
        self.schedule(self.plan.read_interval, Event::Read);
        self.schedule(self.plan.write_interval, Event::Write);
        // Most have a leader by then.
        let election = 1000 * self.plan.timeouts[0].0;
        let first = self.rng.between(election, 3 * election);
        self.schedule(first, Event::Fault);
        while self.failures.is_empty() && self.now < self.plan.length {
            self.step();
            while std::mem::take(&mut self.news) {
                self.tempt();
            }
        }
        self.counts.micros = self.now;
    }

    fn step(&mut self) {
        let timer = self.nodes.iter().min_by_key(|node| node.deadline);
        let (id, timer) = timer.map_or((0, u64::MAX), |node| (node.id, node.deadline));
        let next = self.events.peek().map_or(u64::MAX, |Reverse(next)| next.at);
        self.now = self.now.max(timer.min(next));
        if timer < next {
            let node = &mut self.nodes[id as usize - 1];
            if node.paused_until > self.now {
                node.deadline = node.paused_until;
            } else {
                self.with(id, Driver::tick);
            }
        } else if let Some(Reverse(Scheduled { event, .. })) = self.events.pop() {
            if let Some(id) = event.runs_on() {
                let until = self.node(id).paused_until;
                if until > self.now {
                    self.schedule(until, event);
                    return;
                }
            }
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver {
                from,
                to,
                life,
                message,
            } => {
                if self.link(from, to).life == life && self.node(to).driver.is_some() {
                    if self.verbose {
                        self.say(&format!("{from} -> {to}: {}", brief(&message)));
                    }
                    let peer = self.peers[from as usize - 1].clone();
                    let result = self.with(to, |driver, now| driver.receive(now, &peer, message));
                    if let Some(Err(error)) = result {
                        self.failures
                            .push(format!("node {to} refuses what node {from} said: {error}"));
                    }
                }
            }
            Event::Disk { id, life } => {
                let node = self.node(id);
                if node.life != life {
                    return;
                }
                node.disk.busy = false;
                if let Some(persist) = node.disk.complete_one() {
                    self.with(id, |driver, _| driver.durable(persist));
                }
            }
            Event::Bound { id, life, bound_ms } => {
                let node = self.node(id);
                if node.life == life {
                    node.disk.storing_bound = false;
                    node.disk.bound_ms = bound_ms;
                    self.with(id, |driver, _| driver.set_promise_bound(bound_ms));
                }
            }
            Event::Start { id } => self.start(id, false),
            Event::Reconnect { from, to } => {
                self.with(from, |driver, _| driver.unreachable(to));
            }
            Event::Ask { id, at_least } => self.ask(id, at_least),
            Event::Read => {
                for id in self.ids() {
                    self.send_read(id);
                }
                let at = self.soon(self.plan.read_interval);
                self.schedule(at, Event::Read);
            }
            Event::Write => {
                for id in self.ids() {
                    self.write(id);
                }
                let at = self.soon(self.plan.write_interval);
                self.schedule(at, Event::Write);
            }
            Event::Fault => {
                let wait = self.faults();
                self.schedule(self.now + wait, Event::Fault);
            }
        }
    }

    fn start(&mut self, id: u64, first: bool) {
        if self.node(id).driver.is_some() {
            return;
        }
        let mode = if self.is_silent(id) {
            ReadMode::Leader
        } else {
            self.rng.pick(&self.plan.modes)
        };
        let timeouts = if first {
            self.plan.timeouts[0]
        } else {
            self.rng.pick(&self.plan.timeouts)
        };
        let (seed, now) = (self.rng.bits(), self.now);
        if let Err(why) = self.node(id).start(now, mode, timeouts, seed) {
            self.failures.push(format!("node {id}: {why}"));
        }
        if self.verbose {
            self.say(&format!("{id} starts: {mode:?} {timeouts:?}"));
        }
        self.carry_out(id);
    }

    /// Gives a node's driver an input, and carries out what comes of it. `None` if it does not run.
    pub(super) fn with<R>(
        &mut self,
        id: u64,
        input: impl FnOnce(&mut Driver, u64) -> R,
    ) -> Option<R> {
        if self.node(id).driver.is_none() || self.node(id).paused_until > self.now {
            return None;
        }
        let now = self.clock(id);
        let result = self.node(id).driver.as_mut().map(|d| input(d, now))?;
        self.carry_out(id);
        Some(result)
    }

    /// What a node takes for the present: its clock, read after the input was.
    pub(super) fn clock(&mut self, id: u64) -> u64 {
        self.counts.inputs += 1;
        let now = self.now;
        let node = self.node(id);
        if is_broken(Mutant::ClockPerTurn)
            && let Some((then, left)) = node.sampled
        {
            node.sampled = (left > 1).then_some((then, left - 1));
            return then;
        }
        node.clock.millis(now)
    }

    /// What is on the way is lost, or is overtaken by what comes later.
    pub(super) fn reset(&mut self, from: u64, to: u64, lost: bool) {
        let link = self.link(from, to);
        link.life += u64::from(lost);
        link.last_arrival = 0;
        link.held_until = 0;
        self.schedule(self.now, Event::Reconnect { from, to });
    }

    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        self.order += 1;
        let order = self.order;
        self.events.push(Reverse(Scheduled { at, order, event }));
    }

    fn soon(&mut self, mean: u64) -> u64 {
        self.now + 1 + self.rng.below(2 * mean)
    }

    pub(super) fn ids(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.nodes.len() as u64
    }

    pub(super) fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    pub(super) fn link(&mut self, from: u64, to: u64) -> &mut Link {
        let count = self.nodes.len() as u64;
        &mut self.links[((from - 1) * count + to - 1) as usize]
    }

    pub(super) fn is_silent(&self, id: u64) -> bool {
        self.plan.silent.contains(&id)
    }

    pub(super) fn say(&self, what: &str) {
        if self.verbose {
            println!("{:>9.3} {what}", self.now as f64 / MS as f64);
        }
    }
}

fn brief(message: &Message) -> String {
    match message {
        Message::AppendEntries(m) => format!(
            "append term {} prev {} +{} commit {} {:?}",
            m.term,
            m.prev_index,
            m.entries.len(),
            m.leader_commit,
            m.stamp
        ),
        other => format!("{other:?}"),
    }
}
