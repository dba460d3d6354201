//! The world: virtual time, its events, and what connects nodes, disks, links and clients.
//!
//! ```text
//!   events, by time ──▶ deliver bytes ──▶ a node's mail ──▶ turn: Machine::step, outputs
//!        ▲                    │                                  │  │  │
//!        │                    └──▶ a client's future             │  │  └─ links: delay, cuts
//!        └── later ◀─────────────────────────────────────────────┘  └──── disk: queue, fsync
//! ```
//!
//! Invariants: one thread; nothing asks for the real time; whatever is chosen by chance is drawn from
//! the seed's generator in the order of events; maps are ordered. So a seed is a run.
//!
//! After every step of a node the [`Checks`] look at it. Faults are the business of
//! [`crate::chaos`].

mod c_nodes;
mod c_streams;
mod clients;
mod confiding;
mod damage;
mod disks;
mod events;
mod links;
mod liveness;
mod nodes;
mod phases;
mod streams;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use dq_raft::sim_disk::{Loss, SimDisk};
use dq_raft::{Message, SnapshotMeta};
use dq_server::exec::{self, Job};
use dq_server::node::{Input, Output};
use dq_server::{fsm, peers, promise};
use dq_vfs::{Version, Vfs};
use dq_wire::{PROTOCOL_V1, Request};

use crate::c_node::{CDisk, CProcess, Databases};
use crate::checks::Checks;
use crate::client::{Client, Command, Incoming, Phase, Port, Shared};
use crate::history::History;
use crate::net::{End, Item, LinkId, Net, Site};
use crate::node::{
    Arriving, BootError, Clock, DiskWork, Identity, Mail, Peer, PeerState, Process, Running,
};
use crate::plan::{Fault, MS, Plan, SECOND};
use crate::rng::{Rng, hash, mix};
use crate::said::Said;
use crate::workload;
use damage::Damage;
use events::{Alarm, Events};

/// Wait between two attempts to reach a peer, as in the real shell, ms.
const RETRY_MS: u64 = 1000;
/// Messages kept for a peer without a stream.
const WAITING_MAX: usize = 8;
/// What a turn of a node costs.
const TURN: u64 = 20;
/// Bytes of a snapshot that are sent at a time.
const SNAPSHOT_CHUNK: usize = 64 << 10;

/// Something that will happen.
pub(crate) enum Event {
    /// A node looks at its mail.
    Turn(usize),
    /// Something for a node's life, if it lasts.
    Mail(usize, u64, Box<Mail>),
    /// A node's life, if it lasts, comes to something that was put off.
    Later(usize, u64, Box<Later>),
    /// A node's disk work is over.
    Disk(usize, u64),
    /// A bound on promises is stored.
    Promise(usize, u64, u64),
    /// A link delivers on one of its lanes.
    Deliver(LinkId, usize),
    /// A link breaks, as this end learns.
    Broken(LinkId, usize),
    /// A node tries its peers again.
    Redial(usize, u64),
    /// A client's dial ends.
    ClientDialled(usize, LinkId, bool),
    /// A client has waited long enough.
    Wake(usize),
    /// A node starts.
    Boot(usize),
    /// The next fault.
    Fault,
    /// A fault ends.
    Relief(Relief),
    /// Time to see whether the run's phase is over.
    Phase,
}

/// What a node does later, and seldom.
pub(crate) enum Later {
    /// A job is run that was put off.
    Job(u64, Box<Job>),
    /// A snapshot is written.
    Snapshot(Box<SnapshotMeta>, Vec<(Bytes, Version)>),
    /// A node of C dqlite has written a snapshot.
    CSnapshot(SnapshotMeta, Databases),
    /// It has read one back, to send it.
    CSendSnapshot(u64, String, u64),
    /// A snapshot is sent.
    SendSnapshot(u64, String, u64, SnapshotMeta),
    /// A dial ends.
    Dialled(u64, u64),
}

/// The end of a fault.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Relief {
    Mend(u64),
    Space(usize),
    /// Power is lost once more.
    Power(usize),
    /// A disk goes on that was at one piece of work.
    Thaw(u64),
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// The process is killed, or ends by itself.
    Kill,
    /// The machine loses power.
    Power,
    /// It does, and all that was not synced is lost.
    Blackout,
}

/// A node's place.
pub(crate) struct Slot {
    pub(crate) us: Identity,
    pub(crate) disk: SimDisk,
    pub(crate) process: Option<Box<Process>>,
    /// A node of C dqlite lives here.
    pub(crate) is_c: bool,
    /// Its disk.
    pub(crate) c_disk: CDisk,
    /// Its present life.
    pub(crate) c: Option<Box<CProcess>>,
    pub(crate) life: u64,
    pub(crate) clock: Clock,
    turn_at: Option<u64>,
    alarm: Alarm,
    pub(crate) paused_until: u64,
    pub(crate) slow_until: u64,
    /// Statements that begin before then end after it.
    pub(crate) jobs_late_until: u64,
    /// The process dies after so many more outputs.
    pub(crate) dies_in: Option<u64>,
    /// The next restart comes at once, and power is lost soon after it.
    pub(crate) hurries: bool,
    /// A restart is scheduled.
    pub(crate) booting: bool,
    /// What was done to its disk, until a start has got over it or the node is replaced.
    pub(crate) damage: Option<Damage>,
    /// What it has told the others.
    said: Said,
}

struct Task {
    client: Client,
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    link: Option<LinkId>,
    alarm: Alarm,
}

/// A run.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) seed: u64,
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    events: Events,
    pub(crate) nodes: Vec<Slot>,
    pub(crate) net: Net,
    tasks: Vec<Task>,
    pub(crate) shared: Rc<RefCell<Shared>>,
    vfs: Arc<Vfs>,
    pub(crate) checks: Checks,
    pub(crate) faults: BTreeMap<Fault, u64>,
    /// What faults of one node hit: its role, or the operation of its disk.
    pub(crate) sites: BTreeMap<String, u64>,
    pub(crate) verbose: bool,
    /// Hash of all that happened.
    pub(crate) hash: u64,
    phase_since: u64,
    /// A leader that reaches one follower only.
    pub(crate) confiding: Option<confiding::Confiding>,
    /// A leader has served since the faults ended.
    led: bool,
    /// Answers and committed entries, and when there were fewer.
    progress: [(u64, u64); 2],
    /// How much of the time that it may take something took, in thousandths.
    pub(crate) shares: BTreeMap<&'static str, u64>,
    /// Clients that have to get answers once all is well: the first so many.
    workers: usize,
    pub(crate) failures: Vec<String>,
}

/// Pieces as one.
fn joined(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [one] => one.clone(),
        many => many.concat().into(),
    }
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan, mut rng: Rng, vfs: Arc<Vfs>, verbose: bool) -> World {
        let count = plan.nodes;
        let addresses: Vec<String> = (1..=count).map(|i| format!("10.0.0.{i}:9000")).collect();
        let mut nodes = Vec::new();
        for (i, address) in addresses.iter().enumerate() {
            let skew = rng.between(0, 2 * plan.skew);
            nodes.push(Slot {
                us: Identity {
                    id: i as u64 + 1,
                    address: address.clone(),
                },
                disk: SimDisk::new(),
                process: None,
                is_c: plan.c_nodes.contains(&(i + 1)),
                c_disk: CDisk::default(),
                c: None,
                life: 0,
                clock: Clock::new(rng.below(1000 * SECOND), 1_000_000 + skew - plan.skew),
                turn_at: None,
                alarm: Alarm::default(),
                paused_until: 0,
                slow_until: 0,
                jobs_late_until: 0,
                dies_in: None,
                hurries: false,
                booting: false,
                damage: None,
                said: Said::default(),
            });
        }
        let shared = Rc::new(RefCell::new(Shared {
            phase: Phase::Setup,
            ids: (1..).take(addresses.len()).collect(),
            addresses,
            outside: BTreeSet::new(),
            disordered: false,
            history: History::default(),
            formed: false,
            restored: false,
            verified: false,
            answered: Vec::new(),
            ended: 0,
            deleted: 0,
            bursts: plan.bursts,
            verbose,
        }));
        let mut world = World {
            plan,
            seed,
            now: 0,
            rng,
            events: Events::default(),
            nodes,
            net: Net::default(),
            tasks: Vec::new(),
            shared,
            vfs,
            checks: Checks::default(),
            faults: BTreeMap::new(),
            sites: BTreeMap::new(),
            verbose,
            hash: seed,
            phase_since: 0,
            confiding: None,
            led: false,
            progress: [(0, 0); 2],
            shares: BTreeMap::new(),
            workers: 0,
            failures: Vec::new(),
        };
        for i in 0..count {
            let at = world.rng.below(50 * MS);
            world.nodes[i].booting = true;
            world.at(at, Event::Boot(i));
        }
        world.spawn_admin();
        world.after(10 * MS, Event::Phase);
        world
    }

    /// Schedules.
    pub(crate) fn at(&mut self, time: u64, event: Event) {
        self.events.push(time.max(self.now), event);
    }

    pub(crate) fn after(&mut self, micros: u64, event: Event) {
        self.at(self.now + micros, event);
    }

    /// A node's present life does this later.
    pub(crate) fn later_after(&mut self, micros: u64, node: usize, later: Later) {
        let life = self.nodes[node].life;
        self.after(micros, Event::Later(node, life, Box::new(later)));
    }

    /// Writes a line of the trace, if somebody wants it.
    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>12.6} {}", self.now as f64 / 1e6, line());
        }
    }

    /// Makes what happens part of the run's hash.
    fn note(&mut self, kind: u64, words: &[u64]) {
        for word in [self.now, kind].iter().chain(words) {
            self.hash = mix(self
                .hash
                .wrapping_add(*word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
    }

    pub(crate) fn fail(&mut self, why: String) {
        self.trace(|| format!("WRONG: {why}"));
        if self.failures.len() < 10 {
            self.failures.push(why);
        }
    }

    /// Runs to the end, or to the first failure.
    pub(crate) fn run(&mut self) {
        while let Some((time, event)) = self.events.pop() {
            self.now = time;
            crate::trace::set_time(time);
            self.handle(event);
            if !self.failures.is_empty() || self.shared.borrow().phase == Phase::Done {
                return;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Turn(node) => self.turn(node),
            Event::Mail(node, life, mail) => {
                if self.nodes[node].life == life {
                    self.post(node, *mail);
                }
            }
            Event::Later(node, life, later) => {
                if self.nodes[node].life == life {
                    self.later(node, *later);
                }
            }
            Event::Disk(node, life) => self.disk_done(node, life),
            Event::Promise(node, life, bound_ms) => self.promise_due(node, life, bound_ms),
            Event::Deliver(link, lane) => self.deliver(link, lane),
            Event::Broken(link, end) => self.broken(link, end),
            Event::Redial(node, life) => {
                if self.nodes[node].life == life {
                    self.redial(node);
                }
            }
            Event::ClientDialled(client, link, up) => self.client_dialled(client, link, up),
            Event::Wake(client) => self.wake(client),
            Event::Boot(node) => self.boot(node),
            Event::Fault => self.fault(),
            Event::Relief(Relief::Mend(cut)) => {
                self.trace(|| "a cut is mended".to_owned());
                self.net.mend(cut);
            }
            Event::Relief(Relief::Thaw(number)) => self.end_confiding(number),
            Event::Relief(Relief::Space(node)) => {
                self.nodes[node].disk.set_space(None);
                self.nodes[node].c_disk.full = false;
            }
            Event::Relief(Relief::Power(node)) => {
                let chaos = self.shared.borrow().phase == Phase::Chaos;
                if chaos && self.nodes[node].runs() {
                    self.die(node, Death::Blackout);
                }
            }
            Event::Phase => self.next_phase(),
        }
    }

    fn later(&mut self, node: usize, later: Later) {
        match later {
            Later::Job(conn, job) => {
                let finished = Box::new(exec::run(*job));
                self.post(node, Mail::Finished(conn, finished));
            }
            Later::Snapshot(meta, databases) => self.snapshot_due(node, meta, databases),
            Later::CSnapshot(meta, databases) => self.c_snapshot_due(node, meta, databases),
            Later::CSendSnapshot(to, address, term) => {
                self.c_send_snapshot(node, to, &address, term);
            }
            Later::SendSnapshot(to, address, term, meta) => {
                self.send_snapshot(node, to, &address, term, meta);
            }
            Later::Dialled(to, attempt) => self.dialled(node, to, attempt),
        }
    }
}
