//! Rules of the product are broken one at a time, and the simulator has to notice.
//!
//! Each case names a rule, a mix of faults under which it matters, and how many seeds it may take.
//! With the rule whole the same seeds have to be clean, so that what was found is the rule. `cargo
//! test --release -p dq-sim --features mutants --test mutants -- --nocapture` prints how many it took.

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
    a_campaign_over_outstanding_disk_work: CampaignBeforeDurable within 40, |plan| {
        plan.disk = (30, 20 * MS);
        plan.faults = vec![Fault::Isolate, Fault::Kill, Fault::SlowDisk];
    };
    a_start_from_what_was_never_synced: NoSyncAtStart within 20, |plan| {
        plan.faults = vec![Fault::DieInWriteThenPowerCut];
    };
    reads_without_proof: NoProof within 20, |plan| {
        plan.clients = 4;
        plan.at_leader = 900;
        plan.faults = vec![Fault::Pause, Fault::Isolate];
    };
    failed_writes_without_proof: NoProofForWrites within 40, |plan| {
        plan.clients = 4;
        plan.at_leader = 900;
        plan.faults = vec![Fault::Pause, Fault::Isolate];
    };
    a_restart_that_forgets_its_promise: ForgetPromise within 40, |plan| {
        plan.mode = ReadMode::Lease;
        plan.election_ms = 1500;
        plan.heartbeat_ms = 250;
        plan.retuned = true;
        plan.at_leader = 300;
        plan.chaos = 15000 * MS;
        plan.faults = vec![Fault::Kill, Fault::Kill, Fault::PowerCut, Fault::Isolate];
    };
    a_vote_despite_a_promise: VoteDespitePromise within 40, |plan| {
        plan.mode = ReadMode::Lease;
        plan.faults = vec![Fault::Transfer, Fault::Isolate, Fault::OneWay];
    };
    a_promise_counted_from_its_answer: CoverFromAnswer within 40, |plan| {
        plan.mode = ReadMode::Lease;
        plan.at_leader = 900;
        plan.faults = vec![Fault::Pause, Fault::Isolate, Fault::OneWay];
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
    a_shrinking_transaction_in_a_batch: ShrinkInBatch within 40, |plan| {
        plan.disk = (1000, 10 * MS);
        plan.think = MS;
        plan.faults = vec![Fault::SlowDisk];
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
    segments_that_are_left_over: KeepForgottenSegments within 20, |plan| {
        plan.snapshot_threshold = 8;
        plan.snapshot_trailing = 8;
        plan.faults = vec![Fault::PowerCut, Fault::PowerCutInWrite];
    };
    a_truncation_from_the_front: TruncateFromTheFront within 40, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::PowerCutInWrite];
    };
    an_early_answer_for_what_is_not_stored: AcknowledgeUnstored within 10, |plan| {
        plan.faults = vec![Fault::SlowDisk];
    };
    an_echo_of_another_term: EchoOfAnyTerm within 40, |plan| {
        plan.at_leader = 900;
        plan.faults = vec![Fault::Pause, Fault::Isolate, Fault::OneWay];
    };
    a_leader_without_vote_that_counts_itself: CountOneself within 40, |plan| {
        plan.churn = true;
        plan.think = MS;
        plan.at_leader = 900;
        plan.faults = vec![Fault::Isolate, Fault::Pause];
    };
    a_lease_after_its_release: LeaseAfterRelease within 40, |plan| {
        plan.mode = ReadMode::Lease;
        plan.faults = vec![Fault::Transfer, Fault::Transfer, Fault::Isolate, Fault::OneWay];
    };
    a_lease_to_the_last_millisecond: NoMargin within 40, |plan| {
        plan.mode = ReadMode::Lease;
        plan.skew = 40_000;
        plan.at_leader = 900;
        plan.faults = vec![Fault::Isolate];
    };
    an_epoch_that_is_compared_by_role: SameRoleSameEpoch within 40, |plan| {
        plan.standbys = true;
        plan.churn = true;
        plan.faults = vec![Fault::Isolate, Fault::Kill];
    };
    a_table_of_what_is_in_flight_that_is_kept: KeepInFlight within 40, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::Transfer, Fault::Pause];
    };
    connections_that_survive_their_epoch: KeepSessions within 20, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::Transfer, Fault::Pause];
    };
    reads_that_forget_own_writes: ForgetOwnWrites within 10, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::SlowDisk];
    };
    a_size_taken_from_the_highest_page: SizeFromHighestPage within 10, |plan| {
        plan.faults = vec![Fault::Kill];
    };
}
