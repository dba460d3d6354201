//! Drivers in one thread, with a lossy network, slow disks and crashes, and checks after each step.
//!
//! Connections keep their order but each has its own delays; a broken one loses what was on it. A
//! disk keeps what it was given apart from what it has made durable, and a crash loses the
//! difference. Every message goes through its bytes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dq_wire::raft_rpc::{self, Preamble};
use dq_wire::{Configuration, EntryKind, Role, Server};

use crate::c_node::{self, CNode};
use crate::driver::{Driver, Effect, Options, Proof, RaftRole, ReadMode, ReadOptions, ReadTicket};
use crate::log::cache::Trailing;
use crate::message::{Message, PeerId};
use crate::types::{DiskOp, LogEntry, LogRange, Payload, Persist, Recovered, SnapshotMeta};

/// Seeded numbers: splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub(crate) fn options(id: u64) -> Options {
    Options {
        id,
        election_timeout_ms: 300,
        heartbeat_ms: 50,
        seed: 7,
        log_bytes_max: 1 << 20,
    }
}

pub(crate) fn configuration(servers: &[(u64, Role)]) -> Configuration {
    let servers = servers.iter().map(|&(id, role)| Server {
        id,
        address: address(id),
        role,
    });
    Configuration {
        servers: servers.collect(),
    }
}

pub(crate) fn voters(count: u64) -> Configuration {
    configuration(&(1..=count).map(|id| (id, Role::Voter)).collect::<Vec<_>>())
}

pub(crate) fn address(id: u64) -> String {
    format!("10.0.0.{id}:9000")
}

pub(crate) fn peer(id: u64) -> PeerId {
    PeerId {
        id,
        address: address(id),
    }
}

pub(crate) fn change(configuration: &Configuration) -> Payload {
    let mut bytes = Vec::new();
    configuration.encode(&mut bytes);
    Payload::from(Bytes::from(bytes))
}

/// A payload that holds one number.
pub(crate) fn command(number: u64) -> Payload {
    Payload::from(Bytes::copy_from_slice(&number.to_le_bytes()))
}

pub(crate) fn entry(index: u64, term: u64, kind: EntryKind, payload: Payload) -> LogEntry {
    LogEntry {
        index,
        term,
        kind,
        payload,
    }
}

/// What a freshly bootstrapped directory holds.
pub(crate) fn bootstrapped(configuration: &Configuration) -> Recovered {
    Recovered {
        term: 1,
        vote: 0,
        snapshot: None,
        entries: vec![entry(1, 1, EntryKind::Change, change(configuration))],
    }
}

/// A few entries, so that followers that lag are served from disk.
const LOG_BYTES_MAX: u64 = 40;

/// A disk that knows what is durable.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) durable: Recovered,
    pub(crate) queue: Vec<Persist>,
}

impl Disk {
    /// Makes the first piece of work durable; returns its id.
    pub(crate) fn complete_one(&mut self) -> Option<u64> {
        if self.queue.is_empty() {
            return None;
        }
        let persist = self.queue.remove(0);
        let state = &mut self.durable;
        for op in persist.ops {
            match op {
                DiskOp::HardState { term, vote } => (state.term, state.vote) = (term, vote),
                DiskOp::Truncate { from } => state.entries.retain(|entry| entry.index < from),
                DiskOp::Append { entries } => {
                    let next = match (state.entries.last(), &state.snapshot) {
                        (Some(last), _) => last.index + 1,
                        (None, Some(meta)) => meta.index + 1,
                        (None, None) => 1,
                    };
                    assert_eq!(entries[0].index, next, "an append leaves no gap");
                    state.entries.extend(entries);
                }
                DiskOp::InstallSnapshot { meta } => {
                    state.entries.clear();
                    state.snapshot = Some(meta);
                }
                DiskOp::Prune {
                    snapshot_index,
                    trailing,
                } => {
                    let keep = (snapshot_index + 1).saturating_sub(trailing);
                    state.entries.retain(|entry| entry.index >= keep);
                }
            }
        }
        Some(persist.id)
    }
}

struct Node {
    driver: Option<Driver>,
    /// Instead of a driver.
    c: Option<CNode>,
    is_c: bool,
    disk: Disk,
    applied: u64,
    disk_busy: bool,
    /// The rate of its clock, in thousandths.
    rate: u64,
    /// The promise bound, a file of its own.
    bound_ms: u64,
    reads: Vec<Read>,
}

/// A read that waits for its proof.
struct Read {
    ticket: ReadTicket,
    /// What it must see: everything that somebody knew to be done when it arrived.
    at_least: u64,
}

impl Node {
    fn local(&self, now: u64) -> u64 {
        now * self.rate / 1000
    }

    /// When its clock will show its driver's deadline.
    fn deadline(&self) -> Option<u64> {
        let deadline = match (&self.driver, &self.c) {
            (Some(driver), _) => driver.deadline(),
            (None, Some(c)) => c.deadline(),
            (None, None) => return None,
        };
        Some(
            deadline
                .checked_mul(1000)
                .map_or(u64::MAX, |d| d.div_ceil(self.rate)),
        )
    }
}

enum Event {
    Deliver {
        from: u64,
        to: u64,
        connection: u64,
        message: Message,
    },
    Disk {
        id: u64,
        life: u64,
    },
    Read {
        id: u64,
        life: u64,
        range: LogRange,
    },
}

/// How rough the world is.
#[derive(Clone, Copy)]
pub(crate) struct World {
    pub(crate) loss_percent: u64,
    pub(crate) delay_ms: u64,
    pub(crate) disk_ms: u64,
    pub(crate) snapshot_every: u64,
    pub(crate) reads: ReadMode,
    /// How far clocks' rates are from the true one, in thousandths, either way.
    pub(crate) skew: u64,
}

impl World {
    pub(crate) const KIND: World = World {
        loss_percent: 0,
        delay_ms: 1,
        disk_ms: 1,
        snapshot_every: u64::MAX,
        reads: ReadMode::Quorum,
        skew: 0,
    };
}

/// How often something happened: a test in which nothing happens proves nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) elections: u64,
    pub(crate) epochs_lost: u64,
    pub(crate) restores: u64,
    pub(crate) truncations: u64,
    pub(crate) changes: u64,
    pub(crate) changes_failed: u64,
    pub(crate) transfers: u64,
    pub(crate) transfers_failed: u64,
    pub(crate) reads: u64,
    pub(crate) fresh_entries: u64,
    /// Entries that were read back for followers that lag.
    pub(crate) read_back: u64,
}

impl Counts {
    pub(crate) fn all_seen(&self) -> bool {
        self.elections > 0
            && self.epochs_lost > 0
            && self.restores > 0
            && self.truncations > 0
            && self.changes > 0
            && self.changes_failed > 0
            && self.transfers > 0
            && self.transfers_failed > 0
            && self.reads > 0
            && self.read_back > 0
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.elections += other.elections;
        self.epochs_lost += other.epochs_lost;
        self.restores += other.restores;
        self.truncations += other.truncations;
        self.changes += other.changes;
        self.changes_failed += other.changes_failed;
        self.transfers += other.transfers;
        self.transfers_failed += other.transfers_failed;
        self.reads += other.reads;
        self.fresh_entries += other.fresh_entries;
        self.read_back += other.read_back;
    }
}

/// A cluster and its checks.
pub(crate) struct Network {
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) world: World,
    nodes: BTreeMap<u64, Node>,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    connections: BTreeMap<(u64, u64), u64>,
    last_arrival: BTreeMap<(u64, u64), u64>,
    lives: BTreeMap<u64, u64>,
    pub(crate) cut: BTreeSet<u64>,
    /// These are C nodes.
    c_nodes: BTreeSet<u64>,
    leaders: BTreeMap<u64, u64>,
    pub(crate) committed: BTreeMap<u64, LogEntry>,
    everything: BTreeMap<(u64, u64), (u64, Payload)>,
    pub(crate) done: Vec<Effect>,
    pub(crate) messages: u64,
    pub(crate) counts: Counts,
    /// The highest index that a client knows to be applied.
    known: u64,
}

impl Network {
    pub(crate) fn new(seed: u64, world: World) -> Network {
        Network {
            now: 1000,
            random: Random(seed),
            world,
            nodes: BTreeMap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            connections: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            lives: BTreeMap::new(),
            cut: BTreeSet::new(),
            c_nodes: BTreeSet::new(),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            everything: BTreeMap::new(),
            done: Vec::new(),
            messages: 0,
            counts: Counts::default(),
            known: 0,
        }
    }

    /// A started cluster of so many voters.
    pub(crate) fn of_voters(count: u64, seed: u64, world: World) -> Network {
        Network::mixed(count, &[], seed, world)
    }

    /// A started cluster of so many voters, some of them C nodes.
    pub(crate) fn mixed(count: u64, c_nodes: &[u64], seed: u64, world: World) -> Network {
        Network::of(&voters(count), c_nodes, seed, world)
    }

    /// A started cluster, some of whose nodes are C nodes.
    pub(crate) fn of(
        configuration: &Configuration,
        c_nodes: &[u64],
        seed: u64,
        world: World,
    ) -> Network {
        let mut network = Network::new(seed, world);
        network.c_nodes.extend(c_nodes);
        for server in &configuration.servers {
            network.insert(server.id, bootstrapped(configuration));
            network.start(server.id);
        }
        network
    }

    pub(crate) fn insert(&mut self, id: u64, durable: Recovered) {
        let disk = Disk {
            durable,
            queue: Vec::new(),
        };
        let rate = 1000 - self.world.skew + self.random.below(2 * self.world.skew + 1);
        let node = Node {
            driver: None,
            c: None,
            is_c: self.c_nodes.contains(&id),
            disk,
            applied: 0,
            disk_busy: false,
            rate,
            bound_ms: 0,
            reads: Vec::new(),
        };
        self.nodes.insert(id, node);
    }

    pub(crate) fn start(&mut self, id: u64) {
        let seed = self.random.next();
        let mode = self.world.reads;
        let node = self.nodes.get_mut(&id).expect("inserted");
        let now = node.local(self.now);
        if node.is_c {
            let options = c_node::Options {
                id,
                election_ms: 300,
                heartbeat_ms: 50,
                seed,
                snapshot_threshold: self.world.snapshot_every,
                snapshot_trailing: 4,
            };
            node.c = Some(CNode::new(options, &node.disk.durable, now));
            let snapshot = node.disk.durable.snapshot.as_ref();
            node.applied = snapshot.map_or(0, |meta| meta.index);
            return self.carry_out(id);
        }
        let options = Options {
            seed,
            log_bytes_max: LOG_BYTES_MAX,
            ..options(id)
        };
        let driver = Driver::new(options, node.disk.durable.clone()).expect("recovers");
        node.applied = node
            .disk
            .durable
            .snapshot
            .as_ref()
            .map_or(0, |meta| meta.index);
        let found = node.bound_ms;
        if mode == ReadMode::Lease {
            node.bound_ms = found.max(ReadOptions::promise_ms(&self::options(id)));
        }
        let mut driver = driver.with_reads(ReadOptions {
            mode,
            promise_found_ms: found,
            promise_bound_ms: node.bound_ms,
        });
        driver.start(now);
        node.driver = Some(driver);
        self.carry_out(id);
    }

    pub(crate) fn crash(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("inserted");
        node.driver = None;
        node.c = None;
        node.reads.clear();
        node.disk.queue.clear();
        node.disk_busy = false;
        *self.lives.entry(id).or_default() += 1;
        self.break_connections(id);
    }

    /// No faults from here on, and everybody up.
    pub(crate) fn heal(&mut self) {
        self.world.loss_percent = 0;
        self.cut.clear();
        for id in self.ids() {
            if !self.is_up(id) {
                self.start(id);
            }
        }
    }

    pub(crate) fn is_up(&self, id: u64) -> bool {
        self.nodes[&id].driver.is_some() || self.nodes[&id].c.is_some()
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn driver(&self, id: u64) -> &Driver {
        self.nodes[&id].driver.as_ref().expect("is up")
    }

    pub(crate) fn applied(&self, id: u64) -> u64 {
        self.nodes[&id].applied
    }

    /// Runs one call on a node, and what follows from it.
    pub(crate) fn with<R>(&mut self, id: u64, f: impl FnOnce(&mut Driver, u64) -> R) -> R {
        let node = self.nodes.get_mut(&id).expect("inserted");
        let now = node.local(self.now);
        let result = f(node.driver.as_mut().expect("is up"), now);
        self.carry_out(id);
        result
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        let leads = |id: &&u64| {
            self.nodes[id]
                .driver
                .as_ref()
                .is_some_and(|driver| driver.epoch().is_some())
        };
        let term = |id: &&u64| self.driver(**id).term();
        self.nodes.keys().filter(leads).max_by_key(term).copied()
    }

    /// Who leads in the highest term, of whatever kind.
    fn any_leader(&self) -> Option<u64> {
        let ours = self.leader().map(|id| (self.driver(id).term(), id));
        let leads = |c: &&CNode| c.role == RaftRole::Leader;
        let c = |(id, node): (&u64, &Node)| node.c.as_ref().filter(leads).map(|c| (c.term, *id));
        let (_, leader) = self.nodes.iter().filter_map(c).chain(ours).max()?;
        Some(leader)
    }

    /// The servers that get entries, as the leader sees it.
    pub(crate) fn members(&self) -> Vec<u64> {
        let Some(leader) = self.any_leader() else {
            return Vec::new();
        };
        let configuration = match &self.nodes[&leader].c {
            Some(c) => c.configuration(),
            None => self.driver(leader).configuration(),
        };
        let servers = configuration.servers.iter();
        servers
            .filter(|server| server.role != Role::Spare)
            .map(|server| server.id)
            .collect()
    }

    /// Proposes at the node that leads in the highest term. Returns the entry's index.
    pub(crate) fn propose(&mut self, number: u64) -> Option<u64> {
        let leader = self.any_leader()?;
        let node = self.nodes.get_mut(&leader).expect("listed");
        let now = node.local(self.now);
        if let Some(c) = &mut node.c {
            let index = c.propose(now, command(number).to_bytes());
            self.carry_out(leader);
            return index;
        }
        let entries = vec![(EntryKind::Command, command(number))];
        self.with(leader, |driver, now| driver.propose(now, entries))
            .ok()
    }

    pub(crate) fn break_connections(&mut self, id: u64) {
        let ids = self.ids();
        for other in ids.into_iter().filter(|other| *other != id) {
            *self.connections.entry((id, other)).or_default() += 1;
            *self.connections.entry((other, id)).or_default() += 1;
            if self.nodes[&other].driver.is_some() {
                self.with(other, |driver, _| driver.unreachable(id));
            }
        }
    }

    /// Runs until `done` or for so many ms; true if it was done.
    pub(crate) fn run_until(&mut self, ms: u64, mut done: impl FnMut(&Network) -> bool) -> bool {
        let end = self.now + ms;
        while !done(self) {
            let timers = self.nodes.values().filter_map(Node::deadline);
            let timer = timers.min().unwrap_or(u64::MAX);
            let event = self.events.keys().next().map_or(u64::MAX, |(at, _)| *at);
            let next = timer.min(event);
            if next > end {
                self.now = end;
                return done(self);
            }
            self.now = self.now.max(next);
            if event <= timer {
                let (_, event) = self.events.pop_first().expect("just looked at");
                self.happen(event);
            } else {
                let due = |node: &Node| node.deadline().is_some_and(|at| at <= next);
                let id = self
                    .nodes
                    .iter()
                    .find(|(_, node)| due(node))
                    .map(|(id, _)| *id);
                self.tick(id.expect("some timer is due"));
            }
        }
        true
    }

    pub(crate) fn run(&mut self, ms: u64) {
        self.run_until(ms, |_| false);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver {
                from,
                to,
                connection,
                message,
            } => {
                let current = self.connections.get(&(from, to)).copied().unwrap_or(0);
                let cut = self.cut.contains(&from) || self.cut.contains(&to);
                if connection == current && !cut && self.is_up(to) {
                    self.receive(to, from, message);
                }
            }
            Event::Disk { id, life } => {
                if self.lives.get(&id).copied().unwrap_or(0) != life {
                    return;
                }
                let node = self.nodes.get_mut(&id).expect("inserted");
                node.disk_busy = false;
                if let Some(persist) = node.disk.complete_one() {
                    self.check_durable(id);
                    self.durable(id, persist);
                }
            }
            Event::Read { id, life, range } => {
                if self.lives.get(&id).copied().unwrap_or(0) != life {
                    return;
                }
                // Only where there are snapshots to send instead.
                let fails = self.world.snapshot_every != u64::MAX && self.random.chance(3);
                let node = self.nodes.get_mut(&id).expect("inserted");
                let now = node.local(self.now);
                let wanted = range.first..=range.last;
                let entries = &node.disk.durable.entries;
                let found: Vec<LogEntry> = entries
                    .iter()
                    .filter(|entry| wanted.contains(&entry.index))
                    .cloned()
                    .collect();
                self.counts.read_back += found.len() as u64;
                let driver = node.driver.as_mut().expect("is up");
                driver.log_read(now, range, Some(found).filter(|_| !fails));
                self.carry_out(id);
            }
        }
    }

    fn tick(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("inserted");
        let now = node.local(self.now);
        match &mut node.c {
            Some(c) => c.tick(now),
            None => node.driver.as_mut().expect("is up").tick(now),
        }
        self.carry_out(id);
    }

    fn receive(&mut self, id: u64, from: u64, message: Message) {
        let node = self.nodes.get_mut(&id).expect("inserted");
        let now = node.local(self.now);
        match &mut node.c {
            Some(c) => c.receive(now, &peer(from), message),
            None => {
                let driver = node.driver.as_mut().expect("is up");
                let result = driver.receive(now, &peer(from), message);
                assert_eq!(result, Ok(()), "drivers say nothing malformed");
            }
        }
        self.carry_out(id);
    }

    fn durable(&mut self, id: u64, persist: u64) {
        let node = self.nodes.get_mut(&id).expect("inserted");
        let now = node.local(self.now);
        match &mut node.c {
            Some(c) => c.durable(now, persist),
            None => node.driver.as_mut().expect("is up").durable(persist),
        }
        self.carry_out(id);
    }

    fn carry_out(&mut self, id: u64) {
        let mut effects = Vec::new();
        let node = self.nodes.get_mut(&id).expect("inserted");
        match (&mut node.driver, &mut node.c) {
            (Some(driver), _) => driver.ready(&mut effects),
            (None, Some(c)) => {
                c.ready(&mut effects);
                assert_eq!(c.unavailable(), None, "no C node is made to shut down");
                // C dqlite writes term and vote while it waits.
                (node.disk.durable.term, node.disk.durable.vote) = (c.term, c.vote);
            }
            (None, None) => {}
        }
        for effect in effects {
            match effect {
                Effect::Send {
                    to,
                    address: at,
                    message,
                } => {
                    assert_eq!(at, address(to));
                    self.send(id, to, message);
                }
                Effect::Persist(persist) => {
                    let truncates = |op: &DiskOp| matches!(op, DiskOp::Truncate { .. });
                    self.counts.truncations += u64::from(persist.ops.iter().any(truncates));
                    let node = self.nodes.get_mut(&id).expect("inserted");
                    node.disk.queue.push(persist);
                }
                Effect::ReadLog(range) => {
                    let life = self.lives.get(&id).copied().unwrap_or(0);
                    let at = self.now + self.random.below(2 * self.world.disk_ms) + 1;
                    self.schedule(at, Event::Read { id, life, range });
                }
                Effect::Apply(entry) => self.apply(id, entry),
                Effect::Restore(meta) => {
                    let node = self.nodes.get_mut(&id).expect("inserted");
                    assert!(
                        meta.index > node.applied,
                        "a restored snapshot goes forward"
                    );
                    assert_eq!(
                        node.disk.durable.snapshot.as_ref(),
                        Some(&meta),
                        "is durable"
                    );
                    node.applied = meta.index;
                    self.counts.restores += 1;
                }
                Effect::SnapshotWanted => self.snapshot(id),
                Effect::EpochBegan(epoch) => {
                    self.counts.elections += 1;
                    let before = self.leaders.insert(epoch.term, id);
                    assert!(
                        before.is_none_or(|other| other == id),
                        "one leader per term"
                    );
                }
                Effect::Discard(_) => {}
                Effect::EpochEnded(_) => self.counts.epochs_lost += 1,
                Effect::ChangeDone { result, .. } => {
                    let counts = &mut self.counts;
                    *(if result.is_ok() {
                        &mut counts.changes
                    } else {
                        &mut counts.changes_failed
                    }) += 1;
                    self.done.push(effect);
                }
                Effect::TransferDone { result } => {
                    let counts = &mut self.counts;
                    *(if result.is_ok() {
                        &mut counts.transfers
                    } else {
                        &mut counts.transfers_failed
                    }) += 1;
                    self.done.push(effect);
                }
            }
        }
        self.snapshot_of_c(id);
        self.schedule_disk(id);
        self.finish_reads(id);
    }

    /// Takes the snapshot that a C node wants, at once.
    fn snapshot_of_c(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("inserted");
        let Some(c) = node.c.as_mut() else { return };
        if let Some(meta) = c.begin_snapshot() {
            node.disk.durable.snapshot = Some(meta.clone());
            c.snapshot_ended(meta, true);
            self.carry_out(id);
        }
    }

    /// A read arrives at every node that believes to lead.
    pub(crate) fn read(&mut self) {
        let at_least = self.known;
        for id in self.ids() {
            let node = self.nodes.get_mut(&id).expect("listed");
            let now = node.local(self.now);
            let Some(driver) = node.driver.as_mut() else {
                continue;
            };
            let Some(ticket) = driver.read_ticket(now) else {
                continue;
            };
            node.reads.push(Read { ticket, at_least });
            driver.confirm(now);
            self.carry_out(id);
        }
    }

    fn finish_reads(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("listed");
        let now = node.local(self.now);
        let Some(driver) = node.driver.as_mut() else {
            return;
        };
        let mut fresh = false;
        let applied = node.applied;
        let (known, counts) = (&mut self.known, &mut self.counts);
        node.reads.retain(|read| match driver.proof(&read.ticket) {
            Proof::Proven => {
                assert!(
                    applied >= read.at_least,
                    "a read sees what was done before it"
                );
                *known = (*known).max(applied);
                counts.reads += 1;
                false
            }
            Proof::Waiting | Proof::Unasked => true,
            Proof::FreshEntry => {
                fresh = true;
                true
            }
            Proof::Lost => false,
        });
        if fresh {
            counts.fresh_entries += 1;
            let barrier = vec![(EntryKind::Barrier, command(0))];
            if driver.propose(now, barrier).is_ok() {
                self.carry_out(id);
            }
        }
    }

    fn schedule_disk(&mut self, id: u64) {
        let delay = self.random.below(self.world.disk_ms + 1);
        let node = self.nodes.get_mut(&id).expect("inserted");
        if !node.disk_busy && !node.disk.queue.is_empty() {
            node.disk_busy = true;
            let life = self.lives.get(&id).copied().unwrap_or(0);
            self.schedule(self.now + delay, Event::Disk { id, life });
        }
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    fn send(&mut self, from: u64, to: u64, message: Message) {
        self.messages += 1;
        if !self.nodes.contains_key(&to) {
            return;
        }
        if matches!(message, Message::InstallSnapshot { .. })
            && let Some(driver) = self
                .nodes
                .get_mut(&from)
                .and_then(|node| node.driver.as_mut())
        {
            driver.snapshot_sent(to, true);
        }
        if let Message::AppendEntries(append) = &message {
            let mut before = append.prev_term;
            for entry in &append.entries {
                self.check_entry(before, entry);
                before = entry.term;
            }
        }
        let message = through_bytes(message);
        if self.random.chance(self.world.loss_percent) {
            // A lost message is a broken connection: nothing on it arrives any more.
            *self.connections.entry((from, to)).or_default() += 1;
            if let Some(driver) = self
                .nodes
                .get_mut(&from)
                .and_then(|node| node.driver.as_mut())
            {
                driver.unreachable(to);
            }
            return;
        }
        let connection = self.connections.get(&(from, to)).copied().unwrap_or(0);
        let earliest = self.last_arrival.get(&(from, to)).copied().unwrap_or(0);
        let at = (self.now + self.random.below(self.world.delay_ms + 1)).max(earliest);
        self.last_arrival.insert((from, to), at);
        self.schedule(
            at,
            Event::Deliver {
                from,
                to,
                connection,
                message,
            },
        );
    }

    fn apply(&mut self, id: u64, entry: LogEntry) {
        let node = self.nodes.get_mut(&id).expect("inserted");
        assert_eq!(
            entry.index,
            node.applied + 1,
            "entries are applied in order"
        );
        node.applied = entry.index;
        let durable = node
            .disk
            .durable
            .entries
            .iter()
            .find(|have| have.index == entry.index);
        assert_eq!(durable, Some(&entry), "what is applied is durable here");
        let known = self
            .committed
            .entry(entry.index)
            .or_insert_with(|| entry.clone());
        assert_eq!(*known, entry, "committed entries never change");
        let epoch = node.driver.as_ref().and_then(Driver::epoch);
        let c = node
            .c
            .as_ref()
            .filter(|c| c.role == RaftRole::Leader)
            .map(|c| c.term);
        if epoch.map(|epoch| epoch.term).or(c) == Some(entry.term) {
            self.known = self.known.max(entry.index);
        }
        let index = node.applied;
        if index.is_multiple_of(self.world.snapshot_every) {
            self.snapshot(id);
        }
    }

    /// Takes a snapshot of all that node `id` has applied, at once.
    pub(crate) fn snapshot(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("inserted");
        let Some(driver) = node.driver.as_mut() else {
            return;
        };
        // Effects are carried out one by one, so the driver may be ahead of this node.
        let index = node.applied;
        if index != driver.applied_index() {
            return;
        }
        let (configuration, configuration_index) = driver.committed_configuration();
        let meta = SnapshotMeta {
            index,
            term: driver.term_at(index).expect("applied"),
            timestamp: 1,
            configuration: configuration.clone(),
            configuration_index,
        };
        node.disk.durable.snapshot = Some(meta.clone());
        driver.snapshot_taken(
            meta,
            Trailing {
                entries: 3,
                bytes: 1 << 16,
            },
        );
    }

    /// Log matching: the same index and term mean the same entry and the same predecessor, in all
    /// that is sent or durable. What is only in memory does not count: a sole voter that crashes
    /// before its term is durable takes the same term again.
    fn check_entry(&mut self, before: u64, entry: &LogEntry) {
        let this = (before, entry.payload.clone());
        let key = (entry.index, entry.term);
        let known = self.everything.entry(key).or_insert_with(|| this.clone());
        assert_eq!(*known, this, "logs match");
    }

    fn check_durable(&mut self, id: u64) {
        let entries = &self.nodes[&id].disk.durable.entries;
        let recent = entries[entries.len().saturating_sub(20)..].to_vec();
        for pair in recent.windows(2) {
            self.check_entry(pair[0].term, &pair[1]);
        }
    }
}

/// What arrives when a message is sent.
fn through_bytes(message: Message) -> Message {
    let (header, seq) = message.to_wire(0);
    let mut bytes = Vec::new();
    header.encode(seq, &mut bytes).expect("is small");
    let preamble = Preamble::decode(&bytes).expect("was encoded");
    let header = raft_rpc::Message::decode(preamble.kind, &bytes[Preamble::SIZE..]);
    let mut payload = Vec::new();
    if let Message::AppendEntries(append) = &message {
        for chunk in append
            .entries
            .iter()
            .flat_map(|entry| entry.payload.chunks())
        {
            payload.extend_from_slice(chunk);
        }
    }
    let mut decoded = Message::from_wire(
        header.expect("was encoded"),
        preamble.seq,
        &Bytes::from(payload),
    )
    .expect("was encoded");
    if let (
        Message::InstallSnapshot { meta: decoded, .. },
        Message::InstallSnapshot { meta: sent, .. },
    ) = (&mut decoded, &message)
    {
        decoded.timestamp = sent.timestamp;
    }
    assert_eq!(decoded, message);
    decoded
}
