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
use dq_sim::proofs::{AIMED, Counts, Fault, Plan, Report, run_plan};

/// Seeds that any rule may take to be seen broken: most take some tens.
const SEEDS: u64 = 2000;

fn run(seed: u64, rule: Mutant) -> Report {
    let mut rng = Rng::new(seed);
    let plan = Plan::aimed(&mut rng, rule);
    run_plan(seed, plan, rng, false)
}

/// Breaks the rule and runs seeds until one fails; then the same seeds with the rule whole.
fn is_found(rule: Mutant) {
    assert!(AIMED.contains(&rule), "{rule:?}");
    let began = Instant::now();
    break_rule(Some(rule));
    let found = (1..=SEEDS)
        .map(|seed| run(seed, rule))
        .find(|report| !report.failures.is_empty());
    break_rule(None);
    let found = found.unwrap_or_else(|| panic!("{rule:?} was not found in {SEEDS} seeds"));
    let seen = match rule == Mutant::SecondChange {
        // Two majorities decide, each for itself.
        true => found.failures[0].contains(" of term "),
        false => found.failures[0].starts_with("stale"),
    };
    assert!(seen, "{:?}", found.failures);
    let mut counts = Counts::default();
    for seed in 1..=found.seed {
        let report = run(seed, rule);
        let failures = report.failures;
        assert!(
            failures.is_empty(),
            "seed {seed}, nothing broken: {failures:?}"
        );
        counts += report.counts;
    }
    let (reads, seconds) = (counts.reads, began.elapsed().as_secs_f64());
    println!(
        "| {rule:?} | {} | {} | {reads} reads, {seconds:.1} s",
        found.seed, found.failures[0]
    );
}

macro_rules! found {
    ($($name:ident: $rule:ident;)*) => {
        $(#[test]
        fn $name() {
            is_found(Mutant::$rule);
        })*
    };
}

found! {
    no_proof_at_all: NoProof;
    a_promise_forgotten_at_a_restart: ForgetPromise;
    a_promise_kept_for_as_long_as_the_next_one_would_last: WaitNewPromise;
    a_promise_before_its_length_is_durable: PromiseUnstored;
    a_bound_lowered_while_a_longer_promise_may_be_running: LowerBoundAtOnce;
    a_vote_despite_a_promise: VoteDespitePromise;
    a_vote_because_a_request_claims_to_be_the_leaders_wish: ObeyDisrupt;
    a_sole_voter_that_elects_itself_despite_a_promise: SoleVoterAtOnce;
    a_promise_counted_from_its_answer: CoverFromAnswer;
    a_lease_after_its_release: LeaseAfterRelease;
    a_release_that_ends_with_the_transfer: ReleaseEnds;
    a_promise_believed_to_the_last_millisecond: NoMargin;
    an_echo_of_an_earlier_term: EchoOfAnyTerm;
    a_leader_without_a_vote_that_counts_itself: CountOneself;
    a_clock_that_is_read_once_a_turn: ClockPerTurn;
    the_end_of_a_lease_kept_over_changes: StoredLease;
    an_entry_that_was_under_way: OldEntryProves;
    what_a_server_said_before_it_was_removed: KeepStrangers;
    a_proof_before_the_first_entry_of_its_own: ProofBeforeOwnEntry;
    a_change_before_the_last_one_is_committed: SecondChange;
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
        let mut plan = Plan::quick(&mut rng);
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
