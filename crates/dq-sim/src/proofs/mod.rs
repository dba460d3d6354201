//! Proofs of leadership, by themselves: drivers without databases, thousands of short runs a second.
//!
//! A read is stale where a deposed leader answers it, and that takes a coincidence: promises that are
//! running or given back, a network that is late in one direction only, an election within
//! milliseconds. Whole nodes are too slow to wait for it. Here a node is its [`Driver`], a disk that
//! is a list and a clock; the state machine is one register that only grows, so whether an answer was
//! stale is one comparison.
//!
//! ```text
//!   writes ─▶ whoever believes to lead ── applied ─▶ acknowledged: the register is at least this
//!                                                          │
//!   a read at every other node that believes to lead ◀─────┘   proven with less: stale
//! ```
//!
//! This world plays the part of the shell as well: it says what time it is, carries out the effects,
//! keeps the bound on promises, and tells of connections. What it leaves out: snapshots, bytes,
//! clients, and everything that the whole nodes' world looks at.
//!
//! [`Driver`]: dq_raft::Driver

mod aimed;
mod effects;
mod events;
mod faults;
mod many;
mod node;
mod plan;
mod reads;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::rng::Rng;

pub use aimed::AIMED;
pub use many::{Range, Total, many};
pub use plan::{Fault, Plan};

/// What became of a seed.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What was wrong; nothing if all was well.
    pub failures: Vec<String>,
    /// What there was of everything.
    pub counts: Counts,
}

/// How often something happened: a run in which nothing happens proves nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Virtual time, microseconds.
    pub micros: u64,
    /// Elections that were won.
    pub elections: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Reads that were asked at a node while another one led in a later term.
    pub tempted: u64,
    /// Changes of the membership that were committed.
    pub changes: u64,
    /// Faults.
    pub faults: u64,
    /// Inputs of drivers.
    pub inputs: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.micros += other.micros;
        self.elections += other.elections;
        self.writes += other.writes;
        self.reads += other.reads;
        self.tempted += other.tempted;
        self.changes += other.changes;
        self.faults += other.faults;
        self.inputs += other.inputs;
    }
}

/// Runs a seed with the plan that it makes.
pub fn run(seed: u64, verbose: bool) -> Report {
    let mut rng = Rng::new(seed);
    let plan = Plan::new(&mut rng);
    run_plan(seed, plan, rng, verbose)
}

/// Runs a seed with another plan.
pub fn run_plan(seed: u64, plan: Plan, rng: Rng, verbose: bool) -> Report {
    if verbose {
        println!("{plan:#?}");
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = world::World::new(plan, rng, verbose);
        world.run();
        Report {
            seed,
            failures: world.failures,
            counts: world.counts,
        }
    }));
    outcome.unwrap_or_else(|panic| Report {
        seed,
        failures: vec![format!("panic: {}", crate::panic_text(&*panic))],
        counts: Counts::default(),
    })
}
