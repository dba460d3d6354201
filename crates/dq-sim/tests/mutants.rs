//! Rules of the product are broken one at a time, and the simulator has to notice.
//!
//! Each case names a rule, a mix of faults under which it matters, and how many seeds it may take.
//! With the rule whole the same seeds have to be clean, so that what was found is the rule. `cargo
//! test --release -p dq-sim --features mutants --test mutants -- --nocapture` prints how many it took.
//! Rules that the simulator does not find yet are listed in `docs/TESTING.md`.

#![cfg(feature = "mutants")]

use dq_raft::ReadMode;
use dq_sim::mutants::{Mutant, break_rules};
use dq_sim::{Fault, Limits, Plan, Report, Rng};

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
    plan.loyal = 2;
    plan.think = 4 * MS;
    plan.bursts = (MS, MS);
    plan.churn = false;
    plan.alone = false;
    plan.standbys = false;
    plan.c_nodes = Vec::new();
    plan.retuned = false;
    plan.at_leader = 600;
    plan.chaos = 5000 * MS;
    plan.fault_interval = 200 * MS;
    plan.slow_reading = 0;
    plan.limits = Limits::default();
    plan.spares_majority = false;
    plan.interrupts = 0;
    plan.overlaps = 0;
}

/// A client interrupts what it asks for, all the time.
fn interrupted(plan: &mut Plan) {
    plan.interrupts = 3;
    plan.think = 2 * MS;
    plan.deferred = 300;
}

/// Leaders are cut off until they give up, and often lead again.
fn coming_back(plan: &mut Plan) {
    plan.election_ms = 150;
    plan.heartbeat_ms = 15;
    plan.clients = 1;
    plan.chaos = 12_000 * MS;
    plan.fault_interval = 800 * MS;
    plan.faults = vec![Fault::Shatter];
}

/// Disks decay, and nodes are killed, so that it is noticed and the next disk can decay.
fn decaying(plan: &mut Plan) {
    plan.clients = 1;
    plan.loyal = 0;
    plan.at_leader = 900;
    plan.chaos = 20_000 * MS;
    plan.fault_interval = 300 * MS;
    plan.faults = vec![Fault::BitRot, Fault::Kill];
}

/// Leaders reach one follower only, whose disk stands still.
fn confiding(plan: &mut Plan) {
    plan.nodes = 5;
    plan.election_ms = 150;
    plan.heartbeat_ms = 15;
    plan.loyal = 0;
    plan.overlaps = 900;
    plan.fault_interval = 300 * MS;
    plan.faults = vec![Fault::Confide];
}

fn run(seed: u64, change: fn(&mut Plan)) -> Report {
    let mut plan = Plan::new(&mut Rng::new(seed));
    busy(&mut plan);
    change(&mut plan);
    // DQ_SIM_VERBOSE=3 prints what happens in that seed.
    let wanted = std::env::var("DQ_SIM_VERBOSE").is_ok_and(|wanted| wanted == seed.to_string());
    // A generator of its own: how many numbers a plan takes does not matter here.
    dq_sim::run_plan(seed, plan, Rng::new(!seed), wanted)
}

/// Breaks the rules and runs seeds until one fails; then the same seeds with the rules whole.
fn is_found(mutants: &[Mutant], seeds: u64, change: fn(&mut Plan)) {
    break_rules(mutants);
    let found = (1..=seeds)
        .map(|seed| run(seed, change))
        .find(|report| !report.failures.is_empty());
    break_rules(&[]);
    let found = found.unwrap_or_else(|| panic!("{mutants:?} was not found in {seeds} seeds"));
    println!("| {mutants:?} | {} | {} |", found.seed, found.failures[0]);
    for seed in 1..=found.seed {
        let failures = run(seed, change).failures;
        assert!(
            failures.is_empty(),
            "seed {seed}, nothing broken: {failures:?}"
        );
    }
}

/// Runs the test of the calling thread in a process of its own: SQLite has one generator of random
/// numbers in each, so a process runs one seed at a time. True in that process.
fn is_alone() -> bool {
    if std::env::var_os("DQ_SIM_ALONE").is_some() {
        return true;
    }
    let name = std::thread::current().name().map(str::to_owned);
    let name = name.expect("a test's thread has its name");
    let program = std::env::current_exe().expect("this program has a path");
    let output = std::process::Command::new(program)
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env("DQ_SIM_ALONE", "1")
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines() {
        if let Some(at) = line.find("| [") {
            println!("{}", &line[at..]);
        }
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    false
}

macro_rules! found {
    ($($name:ident: $($mutant:ident)&+ within $seeds:literal, $change:expr;)*) => {
        $(#[test]
        fn $name() {
            if is_alone() {
                is_found(&[$(Mutant::$mutant),+], $seeds, $change);
            }
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
    failed_writes_without_proof: NoProofForWrites within 120, |plan| {
        plan.clients = 4;
        plan.loyal = 0;
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
    a_head_that_survives_its_epoch: HeadSurvives within 40, |plan| {
        plan.fault_interval = 25 * MS;
        plan.faults = vec![Fault::Transfer];
    };
    an_append_that_stops_short: AppendStopsShort within 10, |plan| {
        plan.c_nodes = vec![2];
        plan.faults = vec![Fault::Isolate, Fault::Kill];
    };
    an_append_that_commits_beyond_its_end: CommitBeyondEnd within 10, |plan| {
        plan.c_nodes = vec![3];
        // Entries that a follower lacks come from the disk, and not all in one message.
        plan.limits.log = 0;
        plan.faults = vec![Fault::Isolate, Fault::Kill];
    };
    a_heartbeat_anywhere: HeartbeatAnywhere within 10, |plan| {
        plan.c_nodes = vec![2, 3];
        plan.faults = vec![Fault::Isolate, Fault::Kill];
    };
    an_echoed_term_taken_for_a_real_one: AdoptEchoedTerm within 10, |plan| {
        plan.c_nodes = vec![2, 3];
        plan.faults = vec![Fault::Isolate, Fault::Kill];
    };
    a_configuration_that_was_cut_off: KeepCutConfiguration within 40, |plan| {
        plan.churn = true;
        plan.think = MS;
        plan.at_leader = 900;
        plan.fault_interval = 400 * MS;
        plan.faults = vec![Fault::Isolate, Fault::Shatter];
    };
    a_truncation_from_the_front: TruncateFromTheFront within 40, |plan| {
        plan.snapshot_threshold = 20;
        plan.snapshot_trailing = 20;
        plan.segment_size = 16 << 10;
        plan.fault_interval = 100 * MS;
        plan.chaos = 8_000 * MS;
        plan.faults = vec![Fault::PowerCutAtRemoval, Fault::Isolate];
    };
    an_early_answer_for_what_is_not_stored: AcknowledgeUnstored within 10, |plan| {
        plan.faults = vec![Fault::SlowDisk];
    };
    a_size_taken_from_the_highest_page: SizeFromHighestPage within 10, |plan| {
        plan.faults = vec![Fault::Kill];
    };
    what_was_read_and_not_made_durable: NoSyncAtStart within 40, |plan| {
        plan.faults = vec![Fault::DieInSyncThenPowerCut, Fault::Isolate];
        plan.fault_interval = 150 * MS;
    };
    a_campaign_with_disk_work_outstanding: CampaignBeforeDurable within 40, |plan| {
        plan.alone = true;
        plan.think = MS;
        plan.disk = (2 * MS, 20 * MS);
        plan.faults = vec![Fault::SlowDisk, Fault::Kill];
    };
    a_shrinking_transaction_in_a_batch: ShrinkInBatch within 40, |plan| {
        plan.think = MS;
        plan.disk = (5 * MS, 20 * MS);
        plan.faults = vec![Fault::Pause];
    };
    a_session_that_outlives_its_leadership: KeepSessions within 40, |plan| {
        coming_back(plan);
    };
    segments_that_a_start_forgets_and_leaves: KeepForgottenSegments within 40, |plan| {
        plan.snapshot_threshold = 20;
        plan.snapshot_trailing = 20;
        plan.segment_size = 16 << 10;
        plan.faults = vec![Fault::PowerCutAtRemoval, Fault::Isolate];
    };
    a_read_that_does_not_see_its_own_clients_write: ForgetOwnWrites within 10, |plan| {
        plan.faults = vec![Fault::SlowDisk];
    };
    a_transaction_published_after_its_leadership: PublishUnchecked within 45, |plan| {
        coming_back(plan);
        plan.loyal = 8;
        plan.fault_interval = 1500 * MS;
        plan.chaos = 20_000 * MS;
        plan.faults = vec![Fault::LateJobs];
    };
    a_request_judged_by_its_last_write: LastWriteDecides within 40, |plan| {
        coming_back(plan);
        plan.clients = 4;
        plan.deferred = 400;
        plan.fault_interval = 500 * MS;
        plan.faults = vec![Fault::Isolate, Fault::Shatter];
    };
    a_start_without_the_logs_last_configuration: StartFromCommitted within 40, |plan| {
        plan.churn = true;
        plan.think = MS;
        plan.faults = vec![Fault::Kill, Fault::Isolate];
    };
    entries_of_an_ended_leadership: KeepInFlight & InFlightByIndex within 40, |plan| {
        coming_back(plan);
    };
    a_leadership_between_two_looks: SameRoleSameEpoch & LookSeldom within 40, |plan| {
        coming_back(plan);
    };
    damage_taken_for_a_torn_write: DamageIsTorn within 40, |plan| {
        decaying(plan);
        // A segment that stays open until the next kill.
        plan.segment_size = 2 << 20;
        plan.snapshot_threshold = 1024;
    };
    entries_read_back_and_not_checked: ReadBackUnchecked within 100, |plan| {
        decaying(plan);
        plan.snapshot_threshold = 1024;
        plan.snapshot_trailing = 8192;
        plan.at_leader = 500;
        plan.faults = vec![Fault::BitRot, Fault::Kill, Fault::Isolate];
    };
    a_text_refused_in_its_middle: PartlyDoneRefused within 200, |plan| {
        // Transfers to nodes that do not hear of them take as long as an election.
        plan.clients = 4;
        plan.deferred = 300;
        plan.at_leader = 0;
        plan.fault_interval = 100 * MS;
        plan.faults = vec![Fault::Transfer, Fault::Transfer, Fault::Pause];
    };
    a_follower_that_takes_more_than_its_disk_does: TakeUnstored within 20, |plan| {
        plan.limits.unstored = 32 << 10;
        plan.faults = vec![Fault::SlowDisk];
    };
    a_log_that_stays_in_memory: KeepAllEntries within 10, |plan| {
        plan.faults = vec![Fault::Kill];
    };
    a_leader_that_runs_far_ahead: RunAhead within 20, |plan| {
        plan.limits.ahead = 16 << 10;
        plan.faults = vec![Fault::SlowDisk];
    };
    a_text_that_runs_far_ahead: TextRunsAhead within 40, |plan| {
        plan.limits.ahead = 16 << 10;
        plan.faults = vec![Fault::SlowDisk];
    };
    readers_that_keep_everything: KeepReaders within 20, |plan| {
        plan.limits.old_pages = 64 << 10;
        plan.slow_reading = 500;
        plan.faults = vec![Fault::Pause];
    };
    segments_that_nobody_needs: KeepOldSegments within 10, |plan| {
        plan.snapshot_threshold = 20;
        plan.snapshot_trailing = 20;
        plan.segment_size = 16 << 10;
        plan.faults = vec![Fault::Kill];
    };
    a_snapshot_that_nobody_wants: ForgetDiscarded within 40, |plan| {
        plan.snapshot_threshold = 8;
        plan.snapshot_trailing = 8;
        plan.faults = vec![Fault::Isolate, Fault::OneWay, Fault::SlowDisk];
    };
    writers_that_are_not_woken: ForgetCrowded within 20, |plan| {
        plan.limits.ahead = 16 << 10;
        plan.faults = vec![Fault::SlowDisk];
    };
    a_node_that_stands_once: StandOnce within 10, |plan| {
        plan.faults = vec![Fault::Shatter];
    };
    an_entry_that_was_replaced_while_it_was_written: PersistedThoughReplaced within 60, |plan| {
        confiding(plan);
    };
    a_read_of_what_is_not_committed: ForgetPinned within 40, |plan| {
        interrupted(plan);
        plan.mode = ReadMode::Lease;
        plan.disk = (5 * MS, 20 * MS);
        plan.faults = vec![Fault::Kill, Fault::PowerCut, Fault::Isolate];
    };
    an_interrupt_that_ends_a_write: InterruptWrites within 40, |plan| {
        interrupted(plan);
        plan.faults = vec![Fault::SlowDisk, Fault::Pause];
    };
    an_interrupt_answered_before_what_it_interrupts: InterruptOvertakes within 10, |plan| {
        interrupted(plan);
        plan.faults = vec![Fault::SlowDisk];
    };
    rows_that_leave_before_they_may: StreamAtOnce within 60, |plan| {
        interrupted(plan);
        plan.mode = ReadMode::Lease;
        plan.disk = (5 * MS, 20 * MS);
        plan.at_leader = 900;
        plan.faults = vec![Fault::Kill, Fault::PowerCut, Fault::Isolate, Fault::Pause];
    };
    a_slot_that_its_owner_took_along: KeepSlot within 20, |plan| {
        plan.faults = vec![Fault::Reset];
    };
    a_snapshot_of_what_is_not_committed: SnapshotOfHead within 40, |plan| {
        plan.snapshot_threshold = 10;
        plan.snapshot_trailing = 10;
        plan.faults = vec![Fault::Kill, Fault::Isolate];
    };
    results_that_all_answer_heartbeats: HeartbeatPerResult within 60, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::SlowDisk, Fault::Kill];
    };
    heartbeats_that_look_at_no_log: HeartbeatsAsSuch within 20, |plan| {
        plan.faults = vec![Fault::Isolate, Fault::Kill];
    };
    a_node_that_is_not_in_its_own_tracker: ForgetSelf within 40, |plan| {
        plan.churn = true;
        plan.think = MS;
        plan.faults = vec![Fault::Kill];
    };
    a_first_entry_whose_predecessor_is_not_known: FirstTermUnknown within 120, |plan| {
        plan.snapshot_threshold = 10;
        plan.snapshot_trailing = 20;
        plan.faults = vec![Fault::Kill, Fault::Isolate];
    };
    a_log_that_contradicts_its_snapshot: KeepOldLog within 120, |plan| {
        plan.clients = 4;
        plan.at_leader = 900;
        plan.snapshot_threshold = 4;
        plan.snapshot_trailing = 0;
        plan.segment_size = 16 << 10;
        plan.fault_interval = 100 * MS;
        plan.chaos = 8_000 * MS;
        plan.faults = vec![Fault::PowerCutAtRemoval, Fault::Isolate];
    };
    a_log_removed_before_its_snapshot_is_there: LogBeforeSnapshot within 60, |plan| {
        plan.snapshot_threshold = 10;
        plan.snapshot_trailing = 10;
        plan.segment_size = 16 << 10;
        plan.fault_interval = 100 * MS;
        plan.faults = vec![Fault::PowerCutAtRemoval, Fault::Isolate];
    };
    a_segment_closed_before_it_is_durable: CloseUnsynced within 40, |plan| {
        plan.segment_size = 16 << 10;
        plan.faults = vec![Fault::PowerCut];
    };
    an_entry_forgotten_before_it_is_applied: EvictAboveApplied within 20, |plan| {
        plan.think = MS;
        plan.disk = (5 * MS, 20 * MS);
        plan.faults = vec![Fault::SlowDisk];
    };
}
