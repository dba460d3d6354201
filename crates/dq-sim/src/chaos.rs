//! Faults: what breaks, when, and for how long.

use std::collections::BTreeSet;

use dq_raft::RaftRole;
use dq_raft::disk::Operation;
use dq_raft::sim_disk::{Aim, Fault as DiskFault, Loss};

use crate::client::Phase;
use crate::net::Site;
use crate::plan::{Fault, MS, SECOND};
use crate::world::{Death, Event, Relief, World};

const EIO: i32 = 5;

const REMOVAL: Aim = |operation, name| operation == Operation::Remove && name.starts_with('0');

/// Operations at which something rare may be half done.
const AIMS: [Aim; 8] = [
    |operation, name| operation == Operation::Sync && name.starts_with("metadata"),
    |operation, name| operation == Operation::Write && name.starts_with("metadata"),
    REMOVAL,
    |operation, name| operation == Operation::Remove && name.starts_with("snapshot"),
    |operation, name| operation == Operation::Rename && name.starts_with("tmp-snapshot"),
    |operation, name| operation == Operation::Rename && name.starts_with("open"),
    |operation, name| operation == Operation::Truncate && name.starts_with("open"),
    |operation, name| operation == Operation::Sync && name.is_empty(),
];

impl World {
    /// The next fault, and the one after it.
    pub(crate) fn fault(&mut self) {
        if self.shared.borrow().phase != Phase::Chaos {
            return;
        }
        let next = self.rng.below(2 * self.plan.fault_interval) + MS;
        self.after(next, Event::Fault);
        let fault = self.plan.faults[self.rng.below(self.plan.faults.len() as u64) as usize];
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        let spares = self.plan.spares_majority;
        let node = match self.leader() {
            _ if spares => self.minority().start + node % self.minority().len(),
            Some(leader) if self.rng.chance(self.plan.at_leader) => leader,
            _ => node,
        };
        let role = self.role(node);
        if self.inject(fault, node) {
            *self.faults.entry(fault).or_default() += 1;
            let hits_one = !matches!(
                fault,
                Fault::PowerCutAll
                    | Fault::Partition
                    | Fault::Shatter
                    | Fault::Reset
                    | Fault::HalfOpen
                    | Fault::Transfer
            );
            if hits_one {
                *self.sites.entry(format!("{fault:?}-{role}")).or_default() += 1;
            }
            self.trace(|| format!("fault {fault:?} at n{}", node + 1));
        }
    }

    /// A fault's length.
    fn a_while(&mut self) -> u64 {
        self.rng.between(1, 4 * self.plan.election_ms) * MS
    }

    /// The nodes that faults hit if they spare a majority.
    fn minority(&self) -> std::ops::Range<usize> {
        let count = self.nodes.len();
        count - (count - 1) / 2..count
    }

    /// What a node is at the moment, for the report.
    fn role(&self, node: usize) -> &'static str {
        let slot = &self.nodes[node];
        match (&slot.c, &slot.process) {
            (Some(_), _) => "C",
            (None, None) => "down",
            (None, Some(process)) => match process.machine.driver().role() {
                RaftRole::Leader => "leader",
                RaftRole::Candidate | RaftRole::PreCandidate => "candidate",
                RaftRole::Follower => "follower",
            },
        }
    }

    /// Counts the operations of disks that faults have hit.
    pub(crate) fn count_hits(&mut self) {
        for slot in &self.nodes {
            for (fault, operation, name) in slot.disk.take_hits() {
                let what = match fault {
                    DiskFault::Error(_) => "error",
                    DiskFault::PowerCut | DiskFault::PowerCutAfter(_) => "power-cut",
                    DiskFault::Misdirected(_) => "misdirected",
                };
                let site = format!("{what}-{operation:?}-{}", kind_of_file(&name));
                *self.sites.entry(site).or_default() += 1;
            }
        }
    }

    fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|slot| {
            let c = slot.c.as_ref().map(|c| c.node.role == RaftRole::Leader);
            let ours = slot.process.as_ref();
            let ours = ours.map(|process| process.machine.driver().epoch().is_some());
            c.or(ours) == Some(true)
        })
    }

    /// What a fault of a disk is for C dqlite's; none for other faults.
    fn inject_into_c(&mut self, fault: Fault, node: usize) -> Option<bool> {
        let cut_in = self.rng.below(4);
        let disk = &mut self.nodes[node].c_disk;
        match fault {
            Fault::PowerCutInWrite
            | Fault::PowerCutAt
            | Fault::PowerCutAtRemoval
            | Fault::DieInSyncThenPowerCut => disk.cut_in = Some(cut_in),
            Fault::DiskError | Fault::DieInWriteThenPowerCut => disk.fails = true,
            Fault::DiskFull => {
                disk.full = true;
                let later = self.a_while();
                self.after(later, Event::Relief(Relief::Space(node)));
            }
            _ => return None,
        }
        Some(true)
    }

    fn inject(&mut self, fault: Fault, node: usize) -> bool {
        if self.nodes[node].is_c
            && let Some(done) = self.inject_into_c(fault, node)
        {
            return done;
        }
        let runs = self.nodes[node].runs();
        let leader = self.leader();
        if self.plan.spares_majority {
            let (minority, count) = (self.minority(), self.nodes.len());
            match fault {
                Fault::Partition | Fault::Isolate | Fault::Shatter => {
                    let hit = |site| minority.contains(&site);
                    self.cut(|from, to| from.max(to) < count && (hit(from) || hit(to)));
                    return true;
                }
                // These are about whoever it may be.
                Fault::PowerCutAll | Fault::Reset | Fault::HalfOpen | Fault::Transfer => {
                    return false;
                }
                _ => {}
            }
        }
        match fault {
            Fault::Kill if runs => self.die(node, Death::Kill),
            Fault::KillBetweenOutputs if runs => {
                self.nodes[node].dies_in = Some(self.rng.below(60));
            }
            Fault::PowerCut if runs => self.die(node, Death::Power),
            Fault::PowerCut => self.nodes[node].disk.power_cut(Loss::Random(self.seed)),
            Fault::PowerCutInWrite if runs => {
                let at = self.nodes[node].disk.operations() + self.rng.below(12);
                self.nodes[node].disk.fail(at, DiskFault::PowerCut);
            }
            Fault::PowerCutAt if runs => {
                let aim = self.rng.pick(&AIMS);
                let after = DiskFault::PowerCutAfter(self.rng.below(12));
                self.nodes[node].disk.fail_when(aim, after);
            }
            Fault::PowerCutAtRemoval if runs => {
                let after = DiskFault::PowerCutAfter(self.rng.below(6));
                self.nodes[node].disk.fail_when(REMOVAL, after);
            }
            Fault::DieInSyncThenPowerCut if runs => {
                let aim: Aim = match self.rng.chance(700) {
                    true => AIMS[0],
                    false => |operation, _| operation == Operation::Sync,
                };
                self.nodes[node].disk.fail_when(aim, DiskFault::Error(EIO));
                self.nodes[node].hurries = true;
            }
            Fault::DieInWriteThenPowerCut if runs => {
                let at = self.nodes[node].disk.operations() + self.rng.below(12);
                self.nodes[node].disk.fail(at, DiskFault::Error(EIO));
                let later = self.a_while();
                self.after(later, Event::Relief(Relief::Power(node)));
            }
            Fault::PowerCutAll => {
                for node in 0..self.nodes.len() {
                    if self.nodes[node].runs() {
                        self.die(node, Death::Power);
                    }
                }
            }
            Fault::DiskError if runs => {
                let at = self.nodes[node].disk.operations() + self.rng.below(12);
                self.nodes[node].disk.fail(at, DiskFault::Error(EIO));
            }
            Fault::DiskFull => {
                self.nodes[node].disk.set_space(Some(0));
                let later = self.a_while();
                self.after(later, Event::Relief(Relief::Space(node)));
            }
            Fault::SlowDisk => self.nodes[node].slow_until = self.now + self.a_while(),
            Fault::LateJobs => {
                let later = self.rng.between(1, 10 * self.plan.election_ms) * MS;
                self.nodes[node].jobs_late_until = self.now + later;
                if self.rng.chance(600) {
                    return self.inject(Fault::Shatter, node);
                }
            }
            Fault::Partition => {
                let sides: Vec<bool> = (0..self.sites()).map(|_| self.rng.chance(500)).collect();
                self.cut(|from, to| sides[from] != sides[to]);
            }
            Fault::OneWay if self.nodes.len() > 1 => {
                let other = self.rng.below(self.nodes.len() as u64) as usize;
                self.cut(|from, to| (from, to) == (node, other));
            }
            Fault::Isolate if self.nodes.len() > 1 => {
                let count = self.nodes.len();
                let node = leader.filter(|_| node.is_multiple_of(2)).unwrap_or(node);
                self.cut(|from, to| from.max(to) < count && (from == node || to == node));
            }
            Fault::Shatter if self.nodes.len() > 1 => {
                let count = self.nodes.len();
                self.cut(|from, to| from.max(to) < count);
            }
            Fault::Reset => return self.reset(false),
            Fault::HalfOpen => return self.reset(true),
            Fault::Pause if runs => {
                self.nodes[node].paused_until = self.now + self.a_while();
            }
            Fault::ClockJump => {
                let by = self.a_while();
                self.nodes[node].clock.jump(self.now, by);
                self.schedule_turn(node);
            }
            Fault::Transfer => return self.ask_for_transfer(leader),
            Fault::BitRot => return self.rot(node),
            Fault::Misdirected => return self.misdirect(node),
            Fault::Confide => return self.begin_confiding(node, leader),
            _ => return false,
        }
        true
    }

    fn cut(&mut self, is_cut: impl Fn(Site, Site) -> bool) {
        let cut = self.cut_ways(is_cut);
        let later = self.a_while();
        self.after(later, Event::Relief(Relief::Mend(cut)));
    }

    pub(crate) fn cut_ways(&mut self, is_cut: impl Fn(Site, Site) -> bool) -> u64 {
        let mut ways = BTreeSet::new();
        for from in 0..self.sites() {
            for to in 0..self.sites() {
                if from != to && is_cut(from, to) {
                    ways.insert((from, to));
                }
            }
        }
        self.net.cut(ways)
    }

    fn reset(&mut self, half: bool) -> bool {
        let ids = self.net.links.ids();
        if ids.is_empty() {
            return false;
        }
        let id = ids[self.rng.below(ids.len() as u64) as usize];
        let first = self.rng.below(2) as usize;
        self.broken(id, first);
        if half {
            // The other one learns when it tries to send, or here at last.
            let later = self.a_while();
            self.after(later, Event::Broken(id, 1 - first));
        } else {
            self.broken(id, 1 - first);
        }
        true
    }

    fn ask_for_transfer(&mut self, leader: Option<usize>) -> bool {
        let Some(leader) = leader else { return false };
        let address = self.nodes[leader].us.address.clone();
        let target = self.rng.below(self.nodes.len() as u64 + 1);
        self.spawn("", SECOND, |client| {
            Box::pin(async move {
                if client.ask_node(&address).await {
                    // Its answer does not matter.
                    let _ = client
                        .call(&dq_wire::Request::Transfer { id: target })
                        .await;
                }
                client.progress();
            })
        });
        true
    }

    /// All faults end, and everything starts again.
    pub(crate) fn heal(&mut self) {
        self.net.mend_all();
        self.confiding = None;
        // Statements that take longer than elections would starve whoever waits for the slot.
        self.plan.deferred_for = self.plan.deferred_for.min(20 * MS);
        // Who leaves large answers lying where memory is short is cut off, every time.
        self.plan.slow_reading = 0;
        for node in 0..self.nodes.len() {
            let slot = &mut self.nodes[node];
            slot.paused_until = self.now;
            slot.slow_until = 0;
            slot.jobs_late_until = 0;
            slot.dies_in = None;
            slot.hurries = false;
            slot.disk.set_space(None);
            slot.disk.clear_faults();
            (slot.c_disk.full, slot.c_disk.fails, slot.c_disk.cut_in) = (false, false, None);
            self.start_damaged_again(node);
            if !self.nodes[node].runs() {
                self.boot_in(node, MS);
            }
            self.schedule_turn(node);
        }
    }
}

fn kind_of_file(name: &str) -> &'static str {
    match name {
        "" => "directory",
        _ if name.starts_with("tmp-snapshot") => "unfinished-snapshot",
        _ if name.starts_with("tmp-") => "unfinished",
        _ if name.starts_with("snapshot") && name.ends_with(".meta") => "snapshot-meta",
        _ if name.starts_with("snapshot") => "snapshot",
        _ if name.starts_with("metadata") => "metadata",
        _ if name.starts_with("open") => "open-segment",
        _ if name.starts_with('0') => "closed-segment",
        _ => "other",
    }
}
