//! The world: time, the network, and what becomes of a driver's effects.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use dq_raft::mutants::{Mutant, is_broken};
use dq_raft::{Driver, Effect, EntryKind, Message, PeerId, Proof, ReadMode};

use super::Counts;
use super::node::{Clock, Node, address, barrier, bootstrapped, write};
use super::plan::{MS, Plan};
use crate::rng::Rng;

/// One direction between two nodes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Link {
    /// Counts connections: what was on an earlier one is lost.
    pub(super) life: u64,
    /// Its way takes so much longer than others.
    late: u64,
    /// When the last message arrives: none overtakes another on the same connection.
    last_arrival: u64,
    /// Nothing arrives before.
    pub(super) held_until: u64,
    /// What is sent before is lost.
    pub(super) cut_until: u64,
}

pub(super) enum Event {
    Deliver {
        from: u64,
        to: u64,
        life: u64,
        message: Message,
    },
    Disk {
        id: u64,
        life: u64,
    },
    /// Another bound on promises is durable.
    Bound {
        id: u64,
        life: u64,
        bound_ms: u64,
    },
    Start {
        id: u64,
    },
    /// A cut is over: the sender has a new connection.
    Reconnect {
        from: u64,
        to: u64,
    },
    /// A read arrives at a node that did not run when it was sent.
    Ask {
        id: u64,
        at_least: u64,
    },
    Read,
    Write,
    Fault,
}

impl Event {
    /// The node that has to run for it.
    fn runs_on(&self) -> Option<u64> {
        match self {
            Event::Deliver { to, .. } => Some(*to),
            Event::Disk { id, .. } | Event::Bound { id, .. } | Event::Ask { id, .. } => Some(*id),
            Event::Reconnect { from, .. } => Some(*from),
            Event::Start { .. } | Event::Read | Event::Write | Event::Fault => None,
        }
    }
}

struct Scheduled {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
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
    known: u64,
    /// It has grown since the others were asked.
    news: bool,
    leaders: BTreeMap<u64, u64>,
    /// Terms of the committed entries, by index.
    committed: Vec<u64>,
    effects: Vec<Effect>,
    verbose: bool,
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
    fn clock(&mut self, id: u64) -> u64 {
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

    fn carry_out(&mut self, id: u64) {
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

    /// A client has learnt that the register is at least this.
    fn learn(&mut self, register: u64) {
        if register > self.known {
            self.known = register;
            self.news = true;
        }
    }

    /// What is known has grown: others who believe to lead are asked at once, before they learn.
    fn tempt(&mut self) {
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
    fn send_read(&mut self, id: u64) {
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

    fn ask(&mut self, id: u64, at_least: u64) {
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

    fn finish_reads(&mut self, id: u64) {
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
    fn write(&mut self, id: u64) {
        let now = self.now;
        let node = self.node(id);
        if node.epoch.is_some() && node.paused_until <= now {
            self.with(id, |driver, now| driver.propose(now, write()).is_ok());
        }
    }

    /// The first write of a leadership, at once.
    fn write_now(&mut self, id: u64) {
        let now = self.clock(id);
        if let Some(driver) = &mut self.node(id).driver {
            // Its effects are carried out with those of the election.
            let _ = driver.propose(now, write());
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

    fn is_silent(&self, id: u64) -> bool {
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
