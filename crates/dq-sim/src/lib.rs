//! A seeded simulator of whole clusters.
//!
//! Real nodes (the state machine of `dq-server`, the log of `dq-raft`, SQLite on `dq-vfs`) run in one
//! thread and in virtual time, on disks that lose what was not synced, over a network that delays,
//! cuts and breaks, under clients that speak the wire protocol and write down what they were told.
//!
//! ```text
//!   form the cluster ─▶ chaos ─▶ heal ─▶ clients end ─▶ read all, compare all
//!                       safe?    live?                  consistent?
//! ```
//!
//! A seed decides everything: the size of the cluster, the mix of faults, every delay. The same seed
//! gives the same run, bit by bit, so that a failure can be looked at for as long as it takes.
//!
//! What is checked: [`said`] at every message and every start, [`checks`] after every step of a node, [`files`] whenever its disk is idle,
//! [`history`] at the end. With the feature `mutants` rules can be broken, to see that this is noticed.
//!
//! Some of the nodes are C dqlite's, which vote, follow and lead with clusters of ours: [`c_node`] is the
//! model of one, written after what it does. They lead only for a while, and execute no SQL.
//!
//! What it leaves out: threads and sockets (the real shell has tests of its own), files that decay, and
//! what C dqlite does wrong to itself, whoever is with it.

#![forbid(unsafe_code)]

mod c_node;
mod chaos;
mod checks;
mod client;
mod files;
mod history;
mod interrupts;
mod loyal;
mod members;
mod net;
mod node;
mod plan;
pub mod proofs;
mod registers;
mod rng;
mod said;
mod trace;
mod workload;
mod world;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use dq_vfs::{Vfs, World as SqlWorld};

#[cfg(feature = "mutants")]
pub use dq_raft::mutants;
pub use plan::{Fault, Limits, Plan};
pub use rng::Rng;
pub use trace::print_log;

/// What became of a seed.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What was wrong; nothing if all was well.
    pub failures: Vec<String>,
    /// Virtual time, microseconds.
    pub micros: u64,
    /// Faults by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// What faults of one node hit, by kind and role, and which operations failed of which kind of file.
    pub sites: BTreeMap<String, u64>,
    /// Hash of everything that happened.
    pub hash: u64,
    /// Databases of two nodes compared at the same index.
    pub compared: u64,
    /// Operations of clients that were written down.
    pub moments: u64,
    /// Deletions of databases that were acknowledged.
    pub deleted: u64,
    /// How many nodes there were.
    pub nodes: usize,
    /// How much of the time that it may take something took, in thousandths.
    pub shares: BTreeMap<&'static str, u64>,
    /// How near its bound each use of memory came, in thousandths.
    pub reached: BTreeMap<&'static str, u64>,
}

/// SQLite's time and randomness in the simulation: always the same.
struct Still;

impl SqlWorld for Still {
    fn unix_millis(&self) -> i64 {
        1_700_000_000_000
    }

    fn randomness(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

/// The VFS of all simulated nodes: what SQLite keeps of one lasts as long as the process.
fn vfs() -> Result<Arc<Vfs>, String> {
    static VFS: OnceLock<Result<Arc<Vfs>, String>> = OnceLock::new();
    VFS.get_or_init(|| Vfs::register_with(Box::new(Still)).map_err(|error| error.to_string()))
        .clone()
}

/// Runs a seed with the plan that it makes.
pub fn run(seed: u64, verbose: bool) -> Report {
    let mut rng = Rng::new(seed);
    let plan = Plan::new(&mut rng);
    run_plan(seed, plan, rng, verbose)
}

/// Runs a seed with another plan.
pub fn run_plan(seed: u64, plan: Plan, rng: Rng, verbose: bool) -> Report {
    // SQLite has one generator of random numbers in a process, so there is one run at a time.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    dq_vfs::seed_randomness(seed as u32 ^ (seed >> 32) as u32 | 1);
    let vfs = match vfs() {
        Ok(vfs) => vfs,
        Err(why) => {
            return Report {
                seed,
                failures: vec![why],
                ..Report::default()
            };
        }
    };
    if verbose {
        println!("{plan:#?}");
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = world::World::new(seed, plan, rng, vfs, verbose);
        world.run();
        world.count_hits();
        let moments = world.shared.borrow_mut().history.tick();
        Report {
            seed,
            failures: std::mem::take(&mut world.failures),
            micros: world.now,
            faults: std::mem::take(&mut world.faults),
            sites: std::mem::take(&mut world.sites),
            hash: world.hash,
            compared: world.checks.compared,
            moments,
            deleted: world.shared.borrow().deleted,
            nodes: world.nodes.len(),
            shares: std::mem::take(&mut world.shares),
            reached: world.checks.reached.iter().copied().collect(),
        }
    }));
    outcome.unwrap_or_else(|panic| Report {
        seed,
        failures: vec![format!("panic: {}", panic_text(&*panic))],
        ..Report::default()
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text")
}
