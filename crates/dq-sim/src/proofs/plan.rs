//! What one seed does: the cluster, the times, the mix of faults.

use dq_raft::ReadMode;
use dq_raft::mutants::Mutant;

use super::aimed::{AIMED, aim, quick};
use crate::rng::Rng;

/// Microseconds per millisecond.
pub(super) const MS: u64 = 1000;

/// Everything about a run that its seed decides beforehand. Times in microseconds unless named.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Nodes that vote at first.
    pub voters: u64,
    /// Nodes that do not, but may be given a vote.
    pub spares: u64,
    /// How nodes answer reads: one of these at every start of a node.
    pub modes: Vec<ReadMode>,
    /// Election timeout and heartbeat interval, ms: the first of these at first, any of them at
    /// every later start of a node.
    pub timeouts: Vec<(u64, u64)>,
    /// Most that a clock's rate is off, in thousandths.
    pub skew: u64,
    /// Clocks are off by that much, not by up to that much.
    pub extreme: bool,
    /// Shortest and longest way of a message.
    pub delay: (u64, u64),
    /// Ways, from one node to another, that take so much longer.
    pub late: Vec<(u64, u64, u64)>,
    /// Shortest and longest duration of a piece of disk work.
    pub disk: (u64, u64),
    /// Shortest and longest time until another bound on promises is durable.
    pub bound: (u64, u64),
    /// How many requests for votes of a thousand claim that the leader asked for the election.
    pub disrupt: u64,
    /// Nodes, by number, that neither echo nor promise, like those of C dqlite.
    pub silent: Vec<u64>,
    /// Mean time between reads.
    pub read_interval: u64,
    /// Mean time between writes.
    pub write_interval: u64,
    /// Mean time between two groups of faults.
    pub fault_interval: u64,
    /// Longest time between two faults of a group.
    pub burst: u64,
    /// The kinds of faults, each as often as it is listed.
    pub faults: Vec<Fault>,
    /// How many faults of a thousand hit the leader, if there is one; crashes then hit the others.
    pub at_leader: u64,
    /// How long it all takes.
    pub length: u64,
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A node reaches no other, and none reaches it.
    Isolate,
    /// A node hears nothing.
    Deaf,
    /// A node is not heard.
    Mute,
    /// Two nodes do not reach each other.
    Cut,
    /// What one node sends to another is late, all of it.
    Hold,
    /// What a node says is late, or what it hears, or both.
    HoldAll,
    /// A connection breaks; what was on it is lost, or comes later than what is said afterwards.
    Reset,
    /// A process dies and comes back.
    Crash,
    /// A leader is asked to hand over.
    Transfer,
    /// A server gets another role, or is removed, or added.
    Change,
    /// The leader takes its own vote away.
    Leave,
    /// A server is removed and comes back with an empty disk. Only in clusters of three, and without
    /// other changes: an empty server under an old id votes for whoever has not heard of two changes.
    Wipe,
    /// A disk takes long.
    SlowDisk,
    /// A process does not run for a while; its clock goes on.
    Pause,
    /// The same with a machine whose clock stops as well: what a lease does not survive.
    Freeze,
}

/// All kinds that everything has to survive.
const FAULTS: [Fault; 14] = [
    Fault::Isolate,
    Fault::Deaf,
    Fault::Mute,
    Fault::Cut,
    Fault::Hold,
    Fault::HoldAll,
    Fault::Reset,
    Fault::Crash,
    Fault::Transfer,
    Fault::Change,
    Fault::Leave,
    Fault::Wipe,
    Fault::SlowDisk,
    Fault::Pause,
];

impl Plan {
    /// The plan of a seed: anything, or aimed at some rule.
    pub fn new(rng: &mut Rng) -> Plan {
        if rng.chance(500) {
            let rule = rng.pick(&AIMED);
            Plan::aimed(rng, rule)
        } else {
            Plan::any(rng)
        }
    }

    /// A plan with the faults that matter to a rule.
    pub fn aimed(rng: &mut Rng, rule: Mutant) -> Plan {
        let mut plan = Plan::quick(rng);
        aim(&mut plan, rule);
        plan
    }

    /// Three voters, a lease that lasts almost as long as an election timeout, a quick network.
    pub fn quick(rng: &mut Rng) -> Plan {
        let mut plan = Plan::any(rng);
        quick(&mut plan);
        plan
    }

    /// Faults of some kinds, at some rates.
    fn any(rng: &mut Rng) -> Plan {
        let voters = rng.pick(&[1, 2, 3, 3, 3, 3, 3, 5]);
        let modes = match rng.below(8) {
            0 => vec![ReadMode::Quorum],
            1 => vec![ReadMode::Lease, ReadMode::Quorum],
            _ => vec![ReadMode::Lease],
        };
        let mut timeouts = Vec::new();
        for _ in 0..rng.pick(&[1, 1, 3]) {
            let election = rng.pick(&[60, 150, 300, 1000]);
            // A promise lasts three heartbeats, or a little less than the election timeout.
            timeouts.push((election, election / rng.pick(&[2, 3, 3, 5, 10])));
        }
        let election = timeouts[0].0 * MS;
        let mut faults: Vec<Fault> = FAULTS.into_iter().filter(|_| rng.chance(400)).collect();
        let spares = rng.pick(&[0, 0, 1, 2]);
        if (voters, spares) == (3, 0) && rng.chance(500) {
            faults.retain(|fault| !matches!(fault, Fault::Change | Fault::Leave));
        } else {
            faults.retain(|fault| *fault != Fault::Wipe);
        }
        if faults.is_empty() {
            faults.push(Fault::Isolate);
        }
        let mut late = Vec::new();
        while late.len() < 3 && rng.chance(300) {
            let (from, to) = (rng.between(1, voters), rng.between(1, voters));
            late.push((from, to, rng.below(election)));
        }
        let longest = rng.pick(&[200, 2 * MS, election / 20, election / 4]);
        Plan {
            voters,
            spares,
            modes,
            timeouts: timeouts.clone(),
            // Those of the margin: a tenth between the fastest and the slowest.
            skew: rng.pick(&[0, 0, 45]),
            extreme: rng.chance(500),
            delay: (20, longest),
            late,
            disk: (20, rng.pick(&[100, 2 * MS, election / 4])),
            bound: (20, rng.pick(&[2 * MS, election / 4, 4 * election])),
            disrupt: rng.pick(&[0, 0, 300, 1000]),
            silent: (1..=voters).filter(|_| rng.chance(60)).collect(),
            read_interval: election / rng.pick(&[4, 20]),
            write_interval: election / rng.pick(&[1, 4, 20]),
            fault_interval: election / rng.pick(&[1, 3]),
            burst: rng.pick(&[2 * longest, 1000 * timeouts[0].1, election]),
            faults,
            at_leader: rng.pick(&[0, 300, 800]),
            length: 12 * election,
        }
    }
}
