//! Rules of the product are broken one at a time, and the simulator has to notice.
//!
//! Each case names a rule, a mix of faults under which it matters, and how many seeds it may take.
//! With the rule whole the same seeds have to be clean, so that what was found is the rule. `cargo
//! test --release -p dq-sim --features mutants --test mutants -- --nocapture` prints how many it took.
//! Rules that the simulator does not find yet are listed in `docs/TESTING.md`.

#![cfg(feature = "mutants")]

use dq_raft::ReadMode;
use dq_sim::mutants::{Mutant, break_rule};
use dq_sim::{Fault, Plan, Report, Rng};

const MS: u64 = 1000;

/// A cluster in which much happens in little time.
fn busy(plan: &mut Plan) {
    plan.nodes = 3;
    plan.mode = ReadMode::Quorum;
    plan.election_ms = 300;
    plan.heartbeat_ms = 50;
    plan.busy_timeout_ms = 50;
    plan.delay = (20, 2 * MS);
    plan.disk = (30, 2 * MS);
    plan.snapshot_threshold = 100;
    plan.snapshot_trailing = 110;
    plan.segment_size = 32 << 10;
    plan.deferred = 50;
    plan.deferred_for = 20 * MS;
    plan.skew = 1000;
    plan.clients = 2;
    plan.think = 4 * MS;
    plan.bursts = (MS, MS);
    plan.churn = false;
    plan.standbys = false;
    plan.answer_like_c = Vec::new();
    plan.retuned = false;
    plan.at_leader = 600;
    plan.chaos = 5000 * MS;
    plan.fault_interval = 200 * MS;
}

fn run(seed: u64, change: fn(&mut Plan)) -> Report {
    let mut rng = Rng::new(seed);
    let mut plan = Plan::new(&mut rng);
    busy(&mut plan);
    change(&mut plan);
    dq_sim::run_plan(seed, plan, rng, false)
}

/// Breaks the rule and runs seeds until one fails; then the same seeds with the rule whole.
fn is_found(mutant: Mutant, seeds: u64, change: fn(&mut Plan)) {
    break_rule(Some(mutant));
    let found = (1..=seeds)
        .map(|seed| run(seed, change))
        .find(|report| !report.failures.is_empty());
    break_rule(None);
    let found = found.unwrap_or_else(|| panic!("{mutant:?} was not found in {seeds} seeds"));
    println!("| {mutant:?} | {} | {} |", found.seed, found.failures[0]);
    for seed in 1..=found.seed {
        let failures = run(seed, change).failures;
        assert!(
            failures.is_empty(),
            "seed {seed}, nothing broken: {failures:?}"
        );
    }
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
    a_message_of_a_term_that_is_not_durable: SendBeforeTerm within 10, |plan| {
        plan.standbys = true;
        plan.faults = vec![Fault::Kill, Fault::PowerCut];
    };
    a_vote_or_acknowledgement_that_is_not_durable: SayBeforeDurable within 10, |plan| {
        plan.faults = vec![Fault::Kill, Fault::PowerCut];
    };
    failed_writes_without_proof: NoProofForWrites within 80, |plan| {
        plan.clients = 4;
        plan.at_leader = 900;
        plan.faults = vec![Fault::Pause, Fault::Isolate];
    };
    a_gate_that_opens_at_the_election: GateOpensAtElection within 20, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::Transfer, Fault::Pause];
    };
    an_answer_before_the_commit: AnswerBeforeCommit within 10, |plan| {
        plan.faults = vec![Fault::Kill, Fault::PowerCut, Fault::Isolate];
    };
    an_error_before_the_commit: ErrorsAtOnce within 30, |plan| {
        plan.clients = 4;
        plan.faults = vec![Fault::Kill, Fault::PowerCut, Fault::Isolate];
    };
    a_write_of_which_nobody_knows_called_not_done: CertainlyNotDone within 10, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::Transfer, Fault::OneWay];
    };
    a_head_that_survives_its_epoch: HeadSurvives within 10, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::Transfer, Fault::Pause];
    };
    an_append_that_stops_short: AppendStopsShort within 10, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::Kill];
    };
    an_append_that_commits_beyond_its_end: CommitBeyondEnd within 10, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::Kill];
    };
    a_heartbeat_anywhere: HeartbeatAnywhere within 10, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::Kill];
    };
    an_echoed_term_taken_for_a_real_one: AdoptEchoedTerm within 10, |plan| {
        plan.answer_like_c = vec![2, 3];
        plan.faults = vec![Fault::Isolate, Fault::Kill];
    };
    a_configuration_that_was_cut_off: KeepCutConfiguration within 40, |plan| {
        plan.churn = true;
        plan.think = MS;
        plan.faults = vec![Fault::Isolate, Fault::Kill, Fault::Pause];
    };
    a_truncation_from_the_front: TruncateFromTheFront within 40, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::PowerCutInWrite];
    };
    an_early_answer_for_what_is_not_stored: AcknowledgeUnstored within 10, |plan| {
        plan.faults = vec![Fault::SlowDisk];
    };
    a_size_taken_from_the_highest_page: SizeFromHighestPage within 10, |plan| {
        plan.faults = vec![Fault::Kill];
    };
}
