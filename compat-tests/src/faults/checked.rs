//! What tests with faults have in common: whether they can run, one at a time, and the verdict.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::run::{Report, Settings, build_checker, possible, run};
use crate::servers::{Kind, find_in_path_or_skip};

/// Where histories and the checker lie.
pub const SCRATCH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tmp");

/// One run at a time: two would take each other's processor.
static ONE: Mutex<()> = Mutex::new(());

/// A number from the environment.
///
/// # Panics
/// If it is something else.
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// `DQ_FAULTS_NODES`: for each node a `c` or an `o`, for one of ours.
fn kinds_from_environment() -> Option<Vec<Kind>> {
    let text = std::env::var("DQ_FAULTS_NODES").ok()?;
    let kind = |letter| match letter {
        'c' => Kind::C,
        'o' => Kind::Ours,
        _ => panic!("{letter} is no kind of node"),
    };
    Some(text.chars().map(kind).collect())
}

/// The checker for linearizability, or `None` after saying that a test is skipped.
///
/// # Panics
/// If it cannot be built.
pub fn checker() -> Option<PathBuf> {
    let go = find_in_path_or_skip("go")?;
    std::fs::create_dir_all(SCRATCH).expect("a directory can be made");
    Some(build_checker(&go, Path::new(SCRATCH)).expect("the checker can be built"))
}

/// The checker's status and words.
///
/// # Panics
/// If it cannot be started.
pub fn check(checker: &Path, history: &Path) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(checker)
        .arg(history)
        .output()
        .expect("the checker can be started");
    let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    (status.code(), text)
}

/// Runs something that makes networks, alone, on a thread that may stay in one of them. False, and words
/// on stderr, if that cannot be done here.
///
/// # Panics
/// If `act` does.
pub fn in_networks(kinds: &[Kind], act: impl FnOnce() + Send) -> bool {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(why) = possible() {
        // Not a failure even in CI: some machines do not permit it, whatever is installed.
        eprintln!("SKIPPED: {why}");
        return false;
    }
    if !kinds.iter().all(|kind| kind.available_or_skip()) {
        return false;
    }
    std::thread::scope(|scope| {
        scope
            .spawn(act)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    true
}

/// Runs faults and load on a cluster of these kinds, and has the history checked. `DQ_FAULTS_…` in the
/// environment makes it longer or another one.
///
/// # Panics
/// If anything is wrong with what was seen.
pub fn under_faults(nodes: &[Kind], replacing: bool, reads: &str, seconds: u64, seed: u64) {
    let (Some(checker), Some(shell), Some(_)) = (
        checker(),
        find_in_path_or_skip("dqlite"),
        find_in_path_or_skip("sqlite3"),
    ) else {
        return;
    };
    let reads = &std::env::var("DQ_FAULTS_READS").unwrap_or_else(|_| reads.to_owned());
    let seed = number("DQ_FAULTS_SEED").unwrap_or(seed);
    let nodes = &kinds_from_environment().unwrap_or_else(|| nodes.to_vec());
    let seconds = number("DQ_FAULTS_SECONDS").unwrap_or(seconds);
    let name: String = nodes.iter().map(|kind| format!("{kind:?}-")).collect();
    let history = Path::new(SCRATCH).join(format!("faults-{name}{reads}-{seed}.jsonl"));
    println!("{nodes:?}, {reads} reads, seed {seed}, {seconds} s, replacing {replacing}");
    let settings = Settings {
        nodes: nodes.to_vec(),
        replacing,
        reads: reads.to_owned(),
        length: Duration::from_secs(seconds),
        // Runs with C dqlite are short.
        pace: if nodes.contains(&Kind::C) { 2 } else { 1 },
        seed,
        clients: 32,
        rate: number("DQ_FAULTS_RATE").unwrap_or(2500) as f64,
        shell: Some(shell),
        history: history.clone(),
    };
    let mut report = None;
    if !in_networks(nodes, || report = Some(run(&settings))) {
        return;
    }
    let report = report.expect("it has run");
    print_report(&report);
    let (code, text) = check(&checker, &history);
    println!("{text}");
    assert!(
        report.violations.is_empty(),
        "seed {seed}: {:#?}",
        report.violations
    );
    assert_eq!(
        code,
        Some(0),
        "seed {seed}: {} is not linearizable",
        history.display()
    );
    assert!(!report.faults.is_empty(), "there was no fault at all");
    if replacing {
        let enough = 2 * nodes.len();
        assert!(report.replaced >= enough, "{} replaced", report.replaced);
    }
    let counts = report.counts;
    assert!(counts.ok > 100 * seconds, "too little was done: {counts:?}");
    let _ = std::fs::remove_file(history);
}

fn print_report(report: &Report) {
    let counts = report.counts;
    println!(
        "{} faults, {} nodes replaced; {:.0} requests/s done, {} in all, {} refused, {} unknown; {} packets, {} dropped",
        report.faults.len(),
        report.replaced,
        counts.ok as f64 / report.lasted.as_secs_f64(),
        counts.ok,
        counts.fail,
        counts.unknown,
        report.packets.0,
        report.packets.1,
    );
    println!(
        "C dqlite: {} answers were old; ended by itself {} times {:#?}",
        report.stale,
        report.c_ended.len(),
        report.c_ended
    );
}
