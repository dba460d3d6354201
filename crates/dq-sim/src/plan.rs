//! What one seed does: the cluster, the times, the mix of faults.
//!
//! Faults that are always there together hide each other: a cluster that is cut in two all the time
//! never fills a log. So each seed takes some kinds only, at its own rates.

use dq_raft::ReadMode;

use crate::rng::Rng;

/// Microseconds per millisecond.
pub(crate) const MS: u64 = 1000;
/// Microseconds per second.
pub(crate) const SECOND: u64 = 1000 * MS;

/// Kinds of clients.
const WORKLOADS: u64 = 6;

/// Everything about a run that its seed decides beforehand. Times in microseconds unless named.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many nodes there are: 1, 3 or 5.
    pub nodes: usize,
    /// How nodes answer reads.
    pub mode: ReadMode,
    /// Election timeout, ms.
    pub election_ms: u64,
    /// Heartbeat interval, ms.
    pub heartbeat_ms: u64,
    /// `busy_timeout` of the nodes, ms.
    pub busy_timeout_ms: u64,
    /// Shortest and longest way of a message.
    pub delay: (u64, u64),
    /// Shortest and longest duration of a piece of disk work.
    pub disk: (u64, u64),
    /// Entries between snapshots.
    pub snapshot_threshold: u64,
    /// Entries kept behind a snapshot.
    pub snapshot_trailing: u64,
    /// Size of log segments.
    pub segment_size: u64,
    /// How many statements of a thousand run elsewhere and come back later.
    pub deferred: u64,
    /// How much later at most.
    pub deferred_for: u64,
    /// Most that a clock is fast or slow, in parts per million.
    pub skew: u64,
    /// Clients of each workload.
    pub clients: usize,
    /// Clients that stay on their connection when leadership is lost there.
    pub loyal: usize,
    /// Mean pause between a client's operations.
    pub think: u64,
    /// Clients are busy at the same times: for the second duration of every first.
    pub bursts: (u64, u64),
    /// The membership changes all the time.
    pub churn: bool,
    /// The membership shrinks to one voter and grows again, all the time.
    pub alone: bool,
    /// Only the first node votes, the others stand by.
    pub standbys: bool,
    /// Nodes, by number from 1, that are C dqlite's. The first one is not.
    pub c_nodes: Vec<usize>,
    /// Nodes come back with other timeouts.
    pub retuned: bool,
    /// How many faults of a thousand hit the leader, if there is one.
    pub at_leader: u64,
    /// How long faults happen.
    pub chaos: u64,
    /// Mean time between two faults.
    pub fault_interval: u64,
    /// The kinds of faults, each as often as it is listed.
    pub faults: Vec<Fault>,
    /// How many of a thousand pieces of an answer a client leaves lying for a while. If any, there is
    /// a client that reads much.
    pub slow_reading: u64,
    /// How many appends of a thousand begin earlier than they need to, as those of other programs may.
    pub overlaps: u64,
    /// Clients that interrupt what they have asked for.
    pub interrupts: usize,
    /// Bounds on the memory of nodes.
    pub limits: Limits,
    /// Faults hit a minority of the nodes only, and for long: the others have to go on.
    pub spares_majority: bool,
}

/// Bounds on the memory of nodes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the log.
    pub log: u64,
    /// Bytes of a leader's entries that are not durable.
    pub unstored: u64,
    /// Bytes executed and not applied.
    pub ahead: usize,
    /// Bytes of requests, and of answers.
    pub clients: usize,
    /// Bytes of messages that arrive from other nodes.
    pub peers: usize,
    /// Bytes of old pages kept for readers.
    pub old_pages: usize,
}

impl Default for Limits {
    /// As nodes have them, but for the log's: so few that followers are often served from disk.
    fn default() -> Limits {
        Limits {
            log: 64 << 10,
            unstored: 64 << 20,
            ahead: 64 << 20,
            clients: 256 << 20,
            peers: 64 << 20,
            old_pages: 256 << 20,
        }
    }
}

impl Limits {
    /// Some of them low enough to be met.
    fn new(rng: &mut Rng) -> Limits {
        let all = Limits::default();
        Limits {
            log: rng.pick(&[0, all.log, all.log, 1 << 20]),
            unstored: rng.pick(&[32 << 10, 256 << 10, all.unstored]),
            ahead: rng.pick(&[16 << 10, 128 << 10, all.ahead]),
            clients: rng.pick(&[16 << 10, 256 << 10, all.clients, all.clients]),
            peers: rng.pick(&[8 << 10, 64 << 10, all.peers]),
            old_pages: rng.pick(&[128 << 10, 1 << 20, all.old_pages]),
        }
    }
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process dies; what it wrote stays in the page cache.
    Kill,
    /// A process dies after some more outputs of one step, the rest of them lost.
    KillBetweenOutputs,
    /// A machine loses power, and with it some of what was not synced.
    PowerCut,
    /// Power is lost in the middle of disk work.
    PowerCutInWrite,
    /// Power is lost at an operation of a certain kind or soon after, at rare ones as often as at others.
    PowerCutAt,
    /// A process dies in the middle of disk work, comes back, and then power is lost.
    DieInWriteThenPowerCut,
    /// Power is lost while files are removed.
    PowerCutAtRemoval,
    /// A process dies while it makes something durable, is back at once, and then power is lost.
    DieInSyncThenPowerCut,
    /// All machines lose power at once.
    PowerCutAll,
    /// An operation of a disk fails.
    DiskError,
    /// A disk has no room for a while.
    DiskFull,
    /// A disk is a hundred times slower for a while.
    SlowDisk,
    /// Statements at a node end only after a while, in which it may lose its leadership and win it back.
    LateJobs,
    /// A group of nodes, and the clients that happen to be with them, is cut off.
    Partition,
    /// Messages from one node to another do not arrive, the other way they do.
    OneWay,
    /// A node reaches no other node, but its clients do.
    Isolate,
    /// No node reaches another one.
    Shatter,
    /// A connection breaks.
    Reset,
    /// A connection breaks and one side does not hear of it.
    HalfOpen,
    /// A process does not run for a while; its clock goes on.
    Pause,
    /// A clock jumps forward.
    ClockJump,
    /// A leader is asked to hand over.
    Transfer,
    /// Bits flip in a file.
    BitRot,
    /// A write lands elsewhere on its disk.
    Misdirected,
    /// A leader reaches one follower only, whose disk is at one piece of work all the while; so does
    /// its successor; then the follower hears from a third, and its disk goes on. What it was writing has
    /// been replaced, and replaced again by the same.
    Confide,
}

/// All kinds that plans take by the same chance, but for those that damage disks.
pub(crate) const FAULTS: [Fault; 22] = [
    Fault::Kill,
    Fault::KillBetweenOutputs,
    Fault::PowerCut,
    Fault::PowerCutInWrite,
    Fault::PowerCutAt,
    Fault::PowerCutAtRemoval,
    Fault::DieInWriteThenPowerCut,
    Fault::DieInSyncThenPowerCut,
    Fault::PowerCutAll,
    Fault::DiskError,
    Fault::DiskFull,
    Fault::SlowDisk,
    Fault::LateJobs,
    Fault::Partition,
    Fault::OneWay,
    Fault::Isolate,
    Fault::Shatter,
    Fault::Reset,
    Fault::HalfOpen,
    Fault::Pause,
    Fault::ClockJump,
    Fault::Transfer,
];

impl Plan {
    /// The plan of a seed.
    pub fn new(rng: &mut Rng) -> Plan {
        // From a generator of its own: seeds that somebody has named keep their meaning.
        let limits = Limits::new(&mut rng.aside(1));
        let spares = rng.aside(3).chance(150);
        let nodes = rng.pick(&[1, 3, 3, 3, 3, 5]);
        let mode = rng.pick(&[ReadMode::Quorum, ReadMode::Quorum, ReadMode::Lease]);
        let election_ms = rng.pick(&[150, 300, 1000, 3000]);
        let delay_max = rng.pick(&[300, 2 * MS, 10 * MS]).min(election_ms * MS / 15);
        let mut faults: Vec<Fault> = FAULTS
            .into_iter()
            .filter(|_| rng.chance(400))
            // A lease rests on clocks that do not jump.
            .filter(|fault| *fault != Fault::ClockJump || mode != ReadMode::Lease)
            .collect();
        if faults.is_empty() {
            faults.push(Fault::Kill);
        }
        let shape = rng.below(1000);
        if shape >= SHAPES_END {
            faults.extend(damages(rng.aside(2), nodes));
        }
        let snapshot_threshold = rng.pick(&[8, 30, 100, 1024]);
        let clients = rng.pick(&[1, 2, 4]);
        let think = rng.pick(&[MS, 5 * MS, 40 * MS]);
        let disk_max = rng.pick(&[100, 2 * MS, 20 * MS]);
        let chaos = rng.between(6, 20) * election_ms * MS;
        // So many operations all in all: more would be more of the same, and the time is better
        // spent on other seeds.
        let operations = rng.pick(&[150, 500, 500, 2000]);
        let one = think + 2 * delay_max + disk_max;
        let period = election_ms * MS;
        let busy = period * operations * one / (chaos * WORKLOADS * clients as u64);
        let mut later = rng.aside(3);
        if later.chance(250) {
            faults.push(Fault::Confide);
        }
        let interrupts = usize::from(later.chance(250));
        let overlaps = later.pick(&[0, 0, 0, 200]);
        let mut plan = Plan {
            nodes,
            mode,
            election_ms,
            heartbeat_ms: election_ms / rng.pick(&[6, 10]),
            busy_timeout_ms: rng.pick(&[0, 0, 50, 1000]),
            delay: (rng.pick(&[20, 100]), delay_max),
            disk: (30, disk_max),
            snapshot_threshold,
            snapshot_trailing: snapshot_threshold + rng.pick(&[0, 10, 500]),
            segment_size: rng.pick(&[32 << 10, 64 << 10, 256 << 10]),
            deferred: rng.pick(&[0, 50, 500]),
            deferred_for: rng.pick(&[MS, 20 * MS, 2 * election_ms * MS]),
            skew: rng.pick(&[0, 1000, 40_000]),
            clients,
            loyal: rng.pick(&[1, 1, 3]),
            think,
            bursts: (period, busy.clamp(4 * MS, period)),
            churn: shape < 250,
            alone: (250..350).contains(&shape),
            standbys: (350..SHAPES_END).contains(&shape),
            c_nodes: (2..=nodes).filter(|_| rng.chance(200)).collect(),
            retuned: election_ms >= 1000 && rng.chance(300),
            at_leader: rng.pick(&[0, 500, 800]),
            chaos,
            fault_interval: rng.between(election_ms / 4, election_ms * 2) * MS,
            faults,
            slow_reading: rng.pick(&[0, 0, 500]),
            limits,
            overlaps,
            interrupts,
            spares_majority: false,
        };
        if spares && plan.can_spare_majority() {
            plan.spare_majority();
        }
        plan
    }

    fn can_spare_majority(&self) -> bool {
        let changes = self.churn || self.alone || self.standbys || self.retuned;
        let damage = self.faults.iter().any(|fault| !FAULTS.contains(fault));
        self.nodes > 1 && !changes && !damage && self.c_nodes.is_empty()
    }

    /// Makes faults hit a minority only, for several times as long as the others may need to go on.
    pub fn spare_majority(&mut self) {
        let chaos = 3 * (4 * SECOND + 28 * self.election_ms * MS);
        // As many operations in more time.
        let busy = self.bursts.1 * self.chaos / chaos;
        self.bursts.1 = busy.clamp((4 * MS).min(self.bursts.1), self.bursts.0);
        self.chaos = chaos;
        self.spares_majority = true;
    }
}

/// Of a thousand plans those in which the members change, or not all of them vote.
const SHAPES_END: u64 = 430;

/// Damage to disks, for plans in which a majority of the voters is left when one is replaced.
fn damages(mut own: Rng, nodes: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    if own.chance(350) {
        faults.push(Fault::BitRot);
    }
    // What a sole node has acknowledged must not be lost without a trace.
    if nodes > 1 && own.chance(250) {
        faults.push(Fault::Misdirected);
    }
    faults
}
