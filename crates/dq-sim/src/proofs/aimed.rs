//! Plans with the faults that matter to one rule.
//!
//! What breaks one rule only needs a coincidence that a random plan makes once in ten thousand runs; here
//! it comes in tens. With the rules whole these are the plans under which a mistake is most likely to
//! be seen, so every other seed takes one of them.

use dq_raft::ReadMode;
use dq_raft::mutants::Mutant;

use super::plan::{Fault, MS, Plan};

/// The rules that plans are aimed at.
pub const AIMED: [Mutant; 20] = [
    Mutant::NoProof,
    Mutant::ForgetPromise,
    Mutant::WaitNewPromise,
    Mutant::PromiseUnstored,
    Mutant::LowerBoundAtOnce,
    Mutant::VoteDespitePromise,
    Mutant::ObeyDisrupt,
    Mutant::SoleVoterAtOnce,
    Mutant::CoverFromAnswer,
    Mutant::LeaseAfterRelease,
    Mutant::ReleaseEnds,
    Mutant::NoMargin,
    Mutant::EchoOfAnyTerm,
    Mutant::CountOneself,
    Mutant::ClockPerTurn,
    Mutant::StoredLease,
    Mutant::OldEntryProves,
    Mutant::KeepStrangers,
    Mutant::ProofBeforeOwnEntry,
    Mutant::SecondChange,
];

/// Three voters, a lease that lasts almost as long as an election timeout, a quick network.
pub(super) fn quick(plan: &mut Plan) {
    plan.voters = 3;
    plan.spares = 0;
    plan.modes = vec![ReadMode::Lease];
    plan.timeouts = vec![(300, 100)];
    plan.skew = 0;
    plan.extreme = false;
    plan.delay = (20, 2 * MS);
    plan.late = Vec::new();
    plan.disk = (20, MS);
    plan.bound = (20, 2 * MS);
    plan.disrupt = 0;
    plan.silent = Vec::new();
    plan.read_interval = 60 * MS;
    plan.write_interval = 100 * MS;
    plan.fault_interval = 150 * MS;
    plan.burst = 20 * MS;
    plan.at_leader = 500;
    plan.length = 4000 * MS;
}

/// Long promises, and nodes that come back with little patience.
fn hasty(plan: &mut Plan) {
    plan.timeouts = vec![(1000, 333), (60, 20), (60, 20)];
    plan.burst = 100 * MS;
    plan.at_leader = 800;
    plan.length = 6000 * MS;
}

/// Aims a quick plan at a rule.
pub(super) fn aim(plan: &mut Plan, rule: Mutant) {
    match rule {
        Mutant::NoProof => {
            plan.faults = vec![Fault::Isolate, Fault::Transfer];
        }
        Mutant::ForgetPromise | Mutant::WaitNewPromise => {
            hasty(plan);
            plan.faults = vec![Fault::Crash, Fault::Crash, Fault::Mute, Fault::HoldAll];
        }
        Mutant::PromiseUnstored => {
            hasty(plan);
            plan.silent = vec![3];
            plan.bound = (20, 4000 * MS);
            plan.faults = vec![Fault::Crash, Fault::Crash, Fault::Mute];
        }
        Mutant::LowerBoundAtOnce => {
            hasty(plan);
            plan.silent = vec![3];
            plan.faults = vec![Fault::Crash, Fault::Crash, Fault::Crash, Fault::Isolate];
        }
        Mutant::VoteDespitePromise | Mutant::ObeyDisrupt => {
            hasty(plan);
            plan.disrupt = 500;
            plan.faults = vec![Fault::Crash, Fault::Cut, Fault::Mute];
        }
        Mutant::SoleVoterAtOnce => {
            plan.faults = vec![Fault::Change, Fault::Leave, Fault::Mute, Fault::Deaf];
            plan.at_leader = 800;
        }
        Mutant::CoverFromAnswer => {
            hasty(plan);
            plan.disrupt = 500;
            plan.faults = vec![
                Fault::SlowDisk,
                Fault::Hold,
                Fault::HoldAll,
                Fault::Crash,
                Fault::Isolate,
            ];
        }
        Mutant::LeaseAfterRelease => {
            plan.faults = vec![Fault::Transfer, Fault::Mute, Fault::Deaf];
            plan.at_leader = 800;
        }
        Mutant::ReleaseEnds => {
            plan.faults = vec![Fault::Transfer, Fault::Deaf];
            plan.at_leader = 800;
            plan.read_interval = 30 * MS;
            plan.length = 2000 * MS;
        }
        Mutant::NoMargin => {
            hasty(plan);
            plan.skew = 50;
            plan.extreme = true;
            plan.silent = vec![3];
            plan.disrupt = 1000;
            plan.faults = vec![Fault::Crash, Fault::Cut, Fault::Isolate];
        }
        Mutant::EchoOfAnyTerm => {
            plan.modes = vec![ReadMode::Quorum];
            plan.read_interval = 3 * MS;
            plan.write_interval = 10 * MS;
            // What node 2 says to node 1 arrives a few leaderships later.
            plan.late = vec![(2, 1, 150 * MS), (3, 1, 20 * MS)];
            plan.burst = 40 * MS;
            plan.fault_interval = 10 * MS;
            plan.faults = vec![Fault::Transfer];
            plan.length = 2000 * MS;
        }
        Mutant::CountOneself => {
            plan.faults = vec![
                Fault::Leave,
                Fault::Change,
                Fault::Mute,
                Fault::Deaf,
                Fault::Transfer,
            ];
            plan.at_leader = 800;
        }
        Mutant::ClockPerTurn => {
            plan.faults = vec![Fault::Pause, Fault::Pause, Fault::Mute];
            plan.at_leader = 800;
        }
        Mutant::StoredLease => {
            // Node 3 has promised nothing. When it is the only one left to vote, others hear of it late.
            plan.silent = vec![3];
            plan.late = vec![(3, 1, 20 * MS), (3, 2, 20 * MS)];
            plan.timeouts = vec![(1000, 333)];
            plan.faults = vec![Fault::Change, Fault::Leave];
            plan.at_leader = 400;
            plan.length = 8000 * MS;
        }
        Mutant::OldEntryProves => {
            plan.modes = vec![ReadMode::Quorum];
            // The others echo nothing, so that a fresh entry is node 2's only proof. Node 1 is soon known
            // to be up to date, and elected, while most acknowledgements are still on the way.
            plan.voters = 5;
            plan.silent = vec![1, 3, 4, 5];
            plan.late = vec![
                (1, 2, 40 * MS),
                (3, 2, 90 * MS),
                (4, 2, 90 * MS),
                (5, 2, 90 * MS),
            ];
            plan.read_interval = 20 * MS;
            plan.write_interval = 20 * MS;
            plan.burst = 200 * MS;
            plan.fault_interval = 100 * MS;
            plan.faults = vec![Fault::Transfer];
        }
        Mutant::KeepStrangers => {
            hasty(plan);
            plan.silent = vec![3];
            plan.disrupt = 1000;
            plan.burst = 50 * MS;
            plan.faults = vec![
                Fault::Wipe,
                Fault::Wipe,
                Fault::Wipe,
                Fault::Mute,
                Fault::HoldAll,
                Fault::Crash,
            ];
            plan.at_leader = 300;
            plan.length = 4000 * MS;
        }
        Mutant::ProofBeforeOwnEntry => {
            plan.modes = vec![ReadMode::Quorum];
            plan.disk = (20, 40 * MS);
            plan.write_interval = 20 * MS;
            plan.faults = vec![Fault::Transfer, Fault::Isolate];
        }
        Mutant::SecondChange => {
            plan.spares = 1;
            plan.modes = vec![ReadMode::Quorum];
            plan.burst = 5 * MS;
            plan.faults = vec![Fault::Change, Fault::Change, Fault::Isolate];
            plan.at_leader = 300;
        }
        // Other rules are not about proofs.
        _ => {}
    }
}
