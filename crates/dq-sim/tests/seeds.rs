//! A few seeds that are always run, and that a seed is a run.

/// Runs a seed; says what is wrong with it.
#[track_caller]
fn check(seed: u64) -> dq_sim::Report {
    let report = dq_sim::run(seed, false);
    assert!(
        report.failures.is_empty(),
        "seed {seed}: {:?}; run `cargo run --release -p dq-sim -- --first {seed} --seeds 1 --verbose`",
        report.failures
    );
    report
}

#[test]
fn clusters_survive_what_a_few_seeds_do_to_them() {
    let mut compared = 0;
    let mut faults = 0;
    let mut deleted = 0;
    for seed in 1..=4 {
        let report = check(seed);
        compared += report.compared;
        faults += report.faults.values().sum::<u64>();
        deleted += report.deleted;
    }
    assert!(deleted > 0, "no database was deleted");
    assert!(compared > 100, "{compared} comparisons are no test");
    assert!(faults > 10, "{faults} faults are no test");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let hashes = [check(2).hash, check(2).hash];
    assert_eq!(hashes[0], hashes[1]);
    assert_ne!(hashes[0], check(3).hash, "another seed gives another run");
}

#[test]
fn no_read_is_stale_whatever_happens_to_leaders() {
    let total = dq_sim::proofs::many(dq_sim::proofs::Range {
        first: 1,
        seeds: 2000,
        seconds: None,
        jobs: 1,
    });
    assert!(
        total.failed.is_empty(),
        "{:?}; run `cargo run --release -p dq-sim -- --proofs --first SEED --seeds 1 --verbose`",
        total.failed
    );
    let counts = total.counts;
    assert!(
        counts.elections > 2000 && counts.reads > 50_000 && counts.tempted > 200,
        "{counts:?} is no test"
    );
}

#[test]
fn the_same_seed_gives_the_same_proofs() {
    let run = |seed| dq_sim::proofs::run(seed, false).counts;
    for seed in 1..50 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
