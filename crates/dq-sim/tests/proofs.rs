//! Reads are never stale, and whatever makes them so is noticed.
//!
//! Rules of leadership's proofs are broken one at a time, each under the faults that matter for it,
//! and the drivers' own world has to see a stale read; the same seeds have to be clean with the rule
//! whole. `cargo test --release -p dq-sim --features mutants --test proofs -- --nocapture` prints how
//! many seeds it took.

#![cfg(feature = "mutants")]

use std::time::Instant;

use dq_raft::ReadMode;
use dq_sim::Rng;
use dq_sim::mutants::{Mutant, break_rule};
use dq_sim::proofs::{Counts, Fault, Plan, Report, run_plan};

const MS: u64 = 1000;

/// Three voters, a lease that lasts almost as long as an election timeout, a quick network.
fn quick(plan: &mut Plan) {
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

fn run(seed: u64, change: fn(&mut Plan)) -> Report {
    let mut rng = Rng::new(seed);
    let mut plan = Plan::new(&mut rng);
    quick(&mut plan);
    change(&mut plan);
    run_plan(seed, plan, rng, false)
}

/// Breaks the rule and runs seeds until one fails; then the same seeds with the rule whole.
fn is_found(mutant: Mutant, seeds: u64, change: fn(&mut Plan)) {
    let began = Instant::now();
    break_rule(Some(mutant));
    let found = (1..=seeds)
        .map(|seed| run(seed, change))
        .find(|report| !report.failures.is_empty());
    break_rule(None);
    let found = found.unwrap_or_else(|| panic!("{mutant:?} was not found in {seeds} seeds"));
    assert!(
        found.failures[0].starts_with("stale"),
        "{:?}",
        found.failures
    );
    let mut counts = Counts::default();
    for seed in 1..=found.seed {
        let report = run(seed, change);
        let failures = report.failures;
        assert!(
            failures.is_empty(),
            "seed {seed}, nothing broken: {failures:?}"
        );
        counts += report.counts;
    }
    let (reads, seconds) = (counts.reads, began.elapsed().as_secs_f64());
    println!(
        "| {mutant:?} | {} | {} | {reads} reads, {seconds:.1} s",
        found.seed, found.failures[0]
    );
}

macro_rules! found {
    ($($name:ident: $mutant:ident within $seeds:literal, $change:expr;)*) => {
        $(#[test]
        fn $name() {
            is_found(Mutant::$mutant, $seeds, $change);
        })*
    };
}

found! {
    no_proof_at_all: NoProof within 1000, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::Transfer];
    };
    a_promise_forgotten_at_a_restart: ForgetPromise within 1000, |plan| {
        hasty(plan);
        plan.faults = vec![Fault::Crash, Fault::Crash, Fault::Mute, Fault::HoldAll];
    };
    a_promise_kept_for_as_long_as_the_next_one_would_last: WaitNewPromise within 2000, |plan| {
        hasty(plan);
        plan.faults = vec![Fault::Crash, Fault::Crash, Fault::Mute, Fault::HoldAll];
    };
    a_promise_before_its_length_is_durable: PromiseUnstored within 2000, |plan| {
        hasty(plan);
        plan.silent = vec![3];
        plan.bound = (20, 4000 * MS);
        plan.faults = vec![Fault::Crash, Fault::Crash, Fault::Mute];
    };
    a_bound_lowered_while_a_longer_promise_may_be_running: LowerBoundAtOnce within 2000, |plan| {
        hasty(plan);
        plan.silent = vec![3];
        plan.faults = vec![Fault::Crash, Fault::Crash, Fault::Crash, Fault::Isolate];
    };
    a_vote_despite_a_promise: VoteDespitePromise within 2000, |plan| {
        hasty(plan);
        plan.disrupt = 500;
        plan.faults = vec![Fault::Crash, Fault::Cut, Fault::Mute];
    };
    a_vote_because_a_request_claims_to_be_the_leaders_wish: ObeyDisrupt within 2000, |plan| {
        hasty(plan);
        plan.disrupt = 500;
        plan.faults = vec![Fault::Crash, Fault::Cut, Fault::Mute];
    };
    a_sole_voter_that_elects_itself_despite_a_promise: SoleVoterAtOnce within 2000, |plan| {
        plan.faults = vec![Fault::Change, Fault::Leave, Fault::Mute, Fault::Deaf];
        plan.at_leader = 800;
    };
    a_promise_counted_from_its_answer: CoverFromAnswer within 2000, |plan| {
        hasty(plan);
        plan.disrupt = 500;
        plan.faults = vec![Fault::SlowDisk, Fault::Hold, Fault::HoldAll, Fault::Crash, Fault::Isolate];
    };
    a_lease_after_its_release: LeaseAfterRelease within 2000, |plan| {
        plan.faults = vec![Fault::Transfer, Fault::Mute, Fault::Deaf];
        plan.at_leader = 800;
    };
    a_release_that_ends_with_the_transfer: ReleaseEnds within 2000, |plan| {
        plan.faults = vec![Fault::Transfer, Fault::Deaf];
        plan.at_leader = 800;
        plan.read_interval = 30 * MS;
        plan.length = 2000 * MS;
    };
    a_promise_believed_to_the_last_millisecond: NoMargin within 2000, |plan| {
        hasty(plan);
        plan.skew = 50;
        plan.extreme = true;
        plan.silent = vec![3];
        plan.disrupt = 1000;
        plan.faults = vec![Fault::Crash, Fault::Cut, Fault::Isolate];
    };
    an_echo_of_an_earlier_term: EchoOfAnyTerm within 1000, |plan| {
        plan.modes = vec![ReadMode::Quorum];
        plan.read_interval = 3 * MS;
        plan.write_interval = 10 * MS;
        // What node 2 says to node 1 arrives a few leaderships later.
        plan.late = vec![(2, 1, 150 * MS), (3, 1, 20 * MS)];
        plan.burst = 40 * MS;
        plan.fault_interval = 10 * MS;
        plan.faults = vec![Fault::Transfer];
        plan.length = 2000 * MS;
    };
    a_leader_without_a_vote_that_counts_itself: CountOneself within 2000, |plan| {
        plan.faults = vec![Fault::Leave, Fault::Change, Fault::Mute, Fault::Deaf, Fault::Transfer];
        plan.at_leader = 800;
    };
    a_clock_that_is_read_once_a_turn: ClockPerTurn within 2000, |plan| {
        plan.faults = vec![Fault::Pause, Fault::Pause, Fault::Mute];
        plan.at_leader = 800;
    };
    the_end_of_a_lease_kept_over_changes: StoredLease within 2000, |plan| {
        // Node 3 has promised nothing. When it is the only one left to vote, others hear of it late.
        plan.silent = vec![3];
        plan.late = vec![(3, 1, 20 * MS), (3, 2, 20 * MS)];
        plan.timeouts = vec![(1000, 333)];
        plan.faults = vec![Fault::Change, Fault::Leave];
        plan.at_leader = 400;
        plan.length = 8000 * MS;
    };
    an_entry_that_was_under_way: OldEntryProves within 1000, |plan| {
        plan.modes = vec![ReadMode::Quorum];
        // The others echo nothing, so that a fresh entry is node 2's only proof. Node 1 is soon known
        // to be up to date, and elected, while most acknowledgements are still on the way.
        plan.voters = 5;
        plan.silent = vec![1, 3, 4, 5];
        plan.late = vec![(1, 2, 40 * MS), (3, 2, 90 * MS), (4, 2, 90 * MS), (5, 2, 90 * MS)];
        plan.read_interval = 20 * MS;
        plan.write_interval = 20 * MS;
        plan.burst = 200 * MS;
        plan.fault_interval = 100 * MS;
        plan.faults = vec![Fault::Transfer];
    };
    what_a_server_said_before_it_was_removed: KeepStrangers within 2000, |plan| {
        hasty(plan);
        plan.silent = vec![3];
        plan.disrupt = 1000;
        plan.burst = 50 * MS;
        plan.faults = vec![Fault::Wipe, Fault::Wipe, Fault::Wipe, Fault::Mute, Fault::HoldAll, Fault::Crash];
        plan.at_leader = 300;
        plan.length = 4000 * MS;
    };
}

/// Machines that stop together with their clocks, as a virtual machine may.
fn frozen(plan: &mut Plan) {
    plan.faults = vec![Fault::Freeze, Fault::Mute];
    plan.at_leader = 800;
}

/// Clocks of which some run more than half as fast again as others.
fn apart(plan: &mut Plan) {
    plan.skew = 250;
    plan.extreme = true;
    plan.faults = vec![Fault::Isolate, Fault::Mute];
    plan.at_leader = 800;
}

/// Under this a lease gives stale reads, although all rules are whole, and a quorum does not.
fn only_a_lease_minds(change: fn(&mut Plan)) {
    let run = |seed, mode| {
        let mut rng = Rng::new(seed);
        let mut plan = Plan::new(&mut rng);
        quick(&mut plan);
        change(&mut plan);
        plan.modes = vec![mode];
        run_plan(seed, plan, rng, false)
    };
    let stale = |report: &Report| report.failures.iter().any(|why| why.starts_with("stale"));
    let lease = (1..=2000)
        .map(|seed| run(seed, ReadMode::Lease))
        .find(stale);
    let lease = lease.expect("a lease minds");
    println!("| with a lease | {} | {} |", lease.seed, lease.failures[0]);
    let mut counts = Counts::default();
    for seed in 1..=500 {
        let report = run(seed, ReadMode::Quorum);
        assert_eq!(report.failures, Vec::<String>::new(), "seed {seed}");
        counts += report.counts;
    }
    assert!(
        counts.reads > 5000 && counts.tempted > 50,
        "{counts:?} is no test"
    );
}

#[test]
fn a_clock_that_stops_with_its_machine_makes_a_lease_stale_but_no_quorum() {
    only_a_lease_minds(frozen);
}

#[test]
fn clocks_far_apart_make_a_lease_stale_but_no_quorum() {
    only_a_lease_minds(apart);
}
