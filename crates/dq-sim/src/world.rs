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

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use dq_raft::sim_disk::{Loss, SimDisk};
use dq_raft::{Message, SnapshotMeta, SnapshotReader};
use dq_server::exec::{self, Job};
use dq_server::node::{Input, Output};
use dq_server::peers;
use dq_vfs::{Version, Vfs};
use dq_wire::{PROTOCOL_V1, Request};

use crate::checks::Checks;
use crate::client::{Client, Command, Incoming, Phase, Port, Shared};
use crate::history::History;
use crate::net::{End, Item, LinkId, Net, Site};
use crate::node::{
    Arriving, BootError, Clock, DiskWork, Identity, Mail, Peer, PeerState, Process, Running,
};
use crate::plan::{Fault, MS, Plan, SECOND};
use crate::rng::{Rng, hash, mix};
use crate::workload;

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
    /// A job is run that was put off.
    Job(usize, u64, u64, Box<Job>),
    /// A node's disk work is over.
    Disk(usize, u64),
    /// A snapshot is written.
    Snapshot(usize, u64, Box<SnapshotMeta>, Vec<(Bytes, Version)>),
    /// A snapshot is sent.
    SendSnapshot(usize, u64, u64, String, u64, Box<SnapshotMeta>),
    /// A link delivers on one of its lanes.
    Deliver(LinkId, usize),
    /// A link breaks, as this end learns.
    Broken(LinkId, usize),
    /// A dial ends.
    Dialled(usize, u64, u64, u64),
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

/// The end of a fault.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Relief {
    Mend(u64),
    Space(usize),
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// The process is killed, or ends by itself.
    Kill,
    /// The machine loses power.
    Power,
}

/// A node's place.
pub(crate) struct Slot {
    pub(crate) us: Identity,
    pub(crate) disk: SimDisk,
    pub(crate) process: Option<Process>,
    pub(crate) life: u64,
    pub(crate) clock: Clock,
    turn_at: Option<u64>,
    pub(crate) paused_until: u64,
    pub(crate) slow_until: u64,
    /// The process dies after so many more outputs.
    pub(crate) dies_in: Option<u64>,
    /// A restart is scheduled.
    pub(crate) booting: bool,
}

struct Task {
    client: Client,
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    link: Option<LinkId>,
}

/// A run.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) seed: u64,
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    sequence: u64,
    events: BTreeMap<(u64, u64), Event>,
    pub(crate) nodes: Vec<Slot>,
    pub(crate) net: Net,
    tasks: Vec<Task>,
    pub(crate) shared: Rc<RefCell<Shared>>,
    vfs: Arc<Vfs>,
    pub(crate) checks: Checks,
    pub(crate) faults: BTreeMap<Fault, u64>,
    pub(crate) verbose: bool,
    /// Hash of all that happened.
    pub(crate) hash: u64,
    phase_since: u64,
    /// Clients that have to get answers once all is well: the first so many.
    workers: usize,
    pub(crate) failures: Vec<String>,
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
                life: 0,
                clock: Clock::new(rng.below(1000 * SECOND), 1_000_000 + skew - plan.skew),
                turn_at: None,
                paused_until: 0,
                slow_until: 0,
                dies_in: None,
                booting: false,
            });
        }
        let shared = Rc::new(RefCell::new(Shared {
            phase: Phase::Setup,
            addresses,
            history: History::default(),
            formed: false,
            restored: false,
            verified: false,
            answered: Vec::new(),
            ended: 0,
        }));
        let mut world = World {
            plan,
            seed,
            now: 0,
            rng,
            sequence: 0,
            events: BTreeMap::new(),
            nodes,
            net: Net::default(),
            tasks: Vec::new(),
            shared,
            vfs,
            checks: Checks::default(),
            faults: BTreeMap::new(),
            verbose,
            hash: seed,
            phase_since: 0,
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
        self.sequence += 1;
        self.events
            .insert((time.max(self.now), self.sequence), event);
    }

    pub(crate) fn after(&mut self, micros: u64, event: Event) {
        self.at(self.now + micros, event);
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
        while let Some(((time, _), event)) = self.events.pop_first() {
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
            Event::Job(node, life, conn, job) => {
                if self.nodes[node].life == life {
                    let finished = Box::new(exec::run(*job));
                    self.post(node, Mail::Finished(conn, finished));
                }
            }
            Event::Disk(node, life) => self.disk_done(node, life),
            Event::Snapshot(node, life, meta, databases) => {
                self.snapshot_due(node, life, meta, databases);
            }
            Event::SendSnapshot(node, life, to, address, term, meta) => {
                self.send_snapshot(node, life, to, &address, term, *meta);
            }
            Event::Deliver(link, lane) => self.deliver(link, lane),
            Event::Broken(link, end) => self.broken(link, end),
            Event::Dialled(node, life, peer, attempt) => self.dialled(node, life, peer, attempt),
            Event::Redial(node, life) => {
                if self.nodes[node].life == life {
                    self.redial(node);
                }
            }
            Event::ClientDialled(client, link, up) => self.client_dialled(client, link, up),
            Event::Wake(client) => self.poll(client),
            Event::Boot(node) => self.boot(node),
            Event::Fault => self.fault(),
            Event::Relief(Relief::Mend(cut)) => {
                self.trace(|| "a cut is mended".to_owned());
                self.net.mend(cut);
            }
            Event::Relief(Relief::Space(node)) => self.nodes[node].disk.set_space(None),
            Event::Phase => self.next_phase(),
        }
    }

    // Nodes.

    fn boot(&mut self, node: usize) {
        self.nodes[node].booting = false;
        if self.nodes[node].process.is_some() {
            return;
        }
        let slot = &mut self.nodes[node];
        slot.life += 1;
        slot.dies_in = None;
        slot.turn_at = None;
        let booted = Process::boot(&slot.us, &self.plan, self.seed, &slot.disk, &self.vfs);
        let mut process = match booted {
            Ok(process) => process,
            Err(BootError::Disk(why)) => {
                self.trace(|| format!("n{} cannot start: {why}", node + 1));
                self.nodes[node].disk.power_cut(Loss::Nothing);
                return self.boot_in(node, SECOND);
            }
            Err(BootError::Corrupt(why)) => {
                return self.fail(format!("node {} does not start: {why}", node + 1));
            }
        };
        self.trace(|| format!("n{} starts, life {}", node + 1, self.nodes[node].life));
        self.checks.started(node);
        let local = self.nodes[node].clock.millis(self.now);
        process.machine.start(local, &mut process.out);
        let flow = self.carry_out(node, &mut process);
        self.put_back(node, process, flow);
        self.schedule_turn(node);
    }

    pub(crate) fn boot_in(&mut self, node: usize, micros: u64) {
        if !self.nodes[node].booting {
            self.nodes[node].booting = true;
            self.after(micros, Event::Boot(node));
        }
    }

    /// Ends a node's life, and restarts it later.
    pub(crate) fn die(&mut self, node: usize, death: Death) {
        self.trace(|| format!("n{} dies: {death:?}", node + 1));
        let slot = &mut self.nodes[node];
        if let Some(process) = slot.process.take() {
            // What still runs on behalf of a dead process writes nothing any more.
            drop(process);
        }
        let life = slot.life;
        slot.life += 1;
        slot.turn_at = None;
        slot.dies_in = None;
        if death == Death::Power {
            let loss = match self.rng.below(4) {
                0 => Loss::Everything,
                1 => Loss::AllAfter(self.rng.below(8) as usize),
                _ => Loss::Random(self.rng.bits()),
            };
            self.nodes[node].disk.power_cut(loss);
        }
        let links: Vec<LinkId> = self.net.links.keys().copied().collect();
        for id in links {
            let Some(link) = self.net.links.get_mut(&id) else {
                continue;
            };
            for end in 0..2 {
                let ours = match link.ends[end] {
                    End::Accepted {
                        node: n, life: l, ..
                    }
                    | End::Outbound {
                        node: n, life: l, ..
                    } => (n, l) == (node, life),
                    End::Client(_) | End::Gone => false,
                };
                if ours {
                    link.ends[end] = End::Gone;
                    // A kernel tells the other side; a machine without power does not.
                    if death == Death::Kill {
                        self.sequence += 1;
                        let at = (self.now + self.plan.delay.1, self.sequence);
                        self.events.insert(at, Event::Broken(id, 1 - end));
                    }
                }
            }
        }
        if self.nodes[node].us.id > 0 {
            let down = self.rng.between(1, 2 * self.plan.election_ms) * MS;
            self.boot_in(node, down);
        }
    }

    fn put_back(&mut self, node: usize, process: Process, flow: ControlFlow<Death>) {
        self.nodes[node].process = Some(process);
        if let ControlFlow::Break(death) = flow {
            self.die(node, death);
        }
    }

    /// Puts something into a node's mail.
    pub(crate) fn post(&mut self, node: usize, mail: Mail) {
        if let Some(process) = &mut self.nodes[node].process {
            process.mail.push_back(mail);
            self.schedule_turn(node);
        }
    }

    fn mail_after(&mut self, micros: u64, node: usize, mail: Mail) {
        let life = self.nodes[node].life;
        self.after(micros, Event::Mail(node, life, Box::new(mail)));
    }

    pub(crate) fn schedule_turn(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        let Some(process) = &slot.process else { return };
        let due = if process.mail.is_empty() {
            slot.clock.time_of(process.machine.deadline())
        } else {
            self.now + TURN
        };
        let due = due.max(self.now).max(slot.paused_until);
        if slot.turn_at.is_none_or(|at| at > due) {
            slot.turn_at = Some(due);
            self.at(due, Event::Turn(node));
        }
    }

    fn turn(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        if slot.turn_at != Some(self.now) {
            return;
        }
        slot.turn_at = None;
        if slot.paused_until > self.now {
            return self.schedule_turn(node);
        }
        let Some(mut process) = slot.process.take() else {
            return;
        };
        let flow = self.whole_turn(node, &mut process);
        self.put_back(node, process, flow);
        self.schedule_turn(node);
    }

    fn whole_turn(&mut self, node: usize, process: &mut Process) -> ControlFlow<Death> {
        for mail in std::mem::take(&mut process.mail) {
            self.take_mail(node, process, mail)?;
        }
        let local = self.nodes[node].clock.millis(self.now);
        if process.machine.deadline() <= local {
            self.step(node, process, Input::Deadline)?;
        }
        self.step(node, process, Input::TurnEnd)
    }

    fn take_mail(&mut self, node: usize, process: &mut Process, mail: Mail) -> ControlFlow<Death> {
        let input = match mail {
            Mail::Accepted(conn) => Input::Accepted(conn),
            Mail::Bytes(conn, bytes) => {
                return self.step(node, process, Input::Bytes(conn, &bytes));
            }
            Mail::Eof(conn) => Input::Eof(conn),
            Mail::Closed(conn) => {
                process.accepted.remove(&conn);
                process.arriving.remove(&conn);
                Input::Closed(conn)
            }
            Mail::Drained(conn) => Input::Drained(conn),
            Mail::Durable(id) => Input::Durable(id),
            Mail::DiskFailed(why) => {
                self.trace(|| format!("n{} ends: {why}", node + 1));
                return ControlFlow::Break(Death::Kill);
            }
            Mail::Finished(conn, finished) => Input::Finished(conn, finished),
            Mail::SnapshotWritten(meta, written) => Input::SnapshotWritten(meta, written),
            Mail::SnapshotStored(conn, size) => Input::SnapshotStored(conn, size),
            Mail::SnapshotReceived(conn, received) => Input::SnapshotReceived(conn, received),
            Mail::PeerConnected(peer) => Input::PeerConnected(peer),
            Mail::PeerLost(peer) => Input::PeerLost(peer),
            Mail::LogRead(range, entries) => Input::LogRead(range, entries),
            Mail::SnapshotSent(peer, sent) => Input::SnapshotSent(peer, sent),
        };
        self.step(node, process, input)
    }

    fn step(&mut self, node: usize, process: &mut Process, input: Input<'_>) -> ControlFlow<Death> {
        let local = self.nodes[node].clock.millis(self.now);
        process.machine.step(local, input, &mut process.out);
        self.carry_out(node, process)
    }

    /// Carries outputs out, in order, as the real shell does.
    fn carry_out(&mut self, node: usize, process: &mut Process) -> ControlFlow<Death> {
        while let Some(output) = process.out.pop_front() {
            if let Some(left) = &mut self.nodes[node].dies_in {
                if *left == 0 {
                    return ControlFlow::Break(Death::Kill);
                }
                *left -= 1;
            }
            self.output(node, process, output)?;
        }
        let checked = self.checks.look(node, &process.machine);
        self.note(1, &[node as u64, process.machine.driver().applied_index()]);
        if let Err(why) = checked {
            self.fail(format!("node {}: {why}", node + 1));
        }
        ControlFlow::Continue(())
    }

    fn output(&mut self, node: usize, process: &mut Process, output: Output) -> ControlFlow<Death> {
        let life = self.nodes[node].life;
        match output {
            Output::Send {
                conn,
                pieces,
                notify,
            } => {
                if let Some(link) = process.accepted.get(&conn) {
                    self.send(*link, 1, Item::Bytes(pieces.concat().into()));
                    if notify {
                        let later = self.delay();
                        self.mail_after(later, node, Mail::Drained(conn));
                    }
                }
            }
            Output::Close(conn) | Output::Cut(conn) => {
                if let Some(link) = process.accepted.remove(&conn) {
                    self.hang_up(link, 1);
                }
            }
            Output::Pause(conn) => self.pause(process.accepted.get(&conn).copied(), true),
            Output::Resume(conn) => self.pause(process.accepted.get(&conn).copied(), false),
            Output::Execute(conn, mut job) => {
                if job.inline && !self.rng.chance(self.plan.deferred) {
                    let input = Input::Finished(conn, Box::new(exec::run(*job)));
                    let local = self.nodes[node].clock.millis(self.now);
                    process.machine.step(local, input, &mut process.out);
                    return ControlFlow::Continue(());
                }
                job.inline = false;
                let later = self.rng.below(self.plan.deferred_for.max(MS));
                if self.rng.chance(500) {
                    self.after(later, Event::Job(node, life, conn, job));
                } else {
                    let finished = Box::new(exec::run(*job));
                    self.mail_after(later, node, Mail::Finished(conn, finished));
                }
            }
            Output::Persist(persist) => {
                process.disk_queue.push_back(DiskWork::Persist(persist));
                return self.start_disk(node, process);
            }
            Output::ReadLog(range) => {
                let entries = process.reader.read(range).ok();
                let later = self.disk_time(node);
                self.mail_after(later, node, Mail::LogRead(range, entries));
            }
            Output::Snapshot(meta, databases) => {
                let later = self.disk_time(node);
                self.after(later, Event::Snapshot(node, life, meta, databases));
            }
            Output::SendPeer {
                to,
                address,
                message,
            } => self.send_peer(node, process, to, &address, message),
            Output::ReceiveSnapshot(conn, meta, size) => {
                let arriving = Arriving {
                    meta: *meta,
                    size,
                    data: BytesMut::new(),
                };
                process.arriving.insert(conn, arriving);
            }
            Output::SnapshotData(conn, bytes) => self.snapshot_data(node, process, conn, &bytes),
            Output::Discard(meta) => {
                let name = format!("snapshot-{}-{}-{}", meta.term, meta.index, meta.timestamp);
                for file in [format!("tmp-{name}"), format!("tmp-{name}.meta")] {
                    // What is left is removed at the next start.
                    let _ = dq_raft::disk::Disk::remove(process.dir.disk(), &file);
                }
            }
            // Roles are changed by a client here, and nobody asks for a graceful end.
            Output::Poll(_) | Output::HandedOver(_) => {}
            Output::Fatal(why) => {
                self.fail(format!("node {} gave up: {why}", node + 1));
                return ControlFlow::Break(Death::Kill);
            }
        }
        ControlFlow::Continue(())
    }

    // Disks.

    fn disk_time(&mut self, node: usize) -> u64 {
        let (shortest, longest) = self.plan.disk;
        let time = self.rng.between(shortest, longest);
        if self.nodes[node].slow_until > self.now {
            time * 100
        } else {
            time
        }
    }

    /// Takes all the work that waits, unless some is under way.
    fn start_disk(&mut self, node: usize, process: &mut Process) -> ControlFlow<Death> {
        if process.disk_running.is_some() || process.disk_queue.is_empty() {
            return ControlFlow::Continue(());
        }
        let work: Vec<DiskWork> = process.disk_queue.drain(..).collect();
        let running = if self.rng.chance(500) {
            let done = process.write(work);
            if done.is_err() && !process.dir.disk().has_power() {
                return ControlFlow::Break(Death::Power);
            }
            Running::Done(done)
        } else {
            Running::Ahead(work)
        };
        process.disk_running = Some(running);
        let later = self.disk_time(node);
        self.after(later, Event::Disk(node, self.nodes[node].life));
        ControlFlow::Continue(())
    }

    fn disk_done(&mut self, node: usize, life: u64) {
        if self.nodes[node].life != life {
            return;
        }
        let Some(mut process) = self.nodes[node].process.take() else {
            return;
        };
        let done = match process.disk_running.take() {
            Some(Running::Ahead(work)) => process.write(work),
            Some(Running::Done(done)) => done,
            None => Ok(Vec::new()),
        };
        let done = done.and_then(|mail| {
            if process.disk_queue.is_empty() {
                process.writer.prepare()?;
            }
            Ok(mail)
        });
        let flow = match done {
            Ok(mail) => {
                process.mail.extend(mail);
                self.start_disk(node, &mut process)
            }
            Err(_) if !process.dir.disk().has_power() => ControlFlow::Break(Death::Power),
            Err(error) => {
                process.mail.push_back(Mail::DiskFailed(error.to_string()));
                ControlFlow::Continue(())
            }
        };
        self.put_back(node, process, flow);
        self.schedule_turn(node);
    }

    fn snapshot_due(
        &mut self,
        node: usize,
        life: u64,
        meta: Box<SnapshotMeta>,
        databases: Vec<(Bytes, Version)>,
    ) {
        if self.nodes[node].life != life {
            return;
        }
        let Some(mut process) = self.nodes[node].process.take() else {
            return;
        };
        self.trace(|| format!("n{} writes a snapshot at {}", node + 1, meta.index));
        let flow = match process.write_snapshot((*meta).clone(), &databases) {
            Ok(written) => {
                let work = DiskWork::Publish(Box::new(written));
                process.disk_queue.push_back(work);
                self.start_disk(node, &mut process)
            }
            Err(_) if !process.dir.disk().has_power() => ControlFlow::Break(Death::Power),
            Err(_) => {
                process.mail.push_back(Mail::SnapshotWritten(meta, false));
                ControlFlow::Continue(())
            }
        };
        self.put_back(node, process, flow);
        self.schedule_turn(node);
    }

    fn snapshot_data(&mut self, node: usize, process: &mut Process, conn: u64, bytes: &Bytes) {
        let Some(arriving) = process.arriving.get_mut(&conn) else {
            return;
        };
        arriving.data.extend_from_slice(bytes);
        let whole = arriving.data.len() as u64 >= arriving.size;
        let later = self.disk_time(node);
        self.mail_after(later, node, Mail::SnapshotStored(conn, bytes.len()));
        if whole && let Some(arrived) = process.arriving.remove(&conn) {
            let index = arrived.meta.index;
            let stored = process.store_snapshot(&self.vfs, arrived);
            self.trace(|| {
                let what = stored
                    .as_ref()
                    .map_or_else(String::clone, |_| "stored".to_owned());
                format!("n{} snapshot at {index} arrived: {what}", node + 1)
            });
            self.mail_after(
                later + 1,
                node,
                Mail::SnapshotReceived(conn, Box::new(stored)),
            );
        }
    }

    // Peers.

    fn send_peer(
        &mut self,
        node: usize,
        process: &mut Process,
        to: u64,
        address: &str,
        message: Message,
    ) {
        let life = self.nodes[node].life;
        self.trace(|| format!("n{} -> n{to} {}", node + 1, brief(&message)));
        if let Message::InstallSnapshot { term, meta } = message {
            let later = self.delay();
            let event =
                Event::SendSnapshot(node, life, to, address.to_owned(), term, Box::new(meta));
            return self.after(later, event);
        }
        let Some(pieces) = peers::encode(&message, 0) else {
            return self.fail(format!("node {}: a message is too large", node + 1));
        };
        let bytes: Bytes = pieces.concat().into();
        let moved = process
            .peers
            .get(&to)
            .is_some_and(|peer| peer.address != address);
        if moved
            && let Some(peer) = process.peers.remove(&to)
            && let PeerState::Connected(link) = peer.state
        {
            self.hang_up(link, 0);
        }
        let local = self.nodes[node].clock.millis(self.now);
        let peer = process.peers.entry(to).or_insert_with(|| Peer {
            address: address.to_owned(),
            state: PeerState::Idle(local),
            waiting: VecDeque::new(),
        });
        if let PeerState::Connected(link) = peer.state {
            return self.send(link, 0, Item::Bytes(bytes));
        }
        peer.waiting.push_back(bytes);
        if peer.waiting.len() > WAITING_MAX {
            peer.waiting.pop_front();
        }
        self.dial_if_due(node, process, to);
    }

    fn dial_if_due(&mut self, node: usize, process: &mut Process, to: u64) {
        let life = self.nodes[node].life;
        let local = self.nodes[node].clock.millis(self.now);
        let attempt = process.attempts + 1;
        let Some(peer) = process.peers.get_mut(&to) else {
            return;
        };
        let PeerState::Idle(retry_at) = peer.state else {
            return;
        };
        if peer.waiting.is_empty() {
            return;
        }
        if retry_at > local {
            let at = self.nodes[node].clock.time_of(retry_at);
            return self.at(at, Event::Redial(node, life));
        }
        peer.state = PeerState::Dialling(attempt);
        process.attempts = attempt;
        let there = self.node_at(&peer.address);
        let later = match there {
            Some(there) if self.is_reachable(node, there) => 2 * self.delay(),
            _ => self.rng.between(1, 3000) * MS,
        };
        self.after(later, Event::Dialled(node, life, to, attempt));
    }

    fn redial(&mut self, node: usize) {
        let Some(mut process) = self.nodes[node].process.take() else {
            return;
        };
        let ids: Vec<u64> = process.peers.keys().copied().collect();
        for id in ids {
            self.dial_if_due(node, &mut process, id);
        }
        self.nodes[node].process = Some(process);
    }

    fn dialled(&mut self, node: usize, life: u64, to: u64, attempt: u64) {
        if self.nodes[node].life != life {
            return;
        }
        let Some(mut process) = self.nodes[node].process.take() else {
            return;
        };
        let local = self.nodes[node].clock.millis(self.now);
        let us = self.nodes[node].us.clone();
        if let Some(peer) = process.peers.get_mut(&to)
            && peer.state == PeerState::Dialling(attempt)
        {
            let there = self.node_at(&peer.address);
            match there.filter(|there| self.is_reachable(node, *there)) {
                Some(there) => {
                    let ours = End::Outbound {
                        node,
                        life,
                        peer: to,
                    };
                    let link = self.open_link(ours, node, there);
                    self.send(link, 0, Item::Bytes(introduction(&us)));
                    for bytes in peer.waiting.drain(..) {
                        self.send(link, 0, Item::Bytes(bytes));
                    }
                    peer.state = PeerState::Connected(link);
                    process.mail.push_back(Mail::PeerConnected(to));
                }
                None => {
                    peer.state = PeerState::Idle(local + RETRY_MS);
                    self.dial_if_due(node, &mut process, to);
                }
            }
        }
        self.nodes[node].process = Some(process);
        self.schedule_turn(node);
    }

    fn send_snapshot(
        &mut self,
        node: usize,
        life: u64,
        to: u64,
        address: &str,
        term: u64,
        meta: SnapshotMeta,
    ) {
        if self.nodes[node].life != life {
            return;
        }
        let there = self
            .node_at(address)
            .filter(|there| self.is_reachable(node, *there));
        let us = self.nodes[node].us.clone();
        let data = read_snapshot(&self.nodes[node].disk, &meta);
        let head = data.as_ref().and_then(|data| {
            peers::encode(&Message::InstallSnapshot { term, meta }, data.len() as u64)
        });
        let (Some(there), Some(data), Some(head)) = (there, data, head) else {
            return self.post(node, Mail::SnapshotSent(to, false));
        };
        let link = self.open_link(End::Gone, node, there);
        self.send(link, 0, Item::Bytes(introduction(&us)));
        self.send(link, 0, Item::Bytes(head.concat().into()));
        let data = Bytes::from(data);
        for start in (0..data.len()).step_by(SNAPSHOT_CHUNK) {
            let end = data.len().min(start + SNAPSHOT_CHUNK);
            self.send(link, 0, Item::Bytes(data.slice(start..end)));
        }
        self.hang_up(link, 0);
        // The end of a stream may fail although all of it has arrived: then it is sent again.
        let sent = self.rng.chance(700);
        let later = self.delay();
        self.mail_after(later, node, Mail::SnapshotSent(to, sent));
    }

    // Links.

    fn node_at(&self, address: &str) -> Option<usize> {
        self.nodes
            .iter()
            .position(|slot| slot.us.address == address)
    }

    fn is_reachable(&self, from: Site, to: usize) -> bool {
        self.nodes[to].process.is_some() && self.net.reaches(from, to) && self.net.reaches(to, from)
    }

    fn delay(&mut self) -> u64 {
        let (shortest, longest) = self.plan.delay;
        // Now and then a message is much later than the others.
        let factor = if self.rng.chance(10) { 10 } else { 1 };
        self.rng.between(shortest, longest.max(shortest)) * factor
    }

    fn open_link(&mut self, ours: End, site: Site, there: usize) -> LinkId {
        let theirs = End::Accepted {
            node: there,
            life: self.nodes[there].life,
            conn: 0,
        };
        let link = self.net.open([ours, theirs], [site, there]);
        self.send(link, 0, Item::Open);
        link
    }

    fn send(&mut self, id: LinkId, lane: usize, item: Item) {
        let delay = self.delay();
        let Some(link) = self.net.links.get_mut(&id) else {
            return;
        };
        let lane_state = &mut link.lanes[lane];
        let before = lane_state.items.back().map_or(0, |(at, _)| *at);
        let at = before.max(self.now + delay);
        lane_state.items.push_back((at, item));
        if !lane_state.scheduled {
            lane_state.scheduled = true;
            self.at(at, Event::Deliver(id, lane));
        }
    }

    /// Whoever was at `end` has closed the link; the other side gets what was sent, then its end.
    fn hang_up(&mut self, id: LinkId, end: usize) {
        self.send(id, end, Item::Eof);
        if let Some(link) = self.net.links.get_mut(&id) {
            link.ends[end] = End::Gone;
        }
    }

    fn pause(&mut self, id: Option<LinkId>, paused: bool) {
        let Some(id) = id else { return };
        let Some(link) = self.net.links.get_mut(&id) else {
            return;
        };
        link.lanes[0].paused = paused;
        if !paused && !link.lanes[0].scheduled && !link.lanes[0].items.is_empty() {
            link.lanes[0].scheduled = true;
            self.after(1, Event::Deliver(id, 0));
        }
    }

    fn deliver(&mut self, id: LinkId, lane: usize) {
        let Some(link) = self.net.links.get_mut(&id) else {
            return;
        };
        let (from, to) = (link.sites[lane], link.sites[1 - lane]);
        let state = &mut link.lanes[lane];
        state.scheduled = false;
        if state.paused {
            return;
        }
        let Some(&(ready, _)) = state.items.front() else {
            return;
        };
        if !self.net.reaches(from, to) {
            // As TCP sends again and again.
            let later = self.rng.between(20, 300) * MS;
            if let Some(link) = self.net.links.get_mut(&id) {
                link.lanes[lane].scheduled = true;
            }
            return self.after(later, Event::Deliver(id, lane));
        }
        let Some(link) = self.net.links.get_mut(&id) else {
            return;
        };
        let state = &mut link.lanes[lane];
        if ready > self.now {
            state.scheduled = true;
            return self.at(ready, Event::Deliver(id, lane));
        }
        let Some((_, item)) = state.items.pop_front() else {
            return;
        };
        if let Some((next, _)) = state.items.front() {
            let next = *next;
            state.scheduled = true;
            self.at(next, Event::Deliver(id, lane));
        }
        self.arrive(id, 1 - lane, item);
    }

    /// Something has come to an end of a link.
    fn arrive(&mut self, id: LinkId, end: usize, item: Item) {
        let Some(link) = self.net.links.get_mut(&id) else {
            return;
        };
        match link.ends[end] {
            End::Accepted { node, life, conn } => {
                if self.nodes[node].life != life || self.nodes[node].process.is_none() {
                    return self.after(0, Event::Broken(id, 1 - end));
                }
                let mail = match item {
                    Item::Open => {
                        let Some(process) = &mut self.nodes[node].process else {
                            return;
                        };
                        let conn = process.next_conn;
                        process.next_conn += 1;
                        process.accepted.insert(conn, id);
                        if let Some(link) = self.net.links.get_mut(&id) {
                            link.ends[end] = End::Accepted { node, life, conn };
                        }
                        Mail::Accepted(conn)
                    }
                    Item::Bytes(bytes) => {
                        self.hash = hash(self.hash, &bytes);
                        if bytes.len() > 1 && self.rng.chance(30) {
                            // A read may end anywhere.
                            let cut = self.rng.between(1, bytes.len() as u64 - 1) as usize;
                            self.post(node, Mail::Bytes(conn, bytes.slice(..cut)));
                            let rest = bytes.slice(cut..);
                            return self.post(node, Mail::Bytes(conn, rest));
                        }
                        Mail::Bytes(conn, bytes)
                    }
                    Item::Eof => Mail::Eof(conn),
                };
                self.post(node, mail);
            }
            End::Client(client) => {
                let incoming = match item {
                    Item::Bytes(bytes) => {
                        self.hash = hash(self.hash, &bytes);
                        Incoming::Bytes(bytes)
                    }
                    Item::Open => return,
                    Item::Eof => {
                        self.net.links.remove(&id);
                        Incoming::Broken
                    }
                };
                self.tell(client, id, incoming);
            }
            // Nothing is ever sent to it, but the end.
            End::Outbound { .. } => self.broken(id, end),
            End::Gone => self.after(0, Event::Broken(id, 1 - end)),
        }
    }

    /// An end learns that its link broke.
    pub(crate) fn broken(&mut self, id: LinkId, end: usize) {
        let Some(link) = self.net.links.get_mut(&id) else {
            return;
        };
        let there = std::mem::replace(&mut link.ends[end], End::Gone);
        if link.ends == [End::Gone, End::Gone] {
            self.net.links.remove(&id);
        }
        match there {
            End::Accepted { node, life, conn } => {
                if self.nodes[node].life == life && conn != 0 {
                    self.post(node, Mail::Closed(conn));
                }
            }
            End::Outbound { node, life, peer } => {
                let local = self.nodes[node].clock.millis(self.now);
                let slot = &mut self.nodes[node];
                if slot.life == life
                    && let Some(process) = &mut slot.process
                    && let Some(known) = process.peers.get_mut(&peer)
                    && known.state == PeerState::Connected(id)
                {
                    known.state = PeerState::Idle(local);
                    self.post(node, Mail::PeerLost(peer));
                }
            }
            End::Client(client) => self.tell(client, id, Incoming::Broken),
            End::Gone => {}
        }
    }

    // Clients.

    pub(crate) fn spawn(
        &mut self,
        database: &'static str,
        patience: u64,
        make: impl FnOnce(Client) -> Pin<Box<dyn Future<Output = ()>>>,
    ) {
        let index = self.tasks.len();
        self.shared.borrow_mut().answered.push(0);
        let client = Client {
            index,
            database,
            port: Rc::new(RefCell::new(Port::new(self.rng.fork()))),
            shared: self.shared.clone(),
            patience,
        };
        let future = Some(make(client.clone()));
        self.tasks.push(Task {
            client,
            future,
            link: None,
        });
        let at = self.rng.below(20 * MS);
        self.after(at, Event::Wake(index));
    }

    fn spawn_admin(&mut self) {
        let Plan { churn, think, .. } = self.plan;
        self.spawn(workload::MAIN, 10 * SECOND, |client| {
            Box::pin(workload::admin(client, churn, think))
        });
    }

    fn spawn_workloads(&mut self) {
        let Plan { clients, think, .. } = self.plan;
        let patience = self.plan.election_ms * 10 * MS;
        for _ in 0..clients {
            self.spawn(workload::MAIN, patience, |c| {
                Box::pin(workload::tokens(c, think))
            });
            self.spawn(workload::MAIN, patience, |c| {
                Box::pin(workload::keys(c, think))
            });
            self.spawn(workload::MAIN, patience, |c| {
                Box::pin(workload::lists(c, think))
            });
            self.spawn(workload::MAIN, patience, |c| {
                Box::pin(workload::registers(c, think))
            });
        }
        for _ in 0..clients.min(2) {
            self.spawn(workload::MAIN, patience, |c| {
                Box::pin(workload::bank(c, think))
            });
            self.spawn(workload::SCRATCH, patience, |c| {
                Box::pin(workload::scratch(c, think))
            });
        }
    }

    fn tell(&mut self, client: usize, link: LinkId, incoming: Incoming) {
        if self.tasks[client].link != Some(link) {
            return;
        }
        if matches!(incoming, Incoming::Broken) {
            self.tasks[client].link = None;
        }
        self.tasks[client].client.port.borrow_mut().take(incoming);
        self.poll(client);
    }

    /// Lets a client go on as far as it can.
    fn poll(&mut self, index: usize) {
        let Some(mut future) = self.tasks[index].future.take() else {
            return;
        };
        let port = self.tasks[index].client.port.clone();
        port.borrow_mut().now = self.now;
        let context = &mut Context::from_waker(Waker::noop());
        if future.as_mut().poll(context).is_pending() {
            self.tasks[index].future = Some(future);
        } else {
            self.shared.borrow_mut().ended += 1;
            port.borrow_mut().commands.push(Command::Close);
        }
        let commands = std::mem::take(&mut port.borrow_mut().commands);
        for command in commands {
            self.command(index, command);
        }
    }

    fn command(&mut self, index: usize, command: Command) {
        match command {
            Command::WakeAt(at) => self.at(at, Event::Wake(index)),
            Command::Close => {
                if let Some(link) = self.tasks[index].link.take() {
                    self.hang_up(link, 0);
                }
            }
            Command::Send(bytes) => {
                if let Some(link) = self.tasks[index].link {
                    self.send(link, 0, Item::Bytes(bytes));
                }
            }
            Command::Connect(address) => {
                let site = self.site_of_client(index);
                let Some(there) = self.node_at(&address) else {
                    return;
                };
                let link = self.open_link(End::Client(index), site, there);
                self.tasks[index].link = Some(link);
                let up = self.is_reachable(site, there);
                let later = match up {
                    true => 2 * self.delay(),
                    false => self.rng.between(1, 500) * MS,
                };
                self.after(later, Event::ClientDialled(index, link, up));
            }
        }
    }

    fn client_dialled(&mut self, client: usize, link: LinkId, up: bool) {
        if up {
            return self.tell(client, link, Incoming::Connected);
        }
        self.net.links.remove(&link);
        self.tell(client, link, Incoming::Broken);
    }

    pub(crate) fn site_of_client(&self, index: usize) -> Site {
        self.nodes.len() + index
    }

    pub(crate) fn sites(&self) -> usize {
        self.nodes.len() + self.tasks.len()
    }

    // Phases.

    fn enter(&mut self, phase: Phase) {
        self.trace(|| format!("phase {phase:?}"));
        self.shared.borrow_mut().phase = phase;
        self.phase_since = self.now;
    }

    /// How long a healthy cluster may need for anything.
    fn grace(&self) -> u64 {
        60 * SECOND + 100 * self.plan.election_ms * MS
    }

    fn next_phase(&mut self) {
        self.after(10 * MS, Event::Phase);
        let age = self.now - self.phase_since;
        let phase = self.shared.borrow().phase;
        match phase {
            Phase::Setup => {
                if self.shared.borrow().formed {
                    self.enter(Phase::Chaos);
                    self.spawn_workloads();
                    self.workers = self.tasks.len();
                    self.after(1, Event::Fault);
                } else if age > self.grace() {
                    self.fail("the cluster was not formed in time".to_owned());
                }
            }
            Phase::Chaos => {
                if age >= self.plan.chaos {
                    self.heal();
                    self.enter(Phase::Healing);
                    self.shared.borrow_mut().answered.fill(0);
                }
            }
            Phase::Healing => {
                let (restored, idle) = {
                    let shared = self.shared.borrow();
                    // The first client is the one that administers.
                    let idle = shared.answered[1..self.workers]
                        .iter()
                        .position(|count| *count == 0);
                    (shared.restored, idle)
                };
                if restored && idle.is_none() {
                    self.enter(Phase::Stopping);
                } else if age > self.grace() {
                    self.fail(format!(
                        "no progress after all faults had ended: restored {restored}, idle client {idle:?}"
                    ));
                }
            }
            Phase::Stopping => {
                if self.shared.borrow().ended + 1 >= self.tasks.len() {
                    self.enter(Phase::Verify);
                } else if age > self.grace() {
                    self.fail("a client does not end".to_owned());
                }
            }
            Phase::Verify => {
                if self.shared.borrow().verified && self.is_settled() {
                    self.finish();
                } else if age > self.grace() {
                    let states: Vec<String> = self
                        .nodes
                        .iter()
                        .filter_map(|slot| slot.process.as_ref())
                        .map(|process| format!("{:?}", process.machine.status()))
                        .collect();
                    let verified = self.shared.borrow().verified;
                    self.fail(format!(
                        "the nodes do not come together, verified {verified}: {}",
                        states.join("; ")
                    ));
                }
            }
            Phase::Done => {}
        }
    }

    /// Whether all nodes have applied the same, and that is all there is.
    fn is_settled(&self) -> bool {
        let mut states = self.nodes.iter().map(|slot| {
            let status = slot.process.as_ref()?.machine.status();
            (status.applied_index == status.last_index).then_some(status.applied_index)
        });
        let first = states.next().flatten();
        first.is_some() && states.all(|state| state == first)
    }

    fn finish(&mut self) {
        self.enter(Phase::Done);
        let machines: Vec<_> = self
            .nodes
            .iter()
            .filter_map(|slot| slot.process.as_ref())
            .map(|process| &process.machine)
            .collect();
        let pages = Checks::compare_pages(&machines, &self.vfs);
        drop(machines);
        if let Err(why) = pages {
            self.fail(why);
        }
        let wrong = self.shared.borrow().history.check();
        for why in wrong {
            self.fail(why);
        }
    }
}

/// What a node says first on a stream that it opens.
fn introduction(us: &Identity) -> Bytes {
    let mut bytes = PROTOCOL_V1.to_le_bytes().to_vec();
    Request::Connect {
        id: us.id,
        address: us.address.as_bytes(),
    }
    .encode(&mut bytes);
    bytes.into()
}

fn read_snapshot(disk: &SimDisk, meta: &SnapshotMeta) -> Option<Vec<u8>> {
    let mut reader = SnapshotReader::open(disk, meta).ok()?;
    let mut data = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut data).ok()?;
    Some(data)
}

fn brief(message: &Message) -> String {
    match message {
        Message::AppendEntries(m) => format!(
            "append t{} prev {}/{} commit {} entries {} seq {}",
            m.term,
            m.prev_index,
            m.prev_term,
            m.leader_commit,
            m.entries.len(),
            m.stamp.seq
        ),
        other => {
            let mut text = format!("{other:?}");
            text.truncate(160);
            text
        }
    }
}
