//! Disks that decay and that write elsewhere, and the operator who replaces what does not start.
//!
//! One disk at a time is damaged, and no other until that node has started all the same or is replaced,
//! so that a majority is always whole. What happens then depends on what was hit:
//!
//! - *A start notices, or misses nothing*: closed segments, snapshots, batches that others follow, the
//!   older metadata, whatever was never written to. The node may go on and start again. Either all is
//!   there that it has said, or it is refused by the name of a damaged file, with the files untouched.
//! - *The last batch of an open segment*, which may pass for torn: where every other node has its
//!   entries, as above, but those may be missing.
//! - *Anything else*: term and vote, which have no checksum, entries that others may lack, writes that are
//!   nowhere. Its disk has reported errors, so the operator does not let it start again: what a start
//!   makes of the files is looked at, for panics, and then they are gone.
//!
//! The operator does what `docs/OPERATING.md` says: the member is removed, and only then a new one added,
//! at the same address, with an id that nobody had, and started on an empty disk.

use dq_raft::disk::Operation;
use dq_raft::sim_disk::{Aim, Fault as DiskFault};
use dq_wire::disk::metadata::Metadata;
use dq_wire::disk::names::{FileName, LOCK_FILE};
use dq_wire::disk::segment::Batches;

use super::*;

/// What was done to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// A start notices or misses nothing, but perhaps the entries from this index on.
    Noticed(Option<u64>),
    /// What is read from it may be wrong.
    Unnoticed,
    /// A write will land elsewhere.
    Ahead,
    /// The node is being replaced.
    Replaced,
}

/// Added to the id of a node that is replaced.
const NEXT_ID: u64 = 10;

const WRITES: [Aim; 4] = [
    |operation, _| operation == Operation::Write,
    |operation, name| operation == Operation::Write && name.starts_with("open"),
    |operation, name| operation == Operation::Write && name.starts_with("tmp"),
    |operation, name| operation == Operation::Write && name.contains("metadata"),
];

/// Whether these are an open segment's bytes, or term and vote.
fn is_log(name: &str) -> bool {
    name.starts_with("open-") || name.contains("metadata")
}

impl Slot {
    /// Whether there is something on its disk that a start has to get over.
    pub(super) fn is_damaged(&self) -> bool {
        matches!(self.damage, Some(Damage::Noticed(_) | Damage::Unnoticed))
    }
}

impl World {
    /// Whether this node's disk may be damaged now. Where it is to be replaced, another one of ours has to
    /// lead.
    fn may_be_damaged(&self, node: usize) -> bool {
        let ours = self.nodes.iter().filter(|slot| !slot.is_c).count();
        let may_lead = ours > 1 || self.nodes.len() == 1;
        self.nodes[node].process.is_some() && may_lead && self.is_undamaged()
    }

    /// Whether all disks are in order, and all nodes members.
    pub(super) fn is_undamaged(&self) -> bool {
        self.nodes.iter().all(|slot| slot.damage.is_none())
    }

    /// Flips bits in a file.
    pub(crate) fn rot(&mut self, node: usize) -> bool {
        if !self.may_be_damaged(node) {
            return false;
        }
        let disk = self.nodes[node].disk.clone();
        let mut names = disk.names();
        names.retain(|name| **name != *LOCK_FILE && !disk.durable(name).is_empty());
        if names.is_empty() {
            return false;
        }
        let name = &names[self.rng.below(names.len() as u64) as usize];
        let content = disk.durable(name);
        // Open segments are zeros for the most part.
        let used = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        let end = match self.rng.chance(900) {
            true => used,
            false => content.len(),
        };
        let at = self.rng.below(end as u64) as usize;
        // One bit, one in each of four bytes, or one in each sector.
        let step = self.rng.pick(&[content.len(), content.len(), 1, 512]);
        let count = match step {
            512 => usize::MAX,
            _ => 4,
        };
        let damage = self.consequence(node, name, at);
        // A sole node's word cannot be replaced.
        if self.nodes.len() == 1 && damage != Damage::Noticed(None) {
            return false;
        }
        // Where it matters which byte it is, it is that one.
        let is_many = damage == Damage::Noticed(None) && !is_log(name);
        let count = if is_many { count } else { 1 };
        let places: Vec<usize> = (at..content.len()).step_by(step).take(count).collect();
        for at in &places {
            disk.rot(name, *at, 1 << self.rng.below(8));
        }
        self.trace(|| {
            let (node, bytes) = (node + 1, places.len());
            format!("n{node}: {bytes} bytes of {name} from {at} on decay: {damage:?}")
        });
        self.nodes[node].damage = Some(damage);
        true
    }

    /// What comes of a damaged byte.
    fn consequence(&self, node: usize, name: &str, at: usize) -> Damage {
        let disk = &self.nodes[node].disk;
        match FileName::parse(name) {
            Some(FileName::Metadata1 | FileName::Metadata2) => {
                let version = |name| Metadata::decode(&disk.durable(name)).map_or(0, |m| m.version);
                let newest = version("metadata1").max(version("metadata2"));
                // Format and version of the newest are told by the other file.
                match version(name) == newest && at >= 16 {
                    true => Damage::Unnoticed,
                    false => Damage::Noticed(None),
                }
            }
            Some(FileName::OpenSegment { .. }) => {
                let content = disk.durable(name);
                let batches = Batches::new(&content).into_iter().flatten();
                let last = batches.map_while(Result::ok).last();
                match last.filter(|last| last.range.contains(&at)) {
                    Some(last) => self.loss_of_last(node, last.entries.len() as u64),
                    None => Damage::Noticed(None),
                }
            }
            _ => Damage::Noticed(None),
        }
    }

    /// What comes of it if a node's last entries, so many, pass for torn.
    fn loss_of_last(&self, node: usize, count: u64) -> Damage {
        let Some(process) = &self.nodes[node].process else {
            return Damage::Unnoticed;
        };
        let last = process.writer.last_index();
        let term = process.machine.driver().term_at(last);
        let have = |slot: &Slot| {
            slot.process.as_ref().is_some_and(|other| {
                let has = other.on_disk().certain >= last;
                has && other.machine.driver().term_at(last) == term
            })
        };
        let certain = self.nodes[node].disk.pending() == 0 && process.on_disk().certain == last;
        match certain && term.is_some() && self.nodes.iter().all(have) {
            true => Damage::Noticed(Some(last + 1 - count)),
            false => Damage::Unnoticed,
        }
    }

    /// A node's next write of some kind lands elsewhere.
    pub(crate) fn misdirect(&mut self, node: usize) -> bool {
        if self.nodes.len() == 1 || !self.may_be_damaged(node) {
            return false;
        }
        let aim = self.rng.pick(&WRITES);
        let choice = self.rng.bits();
        let slot = &mut self.nodes[node];
        slot.disk.fail_when(aim, DiskFault::Misdirected(choice));
        slot.damage = Some(Damage::Ahead);
        true
    }

    /// Before a start: whether the write that was to land elsewhere has done so, and what comes of it.
    pub(super) fn look_for_damage(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        if slot.damage != Some(Damage::Ahead) {
            return;
        }
        // A power cut, for one, takes it back.
        slot.disk.clear_faults();
        let misdirected = slot.disk.misdirected();
        let is_noticed = misdirected.iter().all(|write| {
            let lost = is_log(&write.meant_for) || write.meant_for.ends_with(".meta");
            (write.is_no_loss || !lost) && !is_log(&write.landed_in)
        });
        slot.damage = match is_noticed {
            _ if misdirected.is_empty() => None,
            true => Some(Damage::Noticed(None)),
            false => Some(Damage::Unnoticed),
        };
        let damage = self.nodes[node].damage;
        self.trace(|| format!("n{}: {misdirected:?}: {damage:?}", node + 1));
    }

    /// A node with a damaged disk does not start.
    pub(super) fn refused(&mut self, node: usize, before: &BTreeMap<String, Vec<u8>>, why: &str) {
        self.trace(|| format!("n{} is refused: {why}", node + 1));
        let slot = &self.nodes[node];
        if slot.disk.files() != *before {
            return self.fail(format!(
                "node {}: a start is refused and has changed files: {why}",
                node + 1
            ));
        }
        let damaged = slot.disk.damaged();
        let is_named = damaged.iter().any(|name| why.contains(name.as_str()));
        if matches!(slot.damage, Some(Damage::Noticed(_))) && !is_named {
            return self.fail(format!(
                "node {}: {damaged:?} damaged, a start is refused for another reason: {why}",
                node + 1
            ));
        }
        match self.nodes.len() {
            1 => {
                self.enter(Phase::Done);
                self.check_history();
            }
            _ => self.replace(node),
        }
    }

    /// A node with a damaged disk could start. False if the operator does not let it.
    pub(super) fn starts_all_the_same(&mut self, node: usize) -> bool {
        let slot = &mut self.nodes[node];
        match slot.damage {
            Some(Damage::Noticed(missing)) => {
                if let Some(from) = missing {
                    slot.said.excuse(from);
                }
                slot.damage = None;
                slot.disk.forget_damage();
                true
            }
            Some(Damage::Unnoticed) => {
                self.replace(node);
                false
            }
            _ => true,
        }
    }

    /// The directory goes, and another node will take the place.
    fn replace(&mut self, node: usize) {
        self.count_hits();
        let slot = &mut self.nodes[node];
        slot.us.id += NEXT_ID;
        slot.disk = SimDisk::new();
        slot.said = Said::default();
        slot.damage = Some(Damage::Replaced);
        let id = slot.us.id;
        self.trace(|| format!("n{} is to be replaced by node {id}", node + 1));
        let mut shared = self.shared.borrow_mut();
        shared.ids[node] = id;
        shared.outside.insert(id);
        shared.disordered = true;
    }

    /// Whether a node must not start yet, since it was not added.
    pub(super) fn is_outside(&self, node: usize) -> bool {
        let id = self.nodes[node].us.id;
        self.shared.borrow().outside.contains(&id)
    }

    /// Starts nodes that were added, and sees whether they have got their roles.
    pub(super) fn go_on_replacing(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].damage != Some(Damage::Replaced) || self.is_outside(node) {
                continue;
            }
            if self.nodes[node].process.is_none() {
                self.boot_in(node, MS);
            }
            if !self.shared.borrow().disordered {
                self.nodes[node].damage = None;
                if self.shared.borrow().phase == Phase::Healing {
                    // Only now the last fault has ended.
                    self.phase_since = self.now;
                }
            }
        }
    }

    /// At the end a node whose disk was damaged is started again: what nobody has noticed is looked for.
    pub(crate) fn start_damaged_again(&mut self, node: usize) {
        if self.nodes[node].damage == Some(Damage::Ahead) {
            self.look_for_damage(node);
        }
        let slot = &self.nodes[node];
        if slot.is_damaged() && slot.process.is_some() {
            self.die(node, Death::Kill);
        }
    }
}
